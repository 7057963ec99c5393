"""What is shown of a stage: how many trials have ended, and what time is left."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from made_trainer import PLAIN
from made_trials import ended
from rich.console import Console

from study import progress
from study.progress import StageProgress, TensorBoard
from study.records import TrialRecord


class Clock:
    """In place of the module `time`."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(progress, "time", found)
    return found


def end(shown: StageProgress, number: int, study: Path) -> None:
    record, epochs = ended(study, TrialRecord(f"s{number:04}", "search", PLAIN, 0), [0.5])
    shown.trial_started(record)
    shown.trial_ended(record, epochs)


def test_time_left_goes_over_from_the_plan_to_the_pace(clock: Clock, tmp_path: Path) -> None:
    shown = StageProgress(Console(file=io.StringIO()), "search", 6, {"s0001", "s0002"}, 4, 100.0)
    clock.now += 40
    end(shown, 3, tmp_path)
    assert shown._left() == "75 s left"  # a quarter by the pace of one in 40 s, 120; the rest by the plan, 60
    clock.now += 40
    for number in (4, 5):
        end(shown, number, tmp_path)
    assert shown._left() == "25 s left"  # three quarters by the pace, 80 / 3; the rest by the plan, 20
    end(shown, 6, tmp_path)
    assert (shown._left(), len(shown.ended)) == ("0 s left", 6)


def test_why_a_trial_was_stopped_is_said(tmp_path: Path) -> None:
    printed = io.StringIO()
    shown = StageProgress(Console(file=printed, width=200), "search", 2, set(), 2, 10.0)
    why = {"stop_epoch": 1, "stop_accuracy": 0.841, "stop_threshold": 0.85, "stop_rank": 7, "stop_trials": 9}
    trial = TrialRecord("s0001", "search", PLAIN, 0, max_epochs=12)
    shown.trial_ended(*ended(tmp_path, trial, [0.841], status="stopped", stop_reason="asha", **why))
    assert "stopped after 1 of 12 epochs, best validation 84.10%, below 85.00%, rank 7 of 9  [" in printed.getvalue()


def test_what_failed_is_said_in_one_line_that_acts_on_nothing(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    shown = StageProgress(console, "search", 2, set(), 2, 10.0)
    for number, error in enumerate(("first\nKeyError: '\x1b[2J\x1b]52;c;Y3Vy\x07'", " \n"), 1):
        trial = TrialRecord(f"s{number:04}", "search", PLAIN, 0)
        shown.trial_ended(*ended(tmp_path, trial, [0.5], status="failed", error=error))
    said = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(said) == 2
    assert r"KeyError: '\x1b[2J\x1b]52;c;Y3Vy\x07'" in said[0]
    assert "".join(said).isprintable()


def test_a_trial_that_is_taken_up_shows_the_best_of_all_its_epochs(tmp_path: Path) -> None:
    printed = io.StringIO()
    shown = StageProgress(Console(file=printed, width=200), "search", 2, set(), 2, 10.0)
    record, epochs = ended(tmp_path, TrialRecord("s0001", "search", PLAIN, 0), [0.91, 0.89])
    shown.trial_started(record)
    shown.epoch_ended(record, epochs[1], 0.91)
    assert "validation 89.00%  best 91.00%" in printed.getvalue()


def test_no_time_is_left_at_the_end_only(clock: Clock, tmp_path: Path) -> None:
    shown = StageProgress(Console(file=io.StringIO()), "search", 2, set(), 2, 10.0)
    record, epochs = ended(tmp_path, TrialRecord("s0001", "search", PLAIN, 0), [0.5])
    shown.trial_started(record)
    clock.now += 8
    assert shown._left() == "starting workers"
    clock.now += 7  # a start that takes longer than the plan knows of
    assert shown._left() == "starting workers"
    clock.now -= 7
    shown.epoch_ended(record, epochs[0], 0.5)
    assert shown._left() == "2 s left"
    clock.now += 1.8
    assert shown._left() == "1 s left"
    clock.now += 1
    assert shown._left() == "longer than planned"
    shown.trial_ended(record, epochs)
    assert shown._left() == "5 s left"  # half by the pace of one in 10.8 s, half by the plan, of which nothing is left
    end(shown, 2, tmp_path)
    assert shown._left() == "0 s left"


def test_the_best_under_the_one_epoch_rule_end_twice_and_count_once(clock: Clock, tmp_path: Path) -> None:
    printed = io.StringIO()
    shown = StageProgress(Console(file=printed), "search", 5, {"s0001"}, 4 + 3, 300.0)
    for number in (2, 3, 4, 5):
        end(shown, number, tmp_path)
    assert len(shown.ended) == 5
    assert shown._left() != "0 s left"
    record, _ = ended(tmp_path, TrialRecord("s0001", "search", PLAIN, 0), [0.5])
    shown.trial_started(record)
    assert len(shown.ended) == 4
    for number in (1, 2, 3):
        end(shown, number, tmp_path)
    assert (shown._left(), len(shown.ended)) == ("0 s left", 5)
    assert "[5/5 trials, 0 s left]" in printed.getvalue().splitlines()[-1]


class Writer:
    """In place of tensorboardX's: what it was made with and told."""

    made: list[Writer]

    def __init__(self, folder: str, purge_step: int) -> None:
        self.folder, self.purge_step, self.open = Path(folder), purge_step, True
        self.steps: list[int] = []
        self.made.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.steps += [step] * (name == "val_loss")

    def flush(self) -> None: ...

    def close(self) -> None:
        self.open = False


def test_an_epoch_trained_again_is_once_in_tensorboards_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Writer, "made", [], raising=False)
    monkeypatch.setattr(progress, "SummaryWriter", Writer)
    record, epochs = ended(tmp_path, TrialRecord("s0001", "search", PLAIN, 0), [0.5, 0.6, 0.7])
    board = TensorBoard(tmp_path)
    for attempt in (epochs[:2], epochs[1:]):  # the checkpoint was that of the first epoch
        board.trial_started(record)
        for epoch in attempt:
            board.epoch_ended(record, epoch, epoch.val_accuracy)
    first, second = Writer.made
    assert (first.steps, second.steps, second.purge_step) == ([1, 2], [2, 3], 2)
    assert first.folder == second.folder == tmp_path / "tensorboard" / "s0001"
    assert (first.open, second.open) == (False, True)
    board.trial_ended(record, epochs)
    assert not second.open
