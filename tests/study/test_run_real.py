"""The command in a process of its own, in the oddest of places: who can reach it while it runs, and what is left after
the hardest end."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

import psutil
import pytest
from real_study import Study, left_alone

from study import cluster, data, provenance, records
from study.data import FashionMNIST
from study.files import read_json

pytestmark = pytest.mark.ray
SMOKE = Path("search_spaces/smoke.yaml").read_text().replace("epochs: 2\n", "epochs: 5\n")
SPACE = SMOKE.replace("{trials: 4, candidates: 1, seeds: 2}", "{trials: 3, candidates: 1, seeds: 1}").replace(
    "seeds: 2}", "seeds: 1}"
)
# What a run goes on with; the wall takes namespaces, which not every machine lets its users make.
POOR = ["taskset", "--cpu-list", str(min(os.sched_getaffinity(0))), "prlimit", "--nofile=256:256"]
WALLED = 'ip link set lo up && mount -t tmpfs -o size=64m none /dev/shm && exec "$@"'
WALL = ["unshare", "--user", "--map-root-user", "--net", "--mount", "sh", "-c", WALLED, "sh"]
# A stranger on this machine, who has another token.
STRANGER = "import ray, sys; ray.init(sys.argv[1], log_to_driver=False); print('in')"


# A file system that cannot lock as flock does, for the study's folder: what Python runs first in every process.
NO_FLOCK = """
import errno, fcntl, os
flock = fcntl.flock
def refuse(file, how):
    descriptor = file if isinstance(file, int) else file.fileno()
    if os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")) == ".lock":
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    flock(file, how)
fcntl.flock = refuse
"""


@pytest.fixture
def study(tmp_path: Path, fashion_mnist: FashionMNIST) -> Iterator[Study]:
    """One that is typed where nothing is as it should be."""
    made = Study(tmp_path / "my 'results' & (1)", SPACE, prefix="f'& ")
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "sitecustomize.py").write_text(NO_FLOCK)
    made.typed_in = tmp_path / "typed"
    for name in ("study", "analysis"):
        (made.typed_in / name).mkdir(parents=True)
        (made.typed_in / name / "__init__.py").touch()
    made.under = ["nohup"]
    made.python = [sys.executable, "-P", "-O"]
    known = (os.environ.get(data.ENVIRONMENT_VARIABLE), data._cache(), data.DEBIAN_FOLDER)
    nowhere = "127.0.0.1:9"
    made.environment = {  # as of `env -i`, with no more than this
        "PYTHONPATH": os.pathsep.join((str(tmp_path / "first"), str(Path.cwd()))),
        data.ENVIRONMENT_VARIABLE: next(str(at) for at in known if at and not data._lacking(Path(at))),
        "HOME": "/dev/null/none",
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"), f"http://{nowhere}"),
        "RAY_ADDRESS": nowhere,
        "RAY_AUTH_TOKEN_PATH": str(tmp_path / "no-such-token"),
    }
    yield made
    shutil.rmtree(made.temporary)


def answer(port: int, path: str) -> int | None:
    """Status of the HTTP server at a port of this machine; None if there is none."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, HTTPException):
        return None


def test_a_run_is_reached_from_this_machine_only_and_leaves_nothing_when_it_is_killed(study: Study) -> None:
    """It goes on with one core, 256 open files, 64 MiB of shared memory and no network."""

    def look_and_kill(driver: subprocess.Popen[str]) -> None:
        next(line for line in study.lines() if " epoch 1/" in line)
        driver.send_signal(signal.SIGHUP)  # the terminal is closed
        driver.send_signal(signal.SIGSTOP)  # a worker waits after an epoch until it is asked for the next one
        doors(study, driver.pid)
        driver.send_signal(signal.SIGKILL)

    assert study.run(look_and_kill) == -signal.SIGKILL
    before = study.trials()
    walled = subprocess.run([*WALL, "true"], capture_output=True, check=False).returncode == 0
    study.under = [*POOR, *(WALL if walled else [])]
    assert study.run(left_alone) == 0
    after = study.trials()
    assert {record.trial_id for record, _ in before.values()} <= {record.trial_id for record, _ in after.values()}
    said = study.log.read_text()
    assert said.isascii()
    assert re.search(rf"log in with the token in {re.escape(str(study.temporary))}/\S+/{cluster.TOKEN}\n", said)
    assert f"{sys.executable} -P -m study.run --resume space " in said
    assert "Recovered: " in said
    assert "was cut off in epoch" in said or "begins again" in said
    everything = [record for stage in records.STAGES for record in records.read_trials(study.folder, stage)]
    assert all(record.status in records.ENDED for record in everything)
    about = read_json(study.folder / "study.json")
    assert [noted["hardware"]["cores"] for noted in (*about["earlier_runs"], about)] == [provenance.cores(), 1]


def doors(study: Study, driver: int) -> None:
    """Every socket is on the loopback interface, and asks for the token unless it tells numbers only.

    Nor can other users reach Ray's files, which would be theirs to write.
    """
    [scratch] = study.temporary.iterdir()
    assert scratch.stat().st_mode & 0o777 == 0o700
    listening: dict[str, set[int]] = {}
    ports: set[int] = set()
    for process in study.processes():
        for at in process.net_connections():
            if at.status == psutil.CONN_LISTEN:
                assert at.laddr.ip in ("127.0.0.1", "::ffff:127.0.0.1"), process.name()
                listening.setdefault(process.name(), set()).add(at.laddr.port)
                if process.pid != driver:  # which is stopped, and answers nobody
                    ports.add(at.laddr.port)
    web = {port for port in ports if answer(port, "/api/jobs/") is not None}
    [gcs] = listening["gcs_server"]
    assert web
    assert gcs not in web
    for port in web:
        if answer(port, "/metrics") != 200:  # Prometheus's numbers
            assert {answer(port, path) for path in ("/api/jobs/", "/logs", "/nodes")} == {401}
    stranger = os.environ | {"RAY_AUTH_TOKEN": "0" * 64, "TMPDIR": str(study.temporary)}
    command = [sys.executable, "-c", STRANGER, f"127.0.0.1:{gcs}"]
    tried = subprocess.run(command, env=stranger, capture_output=True, text=True)
    assert "in" not in tried.stdout
    assert "authentication" in tried.stderr.lower(), tried.stderr
    assert (scratch / cluster.TOKEN).stat().st_mode & 0o777 == 0o600
