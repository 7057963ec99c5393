"""What a study will cost: precision, cores or GPU share, time and disk, from a few measured training steps."""

from __future__ import annotations

import heapq
import multiprocessing
import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from study.config import Model
from study.execution import Resources
from study.probe import Speed, architecture, faster_precision, flops, parameters_of, probe
from study.search import Rule, expected_epochs
from study.space import Space
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


def make_plan(
    space: Space, rule: Rule, batch_size: int = 128, cores: int | None = None, gpus: float | None = None
) -> Plan:
    """Measure, and choose what was not given: precision, `cores` and the share of a GPU for each trial.

    Without a GPU as many trials train at once as there are cores for, each measured while the others run beside it.
    """
    models = {architecture(model): model for model in space.models()}
    costliest = max(models.values(), key=flops)
    total = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(total, mp_context=multiprocessing.get_context("spawn")) as pool:

        def measure(model: Model, precision: Precision, each: int, at_once: int) -> Speed:
            found = list(pool.map(probe, *zip(*[(model, batch_size, precision, each)] * at_once, strict=True)))
            return min(found, key=lambda speed: speed.train)

        if torch.cuda.is_available():
            precision = pool.submit(faster_precision).result()
            available = torch.cuda.get_device_properties(0).total_memory
            needed = measure(costliest, precision, total, 1).memory * FRAGMENTATION + CONTEXT_BYTES
            gpus = gpus or 1 / max(1, min(int(available / needed), total))
            slots = max(1, int(torch.cuda.device_count() / gpus + 1e-9))
            cores = cores or max(1, total // slots)
            slots = min(slots, max(1, total // cores))
        else:
            gpus = 0.0
            choices = [cores] if cores else [2**n for n in range(total.bit_length()) if 2**n <= total]
            precision = pool.submit(faster_precision).result()
            cores, best = choices[0], 0.0
            for each in choices:
                together = measure(costliest, precision, each, total // each).train * (total // each)
                if together > best * MARGIN:
                    cores, best = each, together
            slots = total // cores
        final = {name: measure(model, precision, cores, min(slots, total)) for name, model in models.items()}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return _estimate(Plan(device, cores, gpus, slots, precision, final, 0.0, 0.0, 0), space, rule)


def _estimate(plan: Plan, space: Space, rule: Rule) -> Plan:
    def seconds(epochs: float, speeds: list[Speed]) -> float:
        passes = [space.split.train / s.train + space.split.validation / s.evaluate for s in speeds]
        clean = [space.split.train / s.evaluate for s in speeds]
        return epochs * sum(passes) / len(passes) + sum(clean) / len(clean) + TRIAL_OVERHEAD_S

    everything = list(plan.speeds.values())
    trials = space.budget.trials
    search = trials * seconds(expected_epochs(rule, trials, space.epochs) / trials, everything) if trials else 0.0
    runs = [seconds(space.epochs, everything)] * space.budget.candidates
    runs += [seconds(config.epochs, [plan.speeds[architecture(config.model)]]) for config in space.arms.values()]
    weights = [4 * parameters_of(model) for model in space.models()]
    confirmed = len(runs) * space.budget.seeds
    # A live trial's checkpoint holds weights, best weights and up to two optimizer moments.
    disk = max(weights) * (4 * plan.slots + confirmed) + confirmed * space.split.test * 48
    return replace(
        plan,
        search_seconds=search / plan.slots,
        confirm_seconds=makespan(runs * space.budget.seeds, plan.slots),
        disk_bytes=disk,
    )


def makespan(durations: Iterable[float], slots: int) -> float:
    """Seconds until the last of the jobs ends, each started in turn on the first free slot."""
    busy = [0.0] * slots
    for duration in durations:
        heapq.heapreplace(busy, busy[0] + duration)
    return max(busy)
