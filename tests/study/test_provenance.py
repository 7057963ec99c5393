"""study.json: what a study took, over all its runs."""

from __future__ import annotations

import os
import resource
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


NESTED = "/user.slice/job_7/step"  # as Slurm and systemd nest them


def control_groups(
    folder: Path, path: str, version: int, files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Have this process in the control group at a path, among those with these files in place of the machine's."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    kinds = ("cpu", "memory", "pids")
    mounts = [f"31 23 0:28 {{}} {folder} rw - cgroup2 cgroup2 rw"]
    lines = [f"0::{path}"]
    if version == 1:
        mounts = [f"3{n} 31 0:3{n} {{}} {folder / name} rw - cgroup  rw,{name}" for n, name in enumerate(kinds)]
        lines = [f"{n}:{name}:{path}" for n, name in enumerate(kinds, 2)] + ["1:name=systemd:/", "0::/"]
    root = "/" if path == NESTED else "/docker/7"  # a container that sees its own group only
    (folder / "mountinfo").write_text("\n".join(mounts).format(*[root] * len(mounts)))
    (folder / "cgroup").write_text("\n".join(lines))
    monkeypatch.setattr(provenance, "PROCESS", folder)


@pytest.mark.parametrize(
    ("version", "path", "files", "cores"),
    [
        (2, "/", {}, 8),
        (2, "/", {"cpu.max": "max 100000\n"}, 8),
        (2, "/", {"cpu.max": "300000 100000\n"}, 3),
        (2, "/", {"cpu.max": "150000 100000\n"}, 2),
        (2, "/", {"cpu.max": "5000 100000\n"}, 1),
        (2, "/", {"cpu.max": "6400000 100000\n"}, 8),
        (2, NESTED, {"user.slice/job_7/cpu.max": "300000 100000\n", "user.slice/cpu.max": "max 100000\n"}, 3),
        (2, NESTED, {"user.slice/job_7/step/cpu.max": "400000 100000\n", "user.slice/cpu.max": "200000 100000\n"}, 2),
        (2, NESTED, {"user.slice/another/cpu.max": "100000 100000\n"}, 8),
        (2, "/docker/7/inner", {"inner/cpu.max": "200000 100000\n"}, 2),
        (2, "/../another", {"cpu.max": "200000 100000\n"}, 2),
        (1, "/", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        (1, "/", {"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        (
            1,
            NESTED,
            {
                "cpu/user.slice/job_7/cpu.cfs_quota_us": "500000\n",
                "cpu/user.slice/job_7/cpu.cfs_period_us": "100000\n",
            },
            5,
        ),
        (1, "/docker/7", {"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
    ],
)
def test_cores_heed_affinity_and_every_quota(
    version: int, path: str, files: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    control_groups(tmp_path, path, version, files, monkeypatch)
    assert provenance.cores() == cores


STAT = "anon 400000\ninactive_file 200000\nactive_file 100000\n"


@pytest.mark.parametrize(
    ("version", "files"),
    [
        (2, {"memory.max": "1000000\n", "memory.current": "700000\n", "memory.stat": STAT}),
        (2, {"memory.high": "1000000\n", "memory.max": "max\n", "memory.current": "700000\n", "memory.stat": STAT}),
        (
            1,
            {
                "memory.limit_in_bytes": "1000000\n",
                "memory.usage_in_bytes": "700000\n",
                "memory.stat": f"inactive_file 1\n{STAT.replace('inactive', 'total_inactive')}",
            },
        ),
    ],
)
@pytest.mark.parametrize("level", ["", "user.slice", "user.slice/job_7/step"])
def test_free_memory_is_what_no_control_group_uses_yet(
    version: int, files: dict[str, str], level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = Path("memory" if version == 1 else "") / level
    files = {str(at / name): content for name, content in files.items()}
    control_groups(tmp_path, NESTED, version, files, monkeypatch)
    assert provenance.free_memory() == 1_000_000 - (700_000 - 200_000)


@pytest.mark.parametrize(
    ("version", "name", "limit"),
    [(2, "memory.max", "max\n"), (1, "memory/memory.limit_in_bytes", "9223372036854771712\n")],
)
def test_without_a_limit_memory_is_what_the_machine_has(
    version: int, name: str, limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    control_groups(tmp_path, "/", version, {name: limit}, monkeypatch)
    assert 1_000_000 < provenance.free_memory() < psutil.virtual_memory().total


def test_threads_that_may_still_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"pids/user.slice/pids.max": "400\n", "pids/user.slice/pids.current": "50\n", "pids/pids.max": "max\n"}
    control_groups(tmp_path, NESTED, 1, files, monkeypatch)
    monkeypatch.setattr("os.getuid", lambda: 0)
    monkeypatch.setattr("resource.getrlimit", lambda kind: (60, 100))
    assert provenance.free_threads() == 350, "root is held by no limit of a user's"
    monkeypatch.setattr("os.getuid", lambda: 12_345)  # nobody's
    assert provenance.free_threads() == 60
    monkeypatch.setattr("resource.getrlimit", lambda kind: (resource.RLIM_INFINITY,) * 2)
    control_groups(tmp_path / "none", NESTED, 1, {"pids/pids.max": "max\n"}, monkeypatch)
    assert provenance.free_threads() is None


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
