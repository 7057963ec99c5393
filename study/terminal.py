"""Print whatever encoding standard output and error have: a terminal, or the file in its place, may lack UTF-8."""

from __future__ import annotations

import codecs
import io
import sys

PLAIN = "study.plain"  # how `open` and `reconfigure` name what `plain_signs` registers
SIGNS = {"✓": "+", "✗": "x", "·": ".", "≠": "!=", "↻": "again:", "×": "x", "–": "-", "−": "-", "…": "...", "±": "+-"}


def plain_signs() -> None:
    """Print a plain sign for each that the encoding lacks, where UnicodeEncodeError would be raised."""
    codecs.register_error(PLAIN, _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None where it was closed
            stream.reconfigure(errors=PLAIN)


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(SIGNS.get(sign) or ascii(sign)[1:-1] for sign in lacking), error.end
