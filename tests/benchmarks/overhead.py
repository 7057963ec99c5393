"""What a study costs beside training: a trial's time outside its epochs, and the driver's time and memory.

`make bench` runs it: a search of 1,000 trials, proposed by TPE and judged by ASHA, of the smallest network on ten
images, whose epochs take milliseconds; and one of 24 trials of FashionCNN on 10,000 images.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import pandas as pd
import psutil
import ray
from table import write

from study import cluster, data, execution, records, space_file
from study.plan import make_plan
from study.provenance import cores
from study.records import EpochRecord, TrialRecord
from study.search import Search

TINY = "{resnet: {blocks: [1], widths: [1], stem: 1}}"
SPACE = """
model: {model}
optimizer: {{sgd: {{lr: {{log: [0.001, 0.1]}}}}}}
schedule: {{choice: [none, cosine]}}
epochs: {epochs}
batch_size: {batch}
arms:
  only: {{optimizer: {{sgd: {{lr: 0.01}}}}, schedule: none}}
split: {{train: {train}, validation: {validation}}}
budget: {{trials: {trials}, candidates: 0, seeds: 1}}
"""


class Watch:
    """Notes when trials begin and end and what their epochs took, with the driver's processor time and memory."""

    def __init__(self) -> None:
        self.process = psutil.Process()
        self.rows: list[tuple[str, str, float, float, float, float, float]] = []

    def trial_started(self, record: TrialRecord) -> None:
        self._note("started", record)

    def epoch_ended(self, record: TrialRecord, epoch: EpochRecord) -> None:
        self._note("epoch", record, epoch.seconds, epoch.cpu_seconds)

    def trial_ended(self, record: TrialRecord, epochs: list[EpochRecord]) -> None:
        self._note("ended", record)

    def _note(self, event: str, record: TrialRecord, seconds: float = 0.0, cpu_seconds: float = 0.0) -> None:
        used, memory = self.process.cpu_times(), self.process.memory_info().rss / 2**20
        now = time.perf_counter()
        self.rows.append((event, record.trial_id, now, seconds, cpu_seconds, used.user + used.system, memory))


def search(name: str, model: str, train: int, validation: int, epochs: int, trials: int) -> pd.DataFrame:
    """One search; a row for each begin, epoch and end of a trial, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "space.yaml"
        batch = min(128, train)
        file.write_text(
            SPACE.format(model=model, train=train, validation=validation, epochs=epochs, trials=trials, batch=batch)
        )
        space = space_file.load(file)
        plan = make_plan(space, "asha")
        watch = Watch()
        shared = ray.put(data.split(data.load(), train, validation, 10, seed=0))
        began, before = time.perf_counter(), psutil.cpu_times()
        Search(Path(folder), space, 0, "asha").run(shared, plan.resources, [watch])
        wall = time.perf_counter() - began
        after = psutil.cpu_times()
        ended = records.read_trials(Path(folder), "search")
    if len(ended) < trials or any(record.status == "failed" for record in ended):
        raise RuntimeError(
            f"got {len(ended)} trials, {[r.error for r in ended if r.error][:1]}, must be {trials} whole"
        )
    idle = after.idle + after.iowait - before.idle - before.iowait
    columns = ["event", "trial_id", "at_s", "seconds", "cpu_seconds", "driver_cpu_s", "driver_mib"]
    return pd.DataFrame(watch.rows, columns=columns).assign(
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
    with cluster.running(dashboard=False):
        found = [
            search("the smallest network", TINY, 10, 10, 3, 1000),
            search("fashion_cnn", "fashion_cnn", 10_000, 2000, 12, 24),
        ]
    write("overhead", pd.concat(found), pd.DataFrame(map(summary, found)))


if __name__ == "__main__":
    main()
