"""Effects, how sure they are, and what follows from that, against the smallest effect that matters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from analysis.statistics import CONFIDENCE, Reals, ends, estimate

Verdict = Literal["supported", "contradicted", "no material effect", "inconclusive"]

EXACT = 13  # values of which every pattern of signs is tried, 2¹³ of them; of more, as many at random
POWER = 0.8
MOST_SEEDS = 1000  # what would take more is not worth naming


@dataclass(frozen=True)
class Effect:
    """What was measured for a claim, in `unit`, positive where the claim is right.

    `low` and `high` are the ends of its 95 % interval, `p` is two-sided; None where they are not defined. `smallest` is
    the smallest effect that matters. `sign_flip` and `needed` are known of differences between seeds alone: the p of
    the sign-flip test, and how many seeds would settle it if effect and spread stay what they are.
    """

    what: str
    unit: str
    smallest: float
    value: float
    low: float | None
    high: float | None
    p: float | None
    seeds: int
    sign_flip: float | None = None
    needed: int | None = None

    @property
    def verdict(self) -> Verdict:
        """Equivalence first (Schuirmann 1987, doi:10.1007/BF01068419, here at the level of the whole interval)."""
        if self.low is None or self.high is None:
            return "inconclusive"
        if -self.smallest < self.low and self.high < self.smallest:
            return "no material effect"
        return "supported" if self.low > 0 else "contradicted" if self.high < 0 else "inconclusive"


def over_seeds(differences: Sequence[float], what: str, unit: str, smallest: float) -> Effect:
    """The mean of one value a seed, with Student's t interval and test: see `statistics.estimate`.

    The test is Student's, not the sign-flip test, whose least p is 2 / 2ⁿ: of 6 seeds 0.03, which no correction for
    several claims survives. What that says is given beside it.
    """
    found = estimate(differences)
    p = float(stats.ttest_1samp(differences, 0).pvalue) if found.low is not None else None
    needed = seeds_needed(differences, smallest) if found.low is not None else None
    flipped = sign_flip(differences) if found.n > 1 else None
    return Effect(what, unit, smallest, found.mean, found.low, found.high, p, found.n, flipped, needed)


def over_draws(value: float, draws: Reals, what: str, unit: str, smallest: float, seeds: int) -> Effect:
    """A value with its percentile interval over bootstrap draws (draws,) of seeds and images: `statistics.Crossed`.

    p is twice the share of draws on the other side of 0, counting one more (Davison & Hinkley 1997, section 4.4).
    """
    low, high = ends(draws)
    if np.isnan(low):
        return Effect(what, unit, smallest, value, None, None, None, seeds)
    beyond = min((draws <= 0).sum(), (draws >= 0).sum())
    p = min(1.0, 2 * float(beyond + 1) / (len(draws) + 1))
    return Effect(what, unit, smallest, value, float(low), float(high), p, seeds)


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


def seeds_needed(differences: Sequence[float], smallest: float) -> int | None:
    """With how many seeds the interval would leave out 0, or lie within ± smallest, with a chance of some 80 %.

    If mean and spread are what they were. By the quantiles of Student's t (Chow, Shao & Wang 2008, Sample Size
    Calculations in Clinical Research, section 3.1). None where it takes more than 1,000.
    """
    mean, spread = abs(float(np.mean(differences))), float(np.std(differences, ddof=1))
    n = np.arange(2, MOST_SEEDS + 1)
    ends, one_sided, two_sided = (stats.t.ppf(q, n - 1) for q in ((1 + CONFIDENCE) / 2, POWER, (1 + POWER) / 2))
    error = spread / np.sqrt(n)
    enough = ((ends + one_sided) * error < mean) | ((ends + two_sided) * error < smallest - mean)
    return int(n[enough.argmax()]) if enough.any() else None
