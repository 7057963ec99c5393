"""Run a queue of trials through Ray Tune, and record each one's course and end.

Ray Tune places trials, retries them and asks the scheduler. What a study must not lose is kept in the trials' own
folders (records.py), not in Ray's snapshots: those lag behind, and are pickles, which run code when they are read.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune.constants import TUNE_ENV_VARS
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from study import cluster, files, records
from study.config import to_dict
from study.data import Splits
from study.opening import UsageError
from study.records import EpochRecord, Listener, TrialRecord
from study.schedulers import METRIC, Rungs, best_so_far, replay
from study.trainable import Job, TrialTrainable
from study.trainer import Precision

logger = logging.getLogger(__name__)

MAX_FAILURES = 2  # a trial that gets no further is started at most three times


@dataclass(frozen=True)
class Resources:
    """What one trial gets, and how many share the machine."""

    cores: int
    gpus: float
    precision: Precision
    slots: int  # trials at a time at most on a machine, as the plan found memory for


class TrialQueue(Searcher):
    """Hands Tune the next trial. Trials that were cut off are taken up with what the scheduler knew of them."""

    def __init__(
        self, study: Path, next_trial: Callable[[], TrialRecord | None], resources: Resources, scheduler: TrialScheduler
    ) -> None:
        super().__init__(metric=METRIC, mode="max")
        self.study, self.next_trial, self.resources, self.tune_scheduler = study, next_trial, resources, scheduler
        self.handed_out: set[str] = set()  # Tune's ids of the trials that have not ended

    def suggest(self, trial_id: str) -> Any:
        record = self.next_trial()
        if record is None:
            return None if self.handed_out else Searcher.FINISHED  # one that has not ended may have to come again
        self.handed_out.add(trial_id)
        folder = records.trial_folder(self.study, record)
        records.write_trial(self.study, record)
        if epochs := records.read_epochs(folder):
            replay(self.tune_scheduler, trial_id, best_so_far(epochs), record.max_epochs)
        job = Job(
            trial_id=record.trial_id,
            label=record.label,
            config=to_dict(record.config),
            seed=record.seed,
            max_epochs=record.max_epochs,
            folder=str(folder.absolute()),  # workers of a cluster run in another folder
            precision=self.resources.precision,
            cores=self.resources.cores,
            gpus=self.resources.gpus,
            confirm=record.stage == "confirm",
        )
        return {"job": asdict(job)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The recorder tells whoever must know."""
        self.handed_out.discard(trial_id)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its parts for a restore that the trials' folders make unnecessary

    def save(self, checkpoint_path: str) -> None:
        """The trials' folders hold the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Likewise."""


class Recorder(tune.Callback):
    """Writes trial.json and epochs.jsonl as results come in, and tells the listeners."""

    def __init__(
        self,
        study: Path,
        precision: Precision,
        listeners: list[Listener],
        stop_reason: str,
        keep_stopped: bool,
        scheduler: TrialScheduler | None = None,
    ) -> None:
        self.study, self.precision, self.listeners = study, precision, listeners
        self.scheduler, self.stop_reason, self.keep_stopped = scheduler, stop_reason, keep_stopped
        self.live: dict[str, TrialRecord] = {}  # those that have begun, and are not to begin again
        self.returned: list[TrialRecord] = []  # to be handed out again
        self.given_back: Counter[str] = Counter()  # how often that has happened to each
        self.recorded: dict[str, set[int]] = {}  # the epochs in each trial's epochs.jsonl

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        record = records.read_trial(Path(trial.config["job"]["folder"]))
        record = replace(
            record,
            status="running",
            error=None,
            attempts=record.attempts + 1,
            started=record.started or time.time(),
            precision=self.precision,
            **records.NOT_STOPPED,
        )
        self._write(record)
        folder = records.trial_folder(self.study, record)
        self.recorded[_id(trial)] = {epoch.epoch for epoch in records.read_epochs(folder)}
        for listener in self.listeners:
            listener.trial_started(record)

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        record = self.live[_id(trial)]
        folder = records.trial_folder(self.study, record)
        recorded = self.recorded[_id(trial)]
        if isinstance(self.scheduler, Rungs) and (why := self.scheduler.stops.get(trial.trial_id)):
            record = replace(record, **why)
            self._write(record)  # before the epoch, after which a kill may come
        reported = [EpochRecord(**values) for values in result["records"]]
        for epoch in reported:
            # A trial that was taken up reports its earlier epochs too: those that were recorded already stay.
            if epoch.epoch not in recorded or epoch is reported[-1]:
                ends = epoch is reported[-1] and result["done"] and not (result["diverged"] or result["ending"])
                records.append_epoch(folder, replace(epoch, attempt=record.attempts, stopped=ends))
            if epoch.epoch not in recorded:
                recorded.add(epoch.epoch)
                trial.run_metadata.num_failures = 0  # it gets further: workers may die under it as often as they like
        if result["discarded"]:
            logger.warning("%s: %s; it begins again", record.label, result["discarded"])
        if record.device is None:  # the first result; what a worker does once, such as imports, is no trial's time
            self._write(replace(record, device=result["device"], started=result["started"]))
        for listener in self.listeners:
            listener.epoch_ended(self.live[_id(trial)], reported[-1], result[METRIC])

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        record, result = self.live[_id(trial)], trial.last_result
        if result["diverged"]:
            record = replace(record, status="diverged", stop_reason="diverged")
        elif result["ending"]:
            record = replace(record, status="completed", stop_reason="finished", **result["ending"])
        else:
            record = replace(record, status="stopped", stop_reason=self.stop_reason)
        self._end(record)

    def on_trial_recover(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        _raise_os_error(trial)
        self.live.pop(_id(trial), None)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        _raise_os_error(trial)
        record = records.read_trial(Path(trial.config["job"]["folder"]))
        # A worker that died before its next trial began: Tune starts again only what has begun.
        if _id(trial) not in self.live and self.given_back[_id(trial)] < MAX_FAILURES:
            self.given_back[_id(trial)] += 1
            self.returned.append(record)
            return
        error, text = _failure(trial)
        files.write_whole(records.trial_folder(self.study, record) / "error.txt", text.encode())
        # Tune tells of no start where the worker died before it.
        attempts = record.attempts + self.given_back[_id(trial)] + (_id(trial) not in self.live)
        self._end(replace(record, status="failed", stop_reason="error", error=error, attempts=attempts))

    def __getstate__(self) -> dict[str, Any]:
        return {}  # see TrialQueue

    def _end(self, record: TrialRecord) -> None:
        folder = records.trial_folder(self.study, record)
        epochs = records.read_epochs(folder)
        if record.best_epoch is None and (best := records.best(epochs)):
            record = replace(record, best_epoch=best.epoch)
        self._write(replace(record, ended=time.time()))
        if not (record.status == "stopped" and self.keep_stopped):
            records.drop_checkpoint(folder)
        for listener in self.listeners:
            listener.trial_ended(self.live[record.trial_id], epochs)

    def _write(self, record: TrialRecord) -> None:
        self.live[record.trial_id] = record
        records.write_trial(self.study, record)


class Interruption(tune.Callback):
    """Notes the user's first Ctrl-C: Tune ends its trials then, or is cleaning up after them, and tells nobody."""

    SAID = b"\nStopping, which takes some seconds. A second Ctrl-C ends the trials at once.\n"

    def __init__(self) -> None:
        self.noted = False

    def setup(self, *_: Any, **info: Any) -> None:
        tunes: Any = signal.getsignal(signal.SIGINT)  # in place by now

        def note(number: int, frame: Any) -> None:
            first, self.noted = not self.noted, True
            if first:
                with suppress(OSError):  # nobody may read it; print may be at work where this comes between
                    os.write(2, self.SAID)
            tunes(number, frame)

        signal.signal(signal.SIGINT, note)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # see TrialQueue


def run_trials(
    study: Path,
    next_trial: Callable[[], TrialRecord | None],
    splits: ray.ObjectRef[Any],
    resources: Resources,
    listeners: list[Listener],
    scheduler: TrialScheduler | None = None,
    stop_reason: str = "",
    keep_stopped: bool = False,
    time_budget_s: float | None = None,
) -> None:
    """Run what `next_trial` hands out until it returns None or the time is up.

    Raises KeyboardInterrupt on Ctrl-C, and OSError where a trial or this process could not read or write its files.

    `splits`: the object that holds the `Splits`. `stop_reason`: what is recorded of a trial that the scheduler
    stops; `keep_stopped` leaves its checkpoint. Every trial's folder says afterwards how it stands.
    """
    scheduler = scheduler or FIFOScheduler()
    recorder = Recorder(study, resources.precision, listeners, stop_reason, keep_stopped, scheduler)
    interruption = Interruption()
    again = recorder.returned
    queue = TrialQueue(study, lambda: again.pop() if again else next_trial(), resources, scheduler)

    class Trial(TrialTrainable):
        """Holds the reference to the splits: Tune hands a trainable its configuration only."""

        def splits_of_study(self) -> Splits:
            shared: Splits = ray.get(splits)  # out of shared memory, without a copy
            return shared

        @classmethod
        def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
            return tune.PlacementGroupFactory([{"CPU": resources.cores, "GPU": resources.gpus}])

    Trial.__qualname__ = "Trial"  # what the dashboard shows as the class
    slots = slots_of(resources)
    scratch = tempfile.mkdtemp(prefix="tune-")
    try:
        tuner = tune.Tuner(
            Trial,
            tune_config=tune.TuneConfig(
                search_alg=queue,
                scheduler=scheduler,
                num_samples=-1,
                max_concurrent_trials=slots,
                reuse_actors=True,  # a worker takes some 9 s to start
                time_budget_s=time_budget_s,
                trial_dirname_creator=lambda trial: trial.config["job"]["trial_id"],
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=scratch,
                callbacks=[interruption, recorder],
                failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
                verbose=0,
            ),
        )
        tuner.fit()
    except tune.TuneError as error:
        raise _cause(error) from error
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # Ray Tune leaves its own behind
        shutil.rmtree(scratch, ignore_errors=True)
    if interruption.noted:
        raise KeyboardInterrupt


def _cause(error: BaseException) -> BaseException:
    """The OSError that Tune wrapped into its own, or the error itself."""
    behind = error.__cause__ or error.__context__
    while behind and not isinstance(behind, OSError):
        behind = behind.__cause__ or behind.__context__
    return behind or error


def slots_of(resources: Resources) -> int:
    """How many trials Ray is to run at a time. Raises ValueError where not one fits into any of its nodes."""
    slots, had = 0, []
    for node in cluster.nodes():
        cores, gpus = (node["Resources"].get(kind, 0.0) for kind in ("CPU", "GPU"))
        fit = int(cores // resources.cores)
        if resources.gpus:
            fit = min(fit, int(gpus / resources.gpus + 1e-9))
        slots += min(fit, resources.slots)
        had.append(f"{cores:g} and {gpus:g}")
    if not slots:
        got = f"{resources.cores} cores and {resources.gpus:g} GPUs for a trial"
        raise UsageError(f"resources: got {got}, must fit into {' or '.join(sorted(set(had))) or 'a node'}")
    return slots


tunes_task_failed = RayActorManager._actor_task_failed


def _task_failed(self: RayActorManager, tracked_actor_task: Any, exception: Exception) -> None:
    """Have Tune start a trial again whose worker Ray ended for memory: it knows other ways to die only, and raises."""
    if isinstance(exception, OutOfMemoryError):
        exception = RayActorError(error_msg=str(exception))
    tunes_task_failed(self, tracked_actor_task, exception)


RayActorManager._actor_task_failed = _task_failed  # type: ignore[method-assign]


def _raise_os_error(trial: TuneTrial) -> None:
    """A full or lost disk is no fault of the trial that met it: the study stops, and the trial is not used up."""
    found = re.match(r"""\w+: \[Errno (\d+)\] ([^:\n]+?)(?:: (['"])(.+?)\3)?( \(|$)""", _failure(trial)[0])
    if found and int(found[1]) in files.LOST_DISK:
        number, path = int(found[1]), str(found[4])
        # That some file elsewhere is missing or closed says nothing of the disk.
        if number not in files.OF_A_PATH or path.startswith(trial.config["job"]["folder"]):
            raise OSError(number, found[2], path)


def _failure(trial: TuneTrial) -> tuple[str, str]:
    """What was raised last and where, `KeyError: 'weights' (trainer.py:150, in load)`, and the traceback."""
    noted = Path(str(trial.error_file)).read_text(encoding="utf-8", errors="replace")  # all failures, by Tune
    text = re.split(r"^Failure # .*\n", re.sub(r"\x1b\[\d*m", "", noted), flags=re.MULTILINE)[-1].strip()
    if full := cluster.out_of_memory(text):
        return full, text + "\n"
    *_, frame = [None, *re.finditer(r'^  File "(.+)", line (\d+), (in .+)$', text, re.MULTILINE)]
    raised = re.search(r"^\S.*", text[frame.end() if frame else 0 :], re.MULTILINE | re.DOTALL)
    where = f" ({Path(frame[1]).name}:{frame[2]}, {frame[3]})" if frame else ""
    return (raised[0] if raised else text)[:2000] + where, text + "\n"


def _id(trial: TuneTrial) -> str:
    return str(trial.config["job"]["trial_id"])


def quiet() -> None:
    """Keep Ray Tune from printing, and from writing what nobody reads. To be called before Tune starts.

    The study has its own progress display and its own records.
    """
    for name in TUNE_ENV_VARS:  # of the user's other studies: some end a run, others hold its results back
        os.environ.pop(name, None)
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "inf"  # no snapshots but two: they are a fourth of what memory grows by
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a trial's failure is recorded, and told by the display
