"""What a study will cost, from the command to its page: time and disk, from measured speeds."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

from study.config import within
from study.confirm import SUPERSEDED
from study.execution import Resources
from study.probe import Speed, architecture, parameters_of
from study.records import ENDED, TrialRecord
from study.schedulers import Rule, expected_epochs
from study.space import Space
from study.trainer import Precision

# What takes time beside training, in units of what a fresh process takes to import torch here: Ray and the first
# imports, once; a worker, once in a stage on each slot; the page's imports, descriptors and figures, once.
STUDY_START, WORKER_START, PAGE_START = 5.0, 3.0, 12.0
TRIAL_OVERHEAD_S = 0.25  # measured on two cores: building the network, the last checkpoint and handing over
LOGS_BYTES = 64 << 20  # on disk: Ray's logs, which go with it, TensorBoard's files and Optuna's journal
# Forward passes of the page for each confirmed network, beside those of the validation and test images: each corruption
# of each severity, and checks of its maps. The latter are in fp32, and count as so many in the training's precision.
PAGE_PASSES = {"full": 91 * 10_000 + 60_000, "preview": 91 * 200 + 12_000}


@dataclass(frozen=True)
class Plan:
    """How the trials of a study run, and what that is expected to cost."""

    device: str
    precision: Precision
    speeds: dict[str, Speed]  # by what `architecture` says of a model
    cores: int = within(1, 10**6)  # of one trial
    gpus: float = within(0, 1)  # of one trial
    slots: int = within(1, 10**6)  # trials at a time
    memory_bytes: int = within(0, 2**53, default=0)  # of one trial at most: on the GPU, or without one of its process
    slowdown: float = within(1, math.inf, default=1.0)  # of bf16 relative to fp32, on a processor that has no bf16
    import_seconds: float = within(0, math.inf, default=3.0)  # of a fresh process that imports torch
    measure_seconds: float = within(0, math.inf, default=0.0)
    search_seconds: float = within(0, math.inf, default=0.0)
    confirm_seconds: float = within(0, math.inf, default=0.0)
    page_seconds: float = within(0, math.inf, default=0.0)
    disk_bytes: int = within(0, 2**53, default=0)

    def stages(self) -> dict[str, float]:
        """Return the seconds of each stage from the command to the page."""
        return {
            "measuring": self.measure_seconds,
            "starting": STUDY_START * self.import_seconds,
            "search": self.search_seconds,
            "confirm": self.confirm_seconds,
            "page": self.page_seconds,
        }

    @property
    def seconds(self) -> float:
        """Seconds from the command to the page."""
        return sum(self.stages().values())

    @property
    def resources(self) -> Resources:
        return Resources(self.cores, self.gpus, self.precision, self.slots)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(values: dict[str, Any]) -> Plan:
        return Plan(**{**values, "speeds": {k: Speed(v["train"], v["evaluate"]) for k, v in values["speeds"].items()}})


@dataclass(frozen=True)
class Rest:
    """What of a study is still to run."""

    epochs: float  # of the search, expected
    trials: int  # of the search
    runs: tuple[str | None, ...]  # of confirm, in turn: an arm's name, or None for a candidate


def rest(
    space: Space,
    rule: Rule,
    recorded: Sequence[TrialRecord] = (),
    search_over: bool = False,
    candidates: Sequence[TrialRecord] = (),
) -> Rest:
    """What is left when these trials are on record.

    `candidates`: the best of the search so far; what was confirmed of others does not count. Until the search is over,
    all runs of as many as the budget has are left.
    """
    ended = [record for record in recorded if record.status in ENDED and record.stop_reason != SUPERSEDED]
    searched = [record for record in ended if record.stage == "search"]
    completed = sum(record.status == "completed" for record in searched)
    budget = space.budget
    trials = 0 if search_over else max(0, budget.trials - len(searched))
    epochs = 0.0
    if not search_over:
        known = (len(searched), completed)
        epochs = expected_epochs(rule, budget.trials, space.lengths, *known, space.grace_period)
    best = {record.config_id for record in candidates} if search_over else set()
    confirm = [record for record in ended if record.stage == "confirm"]
    confirmed: Counter[str | None] = Counter(r.arm for r in confirm if r.arm in space.arms)
    confirmed[None] = sum(record.arm not in space.arms and record.config_id in best for record in confirm)
    runs = []
    for name in [*[None] * (len(best) if search_over else budget.candidates), *space.arms] * budget.seeds:
        if confirmed[name]:
            confirmed[name] -= 1
        else:
            runs.append(name)
    return Rest(epochs, trials, tuple(runs))


def estimate(
    plan: Plan, space: Space, rule: Rule, time_budget_s: float | None = None, left: Rest | None = None
) -> Plan:
    """Return the plan with the time and disk that the study, or what is `left` of it, takes at its speeds.

    The page is counted whole, however much is left.
    """
    left = left or rest(space, rule)
    begin = WORKER_START * plan.import_seconds

    def seconds(epochs: float, speeds: list[Speed], trials: int, evaluated: int) -> float:
        passes = [space.split.train / s.train + space.split.validation / s.evaluate for s in speeds]
        clean = [space.split.train / s.evaluate for s in speeds]
        return epochs * fmean(passes) + trials * TRIAL_OVERHEAD_S + evaluated * fmean(clean)

    def run(epochs: int, speeds: list[Speed]) -> float:  # confirm's end with the training images, once
        return seconds(epochs, speeds, 1, 1)

    everything = list(plan.speeds.values())
    search = seconds(left.epochs, everything, left.trials, 0) / plan.slots + begin * (left.epochs > 0)
    runs: dict[str | None, float] = {None: run(space.epochs, everything)}
    runs |= {name: run(arm.epochs, [plan.speeds[architecture(arm.model)]]) for name, arm in space.arms.items()}
    passes = PAGE_PASSES[space.fidelity] + space.split.validation + space.split.test
    shown = [passes / plan.speeds[architecture(arm.model)].evaluate for arm in space.arms.values()]
    shown += [passes * fmean(1 / speed.evaluate for speed in everything)] * space.budget.candidates
    page = PAGE_START * plan.import_seconds + makespan(shown * space.budget.seeds, plan.slots * plan.cores)
    weights = 4 * max(parameters_of(model) for model in space.models())
    # A checkpoint holds weights, best weights and up to two optimizer moments, and the next is written beside it; the
    # one-epoch rule keeps everyone's.
    ends = left.trials + len(left.runs)
    writing = min(plan.slots, ends)
    predictions = len(left.runs) * space.split.test * 48
    checkpoints = writing + max(left.trials if rule == "one-epoch" else 0, writing)
    return replace(
        plan,
        search_seconds=search if time_budget_s is None else min(search, time_budget_s),
        confirm_seconds=makespan([runs[name] for name in left.runs], plan.slots) + begin * bool(left.runs),
        page_seconds=0.0 if plan.gpus else page,  # it is made on the processor, whose speed is not measured then
        disk_bytes=weights * (4 * checkpoints + len(left.runs)) + predictions + LOGS_BYTES * bool(ends),
    )


def makespan(durations: Iterable[float], slots: int) -> float:
    """Seconds until the last of the jobs ends, each started in turn on the first free slot."""
    busy = [0.0] * slots
    for duration in durations:
        heapq.heapreplace(busy, busy[0] + duration)
    return max(busy)
