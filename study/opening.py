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
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TextIO

import psutil

from study import files, provenance, records, space_file
from study.space import Budget, Fidelity, Space

EXTENSION = ("trials", "seeds", "time_budget")  # what --extend may change
ANY_RUN = ("results", "data_dir", "address", "dry_run")  # options that no study keeps to
REACH_S = 10.0
ADDRESS_BYTES, THREADS = 8 << 30, 400  # what a process of a study on two cores maps at most, and what all start
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
MARKS = "1 to 100 letters, digits, '.', '_' or '-', of which a letter or digit comes first"


class UsageError(ValueError):
    """What was asked for cannot be; the message names the option, what it got and what it must be."""


@dataclass(frozen=True)
class Settings:
    """What the command line decided, kept in study.json so that a resumed study keeps to it."""

    fidelity: Fidelity
    rule: Literal["asha", "one-epoch", "none"]
    seed: int
    budget: Budget
    time_budget_s: float | None  # of the search, over all runs of the study
    cores: int | None
    gpus: float | None

    @staticmethod
    def from_json(values: dict[str, Any]) -> Settings:
        return Settings(**{**values, "budget": Budget(**values["budget"])})


@dataclass(frozen=True)
class Study:
    """A study to run: where, what, how, and what was written of it before."""

    folder: Path
    space: Space  # at the study's fidelity, with its budget
    settings: Settings
    earlier: dict[str, Any] | None  # study.json; None for a new study


def open_study(arguments: argparse.Namespace) -> Study:
    """The study that the command line means; writes nothing. Raises SpaceError, UsageError or RecordError."""
    for option in ("resume", "extend", "name"):
        name = getattr(arguments, option)
        if name is not None and not NAME.fullmatch(name):
            raise UsageError(f"--{option}: got {name!r}, must be {MARKS}")
    if arguments.address:
        _reach(arguments.address)
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


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Keep a second run out of the folder while this one lasts; gives the lock's file descriptor. Raises UsageError.

    The lock ends with the last process that has the file open: where a run was killed, when it has been cleaned up. A
    folder made for a study that was never begun is removed.
    """
    ours = not folder.exists() or (folder / ".lock").exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a+")
    except OSError as error:
        raise UsageError(f"--results: got {folder.parent} ({error.strerror}), must be a folder to write to") from error
    busy = UsageError(f"{folder.name}: another run is working on it; wait for it, or begin one with another --name")
    with file:
        while not _taken(file):
            file.seek(0)
            host, _, process = file.read().partition(" ")
            if host != platform.node() or not re.fullmatch(r"\d{1,9}", process) or psutil.pid_exists(int(process)):
                raise busy
            time.sleep(0.1)  # it was killed; what it left is being cleaned up
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
                (folder / ".lock").unlink(missing_ok=True)
                with suppress(OSError):  # there is something in it
                    folder.rmdir()


def _taken(lock: TextIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
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
    """Raise UsageError where the shell's or a control group's limits would have Ray abort, and this process with it."""
    space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if space != resource.RLIM_INFINITY and space < ADDRESS_BYTES:
        must = f"{ADDRESS_BYTES >> 10} or unlimited: Ray and torch map far more than they use"
        raise UsageError(f"ulimit -v: got {space >> 10}, must be at least {must}")
    threads = provenance.free_threads()
    if threads is not None and threads < THREADS:
        got = f"{threads} processes and threads that may still be started"
        raise UsageError(f"ulimit -u, or a container's limit: got {got}, must be at least {THREADS}, which Ray starts")


def _new(arguments: argparse.Namespace) -> Study:
    """A study of --space."""
    results: Path = arguments.results
    full = space_file.load(space_file.find(arguments.space))
    settings = _settings(arguments, full)
    if arguments.name is None and not NAME.fullmatch(f"{full.name}-1000"):
        got = f"got none, and no name can be made of {full.name!r}"
        raise UsageError(f"--name: {got}, must be given where the file's own name has other than {MARKS}")
    name = arguments.name or _free_name(results, full.name)
    if arguments.name and (results / name / "study.json").exists():
        raise UsageError(f"--name: got {name}, which {results} holds already; go on with --resume {name}, or rename")
    study = Study(results / name, _apply(full, settings), settings, None)
    if study.folder.exists():
        files.refuse_links(study.folder)
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
    return Study(folder, _apply(full, settings), settings, earlier)


def _extended(
    arguments: argparse.Namespace, folder: Path, full: Space, settings: Settings, earlier: dict[str, Any]
) -> tuple[Settings, dict[str, Any]]:
    """Settings and study.json with what --extend adds. The search is taken up again only where trials are added."""
    budget, trials, seeds = settings.budget, arguments.trials, arguments.seeds
    if trials is None and seeds is None:
        raise UsageError("--extend: got neither --trials nor --seeds, must say how much more to run")
    if trials is None and arguments.time_budget is not None:
        raise UsageError("--time-budget: got no --trials with it, must be given for trials that --extend adds")
    if seeds is not None and seeds <= budget.seeds:
        raise UsageError(
            f"--seeds: got {seeds}, must be above {budget.seeds}, those that there are: it is the new total"
        )
    if trials is None:
        return replace(settings, budget=replace(budget, seeds=seeds)), earlier
    trials = max(len(records.read_trials(folder, "search")) + trials, len(full.arms))
    budget = _budget(full, settings.fidelity, trials, seeds or budget.seeds)
    spent = earlier["stages"].get("search", {}).get("wall_seconds", 0.0)
    time_budget_s = None if arguments.time_budget is None else spent + arguments.time_budget
    return replace(settings, budget=budget, time_budget_s=time_budget_s), earlier | {"search_over": False}


def _settings(arguments: argparse.Namespace, full: Space) -> Settings:
    """What the command line gives, and for the rest the space's own numbers at the fidelity."""
    fidelity: Fidelity = arguments.fidelity or ("full" if provenance.gpu_count() else "preview")
    budget = full.at(fidelity).budget
    trials = arguments.trials or budget.trials
    if trials < len(full.arms):
        raise UsageError(f"--trials: got {trials}, must be at least {len(full.arms)}, for the arms are tried first")
    cores, most = arguments.cpus_per_trial, provenance.cores()
    if (cores or 1) > most:
        raise UsageError(f"--cpus-per-trial: got {cores}, must be at most {most}, all that there are")
    if arguments.gpus_per_trial and not provenance.gpu_count():
        raise UsageError(f"--gpus-per-trial: got {arguments.gpus_per_trial:g}, must be left out: there is no GPU")
    return Settings(
        fidelity=fidelity,
        rule=arguments.scheduler or "asha",
        seed=arguments.seed or 0,
        budget=_budget(full, fidelity, trials, arguments.seeds or budget.seeds),
        time_budget_s=arguments.time_budget,
        cores=cores,
        gpus=arguments.gpus_per_trial,
    )


def _budget(full: Space, fidelity: Fidelity, trials: int, seeds: int) -> Budget:
    """With the space's candidates, but no more than trials that are no arms. Raises UsageError."""
    budget = Budget(trials, min(full.at(fidelity).budget.candidates, trials - len(full.arms)), seeds)
    for field in fields(budget):
        if (got := getattr(budget, field.name)) not in field.metadata["range"]:
            raise UsageError(f"--{field.name}: got {got}, must be {field.metadata['range']}")
    return budget


def _apply(full: Space, settings: Settings) -> Space:
    return replace(full.at(settings.fidelity), budget=settings.budget)


def _free_name(results: Path, stem: str) -> str:
    name, number = stem, 1
    while (results / name).exists():
        number += 1
        name = f"{stem}-{number}"
    return name
