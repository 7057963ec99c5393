"""What a test image is like, whatever a network makes of it: silhouette, tone, texture, distance to training images.

Atypicality and distance are held against the class of the image's label: a wrong label makes both large.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.neighbors import NearestNeighbors

from study.data import SIDE, Bytes

Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.float64]

MARGIN = 2  # pixels: the outline raises the Laplacian of the first two, and no longer that of the third
NEIGHBOURS = 5
# 88 of 100 test images carry specks beside the garment, 99 of 100 of them darker than 10 in 255: traces of how the
# images were made. With them, `components` would count noise; 33 images have a second part that is brighter.
SPECK = 0.1  # of the image's brightest pixel

DESCRIPTORS = {
    "area": "share of the image's pixels in the foreground, in [0, 1]",
    "mask_agreement": "intersection over union of two foregrounds, by x > 0 and by Otsu's threshold, in [0, 1]",
    "contrast": "RMS contrast: standard deviation of the foreground's pixels in [0, 1]; in [0, 0.5]",
    "brightness": "mean of the foreground's pixels in [0, 1]",
    "texture": "mean squared Laplacian of the pixels in [0, 1], in the foreground eroded by 2 pixels; in [0, 16]",
    "atypicality": "1 - Ruzicka similarity of the foreground and its class's mean one; 0 typical, 1 nothing in common",
    "solidity": "area of the foreground over the area of its convex hull, in [0, 1]; 1 convex",
    "components": "connected components of x > 0 that reach a tenth of the image's brightest pixel",
    "neighbour_distance": "mean Euclidean distance to the 5 nearest training images of its class, pixels in [0, 1]; "
    "in [0, 28], a 28th of it is the RMS difference of a pixel",
}


def foreground(images: Bytes) -> Mask:
    """Where the garment is: `x > 0`, holes filled, the largest component; bool (N, 28, 28).

    `images`: uint8 (N, 28, 28), else ValueError. A black image has no foreground. Components touch at sides or
    corners; a hole is what the image's edge cannot be reached from by sides. So the inside of a handle or between two
    straps is foreground, as a black print must be.
    """
    _check_images("images", images)
    return np.array([_silhouette(image > 0) for image in images], bool).reshape(images.shape)


def describe(test_images: Bytes, test_labels: Bytes, train_images: Bytes, train_labels: Bytes) -> pd.DataFrame:
    """One row a test image, by its place `image`; the columns are DESCRIPTORS, `components` int64, else float64.

    Images uint8 (N, 28, 28), labels uint8 (N,). An image that is all black has no foreground: every value is 0,
    but for `atypicality`, 1, and `neighbour_distance`. A class with fewer than 5 training images takes all of them.
    Raises ValueError for another shape or type, and for a test image whose class has no training image.

    Otsu 1979, doi:10.1109/TSMC.1979.4310076, of the whole image. RMS contrast: Peli 1990, doi:10.1364/JOSAA.7.002032.
    Texture: the energy of the Laplacian (4 neighbours; Subbarao, Choi & Nikzad 1993, doi:10.1117/12.147706), in the
    foreground eroded by 2 pixels, or by 1 or none where more would leave nothing. Atypicality: Ruzicka 1958, Biologia
    13:647, similarity Σ min(a, b) / Σ max(a, b), the IoU where both are masks; b is the mean of the training
    foregrounds of the class.
    """
    for name, images, labels in (("test", test_images, test_labels), ("train", train_images, train_labels)):
        _check_images(f"{name}_images", images)
        if labels.dtype != np.uint8 or labels.shape != images.shape[:1]:
            raise ValueError(f"{name}_labels: got {labels.dtype} {labels.shape}, must be uint8 ({len(images)},)")
    if len(missing := np.setdiff1d(test_labels, train_labels)):
        raise ValueError(f"train_labels: got none of {missing.tolist()}, must have every class that test_labels has")

    masks = foreground(test_images)
    rows = [_measure(image, mask) for image, mask in zip(test_images, masks, strict=True)]
    frame = pd.DataFrame(rows, pd.RangeIndex(len(rows), name="image"), list(DESCRIPTORS), dtype=float)
    for label in np.unique(test_labels):
        tested, trained = test_labels == label, train_images[train_labels == label]
        frame.loc[tested, "atypicality"] = _atypicality(masks[tested], foreground(trained))
        frame.loc[tested, "neighbour_distance"] = _neighbour_distance(test_images[tested], trained)
    return frame.astype({"components": np.int64})


def _check_images(name: str, images: Bytes) -> None:
    if images.dtype != np.uint8 or images.shape[1:] != (SIDE, SIDE):
        raise ValueError(f"{name}: got {images.dtype} {images.shape}, must be uint8 (N, {SIDE}, {SIDE})")


def _silhouette(mask: Mask) -> Mask:
    """Holes filled, then the largest component; of equal ones the first from the top."""
    padded = np.pad(mask.astype(np.uint8), 1)
    cv2.floodFill(padded, None, (0, 0), 2)  # by sides
    filled = padded[1:-1, 1:-1] != 2
    _, labels, stats, _ = cv2.connectedComponentsWithStats(filled.astype(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    return np.asarray(labels == 1 + areas.argmax()) if len(areas) else filled


def _measure(image: Bytes, mask: Mask) -> dict[str, float]:
    """The descriptors of an image alone; `mask` is its foreground."""
    if not mask.any():
        return dict.fromkeys(DESCRIPTORS, 0)
    pixels = image[mask] / 255
    otsu = _silhouette(image > cv2.threshold(image, 0, 1, cv2.THRESH_OTSU)[0])
    laplacian = cv2.Laplacian(image, cv2.CV_16S) / 255
    points = mask.astype(np.uint8)
    hull = cv2.fillConvexPoly(np.zeros_like(points), cv2.convexHull(cv2.findNonZero(points)), 1)
    _, labels = cv2.connectedComponents((image > 0).astype(np.uint8), connectivity=8)
    return {
        "area": mask.mean(),
        "mask_agreement": (mask & otsu).sum() / (mask | otsu).sum(),
        "contrast": pixels.std(),
        "brightness": pixels.mean(),
        "texture": np.square(laplacian[_inside(mask)]).mean(),
        "solidity": mask.sum() / hull.sum(),
        "components": len(np.unique(labels[image >= SPECK * image.max()])),
    }


def _inside(mask: Mask) -> Mask:
    """The mask eroded by MARGIN pixels, by fewer where nothing else were left; beyond the image is outside."""
    depth = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_C, 3)[1:-1, 1:-1]  # 1 at the outline
    return np.asarray(depth > min(MARGIN, depth.max() - 1))


def _atypicality(masks: Mask, trained: Mask) -> Numbers:
    """1 - Ruzicka similarity of each mask (N, 28, 28) and the mean of the `trained` ones."""
    mean = trained.mean(0)
    shared, either = np.minimum(masks, mean).sum((1, 2)), np.maximum(masks, mean).sum((1, 2))
    return np.asarray(1 - shared / np.maximum(either, 1))  # below 1 only where the mask is empty, and nothing shared


def _neighbour_distance(images: Bytes, trained: Bytes) -> Numbers:
    search = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(trained)), algorithm="brute").fit(_flat(trained))
    return np.asarray(search.kneighbors(_flat(images))[0].mean(1) / 255)


def _flat(images: Bytes) -> Numbers:
    """(N, 784). Whole numbers, whose products and sums float64 holds exactly: no order of summation changes a bit."""
    return images.reshape(len(images), -1).astype(np.float64)
