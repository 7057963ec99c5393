"""Where Ray may write, and how many trials it can take."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from study import cluster
from study.cluster import Cluster
from study.execution import Resources, slots_of
from study.janitor import LONGEST_TMPDIR, new_folder
from study.opening import UsageError

# The longest of the sockets that Ray makes in its folder, at the longest process id.
SOCKET = f"{cluster.RAYS}/session_2026-11-22_06-32-27_944265_4194304/sockets/dash_MetricsHead"


@pytest.mark.parametrize("length", [LONGEST_TMPDIR, LONGEST_TMPDIR + 1])
def test_rays_sockets_fit_whatever_the_temporary_folder(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path("/tmp/".ljust(length, "x"))
    folder.mkdir(exist_ok=True)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    scratch = Path(new_folder())
    assert len(str(scratch / SOCKET)) <= 107
    assert scratch.parent == (folder if length == LONGEST_TMPDIR else Path("/tmp"))
    scratch.rmdir()
    shutil.rmtree(folder)


def test_a_full_temporary_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=2**20))
    monkeypatch.setattr(cluster, "cleaned_up", lambda: nullcontext(str(tmp_path / "scratch")))
    where = re.escape(str(tmp_path))
    with pytest.raises(UsageError, match=rf"^TMPDIR: got 1 MiB free in {where}, must be 64 MiB"), cluster.running():
        pass


@pytest.mark.parametrize("installed", [["tensorboard", "optuna-dashboard"], ["tensorboard"], []])
def test_only_programs_that_are_there_are_named(
    installed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in installed:
        (tmp_path / name).touch(0o755)
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    lines = Cluster(None, None).how_to_watch(Path("results/x"))
    assert [line.split()[1] for line in lines[: len(installed)]] == [str(tmp_path / name) for name in installed]
    missing = [name for name in ("tensorboard", "optuna-dashboard") if name not in installed]
    how = f"  for {' and '.join(missing)}: pip install -c constraints.txt -e .[watch]"
    assert lines[len(installed) :] == ([how] if missing else [])


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_users_token_that_others_could_read_is_told_of(
    mode: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    token = tmp_path / "auth_token"
    token.touch(mode)
    cluster._guard(token)
    assert token.stat().st_mode & 0o777 == 0o600
    assert ("others could read it" in caplog.text) == (mode == 0o644)
    cluster._guard(tmp_path / "none")


def test_a_run_has_a_token_of_its_own_and_a_cluster_has_the_users(tmp_path: Path) -> None:
    """Whatever the user's variables say. In a process of its own, for Ray knows one token at a time."""
    code = """
import os, sys
from pathlib import Path
from ray._raylet import AuthenticationTokenLoader
from study import cluster
known = AuthenticationTokenLoader.instance().get_raw_token
folder = Path(sys.argv[1])
file, mine = folder / cluster.TOKEN, folder / "mine"
mine.write_text("abc")
for theirs, place in (
    ({"RAY_AUTH_TOKEN_PATH": "mine"}, str(mine)),
    ({"RAY_AUTH_TOKEN_PATH": "no-such-file", "RAY_AUTH_TOKEN": "abc"}, "$RAY_AUTH_TOKEN"),
):
    os.environ |= theirs
    before = dict(os.environ)
    with cluster._token(folder, None) as own:
        assert (own, known(), len(known())) == (str(file), file.read_text(), 64)
        assert file.stat().st_mode & 0o777 == 0o600
    assert os.environ == before
    with cluster._token(folder, "host:6379") as users:
        os.chdir("/")  # as while Ray starts
        assert (users, known()) == (place, "abc")
        os.chdir(folder)
    assert os.environ == before
"""
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=tmp_path, env=environment, check=True)


@pytest.mark.parametrize(
    ("resources", "slots"),
    [
        (Resources(1, 0.0, "fp32", 16), 8),
        (Resources(1, 0.0, "fp32", 3), 3),  # as the plan found memory for
        (Resources(3, 0.0, "fp32", 16), 2),
        (Resources(1, 0.3333, "fp32", 16), 3),
        (Resources(4, 0.25, "fp32", 16), 2),
    ],
)
def test_trials_at_a_time(resources: Resources, slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    node = {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}}
    gone, head = {**node, "Alive": False}, {"Alive": True, "Resources": {"memory": 1.0}}
    for times in (1, 2):
        monkeypatch.setattr("ray.nodes", lambda: [gone, head, *[node] * times])  # noqa: B023
        assert slots_of(resources) == slots * times


def test_a_trial_that_fits_nowhere_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True, "Resources": {"CPU": 2.0}}] * 2)
    for resources in (Resources(4, 0.0, "fp32", 1), Resources(1, 0.5, "fp32", 1)):
        got = f"got {resources.cores} cores and {resources.gpus:g} GPUs for a trial, must fit into 2 and 0"
        with pytest.raises(ValueError, match=got):
            slots_of(resources)


# Its own process, in a process group of its own
STARTS = """
import os, signal, sys
import study
import ray
from study import cluster
from study.opening import UsageError

@ray.remote
def worker():
    import torch
    return sys.executable, len(os.sched_getaffinity(0))

cluster.NONE_S = 3.0
signal.signal(signal.SIGTERM, lambda *_: None)
try:
    with cluster.running(dashboard=False):
        os.killpg(0, signal.SIGTERM)
        print(ray.get(worker.remote()))
except UsageError as error:
    print(error)
"""
# What stands in every worker's way, as a site's own start-up code may.
NO_WORKER = """
import os, sys
if any(part.endswith("default_worker.py") for part in sys.orig_argv):
    os.write(2, b"no licence for you\\n")
    os._exit(3)
"""


def started(executable: Path, environment: dict[str, str]) -> str:
    command = [str(executable), "-c", STARTS]
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=True, process_group=0
    )
    return done.stdout


def test_workers_start_from_any_path_and_have_all_cores_and_no_sigterm_of_the_studys(tmp_path: Path) -> None:
    environment = tmp_path / "My Drive & (first) last's"
    environment.symlink_to(sys.prefix)
    said = started(environment / "bin" / "python", {"OMP_PROC_BIND": "true", "GOMP_CPU_AFFINITY": "0"})
    assert said == f"{(str(environment / 'bin' / 'python'), len(os.sched_getaffinity(0)))}\n"


def test_what_keeps_workers_from_starting_is_told(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(NO_WORKER)
    said = started(Path(sys.executable), {"PYTHONPATH": str(tmp_path)})
    assert said.startswith("workers: got none, must start. Ray's logs end with:\n")
    assert "  raylet.err: no licence for you\n" in said
