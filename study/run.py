"""The command: `python -m study.run --space resnet.yaml` searches, confirms and records one study.

Exit status: 0 done; 1 finished, but some trial failed for good; 2 bad input, said in one message; 130 interrupted,
with the command that goes on.
"""

from __future__ import annotations

import argparse
import fcntl
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.text import Text

from study import data, provenance, records, space
from study.records import ENDED, RecordError, TrialRecord
from study.space import Budget, Fidelity, Space, SpaceError

if TYPE_CHECKING:  # Ray and torch take seconds to import: bad input is answered before
    from study.plan import Plan

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
TIME = re.compile(r"(\d+(?:\.\d+)?)([smh])")


class UsageError(ValueError):
    """What was asked for cannot be; the message names the option, what it got and what it must be."""


class Interrupted(Exception):
    """The user stopped the study before its end."""


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
    space: Space
    settings: Settings
    earlier: dict[str, Any] | None


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    console = Console(highlight=False)
    try:
        study = _open(arguments)
        loaded = data.load(arguments.data_dir)
        if arguments.dry_run:
            plan = _plan(study)
            _show_plan(console, study, plan)
            return 0
        with _locked(study.folder):
            return _run(
                study, loaded, console, ["python", "-m", "study.run", *(sys.argv[1:] if argv is None else argv)]
            )
    except (SpaceError, UsageError, RecordError, data.DataError) as error:
        print(error, file=sys.stderr)
        return 2
    except (Interrupted, KeyboardInterrupt):
        if "study" in locals() and study.folder.exists():
            where = ["--results", str(arguments.results)] if arguments.results != Path("results") else []
            resume = shlex.join(["python", "-m", "study.run", "--resume", study.folder.name, *where])
            console.print(Text(f"Interrupted; nothing that ended is lost. To go on: {resume}"), soft_wrap=True)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m study.run", description="Search, confirm and record a hyperparameter study on Fashion-MNIST."
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--space", metavar="FILE", help="the search space: a file, or a name in search_spaces/")
    source.add_argument("--resume", metavar="NAME", help="go on with a study that was cut off")
    source.add_argument("--extend", metavar="NAME", help="search --trials more, with what the study learnt so far")
    parser.add_argument("--name", help="folder of the study (default: the space's name, numbered)")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    parser.add_argument("--trials", type=_positive, metavar="N", help="search trials (default: the space's)")
    parser.add_argument("--seeds", type=_positive, metavar="N", help="seeds to confirm over (default: the space's)")
    parser.add_argument("--fidelity", choices=("full", "preview"), help="default: full on a GPU, preview without one")
    parser.add_argument("--time-budget", type=_seconds, metavar="10m", help="end the search after this long")
    parser.add_argument("--scheduler", choices=("asha", "one-epoch", "none"), help="default: asha")
    parser.add_argument("--cpus-per-trial", type=_positive, metavar="N", help="default: what is measured to be fastest")
    parser.add_argument("--gpus-per-trial", type=_share, metavar="X", help="default: what the measured memory allows")
    parser.add_argument("--seed", type=_whole, help="of the search, and the base of confirm's (default: 0)")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="a folder that holds Fashion-MNIST's IDX files")
    parser.add_argument("--dry-run", action="store_true", help="check everything, measure, print the plan, and stop")
    return parser


def _open(arguments: argparse.Namespace) -> Study:
    """The study that the command line means. Raises SpaceError, UsageError or RecordError."""
    results: Path = arguments.results
    name = arguments.resume or arguments.extend or arguments.name
    if name is not None and not NAME.fullmatch(name):
        raise UsageError(f"name: got {name!r}, must be 1 to 100 letters, digits, '.', '_' or '-', the first no mark")
    if arguments.space is None:
        kept_to = ("name", "fidelity", "scheduler", "time_budget", "cpus_per_trial", "gpus_per_trial", "seed")
        given = [k for k in (*kept_to, *(("trials", "seeds") if arguments.resume else ())) if getattr(arguments, k)]
        if given:
            options = ", ".join(f"--{key.replace('_', '-')}" for key in given)
            which = "--resume" if arguments.resume else "--extend"
            raise UsageError(f"{which}: got {options} too, must stand alone: a study keeps what it was begun with")
    if arguments.space is not None:
        path = space.find(arguments.space)
        full = space.load(path)
        settings = _settings(arguments, full)
        folder = results / (name or _free_name(results, full.name))
        if name and (folder / "study.json").exists():
            raise UsageError(
                f"--name: got {name}, which {results} holds already; go on with --resume {name}, or rename"
            )
        return Study(folder, _apply(full, settings), settings, None)
    folder = results / name
    if not (folder / "study.json").exists():
        known = ", ".join(sorted(path.parent.name for path in results.glob("*/study.json"))) or "none"
        raise UsageError(f"{'--resume' if arguments.resume else '--extend'}: got {name}, must be one of: {known}")
    earlier = records.read_json(folder / "study.json")
    try:
        settings = Settings.from_json(earlier["settings"])
    except (KeyError, TypeError) as error:
        raise RecordError(f"{folder / 'study.json'}: got no valid settings ({error!r})") from error
    if arguments.extend:
        budget = settings.budget
        if arguments.trials is None and arguments.seeds is None:
            raise UsageError("--extend: got neither --trials nor --seeds, must say how much more to run")
        trials = budget.trials + (arguments.trials or 0)
        settings = replace(settings, budget=replace(budget, trials=trials, seeds=arguments.seeds or budget.seeds))
    full = replace(space.load(folder / "space.yaml"), name=Path(earlier["space"]).stem)
    return Study(folder, _apply(full, settings), settings, earlier)


def _settings(arguments: argparse.Namespace, full: Space) -> Settings:
    fidelity: Fidelity = arguments.fidelity or ("full" if provenance.gpu_count() else "preview")
    budget = full.at(fidelity).budget
    trials = arguments.trials or budget.trials
    if trials < len(full.arms):
        raise UsageError(f"--trials: got {trials}, must be at least {len(full.arms)}, for the arms are tried first")
    most = provenance.cores()
    if (arguments.cpus_per_trial or 1) > most:
        raise UsageError(
            f"--cpus-per-trial: got {arguments.cpus_per_trial}, must be at most {most}, all that there are"
        )
    if arguments.gpus_per_trial and arguments.gpus_per_trial > (found := provenance.gpu_count()):
        raise UsageError(f"--gpus-per-trial: got {arguments.gpus_per_trial:g}, must be at most {found}, all there are")
    return Settings(
        fidelity=fidelity,
        rule=arguments.scheduler or "asha",
        seed=arguments.seed or 0,
        budget=Budget(trials, min(budget.candidates, trials), arguments.seeds or budget.seeds),
        time_budget_s=arguments.time_budget,
        cores=arguments.cpus_per_trial,
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


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep a second run out of the folder while this one lasts; the lock goes with the process."""
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


def _plan(study: Study) -> Plan:
    from study.plan import Plan, estimate, make_plan

    settings = study.settings
    kept = study.earlier.get("plan") if study.earlier else None
    if kept and study.earlier and study.earlier.get("hardware") == provenance.hardware():
        return estimate(Plan.from_json(kept), study.space, settings.rule, settings.time_budget_s)
    planned = make_plan(study.space, settings.rule, settings.cores, settings.gpus)
    return estimate(planned, study.space, settings.rule, settings.time_budget_s)


def _show_plan(console: Console, study: Study, plan: Plan) -> None:
    from study.progress import duration

    chosen, split = study.space, study.space.split
    confirmed = chosen.budget.candidates + len(chosen.arms)
    speeds = ", ".join(f"{name} {speed.train:,.0f}" for name, speed in plan.speeds.items())
    lines = [
        f"Study {study.folder.name}: {chosen.name}, {study.settings.fidelity} fidelity",
        f"  search   {chosen.budget.trials} trials of up to {chosen.epochs} epochs, {study.settings.rule}",
        f"  confirm  {confirmed} configurations × {chosen.budget.seeds} seeds",
        f"  images   {split.train:,} train, {split.validation:,} validation, {split.test:,} test",
        f"  device   {plan.device}, {plan.slots} trials at a time, {plan.cores} core{'s' * (plan.cores > 1)}"
        + (f" and {plan.gpus:.3g} GPU" if plan.gpus else "")
        + f" each, {plan.precision}",
        f"  speed    images/s of one trial: {speeds}",
        f"  time     {duration(plan.seconds)}: search {duration(plan.search_seconds)},"
        f" confirm {duration(plan.confirm_seconds)}",
        f"  disk     {plan.disk_bytes / 2**20:,.0f} MiB",
    ]
    if study.settings.fidelity == "preview":
        lines.append(
            "  PREVIEW: fewer images, epochs, trials and seeds than the study means; it shows that all works, and is"
            " no evidence about the full thing. For that: --fidelity full"
        )
    for line in lines:
        console.print(Text(line), soft_wrap=True)


def _run(study: Study, loaded: data.FashionMNIST, console: Console, command: list[str]) -> int:
    import ray

    from study import cluster, confirm, execution, progress
    from study.search import Search

    folder, chosen, settings = study.folder, study.space, study.settings
    plan = _plan(study)
    _show_plan(console, study, plan)
    if (free := shutil.disk_usage(folder).free) < plan.disk_bytes:
        raise UsageError(
            f"--results: got {free / 2**20:,.0f} MiB free at {folder}, must be {plan.disk_bytes / 2**20:,.0f}"
        )
    if study.earlier is None:
        records.write_whole(folder / "space.yaml", chosen.text.encode())
    book = provenance.Book(folder, study.earlier, asdict(settings), plan.to_json(), chosen, command)
    parts = chosen.split
    try:
        splits = data.split(loaded, parts.train, parts.validation, parts.test, parts.seed)
    except ValueError as error:
        raise UsageError(str(error)) from error
    signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    execution.quiet()
    with cluster.running() as ray_cluster:
        for line in ray_cluster.how_to_watch(folder):
            console.print(Text(line), soft_wrap=True)
        shared = ray.put(splits)
        board = progress.TensorBoard(folder)

        search = Search(folder, chosen, settings.seed)
        if not (search.finished(settings.rule) or book.search_over):
            shown = progress.StageProgress(console, "search", chosen.budget.trials, search.ended, plan.search_seconds)
            listeners: list[execution.Listener] = [shown, board, book]
            left = None if settings.time_budget_s is None else settings.time_budget_s - book.wall("search")
            with book.stage("search"), shown.shown():
                search.run(shared, plan.resources, listeners, settings.rule, left)
            _restore_interrupts()
            if left is not None and shown.seconds >= left:
                search.end_on_time(listeners)
                book.search_over = True
            elif not search.finished(settings.rule):
                raise Interrupted
        planned = confirm.plan(folder, chosen, search.candidates(), settings.seed)
        if len(planned) < (chosen.budget.candidates + len(chosen.arms)) * chosen.budget.seeds:
            console.print(Text("Fewer searched configurations ran to the end than there should be candidates."))
        ended = sum(record.status in ENDED for record in planned)
        if ended < len(planned):
            shown = progress.StageProgress(console, "confirm", len(planned), ended, plan.confirm_seconds)
            with book.stage("confirm"), shown.shown():
                confirm.run(folder, planned, shared, plan.resources, [shown, board, book])
            _restore_interrupts()
            recorded = {record.trial_id: record for record in records.read_trials(folder, "confirm")}
            planned = [recorded.get(record.trial_id, record) for record in planned]
    everything = records.read_trials(folder, "search") + planned
    if any(record.status not in ENDED for record in everything):
        raise Interrupted
    book.finish()
    return _conclude(console, folder, everything)


def _conclude(console: Console, folder: Path, everything: list[TrialRecord]) -> int:
    failed = [record for record in everything if record.status == "failed"]
    where = "" if folder.parent == Path("results") else f" --results {shlex.quote(str(folder.parent))}"
    console.print(Text(f"Done. To see what came out: python -m analysis.report {folder.name}{where}"), soft_wrap=True)
    if failed:
        names = ", ".join(record.trial_id for record in failed)
        console.print(Text(f"{len(failed)} of {len(everything)} trials failed for good: {names}"), soft_wrap=True)
    return 1 if failed else 0


def _restore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Ray Tune leaves its own handler behind


def _positive(text: str) -> int:
    value = _whole(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {text}, must be at least 1")
    return value


def _whole(text: str) -> int:
    if not text.isdecimal() or int(text) > 10**6:
        raise argparse.ArgumentTypeError(f"got {text}, must be a whole number from 0 to 1,000,000")
    return int(text)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (0 < value <= 1 or value in range(1, 65)):
        raise argparse.ArgumentTypeError(f"got {text}, must be a share in (0, 1], or a whole number of GPUs")
    return value


def _seconds(text: str) -> float:
    match = TIME.fullmatch(text)
    if match is None or float(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"got {text}, must be a time such as 90s, 10m or 1.5h")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


if __name__ == "__main__":
    sys.exit(main())
