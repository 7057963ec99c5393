"""What a study costs beside training: a trial's time outside its epochs, and the driver's time and memory.

`make bench` runs it: a search of 1,000 trials, proposed by TPE and judged by ASHA, of the smallest network on ten
images, whose epochs take milliseconds; with all that listens to a study, and the dashboard. What real trials cost
beside training searching.py tells.
"""

from __future__ import annotations

import io
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
from rich.console import Console
from table import write

from study import cluster, data, execution, records, space_file
from study.choose import make_plan
from study.opening import Settings
from study.plan import Plan
from study.progress import StageProgress, TensorBoard
from study.provenance import Book, cores
from study.records import EpochRecord, TrialRecord
from study.search import Search
from study.space import Space

NOTE = (
    "The driver's time is its own process's, not that of Ray's others. Cores not idle: the whole machine's, whatever "
    "makes them so; cores training: processor time of training and validation."
)
SPACE = """
model: {resnet: {blocks: [1], widths: [1], stem: 1}}
optimizer: {sgd: {lr: {log: [0.001, 0.1]}}}
schedule: {choice: [none, cosine]}
epochs: 3
batch_size: 10
arms:
  only: {optimizer: {sgd: {lr: 0.01}}, schedule: none}
split: {train: 10, validation: 10}
budget: {trials: 1000, candidates: 0, seeds: 1}
"""


class Watch:
    """Notes when trials begin and end and what their epochs took, with the driver's processor time and memory."""

    def __init__(self) -> None:
        self.process = psutil.Process()
        self.began = time.perf_counter()
        self.rows: list[tuple[str, str, float, float, float, float, float, float]] = []

    def trial_started(self, record: TrialRecord) -> None:
        self._note("started", record)

    def epoch_ended(self, record: TrialRecord, epoch: EpochRecord, best: float) -> None:
        accuracy = 0.0 if epoch.diverged else epoch.val_accuracy
        self._note("epoch", record, epoch.seconds, epoch.cpu_seconds, accuracy)

    def trial_ended(self, record: TrialRecord, epochs: list[EpochRecord]) -> None:
        self._note("ended", record)

    def _note(self, event: str, record: TrialRecord, *of_epoch: float) -> None:
        used, memory = self.process.cpu_times(), self.process.memory_info().rss / 2**20
        seconds, cpu_seconds, accuracy = of_epoch or (0.0, 0.0, 0.0)
        at = time.perf_counter() - self.began
        self.rows.append((event, record.trial_id, at, seconds, cpu_seconds, accuracy, used.user + used.system, memory))


COLUMNS = ["event", "trial_id", "at_s", "seconds", "cpu_seconds", "val_accuracy", "driver_cpu_s", "driver_mib"]


def search(name: str, folder: Path, space: Space, seed: int, shared: Any, plan: Plan) -> pd.DataFrame:
    """A search as a study runs it; a row for each begin, epoch and end of a trial, in turn.

    Raises RuntimeError where a trial fails.
    """
    settings = Settings("full", "asha", seed, space.scale, None, None, None, None)
    book = Book(folder, None, asdict(settings), plan.to_json(), space, [])
    shown = StageProgress(Console(file=io.StringIO()), "search", space.budget.trials, set(), space.budget.trials, 1.0)
    own, watch, before = Search(folder, space, seed, "asha"), Watch(), psutil.cpu_times()
    with book.stage("search"):
        own.run(shared, plan.resources, [shown, TensorBoard(folder), book, watch])
    wall, after = time.perf_counter() - watch.began, psutil.cpu_times()
    ended = records.read_trials(folder, "search")
    if not own.finished() or any(record.status == "failed" for record in ended):
        got = f"{len(ended)} trials, {[r.error for r in ended if r.error][:1]}"
        raise RuntimeError(f"{folder}: got {got}, must be {space.budget.trials} whole")
    idle = after.idle + after.iowait - before.idle - before.iowait
    return pd.DataFrame(watch.rows, columns=COLUMNS).assign(
        search=name, slots=plan.slots, wall_s=wall, machine_busy=1 - idle / (wall * psutil.cpu_count())
    )


def summary(found: pd.DataFrame) -> dict[str, object]:
    """Of the time from the first trial's end, when every worker is there, to the last trial's begin."""
    first = found.iloc[0]
    ended = found[found.event == "ended"]
    begin, end = ended.at_s.iloc[0], found[found.event == "started"].at_s.iloc[-1]
    epochs = found[found.event == "epoch"]
    within = (epochs.at_s.clip(upper=end) - (epochs.at_s - epochs.seconds).clip(lower=begin)).clip(lower=0)
    count = len(ended[(ended.at_s > begin) & (ended.at_s <= end)])
    last, settled = ended.iloc[-1], ended.iloc[50:]
    return {
        "search": first.search,
        "trials": len(ended),
        "s a trial outside training": (first.slots * (end - begin) - within.sum()) / count,
        "driver, ms a trial": 1000 * (last.driver_cpu_s - ended.driver_cpu_s.iloc[0]) / (len(ended) - 1),
        "driver after 50 trials, MiB": settled.driver_mib.iloc[0] if len(settled) else "",
        "at most later, MiB": settled.driver_mib.max() if len(settled) else "",
        "wall s": first.wall_s,
        "cores training": f"{epochs.cpu_seconds.sum() / (first.wall_s * cores()):.1%}",
        "cores not idle": f"{first.machine_busy:.1%}",
    }


def main() -> None:
    execution.quiet()
    with tempfile.TemporaryDirectory() as folder, cluster.running():
        (file := Path(folder) / "space.yaml").write_text(SPACE)
        space = space_file.load(file)
        shared = cluster.ray.put(data.split(data.load(), space.split.train, space.split.validation, 10, seed=0))
        found = search("the smallest network", Path(folder), space, 0, shared, make_plan(space, "asha"))
    write("overhead", found, pd.DataFrame([summary(found)]), NOTE)


if __name__ == "__main__":
    main()
