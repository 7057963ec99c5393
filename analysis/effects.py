"""Effects, how sure they are, and what follows from that, against the smallest effect that matters."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from analysis.statistics import CONFIDENCE, Reals, half_width, p_two_sided, variances
from analysis.words import number, p_value, start

Verdict = Literal["supported", "contradicted", "no material effect", "inconclusive"]

EXACT = 13  # values of which every pattern of signs is tried, 2¹³ of them; of more, as many at random
POWER = 0.8
MOST_SEEDS = 1000  # what would take more is not worth naming


@dataclass(frozen=True)
class Effect:
    """What was measured for a claim, in `unit`, positive where the claim is right.

    `low` and `high` are the ends of its 95 % interval, `p` is two-sided; None where they are not defined. `smallest` is
    the smallest effect that matters. `own` is what each seed says of it by itself, `spread` their standard deviation.
    It is measured on `images`, where it is of images; `crossed` says whether the interval is over them too, and
    `image_error` is then the standard error that other images alone give it.
    """

    what: str
    unit: str
    smallest: float
    value: float
    low: float | None
    high: float | None
    p: float | None
    own: tuple[float, ...]
    spread: float
    images: int | None = None
    crossed: bool = False
    image_error: float = 0.0

    @property
    def seeds(self) -> int:
        return len(self.own)

    @property
    def verdict(self) -> Verdict:
        """Equivalence first (Schuirmann 1987, doi:10.1007/BF01068419, here at the level of the whole interval)."""
        if self.low is None or self.high is None:
            return "inconclusive"
        if -self.smallest < self.low and self.high < self.smallest:
            return "no material effect"
        return "supported" if self.low > 0 else "contradicted" if self.high < 0 else "inconclusive"

    @property
    def sentence(self) -> str:
        """What it is, how sure, over how many seeds and images, and against what: made from its numbers alone."""
        value = f"{start(self.what)}: {signed(self.value)} {self.unit}"
        over = f"{self.seeds} seed{'s' if self.seeds > 1 else ''}"
        if self.images is not None:
            over += f" and {self.images:,} images" if self.crossed else f", for these {self.images:,} images"
        if self.low is None or self.high is None:
            return f"{value} ({over}; no interval; {number(self.smallest)} would matter)."
        sure = "" if self.p is None else f", {p_value(self.p)}"
        ends = f"95 % interval {signed(self.low)} to {signed(self.high)} over {over}"
        return f"{value} ({ends}{sure}; {number(self.smallest)} would matter)."


def signed(value: float) -> str:
    """Two decimals with a sign, and no sign on zero."""
    return ("+" if value >= 0.005 else "") + number(value)


def over_seeds(
    own: Sequence[float], what: str, unit: str, smallest: float, images: int | None = None, resolution: float = 0.0
) -> Effect:
    """The mean of one value a seed, with Student's t interval and test: see `statistics.estimate`.

    The test is Student's, not the sign-flip test, whose least p is 2 / 2ⁿ: of 6 seeds 0.03, which no correction for
    several claims survives. What that says is printed beside it. `resolution` is the standard deviation that rounding
    alone gives the values: theirs is taken to be that at least, so that equal values have an interval too.
    """
    n, mean = len(own), float(np.mean(own))
    spread = max(float(np.std(own, ddof=1)), resolution) if n > 1 else 0.0
    low = high = p = None
    if spread > 1e-12:  # not equal but for rounding, nor NaN
        low, high = map(float, stats.t.interval(CONFIDENCE, n - 1, mean, spread / n**0.5))
        p = 2 * float(stats.t.sf(abs(mean) * n**0.5 / spread, n - 1))
    return Effect(what, unit, smallest, mean, low, high, p, tuple(map(float, own)), spread, images)


def over_both(values: Reals, seeds: int, what: str, unit: str, smallest: float, images: int) -> Effect:
    """A value with an interval and a test over seeds and images, by the variances of both: see `statistics.variances`.

    `values` (1 + seeds + replicates,): what was found, what each seed says by itself, the replicates of a
    `statistics.Crossed`. The spread of the seeds' own values is σ²_seed + σ²_residual / N; what other images add is
    σ²_image / N. The wider interval and the larger p of this and of Student's t over seeds alone count: of two or three
    seeds the degrees of freedom are too uncertain. One seed has neither.

    In simulated studies of 6 seeds and 1,000 to 10,000 images these intervals hold the truth in 94 to 96 %, whatever
    is measured: results/benchmarks/intervals.md. That networks differ by little more than the residual is what Jordan
    (2023, arXiv:2304.01910) finds too.
    """
    own, replicates, value = values[1 : 1 + seeds], values[1 + seeds :], float(values[0])
    # Centred at what was found of all seeds together: of a ratio that is not the mean of the seeds' own.
    found = over_seeds((own - own.mean() + value).tolist(), what, unit, smallest, images)
    found = dataclasses.replace(found, value=value, own=tuple(own.tolist()))
    of_images = float(variances(replicates, seeds)[1])
    if found.low is None or np.isnan(of_images):
        return dataclasses.replace(found, low=None, high=None, p=None)
    of_seeds = found.spread**2 / seeds
    half = float(_wider(CONFIDENCE, of_seeds, of_images, seeds))
    p = max(float(p_two_sided(value, of_seeds, v, seeds)) for v in (0, of_images))
    return dataclasses.replace(
        found, low=value - half, high=value + half, p=p, crossed=True, image_error=of_images**0.5
    )


def _wider(level: float, of_seeds: npt.ArrayLike, of_images: npt.ArrayLike, seeds: npt.ArrayLike) -> Reals:
    """Half the width of the wider of the intervals over seeds and images, and over seeds alone; elementwise."""
    alone, both = (half_width(of_seeds, variance, seeds, level) for variance in (0, of_images))
    return np.maximum(alone, both)


def sign_flip(values: Sequence[float]) -> float:
    """p, two-sided: how often the mean of values with random signs is as far from 0 (Fisher 1935, The Design of
    Experiments, section 21). Exact for up to 13 values; never below 2 / 2ⁿ. At least two values.
    """
    found = stats.permutation_test(
        (np.asarray(values),),
        lambda v, axis: v.mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=2**EXACT,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


def holm(p: Sequence[float]) -> list[float]:
    """p adjusted for testing all of them: with those below α rejected, at most α to reject a true one among them.

    The k-th smallest of m times m - k + 1, at least the one before, at most 1 (Holm 1979, jstor:4615733).
    """
    order = np.argsort(p, kind="stable")
    steps = np.asarray(p, np.float64)[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1) if len(p) else steps
    return [float(value) for value in adjusted]


def seeds_needed(effect: Effect, level: float) -> int | None:
    """With how many seeds the interval would leave out 0, or lie within ± smallest, with a chance of some 80 %.

    If mean and spread over seeds are what they were, and the images the same; `level` is that of the test against 0,
    after the correction for several. By the quantiles of Student's t (Chow, Shao & Wang 2008, Sample Size Calculations
    in Clinical Research, section 3.1). None where it takes more than 1,000, or no more than there are: then it is not
    the seeds that lack.
    """
    if not effect.spread > 0 or effect.p is None:
        return None
    mean, n = abs(effect.value), np.arange(2, MOST_SEEDS + 1)
    of_0, ends, one_sided, two_sided = (
        _wider(of, effect.spread**2 / n, effect.image_error**2, n)
        for of in (1 - level, CONFIDENCE, 2 * POWER - 1, POWER)
    )
    enough = (of_0 + one_sided < mean) | (ends + two_sided < effect.smallest - mean)
    least = int(n[enough.argmax()])
    return least if enough.any() and least > effect.seeds else None
