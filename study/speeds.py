"""What was measured on this machine before: a file in the user's cache, so that the next study measures less."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from study import files
from study.data import user_cache
from study.probe import Speed
from study.provenance import hardware
from study.trainer import Precision

FILE = "fashion-mnist-study/speeds.json"
Key = tuple[str, int, Precision, int, int]  # network, batch size, precision, cores of a trial, trials at a time


class KnownSpeeds:
    """Speeds by network, for one machine and version of torch; without a `path`, nothing is known or kept.

    What cannot be read counts as nothing known, and what cannot be written is not kept.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.machine = f"{hardware()} torch {torch.__version__}"
        self.all: dict[str, Any] = {}  # by machine
        if path is not None:
            with suppress(files.RecordError, OSError):
                self.all = files.read_json(path)
        found = self.all.get(self.machine)
        self.here: dict[str, Any] = found if isinstance(found, dict) else {}
        self.measured: set[str] = set()  # by this process

    def precision(self, measure: Callable[[], Precision]) -> Precision:
        """Return the precision that is faster here, measured where it is not known."""
        if self.here.get("precision") not in ("bf16", "fp32"):
            self.here["precision"] = measure()
        found: Precision = self.here["precision"]
        return found

    def speed(self, key: Key, measure: Callable[[], Speed]) -> Speed:
        """Return the speed of a network, measured where it is not known."""
        name = _name(key)
        with suppress(KeyError, TypeError):
            known = Speed(**self.here[name])
            if files.misfit(known, Speed) is None:
                return known
        found = measure()
        self.here[name] = vars(found)
        self.measured.add(name)
        return found

    def recalled(self, key: Key) -> bool:
        """Return whether the speed that is known of a network is of an earlier study."""
        return _name(key) in self.here and _name(key) not in self.measured

    def write(self) -> None:
        """Keep what is known."""
        if self.path is not None:
            with suppress(OSError):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                files.write_json(self.path, self.all | {self.machine: self.here})


def _name(key: Key) -> str:
    return " ".join(map(str, key))


def of_this_user() -> KnownSpeeds:
    """Return what this user's studies have measured on this machine."""
    return KnownSpeeds(user_cache() / FILE)
