"""What the page of a study says first: what won, by how much, how sure, on what, and what is missing."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import searches
from analysis.blocks import Section
from analysis.evidence import Evidence
from analysis.measures import ACCURACY, compare
from analysis.runs import Runs
from analysis.sections import (
    calibrated,
    cost,
    data,
    deviations,
    failing,
    looking,
    results,
    scorecard,
    search,
    side_by_side,
    stressed,
)
from analysis.sections.cost import ENDED_BADLY
from analysis.sections.side_by_side import SideBySide
from analysis.statistics import Standing, best_trials, best_two, is_candidate, lost_seeds, paired
from analysis.words import label, number, percent, points, start, sure
from study.opening import recorded_space
from study.records import ENDED
from study.space_file import SpaceError

WORTH = {"status", "fidelity", "created", "command", "git", "versions", "hardware", "split", "stages"}


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
    side_by_side: SideBySide | None


def page(evidence: Evidence) -> Page:
    """The page of a study."""
    about, trials, epochs, standings = evidence.about, evidence.trials, evidence.epochs, evidence.standings
    title, facts, lede = headline(trials, standings, evidence.runs, about.get("fidelity") == "preview")
    fails = failing.fails_most(evidence)
    if about.get("fidelity") != "preview":
        lede += filter(None, [searches.sentence(searches.gains(evidence.folder, about, standings))])
        if ensembles := searches.ensembles(evidence.predictions, standings):
            lede.append(ensembles.sentence)
    return Page(
        name=str(about.get("name", evidence.folder.name)),
        preview=_preview(about, evidence.folder) if about.get("fidelity") == "preview" else None,
        title=title,
        facts=facts,
        lede=[*lede, *([fails] if fails else []), *_data(about)],
        state=[*state(about, trials, evidence.folder), *evidence.missing],
        sections=[
            scorecard.scorecard(evidence),
            *([section] if (section := deviations.deviations(evidence)) else []),
            results.leaderboard(epochs, standings, searches.table(evidence.folder, about, standings)),
            results.comparisons(standings, evidence.comparisons, evidence.reference),
            failing.what_fails(evidence),
            Section("Any two side by side", [], widget="side-by-side"),
            stressed.stressed(evidence),
            calibrated.calibrated(evidence),
            looking.where_they_look(evidence),
            search.what_mattered(evidence),
            results.curves(epochs, standings),
            search.search(trials, epochs, standings),
            data.the_images(evidence),
            cost.cost(about, trials),
            cost.ended_badly(trials),
            cost.environment(about),
        ],
        side_by_side=side_by_side.side_by_side(evidence),
    )


def headline(
    trials: pd.DataFrame, standings: Sequence[Standing], runs: Runs, preview: bool = False
) -> tuple[str, list[Fact], list[str]]:
    """Return what won, by how much, how sure: a title, its numbers, and the sentences under them.

    Of a preview the title says who is ahead, and the sentences that it proves nothing.
    """
    lost = [
        f"{name}: {said}, so nothing is said of it."
        for name, said in lost_seeds(trials).items()
        if name not in {s.name for s in standings}
    ]
    if not standings:
        title, facts, lede = _unconfirmed(trials)
        return title, facts, [*lede, *lost]
    best = best_two(standings)
    facts = [_reached(s) for s in best]
    if len(best) < 2 or not len(paired(*best)):
        right = f"{percent(best[0].test.mean())} % of the test images right"
        why = "one configuration is confirmed" if len(best) < 2 else "the two best have no seed in common"
        return f"{start(best[0].title)}: {right}", facts, [f"Nothing is compared: {why}.", *lost]
    pair = compare(runs, *best)
    found = pair.estimate
    facts.append(Fact(f"{points(found.mean)} points", f"{pair.title}, seed by seed", sure(found, pair.lost)))
    ours, theirs = (f"{'' if s.is_candidate else 'the '}{s.title}" for s in best)
    if pair.lost:
        title = f"Not judged: {pair.lost}"
    elif preview and found.n > 1:
        ahead, behind = (ours, theirs) if found.mean >= 0 else (theirs, ours)
        by = f"{abs(found.mean):.2f}"
        title = f"{start(ahead)} is ahead of {behind} by {by} points of test accuracy, in a preview"
        if by == "0.00":
            title = f"{start(ours)} and {theirs} are level in test accuracy, in a preview"
    elif pair.shown:
        by = f"{abs(found.mean):.2f} points of test accuracy"
        title = f"{start(best[0].title)} is {pair.verdict} than {theirs}, by {by}"
    elif found.n == 1:
        title = f"One seed: whether {ours} and {theirs} differ is not shown"
    else:
        title = f"No difference shown between {ours} and {theirs}"
    who = "The two best" if best[0].is_candidate == best[1].is_candidate else "The best candidate and the best arm"
    how = f"{who}, each chosen by validation accuracy: no test image had a part in that."
    if preview:
        return title, facts, [how, "A preview proves nothing: the full study may end the other way round.", *lost]
    matters = f"{number(ACCURACY)} points would matter."
    if pair.shown and found.low is not None and found.high is not None:
        beyond = min(abs(found.low), abs(found.high)) > ACCURACY
        matters = f"{matters[:-1]}, {'and it is more' if beyond else 'and a difference below that is not excluded'}."
    return title, facts, [how, matters, *lost]


def _unconfirmed(trials: pd.DataFrame) -> tuple[str, list[Fact], list[str]]:
    best = best_trials(trials)
    if best.empty:
        return "Nothing to compare yet", [], ["No trial of the search has ended an epoch."]
    first = best.iloc[0]
    what = f"validation accuracy, the best of the search so far: {label(first)}"
    how = f"{first.trial_id}, {first.epochs} of {first.max_epochs} epochs"
    facts = [Fact(f"{percent(first.val_accuracy)} %", what, how)]
    lede = ["One seed, measured on the images it was chosen by: too high by an unknown amount, and no comparison."]
    return "Nothing confirmed yet", facts, lede


def state(about: dict[str, Any], trials: pd.DataFrame, folder: Path) -> list[str]:
    """Whether the study is whole, and what is missing."""
    status = about.get("status", "unknown")
    said = [{"finished": "The study is finished."}.get(status, f"The study is not finished (status: {status}).")]
    budget = {"trials": None, "candidates": 0, "seeds": 0, **(about.get("budget") or {})}
    of_confirm = (budget["candidates"] + len(about.get("arms") or [])) * budget["seeds"]
    for stage, planned in (("search", budget["trials"]), ("confirm", of_confirm)):
        of = trials[trials.stage == stage]
        ended = int(of.status.isin(ENDED).sum())
        if status != "finished":
            said.append(f"{start(stage)}: {ended} trials have ended{f', {planned} were planned' if planned else ''}.")
        elif ended < len(of):
            said.append(f"{start(stage)}: {len(of) - ended} trials have not ended.")
    bad = trials[trials.status.isin(ENDED_BADLY)].groupby("status", observed=True).size()
    said += [f"{count} {'trial' if count == 1 else 'trials'} {name}: listed below." for name, count in bad.items()]
    candidates = sum(map(is_candidate, trials[trials.stage == "confirm"].arm.dropna().unique()))
    if candidates > budget["candidates"] > 0:
        said.append(
            f"Of {candidates} candidates some were the best before the search was extended: {budget['candidates']} are."
        )
    where = [] if folder.parent == Path("results") else ["--results", str(folder.parent)]
    if status == "finished" and candidates < budget["candidates"]:
        more = shlex.join(["--extend", folder.name, "--trials", "N", *where])
        why = (
            "the space has no others."
            if _exhausted(about, folder)
            else "too few searched configurations ended an epoch. To search more: python -m study.run " + more
        )
        said.append(f"{candidates} of {budget['candidates']} candidates: {why}")
    if status in ("interrupted", "running"):
        when = "Go on with" if status == "interrupted" else "If it does not run any more, go on with"
        said.append(f"{when}: {shlex.join(['python', '-m', 'study.run', '--resume', folder.name, *where])}")
    if unsaid := sorted(WORTH - about.keys()):
        said.append(f"study.json does not say: {', '.join(unsaid)}.")
    return said


def _exhausted(about: dict[str, Any], folder: Path) -> bool:
    """Whether the search has tried every configuration of its space."""
    try:
        return bool(about["budget"]["trials"] >= recorded_space(folder, about).most_trials)
    except (SpaceError, KeyError, TypeError, ValueError):
        return False


def _preview(about: dict[str, Any], folder: Path) -> str:
    """What the preview has less of, by its space and its budget."""
    try:
        less = recorded_space(folder, about).reductions()
    except (SpaceError, KeyError, TypeError, ValueError):
        less = []
    return f"PREVIEW: {', '.join(less) or 'less than the full study'}. Not evidence about the full thing."


def _data(about: dict[str, Any]) -> list[str]:
    split = about.get("split") or {}
    if not {"train", "validation", "test"} <= split.keys():
        return []
    train, validation, test = (f"{split[name]:,}" for name in ("train", "validation", "test"))
    return [f"Fashion-MNIST: {train} images to train on, {validation} to validate, {test} to test."]


def _reached(standing: Standing) -> Fact:
    found = standing.accuracy
    what = f"test accuracy, {standing.title}: {label(standing.trials.iloc[0])}"
    return Fact(f"{found.mean:.2f} %", what, sure(found, standing.lost))
