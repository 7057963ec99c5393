"""Whether speed costs accuracy: the second source's network after five epochs of its loop, and of the trainer.

`make bench` runs it: six seeds of each on all data, with the source's augmentation; one core each, or one GPU for all.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pandas as pd
import torch
from sources_loop import SOURCE, SourcesLoop
from table import write

from analysis.effects import over_seeds
from study import data
from study.config import MODELS, Adam, TrialConfig
from study.probe import faster_precision
from study.provenance import cores
from study.trainer import Precision, Trainer

EPOCHS, SEEDS = 5, 6
CONFIG = TrialConfig(model=MODELS["fashion_cnn"], optimizer=Adam(), augmentation=SOURCE, epochs=EPOCHS)
LOOPS = ("the sources' loop", "the trainer")


def trained(loop: str, seed: int, precision: Precision) -> tuple[str, int, float]:
    """Validation accuracy in [0, 1] after the last epoch."""
    torch.set_num_threads(1)
    on = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    splits = data.split(data.load(), 50_000, 10_000, 10_000, seed=0)
    if loop == LOOPS[0]:
        sources = SourcesLoop(CONFIG, seed, splits, on)
        for _ in range(EPOCHS):
            sources.train_epoch()
        accuracy = sources.evaluate()
    else:
        trainer = Trainer(CONFIG, seed, splits, on, precision)
        for _ in range(EPOCHS):
            accuracy = trainer.run_epoch().val_accuracy
    return loop, seed, accuracy


def main() -> None:
    workers = 1 if torch.cuda.is_available() else cores()
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        precision = pool.submit(faster_precision, torch.cuda.is_available()).result()
        runs = [pool.submit(trained, loop, seed, precision) for seed in range(1, SEEDS + 1) for loop in LOOPS]
        table = pd.DataFrame([run.result() for run in runs], columns=["loop", "seed", "val_accuracy"])
    write("accuracy", table, summary(table))


def summary(table: pd.DataFrame) -> pd.DataFrame:
    by_seed = table.pivot(index="seed", columns="loop", values="val_accuracy")
    more = over_seeds([*(100 * (by_seed[LOOPS[1]] - by_seed[LOOPS[0]]))], "accuracy", "points", 0.5)
    rows = [
        {
            "": loop,
            "validation accuracy, mean %": f"{100 * by_seed[loop].mean():.2f}",
            "standard deviation over seeds": f"{100 * by_seed[loop].std():.2f}",
            "more than the sources' loop, points": ""
            if loop == LOOPS[0]
            else f"{more.value:+.2f} ({more.low:+.2f} to {more.high:+.2f})",
        }
        for loop in LOOPS
    ]
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
