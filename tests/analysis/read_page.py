"""The page as a tree, for tests to read from it what a reader would see."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "img", "input", "br"}
UNSEEN = {"script", "style"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: list[Element | str] = field(default_factory=list)

    def all(self, *tags: str) -> Iterator[Element]:
        """Itself and everything in it that has one of the tags, in the order of the page."""
        if self.tag in tags:
            yield self
        for child in self.children:
            if isinstance(child, Element):
                yield from child.all(*tags)

    @property
    def text(self) -> str:
        """Its words, with single spaces between them."""
        return " ".join("".join(self._parts()).replace("\u00a0", " ").split())

    def _parts(self) -> Iterator[str]:
        for child in self.children:
            yield from [child] if isinstance(child, str) else child._parts() if child.tag not in UNSEEN else []

    def tables(self, heading: str) -> list[list[list[str]]]:
        """The cells of each table under the heading, up to the next one."""
        found, under = [], ""
        for element in self.all("h2", "h3", "h4", "table"):
            if element.tag != "table":
                under = element.text
            elif under == heading:
                found.append([[cell.text for cell in row.all("th", "td")] for row in element.all("tr")])
        return found


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        if self.open.pop().tag != tag:
            raise ValueError(f"</{tag}> at line {self.getpos()[0]}: got it, must close what was opened last")

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def read(html: str) -> Element:
    """The page's tree. Raises ValueError where a tag is not closed by its own end tag."""
    reader = _Reader()
    reader.feed(html)
    (root,) = reader.open
    return root
