"""What it costs to first read the second source's validation accuracy: by this search, and by what else could be done.

`make bench-search` runs it on all data, for hours, on a machine without a GPU, and goes on where it was cut off. Every
trial is real: searches as in the committed study fashion_cnn, by TPE and ASHA, and random configurations trained to the
end, among whose recorded courses ASHA, the one-epoch rule and chance search again. No arm is among them: one is what is
to be matched. What else is counted, and how, NOTES say.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import optuna
import pandas as pd
import torch
from overhead import NOTE, search
from overhead import summary as beside
from scipy import stats
from table import FOLDER, write
from training import SOURCES

from analysis import tables
from study import cluster, data, execution, provenance, records, space_file
from study.choose import make_plan
from study.execution import Resources
from study.provenance import cores
from study.records import TrialRecord
from study.schedulers import ONE_EPOCH_KEEP, build_scheduler, replay
from study.search import Search
from study.space import Budget, Space

RANDOM, SEEDS = 48, range(11, 16)  # confirm's seeds are 1 to 6
ROUND = 24  # random configurations of which ASHA and the one-epoch rule choose
REPLAYS, RESAMPLES = 200, 1000
NOTES = (
    "Reached: one epoch's validation accuracy reads as much, whoever's. Nothing is confirmed.",
    "This search costs all cores from its begin until that epoch has ended, with all that lies between trainings. All "
    "others cost the processor time of training and validation alone, as its second row does; in the sources' loop "
    "that of as many epochs, 12 where the source had 30, at the rates of training.md.",
    "Random ways are repeated until one finds it: mean cost over the share that does. Intervals: a bootstrap of the "
    "random trials, and Student's t for the logarithm of the searches' costs.",
)
LEVELS = {"last": "as the source kept it, after its last epoch", "best": "at its best epoch"}


class Course(NamedTuple):
    """Epochs one after the other: validation accuracies in [0, 1], and what each costs in core seconds."""

    accuracy: npt.NDArray[np.float64]
    seconds: npt.NDArray[np.float64]


def targets() -> dict[str, float]:
    """Validation accuracy of the source's better arm, mean over its six seeds, by which epoch is taken."""
    epochs = tables.read(FOLDER.parent / "fashion_cnn", "epochs")
    ours = epochs[(epochs.stage == "confirm") & epochs.arm.isin(["baseline", "augmented"])].groupby("trial_id")
    of = {"last": ours.last(), "best": ours.agg({"arm": "first", "val_accuracy": "max"})}
    return {name: float(t.groupby("arm", observed=True).val_accuracy.mean().max()) for name, t in of.items()}


def rates() -> dict[str, float]:
    """Images a core second of the sources' loop, in training and in validation. Raises RuntimeError."""
    measured = pd.read_parquet(FOLDER / "training.parquet")
    if measured.attrs["hardware"] != provenance.hardware():
        raise RuntimeError("results/benchmarks/training.parquet: got another machine's rates, must be this one's")
    of = measured.groupby(["case", "variant"]).per_s.median()
    return {
        "train": of["fashion_cnn, augmented", SOURCES],
        "validation": of["fashion_cnn", f"evaluation, {SOURCES}"],
    }


def collect(space: Space, folder: Path) -> dict[str, pd.DataFrame]:
    """Every event of the searches and every epoch of the random configurations; what is there is not run again.

    Raises RuntimeError where a trial fails, or what is there is another machine's or of another space.
    """
    searched = repr(replace(space, text="")).encode()
    of = {"hardware": provenance.hardware(), "space": hashlib.sha256(searched).hexdigest()}
    splits = data.split(data.load(), space.split.train, space.split.validation, space.split.test, space.split.seed)
    plan = make_plan(space, "asha")
    execution.quiet()
    found = {}
    with cluster.running():
        shared = cluster.ray.put(splits)
        for name, seed in {**{f"this-{seed}": seed for seed in SEEDS}, "random": 0}.items():
            kept, own = folder / f"{name}.parquet", folder / name
            if not kept.exists():
                commit = provenance.git_state("tests/benchmarks")["commit"]
                if name == "random":
                    measured = at_random(own, space, shared, plan.resources, RANDOM)
                else:  # of one that was cut off, order and cost are not known
                    shutil.rmtree(own, ignore_errors=True)
                    own.mkdir(parents=True)
                    measured = search(name, own, space, seed, shared, plan)
                measured.attrs = {**of, "commit": commit}
                measured.to_parquet(kept, index=False)
            found[name] = pd.read_parquet(kept)
            if {key: found[name].attrs[key] for key in of} != of:
                raise RuntimeError(f"{kept}: got another machine's or space's, must be this one's; delete it")
    return found


def at_random(folder: Path, space: Space, shared: Any, resources: Resources, count: int) -> pd.DataFrame:
    """A row an epoch of random configurations that are trained to the end; goes on where it was cut off."""
    draw(folder, space, count)
    Search(folder, space, 0, "none").run(shared, resources, [])
    known = records.read_trials(folder, "search")
    if bad := [record.trial_id for record in known if record.status not in ("completed", "diverged")]:
        raise RuntimeError(f"{folder}: got {bad} failed or cut off, must be whole; delete their folders")
    rows = [(trial, epoch) for trial in known for epoch in records.read_epochs(records.trial_folder(folder, trial))]
    return pd.DataFrame(
        [(t.trial_id, e.epoch, 0.0 if e.diverged else e.val_accuracy, e.cpu_seconds) for t, e in rows],
        columns=["trial_id", "epoch", "val_accuracy", "core_seconds"],
    )


def draw(folder: Path, space: Space, count: int) -> None:
    """Random configurations, to be trained to the end."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, count + 1):
        record = TrialRecord(f"s{number:04}", "search", space.suggest(study.ask()), 0, max_epochs=space.epochs)
        if not (folder / "search" / record.trial_id / "trial.json").exists():
            records.write_trial(folder, record)


def courses(found: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """A row an epoch: of a search in the order of time, with the seconds of all cores since the epoch before ended.

    `training_seconds` leaves out what is not training or validation.
    """
    parts = []
    for name, of in found.items():
        if name != "random":
            of = of[of.event == "epoch"]
            since = of.at_s.diff().fillna(of.at_s)
            of = of.assign(core_seconds=cores() * since, epoch=of.groupby("trial_id").cumcount() + 1)
        of = of.assign(search=name, training_seconds=of["core_seconds" if name == "random" else "cpu_seconds"])
        parts.append(of[["search", "trial_id", "epoch", "val_accuracy", "core_seconds", "training_seconds"]])
    return pd.concat(parts, ignore_index=True)


def cost(course: Course, reach: float) -> tuple[float, bool]:
    """Seconds until the accuracy is reached, or of all; and whether it is."""
    reached = course.accuracy >= reach
    found = bool(reached.any())
    return float(course.seconds[: int(reached.argmax()) + 1 if found else None].sum()), found


def until_found(tries: Sequence[tuple[float, bool]]) -> float:
    """Expected seconds where such tries follow each other until one finds it: mean cost over the share that finds."""
    share = np.mean([found for _, found in tries])
    return float(np.mean([seconds for seconds, _ in tries]) / share) if share else math.inf


def in_turn(parts: Sequence[Course]) -> Course:
    return Course(*(np.concatenate([part[k] for part in parts]) for k in (0, 1)))


def one_epoch(trials: Sequence[Course]) -> Course:
    """Each trial's first epoch, then the rest of the best three."""
    first = [Course(t.accuracy[:1], t.seconds[:1]) for t in trials]
    best = sorted(trials, key=lambda t: -t.accuracy[0])[:ONE_EPOCH_KEEP]
    return in_turn([*first, *(Course(t.accuracy[1:], t.seconds[1:]) for t in best)])


def by_asha(trials: Sequence[Course]) -> Course:
    """Trials one after the other, each up to where ASHA stops it."""
    scheduler = build_scheduler("asha", max(len(t.accuracy) for t in trials))
    parts = []
    for number, trial in enumerate(trials):
        best = np.maximum.accumulate(trial.accuracy)
        course = [(k, float(v)) for k, v in enumerate(best, 1)]
        last = replay(scheduler, str(number), course, len(best), heed=True)
        parts.append(Course(trial.accuracy[:last], trial.seconds[:last]))
    return in_turn(parts)


def ways(bank: Sequence[Course], slow: Sequence[Course], reach: float, rng: np.random.Generator) -> dict[str, float]:
    """Expected core seconds until the accuracy is reached, by what can be replayed of the random trials."""
    rounds = [rng.permutation(len(bank))[:ROUND] for _ in range(REPLAYS)]
    return {
        "random, to the end": until_found([cost(t, reach) for t in bank]),
        f"random, rounds of {ROUND}, ASHA": until_found(
            [cost(by_asha([bank[k] for k in places]), reach) for places in rounds]
        ),
        f"random, rounds of {ROUND}, one epoch each and the best three to the end": until_found(
            [cost(one_epoch([bank[k] for k in places]), reach) for places in rounds]
        ),
        "random, to the end, in the sources' loop": until_found([cost(t, reach) for t in slow]),
    }


def summary(found: pd.DataFrame, reach: dict[str, float], seconds: float) -> pd.DataFrame:
    """Core minutes of each way and how many times this search's, with an interval for the sources' loop.

    `seconds`: of an epoch in the sources' loop. Where no random trial reaches the accuracy, a bound takes the place of
    the interval: of none in n at most 3 / n could, with 95 % confidence.
    """
    rng = np.random.default_rng(0)
    of = {name: [_course(t) for _, t in rows.groupby("trial_id")] for name, rows in found.groupby("search")}
    searches = [found[found.search == f"this-{seed}"] for seed in SEEDS]
    bank = of["random"]
    slow = [Course(t.accuracy, np.full(len(t.accuracy), seconds)) for t in bank]
    rows = []
    for name, level in reach.items():
        tries = [cost(_course(events), level) for events in searches]
        own = until_found(tries)
        ends = [cost(trial, level) for trial in slow]
        hits, sure = sum(hit for _, hit in ends), interval(tries, ends, rng)
        each = ", ".join(f"{spent / 60:.0f}{'' if hit else ' in vain'}" for spent, hit in tries)
        head = f"{level:.2%}, {LEVELS[name]}"
        rows.append(_row(head, "this search", own, own, f"each: {each}"))
        alone = until_found([cost(_course(events, "training_seconds"), level) for events in searches])
        rows.append(_row(head, "this search, training and validation alone", alone, own, ""))
        for way, spent in ways(bank, slow, level, rng).items():
            of_trials = f"{hits} of {len(ends)} reach it" if way == "random, to the end" else ""
            rows.append(_row(head, way, spent, own, sure if "loop" in way else of_trials))
    return pd.DataFrame(rows)


def interval(tries: Sequence[tuple[float, bool]], ends: Sequence[tuple[float, bool]], rng: np.random.Generator) -> str:
    """Return in words how sure it is how many times more random trials `ends` cost than searches `tries`."""
    own = until_found(tries)
    error = np.log([spent for spent, _ in tries]).std(ddof=1) / math.sqrt(len(tries))
    if any(hit for _, hit in ends):
        drawn = [[ends[k] for k in rng.integers(len(ends), size=len(ends))] for _ in range(RESAMPLES)]
        others = own * np.exp(error * rng.standard_t(len(tries) - 1, RESAMPLES))
        low, high = np.quantile([until_found(d) for d in drawn] / others, [0.025, 0.975], method="nearest")
        return f"95 % interval of times {low:.1f} to {high:.1f}"
    least = np.mean([spent for spent, _ in ends]) * len(ends) / 3
    most = own * np.exp(error * stats.t.ppf(0.95, len(tries) - 1))
    return f"at least {least / most:.1f} times, 95 % sure of each"


def _row(head: str, way: str, spent: float, own: float, note: str) -> dict[str, Any]:
    found = math.isfinite(spent)
    minutes, times = (spent / 60, spent / own) if found else ("none finds it", "")
    return {"to reach": head, "": way, "core minutes": minutes, "times": times, "which": note}


def _course(rows: pd.DataFrame, seconds: str = "core_seconds") -> Course:
    return Course(rows.val_accuracy.to_numpy(), rows[seconds].to_numpy())


def foretold(bank: Sequence[Course]) -> str:
    """How well the best of early epochs ranks random trials as the best of all does: Spearman's ρ."""
    ends = [t.accuracy.max() for t in bank]
    early = {after: [t.accuracy[:after].max() for t in bank] for after in (1, 3, 9)}
    said = ", ".join(f"{stats.spearmanr(best, ends)[0]:.2f} after {after}" for after, best in early.items())
    return (
        f"Rank correlation of the best validation accuracy of {len(bank)} random trials with that at their end: {said}."
    )


def main() -> None:
    if torch.cuda.is_available():  # a share of a GPU, its host's cores and a core are no one unit of cost
        raise SystemExit("searching.py: got a GPU, must be a machine without one")
    full = space_file.load(FOLDER.parent / "fashion_cnn" / "space.yaml").at("full")  # as it was searched
    space = replace(full, arms={}, budget=Budget(full.budget.trials, 0, 1))
    reach, rate = targets(), rates()
    events = collect(space, FOLDER / "searches")
    found = courses(events)
    seconds = space.split.train / rate["train"] + space.split.validation / rate["validation"]
    bank = [_course(t) for _, t in found[found.search == "random"].groupby("trial_id")]
    of = pd.DataFrame([beside(table) for name, table in events.items() if name != "random"])
    searched_at = f"Searched at commit {', '.join(sorted({table.attrs['commit'] for table in events.values()}))}."
    write("searches", of, of, NOTE, searched_at)
    write("searching", found, summary(found, reach, seconds), *NOTES, foretold(bank), searched_at)


if __name__ == "__main__":
    main()
