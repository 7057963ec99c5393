"""A small study folder made from known numbers, written as a study writes it."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from scipy.special import softmax

from analysis.failures import SIMILAR
from study import data, records
from study.config import SGD, Adam, Augmentation, FashionCNN, ResNet, TrialConfig, to_dict
from study.data import CLASS_NAMES
from study.files import write_json
from study.models import build_model
from study.records import EpochRecord, Stage, Status, TrialRecord, append_epoch, trial_folder, write_trial
from study.trainer import save_whole

NAME = "<script>alert(1)</script>"
ARMS = {
    "baseline": TrialConfig(model=FashionCNN(), optimizer=Adam(), epochs=10),
    "augmented": TrialConfig(model=FashionCNN(), optimizer=Adam(), epochs=10, augmentation=Augmentation(1, 10, 0.1)),
}
SPACE = """
model: {choice: [{resnet: {blocks: [1, 1], widths: [16, 32], stem: 16}}, fashion_cnn]}
optimizer: {choice: [{sgd: {lr: {log: [0.001, 10.0]}}}, {adam: {lr: 0.001}}]}
epochs: 10
budget: {trials: 10, candidates: 1, seeds: 3}
preview: {epochs: 5}
"""
CANDIDATE = TrialConfig(model=ResNet(blocks=(1, 1), widths=(16, 32), stem=16), optimizer=SGD(lr=0.05), epochs=10)


def make(
    folder: Path, *, name: str = NAME, seeds: int = 3, gain: float = 0.02, confirm: bool = True, images: int = 300,
    searched: int = 6, fidelity: str = "full",
) -> Path:  # fmt: skip
    """A study with two arms, a candidate `gain` above `baseline` in test accuracy, and all ways in which trials end."""
    folder.mkdir(parents=True)
    write_json(folder / "study.json", about(name, fidelity, finished=confirm))
    (folder / "space.yaml").write_text(SPACE)
    for number in range(searched):
        config = dataclasses.replace(CANDIDATE, optimizer=SGD(lr=0.05 * 0.7**number, nesterov=number % 2 == 1))
        status: Status = "completed" if number < 2 else "stopped"
        epochs = 10 if number < 2 else 3
        _trial(folder, "search", number, config, 0, 0.85 - 0.01 * number, epochs=epochs, status=status)
    for number, (arm, config) in enumerate(ARMS.items(), start=searched):
        _trial(folder, "search", number, config, 0, 0.84, arm=arm)
    _ended(folder, searched + 2, "diverged", "diverged", None)
    _ended(folder, searched + 3, "failed", "error", "Traceback:\nRuntimeError: <b>out</b> of memory")
    if not confirm:
        return folder
    configs = {"candidate-1": CANDIDATE, **ARMS}
    test = {"candidate-1": 0.85 + gain, "baseline": 0.85, "augmented": 0.84}
    for place, (arm, config) in enumerate(configs.items()):
        for seed in range(seeds):
            accuracy = test[arm] + 0.002 * ((seed * 7 + place * 2) % 5 - 2)
            _trial(folder, "confirm", place * seeds + seed, config, seed, accuracy, arm=arm, images=images)
    return folder


def about(name: str, fidelity: str, *, finished: bool) -> dict[str, Any]:
    """What `study.json` says; an interrupted study has no confirm stage yet."""
    stage = {"wall_seconds": 600.0, "cpu_seconds": 1100.0, "busy_share": 0.91, "image_passes": 480_000}
    return {
        "schema_version": 1,
        "name": name,
        "status": "finished" if finished else "interrupted",
        "fidelity": fidelity,
        "command": ["python", "-m", "study.run", "--space", "smoke.yaml"],
        "seed": 0,
        "created": "2026-01-02T03:04:05+00:00",
        "git": {"commit": "0123456789abcdef", "dirty": False},
        "versions": {"python": "3.13.1", "torch": "2.9.0"},
        "hardware": {"device": "cpu", "cpu": "made up", "cores": 2, "memory_gib": 8.0, "gpus": []},
        "split": {"train": 1000, "validation": 1000, "test": 1000, "seed": 0},
        "budget": {"trials": 10, "candidates": 1, "seeds": 3},
        "arms": list(ARMS),
        "plan": {
            "device": "cpu",
            "slots": 2,
            "cores": 1,
            "gpus": 0.0,
            "precision": "fp32",
            "speeds": {},
            "search_seconds": 580.0,
            "confirm_seconds": 610.0,
            "disk_bytes": 0,
        },
        "stages": {"search": stage, "confirm": stage} if finished else {"search": stage},
    }


def _trial(
    folder: Path, stage: Stage, number: int, config: TrialConfig, seed: int, accuracy: float, *,
    arm: str | None = None, epochs: int = 10, status: Status = "completed", images: int = 0,
) -> None:  # fmt: skip
    """A trial whose validation accuracy climbs to `accuracy`, and whose predictions are right that often."""
    rng = np.random.default_rng(number)
    record = TrialRecord(
        f"{stage[0]}{number:04}", stage, config, seed, arm, max_epochs=10, status=status, attempts=1, started=1.0,
        stop_reason="finished" if status == "completed" else "asha", ended=100.0, device="cpu", precision="fp32",
        best_epoch=epochs, train_accuracy_clean=accuracy + 0.05, train_loss_clean=0.2,
        test_accuracy=accuracy if stage == "confirm" else None, test_loss=0.4 if stage == "confirm" else None,
    )  # fmt: skip
    write_trial(folder, record)
    for epoch in range(1, epochs + 1):
        rest = 0.5 ** (epoch - 1) * 0.3 + 0.004 * rng.random() * (epoch < epochs)
        append_epoch(
            trial_folder(folder, record),
            EpochRecord(
                epoch=epoch, lr=0.05, train_loss=2.0 * rest + 0.3, train_accuracy=accuracy + 0.02 - rest,
                val_loss=2.2 * rest + 0.35, val_accuracy=accuracy - rest * 0.8,
                seconds=9.5, cpu_seconds=18.0, images_per_s=5200.0 + epoch,
            ),
        )  # fmt: skip
    if images:
        write_predictions(trial_folder(folder, record) / "predictions.parquet", accuracy, images, rng)


def _ended(folder: Path, number: int, status: Status, reason: str, error: str | None) -> None:
    """A trial that ended badly: the diverged one after an epoch whose losses were not finite, the failed before any."""
    record = TrialRecord(
        f"s{number:04}", "search", dataclasses.replace(CANDIDATE, optimizer=SGD(lr=9.0)), 0, max_epochs=10,
        status=status, stop_reason=reason, error=error, attempts=3 if error else 1,
    )  # fmt: skip
    write_trial(folder, record)
    if status == "diverged":
        nan = float("nan")
        epoch = EpochRecord(
            epoch=1, lr=9.0, train_loss=nan, train_accuracy=0.1, val_loss=nan, val_accuracy=0.1,
            seconds=9.0, cpu_seconds=17.0, images_per_s=5000.0, diverged=True,
        )  # fmt: skip
        append_epoch(trial_folder(folder, record), epoch)


@cache
def _labels() -> np.ndarray:
    return data.load().test_labels


def write_predictions(path: Path, accuracy: float, images: int, rng: np.random.Generator) -> None:
    """`images` predictions, right in round(accuracy × images) of them, of the first test images."""
    label = _labels()[:images].astype(np.int8)
    wrong = rng.permutation(images) >= round(accuracy * images)
    predicted = np.where(wrong, (label + 1) % 10, label).astype(np.int8)
    p = np.full((images, 10), 0.01, np.float32)
    p[np.arange(images), predicted] = 0.91
    write_probabilities(path, p)


def write_probabilities(path: Path, p: np.ndarray) -> None:
    """Predictions of the first test images from probabilities float32 (N, 10)."""
    columns = {"image": np.arange(len(p), dtype=np.int32), "label": _labels()[: len(p)].astype(np.int8)}
    columns |= {"predicted": p.argmax(axis=1).astype(np.int8), "confidence": p.max(axis=1)}
    pq.write_table(pa.table(columns | {f"p_{k}": p[:, k] for k in range(10)}), path)


def vary(folder: Path, images: int, margins: dict[str, float]) -> Path:
    """Give the confirmed trials errors of all kinds: among similar classes most, on the same images in part.

    margins: by arm, how far the logit of the right class lies above the others before the noise. That is the label,
    but for every fiftieth image, which all take for the next class.
    """
    labels, rng = _labels()[:images], np.random.default_rng(0)
    groups = np.array(
        [next((k for k, g in enumerate(SIMILAR) if name in g), 8 + i) for i, name in enumerate(CLASS_NAMES)]
    )
    right = np.where(np.arange(images) % 50 == 0, (labels + 1) % 10, labels)
    alike = 1.5 * (groups[right][:, None] == groups) + rng.normal(0, 1.2, (images, 10))
    for record in records.read_trials(folder, "confirm"):
        logits = alike + rng.normal(0, 1, alike.shape)
        logits[np.arange(images), right] += margins[str(record.arm)]
        write_probabilities(
            records.trial_folder(folder, record) / "predictions.parquet", softmax(logits, axis=1).astype(np.float32)
        )
    return folder


def rename(folder: Path, arm: str, name: str) -> None:
    """Give an arm another name."""
    for record in (record for stage in records.STAGES for record in records.read_trials(folder, stage)):
        if record.arm == arm:
            write_trial(folder, dataclasses.replace(record, arm=name))


def give_weights(folder: Path, dead: str = "") -> Path:
    """Random weights for every confirmed trial, in the file that confirm writes; of the trial `dead` all are 0, so that
    its network predicts the same for every image and its maps are 0."""
    for record in records.read_trials(folder, "confirm"):
        weights = build_model(record.config.model, record.seed).state_dict()
        if record.trial_id == dead:
            weights = {name: torch.zeros_like(values) for name, values in weights.items()}
            predictions = trial_folder(folder, record) / "predictions.parquet"
            p = np.full((pq.read_metadata(predictions).num_rows, 10), 0.1, np.float32)
            write_probabilities(predictions, p)
            right = float((_labels()[: len(p)] == p.argmax(axis=1)).mean())
            write_trial(folder, dataclasses.replace(record, test_accuracy=right))
        saved = {"config": to_dict(record.config), "weights": weights}
        save_whole(records.trial_folder(folder, record) / "best.pt", saved)
    return folder
