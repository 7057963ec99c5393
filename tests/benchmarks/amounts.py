"""How strong corruptions are: by how much they lower the validation accuracy of a reference network.

`make bench-amounts` runs it, some ten minutes on a CPU. The rule: at severities 1 to 5 a corruption costs the second
source's network, trained without augmentation for EPOCHS epochs, FALLS points of accuracy, mean over SEEDS, on IMAGES
validation images. No test image and no network of a study has a part in it. `analysis.corruptions` has the amounts
that this prints, to two significant figures; a test holds them to each other. Suppressions have amounts of their own:
they take a cue away by stated shares, all of it at severity 5.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from unittest import mock

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from table import write

from analysis.corruptions import CORRUPTIONS, corrupt
from analysis.stress import predicted
from study import data
from study.config import MODELS, Adam, TrialConfig
from study.provenance import cores
from study.trainer import Trainer

FALLS = (2.0, 5.0, 10.0, 20.0, 35.0)  # points
SEEDS, EPOCHS, IMAGES, STEPS = (101, 102), 8, 2000, 40
CONFIG = TrialConfig(model=MODELS["fashion_cnn"], optimizer=Adam(), epochs=EPOCHS)
# From what costs next to nothing to what leaves little; whole numbers are tried one by one.
RANGES: dict[str, npt.NDArray[np.float64]] = {
    "gaussian_noise": np.geomspace(0.005, 0.8, STEPS), "shot_noise": np.geomspace(1000, 0.5, STEPS),
    "impulse_noise": np.geomspace(0.001, 0.5, STEPS), "gaussian_blur": np.geomspace(0.3, 4, STEPS),
    "motion_blur": np.geomspace(0.8, 16, STEPS), "contrast": np.linspace(0.05, 0.97, STEPS),
    "brighten": np.geomspace(0.01, 0.8, STEPS), "darken": np.linspace(0.05, 0.97, STEPS),
    "pixelate": np.arange(27.0, 3, -1), "elastic": np.geomspace(0.1, 4, STEPS), "rotate": np.linspace(1, 60, STEPS),
    "shear": np.linspace(1, 60, STEPS), "scale": np.linspace(0.01, 0.7, STEPS),
    "translate": np.linspace(0.01, 0.5, STEPS), "occlusion": np.arange(1.0, 21),
}  # fmt: skip
NOTES = (
    f"Points of validation accuracy that a corruption of that amount costs, mean over {len(SEEDS)} networks trained "
    f"for {EPOCHS} epochs, {IMAGES:,} images. Amount: the one at which accuracy falls by "
    f"{', '.join(map(str, FALLS))} points, or as near as the range reaches.",
)


def measured(name: str, splits: data.Splits, states: list[dict[str, torch.Tensor]]) -> pd.DataFrame:
    """Return a row an amount of one corruption: the fall of the accuracy, in points, mean over the networks."""
    torch.set_num_threads(1)
    images, labels = splits.val_images[:IMAGES], splits.val_labels[:IMAGES]
    networks = []
    for seed, state in zip(SEEDS, states, strict=True):
        network = Trainer(CONFIG, seed, splits, torch.device("cpu"), "fp32").model.eval()
        network.load_state_dict(state)
        networks.append(network)
    clean = np.mean([(predicted(n, CONFIG, images, "fp32") == labels).mean() for n in networks])
    rows = []
    for amount in RANGES[name]:
        with mock.patch.dict(CORRUPTIONS, {name: replace(CORRUPTIONS[name], amounts=(float(amount),) * 5)}):
            changed = corrupt(images, name, 1, np.arange(IMAGES))
        accuracy = np.mean([(predicted(n, CONFIG, changed, "fp32") == labels).mean() for n in networks])
        rows.append((name, float(amount), 100 * float(clean - accuracy)))
    return pd.DataFrame(rows, columns=["corruption", "amount", "fall"])


def amounts(table: pd.DataFrame, name: str) -> tuple[float, ...]:
    """Return the amounts of one corruption at severities 1 to 5, by the rule, to two significant figures."""
    rows = table[table.corruption == name]
    falls = np.maximum.accumulate(rows.fall.to_numpy())
    grid = rows.amount.to_numpy()
    if name in ("pixelate", "occlusion"):
        found = [grid[np.abs(falls - fall).argmin()] for fall in FALLS]
    else:
        found = [float(np.interp(fall, falls, grid)) for fall in FALLS]
    return tuple(float(f"{amount:.2g}") for amount in found)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row a corruption: its amounts at severities 1 to 5, and what the range reaches."""
    rows = []
    for name in RANGES:
        row = {"corruption": name.replace("_", " ")}
        row |= {f"severity {k}": f"{amount:g}" for k, amount in enumerate(amounts(table, name), 1)}
        rows.append(row | {"most, points": f"{table[table.corruption == name].fall.max():.1f}"})
    return pd.DataFrame(rows)


def reference(seed: int) -> dict[str, torch.Tensor]:
    """Return the weights of a reference network after its last epoch."""
    torch.set_num_threads(1)
    trainer = Trainer(CONFIG, seed, splits_of_study(), torch.device("cpu"), "fp32")
    for _ in range(EPOCHS):
        trainer.run_epoch()
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def splits_of_study() -> data.Splits:
    return data.split(data.load(), 50_000, 10_000, 10_000, seed=0)


def main() -> None:
    splits = splits_of_study()
    small = splits._replace(train_images=splits.train_images[:100], train_labels=splits.train_labels[:100])
    with ProcessPoolExecutor(cores(), get_context("spawn")) as pool:
        states = list(pool.map(reference, SEEDS))
        parts = [pool.submit(measured, name, small, states) for name in RANGES]
        table = pd.concat([part.result() for part in parts], ignore_index=True)
    write("amounts", table, summary(table), *NOTES)


if __name__ == "__main__":
    main()
