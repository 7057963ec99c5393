"""Ray for the length of one study: on this machine, reachable from here only, behind a token, and gone afterwards; or
a cluster that runs already, of nodes that share the results folder."""

from __future__ import annotations

import logging
import os
import secrets
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, chdir, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from study.janitor import LONGEST_TMPDIR, cleaned_up, room, undisturbed
from study.opening import UsageError, token_path
from study.provenance import cores, gpu_count, typed

logger = logging.getLogger(__name__)

TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")  # where Ray looks first
TOKEN = "token"  # file, likewise in the run's folder
RAYS = "r"  # folder, which Ray opens to all users, within one that is this user's alone
ROOM_BYTES = 64 * 2**20  # for Ray's logs, sockets and the experiment's snapshots; some 2 MiB are used


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
            "tensorboard": f"  tensorboard  {typed('tensorboard')} --logdir {curves}",
            "optuna-dashboard": f"  optuna       {typed('optuna-dashboard')} {journal}",
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
    is used, and left as it is. Raises UsageError where no cluster answers at `address`, or too little room is left for
    temporary files.
    """
    if ray.is_initialized():
        yield Cluster(None, None)
        return
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
        ours = {
            "num_cpus": cores(),
            "num_gpus": gpu_count(),
            "include_dashboard": dashboard,
            "dashboard_host": "127.0.0.1",
            "_temp_dir": f"{scratch}/{RAYS}",
        }
        try:
            options: dict[str, Any] = {} if address else ours
            on_stop = signal.getsignal(signal.SIGTERM)
            try:
                with chdir(_imports(scratch)):
                    context: Any = ray.init(
                        address or "local", log_to_driver=False, logging_level=logging.ERROR, **options
                    )
            except (ConnectionError, RayError, RuntimeError, ValueError) as error:
                if address is None:
                    raise
                why = str(error).strip().splitlines()[0]
                raise UsageError(f"--address: got {address} ({why}), must be a Ray cluster that runs") from error
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, on_stop)  # Ray has put its own in place, which exits at once
            port = context.address_info.get("metrics_export_port")
            metrics = f"127.0.0.1:{port}/metrics" if port and not address else None
            yield Cluster(context.dashboard_url or None, metrics, token)
        finally:
            with undisturbed():
                ray.shutdown()


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
