"""Small pictures as PNG: test images, signed maps over them, and many images on one sheet."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import cv2
import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image

from study.data import SIDE, Bytes

SCALE = 3  # screen pixels an image pixel, of maps: room for a thin outline
COLOURS = 48  # of a map's palette: a thousand maps must fit on a page
DIVERGING = "PuOr_r"  # told apart by all kinds of colour vision; white is no evidence, orange speaks for the class
ACROSS = 40  # images in a row of a sheet


def photo(image: Bytes) -> bytes:
    """A test image, uint8 (28, 28)."""
    return _png(Image.fromarray(image))


def signed_map(values: npt.NDArray[np.floating], limit: float, mask: npt.NDArray[np.bool_]) -> bytes:
    """A map (28, 28) in diverging colours from -limit to limit, under the outline of the garment."""
    scaled = np.clip(values.reshape(SIDE, SIDE) / limit, -1, 1) / 2 + 0.5 if limit > 0 else np.full((SIDE, SIDE), 0.5)
    large = cv2.resize(scaled.astype(np.float32), None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_LINEAR)
    coloured = (255 * matplotlib.colormaps[DIVERGING](large)[..., :3]).astype(np.uint8)
    outline = cv2.resize(mask.astype(np.uint8), None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_NEAREST)
    edges, _ = cv2.findContours(outline, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(coloured, edges, -1, (60, 60, 60), 1)
    return _png(Image.fromarray(coloured).quantize(COLOURS))


def sheet(images: Sequence[Bytes]) -> bytes:
    """Images uint8 (28, 28) row by row, ACROSS in each."""
    rows = max(1, -(-len(images) // ACROSS))
    paper = np.zeros((rows * SIDE, ACROSS * SIDE), np.uint8)
    for place, image in enumerate(images):
        row, column = divmod(place, ACROSS)
        paper[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE] = image
    return _png(Image.fromarray(paper))


def _png(picture: Image.Image) -> bytes:
    out = BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()
