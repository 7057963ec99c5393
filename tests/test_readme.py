"""What the README says of a space's keys is what the code has."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from study import space_file
from study.config import MODELS, OPTIMIZERS, SCHEDULES, Augmentation, TrialConfig
from study.space import Budget, Split

KINDS = {"int": "whole, ", "float": "", "bool": "true or false", "tuple[int, ...]": "list of whole, each "}
REQUIRED = {"epochs", "trials", "candidates", "seeds", "lr"}


def rows() -> list[str]:
    """The beginning of each row: key, what it accepts, default."""
    found = []
    components = {**MODELS, **OPTIMIZERS, **SCHEDULES}
    for name in ("resnet", "fashion_cnn", *OPTIMIZERS, *SCHEDULES):
        found += _of(f"{name}.", components[name])
    found += _of("augmentation.", Augmentation())
    plain = [field for field in dataclasses.fields(TrialConfig) if field.name in space_file.PLAIN]
    found += [_row(field.name, field) for field in plain]
    for section, keys in space_file.SECTIONS.items():
        given = {field.name: field for field in (*dataclasses.fields(Split), *dataclasses.fields(Budget))}
        found += [_row(f"{section}.{key}", given[key]) for key in keys if section != "preview"]
    own = [key for key in space_file.SECTIONS["preview"] if key in ("test", "width")]
    return found + [_row(f"preview.{key}", space_file.NUMBERS[key]) for key in own]


def _of(prefix: str, prototype: object) -> list[str]:
    fields = [field for field in dataclasses.fields(prototype) if field.name != "name"]  # type: ignore[arg-type]
    return [_row(prefix + field.name, field) for field in fields]


def _row(key: str, field: dataclasses.Field[object]) -> str:
    limits = str(field.metadata.get("range", "")).removeprefix("in ")
    default = "" if key.rpartition(".")[2] in REQUIRED else _shown(field.default)
    default = "1" if key == "augmentation.strength" else default  # where it is left out, but some maximum is given
    return f"| `{key}` | {KINDS[str(field.type)]}{limits} | {default} |"


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else str(value)


def test_the_table_of_keys_is_that_of_the_code() -> None:
    text = (Path(__file__).parents[1] / "search_spaces" / "README.md").read_text(encoding="utf-8")
    _, _, below = text.partition("| key | values | default | meaning |\n|---|---|---|---|\n")
    table = below.partition("\n\n")[0].splitlines()
    assert [row.rsplit("|", 2)[0] + "|" for row in table] == rows()
    assert all(re.fullmatch(r".+\| .{5,} \|", row) for row in table), "a key without a meaning"


@pytest.mark.parametrize("package", ["study", "analysis"])
def test_every_module_is_in_the_map_of_its_package(package: str) -> None:
    folder = Path(__file__).parents[1] / package
    text = (folder / "README.md").read_text(encoding="utf-8")
    table = text.partition("| module | what it does |\n|---|---|\n")[2].partition("\n\n")[0]
    named = re.findall(r"`(\w+)(?:\.py|/)`", table)
    modules = {path.stem for path in folder.glob("[!_]*.py")} | {path.name for path in folder.glob("[!_.]*/")}
    assert sorted(named) == sorted(modules)


LINKS = [*Path(__file__).parents[1].glob("[!.]*/README.md"), Path(__file__).parents[1] / "README.md"]


@pytest.mark.parametrize("path", LINKS, ids=lambda path: path.parent.name)
def test_every_link_leads_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
        target, _, anchor = link.partition("#")
        text = (path.parent / target).resolve()
        assert text.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", text.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, link


def test_the_readme_is_short() -> None:
    assert len(LINKS[-1].read_text(encoding="utf-8").splitlines()) <= 130
