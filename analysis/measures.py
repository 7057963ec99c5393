"""Effects that claims are made of, between the arms of a study and within them, with the smallest that matter."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis import failures, stress
from analysis.attention import trusted
from analysis.corruptions import CLEAN
from analysis.effects import Effect, over_draws, over_seeds
from analysis.failures import Confirmed
from analysis.runs import NotTested, Runs
from analysis.statistics import Crossed, Reals, quotient

POINTS = "points"  # percentage points
ACCURACY = 0.5  # points of accuracy, of its gap between training and test, and of what is wrong though confident
ERRORS = 2.0  # points of error rate, between images that show what a claim names and others
FALL = 5.0  # points of accuracy under a corruption
SHARE = 5.0  # points of a share: of the errors, of the evidence, of the retained accuracy
LOSS = 0.05  # nats

NO_SHAPE, NO_TEXTURE = ["patch_shuffle"], ["silhouette_fill", "low_pass"]  # the suppressions of each


def gain(runs: Runs, before: str, after: str) -> Effect:
    """Test accuracy of `after` less that of `before`, seed by seed."""
    less = runs.by_seed(after, lambda t: t.test_accuracy) - runs.by_seed(before, lambda t: t.test_accuracy)
    return main_effect(100 * less.dropna(), f"{after} less {before}")


def main_effect(less: pd.Series, what: str) -> Effect:
    return over_seeds(some(less), f"test accuracy, {what}", POINTS, ACCURACY)


def gap(runs: Runs, before: str, after: str) -> list[Effect]:
    """How much smaller the gap between training and test is."""

    def less(value: Callable[[pd.DataFrame], pd.Series]) -> list[float]:
        return some((runs.by_seed(before, value) - runs.by_seed(after, value)).dropna())

    accuracy = less(lambda t: 100 * (t.train_accuracy_clean - t.test_accuracy))
    loss = less(lambda t: t.test_loss - t.train_loss_clean)
    return [
        over_seeds(accuracy, f"training less test accuracy, {before} less {after}", POINTS, ACCURACY),
        over_seeds(loss, f"test less training loss, {before} less {after}", "nats", LOSS),
    ]


def some(values: pd.Series) -> list[float]:
    if values.empty:
        raise NotTested("the two arms have no seed in common")
    return [float(value) for value in values]


def cells(runs: Runs) -> pd.DataFrame:
    """Test accuracy in points by seed; columns optimizer, schedule."""
    by_cell = {cell: 100 * runs.by_seed(arm, lambda t: t.test_accuracy) for cell, arm in runs.factorial().items()}
    return pd.DataFrame(by_cell).dropna()


def epochs_to(runs: Runs, arm: str, level: float) -> pd.Series:
    """The first epoch whose validation accuracy is at least `level`, by seed; NaN where none is."""
    of = runs.of(arm, "epochs")
    first = of[of.val_accuracy >= level].groupby("seed").epoch.min()
    return first.reindex(runs.of(arm).seed).astype(float)


def failed(runs: Runs) -> tuple[str, Confirmed, Crossed]:
    """The reference arm, its predictions, and draws of its seeds and images."""
    arm = runs.reference()
    of = failures.pivot(runs.of(arm, "predictions"))
    return arm, of, of.crossed(np.arange(len(of.seeds)))


def ratio(crossed: Crossed, events: npt.NDArray[np.generic], of: npt.NDArray[np.generic]) -> Reals:
    """sum(events) / sum(of), both (T, N): (1 + draws,), what was observed and the draws."""
    observed = quotient(events.sum(), of.sum())
    return np.append(observed, quotient(crossed.sums(events), crossed.sums(of)))


def drawn(of: Confirmed, values: Reals, what: str, unit: str, smallest: float) -> Effect:
    return over_draws(float(values[0]), values[1:], what, unit, smallest, len(of.seeds))


def fifth(runs: Runs, pattern: str) -> Effect:
    """Error rate of the images with a pattern of `failures.EXTREMES` less that of the others, of the same classes."""
    arm, of, crossed = failed(runs)
    flags = runs.images.set_index("image")[pattern].reindex(of.images).to_numpy(bool)
    with_it, without = np.broadcast_arrays(flags, of.wrong)[0], np.broadcast_arrays(~flags, of.wrong)[0]
    less = ratio(crossed, of.wrong & with_it, with_it) - ratio(crossed, of.wrong & without, without)
    what = f"error rate of {failures.PATTERNS[pattern]}, less the others' ({arm})"
    return drawn(of, 100 * less, what, POINTS, ERRORS)


def fall(runs: Runs, corruption: str) -> Effect:
    """By how much the accuracy falls under a corruption, mean over its severities."""
    arm = runs.reference()
    of = runs.of(arm, "stress")
    means = of.groupby(["corruption", "seed"], observed=True).accuracy.mean()
    less = 100 * (means[CLEAN] - means[corruption]).dropna()
    return over_seeds(less.tolist(), f"fall of the accuracy under {corruption} ({arm})", POINTS, FALL)


def preference(runs: Runs, arm: str) -> pd.Series:
    """Accuracy retained without shape less that without texture, by seed: above 0 where texture matters more."""
    of = runs.of(arm, "stress")
    retention = stress.errors(of, arm).set_index(["corruption", "seed"]).retention.unstack(0)
    return (retention[NO_SHAPE].mean(axis=1) - retention[NO_TEXTURE].mean(axis=1)).dropna()


def energy(runs: Runs, arm: str) -> pd.DataFrame:
    """The table `attention` of the arm, for predicted classes, by maps that pass every check in all its networks."""
    checks = runs.of(arm, "attention_checks")
    sure = [variant for variant, passed in trusted(checks).items() if passed]
    if not sure:
        failed = ", ".join(checks[~checks.passed].check.unique())
        raise NotTested(f"maps of {arm} fail the checks that would make them evidence ({failed})")
    of = runs.of(arm, "attention")
    return of[(of.target == "predicted") & (of.variant == sure[0])]
