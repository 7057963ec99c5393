"""A study run by the real command, in processes and with a temporary folder of its own."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from study import records
from study.records import EpochRecord, TrialRecord

Key = tuple[str, str | None, str, int]


class Study:
    """One study, begun or resumed as often as is wished."""

    def __init__(self, results: Path, space: str) -> None:
        self.results, self.folder = results, results / "space"
        self.log, self.space = results.parent / "log", results.parent / "space.yaml"
        self.space.write_text(space)
        self.temporary = Path(tempfile.mkdtemp(prefix="f", dir="/tmp"))  # short, for Ray's sockets
        self.statuses: list[int] = []

    def run(self, disturb: Callable[[subprocess.Popen[bytes]], None], *options: str) -> int:
        """Begin or resume it; returns the exit status, when all that it started has ended too."""
        begun = (self.folder / "study.json").exists()
        new = ["--space", str(self.space), "--name", "space", "--cpus-per-trial", "1", "--fidelity", "full"]
        what = ["--resume", "space"] if begun else new
        command = [sys.executable, "-m", "study.run", *what, "--results", str(self.results), *options]
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, env=os.environ | {"TMPDIR": str(self.temporary)}, process_group=0
            )
            try:
                disturb(process)
                self.statuses.append(process.wait())
            finally:
                process.kill()
        if self.folder.exists():
            with (self.folder / ".lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # what was killed has been cleaned up
        assert not list(self.temporary.iterdir())
        assert not list(self.processes())
        return self.statuses[-1]

    def processes(self) -> Iterator[psutil.Process]:
        """All that it started and that still lives."""
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.environ().get("TMPDIR") == str(self.temporary):
                    yield process

    def trials(self) -> dict[Key, tuple[TrialRecord, list[EpochRecord]]]:
        """What is recorded of every trial, by stage, arm, configuration and seed."""
        known = [record for stage in records.STAGES for record in records.read_trials(self.folder, stage)]
        found = {
            (r.stage, r.arm, r.config_id, r.seed): (r, records.read_epochs(records.trial_folder(self.folder, r)))
            for r in known
        }
        assert len(found) == len(known)
        return found

    def epochs_again(self) -> int:
        """How many epochs were trained more than once, after they had been recorded."""
        lines = [list(records._lines(path)) for path in self.folder.glob("*/*/epochs.jsonl")]
        return sum(len(of) - len({epoch.epoch for epoch in of}) for of in lines)


def left_alone(process: subprocess.Popen[bytes]) -> None:
    """Do nothing to it."""
