"""The real data set: found, verified, split; and what is said of a copy that is not it."""

import dataclasses
import gzip
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.utils.data import random_split

from study import data
from study.data import CHECKSUMS, DataError, FashionMNIST, Splits

Index = npt.NDArray[np.int64]


def idx(array: data.Bytes) -> bytes:
    """An array in the IDX format: zero, zero, 8 for unsigned bytes, the number of dimensions, their sizes."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture(scope="module")
def unpacked(fashion_mnist: FashionMNIST, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The four files, not packed, written from the arrays."""
    folder = tmp_path_factory.mktemp("unpacked")
    for name, array in zip(CHECKSUMS, dataclasses.astuple(fashion_mnist), strict=True):
        (folder / name).write_bytes(idx(array))
    return folder


@pytest.fixture
def copy(unpacked: Path, tmp_path: Path) -> Path:
    """A folder of one's own, whose files lead to the unpacked ones: replace what is to be spoiled."""
    for name in CHECKSUMS:
        (tmp_path / name).symlink_to(unpacked / name)
    return tmp_path


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without the data set; returns where its cache would be."""
    monkeypatch.delenv(data.ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(data, "DEBIAN_FOLDER", tmp_path / "no-such-folder")
    return tmp_path / "cache" / "fashion-mnist"


def replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def equal(one: FashionMNIST | Splits, other: FashionMNIST | Splits) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(arrays(one), arrays(other), strict=True))


def arrays(value: FashionMNIST | Splits) -> list[npt.NDArray[np.generic]]:
    return list(value) if isinstance(value, tuple) else list(vars(value).values())


# The data set


def test_sizes_and_types(fashion_mnist: FashionMNIST) -> None:
    assert fashion_mnist.train_images.shape == (60_000, 28, 28)
    assert fashion_mnist.test_images.shape == (10_000, 28, 28)
    assert all(array.dtype == np.uint8 for array in arrays(fashion_mnist))


def test_classes_are_balanced(fashion_mnist: FashionMNIST) -> None:
    assert np.bincount(fashion_mnist.train_labels).tolist() == [6000] * 10
    assert np.bincount(fashion_mnist.test_labels).tolist() == [1000] * 10


def test_the_mean_and_deviation_that_the_second_source_normalises_with(fashion_mnist: FashionMNIST) -> None:
    assert fashion_mnist.train_images.mean() / 255 == pytest.approx(0.2860, abs=1e-4)
    assert fashion_mnist.train_images.std() / 255 == pytest.approx(0.3530, abs=1e-4)


def test_class_names_fit_the_labels(fashion_mnist: FashionMNIST) -> None:
    """A trouser is the narrowest of the garments, a bag covers the most, a boot stands taller than a sandal."""

    def rows(name: str) -> data.Bytes:
        return fashion_mnist.train_images[fashion_mnist.train_labels == data.CLASS_NAMES.index(name)] > 0

    widths = {name: rows(name).any(1).sum(1).mean() for name in data.CLASS_NAMES}
    heights = {name: rows(name).any(2).sum(1).mean() for name in data.CLASS_NAMES}
    assert min(widths, key=lambda name: widths[name]) == "Trouser"
    assert heights["Ankle boot"] > heights["Sandal"] > heights["Sneaker"]


# Finding and verifying


def test_unpacked_files_are_accepted(unpacked: Path, fashion_mnist: FashionMNIST) -> None:
    assert equal(data.load(unpacked), fashion_mnist)


def test_packed_and_unpacked_files_may_stand_together(copy: Path, fashion_mnist: FashionMNIST) -> None:
    for name in list(CHECKSUMS)[1:]:
        (copy / f"{name}.gz").write_bytes(gzip.compress((copy / name).read_bytes(), 1))
        (copy / name).unlink()
    assert equal(data.load(copy), fashion_mnist)


def test_the_environment_variable_is_honoured(
    unpacked: Path, nowhere: Path, monkeypatch: pytest.MonkeyPatch, fashion_mnist: FashionMNIST
) -> None:
    monkeypatch.setenv(data.ENVIRONMENT_VARIABLE, str(unpacked))
    assert equal(data.load(), fashion_mnist)
    assert not nowhere.exists()


def test_an_empty_environment_variable_names_nothing(
    unpacked: Path, nowhere: Path, monkeypatch: pytest.MonkeyPatch, fashion_mnist: FashionMNIST
) -> None:
    monkeypatch.setenv(data.ENVIRONMENT_VARIABLE, "")
    monkeypatch.setattr(data, "DEBIAN_FOLDER", unpacked)
    assert equal(data.load(), fashion_mnist)


def test_a_named_folder_goes_before_the_environment_variable(
    unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(data.ENVIRONMENT_VARIABLE, str(tmp_path / "wrong"))
    data.load(unpacked)
    with pytest.raises(DataError, match=r"^\$FASHION_MNIST_DIR: got .*wrong"):
        data.load()


@pytest.mark.parametrize("missing", CHECKSUMS)
def test_a_named_folder_without_all_files_is_an_error(copy: Path, missing: str) -> None:
    (copy / missing).unlink()
    got = f"--data-dir: got {copy} without {missing}, must be a folder with the IDX files "
    with pytest.raises(DataError, match=got):
        data.load(copy)


@pytest.mark.parametrize("place", ["FashionMNIST/raw", "raw"])
def test_a_folder_of_torchvisions_is_one(place: str, copy: Path, tmp_path: Path, fashion_mnist: FashionMNIST) -> None:
    (tmp_path / "root" / place).mkdir(parents=True)
    for name in CHECKSUMS:
        (copy / name).rename(tmp_path / "root" / place / name)
    assert equal(data.load(tmp_path / "root"), fashion_mnist)


def test_a_right_checksum_is_right_whatever_the_files_name(copy: Path, fashion_mnist: FashionMNIST) -> None:
    """As other publishers name them, plain under a packed one's name and packed under a plain one's, beside a wrong."""
    first, second, third, fourth = CHECKSUMS
    (copy / first).rename(copy / "train-images.idx3-ubyte")
    (copy / second).rename(copy / f"{second}.gz")
    replace(copy / third, gzip.compress((copy / third).read_bytes(), 1))
    (copy / fourth).rename(copy / f"{fourth}.gz")
    (copy / fourth).write_bytes(b"cut")
    assert equal(data.load(copy), fashion_mnist)


@pytest.mark.parametrize("name", CHECKSUMS)
@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content[:-1],
        lambda content: content[:1000] + bytes([content[1000] ^ 1]) + content[1001:],
        lambda content: b"",
    ],
    ids=["cut", "one bit", "empty"],
)
def test_a_spoiled_file_is_named(copy: Path, name: str, spoil: Callable[[bytes], bytes]) -> None:
    replace(copy / name, spoil((copy / name).read_bytes()))
    with pytest.raises(DataError, match=f"^{copy / name}: got SHA-256 [0-9a-f]{{64}}, must be {CHECKSUMS[name]}"):
        data.load(copy)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda packed: packed[:-20],
        lambda packed: packed[:3000] + b"\xff" * 40 + packed[3040:],
        lambda packed: b"<html>not found</html>",
        lambda packed: packed[:-8] + b"\x00" * 8,
    ],
    ids=["cut", "garbled", "a web page", "wrong sum"],
)
def test_a_spoiled_packed_file_is_named(copy: Path, spoil: Callable[[bytes], bytes]) -> None:
    path = copy / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(spoil(gzip.compress((copy / path.stem).read_bytes(), 1)))
    (copy / path.stem).unlink()
    with pytest.raises(DataError, match=f"^{path}: got .*, must be "):
        data.load(copy)


# Fetching


def test_when_nothing_can_be_fetched_the_message_says_everything_that_was_tried(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "_from_torchvision", lambda cache: "download by torchvision: no route to host")
    monkeypatch.setattr(data, "_from_debian", lambda cache: "package: this machine has no apt-get")
    with pytest.raises(DataError) as caught:
        data.load()
    for part in ("no route to host", "no apt-get", data.DEBIAN_PACKAGE, "--data-dir"):
        assert part in str(caught.value)
    assert not nowhere.exists()


def test_a_server_that_says_nothing_is_not_waited_for(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(data, "SILENT_S", 0.1)
    monkeypatch.setenv("PATH", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as server:
        mirror = f"http://127.0.0.1:{server.getsockname()[1]}/"
        monkeypatch.setattr("torchvision.datasets.FashionMNIST.mirrors", [mirror])
        with pytest.raises(DataError, match=r"download by torchvision: .*timed out"):
            data.load()
    assert socket.getdefaulttimeout() is None
    assert "fetching it" in capsys.readouterr().err


def test_without_apt_the_package_is_not_tried(nowhere: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(data, "_from_torchvision", lambda cache: "download by torchvision: no route to host")
    with pytest.raises(DataError, match="this machine has no apt-get"):
        data.load()


def test_what_was_fetched_is_adopted_once_and_then_found(
    unpacked: Path, nowhere: Path, monkeypatch: pytest.MonkeyPatch, fashion_mnist: FashionMNIST
) -> None:
    calls: list[str] = []

    def fetch(cache: Path) -> None:
        calls.append("torchvision")
        data._adopt(unpacked, cache)

    monkeypatch.setattr(data, "_from_torchvision", fetch)
    monkeypatch.setattr(data, "_from_debian", lambda cache: calls.append("debian"))
    assert equal(data.load(), fashion_mnist)
    assert sorted(path.name for path in nowhere.iterdir()) == sorted(CHECKSUMS)
    assert equal(data.load(), fashion_mnist)
    assert calls == ["torchvision"]  # the package is for where the download failed


def test_where_nothing_can_be_kept_it_is_fetched_for_this_run_alone(
    unpacked: Path, nowhere: Path, monkeypatch: pytest.MonkeyPatch, fashion_mnist: FashionMNIST,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    nowhere.parent.touch()  # a file where the folder of all caches would be
    monkeypatch.setattr(data, "_from_torchvision", lambda folder: data._adopt(unpacked, folder))
    assert equal(data.load(), fashion_mnist)
    assert "not kept for later runs: [Errno 20] Not a directory" in capsys.readouterr().err


def test_what_was_fetched_and_is_spoiled_is_not_kept(
    copy: Path, nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace(copy / "t10k-labels-idx1-ubyte", b"<html>not found</html>")
    monkeypatch.setattr(data, "_from_torchvision", lambda folder: data._adopt(copy, folder))
    with pytest.raises(DataError, match=r"must be .+; fetch it again$"):
        data.load()
    assert not nowhere.exists()


def test_half_of_what_must_be_fetched_is_not_adopted(copy: Path, nowhere: Path) -> None:
    last = list(CHECKSUMS)[-1]
    (copy / last).unlink()
    with pytest.raises(OSError, match=f"no {last}"):
        data._adopt(copy, nowhere)
    assert data._lacking(nowhere) == [last]


# Splits


@pytest.fixture(scope="module")
def numbered(fashion_mnist: FashionMNIST) -> FashionMNIST:
    """The real labels; each image is its own number in four bytes, so that a split tells which images it took."""
    train, test = (np.arange(n, dtype=np.uint32).view(np.uint8).reshape(n, 2, 2) for n in (60_000, 10_000))
    return dataclasses.replace(fashion_mnist, train_images=train, test_images=test)


def numbers(images: data.Bytes) -> Index:
    return np.ascontiguousarray(images).reshape(-1).view(np.uint32).astype(np.int64)


@pytest.mark.parametrize(("train", "validation"), [(50_000, 10_000), (54_000, 6_000)])
def test_the_full_splits_part_the_training_images(numbered: FashionMNIST, train: int, validation: int) -> None:
    splits = data.split(numbered, train, validation, 10_000, seed=42)
    first, second = numbers(splits.train_images), numbers(splits.val_images)
    assert np.array_equal(np.sort(np.concatenate((first, second))), np.arange(60_000))
    assert np.bincount(splits.train_labels).tolist() == [train // 10] * 10
    assert np.bincount(splits.val_labels).tolist() == [validation // 10] * 10
    assert np.array_equal(splits.train_labels, numbered.train_labels[first])
    assert np.array_equal(splits.val_labels, numbered.train_labels[second])


def test_the_whole_test_set_keeps_its_order(fashion_mnist: FashionMNIST) -> None:
    splits = data.split(fashion_mnist, 100, 100, 10_000, seed=3)
    assert np.array_equal(splits.test_index, np.arange(10_000))
    assert np.array_equal(splits.test_images, fashion_mnist.test_images)
    assert np.array_equal(splits.test_labels, fashion_mnist.test_labels)


@pytest.mark.parametrize(("train", "validation"), [(54_000, 6_000), (540, 60)])
def test_the_second_sources_split_is_that_of_torch(numbered: FashionMNIST, train: int, validation: int) -> None:
    """Of a share of it, the first images of each part."""
    first, second = random_split(range(60_000), [54_000, 6_000], torch.Generator().manual_seed(42))  # type: ignore[arg-type]
    splits = data.split(numbered, train, validation, 10_000, 42, stratified=False)
    assert numbers(splits.train_images).tolist() == list(first)[:train]
    assert len(splits.val_labels) == validation
    if train == 54_000:
        assert numbers(splits.val_images).tolist() == list(second)
    assert not set(numbers(splits.train_images)) & set(numbers(splits.val_images))


def test_parts_are_stratified_and_apart(numbered: FashionMNIST) -> None:
    splits = data.split(numbered, 1234, 333, 457, seed=0)
    first, second = numbers(splits.train_images), numbers(splits.val_images)
    assert len(set(first) | set(second)) == 1234 + 333
    for labels, size in ((splits.train_labels, 1234), (splits.val_labels, 333), (splits.test_labels, 457)):
        counts = np.bincount(labels, minlength=10)
        assert counts.sum() == size
        assert np.ptp(counts) <= 2
    assert np.array_equal(splits.train_labels, numbered.train_labels[first])
    assert np.array_equal(splits.val_labels, numbered.train_labels[second])


def test_part_of_the_test_set_stays_aligned_with_its_index(fashion_mnist: FashionMNIST) -> None:
    splits = data.split(fashion_mnist, 100, 100, 500, seed=1)
    assert len(splits.test_index) == 500
    assert (np.diff(splits.test_index) > 0).all()  # the published order, nothing twice
    assert np.array_equal(splits.test_images, fashion_mnist.test_images[splits.test_index])
    assert np.array_equal(splits.test_labels, fashion_mnist.test_labels[splits.test_index])


def test_the_training_part_is_mixed(numbered: FashionMNIST) -> None:
    """Neither in the published order nor by class: a prefix of it is a sample."""
    splits = data.split(numbered, 5000, 1000, 1000, seed=0)
    assert (np.diff(numbers(splits.train_images)) < 0).mean() > 0.4
    assert np.bincount(splits.train_labels[:500], minlength=10).min() > 25


def test_same_seed_same_split_another_seed_another(numbered: FashionMNIST) -> None:
    first, again, other = (data.split(numbered, 500, 300, 200, seed=seed) for seed in (7, 7, 8))
    assert equal(first, again)
    for one, another in zip(first, other, strict=True):
        assert not np.array_equal(one, another)


def test_a_split_is_pinned(numbered: FashionMNIST) -> None:
    """The same images on every machine: these numbers change only if a study would be judged on other images."""
    splits = data.split(numbered, 50_000, 10_000, 100, seed=0)
    assert numbers(splits.train_images)[:4].tolist() == [14672, 40351, 31903, 35695]
    assert numbers(splits.val_images)[:4].tolist() == [8312, 11528, 36855, 28640]
    assert splits.test_index[:4].tolist() == [123, 144, 261, 264]


@pytest.mark.parametrize("sizes", [(55_000, 6_000, 10_000), (9, 100, 100), (100, 9, 100), (100, 100, 10_001)])
def test_sizes_that_do_not_fit(fashion_mnist: FashionMNIST, sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"split: got .*, must be "):
        data.split(fashion_mnist, *sizes, seed=0)
