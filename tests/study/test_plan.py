"""What a study is expected to cost, against numbers computed by hand; nothing is measured here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from made_space import TWO_NETWORKS, read

from study.plan import LOGS_BYTES, Plan, estimate, makespan, rest
from study.probe import Speed
from study.records import TrialRecord
from study.schedulers import expected_epochs

SPACE = read(TWO_NETWORKS)
# An epoch of the CNN takes 1000/100 + 200/400 = 10.5 s, of the ResNet 1000/50 + 200/200 = 21 s; evaluating the
# training images takes them 2.5 s and 5 s at confirm's end, every trial has a quarter of a second beside,
# every stage 9 s at its start, for a process takes 3 s to import torch.
SPEEDS = {"fashion_cnn 4 16": Speed(train=100, evaluate=400), "resnet 1 4": Speed(train=50, evaluate=200)}
PLAN = Plan("cpu", cores=1, gpus=0.0, slots=2, precision="fp32", speeds=SPEEDS, import_seconds=3.0)


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
    # Two checkpoints of four times the larger network's weights and two being written, six best ones, six predictions
    # of 10,000 images.
    assert found.disk_bytes == 4 * 12_778 * (4 * 4 + 6) + 6 * 10_000 * 48 + LOGS_BYTES
    assert replace(found, search_seconds=0.0, confirm_seconds=0.0, page_seconds=0.0, disk_bytes=0) == PLAN


def test_the_page_is_part_of_the_time() -> None:
    found = estimate(replace(PLAN, measure_seconds=7.0), SPACE, "none")
    # 91 passes over 10,000 images, checks of 60,000, validation of 200 and test of 10,000: of `longer` 980,200 / 400 =
    # 2450.5 s, of `other` 4901 s, of the candidate, which may be either, 3675.75 s; each core has the three.
    assert found.page_seconds == pytest.approx(12 * 3 + 11_027.25)
    assert list(found.stages()) == ["measuring", "starting", "search", "confirm", "page"]
    assert found.seconds == pytest.approx(7 + 5 * 3 + 104 + 162.75 + 36 + 11_027.25)
    alone = estimate(replace(PLAN, slots=1), SPACE, "none")
    assert alone.page_seconds == pytest.approx(12 * 3 + 2 * 11_027.25), "on as many cores as the trials take"
    assert estimate(replace(PLAN, slots=1, cores=2), SPACE, "none").page_seconds == found.page_seconds
    assert estimate(replace(PLAN, gpus=0.5), SPACE, "none").page_seconds == 0, "it needs none, and no core was measured"


def test_the_page_of_a_preview_looks_at_fewer_images() -> None:
    scale = replace(SPACE.scale, split=replace(SPACE.split, test=1000))
    found = estimate(PLAN, replace(SPACE.scaled(scale), budget=SPACE.budget), "none")
    # 91 · 200 + 12,000 + 200 + 1,000 = 31,400 images instead of 980,200.
    assert found.page_seconds == pytest.approx(36 + 11_027.25 * 31_400 / 980_200)


def test_on_a_machine_that_starts_slowly_everything_starts_slowly() -> None:
    slow = estimate(replace(PLAN, import_seconds=30.0), SPACE, "none")
    assert slow.search_seconds == pytest.approx(3 * 30 + 95)
    assert slow.confirm_seconds == pytest.approx(3 * 30 + 153.75)
    assert slow.page_seconds == pytest.approx(12 * 30 + 11_027.25)
    assert slow.stages()["starting"] == 5 * 30


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


def test_a_plan_of_another_version_is_read() -> None:
    older = {**PLAN.to_json(), "speeds": {k: {**vars(v), "memory": 0, "free": 0} for k, v in SPEEDS.items()}}
    del older["memory_bytes"]
    assert Plan.from_json(older) == PLAN


def test_what_many_trials_take_is_estimated_from_fewer() -> None:
    assert expected_epochs("asha", 100_000, [27]) / 100_000 == expected_epochs("asha", 300, [27]) / 300


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
