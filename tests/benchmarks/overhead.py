"""What a study costs beside training: a trial's time outside its epochs, and the driver's time and memory.

`make bench` runs it: a search of 1,000 trials, proposed by TPE and judged by ASHA, of the smallest network on ten
images, whose three epochs take milliseconds; and one of 24 trials of FashionCNN on 20,000 images.
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
from study.execution import Resources
from study.provenance import cores
from study.records import EpochRecord, TrialRecord
from study.search import Search

TINY = "{resnet: {blocks: [1], widths: [1], stem: 1}}"
SPACE = """
model: {model}
optimizer: {{sgd: {{lr: {{log: [0.001, 0.1]}}}}}}
schedule: {{choice: [none, cosine]}}
epochs: 3
batch_size: {batch}
arms:
  only: {{optimizer: {{sgd: {{lr: 0.01}}}}, schedule: none}}
split: {{train: {images}, validation: 10}}
budget: {{trials: {trials}, candidates: 0, seeds: 1}}
"""


class Watch:
    """Notes, as trials end, the driver's processor time and memory and what each trial took outside its epochs."""

    def __init__(self) -> None:
        self.process = psutil.Process()
        self.rows: list[tuple[str, float, float, float, float]] = []
        self.began: dict[str, float] = {}

    def trial_started(self, record: TrialRecord) -> None:
        self.began[record.trial_id] = time.perf_counter()

    def epoch_ended(self, record: TrialRecord, epoch: EpochRecord) -> None: ...

    def trial_ended(self, record: TrialRecord, epochs: list[EpochRecord]) -> None:
        wall = time.perf_counter() - self.began[record.trial_id]
        trained = sum(epoch.seconds for epoch in epochs)
        used = self.process.cpu_times()
        memory = self.process.memory_info().rss / 2**20
        self.rows.append((record.trial_id, wall - trained, trained, used.user + used.system, memory))


def search(model: str, images: int, trials: int) -> pd.DataFrame:
    """One search; a row a trial, in the order they ended."""
    loaded = data.load()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "space.yaml"
        file.write_text(SPACE.format(model=model, images=images, trials=trials, batch=min(128, images)))
        space = space_file.load(file)
        watch = Watch()
        shared = ray.put(data.split(loaded, images, 10, 10, seed=0))
        began, before = time.perf_counter(), psutil.cpu_times()
        Search(Path(folder), space, 0, "asha").run(shared, Resources(1, 0.0, "bf16", cores()), [watch])
        wall = time.perf_counter() - began
        after = psutil.cpu_times()
        idle = after.idle + after.iowait - before.idle - before.iowait
        busy = 1 - idle / (wall * psutil.cpu_count())
        ended = records.read_trials(Path(folder), "search")
    if len(ended) < trials:
        raise RuntimeError(f"got {len(ended)} trials, must be {trials}: the search was interrupted")
    columns = ["trial_id", "outside_s", "trained_s", "driver_cpu_s", "driver_mib"]
    return pd.DataFrame(watch.rows, columns=columns).assign(model=model, study_s=wall, busy=busy)


def summary(found: pd.DataFrame) -> dict[str, object]:
    """Of what began after each slot's first trial."""
    later = found.iloc[2:]
    first, last = later.iloc[0], later.iloc[-1]
    settled = found.iloc[min(50, len(found) - 1) :]
    return {
        "model": found.model.iloc[0],
        "trials": len(found),
        "outside training, median s a trial": later.outside_s.median(),
        "95th percentile": later.outside_s.quantile(0.95),
        "driver, ms a trial": 1000 * (last.driver_cpu_s - first.driver_cpu_s) / (len(later) - 1),
        "driver after 50 trials, MiB": settled.driver_mib.iloc[0],
        "at most, MiB": settled.driver_mib.max(),
        "wall s": found.study_s.iloc[0],
        "cores busy": f"{found.busy.iloc[0]:.1%}",
    }


def main() -> None:
    execution.quiet()
    with cluster.running(dashboard=False):
        found = [search(TINY, 10, 1000), search("fashion_cnn", 20_000, 24)]
    write("overhead", pd.concat(found), pd.DataFrame(map(summary, found)))


if __name__ == "__main__":
    main()
