"""Choose precision, cores and the share of a GPU for the trials of a study, by measuring a few training steps."""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch

from study.opening import UsageError
from study.plan import Plan, estimate
from study.probe import (
    Speed,
    activations,
    architecture,
    faster_precision,
    flops,
    peak_memory,
    probe,
    ready,
    resident_memory,
)
from study.provenance import cores as available_cores
from study.provenance import free_memory, gpu_count, has_bf16
from study.schedulers import Rule
from study.space import Choice, Space
from study.speeds import Key, KnownSpeeds
from study.trainer import Precision

# More cores per trial, or more trials on a GPU, must gain this much, for measuring is noisy.
MARGIN = 1.15
# Room beside what a trial's tensors need on a GPU: the CUDA context and the allocator's fragments.
CONTEXT_BYTES, FRAGMENTATION = 600 << 20, 1.3
# Of the machine's: what Ray's own processes take, a process with torch, and what a worker has beside it.
RAY_BYTES, TORCH_BYTES, WORKER_BYTES = 2 << 30, 512 << 20, 256 << 20
RAY_LEAST = 512 << 20  # without which none is even tried
MEASURED = 4  # networks at most, so that measuring ends


def make_plan(
    space: Space,
    rule: Rule,
    cores: int | None = None,
    gpus: float | None = None,
    precision: Precision | None = None,
    tell: Callable[[str], None] = lambda line: None,
    known: KnownSpeeds | None = None,
) -> Plan:
    """Measure, and return a plan with what was not given: precision, `cores` and the share of a GPU for each trial.

    `tell` is told each figure as it is measured. `known` are speeds that were measured on this machine before: then
    one network is measured again, and the others' known speeds follow it in proportion. At most `MEASURED` networks
    are measured; the others' speeds lie between theirs by their arithmetic. Raises UsageError where the largest network
    does not fit into memory.
    """
    started = time.perf_counter()
    meter = _Meter(space, tell, known or KnownSpeeds(None))
    plan = _choose_for_gpu(meter, cores, gpus, precision) if gpu_count() else _choose_for_cpu(meter, cores, precision)
    meter.known.write()
    return estimate(replace(plan, measure_seconds=time.perf_counter() - started), space, rule)


def _choose_for_gpu(meter: _Meter, cores: int | None, gpus: float | None, precision: Precision | None) -> Plan:
    total, devices = available_cores(), gpu_count()
    with _processes(1) as (pool, import_seconds):
        precision = precision or meter.precision(pool, True)
        memory, free = meter.memory(pool, precision, total)
        room = (free_memory() - RAY_BYTES) // (pool.submit(resident_memory).result() + WORKER_BYTES)
    most_at_once = min(total // (cores or 1), room) // devices
    fit = max(1, min(int(free / (memory * FRAGMENTATION + CONTEXT_BYTES)), most_at_once))
    if gpus:
        choices = [max(1, min(int(1 / gpus + 1e-9), most_at_once))]
    else:
        choices = sorted({fit, *(2**n for n in range(fit.bit_length()))})
    cores_of = {count: cores or max(1, total // (devices * count)) for count in choices}
    with _processes(choices[-1]) as (pool, _):
        tried = {count: meter.speed(pool, meter.costliest, precision, cores_of[count], count) for count in choices}
        beside = _fastest(tried, {count: count for count in choices})
        cores = cores_of[beside]
        speeds = meter.speeds(pool, precision, cores, beside)
    return Plan(
        device=torch.cuda.get_device_name(),
        precision=precision,
        speeds=speeds,
        cores=cores,
        gpus=gpus or math.floor(1e4 / beside) / 1e4,  # so that the sum is at most 1 in what Ray counts
        slots=max(1, min(devices * beside, total // cores)),
        memory_bytes=memory,
        import_seconds=import_seconds,
    )


def _choose_for_cpu(meter: _Meter, cores: int | None, precision: Precision | None) -> Plan:
    total, room = available_cores(), free_memory() - RAY_BYTES
    workers = max(1, min(total, room // TORCH_BYTES))
    with _processes(workers) as (pool, import_seconds):
        precision = precision or meter.precision(pool, False)
        memory = meter.memory(pool, precision, total)[0] + WORKER_BYTES
        if room + RAY_BYTES < RAY_LEAST + memory:
            got, must = (f"{size / 2**30:.1f} GiB" for size in (room + RAY_BYTES, RAY_LEAST + memory))
            raise UsageError(f"memory: got {got} free, must be {must} for Ray and one trial; close other programs")
        slots_of = {each: max(1, min(total // each, workers, room // memory)) for each in range(1, total + 1)}
        powers = (2**n for n in range(total.bit_length()))
        choices = [cores] if cores else sorted({*powers, total // slots_of[1]})
        tried = {each: meter.speed(pool, meter.costliest, precision, each, slots_of[each]) for each in choices}
        cores = _fastest(tried, slots_of)
        speeds = meter.speeds(pool, precision, cores, slots_of[cores])
        slowdown = 1.0
        if precision == "bf16" and not has_bf16():  # of a study that was begun elsewhere
            fp32 = meter.speed(pool, meter.costliest, "fp32", cores, slots_of[cores])
            slowdown = max(1.0, fp32.train / tried[cores].train)
    return Plan(
        device="cpu",
        precision=precision,
        speeds=speeds,
        cores=cores,
        gpus=0.0,
        slots=slots_of[cores],
        memory_bytes=memory,
        slowdown=slowdown,
        import_seconds=import_seconds,
    )


def _fastest(tried: dict[int, Speed], at_once: dict[int, int]) -> int:
    """Return the first of the choices, unless a later one trains so many more images."""
    best, *later = tried
    for choice in later:
        if tried[choice].train * at_once[choice] > tried[best].train * at_once[best] * MARGIN:
            best = choice
    return best


class _Meter:
    """Measures the networks of a space in fresh processes; recalls what was measured on this machine before."""

    def __init__(self, space: Space, tell: Callable[[str], None], known: KnownSpeeds) -> None:
        self.tell, self.known = tell, known
        self.models = {architecture(model): model for model in space.models()}
        self.work = {name: flops(model) for name, model in self.models.items()}
        self.networks = spread(self.work)
        self.costliest = self.networks[0]
        self.largest = max(self.models, key=lambda name: activations(self.models[name]))
        self.batch_size = _batch_size(space)
        self.largest_batch = min(_largest_batch(space), space.split.train)

    def precision(self, pool: ProcessPoolExecutor, on_gpu: bool) -> Precision:
        return self.known.precision(lambda: pool.submit(faster_precision, on_gpu).result())

    def memory(self, pool: ProcessPoolExecutor, precision: Precision, cores: int) -> tuple[int, int]:
        """Return the bytes that the largest trial takes, and of a GPU the bytes that are free. Raises UsageError."""
        name = self.largest
        try:
            return pool.submit(peak_memory, self.models[name], self.largest_batch, precision, cores).result()
        except (BrokenProcessPool, MemoryError, RuntimeError) as error:  # killed by the kernel; torch raises the last
            why = (str(error).strip().splitlines() or [type(error).__name__])[0]
            got = f"{name} with batches of {self.largest_batch} ({why})"
            raise UsageError(f"model: got {got}, must be one whose training fits into memory") from error

    def speed(self, pool: ProcessPoolExecutor, name: str, precision: Precision, cores: int, at_once: int) -> Speed:
        """Return the speed of the slowest of so many trials at a time."""
        return self.known.speed(
            self._key(name, precision, cores, at_once),
            lambda: self._measured(pool, name, precision, cores, at_once),
        )

    def _key(self, name: str, precision: Precision, cores: int, at_once: int) -> Key:
        return name, self.batch_size, precision, cores, at_once

    def speeds(self, pool: ProcessPoolExecutor, precision: Precision, cores: int, at_once: int) -> dict[str, Speed]:
        """Return the speed of every network of the space, as fast as the machine is now."""
        found = {name: self.speed(pool, name, precision, cores, at_once) for name in self.networks}
        if recalled := [n for n in found if self.known.recalled(self._key(n, precision, cores, at_once))]:
            now = self._measured(pool, recalled[0], precision, cores, at_once)
            factor = now.train / found[recalled[0]].train
            found |= {n: Speed(found[n].train * factor, found[n].evaluate * factor) for n in recalled}
        return between(found, self.work)

    def _measured(self, pool: ProcessPoolExecutor, name: str, precision: Precision, cores: int, at_once: int) -> Speed:
        job = (self.models[name], self.batch_size, precision, cores)
        found = min(pool.map(probe, *zip(*[job] * at_once, strict=True)), key=lambda speed: speed.train)
        each = f", {cores} core{'s' * (cores > 1)} each" if at_once > 1 else f", {cores} core{'s' * (cores > 1)}"
        self.tell(f"  {name}, {at_once} at a time{each}: {found.train:,.0f} images/s")
        return found


@contextmanager
def _processes(count: int) -> Iterator[tuple[ProcessPoolExecutor, float]]:
    """Start so many fresh processes; give them, all ready, and the seconds that took.

    Raises UsageError where one is killed, or where they cannot wait for each other.
    """
    context, started = multiprocessing.get_context("spawn"), time.perf_counter()
    try:
        barrier = context.Barrier(count)
    except OSError as error:  # Python's semaphores are files
        raise UsageError(f"/dev/shm: got {error.strerror}, must be a folder to write to") from error
    with ProcessPoolExecutor(count, context, initializer=ready, initargs=(barrier,)) as pool:
        try:
            list(pool.map(abs, range(count)))  # the executor starts a process for each job that waits
            yield pool, time.perf_counter() - started
        except BrokenProcessPool as error:
            got = f"{count} processes of which one was killed while speeds were measured"
            raise UsageError(f"memory: got {got}, must be enough; close other programs") from error


def spread(work: dict[str, int]) -> list[str]:
    """Return the networks to measure, `MEASURED` at most: the costliest first, the others spread over the rest."""
    ranked = sorted(work, key=lambda name: -work[name])
    return [ranked[round(at)] for at in np.linspace(0, len(ranked) - 1, min(len(ranked), MEASURED))]


def between(speeds: dict[str, Speed], work: dict[str, int]) -> dict[str, Speed]:
    """Return every network's speed, as measured, or with seconds per image interpolated by arithmetic."""
    known = sorted(speeds, key=lambda name: work[name])

    def at(name: str, kind: str) -> float:
        times = [1 / getattr(speeds[other], kind) for other in known]
        return float(1 / np.interp(work[name], [work[other] for other in known], times))

    return {name: speeds.get(name) or Speed(at(name, "train"), at(name, "evaluate")) for name in work}


def measures(plan: Plan, space: Space) -> bool:
    """Return whether the plan knows the speed of every network of the space."""
    return all(architecture(model) in plan.speeds for model in space.models())


def _batch_size(space: Space) -> int:
    """The middle one of those that the space chooses from."""
    options = space.rest.options("batch_size")
    if isinstance(options, Choice):
        return sorted(int(option) for option in options.options if isinstance(option, int))[len(options.options) // 2]
    return int(options.low + options.high) // 2


def _largest_batch(space: Space) -> int:
    return int(max(space.rest.greatest("batch_size"), *(arm.batch_size for arm in space.arms.values()), 0))
