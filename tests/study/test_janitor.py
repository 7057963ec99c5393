"""What a run started is gone after it, whatever its end, and its lock is free only then."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

# Starts a process that ignores polite signals, in a session of its own, and one that is known by its log alone; then it
# waits to be ended.
DRIVER = """
import fcntl, signal, subprocess, sys, time
from study.janitor import cleaned_up, say_if_killed
signal.signal(signal.SIGINT, signal.default_int_handler)  # who started the tests may ignore both
signal.signal(signal.SIGHUP, signal.SIG_DFL)
lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_EX)
with cleaned_up(lock.fileno()) as folder:
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", stubborn], stdout=subprocess.PIPE, start_new_session=True)
    child.stdout.readline()
    unmarked = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"],
        stdout=open(folder + "/log", "w"), start_new_session=True, env={},
    )
    say_if_killed("Not that.")
    say_if_killed("Go on!")
    print(folder, child.pid, unmarked.pid, flush=True)
    time.sleep(600 if sys.argv[2] == "waits" else 0)
"""


@pytest.mark.parametrize("end", [None, signal.SIGKILL, signal.SIGINT, signal.SIGHUP])
def test_nothing_outlives_a_run(end: signal.Signals | None, tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.touch()
    command = [sys.executable, "-c", DRIVER, str(lock), "ends" if end is None else "waits"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, process_group=0) as driver:
        assert driver.stdout is not None
        assert driver.stderr is not None
        folder, *pids = driver.stdout.readline().split()
        assert Path(folder).is_dir()
        children = [psutil.Process(int(pid)) for pid in pids]
        if end is not None:
            os.killpg(driver.pid, end)
        driver.wait()
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            assert not Path(folder).exists()
            for child in children:
                assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
        said = driver.stderr.read()
        assert "Not that." not in said
        assert said.endswith("Go on!\n") == (end in (signal.SIGKILL, signal.SIGHUP))


def test_who_is_killed_while_its_run_is_cleaned_up_is_spoken_for(tmp_path: Path) -> None:
    """As by a supervisor that had asked it to end, and lost patience."""
    code = """
import os, signal, subprocess
from study.janitor import cleaned_up, say_if_killed
def killed(janitor, last):
    with janitor.stdin:
        janitor.stdin.write(last)
    os.kill(os.getpid(), signal.SIGKILL)
subprocess.Popen.communicate = killed
with cleaned_up():
    say_if_killed("Go on!")
"""
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGKILL, "Go on!\n")


def test_nothing_interrupts_the_end(tmp_path: Path) -> None:
    """Neither Ctrl-C while it cleans up, nor what a library does at the exit, leaves the folder."""
    code = """
import atexit, os, signal, subprocess
from study.janitor import cleaned_up
signal.signal(signal.SIGINT, signal.default_int_handler)
wait = subprocess.Popen.communicate
def interrupted(janitor, last):
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGTERM)
    return wait(janitor, last)
subprocess.Popen.communicate = interrupted
with cleaned_up() as folder:
    atexit.register(os.makedirs, folder + "/session")
    print(folder)
assert not os.path.exists(folder)
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("as before")
"""
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    folder, after = done.stdout.splitlines()
    assert after == "as before"
    assert not Path(folder).exists()


def test_other_processes_are_left_alone(tmp_path: Path) -> None:
    """Those of another run, whose folder has another name, and who reads a log, among them."""
    environment = os.environ | {"STUDY_SCRATCH": str(tmp_path / "another")}
    folder = tmp_path / "scratch"
    folder.mkdir()
    (folder / "log").touch()
    read = f"file = open({str(folder / 'log')!r}); print(flush=True); input()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", read], stdin=pipe, stdout=pipe, env=environment) as other:
        assert other.stdout is not None
        other.stdout.readline()
        command = [sys.executable, "study/janitor.py", str(folder), str(os.getpid())]
        subprocess.run(command, stdin=subprocess.DEVNULL, check=True)
        assert not folder.exists()
        assert other.poll() is None
        other.communicate(b"\n")
        assert other.returncode == 0


def test_what_cannot_be_ended_is_said(tmp_path: Path) -> None:
    """And how to go on all the same."""
    code = (
        "import runpy, sys, psutil; from study import janitor; psutil.Process.kill = lambda self: None; "
        "sys.argv = ['janitor.py', sys.argv[1], '1']; "
        "source = open(janitor.__file__).read().replace('S = 60', 'S = 1'); "
        "exec(compile(source, janitor.__file__, 'exec'), {'__name__': '__main__'})"
    )
    pipe, folder = subprocess.PIPE, tmp_path / "scratch"
    folder.mkdir()
    environment = os.environ | {"STUDY_SCRATCH": str(folder)}
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=pipe, env=environment) as stays:
        done = subprocess.run([sys.executable, "-c", code, str(folder)], input=b"Go on!\0", stderr=pipe, check=True)
        stays.communicate(b"\n")
    assert done.stderr.decode().splitlines() == [
        "Go on!",
        f"Processes of that run could not be ended; {folder} may be left.",
    ]
