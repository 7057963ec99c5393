"""Parts of the test set in which a model fails more often, described by rules on what the images are like."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.tree import DecisionTreeRegressor

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


@dataclass(frozen=True)
class Slice:
    """A part of the test set that a rule on the descriptors describes, confirmed on images that it was not found on.

    `rate` and `outside` are means, inside the slice and over all other images, on the half that confirms: of the error
    rate, or of the difference in it where two configurations are compared. `n` images of the slice lie in that half.
    `found_rate` and `found_n` are of the half that it was found on. `p` is one-sided, after Holm.
    """

    rule: str
    images: Flags  # (N,), in the order of the descriptors' rows
    n: int
    rate: float
    outside: float
    found_n: int
    found_rate: float
    p: float

    @property
    def lift(self) -> float | None:
        """rate / outside; None where outside is not above zero."""
        return self.rate / self.outside if self.outside > 0 else None


def find(descriptors: pd.DataFrame, wrong: npt.ArrayLike, seed: int = 0) -> list[Slice]:
    """Parts of the test set with more errors than the rest, most first.

    `wrong` (N,) is the share of seeds that fail on the image of each row of the descriptors, in [0, 1].

    A regression tree of depth 3 on one half of the images, pruned where a split does no better than on noise (`SPLIT`);
    its leaves that are worse than the mean are tested on the other half. One-sided permutation test of the mean, with
    images as units and Holm's correction over the leaves: Fisher's exact test where there is one seed. The probability
    to report any slice where errors have nothing to do with the descriptors is below `FAMILY_ERROR`.
    """
    return _find(descriptors, np.asarray(wrong, np.float64), seed)


def find_worse(descriptors: pd.DataFrame, wrong_a: npt.ArrayLike, wrong_b: npt.ArrayLike, seed: int = 0) -> list[Slice]:
    """Where `a` is worse than `b`, and by more than elsewhere: as `find`, of wrong_a - wrong_b for each image."""
    return _find(descriptors, np.asarray(wrong_a, np.float64) - np.asarray(wrong_b, np.float64), seed)


def _find(descriptors: pd.DataFrame, value: Reals, seed: int) -> list[Slice]:
    rng = np.random.default_rng(seed)
    # Every other image by value, in random order where values are equal: both halves hold the same share of errors.
    finding = np.zeros(len(value), bool)
    finding[np.lexsort((rng.permutation(len(value)), value))[::2]] = True
    least = max(10, round(LEAST * finding.sum()))
    model = DecisionTreeRegressor(max_depth=DEPTH, min_samples_leaf=least, random_state=seed)
    tree = model.fit(descriptors[finding], value[finding]).tree_
    tested = []
    for bounds in _leaves(tree, 0, {}):
        rule, inside = _rule(descriptors, bounds)
        found, ours, theirs = value[inside & finding], value[inside & ~finding], value[~inside & ~finding]
        if min(len(found), len(ours), len(theirs)) and found.mean() > max(value[finding].mean(), 0):
            p = _permutation_test(ours, theirs, rng)
            rate, outside, found_rate = (float(part.mean()) for part in (ours, theirs, found))
            tested.append(Slice(rule, inside, len(ours), rate, outside, len(found), found_rate, p))
    tested.sort(key=lambda s: s.p)
    corrected = np.maximum.accumulate([min(1, (len(tested) - k) * s.p) for k, s in enumerate(tested)])  # Holm 1979
    kept = [replace(s, p=float(p)) for s, p in zip(tested, corrected, strict=True) if p <= FAMILY_ERROR and s.rate > 0]
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


def _permutation_test(inside: Reals, outside: Reals, rng: np.random.Generator) -> float:
    """One-sided p of the mean inside being no larger than outside (Phipson & Smyth 2010, doi:10.2202/1544-6115.1585).

    Which images lie inside is shuffled. How many of each value then do is multivariate hypergeometric, and there are
    few values: shares of seeds.
    """
    values, counts = np.unique(np.concatenate([inside, outside]), return_counts=True)
    sums = rng.multivariate_hypergeometric(counts, len(inside), size=PERMUTATIONS) @ values
    return float((1 + (sums >= inside.sum() - 1e-9).sum()) / (1 + PERMUTATIONS))
