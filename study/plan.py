"""What a study will cost: precision, cores or GPU share, time and disk, from a few measured training steps."""

from __future__ import annotations

import heapq
import math
import multiprocessing
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np
import torch

from study.config import within
from study.confirm import SUPERSEDED
from study.execution import Resources
from study.opening import UsageError
from study.probe import (
    Speed,
    architecture,
    faster_precision,
    flops,
    parameters_of,
    peak_memory,
    probe,
    ready,
    resident_memory,
)
from study.provenance import cores as available_cores
from study.provenance import free_memory, gpu_count
from study.records import ENDED, TrialRecord
from study.search import Rule, expected_epochs
from study.space import Choice, Space
from study.trainer import Precision

# Measured on two cores: starting a worker and importing torch, once in a stage on each slot; building the network, the
# last checkpoint and handing over, for each trial.
WORKER_START_S, TRIAL_OVERHEAD_S = 9.0, 0.25
STUDY_OVERHEAD_S = 15.0
# More cores per trial, or more trials on a GPU, must gain this much, for measuring is noisy.
MARGIN = 1.15
# Room beside what a trial's tensors need on a GPU: the CUDA context and the allocator's fragments.
CONTEXT_BYTES, FRAGMENTATION = 600 << 20, 1.3
# Of the machine's: what Ray's own processes take, a process with torch, and what a worker has beside it.
RAY_BYTES, TORCH_BYTES, WORKER_BYTES = 2 << 30, 512 << 20, 256 << 20
RAY_LEAST = 512 << 20  # without which none is even tried
LOGS_BYTES = 64 << 20  # on disk: Ray's logs, which go with it, TensorBoard's files and Optuna's journal
MEASURED = 8  # networks at most, so that measuring ends


@dataclass(frozen=True)
class Plan:
    """How the trials of a study run, and what that is expected to cost."""

    device: str
    precision: Precision
    speeds: dict[str, Speed]  # by what `architecture` says of a model
    cores: int = within(1, 10**6)  # of one trial
    gpus: float = within(0, 1)  # of one trial
    slots: int = within(1, 10**6)  # trials at a time
    search_seconds: float = within(0, math.inf)
    confirm_seconds: float = within(0, math.inf)
    disk_bytes: int = within(0, 2**53)
    memory_bytes: int = within(0, 2**53, default=0)  # of one trial at most: on the GPU, or without one of its process

    @property
    def seconds(self) -> float:
        return STUDY_OVERHEAD_S + self.search_seconds + self.confirm_seconds

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
    epochs = 0.0 if search_over else expected_epochs(rule, budget.trials, space.epochs, len(searched), completed)
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


def make_plan(
    space: Space,
    rule: Rule,
    cores: int | None = None,
    gpus: float | None = None,
    precision: Precision | None = None,
) -> Plan:
    """Measure, and choose what was not given: precision, `cores` and the share of a GPU for each trial.

    Of as many trials at once as there are cores and memory for, those are taken that train the most images; each is
    measured while the others run beside it. At most `MEASURED` networks are, the others' speeds lie between theirs by
    their arithmetic.
    """
    models = {architecture(model): model for model in space.models()}
    work = {name: flops(model) for name, model in models.items()}
    measured = spread(work)
    total, devices = available_cores(), gpu_count()
    most = min(_largest_batch(space), space.split.train)

    def needs(pool: ProcessPoolExecutor, precision: Precision) -> tuple[int, int]:
        """Bytes of the largest trial, and bytes that were free, each network measured alone."""
        found = []
        for name in measured:
            try:
                found.append(pool.submit(peak_memory, models[name], most, precision, total).result())
            except (
                BrokenProcessPool,
                MemoryError,
                RuntimeError,
            ) as error:  # killed by the kernel; torch raises the last
                why = (str(error).strip().splitlines() or [type(error).__name__])[0]
                got = f"{name} with batches of {most} ({why})"
                raise UsageError(f"model: got {got}, must be one whose training fits into memory") from error
        return max(needed for needed, _ in found), min(free for _, free in found)

    def speed(pool: ProcessPoolExecutor, name: str, each: int, at_once: int) -> Speed:
        job = (models[name], _batch_size(space), precision, each)
        return min(pool.map(probe, *zip(*[job] * at_once, strict=True)), key=lambda found: found.train)

    def fastest(tried: dict[int, Speed], at_once: dict[int, int]) -> int:
        """Of the choices the first, unless a later one trains so many more images."""
        best, *later = tried
        for choice in later:
            if tried[choice].train * at_once[choice] > tried[best].train * at_once[best] * MARGIN:
                best = choice
        return best

    if devices:
        with _processes(1) as pool:
            precision = precision or pool.submit(faster_precision, True).result()
            memory, free = needs(pool, precision)
            room = (free_memory() - RAY_BYTES) // (pool.submit(resident_memory).result() + WORKER_BYTES)
        most_at_once = min(total // (cores or 1), room) // devices
        fit = max(1, min(int(free / (memory * FRAGMENTATION + CONTEXT_BYTES)), most_at_once))
        if gpus:
            choices = [max(1, min(int(1 / gpus + 1e-9), most_at_once))]
        else:
            choices = sorted({fit, *(2**n for n in range(fit.bit_length()))})
        cores_of = {count: cores or max(1, total // (devices * count)) for count in choices}
        with _processes(choices[-1]) as pool:
            tried = {count: speed(pool, measured[0], cores_of[count], count) for count in choices}
            beside = fastest(tried, {count: count for count in choices})
            cores, slots = cores_of[beside], max(1, min(devices * beside, total // cores_of[beside]))
            speeds = {measured[0]: tried[beside]}
            speeds |= {name: speed(pool, name, cores, beside) for name in measured[1:]}
        gpus = gpus or math.floor(1e4 / beside) / 1e4  # so that the sum is at most 1 in what Ray counts
    else:
        gpus, room = 0.0, free_memory() - RAY_BYTES
        workers = max(1, min(total, room // TORCH_BYTES))
        with _processes(workers) as pool:
            found = next(pool.map(faster_precision, [False] * workers))
            precision = precision or found
            memory = needs(pool, precision)[0] + WORKER_BYTES
            if room + RAY_BYTES < RAY_LEAST + memory:
                got, must = (f"{bytes_ / 2**30:.1f} GiB" for bytes_ in (room + RAY_BYTES, RAY_LEAST + memory))
                raise UsageError(f"memory: got {got} free, must be {must} for Ray and one trial; close other programs")
            slots_of = {each: max(1, min(total // each, workers, room // memory)) for each in range(1, total + 1)}
            powers = (2**n for n in range(total.bit_length()))
            choices = [cores] if cores else sorted({*powers, total // slots_of[1]})
            tried = {each: speed(pool, measured[0], each, slots_of[each]) for each in choices}
            cores = fastest(tried, slots_of)
            slots = slots_of[cores]
            speeds = {measured[0]: tried[cores]}
            speeds |= {name: speed(pool, name, cores, slots) for name in measured[1:]}
    device = torch.cuda.get_device_name() if devices else "cpu"
    speeds = between(speeds, work)
    return estimate(Plan(device, precision, speeds, cores, gpus, slots, 0.0, 0.0, 0, memory), space, rule)


@contextmanager
def _processes(count: int) -> Iterator[ProcessPoolExecutor]:
    """So many fresh processes, of which none begins before all are there. Raises UsageError where one is killed."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, context, initializer=ready, initargs=(context.Barrier(count),)) as pool:
        try:
            yield pool
        except BrokenProcessPool as error:
            got = f"{count} processes of which one was killed while speeds were measured"
            raise UsageError(f"memory: got {got}, must be enough; close other programs") from error


def spread(work: dict[str, int]) -> list[str]:
    """The networks to measure, of `MEASURED` at most: the costliest first, the others spread over the rest."""
    ranked = sorted(work, key=lambda name: -work[name])
    return [ranked[round(at)] for at in np.linspace(0, len(ranked) - 1, min(len(ranked), MEASURED))]


def between(speeds: dict[str, Speed], work: dict[str, int]) -> dict[str, Speed]:
    """Every network's speed: as measured, or with a time for an image between those of the next in arithmetic."""
    known = sorted(speeds, key=lambda name: work[name])

    def at(name: str, kind: str) -> float:
        times = [1 / getattr(speeds[other], kind) for other in known]
        return float(1 / np.interp(work[name], [work[other] for other in known], times))

    return {name: speeds.get(name) or Speed(at(name, "train"), at(name, "evaluate")) for name in work}


def measures(plan: Plan, space: Space) -> bool:
    """Whether the plan knows the speed of every network of the space."""
    return all(architecture(model) in plan.speeds for model in space.models())


def _batch_size(space: Space) -> int:
    """The middle one of those that the space chooses from."""
    options = space.rest.options("batch_size")
    if isinstance(options, Choice):
        return sorted(int(option) for option in options.options if isinstance(option, int))[len(options.options) // 2]
    return int(options.low + options.high) // 2


def _largest_batch(space: Space) -> int:
    return int(max(space.rest.greatest("batch_size"), *(arm.batch_size for arm in space.arms.values()), 0))


def estimate(
    plan: Plan, space: Space, rule: Rule, time_budget_s: float | None = None, left: Rest | None = None
) -> Plan:
    """The plan with the time and disk that the study, or what is `left` of it, will take at its speeds."""
    left = left or rest(space, rule)

    def seconds(epochs: float, speeds: list[Speed], trials: int, evaluated: int) -> float:
        passes = [space.split.train / s.train + space.split.validation / s.evaluate for s in speeds]
        clean = [space.split.train / s.evaluate for s in speeds]
        return epochs * fmean(passes) + trials * TRIAL_OVERHEAD_S + evaluated * fmean(clean)

    def run(epochs: int, speeds: list[Speed]) -> float:  # confirm's end with the training images, once
        return seconds(epochs, speeds, 1, 1)

    everything = list(plan.speeds.values())
    search = seconds(left.epochs, everything, left.trials, 0) / plan.slots + WORKER_START_S * (left.epochs > 0)
    runs: dict[str | None, float] = {None: run(space.epochs, everything)}
    runs |= {name: run(arm.epochs, [plan.speeds[architecture(arm.model)]]) for name, arm in space.arms.items()}
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
        confirm_seconds=makespan([runs[name] for name in left.runs], plan.slots) + WORKER_START_S * bool(left.runs),
        disk_bytes=weights * (4 * checkpoints + len(left.runs)) + predictions + LOGS_BYTES * bool(ends),
    )


def makespan(durations: Iterable[float], slots: int) -> float:
    """Seconds until the last of the jobs ends, each started in turn on the first free slot."""
    busy = [0.0] * slots
    for duration in durations:
        heapq.heapreplace(busy, busy[0] + duration)
    return max(busy)
