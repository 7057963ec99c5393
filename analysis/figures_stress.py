"""The figures of the stress test, as SVG like those of `analysis.figures`: what is done to images, what it costs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.ticker import PercentFormatter

from analysis.corruptions import CLEAN, CORRUPTIONS, SEVERITIES, corrupt
from analysis.figures import BLUE, GREEN, INK, VERMILLION, WIDTH, _figure
from analysis.statistics import estimate
from study.data import CLASS_NAMES, SIDE, Bytes

GAP = 2  # pixels between images
CHANCE = 1 / len(CLASS_NAMES)
ASIDE = 0.07  # severities between the bars of two configurations
LOOKS = [(BLUE, "o", "-"), (VERMILLION, "s", "--"), (GREEN, "D", "-."), ("#CC79A7", "^", ":"), ("#E69F00", "v", "-")]


def gallery(image: Bytes, number: int) -> bytes:
    """Image uint8 (28, 28), `number` in the test set, under every corruption, a row each, from severity 0 to 5."""
    severities, cell = (0, *SEVERITIES), SIDE + GAP
    sheet = np.full((len(CORRUPTIONS) * cell, len(severities) * cell), 255, np.uint8)
    for row, name in enumerate(CORRUPTIONS):
        for severity in severities:
            changed = corrupt(image[None], name, severity, np.array([number]))[0]
            sheet[row * cell :, severity * cell :][:SIDE, :SIDE] = changed
    with _figure(WIDTH * 0.765 * sheet.shape[0] / sheet.shape[1] + 0.5) as (figure, svg):
        axes = figure.subplots()
        # The height makes pixels square; by itself, a fixed aspect would cut the names off.
        axes.imshow(sheet, cmap="gray", interpolation="none", vmin=0, vmax=255, aspect="auto")
        centres = SIDE / 2 + cell * np.arange(len(CORRUPTIONS))
        axes.set_yticks(centres, [name.replace("_", " ") for name in CORRUPTIONS])
        axes.set_xticks(centres[: len(severities)], [str(severity) for severity in severities])
        axes.tick_params(length=0, labeltop=True, labelbottom=False)
        axes.set_xlabel("severity, 0 is clean")
        axes.xaxis.set_label_position("top")
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
    return svg.getvalue()


def severity_curves(table: pd.DataFrame, arms: Sequence[str]) -> bytes:
    """Accuracy against severity, mean and 95 % interval over seeds, a panel for each corruption.

    table: rows of the table `stress`; arms: at most 5 configurations. A bar is missing where there is a single seed.
    Raises ValueError for more configurations.
    """
    if len(arms) > len(LOOKS):
        raise ValueError(f"arms: got {len(arms)}, must be at most {len(LOOKS)}")
    clean, stressed = (table[(table.corruption == CLEAN) == is_clean] for is_clean in (True, False))
    panels_of = list(dict.fromkeys(stressed.corruption))
    rows = math.ceil(len(panels_of) / 2)
    with _figure(1.5 * rows + 0.9) as (figure, svg):
        panels = figure.subplots(rows, 2, sharex=True, sharey=True, squeeze=False)
        for axes, panel in zip(panels.ravel(), panels_of, strict=False):
            of = pd.concat([clean, stressed[stressed.corruption == panel]])
            for place, (arm, (colour, mark, line)) in enumerate(zip(arms, LOOKS, strict=False)):
                by_seed = of[of.arm == arm].groupby(["severity", "seed"]).accuracy.mean()
                found = [estimate(values.tolist()) for _, values in by_seed.groupby("severity")]
                x = np.arange(len(found)) + ASIDE * (place - (len(arms) - 1) / 2)
                ends = [(e.mean, e.mean) if e.low is None else (e.low, e.high) for e in found]
                axes.vlines(x, *zip(*ends, strict=True), color=colour, lw=2, alpha=0.55)
                label = "_" if axes is not panels[0, 0] else arm
                axes.plot(x, [e.mean for e in found], line, marker=mark, color=colour, lw=1.2, ms=4, label=label)
            axes.axhline(CHANCE, color=INK, lw=1, ls=(0, (1, 2)), zorder=1)
            axes.set_title(panel.replace("_", " "), loc="left", fontsize=9.5, fontweight="bold")
            axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
            axes.set(ylim=(0, 1), xticks=[0, *SEVERITIES])
        for axes in panels.ravel()[len(panels_of) :]:
            axes.set_axis_off()
        for axes in panels.ravel()[max(len(panels_of) - 2, 0) : len(panels_of)]:  # the lowest of either column
            axes.tick_params(labelbottom=True)
        figure.supxlabel("severity, 0 is clean", fontsize=10)
        figure.supylabel("accuracy", fontsize=10)
        figure.legend(loc="outside upper center", ncols=2)
    return svg.getvalue()
