"""How fast networks train and are looked at: the sources' loop, the trainer, and the trainer without one of its parts.

`make bench` runs it. Everything runs in turns, in an order drawn anew in each: a rate is the median over the turns, a
ratio that of the rates of one turn, and the arithmetic is held against large matrix products of the same turn. On a CPU
every core has its process; on a GPU there is one, or as many as share it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import cache
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pandas as pd
import torch
from sources_loop import SOURCE, SourcesLoop, per_image
from table import write
from torch import Tensor, optim
from torch.utils.data import default_collate

from analysis import attention
from study import data
from study.config import MODELS, Adam, Augmentation, TrialConfig
from study.probe import faster_precision, flops
from study.provenance import cores
from study.trainer import Evaluation, Precision, Trainer

TURNS = 5
SECONDS = 2.0  # of each turn, at least
GPU = torch.cuda.is_available()
ON = torch.device("cuda" if GPU else "cpu")
ALL = 1 if GPU else cores()  # processes at once
IMAGES = {"fashion_cnn": 2560, "three_block": 256, "resnet18": 256}  # between two looks at the clock
MORE_ON_GPU = 10  # times as many
MORE = MORE_ON_GPU if GPU else 1
CASES = {
    "fashion_cnn, augmented": ("fashion_cnn", SOURCE),
    "fashion_cnn": ("fashion_cnn", Augmentation()),
    "three_block": ("three_block", Augmentation()),
    "resnet18": ("resnet18", Augmentation()),
}
SOURCES, OURS, PRODUCT, COMPILED = "the sources' loop", "the trainer", "matrix product", "with torch.compile"
NOTES = (
    "Medians over the turns, with quartiles; `times` is of rates of one turn. On a CPU rates are per second of a "
    "core's processor time, and of all cores' time, waiting included, where all are for one.",
    "Operations are nominal: three times those of a forward pass, with those on the zeros of padding, which kernels "
    "may leave out. The peak is the fastest of some matrix products (`SIZES` rows in `tests/benchmarks/training.py`).",
    *["Convolutions without bf16 are in TF32, as PyTorch has them; the product in fp32 is not."] * GPU,
)
BY_DEFAULT = f"{SOURCES}, all cores for one"  # as a script of it runs


class Variant(NamedTuple):
    """What a row is held against, in how many processes at once it runs, and with how many threads each."""

    against: str
    at_once: int = ALL
    threads: int = 1


SIZES = (8192, 16384) if GPU else (1024, 2048, 4096)  # of the products; the fastest counts


class Contiguous(Trainer):
    """Without the memory format that convolutions are fastest in."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.model.to(memory_format=torch.contiguous_format)

    def _normalised(self, images: Tensor) -> Tensor:
        return (images - self.config.mean) / self.config.std


class OneByOne:
    """Images or labels on the CPU that are put together to a batch one by one, as a DataLoader does it."""

    def __init__(self, values: Tensor) -> None:
        self.values = values.cpu()

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, indices: Tensor) -> Tensor:
        return default_collate([self.values[index] for index in indices.cpu()]).to(ON)


class Collated(Trainer):
    """Without batches that are drawn from one tensor."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.train_images, self.train_labels = OneByOne(self.train_images), OneByOne(self.train_labels)  # type: ignore[assignment]


class Unfused(Trainer):
    """With the optimizer as PyTorch builds it by default."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        rate = self.optimizer.param_groups[0]["lr"]
        self.optimizer = optim.Adam(self.model.parameters(), lr=rate)


class Waiting(Trainer):
    """With the GPU waited for at every step, as to fetch the loss does."""

    def _train(self) -> Evaluation:
        step = self.optimizer.step

        def waited_for() -> None:
            step()
            torch.cuda.synchronize()

        with mock.patch.object(self.optimizer, "step", waited_for):
            return super()._train()


class Compiled(Trainer):
    """With the network compiled."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.model.compile()


class Slowly(Trainer):
    """With the sources' augmentation, an image at a time."""

    def _train(self) -> Evaluation:
        with mock.patch("study.trainer.augment", per_image):
            return super()._train()


PARTS: dict[str, type[Trainer]] = {
    "without bf16": Trainer,
    "without channels last": Contiguous,
    "without batches from one tensor": Collated,
    "without batched augmentation": Slowly,
    "without the fused optimizer": Unfused,
    "waiting for the GPU at every step": Waiting,
    COMPILED: Compiled,
}
OF_GPU = ("waiting for the GPU at every step", "2 at once", "4 at once", "8 at once")
OF_CPU = ("all cores for one", BY_DEFAULT, "1 at once")
VARIANTS = {
    SOURCES: Variant(SOURCES),
    OURS: Variant(SOURCES),
    **{part: Variant(OURS) for part in PARTS},
    "all cores for one": Variant(OURS, 1, cores()),
    BY_DEFAULT: Variant(SOURCES, 1, cores()),
    **{f"{count} at once": Variant(OURS, count) for count in (1, 2, 4, 8)},
    "evaluation, the sources' loop": Variant("evaluation, the sources' loop"),
    "evaluation, the trainer": Variant("evaluation, the sources' loop"),
    "Grad-CAM, one image at a time": Variant("Grad-CAM, one image at a time"),
    "Grad-CAM, 256 at a time": Variant("Grad-CAM, one image at a time"),
    f"{PRODUCT}, fp32": Variant(f"{PRODUCT}, fp32"),
    f"{PRODUCT}, bf16": Variant(f"{PRODUCT}, fp32"),
}


together: Barrier


def join(barrier: Barrier) -> None:
    """Of a process that measures: what it measures begins where the others do."""
    global together
    together = barrier


@cache
def prepared(case: str, variant: str, precision: Precision) -> Callable[[], int]:
    """What does some of the work, and returns on how many images. It has been done once: the first time is slow."""
    work = _work(case, variant, precision)
    work()
    return work


def _work(case: str, variant: str, precision: Precision) -> Callable[[], int]:
    model, augmentation = CASES[case]
    config = TrialConfig(model=MODELS[model], optimizer=Adam(), augmentation=augmentation)
    count = MORE * IMAGES[model]
    splits = data.split(_loaded(), count, count, 10, seed=0)
    if variant in (SOURCES, BY_DEFAULT, "evaluation, the sources' loop"):
        loop = SourcesLoop(config, 0, splits, ON)
        return lambda: count * bool(loop.evaluate() + 1 if variant.startswith("evaluation") else loop.train_epoch())
    precision = "fp32" if variant == "without bf16" else precision
    trainer = PARTS.get(variant, Trainer)(config, 0, splits, ON, precision)
    if variant.startswith("evaluation"):
        return lambda: count * bool(trainer.evaluate(trainer.val_images, trainer.val_labels))
    if variant.startswith("Grad-CAM"):
        several = 256 if "256" in variant else 1
        network = trainer.model.eval()
        images = attention.normalised(splits.val_images[:several], config.mean, config.std).to(ON)
        classes = torch.zeros(several, dtype=torch.int64, device=ON)
        return lambda: len(attention.maps(network, images, classes)[1])
    return lambda: count * bool(trainer._train())


@cache
def _loaded() -> data.FashionMNIST:
    return data.load()


@cache
def product(kind: torch.dtype, size: int) -> Callable[[], int]:
    """A product of square matrices, and how many operations it takes."""
    a, b = (torch.randn(size, size, device=ON, dtype=kind) for _ in range(2))
    return lambda: 2 * size * len(a @ b) * size


def rate(case: str, variant: str, precision: Precision) -> float:
    """Images, or operations, in a second of the GPU or of one core."""
    threads = VARIANTS[variant].threads
    torch.set_num_threads(threads)
    if variant.startswith(PRODUCT):
        kind = torch.bfloat16 if variant.endswith("bf16") else torch.float32
        works = [product(kind, size) for size in SIZES]
    else:
        try:
            works = [prepared(case, variant, precision)]
        except Exception:
            if variant != COMPILED:  # which takes a compiler, of C++ or for the GPU
                raise
            return math.nan
    together.wait(timeout=600)
    return max(_rate(work, threads) for work in works)


def _rate(work: Callable[[], int], threads: int) -> float:
    clock = time.perf_counter if GPU or threads > 1 else time.process_time  # a waiting core is taken, too
    done, began = 0, clock()
    while (passed := clock() - began) < SECONDS:
        done += work()
        if GPU:
            torch.cuda.synchronize()
    return done / (passed if GPU else passed * threads)


def wanted(case: str, variant: str) -> bool:
    """Whether the variant has something to say of the case, on this device."""
    if variant in (OF_CPU if GPU else OF_GPU):
        return False
    if variant in (SOURCES, BY_DEFAULT, OURS) or variant.startswith(PRODUCT):
        return True
    if variant == "without batched augmentation":
        return case == "fashion_cnn, augmented"
    if variant.startswith(("evaluation", "Grad-CAM")):
        return case in ("fashion_cnn", "resnet18")
    return case in ("fashion_cnn, augmented", "resnet18")


def main() -> None:
    spawn = get_context("spawn")
    counts = {variant.at_once for name, variant in VARIANTS.items() if wanted("resnet18", name)}
    order = np.random.default_rng(0)
    rows = []
    for case in CASES:
        with ExitStack() as stack:
            pools = {
                count: stack.enter_context(ProcessPoolExecutor(count, spawn, join, (spawn.Barrier(count),)))
                for count in counts
            }
            precision = pools[ALL].submit(faster_precision, GPU).result()
            names = [name for name in VARIANTS if wanted(case, name)]
            for turn in range(-1, TURNS):  # the first warms up
                for name in order.permutation(names):
                    variant = VARIANTS[name]
                    pool = pools[variant.at_once]
                    at_once = [pool.submit(rate, case, str(name), precision) for _ in range(variant.at_once)]
                    found = [one.result() for one in at_once]
                    if turn >= 0:
                        rows.append((case, str(name), turn, sum(found) if GPU else np.mean(found)))
        table = pd.DataFrame(rows, columns=["case", "variant", "turn", "per_s"])
        write("training", table, summary(table), *NOTES)  # after every case, for one may take long


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each case and variant: rate, ratio to what it is held against, share of the peak, with quartiles."""
    turns = table.set_index(["case", "turn", "variant"]).per_s
    rows = []
    for case in table.case.unique():
        of_case = turns.xs(case, level="case").unstack("variant")
        peak = of_case[[f"{PRODUCT}, {kind}" for kind in ("bf16", "fp32")]].max(axis=1)
        for variant in (name for name in VARIANTS if name in of_case):
            rates, against = of_case[variant], VARIANTS[variant].against
            is_product = variant.startswith(PRODUCT)
            operations = 1 if is_product else 3 * flops(MODELS[CASES[case][0]])  # backward: twice forward
            trains = is_product or not variant.startswith(("evaluation", "Grad-CAM"))
            busy = VARIANTS[variant].at_once * VARIANTS[variant].threads >= ALL  # as when the peak was measured
            rows.append(
                {
                    "": case,
                    "variant": variant,
                    "images/s": "" if is_product else _spread(rates, "{:,.0f}"),
                    "times": "" if against == variant else _spread(rates / of_case[against], "{:.2f}"),
                    "of": "" if against == variant else against,
                    "GFLOP/s": _spread(operations * rates / 1e9, "{:,.0f}") if trains else "",
                    "of the peak": _spread(operations * rates / peak, "{:.0%}") if trains and busy else "",
                }
            )
    return pd.DataFrame(rows)


def _spread(values: pd.Series, form: str) -> str:
    """Median and quartiles."""
    low, middle, high = (form.format(value) for value in values.quantile([0.25, 0.5, 0.75]))
    return f"{middle} ({low} to {high})"


if __name__ == "__main__":
    main()
