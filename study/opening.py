"""Open a study for the command: a new one, or one to go on with, and what the command line decides about it.

What it decides is kept in study.json, so that a study that goes on keeps to what it was begun with; only `--extend`
changes the numbers of trials and seeds. One run at a time works on a study: see `locked`.
"""

from __future__ import annotations

import argparse
import fcntl
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from study import provenance, records, space_file
from study.records import RecordError
from study.space import Budget, Fidelity, Space

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class UsageError(ValueError):
    """What was asked for cannot be; the message names the option, what it got and what it must be."""


@dataclass(frozen=True)
class Settings:
    """What the command line decided, kept in study.json so that a resumed study keeps to it."""

    fidelity: Fidelity
    rule: Literal["asha", "one-epoch", "none"]
    seed: int
    budget: Budget
    time_budget_s: float | None
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
    name = arguments.resume or arguments.extend or arguments.name
    if name is not None and not NAME.fullmatch(name):
        raise UsageError(f"name: got {name!r}, must be 1 to 100 letters, digits, '.', '_' or '-', the first no mark")
    return _new(arguments) if arguments.space is not None else _earlier(arguments, name)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a second run out of the folder while this one lasts; the lock goes with the process. Raises UsageError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise UsageError(f"--results: got {folder.parent} ({error.strerror}), must be a folder to write to") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"{folder.name}: another run is working on it; wait for it, or choose a --name") from None
        yield


def _new(arguments: argparse.Namespace) -> Study:
    """A study of --space."""
    results: Path = arguments.results
    full = space_file.load(space_file.find(arguments.space))
    settings = _settings(arguments, full)
    name = arguments.name or _free_name(results, full.name)
    if arguments.name and (results / name / "study.json").exists():
        raise UsageError(f"--name: got {name}, which {results} holds already; go on with --resume {name}, or rename")
    return Study(results / name, _apply(full, settings), settings, None)


def _earlier(arguments: argparse.Namespace, name: str) -> Study:
    """The study that --resume or --extend names, with what an extension adds."""
    results: Path = arguments.results
    option, folder = "--resume" if arguments.resume else "--extend", results / name
    kept_to = ("name", "fidelity", "scheduler", "time_budget", "cpus_per_trial", "gpus_per_trial", "seed")
    given = [k for k in (*kept_to, *(("trials", "seeds") if arguments.resume else ())) if getattr(arguments, k)]
    if given:
        options = ", ".join(f"--{key.replace('_', '-')}" for key in given)
        raise UsageError(f"{option}: got {options} too, must stand alone: a study keeps what it was begun with")
    if not (folder / "study.json").exists():
        known = ", ".join(sorted(path.parent.name for path in results.glob("*/study.json"))) or "none"
        raise UsageError(f"{option}: got {name}, must be one of: {known}")
    earlier = records.read_json(folder / "study.json")
    try:
        settings = Settings.from_json(earlier["settings"])
    except (KeyError, TypeError) as error:
        raise RecordError(f"{folder / 'study.json'}: got no valid settings ({error!r})") from error
    if arguments.extend:
        if arguments.trials is None and arguments.seeds is None:
            raise UsageError("--extend: got neither --trials nor --seeds, must say how much more to run")
        budget = settings.budget
        trials, seeds = budget.trials + (arguments.trials or 0), arguments.seeds or budget.seeds
        settings = replace(settings, budget=replace(budget, trials=trials, seeds=seeds))
    full = replace(space_file.load(folder / "space.yaml"), name=Path(earlier["space"]).stem)
    return Study(folder, _apply(full, settings), settings, earlier)


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
    if arguments.gpus_per_trial and arguments.gpus_per_trial > (found := provenance.gpu_count()):
        raise UsageError(f"--gpus-per-trial: got {arguments.gpus_per_trial:g}, must be at most {found}, all there are")
    return Settings(
        fidelity=fidelity,
        rule=arguments.scheduler or "asha",
        seed=arguments.seed or 0,
        budget=Budget(trials, min(budget.candidates, trials), arguments.seeds or budget.seeds),
        time_budget_s=arguments.time_budget,
        cores=cores,
        gpus=arguments.gpus_per_trial,
    )


def _apply(full: Space, settings: Settings) -> Space:
    return replace(full.at(settings.fidelity), budget=settings.budget)


def _free_name(results: Path, stem: str) -> str:
    name, number = stem, 1
    while (results / name).exists():
        number += 1
        name = f"{stem}-{number}"
    return name
