"""The search without its training: what a study that goes on knows of the trials before."""

from __future__ import annotations

import copy
import itertools
import math
import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_space import read
from made_trials import ended
from optuna.trial import TrialState
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from study import confirm, records
from study.config import SGD
from study.execution import Resources
from study.plan import rest
from study.records import EpochRecord, TrialRecord
from study.schedulers import METRIC, Rungs, best_so_far, build_scheduler, expected_epochs, replay
from study.search import Proposer, Search, candidates
from study.space import Space

EPOCHS = 10
SPACE = f"""
model: {{fashion_cnn: {{channels: [4], hidden: [16]}}}}
optimizer: {{sgd: {{lr: {{log: [0.001, 0.3]}}}}}}
batch_size: {{choice: [32, 64]}}
epochs: {EPOCHS}
arms:
  source: {{optimizer: {{sgd: {{lr: 0.1}}}}, batch_size: 32, epochs: 30}}
budget: {{trials: 16, candidates: 3, seeds: 2}}
preview: {{}}
"""


@pytest.fixture(scope="module")
def space() -> Space:
    return read(SPACE)


# ASHA's rungs, at 1, 3 and 9 epochs


def reached(scheduler: TrialScheduler, course: list[float]) -> int:
    """The epoch at which a new trial of this course ends; the scheduler stays as it was."""
    scheduler, trial, nobody = copy.deepcopy(scheduler), Trial("new", stub=True), None
    scheduler.on_trial_add(nobody, trial)
    for epoch, accuracy in enumerate(course, 1):
        if (
            scheduler.on_trial_result(nobody, trial, {"epoch": epoch, "length": len(course), METRIC: accuracy})
            == TrialScheduler.STOP
        ):
            return epoch
    raise AssertionError("not even the last epoch ended it")


def test_a_newcomer_must_be_among_the_best_third_of_what_was_recorded() -> None:
    scheduler = build_scheduler("asha", EPOCHS)
    assert reached(scheduler, [0.1] * EPOCHS) == EPOCHS, "there is nobody yet to be worse than"
    for number in range(9):
        replay(scheduler, f"s{number:04}", [(1, 0.1)], EPOCHS)
    for number in range(4, 10):
        replay(scheduler, f"t{number:04}", [(1, 0.3), (2, 0.3), (3, number / 10)], EPOCHS)
    # At one epoch nine of 0.1 and six of 0.3. At three, 0.4 to 0.9: the quantile of two thirds is 0.7333.
    assert reached(scheduler, [0.29, *[0.99] * 9]) == 1
    assert reached(scheduler, [0.3, 0.3, 0.73, *[0.99] * 7]) == 3
    assert reached(scheduler, [0.3, 0.3, 0.74, *[0.99] * 7]) == EPOCHS


def test_why_a_trial_was_stopped_is_kept() -> None:
    scheduler = build_scheduler("asha", EPOCHS)
    assert isinstance(scheduler, Rungs)
    for number in range(4, 10):
        replay(scheduler, f"t{number:04}", [(1, 0.3), (2, 0.3), (3, number / 10)], EPOCHS)
    assert replay(scheduler, "s0001", [(1, 0.3), (2, 0.3), (3, 0.65), (4, 0.9)], EPOCHS, heed=True) == 3
    assert scheduler.stops == {
        "s0001": {
            "stop_epoch": 3,
            "stop_accuracy": 0.65,
            "stop_threshold": pytest.approx(0.4 + 5 * 2 / 3 / 10),  # the quantile of two thirds of 0.4 to 0.9
            "stop_rank": 4,
            "stop_trials": 7,
        }
    }
    assert replay(scheduler, "s0002", [(k, 0.99) for k in range(1, EPOCHS + 1)], EPOCHS, heed=True) == EPOCHS
    assert "s0002" not in scheduler.stops, "its end is no stop"


def test_a_shorter_trial_meets_the_rungs_at_the_same_shares_of_its_epochs() -> None:
    scheduler = build_scheduler("asha", 24, grace_period=8)
    for number in range(3):
        replay(scheduler, f"t{number:04}", [(k, 0.1 if k < 8 else 0.9) for k in range(1, 9)], 24)
    slow = [(k, 0.1) for k in range(1, 4)]
    assert replay(scheduler, "s0001", [*slow, (4, 0.8), (5, 0.8)], 12, heed=True) == 4, "a third of twelve"
    assert replay(scheduler, "s0002", [*slow, (4, 0.95), (5, 0.95)], 12, heed=True) == 5


@pytest.mark.parametrize(("schedule", "grace"), [("cosine", 1), ("{choice: [cosine, one_cycle]}", 3)])
def test_the_first_rung_waits_for_a_third_of_a_cycle(schedule: str, grace: int) -> None:
    text = "model: {fashion_cnn: {channels: [2]}}\noptimizer: {adam: {lr: {log: [0.001, 0.1]}}}\n"
    text += f"schedule: {schedule}\nepochs: {{choice: [4, 9]}}\nbudget: {{trials: 9, candidates: 1, seeds: 1}}\n"
    assert read(text).grace_period == grace


def test_a_search_that_goes_on_stops_trials_as_one_that_was_never_cut_off(
    space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = build_scheduler("asha", EPOCHS)
    running: dict[str, Trial] = {}
    ends = np.random.default_rng(0).uniform(0.3, 0.9, 15)
    courses: dict[str, list[float]] = {f"s{number:04}": [] for number in range(1, 16)}
    for epoch in range(1, EPOCHS + 1):  # side by side, each one's epoch before any one's next
        for trial_id, end in zip(courses, ends, strict=True):
            if epoch == 1:
                running[trial_id] = Trial("live", stub=True)
                live.on_trial_add(None, running[trial_id])
            if trial_id in running:
                courses[trial_id].append(end * (1 - 0.5**epoch))
                result = {"epoch": epoch, "length": EPOCHS, METRIC: courses[trial_id][-1]}
                if live.on_trial_result(None, running[trial_id], result) == TrialScheduler.STOP:
                    del running[trial_id]
    assert {len(course) for course in courses.values()} == {1, 3, 9, 10}
    for trial_id, course in courses.items():
        status = "completed" if len(course) == EPOCHS else "stopped"
        record = TrialRecord(trial_id, "search", space.arms["source"], 0, max_epochs=EPOCHS)
        ended(tmp_path, record, course, status=status)

    handed: list[TrialScheduler] = []
    monkeypatch.setattr("study.search.run_trials", lambda *arguments, **_: handed.append(arguments[5]))
    splits: Any = None
    Search(tmp_path, space, 0, "asha").run(splits, Resources(1, 0.0, "fp32", 1), [])
    (resumed,) = handed
    newcomers = [[end * (1 - 0.5**epoch) for epoch in range(1, EPOCHS + 1)] for end in np.linspace(0, 1, 101)]
    found = [reached(resumed, course) for course in newcomers]
    assert found == [reached(live, course) for course in newcomers]
    assert set(found) == {1, 3, 9, 10}
    assert found == sorted(found)


# Candidates


def train(study: Path, record: TrialRecord) -> tuple[TrialRecord, list[EpochRecord]]:
    """A trial's made-up end: the better the nearer its learning rate is to 0.03; every fifth is stopped while ahead."""
    accuracy = 0.9 - 0.1 * abs(math.log10(record.config.optimizer.lr / 0.03))
    if record.arm:
        return ended(study, record, [0.97] * EPOCHS)
    match int(record.trial_id[1:]) % 5:
        case 0:
            return ended(study, record, [0.98], status="stopped", stop_reason="asha")
        case 1:
            return ended(study, record, [0.99, 0.99], status="diverged", stop_reason="diverged")
        case 2:
            return ended(study, record, [], status="failed", stop_reason="error")
        case _:
            return ended(study, record, [accuracy - 0.1, accuracy, *[accuracy - 0.2] * 8])


def test_candidates_and_proposals_are_the_same_after_any_interruption(space: Space, tmp_path: Path) -> None:
    through = Search(tmp_path / "through", space, 0, "asha")
    while (record := through.next_trial()) is not None:
        through.trial_ended(*train(through.study, record))
    while (record := (cut := Search(tmp_path / "cut", space, 0, "asha")).next_trial()) is not None:
        train(cut.study, record)
    searched = records.read_trials(through.study, "search")
    assert len(searched) == 16
    assert records.read_trials(cut.study, "search") == searched
    assert candidates(cut.study, space) == candidates(through.study, space)

    completed = [record for record in searched if record.status == "completed" and record.arm is None]
    assert len(completed) > 3
    completed.sort(key=lambda record: abs(math.log(record.config.optimizer.lr / 0.03)))
    assert candidates(through.study, space) == completed[:3]


def test_a_configuration_is_a_candidate_once_and_an_arm_never(tmp_path: Path) -> None:
    space = read(SPACE.replace(", epochs: 30", ""))

    def of(number: int, lr: float, accuracy: float) -> TrialRecord:
        config = replace(space.arms["source"], optimizer=SGD(lr=lr))
        return ended(tmp_path, TrialRecord(f"s{number:04}", "search", config, 0), [accuracy])[0]

    of(1, lr=0.1, accuracy=0.9)  # a proposal that met the arm
    twice, again = of(2, lr=0.2, accuracy=0.7), of(3, lr=0.2, accuracy=0.8)
    equal = of(4, lr=0.05, accuracy=0.8)
    assert twice.config_id == again.config_id
    assert candidates(tmp_path, space) == [again, equal]


def test_where_few_ran_to_the_end_those_that_were_stopped_latest_are_candidates_too(tmp_path: Path) -> None:
    space = read(SPACE.replace(", epochs: 30", ""))

    def of(number: int, *accuracies: float, **end: Any) -> TrialRecord:
        config = replace(space.arms["source"], optimizer=SGD(lr=0.01 * number))
        return ended(tmp_path, TrialRecord(f"s{number:04}", "search", config, 0), [*accuracies], **end)[0]

    stopped: dict[str, Any] = {"status": "stopped", "stop_reason": "asha"}
    of(1, 0.9, **stopped)
    later = of(2, 0.5, 0.6, 0.7, **stopped)
    of(3, 0.99, status="diverged", stop_reason="diverged")
    completed = of(4, 0.3)
    latest = of(5, 0.5, 0.8, 0.6, **stopped)
    assert candidates(tmp_path, space) == [completed, latest, later][: space.budget.candidates]
    assert space.budget.candidates >= 2


# No configuration twice

GRID = """
model: {fashion_cnn: {channels: [4], hidden: [16]}}
optimizer:
  choice:
    - sgd: {lr: {choice: [0.003, 0.03, 0.1]}, momentum: {choice: [0.5, 0.9]}}
    - adam: {lr: ADAM}
augmentation: {strength: {choice: [0, 1]}, rotation: {choice: [5, 10]}, flip: 0.5}
epochs: 10
arms:
  inside: {optimizer: {sgd: {lr: 0.1, momentum: 0.9}}, augmentation: {strength: 0}, epochs: 30}
  outside: {optimizer: {sgd: {lr: 0.2, momentum: 0.9}}, augmentation: {strength: 0}}
budget: {trials: 100, candidates: 30, seeds: 2}
"""


@pytest.fixture
def grid(monkeypatch: pytest.MonkeyPatch) -> Space:
    """22 trials: (3 · 2 + 1) optimizers without augmentation or with one of two, and an arm outside."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # which takes most of the time
    grid = read(GRID.replace("ADAM", "0.01"))
    return grid.with_budget(grid.budget)


def searched(study: Path, space: Space, cut: bool) -> list[TrialRecord]:
    """A whole search, its trials ended in turn; where it is cut, every trial is by a process of its own.

    Without augmentation, SGD with a learning rate of 0.03 is best, the more so with a momentum of 0.5.
    """
    search = Search(study, space, 0, "none")
    while (record := search.next_trial()) is not None:
        config = record.config
        momentum = config.optimizer.momentum if isinstance(config.optimizer, SGD) else 5
        accuracy = 0.9 - 0.1 * abs(math.log10(config.optimizer.lr / 0.03)) - 0.1 * momentum
        search.trial_ended(*ended(study, record, [accuracy - 0.1 * config.augmentation.strength]))
        search = Search(study, space, 0, "none") if cut else search
    assert search.finished()
    assert Search(study, space, 0, "none").ends_left == 0
    return records.read_trials(study, "search")


def test_a_finite_space_is_tried_whole_and_each_configuration_once_after_any_interruption(
    grid: Space, tmp_path: Path
) -> None:
    assert (grid.configurations, grid.most_trials, grid.budget.trials, grid.budget.candidates) == (21, 22, 22, 20)
    found = searched(tmp_path / "through", grid, cut=False)
    assert [record.arm for record in found[:3]] == ["inside", "outside", None]
    assert len(found) == 22
    assert {grid.in_search(record.config) for record in found} == {*grid.combinations(0), grid.arms["outside"]}
    assert searched(tmp_path / "cut", grid, cut=True) == found
    best, *_, last = candidates(tmp_path / "through", grid)
    assert best.config.optimizer == SGD(lr=0.03, momentum=0.5)
    assert last.config.optimizer.name == "adam"
    assert len(candidates(tmp_path / "through", grid)) == 20


def test_trials_side_by_side_differ(grid: Space, tmp_path: Path) -> None:
    search = Search(tmp_path, grid, 0, "none")
    handed_out = list(iter(search.next_trial, None))
    assert len({grid.in_search(record.config) for record in handed_out}) == len(handed_out) == 22
    with pytest.raises(ValueError, match="must have a configuration that was not tried"):
        search.proposer.ask("s0023")


def test_where_the_best_of_a_continuous_space_is_one_configuration_it_is_tried_once(
    grid: Space, tmp_path: Path
) -> None:
    text = GRID.replace("ADAM", "{log: [0.001, 0.01]}")
    space = replace(read(text), arms={}).with_budget(replace(grid.budget, trials=35))
    assert (space.configurations, space.budget.trials) == (math.inf, 35)
    found = searched(tmp_path, space, cut=False)
    assert len({record.config_id for record in found}) == 35
    without = [record for record in found if record.config.augmentation.strength == 0]
    assert sum(record.config.optimizer == SGD(lr=0.03, momentum=0.5) for record in without) == 1


def test_what_is_left_is_drawn_where_tpe_asks_for_what_was_tried(
    grid: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("study.search.ASKS", 0)
    continuous = read(GRID.replace("ADAM", "{log: [0.001, 0.01]}").replace("flip: 0.5", "flip: {uniform: [0, 1]}"))
    assert len({*grid.combinations(0)}) == 21
    for space in (grid, continuous.with_budget(replace(continuous.budget, trials=60))):
        found = searched(tmp_path / str(space.budget.trials), space, cut=False)
        drawn = [space.in_search(record.config) for record in found]
        assert len(set(drawn)) == len(drawn) == space.budget.trials
        assert all(space.parameters_of(config) for config in drawn if config != space.arms["outside"])


def test_a_continuous_space_asks_once_for_each_trial(space: Space, tmp_path: Path) -> None:
    search = Search(tmp_path, space, 0, "none")
    for record in iter(search.next_trial, None):
        search.trial_ended(*ended(tmp_path, record, [0.5]))
    asked = [trial.user_attrs["trial_id"] for trial in search.proposer.study.trials]
    assert asked == [f"s{number:04}" for number in range(1, 17)]


@pytest.mark.parametrize(("trials", "epochs", "ends"), [(1, 10, 2), (2, 10, 4), (4, 10, 7), (4, 1, 4)])
def test_the_one_epoch_rule_lets_no_more_go_on_than_there_are(
    trials: int, epochs: int, ends: int, tmp_path: Path
) -> None:
    space = read(SPACE.replace(f"epochs: {EPOCHS}", f"epochs: {epochs}"))
    space = replace(space, budget=replace(space.budget, trials=trials))
    assert Search(tmp_path, space, 0, "one-epoch").ends_left == ends
    left = rest(space, "one-epoch")
    assert (left.trials, left.epochs) == (trials, trials + (ends - trials) * (epochs - 1))


def test_a_trial_that_was_cut_off_comes_first_and_counts_once(space: Space, tmp_path: Path) -> None:
    before = Search(tmp_path, space, 0, "asha")
    arm, first, second = (before.next_trial() for _ in range(3))
    assert arm is not None
    assert first is not None
    assert second is not None
    ended(tmp_path, arm, [0.5] * EPOCHS)
    ended(tmp_path, first, [0.5, 0.6], status="running")
    ended(tmp_path, second, [0.5] * EPOCHS)
    after = Search(tmp_path, space, 0, "asha")
    assert (after.count, after.ended) == (3, {"s0001", "s0003"})
    taken = after.next_trial()
    assert taken is not None
    assert (taken.trial_id, taken.config, taken.status) == (first.trial_id, first.config, "running")
    assert best_so_far(records.read_epochs(records.trial_folder(tmp_path, taken))) == [(1, 0.5), (2, 0.6)]
    new = after.next_trial()
    assert new is not None
    assert new.trial_id == "s0004"
    assert sum(after.next_trial() is not None for _ in range(20)) == 16 - 4


def test_what_still_runs_is_known_after_an_interruption(space: Space, tmp_path: Path) -> None:
    """TPE keeps its proposals away from what is being tried; its first ten draws heed nothing."""
    before = Search(tmp_path, space, 0, "asha")
    handed = iter(before.next_trial, None)
    for record in itertools.islice(handed, 13):
        before.trial_ended(*ended(tmp_path, record, [0.5] * EPOCHS))
    running = [ended(tmp_path, record, [0.5], status="running")[0] for record in itertools.islice(handed, 2)]
    last = next(handed)
    after = Search(tmp_path, space, 0, "asha")
    assert [after.next_trial() for _ in range(3)] == [*running, last]
    for record in running:
        after.trial_ended(*ended(tmp_path, record, [0.6] * EPOCHS))
    states = Counter(trial.state for trial in after.proposer.study.trials)
    assert states == {TrialState.COMPLETE: 15, TrialState.RUNNING: 1}


def test_a_kill_while_the_journal_is_locked_leaves_no_link(
    space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No study is opened that holds one."""

    def link(*_: object) -> None:
        raise AssertionError

    for name in ("symlink", "link"):
        monkeypatch.setattr(os, name, link)
    search = Search(tmp_path, space, 0, "asha")
    for _ in range(3):
        search.next_trial()
    (tmp_path / "search" / "optuna.journal.lock").touch()
    assert Search(tmp_path, space, 0, "asha").next_trial() is not None


def test_any_seed_the_command_takes_can_be_drawn_from(space: Space, tmp_path: Path) -> None:
    proposer = Proposer(space, 1_000_000, tmp_path / "journal")
    assert 0.001 <= proposer.ask("s100000").optimizer.lr <= 0.3


def test_proposals_keep_away_from_where_trials_diverged(space: Space, tmp_path: Path) -> None:
    """Also while no trial has run to its end: those that were stopped are better than those that diverged."""
    proposer = Proposer(space, 0, tmp_path / "journal")
    for number, lr in enumerate(np.geomspace(0.001, 0.3, 20), 1):
        config = replace(space.arms["source"], optimizer=SGD(lr=lr), epochs=EPOCHS)
        status, accuracies = ("diverged", [0.9, 0.9, 0.1]) if lr > 0.05 else ("stopped", [0.5])
        record = TrialRecord(f"s{number:04}", "search", config, 0)
        proposer.tell(*ended(tmp_path, record, accuracies, status=status))
    assert sum(trial.state.name == "PRUNED" for trial in proposer.study.trials) == 20
    proposed = [proposer.ask(f"s{number:04}").optimizer.lr for number in range(21, 41)]
    assert sum(lr > 0.05 for lr in proposed) <= 3  # of draws at random 6, and 11 where the diverged count as complete


def test_a_kill_between_an_epoch_and_the_stop_after_it_lets_no_trial_go_on(space: Space, tmp_path: Path) -> None:
    searched = Search(tmp_path, space, 0, "asha")
    first, cut = searched.next_trial(), searched.next_trial()
    assert first is not None
    assert cut is not None
    ended(tmp_path, first, [0.8] * 2, status="running")
    ended(tmp_path, cut, [0.1], status="running")
    line = replace(records.read_epochs(records.trial_folder(tmp_path, cut))[-1], stopped=True)
    records.append_epoch(records.trial_folder(tmp_path, cut), line)
    (checkpoint := records.trial_folder(tmp_path, cut) / "checkpoint.pt").touch()
    again = Search(tmp_path, space, 0, "asha")
    assert again.ended == {cut.trial_id}
    assert [record.trial_id for record in again.waiting] == [first.trial_id]
    (settled,) = [r for r in records.read_trials(tmp_path, "search") if r.trial_id == cut.trial_id]
    assert (settled.status, settled.stop_reason, settled.best_epoch) == ("stopped", "asha", 1)
    assert not checkpoint.exists()
    assert {"PRUNED"} == {t.state.name for t in again.proposer.study.trials if t.user_attrs["trial_id"] == cut.trial_id}


# Epochs that vary

VARIED = SPACE.replace(f"epochs: {EPOCHS}", "epochs: {choice: [2, 4, 9]}").replace(
    "epochs: 30}", "schedule: SCHEDULE, epochs: 30}\n  short: {optimizer: {sgd: {lr: 0.1}}, batch_size: 32, epochs: 3}"
)


@pytest.fixture
def varied() -> Space:
    space = read(VARIED.replace("SCHEDULE", "none"))
    assert space.epochs == 9
    return space


def test_a_trial_is_to_run_for_its_own_epochs(varied: Space, tmp_path: Path) -> None:
    source, short, *drawn = iter(Search(tmp_path, varied, 0, "asha").next_trial, None)
    assert {record.config.epochs for record in drawn} == {2, 4, 9}
    assert all(record.max_epochs == record.config.epochs for record in (short, *drawn))
    assert (source.config.epochs, source.max_epochs) == (30, 9), "an arm, at most for those of the longest"
    chosen = next(record for record in drawn if record.max_epochs == 2)
    planned = {record.arm: record.max_epochs for record in confirm.plan(tmp_path, varied, [chosen], 0)}
    assert planned == {"candidate-1": 2, "source": 30, "short": 3}


def test_a_short_trial_that_ended_by_itself_is_complete_and_may_be_a_candidate(varied: Space, tmp_path: Path) -> None:
    search = Search(tmp_path, varied, 0, "asha")
    while (record := search.next_trial()) is not None:
        accuracy = {2: 0.9, 4: 0.5}.get(record.max_epochs, 0.7)
        search.trial_ended(*ended(tmp_path, record, [accuracy] * record.max_epochs))
    assert search.finished()
    told = {trial.user_attrs["trial_id"]: trial for trial in search.proposer.study.trials}
    for record in records.read_trials(tmp_path, "search"):
        if record.arm == "short":  # of epochs that the space does not have
            assert record.trial_id not in told
        else:
            trial = told[record.trial_id]
            assert (trial.state, trial.params["epochs"]) == (TrialState.COMPLETE, record.max_epochs)
            assert len(trial.intermediate_values) == record.max_epochs
    assert {record.config.epochs for record in candidates(tmp_path, varied)} == {2}


def test_rungs_are_those_of_the_longest_and_a_short_trial_fills_what_it_reached(
    varied: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = Search(tmp_path, varied, 0, "asha")
    drawn = [record for record in iter(search.next_trial, None) if record.max_epochs in (2, 4)]
    for record in drawn:
        ended(tmp_path, record, [0.5] * record.max_epochs)
    handed: list[TrialScheduler] = []
    monkeypatch.setattr("study.search.run_trials", lambda *arguments, **_: handed.append(arguments[5]))
    splits: Any = None
    Search(tmp_path, varied, 0, "asha").run(splits, Resources(1, 0.0, "fp32", 1), [])
    (resumed,) = handed
    assert reached(resumed, [0.6] * 9) == 9, "its last, where even the best ends"
    assert reached(resumed, [0.4] * 9) == 1, "all have reached one epoch"
    assert reached(resumed, [0.6, 0.6, *[0.5] * 7]) == 9, "nobody has reached nine"
    assert reached(build_scheduler("asha", varied.epochs), [0.4] * 9) == 9


def test_what_is_left_counts_the_epochs_that_a_trial_has_on_average(varied: Space) -> None:
    mean = (2 + 4 + 9) / 3
    assert varied.lengths == (2, 4, 9)
    assert rest(varied, "none").epochs == 16 * mean
    assert rest(varied, "one-epoch").epochs == 16 + 3 * (mean - 1)
    assert 16 < rest(varied, "asha").epochs < 16 * mean
    longest, shortest = (expected_epochs("asha", 16, [epochs]) for epochs in (9, 2))
    assert shortest < rest(varied, "asha").epochs < longest
    begun = [TrialRecord(f"s{n:04}", "search", varied.arms["short"], 0, status="completed") for n in range(1, 5)]
    assert rest(varied, "none", begun).epochs == 12 * mean


@pytest.mark.parametrize(
    ("schedule", "known"), [("none", True), ("one_cycle", False), ("{none: {warmup: 0.1}}", False)]
)
def test_tpe_learns_from_an_arm_that_is_cut_only_where_its_schedule_stays(
    schedule: str, known: bool, tmp_path: Path
) -> None:
    """Over 30 epochs, of which the search trains 9; among the space's schedules are the arm's."""
    text = (
        VARIED.replace("SCHEDULE", schedule) + "schedule: {choice: [one_cycle, {none: {warmup: {choice: [0, 0.1]}}}]}"
    )
    space = read(text.replace("batch_size: 32, epochs: 3", "batch_size: 32, schedule: none, epochs: 3"))
    search = Search(tmp_path, space, 0, "asha")
    arm = search.next_trial()
    assert arm is not None
    assert (arm.arm, arm.max_epochs) == ("source", 9)
    search.trial_ended(*ended(tmp_path, arm, [0.5] * 9))
    assert len(search.proposer.study.trials) == known
    own = replace(arm.config, epochs=9)
    assert space.parameters_of(own) is not None, "another one of its name is of the space"


def test_the_one_epoch_rule_lets_short_trials_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = read(VARIED.replace("SCHEDULE", "none").replace("[2, 4, 9]", "[1, 9]"))
    space = replace(space, budget=replace(space.budget, trials=8))
    runs: list[dict[str, int]] = []

    def train(study: Path, next_trial: Any, *_: Any, **__: Any) -> None:
        runs.append({})
        while (record := next_trial()) is not None:
            epochs = record.max_epochs if record.max_epochs == 1 or len(runs) == 2 else 1
            runs[-1][record.trial_id] = record.max_epochs
            accuracy = int(record.trial_id[1:]) / 10  # the last is best
            status = "completed" if epochs == record.max_epochs else "stopped"
            ended(study, record, [accuracy] * epochs, status=status, stop_reason="one-epoch")

    monkeypatch.setattr("study.search.run_trials", train)
    search = Search(tmp_path, space, 0, "one-epoch")
    splits: Any = None
    search.run(splits, Resources(1, 0.0, "fp32", 1), [])
    assert search.finished()
    tried, again = runs
    assert [tried[f"s{number:04}"] for number in (6, 7, 8)] == [9, 1, 1]
    assert again == {"s0006": 9}, "of the best three the only one that has not ended"
    assert Search(tmp_path, space, 0, "one-epoch").ends_left == 0


# The one-epoch rule


def test_a_kill_between_an_epoch_and_its_trials_end_does_not_hold_the_one_epoch_rule_up(
    space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = replace(space, budget=replace(space.budget, trials=5))
    before = Search(tmp_path, space, 0, "one-epoch")
    for accuracy in (0.5, 0.6, 0.7, 0.8):
        record = before.next_trial()
        assert record is not None
        fields: dict[str, Any] = {"stop_reason": "one-epoch", "best_epoch": 1, "ended": 5.0}
        ended(tmp_path, record, [accuracy], status="stopped", **fields)
    cut = before.next_trial()
    assert cut is not None
    ended(tmp_path, cut, [0.4], status="running")

    def to_the_end(study: Path, next_trial: Any, *_: Any, **__: Any) -> None:
        while (record := next_trial()) is not None:
            # As if the first epoch had not been the best, and no end, and no start that a failure made necessary.
            assert (record.status, record.best_epoch, record.ended, record.attempts) == ("pending", None, None, 0)
            ended(study, record, [0.9] * EPOCHS)

    monkeypatch.setattr("study.search.run_trials", to_the_end)
    after = Search(tmp_path, space, 0, "one-epoch")
    assert (len(after.ended), after.ends_left, after.finished()) == (5, 3, False)
    splits: Any = None
    after.run(splits, Resources(1, 0.0, "fp32", 1), [])
    assert (after.finished(), after.ends_left + len(after.ended)) == (True, 5)
    *best, last = sorted(records.read_trials(tmp_path, "search"), key=lambda r: r.status)
    assert (last.trial_id, last.status, last.stop_reason) == ("s0005", "stopped", "one-epoch")
    assert [(r.trial_id, r.status) for r in best[:3]] == [(f"s000{n}", "completed") for n in (2, 3, 4)]


def test_a_survivor_that_was_cut_off_counts_its_new_start_and_one_that_diverged_does_not_come_again(
    space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = replace(space, budget=replace(space.budget, trials=5))
    before = Search(tmp_path, space, 0, "one-epoch")
    courses = {0.5: "stopped", 0.6: "stopped", 0.7: "diverged", 0.8: "running", 0.4: "stopped"}
    for accuracy, status in courses.items():
        record = before.next_trial()
        assert record is not None
        course = [accuracy] if status == "stopped" else [accuracy, 0.1]
        ended(tmp_path, record, course, status=status, stop_reason="one-epoch", attempts=1)
    handed_out = {}

    def to_the_end(study: Path, next_trial: Any, *_: Any, **__: Any) -> None:
        while (record := next_trial()) is not None:
            handed_out[record.trial_id] = record.attempts
            ended(study, record, [0.9] * EPOCHS)

    monkeypatch.setattr("study.search.run_trials", to_the_end)
    after = Search(tmp_path, space, 0, "one-epoch")
    assert (after.ends_left, after.finished()) == (2, False)
    splits: Any = None
    after.run(splits, Resources(1, 0.0, "fp32", 1), [])
    assert handed_out == {"s0004": 1, "s0002": 0}
    assert after.finished()


def test_why_the_one_epoch_rule_stopped_a_trial_is_kept(
    space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = replace(space, budget=replace(space.budget, trials=5))
    search = Search(tmp_path, space, 0, "one-epoch")
    for accuracy in (0.5, 0.6, 0.7, 0.8, 0.4):
        record = search.next_trial()
        assert record is not None
        ended(tmp_path, record, [accuracy], status="stopped", stop_reason="one-epoch")

    def to_the_end(study: Path, next_trial: Any, *_: Any, **__: Any) -> None:
        while (record := next_trial()) is not None:
            ended(study, record, [0.9] * EPOCHS)

    monkeypatch.setattr("study.search.run_trials", to_the_end)
    splits: Any = None
    Search(tmp_path, space, 0, "one-epoch").run(splits, Resources(1, 0.0, "fp32", 1), [])
    fifty, *best, forty = records.read_trials(tmp_path, "search")
    assert [getattr(fifty, name) for name in records.NOT_STOPPED] == [1, 0.5, 0.6, 4, 5]
    assert [getattr(forty, name) for name in records.NOT_STOPPED] == [1, 0.4, 0.6, 5, 5]
    assert {getattr(record, name) for record in best for name in records.NOT_STOPPED} == {None}


# Trials that failed for good


def test_a_failed_trial_whose_folder_is_deleted_is_made_up_for(space: Space, tmp_path: Path) -> None:
    searched = Search(tmp_path, space, 0, "asha")
    while (record := searched.next_trial()) is not None:
        failed = record.trial_id in ("s0001", "s0009")
        searched.trial_ended(*ended(tmp_path, record, [0.5] * EPOCHS, status="failed" if failed else "completed"))
    for trial_id in ("s0001", "s0009"):
        shutil.rmtree(tmp_path / "search" / trial_id)
    again = Search(tmp_path, space, 0, "asha")
    assert not again.finished()
    arm, proposal, nothing = (again.next_trial() for _ in range(3))
    assert arm is not None
    assert proposal is not None
    assert (arm.arm, proposal.arm, nothing) == ("source", None, None)
