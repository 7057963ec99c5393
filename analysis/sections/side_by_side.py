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
from analysis.effects import holm
from analysis.evidence import Evidence
from analysis.failures import CATEGORIES, CONFIDENT, NAMES
from analysis.pairs import SHOWN, Pair
from analysis.rerun import Images
from analysis.sections.failing import TITLES
from analysis.sections.looking import LEGEND, limit, panel, verdict
from analysis.statistics import best_two, estimate, lost_of
from analysis.thumbnails import ACROSS, photo, sheet
from analysis.words import interval, percent, points, start
from study.data import CLASS_NAMES, SIDE

ALPHA = 0.05  # of McNemar's test
ALL = "all images"
LEVELS = (0.5, CONFIDENT, 0.99)  # of confidence, above which the gallery can be filtered


@dataclass(frozen=True)
class Matrix:
    """A configuration's confusion matrix: counts (10, 10) of predictions over all its seeds, rows are labels.

    `report` is its classification report.
    """

    title: str
    seeds: int
    counts: npt.NDArray[np.int64]
    report: Table

    def share(self, label: int, predicted: int) -> float:
        """Of the label's predictions, in [0, 1]."""
        return float(self.counts[label, predicted] / max(self.counts[label].sum(), 1))


@dataclass(frozen=True)
class SideBySide:
    """The widget: matrices and pairs in the order of the standings, and the gallery of all errors."""

    matrices: Sequence[Matrix]
    opens: dict[str, int]  # places of those that stand left and right at first
    pairs: Sequence[tuple[int, int, Section]]  # places of the two in `matrices`
    gallery: str  # JSON without <, to be written into a script block as it is
    sheet: str  # data URI of all images of the gallery
    names: Sequence[tuple[str, str]] = tuple((name, TITLES[name]) for name in NAMES)
    classes: Sequence[str] = CLASS_NAMES
    levels: Sequence[float] = LEVELS


def side_by_side(evidence: Evidence) -> SideBySide | None:
    """The widget's content; None where nothing has been confirmed."""
    images = evidence.images
    if images is None:
        return None
    by_trial = {str(trial): rows.set_index("image") for trial, rows in evidence.predictions.groupby("trial_id")}
    matrices = []
    for s in evidence.standings:
        of = pd.concat([by_trial[t] for t in s.trials.trial_id])
        counts = confusion_matrix(of.label.cat.codes, of.predicted.cat.codes, labels=range(len(CLASS_NAMES)))
        matrices.append(Matrix(s.title, len(s.trials), counts, _report(of)))
    place = {s.name: k for k, s in enumerate(evidence.standings)}
    scales = {trial: limit(maps.predicted, maps.true) for trial, maps in evidence.maps.items()}
    corrected = holm([p.change.p for p in evidence.pairs])
    two = [
        (place[pair.a.name], place[pair.b.name], _pair(evidence, images, pair, p, by_trial, scales))
        for pair, p in zip(evidence.pairs, corrected, strict=True)
    ]
    first = [place[s.name] for s in best_two(evidence.standings)]
    opens = {"left": first[0], "right": first[-1]}
    gallery, pictures = _gallery(evidence, images, place)
    return SideBySide(matrices, opens, two, gallery, f"data:image/png;base64,{base64.b64encode(pictures).decode()}")


def _gallery(evidence: Evidence, images: Images, place: dict[str, int]) -> tuple[str, bytes]:
    """All errors as JSON, an entry a configuration, image and class it was taken for; and the sheet of the images.

    An entry says for how many seeds it holds: of all, then of those with a confidence above each of LEVELS.
    """
    failed = evidence.failures
    shown = np.unique(failed.image)
    entries = pd.DataFrame(
        {
            "tile": np.searchsorted(shown, failed.image),
            "configuration": failed.arm.fillna(failed.config_id).map(place),
            "predicted": failed.predicted.cat.codes,
            "confidence": failed.confidence.astype(float).round(3),
            "bits": failed[NAMES].to_numpy(bool) @ (1 << np.arange(len(NAMES))),
            "seeds": 1,
            **{f"above {level}": (failed.confidence > level).astype(int) for level in LEVELS},
        }
    )
    # A category holds for an image, or for what it was taken for; only confidence differs between seeds.
    key = ["tile", "configuration", "predicted"]
    counts = [name for name in entries if name not in (*key, "confidence", "bits")]
    entries = entries.groupby(key, as_index=False).agg(
        {"confidence": "max", "bits": "max", **dict.fromkeys(counts, "sum")}
    )
    entries = entries.sort_values(["confidence", *key], ascending=[False, True, True, True])
    labels, suspect = images.table.label.cat.codes, images.table.label_suspect.astype(int)
    value = {
        "classes": list(CLASS_NAMES),
        "configurations": [s.title for s in evidence.standings],
        "seeds": [len(s.trials) for s in evidence.standings],
        "images": np.stack([shown, labels[shown], suspect[shown]], axis=1).tolist(),
        "errors": list(zip(*(entries[name].tolist() for name in entries), strict=True)),
        "least": [1 + LEVELS.index(CONFIDENT) if name == "confident" else 0 for name in NAMES],
        "across": ACROSS,
        "side": SIDE,
    }
    # Names are anyone's: no `</script>` may end the block that holds them.
    text = json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
    return text, sheet([images.at(int(i)) for i in shown])


def _pair(
    evidence: Evidence, images: Images, pair: Pair, p: float, by_trial: dict[str, pd.DataFrame],
    scales: dict[str, float],
) -> Section:  # fmt: skip
    """`p` is McNemar's, after Holm's correction over all pairs."""
    change, a, b = pair.change, pair.a.title, pair.b.title
    counts = change.images.value_counts()
    seeds = f"{len(change.seeds)} seed{'s' * (len(change.seeds) > 1)}"
    said = "the two differ" if p < ALPHA else "no difference shown"
    gain = f"{points(100 * (change.gain.value or 0))} points"
    if change.gain.low is not None and change.gain.high is not None:
        gain += f" (95 % BCa interval {points(100 * change.gain.low)} to {points(100 * change.gain.high)})"
    networks, others = "two networks", "Other seeds of the two are not known."
    if len(change.seeds) > 1:
        networks = "ensembles, which take the mean probabilities over the seeds"
        others = "What other seeds would do, the row “all images” says."
    if lost := lost_of(pair.a, pair.b):
        others = f"What other seeds would do is not known: {lost}, and those that are left are no fair sample."
    text = [
        f"From {a} to {b}, over {seeds}: {change.mended:,} predictions mended, {change.broken:,} broken, "
        f"{change.both_wrong:,} wrong in both, {change.both_right:,} right in both.",
        f"Of these {networks}: {counts['mended']:,} images mended, {counts['broken']:,} broken, "
        f"{counts['both wrong']:,} wrong in both: {gain} for {b}. McNemar's exact test, after Holm's correction over "
        f"{len(evidence.pairs)} pairs: p = {p:.2g}, {said} for other images. {others}",
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
                f"Networks of seed {pair.seed}. Table: failures."
            )
            decks.append(Deck(_deck_title(name, a, b), cards, caption, LEGEND if evidence.maps else ""))
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
        row = by_trial[trial].loc[image]
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
    """Accuracy of each class in both, and the difference seed by seed."""
    rights = []
    for s in (pair.a, pair.b):
        of = evidence.predictions[evidence.predictions.trial_id.isin(s.trials.trial_id)]
        right = (of.predicted == of.label).astype(float)
        by_class = right.groupby([of.seed, of.label], observed=True).mean().unstack()
        rights.append(by_class.reindex(columns=CLASS_NAMES).assign(**{ALL: right.groupby(of.seed).mean()}))
    rows = []
    for name in rights[0]:
        a, b = (right[name] for right in rights)
        less = (100 * (b - a)).dropna()
        if len(less):
            found = estimate(less.tolist())
            rows.append([name, percent(a.mean()), percent(b.mean()), points(found.mean), interval(found, signed=True)])
    a, b = pair.a.name, pair.b.name
    caption = (
        f"Accuracy of each class, mean over seeds. The difference, {b} less {a}, is in points and seed by seed, with "
        "Student's t interval. Each stands for itself: of twenty classes without a difference, one would still leave 0 "
        "out. Table: predictions."
    )
    if lost := lost_of(pair.a, pair.b):
        caption = f"{start(lost)}, and those that are left are no fair sample. {caption}"
    return Table(["class", f"{a} %", f"{b} %", "difference", "95 % interval"], rows, caption)


def _report(predictions: pd.DataFrame) -> Table:
    """Accuracy (which is recall), precision and F1 of each class, of all seeds together, and their means."""
    label, predicted = predictions.label.cat.codes, predictions.predicted.cat.codes
    found = precision_recall_fscore_support(label, predicted, labels=range(len(CLASS_NAMES)), zero_division=0)
    each, there = np.stack([found[1], found[0], found[2]], axis=1), found[3] > 0
    both = zip(each, there, strict=True)
    rows = [[name, *map(percent, of)] for name, (of, seen) in zip(CLASS_NAMES, both, strict=True) if seen]
    rows.append(["mean of the classes", *map(percent, each[there].mean(axis=0))])
    caption = "Classification report, in %, of the predictions of all seeds together. Table: predictions."
    return Table(["class", "accuracy (recall)", "precision", "F1"], rows, caption)
