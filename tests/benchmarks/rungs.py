"""How fairly ASHA's rungs rank kinds of schedule and of augmentation: random trials, all of which run to their end.

`make bench-rungs` runs it without a GPU, for half an hour, and goes on where it was cut off. The configurations are
drawn from search_spaces/fashion_cnn.yaml and train on a fifth of its images, for as many epochs as its shorter trials.
`Space.grace_period` rests on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from searching import at_random
from table import FOLDER, write

from analysis.importance import rung_ranks
from study import cluster, data, execution, records, space_file
from study.choose import make_plan
from study.config import TrialConfig
from study.schedulers import ONE_EPOCH_KEEP, build_scheduler, replay
from study.space import Budget, Scale, Split

TRIALS, EPOCHS, SPLIT = 48, 12, Split(10_000, 5_000, 1_000)
SHOWN = (1, 2, 3, 4, 6, 9)
ROUND, ORDERS = 32, 300
NOTES = (
    "Rank correlation: Kendall's τ-b of the best validation accuracy so far with that in the end, within the kind. "
    "Shift: percentile rank among all trials at the epoch less that in the end, mean over the kind's trials, with a "
    "95 % interval by Student's t; below 0, a rung there stops more of this kind than the end would. One seed each; "
    "settings are drawn independently, so a kind of augmentation holds all schedules.",
)


def kinds(config: TrialConfig) -> list[str]:
    """Return the kinds of schedule and augmentation of a configuration."""
    augmentation = config.augmentation
    return [
        f"schedule {config.schedule.name}",
        f"flip {'0' if augmentation.flip == 0 else 'above 0'}",
        f"crop {'0' if augmentation.crop == 0 else 'above 0'}",
        f"rotation {'up to' if augmentation.rotation <= 5 else 'above'} 5 degrees",
        f"erasing {'up to' if augmentation.erasing <= 0.25 else 'above'} 0.25",
        f"mixup {'0' if config.mixup == 0 else 'above 0'}",
        f"averaged weights {'no' if config.ema == 0 else 'yes'}",
    ]


def collect(folder: Path) -> pd.DataFrame:
    """Return a row an epoch and kind: trial_id, epoch, val_accuracy, core_seconds, kind. Raises RuntimeError."""
    full = space_file.load(space_file.find("fashion_cnn.yaml")).at("full")
    space = replace(full.scaled(Scale(SPLIT, EPOCHS, full.budget)), arms={}, budget=Budget(TRIALS, 0, 1))
    execution.quiet()
    with cluster.running():
        splits = data.split(data.load(), SPLIT.train, SPLIT.validation, SPLIT.test, SPLIT.seed)
        plan = make_plan(space, "none", cores=1)
        epochs = at_random(folder, space, cluster.ray.put(splits), plan.resources, TRIALS)
    configs = {record.trial_id: record.config for record in records.read_trials(folder, "search")}
    rows = [(trial_id, kind) for trial_id, config in configs.items() for kind in kinds(config)]
    return epochs.merge(pd.DataFrame(rows, columns=["trial_id", "kind"]))


def summary(found: pd.DataFrame) -> pd.DataFrame:
    """Return a row a kind: rank correlation and shift at each epoch of `SHOWN`."""
    curves = found.drop_duplicates(["trial_id", "epoch"]).pivot(
        index="trial_id", columns="epoch", values="val_accuracy"
    )
    rows = []
    for kind, members in found.groupby("kind"):
        groups = pd.Series("other", curves.index).where(~curves.index.isin(members.trial_id), str(kind))
        ranks = rung_ranks(curves, groups).query("kind == @kind").set_index("epoch")
        cells = {
            f"after {e}": f"τ {r.correlation:.2f}, {100 * r['shift']:+.0f} ({100 * r.low:+.0f} to {100 * r.high:+.0f})"
            for e, r in ranks.loc[ranks.index.isin(SHOWN)].iterrows()
        }
        if cells:
            rows.append({"kind": kind, "trials": int(ranks.trials.iloc[0])} | cells)
    return pd.DataFrame(rows)


def missed(found: pd.DataFrame) -> pd.DataFrame:
    """Return a row a rule: by how many points it misses the best of `ROUND` trials in random order, and its epochs."""
    best = found.pivot_table(index="trial_id", columns="epoch", values="val_accuracy").cummax(axis=1).to_numpy()
    rng, (count, length) = np.random.default_rng(0), best.shape
    orders = [rng.permutation(count)[:ROUND] for _ in range(ORDERS)]

    def asha(order: npt.NDArray[np.int64], grace: int) -> tuple[int, float]:
        scheduler = build_scheduler("asha", length, grace)
        lasts = [replay(scheduler, str(k), list(enumerate(best[k].tolist(), 1)), length, heed=True) for k in order]
        return sum(lasts), max(best[k, -1] for k, last in zip(order, lasts, strict=True) if last == length)

    def one_epoch(order: npt.NDArray[np.int64]) -> tuple[int, float]:
        top = sorted(order, key=lambda k: -best[k, 0])[:ONE_EPOCH_KEEP]
        return len(order) + len(top) * (length - 1), best[top, -1].max()

    rules: dict[str, Callable[[npt.NDArray[np.int64]], tuple[int, float]]] = {
        **{f"ASHA from epoch {grace}": partial(asha, grace=grace) for grace in (1, length // 3, length // 2)},
        "one epoch": one_epoch,
        "five at random": lambda order: (5 * length, best[order[:5], -1].max()),
    }
    rows = []
    for name, rule in rules.items():
        epochs, reached = np.array([rule(order) for order in orders]).T
        tops = np.array([best[order, -1].max() for order in orders])
        rows.append({"rule": name, "epochs": epochs.mean(), "points missed": 100 * (tops - reached).mean()})
    return pd.DataFrame(rows)


def main() -> None:
    found = collect(FOLDER / "rungs")
    rules = "; ".join(f"{r.rule}: {r[3]:.2f} points, {r.epochs:.0f} epochs" for r in missed(found).itertuples())
    write("rungs", found, summary(found), *NOTES, f"Missed of the best of {ROUND} in random order: {rules}.")


if __name__ == "__main__":
    main()
