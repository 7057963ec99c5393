"""Early stopping: ASHA's rungs, the one-epoch rule, and what they let trials train."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

import numpy as np
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from study.records import EpochRecord

Rule = Literal["asha", "one-epoch", "none"]
METRIC = "best_val_accuracy"
REDUCTION_FACTOR = 3  # ASHA lets the best third of each rung go on
SIMULATED = 300  # trials at most: the scheduler's time grows with their square, their epochs do not
ONE_EPOCH_KEEP = 3  # Egele et al. 2023 let the best three go on


class Rungs(ASHAScheduler):
    """ASHA whose rungs are at shares of each trial's own epochs, and which keeps why it stopped a trial."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.stops: dict[str, dict[str, Any]] = {}  # by Tune's id of the trial: fields of its `TrialRecord`

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        progress = result["epoch"] * self._max_t / (result["length"] or self._max_t)
        decision: str = super().on_trial_result(tune_controller, trial, {**result, "epoch": progress})
        if decision == TrialScheduler.STOP and progress < self._max_t:
            values = next(known for _, known in self._trial_info[trial.trial_id]._rungs if trial.trial_id in known)
            own, others = values[trial.trial_id], [v for name, v in values.items() if name != trial.trial_id]
            self.stops[trial.trial_id] = {
                "stop_epoch": int(result["epoch"]),
                "stop_accuracy": float(own),
                "stop_threshold": float(np.nanpercentile(others, (1 - 1 / REDUCTION_FACTOR) * 100)),
                "stop_rank": 1 + sum(value > own for value in others),
                "stop_trials": len(values),
            }
        return decision


class StopAfterOne(FIFOScheduler):
    """Stops every trial after its first epoch."""

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        return TrialScheduler.STOP


@dataclass
class _Replayed:
    trial_id: str


def replay(
    scheduler: TrialScheduler, trial_id: str, course: Iterable[tuple[int, float]], length: int, heed: bool = False
) -> int:
    """Tell a scheduler the course of a trial, (epoch, best validation accuracy so far), so that its rungs are filled.

    `length`: the epochs that the trial may run. With `heed` the trial ends where the scheduler stops it. Return the
    last epoch told.
    """
    trial: Any = _Replayed(trial_id)
    nobody: Any = None  # these schedulers do not ask the controller
    scheduler.on_trial_add(nobody, trial)
    epoch = 0
    for epoch, value in course:
        decision = scheduler.on_trial_result(nobody, trial, {"epoch": epoch, "length": length, METRIC: value})
        if heed and decision == TrialScheduler.STOP:
            break
    return epoch


def best_so_far(epochs: list[EpochRecord]) -> list[tuple[int, float]]:
    """(epoch, best validation accuracy up to it) of each epoch; one that diverged counts 0."""
    values = itertools.accumulate((0.0 if e.diverged else e.val_accuracy for e in epochs), max)
    return [(epoch.epoch, value) for epoch, value in zip(epochs, values, strict=True)]


def build_scheduler(rule: Rule, max_epochs: int, grace_period: int = 1) -> TrialScheduler:
    """Return ASHA (Li et al. 2020, arXiv:1810.05934) with rungs from `grace_period` on, or no early stopping.

    Rungs are at `grace_period` times 1, 3, 9, … of the `max_epochs` of the longest trial; a shorter trial meets them at
    the same shares of its own epochs.

    The one-epoch rule is that of Egele et al. 2023, "Is one epoch all you need for multi-fidelity hyperparameter
    optimization?", arXiv:2307.15422: see `Search.run`.
    """
    if rule == "asha":
        return Rungs(
            "epoch", METRIC, "max", max_t=max_epochs, grace_period=grace_period, reduction_factor=REDUCTION_FACTOR
        )
    return FIFOScheduler()


def expected_epochs(
    rule: Rule, trials: int, lengths: Sequence[int], ended: int = 0, completed: int = 0, grace_period: int = 1
) -> float:
    """Epochs that a search is still expected to train: the real scheduler on trials of random, constant rank.

    `lengths`: the epochs that a trial can have, all equally likely; `ended`: how many of the trials have; `completed`:
    how many of these ran to their end.
    """
    if rule == "one-epoch":
        return max(0, trials - ended) + max(0, min(ONE_EPOCH_KEEP, trials) - completed) * (fmean(lengths) - 1)
    if rule == "none":
        return max(0, trials - ended) * fmean(lengths)
    rng = np.random.default_rng(0)
    draws = rng.random((20, min(trials, SIMULATED)))
    total = 0
    for ranks in draws:
        scheduler = build_scheduler(rule, max(lengths), grace_period)
        for number, (rank, length) in enumerate(zip(ranks, rng.choice(lengths, len(ranks)), strict=True)):
            course = [(epoch, float(rank)) for epoch in range(1, length + 1)]
            total += replay(scheduler, str(number), course, int(length), heed=True)
    return total / draws.size * max(0, trials - ended)
