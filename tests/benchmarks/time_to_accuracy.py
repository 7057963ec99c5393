"""How much core time a training takes to a test accuracy: recipes of few epochs, and the sources' loop.

`make bench-time` runs it, some hours on a CPU; what was measured is kept and goes on. Every run has one core and its
own seed, and recipes take turns, so that all are slowed alike. All train on the 50,000 images that studies train on,
and are judged by the weights of their last epoch. The recipes were chosen by validation accuracy.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from scipy import stats
from sources_loop import SourcesLoop
from table import FOLDER, write
from torch import nn

from analysis.statistics import estimate
from study import data, provenance
from study.config import MODELS, Adam, AdamW, Augmentation, OneCycle, TrialConfig
from study.data import Splits
from study.probe import faster_precision
from study.provenance import cores
from study.trainer import Precision, Trainer

SEEDS = range(1, 11)
TARGETS = (0.90, 0.91, 0.92, 0.9224, 0.93, 0.935)  # 92.24 % is what the second source printed
LOOP = "the sources' loop, 30 epochs"
SOURCE = TrialConfig(model=MODELS["fashion_cnn"], optimizer=Adam(), epochs=30)
SPRINT = replace(
    SOURCE,
    optimizer=AdamW(lr=0.004),
    schedule=OneCycle(),
    augmentation=Augmentation(1, flip=0.5),
    label_smoothing=0.05,
)
DEEP = replace(SPRINT, model=replace(MODELS["fashion_cnn"], convolutions=2), optimizer=AdamW(lr=0.003))
RECIPES = {
    LOOP: SOURCE,
    **{f"one cycle, {epochs} epochs": replace(SPRINT, epochs=epochs) for epochs in (1, 2, 3, 4, 5)},
    **{f"two convolutions a block, {epochs} epochs": replace(DEEP, epochs=epochs) for epochs in (3, 4, 5, 6)},
}
NOTES = (
    "Core seconds: processor time of training and validation, with one thread. Seconds to a target: of the cheapest "
    "recipe whose mean over the seeds reaches it after its last epoch; of the sources' loop, until the end of the "
    "first epoch whose mean reaches it, though one training alone does not know that.",
    "Intervals over seeds: Student's t, of times for their logarithm, by the delta method.",
)


def trained(recipe: str, seed: int, precision: Precision) -> pd.DataFrame:
    """Return a row an epoch: core seconds so far, and the test accuracy in [0, 1] with that epoch's weights."""
    torch.set_num_threads(1)
    splits = data.split(data.load(), 50_000, 10_000, 10_000, seed=0)
    epochs = _loop(seed, splits) if recipe == LOOP else _trainer(RECIPES[recipe], seed, splits, precision)
    rows = pd.DataFrame(epochs, columns=["core_seconds", "test_accuracy"])
    rows.core_seconds = rows.core_seconds.cumsum()
    return rows.assign(recipe=recipe, seed=seed, epoch=rows.index + 1, processor=provenance.hardware()["cpu"])


def _trainer(config: TrialConfig, seed: int, splits: Splits, precision: Precision) -> Iterator[tuple[float, float]]:
    trainer = Trainer(config, seed, splits, torch.device("cpu"), precision)
    for _ in range(config.epochs):
        seconds = trainer.run_epoch().cpu_seconds
        yield seconds, float((trainer.predict(splits.test_images).argmax(1) == splits.test_labels).mean())


def _loop(seed: int, splits: Splits) -> Iterator[tuple[float, float]]:
    loop = SourcesLoop(SOURCE, seed, splits, torch.device("cpu"))
    for _ in range(SOURCE.epochs):
        started = time.process_time()
        loop.train_epoch()
        loop.evaluate()
        yield time.process_time() - started, accuracy(loop.model, splits)


@torch.inference_mode()
def accuracy(model: nn.Module, splits: Splits) -> float:
    """Return the test accuracy in [0, 1] of a model that the sources' loop trained."""
    images = torch.tensor(splits.test_images)[:, None].float().div(255).sub(SOURCE.mean).div(SOURCE.std)
    predicted: npt.NDArray[np.int64] = torch.cat([model.eval()(part).argmax(1) for part in images.split(500)]).numpy()
    return float((predicted == splits.test_labels).mean())


def times(slow: pd.Series, fast: pd.Series) -> tuple[float, float, float]:
    """Return how many times as many core seconds the first take, with a 95 % interval over seeds."""
    relative = [(of.std(ddof=1) / of.mean()) ** 2 / len(of) for of in (slow, fast)]
    half = stats.t.ppf(0.975, min(len(slow), len(fast)) - 1) * sum(relative) ** 0.5
    ratio = float(slow.mean() / fast.mean())
    return ratio, ratio * float(np.exp(-half)), ratio * float(np.exp(half))


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row a target: the cheapest recipe that reaches it, its core seconds, and those of the sources' loop."""
    last = table[table.epoch == table.groupby(["recipe", "seed"]).epoch.transform("max")]
    recipes = last[last.recipe != LOOP].groupby("recipe").agg({"test_accuracy": "mean", "core_seconds": "mean"})
    loop = table[table.recipe == LOOP]
    by_epoch = loop.groupby("epoch").test_accuracy.mean()
    rows = []
    for target in TARGETS:
        reach, reached = recipes[recipes.test_accuracy >= target], by_epoch.index[by_epoch >= target]
        epochs = int(reached[0]) if len(reached) else SOURCE.epochs
        slow = loop[loop.epoch == epochs].core_seconds
        row = {"test accuracy": f"{target:.2%}".replace(".00", ""), "recipe": "none reaches it"}
        if len(reach):
            own = last[last.recipe == reach.core_seconds.idxmin()]
            mean = estimate((100 * own.test_accuracy).tolist())
            ratio, low, high = times(slow, own.core_seconds)
            row |= {
                "recipe": str(own.recipe.iloc[0]), "n": str(len(own)), "core seconds": f"{own.core_seconds.mean():.0f}",
                "its test accuracy, %": f"{mean.mean:.2f} ({mean.low:.2f} to {mean.high:.2f})",
                "times less than the loop": f"{ratio:.1f} ({low:.1f} to {high:.1f})",
            }  # fmt: skip
        row["the sources' loop, core seconds"] = f"{slow.mean():.0f}"
        row["its epochs"] = str(epochs) if len(reached) else f"not in {epochs}: {100 * by_epoch[epochs]:.2f} %"
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


def main() -> None:
    kept = FOLDER / "time_to_accuracy.parquet"
    table = pd.read_parquet(kept) if kept.exists() else pd.DataFrame({"recipe": [], "seed": []})
    if set(table.get("processor", [])) - {provenance.hardware()["cpu"]}:
        raise SystemExit(f"{kept}: got another processor's times, must be this one's; delete it")
    done = set(zip(table.recipe, table.seed, strict=True))
    wanted = [(recipe, seed) for seed in SEEDS for recipe in RECIPES if (recipe, seed) not in done]
    with ProcessPoolExecutor(cores(), get_context("spawn")) as pool:
        precision = pool.submit(faster_precision, False).result()
        runs = [pool.submit(trained, recipe, seed, precision) for recipe, seed in wanted]
        for run in as_completed(runs):
            table = pd.concat([table, run.result()], ignore_index=True)
            whole = table.groupby("seed").recipe.transform("nunique") == len(RECIPES)
            write("time_to_accuracy", table, summary(table[whole]) if whole.any() else pd.DataFrame(), *NOTES)


if __name__ == "__main__":
    main()
