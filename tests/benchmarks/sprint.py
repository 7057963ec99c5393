"""What it costs a search of sprint.yaml to first read the second source's validation accuracy, beside chance.

`make bench-sprint` runs it without a GPU, for less than an hour, and goes on where it was cut off. Random trials are
the 48 configurations of searching.md, trained to the end; what an epoch costs in the sources' loop is measured here
before each search, on all cores at once. The space's arm is left out of the searches.
"""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from overhead import search
from searching import Course, _course, cost, interval, until_found
from sources_loop import SOURCE, SourcesLoop
from table import FOLDER, write

from study import cluster, data, execution, provenance, space_file
from study.choose import make_plan
from study.config import MODELS, Adam, TrialConfig
from study.data import Splits
from study.provenance import cores
from study.space import Budget

SEEDS = range(11, 16)
LEVEL = 0.9277  # the source's better arm after its last epoch, mean over six seeds
IMAGES = 6400  # trained on and validated with, in the sources' loop, to know its rate
NOTES = (
    "Reached: one epoch's validation accuracy reads as much. A search costs all cores from its begin until that epoch "
    "has ended; random trials in the sources' loop the processor time of training and validation alone, of as many of "
    "their 12 epochs as it takes, one after the other until one finds it. Interval: a bootstrap of the random trials, "
    "and Student's t for the logarithm of the searches' costs.",
)


def loop_seconds(seed: int) -> float:
    """Return core seconds of an epoch of 50,000 images and its validation with 10,000 in the sources' loop."""
    torch.set_num_threads(1)
    splits = data.split(data.load(), IMAGES, IMAGES, 100, seed=seed)
    config = TrialConfig(model=MODELS["fashion_cnn"], optimizer=Adam(), augmentation=SOURCE)
    loop = SourcesLoop(config, seed, splits, torch.device("cpu"))
    began = time.process_time()
    loop.train_epoch()
    trained = time.process_time()
    loop.evaluate()
    return (50_000 * (trained - began) + 10_000 * (time.process_time() - trained)) / IMAGES


def collect(folder: Path) -> dict[int, pd.DataFrame]:
    """Return every event of each search; those that are there are not run again. Raises RuntimeError."""
    full = space_file.load(space_file.find("sprint.yaml")).at("full")
    space = replace(full, arms={}, budget=Budget(full.budget.trials, 0, 1))
    splits: Splits = data.split(data.load(), 50_000, 10_000, 10_000, 0)
    plan = make_plan(space, "asha")
    execution.quiet()
    found = {}
    with cluster.running():
        shared = cluster.ray.put(splits)
        for seed in SEEDS:
            kept, own = folder / f"sprint-{seed}.parquet", folder / f"sprint-{seed}"
            if not kept.exists():
                with ProcessPoolExecutor(cores(), get_context("spawn")) as pool:
                    slow = float(np.mean(list(pool.map(loop_seconds, range(cores())))))
                shutil.rmtree(own, ignore_errors=True)
                own.mkdir(parents=True)
                events = search(f"sprint-{seed}", own, space, seed, shared, plan)
                events.attrs = {
                    "loop_seconds": slow,
                    "cpu": provenance.hardware()["cpu"],
                    "commit": provenance.git_state("tests/benchmarks", "study")["commit"],
                }
                events.to_parquet(kept, index=False)
            found[seed] = pd.read_parquet(kept)
            if found[seed].attrs["cpu"] != provenance.hardware()["cpu"]:
                raise RuntimeError(f"{kept}: got another processor's search, must be this one's; delete it")
    return found


def course(events: pd.DataFrame) -> Course:
    """Return the epochs of a search in the order of time, with the seconds of all cores since the one before."""
    epochs = events[events.event == "epoch"]
    return Course(epochs.val_accuracy.to_numpy(), cores() * epochs.at_s.diff().fillna(epochs.at_s).to_numpy())


def summary(searches: dict[int, Course], bank: list[Course], seconds: float) -> pd.DataFrame:
    """Return a row a way. `bank`: the random trials; `seconds`: of an epoch in the sources' loop."""
    tries = [cost(searched, LEVEL) for searched in searches.values()]
    ends = [cost(Course(t.accuracy, np.full(len(t.accuracy), seconds)), LEVEL) for t in bank]
    own, chance = until_found(tries), until_found(ends)
    each = ", ".join(f"{spent / 60:.1f}{'' if hit else ' in vain'}" for spent, hit in tries)
    return pd.DataFrame([
        {"": "a search of sprint.yaml", "core minutes": own / 60, "times": "1", "which": f"each: {each}"},
        {
            "": "random, to the end, in the sources' loop", "core minutes": chance / 60, "times": f"{chance / own:.1f}",
            "which": f"{sum(hit for _, hit in ends)} of {len(ends)} reach it; "
            f"{interval(tries, ends, np.random.default_rng(0))}",
        },
    ])  # fmt: skip


def main() -> None:
    if torch.cuda.is_available():  # a share of a GPU and a core are no one unit of cost
        raise SystemExit("sprint.py: got a GPU, must be a machine without one")
    events = collect(FOLDER / "searches")
    random = pd.read_parquet(FOLDER / "searching.parquet").query("search == 'random'")
    bank = [_course(trial) for _, trial in random.groupby("trial_id")]
    seconds = float(np.mean([table.attrs["loop_seconds"] for table in events.values()]))
    table = pd.concat([of.assign(search=f"sprint-{seed}", loop_seconds=of.attrs["loop_seconds"])
                       for seed, of in events.items()], ignore_index=True)  # fmt: skip
    commits = f"To {LEVEL:.2%}. Searched at commit {', '.join(sorted({of.attrs['commit'] for of in events.values()}))}."
    write("sprint", table, summary({seed: course(of) for seed, of in events.items()}, bank, seconds), *NOTES, commits)


if __name__ == "__main__":
    main()
