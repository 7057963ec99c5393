"""What is left of a network's accuracy on corrupted images; what is measured of that, `analysis.measures` says.

Hendrycks & Dietterich 2019, "Benchmarking neural network robustness to common corruptions and perturbations",
arXiv:1903.12261, with the images of `analysis.corruptions`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import nn

from analysis.attention import normalised
from analysis.corruptions import CLEAN, CORRUPTIONS, Index, check_name, corrupted
from study.config import Augmentation, TrialConfig
from study.data import Bytes
from study.trainer import Precision

INSIDE = {  # what training augmentation does of the same kind
    "rotate": "rotation",
    "shear": "shear",
    "scale": "scale",
    "translate": "translation",
    "occlusion": "erasing",
}
BATCH = 100  # images a forward pass: what FashionCNN computes from them stays in a core's cache

COLUMNS = {
    "corruption": "name of the corruption or suppression, clean for the images as they are",
    "family": "noise, blur, photometric, digital, geometric, occlusion, suppression; clean for clean",
    "severity": "1 weak to 5 strong; 0 for clean",
    "amount": "what it measures is said in analysis/corruptions.py; null for clean, and where it was not recorded",
    "accuracy": "in [0, 1]",
    "n": "images",
    "inside": "whether the trial's training augmentation makes changes of this kind, whatever their size",
    "right": "which of the images are predicted right, ordered by place: numpy.unpackbits(numpy.frombuffer(right, "
    "numpy.uint8), count=n)",
}


def inside(name: str, augmentation: Augmentation) -> bool:
    """Whether the training augmentation makes changes of this kind, however small; flips are no corruption.

    Raises ValueError for an unknown name.
    """
    check_name(name)
    return name in INSIDE and augmentation.strength * getattr(augmentation, INSIDE[name]) > 0


def stress(
    network: nn.Module, config: TrialConfig, images: Bytes, labels: Bytes, index: Index, seed: int = 0,
    precision: Precision = "fp32",
) -> pd.DataFrame:  # fmt: skip
    """Accuracy of one network under everything; the columns are COLUMNS, a row for each of `corrupted`.

    `network` in evaluation mode, images uint8 (N, 28, 28), labels (N,), `index` (N,) as for `corrupt`. The images are
    corrupted anew for each network: that takes a tenth of the time of FashionCNN, and to keep them 700 MB. `precision`
    is that of the network's training, in which its test accuracy was measured too. Raises ValueError in training mode
    and what `corrupt` raises.
    """
    if network.training:
        raise ValueError("network: got one in training mode, must be in evaluation mode")
    network.to(memory_format=torch.channels_last)  # in place: it is there for this alone; takes half the time
    rows = []
    for name, severity, changed in corrupted(images, index, seed):
        correct = predicted(network, config, changed, precision) == labels
        family = CLEAN if name == CLEAN else CORRUPTIONS[name].family
        trained = name != CLEAN and inside(name, config.augmentation)
        bits = np.packbits(correct).tobytes()
        amount = None if name == CLEAN else CORRUPTIONS[name].amounts[severity - 1]
        rows.append((name, family, severity, amount, float(correct.mean()), len(images), trained, bits))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def chosen(total: int, most: int, seed: int = 0) -> Index:
    """Return which of `total` test images are corrupted, `most` of them, in order; fewer are some of the more."""
    return np.sort(np.random.default_rng(seed).permutation(total)[:most])


def other_amounts(table: pd.DataFrame) -> str:
    """Return in a clause whose amounts the table `stress` was measured by, where they are not those of CORRUPTIONS."""
    rows = table[table.corruption != CLEAN]
    if rows.amount.isna().any():
        return "the amounts of corruption are older ones, chosen by eye on one network before a rule fixed them"
    today = [CORRUPTIONS[name].amounts[k - 1] for name, k in zip(rows.corruption, rows.severity, strict=True)]
    names = rows.corruption[rows.amount.to_numpy() != today].unique()
    return f"the amounts of {', '.join(names)} are others than today's".replace("_", " ") if len(names) else ""


def right(table: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Which images are predicted right, by rows of the table `stress` of the same n: (rows, n)."""
    bits = np.frombuffer(b"".join(table.right), np.uint8).reshape(len(table), -1)
    return np.unpackbits(bits, axis=1, count=int(table.n.iloc[0])).astype(bool)


def right_in_common(table: pd.DataFrame, images: int, total: int) -> npt.NDArray[np.bool_]:
    """Return `right` of rows of any n on the same images, those of the rows with the least n, `images`: (rows, images).

    `total` is how many test images there are to choose from.
    """
    found = np.empty((len(table), images), bool)
    for n in table.n.unique():
        rows = (table.n == n).to_numpy()
        among = slice(None) if n == images else np.isin(chosen(total, int(n)), chosen(total, images))
        found[rows] = right(table[rows])[:, among]
    return found


@torch.inference_mode()
def predicted(network: nn.Module, config: TrialConfig, images: Bytes, precision: Precision) -> npt.NDArray[np.int64]:
    """Return the class that the network, in evaluation mode, takes each image uint8 (N, 28, 28) for: (N,)."""
    starts = range(0, len(images) or 1, BATCH)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        parts = [network(normalised(images[k : k + BATCH], config.mean, config.std)).argmax(1) for k in starts]
    return torch.cat(parts).numpy()
