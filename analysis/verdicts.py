"""Every claim judged by the tables of a study: the table `claims`."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from analysis.claims import CLAIMS, Claim, Found
from analysis.effects import Effect, holm
from analysis.runs import NotTested, Runs
from analysis.statistics import CONFIDENCE
from analysis.words import number, p_value, start

NOT_TESTED = "not tested"
ORDER = ("contradicted", "no material effect", "inconclusive", "supported")  # the first that an effect has decides
COLUMNS = {
    "claim": "its name",
    "text": "the claim in a sentence",
    "source": "who makes it",
    "said": "what the source says",
    "measure": "what is measured of it",
    "verdict": "supported, contradicted, no material effect, inconclusive or not tested",
    "effect_of": "the effect that decides, of several; positive where the claim is right",
    "unit": "of the effect: points are percentage points",
    "effect": "its value; null where not tested",
    "low": "low end of its 95 % interval; null where there is none",
    "high": "high end",
    "p": "two-sided p of the effect that decides; null where there is none",
    "p_holm": "adjusted for all tested claims (Holm 1979)",
    "p_sign_flip": "of the sign-flip test over seeds, not adjusted; null where the effect is not one of seeds",
    "smallest": "the smallest effect that matters, in the same unit",
    "seeds": "seeds that it is estimated from",
    "seeds_needed": "seeds that would settle an inconclusive claim at this effect and spread; null above 1,000",
    "spaces": "spaces whose studies can test it",
    "why": "what the verdict rests on, in sentences made from the numbers",
}


@dataclass(frozen=True)
class Judged:
    """A claim with what was found of it, or why nothing was."""

    claim: Claim
    found: Found | None
    reason: str = ""

    @property
    def effect(self) -> Effect | None:
        """The effect that decides: of those with the verdict that comes first in ORDER, the one least sure."""
        if self.found is None:
            return None
        return min(self.found.effects, key=lambda e: (ORDER.index(e.verdict), -_p(e)))


def judge(runs: Runs) -> pd.DataFrame:
    """Every claim, in the order of CLAIMS: a row each, columns COLUMNS."""
    judged = [_test(claim, runs) for claim in CLAIMS]
    tested = [(one, one.effect) for one in judged if one.effect is not None]
    adjusted = dict(zip((one.claim.name for one, _ in tested), holm([_p(e) for _, e in tested if e]), strict=True))
    return pd.DataFrame([_row(one, adjusted.get(one.claim.name)) for one in judged], columns=list(COLUMNS))


def _p(effect: Effect) -> float:
    return 1.0 if effect.p is None else effect.p


def _test(claim: Claim, runs: Runs) -> Judged:
    try:
        return Judged(claim, claim.test(runs))
    except NotTested as reason:
        return Judged(claim, None, str(reason))


def _row(one: Judged, p_holm: float | None) -> dict[str, object]:
    claim, effect = one.claim, one.effect
    row: dict[str, object] = {
        "claim": claim.name, "text": claim.text, "source": claim.source, "said": claim.said, "measure": claim.measure,
        "spaces": ", ".join(claim.spaces), "verdict": NOT_TESTED, "why": f"{start(one.reason)}.",
    }  # fmt: skip
    if one.found is None or effect is None or p_holm is None:
        return row
    shown = effect.verdict in ("supported", "contradicted")
    verdict = "inconclusive" if shown and p_holm > 1 - CONFIDENCE else effect.verdict
    return row | {
        "verdict": verdict, "effect_of": effect.what, "unit": effect.unit, "effect": effect.value, "low": effect.low,
        "high": effect.high, "p": effect.p, "p_holm": p_holm, "p_sign_flip": effect.sign_flip,
        "smallest": effect.smallest, "seeds": effect.seeds,
        "seeds_needed": effect.needed if verdict == "inconclusive" else None,
        "why": " ".join([*(_sentence(e) for e in one.found.effects), *one.found.notes]),
    }  # fmt: skip


def _sentence(effect: Effect) -> str:
    """What an effect is, how sure, and against what: made from its numbers alone."""
    value = f"{start(effect.what)}: {signed(effect.value)} {effect.unit}"
    if effect.low is None or effect.high is None:
        seeds = "one seed" if effect.seeds == 1 else f"{effect.seeds} seeds"
        return f"{value} ({seeds}, no interval)."
    ends = f"95 % interval {signed(effect.low)} to {signed(effect.high)}"
    sure = "" if effect.p is None else f", {p_value(effect.p)}"
    return f"{value} ({ends}, {effect.seeds} seeds{sure}; {number(effect.smallest)} would matter)."


def signed(value: float) -> str:
    """Two decimals with a sign, and no sign on zero."""
    return ("+" if value >= 0.005 else "") + number(value)
