"""Whether the networks know how sure they may be."""

from __future__ import annotations

from analysis import figures
from analysis.blocks import Picture, Section, Table
from analysis.calibration import BINS, MEASURES
from analysis.evidence import Evidence
from analysis.words import mean_and_interval, number, percent

SHOWN = 4  # configurations in the figure, the best first
PERCENT = {"ece", "confident_if_wrong", "wrong_if_confident", "claimed_if_confident"}  # shown in %
NAMES = {
    "ece": "calibration error, %",
    "nll": "negative log-likelihood, nats",
    "brier": "Brier score",
    "aurc": "area under risk–coverage",
    "confident_if_wrong": "errors above 0.9 confidence, % of errors",
    "wrong_if_confident": "error rate above 0.9 confidence, %",
    "claimed_if_confident": "error rate claimed there, %",
}


def calibrated(evidence: Evidence) -> Section:
    """Calibration before and after temperature scaling, and a reliability diagram."""
    title, table = "How far they are to be believed", evidence.calibration
    if table.empty:
        return Section(title, ["No test image has been predicted."])
    rows = []
    for s in evidence.standings:
        of = table[table.trial_id.isin(s.trials.trial_id)]
        for scaled, found in of.groupby("scaled"):
            how = f"T = {number(found.temperature.mean())}" if scaled else "as it is"
            each = [(100 * found[n], 2) if n in PERCENT else (found[n], 3) for n in MEASURES]  # values, digits
            rows.append([s.title, how, *(mean_and_interval(*one) for one in each)])
    measured = Table(
        ["configuration", "probabilities", *(NAMES[name] for name in MEASURES)],
        rows,
        f"Mean over seeds; in brackets Student's t interval. Calibration error: {BINS} bins of equal size. Temperature "
        "scaling (Guo et al. 2017) divides the logits by T, fitted for each network on the validation images; it "
        "changes no prediction. Formulas and sources: analysis/calibration.py. Table: calibration.",
        words=2,
    )
    shown = evidence.standings[:SHOWN]
    groups = [(s.name, evidence.predictions[evidence.predictions.trial_id.isin(s.trials.trial_id)]) for s in shown]
    diagram = Picture(
        "reliability",
        figures.reliability([(name, of.confidence, of.label == of.predicted) for name, of in groups], BINS),
        f"Reliability diagram: accuracy less confidence, by confidence, of {', '.join(name for name, _ in groups)}",
        f"Accuracy less mean confidence in {BINS} bins of equal size, all seeds together; below the line a network is "
        "more confident than it is right. Table: predictions.",
    )
    return Section(title, [_said(evidence)], [measured], [diagram])


def _said(evidence: Evidence) -> str:
    """What the best configuration's confidence is worth, in a sentence made from the numbers."""
    best, table = evidence.standings[0], evidence.calibration
    of = table[table.trial_id.isin(best.trials.trial_id)]
    plain, scaled = (of[of.scaled == after] for after in (False, True))
    wrong, claimed = plain.wrong_if_confident.mean(), plain.claimed_if_confident.mean()
    after = f", {percent(scaled.ece.mean())} points once its logits are divided by {number(scaled.temperature.mean())}"
    return (
        f"Where {best.title} is more than 90 % confident, {percent(wrong)} % are wrong; it claims {percent(claimed)} "
        f"%. Its calibration error is {percent(plain.ece.mean())} points{after if len(scaled) else ''}."
    )
