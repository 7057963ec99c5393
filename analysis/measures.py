"""Effects that claims are made of, between the arms of a study and within them, with the smallest that matter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis import failures
from analysis.attention import VARIANTS
from analysis.attention import failed as failed_checks
from analysis.corruptions import CLEAN, SEVERITIES
from analysis.effects import Effect, over_both, over_seeds
from analysis.failures import Confirmed
from analysis.runs import NoRows, NotTested, Runs
from analysis.statistics import Comparison, Crossed, Estimate, Reals, Standing, quotient, to_compare
from analysis.stress import right_in_common
from analysis.words import number, percent
from study.data import CLASS_NAMES
from study.records import Weights

POINTS = "points"  # percentage points
ACCURACY = 0.5  # points of accuracy, of its gap between training and test, and of what is wrong though confident
ERRORS = 2.0  # points of error rate, between images that show what a claim names and others
FALL = 5.0  # points of accuracy under a corruption
SHARE = 5.0  # points of a share, as of evidence, decisions or retained accuracy; or % of how many errors there are
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
    table = runs.predicted(of_networks)
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
TENTH = 0.1


def excess_error(runs: Runs, pattern: str, sure_labels: bool = False) -> Effect:
    """Error rate of the images with a pattern less that of the others: DARK or one of `failures.EXTREMES`, which hold
    a fifth of each class.

    With `sure_labels` without the images whose label is suspect. A wrong label makes errors, and some patterns too; but
    those are images that most networks get wrong, so what is then left is too little.
    """
    arm, of, crossed = failed(runs)
    images = runs.images.set_index("image").reindex(of.images)
    known = ~images.label_suspect.to_numpy(bool) if sure_labels else np.ones(len(of.images), bool)
    has, named = _pattern(images, of, pattern)
    sure = ", suspect labels left out, at least, for most networks get those wrong" if sure_labels else ""
    what = f"error rate of {named}, less the others'{sure} ({arm})"
    return drawn(of, _difference(of, crossed, has & known, ~has & known), what, POINTS, ERRORS)


def tail_error(runs: Runs, descriptor: str, upper: bool, named: str) -> Effect:
    """Return the error rate of the tenth of each class with most of a descriptor, or least, less that of the middle.

    The middle are the eight tenths between. `named` says in words what the descriptor measures.
    """
    arm, of, crossed = failed(runs)
    values = runs.images.set_index("image")[descriptor].reindex(of.images)
    low, high = (values.groupby(of.label).transform("quantile", q) for q in (TENTH, 1 - TENTH))
    below, above = (values < low).to_numpy(), (values > high).to_numpy()
    what = f"error rate of the tenth of each class with the {'most' if upper else 'least'} {named}, less the middle's"
    less = _difference(of, crossed, above if upper else below, ~above & ~below)
    return drawn(of, less, f"{what} ({arm})", POINTS, ERRORS)


def partial_error(runs: Runs, pattern: str, given: Sequence[str]) -> Effect:
    """Return the error rate of the images with a pattern less that of the others, of equal descriptors `given`.

    The pattern's coefficient in the least-squares regression of the errors on it, the classes, and the descriptors,
    standardised within their class, with their squares: Σ r (y - f) / Σ r r over predictions, where r is what classes
    and descriptors leave of the pattern (Frisch & Waugh 1933, doi:10.2307/1907330), and f what they say of the errors
    y, of all seeds together. Draws take r and f as they are: that is the sandwich estimator's variance, to first order.
    """
    arm, of, crossed = failed(runs)
    images = runs.images.set_index("image").reindex(of.images)
    has, named = _pattern(images, of, pattern)
    by_class = images[[*given]].astype(float).groupby(of.label)
    spread = by_class.transform("std", ddof=0)
    z = ((images[[*given]] - by_class.transform("mean")) / spread.where(spread > 0, 1)).to_numpy(np.float64)
    others = np.hstack([np.eye(len(CLASS_NAMES))[of.label], z, z**2])
    left = has - others @ np.linalg.lstsq(others, has.astype(float))[0]
    fitted = np.linalg.lstsq(np.column_stack([has, others]), of.wrong.mean(axis=0))[0]
    rest = of.wrong - others @ fitted[1:]
    coefficient = ratio(crossed, left * rest, np.broadcast_to(left**2, rest.shape))
    what = f"error rate of {named}, less the others', given {', '.join(given).replace('_', ' ')} ({arm})"
    return drawn(of, 100 * coefficient, what, POINTS, ERRORS)


def _pattern(images: pd.DataFrame, of: Confirmed, pattern: str) -> tuple[npt.NDArray[np.bool_], str]:
    """Return which images show DARK or one of `failures.EXTREMES`, and what that is in words."""
    if pattern == DARK:
        return failures.lowest_fifth(images[["brightness"]], of.label).brightness.to_numpy(bool), DARK
    return images[pattern].to_numpy(bool), failures.PATTERNS[pattern]


def _difference(of: Confirmed, crossed: Crossed, has: npt.NDArray[np.bool_], others: npt.NDArray[np.bool_]) -> Reals:
    """Return the error rate of the images `has` (N,) less that of `others`, in points."""
    rates = [ratio(crossed, of.wrong & flag, np.broadcast_to(flag, of.wrong.shape)) for flag in (has, others)]
    return np.asarray(100 * (rates[0] - rates[1]))


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

    def more_errors(self, arm: str, reference: str, *corruptions: str) -> Reals:
        """Return 100 · ln of the geometric mean of Σ E(s) / Σ E_reference(s) over corruptions; below 0 is better.

        The mCE of Hendrycks & Dietterich 2019, arXiv:1903.12261, but that no arm is the better for being the reference
        (Fleming & Wallace 1986, doi:10.1145/5666.5673): swapping the two turns the sign. NaN where one makes no error.
        """
        errors = [[1 - self.shares[a][name] for name in corruptions] for a in (arm, reference)]
        each = np.array([ratio(self.crossed, *pair) for pair in zip(*errors, strict=True)])
        return np.asarray(100 * np.log(each, out=np.full(each.shape, np.nan), where=each > 0).mean(axis=0))

    def errors(self, arm: str, *corruptions: str) -> int:
        """Return how many predictions are wrong, over severities, images and seeds."""
        return round(len(SEVERITIES) * sum(float((1 - self.shares[arm][name]).sum()) for name in corruptions))

    def effect(self, values: Reals, what: str, unit: str, smallest: float) -> Effect:
        """Raises NotTested where the values are of nothing."""
        return _defined(values, self.seeds, what, unit, smallest, self.images)


def stressed(runs: Runs, *arms: str) -> Stressed:
    """What the table `stress` says of arms, on the images that all have. Raises NotTested where they share no seed."""
    tables = [runs.of(arm, "stress") for arm in arms]
    seeds = _common(tables)
    images = min(int(table.n.min()) for table in tables)
    shares: dict[str, dict[str, Reals]] = {}
    for arm, table in zip(arms, tables, strict=True):
        of = table[table.seed.isin(seeds)].sort_values(["seed", "severity"])
        shares[arm] = {
            str(name): right_in_common(rows, images, len(runs.images)).reshape(len(seeds), -1, images).mean(axis=1)
            for name, rows in of.groupby("corruption", observed=True)
        }
    return Stressed(shares, Crossed(seeds, images), len(seeds), images)


def fall(runs: Runs, corruption: str, how: str) -> Effect:
    """By how much the accuracy falls under a corruption, mean over its severities; `how` says in words what it does."""
    arm = runs.reference()
    of = stressed(runs, arm)
    what = f"fall of the accuracy {how}, mean over five severities ({arm})"
    return of.effect(of.fall(arm, corruption), what, POINTS, FALL)


def _common(of_arms: Sequence[pd.DataFrame]) -> list[int]:
    """Return the seeds that all tables have, in order. Raises NotTested where there is none."""
    seeds = sorted(set.intersection(*(set(table.seed) for table in of_arms)))
    if not seeds:
        raise NotTested(NO_SEED)
    return seeds


@dataclass(frozen=True)
class Cues:
    """By arm, which decisions are for the shape and which for the texture where the two are in conflict: (T, N) each.

    Of the seeds that all arms have, in one order; `crossed` draws of them and of the images, the same for all arms.
    `read` is how many of the controls, whose cues agree, are taken for the class of both, in [0, 1].
    """

    shape: Mapping[str, npt.NDArray[np.bool_]]
    texture: Mapping[str, npt.NDArray[np.bool_]]
    read: Mapping[str, float]
    crossed: Crossed
    seeds: int
    images: int

    def bias(self, arm: str) -> Reals:
        """Return the shape bias (Geirhos et al. 2019, arXiv:1811.12231): decisions for the shape, of those for either.

        In %; 50 by chance, whatever class is answered: every ordered pair of classes is alike frequent.
        """
        return np.asarray(100 * ratio(self.crossed, self.shape[arm], self.shape[arm] | self.texture[arm]))

    def counts(self, arm: str) -> str:
        """Return in a sentence how many decisions are for which cue, and the shape bias less what chance gives either.

        What chance gives is the mean share of a class that is neither.
        """
        shape, texture = (100 * float(of[arm].mean()) for of in (self.shape, self.texture))
        other = (100 - shape - texture) / (len(CLASS_NAMES) - 2)
        corrected = quotient(100 * (shape - other), shape + texture - 2 * other)
        return (
            f"Of the decisions of {arm} {number(shape, 1)} % are for the shape, {number(texture, 1)} % for the "
            f"texture: a shape bias of {number(float(self.bias(arm)[0]), 1)} %, and {number(float(corrected), 1)} % "
            f"less what chance gives either. Of controls, made alike of one class, {percent(self.read[arm], 1)} % are "
            "taken for it."
        )

    def effect(self, values: Reals, what: str) -> Effect:
        """Return an effect of shape biases. Raises NotTested where there is no decision for either cue."""
        return _defined(values, self.seeds, what, POINTS, SHARE, self.images)


def conflicted(runs: Runs, *arms: str) -> Cues:
    """Return what the table `cue_conflict` says of arms.

    Raises NoRows where networks could not be shown the images, and NotTested where arms share no seed, or one decides
    for either cue no more often than by chance: then it reads neither.
    """
    if runs.cue_conflict.empty:
        raise NoRows("it takes networks that can be run again: no weights are kept, nor what they made of such images")
    of_arms = {arm: runs.of(arm, "cue_conflict") for arm in arms}
    seeds = _common([*of_arms.values()])
    of_cue: dict[str, dict[str, npt.NDArray[np.bool_]]] = {"shape_class": {}, "texture_class": {}}
    read: dict[str, float] = {}
    for arm, table in of_arms.items():
        of = table[table.seed.isin(seeds)].sort_values("seed", kind="stable")
        same = (of.shape_class == of.texture_class).to_numpy()
        for cue, found in of_cue.items():
            found[arm] = (of.predicted == of[cue]).to_numpy()[~same].reshape(len(seeds), -1)
        read[arm] = float((of.predicted == of.shape_class)[same].mean())
    shape, texture = of_cue.values()
    classes, images = of_arms[arms[0]].shape_class.nunique(), shape[arms[0]].shape[1]
    if not images:
        raise NotTested("its test images are of one class: no cues are in conflict")
    cues = Cues(shape, texture, read, Crossed(seeds, images), len(seeds), images)
    for arm in arms:
        either, by_chance = cues.shape[arm] | cues.texture[arm], 200 / classes
        more = cues.effect(100 * ratio(cues.crossed, either, np.ones(either.shape)) - by_chance, "")
        if (more.value if more.low is None else more.low) <= 0:
            raise NotTested(
                f"{arm} decides for either cue in {number(more.value + by_chance, 1)} % of the images in conflict, "
                f"not shown to be more than the {number(by_chance, 1)} % of chance"
            )
    return cues


def energies(runs: Runs, *arms: str) -> dict[str, list[pd.DataFrame]]:
    """Return the table `attention` of each arm, for predicted classes, by the name of the maps.

    Of maps that pass every check in all arms, and of occlusion, which needs no check: it is what happens. Raises
    NotTested where there are none, or occlusion, without which no verdict rests on maps, was not measured.
    """
    fails = [failed_checks(runs.of(arm, "attention_checks")) for arm in arms]
    every = [runs.of(arm, "attention").query("target == 'predicted'") for arm in arms]
    sure = [
        name
        for name in VARIANTS
        if all((table.variant == name).any() for table in every)
        and (name == "occlusion" or all(of.get(name) == [] for of in fails))
    ]
    if not sure:
        names = ", ".join(dict.fromkeys(check for of in fails for checks in of.values() for check in checks))
        raise NotTested(f"maps of {' or '.join(arms)} fail the checks that would make them evidence ({names})")
    if "occlusion" not in sure:
        raise NotTested(f"occlusion was not measured of {' or '.join(arms)}, and maps alone decide nothing")
    return {VARIANTS[name]: [table[table.variant == name] for table in every] for name in sure}
