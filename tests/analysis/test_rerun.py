"""Networks at work again for the page: how much of it a plan counts, and what a precision costs that is not there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_study import give_weights, make
from torch import Tensor, nn

from analysis import attention, rerun, stress, tables
from analysis.forward import Networks
from analysis.rerun import INSPECTED, STRESSED, Rerun
from study.config import FashionCNN, TrialConfig
from study.data import CLASS_NAMES, FashionMNIST
from study.models import build_model
from study.plan import PAGE_PASSES

# Of the family that has both kinds of maps.
MODEL = FashionCNN(channels=(2,), hidden=(4,))


@contextmanager
def passed(network: nn.Module) -> Iterator[list[int]]:
    """Count the images that pass through a network, and through copies of it."""
    counts: list[int] = []
    original = type(network).forward

    def forward(self: nn.Module, images: Tensor) -> Tensor:
        counts.append(len(images))
        return original(self, images)  # type: ignore[no-any-return]

    type(network).forward = forward  # type: ignore[method-assign]
    try:
        yield counts
    finally:
        type(network).forward = original  # type: ignore[method-assign]


def stressed(images: np.ndarray, labels: np.ndarray) -> int:
    """How many images pass through a network under stress, for each that is stressed."""
    network = build_model(MODEL, 0).eval()
    with passed(network) as counts:
        stress.stress(network, TrialConfig(model=MODEL), images, labels, np.arange(len(images)))
    assert sum(counts) % len(images) == 0
    return sum(counts) // len(images)


def looked_at(images: np.ndarray, labels: np.ndarray, by_pixel: bool) -> int:
    """How many images pass through a network for its maps and their checks."""
    network, wrong = build_model(MODEL, 0).eval(), np.arange(len(images)) % 2 == 0
    with passed(network) as counts:
        attention.checks(network, images, wrong, 0.286, 0.353, 0, by_pixel)
    codes = {"label": labels, "predicted": np.where(wrong, (labels + 1) % 10, labels)}
    rows = pd.DataFrame({name: pd.Categorical.from_codes(of, CLASS_NAMES) for name, of in codes.items()})
    rows["image"] = np.arange(len(images))
    sample = attention.matched_sample(rows, images.mean((1, 2)), INSPECTED, 0)
    assert len(sample) > 1.9 * INSPECTED
    with passed(network) as more:
        attention.inspect(network, images, sample, images > 0, 0.286, 0.353, 0, by_pixel)
    return sum(counts) + sum(more)


@pytest.mark.usefixtures("one_thread")
def test_the_passes_of_a_page_are_those_that_a_plan_counts(fashion_mnist: FashionMNIST) -> None:
    images, labels = fashion_mnist.test_images[:400], fashion_mnist.test_labels[:400]
    each = stressed(images[:2], labels[:2])
    assert PAGE_PASSES.keys() == STRESSED.keys()
    for fidelity, counted in PAGE_PASSES.items():
        rest = counted - each * STRESSED[fidelity]
        maps = looked_at(images, labels, fidelity == "full")
        # Maps take fp32, and as many of them again as the networks' own precision is faster at most.
        assert maps <= rest <= 2 * maps, fidelity


@pytest.fixture
def again(tmp_path: Path) -> Iterator[Rerun]:
    """The confirmed networks of a made study, all trained in fp32."""
    folder = give_weights(make(tmp_path / "made", seeds=1, images=20))
    tables.build(folder)
    trials, predictions = tables.read(folder, "trials"), tables.read(folder, "predictions")
    with Networks(folder) as networks:
        yield Rerun(folder, trials, predictions, networks, lambda said, done=0, of=1: None)


def test_only_bf16_where_there_is_none_costs_time(again: Rerun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rerun, "has_bf16", lambda: False)
    assert set(again.precision.values()) == {"fp32"}
    assert again.slowdown() is None
    again.precision[again.there[-1]] = "bf16"
    found = again.slowdown()
    assert found is not None
    assert found > 0
    monkeypatch.setattr(rerun, "has_bf16", lambda: True)
    assert again.slowdown() is None
