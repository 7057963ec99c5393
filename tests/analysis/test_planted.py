"""Networks that are known to read one thing alone, on real images: what maps, cue conflict and stress say of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from analysis import attention, cue_conflict, stress
from analysis.descriptors import Mask, foreground
from study.config import FashionCNN, TrialConfig
from study.data import CLASS_NAMES, FashionMNIST
from study.models import build_model

MODEL = FashionCNN(channels=(8, 16, 16), hidden=(32,), dropout=0.0)  # as deep as the source's
CONFIG = TrialConfig(model=MODEL)
IMAGES = 300  # of the test set, that the measures look at
EXACT = ["hirescam", "integrated-gradients", "occlusion"]  # what is not read has no part in these


@pytest.fixture(scope="module", autouse=True)
def one_thread_for_all() -> Iterator[None]:
    """One thread for what the module trains too, which is set up before the fixtures of a single test."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def lower_half(_network: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """Grey the upper half of the images, so that the network never reads it."""
    (images,) = inputs
    return (torch.cat([torch.zeros_like(images[:, :, :14]), images[:, :, 14:]], dim=2),)


def lower_cells(_features: nn.Module, _inputs: tuple[Tensor], pooled: Tensor) -> Tensor:
    """Drop the upper two of three rows of pooled cells, so that the classifier never reads them: (N, C, 3, 3)."""
    return torch.cat([torch.zeros_like(pooled[:, :, :2]), pooled[:, :, 2:]], dim=2)


class Patches(nn.Module):
    """A bag of patches of 5×5 pixels (Brendel & Bethge 2019, arXiv:1904.00760), averaged over the garment.

    Patches that show any background are left out: it sees neither outline nor place, nor how large the garment is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 64, 5), nn.ReLU(), nn.Conv2d(64, 64, 1), nn.ReLU())
        self.classifier = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        black = (images <= images.amin((1, 2, 3), keepdim=True) + 1e-6).float()
        inside = 1 - nn.functional.max_pool2d(black, 5, 1)
        mean = (self.features(images) * inside).sum((2, 3)) / inside.sum((2, 3)).clamp(min=1)
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
    network.get_submodule("features").register_forward_hook(lower_cells)
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


def answers(network: nn.Module, data: FashionMNIST) -> np.ndarray:
    """Return the class that the network takes each of the first IMAGES test images for."""
    with torch.no_grad():
        inputs = attention.normalised(data.test_images[:IMAGES], CONFIG.mean, CONFIG.std)
        return np.asarray(network(inputs).argmax(1))


def energies(network: nn.Module, data: FashionMNIST, masks: Mask) -> pd.DataFrame:
    """Return by variant and image the share of a map's evidence that lies on the masks, as pages report it."""
    codes = {"label": data.test_labels[:IMAGES], "predicted": answers(network, data)}
    rows = pd.DataFrame({name: pd.Categorical.from_codes(of, CLASS_NAMES) for name, of in codes.items()})
    rows["image"] = np.arange(IMAGES)
    sample = attention.matched_sample(rows, masks.mean((1, 2)), 15, 0)
    found = attention.inspect(network, data.test_images[:IMAGES], sample, masks, CONFIG.mean, CONFIG.std, 0)
    return found[found.target == "predicted"].pivot(index="image", columns="variant", values="energy")


def checked(network: nn.Module, data: FashionMNIST) -> dict[str, list[str]]:
    """Return of each variant the checks that it fails."""
    wrong = answers(network, data) != data.test_labels[:IMAGES]
    found = attention.checks(network, data.test_images[:IMAGES], wrong, CONFIG.mean, CONFIG.std, 0)
    assert set(found.variant) == {*attention.VARIANTS}
    return attention.failed(found)


def test_maps_lie_where_the_network_reads(
    half: nn.Module, whole: nn.Module, untrained: nn.Module, fashion_mnist: FashionMNIST
) -> None:
    lower = np.zeros((IMAGES, 28, 28), bool)
    lower[:, 12:] = True  # the squares of occlusion that reach into the lower half begin here
    of_half = energies(half, fashion_mnist, lower)
    assert of_half[EXACT].min().min() > 0.999
    for network in (whole, untrained):
        assert energies(network, fashion_mnist, lower).mean().max() < 0.7


def test_what_is_trusted_of_half_an_image_says_so(half: nn.Module, fashion_mnist: FashionMNIST) -> None:
    """Grad-CAM names cells that are not read (Draelos & Carin 2020), and its checks tell."""
    failed = checked(half, fashion_mnist)
    assert failed["integrated-gradients"] == failed["occlusion"] == []
    assert failed["grad-cam"] != []


def test_maps_of_a_network_without_shape_lie_on_the_garment(
    texture: nn.Module, whole: nn.Module, untrained: nn.Module, fashion_mnist: FashionMNIST
) -> None:
    """It reads nothing else; squares of pixels reach over the outline, and a grey one is no background to it."""
    garments = foreground(fashion_mnist.test_images[:IMAGES])
    of_texture = energies(texture, fashion_mnist, garments)
    assert of_texture["hirescam"].min() > 0.99
    for network in (whole, untrained):
        of_other = energies(network, fashion_mnist, garments).mean()
        assert (of_texture[EXACT].mean() > of_other[EXACT] + 0.1).all()


def test_what_no_network_reads_changes_no_answer_under_stress(half: nn.Module, fashion_mnist: FashionMNIST) -> None:
    images, labels = fashion_mnist.test_images[:IMAGES], fashion_mnist.test_labels[:IMAGES]
    noise = np.random.default_rng(0).integers(0, 256, images[:, :14].shape, np.uint8)
    replaced = np.concatenate([noise, images[:, 14:]], axis=1)
    assert (replaced != images).mean() > 0.4
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
    shape, by_texture = decided(untrained, fashion_mnist)
    assert shape + by_texture < 0.25, "chance decides for either in a fifth"
    assert abs(shape - by_texture) < 0.05


def retained(network: nn.Module, data: FashionMNIST) -> pd.Series:
    """Return the mean accuracy under each corruption relative to that on clean images."""
    found = stress.stress(
        network, CONFIG, data.test_images[:IMAGES], data.test_labels[:IMAGES], np.arange(IMAGES), 0, "fp32"
    )
    by_kind = found.groupby("corruption").accuracy.mean()
    return by_kind / by_kind["clean"]


def test_stress_tells_texture_from_shape(
    texture: nn.Module, whole: nn.Module, untrained: nn.Module, fashion_mnist: FashionMNIST
) -> None:
    """Shuffled patches leave a network without shape; a garment filled with its mean one without texture."""
    of_texture, of_whole, of_none = (
        kept["patch_shuffle"] - kept["silhouette_fill"]
        for kept in (retained(network, fashion_mnist) for network in (texture, whole, untrained))
    )
    assert of_texture > 0.2
    assert of_whole < -0.2
    assert abs(of_none) < 0.1


@pytest.mark.parametrize("make", [partial(build_model, MODEL, 5), partial(build_model, MODEL, 6), Patches])
def test_of_a_random_network_no_map_is_trusted(make: Callable[[], nn.Module], fashion_mnist: FashionMNIST) -> None:
    torch.manual_seed(0)
    assert all(checked(make().eval(), fashion_mnist).values())
