"""Test images under corruptions and suppressions of growing severity.

The scheme is that of Hendrycks & Dietterich 2019, "Benchmarking neural network robustness to common corruptions and
perturbations", arXiv:1903.12261. What is drawn for an image depends on the seed, the corruption and the image's number
alone, so that every network meets the same images; a higher severity is more of the same draw: the same noise, louder;
the same direction, farther.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
from scipy import stats

from analysis.descriptors import foreground
from study.data import SIDE, Bytes

Index = npt.NDArray[np.int64]
Pixels = npt.NDArray[Any]  # (N, 28, 28), not yet rounded, nor within 0 to 255
Draw = Callable[..., npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Corruption:
    """A kind of change: its family, its amounts at severities 1 to 5, and what makes it."""

    family: str
    amounts: tuple[float, float, float, float, float]
    change: Callable[[Bytes, float, Draw], Pixels]


SEVERITIES = range(1, 6)
CLEAN = "clean"  # severity 0, once for all corruptions

TESTED = 10_000  # images of the published test set: numbers are drawn for all of them at once
LEVELS = 256  # of a uniform draw, in the table of Poisson's quantiles
TAPS = 13  # points of the way of motion: less than a pixel apart
ELASTIC_SIGMA = 3  # pixels over which neighbours move together
PATCH = SIDE // 4  # pixels: a side of the shuffled squares
CENTRE = (SIDE - 1) / 2
SAMPLED = cv2.INTER_CUBIC  # linearly, a shift of half a pixel would be a blur too, and cost twice as much accuracy


def corrupt(images: Bytes, name: str, severity: int, index: Index, seed: int = 0) -> Bytes:
    """Images uint8 (N, 28, 28) under the corruption; severity 0 returns them as they are.

    `index` (N,): the images' numbers in the test set, not negative. What is drawn for an image depends on `seed`,
    `name` and its number, not on the batch. Raises ValueError for another name, severity, shape or type.
    """
    check_name(name)
    if severity not in (0, *SEVERITIES):
        raise ValueError(f"severity: got {severity}, must be 0 to {max(SEVERITIES)}")
    return changed(images, name, CORRUPTIONS[name].amounts[severity - 1] if severity else None, index, seed)


def changed(images: Bytes, name: str, amount: float | None, index: Index, seed: int = 0) -> Bytes:
    """Return the images as `corrupt` does, but by any amount; None returns them as they are. Raise what it raises."""
    check_name(name)
    if images.dtype != np.uint8 or images.shape[1:] != (SIDE, SIDE):
        raise ValueError(f"images: got {images.dtype} {images.shape}, must be uint8 (N, {SIDE}, {SIDE})")
    if index.shape != images.shape[:1] or (index < 0).any():
        raise ValueError(f"index: got {index.shape}, must be {images.shape[:1]} numbers, none below 0")
    if amount is None or len(images) == 0:
        return images
    rows = max(TESTED, int(index.max()) + 1)

    def draw(kind: Literal["random", "standard_normal"], *shape: int) -> npt.NDArray[np.float32]:
        """Numbers of NumPy's distribution of that name for each image, float32 (N, *shape)."""
        return np.asarray(_drawn((seed, *name.encode()), kind, rows, shape)[index])

    return np.asarray(np.rint(np.clip(CORRUPTIONS[name].change(images, amount, draw), 0, 255)), np.uint8)


def corrupted(images: Bytes, index: Index, seed: int = 0) -> Iterator[tuple[str, int, Bytes]]:
    """Name, severity and the images (N, 28, 28) under it: clean first, then every corruption at severities 1 to 5."""
    yield CLEAN, 0, images
    for name in CORRUPTIONS:
        for severity in SEVERITIES:
            yield name, severity, corrupt(images, name, severity, index, seed)


def check_name(name: str) -> None:
    """Raises ValueError where no corruption has the name."""
    if name not in CORRUPTIONS:
        raise ValueError(f"corruption: got {name!r}, must be one of {', '.join(CORRUPTIONS)}")


@lru_cache(maxsize=1)  # for the other severities
def _drawn(key: tuple[int, ...], kind: str, rows: int, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """A row for each number, (rows, *shape). They are drawn one after another: how many there are changes none."""
    found: npt.NDArray[np.float32] = getattr(np.random.default_rng(key), kind)((rows, *shape), np.float32)
    found.flags.writeable = False
    return found


# Each change: images uint8 (N, 28, 28), an amount out of CORRUPTIONS and the draws, to pixels of any size.


def _gaussian_noise(images: Bytes, amount: float, draw: Draw) -> Pixels:
    """Hendrycks & Dietterich 2019."""
    return images + 255 * amount * draw("standard_normal", SIDE, SIDE)


def _shot_noise(images: Bytes, amount: float, draw: Draw) -> Pixels:
    """Poisson's noise of counted photons (Hendrycks & Dietterich 2019); quantiles, so that severities share draws."""
    level = (LEVELS * draw("random", SIDE, SIDE)).astype(np.uint8)
    return np.asarray(_poisson_quantiles(amount)[images, level])


@lru_cache(maxsize=len(SEVERITIES))
def _poisson_quantiles(photons: float) -> npt.NDArray[np.float32]:
    """Pixels for each pixel value, where 255 means so many photons, and level: (256, LEVELS)."""
    levels = (np.arange(LEVELS) + 0.5) / LEVELS
    counts = stats.poisson.ppf(levels, photons * np.arange(256)[:, None] / 255)
    return np.asarray(255 / photons * counts, np.float32)


def _impulse_noise(images: Bytes, amount: float, draw: Draw) -> Pixels:
    """Salt and pepper, half black, half white (Hendrycks & Dietterich 2019)."""
    hit = draw("random", SIDE, SIDE)
    return np.where(hit < amount / 2, 0, np.where(hit >= 1 - amount / 2, 255, images))


def _gaussian_blur(images: Bytes, amount: float, draw: Draw) -> Pixels:
    """Hendrycks & Dietterich 2019. As low_pass: without fine texture, Geirhos et al. 2018, arXiv:1808.08750."""
    return np.stack([cv2.GaussianBlur(image, (0, 0), amount, borderType=cv2.BORDER_CONSTANT) for image in images])


def _motion_blur(images: Bytes, amount: float, draw: Draw) -> Pixels:
    """Hendrycks & Dietterich 2019; here along a straight line in any direction, every part of it with equal weight."""
    angle = np.pi * draw("random")
    reach = math.ceil(amount / 2)
    way = amount * np.linspace(-0.5, 0.5, TAPS) * np.stack([np.sin(angle), np.cos(angle)])[..., None]  # (2, N, TAPS)
    # Each point gives to the pixels around it, linearly.
    rows, columns = np.maximum(1 - np.abs(way[..., None] - np.arange(-reach, reach + 1)), 0)
    kernels = np.einsum("ntr,ntc->nrc", rows, columns) / TAPS
    border = cv2.BORDER_CONSTANT
    return np.stack([cv2.filter2D(i, cv2.CV_32F, k, borderType=border) for i, k in zip(images, kernels, strict=True)])


def _contrast(images: Bytes, amount: float, draw: Draw) -> Pixels:
    """Towards the image's mean: Hendrycks & Dietterich 2019."""
    mean = images.mean((1, 2), keepdims=True)
    return np.asarray(mean + (1 - amount) * (images - mean))


def _brighten(images: Bytes, amount: float, draw: Draw) -> Pixels:
    """Hendrycks & Dietterich 2019."""
    return images + 255 * amount


def _darken(images: Bytes, amount: float, draw: Draw) -> Pixels:
    """Less light. Times a factor: what is subtracted would wipe out the dark garments, for a person too."""
    return (1 - amount) * images


def _pixelate(images: Bytes, amount: float, draw: Draw) -> Pixels:
    """Hendrycks & Dietterich 2019: the mean over each larger pixel."""
    small = [cv2.resize(image, (int(amount), int(amount)), interpolation=cv2.INTER_AREA) for image in images]
    return np.stack([cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST_EXACT) for image in small])


def _elastic(images: Bytes, amount: float, draw: Draw) -> Pixels:
    """Simard, Steinkraus & Platt 2003, doi:10.1109/ICDAR.2003.1227801: a random displacement field, made smooth."""
    # The standard deviation of blurred normals is 1 over this; by the edges, which reflect, up to twice that.
    unit = 2 * math.sqrt(math.pi) * ELASTIC_SIGMA
    y, x = np.indices((SIDE, SIDE), np.float32)
    parts = []
    for image, normals in zip(images, draw("standard_normal", SIDE, SIDE, 2), strict=True):
        field = amount * unit * cv2.GaussianBlur(normals, (0, 0), ELASTIC_SIGMA)
        parts.append(cv2.remap(image, x + field[..., 0], y + field[..., 1], SAMPLED))
    return np.stack(parts)


def _rotate(images: Bytes, amount: float, draw: Draw) -> Pixels:
    """Mu & Gilmer 2019, MNIST-C, arXiv:1906.02337, as the next three."""
    return _mapped(images, [cv2.getRotationMatrix2D((CENTRE, CENTRE), sign * amount, 1) for sign in _signs(draw)])


def _shear(images: Bytes, amount: float, draw: Draw) -> Pixels:
    slopes = _signs(draw) * math.tan(math.radians(amount))
    return _mapped(images, [np.array([[1, slope, -slope * CENTRE], [0, 1, 0]]) for slope in slopes])


def _scale(images: Bytes, amount: float, draw: Draw) -> Pixels:
    return _mapped(images, [cv2.getRotationMatrix2D((CENTRE, CENTRE), 0, 1 + sign * amount) for sign in _signs(draw)])


def _translate(images: Bytes, amount: float, draw: Draw) -> Pixels:
    angles = 2 * np.pi * draw("random")
    shifts = SIDE * amount * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return _mapped(images, [np.array([[1, 0, x], [0, 1, y]]) for x, y in shifts])


def _signs(draw: Draw) -> npt.NDArray[np.float64]:
    """-1 or 1 for each image."""
    return np.where(draw("random") < 0.5, -1.0, 1.0)


def _mapped(images: Bytes, maps: list[Any]) -> Pixels:
    """Each image under its affine map, (2, 3) in pixels (x, y); 0 comes in from beyond the edge."""
    return np.stack([cv2.warpAffine(i, m, (SIDE, SIDE), flags=SAMPLED) for i, m in zip(images, maps, strict=True)])


def _occlusion(images: Bytes, amount: float, draw: Draw) -> Pixels:
    """Cutout (DeVries & Taylor 2017, arXiv:1708.04552) of a square within the image, and within any larger one."""
    start = (SIDE - amount) * draw("random", 2)[:, :, None]
    pixels = np.arange(SIDE) + 0.5
    hit = (start <= pixels) & (pixels < start + amount)  # (N, 2, 28): rows, columns
    return np.where(hit[:, 0, :, None] & hit[:, 1, None, :], 0, images)


def _patch_shuffle(images: Bytes, amount: float, draw: Draw) -> Pixels:
    """Shape goes, texture stays: Zhang & Zhu 2019, arXiv:1905.09797. Some patches change places, in a ring."""
    n, across = len(images), SIDE // PATCH
    patches = images.reshape(n, across, PATCH, across, PATCH).swapaxes(2, 3).reshape(n, across**2, PATCH, PATCH)
    ring = np.argsort(draw("random", across**2), axis=1)[:, : int(amount)]
    source = np.tile(np.arange(across**2), (n, 1))
    np.put_along_axis(source, ring, np.roll(ring, 1, axis=1), axis=1)
    shuffled = patches[np.arange(n)[:, None], source]
    return shuffled.reshape(n, across, across, PATCH, PATCH).swapaxes(2, 3).reshape(images.shape)


def _silhouette_fill(images: Bytes, amount: float, draw: Draw) -> Pixels:
    """Texture goes, shape stays: Geirhos et al. 2019, arXiv:1811.12231, silhouettes; of the garment's mean, not black.

    It is also a sweep of the foreground's RMS contrast, which is multiplied by 1 - amount.
    """
    mask = foreground(images)
    mean = (images * mask).sum((1, 2)) / np.maximum(mask.sum((1, 2)), 1)
    return np.where(mask, (1 - amount) * images + amount * mean[:, None, None], images)


# Beside each, what its amounts measure; sd is a standard deviation. tests/benchmarks/amounts.py found them: a reference
# network of the second source, trained without augmentation by the authors of this project, loses 2, 5, 10, 20 and 35
# points of its validation accuracy. The amounts of suppressions follow no accuracy: they take a cue away in steps, at
# severity 5 as much of it as can be, and how much accuracy is left is the measure.
CORRUPTIONS = {
    "gaussian_noise": Corruption("noise", (0.037, 0.064, 0.098, 0.14, 0.18), _gaussian_noise),  # sd, pixels in [0, 1]
    "shot_noise": Corruption("noise", (360, 92, 30, 8.5, 2.4), _shot_noise),  # photons at a pixel of 1
    "impulse_noise": Corruption("noise", (0.0085, 0.017, 0.029, 0.049, 0.077), _impulse_noise),  # share of the pixels
    "gaussian_blur": Corruption("blur", (0.56, 0.68, 0.82, 1.1, 1.4), _gaussian_blur),  # sd, pixels
    "motion_blur": Corruption("blur", (1.6, 2.5, 3.5, 5, 7.5), _motion_blur),  # length, pixels
    "contrast": Corruption("photometric", (0.26, 0.34, 0.43, 0.56, 0.65), _contrast),  # share of the contrast taken
    "brighten": Corruption("photometric", (0.11, 0.14, 0.18, 0.25, 0.38), _brighten),  # added, pixels in [0, 1]
    "darken": Corruption("photometric", (0.36, 0.52, 0.67, 0.81, 0.87), _darken),  # share of the light taken
    "pixelate": Corruption("digital", (23, 19, 13, 10, 7), _pixelate),  # side in pixels before it is enlarged again
    "elastic": Corruption("digital", (0.41, 0.63, 0.88, 1.2, 1.8), _elastic),  # RMS displacement along an axis, pixels
    "rotate": Corruption("geometric", (5.5, 8.3, 11, 15, 20), _rotate),  # degrees, left or right
    "shear": Corruption("geometric", (6.2, 9.2, 12, 16, 21), _shear),  # degrees, left or right
    "scale": Corruption("geometric", (0.055, 0.095, 0.15, 0.29, 0.44), _scale),  # larger or smaller by this share
    "translate": Corruption("geometric", (0.032, 0.053, 0.079, 0.12, 0.16), _translate),  # share of the side
    "occlusion": Corruption("occlusion", (3, 6, 9, 12, 17), _occlusion),  # side of a black square, pixels
    "patch_shuffle": Corruption("suppression", (2, 4, 7, 11, 16), _patch_shuffle),  # patches displaced, of 16
    "silhouette_fill": Corruption("suppression", (0.4, 0.6, 0.8, 0.9, 1), _silhouette_fill),  # share of the way to mean
    "low_pass": Corruption("suppression", (0.55, 0.9, 1.4, 2.1, 3), _gaussian_blur),  # sd, pixels
}
