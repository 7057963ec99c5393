"""A study run by the real command, in processes and with a temporary folder of its own."""

from __future__ import annotations

import fcntl
import os
import queue
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from study import records
from study.records import EpochRecord, Stage, TrialRecord

HANGS_S = 600.0
Key = tuple[Stage, str | None, str, int]


class Study:
    """One study, begun or resumed as often as is wished; none of its trials is stopped early, unless by `scheduler`."""

    def __init__(self, results: Path, space: str, prefix: str = "f") -> None:
        self.results, self.folder = results, results / "space"
        self.log, self.space = results.parent / "log", results.parent / "space.yaml"
        self.space.write_text(space)
        self.temporary = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))  # short, for Ray's sockets
        self.statuses: list[int] = []
        self.scheduler = "none"
        self.under: list[str] = []  # the command, if any, that the study's own is given to
        self.python = [sys.executable]  # with its options
        self.environment = dict(os.environ)
        self.typed_in = Path.cwd()
        self.said: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def run(self, disturb: Callable[[subprocess.Popen[str]], None], *options: str) -> int:
        """Begin or resume it; returns the exit status, when all that it started has ended too."""
        process = self.begin(*options, stderr=subprocess.STDOUT)
        self.said = queue.SimpleQueue()
        printed = self.log.stat().st_size if self.log.exists() else 0
        listener = threading.Thread(target=self._listen, args=(process,))
        hangs = threading.Timer(HANGS_S, process.kill)
        listener.start()
        hangs.start()
        try:
            disturb(process)
            self.statuses.append(process.wait())
        finally:
            hangs.cancel()
            process.kill()
            listener.join()
        with self.log.open() as log:
            log.seek(printed)
            self.ended_as_said(self.statuses[-1], log.read().splitlines())
        self.nothing_is_left()
        return self.statuses[-1]

    def begin(self, *options: str, stderr: int) -> subprocess.Popen[str]:
        begun = (self.folder / "study.json").exists()
        new = ["--space", str(self.space), "--name", "space", "--scheduler", self.scheduler]
        new += ["--cpus-per-trial", "1", "--fidelity", "full"]
        what = ["--resume", "space"] if begun else new
        command = [*self.under, *self.python, "-m", "study.run", *what, "--results", str(self.results), *options]
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=self.environment | {"TMPDIR": str(self.temporary)},
            cwd=self.typed_in,
            process_group=0,
        )

    def ended_as_said(self, status: int, lines: list[str]) -> None:
        """A run that was cut off says how to go on, unless it was killed before it could, or its folder is gone."""
        if status in (74, 130):
            ways_on = ("To go on: ", "Nothing was begun.", "The folder of the study is gone.")
            assert any(way in lines[-1] for way in ways_on), lines[-3:]
        elif status in (-signal.SIGINT, -signal.SIGTERM):  # before the program had begun
            assert not any(line.startswith(("Study ", "Measuring ")) for line in lines), lines

    def nothing_is_left(self) -> None:
        """Neither files nor processes, once the study can be gone on with."""
        if self.folder.exists():
            with (self.folder / ".lock").open("r+") as lock:  # when it is free, what was killed has been cleaned up
                fcntl.flock(lock, fcntl.LOCK_EX)
                fcntl.fcntl(lock, fcntl.F_OFD_SETLKW, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        left: list[object] = [*self.temporary.rglob("*")]
        assert not left, left
        alive = psutil.wait_procs(self.processes(), timeout=30)[1]  # multiprocessing's own ends by itself
        assert not alive, alive

    def processes(self) -> Iterator[psutil.Process]:
        """All that it started and that still lives."""
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                opened = [os.readlink(file) for file in Path(f"/proc/{process.pid}/fd").iterdir()]  # removed ones, too
                if any(map(self._is_in, [process.environ().get("TMPDIR", "/"), *opened])):
                    yield process

    def _is_in(self, path: str) -> bool:
        return Path(path).is_relative_to(self.temporary)

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

    def lines(self) -> Iterator[str]:
        """What it prints, as it prints it, until it ends."""
        while (line := self.said.get()) is not None:
            yield line
        self.said.put(None)  # to be met again

    def new_lines(self) -> Iterator[str]:
        """Those only that it prints from now on."""
        with suppress(queue.Empty):
            while self.said.get_nowait() is not None:
                pass
            self.said.put(None)  # it has ended: to be met again
        return self.lines()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        with self.log.open("a") as log:
            for line in process.stdout or ():
                log.write(line)
                self.said.put(line)
        self.said.put(None)


def left_alone(process: subprocess.Popen[str]) -> None:
    """Do nothing to it."""
