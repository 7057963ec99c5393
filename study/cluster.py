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
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from study.janitor import LONGEST_TMPDIR, cleaned_up, room, undisturbed
from study.opening import UsageError
from study.provenance import cores, gpu_count, typed

logger = logging.getLogger(__name__)

TOKEN = Path("~/.ray/auth_token")
RAYS = "r"  # folder, which Ray opens to all users, within one that is this user's alone
ROOM_BYTES = 64 * 2**20  # for Ray's logs, sockets and the experiment's snapshots; some 2 MiB are used


@dataclass(frozen=True)
class Cluster:
    """Where to look while it runs."""

    dashboard: str | None  # host:port
    metrics: str | None  # host:port/metrics, for Prometheus

    def how_to_watch(self, study: Path) -> list[str]:
        """What to open or type to watch a study."""
        lines = [f"  dashboard    http://{self.dashboard}, log in with the token in {TOKEN}"] if self.dashboard else []
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
    _ensure_token()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray moves tensors between no GPUs here; without this it warns of a coming change at every start.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_task_oom_retries", "2")  # else for ever
    with cleaned_up() as scratch:
        if shutil.disk_usage(scratch).free < ROOM_BYTES:
            at = room(Path(scratch).parent)
            must = f"{ROOM_BYTES / 2**20:,.0f} MiB, in a path of {LONGEST_TMPDIR} characters at most"
            raise UsageError(f"TMPDIR: got {at}, must be {must}")
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
                context: Any = ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **options)
            except (ConnectionError, RayError, RuntimeError, ValueError) as error:
                if address is None:
                    raise
                why = str(error).strip().splitlines()[0]
                raise UsageError(f"--address: got {address} ({why}), must be a Ray cluster that runs") from error
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, on_stop)  # Ray has put its own in place, which exits at once
            port = context.address_info.get("metrics_export_port")
            yield Cluster(context.dashboard_url or None, f"127.0.0.1:{port}/metrics" if port and not address else None)
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


def _ensure_token() -> None:
    """A token that only this user can read; Ray's own is created readable by all."""
    path = TOKEN.expanduser()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size:
        if path.stat().st_mode & 0o077:
            logger.warning(
                "%s: others could read it until now; for a new one, stop Ray, delete it, and begin again", path
            )
            path.chmod(0o600)
        return
    made = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    if path.exists() and not path.stat().st_size:
        os.replace(made, path)
        return
    with suppress(FileExistsError):  # another study was first
        os.link(made, path)
    made.unlink()
