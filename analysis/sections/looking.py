"""Where the networks look: Grad-CAM, whether its maps are to be trusted, and how much of them lies on the garment."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.attention import CHECKED, VARIANTS, failed, trusted
from analysis.blocks import Card, Deck, Panel, Section, Table
from analysis.evidence import Evidence
from analysis.pairs import own_errors
from analysis.rerun import Images
from analysis.statistics import Standing, estimate
from analysis.thumbnails import photo, signed_map
from analysis.words import MISSING, interval, number, percent, points

METHODS = {name: said[0].upper() + said[1:] for name, said in VARIANTS.items()}
LEGEND = "Orange speaks for the class, violet against it, white says nothing; each network and method has one scale."


def where_they_look(evidence: Evidence) -> Section:
    title = "Where the networks look"
    if evidence.attention.empty or evidence.images is None:
        return Section(title, ["No maps were made."])
    text = [
        "Grad-CAM and HiResCAM say which cells of a network's last feature map speak for a class; integrated gradients "
        "and occlusion say it of pixels, and are pooled to the same cells. The maps here are signed and measured cell "
        f"by cell. Whether such a map means anything is checked for every network first, on {CHECKED} "
        "images, half of them errors, for the class that it predicts; nothing has checked maps of the true class and "
        "differences of maps.",
        *(verdict(evidence.checks, s) for s in evidence.standings),
    ]
    if not evidence.maps and len(evidence.failures):
        text.append("The maps themselves cannot be drawn: the networks' weights are not in the study's folder.")
    tables = [_checks(evidence), _energy(evidence)]
    return Section(title, text, tables, decks=_decks(evidence, evidence.images))


def verdict(checks: pd.DataFrame, standing: Standing) -> str:
    """Whether the maps of a configuration's networks are to be trusted, and which checks fail where not."""
    of = checks[checks.trial_id.isin(standing.trials.trial_id)]
    networks = of.trial_id.nunique()
    over = f"{networks} networks together" if networks > 1 else "one network"
    said = [
        f"{METHODS[variant]} fails ({', '.join(checks)})" if checks else f"{METHODS[variant]} passes every check"
        for variant, checks in failed(of).items()
    ]
    if not said:
        return f"{standing.title}: maps not checked, the weights are not here."
    said[-1] += f", in {over}"
    end = "" if all(trusted(of).values()) else " Where a check fails, a map is a picture and no evidence."
    return f"{standing.title}: {'; '.join(said)}.{end}"


def _checks(evidence: Evidence) -> Table:
    rows = []
    for s in evidence.standings:
        of = evidence.checks[evidence.checks.trial_id.isin(s.trials.trial_id)]
        for (variant, check), found in of.groupby(["variant", "check"], sort=False):
            values = found.value.dropna()
            spread = f"{number(values.min())} to {number(values.max())}" if len(values) else MISSING
            mean = number(values.mean()) if len(values) else MISSING
            passed = f"{int(found.passed.sum())} of {len(found)}"
            rows.append([s.title, METHODS[variant], str(check), mean, spread, passed])
    columns = ["configuration", "maps", "check", "mean", "over networks", "passed"]
    caption = (
        "Weight randomisation: correlation with the maps of networks with random weights, low is good. Insertion and "
        "deletion: what the map's best cells gain over random ones. Occlusion: correlation with what covering a 4×4 "
        "square does to the logit. A kind of map passes where the interval over networks does; of one network, that "
        "over images. Thresholds and sources: analysis/attention.py. Table: attention_checks."
    )
    return Table(columns, rows, caption, words=3)


def _energy(evidence: Evidence) -> Table:
    rows = []
    for s in evidence.standings:
        of = evidence.attention[evidence.attention.trial_id.isin(s.trials.trial_id)]
        checks = evidence.checks[evidence.checks.trial_id.isin(s.trials.trial_id)]
        for variant, found in of[of.target == "predicted"].groupby("variant"):
            wrong, right = found[found.wrong], found[~found.wrong]
            both = wrong.merge(right, left_on=["trial_id", "image"], right_on=["trial_id", "matched"])
            less = (100 * (both.energy_x - both.energy_y)).groupby(both.trial_id).mean().dropna()
            if less.empty:
                continue
            difference, passed = estimate(less.tolist()), checks[checks.variant == variant].passed
            shares = [percent(found[name].mean(), 1) for name in ("area_share", "centre_energy", "random_energy")]
            rows.append([s.title, METHODS[variant], percent(wrong.energy.mean(), 1), percent(right.energy.mean(), 1),
                         points(difference.mean), interval(difference, signed=True), *shares,
                         f"{int(passed.sum())} of {len(passed)}"])  # fmt: skip
    columns = ["configuration", "maps", "errors %", "matched correct %", "difference", "95 % interval", "uniform %",
               "centre %", "random weights %", "checks passed"]  # fmt: skip
    caption = (
        "Share of the positive evidence for the predicted class that lies on the garment: of errors, and of correctly "
        "classified images of the same class and about the same area. Beside it what maps that know nothing reach: a "
        "uniform one (every cell alike, of whatever size), a centred one, and that of random weights. Student's t "
        "interval over seeds. Where a check is not passed, this is no evidence. Tables: attention, attention_checks."
    )
    return Table(columns, rows, caption, words=2)


def limit(*columns: pd.Series) -> float:
    """The value at which a network's maps reach full colour: all but the largest hundredth of its pixels lie below."""
    return float(np.quantile(np.abs(np.concatenate([values for column in columns for values in column])), 0.99))


def panel(
    values: np.ndarray, scale: float, images: Images, image: int, what: str, *, signed_difference: bool = False
) -> Panel:
    """A map of one image, with its caption; says so where there is no positive evidence."""
    none = "" if signed_difference or values.max() > 0 else ", no positive evidence"
    return Panel(signed_map(values, scale, images.mask(image)), f"Map of test image {image}: {what}{none}", what + none)


def _decks(evidence: Evidence, images: Images) -> list[Deck]:
    """Errors of the best configuration's network on show: predicted, true, and the difference."""
    for s in evidence.standings:
        for trial in s.trials.sort_values("seed").trial_id:
            if trial in evidence.maps:
                return _of_network(evidence, images, s, trial)
    return []


def _of_network(evidence: Evidence, images: Images, s: Standing, trial: str) -> list[Deck]:
    maps = evidence.maps[trial]
    chosen, scale = own_errors(evidence.failures, trial), limit(maps.predicted, maps.true)
    chosen = chosen[chosen.image.isin(maps.index)]
    both = "hirescam" in maps
    scales = (scale, limit(maps.hirescam) if both else scale)
    seed = int(s.trials.set_index("trial_id").seed[trial])
    decks = []
    for how, said in (("worst", "the most confident"), ("random", "others, drawn at random")):
        cards = []
        for row in chosen[chosen.chosen == how].itertuples():
            image, of = int(row.image), maps.loc[row.image]
            cards.append(Card(
                f"{row.label} taken for {row.predicted}, {percent(row.confidence, 0)} %",
                [
                    Panel(photo(images.at(image)), f"Test image {image}, {row.label}", f"test image {image}"),
                    panel(of.predicted, scale, images, image, f"for {row.predicted}, predicted"),
                    *([panel(of.hirescam, scales[1], images, image, f"HiResCAM for {row.predicted}")] if both else []),
                    panel(of.true, scale, images, image, f"for {row.label}, true"),
                    panel(of.predicted - of.true, scale, images, image, "predicted less true", signed_difference=True),
                ],
            ))  # fmt: skip
        if cards:
            caption = f"{verdict(evidence.checks, s)} Tables: failures, attention_checks."
            decks.append(Deck(f"Errors of {s.title}, seed {seed}: {said}", cards, caption, LEGEND))
    return decks
