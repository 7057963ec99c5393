"""The figures of a search, as SVG like those of `analysis.figures`: what its trials say of the hyperparameters.

Of more than 150 trials, the marks are one picture inside the SVG. Each takes one row, or trial and hyperparameter,
at least.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from optuna.distributions import CategoricalDistribution, IntDistribution

from analysis.figures import BLUE, INK, MANY, VERMILLION, _figure, _limits
from analysis.importance import Compared, Distribution

BEST = 3  # trials that the slices point out
LINES = 200  # of parallel coordinates
JITTER = 0.3  # of the distance between two options, to either side
ROOM = 0.04  # of a range, beyond either end
METHODS = {"PED-ANOVA": (BLUE, "o", -0.13), "fANOVA": (VERMILLION, "s", 0.13)}
GREY = "#7C858E"


def importance(rows: pd.DataFrame) -> bytes:
    """Both methods' shares, with their intervals, of one scope of `analysis.importance.importance`."""
    mean = rows.groupby("hyperparameter").value.mean()
    names = sorted(mean.index, key=lambda name: (-mean[name], name))
    with _figure(0.5 * len(names) + 1.0) as (figure, svg):
        axes = figure.subplots()
        for method, (colour, mark, aside) in METHODS.items():
            of = rows[rows.method == method].set_index("hyperparameter").reindex(names)
            places = np.arange(len(names)) + aside
            axes.hlines(places, of.low, of.high, color=colour, lw=2, alpha=0.55)
            axes.plot(of.value, places, mark, color=colour, ms=6, label=method)
        axes.set(xlim=(-0.02, 1.02), ylim=(len(names) - 0.5, -0.5), xlabel="share of the importance")
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        figure.legend(loc="outside upper right", ncols=2)
    return svg.getvalue()


def slices(compared: Compared) -> bytes:
    """Validation accuracy against each hyperparameter: the best three trials blue, arms vermillion, others grey.

    Options have their trials spread to both sides, in the order of the trials. The worst tenth may lie below a panel.
    """
    names, accuracy = list(compared.parameters.columns), compared.trials.val_accuracy
    best = accuracy.sort_values(ascending=False, kind="stable").index[:BEST]
    kinds = pd.Series("other trials", accuracy.index).where(compared.trials.arm.isna(), "arms")
    kinds[best] = "best"
    looks = {"other trials": (GREY, 5.0, 0.7), "arms": (VERMILLION, 6.0, 1.0), "best": (BLUE, 6.0, 1.0)}
    with _figure(1.75 * math.ceil(len(names) / 2) + 0.4) as (figure, svg):
        panels = figure.subplots(math.ceil(len(names) / 2), 2, sharey=True, squeeze=False).ravel()
        for place, (axes, name) in enumerate(zip(panels, names, strict=False)):
            x = _abscissa(axes, compared.parameters[name], compared.distributions[name])
            for kind, (colour, size, alpha) in looks.items():
                of = kinds == kind
                axes.plot(x[of], accuracy[of], ".", color=colour, ms=size, alpha=alpha, mew=0 if alpha < 1 else 1,
                          rasterized=int(of.sum()) > MANY, label="_" if place or not of.any() else kind)  # fmt: skip
            axes.set_title(name, loc="left", fontsize=9.5, fontweight="bold")
        for axes in panels[len(names) :]:
            axes.set_axis_off()
        _limits(panels[0], accuracy.to_numpy(), True)
        figure.supylabel(
            f"best validation accuracy\nup to epoch {compared.epoch}", fontsize=10, multialignment="center"
        )
        figure.legend(loc="outside upper right", ncols=3)
    return svg.getvalue()


def parallel_coordinates(compared: Compared) -> bytes:
    """One line a trial from its first hyperparameter down to its last, the best on top and the darkest.

    Each hyperparameter's range goes from left to right; a line has gaps where hyperparameters do not apply. Of more
    than 200 trials, the best and every second (third, …) after it are drawn.
    """
    ranked = compared.trials.val_accuracy.sort_values(ascending=False, kind="stable")
    order = ranked.iloc[:: math.ceil(len(ranked) / LINES)].iloc[::-1]
    names = list(compared.parameters.columns)
    x = np.column_stack([compared.position(name)[order.index] for name in names])
    y = np.broadcast_to(np.arange(len(names)), x.shape)
    low, high = np.quantile(ranked, 0.1), ranked.iloc[0]  # as in `_limits`: the worst tenth look alike
    colours = ScalarMappable(Normalize(low, max(high, low + 1e-9)), "cividis_r")
    height = 0.55 * len(names) + 1.0
    with _figure(height) as (figure, svg):
        axes = figure.subplots()
        rgba = colours.to_rgba(order)
        many = len(order) > MANY
        lines = LineCollection(list(np.stack([x, y], -1)), colors=rgba, linewidths=1.0, rasterized=many)
        axes.add_collection(lines)
        axes.scatter(x.ravel(), y.ravel(), s=9, c=np.repeat(rgba, len(names), 0), lw=0, rasterized=many, zorder=2)
        axes.set(xlim=(-0.02, 1.02), ylim=(len(names) - 0.7, -0.3), xticks=[])
        axes.set_yticks(range(len(names)), [f"{name}\n{_range(compared.distributions[name])}" for name in names])
        axes.tick_params(axis="y", length=0, labelsize=9)
        axes.spines[["left", "bottom"]].set_visible(False)
        bar = figure.colorbar(colours, ax=axes, location="bottom", fraction=0.25 / height, pad=0.02, extend="min",
                              format=FuncFormatter(_percent), ticks=MaxNLocator(4))  # fmt: skip
        bar.set_label(f"best validation accuracy up to epoch {compared.epoch}")
    return svg.getvalue()


def best_so_far(rows: pd.DataFrame) -> bytes:
    """The search's best accuracy against the epochs spent, and each trial's own, from the rows of `best_so_far`."""
    with _figure(3.0) as (figure, svg):
        axes = figure.subplots()
        for name, of, colour, size in (
            ("each trial", rows.arm.isna(), GREY, 4.0),
            ("arms", rows.arm.notna(), VERMILLION, 6.0),
        ):
            look: Any = {"color": colour, "ms": size, "rasterized": int(of.sum()) > MANY}
            axes.plot(rows.epochs[of], rows.val_accuracy[of], ".", label=name if of.any() else "_", **look)
        axes.step(rows.epochs, rows.best, where="post", color=BLUE, lw=1.8, label="best so far")
        axes.set(xlabel="epochs trained, all trials together", ylabel="validation accuracy")
        axes.set_xlim(left=0)
        _limits(axes, rows.val_accuracy.to_numpy(dtype=float), True)
        figure.legend(loc="outside upper right", ncols=3)
    return svg.getvalue()


def rank_correlation(rows: pd.DataFrame) -> bytes:
    """The rank correlation of each epoch with the end, and its interval, from the rows of `rank_correlation`."""
    with _figure(2.8) as (figure, svg):
        axes = figure.subplots()
        axes.axhline(0, color=INK, lw=1, ls=(0, (4, 3)), zorder=1)
        axes.vlines(rows.epoch, rows.low, rows.high, color=BLUE, lw=2, alpha=0.45)
        axes.plot(rows.epoch, rows.correlation, "o-", color=BLUE, ms=5, lw=1.2)
        low = min(0, rows.low.min()) - 0.05
        axes.set(xlabel="epoch", ylabel="rank correlation with the end", ylim=(low, 1.05))
        axes.set_xlim(0.5, float(rows.epoch.max()) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return svg.getvalue()


def _abscissa(axes: Axes, values: pd.Series, distribution: Distribution) -> pd.Series:
    """Where the trials stand on the panel's axis, which is set to the hyperparameter's scale."""
    if not isinstance(distribution, CategoricalDistribution):
        low, high = float(distribution.low), float(distribution.high)
        if distribution.log:
            axes.set_xscale("log")
            axes.xaxis.set_minor_locator(NullLocator())
            ticks = (low, math.sqrt(low * high), high)
            axes.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
            axes.set_xlim(low * (low / high) ** ROOM, high * (high / low) ** ROOM)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=isinstance(distribution, IntDistribution)))
            axes.set_xlim(low - ROOM * (high - low), high + ROOM * (high - low))
        return values.astype(float)
    options = [str(option) for option in distribution.choices]
    axes.set_xlim(-0.5, len(options) - 0.5)
    axes.set_xticks(range(len(options)), options, rotation=30 if len("".join(options)) > 20 else 0)
    # The golden ratio's multiples fill the interval evenly, however many there are.
    spread = (np.arange(len(values)) * (math.sqrt(5) - 1) / 2) % 1 * 2 - 1
    return values.map({option: place for place, option in enumerate(distribution.choices)}) + JITTER * spread


def _range(distribution: Distribution) -> str:
    """From left to right: the options, or the two ends."""
    if isinstance(distribution, CategoricalDistribution):
        options = [str(option) for option in distribution.choices]
        return text if len(text := ", ".join(options)) <= 24 else f"{options[0]} … {options[-1]}"
    return f"{distribution.low:g} to {distribution.high:g}{', log' if distribution.log else ''}"


def _percent(value: float, place: int) -> str:
    return f"{100 * value:.3g} %"
