"""What a run leaves is cleaned up even if its driver is killed: by this process, which outlives it.

`python janitor.py FOLDER` waits until its standard input closes, as it does at the driver's end, whatever the end. Then
it kills the processes that were started with FOLDER in their environment or write a log there, and removes FOLDER.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker

import psutil

SCRATCH = "STUDY_SCRATCH"  # the environment variable by which a run's processes are known
PATIENCE_S = 60
# A socket's path has 107 bytes at most, of which Ray's own part takes up to 68 and the folder's name 19.
LONGEST_TMPDIR = 107 - 68 - 19


_open: list[str] = []  # the folder of this process's run, while it lasts


@contextmanager
def cleaned_up(lock: int | None = None) -> Iterator[str]:
    """A folder for all temporary files. At the end, or when this process dies, it is removed, and what was started
    meanwhile is killed.

    `lock`: a file descriptor that stays open until that is done. Within another such context that one's folder is used.
    """
    if _open:
        yield _open[0]
        return
    folder = new_folder()
    # Before this run's mark is set: it ends with this process, which complains if it is killed first.
    resource_tracker.ensure_running()
    command = [sys.executable, "-P", __file__, folder]
    keeps = () if lock is None else (lock,)
    # In a session of its own: Ctrl-C in a terminal does not reach it.
    janitor = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=keeps, start_new_session=True)
    before = dict(os.environ)
    os.environ |= {SCRATCH: folder, "TMPDIR": folder}
    tempfile.tempdir = None  # to be asked for again
    _open.append(folder)
    try:
        yield folder
    finally:
        _open.clear()
        for name in (SCRATCH, "TMPDIR"):
            os.environ.pop(name)
            os.environ |= {name: before[name]} if name in before else {}
        tempfile.tempdir = None
        janitor.communicate()  # closes its input, and waits


def new_folder() -> str:
    """A new temporary folder, whose path leaves room for Ray's sockets."""
    short = len(os.fsencode(tempfile.gettempdir())) <= LONGEST_TMPDIR
    return tempfile.mkdtemp(prefix="study-ray-", dir=None if short else "/tmp")


def clean_up(folder: str, driver: int) -> None:
    """Kill every process but the driver that belongs to the folder, and remove it."""
    while left := [one for one in psutil.process_iter() if one.pid != driver and _belongs(one, folder)]:
        for process in left:
            with suppress(psutil.NoSuchProcess):  # by now
                process.kill()
        psutil.wait_procs(left, timeout=1)
    shutil.rmtree(folder, ignore_errors=True)


def _belongs(process: psutil.Process, folder: str) -> bool:
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
    driver = os.getppid()
    sys.stdin.read()
    signal.alarm(PATIENCE_S)  # ends this process if one of those cannot be killed
    clean_up(sys.argv[1], driver)
