"""What is recorded of a trial while it runs: real trials, run in this process without Ray's workers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from made_trainer import STATEFUL
from made_trials import ended
from ray._raylet import getproctitle, setproctitle
from ray.tune.experiment import Trial

from study import records
from study.config import to_dict
from study.data import Splits
from study.execution import Recorder, best_so_far
from study.records import EpochRecord, TrialRecord
from study.trainable import Job, TrialTrainable

pytestmark = pytest.mark.usefixtures("one_thread")

RECORD = TrialRecord("s0001", "search", STATEFUL, seed=0, max_epochs=3)


class Heard:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.epochs: list[int] = []
        self.ends: list[tuple[TrialRecord, list[EpochRecord]]] = []

    def trial_started(self, record: TrialRecord) -> None: ...

    def epoch_ended(self, record: TrialRecord, epoch: EpochRecord) -> None:
        self.epochs.append(epoch.epoch)

    def trial_ended(self, record: TrialRecord, epochs: list[EpochRecord]) -> None:
        self.ends.append((record, epochs))


class Running:
    """The trial as Tune runs it: started, taken up from its checkpoint, or started again, as often as is wished."""

    def __init__(self, study: Path, splits: Splits) -> None:
        self.study, self.folder = study, records.trial_folder(study, RECORD)
        records.write_trial(study, RECORD)
        job = Job("s0001", "tiny", to_dict(STATEFUL), 0, 3, str(self.folder), "fp32", cores=1, gpus=0.0, confirm=False)
        self.trial = Trial("tiny", config={"job": asdict(job)}, stub=True)

        class Worker(TrialTrainable):
            def splits_of_study(self) -> Splits:
                return splits

        self.worker, self.heard = Worker, Heard()
        self.new_study()

    def new_study(self) -> None:
        """Forget what the process knew: the study was interrupted, and goes on."""
        self.recorder = Recorder(self.study, "fp32", [self.heard], "asha", keep_stopped=False)

    def attempt(self, epochs: int, checkpoint_at: int | None = None) -> None:
        """Start the trial and train so many epochs; the checkpoint that it leaves is that after `checkpoint_at`."""
        self.recorder.on_trial_start(0, [self.trial], self.trial)
        worker = self.worker(self.trial.config)
        for _ in range(epochs):
            result = worker.train()
            if worker.trainer.epoch == checkpoint_at:
                worker.trainer.save(self.folder / "kept.pt")
            self.recorder.on_trial_result(0, [self.trial], self.trial, result)
            self.trial.update_last_result(result)
        records.drop_checkpoint(self.folder)
        if checkpoint_at is not None:
            (self.folder / "kept.pt").rename(self.folder / "checkpoint.pt")

    def lines(self) -> list[tuple[int, int]]:
        """(epoch, attempt) of every line of epochs.jsonl that is whole."""
        return [(epoch.epoch, epoch.attempt) for epoch in records._lines(self.folder / "epochs.jsonl")]


@pytest.fixture
def running(tmp_path: Path, small_splits: Splits) -> Iterator[Running]:
    title = getproctitle()
    yield Running(tmp_path, small_splits)
    setproctitle(title)


@pytest.mark.parametrize("goes_on", [False, True], ids=["restarted by Tune", "resumed study"])
@pytest.mark.parametrize(
    ("checkpoint_at", "trained_again"), [(None, [1, 2, 3]), (1, [2, 3]), (2, [3])], ids=["none", "behind", "last"]
)
def test_an_epoch_is_recorded_once_for_each_attempt_that_trained_it(
    checkpoint_at: int | None, trained_again: list[int], goes_on: bool, running: Running
) -> None:
    running.attempt(2, checkpoint_at)
    assert running.lines() == [(1, 1), (2, 1)]
    if goes_on:
        running.new_study()
    running.attempt(len(trained_again))
    assert running.lines() == [(1, 1), (2, 1), *((epoch, 2) for epoch in trained_again)]
    assert running.heard.epochs == [1, 2, *trained_again]
    running.recorder.on_trial_complete(0, [running.trial], running.trial)
    [(record, epochs)] = running.heard.ends
    assert (record.status, record.attempts) == ("completed", 2)
    assert records.read_trial(running.folder) == record
    assert [(epoch.epoch, epoch.attempt) for epoch in epochs] == [
        (epoch, 2 if epoch in trained_again else 1) for epoch in (1, 2, 3)
    ]


def test_an_epoch_whose_line_a_kill_cut_is_recorded_from_the_checkpoint(running: Running) -> None:
    running.attempt(2, checkpoint_at=2)
    path = running.folder / "epochs.jsonl"
    path.write_bytes(path.read_bytes()[:-40])
    running.new_study()
    running.attempt(1)
    assert running.lines() == [(1, 1), (2, 2), (3, 2)]


def test_a_trial_that_starts_again_removes_what_a_kill_left_half_written(running: Running) -> None:
    running.attempt(1, checkpoint_at=1)
    (running.folder / ".checkpoint.pt.1").write_bytes(b"cut")
    running.attempt(1, checkpoint_at=2)
    assert sorted(path.name for path in running.folder.iterdir()) == ["checkpoint.pt", "epochs.jsonl", "trial.json"]


def test_epochs_are_read_at_a_start_and_at_the_end_only(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a trial's records cost as much for each of many epochs as for each of few."""
    read: list[Path] = []
    original = records.read_epochs

    def count(folder: Path) -> list[EpochRecord]:
        read.append(folder)
        return original(folder)

    monkeypatch.setattr(records, "read_epochs", count)
    running.attempt(3)
    assert len(read) == 1
    running.recorder.on_trial_complete(0, [running.trial], running.trial)
    assert len(read) == 2


def test_a_worker_that_goes_on_with_another_trial_trains_it_as_a_new_one_would(running: Running) -> None:
    job = running.trial.config["job"]

    def losses(worker: TrialTrainable) -> list[float]:
        return [worker.train()["records"][-1]["train_loss"] for _ in range(2)]

    def second(folder: str) -> dict[str, Any]:
        return {"job": {**job, "seed": 1, "folder": str(running.study / folder)}}

    for folder in ("new", "goes on"):
        (running.study / folder).mkdir()
    expected = losses(running.worker(second("new")))
    worker = running.worker({"job": job})
    assert losses(worker) != expected
    assert worker.reset(second("goes on"))
    assert losses(worker) == expected


def test_a_process_is_named_after_the_trial_that_it_trains(running: Running) -> None:
    running.attempt(1)
    assert Path("/proc/self/cmdline").read_bytes().rstrip(b"\0") == b"ray::tiny"


def test_best_so_far_never_falls_and_counts_a_diverged_epoch_0(tmp_path: Path) -> None:
    _, epochs = ended(tmp_path, RECORD, [0.5, 0.4, 0.6])
    lost = replace(epochs[2], epoch=4, val_accuracy=0.9, val_loss=math.nan, diverged=True)
    assert best_so_far([*epochs, lost]) == [(1, 0.5), (2, 0.5), (3, 0.6), (4, 0.6)]
    assert best_so_far([lost]) == [(4, 0.0)]
    assert best_so_far([]) == []
