"""Open a study for the command: a new one, or one to go on with, and what the command line decides about it.

What it decides is kept in study.json, so that a study that goes on keeps to what it was begun with; only `--extend`
changes the numbers of trials and seeds, and the time of the search. One run at a time works on a study: see `locked`.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import platform
import re
import resource
import shutil
import socket
import struct
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import FrameType
from typing import Any, Literal, TextIO

import psutil

from study import files, provenance, records, space_file
from study.space import Budget, Fidelity, Preview, Scale, Space

EXTENSION = ("trials", "seeds", "time_budget")  # what --extend may change
ANY_RUN = ("results", "data_dir", "address", "dry_run")  # options that no study keeps to
SCALE = "scale.json"  # beside space.yaml: what a preview was fitted to
RESULTS = Path("results")  # the default of --results, and this very object where it was not typed
REACH_S = 10.0
DEFAULT_FIT_S = 600.0  # of a study on a machine without a GPU
ADDRESS_BYTES, THREADS = 8 << 30, 400  # what a process of a study on two cores maps at most, and what all start
LIMITS = (
    ("v", resource.RLIMIT_AS, ADDRESS_BYTES, "Ray and torch map far more than they use"),
    ("f", resource.RLIMIT_FSIZE, 2 << 30, "Ray's shared memory is a file"),
)
# Settings of torch's memory, of which it reads the first that is set as it is loaded.
ALLOCATORS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
ALLOCATOR = re.compile(r"(\s*[^\s:,\[\]]+\s*:\s*(\[[^\[\]]*\]|[^:,\[\]]+)(,|$))*\s*")
# What decides which file an import finds, and how it is run.
OF_IMPORTS = ("LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONPATH")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
MARKS = "1 to 100 letters, digits, '.', '_' or '-', of which a letter or digit comes first"


class UsageError(ValueError):
    """What was asked for cannot be; the message names the option, what it got and what it must be."""


class _Busy(UsageError):
    """Another run has the study's folder."""


@dataclass(frozen=True)
class Settings:
    """What the command line decided, kept in study.json so that a resumed study keeps to it."""

    fidelity: Fidelity
    rule: Literal["asha", "one-epoch", "none"]
    seed: int
    scale: Scale
    fit_s: float | None  # from the command to the page, to which a preview was fitted
    time_budget_s: float | None  # of the search, over all runs of the study
    cores: int | None
    gpus: float | None

    @staticmethod
    def from_json(values: dict[str, Any]) -> Settings:
        return Settings(**{**values, "scale": Scale.from_json(values["scale"])})


@dataclass(frozen=True)
class Study:
    """A study to run: where, what, how, and what was written of it before."""

    folder: Path
    space: Space  # at the study's fidelity, with its budget
    settings: Settings
    earlier: dict[str, Any] | None  # study.json; None for a new study
    unfitted: bool = False  # a preview is still to be fitted to a time; the space is that of the file, with bounds

    @property
    def full(self) -> Space:
        """Of an unfitted study: the full one, with the command line's numbers of trials and seeds."""
        return _at_scale(self.space, "full", self.settings.scale)


def open_study(arguments: argparse.Namespace) -> Study:
    """The study that the command line means; writes nothing. Raises SpaceError, UsageError or RecordError."""
    for option in ("resume", "extend"):
        if name := getattr(arguments, option):
            arguments.results, name = place(f"--{option}", name, arguments.results)
            setattr(arguments, option, name)
    for option in ("resume", "extend", "name"):
        name = getattr(arguments, option)
        if name is not None and not NAME.fullmatch(name):
            raise UsageError(f"--{option}: got {name!r}, must be {MARKS}")
    if arguments.address:
        _reach(arguments.address)
        _check_token()
    if arguments.space is not None:
        return _new(arguments)
    return _earlier(arguments, arguments.resume or arguments.extend)


def _reach(address: str) -> None:
    """Raise UsageError where nobody listens at HOST:PORT, for which Ray would wait for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_S).close()
    except (OSError, OverflowError) as error:
        got = f"{address} ({getattr(error, 'strerror', None) or error})"
        raise UsageError(f"--address: got {got}, must be a Ray cluster that runs") from error


def token_path() -> Path:
    """Return the file in which Ray looks for this user's token, unless $RAY_AUTH_TOKEN holds it."""
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return Path(named) if named else Path(os.environ.get("HOME") or ".", ".ray", "auth_token")


def _check_token() -> None:
    """Raise UsageError where Ray finds no token of this user, which it would say once all is measured."""
    from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]  # seconds to import
    from ray.exceptions import AuthenticationError

    AuthenticationTokenLoader.instance().reset_cache()  # that of an earlier Ray of this process
    try:
        there = AuthenticationTokenLoader.instance().has_token()
    except AuthenticationError:  # $RAY_AUTH_TOKEN_PATH leads nowhere
        there = False
    if not there:
        must = "the token that the cluster was started with: copy it there, or set RAY_AUTH_TOKEN_PATH"
        raise UsageError(f"--address: got no token in {token_path()}, must be {must}")


def place(option: str, name: str, results: Path) -> tuple[Path, str]:
    """Return the results folder and the name of a study, which is given by its name or, as by Tab, by its path.

    Raises UsageError where the path leads to another folder than --results.
    """
    path = Path(name)
    if "/" not in name or (path.parent == Path() and not os.path.exists(path / "study.json")):
        return results, name.rstrip("/")
    if results is not RESULTS and path.parent.resolve() != results.resolve():
        raise UsageError(f"{option}: got {name} and --results {results}, must be in one folder; leave out --results")
    return path.parent, path.name


def check_surroundings(module: str) -> None:
    """Raise UsageError where other packages hide this program's, where what is typed is no text, or where the
    environment holds what torch cannot read.
    """
    for name in ("study", "analysis"):
        package, folder = sys.modules.get(name), Path(__file__).parent.with_name(name)
        if package is not None and folder.resolve() not in (Path(at).resolve() for at in package.__path__):
            got = f"got {next(iter(package.__path__))}, must be {folder}"
            raise UsageError(f"{name}: {got}, which it hides: type python -P -m {module} …, or go to another folder")
    for name in ALLOCATORS:
        if not ALLOCATOR.fullmatch(got := os.environ.get(name, "")):
            raise UsageError(f"{name}: got {got!r}, must be as in key:value,key:value, or torch aborts")
    for word in psutil.Process().cmdline():  # Ray notes them
        if any("\ud800" <= sign <= "\udfff" for sign in word):
            raise UsageError(f"{word}: got bytes that are no text here, must be UTF-8: set PYTHONUTF8=1, or rename it")


def broken_library(error: Exception) -> str | None:
    """Return what to say of an error if an installed library raised it while it was imported; else None.

    As where a library that it needs is missing, or where the environment holds a setting that it refuses.
    """
    ours = [Path(__file__).parents[1] / name for name in ("study", "analysis")]
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    theirs: list[FrameType] = []
    while frames and not any(Path(frames[-1].f_code.co_filename).is_relative_to(folder) for folder in ours):
        theirs.append(frames.pop())
    if not (theirs and theirs[-1].f_code.co_name == "<module>"):
        return None
    library = str(theirs[-1].f_globals["__name__"]).partition(".")[0]
    line = next((line for line in str(error).splitlines() if line.strip()), "")
    settings = [name for name in os.environ if name.startswith(f"{library.upper()}_") or name in OF_IMPORTS]
    of_them = f"; the environment sets {', '.join(sorted(settings))}" if settings else ""
    return f"{library}: got {type(error).__name__} ({line}), must be a library that can be imported{of_them}"


@contextmanager
def claimed(study: Study, numbered: bool) -> Iterator[tuple[Study, int]]:
    """Lock the study's folder; gives the study and what `locked` gives.

    `numbered`: nobody has named the study, and it takes another number where another run was first. Raises UsageError.
    """
    with ExitStack() as stack:
        while True:
            try:
                lock = stack.enter_context(locked(study.folder, new=numbered))
                break
            except _Busy:
                if not numbered:
                    raise
                results = study.folder.parent
                study = replace(study, folder=results / _free_name(results, study.space.name))
        yield study, lock


@contextmanager
def locked(folder: Path, new: bool = False) -> Iterator[int]:
    """Keep a second run out of the folder while this one lasts; gives the lock's file descriptor. Raises UsageError.

    The lock ends with the last process that has the file open: where a run was killed, when it has been cleaned up. A
    folder made for a study that was never begun is removed, and those made above it. `new`: the folder must not exist.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    ours = bool(made) or (folder / ".lock").exists()
    busy = _Busy(f"{folder.name}: another run is working on it; wait for it, or begin one with another --name")
    try:
        folder.mkdir(parents=True, exist_ok=not new)
        file = (folder / ".lock").open("a+")
    except OSError as error:
        if new and isinstance(error, FileExistsError) and folder.is_dir():
            raise busy from error
        raise UsageError(f"--results: got {folder.parent} ({error.strerror}), must be a folder to write to") from error
    with file:
        try:
            taken = _taken(file)
        except OSError as error:
            if made:
                _remove(made)
            must = "on a file system with locks: mount it with them (Lustre: -o flock), or name another folder"
            raise UsageError(f"--results: got {folder.parent} ({error.strerror}), must be {must}") from error
        while not taken:
            file.seek(0)
            host, _, process = file.read().partition(" ")
            if host != platform.node() or not re.fullmatch(r"\d{1,9}", process) or psutil.pid_exists(int(process)):
                raise busy
            time.sleep(0.1)  # it was killed; what it left is being cleaned up
            taken = _taken(file)
        try:
            ours_still = os.path.samestat(os.fstat(file.fileno()), (folder / ".lock").stat())
        except FileNotFoundError:
            ours_still = False
        if not ours_still:  # a run that began nothing has removed it meanwhile
            raise busy
        file.seek(0)
        file.truncate()
        file.write(f"{platform.node()} {os.getpid()}")
        file.flush()
        try:
            yield file.fileno()
        finally:
            if ours and not (folder / "study.json").exists():
                _remove(made or [folder])


def _remove(folders: list[Path]) -> None:
    """Remove a study's folder that holds its lock alone, and then those made above it."""
    (folders[0] / ".lock").unlink(missing_ok=True)
    with suppress(OSError):  # there is something in it
        for folder in folders:
            folder.rmdir()


def _taken(lock: TextIO) -> bool:
    """Take the lock if it is free. Raises OSError where the file system has none.

    Either kind belongs to the open file, which the process that cleans up keeps open, and not to a process.
    """
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # Lustre, some NFS and FUSE
        whole = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        try:
            fcntl.fcntl(lock, fcntl.F_OFD_SETLK, whole)
        except (BlockingIOError, PermissionError):  # POSIX allows either
            return False
    return True


def check_disk(folder: Path, needed: int) -> None:
    """Raise UsageError where the folder, there or still to be made, cannot be written, or has too few bytes free."""
    at = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not (at.is_dir() and os.access(at, os.W_OK | os.X_OK)):
        raise UsageError(f"--results: got {folder.parent}, must be a folder to write to")
    if (free := shutil.disk_usage(at).free) < needed:
        raise UsageError(f"--results: got {free / 2**20:,.0f} MiB free at {at}, must be {needed / 2**20:,.0f} MiB")


def check_limits() -> None:
    """Raise UsageError where the shell's or a control group's limits would have Ray abort, and this process with it, or
    where its processes could not reach each other.
    """
    for option, limit, least, why in LIMITS:
        got, _ = resource.getrlimit(limit)
        if got != resource.RLIM_INFINITY and got < least:
            raise UsageError(f"ulimit -{option}: got {got >> 10}, must be at least {least >> 10} or unlimited: {why}")
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), REACH_S).close()
    except OSError as error:  # Ray would wait for minutes
        met = f"got {error.strerror or error}, must be reached by programs here: switch the loopback interface on"
        raise UsageError(f"127.0.0.1: {met}") from error
    threads = provenance.free_threads()
    if threads is not None and threads < THREADS:
        found = f"{threads} processes and threads that may still be started"
        must = f"at least {THREADS}, which Ray starts"
        raise UsageError(f"ulimit -u, or a container's limit: got {found}, must be {must}")


def _new(arguments: argparse.Namespace) -> Study:
    """A study of --space."""
    results: Path = arguments.results
    full = space_file.load(space_file.find(arguments.space))
    settings, full = _settings(arguments, full)
    if arguments.name is None and not NAME.fullmatch(f"{full.name}-1000"):
        got = f"got none, and no name can be made of {full.name!r}"
        raise UsageError(f"--name: {got}, must be given where the file's own name has other than {MARKS}")
    name = arguments.name or _free_name(results, full.name)
    if arguments.name and (results / name / "study.json").exists():
        raise UsageError(f"--name: got {name}, which {results} holds already; go on with --resume {name}, or rename")
    study = Study(results / name, full, settings, None, settings.fit_s is not None)
    if study.folder.exists():
        files.refuse_links(study.folder)
    if not study.unfitted:
        return fitted(study, _at_scale(full, settings.fidelity, settings.scale))
    kept = study.folder / SCALE
    if kept.is_file():  # of a study that has lost its study.json
        return fitted(study, study.full.scaled(_given(arguments, _kept_scale(kept), len(full.arms))))
    return study


def _kept_scale(path: Path) -> Scale:
    """Return the scale that a preview was fitted to. Raises RecordError."""
    values = files.read_json(path)
    try:
        scale = Scale.from_json(values)
        if wrong := files.misfit(scale, Scale):
            raise ValueError(wrong)
    except (KeyError, TypeError, ValueError) as error:
        raise files.broken(path, str(error), "the scale that this program wrote") from error
    return scale


def fitted(study: Study, space: Space) -> Study:
    """Return the study with a space at its scale. Raises UsageError where the study's trials are of another."""
    scale = space.scale if study.unfitted and space.fidelity == "preview" else study.settings.scale
    settings = replace(study.settings, fidelity=space.fidelity, scale=scale)
    space = _at_scale(study.space, space.fidelity, scale)  # less than the space's file has, whatever was typed
    study = replace(study, space=space, settings=settings, unfitted=False)
    if study.folder.exists():
        _check_kept(study)
    return study


def _check_kept(study: Study) -> None:
    """Raise UsageError where trials that a lost study.json left behind are of another study than that to begin."""
    space, old = study.space, study.folder / "space.yaml"
    known = [record for stage in records.STAGES for record in records.read_trials(study.folder, stage)]
    must = f"the space, --seed and --fidelity that {study.folder} was begun with, or another --name"
    if known and old.is_file() and old.read_bytes() != space.text.encode():
        raise UsageError(f"--space: got another than {old}, must be {must}")
    for record in known:
        config, arm, searched = record.config, record.arm, record.stage == "search"
        fits = config == space.arms.get(arm) if arm else space.parameters_in_search(config) is not None
        fits = fits and (record.seed, record.max_epochs) == (study.settings.seed, min(config.epochs, space.epochs))
        if record.split not in (None, space.split.text) or (searched and not fits):
            raise UsageError(f"--space: got one to which {record.trial_id} there does not belong, must be {must}")


def _earlier(arguments: argparse.Namespace, name: str) -> Study:
    """The study that --resume or --extend names, with what an extension adds."""
    results: Path = arguments.results
    option, folder = "--resume" if arguments.resume else "--extend", results / name
    kept_to, added = ("name", "fidelity", "scheduler", "cpus_per_trial", "gpus_per_trial", "seed"), EXTENSION
    if given := [k for k in (*kept_to, *(added if arguments.resume else ())) if getattr(arguments, k) is not None]:
        allowed = ANY_RUN if arguments.resume else (*EXTENSION, *ANY_RUN)
        got, must = (", ".join(f"--{key.replace('_', '-')}" for key in keys) for keys in (given, allowed))
        raise UsageError(f"{option}: got {got} too, must stand with {must} only: a study keeps what it was begun with")
    if not (folder / "study.json").exists():
        known = ", ".join(sorted(path.parent.name for path in results.glob("*/study.json"))) or "none"
        raise UsageError(f"{option}: got {name}, must be one of: {known}")
    earlier = records.read_study(folder)
    if (version := earlier.get("schema_version")) != records.SCHEMA_VERSION:
        must = f"{records.SCHEMA_VERSION}: this program would train otherwise; go on with that of commit"
        commit = (earlier.get("git") or {}).get("commit")
        raise UsageError(f"{option}: got a study of version {version}, must be {must} {commit}, or begin anew")
    try:
        settings = Settings.from_json(earlier["settings"])
        if wrong := files.misfit(settings, Settings):
            raise ValueError(wrong)
        space, *_ = (earlier[key] for key in ("space", "stages", "hardware"))
        gpus, device = (earlier["plan"][key] for key in ("gpus", "device"))
    except (KeyError, TypeError, ValueError) as error:
        raise files.broken(folder / "study.json", f"{error!r}", "what this program wrote") from error
    if (settings.cores or 1) > (here := provenance.cores()):
        must = f"at least {settings.cores}, the --cpus-per-trial that the study was begun with"
        raise UsageError(f"{option}: got {here} cores here, must be {must}")
    if gpus and not provenance.gpu_count():
        raise UsageError(f"{option}: got no GPU here, must be one: the study was begun on {device}")
    full = replace(space_file.load(folder / "space.yaml"), name=Path(space).stem)
    if arguments.extend:
        settings, earlier = _extended(arguments, folder, full, settings, earlier)
    return Study(folder, _at_scale(full, settings.fidelity, settings.scale), settings, earlier)


def _extended(
    arguments: argparse.Namespace, folder: Path, full: Space, settings: Settings, earlier: dict[str, Any]
) -> tuple[Settings, dict[str, Any]]:
    """Settings and study.json with what --extend adds. The search is taken up again only where trials are added."""
    scale, budget, trials, seeds = settings.scale, settings.scale.budget, arguments.trials, arguments.seeds
    if trials is None and seeds is None:
        raise UsageError("--extend: got neither --trials nor --seeds, must say how much more to run")
    if trials is None and arguments.time_budget is not None:
        raise UsageError("--time-budget: got no --trials with it, must be given for trials that --extend adds")
    if seeds is not None and seeds <= budget.seeds:
        raise UsageError(
            f"--seeds: got {seeds}, must be above {budget.seeds}, those that there are: it is the new total"
        )
    if trials is None:
        return replace(settings, scale=replace(scale, budget=replace(budget, seeds=seeds))), earlier
    trials = max(len(records.read_trials(folder, "search")) + trials, len(full.arms))
    most = full if settings.fidelity == "full" else full.preview.most if settings.fit_s is None else full.preview.least
    budget = _budget(most.budget, len(full.arms), trials, seeds or budget.seeds)
    spent = earlier["stages"].get("search", {}).get("wall_seconds", 0.0)
    time_budget_s = None if arguments.time_budget is None else spent + arguments.time_budget
    settings = replace(settings, scale=replace(scale, budget=budget), time_budget_s=time_budget_s)
    return settings, earlier | {"search_over": False}


def _settings(arguments: argparse.Namespace, full: Space) -> tuple[Settings, Space]:
    """Return what the command line gives, the rest as the space has it; and the space with these bounds of previews."""
    fidelity: Fidelity | float = arguments.fidelity or ("full" if provenance.gpu_count() else DEFAULT_FIT_S)
    trials, arms = arguments.trials, len(full.arms)
    if (trials or arms) < arms:
        raise UsageError(f"--trials: got {trials}, must be at least {arms}, for the arms are tried first")
    cores, most = arguments.cpus_per_trial, provenance.cores()
    if (cores or 1) > most:
        raise UsageError(f"--cpus-per-trial: got {cores}, must be at most {most}, all that there are")
    if arguments.gpus_per_trial and not provenance.gpu_count():
        raise UsageError(f"--gpus-per-trial: got {arguments.gpus_per_trial:g}, must be left out: there is no GPU")
    scale = _given(arguments, full.scale, arms)
    bounds = [_given(arguments, end, arms) for end in (full.preview.least, full.preview.most)]
    full = replace(full, preview=Preview(*bounds))
    space = full.at("preview") if fidelity == "preview" else _at_scale(full, "full", scale)
    settings = Settings(
        fidelity=space.fidelity,  # a preview that has less of nothing is the full study
        rule=arguments.scheduler or "asha",
        seed=arguments.seed or 0,
        scale=scale if space.fidelity == "full" else full.preview.most,
        fit_s=fidelity if isinstance(fidelity, float) else None,
        time_budget_s=arguments.time_budget,
        cores=cores,
        gpus=arguments.gpus_per_trial,
    )
    return settings, full


def _given(arguments: argparse.Namespace, scale: Scale, arms: int) -> Scale:
    """Return the scale with the command line's numbers of trials and seeds. Raises UsageError."""
    budget = scale.budget
    budget = _budget(budget, arms, arguments.trials or budget.trials, arguments.seeds or budget.seeds)
    return replace(scale, budget=budget)


def _budget(budget: Budget, arms: int, trials: int, seeds: int) -> Budget:
    """Return the budget with other numbers, its candidates no more than trials that are no arms. Raises UsageError."""
    budget = Budget(trials, min(budget.candidates, trials - arms), seeds)
    for field in fields(budget):
        if (got := getattr(budget, field.name)) not in field.metadata["range"]:
            raise UsageError(f"--{field.name}: got {got}, must be {field.metadata['range']}")
    return budget


def recorded_space(folder: Path, about: dict[str, Any]) -> Space:
    """Return the space of a study's folder at the scale that `about`, its study.json, notes; else at its fidelity.

    Raises SpaceError, or KeyError, TypeError or ValueError where `about` is not what this program wrote.
    """
    full = space_file.load(folder / "space.yaml")
    settings = about.get("settings") or {}
    if "scale" not in settings:  # of a study before previews were fitted
        space = full.at(about.get("fidelity") or "full")
        return space.with_budget(Budget(**about["budget"])) if "budget" in about else space
    return _at_scale(full, about["fidelity"], Scale.from_json(settings["scale"]))


def _at_scale(full: Space, fidelity: Fidelity, scale: Scale) -> Space:
    """Return the space at a scale; that of a full study may have another budget than its file."""
    return (full if fidelity == "full" else full.scaled(scale)).with_budget(scale.budget)


def _free_name(results: Path, stem: str) -> str:
    name, number = stem, 1
    while (results / name).exists():
        number += 1
        name = f"{stem}-{number}"
    return name
