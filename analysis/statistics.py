"""How sure: means over seeds, and paired differences between configurations that share them.

Student's t interval, mean ± t(0.975, n - 1) · s / √n with s the standard deviation of the n values (Student 1908,
doi:10.1093/biomet/6.1.1). Not a bootstrap: with the handful of seeds that one can afford, resampling them gives
intervals that are too narrow (Hesterberg 2015, doi:10.1080/00031305.2015.1089789, section 4).

The intervals say how far another seed would move a result: weights, order of the images, augmentation. The images are
the same for every seed, so the intervals do not say how far another test set would move it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

CONFIDENCE = 0.95
BEST = 5  # trials of the search that the page lists


@dataclass(frozen=True)
class Estimate:
    """A mean over n seeds. `low` and `high` are None where no interval can be given: see `estimate`."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def shown(self) -> int:
        """The sign that the interval supports: 1 all above zero, -1 all below, 0 none shown."""
        if self.low is None or self.high is None:
            return 0
        return int(self.low > 0) - int(self.high < 0)


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
class Standing:
    """A confirmed configuration: its completed trials, and their accuracies by seed."""

    name: str
    ours: bool  # a candidate of the search, not an arm
    trials: pd.DataFrame

    @property
    def test(self) -> pd.Series:
        return self.trials.set_index("seed").test_accuracy

    @property
    def score(self) -> float:
        """Mean validation accuracy: what configurations are ranked and chosen by, as the test split must not be."""
        return float(self.trials.val_accuracy.mean())

    @property
    def title(self) -> str:
        return self.name if self.ours else f"arm {self.name}"


@dataclass(frozen=True)
class Comparison:
    """A candidate against an arm, by the test accuracy (percentage points) of the seeds that both completed."""

    ours: Standing
    theirs: Standing

    @property
    def points(self) -> pd.Series:
        """ours - theirs for each seed."""
        return 100 * (self.ours.test - self.theirs.test).dropna().sort_index()

    @property
    def estimate(self) -> Estimate:
        return estimate(self.points.tolist())

    @property
    def verdict(self) -> str:
        if self.estimate.n == 1:
            return "not known: one seed"
        return {1: "better", -1: "worse", 0: "no difference shown"}[self.estimate.shown]


def confirmed(trials: pd.DataFrame) -> list[Standing]:
    """Configurations with completed confirm trials, best mean validation accuracy first."""
    done = trials[(trials.stage == "confirm") & (trials.status == "completed") & trials.test_accuracy.notna()]
    names = done.arm.fillna(done.config_id)
    found = [Standing(name, re.fullmatch(r"candidate-\d+", name) is not None, t) for name, t in done.groupby(names)]
    return sorted(found, key=lambda standing: -standing.score)


def compare(standings: Sequence[Standing]) -> list[Comparison]:
    """Every candidate against every arm with which it shares a seed, both in the order of their standing."""
    arms = [standing for standing in standings if not standing.ours]
    pairs = [Comparison(ours, theirs) for ours in standings if ours.ours for theirs in arms]
    return [pair for pair in pairs if len(pair.points)]


def best_trials(trials: pd.DataFrame) -> pd.DataFrame:
    """The search's best trials by validation accuracy, however they ended."""
    search = trials[(trials.stage == "search") & trials.val_accuracy.notna()]
    return search.sort_values(["val_accuracy", "trial_id"], ascending=[False, True]).head(BEST)
