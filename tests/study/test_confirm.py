"""What confirm is to run, at first and when a study goes on."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from made_space import read
from made_trials import ended

from study import confirm, records
from study.config import SGD
from study.records import TrialRecord
from study.space import Space

SPACE = """
model: {fashion_cnn: {channels: [4], hidden: [16]}}
optimizer: {sgd: {lr: {log: [0.001, 0.3]}}}
epochs: 2
arms: {source: {optimizer: {sgd: {lr: 0.1}}}}
budget: {trials: 4, candidates: 1, seeds: 2}
preview: {}
"""


@pytest.fixture(scope="module")
def space() -> Space:
    return read(SPACE)


def candidate(space: Space, lr: float) -> TrialRecord:
    return TrialRecord("s0002", "search", replace(space.arms["source"], optimizer=SGD(lr=lr)), 0)


def shown(planned: list[TrialRecord]) -> list[tuple[str, str | None, int, str]]:
    return [(record.trial_id, record.arm, record.seed, record.status) for record in planned]


def test_seed_by_seed_and_not_with_the_searchs_own(space: Space, tmp_path: Path) -> None:
    planned = confirm.plan(tmp_path, space, [candidate(space, 0.2)], seed=7)
    assert shown(planned) == [
        ("c0001", "candidate-1", 8, "pending"),
        ("c0002", "source", 8, "pending"),
        ("c0003", "candidate-1", 9, "pending"),
        ("c0004", "source", 9, "pending"),
    ]
    assert [record.config.optimizer.lr for record in planned[:2]] == [0.2, 0.1]
    assert not list(tmp_path.iterdir())


def test_a_displaced_candidate_keeps_what_has_ended_and_its_number(space: Space, tmp_path: Path) -> None:
    """An extended search found a better one while the first candidate's second seed was cut off."""
    planned = confirm.plan(tmp_path, space, [candidate(space, 0.2)], seed=0)
    for record in planned[:2]:
        ended(tmp_path, record, [0.5, 0.6], test_accuracy=0.6)
    cut, _ = ended(tmp_path, planned[2], [0.5], status="running")
    checkpoint = records.trial_folder(tmp_path, cut) / "checkpoint.pt"
    checkpoint.write_bytes(b"")

    again = confirm.plan(tmp_path, space, [candidate(space, 0.03)], seed=0)
    assert shown(again) == [
        ("c0004", "candidate-2", 1, "pending"),
        ("c0002", "source", 1, "completed"),
        ("c0005", "candidate-2", 2, "pending"),
        ("c0006", "source", 2, "pending"),
    ]
    kept, _, superseded = records.read_trials(tmp_path, "confirm")
    assert (kept.arm, kept.seed, kept.status, kept.test_accuracy) == ("candidate-1", 1, "completed", 0.6)
    assert (superseded.arm, superseded.seed) == ("candidate-1", 2)
    assert (superseded.status, superseded.stop_reason) == ("stopped", "superseded")
    assert not checkpoint.exists()


def test_more_seeds_are_added_to_those_that_have_run(space: Space, tmp_path: Path) -> None:
    for record in confirm.plan(tmp_path, space, [candidate(space, 0.2)], seed=0):
        ended(tmp_path, record, [0.5, 0.6])
    more = replace(space, budget=replace(space.budget, seeds=3))
    planned = confirm.plan(tmp_path, more, [candidate(space, 0.2)], seed=0)
    assert [record.status for record in planned] == ["completed"] * 4 + ["pending"] * 2
    assert shown(planned)[4:] == [("c0005", "candidate-1", 3, "pending"), ("c0006", "source", 3, "pending")]


def test_a_superseded_trial_that_is_wanted_again_runs(space: Space, tmp_path: Path) -> None:
    first, better = candidate(space, 0.2), candidate(space, 0.25)
    planned = confirm.plan(tmp_path, space, [first], seed=0)
    ended(tmp_path, planned[0], [0.5], status="running")
    confirm.plan(tmp_path, space, [better], seed=0)
    assert records.read_trials(tmp_path, "confirm")[0].stop_reason == "superseded"
    again = confirm.plan(tmp_path, space, [first], seed=0)
    assert shown(again)[0] == ("c0001", "candidate-1", 1, "pending")
    assert again[0].stop_reason is None


def test_no_two_candidates_get_one_name_after_the_first_ones_trials_were_deleted(space: Space, tmp_path: Path) -> None:
    space = replace(space, budget=replace(space.budget, candidates=2))
    both = [candidate(space, 0.2), candidate(space, 0.25)]
    for record in confirm.plan(tmp_path, space, both, seed=0):
        ended(tmp_path, record, [0.5, 0.6], status="failed" if record.arm == "candidate-1" else "completed")
        if record.arm == "candidate-1":
            shutil.rmtree(records.trial_folder(tmp_path, record))
    again = confirm.plan(tmp_path, space, both, seed=0)
    found = {(record.arm, record.config.optimizer.lr, record.status) for record in again}
    assert found == {
        ("candidate-1", 0.2, "pending"),
        ("candidate-2", 0.25, "completed"),
        ("source", 0.1, "completed"),
    }
    assert len(again) == 6


def test_a_failed_trial_whose_folder_is_deleted_runs_again(space: Space, tmp_path: Path) -> None:
    for record in confirm.plan(tmp_path, space, [candidate(space, 0.2)], seed=0):
        failed = record.trial_id == "c0002"
        ended(tmp_path, record, [0.5, 0.6], status="failed" if failed else "completed")
    assert shown(confirm.plan(tmp_path, space, [candidate(space, 0.2)], seed=0))[1][3] == "failed"
    shutil.rmtree(tmp_path / "confirm" / "c0002")
    again = confirm.plan(tmp_path, space, [candidate(space, 0.2)], seed=0)
    assert [record.status for record in again] == ["completed", "pending", "completed", "completed"]
    assert shown(again)[1] == ("c0005", "source", 1, "pending")
