"""How fast networks train and are looked at: the sources' loop, the trainer, and the trainer without one of its parts.

`make bench` runs it. Everything runs in turns, several times, on one core or on the GPU: a rate is the median over the
turns, and a ratio is that of the rates of one turn. The arithmetic is held against a large matrix product of the same
turns. Rates on a CPU are per second of processor time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from unittest import mock

import pandas as pd
import torch
from sources_loop import SOURCE, SourcesLoop, per_image
from table import write
from torch import Tensor
from torch.utils.data import default_collate

from analysis import attention
from study import data
from study.config import MODELS, Adam, Augmentation, TrialConfig
from study.probe import flops
from study.trainer import Precision, Trainer

TURNS = 7
SECONDS = 2.0  # of each turn, at least
ON = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BATCHES = {"fashion_cnn": 10} if ON.type == "cpu" else {}  # between two looks at the clock
CASES = {
    "fashion_cnn, augmented": ("fashion_cnn", SOURCE),
    "fashion_cnn": ("fashion_cnn", Augmentation()),
    "three_block": ("three_block", Augmentation()),
    "resnet18": ("resnet18", Augmentation()),
}
# Each variant and what it is held against.
SOURCES, PRODUCT = "the sources' loop", "matrix product"
VARIANTS = {
    SOURCES: SOURCES,
    "the trainer": SOURCES,
    "without bf16": SOURCES,
    "without channels last": SOURCES,
    "without batches from one tensor": SOURCES,
    "without batched augmentation": SOURCES,
    "without keeping freed memory": SOURCES,
    "evaluation, the sources' loop": "evaluation, the sources' loop",
    "evaluation, the trainer": "evaluation, the sources' loop",
    "Grad-CAM, one image at a time": "Grad-CAM, one image at a time",
    "Grad-CAM, 256 at a time": "Grad-CAM, one image at a time",
    f"{PRODUCT}, fp32": f"{PRODUCT}, fp32",
    f"{PRODUCT}, bf16": f"{PRODUCT}, fp32",
}
OF_A_PLAIN_PROCESS = {SOURCES, "evaluation, the sources' loop", "without keeping freed memory"}


class Contiguous(Trainer):
    """Without the memory format that convolutions are fastest in."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.model.to(memory_format=torch.contiguous_format)

    def _normalised(self, images: Tensor) -> Tensor:
        return (images - self.config.mean) / self.config.std


class OneByOne:
    """Images or labels that are put together to a batch one by one, as a DataLoader does it."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, indices: Tensor) -> Tensor:
        return default_collate([self.values[index] for index in indices])


class Collated(Trainer):
    """Without batches that are drawn from one tensor."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.train_images, self.train_labels = OneByOne(self.train_images), OneByOne(self.train_labels)  # type: ignore[assignment]


@cache
def prepared(case: str, variant: str) -> Callable[[], int]:
    """What does some of the work, and returns on how many images; of a matrix product, how many operations."""
    model, augmentation = CASES[case]
    config = TrialConfig(model=MODELS[model], optimizer=Adam(), augmentation=augmentation)
    count = BATCHES.get(model, 2 if ON.type == "cpu" else 20) * config.batch_size
    splits = data.split(data.load(), count, count, 10, seed=0)
    if variant.startswith(PRODUCT):
        size = 2048 if ON.type == "cpu" else 8192
        kind = torch.bfloat16 if variant.endswith("bf16") else torch.float32
        a, b = (torch.randn(size, size, device=ON, dtype=kind) for _ in range(2))
        return lambda: 2 * size * len(a @ b) * size
    if variant in (SOURCES, "evaluation, the sources' loop"):
        loop = SourcesLoop(config, 0, splits, ON)
        return lambda: count * bool(loop.train_epoch() if variant == SOURCES else loop.evaluate() + 1)
    kinds = {"without channels last": Contiguous, "without batches from one tensor": Collated}
    precision: Precision = "fp32" if variant == "without bf16" else "bf16"
    trainer = kinds.get(variant, Trainer)(config, 0, splits, ON, precision)
    if variant.startswith("evaluation"):
        return lambda: count * bool(trainer.evaluate(trainer.val_images, trainer.val_labels))
    if variant.startswith("Grad-CAM"):
        several = 256 if "256" in variant else 1
        network = trainer.model.eval()
        images = attention.normalised(splits.val_images[:several], config.mean, config.std).to(ON)
        classes = torch.zeros(several, dtype=torch.int64, device=ON)
        return lambda: len(attention.maps(network, images, classes)[1])
    if variant == "without batched augmentation":

        def slowly() -> int:
            with mock.patch("study.trainer.augment", per_image):
                return count * bool(trainer._train())

        return slowly
    return lambda: count * bool(trainer._train())


def rate(case: str, variant: str) -> float:
    """Images, or operations, in a second."""
    work, done = prepared(case, variant), 0
    clock = time.process_time if ON.type == "cpu" else time.perf_counter
    began = clock()
    while (passed := clock() - began) < SECONDS:
        done += work()
        if ON.type == "cuda":
            torch.cuda.synchronize()
    return done / passed


def main() -> None:
    spawn = get_context("spawn")
    keeping = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("MALLOC_")}
    rows = []
    with (
        ProcessPoolExecutor(1, spawn, torch.set_num_threads, (1,)) as plain,
        ProcessPoolExecutor(1, spawn, torch.set_num_threads, (1,)) as ours,
    ):
        plain.submit(os.getpid).result()  # a process reads these variables when it begins
        os.environ |= keeping
        for case in CASES:
            for number in range(-1, TURNS):  # the first warms up
                for variant in VARIANTS:
                    if variant == "without batched augmentation" and "augmented" not in case:
                        continue
                    pool = plain if variant in OF_A_PLAIN_PROCESS else ours
                    found = pool.submit(rate, case, variant).result()
                    if number >= 0:
                        rows.append((case, variant, number, found))
    table = pd.DataFrame(rows, columns=["case", "variant", "turn", "per_s"])
    write("training", table, summary(table))


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each case and variant: median rate, quartiles, ratio to what it is held against, share of the peak."""
    turns = table.set_index(["case", "turn", "variant"]).per_s
    rows = []
    for (case, variant), of in table.groupby(["case", "variant"], sort=False):
        rates = turns.xs((case, variant), level=("case", "variant"))
        against = turns.xs((case, VARIANTS[variant]), level=("case", "variant"))
        products = [turns.xs((case, f"{PRODUCT}, {kind}"), level=("case", "variant")) for kind in ("bf16", "fp32")]
        operations = 1 if variant.startswith(PRODUCT) else 3 * flops(MODELS[CASES[case][0]])  # backward: twice forward
        trains = VARIANTS[variant] == SOURCES or variant.startswith(PRODUCT)
        rows.append(
            {
                "": case,
                "variant": variant,
                "images/s": "" if variant.startswith(PRODUCT) else f"{of.per_s.median():,.0f}",
                "quartiles": ""
                if variant.startswith(PRODUCT)
                else " to ".join(f"{q:,.0f}" for q in of.per_s.quantile([0.25, 0.75])),
                "times": (rates / against).median(),
                "GFLOP/s": f"{operations * of.per_s.median() / 1e9:,.1f}" if trains else "",
                "of the peak": f"{operations * (rates / pd.concat(products, axis=1).max(axis=1)).median():.0%}"
                if trains
                else "",
            }
        )
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
