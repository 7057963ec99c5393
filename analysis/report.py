"""The command that turns a study into tables, figures and a page.

    python -m analysis.report [NAME] --results DIR

writes tables/, figures/, report.html and report.md into DIR/NAME (default: the newest study in `results`). The page
is one file that needs no network. Its sentences are made from the numbers: of two configurations it says that one is
better only where the interval of their paired difference leaves zero out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import jinja2
from rich.console import Console

from analysis import tables
from analysis.findings import Page, page
from analysis.words import plain
from study.records import RecordError, read_json, write_whole


class InputError(ValueError):
    """What the user asked for is not there; the message says what is."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: done; 2: bad input."""
    parser = argparse.ArgumentParser(prog="python -m analysis.report", description="Make the page of a study.")
    parser.add_argument("name", nargs="?", help="the study (default: the newest)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="where studies are (default: results)")
    options = parser.parse_args(argv)
    try:
        folder = find(options.results, options.name)
        with Console(stderr=True).status("Making tables, figures and page"):
            path = build(folder)
    except (InputError, RecordError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"page    {path}\nin text {path.with_suffix('.md')}\ntables  {folder / 'tables'}")
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


def build(folder: Path) -> Path:
    """Write tables, figures, report.md and report.html into the study's folder; the page's path. Raises RecordError."""
    tables.build(folder)
    about = read_json(folder / "study.json")
    made = page(about, tables.read(folder, "trials"), tables.read(folder, "epochs"), folder)
    for picture in (picture for section in made.sections for picture in section.pictures):
        write_whole(folder / "figures" / f"{picture.name}.svg", picture.svg)
    write_whole(folder / "report.md", render("report.md.j2", made).encode())
    write_whole(folder / "report.html", render("report.html.j2", made).encode())
    return folder / "report.html"


def render(template: str, made: Page) -> str:
    """The page by one of the templates; in HTML, everything that comes from the study is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "page"),
        autoescape=template.endswith(".html.j2"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plain"] = plain
    return environment.get_template(template).render(page=made)


if __name__ == "__main__":
    sys.exit(main())
