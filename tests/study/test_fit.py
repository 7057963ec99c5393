"""A preview that is fitted to a time: what gives way, in which order, how far, and what is measured for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, reject, settings
from hypothesis import strategies as st
from made_space import read

from study import data, space_file
from study.fit import SHARE, STEP, _smaller_and_smaller, fit
from study.opening import UsageError
from study.plan import Plan, estimate
from study.probe import Speed, architecture, flops
from study.schedulers import Rule
from study.space import Scale, Space
from study.space_file import SpaceError

SPACE = """
model: {fashion_cnn: {channels: [16], hidden: [32]}}
optimizer: {adam: {lr: {log: [0.001, 0.1]}}}
epochs: 12
arms:
  longer: {optimizer: {adam: {lr: 0.01}}, epochs: 20}
  other: {model: {resnet: {blocks: [1], widths: [16], stem: 16}}, optimizer: {adam: {lr: 0.01}}, epochs: 3}
split: {train: 50000, validation: 10000}
budget: {trials: 20, candidates: 2, seeds: 6}
preview: %s
"""
BOUNDS = "{train: [1000, 5000], validation: [600, 1000], test: [1000, 3000], epochs: [3, 6], trials: [5, 9]}"
WIDTHS = "{train: [1000, 2000], epochs: [3, 6], trials: [5, 9], width: [0.25, 0.75]}"
# Only labels matter to a split; these are Fashion-MNIST's ten balanced classes.
LABELS = [np.repeat(np.arange(10, dtype=np.uint8), count // 10) for count in (60_000, 10_000)]
PUBLISHED = data.FashionMNIST(LABELS[0], LABELS[0], LABELS[1], LABELS[1])


class Machine:
    """One on which a trial reaches so many operations a second, each network some more or less; no process is needed.

    A network of more than `memory` operations does not fit into memory.
    """

    def __init__(
        self,
        operations: float,
        of_network: Callable[[str], float] = lambda name: 1.0,
        memory: float = float("inf"),
        rule: Rule = "none",
    ) -> None:
        self.operations, self.of_network, self.memory, self.rule = operations, of_network, memory, rule
        self.measured: list[Space] = []

    def __call__(self, space: Space) -> Plan:
        self.measured.append(space)
        work = {architecture(model): flops(model) for model in space.models()}
        if max(work.values()) > self.memory:
            raise UsageError("model: got one, must be one whose training fits into memory")
        rates = {name: self.operations * self.of_network(name) / of for name, of in work.items()}
        speeds = {name: Speed(rate / 3, rate) for name, rate in rates.items()}
        plan = Plan("cpu", "fp32", speeds, 1, 0.0, 2, import_seconds=0.1, measure_seconds=1.0)
        return estimate(plan, space, self.rule)


def fitted(preview: str, seconds: float, machine: Machine, rule: Rule = "none") -> tuple[Space, Plan]:
    return fit(read(SPACE % preview), rule, seconds, machine)


def seconds_of(scale: Scale, preview: str, machine: Machine) -> float:
    """The time in which just that scale fits."""
    return machine(read(SPACE % preview).scaled(scale)).seconds / SHARE


def changed(scale: Scale, **split: Any) -> Scale:
    return replace(scale, split=replace(scale.split, **split))


# What gives way


def test_images_give_way_first_then_epochs_then_trials() -> None:
    preview = read(SPACE % BOUNDS).preview
    scales = list(_smaller_and_smaller(preview))
    course = [(s.split.train, s.split.validation, s.split.test, s.epochs, s.budget.trials) for s in scales]
    assert course[:3] == [(5000, 1000, 3000, 6, 9), (4900, 900, 2900, 6, 9), (4800, 900, 2900, 6, 9)]
    assert course[38:] == [
        (1200, 600, 1100, 6, 9),
        (1100, 600, 1000, 6, 9),
        (1000, 600, 1000, 6, 9),
        (1000, 600, 1000, 5, 9),
        (1000, 600, 1000, 4, 9),
        (1000, 600, 1000, 3, 9),
        (1000, 600, 1000, 3, 8),
        (1000, 600, 1000, 3, 7),
        (1000, 600, 1000, 3, 6),
        (1000, 600, 1000, 3, 5),
    ]
    assert {(s.width, s.budget.candidates, s.budget.seeds) for s in scales} == {(0.25, 1, 2)}, (
        "the least, whatever fits"
    )


@pytest.mark.parametrize("place", [0, 1, 17, 40, 41, 43, 46, 47])
def test_just_what_fits_is_taken(place: int) -> None:
    machine = Machine(1e9)
    scales = list(_smaller_and_smaller(read(SPACE % BOUNDS).preview))
    seconds = seconds_of(scales[place], BOUNDS, machine)
    machine.measured.clear()
    space, plan = fitted(BOUNDS, seconds + 1e-6, machine)
    assert space.scale == scales[place]
    assert plan.seconds == pytest.approx(SHARE * seconds)
    assert plan.speeds.keys() == {architecture(model) for model in space.models()}
    assert len(machine.measured) == 1, "wider networks could not fit"
    if place:
        assert fitted(BOUNDS, seconds - 1e-3, machine)[0].scale == scales[min(place + 1, 47)]


def test_where_nothing_fits_the_least_is_taken_and_its_plan_tells_the_time() -> None:
    space, plan = fitted(BOUNDS, 1.0, Machine(1e6))
    assert space.scale == read(SPACE % BOUNDS).preview.least
    assert plan.seconds > 1.0
    assert space.fidelity == "preview"


def test_no_preview_has_less_than_two_epochs_two_seeds_and_500_training_images() -> None:
    """Unless its space says so."""
    files = sorted(space_file.FOLDER.glob("*.yaml"))
    for space in [*map(space_file.load, files), read(SPACE % "{}"), read(SPACE % BOUNDS)]:
        least, _ = fit(space, "none", 1.0, Machine(1e6))
        assert least.scale == space.preview.least
        assert least.epochs >= 2, space.name
        assert least.budget.seeds >= 2, space.name
        assert least.split.train >= 500, space.name
        assert least.budget.trials >= len(space.arms) + least.budget.candidates, space.name
    said, _ = fitted("{train: 100, epochs: 1, seeds: 1}", 1.0, Machine(1e6))
    assert (said.split.train, said.epochs, said.budget.seeds) == (100, 1, 1)


# Wider networks, and the full study


def test_a_fast_machine_gets_the_full_study() -> None:
    for preview in ("{}", BOUNDS, WIDTHS):
        full = read(SPACE % preview)
        machine = Machine(1e15)
        space, plan = fit(full, "none", 600, machine)
        assert space is full
        assert (space.fidelity, space.scale) == ("full", full.scale)
        assert plan.seconds == pytest.approx(machine(full).seconds + len(machine.measured) - 2), "all that was measured"


def test_wider_networks_are_measured_only_where_they_could_fit() -> None:
    machine = Machine(1e9)
    widest = read(SPACE % WIDTHS).preview.most
    cheapest = replace(widest, budget=replace(widest.budget, candidates=1, seeds=2))
    times = {width: seconds_of(replace(cheapest, width=width), WIDTHS, machine) for width in (0.25, 0.5, 0.75)}
    assert list(times.values()) == sorted(times.values())
    # By the slowest of what is measured, which overestimates what a wider one takes.
    for seconds, widths in {
        times[0.25] - 1: [0.25],
        times[0.25] + 1: [0.25],
        10 * times[0.75]: [0.25, 0.5, 0.75],
    }.items():
        machine.measured.clear()
        space, plan = fitted(WIDTHS, seconds, machine)
        assert [measured.width for measured in machine.measured] == widths
        assert space.width == widths[-1]
        assert plan.measure_seconds == len(widths), "the time of every measurement"


def test_what_turns_out_to_be_slower_when_it_is_measured_is_not_taken() -> None:
    narrow = {architecture(model) for model in read(SPACE % WIDTHS).scaled(least(WIDTHS)).models()}
    machine = Machine(1e12, lambda name: 1.0 if name in narrow else 1e-6)
    space, plan = fitted(WIDTHS, 1000.0, machine)
    assert len(machine.measured) == 2
    assert space.width == 0.25
    assert plan.seconds <= SHARE * 1000
    assert plan.speeds.keys() == narrow


def test_wider_networks_that_do_not_fit_into_memory_are_not_taken() -> None:
    most = max(flops(model) for model in read(SPACE % WIDTHS).scaled(least(WIDTHS)).models())
    space, _ = fitted(WIDTHS, 1e6, Machine(1e15, memory=most))
    assert space.width == 0.25
    with pytest.raises(UsageError):
        fitted(WIDTHS, 1e6, Machine(1e15, memory=most - 1))


def test_a_full_study_of_networks_that_are_measured_already_needs_no_guess() -> None:
    """A network that reaches few operations a second would make the others seem slow."""
    bounds = BOUNDS.replace("}", ", width: 1}")
    machine = Machine(1e9, lambda name: 1e-3 if name.startswith("fashion_cnn") else 1.0)
    full = read(SPACE % bounds)
    seconds = machine(full).seconds / SHARE
    machine.measured.clear()
    assert fit(full, "none", seconds + 1, machine)[0] is full
    assert [measured.width for measured in machine.measured] == [1.0]


def least(preview: str) -> Scale:
    return read(SPACE % preview).preview.least


# Whatever the bounds and the machine


def bound(low: int, high: int) -> st.SearchStrategy[str]:
    ends = st.lists(st.integers(low, high), min_size=2, max_size=2).map(sorted)
    return st.integers(low, high).map(str) | ends.map(str)


@st.composite
def spaces(draw: st.DrawFn) -> str:
    """A full study with bounds on a preview, some of them left out."""
    train = draw(st.integers(500, 59_000))
    validation = draw(st.integers(200, 60_000 - train))
    full = {"epochs": draw(st.integers(1, 9)), "trials": draw(st.integers(2, 9)), "seeds": draw(st.integers(1, 4))}
    most = {"train": train, "validation": validation, "test": 10_000, **full}
    low = {"train": 10, "validation": 10, "test": 10, "trials": 2}
    given = {key: draw(st.none() | bound(low.get(key, 1), top)) for key, top in most.items()}
    if draw(st.booleans()):
        given["width"] = draw(st.sampled_from(["0.5", "[0.25, 0.5]", "[0.1, 1]"]))
    if draw(st.booleans()):
        given["candidates"] = draw(st.sampled_from(["0", "1", "[0, 1]"]))
    preview = ", ".join(f"{key}: {value}" for key, value in given.items() if value)
    text = SPACE.replace("train: 50000, validation: 10000", f"train: {train}, validation: {validation}")
    text = text.replace("epochs: 12", f"epochs: {full['epochs']}")
    text = text.replace(
        "trials: 20, candidates: 2, seeds: 6", "trials: {trials}, candidates: 1, seeds: {seeds}".format(**full)
    )
    return text % f"{{{preview}}}"


def read_or_pass(text: str) -> Space:
    """The space, unless the full study or a bound leaves out too few images to stratify."""
    try:
        return read(text, "drawn.yaml")
    except SpaceError as error:
        if any("left out" not in problem for problem in error.problems):
            raise
        reject()


def numbers(scale: Scale) -> list[float]:
    return [*astuple(scale.split), scale.epochs, *astuple(scale.budget), scale.width]


@settings(max_examples=40, deadline=None)
@given(spaces(), st.floats(6, 13), st.floats(0.3, 3), st.sampled_from(["none", "one-epoch"]))
def test_whatever_the_bounds_and_the_machine(text: str, magnitude: float, better: float, rule: Rule) -> None:
    full = read_or_pass(text)
    least, most = full.preview.least, full.preview.most
    machine = Machine(10**magnitude, lambda name: better if name.startswith("resnet") else 1.0, rule=rule)
    space, plan = fit(full, rule, 600, machine)
    scale, limit = space.scale, SHARE * 600
    taken = replace(most, budget=replace(most.budget, candidates=least.budget.candidates, seeds=least.budget.seeds))
    # The plan is that of the space, and fits, or nothing could be less.
    assert plan == replace(
        estimate(plan, space, rule), measure_seconds=float(len([m for m in machine.measured if m.width <= space.width]))
    )
    assert plan.seconds <= limit or scale == least
    if scale != full.scale:
        assert space.fidelity == "preview"
        assert all(low <= own <= high for low, own, high in zip(*map(numbers, (least, scale, most)), strict=True))
        assert (scale.budget.candidates, scale.budget.seeds) == (taken.budget.candidates, taken.budget.seeds)
    # Nothing gives way while something before it could.
    if scale.width > least.width:
        assert scale in (full.scale, replace(taken, width=scale.width))
    if scale.epochs < most.epochs:
        assert (scale.split, scale.width) == (least.split, least.width)
    if scale.budget.trials < most.budget.trials:
        assert (scale.split, scale.width, scale.epochs) == (least.split, least.width, least.epochs)
    # And no more than it must.
    narrowest = replace(taken, width=least.width)
    if scale.width == least.width and scale not in (narrowest, full.scale):
        course = list(_smaller_and_smaller(full.preview))
        larger = course[course.index(scale) - 1]
        assert estimate(plan, full.scaled(larger), rule).seconds > limit
    # The images can be had.
    splits = data.split(PUBLISHED, scale.split.train, scale.split.validation, scale.split.test, scale.split.seed)
    assert [len(part) for part in splits[1::2]] == [scale.split.train, scale.split.validation, scale.split.test]


@settings(max_examples=60, deadline=None)
@given(spaces())
@example(SPACE.replace("train: 50000, validation: 10000", "train: 50001, validation: 9999") % "{validation: 9999}")
def test_every_scale_has_images_that_can_be_had(text: str) -> None:
    previews = list(_smaller_and_smaller(read_or_pass(text).preview))
    for split in {scale.split for scale in previews}:
        for left in (60_000 - split.train - split.validation, 10_000 - split.test):
            assert left == 0 or left >= space_file.CLASSES, split
    trains = [scale.split.train for scale in previews]
    assert all(0 <= more - fewer <= STEP for more, fewer in pairwise(trains))
