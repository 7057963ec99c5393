"""What confirmed models get wrong: kinds of errors and of images, confusions, suspected labels.

Everything is counted from the table `predictions`, and from `descriptors`: a row a test image, by its place `image`,
with at least the columns that `EXTREMES` names. A configuration is an arm or a candidate; it has a trial for each seed.
Rates are of predictions, so that an image counts once a seed, and their intervals are over seeds and images together
(`statistics.Crossed`), with one seed over images only. A missing number is not defined: there was nothing to divide by.
Predictions of no trial, or of trials that saw different images, are refused with ValueError.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from scipy import stats

from analysis.statistics import CONFIDENCE, Crossed, Interval, Reals, half_width, over_images, quotient, variances
from study.data import CLASS_NAMES

Flags = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]

ALL = "all configurations"  # pooled; no arm can have this name, for names hold no space
CONFIDENT = 0.9
FIFTH = 0.2
PAIRS = {
    "shirt_tshirt": ("Shirt", "T-shirt/top"),
    "coat_pullover": ("Coat", "Pullover"),
    "sandal_sneaker": ("Sandal", "Sneaker"),
    "dress_coat": ("Dress", "Coat"),
    "ankle_boot_sneaker": ("Ankle boot", "Sneaker"),
}
SIMILAR = (("T-shirt/top", "Pullover", "Dress", "Coat", "Shirt"), ("Sandal", "Sneaker", "Ankle boot"))
CATEGORIES = {  # the second source's six
    "confident": f"wrong with a confidence above {CONFIDENT}",
    **{name: f"{first} taken for {second}, or {second} for {first}" for name, (first, second) in PAIRS.items()},
}
# The first source's four, as it explains them; the last is its other reading of an unusual texture.
PATTERNS = {
    "similar_types": "one upper-body class taken for another, or one kind of shoe for another",
    "low_contrast": "the fifth of each class with the lowest contrast",
    "atypical_silhouette": "the fifth of each class with the most atypical silhouette",
    "unusual_texture": "the fifth of each class with the most texture",
    "far_from_training": "the fifth of each class farthest from the training images of the class",
}
EXTREMES = {  # descriptor, and whether the pattern is its upper end
    "low_contrast": ("contrast", False),
    "atypical_silhouette": ("atypicality", True),
    "unusual_texture": ("texture", True),
    "far_from_training": ("neighbour_distance", True),
}
NAMES = [*CATEGORIES, *PATTERNS]
ROUNDS = 200  # of fitting, at most: most tables take 20
OFF_DIAGONAL = ~np.eye(len(CLASS_NAMES), dtype=bool)


@dataclass(frozen=True)
class Confirmed:
    """The predictions of T trials on the same N images, by configuration and seed."""

    configurations: npt.NDArray[np.object_]  # (T,)
    seeds: Numbers  # (T,)
    images: Numbers  # (N,)
    label: Numbers  # (N,)
    predicted: Numbers  # (T, N)
    confidence: npt.NDArray[np.float32]  # (T, N)
    probabilities: npt.NDArray[np.float32]  # (T, N, 10)

    @property
    def wrong(self) -> Flags:
        return np.asarray(self.predicted != self.label)

    def of(self, configuration: str) -> Numbers:
        """The trials of a configuration, by seed. Raises ValueError where there is none."""
        trials = np.flatnonzero(self.configurations == configuration)
        if not len(trials):
            known = ", ".join(dict.fromkeys(self.configurations))
            raise ValueError(f"configuration: got {configuration}, must be one of {known}")
        return trials

    @property
    def groups(self) -> dict[str, Numbers]:
        """All trials, then those of each configuration."""
        return {ALL: np.arange(len(self.seeds)), **{n: self.of(n) for n in dict.fromkeys(self.configurations)}}

    @property
    def cells(self) -> Numbers:
        """The cell of the confusion matrix, row by row, that each prediction falls into: (T, N)."""
        return np.asarray(self.label * len(CLASS_NAMES) + self.predicted)

    def crossed(self, trials: Numbers) -> Crossed:
        return Crossed(self.seeds[trials].tolist(), len(self.images))

    def ensemble(self, trials: Numbers) -> Reals:
        """Mean probabilities over trials: (N, 10), rows sum to 1."""
        mean = self.probabilities[trials].mean(axis=0, dtype=np.float64)
        return np.asarray(mean / mean.sum(axis=1, keepdims=True))


def pivot(predictions: pd.DataFrame) -> Confirmed:
    """Pivot the table once; the order of its rows does not matter."""
    if predictions.empty:
        raise ValueError("predictions: got none, must be those of at least one confirmed trial")
    trial = pd.factorize(predictions.trial_id)[0]
    order = np.lexsort((predictions.image, trial))
    shape = (int(trial.max()) + 1, -1)
    images = predictions.image.to_numpy()[order]
    if len(order) % shape[0] or (images.reshape(shape) != images[: len(order) // shape[0]]).any():
        raise ValueError("predictions: got trials of different images, must be the same images for every trial")
    firsts = predictions.iloc[order[:: len(order) // shape[0]]]
    configurations, seeds = _configuration(firsts).to_numpy(object), firsts.seed.to_numpy()
    by = np.lexsort((seeds, configurations.astype(str)))

    def pivoted(values: Any) -> Any:
        values = np.asarray(values)
        return values[order].reshape(*shape, *values.shape[1:])[by]

    return Confirmed(
        configurations[by],
        seeds[by],
        pivoted(predictions.image)[0],
        pivoted(predictions.label.cat.codes)[0].astype(np.int64),
        pivoted(predictions.predicted.cat.codes).astype(np.int64),
        pivoted(predictions.confidence),
        pivoted(predictions[[f"p_{k}" for k in range(len(CLASS_NAMES))]]),
    )


def _configuration(predictions: pd.DataFrame) -> pd.Series:
    return predictions.arm.fillna(predictions.config_id)


def patterns(descriptors: pd.DataFrame, label: npt.ArrayLike) -> pd.DataFrame:
    """Which images show the patterns of `EXTREMES`: bool, a row an image.

    A fifth of every class, so that images with a pattern and without hold the classes in equal shares: what the lift
    of a pattern finds is not the class. The bounds come from the images alone, whatever a model makes of them. `label`
    (N,) is the class of each row. A descriptor that is the same for a whole class marks none of it.
    """
    signed = pd.DataFrame({n: descriptors[d] * (-1 if upper else 1) for n, (d, upper) in EXTREMES.items()})
    return lowest_fifth(signed, label)


def lowest_fifth(values: pd.DataFrame, label: npt.ArrayLike) -> pd.DataFrame:
    """Which rows are in the lowest fifth of their class, of each column: bool. `label` (N,) is the class of each."""
    return values < values.groupby(np.asarray(label)).transform(lambda of_class: of_class.quantile(FIFTH))


def categories(predictions: pd.DataFrame, descriptors: pd.DataFrame) -> pd.DataFrame:
    """Every category and pattern in each configuration, and in all pooled (`ALL`, first).

    Columns: configuration, name; `count` predictions of `of`; rate = count / of with its interval low, high; lift with
    lift_low, lift_high. Lift is

    - of `confident`: P(confidence > 0.9 | wrong) / P(confidence > 0.9 | right);
    - of a pair and of `similar_types`: their share of the errors over the share that they would have, given how often
      each class is missed and how often it is answered wrongly, had the one no say in the other (`expected`);
    - of the other patterns: error rate of the images with the pattern / error rate of the others.
    """
    confirmed, tables = pivot(predictions), []
    flags = patterns(descriptors.loc[confirmed.images], confirmed.label).to_numpy()
    subset = flags @ 2 ** np.arange(len(EXTREMES))  # (N,): which of the patterns an image shows, as one number
    for configuration, trials in confirmed.groups.items():
        crossed = confirmed.crossed(trials)
        confident = confirmed.confidence[trials] > CONFIDENT
        confusion = _counted(crossed, 2 * confirmed.cells[trials] + confident, 200).reshape(-1, 10, 10, 2)
        by_subset = _counted(crossed, 2 * subset + confirmed.wrong[trials], 2 * 2 ** len(EXTREMES))
        parts = [_confident(confusion), _confused(confusion.sum(axis=-1)), _extreme(by_subset)]
        rates = _rates(crossed.seeds, *(np.hstack(part) for part in zip(*parts, strict=True)))
        tables.append(pd.DataFrame({"configuration": configuration, "name": NAMES, **rates}))
    return pd.concat(tables, ignore_index=True)


def _counted(crossed: Crossed, codes: Numbers, kinds: int) -> Reals:
    """How often each code was observed, and below it in each of R - 1 replicates: (R, kinds)."""
    return np.vstack([np.bincount(codes.ravel(), minlength=kinds), crossed.counts(codes, kinds)])


def _rates(seeds: int, count: Reals, of: Reals, lift: Reals) -> dict[str, Any]:
    """Columns with intervals from (R, rows): first what was observed, then the replicates."""
    rate = quotient(count, of)
    (low, high), (lift_low, lift_high) = _interval(rate, seeds, of_rate=True), _interval(lift, seeds)
    return {
        "count": count[0].astype(np.int64), "of": of[0].astype(np.int64), "rate": rate[0], "low": low, "high": high,
        "lift": lift[0], "lift_low": lift_low, "lift_high": lift_high,
    }  # fmt: skip


def _interval(values: Reals, seeds: int, of_rate: bool = False) -> Reals:
    """Intervals (2, rows), low and high, of lifts on the scale of their logarithm, of rates on that of their log-odds.

    They cannot leave the range of what they are of, and suit few counts. `values` (R, rows). NaN where one is not
    defined, and where it is at an end of its range: that is no evidence that others would be.
    """
    value = np.where((values[0] > 0) & ~(of_rate & (values[0] >= 1)), values[0], np.nan)
    slope = value * (1 - value) if of_rate else value
    of_seeds, of_images, residual = variances(values[1:], seeds)
    half = half_width(of_seeds, of_images + residual, seeds, CONFIDENCE) / slope
    odds = np.exp(np.stack([-half, half])) * value / (1 - value if of_rate else 1)
    return np.asarray(np.where(half > 1e-12, odds / (1 + odds) if of_rate else odds, np.nan))


def _confident(confusion: Reals) -> tuple[Reals, Reals, Reals]:
    """Count, of and lift of `confident`, (R, 1), from (R, label, predicted, confident)."""
    right = np.einsum("dkkc->dc", confusion)
    wrong = confusion.sum(axis=(1, 2)) - right
    rate, among_right = (quotient(c[:, 1:], c.sum(axis=1, keepdims=True)) for c in (wrong, right))
    return wrong[:, 1:], wrong.sum(axis=1, keepdims=True), quotient(rate, among_right)


def _confused(confusion: Reals) -> tuple[Reals, Reals, Reals]:
    """Count, of and lift of the pairs and of `similar_types`, (R, names), from (R, label, predicted)."""
    which = np.array([members(name) for name in [*PAIRS, "similar_types"]])
    count, by_chance = (np.einsum("dij,nij->dn", cells, which) for cells in (confusion, expected(confusion)))
    errors = (confusion * OFF_DIAGONAL).sum(axis=(1, 2))
    return count, np.repeat(errors[:, None], len(which), axis=1), quotient(count, by_chance)


def members(name: str) -> Flags:
    """The cells (10, 10) of the confusion matrix that make up a pair or `similar_types`."""
    groups = [np.isin(CLASS_NAMES, group) for group in ([PAIRS[name]] if name in PAIRS else SIMILAR)]
    return np.asarray(sum(np.outer(group, group) for group in groups) * OFF_DIAGONAL, bool)


def expected(confusion: Reals) -> Reals:
    """The errors in each cell (R, 10, 10), had the label no say in which other class it is taken for.

    That is quasi-independence: a product of a number for the label and one for the prediction, off the diagonal, with
    the margins of the errors (Goodman 1968, doi:10.2307/2285873). By iterative proportional fitting (Deming & Stephan
    1940, doi:10.1214/aoms/1177731829).
    """
    errors = confusion * OFF_DIAGONAL
    by_label, by_prediction = errors.sum(axis=2), errors.sum(axis=1)
    label, prediction = by_label, by_prediction
    for _ in range(ROUNDS):
        before = label
        label = np.nan_to_num(quotient(by_label, prediction.sum(axis=1, keepdims=True) - prediction))
        prediction = np.nan_to_num(quotient(by_prediction, label.sum(axis=1, keepdims=True) - label))
        if np.allclose(label, before, rtol=1e-9, atol=0):
            break
    return np.asarray(label[:, :, None] * prediction[:, None, :] * OFF_DIAGONAL)


def _extreme(by_subset: Reals) -> tuple[Reals, Reals, Reals]:
    """Count, of and lift of the patterns of `EXTREMES`, (R, names), from (R, subset of patterns × wrong)."""
    counts = by_subset.reshape(len(by_subset), -1, 2)
    holds = np.arange(counts.shape[1]) >> np.arange(len(EXTREMES))[:, None] & 1  # (names, subsets)
    with_it, without = (np.einsum("dsw,ns->dnw", counts, which) for which in (holds, 1 - holds))
    rate, among_others = (quotient(c[..., 1], c.sum(axis=2)) for c in (with_it, without))
    return with_it[..., 1], with_it.sum(axis=2), quotient(rate, among_others)


def confusions(predictions: pd.DataFrame) -> pd.DataFrame:
    """Every way of taking a class for another that occurs, in each configuration and pooled (`ALL`), most often first.

    Columns: configuration, label, predicted; `count` of `of` predictions for images of the label; rate with its
    interval low, high; lift of the share of errors as in `categories`, with lift_low, lift_high; share_of_errors; name
    in `PAIRS`, missing beyond those.
    """
    confirmed, tables = pivot(predictions), []
    names = {pair: name for name in PAIRS for pair in zip(*np.nonzero(members(name)), strict=True)}
    for configuration, trials in confirmed.groups.items():
        crossed = confirmed.crossed(trials)
        confusion = _counted(crossed, confirmed.cells[trials], 100).reshape(-1, 10, 10)
        errors = confusion[0] * OFF_DIAGONAL
        by_count = np.argsort(-errors, axis=None, kind="stable")[: np.count_nonzero(errors)]
        label, predicted = np.unravel_index(by_count, errors.shape)
        count = confusion[:, label, predicted]
        lift = quotient(count, expected(confusion)[:, label, predicted])
        tables.append(pd.DataFrame({
            "configuration": configuration, "label": _classes(label), "predicted": _classes(predicted),
            **_rates(crossed.seeds, count, confusion.sum(axis=2)[:, label], lift),
            "share_of_errors": quotient(count[0], errors.sum()),
            "name": pd.array([names.get(pair) for pair in zip(label, predicted, strict=True)], "str"),
        }))  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def _classes(codes: npt.NDArray[np.integer]) -> pd.Categorical:
    return pd.Categorical.from_codes(codes, CLASS_NAMES, ordered=True)


def per_image(predictions: pd.DataFrame, descriptors: pd.DataFrame) -> pd.DataFrame:
    """A row a test image, by its place `image`.

    Columns: label; wrong, how many of the `trials` of all configurations fail; the descriptors; the patterns of
    `EXTREMES` (bool); label_suspect (bool) with suspect_rank and suggested as in `label_suspects`, null elsewhere.
    """
    confirmed, suspects = pivot(predictions), label_suspects(predictions)
    index = pd.Index(confirmed.images, name="image")
    described = descriptors.loc[confirmed.images].set_axis(index)
    counts = {"wrong": confirmed.wrong.sum(axis=0), "trials": len(confirmed.seeds)}
    suspected = suspects[suspects.suspect].reindex(index)
    return pd.DataFrame({"label": _classes(confirmed.label), **counts}, index).assign(
        **described,
        **patterns(described, confirmed.label),
        label_suspect=suspects.suspect.reindex(index),
        suspect_rank=suspected["rank"].astype("Int64"),
        suggested=suspected.suggested,
    )


def by_configuration(predictions: pd.DataFrame) -> pd.DataFrame:
    """How many seeds of each configuration fail on each image: a row a configuration and image.

    Columns: configuration, image, seeds_wrong, seeds; status: always, sometimes or never wrong, which of one seed says
    nothing of others.
    """
    confirmed, tables = pivot(predictions), []
    for name, trials in list(confirmed.groups.items())[1:]:
        wrong = confirmed.wrong[trials].sum(axis=0)
        status = np.select([wrong == len(trials), wrong > 0], [0, 1], 2)
        tables.append(pd.DataFrame({
            "configuration": name, "image": confirmed.images, "seeds_wrong": wrong, "seeds": len(trials),
            "status": pd.Categorical.from_codes(status, ["always", "sometimes", "never"], ordered=True),
        }))  # fmt: skip
    return pd.concat(tables, ignore_index=True)


@dataclass(frozen=True)
class Change:
    """What becomes of the images from one configuration, a, to another, b, over the seeds that both have.

    The counts are of pairs of predictions, of one seed and image: mended where a is wrong and b right, broken the
    other way. `images` says the same (mended, broken, both wrong, both right) of their ensembles, whose prediction for
    an image is that of the mean probabilities over the seeds; `p` is of these, and so is `gain`: the accuracy of b less
    that of a, for other images.
    """

    seeds: list[int]
    mended: int
    broken: int
    both_wrong: int
    both_right: int
    images: pd.Series
    p: float
    gain: Interval


def mended_and_broken(predictions: pd.DataFrame, a: str, b: str) -> Change:
    """Compare two configurations, image by image. Raises ValueError for an unknown one, or where they share no seed.

    McNemar's exact two-sided test (McNemar 1947, doi:10.1007/BF02295996): of the images that only one ensemble gets
    right, is the half each one's? Of the ensembles, not of every seed: the seeds see the same images, and to add them
    up would count each image as often. It says how sure the difference is for other images, not for other seeds.
    """
    confirmed = pivot(predictions)
    of_a, of_b = confirmed.of(a), confirmed.of(b)
    seeds, in_a, in_b = np.intersect1d(confirmed.seeds[of_a], confirmed.seeds[of_b], return_indices=True)
    if not len(seeds):
        raise ValueError(f"seeds: got none that both {a} and {b} have, must be at least one")
    first, second = of_a[in_a], of_b[in_b]
    counts = np.bincount((confirmed.wrong[first] + 2 * confirmed.wrong[second]).ravel(), minlength=4).tolist()
    wrong_a, wrong_b = (confirmed.ensemble(trials).argmax(axis=1) != confirmed.label for trials in (first, second))
    change = pd.Categorical.from_codes(wrong_a + 2 * wrong_b, ["both right", "mended", "broken", "both wrong"])
    images = pd.Series(change, pd.Index(confirmed.images, name="image"), name="change")
    mended, broken = int((wrong_a & ~wrong_b).sum()), int((wrong_b & ~wrong_a).sum())
    p = float(stats.binomtest(mended, mended + broken).pvalue) if mended + broken else 1.0
    gain = over_images(wrong_a.astype(int) - wrong_b)
    return Change(seeds.tolist(), counts[1], counts[2], counts[3], counts[0], images, p, gain)


def label_suspects(predictions: pd.DataFrame) -> pd.DataFrame:
    """Which labels may be wrong, by the mean probabilities of all confirmed trials: a row an image, most suspect first.

    Columns: rank (1 is the most suspect), label, suggested (the class the ensemble takes it for), score in [0, 1]: the
    probability of the label, 0 most suspect; suspect (bool): whether confident learning counts it as an error of the
    label (Northcutt, Jiang & Chuang 2021, arXiv:1911.00068). It asks for probabilities of images that were not trained
    on: these are.
    """
    confirmed = pivot(predictions)
    mean = confirmed.ensemble(np.arange(len(confirmed.seeds)))
    issue = find_label_issues(confirmed.label, mean, n_jobs=1)
    score = get_label_quality_scores(confirmed.label, mean, method="self_confidence")
    classes = {"label": _classes(confirmed.label), "suggested": _classes(mean.argmax(axis=1))}
    found = pd.DataFrame({**classes, "score": score, "suspect": issue}, pd.Index(confirmed.images, name="image"))
    found = found.sort_values("score", kind="stable")
    found.insert(0, "rank", np.arange(1, len(found) + 1))
    return found


def failures(predictions: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """The table `failures`: a row a confirmed trial and image that it gets wrong; `images` is from `per_image`.

    Columns: the trial's, image, label, predicted, confidence; bool for each of `CATEGORIES` and `PATTERNS`; the
    descriptors; label_suspect, suspect_rank; how many `seeds` of the same configuration (seeds_wrong) and how many
    `models`, all confirmed trials (models_wrong), fail on the image.
    """
    trial = ["study", "stage", "fidelity", "trial_id", "config_id", "arm", "seed"]
    wrong = predictions[predictions.label != predictions.predicted]
    rows = wrong[[*trial, "image", "label", "predicted", "confidence"]].reset_index(drop=True)
    label, predicted = rows.label.cat.codes, rows.predicted.cat.codes
    rows["confident"] = rows.confidence > CONFIDENT
    for name in [*PAIRS, "similar_types"]:
        rows[name] = members(name)[label, predicted]
    rest = images.drop(columns=["label", "suggested"]).rename(columns={"wrong": "models_wrong", "trials": "models"})
    order = [*EXTREMES, *rest.columns.drop([*EXTREMES, "models_wrong", "models"])]
    rows = rows.join(rest[order], on="image")
    seeds = by_configuration(predictions).set_index(["configuration", "image"])[["seeds_wrong", "seeds"]]
    rows = rows.assign(configuration=_configuration(rows)).join(seeds, on=["configuration", "image"])
    return rows.drop(columns="configuration").join(rest[["models_wrong", "models"]], on="image")


def sample(rows: pd.DataFrame, n: int, seed: int = 0) -> pd.DataFrame:
    """Of rows of `failures`, the n worst images by confidence, and n others at random (at most): for cards.

    An image comes once, with its most confident error; the rows' order does not matter. Adds the column `chosen`:
    worst or random.
    """
    ranked = rows.sort_values(["confidence", "image", "trial_id"], ascending=[False, True, True])
    ranked = ranked.drop_duplicates("image")
    worst, others = ranked.head(n), ranked.iloc[n:]
    drawn = others.sample(min(n, len(others)), random_state=seed)
    return pd.concat([worst.assign(chosen="worst"), drawn.assign(chosen="random")], ignore_index=True)
