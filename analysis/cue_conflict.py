"""Images whose cues are in conflict, the silhouette of one class filled with the texture of another.

By which of the two a network decides is its shape bias: decisions for the shape over decisions for either (Geirhos et
al. 2019, arXiv:1811.12231). Theirs are made by style transfer; these without any network:

- the silhouette is the foreground of a test image, holes filled; what lies outside is black;
- the texture is a square of SIDE pixels, drawn from those that lie inside another test image's garment, a pixel or more
  from its outline and without black, so that the silhouette stays whole, and continued by reflection, without seams;
- every ordered pair of classes is alike frequent, so that a network that always answers one class, or at random,
  decides as often for the shape as for the texture. Each class paired with itself makes as many controls: whether
  networks can read images that are made so;
- no test image is used twice, where there are enough of each class.

Limits: the texture carries the garment's tone, and nothing that is larger than its square; the shape is the outline
alone, without sleeves that lie on the body, openings or handles; the outline is sharp; every other sandal is too thin
for a square, and gives silhouettes only. Shirts, coats and pullovers have much the same outline: what is taken for a
third class counts for neither cue. Images are not chosen by whether a network gets them right, so that all networks
meet the same.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
from torch import nn

from analysis.descriptors import Mask
from analysis.stress import predicted
from study.config import TrialConfig
from study.data import CLASS_NAMES, Bytes
from study.data import SIDE as IMAGE_SIDE
from study.trainer import Precision

SIDE = 5  # pixels of the square: half of the sandals hold one, and 97 to 100 % of every other class
MARGIN = 1  # pixels between the square and the outline, which is smoothed over one
A_PAIR = 20  # images of each ordered pair of classes, at most: of ten classes 1,800, and 200 controls

COLUMNS = {
    "shape_image": "place in the published test set of the image whose silhouette it has",
    "texture_image": "place of the image whose texture fills it",
    "shape_class": "the class of the silhouette",
    "texture_class": "the class of the texture; that of the silhouette too in controls",
    "predicted": "the class it was taken for",
}


def conflicts(images: Bytes, masks: Mask, labels: Bytes, seed: int) -> tuple[Bytes, pd.DataFrame]:
    """Return images of every ordered pair of classes, uint8 (M, 28, 28), and what each is made of: a row an image.

    `images` uint8 (N, 28, 28), `masks` their foregrounds, `labels` uint8 (N,). The columns are those of COLUMNS but the
    last, with rows of `images` and classes as numbers. Equal for equal arguments. A class without a garment that holds
    a square is left out. Each pair has as many images, at most A_PAIR: fewer where the smallest class does not last.
    """
    squares = [_squares(image, mask) for image, mask in zip(images, masks, strict=True)]
    rng = np.random.default_rng(seed)
    outlined, textured = masks.any(axis=(1, 2)), np.array([len(places) > 0 for places in squares], bool)
    of = {k: rng.permutation(np.flatnonzero((labels == k) & outlined)) for k in range(len(CLASS_NAMES))}
    of = {k: rows for k, rows in of.items() if textured[rows].any()}
    enough = (min(textured[rows].sum(), len(rows) // 2) // len(of) for rows in of.values())
    each = max(1, min(A_PAIR, *enough)) if of else 0
    shapes, textures = {}, {}
    for k, rows in of.items():
        # Textures first: fewer images hold one. Where there are too few, they come again.
        textures[k] = np.resize(rows[textured[rows]], (len(of), each))
        others = np.setdiff1d(rows, textures[k])
        shapes[k] = np.resize(rng.permutation(others) if len(others) else rows, (len(of), each))
    table = pd.DataFrame(
        [
            (int(s), int(t), shape, texture)
            for i, shape in enumerate(of)
            for j, texture in enumerate(of)
            for s, t in zip(shapes[shape][j], textures[texture][i], strict=True)
        ],
        columns=list(COLUMNS)[:-1],
    )
    pixels = np.zeros((len(table), IMAGE_SIDE, IMAGE_SIDE), np.uint8)
    for place, (s, t) in enumerate(zip(table.shape_image, table.texture_image, strict=True)):
        row, column = squares[t][rng.integers(len(squares[t]))]
        pixels[place] = _continued(images[t, row : row + SIDE, column : column + SIDE], row, column) * masks[s]
    return pixels, table


def decisions(
    network: nn.Module, config: TrialConfig, pixels: Bytes, table: pd.DataFrame, precision: Precision
) -> pd.DataFrame:
    """Return `table`, as `conflicts` gives it, with classes by name and the class that the network takes each for."""
    codes = table[["shape_class", "texture_class"]].assign(predicted=predicted(network, config, pixels, precision))
    classes = {name: pd.Categorical.from_codes(of.to_numpy(), CLASS_NAMES, ordered=True) for name, of in codes.items()}
    return table.assign(**classes)


def _squares(image: Bytes, mask: Mask) -> npt.NDArray[np.int64]:
    """Return where squares may be taken from: the row and column of their first pixel, (places, 2)."""
    return np.argwhere(_fits(mask, SIDE + 2 * MARGIN, MARGIN) & _fits(image > 0, SIDE, 0))


def _fits(mask: Mask, side: int, before: int) -> Mask:
    """Return at which pixels a square fits that begins `before` pixels above and left; beyond the image is outside."""
    kernel, points = np.ones((side, side), np.uint8), mask.astype(np.uint8)
    eroded = cv2.erode(points, kernel, anchor=(before, before), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return np.asarray(eroded > 0)


def _continued(square: Bytes, row: int, column: int) -> Bytes:
    """Return the square where it was, reflected over the whole image."""
    around = [(start, IMAGE_SIDE - SIDE - start) for start in (row, column)]
    return np.pad(square, around, mode="symmetric")
