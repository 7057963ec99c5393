"""The confirmed networks at work again: each in a worker of its own, all cores busy, nothing run twice."""

from __future__ import annotations

import hashlib
import inspect
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import pandas as pd
import torch
from torch import nn

from analysis.errors import WorkerLost
from study import models
from study.config import TrialConfig, from_dict
from study.files import RecordError, broken, write_whole
from study.models import build_model
from study.records import check_left
from study.trainer import load_whole

# What runs in the workers: the network with its configuration and seed, then arguments that all share.
Work = Callable[..., pd.DataFrame]


def load_network(path: Path) -> tuple[nn.Module, TrialConfig]:
    """The network of a confirmed trial with its best weights, in evaluation mode. Raises RecordError, naming the file.

    Nothing in the file is executed.
    """
    try:
        check_left(path)
        saved = load_whole(path.read_bytes())
        config = from_dict(saved["config"])
        network = build_model(config.model, 0)
        network.load_state_dict(saved["weights"])
    except RecordError:
        raise
    except Exception as error:  # a cut or foreign file fails in as many ways as there are bytes
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise broken(path, reason, "the weights that confirm wrote") from error
    return network.eval(), config


def digest(*parts: Any) -> str:
    """A name for inputs: equal for equal content. Paths stand for their bytes, modules for their source."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            with part.open("rb") as file:
                found.update(hashlib.file_digest(file, "sha256").digest())
        elif isinstance(part, pd.DataFrame):
            found.update(repr(part.dtypes.to_dict()).encode())
            found.update(pd.util.hash_pandas_object(part).to_numpy().tobytes())
        elif inspect.ismodule(part):
            found.update(inspect.getsource(part).encode())
        elif hasattr(part, "tobytes"):
            found.update(part.tobytes())
        else:
            found.update(repr(part).encode())
    return found.hexdigest()


def cached(path: Path, key: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """What `make` returns, kept in a file until `key`, the digest of what it was made from, is another."""
    found = _kept(path, key)
    if found is None:
        found = make()
        keep(path, key, found)
    return found


def keep(path: Path, key: str, table: pd.DataFrame) -> None:
    """Write the file that `cached` reads, whole or not at all: the table as Parquet, after a digest of it and `key`."""
    path.parent.mkdir(exist_ok=True)
    content = table.to_parquet()
    write_whole(path, _seal(key, content) + content)


def _kept(path: Path, key: str) -> pd.DataFrame | None:
    """The table in the file; None where there is none, or it is of another key, cut short or garbled."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        seal, content = file.read(32), file.read()
    return pd.read_parquet(io.BytesIO(content)) if seal == _seal(key, content) else None


def _seal(key: str, content: bytes) -> bytes:
    return hashlib.sha256(key.encode() + content).digest()


def source(work: Work, shared: Any, *sources: ModuleType) -> str:
    """A digest of what `work` finds of any network: of `shared`, the code of its module, the models and `sources`."""
    families = sorted(Path(inspect.getfile(models)).parent.glob("*.py"))
    return digest(*sources, inspect.getmodule(work), *families, torch.__version__, cv2.__version__, *shared)


class Networks(ExitStack):
    """The confirmed trials' networks of the study in `folder`; Ray starts when the first of them is needed."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def over(
        self, trials: Sequence[str], work: Work, each: Callable[[str], Any], shared: Any, key: str
    ) -> Iterator[tuple[str, pd.DataFrame]]:
        """`work(network, config, each(trial), shared)` for every trial, as they are done: its id and the result.

        Results are kept in the study's `cache/` until weights, `each` or `key`, which `source` gives, change. Raises
        RecordError where a trial's weights cannot be read.
        """
        keys = {trial: digest(key, self._weights(trial), each(trial)) for trial in trials}
        paths = {trial: self.folder / "cache" / f"{work.__name__.strip('_')}-{trial}.cached" for trial in trials}
        found = {trial: _kept(paths[trial], keys[trial]) for trial in trials}
        yield from ((trial, table) for trial, table in found.items() if table is not None)
        for trial, table in self._computed([t for t in trials if found[t] is None], work, each, shared):
            keep(paths[trial], keys[trial], table)
            yield trial, table

    def _computed(
        self, trials: Sequence[str], work: Work, each: Callable[[str], Any], shared: Any
    ) -> Iterator[tuple[str, pd.DataFrame]]:
        if not trials:
            return
        import ray  # seconds to import and to start, and a page whose parts are all kept needs none of it

        from study import cluster

        if not ray.is_initialized():
            self.enter_context(cluster.running(dashboard=False))
        common, run = ray.put(shared), ray.remote(_one).options(num_cpus=1, max_retries=2)
        waiting = {run.remote(work, str(self._weights(trial)), each(trial), common): trial for trial in trials}
        while waiting:
            (done, *_), _ = ray.wait(list(waiting))
            try:
                table = ray.get(done)
            except ray.exceptions.RayTaskError as error:
                raise error.cause if isinstance(error.cause, RecordError) else error from None
            except ray.exceptions.RayError as error:
                why = cluster.out_of_memory(str(error)) or f"{cluster.reason(error)}, most likely for memory"
                raise WorkerLost(f"{waiting[done]}: its network's worker was killed ({why})") from None
            yield waiting.pop(done), table

    def _weights(self, trial: str) -> Path:
        return self.folder.absolute() / "confirm" / trial / "best.pt"  # workers run in another folder


def _one(work: Work, weights: str, own: Any, shared: Any) -> pd.DataFrame:
    torch.set_num_threads(1)
    network, config = load_network(Path(weights))
    return work(network, config, own, shared)
