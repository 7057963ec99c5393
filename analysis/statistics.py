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
from scipy import sparse, stats

Reals = npt.NDArray[np.float64]

CONFIDENCE = 0.95
SEED = 0  # of every bootstrap
# Of a bootstrap: the ends of its intervals then lie within a few percent of their width, and its least p, 2 / 2001,
# survives a correction for all claims of two effects each.
DRAWS = 2000
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
    """A value with its bootstrap interval; None where it is not defined: see `ends`."""

    value: float | None
    low: float | None
    high: float | None


class Crossed:
    """Draws of seeds and of images, each for itself: the pigeonhole bootstrap (Owen 2007, doi:10.1214/07-AOAS122).

    For measures of T trials on the same N images, as arrays (T, N). `seeds` (T,) names the seed of each trial; trials
    of one seed are drawn together, so that configurations stay paired. The draws of the images depend on their number
    alone: measures of two `Crossed` can be subtracted draw by draw.

    Of n seeds a draw holds n - 1, or few of them would seem to vary too little (Rao & Wu 1988,
    doi:10.1080/01621459.1988.10478591). The intervals say how far other seeds and other images would move a result;
    with a single seed, other images only. Simulated with seeds that differ by 0.4 logits (standard deviation), those
    of 2, 3 and 6 seeds held the truth in 88, 92 and 96 % of the cases with 400 images, and in 77, 84 and 92 % with
    2,000, where the seeds are most of the error: with few seeds they are too narrow.
    """

    def __init__(self, seeds: Sequence[int], images: int, draws: int = DRAWS) -> None:
        self.images = _image_draws(images, draws)  # (N, draws): how often a draw holds each image
        self.places = np.unique(np.asarray(seeds), return_inverse=True)[1]  # (T,), of S seeds
        n = int(self.places.max()) + 1
        times = np.random.default_rng([SEED, n]).multinomial(max(n - 1, 1), np.full(n, 1 / n), size=draws)
        self.seeds = times.T.astype(np.float64)  # (S, draws), likewise

    def sums(self, values: npt.NDArray[np.generic]) -> Reals:
        """Sum over trials and images of `values` (T, N) in every draw: (draws,)."""
        return self._sums(np.zeros(values.shape, np.int64), values, 1)[:, 0]

    def counts(self, codes: npt.NDArray[np.integer], kinds: int) -> Reals:
        """How often each code 0 … kinds - 1 of `codes` (T, N) occurs in every draw: (draws, kinds)."""
        return self._sums(codes, np.ones(codes.shape), kinds)

    def _sums(self, codes: npt.NDArray[np.integer], values: npt.NDArray[np.generic], kinds: int) -> Reals:
        """Sum of `values` by code. Trials of one seed are added up first: many of them cost the draws little more."""
        trials, images = codes.shape
        rows, columns = (codes + kinds * self.places[:, None]).ravel(), np.tile(np.arange(images), trials)
        shape = (kinds * len(self.seeds), images)
        cells = sparse.csr_array((values.ravel().astype(np.float64), (rows, columns)), shape)
        cells.eliminate_zeros()  # most often, most are
        by_seed = (cells @ self.images).reshape(len(self.seeds), kinds, -1)
        return np.asarray(np.einsum("skd,sd->dk", by_seed, self.seeds))


def quotient(numerator: npt.ArrayLike, denominator: npt.ArrayLike) -> Reals:
    """Elementwise; NaN where the denominator is 0."""
    above, below = np.broadcast_arrays(np.asarray(numerator, np.float64), np.asarray(denominator, np.float64))
    result: Reals = np.full(above.shape, np.nan)
    np.divide(above, below, out=result, where=below != 0)
    return result


def ends(draws: Reals) -> Reals:
    """Percentile interval (Efron 1981, doi:10.2307/3314608) over the first axis of (draws, …): (2, …), low and high.

    NaN where the draws say too little: where they are all equal, for that is no evidence that other samples would be,
    and where more of them are undefined than the interval leaves out.
    """
    undefined = np.isnan(draws)
    given = np.where(undefined.all(axis=0), 0.0, draws)
    low_high = np.nanquantile(given, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    nothing = (undefined.mean(axis=0) > 1 - CONFIDENCE) | (np.nanmax(given, axis=0) - np.nanmin(given, axis=0) < 1e-12)
    return np.asarray(np.where(np.stack([nothing, nothing]), np.nan, low_high))


def over_images(values: npt.NDArray[np.generic], draws: int = DRAWS) -> Interval:
    """Mean of one value an image (N,), with its BCa interval over draws of images (Efron 1987, doi:10.2307/2289144).

    Says how far other images would move it, not other seeds. The acceleration is that of the jackknife, which of a mean
    is Σd³ / 6(Σd²)^1.5 with d = value - mean: SciPy's own makes N samples of N values for it, 800 MB of 10,000.
    """
    x = values.astype(np.float64)
    above, of_draws = x - x.mean(), x @ _image_draws(len(x), draws) / len(x)
    if np.isnan(ends(of_draws)).any():
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
