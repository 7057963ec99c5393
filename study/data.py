"""Fashion-MNIST: find it or fetch it, verify it, split it once for a whole study.

Xiao, Rasul & Vollgraf 2017, "Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms",
arXiv:1708.07747: 60,000 training and 10,000 test images of 28×28 pixels, ten balanced classes.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from study.files import write_whole

Bytes = npt.NDArray[np.uint8]

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
DEBIAN_PACKAGE = "dataset-fashion-mnist"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
ENVIRONMENT_VARIABLE = "FASHION_MNIST_DIR"
SIDE = 28
SILENT_S = 30.0  # that a download may say nothing
PLACES = (".", "FashionMNIST/raw", "raw")  # in a folder that is named: the last two are torchvision's
PACKED = b"\x1f\x8b"  # how a gzip file begins, whatever its name: browsers unpack, and keep the name

# SHA-256 of the unpacked content: distributions pack the same bytes differently.
CHECKSUMS = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


class DataError(RuntimeError):
    """The data set cannot be had, or is not what it must be; the message says which file, and the way on."""


@dataclass(frozen=True)
class FashionMNIST:
    """The data set as published: images uint8 (60000 or 10000, 28, 28), labels uint8, 0–9."""

    train_images: Bytes
    train_labels: Bytes
    test_images: Bytes
    test_labels: Bytes


class Splits(NamedTuple):
    """What every trial of a study works on: images uint8 (N, 28, 28), labels uint8 (N,).

    A tuple of plain arrays, so that Ray hands it to each worker out of shared memory, without a copy.
    """

    train_images: Bytes
    train_labels: Bytes
    val_images: Bytes
    val_labels: Bytes
    test_images: Bytes
    test_labels: Bytes
    test_index: npt.NDArray[np.int64]  # where each test image stands in the published test set


def load(data_dir: Path | None = None) -> FashionMNIST:
    """Find, or else fetch, and verify the data set.

    Looked for in `data_dir`, in $FASHION_MNIST_DIR, in the cache and in Debian's folder, as IDX files, packed with
    gzip or not. A place that was named (argument or variable) and does not hold it is an error; else it is
    downloaded by torchvision, else taken out of Debian's package, and kept in the cache where that can be written.
    Raises DataError.
    """
    named = data_dir or (Path(os.environ[ENVIRONMENT_VARIABLE]) if os.environ.get(ENVIRONMENT_VARIABLE) else None)
    if named is not None:
        if lacking := _lacking(named):
            origin = "--data-dir" if data_dir else f"${ENVIRONMENT_VARIABLE}"
            got = f"{named} without {', '.join(lacking)}" if os.path.isdir(named) else f"{named}, which is no folder"
            must = f"a folder with the IDX files {', '.join(CHECKSUMS)}, in it or in FashionMNIST/raw, packed or not"
            raise DataError(f"{origin}: got {got}, must be {must}; without it they are looked for, or fetched")
        return _read(named, "put back the published one")
    cache = _cache()
    for folder in (cache, DEBIAN_FOLDER):
        if not _lacking(folder):
            return _read(folder)
    with tempfile.TemporaryDirectory() as temporary:
        _fetch(Path(temporary))
        found = _read(Path(temporary), "fetch it again")
        try:
            _adopt(Path(temporary), cache)
        except OSError as error:
            print(f"Fashion-MNIST is not kept for later runs: {error}. See --data-dir", file=sys.stderr)
    return found


def _fetch(folder: Path) -> None:
    """Put the four files into the folder. Raises DataError."""
    problems = []
    print("Fashion-MNIST is not on this machine: fetching it, 30 MiB", file=sys.stderr)
    for fetch in (_from_torchvision, _from_debian):
        problem = fetch(folder)
        if problem is None:
            break
        problems.append(problem)
    if _lacking(folder):
        raise DataError(
            "Fashion-MNIST: not found and not fetched:\n  "
            + "\n  ".join(problems)
            + f"\n  Install the package {DEBIAN_PACKAGE}, or name a folder that holds it with --data-dir."
        )


def split(data: FashionMNIST, train: int, validation: int, test: int, seed: int, stratified: bool = True) -> Splits:
    """Return parts of the given sizes: `train` + `validation` out of the training images, `test` out of the test.

    Parts are stratified by class. With `stratified` false, training and validation images are those of torch's
    `random_split` of all 60,000, with a generator of this seed, or the first `train` + `validation` of these.

    The same sizes and `seed` give the same images in the same order on every machine. `test` = 10,000 keeps the
    published order, so that a row of `predictions` is that test image. Raises ValueError where the sizes do not fit.
    """
    if not (train >= 10 and validation >= 10 and train + validation <= len(data.train_labels)):
        raise ValueError(f"split: got {train} + {validation}, must be at least 10 each and 60,000 together at most")
    for rest in (len(data.train_labels) - train - validation, len(data.test_labels) - test):
        if 0 < rest < 10:  # what is left out is stratified too
            raise ValueError(f"split: got sizes that leave {rest} images out, must leave none or at least 10")
    if not 10 <= test <= len(data.test_labels):
        raise ValueError(f"split: got {test} test images, must be 10 to 10,000")
    from sklearn.model_selection import train_test_split  # here, for workers import this module and never split

    if stratified:
        kept = _stratified(data.train_labels, train + validation, seed)
        first, second = train_test_split(
            kept, train_size=train, test_size=validation, stratify=data.train_labels[kept], random_state=seed
        )
    else:
        import torch

        order = torch.randperm(len(data.train_labels), generator=torch.Generator().manual_seed(seed)).numpy()
        first, second = order[:train], order[train : train + validation]
    tested = np.sort(_stratified(data.test_labels, test, seed))
    return Splits(
        data.train_images[first],
        data.train_labels[first],
        data.train_images[second],
        data.train_labels[second],
        data.test_images[tested],
        data.test_labels[tested],
        tested,
    )


def _stratified(labels: Bytes, count: int, seed: int) -> npt.NDArray[np.int64]:
    from sklearn.model_selection import train_test_split

    indices = np.arange(len(labels))
    if count == len(labels):
        return indices
    chosen, _ = train_test_split(indices, train_size=count, stratify=labels, random_state=seed)
    return np.asarray(chosen)


def user_cache() -> Path:
    """Return the folder of this user's caches."""
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(base) if base else Path.home() / ".cache"


def _cache() -> Path:
    return user_cache() / "fashion-mnist"


def _lacking(folder: Path) -> list[str]:
    """Return the names of the files that are not in the folder."""
    return [name for name in CHECKSUMS if not _find(folder, name)]


def _find(folder: Path, name: str) -> list[Path]:
    """Return the files of a folder that may be the one of that name, packed or not."""
    names = (name, f"{name}.gz", name.replace("-idx", ".idx"), f"{name.replace('-idx', '.idx')}.gz")
    paths = [folder / at / known for at in PLACES for known in names]
    return [path for path in paths if os.path.isfile(path)]  # False too where the folder cannot be read


def _read(folder: Path, way_on: str = "delete it to fetch it again") -> FashionMNIST:
    """Return the arrays of the files in a folder that lacks none. Raises DataError where none has the right bytes."""
    arrays = []
    for name, expected in CHECKSUMS.items():
        problems = []
        for path in _find(folder, name):
            try:
                content = path.read_bytes()
                content = gzip.decompress(content) if content.startswith(PACKED) else content
            except (OSError, EOFError, ValueError, zlib.error) as error:
                problems.append(f"{path}: got {error}, must be a readable IDX file; {way_on}")
                continue
            found = hashlib.sha256(content).hexdigest()
            if found == expected:
                break
            problems.append(f"{path}: got SHA-256 {found}, must be {expected}; {way_on}")
        else:
            raise DataError(problems[0])
        dimensions = content[3]
        array = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
        arrays.append(array.reshape(-1, SIDE, SIDE) if dimensions == 3 else array)
    return FashionMNIST(*arrays)


def _from_torchvision(cache: Path) -> str | None:
    """Download into the cache; returns what went wrong, or None."""
    from torchvision.datasets import FashionMNIST as Published

    patience = socket.getdefaulttimeout()
    with tempfile.TemporaryDirectory() as temporary:
        try:
            socket.setdefaulttimeout(SILENT_S)  # torchvision sets none
            Published(temporary, download=True)
            _adopt(Path(temporary, "FashionMNIST", "raw"), cache)
        except (OSError, RuntimeError, ValueError) as error:
            return f"download by torchvision: {(str(error).strip().splitlines() or [repr(error)])[-1]}"
        finally:
            socket.setdefaulttimeout(patience)
    return None


def _from_debian(cache: Path) -> str | None:
    """Fetch Debian's package and unpack it into the cache, which needs no root; returns what went wrong, or None."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return f"package {DEBIAN_PACKAGE}: this machine has no apt-get"
    with tempfile.TemporaryDirectory() as temporary:
        os.chmod(temporary, 0o755)  # apt fetches as a user of its own
        try:
            if _run(["apt-get", "download", "-q", DEBIAN_PACKAGE], temporary):
                _run(["apt-get", "update", "-q"], temporary)
                if problem := _run(["apt-get", "download", "-q", DEBIAN_PACKAGE], temporary):
                    return f"package {DEBIAN_PACKAGE}: {problem}"
            for package in Path(temporary).glob("*.deb"):
                if problem := _run(["dpkg-deb", "-x", str(package), temporary], temporary):
                    return f"package {DEBIAN_PACKAGE}: {problem}"
            _adopt(Path(temporary, *DEBIAN_FOLDER.parts[1:]), cache)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"package {DEBIAN_PACKAGE}: {error}"
    return None


def _run(command: list[str], folder: str) -> str | None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["failed"])[-1]


def _adopt(source: Path, cache: Path) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    for name in CHECKSUMS:
        if not (found := _find(source, name)):
            raise OSError(f"no {name} in what was fetched")
        write_whole(cache / found[0].name, found[0].read_bytes())
