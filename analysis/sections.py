"""What the page of a study says: its sections, and the sentences that are made from the numbers."""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import figures
from analysis.statistics import Comparison, Estimate, Standing, compare, confirmed, estimate
from study.records import ENDED

CURVES = 8  # confirmed configurations whose learning curves are drawn, the best first
COMPARISONS = 12  # of candidates and arms, drawn
BEST = 5  # trials of the search that are listed
ENDED_BADLY = ("failed", "diverged")
NONE = "–"
WORTH = {"status", "fidelity", "created", "command", "git", "versions", "hardware", "split", "stages"}
PREVIEW = "PREVIEW: fewer images, epochs, trials, seeds. Not evidence about the full thing."


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


def plain(text: str) -> str:
    """Text that Markdown takes as text: one line, no cell borders, no HTML."""
    return re.sub(r"([|<`])", r"\\\1", " ".join(str(text).split()))


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


@dataclass(frozen=True)
class Fact:
    """A number in large letters, what it is of, and how sure it is."""

    value: str
    what: str
    sure: str


@dataclass(frozen=True)
class Page:
    """All that the templates show; `state` says whether the study is whole, and what is missing."""

    name: str
    preview: str | None
    title: str
    facts: Sequence[Fact]
    lede: Sequence[str]
    state: Sequence[str]
    sections: Sequence[Section]


def page(about: dict[str, Any], trials: pd.DataFrame, epochs: pd.DataFrame, folder: Path) -> Page:
    """The page of the study in `folder`: about is its study.json, trials and epochs are its tables."""
    standings = confirmed(trials)
    title, facts, lede = headline(trials, standings)
    return Page(
        name=str(about.get("name", folder.name)),
        preview=PREVIEW if about.get("fidelity") == "preview" else None,
        title=title,
        facts=facts,
        lede=[*lede, *_data(about)],
        state=state(about, trials, folder),
        sections=[
            _leaderboard(standings),
            _comparisons(standings),
            _curves(epochs, standings),
            _search(trials, epochs, standings),
            _cost(about, trials),
            _ended_badly(trials),
            _environment(about),
        ],
    )


def headline(trials: pd.DataFrame, standings: Sequence[Standing]) -> tuple[str, list[Fact], list[str]]:
    """What won, by how much, how sure: a title, its numbers, and the sentences under them."""
    if not standings:
        return _unconfirmed(trials)
    best = [s for ours in (True, False) if (s := next((s for s in standings if s.ours is ours), None))]
    facts = [_reached(s) for s in best]
    pair = next(iter(compare(best)), None)
    if pair is None:
        right = f"{_percent(best[0].test.mean())} % of the test images right"
        lede = ["No candidate and arm have completed the same seed, so nothing is compared."]
        return f"{_start(best[0].title)}: {right}", facts, lede
    found = pair.estimate
    facts.append(Fact(f"{_points(found.mean)} points", "the candidate less the arm, seed by seed", _sure(found)))
    names = f"{pair.ours.title} and the {pair.theirs.title}"
    if found.shown:
        by = f"{abs(found.mean):.2f} points of test accuracy"
        title = f"{_start(pair.ours.title)} is {pair.verdict} than the {pair.theirs.title}, by {by}"
    elif found.n == 1:
        title = f"One seed: whether {names} differ is not shown"
    else:
        title = f"No difference shown between {names}"
    how = "The best candidate and the best arm, each chosen by validation accuracy: no test image had a part in that."
    return title, facts, [how]


def _unconfirmed(trials: pd.DataFrame) -> tuple[str, list[Fact], list[str]]:
    best = _best(trials)
    if best.empty:
        return "Nothing to compare yet", [], ["No trial of the search has ended an epoch."]
    first = next(best.itertuples())
    what = f"validation accuracy, the best of the search so far: {_label(first)}"
    facts = [
        Fact(
            f"{_percent(first.val_accuracy)} %", what, f"{first.trial_id}, {first.epochs} of {first.max_epochs} epochs"
        )
    ]
    lede = ["One seed, measured on the images it was chosen by: too high by an unknown amount, and no comparison."]
    return "Nothing confirmed yet", facts, lede


def state(about: dict[str, Any], trials: pd.DataFrame, folder: Path) -> list[str]:
    """Whether the study is whole, and what is missing."""
    status = about.get("status", "unknown")
    said = [{"finished": "The study is finished."}.get(status, f"The study is not finished (status: {status}).")]
    budget = about.get("budget", {})
    arms = about.get("arms", [])
    planned = {
        "search": budget.get("trials"),
        "confirm": (budget["candidates"] + len(arms)) * budget["seeds"]
        if {"candidates", "seeds"} <= budget.keys()
        else None,
    }
    for stage, number in planned.items():
        of = trials[trials.stage == stage]
        ended = int(of.status.isin(ENDED).sum())
        if status != "finished":
            said.append(f"{_start(stage)}: {ended} trials have ended{f', {number} were planned' if number else ''}.")
        elif ended < len(of):
            said.append(f"{_start(stage)}: {len(of) - ended} trials have not ended.")
    bad = trials[trials.status.isin(ENDED_BADLY)].groupby("status", observed=True).size()
    said += [f"{count} {'trial' if count == 1 else 'trials'} {name}: listed below." for name, count in bad.items()]
    if status == "interrupted":
        where = [] if folder.parent == Path("results") else ["--results", str(folder.parent)]
        said.append(f"Go on with: {shlex.join(['python', '-m', 'study.run', '--resume', folder.name, *where])}")
    if unsaid := sorted(WORTH - about.keys()):
        said.append(f"study.json does not say: {', '.join(unsaid)}.")
    return said


def _data(about: dict[str, Any]) -> list[str]:
    split = about.get("split", {})
    if not {"train", "validation", "test"} <= split.keys():
        return []
    train, validation, test = (f"{split[name]:,}" for name in ("train", "validation", "test"))
    return [f"Fashion-MNIST: {train} images to train on, {validation} to validate, {test} to test."]


# --- the sections ---------------------------------------------------------------------------------------------------


def _leaderboard(standings: Sequence[Standing]) -> Section:
    title = "Leaderboard"
    if not standings:
        return Section(title, ["No configuration has been confirmed: no test image has been predicted."])
    rows = []
    for s in standings:
        found, t = estimate((100 * s.test).tolist()), s.trials
        epochs = f"{t.best_epoch.median():.0f} of {t.max_epochs.max()}"
        minutes = f"{t.seconds.mean() / 60:.1f}"
        clean = _percent(t.train_accuracy_clean.mean())
        rows.append([s.title, f"{found.mean:.2f}", _range(found), str(found.n), _percent(s.score), clean,
                     epochs, minutes])  # fmt: skip
    columns = ["configuration", "test %", "95 % interval", "seeds", "validation %", "training %", "best epoch",
               "minutes a run"]  # fmt: skip
    one = [] if max(len(s.test) for s in standings) > 1 else ["There is one seed, so there are no intervals."]
    caption = (
        "Mean accuracy over seeds, with Student's t interval of the test accuracy: how far other seeds would move it, "
        "not other images. Ranked by validation accuracy, so that the test accuracy had no part in the order. "
        "Table: trials."
    )
    text = ["Each configuration trained in full with every seed, and the test images predicted once.", *one]
    return Section(title, text, [Table(columns, rows, caption), *_hyperparameters(standings)])


def _hyperparameters(standings: Sequence[Standing]) -> list[Table]:
    """Those in which the configurations differ as a table; what they share is its caption."""
    values = pd.DataFrame({s.title: s.trials.filter(regex="^(model$|hp_)").iloc[0] for s in standings}).dropna(
        how="all"
    )
    shown = {str(name).removeprefix("hp_"): [_value(v) for v in row] for name, *row in values.itertuples(name=None)}
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
            [_names(pair), pair.verdict, _points(pair.estimate.mean), _range(pair.estimate, signed=True), ahead]
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
        figures.Row(_names(pair), pair.points.tolist(), pair.estimate, True) for pair in comparisons[:COMPARISONS]
    ]
    marks = "Dots are seeds (candidates round, arms square), the bar above them is the interval, its tick the mean."
    pictures = [
        Picture(
            "seeds",
            figures.dots(seeds, "test accuracy, %"),
            "Test accuracy of every seed: "
            + "; ".join(f"{s.title} {_percent(s.test.min())} to {_percent(s.test.max())} %" for s in standings),
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
            f"{_start(s.title)}: accuracy and loss by epoch; at the last epoch {_percent(last.train_accuracy)} % of "
            f"the training and {_percent(last.val_accuracy)} % of the validation images right."
        )
        how = (
            "Solid: validation; dashed: training, the running mean on augmented images and with dropout, so it may lie "
            "below validation. Lines are means over seeds, bands reach from the lowest seed to the highest, pale lines "
            "are the other configurations' validation. Table: epochs."
        )
        caption = f"{_start(s.title)}. {how if place == 1 else 'Read as the first one; same axes.'}"
        pictures.append(
            Picture(f"curves-{place}", figures.seed_curves(confirm, s.name, s.title, ours=s.ours), alt, caption)
        )
    more = (
        [f"Curves of the first {CURVES} of {len(standings)} configurations are drawn."]
        if len(standings) > CURVES
        else []
    )
    return Section("Learning curves", more if pictures else ["No confirmed configuration to draw."], [], pictures)


def _search(trials: pd.DataFrame, epochs: pd.DataFrame, standings: Sequence[Standing]) -> Section:
    """The course of every search trial: candidates coloured, or where there are none yet, the best ones."""
    best, search = _best(trials), epochs[epochs.stage == "search"]
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


def _best(trials: pd.DataFrame) -> pd.DataFrame:
    """The search's best trials by validation accuracy, however they ended."""
    search = trials[(trials.stage == "search") & trials.val_accuracy.notna()]
    return search.sort_values(["val_accuracy", "trial_id"], ascending=[False, True]).head(BEST)


def _best_table(best: pd.DataFrame) -> list[Table]:
    if best.empty:
        return []
    rows = [
        [
            t.trial_id,
            _label(t),
            t.arm if pd.notna(t.arm) else NONE,
            t.status,
            _percent(t.val_accuracy),
            f"{t.epochs} of {t.max_epochs}",
        ]
        for t in best.itertuples()
    ]
    columns = ["trial", "configuration", "arm", "status", "validation %", "epochs"]
    caption = "The search's best by validation accuracy, one seed each: where the search looked, not a result."
    return [Table(columns, rows, f"{caption} Table: trials.", words=4)]


def _cost(about: dict[str, Any], trials: pd.DataFrame) -> Section:
    by_stage = {str(stage): rows for stage, rows in trials.groupby("stage", observed=True)}
    took = about.get("stages", {})
    measures: dict[str, list[str]] = {}
    for stage, rows in by_stage.items():
        said = took.get(stage, {})
        for name, value in {
            "trials": f"{len(rows):,}",
            "epochs run": f"{rows.epochs.sum():,}",
            "epochs, had every trial run to its end": f"{rows.max_epochs.sum():,}",
            "time of the trials, added up": _time(rows.seconds.sum()),
            "wall time": _time(said.get("wall_seconds")),
            "core time": _time(said.get("cpu_seconds")),
            "cores kept busy": f"{said['busy_share']:.0%}".replace("%", " %")
            if "busy_share" in said
            else "not recorded",
            "training images passed": f"{said['image_passes']:,}" if "image_passes" in said else "not recorded",
            "training images a second, median trial": _number(rows.images_per_s.median()),
        }.items():
            measures.setdefault(name, []).append(value)
    took_table = Table(
        ["", *by_stage], [[name, *values] for name, values in measures.items()],
        "What each stage took. Core time and busy cores are measured by the study; the time of the trials leaves out "
        "starting and waiting. Tables: trials, study.json.",
    )  # fmt: skip
    counts = trials.assign(stop_reason=trials.stop_reason.fillna(NONE)).groupby(
        ["stage", "status", "stop_reason"], observed=True
    )
    ends = Table(
        ["stage", "ended", "reason", "trials"], [[*map(str, key), f"{count:,}"] for key, count in counts.size().items()],
        "How the trials ended: completed ran all their epochs, stopped were cut by the scheduler or the time budget. "
        "Table: trials.", words=3,
    )  # fmt: skip
    if trials.empty:
        return Section("What it cost", ["No trial has been recorded."])
    return Section("What it cost", _saved(trials[trials.stage == "search"]), [took_table, ends])


def _saved(search: pd.DataFrame) -> list[str]:
    """What stopping early left out, in epochs, and in time at each trial's own pace."""
    stopped = search[(search.status == "stopped") & (search.epochs > 0)]
    left = stopped.max_epochs - stopped.epochs
    if stopped.empty:
        return ["No trial of the search was stopped early."]
    more = _time(float((left * stopped.seconds / stopped.epochs).sum()))
    whole = int(search.max_epochs.sum())
    return [
        f"{len(stopped)} of {len(search)} search trials were stopped early, which left out {left.sum():,} of {whole:,} "
        f"epochs ({_share(left.sum() / whole)}). At their own pace those would have taken {more} more, beside the "
        f"{_time(search.seconds.sum())} that the search's trials took."
    ]


def _ended_badly(trials: pd.DataFrame) -> Section:
    title = "Trials that failed or diverged"
    bad = trials[trials.status.isin(ENDED_BADLY)]
    if bad.empty:
        return Section(title, ["None."])
    rows = [
        [
            t.trial_id,
            _label(t),
            t.status,
            _last_line(t.error) if pd.notna(t.error) else str(t.stop_reason),
            str(t.attempts),
            str(t.epochs),
        ]
        for t in bad.itertuples()
    ]
    caption = "The whole error is in the table trials, column error."
    return Section(
        title, [], [Table(["trial", "configuration", "status", "why", "attempts", "epochs"], rows, caption, words=4)]
    )


def _environment(about: dict[str, Any]) -> Section:
    git, hardware, split = (about.get(key, {}) for key in ("git", "hardware", "split"))
    gpus = ", ".join(map(str, hardware.get("gpus", []))) or "no GPU"
    memory = f"{hardware['memory_gib']:.0f} GiB" if "memory_gib" in hardware else NONE
    said = {
        "command": shlex.join(map(str, about["command"])) if "command" in about else None,
        "search space": about.get("space"),
        "created": about.get("created"),
        "ended": about.get("ended"),
        "commit": f"{git['commit']}{', with changes' if git.get('dirty') else ''}" if git.get("commit") else None,
        "hardware": f"{hardware.get('cpu', NONE)}, {hardware.get('cores', NONE)} cores, {memory}, {gpus}"
        if hardware
        else None,
        "split": ", ".join(f"{name} {number}" for name, number in split.items()) or None,
        "seed": about.get("seed"),
        "versions": ", ".join(f"{name} {number}" for name, number in about.get("versions", {}).items()) or None,
        **{
            f"plan for {model}": ", ".join(f"{name.replace('_', ' ')} {_value(v)}" for name, v in plan.items())
            for model, plan in about.get("plan", {}).items()
            if isinstance(plan, dict)
        },
    }
    rows = [[name, str(value) if value is not None else "not recorded"] for name, value in said.items()]
    text = ["The numbers of this page are in tables/, with what every column means in tables/README.md."]
    return Section("Environment", text, [Table(["", ""], rows, "From study.json.", words=2)])


# --- numbers in words -----------------------------------------------------------------------------------------------


def _reached(standing: Standing) -> Fact:
    found = estimate((100 * standing.test).tolist())
    what = f"test accuracy, {standing.title}: {_label(standing.trials.iloc[0])}"
    return Fact(f"{found.mean:.2f} %", what, _sure(found))


def _names(pair: Comparison) -> str:
    return f"{pair.ours.title} − {pair.theirs.name}"


def _sure(found: Estimate) -> str:
    """The interval and the number of seeds, or why there is no interval."""
    if found.n == 1:
        return "one seed, so no interval"
    if found.low is None:
        return f"{found.n} seeds, all equal, so no interval"
    return f"95 % interval {_range(found, signed=found.low < 0)}, {found.n} seeds"


def _range(found: Estimate, *, signed: bool = False) -> str:
    if found.low is None or found.high is None:
        return NONE
    return f"{_points(found.low)} to {_points(found.high)}" if signed else f"{found.low:.2f} to {found.high:.2f}"


def _points(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def _share(share: float) -> str:
    return f"{100 * share:.0f} %"


def _label(trial: Any) -> str:
    return f"{trial.model} {trial.hp_optimizer} lr={trial.hp_lr:.2g}"


def _value(value: Any) -> str:
    if pd.isna(value):
        return NONE
    if isinstance(value, bool) or str(value) in ("True", "False"):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _number(value: float) -> str:
    return f"{value:,.0f}" if pd.notna(value) else NONE


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "not recorded"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1][:300]


def _start(text: str) -> str:
    return text[:1].upper() + text[1:]
