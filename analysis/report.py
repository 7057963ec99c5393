"""The command that turns a study into tables, figures and a page.

    python -m analysis.report [NAME] --results DIR

writes tables/, figures/, report.html and report.md into DIR/NAME (default: the newest study in `results`). The page
is one file that needs no network. Its sentences are made from the numbers: of two configurations it says that one is
better only where the interval of their paired difference leaves zero out.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from analysis.errors import InputError, WorkerLost
from study.data import DataError
from study.files import (
    LOST_DISK,
    RecordError,
    drop_temporaries,
    is_terminal,
    plain_signs,
    printable,
    read_json,
    refuse_links,
    write_whole,
)
from study.janitor import ignore_stops, interrupt_on_sigterm
from study.opening import RESULTS, UsageError, check_limits, check_surroundings, place

if TYPE_CHECKING:  # pandas, torch and matplotlib take seconds to import: bad input is answered before
    from analysis.rerun import Said

logger = logging.getLogger(__name__)

TOP = 8  # configurations that are compared two by two


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: done; 2: bad input; 70: a worker was killed; 74: a file that could not be read or written; 130:
    interrupted."""
    plain_signs()
    parser = argparse.ArgumentParser(prog="python -m analysis.report", description="Make the page of a study.")
    parser.add_argument("name", nargs="?", help="the study, or its path (default: the newest)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where studies are (default: results)")
    parser.add_argument("--top", type=int, default=TOP, metavar="N", help=f"compare the best N (default: {TOP})")
    of_stress = "corrupt N of the test images (default: all, of a preview 200)"
    parser.add_argument("--stress-images", type=int, metavar="N", help=of_stress)
    of_data = "a folder that holds Fashion-MNIST's IDX files"
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help=of_data)
    options = parser.parse_args(argv)
    interrupt_on_sigterm()
    try:
        check_limits()
        check_surroundings("analysis.report")
        for option, least in (("top", 0), ("stress_images", 1)):
            if (got := getattr(options, option)) is not None and got < least:
                raise InputError(f"--{option.replace('_', '-')}: got {got}, must be at least {least}")
        if options.name is not None:
            options.results, options.name = place("NAME", options.name, options.results)
        folder = find(options.results, options.name)
        console = Console(stderr=True, force_terminal=is_terminal(sys.stderr))
        columns = (*Progress.get_default_columns(), MofNCompleteColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("")

            def step(said: str, done: int = 0, of: int = 1) -> None:
                if not progress.console.is_terminal and said != progress.tasks[task].description:
                    print(said, file=sys.stderr)
                progress.update(task, description=said, completed=done, total=of)

            path = build(folder, options.top, options.stress_images, step, options.data_dir)
    except (InputError, RecordError, DataError, UsageError) as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # what reads the output has ended
        return 130
    except OSError as error:
        if error.errno not in LOST_DISK:
            raise
        read_only = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
        way_on = ". A page is made in the study's folder: copy it where you may write, and name that with --results"
        print(f"error: {error}{way_on if read_only else ''}", file=sys.stderr)
        return 74
    except WorkerLost as error:
        print(f"error: {error}. What took long is kept: close other programs, and type it again", file=sys.stderr)
        return 70
    except (KeyboardInterrupt, SystemExit):  # the last by Ray, where it is stopped while it starts
        print("Interrupted. What took long is kept in the study's cache.", file=sys.stderr)
        return 130
    for what, where in (("page   ", path), ("in text", path.with_suffix(".md")), ("tables ", folder / "tables")):
        print(printable(f"{what} {where}"))
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # at its end Python would try, and complain, once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def find(results: Path, name: str | None) -> Path:
    """The study's folder; without a name, that of the newest. Raises InputError."""
    created = {path.parent.name: _created(path) for path in results.glob("*/study.json")}
    if not created:
        raise InputError(f"--results: got {results}, must be a folder with studies in it (study.run makes them)")
    if name is not None and name not in created:
        raise InputError(f"NAME: got {name!r}, must be a study in {results}: {', '.join(sorted(created))}")
    return results / (name or max(created, key=lambda study: (created[study], study)))


def _created(path: Path) -> str:
    try:
        return str(read_json(path).get("created", ""))
    except RecordError:
        return ""  # a broken study is nobody's default, and is complained of when it is named


def build(
    folder: Path,
    top: int = TOP,
    stressed: int | None = None,
    step: Said = lambda said, done=0, of=1: None,
    data_dir: Path | None = None,
) -> Path:
    """Write tables, figures, report.md and report.html into the study's folder; the page's path.

    The best `top` configurations are compared, `stressed` of the test images corrupted; `step` is told what is being
    done, `data_dir` holds Fashion-MNIST where it is not found by itself. Raises RecordError and DataError.
    """
    from analysis.evidence import gather
    from analysis.findings import page
    from analysis.render import pictures, render

    refuse_links(folder)
    drop_temporaries(folder)
    evidence = gather(folder, top, stressed, step, data_dir)
    for said in evidence.missing:
        logger.warning("%s", said)
    step("figures and page")
    made = page(evidence)
    (folder / "figures").mkdir(exist_ok=True)
    for picture in pictures(made.sections):
        write_whole(folder / "figures" / f"{picture.name}.svg", picture.svg)
    write_whole(folder / "report.md", render("report.md.j2", made).encode())
    write_whole(folder / "report.html", render("report.html.j2", made).encode())
    return folder / "report.html"


if __name__ == "__main__":
    status = main()
    ignore_stops()  # libraries still clean up as they end
    sys.exit(status)
