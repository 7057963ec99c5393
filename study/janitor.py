"""What a run leaves is cleaned up even if its driver is killed: by this process, which outlives it.

`python janitor.py FOLDER PID` waits until its standard input closes, as it does at the end of the driver PID, whatever
the end. Then it kills the processes that were started with FOLDER in their environment or write a log there, removes
FOLDER, and prints the last message that it has read, each of which ends with a null byte; but not where the driver ends
in order, and is still there to say something itself.
"""

from __future__ import annotations

import atexit
import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, NoReturn

import psutil

SCRATCH = "STUDY_SCRATCH"  # the environment variable by which a run's processes are known
PATIENCE_S = 60
IN_ORDER = b"in order"  # the last that a driver says which waits for its janitor
# A socket's path has 107 bytes at most, of which Ray's own part takes up to 68, its folder's name 2, and this one's 19.
LONGEST_TMPDIR = 107 - 68 - 2 - 19


@dataclass(frozen=True)
class _Run:
    folder: str
    janitor: subprocess.Popen[bytes]


_open: list[_Run] = []  # this process's, while it lasts


@contextmanager
def cleaned_up(lock: int | None = None) -> Iterator[str]:
    """A folder for all temporary files. At the end, or when this process dies, it is removed, and what was started
    meanwhile is killed.

    `lock`: a file descriptor that stays open until that is done. Within another such context that one's folder is used.
    """
    if _open:
        yield _open[0].folder
        return
    # Before this run's mark is set: it ends with this process, which complains if it is killed first.
    resource_tracker.ensure_running()
    folder = new_folder()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # what Ray registers later runs before, and may make it
    command = [sys.executable, "-P", __file__, folder, str(os.getpid())]
    keeps = () if lock is None else (lock,)
    # In a session of its own: Ctrl-C in a terminal does not reach it.
    janitor = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=keeps, start_new_session=True)
    before = dict(os.environ)
    os.environ |= {SCRATCH: folder, "TMPDIR": folder}
    tempfile.tempdir = None  # to be asked for again
    _open.append(_Run(folder, janitor))
    try:
        yield folder
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            with suppress(OSError):
                error.add_note(room(Path(folder).parent))
        raise
    finally:
        with undisturbed():
            for name in (SCRATCH, "TMPDIR"):
                os.environ.pop(name)
                os.environ |= {name: before[name]} if name in before else {}
            tempfile.tempdir = None
            _open.clear()
            janitor.communicate(IN_ORDER)


def room(folder: Path) -> str:
    """On its disk."""
    return f"{shutil.disk_usage(folder).free / 2**20:,.0f} MiB free in {folder}"


def interrupt_on_sigterm() -> None:
    """From now on SIGTERM does what Ctrl-C does. For the main thread alone."""
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(number: int, frame: object) -> None:
    """As Ctrl-C does, which Tune may be waiting for; a script's job in the background ignores that."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)


def ignore_stops() -> dict[int, Any]:
    """From now on Ctrl-C and SIGTERM do nothing; returns what they did before. For the main thread alone."""
    return {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}


@contextmanager
def undisturbed() -> Iterator[None]:
    """What cleans up is not stopped in the middle."""
    before = ignore_stops() if threading.current_thread() is threading.main_thread() else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def say_if_killed(text: str) -> None:
    """Within `cleaned_up`: what is printed to standard error once all is cleaned up, if this process was killed; the
    last text counts."""
    for run in _open:
        with suppress(OSError):  # it was killed itself
            os.write(run.janitor.stdin.fileno(), os.fsencode(text) + b"\0")  # type: ignore[union-attr]


def new_folder() -> str:
    """A new temporary folder, whose path leaves room for Ray's sockets."""
    short = len(os.fsencode(tempfile.gettempdir())) <= LONGEST_TMPDIR
    return tempfile.mkdtemp(prefix="study-ray-", dir=None if short else "/tmp")


def clean_up(folder: str, driver: int) -> None:
    """Kill every process but the driver that belongs to the folder, and remove it."""
    while left := [one for one in psutil.process_iter() if one.pid != driver and belongs(one, folder)]:
        for process in left:
            with suppress(psutil.NoSuchProcess):  # by now
                process.kill()
        psutil.wait_procs(left, timeout=1)
    shutil.rmtree(folder, ignore_errors=True)


def belongs(process: psutil.Process, folder: str) -> bool:
    """Return whether a process was started within `cleaned_up`, whose folder this is, or writes a log there."""
    try:
        # Some of Ray's processes write their title over their environment, but all write logs.
        return process.environ().get(SCRATCH) == folder or any(
            file.mode != "r" and file.path.startswith(f"{folder}{os.sep}") for file in process.open_files()
        )
    except (psutil.Error, OSError):  # gone, a zombie, or another user's
        return False


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    driver = int(sys.argv[2])
    *_, text, rest = (b"\0" + sys.stdin.buffer.read()).split(b"\0")

    class GaveUp(Exception):
        """Not one that the clean-up suppresses."""

    def give_up(*_: object) -> NoReturn:
        raise GaveUp

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE_S)
    said = []
    try:
        clean_up(sys.argv[1], driver)
    except GaveUp:
        said.append(f"Processes of that run could not be ended; {sys.argv[1]} may be left.")
    if text and not (rest == IN_ORDER and os.getppid() == driver):
        said.insert(0, os.fsdecode(text))
    if said:
        with suppress(OSError):  # the terminal is gone, too
            print(*said, sep="\n", file=sys.stderr)
