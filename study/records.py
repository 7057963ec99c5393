"""What a study writes while it runs: plain JSON files that survive a kill at any moment.

results/<name>/study.json                      what ran, on what, from which command
               space.yaml                      the space, byte for byte
               scale.json                      what a preview was fitted to, if it was
               search/, confirm/               one folder a stage, in it one folder a trial:
                   <trial_id>/trial.json       TrialRecord
                              epochs.jsonl     one EpochRecord a line, in the order they were reported
                              error.txt        the traceback, where the trial failed for good
                              checkpoint.pt    the training state to go on from, gone when the trial has ended
                              best.pt          weights of the best validation epoch (confirm only)
                              predictions.parquet   the test split as predicted by those, and by the last epoch's
               search/optuna.journal           Optuna's storage

What is read again is checked (files.py): each line of epochs.jsonl has a checksum of its own, and trial.json holds
those of the files that the trial ended with.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

from study.config import TrialConfig, from_dict, to_dict, within
from study.files import (
    LEFT,
    broken,
    drop_temporaries,
    file_digest,
    misfit,
    read_json,
    refuse_links,
    write_json,
)

# To be raised when what is written changes, or a configuration would train to other losses than before: a study goes on
# only with the version that began it.
SCHEMA_VERSION = 3

Weights = Literal["last", "best"]  # of the last epoch, as the sources took them, or of the best validation epoch
WEIGHTS: tuple[Weights, ...] = ("last", "best")
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
    stopped: bool = False  # by the scheduler, which decides before the epoch is recorded: it is the trial's last

    def __post_init__(self) -> None:
        whole = 1 <= self.epoch <= 10_000 and self.attempt >= 1
        if not (whole and 0 <= self.train_accuracy <= 1 and 0 <= self.val_accuracy <= 1):
            raise ValueError(f"epoch {self.epoch} of attempt {self.attempt}, {self.val_accuracy}")


@dataclass(frozen=True)
class TrialRecord:
    """One trial: what was to be run, and how it ended. Times are seconds since the epoch (UTC)."""

    trial_id: str  # s0007 in the search, c0007 in confirm
    stage: Stage
    config: TrialConfig
    seed: int = within(0, 10**7)
    arm: str | None = None  # the arm's name; None for a searched configuration
    max_epochs: int = within(0, 10_000, default=0)  # it may run: the space's in the search, its own in confirm
    status: Status = "pending"
    stop_reason: str | None = None  # finished, asha, one-epoch, diverged, error, time-budget, superseded
    # Of a trial that ASHA or the one-epoch rule stopped: the epoch, its best accuracy then, what was asked, its rank of
    # so many.
    stop_epoch: int | None = within(1, 10_000, default=None)
    stop_accuracy: float | None = within(0, 1, default=None)
    stop_threshold: float | None = within(0, 1, default=None)
    stop_rank: int | None = within(1, 10**6, default=None)
    stop_trials: int | None = within(1, 10**6, default=None)
    error: str | None = None
    attempts: int = within(0, 10**6, default=0)
    started: float | None = None
    ended: float | None = None
    device: str | None = None
    precision: Literal["bf16", "fp32"] | None = None
    split: str | None = None  # `Split.text` of the images that it sees
    best_epoch: int | None = within(1, 10_000, default=None)
    # Confirm only, with the best epoch's weights: the train split without augmentation, and the test split.
    train_accuracy_clean: float | None = within(0, 1, default=None)
    train_loss_clean: float | None = None
    test_accuracy: float | None = within(0, 1, default=None)
    test_loss: float | None = None
    # The same with the last epoch's weights.
    train_accuracy_clean_last: float | None = within(0, 1, default=None)
    train_loss_clean_last: float | None = None
    test_accuracy_last: float | None = within(0, 1, default=None)
    test_loss_last: float | None = None

    @property
    def config_id(self) -> str:
        return self.config.config_id

    @property
    def label(self) -> str:
        """How a person meets the trial, in the terminal and in Ray's dashboard: `resnet18 sgd lr=0.031 #s0007`."""
        return f"{self.config.label} #{self.trial_id}"


# The fields of a record that say why the trial was stopped, where it was not.
NOT_STOPPED: dict[str, Any] = dict.fromkeys(
    ("stop_epoch", "stop_accuracy", "stop_threshold", "stop_rank", "stop_trials")
)


class Run(TypedDict, total=False):
    command: list[str]
    git: dict[str, str | bool | None]
    versions: dict[str, str]
    hardware: dict[str, Any]


class About(Run, total=False):
    """What study.json says, as far as it is read again."""

    name: str
    status: str
    fidelity: Literal["full", "preview"]
    space: str
    space_sha256: str
    created: str
    split: dict[str, int | bool]
    budget: dict[str, int]
    arms: list[str]
    settings: dict[str, Any]
    plan: dict[str, Any]  # see `plan.Plan`, which checks it
    stages: dict[Stage, dict[str, float | None]]
    search_over: bool
    earlier_runs: list[Run]
    resumed: int


class Listener:
    """Who wants to know how the trials of a stage go on."""

    def trial_started(self, record: TrialRecord) -> None: ...

    def epoch_ended(self, record: TrialRecord, epoch: EpochRecord, best: float) -> None: ...

    def trial_ended(self, record: TrialRecord, epochs: list[EpochRecord]) -> None: ...


def read_study(folder: Path) -> dict[str, Any]:
    """study.json of a study that is to be worked on: see `About`.

    Raises RecordError also where a link is in the folder, or another space than the study was begun with.
    """
    refuse_links(folder)
    about, space = read_json(folder / "study.json"), folder / "space.yaml"
    if wrong := misfit(about, About):
        raise broken(folder / "study.json", wrong, "what this program wrote")
    noted = about.get("space_sha256")
    if noted and space.is_file() and file_digest(space) != noted:
        raise broken(space, "another space", "the one that the study was begun with")
    return about


def trial_folder(study: Path, record: TrialRecord) -> Path:
    return study / record.stage / record.trial_id


def write_trial(study: Path, record: TrialRecord) -> None:
    """Store a trial's record in its folder; of one that has ended the epochs are forced to disk before."""
    folder, values = trial_folder(study, record), to_dict(record)
    for missing in (folder.parent, folder):  # not the study's own
        missing.mkdir(exist_ok=True)
    if record.status in ENDED:
        if (epochs := folder / "epochs.jsonl").exists():
            with epochs.open("rb") as file:
                os.fsync(file.fileno())
        values["files"] = {name: file_digest(folder / name) for name in LEFT if (folder / name).exists()}
    write_json(folder / "trial.json", values)


def read_trial(folder: Path) -> TrialRecord:
    """The record in a trial's folder. Raises RecordError, also where a trial that has ended lacks epochs."""
    path = folder / "trial.json"
    values = read_json(path)
    left = values.pop("files", {})
    try:
        record = TrialRecord(**{**values, "config": from_dict(values["config"])})
        if wrong := misfit(record, TrialRecord) or misfit(left, dict[str, str]):
            raise ValueError(wrong)
        if record.arm is not None and not record.arm.isprintable():
            raise ValueError(f"arm {record.arm!r}")
        whose = (record.stage, record.trial_id)
        if whose != (folder.parent.name, folder.name) or not re.fullmatch(r"[a-z]\d{4,}", record.trial_id):
            raise ValueError("{} {}".format(*whose))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise broken(path, str(error), "a trial that this program wrote, in its own folder") from error
    if "epochs.jsonl" in left:
        check_left(folder / "epochs.jsonl", left)
    return record


def check_left(path: Path, left: dict[str, str] | None = None) -> None:
    """Raise RecordError where a file is not as the trial left it; `left` is what its trial.json says of its files."""
    if left is None:
        left = read_json(path.parent / "trial.json").get("files", {})
    found = file_digest(path) if path.is_file() else None
    if left.get(path.name, found) != found:
        raise broken(path, "another file" if found else "no file", "the one that the trial ended with")


def read_trials(study: Path, stage: Stage) -> list[TrialRecord]:
    """All trials of a stage in the order of their ids. Raises RecordError."""
    # Of those with epochs too: one that lost its trial.json is not one that never was.
    folders = {path.parent for path in (study / stage).glob(f"{stage[0]}[0-9]*/[!.]*.json*")}
    return [read_trial(folder) for folder in sorted(folders)]


def append_epoch(folder: Path, record: EpochRecord) -> None:
    """Add an epoch to a trial's list; numbers that are not finite become null."""
    values = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in dataclasses.asdict(record).items()
    }
    values["crc32"] = _crc32(folder, values)
    with (folder / "epochs.jsonl").open("a+b") as file:
        # A kill may have cut the last line short: what follows must not become part of it.
        file.seek(0, os.SEEK_END)
        if end := file.tell():
            file.seek(end - 1)
        start = b"" if file.read(1) in (b"", b"\n") else b"\n"
        file.write(start + json.dumps(values, allow_nan=False).encode() + b"\n")


def read_epochs(folder: Path) -> list[EpochRecord]:
    """A trial's epochs, the last attempt of each, in order; a line that is cut or garbled, or not its, is left out."""
    latest = {record.epoch: record for record in _lines(folder / "epochs.jsonl")}
    return [latest[epoch] for epoch in sorted(latest)]


def best(epochs: list[EpochRecord]) -> EpochRecord | None:
    """The epoch of the highest validation accuracy, the earliest of equals; None where none is finite."""
    return max((epoch for epoch in epochs if not epoch.diverged), key=lambda epoch: epoch.val_accuracy, default=None)


def _lines(path: Path) -> Iterator[EpochRecord]:
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            values = json.loads(line)
            whole = values.pop("crc32") == _crc32(path.parent, values)
            known: dict[str, Any] = {key: math.nan if value is None else value for key, value in values.items()}
            record = EpochRecord(**known)
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
            continue
        if whole and misfit(record, EpochRecord) is None:
            yield record


def _crc32(folder: Path, values: dict[str, Any]) -> int:
    """Of an epoch of the trial in this folder, so that no other's passes for it."""
    return zlib.crc32(f"{folder.name} {json.dumps(values)}".encode())


def drop_checkpoint(folder: Path) -> None:
    """Remove a trial's training state, which nobody needs once the trial has ended."""
    drop_temporaries(folder)
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.is_file():
        checkpoint.unlink()
