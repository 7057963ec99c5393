"""Any two confirmed configurations side by side, and every image that some network gets wrong."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from analysis.blocks import Card, Deck, Panel, Section, Table
from analysis.evidence import Evidence, Images
from analysis.failures import CATEGORIES, NAMES
from analysis.pairs import SHOWN, Pair
from analysis.sections.failing import TITLES
from analysis.sections.looking import LEGEND, limit, panel, verdict
from analysis.statistics import estimate
from analysis.thumbnails import ACROSS, photo, sheet
from analysis.words import interval, percent, points
from study.data import CLASS_NAMES, SIDE

ALPHA = 0.05  # of McNemar's test


@dataclass(frozen=True)
class Matrix:
    """A configuration's confusion matrix: counts (10, 10) of predictions over all its seeds, rows are labels."""

    title: str
    seeds: int
    counts: npt.NDArray[np.int64]

    def share(self, label: int, predicted: int) -> float:
        """Of the label's predictions, in [0, 1]."""
        return float(self.counts[label, predicted] / max(self.counts[label].sum(), 1))


@dataclass(frozen=True)
class SideBySide:
    """The widget: matrices and pairs in the order of the standings, and the gallery of all errors."""

    matrices: Sequence[Matrix]
    pairs: Sequence[tuple[int, int, Section]]  # places of the two in `matrices`
    gallery: str  # JSON without <, to be written into a script block as it is
    sheet: str  # data URI of all images of the gallery
    names: Sequence[tuple[str, str]] = tuple((name, TITLES[name]) for name in NAMES)
    classes: Sequence[str] = CLASS_NAMES
    across: int = ACROSS


def side_by_side(evidence: Evidence) -> SideBySide | None:
    """The widget's content; None where nothing has been confirmed."""
    images = evidence.images
    if images is None:
        return None
    by_trial = {str(trial): rows for trial, rows in evidence.predictions.groupby("trial_id")}
    matrices = []
    for s in evidence.standings:
        of = pd.concat([by_trial[t] for t in s.trials.trial_id])
        counts = confusion_matrix(of.label.cat.codes, of.predicted.cat.codes, labels=range(len(CLASS_NAMES)))
        matrices.append(Matrix(s.title, len(s.trials), counts))
    place = {s.name: k for k, s in enumerate(evidence.standings)}
    scales = {trial: limit(maps) for trial, maps in evidence.maps.items()}
    two = [(place[p.a.name], place[p.b.name], _pair(evidence, images, p, by_trial, scales)) for p in evidence.pairs]
    gallery, pictures = _gallery(evidence, images, place)
    return SideBySide(matrices, two, gallery, f"data:image/png;base64,{base64.b64encode(pictures).decode()}")


def _gallery(evidence: Evidence, images: Images, place: dict[str, int]) -> tuple[str, bytes]:
    """All errors as JSON, an entry a configuration, image and class it was taken for; and the sheet of the images."""
    failed = evidence.failures.assign(configuration=evidence.failures.arm.fillna(evidence.failures.config_id))
    bits = failed[NAMES].astype(bool).to_numpy() @ (1 << np.arange(len(NAMES)))
    failed = failed.assign(bits=bits, code=failed.predicted.cat.codes)
    grouped = failed.groupby(["configuration", "image", "code"]).agg(
        seeds=("seed", "size"), confidence=("confidence", "max"), bits=("bits", lambda b: int(np.bitwise_or.reduce(b)))
    )
    shown = sorted(failed.image.unique())
    tile = {image: k for k, image in enumerate(shown)}
    rows = sorted(
        ([tile[i], place[c], int(k), int(r.seeds), round(float(r.confidence), 2), r.bits] for (c, i, k), r in
         grouped.iterrows()),
        key=lambda row: (-row[4], row),
    )  # fmt: skip
    table = images.table
    value = {
        "classes": list(CLASS_NAMES),
        "configurations": [s.title for s in evidence.standings],
        "seeds": [len(s.trials) for s in evidence.standings],
        "images": [[int(i), int(table.label.cat.codes[i]), int(table.label_suspect[i])] for i in shown],
        "errors": [[*row[:5], int(row[5])] for row in rows],
        "across": ACROSS,
        "side": SIDE,
    }
    # Names are anyone's: no `</script>` may end the block that holds them.
    text = json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
    return text, sheet([images.at(int(i)) for i in shown])


def _pair(
    evidence: Evidence, images: Images, pair: Pair, by_trial: dict[str, pd.DataFrame], scales: dict[str, float]
) -> Section:
    change, a, b = pair.change, pair.a.title, pair.b.title
    counts = change.images.value_counts()
    seeds = f"{len(change.seeds)} seed{'s' * (len(change.seeds) > 1)}"
    said = "the two differ" if change.p < ALPHA else "no difference shown"
    text = [
        f"From {a} to {b}, over {seeds}: {change.mended:,} predictions mended, {change.broken:,} broken, "
        f"{change.both_wrong:,} wrong in both, {change.both_right:,} right in both.",
        f"Of the ensembles, which take the mean probabilities over the seeds: {counts['mended']:,} images mended, "
        f"{counts['broken']:,} broken, {counts['both wrong']:,} wrong in both; McNemar's exact p = {change.p:.2g}, {said} "
        "for other images. Whether it holds for other seeds, the comparison of candidates and arms says.",
    ]
    notes = [verdict(evidence.checks, s) for s in (pair.a, pair.b)] if evidence.maps else []
    decks = []
    for name, rows in pair.decks.items():
        cards = [
            _card(evidence, images, pair, int(row.image), row.chosen, by_trial, scales) for row in rows.itertuples()
        ]
        if cards:
            caption = (
                f"Up to {SHOWN} with the most confident error, then a random sample of up to {SHOWN} others. "
                f"Networks of seed {pair.seed}. {LEGEND if evidence.maps else ''}"
            )
            decks.append(Deck(_deck_title(name, a, b), cards, caption))
    return Section(f"{a} and {b}", [*text, *notes], [_per_class(evidence, pair)], decks=decks)


def _deck_title(name: str, a: str, b: str) -> str:
    mended = {"mended": f"Wrong in {a}, right in {b}", "broken": f"Right in {a}, wrong in {b}"}
    return mended.get(name) or f"{CATEGORIES[name][:1].upper()}{CATEGORIES[name][1:]}"


def _card(
    evidence: Evidence, images: Images, pair: Pair, image: int, chosen: str, by_trial: dict[str, pd.DataFrame],
    scales: dict[str, float],
) -> Card:  # fmt: skip
    label = str(images.table.label[image])
    panels = [Panel(photo(images.at(image)), f"Test image {image}, {label}", f"{label}, test image {image}")]
    verdicts = []
    for s, trial in zip((pair.a, pair.b), pair.trials, strict=True):
        row = by_trial[trial].set_index("image").loc[image]
        right = "right" if row.predicted == row.label else "wrong"
        said = f"{s.title}: {row.predicted} {percent(row.confidence, 0)} %, {right}"
        verdicts.append(f"{s.name} {right}")
        maps = evidence.maps.get(trial)
        if maps is not None and image in maps.index:
            panels.append(panel(maps.predicted[image], scales[trial], images, image, said))
        else:
            panels.append(Panel(photo(images.at(image)), f"Test image {image}, no map", said))
    return Card(f"{label} ({chosen}): {', '.join(verdicts)}", panels)


def _per_class(evidence: Evidence, pair: Pair) -> Table:
    """Per-class accuracy of both, seed by seed, and the classification report of all their predictions."""
    reports = []
    recalls = []
    for s in (pair.a, pair.b):
        of = evidence.predictions[evidence.predictions.trial_id.isin(s.trials.trial_id)]
        reports.append(_report(of))
        right = (of.predicted == of.label).groupby([of.seed, of.label], observed=False).mean().unstack()
        recalls.append(right)
    rows = []
    for k, name in enumerate(CLASS_NAMES):
        less = (100 * (recalls[1][name] - recalls[0][name])).dropna()
        found = estimate(less.tolist()) if len(less) else None
        each = [points(found.mean), interval(found, signed=True)] if found else ["–", "–"]
        (p_a, r_a, f_a), (p_b, r_b, f_b) = (report[k] for report in reports)
        rows.append([name, percent(r_a), percent(r_b), *each, percent(p_a), percent(p_b), percent(f_a), percent(f_b)])
    macro = [np.mean(report, axis=0) for report in reports]
    (p_a, r_a, f_a), (p_b, r_b, f_b) = macro
    rows.append(["mean of the classes", percent(r_a), percent(r_b), points(100 * (r_b - r_a)), "", percent(p_a),
                 percent(p_b), percent(f_a), percent(f_b)])  # fmt: skip
    a, b = pair.a.name, pair.b.name
    columns = ["class", f"accuracy {a}", f"accuracy {b}", "difference", "95 % interval", f"precision {a}",
               f"precision {b}", f"F1 {a}", f"F1 {b}"]  # fmt: skip
    caption = (
        "Per class, in %: accuracy (recall), precision and F1 of the predictions of all seeds together. The difference "
        f"in points is {pair.b.title} less {pair.a.title}, seed by seed, with Student's t interval; each stands for "
        "itself, and of ten one is likely to be off by chance. Table: predictions."
    )
    return Table(columns, rows, caption)


def _report(predictions: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Precision, recall and F1 of each class, (10, 3); 0 where a class was never predicted."""
    label, predicted = predictions.label.cat.codes, predictions.predicted.cat.codes
    found = precision_recall_fscore_support(label, predicted, labels=range(len(CLASS_NAMES)), zero_division=0)
    return np.stack(found[:3], axis=1)

