"""What a study is expected to cost, against numbers computed by hand; nothing is measured here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from made_space import RICH, read

from study import plan
from study.config import MODELS, FashionCNN, Model, ResNet
from study.opening import UsageError
from study.plan import (
    LOGS_BYTES,
    RAY_BYTES,
    RAY_LEAST,
    WORKER_BYTES,
    Plan,
    between,
    estimate,
    make_plan,
    makespan,
    measures,
    rest,
    spread,
)
from study.probe import Speed, architecture, flops, parameters_of
from study.records import TrialRecord
from study.search import expected_epochs

# fashion_cnn: convolution 9·4 + 4, batch norm 8, linear 784·16 + 16, linear 16·10 + 10: 12,778 parameters
SPACE = read("""
model: {fashion_cnn: {channels: [4], hidden: [16]}}
optimizer: {adam: {lr: 0.001}}
epochs: 3
arms:
  longer: {epochs: 5}
  other: {model: {resnet: {blocks: [1], widths: [4], stem: 4}}, epochs: 2}
split: {train: 1000, validation: 200}
budget: {trials: 4, candidates: 1, seeds: 2}
preview: {}
""")
# An epoch of the CNN takes 1000/100 + 200/400 = 10.5 s, of the ResNet 1000/50 + 200/200 = 21 s; evaluating the
# training images takes them 2.5 s and 5 s at confirm's end, every trial has a quarter of a second beside,
# every stage 9 s at its start.
SPEEDS = {"fashion_cnn 4 16": Speed(train=100, evaluate=400), "resnet 1 4": Speed(train=50, evaluate=200)}
PLAN = Plan("cpu", cores=1, gpus=0.0, slots=2, precision="fp32", speeds=SPEEDS, search_seconds=0.0,
            confirm_seconds=0.0, disk_bytes=0)  # fmt: skip


@pytest.mark.parametrize(
    ("durations", "slots", "seconds"),
    [
        ([], 2, 0),
        ([3, 2, 2, 1], 1, 8),
        ([3, 2, 2, 1], 2, 4),  # 3 and 1, beside 2 and 2
        ([1, 1, 4], 2, 5),  # in turn: the long one starts last
        ([4, 1, 1], 2, 4),
        ([3, 2, 2, 1], 9, 3),
    ],
)
def test_makespan(durations: list[float], slots: int, seconds: float) -> None:
    assert makespan(durations, slots) == seconds


def test_every_trial_to_the_end() -> None:
    found = estimate(PLAN, SPACE, "none")
    # A searched trial: 3 epochs of (10.5 + 21) / 2, a quarter beside.
    assert found.search_seconds == pytest.approx(9 + 4 * (3 * 15.75 + 0.25) / 2)
    # For each seed the candidate 51.25, `longer` 5·10.5 + 2.5 + 0.25 = 55.25, `other` 2·21 + 5 + 0.25 = 47.25, on two
    # slots: 51.25 + 47.25 + 55.25 beside 55.25 + 51.25 + 47.25.
    assert found.confirm_seconds == pytest.approx(9 + 153.75)
    assert found.seconds == pytest.approx(15 + 104 + 162.75)
    # Two checkpoints of four times the larger network's weights and two being written, six best ones, six predictions
    # of 10,000 images.
    assert found.disk_bytes == 4 * 12_778 * (4 * 4 + 6) + 6 * 10_000 * 48 + LOGS_BYTES
    assert replace(found, search_seconds=0.0, confirm_seconds=0.0, disk_bytes=0) == PLAN


def test_the_one_epoch_rule_trains_three_of_four_on_and_keeps_every_checkpoint() -> None:
    found = estimate(PLAN, SPACE, "one-epoch")
    assert found.search_seconds == pytest.approx(9 + ((4 + 3 * 2) * 15.75 + 4 * 0.25) / 2)
    assert found.confirm_seconds == pytest.approx(162.75)
    assert found.disk_bytes == 4 * 12_778 * (6 * 4 + 6) + 6 * 10_000 * 48 + LOGS_BYTES


def test_asha_costs_less_than_every_trial_to_the_end_and_more_than_an_epoch_each() -> None:
    found = estimate(PLAN, SPACE, "asha")
    assert 9 + 4 * (15.75 + 0.25) / 2 < found.search_seconds < 104


@pytest.mark.parametrize(("budget", "seconds"), [(100.0, 100), (200.0, 104)])
def test_a_time_budget_bounds_the_search_alone(budget: float, seconds: float) -> None:
    found = estimate(PLAN, SPACE, "none", budget)
    assert found.search_seconds == pytest.approx(seconds)
    assert found.confirm_seconds == pytest.approx(162.75)


def test_a_plan_is_read_as_it_was_written() -> None:
    found = estimate(PLAN, SPACE, "none")
    assert Plan.from_json(found.to_json()) == found


def test_a_plan_of_another_version_is_read_and_measured_anew_where_it_must_be() -> None:
    older = {**PLAN.to_json(), "speeds": {k: {**vars(v), "memory": 0, "free": 0} for k, v in SPEEDS.items()}}
    del older["memory_bytes"]
    assert Plan.from_json(older) == PLAN
    assert measures(PLAN, SPACE)
    assert not measures(PLAN, read(RICH))


def test_what_many_trials_take_is_estimated_from_fewer() -> None:
    assert expected_epochs("asha", 100_000, 27) / 100_000 == expected_epochs("asha", 300, 27) / 300


# What is left of a study


def recorded(stage: Any, arm: str | None, status: Any = "completed", reason: str | None = None) -> TrialRecord:
    return TrialRecord("x0001", stage, SPACE.arms["longer"], 0, arm, status=status, stop_reason=reason)


def test_an_interrupted_search_leaves_its_share_and_every_run_of_confirm() -> None:
    begun = [recorded("search", "longer"), recorded("search", "other", "failed"), recorded("search", None, "running")]
    left = rest(SPACE, "none", begun)
    assert (left.epochs, left.trials) == (6, 2)
    assert left.runs == (None, "longer", "other") * 2
    found = estimate(PLAN, SPACE, "none", None, left)
    assert found.search_seconds == pytest.approx(9 + (104 - 9) / 2)
    assert found.confirm_seconds == pytest.approx(162.75)


def test_an_interrupted_confirm_leaves_the_runs_that_have_not_ended() -> None:
    searched = [recorded("search", None)] * 4
    confirmed = [
        recorded("confirm", "candidate-1"),
        recorded("confirm", "candidate-2", "stopped", "superseded"),
        recorded("confirm", "other"),
        recorded("confirm", "longer", "running"),
    ]
    left = rest(SPACE, "none", [*searched, *confirmed], True, searched[:1])
    assert (left.epochs, left.trials, left.runs) == (0, 0, ("longer", None, "longer", "other"))
    found = estimate(PLAN, SPACE, "none", None, left)
    assert (found.search_seconds, found.confirm_seconds) == (0, 9 + 51.25 + 55.25)  # beside 55.25 and 47.25
    assert found.disk_bytes == 4 * 12_778 * (4 * 4 + 4) + 4 * 10_000 * 48 + LOGS_BYTES


def test_a_finished_study_needs_nothing_and_a_search_whose_time_is_over_no_more() -> None:
    assert rest(SPACE, "asha", [recorded("search", None)], search_over=True).trials == 0
    names = ["candidate-1", "longer", "other"] * 2
    everything = [recorded("search", None)] * 4 + [recorded("confirm", name) for name in names]
    found = estimate(PLAN, SPACE, "asha", None, rest(SPACE, "asha", everything, True, everything[:1]))
    assert (found.search_seconds, found.confirm_seconds, found.disk_bytes) == (0, 0, 0)


def test_what_was_confirmed_of_a_candidate_that_is_none_any_more_does_not_count() -> None:
    names = ["candidate-1", "longer", "other"] * 2
    everything = [recorded("search", None)] * 4 + [recorded("confirm", name) for name in names]
    better = replace(everything[0], config=replace(SPACE.arms["longer"], label_smoothing=0.1))
    assert rest(SPACE, "asha", everything, True, [better]).runs == (None, None)
    assert rest(SPACE, "asha", everything, False, [better]).runs == (None, None), "it may yet be another"


def test_no_runs_are_left_of_candidates_that_were_not_found() -> None:
    names = ["longer", "other"] * 2
    everything = [recorded("search", None)] * 4 + [recorded("confirm", name) for name in names]
    assert rest(SPACE, "asha", everything, True).runs == ()


@pytest.mark.parametrize("rule", ["asha", "one-epoch", "none"])
def test_more_trials_on_record_than_there_are_to_be_leave_nothing(rule: Any) -> None:
    left = rest(SPACE, rule, [recorded("search", None)] * 9)
    assert (left.epochs, left.trials) == (0, 0)


def test_after_one_epoch_each_only_the_best_three_are_left() -> None:
    left = rest(SPACE, "one-epoch", [recorded("search", None, "stopped")] * 3 + [recorded("search", None)])
    assert (left.epochs, left.trials) == (2 * 2, 0)


# What is measured, and what is chosen by it


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
        self.memory, self.resident, self.processes = 1 << 30, 1 << 20, list[int]()
        self.measured, self.batches = list[str](), set[int]()
        for name, value in {
            "available_cores": lambda: cores,
            "gpu_count": lambda: gpus,
            "free_memory": lambda: free,
            "_processes": self._processes,
            "faster_precision": lambda on_gpu: "bf16",
            "peak_memory": lambda model, batch, precision, cores: (self.batches.add(batch), (self.memory, free))[1],
            "resident_memory": lambda: self.resident,
            "probe": self._probe,
        }.items():
            monkeypatch.setattr(plan, name, value)
        monkeypatch.setattr("torch.cuda.get_device_name", lambda: "a GPU")

    @contextmanager
    def _processes(self, count: int) -> Iterator[Inline]:
        self.processes.append(count)
        yield Inline()

    def _probe(self, model: Model, batch_size: int, precision: str, cores: int) -> Speed:
        self.measured.append(architecture(model))
        return Speed(self.speed_on(cores), 4 * self.speed_on(cores))


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
    assert found.device == "cpu"
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

    monkeypatch.setattr(plan, "peak_memory", peak_memory)
    with pytest.raises(
        UsageError, match=r"^model: got resnet 1 4 with batches of 128 \(.+\), must be one whose .+ memory$"
    ):
        make_plan(SPACE, "asha")


def test_what_was_given_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, cores=8)
    found = make_plan(SPACE, "asha", cores=3, precision="fp32")
    assert (found.cores, found.slots, found.precision) == (3, 2, "fp32")


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


def test_no_more_than_eight_networks_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, cores=2)
    space = read(RICH.replace("[[8], [8, 16, 32]]", "[[8], [16], [24], [32], [8, 16, 32]]"))
    found = make_plan(space, "asha")
    assert len(found.speeds) == 12
    assert len(set(machine.measured)) == 8
    assert measures(found, space)


def test_the_costliest_and_the_cheapest_are_among_the_measured() -> None:
    work = {f"n{number}": number**2 for number in range(20)}
    found = spread(work)
    assert (found[0], found[-1], len(set(found))) == ("n19", "n0", 8)
    assert spread({"a": 1, "b": 3, "c": 2}) == ["b", "c", "a"]


def test_other_speeds_lie_between_by_the_time_of_an_image() -> None:
    work = {"small": 10, "middle": 20, "large": 30, "equal": 30}
    speeds = between({"small": Speed(100, 200), "large": Speed(50, 40)}, work)
    assert list(speeds) == list(work)
    assert (speeds["middle"].train, speeds["middle"].evaluate) == pytest.approx((200 / 3, 200 / 3))
    assert speeds["equal"] == speeds["large"]


# What bears on a network's cost


def test_a_network_is_named_by_what_bears_on_its_cost() -> None:
    assert architecture(MODELS["resnet18"]) == "resnet18 2-2-2-2 64-128-256-512"
    assert architecture(MODELS["three_block"]) == "three_block 1-1-1 128-256-512 stem 64"
    plain = ResNet("resnet", (1, 1), (8, 16), stem=4, shortcut=False)
    assert architecture(plain) == "resnet 1-1 8-16 stem 4 plain"
    assert architecture(FashionCNN()) == "fashion_cnn 32-64-128 256-128"


def test_a_networks_parameters_and_arithmetic() -> None:
    assert parameters_of(FashionCNN()) == 422_474
    tiny = FashionCNN(channels=(4,), hidden=(16,))
    # Twice the products of the convolution, 28² · 9 · 4, and of the layers, 784 · 16 + 16 · 10.
    assert flops(tiny) == 2 * (784 * 36 + 784 * 16 + 160)
