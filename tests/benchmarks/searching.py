"""What it costs to find a network as good as the second source's: by this search, and by what else could be done.

`make bench-search` runs it on all data, for hours, and goes on where it was cut off. Every trial is real: searches by
TPE and ASHA, each until it has found one, and random configurations trained to the end. From the latter's recorded
courses searches at random and by the one-epoch rule are put together, with replacement, and replayed. Costs are core
seconds of training and validation. In the sources' loop they are those of as many epochs at the rates that training.py
has measured here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import optuna
import pandas as pd
import ray
from scipy.stats import spearmanr
from table import FOLDER, write
from training import SOURCES

from analysis import tables
from study import cluster, data, execution, records, space_file
from study.execution import Resources
from study.provenance import cores
from study.records import TrialRecord
from study.search import ONE_EPOCH_KEEP, Rule, Search
from study.space import Budget, Space

RANDOM, SEARCHES = 24, 5
AT_ONCE = 4  # trials that a search goes on by until it has found one
REPLAYS, RESAMPLES = 2000, 400
GENERATOR = np.random.default_rng(0)


class Course(NamedTuple):
    """Epochs one after the other: validation accuracies in [0, 1], and core seconds."""

    accuracy: npt.NDArray[np.float64]
    seconds: npt.NDArray[np.float64]


def target() -> float:
    """Validation accuracy of the source's better arm after its last epoch, as it kept them; mean over six seeds."""
    epochs = tables.read(FOLDER.parent / "fashion_cnn", "epochs")
    last = epochs[(epochs.stage == "confirm") & epochs.arm.isin(["baseline", "augmented"])].groupby("trial_id").last()
    return float(last.groupby("arm", observed=True).val_accuracy.mean().max())


def train(folder: Path, space: Space, seed: int, rule: Rule, splits: ray.ObjectRef[data.Splits]) -> None:
    """Run the search in the folder to its end, from where it was."""
    Search(folder, space, seed, rule).run(splits, Resources(1, 0.0, "bf16", cores()), [])
    if any(record.status not in records.ENDED for record in records.read_trials(folder, "search")):
        raise KeyboardInterrupt


def draw(folder: Path, space: Space) -> None:
    """Random configurations, to be trained."""
    sampler = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(sampler=sampler)
    for number in range(1, RANDOM + 1):
        record = TrialRecord(f"s{number:04}", "search", space.suggest(study.ask()), 0, max_epochs=space.epochs)
        if not (folder / "search" / record.trial_id / "trial.json").exists():
            records.write_trial(folder, record)


def courses(folder: Path) -> pd.DataFrame:
    """A row an epoch of every trial, in the order of time."""
    rows = []
    for trial in records.read_trials(folder, "search"):
        at = trial.started or 0.0
        for epoch in records.read_epochs(records.trial_folder(folder, trial)):
            at += epoch.seconds
            rows.append(
                (folder.name, trial.trial_id, trial.arm, epoch.epoch, at, epoch.val_accuracy, epoch.cpu_seconds)
            )
    columns = ["search", "trial_id", "arm", "epoch", "at", "val_accuracy", "seconds"]
    return pd.DataFrame(rows, columns=columns).sort_values("at", ignore_index=True)


def course_of(rows: pd.DataFrame) -> Course:
    return Course(rows.val_accuracy.to_numpy(), rows.seconds.to_numpy())


def cost(course: Course, reach: float) -> tuple[float, bool]:
    """Seconds until the accuracy is reached, or of all; and whether it is."""
    reached = course.accuracy >= reach
    found = bool(reached.any())
    return float(course.seconds[: int(reached.argmax()) + 1 if found else None].sum()), found


def at_random(bank: list[Course], reach: float) -> float:
    """Seconds that trials one after the other take, each to its end, until one reaches the accuracy."""
    spent = 0.0
    while True:
        seconds, found = cost(bank[GENERATOR.integers(len(bank))], reach)
        spent += seconds
        if found:
            return spent


def one_epoch(bank: list[Course], reach: float) -> float:
    """Likewise of rounds in which as many as a search has are trained for an epoch, and the best three go on."""
    spent = 0.0
    while True:
        tried = [bank[place] for place in GENERATOR.integers(len(bank), size=RANDOM)]
        spent += sum(course.seconds[0] for course in tried)
        best = sorted(tried, key=lambda course: -course.accuracy[0])[:ONE_EPOCH_KEEP]
        for course in best:
            seconds, found = cost(Course(course.accuracy[1:], course.seconds[1:]), reach)
            spent += seconds
            if found:
                return spent


Way = tuple[Callable[[list[Course], float], float], list[Course]]  # how to search, and among which trials


def intervals(searches: list[float], ways: dict[str, Way], reach: float) -> pd.DataFrame:
    """Mean minutes of each way, and how many times as many as this search's; bootstrapped over trials and searches."""

    def means(of: list[float], places: list[int], replays: int) -> dict[str, float]:
        found = {"this search": float(np.mean(of))}
        for way, (run, bank) in ways.items():
            drawn = [bank[place] for place in places]
            found[way] = float(np.mean([run(drawn, reach) for _ in range(replays)]))
        return found

    _, bank = next(iter(ways.values()))
    finds = [cost(course, reach)[1] for course in bank]
    found = means(searches, [*range(len(bank))], REPLAYS)
    again = []
    while len(again) < RESAMPLES:
        places = [*GENERATOR.integers(len(bank), size=len(bank))]
        if any(finds[place] for place in places):  # a search among those that find nothing would go on for ever
            again.append(means([*GENERATOR.choice(searches, len(searches))], places, 50))
    table = pd.DataFrame(again)
    low, high = table.div(table["this search"], axis=0).quantile([0.025, 0.975]).to_numpy()
    rows = [
        {
            "": way,
            "core minutes, mean": mean / 60,
            "times this search's": mean / found["this search"],
            "95 % interval": f"{a:.1f} to {b:.1f}",
        }
        for (way, mean), a, b in zip(found.items(), low, high, strict=True)
    ]
    return pd.DataFrame(rows)


def main() -> None:
    reach = target()
    full = space_file.load(space_file.find("fashion_cnn.yaml")).at("full")
    splits = data.split(data.load(), full.split.train, full.split.validation, full.split.test, full.split.seed)
    folder = FOLDER / "searches"
    execution.quiet()
    with cluster.running(dashboard=False):
        shared = ray.put(splits)
        for seed in range(1, SEARCHES + 1):
            own, trials = folder / f"this-{seed}", AT_ONCE
            own.mkdir(parents=True, exist_ok=True)
            while not (courses(own).val_accuracy >= reach).any():
                train(own, replace(full, budget=Budget(trials, 0, 1)), seed, "asha", shared)
                trials += AT_ONCE
        (folder / "random").mkdir(exist_ok=True)
        draw(folder / "random", full)
        train(folder / "random", replace(full, arms={}, budget=Budget(RANDOM, 0, 1)), 0, "none", shared)
    found = {path.name: courses(path) for path in sorted(folder.iterdir())}
    bank = [course_of(rows) for _, rows in found["random"].groupby("trial_id")]
    rates = pd.read_parquet(FOLDER / "training.parquet")
    rates = rates[rates.case == "fashion_cnn, augmented"].groupby("variant").per_s.median()
    epoch = full.split.train / rates[SOURCES] + full.split.validation / rates[f"evaluation, {SOURCES}"]
    slow = [Course(course.accuracy, np.full(len(course.accuracy), epoch)) for course in bank]
    ways: dict[str, Way] = {
        "at random, to the end": (at_random, bank),
        "one epoch each, the best three to the end": (one_epoch, bank),
        "at random, to the end, in the sources' loop": (at_random, slow),
    }
    searches = [cost(course_of(found[f"this-{seed}"]), reach)[0] for seed in range(1, SEARCHES + 1)]
    last = [course.accuracy.max() for course in bank]
    write("searching", pd.concat(found.values()), intervals(searches, ways, reach))
    print(f"Accuracy to reach: {reach:.2%}; {sum(best >= reach for best in last)} of {RANDOM} random ones do.")
    for after in (1, 3, 9):
        early = [course.accuracy[:after].max() for course in bank]
        print(f"Rank correlation of the best after {after} epochs with that after all: {spearmanr(early, last)[0]:.2f}")


if __name__ == "__main__":
    main()
