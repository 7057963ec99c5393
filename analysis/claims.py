"""The sources' conclusions as hypotheses: what each says, what was measured of it, and the verdict.

A claim is a function from the tables to the effects that it implies, each positive where the claim is right. It is

- contradicted, where the interval of one of them lies below 0;
- of no material effect, where that of one lies within the smallest effect that matters;
- supported, where those of all lie above 0;
- inconclusive otherwise.

That several effects must all be shown is an intersection-union test: its p is the largest of theirs (Berger 1982,
doi:10.1080/00401706.1982.10487790). The p of all tested claims are adjusted by Holm's method, and a claim whose p is
then above 0.05 is inconclusive, whatever its interval. The smallest effects are fixed here: half a point of accuracy
is the half-width of the 95 % interval of one network's, on 10,000 test images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import failures, stress
from analysis.effects import Effect, over_seeds
from analysis.failures import CONFIDENT, PAIRS, SIMILAR
from analysis.measures import (
    ACCURACY,
    POINTS,
    SHARE,
    cells,
    drawn,
    energy,
    epochs_to,
    failed,
    fall,
    fifth,
    gain,
    gap,
    main_effect,
    preference,
    ratio,
    some,
)  # fmt: skip
from analysis.runs import SCHEDULES, NotTested, Runs
from analysis.statistics import quotient
from analysis.words import number, p_value, percent, points
from study.data import CLASS_NAMES

FAST = (0.9, 0.92)  # validation accuracies whose first epoch is compared

STUDIES = ("fashion_cnn.yaml", "resnet.yaml")  # any study with a confirmed arm will do
RESNET, CNN = "ResNet-18 project", "CNN project"


@dataclass(frozen=True)
class Found:
    """The effects that a claim implies, and what else was measured, in sentences."""

    effects: Sequence[Effect]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Claim:
    """A conclusion: `said` is what the source says, `spaces` are those whose studies can test it."""

    name: str
    text: str
    source: str
    said: str
    measure: str
    spaces: Sequence[str]
    test: Callable[[Runs], Found]


CLAIMS: list[Claim] = []
Test = Callable[[Runs], Found]


def claim(name: str, text: str, source: str, said: str, measure: str, *spaces: str) -> Callable[[Test], Test]:
    """Put the function below into CLAIMS. It raises NotTested where the study has not the runs that it takes."""

    def register(test: Test) -> Test:
        CLAIMS.append(Claim(name, text, source, said, measure, spaces, test))
        return test

    return register


@claim(
    "adam-steplr-beats-sgd", "Adam with StepLR beats SGD", RESNET, "88.17 → 93.70 %",
    "test accuracy, the source's exact settings", "resnet.yaml", "optimizer.yaml",
)  # fmt: skip
def _adam_steplr(runs: Runs) -> Found:
    return Found([gain(runs, *runs.sources())])


@claim(
    "because-of-adam", "… because of Adam", RESNET, "implied", "main effect on test accuracy, weight decay held",
    "optimizer.yaml",
)  # fmt: skip
def _because_of_adam(runs: Runs) -> Found:
    by = cells(runs)
    return Found(
        [main_effect(by["adam"].mean(axis=1) - by["sgd"].mean(axis=1), "Adam less SGD, mean over schedules")],
        [
            f"With {name} alone: {points(float((by['adam', name] - by['sgd', name]).mean()))} points."
            for name in SCHEDULES
        ],
    )


@claim(
    "because-of-schedule", "… because of the schedule", RESNET, "implied",
    "main effect of StepLR on test accuracy, weight decay held", "optimizer.yaml",
)  # fmt: skip
def _because_of_schedule(runs: Runs) -> Found:
    by = cells(runs).swaplevel(axis=1)
    interaction = (by["step", "adam"] - by["none", "adam"]) - (by["step", "sgd"] - by["none", "sgd"])
    cosine = by["cosine"].mean(axis=1) - by["none"].mean(axis=1)
    return Found(
        [main_effect(by["step"].mean(axis=1) - by["none"].mean(axis=1), "StepLR less none, mean over optimizers")],
        [
            f"Cosine less none: {points(float(cosine.mean()))} points.",
            f"StepLR gains {points(float(interaction.mean()))} points more with Adam than with SGD.",
        ],
    )


@claim(
    "converges-faster", "Adam with StepLR converges faster", RESNET, "“Medium → Faster”",
    "epochs to 90 % and to 92 % validation accuracy", "resnet.yaml", "optimizer.yaml",
)  # fmt: skip
def _converges_faster(runs: Runs) -> Found:
    before, after = runs.sources()
    effects, notes = [], []
    for level in FAST:
        slow, fast = (epochs_to(runs, arm, level) for arm in (before, after))
        if slow.isna().all() and fast.isna().all():
            continue
        never = [f"{int(epochs.isna().sum())} of {arm}" for arm, epochs in ((before, slow), (after, fast))]
        notes.append(f"Runs that never reach {percent(level, 0)} %: {', '.join(never)}.")
        # They count as if they did in the epoch after their last: it takes them that long at least.
        late = 1 + runs.of(before).max_epochs.max()
        less = slow.fillna(late) - fast.fillna(late)
        what = f"epochs to {percent(level, 0)} %, {before} less {after}"
        effects.append(over_seeds(some(less.dropna()), what, "epochs", 1.0))
    if not effects:
        raise NotTested(f"no run of {before} or {after} reaches {percent(FAST[0], 0)} % validation accuracy")
    return Found(effects, notes)


@claim(
    "overfits-less", "Adam with StepLR overfits less", RESNET, "“Slight → Reduced”",
    "training less test, in accuracy and in loss", "resnet.yaml", "optimizer.yaml",
)  # fmt: skip
def _overfits_less(runs: Runs) -> Found:
    return Found(gap(runs, *runs.sources()))


@claim(
    "skip-connections-improve", "Skip connections improve deep networks", RESNET,
    "“why skip connections improve deep networks”", "test accuracy with shortcuts less without",
    "skip_connections.yaml",
)  # fmt: skip
def _skip_connections(runs: Runs) -> Found:
    return Found([gain(runs, plain, residual) for plain, residual in runs.shortcuts()])


@claim(
    "similar-classes-dominate", "Similar classes make up most errors", CNN, "Shirt/T-shirt and four more pairs",
    "share of the errors within the upper-body classes, and its lift over independence", *STUDIES,
)  # fmt: skip
def _similar_classes(runs: Runs) -> Found:
    arm, of, crossed = failed(runs)
    counts = np.vstack([np.bincount(of.cells.ravel(), minlength=100), crossed.counts(of.cells, 100)])
    confusion = counts.reshape(-1, len(CLASS_NAMES), len(CLASS_NAMES)) * failures.OFF_DIAGONAL
    within = np.outer(*[np.isin(CLASS_NAMES, SIMILAR[0])] * 2)
    errors, share = confusion.sum(axis=(1, 2)), (confusion * within).sum(axis=(1, 2))
    half, lift = (
        quotient(share, errors) - 0.5,
        quotient(share, (failures.expected(confusion) * within).sum(axis=(1, 2))),
    )
    pairs = {
        f"{first} and {second}": (confusion[0] * failures.members(name)).sum() / errors[0]
        for name, (first, second) in PAIRS.items()
    }
    return Found(
        [
            drawn(of, 100 * half, f"share of the errors within the upper-body classes, less 50 ({arm})", POINTS, SHARE),
            drawn(of, 100 * (lift - 1), "how much larger than if labels and predictions were independent", "%", SHARE),
        ],
        ["Share of the errors: " + ", ".join(f"{n} {percent(share, 1)} %" for n, share in pairs.items()) + "."],
    )


@claim(
    "low-contrast-fails", "Dark or faint images fail", RESNET, "“dark or faint images”",
    "error rate of the fifth of each class with the lowest contrast, and accuracy as the contrast is taken away",
    *STUDIES,
)  # fmt: skip
def _low_contrast(runs: Runs) -> Found:
    return Found([fifth(runs, "low_contrast"), fall(runs, "contrast")])


@claim(
    "occluded-or-folded-fails", "Occluded or folded garments fail", RESNET, "“clothing shape distortion”",
    "accuracy under occlusion, and error rate of the fifth of each class with the most atypical silhouette",
    *STUDIES,
)  # fmt: skip
def _occluded(runs: Runs) -> Found:
    return Found([fall(runs, "occlusion"), fifth(runs, "atypical_silhouette")])


@claim(
    "unusual-texture-fails", "Unusual textures fail", RESNET, "“rare textures”",
    "error rate of the fifth of each class with the most texture, and of that farthest from the training images",
    *STUDIES,
)  # fmt: skip
def _unusual_texture(runs: Runs) -> Found:
    return Found([fifth(runs, "unusual_texture"), fifth(runs, "far_from_training")])


@claim(
    "overconfident-errors", "Networks are overconfident", CNN, "“> 90 % confidence, wrong”",
    "error rate of predictions with a confidence above 0.9, less what they claim", *STUDIES,
)  # fmt: skip
def _overconfident(runs: Runs) -> Found:
    arm, of, crossed = failed(runs)
    confident = of.confidence > CONFIDENT
    beyond = 100 * confident * (of.wrong - (1.0 - of.confidence))
    draws = ratio(crossed, beyond, confident)
    table = runs.of(arm, "calibration")
    plain, scaled = (table[table.scaled == after] for after in (False, True))
    after = f", {number(100 * scaled.ece.mean())} points after temperature scaling" if len(scaled) else ""
    notes = [
        f"{percent(plain.confident_if_wrong.mean(), 0)} % of the errors have a confidence above {CONFIDENT}.",
        f"Expected calibration error: {number(100 * plain.ece.mean())} points{after}.",
    ]
    what = f"error rate where the confidence is above {CONFIDENT}, less what it claims ({arm})"
    return Found([drawn(of, draws, what, POINTS, ACCURACY)], notes)


@claim(
    "attends-to-background", "Where they fail, networks look at the background", RESNET,
    "“attention on irrelevant regions”",
    "share of the map's evidence that lies on the garment: matched correct images less errors",
    "resnet.yaml", "optimizer.yaml",
)  # fmt: skip
def _attends(runs: Runs) -> Found:
    arm = runs.reference()
    inspected = energy(runs, arm)
    wrong, right = inspected[inspected.wrong], inspected[~inspected.wrong]
    both = wrong.merge(right, left_on=["seed", "image"], right_on=["seed", "matched"])
    less = 100 * (both.energy_y - both.energy_x).groupby(both.seed).mean().dropna()
    known = {name: percent(wrong[f"{name}_energy"].mean(), 0) for name in ("centre", "random")}
    area, found = percent(wrong.area_share.mean(), 0), percent(wrong.energy.mean(), 0)
    note = (
        f"Of errors {found} % of the evidence lies on the garment; a uniform map has {area} %, a centred one "
        f"{known['centre']} %, that of random weights {known['random']} %."
    )
    return Found(
        [
            over_seeds(
                less.tolist(), f"share of the evidence on the garment, correct less errors ({arm})", POINTS, SHARE
            )
        ],
        [note],
    )


@claim(
    "texture-over-shape", "Networks prefer texture to shape", RESNET, "“prioritizes texture over shape”",
    "retained accuracy without shape (patch shuffle) less without texture (silhouette, blur)", *STUDIES,
)  # fmt: skip
def _texture_over_shape(runs: Runs) -> Found:
    arm = runs.reference()
    less = 100 * preference(runs, arm)
    return Found(
        [over_seeds(less.tolist(), f"accuracy retained without shape, less without texture ({arm})", POINTS, SHARE)]
    )


@claim(
    "augmentation-helps-accuracy", "Augmentation improves accuracy", CNN, "92.24 → 92.25 %, “improved”",
    "test accuracy, augmented less not", "fashion_cnn.yaml", "augmentation.yaml",
)  # fmt: skip
def _augmentation_accuracy(runs: Runs) -> Found:
    before, after = runs.augmentation()
    notes = []
    if len(runs.predictions):
        change = failures.mended_and_broken(runs.predictions, before, after)
        counts = change.images.value_counts()
        notes = [
            f"Of the ensembles, augmentation mends {counts['mended']} test images and breaks {counts['broken']} "
            f"(McNemar's exact test, {p_value(change.p)})."
        ]
    return Found([gain(runs, before, after)], notes)


@claim(
    "augmentation-helps-robustness", "Geometric augmentation improves robustness", CNN,
    "“geometric transforms improve robustness”",
    "mean corruption error relative to the arm without, for corruptions outside the augmentation",
    "fashion_cnn.yaml", "augmentation.yaml",
)  # fmt: skip
def _augmentation_robustness(runs: Runs) -> Found:
    before, after = runs.augmentation()
    both = pd.concat([runs.of(arm, "stress") for arm in (before, after)])
    means = stress.means(stress.errors(both, before)).query("arm == @after").set_index("seed")
    less = {group: 100 * (1 - of.mce).dropna() for group, of in means.groupby("group")}
    inside = []
    if "inside" in less:
        inside.append(f"Inside the augmentation it errs {number(float(less['inside'].mean()))} % less.")
    what = f"corruptions outside the augmentation: how much less {after} errs than {before}"
    return Found([over_seeds(less["outside"].tolist(), what, "%", SHARE)], inside)


@claim(
    "augmentation-moves-attention-to-shape", "Augmentation moves attention to shape", CNN, "“focuses on shape”",
    "change in the preference of texture over shape, and in the evidence on the garment where the maps hold",
    "fashion_cnn.yaml", "augmentation.yaml",
)  # fmt: skip
def _augmentation_attention(runs: Runs) -> Found:
    before, after = runs.augmentation()
    less = 100 * (preference(runs, before) - preference(runs, after)).dropna()
    effects = [over_seeds(less.tolist(), f"preference of texture, {before} less {after}", POINTS, SHARE)]
    notes = []
    try:
        on_garment = [energy(runs, arm).groupby("seed").energy.mean() for arm in (before, after)]
        more = 100 * (on_garment[1] - on_garment[0]).dropna()
        effects.append(over_seeds(more.tolist(), f"evidence on the garment, {after} less {before}", POINTS, SHARE))
    except NotTested as reason:
        notes.append(f"The maps are left out: {reason}.")
    return Found(effects, notes)


@claim(
    "augmentation-reduces-overfitting", "Augmentation reduces overfitting", CNN, "“better validation performance”",
    "training less test, in accuracy and in loss", "fashion_cnn.yaml", "augmentation.yaml",
)  # fmt: skip
def _augmentation_overfitting(runs: Runs) -> Found:
    return Found(gap(runs, *runs.augmentation()))
