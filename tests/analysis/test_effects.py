"""Effects and verdicts: against brute force, and over simulated studies whose truth is known."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

from analysis.effects import Effect, holm, over_both, over_seeds, seeds_needed, sign_flip
from analysis.measures import contrast, ratio
from analysis.runs import Runs
from analysis.statistics import BLOCKS, Crossed, Reals
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


def study(spread: float, seeds: int = SEEDS, images: int = 1000) -> Reals:
    """Values of seeds on images (seeds, images), with a mean of 1; `spread` is the seeds' standard deviation."""
    rng = np.random.default_rng(3)
    residual = rng.normal(0, 8, (seeds, images))
    own = spread * np.linspace(-1.3, 1.3, seeds) if seeds > 1 else np.zeros(1)
    return np.asarray(1 + own[:, None] + rng.normal(0, 6, images) + residual - residual.mean(axis=1, keepdims=True))


def measured(values: Reals) -> Effect:
    seeds, images = values.shape
    found = ratio(Crossed(range(seeds), images), values, np.ones(values.shape))
    return over_both(found, seeds, "", "points", 0.1, images)


@pytest.mark.parametrize("spread", [0.01, 0.3, 3.0])
def test_the_interval_is_that_of_an_analysis_of_variance(spread: float) -> None:
    """Of two-way crossed effects without replication, by mean squares and Satterthwaite's degrees of freedom."""
    values = study(spread)
    n, images = values.shape
    by_seed, by_image, mean = values.mean(axis=1), values.mean(axis=0), values.mean()
    residual = values - by_seed[:, None] - by_image + mean
    of_seeds = by_seed.var(ddof=1) / n
    of_images = by_image.var(ddof=1) / images - (residual**2).sum() / ((n - 1) * (images - 1)) / (n * images)
    assert of_images > 0
    effect, error = measured(values), (of_seeds + of_images) ** 0.5
    freedom = (n - 1) * (error**2 / of_seeds) ** 2
    alone = over_seeds(by_seed.tolist(), "", "points", 0.1)
    half = max(stats.t.ppf(0.975, freedom) * error, stats.t.ppf(0.975, n - 1) * of_seeds**0.5)
    p = max(2 * stats.t.sf(mean / error, freedom), alone.p or 0)
    assert effect.value == pytest.approx(mean)
    # Blocks of two images say the variance of the images a little less surely than all of them do.
    assert effect.image_error == pytest.approx(of_images**0.5, rel=0.1)
    assert (effect.low, effect.high) == pytest.approx((mean - half, mean + half), abs=0.1 * half)
    assert np.log(effect.p) == pytest.approx(np.log(p), rel=0.2)
    assert (seeds_needed(effect, 0.05) is None) == (spread < 1), "more seeds settle what the seeds leave open"
    assert (effect.images, effect.crossed, effect.own) == (images, True, pytest.approx(tuple(by_seed)))


def test_it_is_exact_where_every_image_is_a_block() -> None:
    values = study(0.3, images=BLOCKS)
    n, images = values.shape
    residual = values - values.mean(axis=1, keepdims=True) - values.mean(axis=0) + values.mean()
    images_alone = values.mean(axis=0).var(ddof=1) / images
    of_images = images_alone - (residual**2).sum() / ((n - 1) * (images - 1)) / (n * images)
    assert measured(values).image_error == pytest.approx(of_images**0.5, rel=1e-3)


@pytest.mark.parametrize("seeds", [2, 3, SEEDS])
def test_p_is_that_of_the_interval(seeds: int) -> None:
    """And neither says more than Student's t over seeds alone."""
    values = study(0.3, seeds)
    effect = measured(values)
    assert effect.low is not None
    shifted = measured(values - effect.low)
    assert (shifted.low, shifted.p) == pytest.approx((0, 0.05), abs=1e-9)
    assert shifted.high is not None
    alone = over_seeds(values.mean(axis=1).tolist(), "", "points", 0.1)
    assert alone.low is not None
    assert effect.low <= alone.low + 1e-9
    assert (effect.p or 0) >= (alone.p or 0) - 1e-9


@pytest.mark.parametrize("own", [[1.0], [1.0, np.nan], [1.0, 1.0]])
def test_images_alone_give_no_interval(own: list[float]) -> None:
    replicates = np.random.default_rng(3).normal(1, 0.1, (len(own) + 1) * 101)
    effect = over_both(np.concatenate([[1.0], own, replicates]), len(own), "", "points", 0.1, 500)
    assert (effect.low, effect.high, effect.p, effect.verdict) == (None, None, None, "inconclusive")


def test_nor_do_seeds_that_share_a_single_image() -> None:
    values, counted = np.zeros((2, 50)), np.zeros((2, 50))
    values[:, 7], counted[:, 7] = [1, 2], 1
    effect = over_both(ratio(Crossed([0, 1], 50), values, counted), 2, "", "points", 0.1, 50)
    assert (effect.value, effect.low, effect.p) == (1.5, None, None)


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


def test_of_a_ratio_the_interval_is_around_what_was_found() -> None:
    """Of all seeds together, not the mean of what each says by itself."""
    rng = np.random.default_rng(7)
    counted = rng.random((SEEDS, 2000)) < np.linspace(0.2, 0.9, SEEDS)[:, None]
    events = counted & (rng.random((SEEDS, 2000)) < np.linspace(0.7, 0.1, SEEDS)[:, None])
    effect = over_both(ratio(Crossed(range(SEEDS), 2000), events, counted), SEEDS, "", "points", 0.1, 500)
    assert effect.value == events.sum() / counted.sum() != pytest.approx(np.mean(effect.own), abs=0.02)
    assert effect.low is not None
    assert effect.high is not None
    assert (effect.low + effect.high) / 2 == pytest.approx(effect.value)
    assert effect.spread == pytest.approx((events.sum(axis=1) / counted.sum(axis=1)).std(ddof=1))


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
    assert 0.03 <= simulated(0.0)[0] <= 0.07


def test_nor_where_only_these_images_make_one() -> None:
    """Some images are harder for one arm, whatever the seed; others would not be. Seeds alone do not show that."""
    called, by_seeds_alone = simulated(0.0, by_arm=0.4)
    assert 0.03 <= called <= 0.07 < by_seeds_alone


def test_a_difference_of_which_the_power_is_80_percent_is_called() -> None:
    """A power of 80 % by Student's t over seeds, of the variance that networks and the chance of predictions have."""
    skill, chance = 0.02, (0.2 * 0.8 * 0.5 / 200) ** 0.5  # standard deviations of a network's accuracy
    critical = stats.t.ppf(0.975, SEEDS - 1)
    centre = optimize.brentq(lambda shift: stats.nct.sf(critical, SEEDS - 1, shift) - 0.8, 0.1, 20)
    called, by_seeds_alone = simulated(float(centre * 100 * (2 * (skill**2 + chance**2) / SEEDS) ** 0.5))
    assert 0.75 <= called <= by_seeds_alone
