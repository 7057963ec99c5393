"""Effects and verdicts: against brute force, and over simulated studies whose truth is known."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

from analysis.effects import Effect, holm, over_both, over_seeds, seeds_needed, sign_flip
from analysis.measures import contrast
from analysis.runs import Runs
from study.data import CLASS_NAMES

SEEDS = 6


def of(low: float | None, high: float | None, smallest: float = 0.5) -> Effect:
    return Effect("", "points", smallest, 0.0, low, high, 0.01, (0.0,) * SEEDS, 0.0)


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
    assert (effect.low, effect.p, seeds_needed(effect, 0.05), effect.verdict) == (None, None, None, "inconclusive")


def test_equal_whole_numbers_are_known_to_their_rounding() -> None:
    effect = over_seeds([10.0] * SEEDS, "", "epochs", 1.0, resolution=0.4)
    half = stats.t.ppf(0.975, SEEDS - 1) * 0.4 / SEEDS**0.5
    assert (effect.low, effect.high) == pytest.approx((10 - half, 10 + half))
    assert effect.p == pytest.approx(2 * stats.t.sf(10 * SEEDS**0.5 / 0.4, SEEDS - 1))
    values = [8.0, 12.0, 9.0]
    assert over_seeds(values, "", "epochs", 1.0, resolution=0.4) == over_seeds(values, "", "epochs", 1.0)


@pytest.mark.parametrize("spread", [0.01, 0.3, 3.0])
def test_the_wider_interval_counts_and_the_larger_p(spread: float) -> None:
    rng = np.random.default_rng(3)
    own, draws = 1 + spread * np.linspace(-1, 1, SEEDS), 1 + rng.normal(0, 0.4, 4000)
    effect = over_both(np.concatenate([[1.0], own, draws]), SEEDS, "", "points", 0.1, 500)
    student, percentiles = over_seeds(own.tolist(), "", "points", 0.1), np.quantile(draws, [0.025, 0.975])
    assert student.low is not None
    assert student.high is not None
    assert effect.value == 1
    assert effect.low == pytest.approx(min(student.low, percentiles[0]))
    assert effect.high == pytest.approx(max(student.high, percentiles[1]))
    assert student.p is not None
    assert effect.p == pytest.approx(max(student.p, 2 * ((draws <= 0).sum() + 1) / 4001))
    assert effect.image_error == pytest.approx(max(0.16 - effect.spread**2 / SEEDS, 0) ** 0.5, abs=0.02)
    only = dataclasses.replace(effect, value=1.0)
    assert (seeds_needed(only, 0.05) is None) == (spread < 1), "more seeds settle what the seeds leave open"
    assert (effect.images, effect.crossed, effect.own) == (500, True, tuple(own))


@pytest.mark.parametrize("own", [[1.0], [1.0, np.nan], [1.0, 1.0]])
def test_draws_alone_give_no_interval(own: list[float]) -> None:
    draws = np.random.default_rng(3).normal(1, 0.1, 1000)
    effect = over_both(np.concatenate([[1.0], own, draws]), len(own), "", "points", 0.1, 500)
    assert (effect.low, effect.high, effect.p, effect.verdict) == (None, None, None, "inconclusive")


def test_a_sentence_says_over_what_its_interval_is() -> None:
    effect = dataclasses.replace(of(-0.2, 1.2), what="a less b", value=0.5, images=1000)
    said = "A less b: +0.50 points (95 % interval −0.20 to +1.20 over 6 seeds"
    assert effect.sentence == f"{said}, for these 1,000 images, p = 0.010; 0.50 would matter)."
    assert dataclasses.replace(effect, crossed=True).sentence.startswith(f"{said} and 1,000 images, p")
    assert dataclasses.replace(of(None, None), what="a", own=(1.0,)).sentence == (
        "A: 0.00 points (1 seed; no interval; 0.50 would matter)."
    )


@pytest.mark.parametrize(
    ("mean", "smallest", "level"), [(1.0, 0.5, 0.05), (1.0, 0.5, 0.005), (0.0, 0.5, 0.05), (0.4, 0.5, 0.05)]
)
def test_that_many_seeds_settle_it_four_times_of_five(mean: float, smallest: float, level: float) -> None:
    rng = np.random.default_rng(4)
    differences = rng.normal(0, 1, 5)
    differences = mean + (differences - differences.mean()) / differences.std(ddof=1)
    effect = over_seeds(differences.tolist(), "", "points", smallest)
    needed = seeds_needed(effect, level)
    assert needed is not None

    def settled(seeds: int) -> float:
        drawn = rng.normal(mean, 1, (400, seeds))
        found, error = drawn.mean(axis=1), drawn.std(axis=1, ddof=1) / seeds**0.5
        beyond_0 = np.abs(found) > stats.t.ppf(1 - level / 2, seeds - 1) * error
        within = np.abs(found) + stats.t.ppf(0.975, seeds - 1) * error < smallest
        return float(np.mean(beyond_0 | within))

    assert settled(needed // 2) < 0.75 < settled(needed)
    assert seeds_needed(dataclasses.replace(effect, own=(0.0,) * needed), level) is None, "there are as many"
    assert seeds_needed(dataclasses.replace(effect, value=smallest / 2, spread=1e3), level) is None


def test_of_a_ratio_both_intervals_are_around_what_was_found() -> None:
    """Of all seeds together, not the mean of what each says by itself."""
    draws = np.random.default_rng(7).normal(1.2, 0.01, 1000)
    own = np.linspace(-0.5, 2.5, SEEDS)
    effect = over_both(np.concatenate([[1.2], own, draws]), SEEDS, "", "points", 0.1, 500)
    half = stats.t.ppf(0.975, SEEDS - 1) * own.std(ddof=1) / SEEDS**0.5
    assert (effect.low, effect.high) == pytest.approx((1.2 - half, 1.2 + half))
    assert effect.p == pytest.approx(2 * stats.t.sf(1.2 * SEEDS**0.5 / own.std(ddof=1), SEEDS - 1))


def test_the_least_p_is_that_of_no_draw_beyond_0() -> None:
    draws = np.random.default_rng(7).normal(1, 0.01, 1000)
    effect = over_both(np.concatenate([[1.0], np.linspace(0.99, 1.01, SEEDS), draws]), SEEDS, "", "points", 0.1, 500)
    assert effect.p == 2 / 1001


def simulated(difference: float, by_arm: float = 0.0, images: int = 200, studies: int = 400) -> tuple[float, float]:
    """The share of studies that call a difference (points of accuracy) between two arms, and that would by Student's t
    over seeds alone.

    An arm's networks are right where their skill, which differs from seed to seed, is beyond an image's difficulty. So
    the arms get other images wrong in every study, as other seeds and other test images would have it. `by_arm` is the
    standard deviation of the part of the difficulty that an image has for one arm; the variance of all is 1.
    """
    rng, runs, called, alone = np.random.default_rng(5), _runs(images), 0, 0
    shown = ("supported", "contradicted")
    for _ in range(studies):
        hard = rng.normal(0, 0.8, images) + rng.normal(0, by_arm, (2, 1, images))
        rates = 0.8 + np.array([[0.0], [difference / 100]]) + rng.normal(0, 0.02, (2, SEEDS))
        own = hard + rng.normal(0, (0.36 - by_arm**2) ** 0.5, (2, SEEDS, images))
        right = own < stats.norm.ppf(np.clip(rates, 0, 1))[..., None]
        runs.trials["test_accuracy"] = right.mean(axis=2).ravel()
        runs.predictions["predicted"] = pd.Categorical.from_codes(right.ravel().astype(int), CLASS_NAMES)
        called += contrast(runs, {"after": 1.0, "before": -1.0}, "").verdict in shown
        alone += over_seeds([*(100 * np.diff(right.mean(axis=2), axis=0)[0])], "", "points", 0.5).verdict in shown
    return called / studies, alone / studies


def _runs(images: int) -> Runs:
    """Two arms, `before` and `after`, of networks of SEEDS seeds; all images are of class 1."""
    keys = [(arm, seed) for arm in ("before", "after") for seed in range(SEEDS)]
    trials = pd.DataFrame(keys, columns=["arm", "seed"]).assign(
        trial_id=[f"c{k:04}" for k in range(len(keys))], stage="confirm", status="completed", stop_reason="finished",
        config_id="0", model="fashion_cnn", test_accuracy=0.0,
    )  # fmt: skip
    rows = trials.loc[np.repeat(trials.index, images)].reset_index(drop=True)
    of = pd.Categorical.from_codes(np.ones(len(rows), int), CLASS_NAMES)
    rows = rows.assign(image=np.tile(np.arange(images), len(keys)), label=of, predicted=of, confidence=0.9)
    return Runs(trials, pd.DataFrame(), rows.assign(**{f"p_{k}": 0.1 for k in range(10)}), *[pd.DataFrame()] * 5)


def test_without_a_difference_few_studies_call_one() -> None:
    assert simulated(0.0)[0] <= 0.07


def test_nor_where_only_these_images_make_one() -> None:
    """Some images are harder for one arm, whatever the seed; others would not be. Seeds alone do not show that."""
    called, by_seeds_alone = simulated(0.0, by_arm=0.4)
    assert called <= 0.07 < by_seeds_alone


def test_a_difference_of_which_the_power_is_80_percent_is_called() -> None:
    """A power of 80 % with the variance that the draws have, which count the chance of a single prediction twice (Owen
    2007, section 4). What Student's test over seeds alone would call so often is less, and is called less often.
    """
    skill, chance = 0.02, (0.2 * 0.8 * 0.5 / 200) ** 0.5  # standard deviations of a network's accuracy
    critical = stats.t.ppf(0.975, SEEDS - 1)
    centre = optimize.brentq(lambda shift: stats.nct.sf(critical, SEEDS - 1, shift) - 0.8, 0.1, 20)

    def difference(chances: int) -> float:
        return float(centre * 100 * (2 * (skill**2 + chances * chance**2) / SEEDS) ** 0.5)

    assert simulated(difference(2))[0] >= 0.75
    called, by_seeds_alone = simulated(difference(1))
    assert 0.65 <= called < by_seeds_alone
