"""What is recorded of a trial while it runs: real trials, run in this process without Ray's workers."""

from __future__ import annotations

import errno
import math
import platform
import signal
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from made_space import read
from made_trainer import STATEFUL
from made_trials import ended
from ray._raylet import getproctitle, setproctitle
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError
from ray.tune import RunConfig, TuneConfig
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.tune import _setup_signal_catching

from study import execution, records
from study.config import Cosine, OneCycle, TrialConfig, to_dict
from study.data import Splits
from study.execution import MAX_FAILURES, Recorder, Resources, TrialQueue, run_trials
from study.records import EpochRecord, TrialRecord
from study.schedulers import best_so_far, build_scheduler, replay
from study.search import Search
from study.trainable import Job, TrialTrainable

pytestmark = pytest.mark.usefixtures("one_thread")

RECORD = TrialRecord("s0001", "search", STATEFUL, seed=0, max_epochs=3)


class Heard:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.epochs: list[int] = []
        self.ends: list[tuple[TrialRecord, list[EpochRecord]]] = []

    def trial_started(self, record: TrialRecord) -> None: ...

    def epoch_ended(self, record: TrialRecord, epoch: EpochRecord, best: float) -> None:
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


def test_the_epoch_after_which_the_scheduler_stops_a_trial_says_so(running: Running) -> None:
    """Tune asks the scheduler before it tells of the result; a trial that has ended by itself was not stopped."""
    running.attempt(1)
    result = running.trial.last_result | {"done": True}
    running.recorder.on_trial_result(0, [running.trial], running.trial, result)
    assert [epoch.stopped for epoch in records._lines(running.folder / "epochs.jsonl")] == [False, True]
    running.attempt(3)
    assert running.trial.last_result["done"]
    assert [epoch.stopped for epoch in records.read_epochs(running.folder)] == [False, False, False]


def test_a_kill_after_the_epoch_that_stopped_a_trial_does_not_lose_why(running: Running) -> None:
    scheduler, nobody = build_scheduler("asha", 3), None
    for number in range(2):
        replay(scheduler, f"t{number:04}", [(1, 1.0)], 3)
    scheduler.on_trial_add(nobody, running.trial)
    running.recorder.scheduler = scheduler
    running.recorder.on_trial_start(0, [running.trial], running.trial)
    result = running.worker(running.trial.config).train()
    assert scheduler.on_trial_result(nobody, running.trial, result) == TrialScheduler.STOP
    running.recorder.on_trial_result(0, [running.trial], running.trial, result | {"done": True})
    kept = records.read_trial(running.folder)
    assert (kept.status, kept.stop_epoch, kept.stop_threshold) == ("running", 1, 1.0)
    assert (kept.stop_rank, kept.stop_trials) == (3, 3)
    running.new_study()  # as if the kill had come before the epoch's line, too: the scheduler decides again
    running.attempt(1)
    assert {getattr(records.read_trial(running.folder), name) for name in records.NOT_STOPPED} == {None}


def test_one_slow_checkpoint_does_not_put_off_the_next(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    now, costs, saved = [0.0], iter([0.05, 0.05, 20.0, 0.05, 0.05, 0.05]), []
    worker = running.worker(running.trial.config)
    worker._begin()
    monkeypatch.setattr("study.trainable.time.monotonic", lambda: now[0])

    def save(path: Path) -> None:
        saved.append(now[0])
        now[0] += next(costs)

    monkeypatch.setattr(worker.trainer, "save", save)
    worker.saved_at = 0.0
    for _ in range(6):
        now[0] += 5
        worker._save_if_due(False)
    assert len(saved) == 6


def test_an_epoch_whose_line_a_kill_cut_is_recorded_from_the_checkpoint(running: Running) -> None:
    running.attempt(2, checkpoint_at=2)
    path = running.folder / "epochs.jsonl"
    path.write_bytes(path.read_bytes()[:-40])
    running.new_study()
    running.attempt(2)
    assert running.lines() == [(1, 1), (2, 2), (3, 2)]


def test_an_epoch_that_no_scheduler_has_judged_is_reported_before_the_next(running: Running) -> None:
    """An interruption came between its checkpoint and its record: ASHA is asked about it, not about the one after."""
    running.attempt(2, checkpoint_at=2)
    path = running.folder / "epochs.jsonl"
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    recorded = records.read_epochs(running.folder)
    running.new_study()
    running.attempt(1)
    result = running.trial.last_result
    assert (result["epoch"], result["done"]) == (2, False)
    assert running.lines() == [(1, 1), (2, 2)]
    assert records.read_epochs(running.folder)[0] == recorded[0]
    running.new_study()
    running.attempt(1)
    assert running.trial.last_result["epoch"] == 1, "there was no checkpoint"


def test_a_trial_that_starts_again_removes_what_a_kill_left_half_written(running: Running) -> None:
    running.attempt(1, checkpoint_at=1)
    left = f".checkpoint.pt.{platform.node()}.{2**22 + 1}"  # by no process that lives
    (running.folder / left).write_bytes(b"cut")
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


def test_a_trial_begins_in_its_first_step_for_tune_starts_again_what_fails_there(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(_: TrialTrainable) -> Splits:
        raise KeyError("the splits")

    worker = running.worker(running.trial.config)
    worker.train()
    monkeypatch.setattr(running.worker, "splits_of_study", lost)
    assert worker.reset({"job": running.trial.config["job"]})
    with pytest.raises(KeyError):
        worker.train()
    with pytest.raises(KeyError):
        running.worker(running.trial.config).train()


def test_a_trial_has_started_when_it_begins_to_train(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    original, called = running.worker.splits_of_study, list[float]()

    def late(worker: TrialTrainable) -> Splits:
        called.append(time.time())
        return original(worker)

    monkeypatch.setattr(running.worker, "splits_of_study", late)
    running.attempt(1, checkpoint_at=1)
    started = records.read_trial(running.folder).started
    assert started is not None
    assert called[0] < started
    running.attempt(1)
    assert records.read_trial(running.folder).started == started


def test_a_checkpoint_that_is_not_whole_is_told_of_and_the_trial_begins_again(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    running.attempt(2, checkpoint_at=2)
    path = running.folder / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:-100])
    running.attempt(2)
    assert running.lines() == [(1, 1), (2, 1), (1, 2), (2, 2)]
    [message] = caplog.messages
    assert message.startswith(f"{RECORD.label}: {path}: got ")
    assert message.endswith(", must be a checkpoint of this trial; it begins again")


def test_a_checkpoint_that_cannot_be_read_is_kept_for_the_next_attempt(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    running.attempt(2, checkpoint_at=2)
    with monkeypatch.context() as patched:
        patched.setattr("torch.load", fail)
        with pytest.raises(MemoryError):
            running.worker(running.trial.config).train()
    running.attempt(1)
    assert running.lines() == [(1, 1), (2, 1), (3, 2)]


# Failures, as Tune tells of them


class Failing:
    """A trial that fails as Tune's controller has it: whether it is started again, and what is told of it."""

    def __init__(self, running: Running, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Trial, "local_path", str(folder))
        self.trial, self.recorder = running.trial, running.recorder

    def start(self) -> None:
        self.recorder.on_trial_start(0, [self.trial], self.trial)

    def fail(self, error: Exception, recovers: bool) -> None:
        self.trial.handle_error(error)
        told = self.recorder.on_trial_recover if recovers else self.recorder.on_trial_error
        told(0, [self.trial], self.trial)

    def fail_idle(self) -> None:
        """The death of a worker that waited for this trial is told of twice."""
        self.fail(RayActorError(), recovers=True)
        self.fail(RayActorError(), recovers=False)


@pytest.fixture
def failing(running: Running, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Failing:
    return Failing(running, tmp_path_factory.mktemp("tune"), monkeypatch)


def task_error(cause: Exception) -> RayTaskError:
    try:
        raise cause
    except type(cause):
        return RayTaskError("train", traceback.format_exc(), cause, "title", 1, "127.0.0.1")


@pytest.mark.parametrize("attempts", [0, 1], ids=["new", "failed once"])
def test_a_trial_whose_worker_died_before_it_began_comes_again(
    attempts: int, running: Running, failing: Failing
) -> None:
    for _ in range(attempts):
        failing.start()
        failing.fail(task_error(KeyError("weights")), recovers=True)
    for _ in range(MAX_FAILURES):
        failing.fail_idle()
        record = failing.recorder.returned.pop()
        assert record == records.read_trial(running.folder)
        assert (record.status, record.attempts) == ("running" if attempts else "pending", attempts)
        assert running.heard.ends == []
    failing.fail_idle()  # as one does for which no worker can be started at all
    [(record, _)] = running.heard.ends
    assert (record.status, failing.recorder.returned) == ("failed", [])
    assert record.attempts == attempts + 1 + MAX_FAILURES


def test_the_queue_waits_for_what_may_come_again(running: Running) -> None:
    waiting = [RECORD]
    resources = Resources(1, 0.0, "fp32", 1)
    queue = TrialQueue(running.study, lambda: waiting.pop() if waiting else None, resources, FIFOScheduler())
    assert queue.suggest("a")["job"]["trial_id"] == "s0001"
    assert queue.suggest("b") is None
    queue.on_trial_complete("a", error=True)
    waiting.append(RECORD)
    assert queue.suggest("c")["job"]["trial_id"] == "s0001"
    queue.on_trial_complete("c")
    assert queue.suggest("d") == Searcher.FINISHED


def test_a_trial_that_gets_further_may_lose_workers_as_often_as_it_likes(running: Running, failing: Failing) -> None:
    failing.trial.max_failures = MAX_FAILURES  # as Tune is told for a study
    for epoch in (1, 2, 3):
        for _ in range(MAX_FAILURES):
            failing.start()
            failing.fail(RayActorError(), recovers=True)
            assert failing.trial.should_recover()
        running.attempt(1, checkpoint_at=epoch)
    for _ in range(MAX_FAILURES + 1):
        assert failing.trial.should_recover()
        failing.fail(RayActorError(), recovers=True)
    assert not failing.trial.should_recover()


@pytest.mark.parametrize("file", ["checkpoint.pt", "user's/checkpoint.pt"])
@pytest.mark.parametrize("recovers", [True, False])
def test_a_disk_that_fails_ends_the_study_and_not_the_trial(
    file: str, recovers: bool, running: Running, failing: Failing
) -> None:
    failing.start()
    with pytest.raises(OSError, match=rf"No space left on device: .{file}.$"):
        failing.fail(task_error(OSError(errno.ENOSPC, "No space left on device", file)), recovers)
    assert records.read_trial(running.folder).status == "running"
    assert running.heard.ends == []


def test_a_file_that_is_missing_ends_the_study_if_it_is_of_the_study(running: Running, failing: Failing) -> None:
    failing.start()
    failing.fail(task_error(FileNotFoundError(errno.ENOENT, "No such file or directory", "/lib/kernels.so")), True)
    with pytest.raises(FileNotFoundError):
        failing.fail(task_error(FileNotFoundError(errno.ENOENT, "Gone", str(running.folder / "best.pt"))), True)


@pytest.mark.parametrize(
    ("cause", "what"),
    [
        (KeyError("weights"), "KeyError: 'weights'"),
        (AssertionError(), "AssertionError"),
        (ValueError("one\ntwo"), "ValueError: one\ntwo"),
    ],
    ids=repr,
)
def test_a_failure_says_what_and_where(cause: Exception, what: str, running: Running, failing: Failing) -> None:
    for recovers in (True, False):
        failing.start()
        failing.fail(task_error(cause if not recovers else KeyError("the first time")), recovers)
    [(record, _)] = running.heard.ends
    assert (record.status, record.stop_reason, record.attempts) == ("failed", "error", 2)
    line = task_error.__code__.co_firstlineno + 2
    assert record.error == f"{what} (test_execution.py:{line}, in task_error)"
    written = (running.folder / "error.txt").read_text()
    assert "raise cause" in written
    assert what in written
    assert "the first time" not in written


def test_the_death_of_a_worker_is_told_as_ray_tells_it(running: Running, failing: Failing) -> None:
    failing.start()
    failing.fail(RayActorError(), recovers=False)
    [(record, _)] = running.heard.ends
    assert record.error == str(RayActorError())


OOM = """1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 127.0.0.1, ID: 0cb4) \
was 3.13GB used / 23.54GB limit (0.133118)
OOM kill reason: Memory usage 3364888576B exceeded threshold of 1263825152B (5.0% of 25276502016B limit)
Top 10 memory users: PID\tMEM(GB)\tCOMMAND
14755\t0.07\tray::DashboardAgent"""


def test_that_memory_was_short_is_said_in_words(running: Running, failing: Failing) -> None:
    failing.start()
    failing.fail(OutOfMemoryError(OOM), recovers=False)
    [(record, _)] = running.heard.ends
    assert record.error == "out of memory: 3.13 of 23.54 GB were in use, and Ray ended the worker"
    assert OOM.splitlines()[-1] in (running.folder / "error.txt").read_text()


@pytest.mark.parametrize("error", [OutOfMemoryError(OOM), RayActorError(), KeyError("weights")], ids=repr)
def test_tune_hears_of_an_end_for_memory_as_the_death_of_a_worker(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other than that it raises, and the study would end."""
    heard: list[Exception] = []
    monkeypatch.setattr(execution, "tunes_task_failed", lambda manager, task, exception: heard.append(exception))
    manager: Any = None
    RayActorManager._actor_task_failed(manager, tracked_actor_task=manager, exception=error)
    assert [(type(found), str(found)) for found in heard] == [
        (RayActorError if isinstance(error, OutOfMemoryError) else type(error), str(error))
    ]


# Ctrl-C


@pytest.mark.parametrize("when", ["while trials run", "while Tune cleans up"])
def test_an_interruption_is_not_forgotten(when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Tuner:
        """Tune's, without trials."""

        def __init__(self, _: type, tune_config: TuneConfig, run_config: RunConfig) -> None:
            self.callbacks: Any = run_config.callbacks

        def fit(self) -> None:
            stopped = _setup_signal_catching()
            for callback in self.callbacks:
                callback.setup(stop=None, num_samples=-1, total_num_samples=-1)
            if when == "while trials run":
                signal.raise_signal(signal.SIGINT)
                assert stopped.is_set(), "Tune must hear of it too"
            else:
                assert not stopped.is_set()
                signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGUSR1)
    monkeypatch.setattr(execution.tune, "Tuner", Tuner)
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True, "Resources": {"CPU": 1.0}}])
    splits: Any = None
    with pytest.raises(KeyboardInterrupt):
        run_trials(tmp_path, lambda: None, splits, Resources(1, 0.0, "fp32", 1), [])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    for number, handler in zip((signal.SIGINT, signal.SIGUSR1), before, strict=True):
        signal.signal(number, handler)


VARIED = """
model: {fashion_cnn: {channels: [4], hidden: [8]}}
optimizer: {sgd: {lr: 0.1}}
schedule: {choice: [cosine, one_cycle]}
epochs: {int: [2, 6]}
budget: {trials: 5, candidates: 1, seeds: 2}
"""


def rate(config: TrialConfig, step: int, steps: int) -> float:
    """The learning rate of a step, by the formulas."""
    if isinstance(config.schedule, Cosine):
        return 0.05 * (1 + math.cos(math.pi * step / steps))
    assert isinstance(config.schedule, OneCycle)
    start, end, turn = 0.1 / 25, 0.1 / 25 / 1e4, 0.3 * steps - 1
    first, last, share = (start, 0.1, step / turn) if step < turn else (0.1, end, (step - turn) / (steps - 1 - turn))
    return last + (first - last) / 2 * (1 + math.cos(math.pi * share))


def test_a_trial_of_fewer_epochs_than_others_ends_its_schedule_with_them_and_is_complete(
    running: Running, tmp_path: Path
) -> None:
    study = tmp_path / "varied"
    search = Search(study, read(VARIED), 0, "asha")
    queue = TrialQueue(study, search.next_trial, Resources(1, 0.0, "fp32", 1), FIFOScheduler())
    recorder = Recorder(study, "fp32", [search], "asha", keep_stopped=False)
    seen = set()
    for number in range(5):
        trial = Trial("tiny", config=queue.suggest(str(number)), stub=True)
        recorder.on_trial_start(0, [trial], trial)
        worker = running.worker(trial.config)
        while not trial.last_result.get("done"):
            result = worker.train()
            recorder.on_trial_result(0, [trial], trial, result)
            trial.update_last_result(result)
        recorder.on_trial_complete(0, [trial], trial)
        record = records.read_trial(Path(trial.config["job"]["folder"]))
        epochs, steps = records.read_epochs(records.trial_folder(study, record)), worker.trainer.steps
        assert (record.status, record.stop_reason) == ("completed", "finished")
        assert [epoch.epoch for epoch in epochs] == [*range(1, record.config.epochs + 1)]
        expected = [rate(record.config, (e.epoch - 1) * steps, record.config.epochs * steps) for e in epochs]
        assert [epoch.lr for epoch in epochs] == pytest.approx(expected, rel=1e-9)
        seen.add((record.config.schedule.name, record.config.epochs))
    assert search.finished()
    assert {name for name, epochs in seen if epochs < 6} == {"cosine", "one_cycle"}


def test_best_so_far_never_falls_and_counts_a_diverged_epoch_0(tmp_path: Path) -> None:
    _, epochs = ended(tmp_path, RECORD, [0.5, 0.4, 0.6])
    lost = replace(epochs[2], epoch=4, val_accuracy=0.9, val_loss=math.nan, diverged=True)
    assert best_so_far([*epochs, lost]) == [(1, 0.5), (2, 0.5), (3, 0.6), (4, 0.6)]
    assert best_so_far([lost]) == [(4, 0.0)]
    assert best_so_far([]) == []
