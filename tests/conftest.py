"""Fixtures that every room shares: the real data, and one core."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from analysis import plotting  # noqa: F401  before a test imports matplotlib
from study import data, speeds
from study.data import FashionMNIST, Splits


def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Mark what needs Ray: it starts once for all of it, while another process runs the rest."""
    for item in items:
        if "ray_cluster" in item.fixturenames:
            item.add_marker("ray")


@pytest.fixture(scope="session")
def fashion_mnist() -> FashionMNIST:
    """Fashion-MNIST as published, found or fetched as the study does it."""
    return data.load()


@pytest.fixture(scope="session")
def small_splits(fashion_mnist: FashionMNIST) -> Splits:
    """400 training, 150 validation and 200 test images, read-only as out of Ray's object store."""
    splits = data.split(fashion_mnist, 400, 150, 200, seed=0)
    for array in splits:
        array.flags.writeable = False
    return splits


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread, which is fastest for tiny networks; the number before comes back."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def own_speeds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests measure is kept apart from what this user's studies have measured."""
    path = tmp_path_factory.mktemp("cache") / "speeds.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speeds, "of_this_user", lambda: speeds.KnownSpeeds(path))
        yield


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Ray as a study starts it, once for all tests that need it."""
    from study import cluster

    with cluster.running(dashboard=False):
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Path:
    """A finished smoke study at full fidelity: 4 search trials, 3 configurations confirmed over 2 seeds."""
    from study import run

    results = tmp_path_factory.mktemp("results")
    command = ["--space", "smoke.yaml", "--fidelity", "full", "--cpus-per-trial", "1", "--scheduler", "none"]
    assert run.main([*command, "--results", str(results)]) == 0
    return results / "smoke"
