"""Augmentation: laws for any setting, and every map recovered and held against torchvision.

A picture whose brightness is a linear function of the place shows, where neighbours are mixed, exactly where each pixel
came from. `maps` reads the affine map of each image off two such pictures, knowing nothing of how it was drawn.
"""

import dataclasses
from typing import NamedTuple
from unittest import mock

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as vision

from study.augment import ERASED_AREA, ERASED_ASPECT, augment, shifted
from study.config import Augmentation
from study.data import FashionMNIST

pytestmark = pytest.mark.usefixtures("one_thread")
SIDE = 28
FULL = Augmentation(1, rotation=25, translation=0.15, scale=0.2, shear=15, flip=0.5, erasing=0.5)
GEOMETRY = dataclasses.replace(FULL, erasing=0)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
ANY = st.builds(
    Augmentation,
    strength=st.floats(0, 1),
    rotation=st.floats(0, 180),
    translation=st.floats(0, 1),
    scale=st.floats(0, 0.9),
    shear=st.floats(0, 60),
    flip=st.floats(0, 1),
    erasing=st.floats(0, 1),
    crop=st.integers(0, 8),
    reflect=st.booleans(),
    whole_pixels=st.booleans(),
)


@pytest.fixture(scope="module")
def pictures(fashion_mnist: FashionMNIST) -> Tensor:
    """64 real images, float in [0, 1]."""
    return torch.from_numpy(fashion_mnist.train_images[:64].copy())[:, None].float() / 255


def seeded(seed: int, device: str = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


def random_images(seed: int, count: int = 5) -> Tensor:
    return torch.rand(count, 1, SIDE, SIDE, generator=seeded(seed))


class Maps(NamedTuple):
    """For each image: out(p) = in(source · p + start), in pixels about the centre, x to the right and y down."""

    source: npt.NDArray[np.float64]  # (N, 2, 2)
    start: npt.NDArray[np.float64]  # (N, 2)

    @property
    def forward(self) -> npt.NDArray[np.float64]:
        return np.linalg.inv(self.source)

    @property
    def flipped(self) -> npt.NDArray[np.bool_]:
        return np.linalg.det(self.source) < 0

    @property
    def unflipped(self) -> npt.NDArray[np.float64]:
        """Rotation · shear · scale: the forward map without the flip that comes first."""
        return self.forward * np.where(self.flipped, -1, 1)[:, None, None] ** np.array([1, 0])

    @property
    def angle(self) -> npt.NDArray[np.float64]:
        """Degrees, clockwise as seen."""
        return np.degrees(np.arctan2(self.unflipped[:, 1, 0], self.unflipped[:, 0, 0]))

    @property
    def scale(self) -> npt.NDArray[np.float64]:
        return np.hypot(self.unflipped[:, 0, 0], self.unflipped[:, 1, 0])

    @property
    def shear(self) -> npt.NDArray[np.float64]:
        """Degrees, to the right as y grows downwards."""
        x, y = self.unflipped[:, :, 0], self.unflipped[:, :, 1]
        return np.degrees(np.arctan((x * y).sum(1) / self.scale**2))

    @property
    def shift(self) -> npt.NDArray[np.float64]:
        """Pixels that the centre of the image moves, (N, 2), x and y."""
        return -np.einsum("nij,nj->ni", self.forward, self.start)


def maps(setting: Augmentation, count: int, seed: int) -> Maps:
    """What `augment` does to `count` images with this seed."""
    centred = torch.arange(SIDE) - (SIDE - 1) / 2
    across = centred.expand(count, 1, SIDE, SIDE)
    with mock.patch("study.augment.SAMPLED", "bilinear"):
        x, y = (augment(ramp, setting, seeded(seed))[:, 0] for ramp in (across, across.mT))
    middle = slice(SIDE // 2 - 4, SIDE // 2 + 4)  # the background enters at the border only
    seen = torch.stack((x, y), -1)[:, middle, middle].reshape(count, -1, 2).double().numpy()
    places = np.stack(np.meshgrid(centred[middle], centred[middle]), -1).reshape(-1, 2)
    design = np.column_stack((places, np.ones(len(places))))
    solved = np.linalg.pinv(design) @ seen  # (N, 3, 2)
    assert np.abs(design @ solved - seen).max() < 1e-3, "not one affine map"
    return Maps(solved[:, :2].transpose(0, 2, 1), solved[:, 2])


# Identity


@pytest.mark.parametrize(
    "setting", [Augmentation(), dataclasses.replace(FULL, strength=0), Augmentation(strength=1)], ids=str
)
def test_nothing_to_do_is_the_identity(setting: Augmentation, pictures: Tensor) -> None:
    before = pictures.clone()
    found = augment(pictures, setting, seeded(0))
    assert found is pictures
    assert torch.equal(found, before)


@given(setting=ANY, seed=st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_strength_zero_is_the_identity_for_any_maxima(setting: Augmentation, seed: int) -> None:
    images = random_images(seed)
    assert torch.equal(augment(images, dataclasses.replace(setting, strength=0.0), seeded(seed)), random_images(seed))


# Laws


@given(setting=ANY, seed=st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_laws_for_any_setting(setting: Augmentation, seed: int) -> None:
    images = random_images(seed)
    found = augment(images, setting, seeded(seed))
    assert (found.shape, found.dtype, found.device) == (images.shape, images.dtype, images.device)
    assert found.min() >= 0
    assert found.max() <= 1
    assert torch.equal(found, augment(images, setting, seeded(seed)))  # same generator state, same result
    assert torch.equal(images, random_images(seed))  # the input is left alone
    assert torch.equal(augment(torch.zeros_like(images), setting, seeded(seed)), torch.zeros_like(images))


@given(setting=ANY, seed=st.integers(0, 2**32), strength=st.floats(0.1, 1))
@settings(max_examples=25, deadline=None)
def test_strength_multiplies_every_maximum(setting: Augmentation, seed: int, strength: float) -> None:
    maxima = {key: value for key, value in dataclasses.asdict(setting).items() if key != "strength"}
    assume(any(maxima.values()))
    scaled = Augmentation(1.0, **{key: strength * value for key, value in maxima.items()})
    weak = augment(random_images(seed), dataclasses.replace(setting, strength=strength), seeded(seed))
    maximal = augment(random_images(seed), scaled, seeded(seed))
    # Single pixels differ where rounding moves a sample across the border, or a draw across the edge of an erasure.
    assert ((weak - maximal).abs() > 1e-2).float().mean() < 0.01


@given(setting=ANY, seed=st.integers(0, 2**32), which=st.integers(0, 4))
@settings(max_examples=25, deadline=None)
def test_an_image_does_not_depend_on_its_neighbours(setting: Augmentation, seed: int, which: int) -> None:
    images = random_images(seed)
    others = random_images(seed + 1)
    others[which] = images[which]
    found, alone = (augment(batch, setting, seeded(seed))[which] for batch in (images, others))
    assert torch.equal(found, alone)


def test_each_image_has_its_own_draw(pictures: Tensor) -> None:
    same = pictures[:1].expand(64, -1, -1, -1)
    for key in ("rotation", "translation", "scale", "shear"):
        only = Augmentation(1.0, **{key: getattr(FULL, key)})
        found = augment(same, only, seeded(0)).flatten(1)
        assert len({row.numpy().tobytes() for row in found}) > 20, key  # some move no pixel, or the same ones
    for key in ("flip", "erasing"):
        found = augment(same, Augmentation(1.0, **{key: 0.5}), seeded(0)).flatten(1)
        assert len({row.numpy().tobytes() for row in found}) > 1, key


def test_the_next_batch_and_another_seed_draw_anew(pictures: Tensor) -> None:
    generator = seeded(0)
    first, second = (augment(pictures, FULL, generator) for _ in range(2))
    assert not torch.equal(first, second)
    assert not torch.equal(first, augment(pictures, FULL, seeded(1)))


def test_the_global_generator_stays(pictures: Tensor) -> None:
    before = torch.get_rng_state()
    augment(pictures, FULL, seeded(0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("device", DEVICES)
def test_device_shape_and_type_are_kept(device: str, pictures: Tensor) -> None:
    found = augment(pictures.to(device), FULL, seeded(0, device))
    assert (found.device.type, found.shape, found.dtype) == (device, pictures.shape, torch.float32)
    assert not torch.equal(found.cpu(), pictures)


# Geometry


def test_flip_with_probability_one_is_torch_flip(pictures: Tensor) -> None:
    found = augment(pictures, Augmentation(1, flip=1), seeded(0))
    torch.testing.assert_close(found, pictures.flip(-1), rtol=0, atol=1e-5)


def test_unflipped_images_stay_and_the_share_is_the_probability(pictures: Tensor) -> None:
    many = pictures.repeat(64, 1, 1, 1)
    found = augment(many, Augmentation(0.5, flip=0.6), seeded(0))
    stayed = (found - many).abs().amax((1, 2, 3)) < 1e-5
    mirrored = (found - many.flip(-1)).abs().amax((1, 2, 3)) < 1e-5
    assert (stayed | mirrored).all()
    assert mirrored.float().mean().item() == pytest.approx(0.3, abs=0.03)  # 4 standard errors


def test_a_shift_is_the_image_shifted_by_the_nearest_whole_pixels(pictures: Tensor) -> None:
    setting = Augmentation(1, translation=0.25)
    found = augment(pictures, setting, seeded(3))
    padded = np.pad(pictures[:, 0].numpy(), ((0, 0), (8, 8), (8, 8)))
    for image, output, (x, y) in zip(padded, found[:, 0].numpy(), maps(setting, 64, 3).start, strict=True):
        assert np.array_equal(output, image[8 + round(y) :, 8 + round(x) :][:SIDE, :SIDE])


def test_a_shift_of_whole_pixels_is_the_shifted_image(pictures: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    # The only test that fixes a draw: the greatest one, which moves everything by the maximum.
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.ones(shape))
    found = augment(pictures, Augmentation(1, translation=3 / SIDE), seeded(0))
    expected = torch.zeros_like(pictures)
    expected[..., 3:, 3:] = pictures[..., :-3, :-3]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "setting",
    [Augmentation(1, rotation=90), Augmentation(1, scale=0.4), Augmentation(1, shear=40), GEOMETRY],
    ids=["rotation", "scale", "shear", "all"],
)
def test_every_map_is_torchvisions(setting: Augmentation, pictures: Tensor) -> None:
    """Flip, then torchvision's affine map with the angle, shift, scale and shear that `maps` recovered."""
    found = augment(pictures, setting, seeded(5))
    known = maps(setting, 64, 5)
    for image, output, flipped, angle, shift, scale, shear in zip(
        pictures, found, known.flipped, known.angle, known.shift, known.scale, known.shear, strict=True
    ):
        expected = vision.affine(
            image.flip(-1) if flipped else image,
            angle,
            shift.tolist(),
            scale,
            [-shear, 0.0],
            InterpolationMode.NEAREST,
        )
        assert (output != expected).float().mean() < 0.02  # where two pixels are equally near


def test_the_centre_of_a_dot_stays_within_the_maximum_and_comes_near_it() -> None:
    dot = torch.zeros(2000, 1, SIDE, SIDE)
    dot[..., 14, 14] = 1
    found = augment(dot, Augmentation(1, translation=0.1), seeded(0))[:, 0]
    places = torch.arange(SIDE).float()
    moved = torch.stack(((found.sum(1) * places).sum(1), (found.sum(2) * places).sum(1)), 1) - 14
    for direction in moved.T:
        assert direction.max() == 3  # the nearest to 2.8
        assert direction.min() == -3


@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_maxima_are_respected_and_reached(strength: float) -> None:
    """Each quantity is drawn evenly from ± its maximum, whatever else is drawn."""
    setting = dataclasses.replace(GEOMETRY, strength=strength)
    found = maps(setting, 4000, 1)
    drawn = {
        "rotation": found.angle / GEOMETRY.rotation,
        "translation x": found.shift[:, 0] / (GEOMETRY.translation * SIDE),
        "translation y": found.shift[:, 1] / (GEOMETRY.translation * SIDE),
        "scale": (found.scale - 1) / GEOMETRY.scale,
        "shear": found.shear / GEOMETRY.shear,
    }
    for key, share in drawn.items():
        assert np.abs(share).max() <= strength + 1e-3, key
        even = np.linspace(-strength, strength, len(share))
        assert np.abs(np.sort(share) - even).max() < 0.06 * strength, key  # Kolmogorov–Smirnov: 0.03 of the range
    assert found.flipped.mean() == pytest.approx(0.5 * strength, abs=0.032)
    correlation = np.corrcoef([*drawn.values(), found.flipped])
    assert np.abs(correlation - np.eye(len(correlation))).max() < 0.065  # 4 standard errors


def test_the_second_sources_setting() -> None:
    """Rotation ±10°, translation ±10 %, flip with probability 0.5, and nothing else."""
    found = maps(Augmentation(1, rotation=10, translation=0.1, flip=0.5), 2000, 2)
    assert 9.9 < np.abs(found.angle).max() <= 10.001
    assert 2.77 < np.abs(found.shift).max() <= 2.801
    assert found.flipped.mean() == pytest.approx(0.5, abs=0.045)
    assert np.abs(found.scale - 1).max() < 1e-4
    assert np.abs(found.shear).max() < 1e-2


# Erasing


def test_erased_rectangles_have_the_published_areas_and_shapes() -> None:
    found = augment(torch.ones(4000, 1, SIDE, SIDE), Augmentation(1, erasing=1), seeded(0))[:, 0] == 0
    heights, widths = found.any(2).sum(1), found.any(1).sum(1)
    erased = found.sum((1, 2))
    assert (erased == heights * widths).all()  # one filled rectangle, in every image
    assert erased.min() > 0
    # A side of h pixels covers the centres of h - 1 to h + 1 of them.
    least, most = (share * SIDE**2 for share in ERASED_AREA)
    assert ((heights - 1) * (widths - 1) < most).all()
    assert ((heights + 1) * (widths + 1) > least).all()
    assert ((heights - 1) / (widths + 1) < ERASED_ASPECT[1]).all()
    assert ((heights + 1) / (widths - 1) > ERASED_ASPECT[0]).all()
    assert erased.float().mean().item() == pytest.approx((least + most) / 2, rel=0.05)
    assert erased.min() < 1.5 * least
    assert erased.max() > 0.9 * most
    assert found.any(0).all()  # every place can be hit


@pytest.mark.parametrize(("strength", "erasing", "share"), [(1.0, 0.5, 0.5), (0.5, 0.5, 0.25), (1.0, 1.0, 1.0)])
def test_erasing_hits_its_share_of_the_images(strength: float, erasing: float, share: float) -> None:
    found = augment(torch.ones(4000, 1, SIDE, SIDE), Augmentation(strength, erasing=erasing), seeded(1))
    hit = (found == 0).flatten(1).any(1)
    assert hit.float().mean().item() == pytest.approx(share, abs=0.032)  # 4 standard errors


def test_erasing_leaves_every_other_pixel(pictures: Tensor) -> None:
    found = augment(pictures, Augmentation(1, erasing=1), seeded(0))
    assert not torch.equal(found, pictures)
    assert torch.equal(found[found != 0], pictures[found != 0])


# Whole pixels


@pytest.mark.parametrize("padding", ["constant", "reflect"])
def test_a_shift_is_torchvisions_crop_of_the_padded_image(padding: str, pictures: Tensor) -> None:
    shifts = torch.randint(-3, 4, (2, len(pictures)), generator=seeded(5))
    found = shifted(pictures, shifts, 3, padding)
    padded = vision.pad(pictures, [3, 3, 3, 3], padding_mode=padding)
    for image, result, (x, y) in zip(padded, found, shifts.T.tolist(), strict=True):
        assert torch.equal(result, vision.crop(image, 3 - y, 3 - x, SIDE, SIDE))


@pytest.mark.parametrize("reflect", [False, True])
def test_crops_shift_by_up_to_so_many_pixels_all_alike(reflect: bool) -> None:
    image = torch.zeros(1, 1, SIDE, SIDE)
    image[0, 0, 14, 14] = 1
    many = augment(image.expand(4000, -1, -1, -1), Augmentation(1, crop=2, reflect=reflect), seeded(6))
    places = many.flatten(1).argmax(1)
    counts = torch.bincount(places, minlength=SIDE * SIDE).reshape(SIDE, SIDE)
    assert int(counts[12:17, 12:17].sum()) == 4000
    assert counts[12:17, 12:17].min() > 4000 / 25 - 5 * (4000 / 25) ** 0.5, "each of 25 shifts is as likely"
    edge = augment(torch.ones(500, 1, SIDE, SIDE), Augmentation(1, crop=2, reflect=reflect), seeded(7))
    assert bool((edge == 1).all()) == reflect, "what is moved in is the mirror image, or black"


def test_strength_scales_a_crop_to_whole_pixels(pictures: Tensor) -> None:
    settings_ = Augmentation(0.1, crop=4)
    assert augment(pictures, settings_, seeded(8)) is pictures
    assert not torch.equal(augment(pictures, dataclasses.replace(settings_, strength=0.5), seeded(8)), pictures)


def test_flips_alone_mirror_half_of_the_images_exactly(pictures: Tensor) -> None:
    found = augment(pictures, Augmentation(1, flip=0.5), seeded(9))
    mirrored = [torch.equal(a, b.flip(-1)) and not torch.equal(a, b) for a, b in zip(found, pictures, strict=True)]
    same = [torch.equal(a, b) for a, b in zip(found, pictures, strict=True)]
    assert all(m or s for m, s in zip(mirrored, same, strict=True))
    assert 16 < sum(mirrored) < 48


def test_whole_pixels_are_torchvisions_two_transforms(pictures: Tensor) -> None:
    """RandomRotation, then RandomAffine(translate): at the nearest pixel each, and what leaves the frame is lost."""
    setting = Augmentation(1, rotation=10, translation=0.1, whole_pixels=True)
    found = augment(pictures, setting, seeded(10))
    rotated = augment(pictures, dataclasses.replace(setting, translation=0.0), seeded(10))
    shifts = set()
    for image, turned, result in zip(pictures, rotated, found, strict=True):
        moved = [
            (x, y)
            for x in range(-3, 4)
            for y in range(-3, 4)
            if torch.equal(result, vision.affine(turned, 0.0, [x, y], 1.0, [0.0, 0.0]))
        ]
        assert moved, "no shift by whole pixels of the rotated image"
        shifts.add(moved[0])
        assert not torch.equal(image, result)
    assert len(shifts) > 15
