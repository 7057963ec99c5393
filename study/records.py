"""What a study writes while it runs: plain JSON files that survive a kill at any moment.

results/<name>/study.json                      what ran, on what, from which command
               space.yaml                      the space, byte for byte
               search/, confirm/               one folder a stage, in it one folder a trial:
                   <trial_id>/trial.json       TrialRecord
                              epochs.jsonl     one EpochRecord a line, in the order they were reported
                              error.txt        the traceback, where the trial failed for good
                              checkpoint.pt    the training state to go on from, gone when the trial has ended
                              best.pt          weights of the best validation epoch (confirm only)
                              predictions.parquet   the test split as predicted by those weights (confirm only)
               search/optuna.journal           Optuna's storage
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from study.config import TrialConfig, from_dict, to_dict

SCHEMA_VERSION = 1

Stage = Literal["search", "confirm"]
STAGES: tuple[Stage, ...] = ("search", "confirm")
Status = Literal["pending", "running", "completed", "stopped", "diverged", "failed"]
ENDED: tuple[Status, ...] = ("completed", "stopped", "diverged", "failed")


@dataclass(frozen=True)
class EpochRecord:
    """One epoch of one trial. Accuracies in [0, 1], losses in nats, times in seconds."""

    epoch: int  # 1 is the first
    lr: float  # at the first step of the epoch
    train_loss: float  # running mean, in training mode, on augmented images
    train_accuracy: float  # likewise
    val_loss: float
    val_accuracy: float
    seconds: float  # wall time of training and validation
    cpu_seconds: float  # processor time of the trial's process
    images_per_s: float  # training images a second of training
    diverged: bool = False  # a loss was not finite; it is recorded as null
    attempt: int = 1  # 2 or more where the trial had been started again after a failure or an interruption


@dataclass(frozen=True)
class TrialRecord:
    """One trial: what was to be run, and how it ended. Times are seconds since the epoch (UTC)."""

    trial_id: str  # s0007 in the search, c0007 in confirm
    stage: Stage
    config: TrialConfig
    seed: int
    arm: str | None = None  # the arm's name; None for a searched configuration
    max_epochs: int = 0  # the epochs it may run: the space's in the search, its own in confirm
    status: Status = "pending"
    stop_reason: str | None = None  # finished, asha, one-epoch, diverged, error, time-budget, superseded
    error: str | None = None
    attempts: int = 0
    started: float | None = None
    ended: float | None = None
    device: str | None = None
    precision: str | None = None
    best_epoch: int | None = None
    train_accuracy_clean: float | None = None  # the train split, evaluated with the best epoch's weights
    train_loss_clean: float | None = None
    test_accuracy: float | None = None  # confirm only
    test_loss: float | None = None

    @property
    def config_id(self) -> str:
        return self.config.config_id

    @property
    def label(self) -> str:
        """How a person meets the trial, in the terminal and in Ray's dashboard: `resnet18 sgd lr=0.031 #s0007`."""
        return f"{self.config.label} #{self.trial_id}"


class RecordError(ValueError):
    """A file of a results folder does not hold what this version writes; the message names the file."""


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part: temporary file, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write JSON whole or not at all. Raises ValueError on NaN and infinity, which JSON has not."""
    write_whole(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises RecordError, naming the file, where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: got {error}, must be a JSON object that this program wrote") from error
    if not isinstance(value, dict):
        raise RecordError(f"{path}: got {type(value).__name__}, must be a JSON object")
    return value


def trial_folder(study: Path, record: TrialRecord) -> Path:
    return study / record.stage / record.trial_id


def write_trial(study: Path, record: TrialRecord) -> None:
    """Store a trial's record in its folder; of one that has ended the epochs are forced to disk before."""
    epochs = trial_folder(study, record) / "epochs.jsonl"
    if record.status in ENDED and epochs.exists():
        with epochs.open("rb") as file:
            os.fsync(file.fileno())
    write_json(trial_folder(study, record) / "trial.json", to_dict(record))


def read_trial(folder: Path) -> TrialRecord:
    """The record in a trial's folder. Raises RecordError."""
    path = folder / "trial.json"
    values = read_json(path)
    try:
        values["config"] = from_dict(values["config"])
        return TrialRecord(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(f"{path}: got {error}, must be a trial that this program wrote") from error


def read_trials(study: Path, stage: Stage) -> list[TrialRecord]:
    """All trials of a stage in the order of their ids. Raises RecordError."""
    return [read_trial(path.parent) for path in sorted((study / stage).glob("*/trial.json"))]


def append_epoch(folder: Path, record: EpochRecord) -> None:
    """Add an epoch to a trial's list; numbers that are not finite become null."""
    values = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in dataclasses.asdict(record).items()
    }
    with (folder / "epochs.jsonl").open("a+b") as file:
        # A kill may have cut the last line short: what follows must not become part of it.
        file.seek(0, os.SEEK_END)
        if end := file.tell():
            file.seek(end - 1)
        start = b"" if file.read(1) in (b"", b"\n") else b"\n"
        file.write(start + json.dumps(values, allow_nan=False).encode() + b"\n")


def read_epochs(folder: Path) -> list[EpochRecord]:
    """A trial's epochs, the last attempt of each, in order; a line cut short by a kill is left out."""
    latest = {record.epoch: record for record in _lines(folder / "epochs.jsonl")}
    return [latest[epoch] for epoch in sorted(latest)]


def _lines(path: Path) -> Iterator[EpochRecord]:
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            values = json.loads(line)
            known: dict[str, Any] = {key: math.nan if value is None else value for key, value in values.items()}
            yield EpochRecord(**known)
        except (TypeError, ValueError, AttributeError):
            continue


def drop_checkpoint(folder: Path) -> None:
    """Remove a trial's training state, which nobody needs once the trial has ended."""
    drop_temporaries(folder)
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.is_file():
        checkpoint.unlink()


def drop_temporaries(folder: Path) -> None:
    """Remove what a kill left of a worker's half-written files; to be called while no worker writes there."""
    for name in ("checkpoint.pt", "best.pt", "predictions.parquet"):
        for leftover in folder.glob(f".{name}.*"):
            leftover.unlink()
