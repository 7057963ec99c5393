"""Numbers and names in words, as the page writes them."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

from analysis.statistics import Estimate, estimate
from study.config import FIXED_SIZES

TABLES = r"(.*)(Tables?:\s)(.*)"  # how a caption ends: with the tables that its numbers are from
MISSING = "–"
UNRECORDED = "not recorded"


def plain(text: str) -> str:
    """Text that Markdown takes as text: one line, no cell borders, no HTML, no links, no pictures, no emphasis."""
    return re.sub(r"([\\|<`\[\]!*_])", r"\\\1", " ".join(str(text).split()))


def linked(caption: str, files: dict[str, str], link: str) -> str:
    """The caption with the tables that it names at its end as links.

    `files` is where each table is; `link` the form of a link, with {name} and {path}.
    """
    names = "|".join(map(re.escape, sorted(files, key=len, reverse=True)))  # the longest first: one may begin another

    def end(found: re.Match[str]) -> str:
        said = re.sub(rf"\b(?:{names})\b", lambda m: link.format(name=m[0], path=files[m[0]]), found[3])
        return f"{found[1]}{found[2]}{said}"

    return re.sub(TABLES, end, caption, flags=re.DOTALL)


def label(trial: Any) -> str:
    """A row of the table trials as `TrialConfig.label` names it, and `plain` where shortcuts are off."""
    sizes = [trial.hp_blocks] if pd.notna(trial.hp_blocks) and trial.model not in FIXED_SIZES else []
    off = ["plain"] if pd.notna(trial.hp_shortcut) and not trial.hp_shortcut else []
    schedule = [] if trial.hp_schedule == "none" else [trial.hp_schedule]
    return " ".join([trial.model, *sizes, *off, trial.hp_optimizer, f"lr={trial.hp_lr:.2g}", *schedule])


def sure(found: Estimate, lost: str) -> str:
    """The interval and the number of seeds, or why there is no interval; then which seeds are lost."""
    if found.n == 1:
        said = "one seed, so no interval"
    elif found.low is None:
        said = f"{found.n} seeds, all equal, so no interval"
    else:
        images = f" and {found.images:,} images" if found.images else ""
        said = f"95 % interval {interval(found, signed=found.low < 0)}, {found.n} seeds{images}"
    return f"{said}; {lost}" if lost else said


def interval(found: Estimate, *, signed: bool = False) -> str:
    if found.low is None or found.high is None:
        return MISSING
    return f"{points(found.low)} to {points(found.high)}" if signed else f"{number(found.low)} to {number(found.high)}"


def points(difference: float) -> str:
    """Percentage points, with their sign."""
    return f"{difference:+.2f}".replace("-", "−")


def number(value: float, digits: int = 2) -> str:
    """So many decimals, with a true minus; no sign on zero."""
    return f"{value:z.{digits}f}".replace("-", "−")


def spread(mean: float, low: float | None, high: float | None, digits: int = 2) -> str:
    """A mean with its interval, where there is one: `92.41 (92.30 to 92.52)`."""
    if pd.isna(mean):
        return MISSING
    if low is None or high is None or pd.isna(low):
        return number(mean, digits)
    return f"{number(mean, digits)} ({number(low, digits)} to {number(high, digits)})"


def mean_and_interval(values: pd.Series, digits: int = 2) -> str:
    """The mean of one value a seed, and Student's t interval; of those that are known."""
    known = values.dropna().astype(float).tolist()
    found = estimate(known) if known else None
    return spread(found.mean, found.low, found.high, digits) if found else MISSING


def percent(share: float, digits: int = 2) -> str:
    """A share in [0, 1] as a percentage, without the sign."""
    return f"{100 * share:.{digits}f}" if pd.notna(share) else MISSING


def p_value(p: float) -> str:
    return f"p = {p:.3f}" if p >= 0.001 else "p < 0.001"


def setting(value: Any) -> str:
    """The value of a hyperparameter."""
    if pd.isna(value):
        return MISSING
    if str(value) in ("True", "False"):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def duration(seconds: float | None) -> str:
    if seconds is None:
        return UNRECORDED
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def start(text: str) -> str:
    """As the start of a sentence."""
    return text[:1].upper() + text[1:]
