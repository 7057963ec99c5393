"""What a study will cost: precision, cores or GPU share, time and disk, from a few measured training steps."""

from __future__ import annotations

import heapq
import math
import multiprocessing
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from study.execution import Resources
from study.probe import Speed, architecture, faster_precision, flops, parameters_of, probe, ready
from study.provenance import cores as available_cores
from study.search import Rule, expected_epochs
from study.space import Choice, Space
from study.trainer import Precision

# Measured on two cores: starting a worker, importing torch, building the network, the last checkpoint.
TRIAL_OVERHEAD_S = 6.0
STUDY_OVERHEAD_S = 15.0
# One more core per trial must beat one more trial at a time by this much, for measuring is noisy.
MARGIN = 1.15
# Room beside what a trial's tensors need on a GPU: the CUDA context and the allocator's fragments.
CONTEXT_BYTES, FRAGMENTATION = 600 << 20, 1.3


@dataclass(frozen=True)
class Plan:
    """How the trials of a study run, and what that is expected to cost."""

    device: str
    cores: int  # of one trial
    gpus: float  # of one trial
    slots: int  # trials at a time
    precision: Precision
    speeds: dict[str, Speed]  # by what `architecture` says of a model
    search_seconds: float
    confirm_seconds: float
    disk_bytes: int

    @property
    def seconds(self) -> float:
        return STUDY_OVERHEAD_S + self.search_seconds + self.confirm_seconds

    @property
    def resources(self) -> Resources:
        return Resources(self.cores, self.gpus, self.precision)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(values: dict[str, Any]) -> Plan:
        return Plan(**{**values, "speeds": {name: Speed(**speed) for name, speed in values["speeds"].items()}})


def make_plan(space: Space, rule: Rule, cores: int | None = None, gpus: float | None = None) -> Plan:
    """Measure, and choose what was not given: precision, `cores` and the share of a GPU for each trial.

    Without a GPU as many trials train at once as there are cores for, each measured while the others run beside it.
    """
    models = {architecture(model): model for model in space.models()}
    costliest = max(models, key=lambda name: flops(models[name]))
    total, devices = available_cores(), torch.cuda.device_count()
    context = multiprocessing.get_context("spawn")
    workers = 1 if devices else total
    with ProcessPoolExecutor(workers, context, initializer=ready, initargs=(context.Barrier(workers),)) as pool:
        precision = next(pool.map(faster_precision, [bool(devices)] * workers))

        def measure(name: str, each: int, at_once: int) -> Speed:
            found = pool.map(probe, *zip(*[(models[name], _batch_size(space), precision, each)] * at_once, strict=True))
            return min(found, key=lambda speed: speed.train)

        if devices:
            measured = measure(costliest, total, 1)
            needed = measured.memory * FRAGMENTATION + CONTEXT_BYTES
            # Flooring keeps the shares' sum at most 1 in the ten-thousandths that Ray counts.
            gpus = gpus or math.floor(1e4 / max(1, min(int(measured.free / needed), total // devices))) / 1e4
            slots = int(devices // gpus) if gpus >= 1 else devices * int(1 / gpus + 1e-9)
            cores = cores or max(1, total // max(slots, 1))
            slots = max(1, min(slots, total // cores))
            speeds = {name: measure(name, cores, 1) for name in models}
        else:
            gpus = 0.0
            choices = [cores] if cores else [2**n for n in range(total.bit_length())]
            tried = {each: measure(costliest, each, total // each) for each in choices}
            cores = choices[0]
            for each in choices[1:]:
                if tried[each].train * (total // each) > tried[cores].train * (total // cores) * MARGIN:
                    cores = each
            slots = total // cores
            speeds = {costliest: tried[cores]}
            speeds |= {name: measure(name, cores, slots) for name in models if name != costliest}
    device = torch.cuda.get_device_name() if devices else "cpu"
    return estimate(Plan(device, cores, gpus, slots, precision, speeds, 0.0, 0.0, 0), space, rule)


def _batch_size(space: Space) -> int:
    """The middle one of those that the space chooses from."""
    options = space.rest.options("batch_size")
    if isinstance(options, Choice):
        return sorted(int(option) for option in options.options if isinstance(option, int))[len(options.options) // 2]
    return int(options.low + options.high) // 2


def estimate(plan: Plan, space: Space, rule: Rule, time_budget_s: float | None = None) -> Plan:
    """The plan with the time and disk that the space will take at its speeds."""

    def seconds(epochs: float, speeds: list[Speed]) -> float:
        passes = [space.split.train / s.train + space.split.validation / s.evaluate for s in speeds]
        clean = [space.split.train / s.evaluate for s in speeds]
        return epochs * sum(passes) / len(passes) + sum(clean) / len(clean) + TRIAL_OVERHEAD_S

    everything = list(plan.speeds.values())
    trials = space.budget.trials
    search = trials * seconds(expected_epochs(rule, trials, space.epochs) / trials, everything) / plan.slots
    runs = [seconds(space.epochs, everything)] * space.budget.candidates
    runs += [seconds(config.epochs, [plan.speeds[architecture(config.model)]]) for config in space.arms.values()]
    weights = [4 * parameters_of(model) for model in space.models()]
    confirmed = len(runs) * space.budget.seeds
    # A checkpoint holds weights, best weights and up to two optimizer moments; the one-epoch rule keeps everyone's.
    checkpoints = trials if rule == "one-epoch" else plan.slots
    disk = max(weights) * (4 * checkpoints + confirmed) + confirmed * space.split.test * 48
    return replace(
        plan,
        search_seconds=search if time_budget_s is None else min(search, time_budget_s),
        confirm_seconds=makespan(runs * space.budget.seeds, plan.slots),
        disk_bytes=disk,
    )


def makespan(durations: Iterable[float], slots: int) -> float:
    """Seconds until the last of the jobs ends, each started in turn on the first free slot."""
    busy = [0.0] * slots
    for duration in durations:
        heapq.heapreplace(busy, busy[0] + duration)
    return max(busy)
