"""The tables of made studies of the shipped spaces' arms, with truths planted in them or not."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from analysis.corruptions import CLEAN, CORRUPTIONS, SEVERITIES
from analysis.failures import SIMILAR, lowest_fifth, patterns
from analysis.runs import Runs
from analysis.schemas import SCHEMAS
from analysis.stress import inside
from study import space_file
from study.config import TrialConfig, hyperparameters
from study.data import CLASS_NAMES

SEEDS, IMAGES = 6, 4000
SPREAD = 0.15  # points of accuracy, standard deviation between seeds
UPPER = np.flatnonzero(np.isin(CLASS_NAMES, SIMILAR[0]))
ALIKE = 0.8  # share of what makes an image hard that all networks have in common
STRESSED = 1000  # images
HARD_UNDER_STRESS = np.random.default_rng(0).normal(0, ALIKE**0.5, STRESSED)
MAPS = ("grad-cam", "hirescam", "occlusion")
TABLES = ("trials", "epochs", "predictions", "attention", "attention_checks", "stress", "cue_conflict", "calibration")
DESCRIBED = ("contrast", "brightness", "texture", "atypicality", "neighbour_distance")
PARTNER = np.array([6, 1, 4, 4, 2, 5, 0, 7, 8, 9])  # of each upper-body class, in one of the source's five pairs
CONFLICTS = 4  # images of each ordered pair of classes
EITHER = 0.8  # share of the decisions that are for one of the cues


@dataclass(frozen=True)
class Arm:
    """What is planted in an arm, in points unless said; by default nothing, so that no claim is right."""

    accuracy: float = 90.0
    last: float | None = None  # accuracy with the last epoch's weights; else they are the best epoch's
    similar: Literal["", "pairs", "block"] = ""  # most errors are of upper-body classes: in the source's pairs, or any
    more: Mapping[str, float] = field(default_factory=dict)  # error rate of images with a pattern above the others'
    overconfident: float = 0.0  # error rate of confident predictions above what they claim
    falls: Mapping[str, object] = field(
        default_factory=dict
    )  # of the accuracy by corruption, at all severities or each
    robust: float = 0.0  # share of the errors under corruption that are not made, of kinds not trained with
    robust_geometric: float = 0.0  # of the geometric ones among them
    robust_inside: float = 0.0  # and of the kinds trained with
    shape_bias: float = 50.0
    garment: float = 70.0  # evidence of correct images on it
    garment_wrong: float = 70.0  # of errors
    uniform: float = 70.0  # of a map that is the same everywhere
    trusted: tuple[str, ...] = ("hirescam",)  # maps that pass their checks
    gap: float = 5.0  # training less test accuracy
    loss_gap: float = 0.1  # nats
    reaches: tuple[int | None, int | None] = (5, 8)  # the epochs with 90 and 92 % validation accuracy
    diverged: int = 0  # seeds


def made(
    space: str = "fashion_cnn_source.yaml", planted: Mapping[str, Arm] | None = None, seed: int = 0, *,
    seeds: int = SEEDS, images: int = IMAGES, spread: float = SPREAD, last: bool = True, alike: float = 0.0,
) -> Runs:  # fmt: skip
    """Confirmed trials of the arms of a shipped space; `spread` is between seeds, in points of accuracy.

    `last`: whether they kept the last epoch's weights; `alike`: correlation of texture and distance to training images.
    """
    rng = np.random.default_rng(seed)
    label, hard = rng.integers(0, 10, images), rng.normal(0, ALIKE**0.5, images)
    table = _images(label, alike, rng)
    rows: dict[str, list[pd.DataFrame]] = {name: [] for name in TABLES}
    lasts: list[pd.DataFrame] = []
    for place, (name, config) in enumerate(space_file.load(space_file.FOLDER / space).arms.items()):
        arm = (planted or {}).get(name, Arm())
        for number in range(seeds):
            key = {"study": "made", "stage": "confirm", "fidelity": "full", "arm": name, "seed": number,
                   "trial_id": f"c{place:02}{number:02}", "config_id": name}  # fmt: skip
            trial = {**key, "status": "diverged", "stop_reason": "diverged", "model": config.model.name,
                     "max_epochs": config.epochs, **hyperparameters(config)}  # fmt: skip
            if number < seeds - arm.diverged:
                accuracy = arm.accuracy + rng.normal(0, spread)
                found = _predictions(arm, 1 - accuracy / 100, label, hard, table, rng)
                right = float((found.label == found.predicted).mean())
                trained = right + (arm.gap + rng.normal(0, 0.2)) / 100
                trial |= {
                    "status": "completed", "stop_reason": "finished", "test_accuracy": right,
                    "val_accuracy": accuracy / 100, "train_accuracy_clean": trained,
                    "train_loss_clean": 0.2, "test_loss": 0.2 + arm.loss_gap + rng.normal(0, 0.01),
                }  # fmt: skip
                of_last = found
                if arm.last is not None:
                    of_last = _predictions(arm, 1 - (arm.last + rng.normal(0, spread)) / 100, label, hard, table, rng)
                right_last = float((of_last.label == of_last.predicted).mean())
                trial |= {
                    "test_accuracy_last": right_last, "train_accuracy_clean_last": right_last + trained - right,
                    "train_loss_clean_last": 0.2, "test_loss_last": trial["test_loss"],
                }  # fmt: skip
                lasts.append(of_last.assign(**key))
                made_of = {
                    "predictions": found, "epochs": _epochs(arm, config), "attention": _attention(arm, rng),
                    "attention_checks": _checks(arm), "stress": _stress(arm, config, accuracy / 100, rng),
                    "cue_conflict": _cue_conflict(arm, rng), "calibration": _calibration(rng),
                }  # fmt: skip
                for what, of in made_of.items():
                    rows[what].append(of.assign(**key))
            rows["trials"].append(pd.DataFrame([trial]))
    joined = {name: pd.concat(of, ignore_index=True) for name, of in rows.items()}
    hyper = [name for name in SCHEMAS["trials"].names if name.startswith("hp_")]
    joined["trials"] = joined["trials"].reindex(columns=joined["trials"].columns.union(hyper, sort=False))
    if not last:
        kept = joined["trials"].filter(regex="_last$").columns
        return Runs(images=table, **joined | {"trials": joined["trials"].assign(**dict.fromkeys(kept, np.nan))})
    return Runs(images=table, **joined, last_predictions=pd.concat(lasts, ignore_index=True))


def without(runs: Runs, wanted: Mapping[str, pd.Series]) -> Runs:
    """The runs with only the wanted rows of some tables."""
    return dataclasses.replace(runs, **{name: getattr(runs, name)[rows] for name, rows in wanted.items()})


def _images(label: np.ndarray, alike: float, rng: np.random.Generator) -> pd.DataFrame:
    """What images are like, whose labels are (N,); beside the patterns `dark`, and both ends of the textures."""
    table = pd.DataFrame({name: rng.normal(0, 1, len(label)) for name in DESCRIBED})
    table["texture"] = alike * table.neighbour_distance + (1 - alike**2) ** 0.5 * table.texture
    ranks = table.texture.groupby(label).rank(pct=True)
    flags = patterns(table, label).assign(
        dark=lowest_fifth(table[["brightness"]], label).brightness, texture_ends=(ranks <= 0.1) | (ranks > 0.9)
    )
    place = np.arange(len(label))
    return pd.concat([table, flags], axis=1).assign(image=place, label_suspect=place % 50 == 0)


def _predictions(
    arm: Arm, rate: float, label: np.ndarray, hard: np.ndarray, images: pd.DataFrame, rng: np.random.Generator
) -> pd.DataFrame:
    """Every other prediction claims an error rate of 5 %, the others one of 15 %; patterns leave the mean as it is."""
    sure = np.arange(len(label)) % 2 == 0
    rates = rate * np.where(sure, 0.5, 1.5) + np.where(sure, 1, -1) * arm.overconfident / 100
    for name, more in arm.more.items():
        rates = rates + more / 100 * (images[name] - 0.2).to_numpy()
    upper = np.isin(label, UPPER)
    rates = rates * np.where(upper, 1.8, 0.2) if arm.similar else rates
    wrong = stats.norm.cdf(hard + rng.normal(0, (1 - ALIKE) ** 0.5, len(label))) < rates
    other = (label + rng.integers(1, 10, len(label))) % 10
    if arm.similar:
        any_upper = UPPER[(np.searchsorted(UPPER, label) + rng.integers(1, 5, len(label))) % 5]
        other = np.where(upper, PARTNER[label] if arm.similar == "pairs" else any_upper, other)
    predicted = np.where(wrong, other, label)
    confidence = np.where(sure, 0.95, 0.85).astype(np.float32)
    p = np.repeat(((1 - confidence) / 9)[:, None], 10, axis=1)
    p[np.arange(len(label)), predicted] = confidence
    classes = {
        name: pd.Categorical.from_codes(codes, CLASS_NAMES, ordered=True)
        for name, codes in (("label", label), ("predicted", predicted))
    }
    columns = {f"p_{k}": p[:, k] for k in range(10)}
    return pd.DataFrame({"image": images.image, **classes, "confidence": confidence, **columns})


def _epochs(arm: Arm, config: TrialConfig) -> pd.DataFrame:
    epoch = np.arange(1, config.epochs + 1)
    reached = [epoch >= first if first else epoch < 0 for first in arm.reaches]
    return pd.DataFrame({"epoch": epoch, "val_accuracy": np.select(reached[::-1], [0.93, 0.91], 0.85)})


def _attention(arm: Arm, rng: np.random.Generator) -> pd.DataFrame:
    """50 errors and as many matched correct images, by every kind of map; maps for true classes say the contrary."""
    wrong = np.arange(100) < 50
    energy = np.where(wrong, arm.garment_wrong, arm.garment) / 100 + rng.normal(0, 0.05, 100)
    uniform = np.where(wrong, arm.uniform / 100, 0.9)
    matched = pd.array([None] * 50 + list(range(50)), "Int32")
    of = pd.DataFrame({"image": np.arange(100), "wrong": wrong, "matched": matched, "area_share": uniform})
    of = of.assign(target="predicted", energy=energy, centre_energy=0.8, random_energy=0.5)
    both = pd.concat([of, of.assign(target="true", energy=1 - energy)])
    # Maps that are not to be trusted differ from the others by more than anything that is planted.
    less = {v: 0.0 if v in (*arm.trusted, "occlusion") else 0.3 for v in MAPS}
    return pd.concat([both.assign(variant=v, energy=both.energy - by * both.wrong) for v, by in less.items()])


def _checks(arm: Arm) -> pd.DataFrame:
    """Each passes its checks by far, or fails them."""
    passed = [v in arm.trusted for v in MAPS[:2]]
    return pd.DataFrame(
        {"variant": MAPS[:2], "check": "insertion", "passed": passed, "value": [0.5 * p for p in passed]}
    )


def _stress(arm: Arm, config: TrialConfig, clean: float, rng: np.random.Generator) -> pd.DataFrame:
    """Without anything planted no corruption costs anything; some images are hard under all, and for all networks."""
    rows = [(CLEAN, CLEAN, 0, clean, False)]
    for name, corruption in CORRUPTIONS.items():
        trained = inside(name, config.augmentation)
        outside = arm.robust_geometric if corruption.family == "geometric" else arm.robust
        less = arm.robust_inside if trained else outside
        for severity, fall in zip(SEVERITIES, np.broadcast_to(arm.falls.get(name, 0.0), 5) / 100, strict=True):
            error = (1 - clean + fall) * (1 - less)
            rows.append((name, corruption.family, severity, 1 - error, trained))
    table = pd.DataFrame(rows, columns=["corruption", "family", "severity", "accuracy", "inside"])
    table["amount"] = [CORRUPTIONS[row[0]].amounts[row[2] - 1] if row[2] else None for row in rows]
    own = rng.normal(0, (1 - ALIKE) ** 0.5, (len(table), STRESSED))
    right = HARD_UNDER_STRESS + own <= stats.norm.ppf(table.accuracy.to_numpy())[:, None]
    bits = [row.tobytes() for row in np.packbits(right, axis=1)]
    return table.assign(accuracy=right.mean(axis=1), n=STRESSED, right=bits)


def _cue_conflict(arm: Arm, rng: np.random.Generator) -> pd.DataFrame:
    """Images of every ordered pair of classes, and controls; what decides is the image's in part, for all networks."""
    shape, texture = (codes.repeat(CONFLICTS) for codes in np.indices((10, 10)).reshape(2, -1))
    images = np.arange(len(shape))
    hard = np.random.default_rng(1).normal(0, ALIKE**0.5, (2, len(shape)))
    either, first = stats.norm.cdf(hard + rng.normal(0, (1 - ALIKE) ** 0.5, hard.shape))
    third = (np.maximum(shape, texture) + 1) % 10
    third = np.where((third == shape) | (third == texture), 1, third)  # of 0 and 9
    predicted = np.where(either < EITHER, np.where(first < arm.shape_bias / 100, shape, texture), third)
    classes = {
        name: pd.Categorical.from_codes(codes, CLASS_NAMES, ordered=True)
        for name, codes in (("shape_class", shape), ("texture_class", texture), ("predicted", predicted))
    }
    return pd.DataFrame({"shape_image": images, "texture_image": images, **classes})


def _calibration(rng: np.random.Generator) -> pd.DataFrame:
    ece = 0.02 + rng.normal(0, 0.001)
    return pd.DataFrame({"scaled": [False, True], "ece": ece, "confident_if_wrong": 0.3})
