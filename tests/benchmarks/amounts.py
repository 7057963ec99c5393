"""By how much each corruption is to change images, so that it costs a reference network a stated accuracy.

`make bench-amounts` runs it: it trains the reference, the arm `baseline` of fashion_cnn.yaml, with seeds that no study
takes, and measures accuracies on validation images. No test image is looked at. `analysis.corruptions` holds the
amounts that it finds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from table import write
from torch import nn

from analysis.corruptions import CORRUPTIONS, changed
from analysis.stress import predicted
from study import data, space_file
from study.config import TrialConfig
from study.probe import faster_precision
from study.trainer import Precision, Trainer

# Points that accuracy falls at severities 1 to 5: each about twice the last, from four times the half-width of the 95 %
# interval of one network's accuracy to what leaves more than half of the images right.
FALLS = (2, 5, 10, 20, 35)
SEEDS, EPOCHS = range(100, 103), 8
# The least amount that is tried, and an extreme: beyond it too little of a garment is left, or the change is another.
RANGES: dict[str, tuple[float, float]] = {
    "gaussian_noise": (0.01, 1),
    "shot_noise": (1000, 1),
    "impulse_noise": (0.001, 1),
    "gaussian_blur": (0.3, 14),
    "motion_blur": (1, 28),
    "contrast": (0.1, 0.99),
    "brighten": (0.01, 0.99),
    "darken": (0.1, 0.99),
    "pixelate": (27, 2),
    "elastic": (0.1, 5),
    "rotate": (1, 90),
    "shear": (1, 60),
    "scale": (0.01, 0.9),
    "translate": (0.01, 0.5),
    "occlusion": (1, 28),
}
WHOLE = ("pixelate", "occlusion")  # amounts are numbers of pixels
COLUMNS = ["corruption", "amount", "seed", "accuracy"]
NOTES = (
    f"Amounts at which the mean accuracy on the 10,000 validation images falls by {', '.join(map(str, FALLS))} points, "
    "or by what is nearest to it; in brackets by how much it falls. The networks are FashionCNN, the arm baseline of "
    f"fashion_cnn.yaml, after {EPOCHS} epochs with seeds {SEEDS[0]} to {SEEDS[-1]}. Amounts have two significant "
    "figures, and are found by bisection; of whole pixels all are tried.",
    "* marks an extreme that falls short of the value.",
)


def amounts(name: str) -> list[float]:
    """Return the amounts to choose from, the weakest first: of two significant figures, or whole."""
    ends = RANGES[name]
    if name in WHOLE:
        found = [float(whole) for whole in range(int(min(ends)), int(max(ends)) + 1)]
    else:
        decades = range(-4, 4)
        found = [float(f"{digits}e{decade}") for decade in decades for digits in range(10, 100)]
    found = [amount for amount in found if min(ends) <= amount <= max(ends)]
    return found if ends[0] < ends[1] else found[::-1]


def search(name: str, fall: Callable[[float], float]) -> list[float]:
    """Return an amount for each of FALLS: the one whose fall, in points, is nearest.

    Bisection takes falls to grow with the amounts; of whole pixels they need not.
    """
    choice = amounts(name)
    if name in WHOLE:
        return [nearest(value, choice, fall) for value in FALLS]
    found = []
    for value in FALLS:
        low, high = 0, len(choice) - 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fall(choice[middle]) < value else (low, middle)
        found.append(nearest(value, [choice[low], choice[high]], fall))
    return found


def nearest(value: float, choice: Sequence[float], fall: Callable[[float], float]) -> float:
    """Return the amount whose fall is nearest to `value`, of equal ones the first."""
    return min(choice, key=lambda amount: abs(fall(amount) - value))


def trained(config: TrialConfig, seed: int, splits: data.Splits, precision: Precision) -> nn.Module:
    """Return the network after its last epoch, in evaluation mode."""
    trainer = Trainer(config, seed, splits, torch.device("cpu"), precision)
    for _ in range(EPOCHS):
        print(seed, trainer.run_epoch().val_accuracy, flush=True)
    return trainer.model.eval().to(memory_format=torch.channels_last)


def main() -> None:
    torch.set_num_threads(1)
    precision = faster_precision(False)
    whole = data.split(data.load(), 50_000, 10_000, 10_000, seed=0)
    config = replace(space_file.load(space_file.find("fashion_cnn.yaml")).at("full").arms["baseline"], epochs=EPOCHS)
    networks = {seed: trained(config, seed, whole, precision) for seed in SEEDS}
    images, labels = whole.val_images, whole.val_labels
    index = np.arange(len(images))
    measured: dict[tuple[str, float | None], list[float]] = {}

    def accuracy(name: str, amount: float | None) -> float:
        """Return the networks' mean accuracy in %; it is measured once."""
        if (name, amount) not in measured:
            pixels = images if amount is None else changed(images, name, amount, index)
            measured[name, amount] = [
                float((predicted(network, config, pixels, precision) == labels).mean()) for network in networks.values()
            ]
        return 100 * float(np.mean(measured[name, amount]))

    for name in RANGES:
        print(
            name, search(name, lambda amount, name=name: accuracy("clean", None) - accuracy(name, amount)), flush=True
        )
    rows = [(*key, seed, of) for key, each in measured.items() for seed, of in zip(SEEDS, each, strict=True)]
    table = pd.DataFrame(rows, columns=COLUMNS)
    write("amounts", table, summary(table), *NOTES)


def chosen(table: pd.DataFrame) -> dict[str, list[tuple[float, float]]]:
    """Return by corruption the amount for each of FALLS, and by how many points the accuracy falls there."""
    # As they were before the file made them numbers of 32 bits.
    table = table.assign(
        amount=table.amount.map("{:.2g}".format).astype(float), accuracy=table.accuracy.astype(float).round(4)
    )
    clean = 100 * float(table[table.corruption == "clean"].accuracy.mean())
    found = {}
    for name in RANGES:
        means = 100 * table[table.corruption == name].groupby("amount").accuracy.mean()
        falls = {amount: clean - float(means[amount]) for amount in amounts(name) if amount in means.index}
        found[name] = [(amount, falls[amount]) for amount in search(name, falls.__getitem__)]
    return found


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each corruption."""
    rows = []
    for name, found in chosen(table).items():
        capped = [
            amount == amounts(name)[-1] and fall < value for (amount, fall), value in zip(found, FALLS, strict=True)
        ]
        cells = [f"{amount:g} ({fall:.1f}{'*' * cap})" for (amount, fall), cap in zip(found, capped, strict=True)]
        rows.append([name.replace("_", " "), CORRUPTIONS[name].family, *cells])
    return pd.DataFrame(rows, columns=["corruption", "family", *(f"−{value} points" for value in FALLS)])


if __name__ == "__main__":
    main()
