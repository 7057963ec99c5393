"""What a person sees while a study runs: a line for each running trial, a bar, the time left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text
from tensorboardX import SummaryWriter

from study.records import EpochRecord, TrialRecord

MARKS = {"completed": "✓", "stopped": "·", "diverged": "≠", "failed": "✗"}


class StageProgress:
    """Shows one stage. Plain lines, one an epoch, where the console is no terminal."""

    def __init__(self, console: Console, stage: str, trials: int, ended: int, stage_seconds: float) -> None:
        self.console, self.expected_seconds = console, stage_seconds * (1 - ended / max(trials, 1))
        self.running: dict[str, tuple[TrialRecord, EpochRecord | None]] = {}
        self.best: dict[str, float] = {}
        self.ended_before, self.trials = ended, trials
        self.ended_now: set[str] = set()
        self.started = time.monotonic()
        self.bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("trials"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
        )
        self.task = self.bar.add_task(stage, total=trials, completed=ended, left="")

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Display while the stage runs."""
        if not self.console.is_terminal:
            yield
            return
        with Live(self, console=self.console, refresh_per_second=2, transient=True):
            yield

    def __rich__(self) -> Group:
        self.bar.update(self.task, completed=self.ended, left=self._left())
        lines = Table.grid(padding=(0, 2))
        for record, epoch in self.running.values():
            lines.add_row(*self._cells(record, epoch))
        return Group(lines, self.bar)

    @property
    def ended(self) -> int:
        """Trials that have ended, in this run or before."""
        return self.ended_before + len(self.ended_now)

    @property
    def seconds(self) -> float:
        """Since the stage began."""
        return time.monotonic() - self.started

    def trial_started(self, record: TrialRecord) -> None:
        self.running[record.trial_id] = (record, None)
        if record.attempts > 1:
            self._say(f"↻ {record.label}: started again, attempt {record.attempts}")

    def epoch_ended(self, record: TrialRecord, epoch: EpochRecord) -> None:
        self.running[record.trial_id] = (record, epoch)
        self.best[record.trial_id] = max(self.best.get(record.trial_id, 0.0), epoch.val_accuracy)
        if not self.console.is_terminal:
            self._say("  ".join(str(cell) for cell in self._cells(record, epoch)))

    def trial_ended(self, record: TrialRecord, epochs: list[EpochRecord]) -> None:
        self.running.pop(record.trial_id, None)
        self.ended_now.add(record.trial_id)
        finite = [epoch.val_accuracy for epoch in epochs if not epoch.diverged]
        parts = [f"{MARKS[record.status]} {record.label}"]
        parts += [f"arm {record.arm}"] if record.arm else []
        parts += [f"{record.status} after {len(epochs)} of {record.max_epochs} epochs"]
        parts += [f"best validation {max(finite):.2%}"] if finite else []
        parts += [f"test {record.test_accuracy:.2%}"] if record.test_accuracy is not None else []
        parts += [record.error.strip().splitlines()[-1]] if record.error else []
        left = "" if self.console.is_terminal else f"  [{self.ended}/{self.trials} trials, {self._left()}]"
        self._say(", ".join(parts) + left)

    def _cells(self, record: TrialRecord, epoch: EpochRecord | None) -> list[Text]:
        if epoch is None:
            return [Text(f"  {record.label}"), Text("starting")]
        best = self.best[record.trial_id]
        return [
            Text(f"  {record.label}"),
            Text(f"epoch {epoch.epoch}/{record.max_epochs}"),
            Text("diverged" if epoch.diverged else f"validation {epoch.val_accuracy:.2%}"),
            Text(f"best {best:.2%}"),
            Text(f"{epoch.images_per_s:,.0f} images/s"),
        ]

    def _left(self) -> str:
        """The plan's time at first, and the pace of the trials that ended as soon as some have."""
        done, elapsed = self.ended - self.ended_before, self.seconds
        share = done / max(self.trials - self.ended_before, 1)
        by_pace = elapsed / share if share else self.expected_seconds
        total = share * by_pace + (1 - share) * self.expected_seconds
        return f"{duration(max(total - elapsed, 0))} left"

    def _say(self, line: str) -> None:
        self.console.print(Text(line), soft_wrap=True)


class TensorBoard:
    """Writes each trial's curves to tensorboard/<trial id>."""

    def __init__(self, study: Path) -> None:
        self.folder = study / "tensorboard"
        self.writers: dict[str, SummaryWriter] = {}

    def trial_started(self, record: TrialRecord) -> None:
        self.writers[record.trial_id] = SummaryWriter(str(self.folder / record.trial_id))

    def epoch_ended(self, record: TrialRecord, epoch: EpochRecord) -> None:
        writer = self.writers[record.trial_id]
        for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr", "images_per_s"):
            writer.add_scalar(name, getattr(epoch, name), epoch.epoch)
        writer.flush()

    def trial_ended(self, record: TrialRecord, epochs: list[EpochRecord]) -> None:
        if writer := self.writers.pop(record.trial_id, None):
            writer.close()


def duration(seconds: float) -> str:
    """`47 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
