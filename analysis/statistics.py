"""How sure: means over seeds, and paired differences between configurations that share them.

Student's t interval, mean ± t(0.975, n - 1) · s / √n with s the standard deviation of the n values (Student 1908,
doi:10.1093/biomet/6.1.1). Not a bootstrap: with the handful of seeds that one can afford, resampling them gives
intervals that are too narrow (Hesterberg 2015, doi:10.1080/00031305.2015.1089789, section 4).

The intervals say how far another seed would move a result: weights, order of the images, augmentation. The images are
the same for every seed, so the intervals do not say how far another test set would move it. What is counted over seeds
and images has an interval over both: `Crossed`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

Reals = npt.NDArray[np.float64]

CONFIDENCE = 0.95
SEED = 0  # of every bootstrap
DRAWS = 2000  # of a bootstrap: the ends of its intervals then lie within a few percent of their width
BLOCKS = 500  # of images: what other images would do is then known as well as a variance of so many values
BEST = 5  # trials of the search that the page lists


@dataclass(frozen=True)
class Estimate:
    """A mean over n seeds. `low` and `high` are None where no interval can be given: see `estimate`.

    `images` are how many the interval is over too, None where it is over seeds alone.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    images: int | None = None

    @property
    def shown(self) -> int:
        """The sign that the interval supports: 1 all above zero, -1 all below, 0 none shown."""
        if self.low is None or self.high is None:
            return 0
        return int(self.low > 0) - int(self.high < 0)

    def within(self, least: float, most: float) -> Estimate:
        """With the interval's ends where such values can lie: Student's t knows nothing of that."""
        if self.low is None or self.high is None:
            return self
        return replace(self, low=max(self.low, least), high=min(self.high, most))


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and t interval of one value a seed.

    No interval for a single value, nor for values that are all equal: they say nothing about the spread of others.
    Raises ValueError where there is no value.
    """
    n = len(values)
    if n == 0:
        raise ValueError("values: got none, must be one for each seed")
    mean = float(np.mean(values))
    error = float(np.std(values, ddof=1)) / n**0.5 if n > 1 else 0.0
    if error < 1e-12:  # equal but for rounding: accuracies are quotients of whole numbers
        return Estimate(mean, None, None, n)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * error
    return Estimate(mean, mean - half, mean + half, n)


@dataclass(frozen=True)
class Interval:
    """A value with its bootstrap interval; None where it is not defined."""

    value: float | None
    low: float | None
    high: float | None


class Crossed:
    """Jackknife replicates of sums over T trials on the same N images, without some seeds' values of some images.

    `seeds` (T,) names the seed of each trial, of S. Trials of one seed are left out together, so that configurations
    stay paired. Images are left out by blocks of random ones, of which there are B, at most BLOCKS; they depend on N
    alone, so that measures of several `Crossed` of as many seeds can be combined replicate by replicate. A replicate
    leaves out a seed, a block, or a seed's part of a block: as a table (S + 1, B + 1), row by row, each part, the block
    in the last row, the seed in the last column, and nothing in the last place. From the replicates of any smooth
    function of sums `variances` makes how far other seeds and other images would move it (Efron 1982, The Jackknife,
    the Bootstrap and Other Resampling Plans, chapter 3).
    """

    def __init__(self, seeds: Sequence[int], images: int) -> None:
        self.places = np.unique(np.asarray(seeds), return_inverse=True)[1]  # (T,), of S seeds
        self.seeds = int(self.places.max()) + 1
        self.blocks = np.random.default_rng(SEED).permutation(images) % BLOCKS  # (N,), of B

    def sums(self, values: npt.NDArray[np.generic]) -> Reals:
        """Return the sum over trials and images of `values` (T, N) in every replicate: (replicates,)."""
        return self._sums(np.zeros(values.shape, np.int64), values, 1)[:, 0]

    def counts(self, codes: npt.NDArray[np.integer], kinds: int) -> Reals:
        """Return how often each code 0 … kinds - 1 of `codes` (T, N) occurs in every replicate: (replicates, kinds)."""
        return self._sums(codes, np.ones(codes.shape), kinds)

    def _sums(self, codes: npt.NDArray[np.integer], values: npt.NDArray[np.generic], kinds: int) -> Reals:
        shape = (self.seeds, int(self.blocks.max()) + 1, kinds)
        places = (self.places[:, None] * shape[1] + self.blocks) * kinds + codes
        parts = np.bincount(places.ravel(), values.ravel().astype(np.float64), minlength=np.prod(shape)).reshape(shape)
        left_out = np.zeros((shape[0] + 1, shape[1] + 1, kinds))
        left_out[:-1, :-1], left_out[-1, :-1], left_out[:-1, -1] = parts, parts.sum(axis=0), parts.sum(axis=1)
        return np.asarray((parts.sum(axis=(0, 1)) - left_out).reshape(-1, kinds))


def variances(replicates: Reals, seeds: int) -> tuple[Reals, Reals, Reals]:
    """Return the parts of the variance of values that are the seeds', the images' and the residual's: each (…).

    `replicates` (replicates, …) are those of a `Crossed` of n seeds. Of a mean the parts are those of an analysis of
    variance of seeds × images without replication: σ²_seed / n, σ²_image / N and σ²_residual / nN, none below 0
    (Searle, Casella & McCulloch 1992, Variance Components, doi:10.1002/9780470316856, chapter 4). Of one seed all
    is the images'. NaN where a replicate is not defined.
    """
    blocks = len(replicates) // (seeds + 1) - 1
    table = replicates.reshape(seeds + 1, blocks + 1, *replicates.shape[1:])
    by_block = _jackknife(table[-1, :-1])
    if seeds == 1:
        return np.zeros_like(by_block), by_block, np.zeros_like(by_block)
    by_seed, parts = _jackknife(table[:-1, -1]), table[:-1, :-1]
    effects = parts - parts.mean(axis=0) - parts.mean(axis=1, keepdims=True) + parts.mean(axis=(0, 1))
    residual = (effects**2).sum(axis=(0, 1)) * seeds * blocks / ((seeds - 1) * max(blocks - 1, 1))
    return np.maximum(by_seed - residual, 0), np.maximum(by_block - residual, 0), residual


def _jackknife(replicates: Reals) -> Reals:
    """The variance of a value, from what it is without each part in turn: (n, …)."""
    n = len(replicates)
    return np.asarray(((replicates - replicates.mean(axis=0)) ** 2).sum(axis=0) * (n - 1) / n)


def half_width(of_seeds: npt.ArrayLike, others: npt.ArrayLike, seeds: npt.ArrayLike, level: float) -> Reals:
    """Return half the width of an interval of a confidence `level`, by variances; elementwise.

    By Student's t with Satterthwaite's degrees of freedom (1946, doi:10.2307/3002019): n - 1 of the variance that n
    seeds say, `of_seeds`, infinitely many of that which images say, `others`.
    """
    error, freedom = _error(of_seeds, others, seeds)
    return np.asarray(stats.t.ppf((1 + level) / 2, freedom) * error)


def p_two_sided(value: npt.ArrayLike, of_seeds: npt.ArrayLike, others: npt.ArrayLike, seeds: npt.ArrayLike) -> Reals:
    """Return p, two-sided: 1 less the level at which `half_width` is the value's distance from 0; elementwise."""
    error, freedom = _error(of_seeds, others, seeds)
    return np.asarray(2 * stats.t.sf(np.abs(value) / error, freedom))


def _error(of_seeds: npt.ArrayLike, others: npt.ArrayLike, seeds: npt.ArrayLike) -> tuple[Reals, Reals]:
    both = np.asarray(of_seeds) + np.asarray(others)
    squares, degrees = np.broadcast_arrays(quotient(of_seeds, both) ** 2, np.asarray(seeds, np.float64) - 1)
    freedom = np.full(squares.shape, np.inf)
    np.divide(degrees, squares, out=freedom, where=squares > 0)
    return np.sqrt(both), freedom


def quotient(numerator: npt.ArrayLike, denominator: npt.ArrayLike) -> Reals:
    """Elementwise; NaN where the denominator is 0."""
    above, below = np.broadcast_arrays(np.asarray(numerator, np.float64), np.asarray(denominator, np.float64))
    result: Reals = np.full(above.shape, np.nan)
    np.divide(above, below, out=result, where=below != 0)
    return result


def over_images(values: npt.NDArray[np.generic], draws: int = DRAWS) -> Interval:
    """Mean of one value an image (N,), with its BCa interval over draws of images (Efron 1987, doi:10.2307/2289144).

    Says how far other images would move it, not other seeds. The acceleration is that of the jackknife, which of a mean
    is Σd³ / 6(Σd²)^1.5 with d = value - mean: SciPy's own makes N samples of N values for it, 800 MB of 10,000.
    """
    x = values.astype(np.float64)
    above, of_draws = x - x.mean(), x @ _image_draws(len(x), draws) / len(x)
    if np.ptp(of_draws) < 1e-12:  # all equal, which is no evidence that other images would be
        return Interval(float(x.mean()), None, None)
    # Half of those that are as large: accuracies are quotients of whole numbers, many draws equal what was found.
    below = (of_draws < x.mean() - 1e-12).mean() / 2 + (of_draws <= x.mean() + 1e-12).mean() / 2
    bias, acceleration = stats.norm.ppf(below), (above**3).sum() / (6 * (above**2).sum() ** 1.5)
    z = bias + stats.norm.ppf([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    low, high = np.quantile(of_draws, stats.norm.cdf(bias + z / (1 - acceleration * z)))
    return Interval(float(x.mean()), float(low), float(high))


@lru_cache(maxsize=2)  # claims take turns between all test images and those that are corrupted
def _image_draws(images: int, draws: int) -> Reals:
    """How often each of `images` is drawn when as many are drawn with replacement: (images, draws), kept for reuse."""
    rng = np.random.default_rng(SEED)
    drawn = [np.bincount(rng.integers(images, size=images), minlength=images) for _ in range(draws)]
    times: Reals = np.ascontiguousarray(np.transpose(drawn), dtype=np.float64)
    times.flags.writeable = False
    return times


@dataclass(frozen=True)
class Standing:
    """A confirmed configuration: its completed trials, their accuracies by seed, and how many it has not completed."""

    name: str
    is_candidate: bool  # of the search, not an arm
    trials: pd.DataFrame
    lost: str = ""  # what became of seeds that failed or diverged: see `lost_seeds`

    @property
    def test(self) -> pd.Series:
        """Test accuracy by seed, in [0, 1]."""
        return self.trials.set_index("seed").test_accuracy

    @property
    def accuracy(self) -> Estimate:
        """Mean test accuracy over seeds, in %."""
        return estimate((100 * self.test).tolist()).within(0, 100)

    @property
    def score(self) -> float:
        """Mean validation accuracy, in [0, 1]: what configurations are ranked and chosen by, not the test split."""
        return float(self.trials.val_accuracy.mean())

    @property
    def title(self) -> str:
        return self.name if self.is_candidate else f"arm {self.name}"


@dataclass(frozen=True)
class Comparison:
    """One configuration against another, by the test accuracy (percentage points) of the seeds that both completed:
    `estimate` is the first's less the second's."""

    first: Standing
    second: Standing
    estimate: Estimate

    @property
    def points(self) -> pd.Series:
        """first - second for each seed."""
        return 100 * paired(self.first, self.second)

    @property
    def title(self) -> str:
        return f"{self.first.title} − {self.second.name}"

    @property
    def lost(self) -> str:
        """Which seeds of either failed or diverged; the survivors alone are no fair sample."""
        return lost_of(self.first, self.second)

    @property
    def shown(self) -> int:
        """The sign of the difference that is shown: see `Estimate.shown`; 0 where seeds of either are lost."""
        return 0 if self.lost else self.estimate.shown

    @property
    def verdict(self) -> str:
        if self.lost:
            return f"not judged: {self.lost}"
        if self.estimate.n == 1:
            return "not known: one seed"
        return {1: "better", -1: "worse", 0: "no difference shown"}[self.shown]


def confirmed(trials: pd.DataFrame) -> list[Standing]:
    """Configurations with completed confirm trials: those with every seed of the study first, then by validation.

    So a configuration that completed one lucky seed is not held for the best.
    """
    confirm = planned(trials)
    done = confirm[(confirm.status == "completed") & confirm.test_accuracy.notna()]
    lost, seeds = lost_seeds(trials), confirm.seed.nunique()
    found = [Standing(name, is_candidate(name), of, lost.get(name, "")) for name, of in done.groupby(_names(done))]
    return sorted(found, key=lambda standing: (len(standing.trials) < seeds, -standing.score))


def lost_of(*standings: Standing) -> str:
    """Which seeds of these failed or diverged; empty where none did."""
    return "; ".join(f"{s.lost} ({s.title})" for s in standings if s.lost)


def lost_seeds(trials: pd.DataFrame) -> dict[str, str]:
    """By configuration of which confirm trials failed or diverged, how many did: `3 of 6 seeds diverged`."""
    found, confirm = {}, planned(trials)
    for name, of in confirm.groupby(_names(confirm)):
        counts = of.status.value_counts()
        lost = [(counts[status], status) for status in ("diverged", "failed") if counts.get(status)]
        if lost:
            (number, how), *others = lost
            found[name] = ", ".join([f"{number} of {len(of)} seeds {how}", *(f"{n} {status}" for n, status in others)])
    return found


def planned(trials: pd.DataFrame) -> pd.DataFrame:
    """The confirm trials, but for those that an extended search has made superfluous."""
    return trials[(trials.stage == "confirm") & (trials.stop_reason != "superseded")]


def _names(trials: pd.DataFrame) -> pd.Series:
    return trials.arm.fillna(trials.config_id).astype(str)


def is_candidate(name: str) -> bool:
    return re.fullmatch(r"candidate-\d+", name) is not None


def paired(first: Standing, second: Standing) -> pd.Series:
    """The first's test accuracy less the second's, in [-1, 1], by the seeds that both completed."""
    return (first.test - second.test).dropna().sort_index()


def to_compare(standings: Sequence[Standing], reference: str | None = None) -> list[tuple[Standing, Standing]]:
    """Every candidate and every arm, then every other arm and the arm `reference`, in the order of standing.

    Where there are no arms, every two candidates. Of those that share a seed.
    """
    arms = [standing for standing in standings if not standing.is_candidate]
    pairs = [(candidate, arm) for candidate in standings if candidate.is_candidate for arm in arms]
    pairs += [(arm, other) for other in arms if other.name == reference for arm in arms if arm is not other]
    if not arms:
        pairs = list(itertools.combinations(standings, 2))
    return [pair for pair in pairs if len(paired(*pair))]


def best_two(standings: Sequence[Standing]) -> list[Standing]:
    """The best candidate and the best arm; the two best where there are only candidates, or only arms."""
    best = [s for kind in (True, False) if (s := next((s for s in standings if s.is_candidate is kind), None))]
    return best if len(best) == 2 else list(standings[:2])


def best_trials(trials: pd.DataFrame) -> pd.DataFrame:
    """The search's best trials by validation accuracy, however they ended."""
    search = trials[(trials.stage == "search") & trials.val_accuracy.notna()]
    return search.sort_values(["val_accuracy", "trial_id"], ascending=[False, True]).head(BEST)
