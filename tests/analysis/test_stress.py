"""Laws of every corruption on real images, what a trained network makes of them, and measures worked out by hand."""

from __future__ import annotations

import xml.etree.ElementTree
from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
from made_runs import Arm, made
from torch import Tensor, nn

from analysis import figures_stress, measures, stress
from analysis.claims import BY_RULE, CLAIMS
from analysis.corruptions import CLEAN, CORRUPTIONS, SEVERITIES, corrupt, corrupted
from analysis.descriptors import foreground
from analysis.sections.stressed import _summary
from analysis.statistics import confirmed
from analysis.stress import COLUMNS, INSIDE, inside
from analysis.words import spread
from study.config import Adam, Augmentation, FashionCNN, TrialConfig
from study.data import Bytes, FashionMNIST, Splits, split
from study.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

every_corruption = pytest.mark.parametrize("name", CORRUPTIONS)
DRAWN = [name for name in CORRUPTIONS if name not in (
    "gaussian_blur", "contrast", "brighten", "darken", "pixelate", "silhouette_fill", "low_pass")]  # fmt: skip
ALL_INSIDE = Augmentation(0.5, rotation=10, translation=0.1, scale=0.1, shear=5, flip=0.5, erasing=0.3)


# The amount of which a corruption makes no change, where that is not 0: photons, pixels of the side, pixels (OpenCV
# takes 0 for a standard deviation to be chosen).
NEUTRAL = {"shot_noise": 4e6, "pixelate": 28, "gaussian_blur": 1e-3, "low_pass": 1e-3}


def change(images: Bytes, changed: Bytes) -> float:
    return float(np.abs(changed.astype(int) - images).mean())


@pytest.fixture(scope="module")
def images(small_splits: Splits) -> Bytes:
    """200 real ones; read-only, so that nothing can be written into them."""
    return small_splits.test_images


@pytest.fixture(scope="module")
def index(small_splits: Splits) -> np.ndarray:
    return small_splits.test_index


# The images


@every_corruption
def test_severity_0_changes_nothing(name: str, images: Bytes, index: np.ndarray) -> None:
    assert np.array_equal(corrupt(images, name, 0, index), images)
    amounts, neutral = CORRUPTIONS[name].amounts, NEUTRAL.get(name, 0)
    assert neutral not in amounts
    with mock.patch.dict(CORRUPTIONS, {name: replace(CORRUPTIONS[name], amounts=(neutral, *amounts[1:]))}):
        assert np.array_equal(corrupt(images, name, 1, index), images), "nor does what makes the change, of none"


@every_corruption
def test_changes_grow_with_severity(name: str, images: Bytes, index: np.ndarray) -> None:
    changed = [corrupt(images, name, severity, index) for severity in (0, *SEVERITIES)]
    assert all((c.dtype, c.shape) == (np.uint8, images.shape) for c in changed)
    means = [change(images, c) for c in changed]
    assert (np.diff(means) > 0).all(), means


@every_corruption
def test_an_image_is_corrupted_alike_in_any_batch(name: str, images: Bytes, index: np.ndarray) -> None:
    whole = corrupt(images, name, 3, index)
    some = np.random.default_rng(0).permutation(len(images))[:37]
    assert np.array_equal(corrupt(images[some], name, 3, index[some]), whole[some])
    assert np.array_equal(corrupt(images[5:6], name, 3, index[5:6]), whole[5:6])
    assert len(corrupt(images[:0], name, 3, index[:0])) == 0


@pytest.mark.parametrize("name", DRAWN)
def test_another_seed_or_number_is_another_draw(name: str, images: Bytes, index: np.ndarray) -> None:
    first = corrupt(images, name, 3, index)
    assert np.array_equal(first, corrupt(images, name, 3, index, seed=0))
    for other in (corrupt(images, name, 3, index, seed=1), corrupt(images, name, 3, np.roll(index, 1))):
        # Signs agree for half of the images, and little is hidden by their black background.
        assert (first != other).any((1, 2)).mean() > 0.3


def test_corruptions_that_draw_nothing_are_the_same_for_every_seed(images: Bytes, index: np.ndarray) -> None:
    for name in set(CORRUPTIONS) - set(DRAWN):
        assert np.array_equal(corrupt(images, name, 3, index, seed=1), corrupt(images, name, 3, index))


@pytest.mark.parametrize("name", ["gaussian_noise", "impulse_noise", "occlusion"])
def test_a_higher_severity_is_more_of_the_same_draw(name: str, images: Bytes, index: np.ndarray) -> None:
    """What a severity touches, the next one touches too; what was clipped may come back from the other side."""
    weak, strong = (corrupt(images, name, severity, index) != images for severity in (2, 3))
    assert weak.sum() > 0
    assert (weak & ~strong).sum() <= 0.001 * weak.sum()


def test_noise_has_the_stated_size() -> None:
    grey, index = np.full((400, 28, 28), 128, np.uint8), np.arange(400)
    for severity, sigma in zip(SEVERITIES[:3], CORRUPTIONS["gaussian_noise"].amounts, strict=False):
        noise = corrupt(grey, "gaussian_noise", severity, index).astype(float) - 128
        assert abs(noise.mean()) < 0.3
        assert noise.std() == pytest.approx(255 * sigma, rel=0.01)
    for severity, photons in zip(SEVERITIES[:3], CORRUPTIONS["shot_noise"].amounts, strict=False):
        noise = corrupt(grey, "shot_noise", severity, index).astype(float) - 128
        assert abs(noise.mean()) < 1
        assert noise.std() == pytest.approx(255 * (128 / 255 / photons) ** 0.5, rel=0.03)  # of Poisson, its mean's root
    for severity, share in zip(SEVERITIES, CORRUPTIONS["impulse_noise"].amounts, strict=True):
        hit = corrupt(grey, "impulse_noise", severity, index)
        assert (hit == 0).mean() == pytest.approx(share / 2, rel=0.1)
        assert (hit == 255).mean() == pytest.approx(share / 2, rel=0.1)
        assert set(np.unique(hit)) == {0, 128, 255}


def test_displacement_has_the_stated_size() -> None:
    """Of a ramp, the change of a pixel says how far the place is that it comes from."""
    rise, index = 9, np.arange(400)
    for ramp in np.mgrid[:28, :28].astype(np.uint8) * rise:
        moved = corrupt(ramp[None].repeat(400, 0), "elastic", 3, index).astype(float)
        inner = ((moved - ramp) / rise)[:, 9:19, 9:19]  # the edges reflect
        assert np.sqrt(np.square(inner).mean()) == pytest.approx(CORRUPTIONS["elastic"].amounts[2], rel=0.05)


def one_dot(row: int, column: int) -> Bytes:
    image = np.zeros((1, 28, 28), np.uint8)
    image[0, row - 1 : row + 2, column - 1 : column + 2] = 200
    return image


def centre(image: Bytes) -> tuple[float, float]:
    """Centre of mass from the middle of the image: x to the right, y down."""
    rows, columns = np.indices((28, 28)) - 13.5
    return float((columns * image).sum() / image.sum()), float((rows * image).sum() / image.sum())


def test_geometry_moves_a_dot_where_it_should() -> None:
    dot, x, y = one_dot(8, 16), 2.5, -5.5
    angle, factor = np.radians(CORRUPTIONS["rotate"].amounts[1]), CORRUPTIONS["scale"].amounts[1]
    slope = np.tan(np.radians(CORRUPTIONS["shear"].amounts[1]))
    far = 28 * CORRUPTIONS["translate"].amounts[1]
    numbers = np.arange(12)
    moved = {
        name: np.array([centre(corrupt(dot, name, 2, numbers[k : k + 1])[0]) for k in numbers])
        for name in ("rotate", "shear", "scale", "translate")
    }
    ways = {
        "rotate": [(x * np.cos(a) - y * np.sin(a), x * np.sin(a) + y * np.cos(a)) for a in (angle, -angle)],
        "shear": [(x + y * s, y) for s in (slope, -slope)],
        "scale": [(x * (1 + s), y * (1 + s)) for s in (factor, -factor)],
    }
    for name, (one, other) in ways.items():
        near = [np.abs(moved[name] - way).max(1) < 0.15 for way in (one, other)]
        assert (near[0] ^ near[1]).all(), name
        assert near[0].any(), "either direction occurs"
        assert near[1].any()
    shift = moved["translate"] - (x, y)
    assert np.allclose(np.hypot(*shift.T), far, atol=0.1)
    assert np.ptp(np.arctan2(*shift.T)) > 3, "all directions occur"


def test_motion_blur_smears_a_dot_along_a_line_and_keeps_its_light() -> None:
    dot = one_dot(14, 14)
    for number in range(8):
        smeared = corrupt(dot, "motion_blur", 5, np.array([number]))[0].astype(float)
        assert smeared.sum() == pytest.approx(dot.sum(), rel=0.03)
        assert np.allclose(centre(smeared), centre(dot[0]), atol=0.1)
        points = np.argwhere(smeared > 0) - 14
        spread = np.linalg.eigvalsh(np.cov(points.T, aweights=smeared[smeared > 0]))
        length = CORRUPTIONS["motion_blur"].amounts[4]
        assert spread[1] - spread[0] == pytest.approx(length**2 / 12, rel=0.25), "variance of a uniform way"


def test_occlusion_blackens_a_square_that_lies_within_the_image() -> None:
    white, index = np.full((300, 28, 28), 255, np.uint8), np.arange(300)
    for severity, side in zip(SEVERITIES, CORRUPTIONS["occlusion"].amounts, strict=True):
        black = corrupt(white, "occlusion", severity, index) == 0
        assert (black.sum((1, 2)) == side**2).all()
        assert (black.any(1).sum(1) == side).all()
    assert black.any(0).mean() > 0.99, "everywhere but in the utmost corners"


def test_patch_shuffle_keeps_the_patches_and_moves_as_many_as_stated() -> None:
    patches = np.arange(16, dtype=np.uint8).reshape(1, 4, 4).repeat(7, 1).repeat(7, 2).repeat(50, 0)
    for severity, displaced in zip(SEVERITIES, CORRUPTIONS["patch_shuffle"].amounts, strict=True):
        shuffled = corrupt(patches, "patch_shuffle", severity, np.arange(50))
        corners = shuffled[:, ::7, ::7]
        assert np.array_equal(corners.repeat(7, 1).repeat(7, 2), shuffled)
        assert (np.sort(corners.reshape(50, 16)) == np.arange(16)).all()
        assert ((corners != patches[:, ::7, ::7]).sum((1, 2)) == displaced).all()


def test_silhouette_fill_leaves_one_tone_and_the_rest_as_it_is(images: Bytes, index: np.ndarray) -> None:
    filled, mask = corrupt(images, "silhouette_fill", 5, index), foreground(images)
    assert np.array_equal(filled[~mask], images[~mask])
    for image, before, garment in zip(filled, images, mask, strict=True):
        assert set(image[garment]) == {round(float(before[garment].mean()))}
    assert not corrupt(np.zeros_like(images), "silhouette_fill", 3, index).any(), "no foreground"


def test_tone_of_a_known_image() -> None:
    half = np.zeros((1, 28, 28), np.uint8)
    half[:, :14] = 200
    index = np.zeros(1, np.int64)
    for severity in SEVERITIES:
        k = severity - 1
        taken, added = CORRUPTIONS["contrast"].amounts[k], CORRUPTIONS["brighten"].amounts[k]
        names = ("contrast", "brighten", "darken")
        found = {name: corrupt(half, name, severity, index)[0, [0, 27], 0] for name in names}
        assert found["contrast"].tolist() == [round(100 + (1 - taken) * 100), round(100 - (1 - taken) * 100)]
        assert found["brighten"].tolist() == [min(255, round(200 + 255 * added)), round(255 * added)]
        assert found["darken"].tolist() == [round(200 * (1 - CORRUPTIONS["darken"].amounts[k])), 0]


def test_everything_comes_once(images: Bytes, index: np.ndarray) -> None:
    found = [(name, severity) for name, severity, _ in corrupted(images[:2], index[:2])]
    assert found == [(CLEAN, 0), *((name, severity) for name in CORRUPTIONS for severity in SEVERITIES)]
    assert all(len(corruption.amounts) == len(SEVERITIES) for corruption in CORRUPTIONS.values())


def test_wrong_arguments_are_named(images: Bytes, index: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"corruption: got 'fog', must be one of gaussian_noise, shot_noise"):
        corrupt(images, "fog", 1, index)
    with pytest.raises(ValueError, match="corruption: got 'fog', must be"):
        inside("fog", Augmentation())
    for severity in (-1, 6):
        with pytest.raises(ValueError, match=f"severity: got {severity}, must be 0 to 5"):
            corrupt(images, "rotate", severity, index)
    with pytest.raises(ValueError, match=r"images: got float64 \(200, 28, 28\), must be uint8"):
        corrupt(images / 255, "rotate", 1, index)
    with pytest.raises(ValueError, match=r"images: got uint8 \(200, 784\), must be uint8 \(N, 28, 28\)"):
        corrupt(images.reshape(200, 784), "rotate", 1, index)
    for wrong in (index[1:], index - 10_000):
        with pytest.raises(ValueError, match=r"index: got .*, must be \(200,\) numbers, none below 0"):
            corrupt(images, "rotate", 1, wrong)


# Networks


def test_inside_is_what_the_augmentation_does() -> None:
    assert {name for name in CORRUPTIONS if inside(name, ALL_INSIDE)} == set(INSIDE)
    source = Augmentation(1, rotation=10, translation=0.1, flip=0.5)
    assert {name for name in CORRUPTIONS if inside(name, source)} == {"rotate", "translate"}
    for name, part in INSIDE.items():
        assert {n for n in CORRUPTIONS if inside(n, Augmentation(1, **{part: 0.1}))} == {name}
    for none in (Augmentation(), replace(ALL_INSIDE, strength=0), Augmentation(1, flip=0.5)):
        assert not any(inside(name, none) for name in CORRUPTIONS)


class Bright(nn.Module):
    """Class 1 where the mean pixel is above a half, else class 0: its accuracy under changes of tone is known."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((1, 2, 3))
        return torch.stack([0.5 - mean, mean - 0.5], 1)


def test_accuracies_are_of_the_images_that_are_passed() -> None:
    tones = np.array([60, 100, 140, 200], np.uint8)
    images, labels = np.tile(tones[:, None, None], (1, 28, 28)), np.array([0, 0, 1, 1], np.uint8)
    config = TrialConfig(augmentation=ALL_INSIDE, mean=0.0, std=1.0)
    found = stress.stress(Bright().eval(), config, images, labels, np.arange(4))
    assert list(found) == list(COLUMNS)
    assert found.amount.isna().tolist() == [True] + [False] * (len(found) - 1)
    assert found.iloc[0].drop("amount").to_dict() == {
        "corruption": CLEAN, "family": CLEAN, "severity": 0, "accuracy": 1.0, "n": 4, "inside": False,
        "right": b"\xf0",
    }  # fmt: skip
    assert len(found) == 1 + 5 * len(CORRUPTIONS)
    accuracy = found.set_index(["corruption", "severity"]).accuracy
    for severity, (added, taken) in enumerate(
        zip(*(CORRUPTIONS[name].amounts for name in ("brighten", "darken")), strict=True), start=1
    ):
        assert accuracy["brighten", severity] == ((tones + 255 * added > 127.5) == labels).mean()
        assert accuracy["darken", severity] == ((tones * (1 - taken) > 127.5) == labels).mean()
        assert accuracy["contrast", severity] == 1
    assert accuracy["brighten", 5] == 0.5
    right = stress.right(found)
    assert right.shape == (len(found), 4)
    assert (right.mean(axis=1) == found.accuracy).all()
    brightest = found[(found.corruption == "brighten") & (found.severity == 5)].index[0]
    assert right[brightest].tolist() == [False, False, True, True]
    assert found[found.inside].corruption.unique().tolist() == [n for n in CORRUPTIONS if n in INSIDE]
    assert (found.family[1:] == found.corruption[1:].map(lambda name: CORRUPTIONS[name].family)).all()
    with pytest.raises(ValueError, match="network: got one in training mode"):
        stress.stress(Bright(), config, images, labels, np.arange(4))


def test_a_table_of_other_amounts_says_so() -> None:
    """Of one kind, of none that is recorded, and of today's; claims and the page name it."""
    runs = made(images=50, seeds=1)
    today = runs.stress
    assert stress.other_amounts(today) == ""
    other = today.assign(amount=today.amount.where(today.corruption != "motion_blur", today.amount + 0.1))
    assert stress.other_amounts(other) == "the amounts of motion blur are others than today's"
    unknown = stress.other_amounts(today.assign(amount=np.nan))
    assert unknown.startswith("the amounts of corruption are older ones, chosen by eye")
    for name in ("low-contrast-fails", "occluded-or-folded-fails", "augmentation-helps-robustness"):
        test = next(c for c in CLAIMS if c.name == name).test
        assert test(runs).limits == BY_RULE
        assert test(replace(runs, stress=today.assign(amount=np.nan))).limits == unknown


def test_arms_with_unlike_many_images_are_compared_on_those_that_both_have() -> None:
    """The first arm is wrong on none of the common images; on the others, which its table alone has, on all."""
    runs, total, few = made(images=100, seeds=1), 100, 30
    common = np.isin(np.arange(total), stress.chosen(total, few))
    assert common.sum() == few
    assert not common[:few].all()
    rows = runs.stress[runs.stress.arm.isin(["baseline", "augmented"])]
    more = rows[rows.arm == "baseline"].assign(n=total, accuracy=common.mean())
    more["right"] = [np.packbits(common).tobytes()] * len(more)
    less = rows[rows.arm == "augmented"].assign(n=few, accuracy=0.5)
    less["right"] = [np.packbits(np.arange(few) % 2 == 0).tobytes()] * len(less)
    found = measures.stressed(replace(runs, stress=pd.concat([more, less])), "baseline", "augmented")
    assert (found.images, found.seeds) == (few, 1)
    assert found.errors("baseline", "rotate") == 0
    assert found.errors("augmented", "rotate") == 5 * few // 2
    alone = measures.stressed(replace(runs, stress=more), "baseline")
    assert (alone.images, alone.errors("baseline", "rotate")) == (total, 5 * (total - few))


@pytest.fixture(scope="module")
def stressed(fashion_mnist: FashionMNIST) -> pd.DataFrame:
    """The table of a small network trained for seconds, about 80 % on clean images."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    splits = split(fashion_mnist, 3000, 100, 300, seed=0)
    config = TrialConfig(FashionCNN(channels=(12, 24), hidden=(32,), dropout=0.0), Adam(lr=4e-3), batch_size=64)
    trainer = Trainer(config, 0, splits, torch.device("cpu"), "fp32")
    for _ in range(4):
        trainer.run_epoch()
    network = trainer.model.eval()
    found = stress.stress(network, config, splits.test_images, splits.test_labels, splits.test_index)
    predicted = trainer.predict(splits.test_images).argmax(1)
    assert found.accuracy[0] == (predicted == splits.test_labels).mean()
    torch.set_num_threads(before)
    return found


@every_corruption
def test_a_trained_network_falls_by_3_points_at_least(name: str, stressed: pd.DataFrame) -> None:
    assert stressed.accuracy[0] > 0.75
    accuracy = stressed[stressed.corruption == name].set_index("severity").accuracy
    assert accuracy[5] <= accuracy[1] - 0.03


# Measures


def by_hand(arm: str, seed: int, clean: float, **accuracies: float) -> pd.DataFrame:
    """A trial's rows, of 100 images; each corruption loses 0, 1, 2, 3 and 4 points around its mean accuracy."""
    rows = [(CLEAN, 0, clean)]
    for name, mean in accuracies.items():
        rows += [(name, severity, mean - 0.01 * (severity - 3)) for severity in SEVERITIES]
    found = pd.DataFrame(rows, columns=["corruption", "severity", "accuracy"])
    bits = [np.packbits(np.arange(100) < round(100 * accuracy)).tobytes() for accuracy in found.accuracy]
    return found.assign(stage="confirm", arm=arm, seed=seed, trial_id=f"{arm}-{seed}", n=100, right=bits)


@pytest.fixture
def table() -> pd.DataFrame:
    return pd.concat(
        [
            by_hand("plain", 1, 0.9, shot_noise=0.6, rotate=0.5, low_pass=0.4),
            by_hand("plain", 2, 0.8, shot_noise=0.4, rotate=0.6, low_pass=0.4),
            by_hand("augmented", 1, 0.9, shot_noise=0.5, rotate=0.8, low_pass=0.3),
            by_hand("augmented", 2, 0.8, shot_noise=0.4, rotate=0.7, low_pass=0.4),
            by_hand("augmented", 3, 0.8, shot_noise=0.4, rotate=0.7, low_pass=0.4),
        ],
        ignore_index=True,
    )


def test_measures_of_a_table_by_hand(table: pd.DataFrame) -> None:
    """Of all seeds together, then of each; the third seed counts where no other arm lacks it."""
    perfect = by_hand("perfect", 1, 1.0, shot_noise=0.98, rotate=0.5)
    perfect.loc[perfect.corruption == "shot_noise", "right"] = np.packbits(np.ones(100, bool)).tobytes()
    stress, runs = pd.concat([table, perfect]), made(seeds=1, images=50)
    trials = stress[["stage", "arm", "seed", "trial_id"]].drop_duplicates().assign(status="completed")
    runs = replace(runs, stress=stress, trials=pd.concat([runs.trials, trials]))
    of, both = measures.stressed(runs, "augmented", "plain"), ("shot_noise", "rotate")
    found = {
        "error": of.error("augmented", *both),
        "retained": of.retained("augmented", *both),
        "more_errors": np.exp(of.more_errors("augmented", "plain", *both) / 100),
    }
    assert {name: values[:3] for name, values in found.items()} == {
        "error": pytest.approx([0.4, 0.35, 0.45]),
        "retained": pytest.approx([1.2 / 1.7, 0.65 / 0.9, 0.55 / 0.8]),
        "more_errors": pytest.approx(
            [(0.55 / 0.5 * 0.25 / 0.45) ** 0.5, (0.5 / 0.4 * 0.2 / 0.5) ** 0.5, (0.3 / 0.4) ** 0.5]
        ),
    }
    assert (of.more_errors("plain", "plain", *both) == 0).all()
    np.testing.assert_allclose(
        of.more_errors("plain", "augmented", *both), -of.more_errors("augmented", "plain", *both)
    )
    assert of.errors("plain", "shot_noise") == 100 * 5 * (0.4 + 0.6)
    assert measures.stressed(runs, "augmented").error("augmented", *both)[0] == pytest.approx((0.35 + 2 * 0.45) / 3)
    against = measures.stressed(runs, "plain", "perfect")
    for arms in (("plain", "perfect"), ("perfect", "plain")):
        assert np.isnan(against.more_errors(*arms, *both)[0]), "no error to be relative to"
    assert against.more_errors("plain", "perfect", "rotate")[0] == 0


def test_page_and_scorecard_say_one_number() -> None:
    runs = made(planted={"augmented": Arm(robust=0.2, robust_geometric=0.2, robust_inside=0.2)}, images=400)
    evidence = SimpleNamespace(runs=runs, stress=runs.stress, reference="baseline")
    trials = runs.trials.assign(val_accuracy=runs.trials.val_accuracy.astype(float))
    (shown,) = (s for s in confirmed(trials) if s.name == "augmented")
    table = _summary(evidence, [shown])  # type: ignore[arg-type]
    cell = table.rows[0][table.columns.index("relative to baseline, all")]
    *_, effect = next(c for c in CLAIMS if c.name == "augmentation-helps-robustness").test(runs).effects
    assert effect.what == "errors under all kinds, baseline over augmented"
    ratios = [100 * float(np.exp(-value / 100)) for value in (effect.value, effect.high, effect.low)]  # type: ignore[operator]
    assert cell == spread(*ratios, 1)


def test_figures_show_every_corruption_and_are_the_same_bytes_again(table: pd.DataFrame, images: Bytes) -> None:
    arms = ["plain", "augmented"]
    drawings = {
        figures_stress.gallery(images[0], 7): CORRUPTIONS,
        figures_stress.severity_curves(table, arms): {"shot_noise", "rotate", "low_pass"},
    }
    for svg, names in drawings.items():
        assert xml.etree.ElementTree.fromstring(svg).tag.endswith("svg")
        assert all(f"<!-- {name.replace('_', ' ')} -->".encode() in svg for name in names)
    assert figures_stress.gallery(images[0], 7) in drawings
    assert figures_stress.gallery(images[0], 8) not in drawings
    with pytest.raises(ValueError, match="arms: got 6, must be at most 5"):
        figures_stress.severity_curves(table, list("abcdef"))
