"""How long the stress suite takes: the whole test set under every corruption and severity, through FashionCNN.

`make bench` runs it: a network on every core at once, with one thread each, as a report does without a GPU.
"""

from __future__ import annotations

import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pandas as pd
import torch
from table import write

from analysis.corruptions import CORRUPTIONS, SEVERITIES
from analysis.stress import stress
from study import data
from study.config import MODELS, Adam, TrialConfig
from study.models import build_model
from study.probe import faster_precision
from study.provenance import cores

NOTE = "Every corruption at every severity of the 10,000 test images, and the clean ones; FashionCNN, a core each."
CONFIG = TrialConfig(model=MODELS["fashion_cnn"], optimizer=Adam())


def stressed(seed: int) -> tuple[int, float]:
    """Seconds that it takes for a network."""
    torch.set_num_threads(1)
    network, images, precision = build_model(CONFIG.model, seed).eval(), data.load(), faster_precision(False)
    began = time.perf_counter()
    stress(network, CONFIG, images.test_images, images.test_labels, np.arange(len(images.test_images)), 0, precision)
    return seed, time.perf_counter() - began


def main() -> None:
    with ProcessPoolExecutor(cores(), get_context("spawn")) as pool:
        table = pd.DataFrame(pool.map(stressed, range(cores())), columns=["seed", "seconds"])
    passes = (1 + len(CORRUPTIONS) * len(SEVERITIES)) * 10_000  # clean ones, too
    row = {"networks at once": cores(), "images": passes, "s": table.seconds.median(),
           "images/s of one network": passes / table.seconds.median()}  # fmt: skip
    write("stress", table, pd.DataFrame([row]), NOTE)


if __name__ == "__main__":
    main()
