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

from study.files import printable
from study.records import EpochRecord, Listener, TrialRecord

MARKS = {"completed": "✓", "stopped": "·", "diverged": "≠", "failed": "✗"}


class StageProgress(Listener):
    """Shows one stage, of `trials` of which some have `ended`. Plain lines, one an epoch, where there is no terminal.

    `ends_left`: how often a trial is still to end, for some do twice; `seconds`: what is expected of the rest.
    """

    def __init__(
        self, console: Console, stage: str, trials: int, ended: set[str], ends_left: int, seconds: float
    ) -> None:
        self.console, self.ends_left, self.expected_seconds = console, ends_left, seconds
        self.running: dict[str, tuple[TrialRecord, EpochRecord | None, float]] = {}  # with the best so far
        self.ended, self.trials = set(ended), trials
        self.ends = 0  # in this run
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
        self.task = self.bar.add_task(stage, total=trials, left="")

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Display while the stage runs."""
        if not self.console.is_terminal:
            yield
            return
        with Live(self, console=self.console, refresh_per_second=2, transient=True):
            yield

    def __rich__(self) -> Group:
        self.bar.update(self.task, completed=len(self.ended), left=self._left())
        lines = Table.grid(padding=(0, 2))
        for running in list(self.running.values()):  # another thread draws than the one in which trials begin and end
            lines.add_row(*self._cells(*running))
        return Group(lines, self.bar)

    @property
    def seconds(self) -> float:
        """Since the stage began."""
        return time.monotonic() - self.started

    def trial_started(self, record: TrialRecord) -> None:
        self.running[record.trial_id] = (record, None, 0.0)
        self.ended.discard(record.trial_id)
        if record.attempts > 1:
            self._say(f"↻ {record.label}: started again, attempt {record.attempts}")

    def epoch_ended(self, record: TrialRecord, epoch: EpochRecord, best: float) -> None:
        self.running[record.trial_id] = (record, epoch, best)
        if not self.console.is_terminal:
            self._say("  ".join(str(cell) for cell in self._cells(record, epoch, best)))

    def trial_ended(self, record: TrialRecord, epochs: list[EpochRecord]) -> None:
        self.running.pop(record.trial_id, None)
        self.ended.add(record.trial_id)
        self.ends += 1
        finite = [epoch.val_accuracy for epoch in epochs if not epoch.diverged]
        parts = [f"{MARKS[record.status]} {record.label}"]
        parts += [f"arm {record.arm}"] if record.arm else []
        parts += [f"{record.status} after {len(epochs)} of {record.max_epochs} epochs"]
        parts += [f"best validation {max(finite):.2%}"] if finite else []
        if record.stop_threshold is not None:
            parts += [f"below {record.stop_threshold:.2%}", f"rank {record.stop_rank} of {record.stop_trials}"]
        parts += [f"test {record.test_accuracy:.2%}"] if record.test_accuracy is not None else []
        parts += (record.error or "").strip().splitlines()[-1:]
        left = "" if self.console.is_terminal else f"  [{len(self.ended)}/{self.trials} trials, {self._left()}]"
        self._say(", ".join(parts) + left)

    def _cells(self, record: TrialRecord, epoch: EpochRecord | None, best: float) -> list[Text]:
        if epoch is None:
            return [Text(f"  {record.label}"), Text("starting")]
        return [
            Text(f"  {record.label}"),
            Text(f"epoch {epoch.epoch}/{record.max_epochs}"),
            Text("diverged" if epoch.diverged else f"validation {epoch.val_accuracy:.2%}"),
            Text(f"best {best:.2%}"),
            Text(f"{epoch.images_per_s:,.0f} images/s"),
            *([Text(f"arm {record.arm}")] if record.arm else []),
        ]

    def _left(self) -> str:
        """By the plan at first, and by the pace of the trials that ended the more of them have."""
        elapsed, share = self.seconds, min(self.ends / max(self.ends_left, 1), 1)
        if not share and all(epoch is None for _, epoch, _ in list(self.running.values())):
            return "starting workers"
        if share == 1:
            return "0 s left"
        by_plan = max(self.expected_seconds - elapsed, 0)
        by_pace = elapsed * (1 - share) / share if share else 0.0
        left = share * by_pace + (1 - share) * by_plan
        return f"{duration(max(left, 1))} left" if left else "longer than planned"

    def _say(self, line: str) -> None:
        self.console.print(Text(printable(line)), soft_wrap=True)


class TensorBoard(Listener):
    """Writes each trial's curves to tensorboard/<trial id>."""

    def __init__(self, study: Path) -> None:
        self.folder = study / "tensorboard"
        self.writers: dict[str, SummaryWriter] = {}

    def trial_started(self, record: TrialRecord) -> None:
        self._close(record)  # of an attempt that failed

    def epoch_ended(self, record: TrialRecord, epoch: EpochRecord, best: float) -> None:
        if record.trial_id not in self.writers:  # what an earlier attempt wrote from this epoch on no longer counts
            self.folder.mkdir(exist_ok=True)  # SummaryWriter would make the study's too
            folder = str(self.folder / record.trial_id)
            self.writers[record.trial_id] = SummaryWriter(folder, purge_step=epoch.epoch)
        writer = self.writers[record.trial_id]
        for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr", "images_per_s"):
            writer.add_scalar(name, getattr(epoch, name), epoch.epoch)
        writer.flush()

    def trial_ended(self, record: TrialRecord, epochs: list[EpochRecord]) -> None:
        self._close(record)

    def _close(self, record: TrialRecord) -> None:
        if writer := self.writers.pop(record.trial_id, None):
            writer.close()


def duration(seconds: float) -> str:
    """`47 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
