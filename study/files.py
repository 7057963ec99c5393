"""Files that are written whole or not at all, and checked when they are read again.

JSON carries its own checksum, which tells what was garbled or swapped; against who writes it anew, types and ranges are
checked as well, and no link is followed out of a study's folder.
"""

from __future__ import annotations

import codecs
import dataclasses
import errno
import functools
import glob
import hashlib
import io
import json
import os
import platform
import re
import shlex
import sys
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TextIO, Union, get_args, get_origin, get_type_hints, is_typeddict

import psutil

# Of a disk that is full, read-only, broken or gone.
DISK_ERRORS = ("ENOSPC", "EDQUOT", "EROFS", "EIO", "ESTALE", "ENODEV", "ENOENT", "EACCES", "EPERM")
LOST_DISK = {getattr(errno, name) for name in DISK_ERRORS}
OF_A_PATH = {errno.ENOENT, errno.EACCES, errno.EPERM}  # of these what a path says of itself, and maybe of the disk
LEFT = ("epochs.jsonl", "predictions.parquet", "best.pt")  # by a trial that has ended: trial.json holds their digests
AGAIN = "; delete {folder} and resume the study, which makes up for it"
WAY_ON = dict.fromkeys(("trial.json", *LEFT), AGAIN) | {
    "study.json": "; move it aside, and begin again with --space {folder}/space.yaml --name {name}{results} and the"
    ' options that the study was begun with, which its "command" may still tell: its trials are kept',
    "space.yaml": "; put back the old one, or begin another study with the new one",
    "scale.json": "; put back the old one, or begin another study with another --name",
    "best.pt": "; delete it, and the page is made without this network's maps",
}
PLAIN = "study.plain"  # how a stream names what `plain_signs` registers
SIGNS = {"✓": "+", "✗": "x", "·": ".", "≠": "!=", "↻": "again:", "×": "x", "–": "-", "−": "-", "…": "...", "±": "+-"}


class RecordError(ValueError):
    """A file of a results folder does not hold what this version writes; the message, one line, names the file."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def printable(text: str) -> str:
    """The text in one line, in which nothing acts in a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def counted(number: int, what: str) -> str:
    """Return `1 trial` or `1,024 trials`."""
    return f"{number:,} {what}{'s' * (number != 1)}"


def plain_signs() -> None:
    """Let standard output and error take a plain sign for each that their encoding lacks, and raise for none.

    Where one of the three streams was closed, /dev/null is in its place: the next file that is opened would be, and get
    what is printed.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    codecs.register_error(PLAIN, _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None where it was closed
            stream.reconfigure(errors=PLAIN)


def is_terminal(stream: TextIO) -> bool:
    """Return whether lines that are printed there can be drawn anew, whatever FORCE_COLOR says, which CI often sets."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(SIGNS.get(sign) or ascii(sign)[1:-1] for sign in lacking), error.end


def broken(path: Path, got: str, must: str) -> RecordError:
    """What is wrong with a file of a study, and the way on."""
    got = got if len(got) <= 800 else f"{got[:400]} … {got[-400:]}"
    results = "" if path.parent.parent == Path("results") else f" --results {shlex.quote(str(path.parent.parent))}"
    folder, name = shlex.quote(str(path.parent)), shlex.quote(path.parent.name)
    way_on = WAY_ON.get(path.name, "").format(folder=folder, name=name, results=results)
    return RecordError(f"{path}: got {got}, must be {must}{way_on}")


def misfit(value: Any, hint: Any, name: str = "", bounds: Any = None) -> str | None:
    """What of a value is not of a type, or of a dataclass or TypedDict not of its fields' types and ranges; or None."""
    parts: Iterable[tuple[Any, ...]] = ()
    if hint in (int, float, str, bool):
        fits = type(value) is hint or (hint is float and type(value) is int)
        if type(value) is int:
            fits = fits and abs(value) <= 2**53  # as a column of a table can have it
        fits = fits and (bounds is None or value in bounds)
    elif fields := _fields(hint):
        fits = type(value) is hint
        parts = ((getattr(value, field), *known) for field, *known in fields)
    elif is_typeddict(hint):
        fits = isinstance(value, dict) and hint.__required_keys__ <= value.keys()
        parts = ((value[key], of_key, key) for key, of_key in get_type_hints(hint).items() if key in value)
    else:
        origin, of = get_origin(hint), get_args(hint)
        if origin in (list, tuple):
            fits = isinstance(value, origin)
            parts = ((item, of[0], name, bounds) for item in (value if fits else ()))
        elif origin is dict:
            fits = isinstance(value, dict)
            items = value.items() if fits else ()
            parts = (part for key, item in items for part in ((key, of[0], name), (item, of[1], key)))
        elif origin in (types.UnionType, Union):  # of a Literal the latter
            fits = any(misfit(value, option, name, bounds) is None for option in of)
        elif origin is Literal:
            fits = isinstance(value, str) and value in of
        else:
            fits = hint is Any or isinstance(value, hint)
    if not fits:
        return f"{name} {value!r}".strip()
    return next((found for part in parts if (found := misfit(*part))), None)


@functools.cache
def _fields(of: Any) -> list[tuple[Any, ...]]:
    """Of a dataclass's fields the name, type, name and range."""
    hints = get_type_hints(of) if dataclasses.is_dataclass(of) else {}
    return [(f.name, hints[f.name], f.name, f.metadata.get("range")) for f in dataclasses.fields(of)] if hints else []


def write_whole(path: Path, data: bytes | memoryview) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part: temporary file, then rename.

    No folder is made: a study that is removed while it runs does not come back in pieces.
    """
    temporary = temporary_of(path)
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def temporary_of(path: Path) -> Path:
    """Where this process writes the file before it is whole; other machines may work in the same folder."""
    return path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}")


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write JSON whole or not at all, with its checksum. Raises ValueError on NaN and infinity, which JSON has not."""
    write_whole(path, (json.dumps({**value, "sha256": _digest(value)}, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file that `write_json` wrote. Raises RecordError where there is none, or another."""
    must = "a JSON object that this program wrote"
    try:
        if not path.is_file():  # a pipe would keep who reads it waiting
            raise FileNotFoundError("no such file")
        value = json.loads(path.read_bytes())
        if not isinstance(value, dict):
            raise ValueError(type(value).__name__)
        noted = value.pop("sha256", None)
        if noted != _digest(value):
            raise ValueError("a file that was changed or cut since")
    except (OSError, ValueError, RecursionError) as error:
        got = f"no JSON ({error})" if isinstance(error, json.JSONDecodeError) else str(error)
        raise broken(path, got, must) from error
    return value


def _digest(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, allow_nan=False).encode()).hexdigest()


def refuse_links(study: Path) -> None:
    """Raise RecordError where what is read or written in a study's folder could lie outside it, or be a pipe."""
    waiting = [str(study)]
    odd = [str(study)] if study.is_symlink() else []
    for folder in waiting:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                elif not entry.is_file(follow_symlinks=False):
                    odd.append(entry.path)
    if odd:
        raise RecordError(f"{odd[0]}: got a link, pipe or device, must be a file or folder; delete or replace it")


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def drop_temporaries(folder: Path, alone: bool = False) -> None:
    """Remove what processes of this machine that live no more left half written in a folder, and in those in it.

    `alone`: nobody else writes there, so that what any machine left is removed; a container has a new name each time.
    """
    host = "*" if alone else glob.escape(platform.node())
    for leftover in folder.rglob(f".*.{host}.[0-9]*"):
        process = leftover.name.rpartition(".")[2]
        if re.fullmatch(r"\d{1,9}", process) and leftover.is_file() and (alone or not psutil.pid_exists(int(process))):
            leftover.unlink(missing_ok=True)
