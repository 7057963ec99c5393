"""The sections of a study's page: tables, figures, and sentences made from the numbers."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis import figures
from analysis.statistics import Standing, best_trials, compare, estimate
from analysis.words import (
    MISSING,
    UNRECORDED,
    duration,
    interval,
    label,
    percent,
    plain,
    points,
    setting,
    start,
    versus,
)

CURVES = 8  # confirmed configurations whose learning curves are drawn, the best first
COMPARISONS = 12  # of candidates and arms, drawn
LISTED = 50  # trials that failed or diverged
ENDED_BADLY = ("failed", "diverged")


@dataclass(frozen=True)
class Table:
    """Rows of text; the first `words` columns are words, the others numbers."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str
    words: int = 1

    def markdown(self) -> str:
        """The table with its columns padded, so that a terminal shows it well."""
        rows = [[plain(cell) for cell in row] for row in (self.columns, *self.rows)]
        widths = [max(len(row[k]) for row in rows) for k in range(len(self.columns))]
        rule = [("-" * w if k < self.words else "-" * (max(w, 2) - 1) + ":") for k, w in enumerate(widths)]
        rows.insert(1, rule)
        padded = [
            [
                cell.ljust(w) if k < self.words else cell.rjust(w)
                for k, (cell, w) in enumerate(zip(row, widths, strict=True))
            ]
            for row in rows
        ]
        return "\n".join(f"| {' | '.join(row)} |" for row in padded)


@dataclass(frozen=True)
class Picture:
    """A figure: its file name without the ending, the SVG, what it shows in words, and how to read it."""

    name: str
    svg: bytes
    alt: str
    caption: str

    @property
    def uri(self) -> str:
        return f"data:image/svg+xml;base64,{base64.b64encode(self.svg).decode()}"


@dataclass(frozen=True)
class Section:
    title: str
    text: Sequence[str]
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()


def sections(
    about: dict[str, Any], trials: pd.DataFrame, epochs: pd.DataFrame, standings: Sequence[Standing]
) -> list[Section]:
    """All sections in their order: about is study.json, trials and epochs are the tables."""
    return [
        _leaderboard(standings),
        _comparisons(standings),
        _curves(epochs, standings),
        _search(trials, epochs, standings),
        _cost(about, trials),
        _ended_badly(trials),
        _environment(about),
    ]


def _leaderboard(standings: Sequence[Standing]) -> Section:
    title = "Leaderboard"
    if not standings:
        return Section(title, ["No configuration has been confirmed: no test image has been predicted."])
    rows = []
    for s in standings:
        found, t = estimate((100 * s.test).tolist()), s.trials
        epochs = f"{t.best_epoch.median():.0f} of {t.max_epochs.max()}"
        minutes = f"{t.seconds.mean() / 60:.1f}"
        clean = percent(t.train_accuracy_clean.mean())
        rows.append([s.title, f"{found.mean:.2f}", interval(found), str(found.n), percent(s.score), clean,
                     epochs, minutes])  # fmt: skip
    columns = ["configuration", "test %", "95 % interval", "seeds", "validation %", "training %", "best epoch",
               "minutes a run"]  # fmt: skip
    one = [] if max(len(s.test) for s in standings) > 1 else ["There is one seed, so there are no intervals."]
    caption = (
        "Mean accuracy over seeds, with Student's t interval of the test accuracy: how far other seeds would move it, "
        "not other images. Ranked by validation accuracy, so that the test accuracy had no part in the order. "
        "Table: trials."
    )
    text = ["Each trained at full length for each seed it shows, and the test images predicted once.", *one]
    return Section(title, text, [Table(columns, rows, caption), *_hyperparameters(standings)])


def _hyperparameters(standings: Sequence[Standing]) -> list[Table]:
    """Those in which the configurations differ as a table; what they share is its caption."""
    columns = {s.title: s.trials.filter(regex="^(model$|hp_)").iloc[0] for s in standings}
    values = pd.DataFrame(columns).dropna(how="all")
    shown = {str(name).removeprefix("hp_"): [setting(v) for v in row] for name, *row in values.itertuples(name=None)}
    same = [f"{n.replace('_', ' ')} {v[0]}" for n, v in shown.items() if len(set(v)) == 1]
    rows = [[n.replace("_", " "), *v] for n, v in shown.items() if len(set(v)) > 1]
    caption = f"Hyperparameters in which they differ. Equal in all: {', '.join(same) or 'none'}. Table: trials, hp_*."
    return [Table(["hyperparameter", *values.columns], rows, caption)] if rows else []


def _comparisons(standings: Sequence[Standing]) -> Section:
    title = "Candidates against arms"
    comparisons = compare(standings)
    if not comparisons:
        return Section(title, ["Nothing to compare: no candidate and arm have a seed in common that both completed."])
    rows = []
    for pair in comparisons:
        ahead = f"{int((pair.points > 0).sum())} of {len(pair.points)}"
        rows.append(
            [versus(pair), pair.verdict, points(pair.estimate.mean), interval(pair.estimate, signed=True), ahead]
        )
    columns = ["candidate less arm", "the candidate is", "points", "95 % interval", "seeds ahead"]
    many = (
        " Each interval stands for itself: of twenty comparisons without a difference, one would still be called "
        "better or worse."
        if sum(pair.estimate.low is not None for pair in comparisons) > 1
        else ""
    )
    caption = (
        "Test accuracy of the candidate less that of the arm with the same seed, in percentage points: mean, Student's "
        f"t interval, and for how many seeds the candidate is ahead.{many} Table: trials."
    )
    table = Table(columns, rows, caption, words=2)
    seeds = [
        figures.Row(s.title, (100 * s.test).tolist(), estimate((100 * s.test).tolist()), s.ours) for s in standings
    ]
    differences = [
        figures.Row(versus(pair), pair.points.tolist(), pair.estimate, True) for pair in comparisons[:COMPARISONS]
    ]
    marks = "Dots are seeds (candidates round, arms square), the bar above them is the interval, its tick the mean."
    pictures = [
        Picture(
            "seeds",
            figures.dots(seeds, "test accuracy, %"),
            "Test accuracy of every seed: "
            + "; ".join(f"{s.title} {percent(s.test.min())} to {percent(s.test.max())} %" for s in standings),
            f"Test accuracy of every seed. {marks} Overlapping bars do not mean that there is no difference: seeds are "
            "paired, see the other figure. Table: trials.",
        ),
        Picture(
            "differences",
            figures.dots(differences, "difference, percentage points", zero=True),
            "Paired differences: " + "; ".join(f"{row[0]} {row[2]} points, {row[1]}" for row in rows),
            "Difference for every seed. Right of the dashed line the candidate is ahead; a bar that crosses the line "
            "shows no difference. Table: trials.",
        ),
    ]
    return Section(title, [], [table], pictures)


def _curves(epochs: pd.DataFrame, standings: Sequence[Standing]) -> Section:
    done = [trial for s in standings for trial in s.trials.trial_id]
    confirm = epochs[epochs.trial_id.isin(done)].assign(arm=lambda table: table.arm.fillna(table.config_id))
    pictures = []
    for place, s in enumerate(standings[:CURVES], start=1):
        last = confirm[confirm.arm == s.name].groupby("epoch")[["train_accuracy", "val_accuracy"]].mean().iloc[-1]
        alt = (
            f"{start(s.title)}: accuracy and loss by epoch; at the last epoch {percent(last.train_accuracy)} % of "
            f"the training and {percent(last.val_accuracy)} % of the validation images right."
        )
        how = (
            "Solid: validation; dashed: training, the running mean on augmented images and with dropout, so it may lie "
            "below validation. Lines are means over seeds, bands reach from the lowest seed to the highest, pale lines "
            "are the other configurations' validation. Table: epochs."
        )
        caption = f"{start(s.title)}. {how if place == 1 else 'Read as the first one; same axes.'}"
        pictures.append(
            Picture(f"curves-{place}", figures.seed_curves(confirm, s.name, s.title, ours=s.ours), alt, caption)
        )
    more = [f"The first {CURVES} of {len(standings)} configurations are drawn."] if len(standings) > CURVES else []
    return Section("Learning curves", more if pictures else ["No confirmed configuration to draw."], [], pictures)


def _search(trials: pd.DataFrame, epochs: pd.DataFrame, standings: Sequence[Standing]) -> Section:
    """The course of every search trial: candidates coloured, or where there are none yet, the best ones."""
    best, search = best_trials(trials), epochs[epochs.stage == "search"]
    if search.empty:
        return Section("The search", ["No epoch has ended."])
    of = trials[trials.stage == "search"]
    configs = {config for s in standings if s.ours for config in s.trials.config_id}
    winners = of[of.config_id.isin(configs)].trial_id.tolist() if configs else best.trial_id.tolist()
    arms = of[of.arm.notna()].trial_id.tolist()
    who = "confirmed as candidates" if configs else f"{len(best)} so far"
    how = (
        f"A line is a trial, a dot its end: blue the best ({who}), vermillion the arms. The worst tenth of the values "
        "lies outside the axes. Table: epochs, stage search."
    )
    pictures = [
        Picture(
            f"search-{name}",
            figures.search_curves(search, winners, arms, f"val_{name}"),
            f"Validation {name} by epoch of {search.trial_id.nunique()} search trials, from "
            f"{search[f'val_{name}'].min():.3f} to {search[f'val_{name}'].max():.3f}.",
            f"Validation {name} of every search trial. {how if name == 'accuracy' else 'Read as the other one.'}",
        )
        for name in ("accuracy", "loss")
    ]
    return Section("The search", [], _best_table(best), pictures)


def _best_table(best: pd.DataFrame) -> list[Table]:
    if best.empty:
        return []
    rows = []
    for _, t in best.iterrows():
        arm, epochs = t.arm if pd.notna(t.arm) else MISSING, f"{t.epochs} of {t.max_epochs}"
        rows.append([t.trial_id, label(t), arm, t.status, percent(t.val_accuracy), epochs])
    columns = ["trial", "configuration", "arm", "status", "validation %", "epochs"]
    caption = "The search's best by validation accuracy, one seed each: where the search looked, not a result."
    return [Table(columns, rows, f"{caption} Table: trials.", words=4)]


def _cost(about: dict[str, Any], trials: pd.DataFrame) -> Section:
    title = "What it cost"
    if trials.empty:
        return Section(title, ["No trial has been recorded."])
    recorded, plan = about.get("stages") or {}, about.get("plan") or {}
    stages = {
        str(stage): _took(rows, recorded.get(stage, {}), plan.get(f"{stage}_seconds"))
        for stage, rows in trials.groupby("stage")
    }
    measures = next(iter(stages.values())).keys()
    took = Table(
        ["", *stages],
        [[measure, *(stage[measure] for stage in stages.values())] for measure in measures],
        "What each stage took. Core time and busy cores are measured by the study; the time of the trials leaves out "
        "starting and waiting. Tables: trials, study.json.",
    )
    reasons = trials.assign(stop_reason=trials.stop_reason.fillna(MISSING)).groupby(["stage", "status", "stop_reason"])
    counts = reasons.size().rename("trials").reset_index().astype(str)
    ends = Table(
        ["stage", "ended", "reason", "trials"],
        counts.to_numpy().tolist(),
        "How the trials ended: completed ran all their epochs, stopped were cut by the scheduler or the time budget. "
        "Table: trials.",
        words=3,
    )
    return Section(title, _saved(trials[trials.stage == "search"]), [took, ends])


def _took(trials: pd.DataFrame, recorded: dict[str, Any], planned: float | None) -> dict[str, str]:
    """What one stage took; `recorded` is what study.json says of it, `planned` the seconds that were expected."""
    busy, passed = recorded.get("busy_share"), recorded.get("image_passes")
    speed = trials.images_per_s.median()
    return {
        "trials": f"{len(trials):,}",
        "epochs run": f"{trials.epochs.sum():,}",
        "epochs, had every trial run to its end": f"{trials.max_epochs.sum():,}",
        "time of the trials, added up": duration(trials.seconds.sum()),
        "wall time": duration(recorded.get("wall_seconds")),
        "wall time that was planned": duration(planned),
        "core time": duration(recorded.get("cpu_seconds")),
        "cores kept busy": UNRECORDED if busy is None else f"{percent(busy, 0)} %",
        "training images passed": UNRECORDED if passed is None else f"{passed:,}",
        "training images a second, median trial": f"{speed:,.0f}" if pd.notna(speed) else MISSING,
    }


def _saved(search: pd.DataFrame) -> list[str]:
    """What stopping early left out, in epochs, and in time at each trial's own pace."""
    stopped = search[(search.status == "stopped") & (search.epochs > 0)]
    left = stopped.max_epochs - stopped.epochs
    if stopped.empty:
        return ["No trial of the search was stopped early."]
    more = duration(float((left * stopped.seconds / stopped.epochs).sum()))
    whole = int(search.max_epochs.sum())
    return [
        f"{len(stopped)} of {len(search)} search trials were stopped early, which left out {left.sum():,} of {whole:,} "
        f"epochs ({percent(left.sum() / whole, 0)} %). At their own pace those would have taken {more} more, beside "
        f"the {duration(search.seconds.sum())} that the search's trials took."
    ]


def _ended_badly(trials: pd.DataFrame) -> Section:
    title = "Trials that failed or diverged"
    bad = trials[trials.status.isin(ENDED_BADLY)]
    if bad.empty:
        return Section(title, ["None."])
    rows = []
    for _, t in bad.head(LISTED).iterrows():
        why = t.error.strip().splitlines()[-1][:300] if pd.notna(t.error) and t.error.strip() else str(t.stop_reason)
        rows.append([t.trial_id, label(t), t.status, why, str(t.attempts), str(t.epochs)])
    columns = ["trial", "configuration", "status", "why", "attempts", "epochs"]
    caption = f"{len(rows)} of {len(bad)}. The whole error is in the table trials, column error."
    return Section(title, [], [Table(columns, rows, caption, words=4)])


def _environment(about: dict[str, Any]) -> Section:
    git, hardware, versions, split, plan = (
        about.get(key) or {} for key in ("git", "hardware", "versions", "split", "plan")
    )
    each = ("device", "slots", "cores", "gpus", "precision")
    said = {
        "command": shlex.join(map(str, about.get("command") or [])),
        "search space": about.get("space"),
        "created": about.get("created"),
        "ended": about.get("ended"),
        "commit": f"{git['commit']}{', with changes' if git.get('dirty') else ''}" if git.get("commit") else None,
        "hardware": ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in hardware.items() if value),
        "how trials ran": ", ".join(f"{key} {setting(plan[key])}" for key in each if key in plan),
        "split": ", ".join(f"{name} {number}" for name, number in split.items()),
        "seed": about.get("seed"),
        "versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
    }
    rows = [[name, UNRECORDED if value in (None, "") else str(value)] for name, value in said.items()]
    text = ["The numbers of this page are in tables/, with what every column means in tables/README.md."]
    return Section("Environment", text, [Table(["", ""], rows, "From study.json.", words=2)])
