"""What differs between a source's run and the arm that reproduces it, and how much that is worth."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
from scipy import stats

from analysis import tables
from analysis.blocks import Section, Table
from analysis.evidence import Evidence
from analysis.runs import BASELINE, IMPROVED
from analysis.words import number, points
from study.config import MODELS, Adam, Augmentation, TrialConfig, hyperparameters
from study.files import RecordError
from study.records import read_study

UNKNOWN = "not measured"
SMALL_CNN = TrialConfig(model=MODELS["fashion_cnn"], optimizer=Adam(lr=1e-3), epochs=30)
AUGMENTATION = Augmentation(1, rotation=10, translation=0.1, flip=0.5, whole_pixels=True)
AUGMENTED = dataclasses.replace(SMALL_CNN, augmentation=AUGMENTATION)
RESNET_SPLIT, CNN_SPLIT = (50_000, "at random, seed not known"), (54_000, "at random, seed 42")
# By the name of the arm: the source's settings, its training images, and how it drew them.
SOURCES: dict[str, tuple[TrialConfig, tuple[int, str]]] = {
    "baseline": (SMALL_CNN, CNN_SPLIT), "augmented": (AUGMENTED, CNN_SPLIT), "strength_000": (SMALL_CNN, CNN_SPLIT),
    "strength_100": (AUGMENTED, CNN_SPLIT), "sgd_baseline": (BASELINE, RESNET_SPLIT),
    "adam_steplr": (IMPROVED, RESNET_SPLIT), "adam_step": (IMPROVED, RESNET_SPLIT),
}  # fmt: skip
# Five epochs of the sources' loop in fp32 and of this trainer: results/benchmarks/accuracy.md.
LOOP = (
    "the trainer, in bf16, less the sources' loop: −0.20 points of validation accuracy (−1.05 to +0.66), after 5 epochs"
)


def deviations(evidence: Evidence) -> Section | None:
    """Return a row for each deviation of an arm from its source's run; None where no arm is a source's."""
    arms = [arm for arm in evidence.runs.arms.index if arm in SOURCES]
    rows = [[arm, *row] for arm in arms for row in _rows(evidence, arm)]
    if not arms:
        return None
    caption = (
        "Sizes are differences of test accuracy with the last epoch's weights. Precision, loop and device of the "
        "sources are assumed: fp32, one loop over single images. Table: trials; the split: study.json."
    )
    text = ["What an arm has as its source had it is left out."]
    columns = ["arm", "what", "the source", "here", "size"]
    return Section("Deviations from the sources", text, [Table(columns, rows, caption, words=5)])


def _rows(evidence: Evidence, arm: str) -> Iterator[list[str]]:
    config, (images, drawn) = SOURCES[arm]
    split = evidence.about.get("split") or {}
    trials = evidence.trials[(evidence.trials.stage == "confirm") & (evidence.trials.arm == arm)]
    train, seed = split.get("train", 0), split.get("seed")
    how = f"{'stratified' if split.get('stratified', True) else 'at random'}, seed {seed}"
    size = _elsewhere(evidence.folder, arm, trials, split)
    if train != images:
        batch = int(evidence.runs.arms.hp_batch_size[arm])
        yield ["training images", f"{images:,}", f"{train:,}", size]
        steps = [str(math.ceil((n - 1) / batch)) for n in (images, train)]
        yield ["steps an epoch", *steps, "with the training images"]
    if how != drawn:
        yield ["split", drawn, how, "with the training images" if train != images else UNKNOWN]
    for name, value in hyperparameters(config).items():
        own = evidence.runs.arms.loc[arm].get(name)
        if own is not None and pd.notna(own) and own != value and not _idle(config, name):
            yield [name.removeprefix("hp_").replace("_", " "), str(value), str(own), UNKNOWN]
    if (trials.precision == "bf16").any():
        yield ["precision", "fp32", "bf16", LOOP]
    gain = 100 * (trials.test_accuracy - trials.test_accuracy_last).dropna()
    kept = "the last epoch's; beside them those of the best" if len(gain) else "the best epoch's alone"
    worth = f"the best less the last: {points(gain.mean())} points" if len(gain) else UNKNOWN
    yield ["weights", "the last epoch's", kept, worth]


def _idle(config: TrialConfig, name: str) -> bool:
    """Whether it says how much is augmented, of a run without augmentation."""
    return name.startswith("hp_augmentation_") and config.augmentation.idle


def _elsewhere(folder: Path, arm: str, own: pd.DataFrame, split: dict[str, Any]) -> str:
    """Return how much more accurate the same arm is in a study beside this one, which has the source's split."""
    for path in sorted(folder.parent.glob("*/tables/trials.parquet")):
        with suppress(RecordError, OSError, KeyError):
            about = read_study(path.parents[1])
            other = about["split"]
            if other["train"] != SOURCES[arm][1][0] or other.get("stratified", True) or other == split:
                continue
            trials = tables.earlier(path.parents[1], "trials")
            theirs = 100 * trials[(trials.stage == "confirm") & (trials.arm == arm)].test_accuracy_last.dropna()
            ours = 100 * own.test_accuracy_last.dropna()
            if min(len(theirs), len(ours)) > 1:
                interval = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval()
                ends = f"{number(interval.low)} to {number(interval.high)}"
                return f"{points(ours.mean() - theirs.mean())} points ({ends}) relative to {path.parents[1].name}"
    return UNKNOWN
