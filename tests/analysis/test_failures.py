"""The mining finds what was put in, counts as scikit-learn does, and finds nothing where there is nothing."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.linear_model import PoissonRegressor
from sklearn.metrics import classification_report, confusion_matrix

from analysis import failures, slices
from analysis.descriptors import describe
from analysis.failures import ALL, CATEGORIES, PAIRS, PATTERNS
from analysis.slices import Slice
from analysis.statistics import Interval
from study.data import CLASS_NAMES, FashionMNIST

IMAGES = 3000


@pytest.fixture(scope="module")
def label(fashion_mnist: FashionMNIST) -> np.ndarray:
    return fashion_mnist.test_labels[:IMAGES].astype(int)


@pytest.fixture(scope="module")
def descriptors(fashion_mnist: FashionMNIST) -> pd.DataFrame:
    """Of real images: correlated with each other and with the class."""
    tested, trained = slice(IMAGES), slice(500)
    return describe(
        fashion_mnist.test_images[tested],
        fashion_mnist.test_labels[tested],
        fashion_mnist.train_images[trained],
        fashion_mnist.train_labels[trained],
    )


def trial(label: np.ndarray, wrong: np.ndarray, arm: str, seed: int) -> pd.DataFrame:
    """Predictions that are wrong just where they are told to be, in favour of any other class, at any confidence."""
    rng = np.random.default_rng([seed, *arm.encode()])
    predicted = np.where(wrong, (label + rng.integers(1, 10, len(label))) % 10, label)
    sure = rng.uniform(0.5, 1, len(label))
    p = rng.dirichlet(np.ones(10), len(label)) * (1 - sure[:, None])
    p[np.arange(len(label)), predicted] += sure
    return frame(label, p, arm, seed)


def frame(label: np.ndarray, p: np.ndarray, arm: str, seed: int) -> pd.DataFrame:
    """Rows of the table `predictions` for one trial."""
    p = p.astype(np.float32)
    key = {"study": "made", "stage": "confirm", "fidelity": "full", "trial_id": f"{arm}-{seed}", "config_id": arm}
    images = {
        "image": np.arange(len(label), dtype=np.int32),
        "label": pd.Categorical.from_codes(label, CLASS_NAMES, ordered=True),
        "predicted": pd.Categorical.from_codes(p.argmax(axis=1), CLASS_NAMES, ordered=True),
        "confidence": p.max(axis=1),
    }
    return pd.DataFrame({**key, "arm": arm, "seed": seed, **images, **{f"p_{k}": p[:, k] for k in range(10)}})


def study(label: np.ndarray, rates: dict[str, np.ndarray], seeds: int, draw: int = 0) -> pd.DataFrame:
    """Trials of each arm that fail on each image with the given probability, (N,)."""
    rng = np.random.default_rng(draw)
    trials = [
        trial(label, rng.random(len(label)) < rate, arm, seed) for arm, rate in rates.items() for seed in range(seeds)
    ]
    return pd.concat(trials, ignore_index=True)


@pytest.fixture(scope="module")
def plain(label: np.ndarray) -> pd.DataFrame:
    """Two arms over three seeds; shirts are harder."""
    rate = np.where(label == 6, 0.3, 0.06)
    return study(label, {"arm": rate, "candidate-1": 0.8 * rate}, 3)


def share_wrong(predictions: pd.DataFrame, arm: str) -> np.ndarray:
    rows = failures.by_configuration(predictions).query("configuration == @arm")
    return (rows.seeds_wrong / rows.seeds).to_numpy()


def named_images(found: Slice, descriptors: pd.DataFrame) -> np.ndarray:
    """The images for which the words of the rule are true."""
    return descriptors.eval(found.rule.replace("≤", "<=")).to_numpy()


def test_errors_where_contrast_is_low_are_named_so(label: np.ndarray, descriptors: pd.DataFrame) -> None:
    bound = descriptors.contrast.quantile(0.15)
    predictions = study(label, {"arm": np.where(descriptors.contrast <= bound, 0.5, 0.0)}, 3)
    found = slices.find(descriptors, share_wrong(predictions, "arm"), label)
    assert len(found) == 1
    name, comparison, threshold = found[0].rule.split()
    assert (name, comparison) == ("contrast", "≤")
    assert float(threshold) == pytest.approx(bound, rel=0.01)
    assert (found[0].images == named_images(found[0], descriptors)).all()
    assert found[0].rate == pytest.approx(0.5, abs=0.06)
    assert found[0].outside < 0.01
    by_pattern = failures.categories(predictions, descriptors).query("configuration == 'arm'").set_index("name")
    assert by_pattern.lift[list(failures.EXTREMES)].idxmax() == "low_contrast"
    assert by_pattern.lift_low["low_contrast"] > 2


def test_a_rule_of_two_descriptors_is_found_whole(label: np.ndarray, descriptors: pd.DataFrame) -> None:
    within = (descriptors.area > descriptors.area.quantile(0.6)) & (descriptors.texture > descriptors.texture.median())
    found = slices.find(descriptors, np.where(within, 0.6, 0.05), label)
    assert all({"area", "texture"} <= set(s.rule.split()) for s in found)
    assert (np.any([s.images for s in found], axis=0) == within).mean() > 0.99


def test_flipped_labels_are_ranked_first(label: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    flipped = rng.choice(len(label), 60, replace=False)
    given = label.copy()
    given[flipped] = (label[flipped] + rng.integers(1, 10, 60)) % 10
    trials = [trial(label, rng.random(len(label)) < 0.04, "arm", seed) for seed in range(3)]
    as_given = pd.Categorical.from_codes(given, CLASS_NAMES, ordered=True)
    predictions = pd.concat([t.assign(label=as_given) for t in trials], ignore_index=True)
    found = failures.label_suspects(predictions)
    assert found["rank"].tolist() == list(range(1, len(label) + 1))
    first = found.head(80)
    assert first.index.isin(flipped).sum() >= 55
    hit = first[first.index.isin(flipped)]
    assert (hit.suggested.cat.codes == label[hit.index]).mean() > 0.95
    assert found.suspect[flipped].mean() > 0.8
    assert found.suspect.sum() < 100


def test_a_slice_on_which_one_model_is_worse_is_confirmed(label: np.ndarray, descriptors: pd.DataFrame) -> None:
    everywhere = np.where(label == 6, 0.3, 0.05)
    small = descriptors.area <= descriptors.area.quantile(0.2)
    predictions = study(label, {"a": everywhere + 0.02 + 0.15 * small, "b": everywhere}, 3)
    wrong = {arm: share_wrong(predictions, arm) for arm in ("a", "b")}
    found = slices.find(descriptors, wrong["a"] - wrong["b"], label)
    assert len(found) == 1
    assert found[0].rule.startswith("area ≤ ")
    assert (found[0].images == small).mean() > 0.95
    assert found[0].rate == pytest.approx(0.17, abs=0.05)
    assert found[0].outside == pytest.approx(0.02, abs=0.02)
    found = slices.find(descriptors, wrong["b"] - wrong["a"], label)
    assert found == [], "better somewhere is not worse elsewhere"


def test_random_errors_make_no_slice(label: np.ndarray, descriptors: pd.DataFrame) -> None:
    """Nor do errors of which the class alone decides how many there are, however unlike the classes look."""
    found = 0
    by_class = np.where(label == 6, 0.35, np.where(np.isin(label, [0, 2, 4]), 0.15, 0.03))
    for draw in range(20):
        rng = np.random.default_rng(draw)
        a, b = rng.binomial(3, [[0.1], [0.08]], (2, IMAGES)) / 3
        found += bool(slices.find(descriptors, a, label) or slices.find(descriptors, a - b, label))
        a, b = (rng.binomial(3, rate) / 3 for rate in (by_class, 0.5 * by_class))
        found += bool(slices.find(descriptors, a, label) or slices.find(descriptors, a - b, label))
    assert found <= 2


def test_what_is_better_elsewhere_is_not_worse_here(label: np.ndarray, descriptors: pd.DataFrame) -> None:
    """Where contrast is low both err alike; elsewhere the first is the better one."""
    low, found = descriptors.contrast <= descriptors.contrast.quantile(0.3), 0
    for draw in range(10):
        a, b = np.random.default_rng(draw).binomial(3, np.where(low, 0.1, [[0.02], [0.1]])) / 3
        found += bool(slices.find(descriptors, a - b, label))
    assert found <= 1


def test_p_of_one_seed_is_fishers(descriptors: pd.DataFrame) -> None:
    bright = descriptors.brightness > descriptors.brightness.quantile(0.7)
    wrong = np.random.default_rng(38).random(IMAGES) < 0.1 + 0.05 * bright
    (found,) = slices.find(descriptors[["brightness"]], wrong, np.zeros(IMAGES, int))
    others = IMAGES // 2 - found.n
    inside, outside = round(found.rate * found.n), round(found.outside * others)
    expected = stats.fisher_exact([[inside, found.n - inside], [outside, others - outside]], "greater").pvalue
    assert 0.01 < found.p < 0.05
    assert found.p == pytest.approx(expected, rel=0.2)


def test_counts_are_scikit_learns(plain: pd.DataFrame, descriptors: pd.DataFrame) -> None:
    pairs, kinds = failures.confusions(plain), failures.categories(plain, descriptors)
    marks = failures.patterns(descriptors, plain.label[:IMAGES])
    for name in (ALL, "arm", "candidate-1"):
        rows = plain if name == ALL else plain[plain.arm == name]
        label, predicted = rows.label.cat.codes, rows.predicted.cat.codes
        matrix = confusion_matrix(label, predicted, labels=range(10))
        errors = matrix.sum() - np.trace(matrix)
        found = pairs[pairs.configuration == name]
        ours = np.zeros((10, 10), int)
        ours[found.label.cat.codes, found.predicted.cat.codes] = found["count"]
        assert (ours == matrix - np.diag(np.diag(matrix))).all()
        assert found["count"].is_monotonic_decreasing
        report = classification_report(label, predicted, target_names=CLASS_NAMES, output_dict=True)
        for taken, of_label in found.groupby("label", observed=True):
            assert 1 - of_label.rate.sum() == pytest.approx(report[taken]["recall"])
            assert (of_label["of"] == report[taken]["support"]).all()
        assert found.share_of_errors.sum() == pytest.approx(1)

        kind = kinds[kinds.configuration == name].set_index("name")
        assert kind.index.tolist() == [*CATEGORIES, *PATTERNS]
        for pair, classes in PAIRS.items():
            first, second = (CLASS_NAMES.index(c) for c in classes)
            assert kind["count"][pair] == matrix[first, second] + matrix[second, first]
            assert kind["of"][pair] == errors
        sure = rows.confidence > 0.9
        of_sure = confusion_matrix(label[sure], predicted[sure], labels=range(10))
        assert kind["count"]["confident"] == of_sure.sum() - np.trace(of_sure)
        groups = [[0, 2, 3, 4, 6], [5, 7, 9]]
        within = [matrix[np.ix_(g, g)] for g in groups]
        assert kind["count"]["similar_types"] == sum(m.sum() - np.trace(m) for m in within)
        for pattern in marks:
            has = marks[pattern].to_numpy()[rows.image]
            with_it, others = (confusion_matrix(label[side], predicted[side]) for side in (has, ~has))
            rates = [1 - np.trace(m) / m.sum() for m in (with_it, others)]
            assert (kind["count"][pattern], kind["of"][pattern]) == (with_it.sum() - np.trace(with_it), with_it.sum())
            assert kind.lift[pattern] == pytest.approx(rates[0] / rates[1])


def test_intervals_hold_what_was_observed(plain: pd.DataFrame, descriptors: pd.DataFrame) -> None:
    for table in (failures.categories(plain, descriptors), failures.confusions(plain)):
        given = table[table.low.notna()]
        assert len(given) > 0.9 * len(table)
        assert ((given.low <= given.rate) & (given.rate <= given.high)).mean() > 0.99
        assert ((given.lift_low <= given.lift) & (given.lift <= given.lift_high)).mean() > 0.99


@pytest.mark.parametrize("seeds", [1, 4])
def test_no_interval_where_the_counts_say_too_little(label: np.ndarray, descriptors: pd.DataFrame, seeds: int) -> None:
    """None wrong, all wrong, and of all errors a single image: how seldom others would be is not known."""
    few, described = label[:300], descriptors[:300]
    for wrong in (np.zeros(300), np.ones(300), np.arange(300) == 9):
        kinds = failures.categories(study(few, {"arm": wrong.astype(float)}, seeds), described)
        kinds = kinds[kinds.configuration == "arm"].set_index("name")
        of_errors = ["confident", *PAIRS, "similar_types"] if wrong.sum() < 2 else [*failures.EXTREMES]
        assert kinds[["low", "high"]].loc[of_errors].isna().all(axis=None)


@pytest.mark.parametrize("seeds", [2, 6])
def test_a_single_error_has_an_interval_and_none_leaves_the_range(label: np.ndarray, seeds: int) -> None:
    """That of a single error is Poisson's of its logarithm, a factor of exp(1.96) either way."""
    rate = np.random.default_rng(0).random(400) ** 30
    found = failures.confusions(study(label[:400], {"arm": rate}, seeds)).query("configuration == 'arm'")
    assert ((found.low > 0) & (found.low < found.rate) & (found.rate < found.high) & (found.high < 1)).all()
    single = found[found["count"] == 1]
    assert len(single) > 2
    odds = single.rate / (1 - single.rate)
    factor = np.exp(stats.norm.ppf(0.975) / (1 - single.rate))
    assert (single.low / (1 - single.low)).to_numpy() == pytest.approx(odds / factor, rel=0.1)
    assert (single.high / (1 - single.high)).to_numpy() == pytest.approx(odds * factor, rel=0.1)


def test_patterns_mark_a_fifth_of_every_class(descriptors: pd.DataFrame, label: np.ndarray) -> None:
    marks = failures.patterns(descriptors, label)
    assert marks.groupby(label).mean().to_numpy() == pytest.approx(0.2, abs=0.005)
    trousers = descriptors[label == 1]
    assert trousers.contrast[marks.low_contrast].max() < trousers.contrast[~marks.low_contrast].min()
    assert trousers.texture[marks.unusual_texture].min() > trousers.texture[~marks.unusual_texture].max()


def test_lift_of_errors_without_preference_is_1() -> None:
    label, predicted = (cells.ravel() for cells in np.indices((10, 10)))
    once = frame(label, np.eye(10)[predicted], "arm", 0)
    assert failures.confusions(once).lift.to_numpy() == pytest.approx(1)
    described = pd.DataFrame(
        np.random.default_rng(3).random((100, 4)), columns=[d for d, _ in failures.EXTREMES.values()]
    )
    kinds = failures.categories(once, described).set_index(["configuration", "name"]).loc["arm"]
    assert kinds.lift[[*PAIRS, "similar_types"]].to_numpy() == pytest.approx(1)
    assert kinds.lift["confident"] == 1


def test_lift_is_1_where_the_label_has_no_say_in_what_it_is_taken_for() -> None:
    """Of each error a number for its label times one for its prediction: errors cannot fall on the diagonal."""
    missed, answered = np.array([9, 1, 4, 2, 5, 1, 7, 1, 1, 1]), np.array([6, 1, 5, 2, 4, 2, 8, 2, 1, 2])
    cells = np.outer(missed, answered) * failures.OFF_DIAGONAL
    label, predicted = (np.repeat(of.ravel(), cells.ravel()) for of in np.indices((10, 10)))
    found = failures.confusions(frame(label, np.eye(10)[predicted], "arm", 0))
    assert found.lift.to_numpy() == pytest.approx(1, abs=1e-6)


def test_what_is_expected_is_the_log_linear_models() -> None:
    """Quasi-independence, fitted by maximum likelihood: effects of label and prediction off the diagonal."""
    cells = np.random.default_rng(0).poisson(np.random.default_rng(1).uniform(1, 30, (2, 10, 10)))
    label, predicted = np.nonzero(failures.OFF_DIAGONAL)
    effects = np.hstack([np.eye(10)[label], np.eye(10)[predicted]])
    for confusion, ours in zip(cells, failures.expected(cells.astype(float)), strict=True):
        counts = confusion[label, predicted]
        model = PoissonRegressor(alpha=0, tol=1e-9, max_iter=1000).fit(effects, counts)
        assert ours[label, predicted] == pytest.approx(model.predict(effects), rel=1e-3)
        assert ours.sum() == pytest.approx(counts.sum())
        assert np.diag(ours).sum() == 0


def test_a_preferred_pair_has_a_lift() -> None:
    # Errors: 30 Shirt → T-shirt/top, 10 T-shirt/top → Shirt, 30 Bag → Trouser, 30 Trouser → Bag.
    label = np.repeat([6, 0, 8, 1], [30, 10, 30, 30])
    predictions = frame(label, np.eye(10)[np.repeat([0, 6, 1, 8], [30, 10, 30, 30])], "arm", 0)
    found = failures.confusions(predictions).query("configuration == 'arm'")
    assert found.label.tolist() == ["Trouser", "Shirt", "Bag", "T-shirt/top"]
    assert (found.lift > 2).all()
    assert found.set_index("label").name["Shirt"] == "shirt_tshirt"
    assert found.set_index("label").name.isna()["Bag"]


@pytest.fixture
def by_hand() -> pd.DataFrame:
    """20 images, two arms, seeds 1 and 2 in common; which images each trial gets wrong."""
    wrong = {("a", 1): {0, 1, 2}, ("a", 2): {0, 1, 5}, ("b", 1): {0, 3}, ("b", 2): {0, 2}, ("b", 3): {7}}
    label = np.arange(20) % 10
    return pd.concat([trial(label, np.isin(label + 10 * (np.arange(20) > 9), [*images]), arm, seed)
                      for (arm, seed), images in wrong.items()], ignore_index=True)  # fmt: skip


def test_how_many_seeds_fail(by_hand: pd.DataFrame) -> None:
    found = failures.by_configuration(by_hand).set_index(["configuration", "image"])
    assert len(found) == 40
    assert found.status["a"][:6].tolist() == ["always", "always", "sometimes", "never", "never", "sometimes"]
    assert found.seeds_wrong["b"][:4].tolist() == [2, 0, 1, 1]
    assert set(found.seeds["b"]) == {3}
    assert (found.loc["b"].status[[0, 7]] == "sometimes").all()


def test_mended_and_broken(by_hand: pd.DataFrame) -> None:
    change = failures.mended_and_broken(by_hand, "a", "b")
    assert change.seeds == [1, 2]
    # Seed 1: 1 and 2 are mended, 3 is broken, 0 is wrong in both; seed 2: 1 and 5, 2, 0.
    assert (change.mended, change.broken, change.both_wrong, change.both_right) == (4, 2, 2, 32)
    back = failures.mended_and_broken(by_hand, "b", "a")
    assert (back.mended, back.broken, back.p) == (change.broken, change.mended, change.p)
    assert change.images[0] == "both wrong"
    assert change.images[1] == "mended"
    assert change.images[10] == "both right"


def test_mcnemar_is_of_the_ensembles(label: np.ndarray) -> None:
    hard = np.zeros(IMAGES, bool)
    a, b = hard.copy(), hard.copy()
    a[:20], b[15:25] = True, True  # images 0–14 only a gets wrong, 20–24 only b
    trials = [trial(label, wrong, arm, seed) for arm, wrong in (("a", a), ("b", b)) for seed in range(1)]
    change = failures.mended_and_broken(pd.concat(trials), "a", "b")
    assert change.images.value_counts().to_dict() == {"both right": 2975, "mended": 15, "both wrong": 5, "broken": 5}
    assert change.p == pytest.approx(stats.binomtest(5, 20).pvalue)
    gain = stats.bootstrap((a.astype(int) - b,), np.mean, n_resamples=2000, batch=200, rng=np.random.default_rng(0))
    assert change.gain.value == pytest.approx(10 / 3000)
    assert (change.gain.low, change.gain.high) == pytest.approx(gain.confidence_interval, abs=5e-4)
    same = failures.mended_and_broken(pd.concat(trials), "a", "a")
    assert (same.mended, same.broken, same.p, same.gain) == (0, 0, 1, Interval(0, None, None))


def test_what_cannot_be_compared_is_refused(by_hand: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="got c, must be one of a, b"):
        failures.mended_and_broken(by_hand, "a", "c")
    apart = by_hand[(by_hand.arm == "a") | (by_hand.seed == 3)]
    with pytest.raises(ValueError, match="none that both a and b have"):
        failures.mended_and_broken(apart, "a", "b")
    with pytest.raises(ValueError, match="got trials of different images"):
        failures.confusions(by_hand[1:])
    with pytest.raises(ValueError, match="got none"):
        failures.confusions(by_hand[:0])


def test_failures_has_every_error_with_what_is_known_of_it(plain: pd.DataFrame, descriptors: pd.DataFrame) -> None:
    images = failures.per_image(plain, descriptors)
    found = failures.failures(plain, images)
    errors = plain[plain.label != plain.predicted]
    assert found.trial_id.tolist() == errors.trial_id.tolist()
    assert found.image.tolist() == errors.image.tolist()
    assert set(descriptors) | set(CATEGORIES) | set(PATTERNS) <= set(found)
    assert set(found.dtypes[[*CATEGORIES, *PATTERNS, "label_suspect"]].astype(str)) == {"bool"}
    assert not found.drop(columns="suspect_rank").isna().any(axis=None)
    assert (found.suspect_rank.isna() == ~found.label_suspect).all()
    kinds = failures.categories(plain, descriptors)
    for kind in kinds[kinds.configuration == "arm"].itertuples():
        assert found[found.arm == "arm"][kind.name].sum() == kind.count
    of_arm = errors.groupby(["arm", "image"]).size()
    assert (found.seeds_wrong.to_numpy() == of_arm[list(zip(found.arm, found.image, strict=True))].to_numpy()).all()
    assert (found.models_wrong.to_numpy() == errors.groupby("image").size()[found.image].to_numpy()).all()
    assert (found.seeds.eq(3) & found.models.eq(6)).all()
    assert images.wrong.sum() == len(errors)
    row = found.iloc[7]
    assert row[list(descriptors)].tolist() == descriptors.loc[row.image].tolist()


def test_sample_takes_the_worst_and_others_at_random(plain: pd.DataFrame, descriptors: pd.DataFrame) -> None:
    rows = failures.failures(plain, failures.per_image(plain, descriptors)).query("arm == 'arm' and similar_types")
    cards = failures.sample(rows, 5)
    assert cards.chosen.tolist() == ["worst"] * 5 + ["random"] * 5
    assert cards.image.is_unique
    assert cards.confidence[:5].min() >= rows[~rows.image.isin(cards.image[:5])].confidence.max()
    pd.testing.assert_frame_equal(failures.sample(rows.sample(frac=1, random_state=1), 5), cards)
    assert failures.sample(rows, 5, seed=1).image.tolist() != cards.image.tolist()
    assert len(failures.sample(rows[:3], 5)) == 3
    assert failures.sample(rows[:0], 5).empty


def test_the_same_predictions_in_any_order_give_the_same_bytes(plain: pd.DataFrame, descriptors: pd.DataFrame) -> None:
    def everything(predictions: pd.DataFrame) -> list[pd.DataFrame]:
        images = failures.per_image(predictions, descriptors)
        return [
            images,
            failures.categories(predictions, descriptors),
            failures.confusions(predictions),
            failures.by_configuration(predictions),
            failures.label_suspects(predictions),
            pd.DataFrame([s.__dict__ for s in slices.find(descriptors, images.wrong / images.trials, images.label)]),
        ]

    shuffled = plain.sample(frac=1, random_state=0)
    for ours, theirs in zip(everything(plain), everything(shuffled), strict=True):
        pd.testing.assert_frame_equal(ours, theirs, check_exact=True)


@pytest.mark.parametrize("images", [200, 1000])
@pytest.mark.parametrize("rate", [0.0, 0.15, 1.0])
@pytest.mark.parametrize("flat", [False, True])
def test_small_and_degenerate_studies(
    label: np.ndarray, descriptors: pd.DataFrame, images: int, rate: float, flat: bool
) -> None:
    described = descriptors[:images] * (0 if flat else 1)
    predictions = study(label[:images], {"arm": np.full(images, rate)}, 1)
    kinds = failures.categories(predictions, described).set_index(["configuration", "name"]).loc["arm"]
    assert not np.isinf(kinds.select_dtypes("number")).any(axis=None)
    if flat:
        assert kinds["of"][list(failures.EXTREMES)].tolist() == [0] * 4
        assert kinds[["rate", "low", "lift"]].loc[list(failures.EXTREMES)].isna().all(axis=None)
    if rate == 0:
        assert kinds["count"].sum() == 0
        assert kinds.lift.isna().all()
        assert failures.confusions(predictions).empty
    per_image = failures.per_image(predictions, described)
    if rate == 0:
        assert not per_image.label_suspect.any()
    table = failures.failures(predictions, per_image)
    assert len(table) == per_image.wrong.sum()
    assert table.suspect_rank.dtype == "Int64"
    assert slices.find(described, per_image.wrong, per_image.label) == []
    assert slices.find(described, 0 * per_image.wrong, per_image.label) == []


def test_certain_and_right_predictions_have_no_suspects(label: np.ndarray) -> None:
    assert not failures.label_suspects(frame(label, np.eye(10)[label], "arm", 0)).suspect.any()


@pytest.mark.filterwarnings("ignore:May not flag all label issues")
def test_labels_of_classes_that_a_small_test_set_lacks(label: np.ndarray) -> None:
    few = label[np.isin(label, [0, 1, 3])][:50]
    predictions = trial(few, np.arange(50) < 5, "arm", 0)
    assert len(failures.label_suspects(predictions)) == 50
    assert failures.confusions(predictions).query("configuration == 'arm'")["count"].sum() == 5
