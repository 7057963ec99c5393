"""What a study cost, what went wrong, and on what it ran."""

from __future__ import annotations

import shlex
from typing import Any

import pandas as pd

from analysis.blocks import Section, Table
from analysis.words import MISSING, UNRECORDED, duration, label, percent, setting
from study.provenance import git_state

LISTED = 50  # trials that failed or diverged
ENDED_BADLY = ("failed", "diverged")


def cost(about: dict[str, Any], trials: pd.DataFrame) -> Section:
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
    return Section(title, _saved(trials[trials.stage == "search"]), [took, ends, *_stopped(trials)])


def _stopped(trials: pd.DataFrame) -> list[Table]:
    """Why trials were stopped, the latest first; no table where none was, or an older study has not kept why."""
    stopped = trials[trials.stop_epoch.notna()].sort_values(["stop_epoch", "stop_rank"], ascending=[False, True])
    if stopped.empty:
        return []
    rows = [
        [t.trial_id, label(t), str(t.stop_epoch), percent(t.stop_accuracy), percent(t.stop_threshold),
         f"{t.stop_rank} of {t.stop_trials}"]
        for t in stopped.head(LISTED).itertuples()
    ]  # fmt: skip
    caption = (
        f"Why trials were stopped: {len(rows)} of {len(stopped)}. A rung of ASHA asks for what the best third of the "
        "trials had that reached it before, the one-epoch rule for what the third of all has. Table: trials, columns "
        "stop_…"
    )
    columns = ["trial", "configuration", "in epoch", "its best validation %", "asked %", "rank"]
    return [Table(columns, rows, caption, words=2)]


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
        "processor time": duration(recorded.get("cpu_seconds")),
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


def ended_badly(trials: pd.DataFrame) -> Section:
    title = "Trials that failed or diverged"
    bad = trials[trials.status.isin(ENDED_BADLY)]
    if bad.empty:
        return Section(title, ["None."])
    rows = []
    for _, t in bad.head(LISTED).iterrows():
        why = t.error.strip().splitlines()[-1][:300] if pd.notna(t.error) and t.error.strip() else str(t.stop_reason)
        rows.append([t.trial_id, label(t), t.status, why, str(t.attempts), str(t.epochs)])
    columns = ["trial", "configuration", "status", "why", "attempts", "epochs"]
    caption = f"{len(rows)} of {len(bad)}; the last line of each error. Table: trials, column error."
    return Section(title, [], [Table(columns, rows, caption, words=4)])


def _commit(git: dict[str, Any]) -> str | None:
    return f"{git['commit']}{', with changes' if git.get('dirty') else ''}" if git.get("commit") else None


def environment(about: dict[str, Any]) -> Section:
    git, hardware, versions, split, plan = (
        about.get(key) or {} for key in ("git", "hardware", "versions", "split", "plan")
    )
    each = ("device", "slots", "cores", "gpus", "precision")
    runs = [*(about.get("earlier_runs") or []), about]
    commands = [shlex.join(map(str, run["command"])) for run in runs if run.get("command")]
    said = {
        "command": "; then ".join(commands),
        "search space": about.get("space"),
        "created": about.get("created"),
        "ended": about.get("ended"),
        "commit": _commit(git),
        "page made by commit": _commit(git_state("analysis")),
        "hardware": ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in hardware.items() if value),
        "how trials ran": ", ".join(f"{key} {setting(plan[key])}" for key in each if key in plan),
        "split": ", ".join(f"{name} {number}" for name, number in split.items()),
        "seed": about.get("seed"),
        "versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
    }
    rows = [[name, UNRECORDED if value in (None, "") else str(value)] for name, value in said.items()]
    text = ["The numbers of this page are in tables/, with what every column means in tables/README.md."]
    return Section("Environment", text, [Table(["", ""], rows, "As the study wrote it. Table: study.json.", words=2)])
