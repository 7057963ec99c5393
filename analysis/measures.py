"""Effects that claims are made of, between the arms of a study and within them, with the smallest that matter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis import failures
from analysis.attention import trusted
from analysis.corruptions import CLEAN
from analysis.effects import Effect, over_both, over_seeds
from analysis.failures import Confirmed
from analysis.runs import NotTested, Runs
from analysis.statistics import Comparison, Crossed, Estimate, Reals, Standing, quotient, to_compare
from analysis.stress import right
from study.records import Weights

POINTS = "points"  # percentage points
ACCURACY = 0.5  # points of accuracy, of its gap between training and test, and of what is wrong though confident
ERRORS = 2.0  # points of error rate, between images that show what a claim names and others
FALL = 5.0  # points of accuracy under a corruption
SHARE = 5.0  # points of a share, as of the evidence or of the retained accuracy; or % of how many errors there are
LOSS = 0.05  # nats
NO_SEED = "what it compares has no seed in common"

SUFFIX: dict[Weights, str] = {"best": "", "last": "_last"}  # of the columns
WITH: dict[Weights, str] = {"best": "", "last": " with the last epoch's weights"}

NO_SHAPE = "patch_shuffle"  # what takes shape away, and what texture, and how
NO_TEXTURE = {"silhouette_fill": "as the garment is filled with its mean", "low_pass": "as the image is blurred"}


def contrast(runs: Runs, weights: Mapping[str, float], what: str, of_networks: Weights = "best") -> Effect:
    """Return Σ weight · test accuracy over arms, of the seeds that all have: over images too, where all are predicted.

    `of_networks`: with the weights of the best validation epoch, or of the last.
    """
    column = f"test_accuracy{SUFFIX[of_networks]}"
    by_seed = sum(100 * weight * runs.by_seed(arm, lambda t: t[column]) for arm, weight in weights.items())
    own, what = pd.Series(by_seed).dropna(), f"test accuracy{WITH[of_networks]}, {what}"
    seeds = known(own)
    table = runs.predictions if of_networks == "best" or runs.last_predictions is None else runs.last_predictions
    table = table[(table.stage == "confirm") & table.arm.isin(list(weights)) & table.seed.isin(own.index)]
    if table.trial_id.nunique() < len(weights) * len(seeds):
        return over_seeds(seeds, what, POINTS, ACCURACY)
    of = failures.pivot(table)
    right = sum(weight * ~of.wrong[of.of(arm)] for arm, weight in weights.items())
    crossed = Crossed(sorted(own.index), len(of.images))
    values = 100 * ratio(crossed, np.asarray(right), np.ones(np.shape(right)))
    return over_both(values, len(seeds), what, POINTS, ACCURACY, len(of.images))


def gain(runs: Runs, before: str, after: str, of_networks: Weights = "best") -> Effect:
    """Return the test accuracy of `after` minus that of `before`, seed by seed."""
    return contrast(runs, {after: 1.0, before: -1.0}, f"{after} less {before}", of_networks)


def compare(runs: Runs, first: Standing, second: Standing) -> Comparison:
    """`first` less `second`, of which a study holds trials of a common seed."""
    found = contrast(runs, {first.name: 1.0, second.name: -1.0}, "")
    images = found.images if found.crossed else None
    return Comparison(first, second, Estimate(found.value, found.low, found.high, found.seeds, images))


def compared(runs: Runs, standings: Sequence[Standing], reference: str | None) -> list[Comparison]:
    """All that `to_compare` holds against each other."""
    return [compare(runs, *pair) for pair in to_compare(standings, reference)]


def gap(runs: Runs, before: str, after: str) -> list[Effect]:
    """Return how much smaller the gap between training and test is, by the weights that the sources took."""
    suffix, how = SUFFIX[runs.weights], WITH[runs.weights]

    def less(value: Callable[[pd.DataFrame], pd.Series]) -> list[float]:
        return known(runs.by_seed(before, value) - runs.by_seed(after, value))

    accuracy = less(lambda t: 100 * (t[f"train_accuracy_clean{suffix}"] - t[f"test_accuracy{suffix}"]))
    loss = less(lambda t: t[f"test_loss{suffix}"] - t[f"train_loss_clean{suffix}"])
    images = runs.predictions.image.nunique() or None
    return [
        over_seeds(accuracy, f"training less test accuracy{how}, {before} less {after}", POINTS, ACCURACY, images),
        over_seeds(loss, f"test less training loss{how}, {before} less {after}", "nats", LOSS, images),
    ]


def known(values: pd.Series) -> list[float]:
    """Those that are known. Raises NotTested where none is."""
    found = values.dropna()
    if found.empty:
        raise NotTested(NO_SEED)
    return [float(value) for value in found]


def epochs_to(runs: Runs, arm: str, level: float) -> pd.Series:
    """The first epoch whose validation accuracy is at least `level`, by seed; NaN where none is."""
    of = runs.of(arm, "epochs")
    first = of[of.val_accuracy >= level].groupby("seed").epoch.min()
    return first.reindex(runs.of(arm).seed).astype(float)


def failed(runs: Runs) -> tuple[str, Confirmed, Crossed]:
    """The reference arm, its predictions, and replicates of its seeds and images."""
    arm = runs.reference()
    of = failures.pivot(runs.of(arm, "predictions"))
    return arm, of, of.crossed(np.arange(len(of.seeds)))


def ratio(crossed: Crossed, events: npt.NDArray[np.generic], of: npt.NDArray[np.generic]) -> Reals:
    """sum(events) / sum(of), both (T, N), in the order that `over_both` takes: of all, of each trial, replicates."""
    return quotient(*(np.concatenate([[v.sum()], v.sum(axis=1), crossed.sums(v)]) for v in (events, of)))


def drawn(of: Confirmed, values: Reals, what: str, unit: str, smallest: float) -> Effect:
    """An effect of the reference arm's predictions. Raises NotTested where none is of the kind that it takes."""
    return _defined(values, len(of.seeds), what, unit, smallest, len(of.images))


def _defined(values: Reals, seeds: int, what: str, unit: str, smallest: float, images: int) -> Effect:
    if np.isnan(values[0]):
        raise NotTested(f"nothing was predicted of which it could be counted: {what}")
    return over_both(values, seeds, what, unit, smallest, images)


DARK = "the darkest fifth of each class"


def excess_error(runs: Runs, pattern: str, sure_labels: bool = False) -> Effect:
    """Error rate of the images with a pattern less that of the others: DARK or one of `failures.EXTREMES`, which hold
    a fifth of each class.

    With `sure_labels` without the images whose label is suspect. A wrong label makes errors, and some patterns too; but
    those are images that most networks get wrong, so what is then left is too little.
    """
    arm, of, crossed = failed(runs)
    images = runs.images.set_index("image").reindex(of.images)
    known = ~images.label_suspect.to_numpy(bool) if sure_labels else np.ones(len(of.images), bool)
    dark = pattern == DARK
    flags = failures.lowest_fifth(images[["brightness"]], of.label).brightness if dark else images[pattern]
    has = flags.to_numpy(bool)
    with_it, without = (np.broadcast_arrays(flag & known, of.wrong)[0] for flag in (has, ~has))
    less = ratio(crossed, of.wrong & with_it, with_it) - ratio(crossed, of.wrong & without, without)
    sure = ", suspect labels left out, at least, for most networks get those wrong" if sure_labels else ""
    what = f"error rate of {DARK if dark else failures.PATTERNS[pattern]}, less the others'{sure} ({arm})"
    return drawn(of, 100 * less, what, POINTS, ERRORS)


@dataclass(frozen=True)
class Stressed:
    """By arm and corruption, at how many of its severities each network is right on each image: shares (T, N).

    Of the seeds that all arms have, in one order; `crossed` makes replicates of them and the images, the same for all.
    Below, A(s) is the accuracy at severity s, A(0) that on clean images, E(s) is 1 - A(s), and sums are over severities
    1 to 5. Measures are means over `corruptions`, of all seeds together, as `over_both` takes them.
    """

    shares: Mapping[str, Mapping[str, Reals]]
    crossed: Crossed
    seeds: int
    images: int

    def retained(self, arm: str, *corruptions: str) -> Reals:
        """Σ A(s) / (5 A(0)): the robustness score of Laugros et al. 2019, arXiv:1909.02436."""
        left, clean = self.shares[arm], self.shares[arm][CLEAN]
        return np.asarray(ratio(self.crossed, np.mean([left[name] for name in corruptions], axis=0), clean))

    def error(self, arm: str, *corruptions: str) -> Reals:
        """Σ E(s) / 5: the mean corruption error, not relative to anything."""
        wrong = 1 - np.mean([self.shares[arm][name] for name in corruptions], axis=0)
        return ratio(self.crossed, wrong, np.ones(wrong.shape))

    def preference(self, arm: str, *textures: str) -> Reals:
        """Accuracy retained without shape less that without texture, taken away by some of NO_TEXTURE, in points: above
        0, texture matters more."""
        return 100 * (self.retained(arm, NO_SHAPE) - self.retained(arm, *textures))

    def fall(self, arm: str, corruption: str) -> Reals:
        """By how much the accuracy falls, mean over severities, in points."""
        less = self.shares[arm][CLEAN] - self.shares[arm][corruption]
        return 100 * ratio(self.crossed, less, np.ones(less.shape))

    def mce(self, arm: str, reference: str, *corruptions: str) -> Reals:
        """Σ E(s) / Σ E_reference(s): the mCE of Hendrycks & Dietterich 2019, arXiv:1903.12261; below 1 is better."""
        ours, theirs = (self.shares[name] for name in (arm, reference))
        each = [ratio(self.crossed, 1 - ours[name], 1 - theirs[name]) for name in corruptions]
        return np.asarray(np.mean(each, axis=0))

    def effect(self, values: Reals, what: str, unit: str, smallest: float) -> Effect:
        """Raises NotTested where the values are of nothing."""
        return _defined(values, self.seeds, what, unit, smallest, self.images)


def stressed(runs: Runs, *arms: str, severity: int | None = None) -> Stressed:
    """What the table `stress` says of arms, at one severity or all. Raises NotTested where they share no seed."""
    tables = [runs.of(arm, "stress") for arm in arms]
    seeds = sorted(set.intersection(*(set(of.seed) for of in tables)))
    if not seeds:
        raise NotTested(NO_SEED)
    shares: dict[str, dict[str, Reals]] = {}
    for arm, table in zip(arms, tables, strict=True):
        of = table[table.seed.isin(seeds)].sort_values(["seed", "severity"])
        of = of if severity is None else of[of.severity.isin([0, severity])]
        shares[arm] = {
            str(name): right(rows).reshape(len(seeds), -1, int(rows.n.iloc[0])).mean(axis=1)
            for name, rows in of.groupby("corruption", observed=True)
        }
    images = shares[arms[0]][CLEAN].shape[1]
    return Stressed(shares, Crossed(seeds, images), len(seeds), images)


def fall(runs: Runs, corruption: str, how: str) -> Effect:
    """By how much the accuracy falls under a corruption, mean over its severities; `how` says in words what it does."""
    arm = runs.reference()
    of = stressed(runs, arm)
    what = f"fall of the accuracy {how}, mean over five severities ({arm})"
    return of.effect(of.fall(arm, corruption), what, POINTS, FALL)


def by_severity(runs: Runs, arm: str, *textures: str) -> pd.DataFrame:
    """What `Stressed.preference` is at each severity by itself: points, a row a seed, a column a severity."""
    of = runs.of(arm, "stress").set_index(["seed", "severity", "corruption"]).accuracy.unstack()
    clean = of[CLEAN].dropna().droplevel("severity")
    less = (of[NO_SHAPE] - of[[*textures]].mean(axis=1)).dropna()
    return 100 * less.unstack().div(clean, axis=0)


def energies(runs: Runs, *arms: str) -> list[pd.DataFrame]:
    """The table `attention` of each arm, for predicted classes, by the first maps that pass every check in all."""
    checks = pd.concat([runs.of(arm, "attention_checks") for arm in arms])
    sure = [variant for variant, passed in trusted(checks).items() if passed]
    if not sure:
        failed = ", ".join(checks[~checks.passed].check.unique())
        raise NotTested(f"maps of {' or '.join(arms)} fail the checks that would make them evidence ({failed})")
    every = [runs.of(arm, "attention") for arm in arms]
    return [of[(of.target == "predicted") & (of.variant == sure[0])] for of in every]
