"""Effects and verdicts: against brute force, and over simulated studies whose truth is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import optimize, stats

from analysis.effects import Effect, holm, over_draws, over_seeds, seeds_needed, sign_flip

SEEDS = 6
SPREAD = 0.25  # points between seeds: about what confirmed networks show


def of(low: float | None, high: float | None, smallest: float = 0.5) -> Effect:
    return Effect("", "points", smallest, 0.0, low, high, 0.01, SEEDS)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.1, 0.9, "supported"),
        (-0.9, -0.1, "contradicted"),
        (-0.4, 0.4, "no material effect"),
        (0.1, 0.4, "no material effect"),  # shown, and too small to matter
        (-0.4, 0.6, "inconclusive"),
        (None, None, "inconclusive"),
    ],
)
def test_a_verdict_follows_from_the_interval(low: float | None, high: float | None, verdict: str) -> None:
    assert of(low, high).verdict == verdict


def test_the_sign_flip_test_counts_every_pattern_of_signs() -> None:
    values = np.random.default_rng(0).normal(0.2, 0.3, 7)
    patterns = [np.mean(values * signs) for signs in itertools.product((1, -1), repeat=len(values))]
    expected = np.mean([abs(mean) >= abs(values.mean()) - 1e-12 for mean in patterns])
    assert sign_flip(values.tolist()) == pytest.approx(expected)


def test_the_least_p_of_a_sign_flip_test_of_six_is_one_in_32() -> None:
    assert sign_flip([0.3, 0.5, 0.2, 0.4, 0.6, 0.1]) == pytest.approx(2 / 2**6)


def test_holm_is_what_its_definition_says() -> None:
    p = np.random.default_rng(1).random(9) ** 3
    adjusted = holm(p.tolist())
    for k in range(len(p)):
        smaller = [p[j] * (p >= p[j]).sum() for j in range(len(p)) if p[j] <= p[k]]
        assert adjusted[k] == pytest.approx(min(1, max(smaller)))
    assert holm([]) == []


def test_over_seeds_is_the_one_sample_t_test() -> None:
    values = np.random.default_rng(2).normal(0.4, 0.3, SEEDS)
    effect, expected = over_seeds(values.tolist(), "", "points", 0.5), stats.ttest_1samp(values, 0)
    assert effect.p == pytest.approx(expected.pvalue)
    assert (effect.low, effect.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_equal_values_say_nothing_of_others() -> None:
    effect = over_seeds([0.3, 0.3, 0.3], "", "points", 0.5)
    assert (effect.low, effect.p, effect.needed, effect.verdict) == (None, None, None, "inconclusive")


def test_the_p_of_draws_and_their_interval_agree() -> None:
    draws = np.random.default_rng(3).normal(0, 1, 4000)
    for shift in (0.5, 1.5, 1.9, 2.1, 3.0):
        effect = over_draws(shift, draws + shift, "", "points", 0.1, SEEDS)
        assert effect.low is not None
        assert effect.p is not None
        assert (effect.low > 0) == (effect.p < 0.05)


@pytest.mark.parametrize(("mean", "smallest"), [(1.0, 0.5), (0.0, 0.5), (0.4, 0.5)])
def test_that_many_seeds_settle_it_four_times_of_five(mean: float, smallest: float) -> None:
    rng = np.random.default_rng(4)
    differences = rng.normal(0, 1, 5)
    differences = mean + (differences - differences.mean()) / differences.std(ddof=1)
    needed = seeds_needed(differences.tolist(), smallest)
    assert needed is not None

    def settled(seeds: int) -> float:
        effects = (over_seeds(rng.normal(mean, 1, seeds).tolist(), "", "points", smallest) for _ in range(400))
        return float(np.mean([effect.verdict != "inconclusive" for effect in effects]))

    assert settled(needed // 2) < 0.75 < settled(needed)
    assert seeds_needed((0.5 * smallest + 1e3 * (differences - mean)).tolist(), smallest) is None


def simulated(difference: float, studies: int = 400) -> float:
    """The share of studies that call a difference: two models over the same seeds, judged as a claim is."""
    rng = np.random.default_rng(5)
    verdicts = [
        over_seeds(rng.normal(difference, SPREAD, SEEDS).tolist(), "", "points", 0.01).verdict for _ in range(studies)
    ]
    return sum(verdict in ("supported", "contradicted") for verdict in verdicts) / studies


def test_without_a_difference_few_studies_call_one() -> None:
    assert simulated(0.0) <= 0.07


def test_a_difference_of_which_the_power_is_80_percent_is_called() -> None:
    critical = stats.t.ppf(0.975, SEEDS - 1)
    centre = optimize.brentq(lambda shift: stats.nct.sf(critical, SEEDS - 1, shift) - 0.8, 0.1, 20)
    assert simulated(centre * SPREAD / SEEDS**0.5) >= 0.75
