"""What is printed where the terminal, or the file in its place, has another encoding than UTF-8."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from made_trainer import PLAIN
from made_trials import ended
from rich.console import Console

from study import run
from study.files import plain_signs
from study.progress import StageProgress
from study.records import TrialRecord


def output_in(encoding: str, monkeypatch: pytest.MonkeyPatch) -> io.BytesIO:
    """The bytes that standard output and error get from now on, in an encoding."""
    found = io.BytesIO()
    for name in ("sys.stdout", "sys.stderr"):
        monkeypatch.setattr(name, io.TextIOWrapper(found, encoding, write_through=True))
    return found


@pytest.mark.parametrize(
    ("encoding", "marks", "middle"),
    [("ascii", "+x", "."), ("latin-1", "+x", "·"), ("gbk", "+x", "·"), ("utf-8", "✓✗", "·")],
)
@pytest.mark.parametrize("terminal", [False, True])
def test_a_sign_that_the_terminal_lacks_is_a_plain_one(
    terminal: bool, marks: str, middle: str, encoding: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In the lines of trials that end, beside the bars of a terminal."""
    output = output_in(encoding, monkeypatch)
    plain_signs()
    shown = StageProgress(Console(force_terminal=terminal, width=200), "search", 3, set(), 3, 10.0)
    with shown.shown():
        for number, status in enumerate(("completed", "failed", "stopped"), 1):
            trial = TrialRecord(f"s{number:04}", "search", PLAIN, 0)
            shown.trial_ended(*ended(tmp_path, trial, [0.5], status=status))
    lines = [line for line in output.getvalue().decode(encoding).splitlines() if f" {PLAIN.label} " in line]
    assert [line.lstrip("\r\x1b[0123456789AK;?lh")[0] for line in lines] == [*marks, middle]


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_bad_input_is_told_in_any_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With what no encoding has, too: a byte of a file's name that is no text."""
    output = output_in(encoding, monkeypatch)
    assert run.main(["--space", "é–\udcff.yaml", "--results", str(tmp_path)]) == 2
    said = output.getvalue().decode(encoding)
    assert (r"\xe9-\udcff.yaml" if encoding == "ascii" else r"é–\udcff.yaml") in said
