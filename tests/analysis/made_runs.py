"""The tables of a made study of two arms that differ in augmentation alone, with truths planted in them or not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.attention import VARIANTS
from analysis.corruptions import CLEAN, CORRUPTIONS
from analysis.failures import EXTREMES
from analysis.runs import Runs
from study.data import CLASS_NAMES

SEEDS, IMAGES = 6, 4000
LEVEL = 0.9  # accuracy of the arm baseline


@dataclass(frozen=True)
class Truth:
    """What is planted; with nothing planted, no claim is right."""

    gain: float = 0.0  # points of test accuracy, augmented less baseline
    contrast: float = 0.0  # points of error rate, of the images with the lowest contrast
    background: float = 0.0  # points of evidence that errors have less of on the garment
    robust: float = 0.0  # share of the errors under corruption that augmentation takes away
    trusted: bool = True  # whether the maps pass their checks


def made(truth: Truth, seed: int = 0) -> Runs:
    rng = np.random.default_rng(seed)
    images = pd.DataFrame({"image": np.arange(IMAGES), **{name: rng.random(IMAGES) < 0.2 for name in EXTREMES}})
    label = rng.integers(0, 10, IMAGES)
    trials, predictions, attention, checks, stress, calibration = ([] for _ in range(6))
    for place, arm in enumerate(("baseline", "augmented")):
        for number in range(SEEDS):
            key = {"study": "made", "stage": "confirm", "fidelity": "full", "arm": arm, "seed": number,
                   "trial_id": f"c{place * SEEDS + number:04d}", "config_id": arm}  # fmt: skip
            accuracy = LEVEL + 0.01 * (place * truth.gain + rng.normal(0, 0.15))
            trials.append({
                **key, "status": "completed", "model": "fashion_cnn", "hp_optimizer": "adam", "hp_lr": 1e-3,
                "hp_weight_decay": 0.0, "hp_schedule": "none", "hp_shortcut": None, "max_epochs": 30,
                "hp_augmentation_strength": float(place), "hp_augmentation_flip": 0.5 * place,
                "test_accuracy": accuracy, "val_accuracy": accuracy, "test_loss": 0.3 + rng.normal(0, 0.01),
                "train_accuracy_clean": accuracy + 0.05 + rng.normal(0, 0.002),
                "train_loss_clean": 0.2 + rng.normal(0, 0.01),
            })  # fmt: skip
            rate = 0.1 + 0.01 * truth.contrast * images.low_contrast.to_numpy()
            predictions.append(_predictions(key, label, rng.random(IMAGES) < rate, rng))
            attention.append(_attention(key, truth.background, rng))
            checks += [{**key, "variant": v, "check": "occlusion", "passed": truth.trusted} for v in VARIANTS[:1]]
            stress += _stress(key, LEVEL + rng.normal(0, 0.0015), place * truth.robust, rng)
            ece = 0.02 + rng.normal(0, 0.001)
            calibration += [{**key, "scaled": s, "ece": ece, "confident_if_wrong": 0.3} for s in (False, True)]
    epochs = pd.DataFrame({"stage": ["confirm"], "arm": ["baseline"], "seed": [0], "epoch": [1], "val_accuracy": [0.8]})
    return Runs(
        pd.DataFrame(trials), epochs, pd.concat(predictions, ignore_index=True), images,
        pd.concat(attention, ignore_index=True), pd.DataFrame(checks), pd.DataFrame(stress), pd.DataFrame(calibration),
    )  # fmt: skip


def _predictions(key: dict, label: np.ndarray, wrong: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    """Errors take any other class, and every tenth prediction is as confident as it is often right."""
    predicted = np.where(wrong, (label + rng.integers(1, 10, len(label))) % 10, label)
    p = np.full((len(label), 10), 0.1 / 9, np.float32)
    p[np.arange(len(label)), predicted] = 0.9
    classes = {
        name: pd.Categorical.from_codes(codes, CLASS_NAMES, ordered=True)
        for name, codes in (("label", label), ("predicted", predicted))
    }
    columns = {f"p_{k}": p[:, k] for k in range(10)}
    return pd.DataFrame({**key, "image": np.arange(len(label)), **classes, "confidence": p.max(axis=1), **columns})


def _attention(key: dict, background: float, rng: np.random.Generator) -> pd.DataFrame:
    """50 errors and as many matched correct images."""
    wrong = np.arange(100) < 50
    energy = 0.7 + rng.normal(0, 0.05, 100) - 0.01 * background * wrong
    matched = pd.array([None] * 50 + list(range(50)), "Int32")
    known = {f"{name}_energy": 0.5 for name in ("centre", "random")}
    return pd.DataFrame(
        {**key, "image": np.arange(100), "wrong": wrong, "matched": matched, "energy": energy, "area_share": 0.5,
         "target": "predicted", "variant": VARIANTS[0], **known}
    )  # fmt: skip


def _stress(key: dict, clean: float, robust: float, rng: np.random.Generator) -> list[dict]:
    """Nothing but rotation is inside the augmentation; no suppression costs more than another."""
    rows = [{**key, "corruption": CLEAN, "family": CLEAN, "severity": 0, "accuracy": clean, "inside": False, "n": 10}]
    for name, corruption in CORRUPTIONS.items():
        for severity in range(1, 6):
            error = (1 - clean) * (1 - robust) + rng.normal(0, 0.001)
            rows.append({**rows[0], "corruption": name, "family": corruption.family, "severity": severity,
                         "accuracy": 1 - error, "inside": name == "rotate" and key["arm"] == "augmented"})  # fmt: skip
    return rows
