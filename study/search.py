"""The search: TPE proposes, ASHA or the one-epoch rule stops, the arms go first."""

from __future__ import annotations

import itertools
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import ray
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from study import records
from study.config import TrialConfig
from study.execution import Resources, run_trials
from study.records import ENDED, EpochRecord, Listener, TrialRecord
from study.schedulers import ONE_EPOCH_KEEP, Rule, StopAfterOne, best_so_far, build_scheduler, replay
from study.space import Space

ASKS = 10  # of TPE for a configuration that was not tried, before one is taken at random
UNTRIED = 1000  # of which that is at most


class Proposer:
    """Optuna's TPE over a space, told of every trial that has ended.

    Its memory is made of the trials' records, so that a study goes on from them whatever became of the journal, which
    is kept for optuna-dashboard. Trials that were stopped are told as pruned: TPE then ranks them behind all that
    ran on, by the epochs they reached, instead of comparing accuracies of unequal epochs. One that diverged is told
    as pruned with 0 after its first epoch, behind all others.

    TPE proposes what was tried before, most of all in a space of few configurations
    (https://github.com/optuna/optuna/issues/2021). The same configuration and seed make the same trial: none is tried
    twice, nor is an arm.

    Bergstra et al. 2011, "Algorithms for hyper-parameter optimization"; multivariate and grouped as in Optuna, which
    models hyperparameters jointly where they occur together.
    """

    def __init__(self, space: Space, seed: int, journal: Path) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        for leftover in journal.parent.glob(f"{journal.name}*"):
            leftover.unlink()
        self.space, self.seed = space, seed
        # Optuna's usual lock is a link, which a kill leaves, and no study's folder may hold one.
        backend = JournalFileBackend(str(journal), JournalFileOpenLock(str(journal)))
        self.study = optuna.create_study(storage=JournalStorage(backend), study_name=space.name, direction="maximize")
        self.asked: dict[str, optuna.Trial] = {}
        self.told: set[str] = set()
        self.tried = {self._id(arm) for arm in space.arms.values()}

    def ask(self, trial_id: str) -> TrialConfig:
        """Return a configuration that was not tried. Raises ValueError where none is left.

        The draw depends on the seed, the trial's number and what has been told.
        """
        seed = (self.seed * 1_000_003 + int(trial_id[1:])) % 2**32
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study.sampler = optuna.samplers.TPESampler(
                multivariate=True, group=True, constant_liar=True, seed=seed
            )
        repeats: list[optuna.Trial] = []
        while len(repeats) < ASKS:
            trial = self.study.ask()
            config = self.space.suggest(trial)
            if self._id(config) not in self.tried:
                break
            repeats.append(trial)  # until the end it counts as running, which draws TPE elsewhere
        else:
            config = self._any_untried(seed)
            trial = self._enter(config)
        for repeat in repeats:
            self.study.tell(repeat, state=TrialState.FAIL)  # of which TPE learns nothing
        trial.set_user_attr("trial_id", trial_id)
        self.asked[trial_id] = trial
        self.tried.add(self._id(config))
        return config

    def _any_untried(self, seed: int) -> TrialConfig:
        untried = (config for config in self.space.combinations(seed) if self._id(config) not in self.tried)
        found = list(itertools.islice(untried, UNTRIED))
        if not found:
            raise ValueError(f"{self.space.name}: got one trial more, must have a configuration that was not tried")
        return found[np.random.default_rng(seed).integers(len(found))]

    def _enter(self, config: TrialConfig) -> optuna.Trial:
        """Ask Optuna for a trial of this configuration of the space."""
        self.study.enqueue_trial(self.space.parameters_of(config) or {})
        trial = self.study.ask()
        self.space.suggest(trial)
        return trial

    def _id(self, config: TrialConfig) -> str:
        return self.space.in_search(config).config_id

    def take_up(self, record: TrialRecord) -> None:
        """Know of a trial, asked for before the study was cut off, that it still runs."""
        self.tried.add(self._id(record.config))
        if self.space.parameters_in_search(record.config) is not None:
            trial = self._enter(self.space.in_search(record.config))
            trial.set_user_attr("trial_id", record.trial_id)
            self.asked[record.trial_id] = trial

    def tell(self, record: TrialRecord, epochs: list[EpochRecord]) -> None:
        """Learn how a trial ended, once. A configuration outside the space (an arm may be) teaches nothing."""
        if record.trial_id in self.told:  # a survivor of the one-epoch rule ends twice
            return
        self.told.add(record.trial_id)
        self.tried.add(self._id(record.config))
        course = {1: 0.0} if record.status == "diverged" else dict(best_so_far(epochs))
        state = {"completed": TrialState.COMPLETE, "failed": TrialState.FAIL}.get(record.status, TrialState.PRUNED)
        if state is TrialState.PRUNED and not course:
            state = TrialState.FAIL
        value = max(course.values(), default=0.0)
        if trial := self.asked.pop(record.trial_id, None):
            for epoch, reached in course.items():
                trial.report(reached, epoch)
            self.study.tell(trial, value if state is TrialState.COMPLETE else None, state=state)
        elif (parameters := self.space.parameters_in_search(record.config)) is not None:
            self.study.add_trial(
                optuna.trial.create_trial(
                    state=state,
                    value=value if state is TrialState.COMPLETE else None,
                    params=parameters,
                    distributions=self.space.distributions_of(parameters),
                    intermediate_values=course,
                    user_attrs={"trial_id": record.trial_id, "arm": record.arm},
                )
            )


class Search(Listener):
    """The search stage of a study: hands out arms, trials that were cut off, and what the proposer asks for."""

    def __init__(self, study: Path, space: Space, seed: int, rule: Rule) -> None:
        self.study, self.space, self.seed, self.rule = study, space, seed, rule
        (study / "search").mkdir(parents=True, exist_ok=True)
        self.proposer = Proposer(space, seed, study / "search" / "optuna.journal")
        known = [self._settled(record) for record in records.read_trials(study, "search")]
        for record in known:
            if record.status in ENDED:
                self.proposer.tell(record, _epochs(self.study, record))
            elif record.arm is None:
                self.proposer.take_up(record)
        self.count = len(known)  # trials handed out so far, of the budget
        self.number = max((int(record.trial_id[1:]) for record in known), default=0)
        self.ended = {record.trial_id for record in known if record.status in ENDED}
        self.waiting = [record for record in known if record.status not in ENDED]
        tried = {record.arm for record in known}
        for name, config in space.arms.items():
            if name not in tried:
                self.waiting.append(self._record(config, arm=name))

    def trial_ended(self, record: TrialRecord, epochs: list[EpochRecord]) -> None:
        self.proposer.tell(record, epochs)

    def next_trial(self) -> TrialRecord | None:
        """The next trial to run, or None when the budget of trials is used up."""
        if self.waiting:
            return self.waiting.pop(0)
        if self.count >= self.space.budget.trials:
            return None
        return self._record(self.proposer.ask(f"s{self.number + 1:04d}"))

    def run(
        self,
        splits: ray.ObjectRef[Any],
        resources: Resources,
        listeners: list[Listener],
        time_budget_s: float | None = None,
    ) -> None:
        """Search by the rule; returns when done, or when the time is up. Raises as `run_trials` does."""
        deadline = None if time_budget_s is None else time.monotonic() + time_budget_s

        def trials(scheduler: TrialScheduler, keep_stopped: bool = False) -> None:
            run_trials(
                self.study,
                self.next_trial,
                splits,
                resources,
                [self, *listeners],
                scheduler,
                stop_reason=self.rule,
                keep_stopped=keep_stopped,
                time_budget_s=None if deadline is None else max(deadline - time.monotonic(), 1.0),
            )

        if self.rule == "one-epoch":
            trials(StopAfterOne(), keep_stopped=True)
            if self._all_tried():
                self._record_why()
                self.waiting = [_going_on(record) for record in _survivors(self.study)]
                for record in self.waiting:
                    records.write_trial(self.study, record)
                trials(FIFOScheduler())
        else:
            scheduler = build_scheduler(self.rule, self.space.epochs, self.space.grace_period)
            for record in records.read_trials(self.study, "search"):
                if record.status in ENDED:
                    replay(scheduler, record.trial_id, best_so_far(_epochs(self.study, record)), record.max_epochs)
            trials(scheduler)

    def finished(self) -> bool:
        """Whether the budget is used up and every trial has ended."""
        return search_over(self.study, self.space, self.rule)

    @property
    def ends_left(self) -> int:
        """How often a trial is still to end: the best under the one-epoch rule do twice."""
        trials, again = self.space.budget.trials, 0
        left = max(0, trials - len(self.ended))
        if self.rule == "one-epoch" and self.space.epochs > 1:
            completed = sum(record.status == "completed" for record in records.read_trials(self.study, "search"))
            again = max(0, min(ONE_EPOCH_KEEP, trials) - completed) if left else len(_survivors(self.study))
        return left + again

    def end_on_time(self, listeners: list[Listener]) -> None:
        """Record the trials that the end of the time budget cut off, which are not to go on."""
        for record in records.read_trials(self.study, "search"):
            if record.status not in ENDED:
                record = replace(record, status="stopped", stop_reason="time-budget", ended=time.time())
                records.write_trial(self.study, record)
                for listener in (self, *listeners):
                    listener.trial_ended(record, _epochs(self.study, record))

    def _record(self, config: TrialConfig, arm: str | None = None) -> TrialRecord:
        self.count += 1
        self.number += 1
        return TrialRecord(
            trial_id=f"s{self.number:04d}",
            stage="search",
            config=config,
            seed=self.seed,
            arm=arm,
            max_epochs=min(config.epochs, self.space.epochs),
            split=self.space.split.text,
        )

    def _settled(self, record: TrialRecord) -> TrialRecord:
        """The record, ended where a kill came between the epoch after which the trial was stopped, and its end."""
        epochs = _epochs(self.study, record)
        if record.status in ENDED or not epochs or not (epochs[-1].stopped or self.rule == "one-epoch"):
            return record
        best = records.best(epochs)
        epoch = best.epoch if best else None
        # A survivor that was cut off: what `_going_on` takes back is its promotion, not its new start.
        attempts = record.attempts + (self.rule == "one-epoch" and len(epochs) > 1)
        record = replace(
            record, status="stopped", stop_reason=self.rule, ended=time.time(), best_epoch=epoch, attempts=attempts
        )
        records.write_trial(self.study, record)
        if self.rule != "one-epoch":
            records.drop_checkpoint(records.trial_folder(self.study, record))
        return record

    def _record_why(self) -> None:
        """Record why the one-epoch rule lets those behind the best not go on."""
        ranked = _ranked(self.study)
        for rank, (accuracy, record) in enumerate(ranked[ONE_EPOCH_KEEP:], ONE_EPOCH_KEEP + 1):
            if record.stop_reason == "one-epoch" and record.stop_epoch is None:
                why = (1, accuracy, ranked[ONE_EPOCH_KEEP - 1][0], rank, len(ranked))
                stop: dict[str, Any] = dict(zip(records.NOT_STOPPED, why, strict=True))
                records.write_trial(self.study, replace(record, **stop))

    def _all_tried(self) -> bool:
        known = records.read_trials(self.study, "search")
        return len(known) >= self.space.budget.trials and all(
            _epochs(self.study, r) or r.status in ENDED for r in known
        )

    def drop_checkpoints(self) -> None:
        """To be called when the search is over: until then those that the one-epoch rule has stopped may go on."""
        for record in records.read_trials(self.study, "search"):
            records.drop_checkpoint(records.trial_folder(self.study, record))


def search_over(study: Path, space: Space, rule: Rule) -> bool:
    """Whether the budget of trials is used up and every trial has ended, of the best under the one-epoch rule twice."""
    known = records.read_trials(study, "search")
    if len(known) < space.budget.trials or any(record.status not in ENDED for record in known):
        return False
    return rule != "one-epoch" or not _survivors(study)


def _survivors(study: Path) -> list[TrialRecord]:
    """Those of the best after one epoch that have not been trained to the end."""
    best = _ranked(study)[:ONE_EPOCH_KEEP]
    return [record for _, record in best if record.status not in ("completed", "diverged", "failed")]


def _ranked(study: Path) -> list[tuple[float, TrialRecord]]:
    """Each trial's accuracy after one epoch, and the trial; the best first."""
    known = [(_epochs(study, record), record) for record in records.read_trials(study, "search")]
    ranked = [(best_so_far(epochs)[0][1], record) for epochs, record in known if epochs]
    return sorted(ranked, key=lambda pair: (-pair[0], pair[1].trial_id))


def _epochs(study: Path, record: TrialRecord) -> list[EpochRecord]:
    return records.read_epochs(records.trial_folder(study, record))


def candidates(study: Path, space: Space) -> list[TrialRecord]:
    """Return the best searched configurations, by best validation epoch; arms are not among them.

    Those that ran to the end come first, then those that were stopped latest: confirm trains them to the end.
    """
    arms = {config.config_id for config in space.arms.values()}
    best: dict[str, tuple[tuple[bool, int, float], TrialRecord]] = {}
    for record in records.read_trials(study, "search"):
        epochs = _epochs(study, record)
        epoch = records.best(epochs)
        if epoch and record.status in ("completed", "stopped") and record.config_id not in arms:
            completed = record.status == "completed"
            rank = (completed, 0 if completed else len(epochs), epoch.val_accuracy)
            if record.config_id not in best or rank > best[record.config_id][0]:
                best[record.config_id] = (rank, record)
    ranked = sorted(best.values(), key=lambda pair: pair[1].trial_id)
    ranked.sort(key=lambda pair: pair[0], reverse=True)
    return [record for _, record in ranked[: space.budget.candidates]]


def _going_on(record: TrialRecord) -> TrialRecord:
    """A survivor's record as before it was stopped; that it goes on counts as no new start."""
    attempts = max(record.attempts - 1, 0)
    return replace(
        record,
        status="pending",
        stop_reason=None,
        attempts=attempts,
        ended=None,
        best_epoch=None,
        **records.NOT_STOPPED,
    )
