"""Intervals against values worked out elsewhere, and the laws that verdicts obey."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.statistics import (
    CONFIDENCE,
    Comparison,
    Crossed,
    Interval,
    Standing,
    best_two,
    confirmed,
    estimate,
    half_width,
    lost_seeds,
    over_images,
    p_two_sided,
    paired,
    quotient,
    to_compare,
    variances,
)


def standing(name: str, by_seed: dict[int, float], is_candidate: bool = False, lost: str = "") -> Standing:
    trials = pd.DataFrame({"seed": list(by_seed), "test_accuracy": list(by_seed.values()), "val_accuracy": 0.9})
    return Standing(name, is_candidate, trials, lost)


def compare(first: Standing, second: Standing) -> Comparison:
    return Comparison(first, second, estimate((100 * paired(first, second)).tolist()))


def test_interval_of_a_textbook_example() -> None:
    # mean 3, s = 1.5811, t(0.975, 4) = 2.7764: half the width is 2.7764 × 1.5811 / √5
    found = estimate([1, 2, 3, 4, 5])
    assert (found.mean, found.n) == (3, 5)
    assert found.low == pytest.approx(3 - 1.96324, abs=1e-4)
    assert found.high == pytest.approx(3 + 1.96324, abs=1e-4)


def test_interval_is_scipys() -> None:
    values = np.random.default_rng(1).normal(0.9, 0.01, 6)
    theirs = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    ours = estimate(values.tolist())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))


def test_intervals_cover_as_often_as_they_say() -> None:
    draws = np.random.default_rng(2).normal(0.5, 1, (2000, 3))
    intervals = [estimate(row.tolist()) for row in draws]
    covered = np.mean([i.low <= 0.5 <= i.high for i in intervals if i.low is not None and i.high is not None])
    assert covered == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize("values", [[0.91], [0.91, 0.91], [0.1 + 0.2, 0.3, 0.3]])
def test_no_interval_where_the_spread_is_unknown(values: list[float]) -> None:
    found = estimate(values)
    assert found.low is None
    assert found.high is None
    assert found.shown == 0


def test_no_values_are_refused() -> None:
    with pytest.raises(ValueError, match="got none"):
        estimate([])


@pytest.mark.parametrize(
    ("gain", "verdict"), [(0.02, "better"), (-0.02, "worse"), (0.0001, "no difference shown")]
)  # fmt: skip
def test_verdict(gain: float, verdict: str) -> None:
    arm = {seed: 0.9 + 0.001 * seed for seed in range(6)}
    noise = (0.001, -0.002, 0.001, 0.002, -0.001, -0.001)
    ours = {seed: value + gain + noise[seed] for seed, value in arm.items()}
    pair = compare(standing("candidate-1", ours, True), standing("arm", arm))
    assert pair.verdict == verdict
    assert pair.title == "candidate-1 − arm"


def test_only_seeds_that_both_have_are_compared() -> None:
    pair = compare(standing("candidate-1", {2: 0.93, 0: 0.92, 5: 0.1}, True), standing("arm", {0: 0.9, 2: 0.9, 7: 0.1}))
    assert pair.points.round(9).to_dict() == {0: 2.0, 2: 3.0}


def confirm(rows: list[tuple[str, int, str, float]]) -> pd.DataFrame:
    """The table trials of a confirm stage: arm, seed, status and validation accuracy; on the test images 0.1 less."""
    trials = pd.DataFrame(rows, columns=["arm", "seed", "status", "val_accuracy"])
    reason = trials.status.map({"completed": "finished", "stopped": "superseded"})
    test = (trials.val_accuracy - 0.1).where(trials.status == "completed")
    return trials.assign(stage="confirm", config_id=trials.arm, stop_reason=reason, test_accuracy=test)


def test_ranked_by_validation_not_by_test() -> None:
    trials = confirm(
        [("low", 0, "completed", 0.8), ("candidate-1", 0, "completed", 0.85), ("high", 0, "completed", 0.9)]
    )
    found = confirmed(trials.assign(test_accuracy=[0.95, 0.85, 0.8]))
    assert [s.name for s in found] == ["high", "candidate-1", "low"]
    assert [s.is_candidate for s in found] == [False, True, False]


def test_a_lucky_seed_does_not_lead() -> None:
    """Nor does what is left of seeds that diverged; a displaced candidate's other seeds are not missed."""
    rows = [("candidate-1", seed, "completed", 0.85) for seed in range(6)]
    rows += [("candidate-2", seed, "completed" if seed == 0 else "stopped", 0.95) for seed in range(6)]
    rows += [("candidate-3", seed, "diverged" if seed < 3 else "completed", 0.9) for seed in range(6)]
    rows += [("hopeless", seed, "failed" if seed else "diverged", 0.1) for seed in range(6)]
    trials = confirm(rows)
    found = confirmed(trials)
    assert [(s.name, len(s.trials)) for s in found] == [("candidate-1", 6), ("candidate-2", 1), ("candidate-3", 3)]
    assert [s.lost for s in found] == ["", "", "3 of 6 seeds diverged"]
    assert lost_seeds(trials)["hopeless"] == "1 of 6 seeds diverged, 5 failed"


def test_no_verdict_on_the_survivors() -> None:
    ours = {seed: 0.95 + 0.001 * seed for seed in range(3)}
    arm = {seed: 0.9 + 0.002 * seed for seed in range(6)}
    whole = compare(standing("candidate-1", ours, True), standing("arm", arm))
    assert (whole.verdict, whole.shown) == ("better", 1)
    left = compare(standing("candidate-1", ours, True, "3 of 6 seeds diverged"), standing("arm", arm))
    assert (left.verdict, left.shown) == ("not judged: 3 of 6 seeds diverged (candidate-1)", 0)
    assert left.estimate == whole.estimate


def test_arms_are_compared_with_the_reference_and_the_best_two_with_each_other() -> None:
    arms = [standing(name, {0: 0.9, 1: 0.91}) for name in ("a", "b", "c")]
    ours = standing("candidate-1", {0: 0.92, 1: 0.9}, True)
    assert to_compare(arms) == []
    assert [(first.name, second.name) for first, second in to_compare(arms, "b")] == [("a", "b"), ("c", "b")]
    pairs = [(first.name, second.name) for first, second in to_compare([arms[0], ours, arms[1]], "a")]
    assert pairs == [("candidate-1", "a"), ("candidate-1", "b"), ("b", "a")]
    candidates = [ours, standing("candidate-2", {0: 0.8, 1: 0.8}, True), standing("candidate-3", {5: 0.8}, True)]
    assert [(first.name, second.name) for first, second in to_compare(candidates)] == [("candidate-1", "candidate-2")]
    assert [s.name for s in best_two(arms)] == ["a", "b"]
    assert [s.name for s in best_two([arms[0], arms[1], ours])] == ["candidate-1", "a"]
    assert [s.name for s in best_two([ours])] == ["candidate-1"]


def crossed_events(rng: np.random.Generator, seeds: int, images: int, spread: float = 0.1) -> np.ndarray:
    """Errors of seeds that differ in skill, on images that differ in difficulty, 12 % on average: bool (S, N)."""
    ease, skill = 2 * rng.standard_normal(images), spread * rng.standard_normal((seeds, 1))
    return rng.random((seeds, images)) < 1 / (1 + np.exp(2.8 + ease + skill))


def test_replicates_leave_out_what_they_say() -> None:
    """A seed, a block of images, a seed's part of it, nothing: in the order of a table (seeds + 1, blocks + 1)."""
    rng = np.random.default_rng(3)
    events, trials = crossed_events(rng, 4, 1200), rng.random((4, 1200)) < 0.7
    crossed = Crossed(range(4), 1200)
    assert np.bincount(crossed.blocks).tolist() == [3] * 200 + [2] * 300
    sums, counts = crossed.sums(trials), crossed.counts(events + 2 * trials, 4)
    assert (len(sums), counts.shape) == (5 * 501, (5 * 501, 4))
    for place in [*rng.choice(5 * 501, 60), 500, 1001, 4 * 501, 5 * 501 - 1]:
        seed, block = divmod(int(place), 501)
        seeds = np.ones(4, bool) if seed == 4 else np.arange(4) == seed
        images = np.ones(1200, bool) if block == 500 else crossed.blocks == block
        kept = ~np.outer(seeds, images) if place < len(sums) - 1 else np.ones((4, 1200), bool)
        assert sums[place] == trials[kept].sum()
        assert (counts[place] == np.bincount((events + 2 * trials)[kept], minlength=4)).all()


def functions(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """A ratio, and a geometric mean of two, of sums: elementwise."""
    share = quotient(values, others)
    return np.stack([share, np.sqrt(share * quotient(others, values + others))], axis=-1)


def test_variance_of_one_seed_is_the_images_bootstraps() -> None:
    rng = np.random.default_rng(4)
    values, others = rng.exponential(size=(1, 3000)), 1 + rng.random((1, 3000))
    crossed = Crossed([7], 3000)
    of_seeds, of_images, residual = variances(functions(crossed.sums(values), crossed.sums(others)), 1)
    drawn = rng.multinomial(3000, np.full(3000, 1 / 3000), size=2000)
    bootstrap = functions(drawn @ values[0], drawn @ others[0]).std(axis=0)
    assert of_seeds.tolist() == residual.tolist() == [0, 0]
    assert of_images**0.5 == pytest.approx(bootstrap, rel=0.1)


@pytest.mark.parametrize(("seeds", "least"), [(2, 0.85), (3, 0.9), (6, 0.92)])
def test_crossed_intervals_cover_other_seeds_and_images(seeds: int, least: float) -> None:
    rng = np.random.default_rng(6)
    truth = crossed_events(rng, 2000, 2000, 0.4).mean()
    crossed, covered, studies = Crossed(range(seeds), 400), 0, 400
    drawn = crossed.sums(np.ones((seeds, 400)))
    for _ in range(studies):
        events = crossed_events(rng, seeds, 400, 0.4)
        of_seeds, of_images, residual = variances(quotient(crossed.sums(events), drawn), seeds)
        half = half_width(of_seeds, of_images + residual, seeds, CONFIDENCE)
        covered += abs(events.mean() - truth) <= half
    assert least <= covered / studies <= 0.98


def test_without_variance_of_the_images_it_is_students_t() -> None:
    values = np.random.default_rng(9).normal(1, 0.3, 5)
    theirs = stats.ttest_1samp(values, 0)
    variance = values.var(ddof=1) / 5
    assert half_width(variance, 0, 5, 0.95) == pytest.approx(values.mean() - theirs.confidence_interval(0.95).low)
    assert p_two_sided(values.mean(), variance, 0, 5) == pytest.approx(theirs.pvalue)
    assert half_width(0, 0.04, 5, 0.95) == pytest.approx(0.2 * stats.norm.ppf(0.975))


def test_trials_of_a_seed_are_left_out_together() -> None:
    events = crossed_events(np.random.default_rng(7), 3, 100)
    both = Crossed([0, 1, 2, 0, 1, 2], 100).sums(np.vstack([events, ~events]))
    parts = both.reshape(4, 101)
    assert set(parts[:3, :100].ravel()) == {299.0}, "of each seed and image exactly one of the two trials counts"
    assert (set(parts[3, :100]), set(parts[:3, 100]), parts[3, 100]) == ({297.0}, {200.0}, 300)


def test_crossed_gives_the_same_bytes() -> None:
    values = np.random.default_rng(8).random((3, 200))
    assert Crossed([1, 2, 3], 200).sums(values).tobytes() == Crossed([1, 2, 3], 200).sums(values).tobytes()


@pytest.mark.parametrize("kind", ["skewed", "rare"])
def test_interval_over_images_is_scipys_bca(kind: str) -> None:
    rng = np.random.default_rng(5)
    values = rng.exponential(size=300) if kind == "skewed" else rng.choice([-1, 0, 1], 300, p=[0.02, 0.9, 0.08])
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, rng=rng, batch=1000).confidence_interval
    ours = over_images(values, draws=20_000)
    assert (ours.low, ours.high) == pytest.approx(theirs, abs=0.03 * (theirs.high - theirs.low))


def test_no_interval_over_images_that_are_all_equal() -> None:
    assert over_images(np.zeros(50)) == Interval(0, None, None)
