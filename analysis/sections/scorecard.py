"""The scorecard: what each source concluded, and whether the runs support it."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.blocks import Section, Table
from analysis.effects import MOST_SEEDS, signed
from analysis.evidence import Evidence
from analysis.verdicts import DIFFER, LEVEL, NOT_TESTED, PREVIEW
from analysis.words import MISSING, p_value

NOTHING = pd.DataFrame(columns=["study", "verdict"])
SIGNS = {
    "supported": "✓", "contradicted": "✗", "no material effect": "≈", DIFFER: "±", "inconclusive": "?", PREVIEW: "○"
}  # fmt: skip


def scorecard(evidence: Evidence) -> Section:
    """Every claim with its verdict; of those that this study cannot test, what other studies beside it say."""
    claims = evidence.claims
    preview = evidence.about.get("fidelity") == "preview"
    tested, others = claims[claims.verdict != NOT_TESTED], claims[claims.verdict == NOT_TESTED]
    elsewhere = dict(tuple(evidence.elsewhere.groupby("claim")))
    tables = []
    if len(tested):
        caption = (
            "The effect is positive where the conclusion is right; of several that it implies, it is the least sure. "
            "Supported, contradicted: the intervals of all effects leave 0 out on the same side, and p is at most 0.05 "
            "after Holm's correction for all that are tested. No material effect: the 95 % intervals, which nothing "
            "corrects, lie within what would matter. Parts differ: each effect says one of these, and not all the "
            "same, with p as above. Inconclusive: otherwise, or seeds are lost. Preview only: a preview supports and "
            "contradicts nothing. What would matter, and over how many seeds and images an interval is, the next table "
            "says. How each is measured and judged: analysis/claims.py, analysis/verdicts.py. Table: claims."
        )
        columns = ["conclusion", "verdict", "effect of", "effect", "95 % interval"]
        tables.append(Table(columns, [_row(row) for row in tested.itertuples()], caption, words=3))
        why = [[row.text, _why(row)] for row in tested.itertuples()]
        caption = (
            "Made from the numbers; points are percentage points. Every p is of seeds that were fixed beforehand: who "
            "looks, adds seeds and looks again finds more often what is not there. Table: claims, column why."
        )
        tables.append(
            Table(["conclusion", "what the source says, and what the verdict rests on"], why, caption, words=2)
        )
    if len(others):
        own = str(evidence.about.get("space"))
        rows = [
            [row.text, _reason(row), _others(elsewhere.get(row.claim, NOTHING), row.spaces, own)]
            for row in others.itertuples()
        ]
        caption = (
            "Verdicts of the other studies in this results folder, or the spaces whose arms it takes. Table: claims."
        )
        tables.append(Table(["conclusion", "not tested here", "elsewhere"], rows, caption, words=3))
    said = summary(tested, len(claims), preview)
    if more := sum(_tested(elsewhere.get(claim, NOTHING)) for claim in others.claim):
        said += f" Studies in the same results folder test {more} more."
    return Section("The sources' conclusions", [said], tables)


def summary(tested: pd.DataFrame, of: int, preview: bool) -> str:
    """How many are tested, and how they came out."""
    counts = tested.verdict.value_counts()
    what = f"Of {of} conclusions that the two projects drew, this study tests {len(tested)}"
    if preview:
        return f"{what} as a preview, which supports and contradicts none."
    said = ", ".join(f"{counts[verdict]} {verdict}" for verdict in SIGNS if verdict in counts)
    return f"{what}: {said}." if said else f"{what}."


def _row(row: Any) -> list[str]:
    first = [row.text, _verdict(row)]
    if pd.isna(row.effect):
        return [*first, *[MISSING] * 3]
    ends = f"{signed(row.low)} to {signed(row.high)}" if pd.notna(row.low) else MISSING
    return [*first, row.effect_of, f"{signed(row.effect)} {row.unit}", ends]


def _verdict(row: Any) -> str:
    return f"{SIGNS[row.verdict]} {row.verdict}"


def _why(row: Any) -> str:
    p = _corrected(row)
    p += f" Sign-flip test over seeds, not corrected: {p_value(row.p_sign_flip)}." if pd.notna(row.p_sign_flip) else ""
    few = f" A new study of some {row.seeds_needed:.0f} seeds would settle it." if pd.notna(row.seeds_needed) else ""
    if row.verdict == "inconclusive" and pd.notna(row.low) and not few and not _within(row):
        few = f" More seeds alone, up to {MOST_SEEDS:,}, would not settle it."
    rest = f"{p}{few}".strip()
    return "\n".join(filter(None, [f"The {row.source} says: {row.said}.", row.why, rest]))


def _corrected(row: Any) -> str:
    if pd.isna(row.p) or row.verdict == "no material effect":
        return ""
    without = f", without it {p_value(row.p)}" if row.p <= LEVEL < row.p_holm else ""
    return f" After Holm's correction {p_value(row.p_holm)}{without}."


def _within(row: Any) -> bool:
    """Whether the interval of the effect lies within what would matter."""
    return bool(-row.smallest < row.low and row.high < row.smallest)


def _reason(row: Any) -> str:
    return f"{row.why[:1].lower()}{row.why[1:].removesuffix('.')}"


def _tested(rows: pd.DataFrame) -> bool:
    return bool((rows.verdict != NOT_TESTED).any())


def _others(rows: pd.DataFrame, spaces: str, own: str) -> str:
    """The verdicts of other studies, each with the word preview where it is one; else the spaces that can test it, but
    for this study's `own`, and of those that have been run why they do not."""
    if _tested(rows):
        rows = rows[rows.verdict != NOT_TESTED]
        of = [
            f"study {row.study}{row.judged}: {_verdict(row)}. {row.why}{_corrected(row)}" for row in rows.itertuples()
        ]
        return " ".join(of)
    stems = {space.removesuffix(".yaml"): space for space in spaces.split(", ") if space != own}
    run = rows[rows.study.isin(list(stems))]
    left = [space for stem, space in stems.items() if stem not in set(run.study)]
    return "; ".join(left + [f"study {row.study} does not: {_reason(row)}" for row in run.itertuples()]) or MISSING
