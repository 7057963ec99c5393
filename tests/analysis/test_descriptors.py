"""Descriptors of images drawn by hand, whose values are known, and the laws that those of real images obey."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage
from scipy.spatial.distance import cdist

from analysis.descriptors import DESCRIPTORS, describe, foreground
from study.data import Bytes, FashionMNIST, Splits

ALL = np.ones((3, 3))  # a pixel and its eight neighbours


def canvas(*boxes: tuple[int, int, int, int], value: int = 200) -> Bytes:
    """A black image with boxes: top, bottom, left, right, the ends excluded."""
    image = np.zeros((28, 28), np.uint8)
    for top, bottom, left, right in boxes:
        image[top:bottom, left:right] = value
    return image


SQUARE = canvas((4, 18, 6, 20))  # 14 × 14
BLACK = canvas()


def one(image: Bytes, *trained: Bytes) -> pd.Series:
    """The descriptors of an image; it is its own class's only training image where none are given."""
    train = np.stack(trained or (image,))
    return describe(image[None], np.zeros(1, np.uint8), train, np.zeros(len(train), np.uint8)).loc[0]


def chessboard(low: int, high: int) -> Bytes:
    image = SQUARE.copy()
    image[4:18, 6:20] = np.where(np.indices((14, 14)).sum(0) % 2, high, low)
    return image


@pytest.fixture(scope="module")
def described(small_splits: Splits) -> pd.DataFrame:
    return describe(*small_splits[4:6], *small_splits[:2])


# The foreground


def test_a_ring_is_filled() -> None:
    ring = SQUARE.copy()
    ring[8:14, 10:16] = 0
    assert np.array_equal(foreground(ring[None])[0], SQUARE > 0)


def test_a_bay_is_not_filled_even_where_it_reaches_the_edge() -> None:
    arch = canvas((10, 28, 5, 10), (10, 28, 18, 23), (10, 14, 5, 23))
    assert np.array_equal(foreground(arch[None])[0], arch > 0)


def test_a_hole_closed_only_at_corners_is_filled_and_parts_that_touch_there_are_one() -> None:
    diamond = canvas((5, 6, 6, 7), (6, 7, 5, 6), (6, 7, 7, 8), (7, 8, 6, 7))
    assert foreground(diamond[None]).sum() == 5


def test_the_largest_part_counts_its_filled_hole() -> None:
    frame = canvas((2, 12, 2, 12))
    frame[3:11, 3:11] = 0  # 36 pixels, 100 with its hole
    both = frame | canvas((16, 24, 16, 24))  # 64 pixels
    assert np.array_equal(foreground(both[None])[0], canvas((2, 12, 2, 12)) > 0)


def test_foregrounds_are_scipys(small_splits: Splits) -> None:
    for image, mask in zip(small_splits.test_images, foreground(small_splits.test_images), strict=True):
        labels, _ = ndimage.label(ndimage.binary_fill_holes(image > 0), ALL)
        assert np.array_equal(mask, labels == np.bincount(labels[labels > 0]).argmax())


def test_no_image_has_no_foreground() -> None:
    assert foreground(np.zeros((0, 28, 28), np.uint8)).shape == (0, 28, 28)


# Known values


def test_a_square() -> None:
    found = one(SQUARE)
    assert found.area == 14 * 14 / 784
    assert found.brightness == pytest.approx(200 / 255)
    assert (found.mask_agreement, found.solidity, found.components) == (1, 1, 1)
    assert (found.texture, found.atypicality, found.neighbour_distance) == (0, 0, 0)
    assert found.contrast == pytest.approx(0, abs=1e-12)


def test_two_parts_are_counted_and_the_larger_is_measured() -> None:
    found = one(canvas((2, 12, 2, 12)) | canvas((16, 24, 16, 24), value=100))
    assert found.components == 2
    assert found.area == 100 / 784
    assert found.brightness == pytest.approx(200 / 255)


@pytest.mark.parametrize(("speck", "components"), [(1, 1), (19, 1), (20, 2)])
def test_specks_darker_than_a_tenth_of_the_brightest_pixel_are_no_parts(speck: int, components: int) -> None:
    assert one(SQUARE | canvas((23, 26, 23, 26), value=speck)).components == components


def test_agreement_drops_where_a_part_is_dark() -> None:
    dark_half = canvas((4, 18, 6, 13)) | canvas((4, 18, 13, 20), value=20)
    assert one(dark_half).mask_agreement == 0.5


def test_rms_contrast_of_two_tones_is_half_their_difference() -> None:
    assert one(chessboard(100, 151)).contrast == pytest.approx(0.1)


def test_texture_of_a_chessboard() -> None:
    # each Laplacian inside is ±4 × the difference
    assert one(chessboard(100, 151)).texture == pytest.approx((4 * 0.2) ** 2)


def test_the_outline_is_no_texture() -> None:
    fringed = np.maximum(SQUARE, canvas((3, 19, 5, 21), value=90))
    assert one(fringed).texture == 0
    assert one(np.maximum(fringed, canvas((10, 11, 12, 13), value=255))).texture > 0


@pytest.mark.parametrize(("width", "columns"), [(1, [6]), (2, [6, 7]), (3, [7]), (4, [7, 8]), (5, [8])])
def test_texture_of_thin_shapes_is_that_of_their_middle(width: int, columns: list[int]) -> None:
    strip = canvas((4, 24, 6, 6 + width))
    strip[strip > 0] = np.random.default_rng(0).integers(50, 250, (strip > 0).sum())
    margin = (width - 1) // 2
    expected = ndimage.laplace(strip / 255)[4 + margin : 24 - margin, columns]
    assert one(strip).texture == pytest.approx(np.square(expected).mean())


def test_texture_is_scipys(small_splits: Splits, described: pd.DataFrame) -> None:
    images = small_splits.test_images
    for image, mask, texture in zip(images, foreground(images), described.texture, strict=True):
        inside = ndimage.binary_erosion(mask, ALL, iterations=2)
        if inside.any():
            assert texture == pytest.approx(np.square(ndimage.laplace(image / 255)[inside]).mean())


def test_solidity_of_an_l() -> None:
    corner = canvas((4, 24, 4, 8), (20, 24, 4, 24))  # arms 20 long, 4 wide: the hull lacks half of 16 × 16
    assert one(corner).solidity == pytest.approx((20 * 20 - 16 * 16) / (20 * 20 - 16 * 16 / 2), abs=0.03)


def test_atypicality_is_one_minus_the_ruzicka_similarity() -> None:
    left, right = canvas((4, 14, 2, 12)), canvas((4, 14, 12, 22))
    # the mean mask is 0.5 on 200 pixels, of which `left` covers 100
    assert one(left, left, right).atypicality == pytest.approx(1 - 50 / 150)
    assert one(left, left, left).atypicality == 0
    assert one(left, right).atypicality == 1


def test_neighbour_distance_is_scipys(small_splits: Splits, described: pd.DataFrame) -> None:
    for label in range(10):
        tested, trained = small_splits.test_labels == label, small_splits.train_labels == label
        apart = cdist(small_splits.test_images[tested].reshape(-1, 784) / 255,
                      small_splits.train_images[trained].reshape(-1, 784) / 255)  # fmt: skip
        expected = np.sort(apart)[:, :5].mean(1)
        assert described.neighbour_distance[tested].to_numpy() == pytest.approx(expected, rel=1e-9)


def test_distance_is_to_the_nearest_of_its_class_only() -> None:
    far = canvas((4, 18, 6, 20), value=149)  # 14 × 0.2 away
    images = np.stack([far, SQUARE, *[canvas(value=0)] * 9])
    labels = np.array([0, 1] + [0] * 9, np.uint8)
    found = describe(SQUARE[None], np.zeros(1, np.uint8), images, labels).neighbour_distance[0]
    assert found == pytest.approx((14 * 0.2 + 4 * 14 * 200 / 255) / 5)


# Images without a foreground, or all of it


def test_a_black_image_has_no_foreground() -> None:
    found = one(BLACK, SQUARE)
    assert found.drop(["atypicality", "neighbour_distance"]).eq(0).all()
    assert found.atypicality == 1
    assert found.neighbour_distance == pytest.approx(14 * 200 / 255)
    assert one(BLACK).atypicality == 1


@pytest.mark.parametrize("value", [1, 255])
def test_an_image_of_one_value_is_all_foreground(value: int) -> None:
    found = one(np.full((28, 28), value, np.uint8))
    assert (found.area, found.mask_agreement, found.solidity, found.components) == (1, 1, 1, 1)
    assert (found.contrast, found.texture, found.atypicality) == (0, 0, 0)


# Laws


def test_columns_types_and_index(described: pd.DataFrame, small_splits: Splits) -> None:
    assert list(described) == list(DESCRIPTORS)
    assert described.index.name == "image"
    assert described.index.tolist() == list(range(200))
    assert described.components.dtype == np.int64
    assert (described.drop(columns="components").dtypes == np.float64).all()


def test_values_keep_the_bounds_they_declare(described: pd.DataFrame) -> None:
    assert described.notna().all(axis=None)
    shares = described[["area", "mask_agreement", "brightness", "atypicality", "solidity"]]
    assert ((shares > 0) & (shares <= 1)).all(axis=None)
    assert described.contrast.between(0, 0.5).all()
    assert described.components.between(1, 5).all()
    assert described.neighbour_distance.between(0, 28, inclusive="neither").all()


def test_an_image_is_described_alike_in_any_company(small_splits: Splits, described: pd.DataFrame) -> None:
    train_images, train_labels, _, _, images, labels, _ = small_splits
    some, order = np.arange(199, 150, -1), np.random.default_rng(0).permutation(len(train_labels))
    found = describe(images[some], labels[some], train_images[order], train_labels[order])
    pd.testing.assert_frame_equal(
        found, described.loc[some].reset_index(drop=True).rename_axis("image"), check_exact=True
    )


def test_halving_the_pixels_halves_the_contrast_and_keeps_the_shape(fashion_mnist: FashionMNIST) -> None:
    even = fashion_mnist.test_images[:100] // 2 * 2
    labels, train = (
        fashion_mnist.test_labels[:100],
        (fashion_mnist.train_images[:300], fashion_mnist.train_labels[:300]),
    )
    full, half = (describe(images, labels, *train) for images in (even, even // 2))
    for name, factor in {"contrast": 2, "brightness": 2, "texture": 4}.items():
        assert full[name].to_numpy() == pytest.approx(factor * half[name].to_numpy())
    same = ["area", "solidity", "atypicality", "components"]
    pd.testing.assert_frame_equal(full[same], half[same])


def test_mirrored_images_have_the_same_tone_and_texture(small_splits: Splits, described: pd.DataFrame) -> None:
    train_images, train_labels, _, _, images, labels, _ = small_splits
    found = describe(images[:, :, ::-1], labels, train_images[:, :, ::-1], train_labels)
    same = described.columns.drop("solidity")  # the hull's slanted sides are drawn a little differently
    pd.testing.assert_frame_equal(found[same], described[same])


def test_classes_differ_as_garments_do(described: pd.DataFrame, small_splits: Splits) -> None:
    """A pair of trousers covers less than a coat; sandals vary most, and are the least convex."""
    by_class = described.groupby(small_splits.test_labels).median()
    assert by_class.area[1] < by_class.area[4]
    assert by_class.atypicality.idxmax() == 5
    assert by_class.solidity.idxmin() == 5


def test_a_copy_among_the_training_images_brings_the_neighbours_nearer(
    small_splits: Splits, described: pd.DataFrame
) -> None:
    images, labels = small_splits.test_images, small_splits.test_labels
    more = np.concatenate([small_splits.train_images, images[:1]])
    found = describe(images, labels, more, np.concatenate([small_splits.train_labels, labels[:1]]))
    assert found.neighbour_distance[0] < described.neighbour_distance[0]
    assert (found.neighbour_distance <= described.neighbour_distance).all()


# Errors


@pytest.mark.parametrize(
    ("place", "change", "message"),
    [
        (0, lambda images: images / 255, r"^test_images: got float64 \(3, 28, 28\), must be uint8 \(N, 28, 28\)"),
        (0, lambda images: images[0], r"^test_images: got uint8 \(28, 28\), must be"),
        (2, lambda images: images[:, None], r"^train_images: got uint8 \(3, 1, 28, 28\), must be"),
        (1, lambda labels: labels[:2], r"^test_labels: got uint8 \(2,\), must be uint8 \(3,\)"),
        (3, lambda labels: labels.astype(np.int64), r"^train_labels: got int64 \(3,\), must be uint8 \(3,\)"),
        (1, lambda labels: labels + 7, r"^train_labels: got none of \[7, 8, 9\], must have every class"),
    ],
)
def test_errors(place: int, change: Callable[[Bytes], Bytes], message: str) -> None:
    images, labels = np.stack([SQUARE] * 3), np.arange(3, dtype=np.uint8)
    given = [images, labels, images, labels]
    given[place] = change(given[place])
    with pytest.raises(ValueError, match=message):
        describe(*given)


def test_foreground_refuses_normalised_images() -> None:
    with pytest.raises(ValueError, match=r"^images: got float32"):
        foreground(np.zeros((1, 28, 28), np.float32))  # type: ignore[arg-type]
