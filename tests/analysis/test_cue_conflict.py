"""Images whose cues are in conflict, and networks of which it is known by what they decide."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from analysis.cue_conflict import A_PAIR, COLUMNS, SIDE, conflicts, decisions
from analysis.descriptors import foreground
from analysis.measures import Cues, conflicted
from analysis.runs import NotTested, Runs
from study.config import TrialConfig
from study.data import Bytes, FashionMNIST
from study.models import build_model

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = TrialConfig(mean=0.0, std=1.0)  # pixels reach the planted networks in [0, 1]
LOWEST, HIGHER = 8, 2  # pixels: how high the made garments of class 0 are, and each class more than the one before
DARKEST, BRIGHTER = 30, 22  # of 255: their tones, likewise


class ByShape(nn.Module):
    """Decides by how many rows are not black, whatever they show."""

    def forward(self, x: Tensor) -> Tensor:
        rows = (x > 0).any(3).sum((1, 2))
        return _answers((rows - LOWEST) / HIGHER)


class ByTexture(nn.Module):
    """Decides by the mean tone of what is not black, wherever that is."""

    def forward(self, x: Tensor) -> Tensor:
        tone = 255 * x.sum((1, 2, 3)) / (x > 0).sum((1, 2, 3))
        return _answers((tone - DARKEST) / BRIGHTER)


class Always(nn.Module):
    """Answers class 4."""

    def forward(self, x: Tensor) -> Tensor:
        return _answers(torch.full((len(x),), 4.0))


def _answers(classes: Tensor) -> Tensor:
    return nn.functional.one_hot(classes.round().long().clamp(0, 9), 10).float()


def garments(each: int) -> tuple[Bytes, Bytes]:
    """Of each class `each` rectangles, as high as none of another class, of a grain around a tone of their own."""
    rng = np.random.default_rng(0)
    labels = np.tile(np.arange(10, dtype=np.uint8), each)
    images = np.zeros((len(labels), 28, 28), np.uint8)
    for image, label in zip(images, labels.tolist(), strict=True):
        high, wide = LOWEST + HIGHER * label, int(rng.integers(10, 21))
        row, column = rng.integers(29 - high), rng.integers(29 - wide)
        grain = rng.integers(-12, 13, (high, wide))
        image[row : row + high, column : column + wide] = DARKEST + BRIGHTER * label + grain
    return images, labels


def shown(networks: dict[str, list[nn.Module]], images: Bytes, labels: Bytes) -> Runs:
    """The runs of arms, with a network for each seed, that were shown conflicts made of the images."""
    pixels, made_of = conflicts(images, foreground(images), labels, 0)
    trials, rows = [], []
    for arm, of_seeds in networks.items():
        for seed, network in enumerate(of_seeds):
            trial = {"arm": arm, "seed": seed, "trial_id": f"{arm}-{seed}"}
            trials.append(trial)
            rows.append(decisions(network.eval(), CONFIG, pixels, made_of, "fp32").assign(**trial))
    assert list(rows[0])[: len(COLUMNS)] == list(COLUMNS)
    completed = {"stage": "confirm", "status": "completed", "stop_reason": "finished", "config_id": "0"}
    return Runs(
        pd.DataFrame(trials).assign(**completed), *[pd.DataFrame()] * 7, cue_conflict=pd.concat(rows, ignore_index=True)
    )


def judged(networks: dict[str, list[nn.Module]]) -> Cues:
    return conflicted(shown(networks, *garments(40)), *networks)


def test_the_shape_bias_of_networks_that_read_one_cue_alone() -> None:
    arms = {"shape": [ByShape()] * 2, "texture": [ByTexture()] * 2}
    cues = judged(arms)
    assert cues.images == 90 * 2
    assert cues.read == {"shape": 1, "texture": 1}
    assert cues.bias("shape")[0] == 100
    assert cues.bias("texture")[0] == 0
    assert "100.0 % are for the shape, 0.0 % for the texture: a shape bias of 100.0 %, and 100.0 % less" in cues.counts(
        "shape"
    )
    assert "a shape bias of 0.0 %, and 0.0 % less what chance gives" in cues.counts("texture")


def test_of_two_seeds_that_read_different_cues_the_bias_is_a_half() -> None:
    cues = judged({"mixed": [ByShape(), ByTexture()]})
    assert cues.bias("mixed")[:3] == pytest.approx([50, 100, 0])


@pytest.mark.parametrize("network", [Always(), build_model(CONFIG.model, 0), build_model(CONFIG.model, 1)])
def test_a_network_that_reads_neither_cue_has_no_shape_bias(network: nn.Module, fashion_mnist: FashionMNIST) -> None:
    runs = shown({"arm": [network]}, fashion_mnist.test_images[:1500], fashion_mnist.test_labels[:1500])
    with pytest.raises(NotTested, match=r"arm decides for either cue in .* not shown to be more than the 20\.0 % of"):
        conflicted(runs, "arm")


def test_a_network_that_always_answers_one_class_decides_alike_often_for_either(fashion_mnist: FashionMNIST) -> None:
    """So that nothing but what it reads makes it seem to prefer one."""
    rows = shown({"arm": [Always()]}, fashion_mnist.test_images[:1500], fashion_mnist.test_labels[:1500]).cue_conflict
    differ = rows[rows.shape_class != rows.texture_class]
    assert (differ.predicted == differ.shape_class).sum() == (differ.predicted == differ.texture_class).sum() > 0


def test_what_conflicts_are_made_of(fashion_mnist: FashionMNIST) -> None:
    images, labels = fashion_mnist.test_images[:2000], fashion_mnist.test_labels[:2000]
    masks = foreground(images)
    before = images.copy()
    pixels, table = conflicts(images, masks, labels, 0)
    assert np.array_equal(images, before)
    pairs = table.groupby(["shape_class", "texture_class"]).size()
    assert len(pairs) == 100, "every ordered pair, and each class with itself"
    assert pairs.nunique() == 1
    assert 5 <= pairs.iloc[0] < A_PAIR
    assert (labels[table.shape_image] == table.shape_class).all()
    assert (labels[table.texture_image] == table.texture_class).all()
    assert not pd.concat([table.shape_image, table.texture_image]).duplicated().any()
    assert np.array_equal(pixels > 0, masks[table.shape_image]), "the silhouette is whole, and nothing lies outside"
    for image, source in zip(pixels, table.texture_image, strict=True):
        assert np.isin(image[image > 0], images[source][masks[source]]).all()
        for one, other in ((image[: -2 * SIDE], image[2 * SIDE :]), (image[:, : -2 * SIDE], image[:, 2 * SIDE :])):
            both = (one > 0) & (other > 0)
            assert (one[both] == other[both]).all(), "reflected twice, the square is there again"


def test_conflicts_are_drawn_by_their_seed(fashion_mnist: FashionMNIST) -> None:
    images, labels = fashion_mnist.test_images[:500], fashion_mnist.test_labels[:500]
    (pixels, table), (again, same), (_, another) = (conflicts(images, foreground(images), labels, k) for k in (0, 0, 1))
    assert np.array_equal(pixels, again)
    pd.testing.assert_frame_equal(table, same)
    assert not table.equals(another)


def test_the_whole_test_set_gives_twenty_images_of_each_pair() -> None:
    images, labels = garments(400)
    assert (
        conflicts(images, foreground(images), labels, 0)[1]
        .groupby(["shape_class", "texture_class"])
        .size()
        .eq(20)
        .all()
    )


def test_few_images_come_more_than_once() -> None:
    images, labels = garments(3)
    table = conflicts(images, foreground(images), labels, 0)[1]
    assert (table.groupby(["shape_class", "texture_class"]).size() == 1).all()
    assert len(table) == 100


def test_what_holds_no_square_gives_no_texture() -> None:
    """A class of thin garments, or black ones, is left out; a thin one among others gives silhouettes."""
    images, labels = garments(40)
    thin = labels == 3
    images[thin] = 0
    images[thin, 14:18] = 200
    rest = conflicts(images, foreground(images), labels, 0)[1]
    assert 3 not in {*rest.shape_class, *rest.texture_class}
    assert len(rest) == 81 * 2
    images[np.flatnonzero(thin)[:20]] = images[np.flatnonzero(labels == 2)[:20]]
    some = conflicts(images, foreground(images), labels, 0)[1]
    assert set(some[some.texture_class == 3].texture_image) <= {*np.flatnonzero(thin)[:20]}
    assert {*some[some.shape_class == 3].shape_image} & {*np.flatnonzero(thin)[20:]}
    empty, nothing = conflicts(images[:0], images[:0] > 0, labels[:0], 0)
    assert (len(empty), len(nothing)) == (0, 0)
    assert len(decisions(Always(), CONFIG, empty, nothing, "fp32")) == 0
