"""What it gains that freed memory is kept: trials with the settings of the allocator in `study`, and without them.

`make bench` runs it on a machine without a GPU. Of two Ray clusters at once each trains the same random configurations
of fashion_cnn.yaml's preview one after the other, in one worker: so a study does it, and in a process that trains
one network alone nothing of this is seen.
"""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import torch
from searching import at_random
from table import write

from study import cluster, data, execution, space_file
from study.execution import Resources
from study.probe import faster_precision
from study.space import Budget
from study.trainer import Precision

TURNS, TRIALS = 5, 8
SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")
WAYS = {"with": True, "without": False}
NOTE = (
    "With and without the settings of the allocator in `study`, at once: core seconds of training and validation of "
    "the same trials, one after another in a worker of Ray's."
)


def trained(keeps: bool, precision: Precision) -> float:
    """Core seconds of training and validation."""
    for name in () if keeps else SETTINGS:
        del os.environ[name]
    preview = space_file.load(space_file.find("fashion_cnn.yaml")).at("preview")
    space = replace(preview, arms={}, budget=Budget(TRIALS, 0, 1))
    splits = data.split(data.load(), space.split.train, space.split.validation, space.split.test, space.split.seed)
    execution.quiet()
    with tempfile.TemporaryDirectory() as folder, cluster.running():
        shared = cluster.ray.put(splits)
        epochs = at_random(Path(folder), space, shared, Resources(1, 0.0, precision, 1), TRIALS)
    return float(epochs.core_seconds.sum())


def main() -> None:
    if torch.cuda.is_available():
        print("Not measured with a GPU: what the allocator's settings gain.")
        return
    precision = faster_precision(False)
    rows = []
    for turn in range(TURNS):
        with ProcessPoolExecutor(len(WAYS), get_context("spawn")) as pool:  # a process reads them when it begins
            found = pool.map(trained, WAYS.values(), [precision] * len(WAYS))
            rows += [(turn, way, seconds) for way, seconds in zip(WAYS, found, strict=True)]
    table = pd.DataFrame(rows, columns=["turn", "settings", "core_seconds"])
    write("allocator", table, summary(table), NOTE)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    of = table.pivot(index="turn", columns="settings", values="core_seconds").add_prefix("core s ")
    of["times"] = of["core s without"] / of["core s with"]
    rows = [*zip(map(str, of.index + 1), of.itertuples(index=False), strict=True), ("median", of.median())]
    return pd.DataFrame([{"turn": name, **dict(zip(of, map("{:.3g}".format, row), strict=True))} for name, row in rows])


if __name__ == "__main__":
    main()
