"""study.json: what a study took, over all its runs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from made_space import TINY, read
from made_trials import ended

from study import files, provenance, records
from study.provenance import Book
from study.records import TrialRecord

SPACE = read("model: three_block" + TINY)
SEARCHED = TrialRecord("s0001", "search", read("model: fashion_cnn" + TINY).rest.base, 0)


class Clock:
    """In place of the module `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(provenance, "time", found)
    return found


def written(study: Path) -> dict[str, Any]:
    return files.read_json(study / "study.json")


def book(study: Path, earlier: dict[str, Any] | None = None, command: str = "--space tiny.yaml") -> Book:
    settings, plan = {"fidelity": "full", "seed": 0}, {"gpus": 0.0, "cores": 2}
    return Book(study, earlier, settings, plan, SPACE, ["python", "-m", "study.run", *command.split()])


def test_wall_time_of_a_stage_adds_up_over_an_interruption(tmp_path: Path, clock: Clock) -> None:
    first = book(tmp_path)
    try:
        with first.stage("search"):
            clock.now += 40
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        clock.now += 1
    assert written(tmp_path)["status"] == "interrupted"
    clock.now = 5.0  # another machine's clock, and whatever passed between
    second = book(tmp_path, written(tmp_path))
    assert second.wall("search") == 40
    with second.stage("search"):
        clock.now += 30
    clock.now += 100  # between the stages
    with second.stage("confirm"):
        second.search_over = False  # writes
        assert written(tmp_path)["status"] == "running"
        clock.now += 10
    second.finish()
    found = written(tmp_path)
    assert {stage: found["stages"][stage]["wall_seconds"] for stage in records.STAGES} == {"search": 70, "confirm": 10}
    assert (found["status"], found["resumed"], len(found["earlier_runs"])) == ("finished", 1, 1)


def test_every_command_of_a_study_is_recorded_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = ["--space tiny.yaml", "--resume tiny", "--extend tiny --trials 2"]
    times = ["10:00", "11:00", "12:00"]
    for command, now in zip(commands, times, strict=True):
        monkeypatch.setattr(provenance, "_now", lambda now=now: now)
        book(tmp_path, written(tmp_path) if command != commands[0] else None, command)
    found = written(tmp_path)
    runs = [*found["earlier_runs"], found]
    assert [" ".join(run["command"][3:]) for run in runs] == commands
    assert [run["begun"] for run in runs] == times
    assert (found["created"], found["resumed"]) == ("10:00", 2)
    assert {"git", "versions", "hardware"} <= runs[0].keys()


def test_a_kill_costs_the_time_since_the_last_epoch_only(tmp_path: Path, clock: Clock) -> None:
    record, epochs = ended(tmp_path, SEARCHED, [0.5, 0.6])
    killed = book(tmp_path)
    stage = killed.stage("search")
    stage.__enter__()  # and never left
    clock.now += 25
    killed.epoch_ended(record, epochs[0], 0.5)
    clock.now += 7
    second = book(tmp_path, written(tmp_path))
    with second.stage("search"):
        clock.now += 3
        second.epoch_ended(record, epochs[1], 0.6)
        assert second.wall("search") == 28
        clock.now += 2
    assert second.wall("search") == 30


def test_costs_are_of_all_epochs_in_all_of_the_stages_time(tmp_path: Path, clock: Clock) -> None:
    ended(tmp_path, SEARCHED, [0.5, 0.6])
    with book(tmp_path).stage("search"):
        clock.now += 20
    with book(tmp_path, written(tmp_path)).stage("search"):
        clock.now += 8
    found = written(tmp_path)["stages"]["search"]
    assert (found["wall_seconds"], found["cpu_seconds"], found["epochs"]) == (28, 14, 2)
    assert found["busy_share"] == pytest.approx(14 / (28 * provenance.cores()))
    assert found["image_passes"] == 2 * 50_000
    assert found["device_seconds"] == 2 * 4 * 2  # two epochs of 4 s on two cores


def test_a_share_of_a_gpu_counts_as_much_of_its_time(tmp_path: Path) -> None:
    ended(tmp_path, SEARCHED, [0.5, 0.6])
    begun = Book(tmp_path, None, {"fidelity": "full", "seed": 0}, {"gpus": 0.25, "cores": 2}, SPACE, [])
    with begun.stage("search"):
        pass
    found = written(tmp_path)["stages"]["search"]
    assert (found["device_seconds"], found["busy_share"]) == (2 * 4 * 0.25, None)


def test_a_resumed_study_keeps_that_its_time_is_over(tmp_path: Path) -> None:
    book(tmp_path).search_over = True
    over = written(tmp_path)
    assert book(tmp_path, over).search_over
    assert not book(tmp_path, {**over, "search_over": False}).search_over


# The machine


def container(folder: Path, files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Put these control group files in place of the machine's."""
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    monkeypatch.setattr(provenance, "CGROUP", folder)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "300000 100000\n"}, 3),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "5000 100000\n"}, 1),
        ({"cpu.max": "6400000 100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
    ],
)
def test_cores_heed_affinity_and_quota(
    files: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    container(tmp_path, files, monkeypatch)
    assert provenance.cores() == cores


@pytest.mark.parametrize(
    ("limit", "used", "stat"),
    [
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ],
)
def test_free_memory_is_what_the_container_does_not_use_yet(
    limit: str, used: str, stat: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {limit: "1000000\n", used: "700000\n", stat: "anon 400000\ninactive_file 200000\nactive_file 100000\n"}
    container(tmp_path, files, monkeypatch)
    assert provenance.free_memory() == 1_000_000 - (700_000 - 200_000)


@pytest.mark.parametrize(
    ("name", "limit", "bytes_"),
    [
        ("memory.max", "1000000\n", 1_000_000),
        ("memory/memory.limit_in_bytes", "2000000\n", 2_000_000),
        ("memory.max", "max\n", None),
        ("memory/memory.limit_in_bytes", "9223372036854771712\n", None),
    ],
)
def test_free_memory_heeds_the_containers_limit(
    name: str, limit: str, bytes_: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    container(tmp_path, {name: limit}, monkeypatch)
    if bytes_ is None:
        assert 1_000_000 < provenance.free_memory() < psutil.virtual_memory().total
    else:
        assert provenance.free_memory() == bytes_


def test_programs_are_named_as_they_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bin_folder = tmp_path / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    for name in ("python", "tensorboard"):
        (bin_folder / name).touch(0o755)
    monkeypatch.setattr("sys.executable", str(bin_folder / "python"))
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.chdir("/usr")
    assert provenance.typed() == str(bin_folder / "python")
    monkeypatch.chdir(tmp_path)
    assert (provenance.typed(), provenance.typed("tensorboard")) == (".venv/bin/python", ".venv/bin/tensorboard")
    assert provenance.command("study.run", "--name", "a b") == ".venv/bin/python -P -m study.run --name 'a b'"
    monkeypatch.chdir(Path(provenance.__file__).parents[1])
    assert provenance.command("study.run") == f"{bin_folder}/python -m study.run"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{bin_folder}:/usr/bin")
    assert (provenance.typed(), provenance.typed("tensorboard")) == ("python", "tensorboard")


def committed(folder: Path) -> str:
    """The commit of a new repository that holds all that is in the folder."""
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], [*author, "commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run(["git", "-C", str(folder), *command], check=True)
    return subprocess.run(
        ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_the_commit_is_that_of_the_code_whatever_a_hook_or_its_owner_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    for folder in (own / "study", other):
        folder.mkdir(parents=True)
    (own / "study" / "provenance.py").touch()
    commit = committed(own)
    assert committed(other) != commit
    monkeypatch.setattr(provenance, "__file__", str(own / "study" / "provenance.py"))
    assert provenance.git_state() == {"commit": commit, "dirty": False}
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))  # as while a hook of it runs
    assert provenance.git_state() == {"commit": commit, "dirty": False}
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    assert provenance.git_state() == {"commit": commit, "dirty": False}


def test_code_that_lies_in_another_repository_has_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where it is installed into an environment in a project's folder."""
    committed(tmp_path)
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "provenance.py").touch()
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "study" / "provenance.py"))
    assert provenance.git_state() == {"commit": None, "dirty": None}


def test_threads_are_counted_where_other_users_processes_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where /proc is mounted with `hidepid=1`."""
    mine = SimpleNamespace(info={"uids": SimpleNamespace(real=1000), "num_threads": 7})
    hidden = SimpleNamespace(info={"uids": None, "num_threads": None})
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setattr("resource.getrlimit", lambda of: (500, 500))
    monkeypatch.setattr("psutil.process_iter", lambda attributes: [mine, hidden])
    monkeypatch.setattr(provenance, "PROCESS", Path("/no/such"))  # no control group has a limit
    assert provenance.free_threads() == 493
