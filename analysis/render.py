"""The page of a study as HTML and Markdown, by the templates in `page/`."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from analysis.blocks import Picture, Section
from analysis.findings import Page
from analysis.schemas import SCHEMAS
from analysis.words import linked, plain

# Where the tables are that captions name, from the page.
FILES = {name: f"tables/{name}.parquet" for name in SCHEMAS} | {"study.json": "study.json"}


def pictures(sections: Sequence[Section]) -> Iterator[Picture]:
    """All figures of the sections, and of the smaller ones in them."""
    for section in sections:
        yield from section.pictures
        yield from pictures(section.parts)


def render(template: str, made: Page) -> str:
    """The page by one of the templates; in HTML, everything that comes from the study is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "page"),
        autoescape=template.endswith(".html.j2"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    files = {plain(name): path for name, path in FILES.items()}
    environment.filters |= {"plain": plain, "caption": lambda text: linked(plain(text), files, "[{name}]({path})")}
    if template.endswith(".html.j2"):
        environment.finalize = lambda value: _unbroken(value) if type(value) is str else value
        environment.filters["caption"] = _caption
    pngs: dict[bytes, int] = {}  # each once in the page, however many cards show it: the place of each is its name
    environment.filters["stored"] = lambda png: pngs.setdefault(png, len(pngs))
    return environment.get_template(template).render(page=made, pngs=pngs, base64=lambda png: b64encode(png).decode())


def _caption(text: str) -> Markup:
    return Markup(linked(str(escape(_unbroken(text))), FILES, '<a href="{path}">{name}</a>'))


def _unbroken(text: str) -> str:
    """With every number and its % on one line."""
    return text.replace(" %", "\u00a0%")
