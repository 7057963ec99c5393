"""Ray for the length of one study: on this machine, reachable from here only, behind a token, and gone afterwards; or
a cluster that runs already, of nodes that share the results folder."""

from __future__ import annotations

import logging
import os
import re
import secrets
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, chdir, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray
from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from study.files import LOST_DISK
from study.janitor import LONGEST_TMPDIR, belongs, cleaned_up, room, undisturbed
from study.opening import UsageError, check_limits, token_path
from study.provenance import cores, gpu_count, typed

logger = logging.getLogger(__name__)

TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")  # where Ray looks first
# Settings that a study's own Ray has of this program, or may have of the user. Others tell of another Ray: where it is,
# what it has, what is to run before it starts. Those in lower case only tune Ray.
KEPT = {
    *TOKENS,
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO",
    "RAY_AIR_NEW_OUTPUT",
    "RAY_AUTH_MODE",
    "RAY_CHDIR_TO_TRIAL_DIR",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER",
    "RAY_USAGE_STATS_ENABLED",
}
TOKEN = "token"  # file, likewise in the run's folder
RAYS = "r"  # folder, which Ray opens to all users, within one that is this user's alone
ROOM_BYTES = 64 * 2**20  # for Ray's logs, sockets and the experiment's snapshots; some 2 MiB are used
STORE_BYTES = 2**30  # at most in shared memory at a time, the images among them: 60,000 take 45 MiB; the rest spills
# Until the first worker answers, which takes a few seconds: how long it may be before it is told, how long no process
# may even be there that is to become one, and how long a slow one may take. Ray itself waits for ever.
SLOW_S, NONE_S, LONGEST_S = 30.0, 30.0, 300.0
TROUBLE = re.compile(r"^\[[\d-]+ [\d:,]+ [EFC] ")  # in Ray's logs, which also hold states at length
LOG_LINES = 3
MEMORY = re.compile(r"Memory on the node .*was ([\d.]+)GB used / ([\d.]+)GB limit")  # of the death of a worker


@dataclass(frozen=True)
class Cluster:
    """Where to look while it runs."""

    dashboard: str | None  # host:port
    metrics: str | None  # host:port/metrics, for Prometheus
    token: str = ""  # the file that holds it, or the environment variable

    def how_to_watch(self, study: Path) -> list[str]:
        """What to open or type to watch a study."""
        login = f", log in with the token in {self.token}"
        lines = [f"  dashboard    http://{self.dashboard}{login}"] if self.dashboard else []
        lines += [f"  prometheus   http://{self.metrics}"] if self.metrics else []
        curves, journal = (shlex.quote(str(study / name)) for name in ("tensorboard", "search/optuna.journal"))
        programs = {
            "tensorboard": f"  tensorboard  {shlex.quote(typed('tensorboard'))} --logdir {curves}",
            "optuna-dashboard": f"  optuna       {shlex.quote(typed('optuna-dashboard'))} {journal}",
        }
        missing = [name for name in programs if not shutil.which(name, path=Path(sys.executable).parent)]
        lines += [line for name, line in programs.items() if name not in missing]
        if missing:
            lines.append(f"  for {' and '.join(missing)}: pip install -c constraints.txt -e .[watch]")
        return lines


@contextmanager
def running(dashboard: bool = True, address: str | None = None) -> Iterator[Cluster]:
    """Start Ray on the loopback interface, with all cores and GPUs of this machine; stop and clean up at the end.

    With `address` that of a cluster, which is used and left running. Where the calling process runs Ray already, that
    is used, and left as it is. Raises UsageError where no cluster answers at `address`, too little room is left for
    temporary files, or Ray or its workers do not start here.
    """
    if ray.is_initialized():
        yield Cluster(None, None)
        return
    check_limits()
    if address is None:
        _forget_other_rays()
    # Else it waits with this process for the first workers, out of reach of Python, and for ever if none starts.
    os.environ["RAY_prestart_worker_first_driver"] = "false"  # noqa: SIM112
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"  # under `uv run` workers start as this process does
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray moves tensors between no GPUs here; without this it warns of a coming change at every start.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_task_oom_retries", "2")  # else for ever
    with cleaned_up() as scratch, ExitStack() as stack:
        if shutil.disk_usage(scratch).free < ROOM_BYTES:
            at = room(Path(scratch).parent)
            must = f"{ROOM_BYTES / 2**20:,.0f} MiB, in a path of {LONGEST_TMPDIR} characters at most"
            raise UsageError(f"TMPDIR: got {at}, must be {must}")
        token = stack.enter_context(_token(Path(scratch), address))
        ours: dict[str, Any] = {
            "num_cpus": cores(),
            "num_gpus": gpu_count(),
            "object_store_memory": STORE_BYTES,
            "include_dashboard": dashboard,
            "dashboard_host": "127.0.0.1",
            "_temp_dir": f"{scratch}/{RAYS}",
        }
        if (quoted := shlex.quote(sys.executable)) != sys.executable:  # Ray gives it to a shell as it is
            ours["runtime_env"] = {"py_executable": quoted}
        try:
            options: dict[str, Any] = {} if address else ours
            with _ended_by_this_process_only():
                try:
                    with chdir(_imports(scratch)):
                        context: Any = ray.init(
                            address or "local", log_to_driver=False, logging_level=logging.ERROR, **options
                        )
                    if address is None:
                        _await_worker(Path(scratch))
                except UsageError:
                    raise
                except Exception as error:  # of as many kinds as there are ways to fail
                    if isinstance(error, OSError) and error.errno in LOST_DISK:
                        raise
                    why = reason(error)
                    if address:
                        got = f"--address: got {address} ({why}), must be a Ray cluster that runs"
                    else:
                        got = f"Ray: got {why}, must start{_log_end(Path(scratch))}"
                    raise UsageError(got) from error
            port = context.address_info.get("metrics_export_port")
            metrics = f"127.0.0.1:{port}/metrics" if port and not address else None
            yield Cluster(context.dashboard_url or None, metrics, token)
        finally:
            with undisturbed():
                _shut_down()


def _forget_other_rays() -> None:
    """Remove from the environment what would have a study's own Ray seek, or be, another one."""
    for name in [name for name in os.environ if name.startswith("RAY_") and name.isupper() and name not in KEPT]:
        del os.environ[name]


def _shut_down() -> None:
    """End Ray at once: its processes do not hear SIGTERM, and it would give each a second to heed it."""
    node = ray._private.worker._global_node
    if node is not None:
        kill = node.kill_all_processes

        def kill_at_once(**_: object) -> None:
            with undisturbed():  # anew: by now Ray has set what SIGTERM does by default
                kill(check_alive=False)

        node.kill_all_processes = kill_at_once
    ray.shutdown()


@contextmanager
def _ended_by_this_process_only() -> Iterator[None]:
    """Keep SIGTERM from what is started within: sent to all of a study's processes, it would look like their failure.

    Ray does so for SIGINT. Its own handler, which exits at once, does not stay.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    on_stop, mask = signal.getsignal(signal.SIGTERM), signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, on_stop)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@ray.remote(num_cpus=1, max_retries=0)
def _process() -> int:
    return os.getpid()


def _await_worker(scratch: Path) -> None:
    """Start a worker on each core, and wait for the first; raise UsageError, with the end of Ray's logs, if none comes.

    A slow machine has time, as long as one is on its way.
    """
    tasks = [_process.remote() for _ in range(cores())]
    begun = seen = time.monotonic()
    slow = False
    while not (answered := ray.wait(tasks, timeout=1)[0]):
        now = time.monotonic()
        seen = now if _starting(scratch) else seen
        if now - seen > NONE_S or now - begun > LONGEST_S:
            got = "none" if now - seen > NONE_S else f"none that answers within {LONGEST_S:.0f} s"
            raise UsageError(f"workers: got {got}, must start{_log_end(scratch)}")
        if not slow and now - begun > SLOW_S:
            slow = True
            logger.warning("No worker has answered within %.0f s; still waiting%s", SLOW_S, _log_end(scratch))
    try:
        ray.get(answered)
    except RayError as error:
        raise UsageError(f"workers: got none ({reason(error)}), must start{_log_end(scratch)}") from error


def _starting(scratch: Path) -> bool:
    """Whether a process of this run is to become a worker; once it is one, its title is another."""
    for process in psutil.process_iter():  # psutil's search of children fails where /proc hides others' processes
        with suppress(psutil.Error):  # gone meanwhile, or another user's
            if any(part.endswith("_worker.py") for part in process.cmdline()) and belongs(process, str(scratch)):
                return True
    return False


def reason(error: BaseException) -> str:
    """What an error of Ray's says, in a line."""
    return out_of_memory(str(error)) or (str(error).strip() or type(error).__name__).splitlines()[0]


def out_of_memory(text: str) -> str | None:
    """Return, in a line, what Ray says at length where it ends a worker for want of memory; None for other texts."""
    found = MEMORY.search(text)
    return f"out of memory: {found[1]} of {found[2]} GB were in use, and Ray ended the worker" if found else None


def _log_end(scratch: Path) -> str:
    """What Ray's logs told last of trouble, from a new line on; nothing if there is nothing."""
    told = []
    for path in sorted(scratch.glob(f"{RAYS}/session_latest/logs/*.[eo][ru][rt]")):
        lines = path.read_text(errors="replace").splitlines()
        lines = [line for line in lines if TROUBLE.match(line) or (path.suffix == ".err" and re.match("[^:]", line))]
        told += [f"  {path.name}: {line.strip()}" for line in lines[-LOG_LINES:]]
    return "\n".join([". Ray's logs end with:", *told]) if told else ""


def nodes() -> list[dict[str, Any]]:
    """The cluster's nodes that can train."""
    return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]


def check_shared(file: Path) -> None:
    """Raise UsageError, naming the node, where one has another file there, or none, or not this project."""
    text = file.read_text()
    for node in nodes():
        strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        try:
            seen = ray.get(_text.options(scheduling_strategy=strategy).remote(str(file.absolute())))
        except RayError as error:
            seen, why = None, str(error).strip().splitlines()[-1]
        else:
            why = "another file"
        if seen != text:
            where = f"{file.parent} on node {node['NodeManagerAddress']}"
            raise UsageError(f"--results: got {why} in {where}, must be a folder that all nodes of --address share")


@ray.remote(num_cpus=0)
def _text(path: str) -> str:
    return Path(path).read_text()


def _imports(scratch: str) -> Path:
    """Return the current folder for Ray to start in: its workers import from there before anywhere else.

    The user's could hold another `study`. This project's own holds nothing that hides a library, an installed one may.
    """
    folder = Path(__file__).parents[1]
    return Path(scratch) if folder.name in ("site-packages", "dist-packages") else folder


@contextmanager
def _token(scratch: Path, address: str | None) -> Iterator[str]:
    """Let Ray and all of its processes know a token; gives the file that holds it, or the environment variable.

    A Ray of this run's own has a new one, that only this user can read. A cluster has this user's.
    """
    before = {name: os.environ[name] for name in TOKENS if name in os.environ}
    if address:
        path = token_path().absolute()
        _guard(path)
    else:
        path = scratch / TOKEN
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        os.environ.pop("RAY_AUTH_TOKEN", None)
    if not address or "RAY_AUTH_TOKEN_PATH" in os.environ:
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(path)
    AuthenticationTokenLoader.instance().reset_cache()  # that of an earlier Ray of this process
    try:
        yield "$RAY_AUTH_TOKEN" if os.environ.get("RAY_AUTH_TOKEN") else str(path)
    finally:
        for name in TOKENS:
            os.environ.pop(name, None)
        os.environ |= before


def _guard(path: Path) -> None:
    """Let only this user read the token; Ray's own is created readable by all."""
    with suppress(OSError):  # it is somewhere else, or another user's
        if path.stat().st_mode & 0o077:
            logger.warning(
                "%s: others could read it until now; for a new one, stop Ray, delete it, and begin again", path
            )
            path.chmod(0o600)
