"""Parts of the test set in which a model fails more often, described by rules on what the images are like."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.tree import DecisionTreeRegressor

from analysis.effects import holm
from analysis.statistics import Reals

Flags = npt.NDArray[np.bool_]
Bounds = dict[int, tuple[float, float]]  # by column of the descriptors: above the first, up to the second

FAMILY_ERROR = 0.05  # probability that any slice is reported where there is none
DEPTH = 3
LEAST = 0.02  # share of the images that a slice holds, and 10 images at least
# n R² of a split, the χ² of its 2×2 table where images are right or wrong. The best split of nine descriptors that have
# nothing to do with the errors passes it once in 20 (simulated, 100 to 5,000 images).
SPLIT = 15.0
PERMUTATIONS = 9999
SEED = 0  # of the halves and the permutations


@dataclass(frozen=True)
class Slice:
    """A part of the test set that a rule on the descriptors describes, confirmed on images that it was not found on.

    `rate` and `outside` are means, inside the slice and over all other images, on the half that confirms: of the error
    rate, or of the difference in it where two configurations are compared. `expected` is what `rate` would be if the
    images of each class were as those of the class are on that half: what the slice's classes alone give. `n` images of
    the slice lie in that half. `p` is one-sided, after Holm.
    """

    rule: str
    images: Flags  # (N,), in the order of the descriptors' rows
    n: int
    rate: float
    outside: float
    expected: float
    p: float


def find(descriptors: pd.DataFrame, value: npt.ArrayLike, label: npt.ArrayLike) -> list[Slice]:
    """Parts of the test set with more errors than their classes account for, most errors first.

    `value` (N,) is the share of seeds that fail on the image of each row of the descriptors, in [0, 1], or the
    difference in it, worse less better; `label` (N,) its class.

    A regression tree of depth 3 on one half of the images, of what is wrong less the error rate of the class there;
    pruned where a split does no better than on noise (`SPLIT`). Its leaves with more errors than that are tested on
    the other half: whether the mean is above 0, by flipping signs, and above that of other images of the same classes,
    by exchanging images within each class. One-sided; the larger p is the leaf's, and Holm's correction is over the
    leaves. The probability to report any slice where errors have nothing to do with the descriptors is below
    `FAMILY_ERROR`.
    """
    value, label = np.asarray(value, np.float64), np.asarray(label)
    rng = np.random.default_rng(SEED)
    # Every other image by value, in random order where values are equal: both halves hold the same share of errors.
    finding = np.zeros(len(value), bool)
    finding[np.lexsort((rng.permutation(len(value)), value))[::2]] = True
    least = max(10, round(LEAST * finding.sum()))
    model = DecisionTreeRegressor(max_depth=DEPTH, min_samples_leaf=least, random_state=SEED)
    excess = value - pd.Series(value).where(finding).groupby(label).transform("mean").to_numpy()
    tree = model.fit(descriptors[finding], excess[finding]).tree_
    tested = []
    for bounds in _leaves(tree, 0, {}):
        rule, inside = _rule(descriptors, bounds)
        found, ours, theirs = inside & finding, inside & ~finding, ~inside & ~finding
        if min(found.sum(), ours.sum(), theirs.sum()) and excess[found].mean() > 0 and value[found].mean() > 0:
            p, expected = _above_its_classes(value[~finding], label[~finding], inside[~finding], rng)
            p = max(p, _above_zero(value[ours], rng))
            rate, outside = float(value[ours].mean()), float(value[theirs].mean())
            tested.append(Slice(rule, inside, int(ours.sum()), rate, outside, expected, p))
    corrected = holm([s.p for s in tested])
    kept = [replace(s, p=p) for s, p in zip(tested, corrected, strict=True) if p <= FAMILY_ERROR]
    return sorted(kept, key=lambda s: -s.rate)


def _leaves(tree: Any, node: int, bounds: Bounds) -> list[Bounds]:
    """The leaves below a node of scikit-learn's tree; the node itself where no split below it is worth keeping."""
    left, right = tree.children_left[node], tree.children_right[node]
    if left == right:
        return [bounds]
    column, cut = int(tree.feature[node]), float(tree.threshold[node])
    low, high = bounds.get(column, (-np.inf, np.inf))
    below = _leaves(tree, left, {**bounds, column: (low, cut)}) + _leaves(tree, right, {**bounds, column: (cut, high)})
    unexplained = tree.n_node_samples[[left, right]] @ tree.impurity[[left, right]] / tree.impurity[node]
    return below if len(below) > 2 or tree.n_node_samples[node] - unexplained >= SPLIT else [bounds]


def _rule(descriptors: pd.DataFrame, bounds: Bounds) -> tuple[str, Flags]:
    """A leaf in words, and the images (N,) for which just these words are true: with the bounds rounded as written."""
    inside, words = np.ones(len(descriptors), bool), []
    for column, ends_ in bounds.items():
        values = descriptors.iloc[:, column]
        whole = pd.api.types.is_integer_dtype(values)
        low, high = (np.floor(end) if whole else float(f"{end:.3g}") for end in ends_)
        inside &= ((values > low) & (values <= high)).to_numpy()
        below, above = f" ≤ {high:.3g}" * bool(np.isfinite(high)), f"{low:.3g} < " * bool(np.isfinite(low))
        words.append(f"{above}{values.name}{below}" if below else f"{values.name} > {low:.3g}")
    return " and ".join(words), inside


def _above_its_classes(
    value: Reals, label: npt.NDArray[np.generic], inside: Flags, rng: np.random.Generator
) -> tuple[float, float]:
    """One-sided p of the mean inside being no larger than its classes make it, and what they make it.

    Which images of each class lie inside is shuffled (Phipson & Smyth 2010, doi:10.2202/1544-6115.1585). How many of
    each value then do is multivariate hypergeometric, and there are few values: shares of seeds.
    """
    sums, expected = np.zeros(PERMUTATIONS), 0.0
    for name in np.unique(label[inside]):
        of = label == name
        values, counts = np.unique(value[of], return_counts=True)
        sums += rng.multivariate_hypergeometric(counts, inside[of].sum(), size=PERMUTATIONS) @ values
        expected += float(inside[of].mean() * value[of].sum())
    return _share(sums, value[inside]), expected / int(inside.sum())


def _above_zero(value: Reals, rng: np.random.Generator) -> float:
    """One-sided p of a mean that is no larger than 0: each value's sign is drawn at random."""
    values, counts = np.unique(np.abs(value), return_counts=True)
    return _share((2 * rng.binomial(counts, 0.5, (PERMUTATIONS, len(counts))) - counts) @ values, value)


def _share(sums: Reals, value: Reals) -> float:
    """How often sums by chance are as large as that of the values, counting one more."""
    return float((1 + (sums >= value.sum() - 1e-9).sum()) / (1 + PERMUTATIONS))
