"""study.json: what ran, on what, from which code and data, and how long it took."""

from __future__ import annotations

import hashlib
import math
import os
import platform
import resource
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from study import data, files, records
from study.records import SCHEMA_VERSION, EpochRecord, Listener, Stage, TrialRecord

if TYPE_CHECKING:  # it needs Optuna, which processes that measure do without
    from study.space import Space

PACKAGES = ("torch", "torchvision", "ray", "optuna", "numpy", "pandas", "pyarrow", "scikit-learn")
PROCESS = Path("/proc/self")
MEMORY_LIMITS = ("memory.max", "memory.high", "memory.limit_in_bytes")  # of control groups; the last of version 1
OF_A_HOOK = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # by which git tells its hooks of the repository they are of
OF_A_RUN = ("command", "begun", "git", "versions", "hardware")  # of the last; the others' are in `earlier_runs`


class Book(Listener):
    """Keeps study.json up to date while a study runs; a resumed study adds to its earlier times.

    `all_cores`: those of a cluster; default: of this machine.
    """

    def __init__(
        self,
        folder: Path,
        earlier: dict[str, Any] | None,
        settings: dict[str, Any],
        plan: dict[str, Any],
        space: Space,
        command: list[str],
        all_cores: int | None = None,
    ) -> None:
        self.folder, self.cores, now = folder, all_cores or cores(), _now()
        self.content: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "name": folder.name,
            "status": "running",
            "fidelity": settings["fidelity"],
            "command": command,
            "space": f"{space.name}.yaml",
            "space_sha256": hashlib.sha256(space.text.encode()).hexdigest(),
            "seed": settings["seed"],
            "created": now,
            "begun": now,
            "ended": None,
            "git": git_state(),
            "versions": versions(),
            "hardware": hardware(),
            "data": data.CHECKSUMS,
            "split": vars(space.split),
            "budget": vars(space.budget),
            "epochs": space.epochs,
            "arms": list(space.arms),
            "settings": settings,
            "plan": plan,
            "stages": {},
            "search_over": False,
            "earlier_runs": [],
            "resumed": 0,
        }
        if earlier is not None:
            kept = {key: earlier[key] for key in ("created", "stages") if key in earlier}
            self.content |= kept | {"resumed": earlier.get("resumed", 0) + 1}
            past = {key: earlier.get(key) for key in OF_A_RUN}
            self.content["earlier_runs"] = [*earlier.get("earlier_runs", []), past]
            self.content["search_over"] = earlier.get("search_over", False)
        self._write()

    @property
    def search_over(self) -> bool:
        """Whether the time budget ended the search, which a resumed study is then not to take up again."""
        return bool(self.content["search_over"])

    @search_over.setter
    def search_over(self, over: bool) -> None:
        self.content["search_over"] = over
        self._write()

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """Measure a stage, whatever its end."""
        self.started, self.current = time.monotonic(), self.content["stages"].setdefault(stage, {})
        self.content["status"] = "running"
        self.before = self.wall(stage)
        try:
            yield
        finally:
            self.current["wall_seconds"] = self.before + time.monotonic() - self.started
            self.current |= self._costs(stage, self.current["wall_seconds"])
            self.content["status"] = "interrupted"
            self._write()

    def wall(self, stage: Stage) -> float:
        """Seconds that a stage has taken so far, over all runs of the study."""
        return float(self.content["stages"].get(stage, {}).get("wall_seconds", 0.0))

    def epoch_ended(self, record: TrialRecord, epoch: EpochRecord, best: float) -> None:
        """Write the time, so that a kill loses little of it."""
        self.current["wall_seconds"] = self.before + time.monotonic() - self.started
        self._write()

    def finish(self) -> None:
        """Note that the study is complete."""
        self.content |= {"status": "finished", "ended": _now()}
        self._write()

    def _costs(self, stage: Stage, wall: float) -> dict[str, Any]:
        epochs = [
            epoch
            for record in records.read_trials(self.folder, stage)
            for epoch in records.read_epochs(records.trial_folder(self.folder, record))
        ]
        cpu, plan = sum(epoch.cpu_seconds for epoch in epochs), self.content["plan"]
        return {
            "cpu_seconds": cpu,  # of the trials' processes while they trained and validated
            "busy_share": cpu / (wall * self.cores) if plan["gpus"] == 0 else None,
            # Of the GPU, or without one of the cores: the trials' time, times the share or the cores that each had.
            "device_seconds": sum(epoch.seconds for epoch in epochs) * (plan["gpus"] or plan["cores"]),
            "epochs": len(epochs),
            "image_passes": len(epochs) * self.content["split"]["train"],
        }

    def _write(self) -> None:
        files.write_json(self.folder / "study.json", self.content)


def gpu_count() -> int:
    """CUDA devices that torch sees."""
    import torch

    return torch.cuda.device_count()


def has_bf16() -> bool:
    """Return whether oneDNN has bf16 for this processor. The environment's ONEDNN_MAX_CPU_ISA=AVX2 switches it off."""
    import torch

    return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def cores() -> int:
    """Processor cores that this process may use: by its affinity, and by its control groups' quotas, rounded up."""
    found = [len(os.sched_getaffinity(0))]
    for group in _control_groups("cpu"):
        quota, period, *_ = *(_words(group / "cpu.max") or _quota(group)), "", ""
        if quota.isdecimal() and period.isdecimal():
            found.append(math.ceil(int(quota) / int(period)))
    return max(1, min(found))


def _quota(group: Path) -> list[str]:
    return _words(group / "cpu.cfs_quota_us") + _words(group / "cpu.cfs_period_us")


def free_memory() -> int:
    """Bytes that new processes can have: what the machine has left, within what every control group may still use."""
    free = [psutil.virtual_memory().available]
    for group in _control_groups("memory"):
        limits = [word for name in MEMORY_LIMITS for word in _words(group / name)]
        stat = _words(group / "memory.stat")
        counts = dict(zip(stat[::2], stat[1::2], strict=False))
        # Of version 1, `inactive_file` leaves out the groups below.
        reclaimable = int(counts.get("total_inactive_file", counts.get("inactive_file", 0)))
        used = _words(group / "memory.current") or _words(group / "memory.usage_in_bytes") or ["0"]
        free += [int(limit) - max(int(used[0]) - reclaimable, 0) for limit in limits if limit.isdecimal()]
    return min(free)


def free_threads() -> int | None:
    """Threads that this user's processes may still start, by `ulimit -u` and control groups; None without a limit."""
    free = []
    for group in _control_groups("pids"):
        limit, used = _words(group / "pids.max"), _words(group / "pids.current")
        if limit and used and limit[0].isdecimal():
            free.append(int(limit[0]) - int(used[0]))
    limit_of_user, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if limit_of_user != resource.RLIM_INFINITY and os.getuid():  # root is exempt
        processes = psutil.process_iter(["uids", "num_threads"])
        known = [found.info for found in processes if found.info["uids"]]  # /proc may hide other users' processes
        mine = [info["num_threads"] or 0 for info in known if info["uids"].real == os.getuid()]
        free.append(limit_of_user - sum(mine))
    return min(free, default=None)


def _control_groups(controller: str) -> Iterator[Path]:
    """Folders of this process's control groups, version 2's and of version 1 the controller's, and of those above.

    A limit of any of them holds: Slurm, systemd and Docker each set theirs at another level.
    """
    mounts = [line.split() for line in _lines("mountinfo")]
    for line in _lines("cgroup"):
        _, controllers, path = line.split(":", 2)
        for _, _, _, root, at, *rest in mounts:
            kind, *_, options = rest[rest.index("-") + 1 :]
            first = kind == "cgroup" and {controller} <= {*options.split(",")} & {*controllers.split(",")}
            if first or (kind == "cgroup2" and not controllers):
                # A container sees its own group as the root, and may be told the path that it has outside.
                known = Path(path).is_relative_to(root) and ".." not in path
                inside = Path(path).relative_to(root) if known else Path()
                yield from (Path(at) / part for part in (inside, *inside.parents))


def _lines(name: str) -> list[str]:
    path = PROCESS / name
    return path.read_text().splitlines() if path.exists() else []


def _words(path: Path) -> list[str]:
    """The words of a control group's file; none where it is not there."""
    try:
        return path.read_text().split()
    except OSError:
        return []


def typed(name: str | None = None) -> str:
    """How the user can type the interpreter, or a program beside it: its name, or its path from the current folder."""
    path = Path(sys.executable) if name is None else Path(sys.executable).with_name(name)
    if shutil.which(path.name) == str(path):
        return path.name
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def command(module: str, *arguments: str) -> str:
    """Return what the user can type to run a module of this program in the current folder."""
    # Elsewhere than in the project's own folder, what lies in the current one could hide its packages, without -P.
    safely = [] if Path(__file__).parents[1].samefile(Path.cwd()) else ["-P"]
    return shlex.join([typed(), *safely, "-m", module, *arguments])


def versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES}


def hardware() -> dict[str, Any]:
    """The machine, as far as it bears on speed."""
    import torch

    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": names[0].split(":", 1)[1].strip() if names else platform.processor(),
        "cores": cores(),
        "bf16": has_bf16(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }


def git_state(*besides: str) -> dict[str, Any]:
    """Commit of the code, and whether it, the spaces or `besides` had uncommitted changes; nulls outside a checkout."""
    root = Path(__file__).resolve().parent.parent

    environment = {name: value for name, value in os.environ.items() if name not in OF_A_HOOK}
    # Its code runs anyway, whoever owns it, as in a container; a repository around it need not be safe.
    command = ["git", "-c", f"safe.directory={root}", "-C", str(root)]

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    # A folder that was copied or installed into another repository is no part of it.
    ours = git("ls-files", "--error-unmatch", "study/provenance.py") is not None
    commit = git("rev-parse", "HEAD") if ours else None
    changes = git("status", "--porcelain", "--", "study", "search_spaces", *besides)
    return {"commit": commit, "dirty": None if commit is None else bool(changes)}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
