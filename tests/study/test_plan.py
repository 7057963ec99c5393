"""What a study is expected to cost, against numbers computed by hand; nothing is measured here."""

from __future__ import annotations

from dataclasses import replace

import pytest
from made_space import read

from study.plan import Plan, estimate, makespan
from study.probe import Speed

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
# training images takes them 2.5 s and 5 s at the end, and every trial has 6 s beside.
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
    # A searched trial: 3 epochs of (10.5 + 21) / 2, (2.5 + 5) / 2 at the end, 6 beside.
    assert found.search_seconds == pytest.approx(4 * (3 * 15.75 + 3.75 + 6) / 2)
    # For each seed the candidate 57, `longer` 5·10.5 + 2.5 + 6 = 61, `other` 2·21 + 5 + 6 = 53, on two slots:
    # 57 + 53 + 61 beside 61 + 57 + 53.
    assert found.confirm_seconds == pytest.approx(171)
    assert found.seconds == pytest.approx(15 + 114 + 171)
    # Two checkpoints of four times the larger network's weights, six best ones, six predictions of 10,000 images.
    assert found.disk_bytes == 4 * 12_778 * (2 * 4 + 6) + 6 * 10_000 * 48
    assert replace(found, search_seconds=0.0, confirm_seconds=0.0, disk_bytes=0) == PLAN


def test_the_one_epoch_rule_trains_three_of_four_on_and_keeps_every_checkpoint() -> None:
    found = estimate(PLAN, SPACE, "one-epoch")
    assert found.search_seconds == pytest.approx(((4 + 3 * 2) * 15.75 + 4 * (3.75 + 6)) / 2)
    assert found.confirm_seconds == pytest.approx(171)
    assert found.disk_bytes == 4 * 12_778 * (4 * 4 + 6) + 6 * 10_000 * 48


def test_asha_costs_less_than_every_trial_to_the_end_and_more_than_an_epoch_each() -> None:
    found = estimate(PLAN, SPACE, "asha")
    assert 4 * (15.75 + 3.75 + 6) / 2 < found.search_seconds < 114


@pytest.mark.parametrize(("budget", "seconds"), [(100.0, 100), (200.0, 114)])
def test_a_time_budget_bounds_the_search_alone(budget: float, seconds: float) -> None:
    found = estimate(PLAN, SPACE, "none", budget)
    assert found.search_seconds == pytest.approx(seconds)
    assert found.confirm_seconds == pytest.approx(171)


def test_a_plan_is_read_as_it_was_written() -> None:
    found = estimate(PLAN, SPACE, "none")
    assert Plan.from_json(found.to_json()) == found
