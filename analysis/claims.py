"""The sources' conclusions as hypotheses: what each says, what was measured of it, and the verdict.

A claim is a function from the tables to the effects that it implies, each positive where the claim is right. It is

- supported, where the intervals of all lie above 0, and none within the smallest effect that matters;
- contradicted, where those of all lie below 0, and none within it;
- of no material effect, where those of all lie within the smallest effect that matters;
- one whose parts differ, where each effect says one of these, not all the same, and Holm's correction of the p of
  those that are supported or contradicted leaves it at most 0.05;
- inconclusive otherwise: also where seeds of an arm that it takes failed or diverged, for the others are no fair
  sample;
- "preview only" in a preview, whatever its effects.

That all effects must be shown is an intersection-union test: its p is the largest of theirs (Berger 1982,
doi:10.1080/00401706.1982.10487790).
The p of all tested claims are adjusted by Holm's method, and a claim whose p is then above 0.05 is inconclusive,
whatever its interval. No material effect is read off the 95 % interval, which no correction widens. The smallest
effects are fixed here: half a point of accuracy is the half-width of the 95 % interval of one network's, on 10,000
test images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import failures
from analysis.corruptions import CORRUPTIONS, SEVERITIES
from analysis.effects import Effect, over_seeds
from analysis.failures import CONFIDENT, PAIRS, SIMILAR
from analysis.measures import (
    ACCURACY,
    DARK,
    LOSS,
    NO_SHAPE,
    NO_TEXTURE,
    POINTS,
    SHARE,
    conflicted,
    contrast,
    drawn,
    energies,
    epochs_to,
    excess_error,
    failed,
    fall,
    gain,
    gap,
    known,
    partial_error,
    ratio,
    stressed,
    tail_error,
)  # fmt: skip
from analysis.runs import SCHEDULES, NotTested, Runs
from analysis.statistics import quotient
from analysis.stress import other_amounts
from analysis.words import number, p_value, percent, start
from study.data import CLASS_NAMES

FAST = (0.9, 0.92)  # validation accuracies whose first epoch is compared
WHOLE_EPOCHS = (1 / 6) ** 0.5  # standard deviation that rounding gives the difference of two whole numbers of epochs

STUDIES = ("fashion_cnn.yaml", "fashion_cnn_source.yaml", "resnet.yaml")  # any study with a confirmed arm will do
RESNET, CNN = "ResNet-18 project", "CNN project"
BY_CHANCE = "than if what is answered wrongly did not depend on the label"
UNNAMED = (("Shirt", "Coat"), ("Shirt", "Pullover"))  # most errors of pairs that the source does not name
BESIDE_TEXTURE = ("neighbour_distance", "brightness", "contrast", "atypicality")
LOG = "log %"  # 100 · ln of a ratio
OF_CONFLICT = "a texture is a square of 5 pixels, continued by reflection, with the garment's tone"
# What limits conclusions from corrupted images.
BY_RULE = (
    "the authors set the amounts of corruption so that the second source's network, not augmented, loses 2 to 35 "
    "points; that such a network loses them is no finding, how far others differ is"
)


@dataclass(frozen=True)
class Found:
    """The effects that a claim implies, what else was measured, in sentences, and what limits all of it."""

    effects: Sequence[Effect]
    notes: Sequence[str] = ()
    limits: str = ""


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
    return Found([gain(runs, *runs.sources(), runs.weights)], _by_best(runs, *runs.sources()))


def _by_best(runs: Runs, before: str, after: str) -> list[str]:
    """Return what the best epoch's weights say beside the last's, which the sources took."""
    if runs.weights == "best":
        return ["By the weights of the best validation epoch: the last epoch's were not kept."]
    return ["By the weights of the best validation epoch: " + gain(runs, before, after).sentence]


@claim(
    "because-of-adam", "… because of Adam", RESNET, "implied", "main effect on test accuracy, weight decay held",
    "optimizer.yaml",
)  # fmt: skip
def _because_of_adam(runs: Runs) -> Found:
    arms = runs.factorial()
    every = {arms[optimizer, name]: sign / 3 for name in SCHEDULES for optimizer, sign in (("adam", 1), ("sgd", -1))}
    alone = [gain(runs, arms["sgd", name], arms["adam", name], runs.weights) for name in SCHEDULES]
    effect = contrast(runs, every, "Adam less SGD, mean over schedules", runs.weights)
    return Found([effect], [one.sentence for one in alone])


@claim(
    "because-of-schedule", "… because of the schedule", RESNET, "implied",
    "main effect of StepLR on test accuracy, weight decay held", "optimizer.yaml",
)  # fmt: skip
def _because_of_schedule(runs: Runs) -> Found:
    arms = runs.factorial()

    def less_none(schedule: str, adam: float, sgd: float, what: str) -> Effect:
        weights = {("adam", schedule): adam, ("adam", "none"): -adam, ("sgd", schedule): sgd, ("sgd", "none"): -sgd}
        return contrast(runs, {arms[cell]: weight for cell, weight in weights.items()}, what, runs.weights)

    step = less_none("step", 0.5, 0.5, "StepLR less none, mean over optimizers")
    others = [
        ("cosine", 0.5, 0.5, "cosine less none, mean over optimizers"),
        ("step", 1.0, -1.0, "StepLR less none with Adam, less the same with SGD"),
    ]
    return Found([step], [runs.note(other[-1], less_none, *other) for other in others])


@claim(
    "converges-faster", "Adam with StepLR converges faster", RESNET, "“Medium → Faster”",
    "epochs to 90 % and to 92 % validation accuracy", "resnet.yaml", "optimizer.yaml",
)  # fmt: skip
def _converges_faster(runs: Runs) -> Found:
    before, after = runs.sources()
    effects, notes = [], []
    for level in FAST:
        slow, fast = (epochs_to(runs, arm, level) for arm in (before, after))
        never = [f"{int(epochs.isna().sum())} of {arm}" for arm, epochs in ((before, slow), (after, fast))]
        notes.append(f"Runs that never reach {percent(level, 0)} %: {', '.join(never)}.")
        if pd.concat([slow, fast], axis=1, join="inner").isna().all(axis=1).any():
            notes[-1] += " Where neither of a seed's two does, which is the faster is not known."
            continue
        # They count as if they did in the epoch after their last: it takes them that long at least.
        late = 1 + runs.of(before).max_epochs.max()
        less = known(slow.fillna(late) - fast.fillna(late))
        what = f"epochs to {percent(level, 0)} %, {before} less {after}"
        effects.append(over_seeds(less, what, "epochs", 1.0, resolution=WHOLE_EPOCHS))
    if not effects:
        of = f"{percent(FAST[0], 0)} % validation accuracy"
        raise NotTested(f"with some seeds neither {before} nor {after} reaches {of}")
    return Found(effects, notes)


@claim(
    "overfits-less", "Adam with StepLR overfits less", RESNET, "“Slight → Reduced”",
    "training less test, in accuracy and in loss", "resnet.yaml", "optimizer.yaml",
)  # fmt: skip
def _overfits_less(runs: Runs) -> Found:
    return Found(gap(runs, *runs.sources()))


@claim(
    "skip-connections-improve", "Skip connections improve deep networks", RESNET,
    "“why skip connections improve deep networks”",
    "test accuracy with shortcuts less without, of the least deep network that is there both ways, the source's own; "
    "what deeper ones say is said beside it",
    "skip_connections.yaml",
)  # fmt: skip
def _skip_connections(runs: Runs) -> Found:
    own, *others = runs.shortcuts()
    notes = [runs.note(f"{pair[1]} less {pair[0]}", gain, runs, *pair) for pair in others]
    return Found([gain(runs, *own)], notes)


@claim(
    "similar-classes-dominate", "Similar classes make up most errors", CNN, "Shirt/T-shirt and four more pairs",
    "share of the errors: in the source's five pairs, in these with Shirt–Coat and Shirt–Pullover, and within the "
    f"upper-body classes; how many more they are {BY_CHANCE} is said beside it", *STUDIES,
)  # fmt: skip
def _similar_classes(runs: Runs) -> Found:
    arm, of, crossed = failed(runs)
    own = [np.bincount(cells, minlength=100) for cells in of.cells]
    counts = np.vstack([np.sum(own, axis=0), *own, crossed.counts(of.cells, 100)])
    confusion = counts.reshape(-1, len(CLASS_NAMES), len(CLASS_NAMES)) * failures.OFF_DIAGONAL
    errors, by_chance = confusion.sum(axis=(1, 2)), failures.expected(confusion)
    pairs = {pair: np.isin(CLASS_NAMES, pair) for pair in (*PAIRS.values(), *UNNAMED)}
    cells = {pair: np.outer(members, members) for pair, members in pairs.items()}
    parts = {
        "in the source's five pairs": np.any([cells[pair] for pair in PAIRS.values()], axis=0),
        "in these and Shirt with Coat and Pullover": np.any([*cells.values()], axis=0),
        "within the upper-body classes": np.outer(*[np.isin(CLASS_NAMES, SIMILAR[0])] * 2),
    }
    shares, lifts = [], []
    for where, within in parts.items():
        among = (confusion * within).sum(axis=(1, 2))
        less = 100 * quotient(among, errors) - 50
        shares.append(drawn(of, less, f"share of the errors {where}, less 50 ({arm})", POINTS, SHARE))
        lift = 100 * (quotient(among, (by_chance * within).sum(axis=(1, 2))) - 1)
        lifts.append(
            runs.note(where, drawn, of, lift, f"errors {where}: how many more they are {BY_CHANCE}", "%", SHARE)
        )
    each = [
        f"{first} and {second} {percent(float(quotient((confusion[0] * within).sum(), errors[0])), 1)} %"
        for (first, second), within in cells.items()
    ]
    return Found(shares, [f"Share of the errors: {', '.join(each)}.", *lifts])


@claim(
    "low-contrast-fails", "Dark or faint images fail", RESNET, "“dark or faint images”",
    "error rate of the darkest fifth of each class, and accuracy as images are darkened; apart from these, error rate "
    "of the fifth with the lowest contrast, and accuracy as the garment's own contrast is taken away", *STUDIES,
)  # fmt: skip
def _low_contrast(runs: Runs) -> Found:
    return Found(
        [
            excess_error(runs, DARK),
            fall(runs, "darken", "as the whole image is darkened"),
            excess_error(runs, "low_contrast"),
            fall(runs, "silhouette_fill", "as the garment's own contrast is taken away, by filling it with its mean"),
        ],
        [
            runs.note("darkness given contrast", partial_error, runs, DARK, ["contrast"]),
            runs.note("contrast given darkness", partial_error, runs, "low_contrast", ["brightness"]),
            fall(runs, "contrast", "as the whole image's contrast is taken away, background included").sentence,
        ],
        other_amounts(runs.stress) or BY_RULE,
    )


@claim(
    "occluded-or-folded-fails", "Occluded or folded garments fail", RESNET, "“clothing shape distortion”",
    "error rate of the fifth of each class with the most atypical silhouette, and accuracy under occlusion", *STUDIES,
)  # fmt: skip
def _occluded(runs: Runs) -> Found:
    effects = [fall(runs, "occlusion", "as a square is blackened"), excess_error(runs, "atypical_silhouette")]
    return Found(
        effects,
        [excess_error(runs, "atypical_silhouette", sure_labels=True).sentence],
        other_amounts(runs.stress) or BY_RULE,
    )


@claim(
    "unusual-texture-fails", "Unusual textures fail", RESNET, "“rare textures”",
    "error rate of the fifth of each class with the most texture, given distance to the training images, brightness, "
    "contrast and silhouette; without these, the lowest and the highest tenth are said beside it", *STUDIES,
)  # fmt: skip
def _unusual_texture(runs: Runs) -> Found:
    alone = [runs.note(f"given {name}", partial_error, runs, "unusual_texture", [name]) for name in BESIDE_TEXTURE]
    notes = [
        excess_error(runs, "unusual_texture").sentence, *alone, *_tenths(runs),
        excess_error(runs, "far_from_training").sentence,
        excess_error(runs, "far_from_training", sure_labels=True).sentence,
    ]  # fmt: skip
    return Found([partial_error(runs, "unusual_texture", BESIDE_TEXTURE)], notes)


def _tenths(runs: Runs) -> list[str]:
    """Return how much more the images with least and with most texture fail than the middle, and whether both do."""
    try:
        tails = [tail_error(runs, "texture", upper, "texture") for upper in (False, True)]
    except NotTested as reason:
        return [f"The tenths of each class with least and most texture are not tested: {reason}."]
    both = all(tail.low is not None and tail.low > 0 for tail in tails)
    return [*(tail.sentence for tail in tails), *(["Both ends fail more: U-shaped."] if both else [])]


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
    "attends-to-background", "Where they fail, networks look at the background", CNN,
    "“attention on irrelevant regions”",
    "share of the evidence that lies on the garment, by every kind of map that passes its checks and by occlusion: "
    "less of errors than of matched correct images, and than of a map that is the same everywhere",
    "resnet.yaml", "optimizer.yaml", "fashion_cnn.yaml",
)  # fmt: skip
def _attends(runs: Runs) -> Found:
    arm = runs.reference()
    effects, notes = [], []
    for name, (inspected,) in energies(runs, arm).items():
        found, beside = _on_garment(inspected, f"less errors, share of the evidence on the garment by {name} ({arm})")
        effects += found
        notes += beside
    return Found(effects, notes)


def _on_garment(inspected: pd.DataFrame, where: str) -> tuple[list[Effect], list[str]]:
    """Return how much less evidence of errors lies on the garment, and beside it relative to maps that know nothing."""
    wrong, right = inspected[inspected.wrong], inspected[~inspected.wrong]
    both = wrong.merge(right, left_on=["seed", "image"], right_on=["seed", "matched"])

    def less(of: pd.DataFrame, what: str, others: pd.Series, errors: pd.Series) -> Effect:
        by_seed = known(100 * (others - errors).groupby(of.seed).mean())
        images = np.unique(of.filter(regex="^image(_[xy])?$"))
        return over_seeds(by_seed, f"{what} {where}", POINTS, SHARE, len(images))

    maps = {"centre": "centred map", "random": "map of random weights"}
    there = {name: what for name, what in maps.items() if wrong[f"{name}_energy"].notna().any()}
    beside = [less(wrong, what, wrong[f"{name}_energy"], wrong.energy) for name, what in there.items()]
    effects = [
        less(both, "matched correct images", both.energy_y, both.energy_x),
        less(wrong, "uniform map", wrong.area_share, wrong.energy),
    ]
    return effects, [effect.sentence for effect in beside]


@claim(
    "texture-over-shape", "Networks prefer texture to shape", CNN, "“prioritizes texture over shape”",
    "shape bias under cue conflict, the silhouette of one class filled with the texture of another: decisions for the "
    "shape, of those for either, below the half that chance gives", *STUDIES,
)  # fmt: skip
def _texture_over_shape(runs: Runs) -> Found:
    arm = runs.reference()
    cues = conflicted(runs, arm)
    effect = cues.effect(50 - cues.bias(arm), f"50 less the shape bias under cue conflict in % ({arm})")
    return Found([effect], [cues.counts(arm), *_suppressed(runs, arm)], OF_CONFLICT)


def _suppressed(runs: Runs, *arms: str) -> list[str]:
    """Return what is left of the accuracy without shape and without texture: of an arm, or of two, and their change."""
    try:
        of = stressed(runs, *arms)
    except NotTested as reason:
        return [f"What is left without shape, or texture, is not tested: {reason}."]
    notes = []
    for arm in arms:
        ways = {NO_SHAPE: "as patches are shuffled", **NO_TEXTURE}
        kept = ", ".join(f"{percent(of.retained(arm, name)[0], 1)} % {how}" for name, how in ways.items())
        worst = runs.of(arm, "stress").query("corruption == @NO_SHAPE and severity == @SEVERITIES[-1]")
        notes.append(
            f"Accuracy that {arm} retains, mean over five severities: {kept}. At severity 5 shuffled patches leave "
            f"{percent(worst.accuracy.mean(), 1)} % right, where chance gives 10 %: no verdict rests on it."
        )
    for name, how in NO_TEXTURE.items():
        first, *second = (of.preference(arm, name) for arm in arms)
        what = f"accuracy retained as patches are shuffled, less {how}, {' less '.join(arms)}"
        notes.append(of.effect(first - sum(second), what, POINTS, SHARE).sentence)
    return notes


@claim(
    "augmentation-helps-accuracy", "Augmentation improves accuracy", CNN, "92.24 → 92.25 %, “improved”",
    "test accuracy, augmented less not", "fashion_cnn.yaml", "fashion_cnn_source.yaml", "augmentation.yaml",
)  # fmt: skip
def _augmentation_accuracy(runs: Runs) -> Found:
    before, after = runs.augmentation()
    more, notes = gain(runs, before, after, runs.weights), _by_best(runs, before, after)
    if more.images is not None:
        change = failures.mended_and_broken(runs.predicted(runs.weights), before, after)
        counts = change.images.value_counts()
        notes += [
            f"From one {'ensemble' if more.seeds > 1 else 'network'} to the other, augmentation mends "
            f"{counts['mended']} test images and breaks {counts['broken']} (McNemar's exact test, {p_value(change.p)})."
        ]
    return Found([more], notes)


@claim(
    "augmentation-helps-robustness", "Geometric augmentation improves robustness", CNN,
    "“geometric transforms improve robustness”",
    "errors under corruption of the arm without over those of the arm with augmentation, 100 · ln of the geometric "
    "mean over kinds of change: of the geometric kinds that the training augmentation does not make, whatever their "
    "size, of the others that it does not make, and of all; each family's, and its own kinds', are said beside it",
    "fashion_cnn.yaml", "fashion_cnn_source.yaml", "augmentation.yaml",
)  # fmt: skip
def _augmentation_robustness(runs: Runs) -> Found:
    before, after = runs.augmentation()
    of, both = stressed(runs, before, after), pd.concat([runs.of(arm, "stress") for arm in (before, after)])
    made = set(both[both.inside].corruption)
    family = {name: corruption.family for name, corruption in CORRUPTIONS.items() if corruption.family != "suppression"}
    outside = [name for name in family if name not in made]
    total = of.seeds * of.images * len(SEVERITIES)

    def less(names: Sequence[str], kinds: str) -> Effect:
        fewer = -of.more_errors(after, before, *names)
        return of.effect(fewer, f"errors under {kinds}, {before} over {after}", LOG, SHARE)

    def counted(names: Sequence[str], kinds: str) -> str:
        errors = " and ".join(f"{of.errors(arm, *names):,} of {arm}" for arm in (before, after))
        return f"{start(kinds)}: {errors}, of {total * len(names):,} predictions each, are wrong."

    kinds = {
        "the geometric kinds that training does not make": [n for n in outside if family[n] == "geometric"],
        "the other kinds that training does not make": [n for n in outside if family[n] != "geometric"],
        "all kinds": [*family],
    }
    kinds = {said: names for said, names in kinds.items() if names}
    alone = {name: less([name], name).value for name in family}
    fewer = [name.replace("_", " ") for name in outside if alone[name] > 0]
    notes = [counted(names, said) for said, names in kinds.items()]
    notes.append(
        f"{start(after)} errs less under {len(fewer)} of the {len(outside)} kinds that training does not make"
        f"{': ' if fewer else ''}{', '.join(fewer)}."
    )
    groups = {f"{name} kinds": [n for n in outside if family[n] == name] for name in dict.fromkeys(family.values())}
    groups["the kinds that training makes, whatever their size"] = [name for name in family if name in made]
    notes += [less(names, said).sentence for said, names in groups.items() if names and names not in kinds.values()]
    return Found([less(names, said) for said, names in kinds.items()], notes, other_amounts(runs.stress) or BY_RULE)


@claim(
    "augmentation-moves-attention-to-shape", "Augmentation moves attention to shape", CNN, "“focuses on shape”",
    "change in the shape bias under cue conflict, and in the evidence on the garment, by every kind of map that passes "
    "its checks in both arms and by occlusion", "fashion_cnn.yaml", "fashion_cnn_source.yaml", "augmentation.yaml",
)  # fmt: skip
def _augmentation_attention(runs: Runs) -> Found:
    before, after = runs.augmentation()
    cues = conflicted(runs, before, after)
    more = cues.bias(after) - cues.bias(before)
    effects = [cues.effect(more, f"shape bias under cue conflict in %, {after} less {before}")]
    notes = [*(cues.counts(arm) for arm in (before, after)), *_suppressed(runs, before, after)]
    try:
        tables = energies(runs, before, after)
    except NotTested as reason:
        return Found(effects, [*notes, f"The maps are left out: {reason}."], f"By behaviour alone; {OF_CONFLICT}")
    for name, both in tables.items():
        means = [table.groupby("seed").energy.mean() for table in both]
        what = f"evidence on the garment by {name}, {after} less {before}"
        images = pd.concat(both).image.nunique()
        effects.append(over_seeds(known(100 * (means[1] - means[0])), what, POINTS, SHARE, images))
    return Found(effects, notes, OF_CONFLICT)


@claim(
    "augmentation-reduces-overfitting", "Augmentation reduces overfitting", CNN, "“better validation performance”",
    "training less test, in accuracy and in loss", "fashion_cnn.yaml", "fashion_cnn_source.yaml", "augmentation.yaml",
)  # fmt: skip
def _augmentation_overfitting(runs: Runs) -> Found:
    before, after = runs.augmentation()
    loss = runs.by_seed(before, lambda t: t.test_loss) - runs.by_seed(after, lambda t: t.test_loss)
    best = [runs.of(arm, "epochs").groupby("seed").val_accuracy.max() for arm in (before, after)]
    better = 100 * (best[1] - best[0])
    notes = [
        over_seeds(known(loss), f"test loss, {before} less {after}", "nats", LOSS).sentence,
        over_seeds(known(better), f"best validation accuracy, {after} less {before}", POINTS, ACCURACY).sentence,
    ]
    return Found(gap(runs, before, after), notes)
