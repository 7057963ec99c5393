"""How often the intervals of claims hold the truth, and how often they call a difference, in simulated studies.

`make bench` runs it: a thousand studies a case, of six seeds each, through the functions that claims use.

The log-odds that a network is wrong on an image are a mean, the image's difficulty and the seed's part. The difficulty
is normal, and partly an arm's own. MEAN and DIFFICULTY are such that networks are wrong as often as the baseline of
`results/fashion_cnn`, on 7.7 % of the images, and two seeds both on 4.8 %. Then six seeds all are on 2.6 %, the
baseline's on 2.4. ALIKE and UNLIKE are such that two arms are wrong together as often as the baseline and the best
candidate, and as the baseline and the augmented arm. Seeds whose part is 0 still differ by the chance of each
prediction; the seeds of the baseline and of the candidates differ by no more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import optimize, special, stats
from table import write

from analysis import failures
from analysis.corruptions import CLEAN
from analysis.effects import Effect, over_both, over_seeds
from analysis.measures import ACCURACY, POINTS, SHARE, Stressed, contrast, ratio
from analysis.runs import Runs
from analysis.statistics import Crossed, Reals, quotient
from study.data import CLASS_NAMES
from study.provenance import cores

STUDIES, SEEDS = 1000, 6
MEAN, DIFFICULTY = -7.17, 4.68  # log-odds: mean and standard deviation over images
ALIKE, UNLIKE = 0.5, 1.2  # standard deviation of the part of the difficulty that is an arm's own
MODERATE, LARGE = 0.05, 0.11  # of seeds: then their differences have one of 0.3 and of 0.5 points
UPPER = np.isin(CLASS_NAMES, failures.SIMILAR[0])
SAME_KIND = np.equal.outer(UPPER, UPPER) & failures.OFF_DIAGONAL
ANSWERS = (8 * SAME_KIND + failures.OFF_DIAGONAL) / (8 * SAME_KIND + failures.OFF_DIAGONAL).sum(axis=1, keepdims=True)
KINDS = {"noise": (0.5, 3.0), "blur": (1.0, 0.0), "contrast": (0.0, -1.0)}  # of the log-odds: more, and more in `after`
FLAGGED = 1.0  # more log-odds on a fifth of the images
NOTES = (
    "Coverage: the share of studies whose 95 % interval holds the truth; of 1,000 studies it is known to ± 1.4 points. "
    "Called: the share whose interval leaves out 0, which is the error of the first kind where the truth is 0, and the "
    "power elsewhere. By seeds alone: Student's t of the seeds' own values. Mean width: relative to 3.92 standard "
    "deviations of what the studies found: of an interval that knows them it is 1, of Student's t with six seeds 1.25.",
)


@dataclass(frozen=True)
class Case:
    """`measured` makes a study and returns the effect found; `truth` is what all images and seeds would say."""

    truth: float
    measured: Callable[[np.random.Generator], Effect]


def rate(mean: float, seeds: float) -> float:
    """Return the error rate of all images and seeds at a mean log-odds: a logistic function's mean over a normal."""
    z = np.linspace(-8, 8, 2001)
    at = mean + (DIFFICULTY**2 + seeds**2) ** 0.5 * z
    return float(special.expit(at) @ stats.norm.pdf(z) / stats.norm.pdf(z).sum())


def odds(rng: np.random.Generator, images: int, arms: int, apart: float, seeds: float) -> Reals:
    """Return the log-odds to be wrong of networks on images, but for their mean: (arms, SEEDS, images)."""
    shared = (DIFFICULTY**2 - apart**2) ** 0.5
    hard = shared * rng.standard_normal(images) + apart * rng.standard_normal((arms, 1, images))
    return np.asarray(hard + seeds * rng.standard_normal((arms, SEEDS, 1)))


def wrong(rng: np.random.Generator, at: Reals) -> npt.NDArray[np.bool_]:
    return np.asarray(rng.random(at.shape) < special.expit(at))


def accuracies(difference: float, images: int, apart: float, seeds: float) -> Case:
    """Two arms, of which the second has `difference` more points of accuracy."""
    less = rate(MEAN, seeds) - difference / 100
    after = optimize.brentq(lambda mean: rate(mean, seeds) - less, -15, 0)
    runs = tables(images)

    def measured(rng: np.random.Generator) -> Effect:
        right = ~wrong(rng, odds(rng, images, 2, apart, seeds) + np.reshape([MEAN, after], (2, 1, 1)))
        runs.trials["test_accuracy"] = right.mean(axis=2).ravel()
        runs.predictions["predicted"] = pd.Categorical.from_codes(right.ravel().astype(int), CLASS_NAMES)
        return contrast(runs, {"after": 1.0, "before": -1.0}, "")

    return Case(difference, measured)


def tables(images: int) -> Runs:
    """Return two arms, `before` and `after`, of networks of SEEDS seeds; all images are of class 1."""
    keys = [(arm, seed) for arm in ("before", "after") for seed in range(SEEDS)]
    trials = pd.DataFrame(keys, columns=["arm", "seed"]).assign(
        trial_id=[f"c{k:04}" for k in range(len(keys))], stage="confirm", status="completed", stop_reason="finished",
        config_id="0", model="fashion_cnn", test_accuracy=0.0,
    )  # fmt: skip
    rows = trials.loc[np.repeat(trials.index, images)].reset_index(drop=True)
    ones = pd.Categorical.from_codes(np.ones(len(rows), int), CLASS_NAMES)
    rows = rows.assign(image=np.tile(np.arange(images), len(keys)), label=ones, predicted=ones, confidence=0.9)
    return Runs(trials, pd.DataFrame(), rows.assign(**{f"p_{k}": 0.1 for k in range(10)}), *[pd.DataFrame()] * 5)


def relative_error(images: int) -> Case:
    """Two arms under three corruptions of five severities."""
    means = {kind: MEAN + np.array([[0.0], [more]]) + np.linspace(1, 3, 5) + by for kind, (by, more) in KINDS.items()}
    rates = {kind: np.vectorize(rate)(at, MODERATE).mean(axis=1) for kind, at in means.items()}
    truth = 100 * float(np.mean([np.log(after / before) for before, after in rates.values()]))

    def measured(rng: np.random.Generator) -> Effect:
        shares: dict[str, dict[str, Reals]] = {"before": {}, "after": {}}
        own = odds(rng, images, 2 * len(means), UNLIKE, MODERATE).reshape(len(means), 2, SEEDS, images)
        for of_kind, (kind, at) in zip(own, means.items(), strict=True):
            each = [wrong(rng, of_kind + at[:, k].reshape(2, 1, 1)) for k in range(5)]
            shares["before"][kind], shares["after"][kind] = 1 - np.mean(each, axis=0)
        shares["before"][CLEAN] = shares["after"][CLEAN] = np.ones((SEEDS, images))
        of = Stressed(shares, Crossed(range(SEEDS), images), SEEDS, images)
        return of.effect(of.more_errors("after", "before", *KINDS), "", "log %", SHARE)

    return Case(truth, measured)


def excess_error(images: int) -> Case:
    """One arm, on a fifth of the images with FLAGGED more log-odds."""
    truth = 100 * (rate(MEAN + FLAGGED, MODERATE) - rate(MEAN, MODERATE))

    def measured(rng: np.random.Generator) -> Effect:
        flags = np.broadcast_to(rng.random(images) < 0.2, (SEEDS, images))
        errors = wrong(rng, odds(rng, images, 1, ALIKE, MODERATE)[0] + MEAN + FLAGGED * flags)
        crossed = Crossed(range(SEEDS), images)
        less = ratio(crossed, errors & flags, flags) - ratio(crossed, errors & ~flags, ~flags)
        return over_both(100 * less, SEEDS, "", POINTS, ACCURACY, images)

    return Case(truth, measured)


def lift(images: int) -> Case:
    """One arm, to which upper-body classes are harder. Its errors are answers of ANSWERS, of most images the same."""
    means = MEAN + np.where(UPPER, 1.5, -1.5)
    population = np.array([rate(mean, MODERATE) for mean in means])[:, None] * ANSWERS / 10

    def beyond(confusion: Reals) -> Reals:
        by_chance = failures.expected(confusion)
        within = np.outer(UPPER, UPPER) & failures.OFF_DIAGONAL
        return 100 * (quotient(*((cells * within).sum(axis=(1, 2)) for cells in (confusion, by_chance))) - 1)

    def measured(rng: np.random.Generator) -> Effect:
        label = rng.integers(10, size=images)
        errors = wrong(rng, odds(rng, images, 1, ALIKE, MODERATE)[0] + means[label])
        chance = np.where(rng.random((SEEDS, images)) < 0.8, rng.random(images), rng.random((SEEDS, images)))
        answers = (chance[..., None] > ANSWERS.cumsum(axis=1)[label]).sum(axis=-1)
        cells = label * 10 + np.where(errors, answers, label)
        own = [np.bincount(of, minlength=100) for of in cells]
        counts = np.vstack([np.sum(own, axis=0), *own, Crossed(range(SEEDS), images).counts(cells, 100)])
        confusion = counts.reshape(-1, 10, 10) * failures.OFF_DIAGONAL
        return over_both(beyond(confusion), SEEDS, "", "%", SHARE, images)

    return Case(float(beyond(population[None] * failures.OFF_DIAGONAL)[0]), measured)


CASES: dict[str, Callable[[], Case]] = {
    "accuracy, no difference": partial(accuracies, 0, 10_000, ALIKE, 0),
    "… 1,000 images": partial(accuracies, 0, 1000, ALIKE, 0),
    "… differences of seeds spread by 0.5 points": partial(accuracies, 0, 10_000, ALIKE, LARGE),
    "… the same, 1,000 images": partial(accuracies, 0, 1000, ALIKE, LARGE),
    "accuracy, 0.5 points": partial(accuracies, 0.5, 10_000, ALIKE, 0),
    "… arms as with and without augmentation": partial(accuracies, 0.5, 10_000, UNLIKE, MODERATE),
    "errors under three kinds of corruption, one arm over another, log %, 2,000 images": partial(relative_error, 2000),
    "error rate of a fifth of the images less the others', points": partial(excess_error, 10_000),
    "errors within the upper-body classes beyond chance, %": partial(lift, 10_000),
}


def simulated(name: str, studies: range) -> pd.DataFrame:
    """Return a row a study of a case: what was found, with its interval, and that by seeds alone."""
    return pd.DataFrame(_studies(name, CASES[name](), studies))


def _studies(name: str, case: Case, studies: range) -> Iterator[dict[str, object]]:
    for study in studies:
        found = case.measured(np.random.default_rng([study, *name.encode()]))
        centred = np.array(found.own) - np.mean(found.own) + found.value
        alone = over_seeds(centred.tolist(), "", found.unit, found.smallest)
        yield {
            "case": name, "study": study, "truth": case.truth, "value": found.value, "low": found.low,
            "high": found.high, "p": found.p, "low_alone": alone.low, "high_alone": alone.high,
        }  # fmt: skip


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row a case, of what `simulated` returns."""
    return pd.DataFrame([_row(str(name), of) for name, of in table.groupby("case", sort=False)])


def _row(name: str, of: pd.DataFrame) -> dict[str, object]:
    truth = float(of.truth.iloc[0])
    found = {"case": name, "truth": f"{truth:.2f}", "studies": len(of)}
    for suffix, how in (("", ""), ("_alone", ", by seeds alone")):
        low, high = of[f"low{suffix}"], of[f"high{suffix}"]
        found[f"coverage{how}, %"] = f"{100 * covered(of.truth, low, high):.1f}"
        found[f"called{how}, %"] = f"{100 * called(low, high):.1f}"
        if not suffix:
            found["mean width, of 3.92 standard deviations"] = (
                f"{(high - low).mean() / (2 * stats.norm.ppf(0.975) * of.value.std()):.2f}"
            )
    return found


def covered(truth: pd.Series, low: pd.Series, high: pd.Series) -> float:
    """Return the share of studies whose interval holds the truth."""
    return float(((low <= truth) & (truth <= high)).mean())


def called(low: pd.Series, high: pd.Series) -> float:
    """Return the share of studies whose interval leaves out 0."""
    return float(((low > 0) | (high < 0)).mean())


def main() -> None:
    with ProcessPoolExecutor(cores(), get_context("spawn")) as pool:
        parts = [pool.submit(simulated, name, range(k, k + 100)) for name in CASES for k in range(0, STUDIES, 100)]
        table = pd.concat([part.result() for part in parts], ignore_index=True)
    write("intervals", table, summary(table), *NOTES)


if __name__ == "__main__":
    main()
