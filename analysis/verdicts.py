"""Every claim judged by the tables of a study: the table `claims`."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from analysis.claims import CLAIMS, Claim, Found
from analysis.effects import Effect, holm, seeds_needed, sign_flip
from analysis.runs import NotTested, Runs
from analysis.statistics import CONFIDENCE
from analysis.words import start

NOT_TESTED, DIFFER, PREVIEW = "not tested", "parts differ", "preview only"
COLUMNS = {
    "claim": "its name",
    "text": "the claim in a sentence",
    "source": "who makes it",
    "said": "what the source says",
    "measure": "what is measured of it",
    "verdict": "supported, contradicted, no material effect, parts differ, inconclusive, preview only or not tested",
    "effect_of": "the least sure effect, of several that it implies; positive where the claim is right",
    "unit": "of the effect: points are percentage points",
    "effect": "its value; null where not tested",
    "low": "low end of its 95 % interval; null where there is none",
    "high": "high end",
    "p": "two-sided p of the claim: the largest of its effects'; null where there is none",
    "p_holm": "adjusted for all tested claims (Holm 1979)",
    "p_sign_flip": "of the sign-flip test over seeds for the effect that decides, not adjusted; null without p",
    "smallest": "the smallest effect that matters, in the same unit",
    "seeds": "seeds that it is estimated from",
    "images": "test images that it is measured on; null where it is of none, or is read off the trials",
    "seeds_needed": "seeds that would settle an inconclusive claim, after Holm's correction, if effect and spread over "
    "seeds stay as they are; null where other images would move it as much, or it takes more than 1,000",
    "spaces": "spaces whose studies can test it",
    "why": "what the verdict rests on, in sentences made from the numbers: a line for each effect and note",
}


LEVEL = 1 - CONFIDENCE
CALLED = ("supported", "contradicted")


@dataclass(frozen=True)
class Judged:
    """A claim with what was found of it, or why nothing was.

    `lost` says which seeds that it takes are lost, `narrower` which channels its networks have instead of the source's.
    """

    claim: Claim
    found: Found | None
    reason: str = ""
    lost: str = ""
    narrower: str = ""

    @property
    def tested(self) -> bool:
        return self.found is not None or bool(self.lost)

    @property
    def decides(self) -> tuple[Effect, float | None, str] | None:
        """Return the least sure effect, the claim's p, and its verdict before p is corrected.

        None where there is no effect, or seeds are lost. The rule is symmetric: each verdict needs all effects, and
        effects that say different things make the verdict `DIFFER`.
        """
        if self.found is None or self.lost:
            return None
        effects = self.found.effects
        least_sure = min(effects, key=lambda e: (e.verdict != "inconclusive", -_p(e), _beyond(e)))
        verdicts = {effect.verdict for effect in effects}
        called = [effect for effect in effects if effect.verdict in CALLED]
        differ = len(verdicts) > 1 and "inconclusive" not in verdicts
        judging = called if differ else effects  # that an effect is immaterial needs no small p
        p = max(map(_p, judging)) if all(e.p is not None for e in judging) else None
        if "inconclusive" in verdicts:
            return least_sure, p, "inconclusive"
        return least_sure, p, DIFFER if differ else least_sure.verdict


def judge(runs: Runs) -> pd.DataFrame:
    """Return every claim, in the order of CLAIMS, with the columns COLUMNS; a preview supports and contradicts none."""
    judged = [_test(claim, runs) for claim in CLAIMS]
    tested = [one for one in judged if one.tested]
    adjusted = holm([1.0 if one.decides is None or one.decides[1] is None else one.decides[1] for one in tested])
    by_name = {one.claim.name: p for one, p in zip(tested, adjusted, strict=True)}
    rows = pd.DataFrame([_row(one, by_name) for one in judged], columns=list(COLUMNS))
    if (runs.trials.fidelity == "preview").any():
        rows.loc[rows.verdict != NOT_TESTED, "verdict"] = PREVIEW
    return rows


def _p(effect: Effect) -> float:
    return 1.0 if effect.p is None else effect.p


def _beyond(effect: Effect) -> float:
    """How far its interval lies from 0, in smallest effects that matter: where no draw contradicts, all p are equal."""
    return 0.0 if effect.low is None or effect.high is None else max(effect.low, -effect.high) / effect.smallest


def _test(claim: Claim, runs: Runs) -> Judged:
    """The claim's test, and which of the arms whose rows it asks for have lost seeds."""
    runs.used.clear()
    try:
        found, reason = claim.test(runs), ""
    except NotTested as why:
        found, reason = None, str(why)
    lost = {arm: runs.lost[arm] for arm in sorted(runs.used & runs.lost.keys())}
    if found is None and lost.keys() <= set(runs.completed.arm):
        lost = {}  # it is not for them that nothing was found
    return Judged(claim, found, reason, "; ".join(f"{said} ({arm})" for arm, said in lost.items()), runs.narrower())


def _said(one: Judged) -> list[str]:
    """What was found, in sentences; of several effects what each by itself would say."""
    if one.found is None:
        return [f"{start(one.reason)}."]
    effects = one.found.effects
    alone = [f" By itself: {effect.verdict}." if len(effects) > 1 else "" for effect in effects]
    return [*(effect.sentence + said for effect, said in zip(effects, alone, strict=True)), *one.found.notes]


def _row(one: Judged, adjusted: dict[str, float]) -> dict[str, object]:
    claim, found, decides = one.claim, one.found, one.decides
    limits = start("; ".join(filter(None, [one.lost, *([one.narrower, found.limits] if found else [])])))
    row: dict[str, object] = {
        "claim": claim.name, "text": claim.text, "source": claim.source, "said": claim.said, "measure": claim.measure,
        "spaces": ", ".join(claim.spaces), "verdict": "inconclusive" if one.lost else NOT_TESTED,
        "why": ": ".join(filter(None, [limits, "\n".join(_said(one))])),
    }  # fmt: skip
    if decides is None:
        return row
    effect, p, verdict = decides
    p_holm = adjusted[claim.name]
    if verdict in (*CALLED, DIFFER) and p_holm > LEVEL:
        verdict = "inconclusive"
    unsure = verdict == "inconclusive"
    return row | {
        "verdict": verdict, "effect_of": effect.what, "unit": effect.unit, "effect": effect.value, "low": effect.low,
        "high": effect.high, "p": p, "p_holm": p_holm,
        "p_sign_flip": None if effect.p is None else sign_flip(effect.own),
        "smallest": effect.smallest, "seeds": effect.seeds, "images": effect.images,
        "seeds_needed": seeds_needed(effect, LEVEL / len(adjusted)) if unsure else None,
    }  # fmt: skip
