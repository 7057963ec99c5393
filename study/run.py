"""The command: `python -m study.run --space resnet.yaml` searches, confirms and records one study.

Exit status: 0 done; 1 finished, but some trial failed for good; 2 bad input, said in one message; 70 a fault of this
program; 74 a file that could not be read or written, as on a full disk; 130 interrupted. After the last three the
command that goes on is printed.
"""

from __future__ import annotations

import argparse
import errno
import math
import re
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from rich.console import Console
from rich.text import Text

from study import data, files, provenance, records
from study.files import RecordError
from study.janitor import cleaned_up, ignore_stops, interrupt_on_sigterm, room, say_if_killed, undisturbed
from study.opening import (
    RESULTS,
    SCALE,
    Study,
    UsageError,
    broken_library,
    check_disk,
    check_limits,
    check_surroundings,
    claimed,
    fitted,
    open_study,
)
from study.records import ENDED, TrialRecord
from study.space_file import SpaceError

if TYPE_CHECKING:  # Ray and torch take seconds to import: bad input is answered before
    from study.plan import Plan, Rest
    from study.space import Space

FAULT, DISK = 70, 74  # EX_SOFTWARE and EX_IOERR of sysexits.h
OF_LOSSES = ("torch", "numpy", "scikit-learn")  # libraries that they, or the split, depend on
PLAN_HOLDS = 1.2  # what a stage takes at most, times its plan
KEPT = "Nothing that ended is lost. To go on:"
TIME = re.compile(r"(\d+(?:\.\d+)?)([smh])")


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    files.plain_signs()
    typed = sys.argv[1:] if argv is None else argv
    arguments = _parser().parse_args(typed)
    console = Console(highlight=False, force_terminal=files.is_terminal(sys.stdout))
    study: Study | None = None
    interrupt_on_sigterm()  # from the start, so that a stop cleans up at every time
    try:
        check_surroundings("study.run")
        check_limits()
        study = open_study(arguments)
        loaded = data.load(arguments.data_dir)
        if arguments.dry_run:
            with cleaned_up():
                study, _, plan, left = _plan(study)
                _show_plan(console, study, plan, left, arguments.address)
            return 0
        unnamed = arguments.space is not None and arguments.name is None
        with claimed(study, unnamed) as (study, lock), cleaned_up(lock):
            if study.earlier:
                study = open_study(arguments)  # a run that has ended meanwhile may have changed it
            elif (study.folder / "study.json").exists():
                raise UsageError(f"{study.folder.name}: begun by another run meanwhile; choose a --name")
            if study.earlier:
                say_if_killed(_if_killed(arguments, study, typed))
            _drop_leftovers(study)
            return _run(study, loaded, console, typed, arguments)
    except (SpaceError, UsageError, RecordError, data.DataError) as error:
        _tell(str(error))
        return 2
    # The second by Ray, where it is stopped while it starts; the last where what reads the output has ended.
    except (KeyboardInterrupt, SystemExit, BrokenPipeError):
        with undisturbed():
            _tell(f"Interrupted. {_way_on(arguments, study, typed)}")
        return 130
    except Exception as error:
        if why := broken_library(error):
            _tell(why)
            return 2
        with undisturbed():
            return _broke_off(error, arguments, study, typed)


def _broke_off(error: Exception, arguments: argparse.Namespace, study: Study | None, typed: list[str]) -> int:
    """Say why a run ends before its study does, and what goes on; returns the exit status."""
    way_on = _way_on(arguments, study, typed)
    if not (isinstance(error, OSError) and error.errno in files.LOST_DISK):
        with suppress(OSError):
            traceback.print_exc()
        _tell(f"This is a fault of the program, not of what you typed. {way_on}")
        return FAULT
    why = str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):  # which need not name the file
        with suppress(OSError):
            why += f" ({', '.join([*getattr(error, '__notes__', ()), room(arguments.results)])})"
    _tell(f"{why}. {'The folder of the study is gone.' if _is_gone(study, error) else way_on}")
    return DISK


def _is_gone(study: Study | None, error: OSError) -> bool:
    if study is None or error.errno != errno.ENOENT or study.folder.exists():
        return False
    return Path(error.filename or "").absolute().is_relative_to(study.folder.absolute())


def _tell(text: str) -> None:
    """Print lines as they are, whatever a study's files have put into them: to standard error, else to the terminal.

    The first is lost where what it is piped into, such as `2>&1 | tee`, has met the same Ctrl-C.
    """
    lines = "\n".join(map(files.printable, text.splitlines()))
    try:
        print(lines, file=sys.stderr, flush=True)
    except OSError:
        with suppress(OSError), open("/dev/tty", "w", errors=files.PLAIN) as terminal:
            print(lines, file=terminal)


def _say(console: Console, text: str) -> None:
    """Likewise to standard output, which is to be there."""
    for line in text.splitlines():
        console.print(Text(files.printable(line)), soft_wrap=True)


def _if_killed(arguments: argparse.Namespace, study: Study, typed: list[str]) -> str:
    return f"The study was killed. {_way_on(arguments, study, typed)}"


def _drop_leftovers(study: Study) -> None:
    """What kills have left: files half written, and training states of trials that had ended."""
    files.drop_temporaries(study.folder)
    for stage in records.STAGES:
        files.drop_temporaries(study.folder / stage, alone=True)
        for record in records.read_trials(study.folder, stage):
            going_on = stage == "search" and study.settings.rule == "one-epoch" and record.status == "stopped"
            if record.status in ENDED and not going_on:
                records.drop_checkpoint(records.trial_folder(study.folder, record))


def _way_on(arguments: argparse.Namespace, study: Study | None, typed: list[str]) -> str:
    """What is lost, and the command that goes on, as it can be typed."""
    if study is not None and _there(study.folder / "study.json"):
        noted: dict[str, Any] = {}
        try:
            noted = files.read_json(study.folder / "study.json")
        except RecordError as error:
            if not isinstance(error.__cause__, OSError):  # of a lost disk
                return str(error)
        if not (arguments.extend and study.earlier and noted.get("resumed") == study.earlier.get("resumed")):
            return f"{KEPT} {_command(arguments, '--resume', study.folder.name)}"
    elif not (arguments.resume or arguments.extend):
        return "Nothing was begun."
    # An extension that is not written down yet, or a --resume that was stopped early.
    return f"{KEPT} {provenance.command('study.run', *typed)}"


def _command(arguments: argparse.Namespace, *options: str) -> str:
    """What can be typed to do more with the same results, data and cluster."""
    where = ["--results", str(arguments.results)] if arguments.results != Path("results") else []
    where += ["--data-dir", str(arguments.data_dir)] if arguments.data_dir else []
    where += ["--address", arguments.address] if arguments.address else []
    return provenance.command("study.run", *options, *where)


def _there(path: Path) -> bool:
    """Also where that is not known, as on a lost disk."""
    try:
        path.stat()
    except OSError as error:
        return error.errno != errno.ENOENT
    return True


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m study.run", description="Search, confirm and record a hyperparameter study on Fashion-MNIST."
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--space", metavar="FILE", help="the search space: a file, or a name in search_spaces/")
    source.add_argument("--resume", metavar="NAME", help="go on with a study that was cut off; NAME may be its path")
    source.add_argument("--extend", metavar="NAME", help="go on with more --trials or --seeds, and what it has learnt")
    parser.add_argument("--name", help="folder of the study (default: the space's name, numbered)")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="default: results")
    of_trials = "search trials (default: the space's); with --extend, how many more than there are"
    parser.add_argument("--trials", type=_positive, metavar="N", help=of_trials)
    of_seeds = "seeds to confirm over (default: the space's); with --extend, the new total"
    parser.add_argument("--seeds", type=_positive, metavar="N", help=of_seeds)
    of_fidelity = "full, preview, or a time for all from here to the page (default: full on a GPU, 10m without one)"
    parser.add_argument("--fidelity", type=_fidelity, metavar="full|preview|10m", help=of_fidelity)
    of_time = "end the search after this long; with --extend, what it adds"
    parser.add_argument("--time-budget", type=_seconds, metavar="10m", help=of_time)
    parser.add_argument("--scheduler", choices=("asha", "one-epoch", "none"), help="default: asha")
    parser.add_argument("--cpus-per-trial", type=_positive, metavar="N", help="default: what is measured to be fastest")
    parser.add_argument("--gpus-per-trial", type=_share, metavar="X", help="default: what is measured to be fastest")
    parser.add_argument("--seed", type=_whole, help="of the search, and the base of confirm's (default: 0)")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="a folder that holds Fashion-MNIST's IDX files")
    of_address = "of a Ray cluster to run on, whose nodes share the results folder (default: this machine alone)"
    parser.add_argument("--address", type=_address, metavar="HOST:PORT", help=of_address)
    parser.add_argument("--dry-run", action="store_true", help="check everything, measure, print the plan, and stop")
    return parser


def _plan(study: Study) -> tuple[Study, Plan, Plan, Rest]:
    """Return the study, fitted if it is to be, the plan of all of it, that of what is left of it, and what that is.

    Raises UsageError for want of memory or disk.
    """
    measuring = "Measuring how fast networks train here:"
    if not study.earlier:
        print(measuring, file=sys.stderr, flush=True)  # before what takes seconds to import
    from study import speeds
    from study.choose import make_plan, measures
    from study.fit import fit
    from study.plan import Plan, estimate, rest
    from study.search import candidates, search_over

    settings, earlier = study.settings, study.earlier or {}
    try:
        plan = Plan.from_json(earlier["plan"]) if earlier else None
        if plan and (wrong := files.misfit(plan, Plan)):
            raise ValueError(wrong)
    except (KeyError, TypeError, ValueError) as error:
        raise files.broken(study.folder / "study.json", f"plan {error}", "what this program wrote") from error
    if plan is None or earlier["hardware"] != provenance.hardware() or not measures(plan, study.space):
        # Trials of a study are computed alike wherever it goes on, also where its study.json was lost.
        kept = (
            r.precision for stage in records.STAGES for r in records.read_trials(study.folder, stage) if r.precision
        )
        precision = plan.precision if plan else next(kept, None)
        if study.earlier:
            print(measuring, file=sys.stderr, flush=True)
        known = speeds.of_this_user()

        def measure(space: Space) -> Plan:
            return make_plan(space, settings.rule, settings.cores, settings.gpus, precision, _tell, known)

        if study.unfitted and settings.fit_s:
            space, plan = fit(study.full, settings.rule, settings.fit_s, measure)
            study = fitted(study, space)
        else:
            plan = measure(study.space)
    space, settings = study.space, study.settings
    recorded = [record for stage in records.STAGES for record in records.read_trials(study.folder, stage)]
    best = candidates(study.folder, space)
    over = earlier.get("search_over", False) or search_over(study.folder, space, settings.rule)
    left = rest(space, settings.rule, recorded, over, best)
    budget = settings.time_budget_s
    spent = earlier.get("stages", {}).get("search", {}).get("wall_seconds", 0.0)
    budget_left = None if budget is None else max(budget - spent, 0.0)
    whole = estimate(plan, space, settings.rule, budget)
    plan = estimate(plan, space, settings.rule, budget_left, left)
    check_disk(study.folder, plan.disk_bytes)
    return study, whole, plan, left


def _recovered(folder: Path, earlier: dict[str, Any]) -> str:
    """What a study that goes on has already."""
    known = [record for stage in records.STAGES for record in records.read_trials(folder, stage)]
    ended = sum(record.status in ENDED for record in known)
    lines = [f"Recovered: {ended} of {len(known)} trials that were begun have ended, and do not run again"]
    then, now = earlier.get("versions") or {}, provenance.versions()
    if other := [
        f"{name} {then[name]}, now {now[name]}" for name in OF_LOSSES if then.get(name, now[name]) != now[name]
    ]:
        lines.append(
            f"  begun with {', '.join(other)}: what is trained now need not equal to the last bit what was before"
        )
    for record in known:
        if record.status not in ENDED and record.attempts:
            at = records.trial_folder(folder, record)
            epochs, kept = len(records.read_epochs(at)), (at / "checkpoint.pt").exists()
            how = f"was cut off in epoch {epochs + 1}, goes on from its checkpoint" if kept else "begins again"
            lines.append(f"  {record.label}: {how}")
    return "\n".join(lines)


def _show_plan(console: Console, study: Study, plan: Plan, left: Rest, address: str | None) -> None:
    from study.plan import rest
    from study.progress import duration

    chosen, split = study.space, study.space.split
    confirmed = chosen.budget.candidates + len(chosen.arms)
    trials, epochs = files.counted(chosen.budget.trials, "trial"), files.counted(chosen.epochs, "epoch")
    seeds = files.counted(chosen.budget.seeds, "seed")
    begun = study.earlier or left.trials < chosen.budget.trials
    trials_left, runs_left = (f", {n} left" if begun else "" for n in (left.trials, len(left.runs)))
    speeds = ", ".join(f"{name} {speed.train:,.0f}" for name, speed in plan.speeds.items())
    lines = [
        f"Study {study.folder.name}: {chosen.name}, {study.settings.fidelity} fidelity",
        *_configurations(study),
        f"  search   {trials} of up to {epochs}, {study.settings.rule}{trials_left}",
        f"  confirm  {files.counted(confirmed, 'configuration')} × {seeds}{runs_left}",
        f"  images   {split.train:,} train, {split.validation:,} validation, {split.test:,} test",
        f"  device   {plan.device}, {files.counted(plan.slots, 'trial')} at a time, {files.counted(plan.cores, 'core')}"
        + (f", {plan.gpus:.3g} GPU" if plan.gpus else "")
        + (f", {plan.memory_bytes / 2**30:.1f} GiB" if plan.memory_bytes else "")
        + f" each, {plan.precision}",
        f"  speed    images/s of one trial: {speeds}",
        f"  time     {duration(plan.seconds)}: "
        + ", ".join(f"{what} {duration(seconds)}" for what, seconds in plan.stages().items() if seconds)
        + (", on one machine like this; a cluster's share it" if address else ""),
        f"  disk     {plan.disk_bytes / 2**20:,.0f} MiB",
    ]
    if study.settings.rule == "asha" and not study.earlier and not chosen.cycles:  # whose first epochs foretell little
        fewer, asha = (rest(chosen, rule).epochs for rule in ("one-epoch", "asha"))
        if fewer <= asha / 2:
            shorter = duration(plan.search_seconds * fewer / asha)
            lines.append(
                f"  instead  --scheduler one-epoch: a search of {shorter} and {fewer:,.0f} epochs instead of "
                f"{asha:,.0f}; all but the best three trials stop after one epoch"
            )
    lines += [f"  warning  {said}" for said in chosen.flat_steps()]
    if plan.slowdown > 1:
        lines.append(
            f"  warning  begun in bf16, which this processor has not: {plan.slowdown:.1f} times slower than fp32"
        )
    if (fit_s := study.settings.fit_s) and plan.seconds > fit_s and not study.earlier:
        lines.append(f"  warning  {duration(fit_s)} are too few here, even for the least preview of this space")
    if reductions := chosen.reductions():
        lines.append(
            f"  PREVIEW: {', '.join(reductions)}; it shows that all works, and is no evidence about the full thing."
            + ("" if study.earlier else " For that: --fidelity full")
        )
    for line in lines:
        _say(console, line)


def _configurations(study: Study) -> list[str]:
    """Return a line on how many configurations a finite space has, and on trials that this makes needless."""
    count, trials = study.space.configurations, study.settings.scale.budget.trials
    if not math.isfinite(count):
        return []
    line = f"  space    {files.counted(int(count), 'configuration')}"
    if needless := trials - study.space.budget.trials:
        line += f", none tried twice: {needless:,} of {files.counted(trials, 'trial')} left over"
    return [line]


def _run(
    study: Study, loaded: data.FashionMNIST, console: Console, typed: list[str], options: argparse.Namespace
) -> int:
    import ray

    from study import cluster, confirm, execution, progress
    from study.search import Search, candidates

    study, whole, plan, left_to_run = _plan(study)
    folder, chosen, settings = study.folder, study.space, study.settings
    _show_plan(console, study, plan, left_to_run, options.address)
    if study.earlier:
        _say(console, _recovered(folder, study.earlier))
        if study.earlier.get("status") == "finished" and not (left_to_run.trials or left_to_run.runs):
            planned = confirm.plan(folder, chosen, candidates(folder, chosen), settings.seed)
            return _conclude(console, folder, options.data_dir, records.read_trials(folder, "search") + planned)
    parts = chosen.split
    try:
        splits = data.split(loaded, **vars(parts))
    except ValueError as error:
        raise UsageError(str(error)) from error
    execution.quiet()
    with cluster.running(address=options.address) as ray_cluster:
        if options.address:
            if not plan.gpus and any(node["Resources"].get("GPU") for node in cluster.nodes()):
                raise UsageError(
                    "--address: got a cluster with GPUs from a machine without, must be typed on one with a GPU"
                )
            cluster.check_shared(folder / ".lock")
        if study.earlier is None:
            files.write_whole(folder / "space.yaml", chosen.text.encode())
            if settings.fit_s:
                files.write_json(folder / SCALE, asdict(settings.scale))
        command = ["python", "-m", "study.run", *typed]
        all_cores = round(sum(node["Resources"]["CPU"] for node in cluster.nodes()))
        book = provenance.Book(folder, study.earlier, asdict(settings), whole.to_json(), chosen, command, all_cores)
        say_if_killed(_if_killed(options, study, typed))
        for line in ray_cluster.how_to_watch(folder):
            _say(console, line)
        shared = ray.put(splits)
        board = progress.TensorBoard(folder)

        search = Search(folder, chosen, settings.seed, settings.rule)
        if not (search.finished() or book.search_over):
            trials, seconds = chosen.budget.trials, plan.search_seconds
            shown = progress.StageProgress(console, "search", trials, search.ended, search.ends_left, seconds)
            listeners: list[records.Listener] = [shown, board, book]
            left = None if settings.time_budget_s is None else settings.time_budget_s - book.wall("search")
            if settings.fit_s and not study.earlier:  # ASHA may let more trials go on than are expected
                left = min(_search_room(settings.fit_s, plan), math.inf if left is None else left)
            with book.stage("search"), shown.shown():
                search.run(shared, plan.resources, listeners, left)
            if left is not None and shown.seconds >= left:
                search.end_on_time(listeners)
                book.search_over = True
            elif not search.finished():
                raise KeyboardInterrupt
        search.drop_checkpoints()
        found = candidates(folder, chosen)
        planned = confirm.plan(folder, chosen, found, settings.seed)
        exhausted = search.finished() and chosen.budget.trials >= chosen.most_trials
        if exhausted and (needless := settings.scale.budget.trials - chosen.budget.trials):
            _say(console, f"Every configuration of the space was tried: {files.counted(needless, 'trial')} left over")
        if len(found) < settings.scale.budget.candidates:
            lacks = f"{len(found)} of {files.counted(settings.scale.budget.candidates, 'candidate')}"
            more = _command(options, "--extend", folder.name, "--trials", "N")
            why = (
                "the space has no others"
                if exhausted
                else f"too few searched configurations ended an epoch. To search more, once this has ended: {more}"
            )
            _say(console, f"{lacks}: {why}")
        ended = {record.trial_id for record in planned if record.status in ENDED}
        if runs := len(planned) - len(ended):
            shown = progress.StageProgress(console, "confirm", len(planned), ended, runs, plan.confirm_seconds)
            with book.stage("confirm"), shown.shown():
                confirm.run(folder, planned, shared, plan.resources, [shown, board, book])
            recorded = {record.trial_id: record for record in records.read_trials(folder, "confirm")}
            planned = [recorded.get(record.trial_id, record) for record in planned]
    everything = records.read_trials(folder, "search") + planned
    if any(record.status not in ENDED for record in everything):
        raise KeyboardInterrupt
    book.finish()
    say_if_killed("")
    return _conclude(console, folder, options.data_dir, everything)


def _search_room(fit_s: float, plan: Plan) -> float:
    """Return the seconds that the search has, if all from the command to the page is to take at most `fit_s`."""
    elapsed = time.time() - psutil.Process().create_time()
    return max(fit_s - elapsed - PLAN_HOLDS * (plan.confirm_seconds + plan.page_seconds), 1.0)


def _conclude(console: Console, folder: Path, data_dir: Path | None, everything: list[TrialRecord]) -> int:
    failed = [record for record in everything if record.status == "failed"]
    where = [] if folder.parent == Path("results") else ["--results", str(folder.parent)]
    where += ["--data-dir", str(data_dir)] if data_dir else []
    report = provenance.command("analysis.report", folder.name, *where)
    _say(console, f"Done. To see what came out: {report}")
    if failed:
        names = ", ".join(record.trial_id for record in failed)
        _say(console, f"{len(failed)} of {len(everything)} trials failed for good: {names}")
    return 1 if failed else 0


def _positive(text: str) -> int:
    value = _whole(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {text}, must be at least 1")
    return value


def _whole(text: str) -> int:
    if not text.isdecimal() or int(text) > 10**6:
        raise argparse.ArgumentTypeError(f"got {text}, must be a whole number from 0 to 1,000,000")
    return int(text)


def _fidelity(text: str) -> str | float:
    if text in ("full", "preview"):
        return text
    try:
        return _seconds(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"got {text}, must be full, preview, or a time such as 10m") from None


def _address(text: str) -> str:
    if not re.fullmatch(r"[\w.-]+:\d{1,5}|\[[\da-fA-F:.]+\]:\d{1,5}", text):
        raise argparse.ArgumentTypeError(f"got {text!r}, must be HOST:PORT")
    return text


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"got {text}, must be a share of one GPU, in (0, 1]")
    return value


def _seconds(text: str) -> float:
    match = TIME.fullmatch(text)
    if match is None or float(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"got {text}, must be a time such as 90s, 10m or 1.5h")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


if __name__ == "__main__":
    status = main()
    ignore_stops()  # libraries still clean up as they end
    sys.exit(status)
