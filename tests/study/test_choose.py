"""What is measured, and what is chosen by it, on machines that are not here; nothing is measured here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_space import RICH, TWO_NETWORKS, read

from study import choose
from study.choose import MEASURED, RAY_BYTES, RAY_LEAST, WORKER_BYTES, between, make_plan, measures, spread
from study.config import FashionCNN, Model
from study.opening import UsageError
from study.probe import Speed, architecture
from study.speeds import KnownSpeeds

SPACE = read(TWO_NETWORKS)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Where speeds are kept."""
    return tmp_path / "cache" / "speeds.json"


class Inline:
    """In place of the processes that measure."""

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(*arguments))
        return future

    def map(self, function: Callable[..., Any], *arguments: Any) -> Iterator[Any]:
        return map(function, *arguments)


class Machine:
    """One that is not here: what it has, how fast a trial is on so many cores, and what was measured on it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cores: int, gpus: int = 0, free: int = 1 << 40) -> None:
        self.speed_on: Callable[[int], float] = lambda cores: 100.0
        self.bf16_speedup = 1.0
        self.memory, self.resident, self.processes = 1 << 30, 1 << 20, list[int]()
        self.measured, self.batches = list[str](), set[int]()
        for name, value in {
            "available_cores": lambda: cores,
            "gpu_count": lambda: gpus,
            "free_memory": lambda: free,
            "has_bf16": lambda: True,
            "_processes": self._processes,
            "faster_precision": lambda on_gpu: "bf16",
            "peak_memory": lambda model, batch, precision, cores: (self.batches.add(batch), (self.memory, free))[1],
            "resident_memory": lambda: self.resident,
            "probe": self._probe,
        }.items():
            monkeypatch.setattr(choose, name, value)
        monkeypatch.setattr("torch.cuda.get_device_name", lambda: "a GPU")

    @contextmanager
    def _processes(self, count: int) -> Iterator[tuple[Inline, float]]:
        self.processes.append(count)
        yield Inline(), 4.5

    def _probe(self, model: Model, batch_size: int, precision: str, cores: int) -> Speed:
        self.measured.append(architecture(model))
        speed = self.speed_on(cores) * (self.bf16_speedup if precision == "bf16" else 1.0)
        return Speed(speed, 4 * speed)


@pytest.mark.parametrize(
    ("speed_on", "cores"),
    [
        (lambda cores: 100 * cores, 1),  # no gain of more cores a trial
        (lambda cores: 100 * min(cores, 2) ** 1.1, 1),  # too little to be sure of
        (lambda cores: 100 * min(cores, 2) ** 1.5, 2),
        (lambda cores: 100 * cores**1.5, 8),
    ],
)
def test_cores_are_those_that_pass_the_most_images(
    speed_on: Callable[[int], float], cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, cores=8)
    machine.speed_on = speed_on
    found = make_plan(SPACE, "asha")
    assert (found.cores, found.slots, found.gpus, found.precision) == (cores, 8 // cores, 0.0, "bf16")
    assert (found.device, found.slowdown) == ("cpu", 1.0)
    assert {speed.train for speed in found.speeds.values()} == {speed_on(cores)}
    assert found.search_seconds > 0


def test_memory_bounds_how_many_trials_run_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, cores=8, free=RAY_BYTES + 2 * ((1 << 30) + WORKER_BYTES))
    machine.speed_on = lambda cores: 100 * cores**0.5
    found = make_plan(SPACE, "asha")
    assert (found.cores, found.slots) == (4, 2), "two trials fit: they may as well have four cores each"
    assert machine.processes == [5], "and no more processes measure than there is memory for"
    assert make_plan(SPACE, "asha", cores=1).resources.slots == 2
    machine = Machine(monkeypatch, cores=6, free=RAY_BYTES + 2 * ((1 << 30) + WORKER_BYTES))
    machine.speed_on = lambda cores: 100 * cores
    found = make_plan(SPACE, "asha")
    assert (found.cores, found.slots) == (3, 2), "no core is left idle"
    least = RAY_LEAST + (1 << 30) + WORKER_BYTES
    Machine(monkeypatch, cores=8, free=least)
    assert make_plan(SPACE, "asha", cores=1).slots == 1
    Machine(monkeypatch, cores=8, free=least - 1)
    with pytest.raises(UsageError, match=r"^memory: got 1\.7 GiB free, must be 1\.8 GiB for Ray and one trial"):
        make_plan(SPACE, "asha", cores=1)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate 9 TB\nat"), BrokenProcessPool("gone")])
def test_a_network_that_does_not_fit_into_memory_is_named(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, cores=2)

    def peak_memory(model: Model, batch: int, precision: str, cores: int) -> tuple[int, int]:
        raise error

    monkeypatch.setattr(choose, "peak_memory", peak_memory)
    with pytest.raises(
        UsageError, match=r"^model: got resnet 1 4 with batches of 128 \(.+\), must be one whose .+ memory$"
    ):
        make_plan(SPACE, "asha")


def test_what_was_given_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, cores=8)
    found = make_plan(SPACE, "asha", cores=3, precision="fp32")
    assert (found.cores, found.slots, found.precision) == (3, 2, "fp32")


def test_what_is_measured_is_told_and_takes_part_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, cores=2)
    told: list[str] = []
    found = make_plan(SPACE, "asha", tell=told.append)
    assert told == [
        "  resnet 1 4, 2 at a time, 1 core each: 100 images/s",
        "  resnet 1 4, 1 at a time, 2 cores: 100 images/s",
        "  fashion_cnn 4 16, 2 at a time, 1 core each: 100 images/s",
    ]
    assert found.import_seconds == 4.5
    assert 0 < found.measure_seconds == found.stages()["measuring"] < found.seconds


def test_a_study_begun_in_bf16_says_what_it_costs_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, cores=2)
    machine.bf16_speedup = 1 / 8
    monkeypatch.setattr(choose, "has_bf16", lambda: False)
    found = make_plan(SPACE, "asha", precision="bf16")
    assert (found.precision, found.slowdown) == ("bf16", 8)
    assert machine.measured == ["resnet 1 4"] * 3 + ["fashion_cnn 4 16"] * 2 + ["resnet 1 4"] * 2, (
        "one network tells it"
    )
    assert make_plan(SPACE, "asha", precision="fp32").slowdown == 1


def test_what_bf16_costs_is_no_matter_of_what_else_runs(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, cores=2)
    machine.bf16_speedup = 1 / 8
    monkeypatch.setattr(choose, "has_bf16", lambda: False)
    make_plan(SPACE, "asha", precision="bf16", known=KnownSpeeds(kept))
    machine.speed_on = lambda cores: 25.0
    assert make_plan(SPACE, "asha", precision="bf16", known=KnownSpeeds(kept)).slowdown == 8


def test_memory_is_measured_at_the_largest_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, cores=2)
    make_plan(SPACE, "asha")
    assert machine.batches == {128}
    larger = replace(SPACE.arms["other"], batch_size=700)
    make_plan(replace(SPACE, arms={**SPACE.arms, "large": larger}), "asha")
    assert machine.batches == {128, 700}
    make_plan(read(RICH.replace("preview: {train: 100}", "split: {train: 200}\npreview: {}")), "asha")
    assert machine.batches == {128, 700, 200}, "of up to 256, but there are 200 images"


@pytest.mark.parametrize(
    ("gpus", "memory", "share", "slots"),
    [
        (1, 10 << 30, 0.2, 5),  # 13.6 of 80 GiB each
        (1, 70 << 30, 1.0, 1),
        (1, 1 << 20, 0.0625, 16),  # as many as there are cores
        (2, 10 << 30, 0.2, 10),
    ],
)
def test_a_gpu_is_shared_by_as_many_as_fit_into_its_memory(
    gpus: int, memory: int, share: float, slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, cores=16, gpus=gpus, free=80 << 30)
    machine.memory = memory
    found = make_plan(SPACE, "asha")
    assert (found.gpus, found.slots, found.cores) == (share, slots, 16 // slots)
    assert (found.device, found.memory_bytes) == ("a GPU", memory)
    assert machine.processes == [1, slots // gpus], "speed is measured while all that share a GPU are busy"


def test_a_gpu_is_shared_by_no_more_than_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, cores=16, gpus=1)
    machine.speed_on = lambda cores: 100 * min(1, cores / 8)  # two keep it busy, with 8 of 16 cores each
    found = make_plan(SPACE, "asha")
    assert (found.gpus, found.slots, found.cores) == (0.5, 2, 8)
    found = make_plan(SPACE, "asha", gpus=0.25)
    assert (found.gpus, found.slots, found.cores) == (0.25, 4, 4), "what was given is kept"


def test_memory_of_the_machine_bounds_how_many_share_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, cores=16, gpus=2, free=20 << 30)
    machine.memory, machine.resident = 1 << 20, 4 << 30
    assert make_plan(SPACE, "asha").slots == 4, "of 18 GiB beside Ray's"
    assert make_plan(SPACE, "asha", gpus=0.1).slots == 4


def test_no_more_than_four_networks_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, cores=2)
    space = read(RICH.replace("[[8], [8, 16, 32]]", "[[8], [16], [24], [32], [8, 16, 32]]"))
    found = make_plan(space, "asha")
    assert len(found.speeds) == 12
    assert len(set(machine.measured)) == MEASURED == 4
    assert measures(found, space)
    assert not measures(make_plan(SPACE, "asha"), space)


def test_the_costliest_and_the_cheapest_are_among_the_measured() -> None:
    work = {f"n{number}": number**2 for number in range(20)}
    found = spread(work)
    assert (found[0], found[-1], len(set(found))) == ("n19", "n0", 4)
    assert spread({"a": 1, "b": 3, "c": 2}) == ["b", "c", "a"]


def test_other_speeds_lie_between_by_the_time_of_an_image() -> None:
    work = {"small": 10, "middle": 20, "large": 30, "equal": 30}
    speeds = between({"small": Speed(100, 200), "large": Speed(50, 40)}, work)
    assert list(speeds) == list(work)
    assert (speeds["middle"].train, speeds["middle"].evaluate) == pytest.approx((200 / 3, 200 / 3))
    assert speeds["equal"] == speeds["large"]


# What is known from an earlier study


def test_what_was_measured_before_is_recalled_and_one_network_is_measured_again(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, cores=2)
    first = make_plan(SPACE, "asha", known=KnownSpeeds(kept))
    assert machine.measured == ["resnet 1 4"] * 3 + ["fashion_cnn 4 16"] * 2
    monkeypatch.setattr(choose, "faster_precision", None)  # nothing asks for it
    machine.measured.clear()
    machine.speed_on = lambda cores: 25.0  # beside another program
    second = make_plan(SPACE, "asha", known=KnownSpeeds(kept))
    assert machine.measured == ["resnet 1 4"] * 2, "on both cores, as trials run"
    assert (second.precision, second.cores, second.slots) == (first.precision, first.cores, first.slots)
    assert second.speeds == {name: Speed(25, 100) for name in first.speeds}
    machine.speed_on = lambda cores: 100.0
    assert make_plan(SPACE, "asha", known=KnownSpeeds(kept)).speeds == first.speeds, "the other program has ended"


def test_what_was_measured_now_does_not_follow_what_was_known(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, cores=2)
    make_plan(replace(SPACE, arms={}), "asha", known=KnownSpeeds(kept))  # knows the CNN
    machine.speed_on = lambda cores: 50.0
    machine.measured.clear()
    found = make_plan(SPACE, "asha", known=KnownSpeeds(kept))
    assert machine.measured == ["resnet 1 4"] * 3 + ["fashion_cnn 4 16"] * 2
    assert found.speeds == {"fashion_cnn 4 16": Speed(50, 200), "resnet 1 4": Speed(50, 200)}


def test_a_study_that_measures_twice_measures_no_network_twice(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine, known = Machine(monkeypatch, cores=1), KnownSpeeds(kept)
    make_plan(SPACE, "asha", known=known)
    wider = replace(SPACE, arms=SPACE.arms | {"wide": replace(SPACE.arms["longer"], model=FashionCNN())})
    make_plan(wider, "asha", known=known)
    assert sorted(machine.measured) == ["fashion_cnn 32-64-128 256-128", "fashion_cnn 4 16", "resnet 1 4"]


@pytest.mark.parametrize("given", [{"cores": 2}, {"precision": "fp32"}])
def test_what_was_measured_otherwise_is_not_recalled(
    given: dict[str, Any], kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, cores=2)
    make_plan(SPACE, "asha", cores=1, known=KnownSpeeds(kept))
    machine.measured.clear()
    make_plan(SPACE, "asha", **{"cores": 1} | given, known=KnownSpeeds(kept))
    assert set(machine.measured) == {"fashion_cnn 4 16", "resnet 1 4"}
