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
    monkeypatch.setattr(cluster, "_ensure_token", lambda: None)
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
def test_a_token_that_others_could_read_is_told_of(
    mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cluster, "TOKEN", token := tmp_path / "auth_token")
    cluster._ensure_token()
    made = token.read_text()
    assert (len(made), token.stat().st_mode & 0o777, caplog.text) == (64, 0o600, "")
    token.chmod(mode)
    cluster._ensure_token()
    assert (token.read_text(), token.stat().st_mode & 0o777) == (made, 0o600)
    assert ("others could read it" in caplog.text) == (mode == 0o644)


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
