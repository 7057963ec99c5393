"""The command: `python -m study.run --space resnet.yaml` searches, confirms and records one study.

Exit status: 0 done; 1 finished, but some trial failed for good; 2 bad input, said in one message; 130 interrupted,
with the command that goes on.
"""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from study import data, provenance, records
from study.opening import Study, UsageError, locked, open_study
from study.records import ENDED, RecordError, TrialRecord
from study.space_file import SpaceError

if TYPE_CHECKING:  # Ray and torch take seconds to import: bad input is answered before
    from study.plan import Plan

TIME = re.compile(r"(\d+(?:\.\d+)?)([smh])")


class Interrupted(Exception):
    """The user stopped the study before its end."""


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    console = Console(highlight=False)
    try:
        study = open_study(arguments)
        loaded = data.load(arguments.data_dir)
        if arguments.dry_run:
            plan = _plan(study)
            _show_plan(console, study, plan)
            return 0
        with locked(study.folder):
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
