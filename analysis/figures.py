"""The page's figures, as SVG: the same numbers give the same bytes. Colours are Okabe and Ito's (2008)."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from analysis.statistics import Estimate

BLUE, VERMILLION, GREEN, PALE, INK = "#0072B2", "#D55E00", "#009E73", "#C9CDD2", "#24292F"
WIDTH = 5.0  # inches: 480 px at full size, so that the text can still be read at 350
CHANCE_LOSS = float(np.log(10))  # nats: what ten equal probabilities cost
MANY = 150  # lines; more are drawn as a picture inside the SVG
STYLE: Any = {  # matplotlib names every key it takes in its type
    **{key: value for key, value in matplotlib.rcParamsDefault.items() if key != "backend"},  # not the user's settings
    "svg.hashsalt": "study",
    "font.sans-serif": ["DejaVu Sans"],  # matplotlib's own; a user's font has other shapes
    "text.parse_math": False,  # names of arms are anyone's, and a dollar sign is no formula
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": "#8A9199",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E9ECEF",
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Row:
    """One line of a dot plot: a value for each seed, their mean and interval."""

    name: str
    values: Sequence[float]
    mean: Estimate
    is_candidate: bool


def dots(rows: Sequence[Row], unit: str, *, zero: bool = False) -> bytes:
    """Each seed's value, with the mean and its interval as a bar above; `zero` draws the line of no difference."""
    with _figure(0.62 * len(rows) + 0.6) as (figure, svg):
        axes = figure.subplots()
        for place, row in enumerate(rows):
            colour, mark = (BLUE, "o") if row.is_candidate else (VERMILLION, "s")
            axes.plot(row.values, [place] * len(row.values), mark, color=colour, alpha=0.55, ms=6, mew=0)
            if row.mean.low is not None and row.mean.high is not None:
                axes.plot([row.mean.low, row.mean.high], [place - 0.22] * 2, color=colour, lw=2, solid_capstyle="butt")
            axes.plot(row.mean.mean, place - 0.22, "|", color=colour, ms=10, mew=2.5)
            axes.text(0, place - 0.42, row.name, transform=axes.get_yaxis_transform(), va="center", fontsize=9.5,
                      bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})  # fmt: skip
        if zero:
            axes.axvline(0, color=INK, lw=1, ls=(0, (4, 3)), zorder=1)
        axes.set(ylim=(len(rows) - 0.7, -0.65), yticks=[], xlabel=unit)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="y", visible=False)
    return svg.getvalue()


def seed_curves(epochs: pd.DataFrame, arm: str, title: str, *, is_candidate: bool) -> bytes:
    """Accuracy above loss, by epoch, of one confirmed configuration; the others' validation pale behind.

    epochs: of completed confirm trials, as the table `epochs` has them.
    """
    colour = BLUE if is_candidate else VERMILLION
    with _figure(4.6) as (figure, svg):
        panels = figure.subplots(2, 1, sharex=True)
        for axes, measure, best in zip(panels, ("accuracy", "loss"), (max, min), strict=True):
            for other, theirs in epochs.groupby("arm"):
                if other != arm:
                    mean = theirs.groupby("epoch")[f"val_{measure}"].mean()
                    axes.plot(mean.index, mean, color=PALE, lw=1.2, zorder=1)
            mine = epochs[epochs.arm == arm].groupby("epoch")
            for part, style, tint in (("train", "--", "#6A7178"), ("val", "-", colour)):
                by_epoch = mine[f"{part}_{measure}"]
                mean, low, high = by_epoch.mean(), by_epoch.min(), by_epoch.max()
                axes.fill_between(mean.index, low, high, color=tint, alpha=0.2, lw=0)
                name = "validation" if part == "val" else "training"
                axes.plot(mean.index, mean, style, color=tint, lw=1.8, label=name)
            axes.set(ylabel=measure if measure == "accuracy" else "loss (nats)")
            both = epochs[[f"train_{measure}", f"val_{measure}"]]
            _limits(axes, both.to_numpy(dtype=float).ravel(), best is max)
        panels[0].set_title(title, loc="left", fontsize=10.5, fontweight="bold")
        panels[0].legend(loc="lower right")
        panels[1].set_xlabel("epoch")
        panels[1].xaxis.set_major_locator(MaxNLocator(integer=True))
    return svg.getvalue()


def search_curves(epochs: pd.DataFrame, winners: Iterable[str], arms: Iterable[str], measure: str) -> bytes:
    """Validation `measure` of every search trial by epoch, thin; winners blue, arms vermillion.

    epochs: the search's rows of the table `epochs`; winners, arms: trial ids.
    """
    names = {**dict.fromkeys(winners, "best"), **dict.fromkeys(arms, "arms")}
    looks = {"": ("#7C858E", 0.6, 0.45), "arms": (VERMILLION, 1.8, 1.0), "best": (BLUE, 1.8, 1.0)}
    lines: dict[str, list[np.ndarray]] = {kind: [] for kind in looks}
    ordered = epochs.sort_values(["trial_id", "epoch"])
    starts = np.flatnonzero(ordered.trial_id != ordered.trial_id.shift())  # a group at a time would take minutes
    points = np.split(ordered[["epoch", measure]].to_numpy(dtype=float), starts[1:])
    for trial, line in zip(ordered.trial_id.iloc[starts], points, strict=True):
        lines[names.get(trial, "")].append(line)
    with _figure(3.3) as (figure, svg):
        axes = figure.subplots()
        for kind, (colour, width, alpha) in looks.items():
            look: Any = {"alpha": alpha, "rasterized": len(lines[kind]) > MANY}
            label = (kind or "other trials") if lines[kind] else "_"
            axes.add_collection(LineCollection(lines[kind], colors=colour, linewidths=width, label=label, **look))
            ends = [line[-1] for line in lines[kind]]
            axes.plot([e[0] for e in ends], [e[1] for e in ends], ".", color=colour, ms=2 + 3 * width, **look)
        axes.set(xlabel="epoch", ylabel="validation accuracy" if "accuracy" in measure else "validation loss (nats)")
        axes.set_xlim(0.5, float(epochs.epoch.max()) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _limits(axes, epochs[measure].to_numpy(dtype=float), "accuracy" in measure)
        axes.legend(loc="lower right" if "accuracy" in measure else "upper right")
    return svg.getvalue()


def rates(rows: Sequence[tuple[str, Sequence[Any]]], names: Sequence[str], unit: str) -> bytes:
    """For every row a rate in [0, 1] with its interval for each of the `names`, below each other.

    rows: a title and, for each name, something with `rate`, `low` and `high`, NaN where there is none.
    """
    looks = [(BLUE, "o"), (VERMILLION, "s"), (GREEN, "D"), ("#CC79A7", "^")]
    with _figure(0.2 * len(rows) * (len(names) + 1.6) + 0.9) as (figure, svg):
        axes = figure.subplots()
        step = len(names) + 1.6
        for k, (title, of) in enumerate(rows):
            axes.text(0, k * step - 0.9, title, transform=axes.get_yaxis_transform(), va="center", fontsize=9.5)
            for j, row in enumerate(of):
                colour, mark = looks[j % len(looks)]
                axes.hlines(k * step + j, 100 * row.low, 100 * row.high, color=colour, lw=2, alpha=0.55)
                axes.plot(100 * row.rate, k * step + j, mark, color=colour, ms=5, label="_" if k else names[j])
        axes.set(ylim=(len(rows) * step - 1.2, -1.5), yticks=[], xlabel=f"{unit}, %")
        axes.set_xlim(left=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="y", visible=False)
        figure.legend(loc="outside upper right", ncols=2)
    return svg.getvalue()


def reliability(groups: Sequence[tuple[str, pd.Series, pd.Series]], bins: int) -> bytes:
    """Accuracy less confidence in bins of equal size, against confidence: a line for each name, confidence, right."""
    looks = [(BLUE, "o", "-"), (VERMILLION, "s", "--"), (GREEN, "D", "-."), ("#CC79A7", "^", ":")]
    with _figure(3.0) as (figure, svg):
        axes = figure.subplots()
        for (name, confidence, right), (colour, mark, line) in zip(groups, looks, strict=False):
            order = np.argsort(confidence.to_numpy(), kind="stable")
            parts = [p for p in np.array_split(order, bins) if len(p)]
            sure = np.array([confidence.to_numpy()[part].mean() for part in parts])
            true = np.array([right.to_numpy()[part].mean() for part in parts])
            axes.plot(100 * sure, 100 * (true - sure), line, marker=mark, color=colour, lw=1.4, ms=4, label=name)
        axes.axhline(0, color=INK, lw=1, ls=(0, (4, 3)), zorder=1)
        axes.set(xlabel="mean confidence, %", ylabel="accuracy less confidence, points")
        figure.legend(loc="outside upper left", ncols=2)
    return svg.getvalue()


def grid(rows: Sequence[np.ndarray], names: Sequence[str]) -> bytes:
    """Images uint8, each row (N, 28, 28) beside its name; a row of fewer is filled up with white."""
    most = max(len(row) for row in rows)
    full = [np.pad(row, ((0, most - len(row)), (0, 0), (0, 0)), constant_values=255) for row in rows]
    sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in full])
    with _figure(WIDTH * 0.82 * sheet.shape[0] / sheet.shape[1]) as (figure, svg):
        axes = figure.subplots()
        axes.imshow(sheet, cmap="gray", interpolation="none", vmin=0, vmax=255)
        side = rows[0].shape[1]
        axes.set_yticks([side * (k + 0.5) for k in range(len(rows))], names)
        axes.set_xticks([])
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        figure.set_layout_engine("constrained", w_pad=0.12)  # beside an image of fixed aspect, names are cut else
    return svg.getvalue()


def _limits(axes: Axes, values: np.ndarray, up: bool) -> None:
    """Leave the first steps' worst tenth outside, so that the ends, which are compared, get the room."""
    values = values[np.isfinite(values)]
    if not len(values):
        return
    low, high = np.quantile(values, (0.1, 1) if up else (0, 0.9))
    if up:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{100 * value:.3g} %"))
    else:
        high = min(high, max(low, CHANCE_LOSS))
    room = 0.06 * (high - low) + 1e-3
    axes.set_ylim(max(low - room, 0), min(high + room, 1) if up else high + room)


@contextmanager
def _figure(height: float) -> Iterator[tuple[Figure, io.BytesIO]]:
    """A figure of the page's width and `height` inches, and where its SVG is when the block has ended."""
    svg = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        yield figure, svg
        figure.savefig(svg, format="svg", dpi=200, metadata={"Date": None, "Creator": None}, transparent=True)
