"""study.json: what a study took, over all its runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_space import TINY, read
from made_trials import ended

from study import provenance, records
from study.provenance import Book
from study.records import TrialRecord

SPACE = read("model: three_block" + TINY)
SEARCHED = TrialRecord("s0001", "search", read("model: fashion_cnn" + TINY).rest.base, 0)


class Clock:
    """In place of the module `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(provenance, "time", found)
    return found


def written(study: Path) -> dict[str, Any]:
    return records.read_json(study / "study.json")


def book(study: Path, earlier: dict[str, Any] | None = None) -> Book:
    return Book(study, earlier, {"fidelity": "full", "seed": 0}, {"gpus": 0.0}, SPACE, ["python", "-m", "study.run"])


def test_wall_time_of_a_stage_adds_up_over_an_interruption(tmp_path: Path, clock: Clock) -> None:
    first = book(tmp_path)
    try:
        with first.stage("search"):
            clock.now += 40
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        clock.now += 1
    assert written(tmp_path)["status"] == "interrupted"
    clock.now = 5.0  # another machine's clock, and whatever passed between
    second = book(tmp_path, written(tmp_path))
    assert second.wall("search") == 40
    with second.stage("search"):
        clock.now += 30
    clock.now += 100  # between the stages
    with second.stage("confirm"):
        clock.now += 10
    second.finish()
    found = written(tmp_path)
    assert {stage: found["stages"][stage]["wall_seconds"] for stage in records.STAGES} == {"search": 70, "confirm": 10}
    assert (found["status"], found["resumed"], len(found["earlier_runs"])) == ("finished", 1, 1)


def test_a_kill_costs_the_time_since_the_last_epoch_only(tmp_path: Path, clock: Clock) -> None:
    record, epochs = ended(tmp_path, SEARCHED, [0.5, 0.6])
    killed = book(tmp_path)
    stage = killed.stage("search")
    stage.__enter__()  # and never left
    clock.now += 25
    killed.epoch_ended(record, epochs[0])
    clock.now += 7
    second = book(tmp_path, written(tmp_path))
    with second.stage("search"):
        clock.now += 3
        second.epoch_ended(record, epochs[1])
        assert second.wall("search") == 28
        clock.now += 2
    assert second.wall("search") == 30


def test_costs_are_of_all_epochs_in_all_of_the_stages_time(tmp_path: Path, clock: Clock) -> None:
    ended(tmp_path, SEARCHED, [0.5, 0.6])
    with book(tmp_path).stage("search"):
        clock.now += 20
    with book(tmp_path, written(tmp_path)).stage("search"):
        clock.now += 8
    found = written(tmp_path)["stages"]["search"]
    assert (found["wall_seconds"], found["cpu_seconds"], found["epochs"]) == (28, 14, 2)
    assert found["busy_share"] == pytest.approx(14 / (28 * provenance.cores()))
    assert found["image_passes"] == 2 * 50_000


def test_an_extended_study_searches_again_but_a_resumed_one_keeps_that_its_time_is_over(tmp_path: Path) -> None:
    book(tmp_path).search_over = True
    over = written(tmp_path)
    assert book(tmp_path, over).search_over
    assert not book(tmp_path, {**over, "budget": {**over["budget"], "trials": 5}}).search_over
