"""Networks that are known to read one thing alone, on real images: what maps, cue conflict and stress say of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from analysis import attention, cue_conflict, stress
from analysis.descriptors import foreground
from study.config import FashionCNN, TrialConfig
from study.data import FashionMNIST
from study.models import build_model

MODEL = FashionCNN(channels=(8, 16), hidden=(32,), dropout=0.0)
CONFIG = TrialConfig(model=MODEL)
IMAGES = 300  # of the test set, that the measures look at

pytestmark = pytest.mark.usefixtures("one_thread")


def lower_half(_network: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """Grey the upper half of the images, so that the network never reads it."""
    (images,) = inputs
    return (torch.cat([torch.zeros_like(images[:, :, :14]), images[:, :, 14:]], dim=2),)


class Patches(nn.Module):
    """A bag of patches of 5×5 pixels (Brendel & Bethge 2019, arXiv:1904.00760), averaged over the garment.

    Patches that show any background are left out: it sees neither outline nor place, nor how large the garment is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Sequential(nn.Conv2d(1, 64, 5), nn.ReLU(), nn.Conv2d(64, 64, 1), nn.ReLU())
        self.classifier = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        black = (images <= images.amin((1, 2, 3), keepdim=True) + 1e-6).float()
        inside = 1 - nn.functional.max_pool2d(black, 5, 1)
        mean = (self.read(images) * inside).sum((2, 3)) / inside.sum((2, 3)).clamp(min=1)
        answer: Tensor = self.classifier(mean)
        return answer


def trained(network: nn.Module, data: FashionMNIST, epochs: int, images: int = 6000) -> nn.Module:
    """Train with Adam on the first images, in batches of 100."""
    torch.manual_seed(0)
    inputs = attention.normalised(data.train_images[:images], CONFIG.mean, CONFIG.std)
    labels = torch.from_numpy(data.train_labels[:images].astype(np.int64))
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    network.train()
    for _ in range(epochs):
        for batch in torch.randperm(images).split(100):
            loss = nn.functional.cross_entropy(network(inputs[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()


@pytest.fixture(scope="module")
def half(fashion_mnist: FashionMNIST) -> nn.Module:
    network = build_model(MODEL, 0)
    network.register_forward_pre_hook(lower_half)
    return trained(network, fashion_mnist, 3)


@pytest.fixture(scope="module")
def whole(fashion_mnist: FashionMNIST) -> nn.Module:
    return trained(build_model(MODEL, 0), fashion_mnist, 3)


@pytest.fixture(scope="module")
def texture(fashion_mnist: FashionMNIST) -> nn.Module:
    return trained(Patches(), fashion_mnist, 6)


@pytest.fixture(scope="module")
def untrained() -> nn.Module:
    return build_model(MODEL, 5).eval()


def in_lower_half(network: nn.Module, data: FashionMNIST, variant: str) -> float:
    """Return the share in [0, 1] of what maps say, for or against, that they say of the lower half."""
    inputs = attention.normalised(data.test_images[:50], CONFIG.mean, CONFIG.std)
    found, _ = attention.maps(network, inputs, network(inputs).argmax(1), variant)
    lower = np.array(attention.target(network).centres) > 12  # a square of occlusion reaches from 12 to 16
    return float(np.abs(found)[:, lower].sum() / np.abs(found).sum())


@pytest.mark.parametrize(("variant", "least"), [("occlusion", 0.999), ("integrated-gradients", 0.999)])
def test_maps_of_pixels_lie_where_the_network_reads(
    half: nn.Module, whole: nn.Module, fashion_mnist: FashionMNIST, variant: str, least: float
) -> None:
    assert in_lower_half(half, fashion_mnist, variant) > least
    assert in_lower_half(whole, fashion_mnist, variant) < 0.8


def test_hirescam_of_half_an_image_lies_lower_than_that_of_a_whole(
    half: nn.Module, whole: nn.Module, fashion_mnist: FashionMNIST
) -> None:
    """It names cells of the last feature map, which are not the same as what was read; so not all of it."""
    of_half, of_whole = (in_lower_half(network, fashion_mnist, "hirescam") for network in (half, whole))
    assert of_half > of_whole + 0.1


def test_what_no_network_reads_changes_no_answer_under_stress(half: nn.Module, fashion_mnist: FashionMNIST) -> None:
    images, labels = fashion_mnist.test_images[:IMAGES], fashion_mnist.test_labels[:IMAGES]
    noise = np.random.default_rng(0).integers(0, 256, images[:, :14].shape, np.uint8)
    replaced = np.concatenate([noise, images[:, 14:]], axis=1)
    clean, damaged = (
        stress.stress(half, CONFIG, pixels, labels, np.arange(IMAGES), 0, "fp32").iloc[0]
        for pixels in (images, replaced)
    )
    assert clean.accuracy == damaged.accuracy > 0.6


def decided(network: nn.Module, data: FashionMNIST) -> tuple[float, float]:
    """Return the shares in [0, 1] of images with cues in conflict that are taken for the shape, and for the texture."""
    pixels, made_of = cue_conflict.conflicts(
        data.test_images[:2000], foreground(data.test_images[:2000]), data.test_labels[:2000], 0
    )
    found = cue_conflict.decisions(network, CONFIG, pixels, made_of, "fp32")
    found = found[found.shape_class.astype(str) != found.texture_class.astype(str)]
    cues = (found[name].astype(str) == found.predicted.astype(str) for name in ("shape_class", "texture_class"))
    shape, texture = (float(hits.mean()) for hits in cues)
    return shape, texture


def test_cue_conflict_tells_texture_from_shape(
    texture: nn.Module, whole: nn.Module, untrained: nn.Module, fashion_mnist: FashionMNIST
) -> None:
    shape, by_texture = decided(texture, fashion_mnist)
    assert by_texture > 1.5 * shape
    shape, by_texture = decided(whole, fashion_mnist)
    assert shape > 2 * by_texture
    assert sum(decided(untrained, fashion_mnist)) < 0.25, "chance decides for either in a fifth"


def retained(network: nn.Module, data: FashionMNIST) -> pd.Series:
    """Return the mean accuracy under each corruption relative to that on clean images."""
    found = stress.stress(
        network, CONFIG, data.test_images[:IMAGES], data.test_labels[:IMAGES], np.arange(IMAGES), 0, "fp32"
    )
    by_kind = found.groupby("corruption").accuracy.mean()
    return by_kind / by_kind["clean"]


def test_stress_tells_texture_from_shape(texture: nn.Module, whole: nn.Module, fashion_mnist: FashionMNIST) -> None:
    """Shuffled patches leave a network without shape; a garment filled with its mean one without texture."""
    of_texture, of_whole = (retained(network, fashion_mnist) for network in (texture, whole))
    preference = {name: kept["patch_shuffle"] - kept["silhouette_fill"] for name, kept in
                  (("texture", of_texture), ("whole", of_whole))}  # fmt: skip
    assert preference["texture"] > preference["whole"] + 0.2


@pytest.mark.parametrize("make", [partial(build_model, MODEL, seed) for seed in (5, 6)])
def test_of_a_random_network_no_map_is_trusted(make: Callable[[], nn.Module], fashion_mnist: FashionMNIST) -> None:
    network = make().eval()
    images, labels = fashion_mnist.test_images[:IMAGES], fashion_mnist.test_labels[:IMAGES]
    wrong = network(attention.normalised(images, CONFIG.mean, CONFIG.std)).argmax(1).numpy() != labels
    found = attention.checks(network, images, wrong, CONFIG.mean, CONFIG.std, 0)
    assert set(found.variant) == {*attention.VARIANTS}
    assert not any(attention.trusted(found).values())


def test_integrated_gradients_add_up_to_what_the_logit_gains(half: nn.Module, fashion_mnist: FashionMNIST) -> None:
    """Completeness (Sundararajan et al. 2017, proposition 1), on the cells that are read."""
    inputs = attention.normalised(fashion_mnist.test_images[:20], CONFIG.mean, CONFIG.std)
    classes = torch.stack([half(inputs).argmax(1), torch.zeros(20, dtype=torch.int64)], dim=1)
    found, logits = attention.maps(half, inputs, classes, "integrated-gradients")
    grey = half(torch.zeros_like(inputs[:1])).detach().numpy()
    gained = np.take_along_axis(logits - grey, classes.numpy(), axis=1)
    assert np.abs(found.sum((2, 3)) - gained).max() < 0.15 * np.abs(gained).max()


def test_occlusion_is_what_a_loop_over_squares_finds(half: nn.Module, fashion_mnist: FashionMNIST) -> None:
    inputs = attention.normalised(fashion_mnist.test_images[:3], CONFIG.mean, CONFIG.std)
    classes = torch.tensor([[1, 2], [3, 4], [5, 6]])
    found = attention.occlusion(half, inputs, classes)
    with torch.no_grad():
        covered = inputs.clone()
        covered[:, :, 20:24, 8:12] = 0
        drop = (half(inputs) - half(covered)).gather(1, classes)
    assert found.shape == (3, 2, 7, 7)
    assert found[:, :, 5, 2] == pytest.approx(drop.numpy(), abs=1e-5)
