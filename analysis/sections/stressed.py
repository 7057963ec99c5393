"""The stress test: what is left of the confirmed networks' accuracy on corrupted images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis import figures_stress, measures
from analysis.blocks import Picture, Section, Table
from analysis.corruptions import CLEAN, CORRUPTIONS
from analysis.effects import over_both
from analysis.evidence import Evidence
from analysis.measures import Stressed
from analysis.runs import NotTested
from analysis.statistics import Reals, Standing
from analysis.stress import other_amounts
from analysis.words import MISSING, mean_and_interval, percent, spread, start

SHOWN = 5  # configurations, the best first


def stressed(evidence: Evidence) -> Section:
    """Severity curves, mean corruption errors, and a picture of all that was done to the images."""
    title, table = "Under stress", evidence.stress
    if table.empty:
        return Section(title, ["No network was stressed: that takes confirmed trials and their weights."])
    shown = [s for s in evidence.standings if s.name in set(table.arm)][:SHOWN]
    clean = table[table.corruption == CLEAN]
    counts = " or ".join(f"{n:,}" for n in sorted({*clean.n}))
    other = other_amounts(table)
    text = [
        f"{len(CORRUPTIONS)} corruptions and suppressions, each at five severities, of {counts} test "
        "images. What is drawn at random is drawn for each image, so that every network meets the same one. No network "
        "was chosen by what it does here.",
        _hardest(table, shown[0]),
        *([f"{start(other)}: not to be compared with tables by other amounts."] if other else []),
    ]
    names = [s.name for s in shown]
    curves = Picture(
        "severities",
        figures_stress.severity_curves(table, names),
        f"Accuracy by severity under {len(CORRUPTIONS)} corruptions, one panel each, of {', '.join(names)}",
        "Accuracy against severity, 0 is the image as it is; the dotted line is chance. Bars are Student's t intervals "
        "over seeds. Amounts and sources of each: analysis/corruptions.py. Table: stress.",
    )
    tables = [_summary(evidence, shown), _by_corruption(table, shown)]
    return Section(title, text, tables, [curves, *_gallery(evidence)])


def _hardest(table: pd.DataFrame, best: Standing) -> str:
    """Which corruption takes most from a configuration, and which least."""
    by = (
        table[(table.arm == best.name) & (table.corruption != CLEAN)]
        .groupby("corruption")
        .accuracy.mean()
        .sort_values()
    )
    first, last = (f"{str(by.index[k]).replace('_', ' ')} ({percent(by.iloc[k], 1)} %)" for k in (0, -1))
    return f"Of {best.title}, {first} leaves least, mean over severities and seeds; {last} leaves most."


def _summary(evidence: Evidence, shown: Sequence[Standing]) -> Table:
    """Mean corruption errors of each configuration, absolute and against the reference arm, as the scorecard's."""
    runs, table, reference = evidence.runs, evidence.stress, evidence.reference
    against = reference if reference is not None and reference in set(table.arm) else shown[0].name
    made = set(table[table.inside & table.arm.isin([*(s.name for s in shown), against])].corruption)
    groups = {"all": [name for name, corruption in CORRUPTIONS.items() if corruption.family != "suppression"]}
    if made:
        groups["kinds of the augmentation"] = [name for name in groups["all"] if name in made]
        groups["other kinds"] = [name for name in groups["all"] if name not in made]
    rows = []
    for s in shown:
        own = measures.stressed(runs, s.name)
        error, retained = own.error(s.name, *groups["all"]), own.retained(s.name, *groups["all"])
        try:
            both = measures.stressed(runs, s.name, against)
            relative = [_relative(both, both.more_errors(s.name, against, *names)) for names in groups.values()]
        except NotTested:  # they share no seed
            relative = [MISSING] * len(groups)
        clean = percent(own.shares[s.name][CLEAN].mean(), 1)
        rows.append([s.title, clean, _percent(own, error), _percent(own, retained), *relative])
    columns = ["configuration", "clean %", "mean corruption error %", "retained %"]
    caption = (
        "Mean over corruptions, suppressions left out, and severities, of all seeds together; in brackets the interval "
        "over seeds and images, as of the conclusions above. Retained: accuracy under corruption over clean accuracy. "
        f"Relative: geometric mean over corruptions of each one's error over that of {against} with the same seeds, in "
        "%, below 100 is better; it does not depend on which of the two is the reference. Kinds of the augmentation: "
        "kinds of change that the training augmentation of some configuration makes, of any size. Table: stress."
    )
    return Table([*columns, *(f"relative to {against}, {name}" for name in groups)], rows, caption)


def _percent(of: Stressed, values: Reals) -> str:
    found = over_both(100 * values, of.seeds, "", "%", 0, of.images)
    return spread(found.value, found.low, found.high, 1)


def _relative(of: Stressed, log_percent: Reals) -> str:
    """A ratio in %, of 100 times its logarithm, on whose scale the interval is."""
    found = over_both(log_percent, of.seeds, "", "", 0, of.images)
    low, high = (None if end is None else 100 * float(np.exp(end / 100)) for end in (found.low, found.high))
    return spread(100 * float(np.exp(found.value / 100)), low, high, 1)


def _by_corruption(table: pd.DataFrame, shown: Sequence[Standing]) -> Table:
    by = table.groupby(["arm", "corruption", "seed"]).accuracy.mean()
    rows = []
    for name, corruption in CORRUPTIONS.items():
        cells = [mean_and_interval(100 * by[s.name, name], 1) for s in shown]
        rows.append([name.replace("_", " "), corruption.family, *cells])
    caption = (
        "Accuracy in %, mean over the five severities; in brackets Student's t interval over seeds. Table: stress."
    )
    return Table(["corruption", "family", *(s.title for s in shown)], rows, caption, words=2)


def _gallery(evidence: Evidence) -> list[Picture]:
    if evidence.images is None:
        return []
    image = int(evidence.images.table.index[0])
    return [
        Picture(
            "corruptions",
            figures_stress.gallery(evidence.images.at(image), image),
            f"Test image {image} under every corruption, one row each, at severities 0 to 5",
            f"Test image {image} under everything, from severity 0, which is the image itself, to 5. Patch shuffle "
            "takes the shape away, silhouette fill and low pass the texture."
            + (" It shows today's amounts, which are not those of the curves." * bool(other_amounts(evidence.stress))),
        )
    ]
