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
from analysis.evidence import Evidence
from analysis.failures import CATEGORIES, CONFIDENT, NAMES
from analysis.pairs import SHOWN, Pair
from analysis.rerun import Images
from analysis.sections.failing import TITLES
from analysis.sections.looking import LEGEND, limit, panel, verdict
from analysis.statistics import estimate
from analysis.thumbnails import ACROSS, photo, sheet
from analysis.words import interval, percent, points
from study.data import CLASS_NAMES, SIDE

ALPHA = 0.05  # of McNemar's test
LEVELS = (0.5, CONFIDENT, 0.99)  # of confidence, above which the gallery can be filtered


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
        matrices.append(Matrix(s.title, len(s.trials), counts))
    place = {s.name: k for k, s in enumerate(evidence.standings)}
    scales = {trial: limit(maps.predicted, maps.true) for trial, maps in evidence.maps.items()}
    two = [(place[p.a.name], place[p.b.name], _pair(evidence, images, p, by_trial, scales)) for p in evidence.pairs]
    gallery, pictures = _gallery(evidence, images, place)
    return SideBySide(matrices, two, gallery, f"data:image/png;base64,{base64.b64encode(pictures).decode()}")


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
        f"{counts['broken']:,} broken, {counts['both wrong']:,} wrong in both; McNemar's exact p = {change.p:.2g}, "
        f"{said} for other images. Whether it holds for other seeds, the last row of the first table says.",
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
                f"Networks of seed {pair.seed}. {LEGEND if evidence.maps else ''} Table: failures."
            )
            decks.append(Deck(_deck_title(name, a, b), cards, caption))
    return Section(f"{a} and {b}", [*text, *notes], _per_class(evidence, pair), decks=decks)


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


def _per_class(evidence: Evidence, pair: Pair) -> list[Table]:
    """Accuracy of each class in both, seed by seed, and the classification report of all their predictions."""
    reports, recalls = [], []
    for s in (pair.a, pair.b):
        of = evidence.predictions[evidence.predictions.trial_id.isin(s.trials.trial_id)]
        reports.append(_report(of))
        recalls.append((of.predicted == of.label).groupby([of.seed, of.label], observed=True).mean().unstack())
    less = (100 * (recalls[1] - recalls[0])).dropna(how="all")
    a, b = pair.a.name, pair.b.name
    accuracy, report = [], []
    for name, (p_a, r_a, f_a), (p_b, r_b, f_b) in zip((*CLASS_NAMES, "mean of the classes"), *reports, strict=True):
        found = estimate((less[name] if name in less else less.mean(axis=1)).dropna().tolist())
        accuracy.append([name, percent(r_a), percent(r_b), points(found.mean), interval(found, signed=True)])
        report.append([name, *map(percent, (p_a, p_b, r_a, r_b, f_a, f_b))])
    return [
        Table(
            ["class", f"{a} %", f"{b} %", "difference", "95 % interval"],
            accuracy,
            f"Accuracy of each class, all seeds together. The difference, {b} less {a}, is in points and seed by seed, "
            "with Student's t interval. Each stands for itself: of twenty classes without a difference, one would "
            "still leave 0 out. Table: predictions.",
        ),
        Table(
            ["class", *(f"{measure} {name}" for measure in ("precision", "recall", "F1") for name in (a, b))],
            report,
            "The classification reports, in %, of the predictions of all seeds together. Table: predictions.",
        ),
    ]


def _report(predictions: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Precision, recall and F1 of each class, and their means, (11, 3); 0 where a class was never predicted."""
    label, predicted = predictions.label.cat.codes, predictions.predicted.cat.codes
    found = precision_recall_fscore_support(label, predicted, labels=range(len(CLASS_NAMES)), zero_division=0)
    each = np.stack(found[:3], axis=1)
    return np.vstack([each, each.mean(axis=0)])
