"""How the search went: the course of its trials, and what mattered in it."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis import figures, figures_search, importance
from analysis.blocks import Picture, Section, Table
from analysis.evidence import Evidence
from analysis.importance import Compared
from analysis.statistics import Standing, best_trials
from analysis.words import MISSING, label, percent


def search(trials: pd.DataFrame, epochs: pd.DataFrame, standings: Sequence[Standing]) -> Section:
    """The course of every search trial: candidates coloured, or where there are none yet, the best ones."""
    best, search = best_trials(trials), epochs[epochs.stage == "search"]
    if search.empty:
        return Section("The search", ["No epoch has ended."])
    of = trials[trials.stage == "search"]
    configs = {config for s in standings if s.is_candidate for config in s.trials.config_id}
    winners = of[of.config_id.isin(configs)].trial_id.tolist() if configs else best.trial_id.tolist()
    arms = of[of.arm.notna()].trial_id.tolist()
    who = "confirmed as candidates" if configs else f"{len(best)} so far"
    how = (
        f"A line is a trial, a dot its end: blue the best ({who}), vermillion the arms. The worst tenth of the values "
        "lies outside the axes. Table: epochs, stage search."
    )
    other = "Read as the other one. Table: epochs, stage search."
    pictures = [
        Picture(
            f"search-{name}",
            figures.search_curves(search, winners, arms, f"val_{name}"),
            f"Validation {name} by epoch of {search.trial_id.nunique()} search trials, from "
            f"{search[f'val_{name}'].min():.3f} to {search[f'val_{name}'].max():.3f}.",
            f"Validation {name} of every search trial. {how if name == 'accuracy' else other}",
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


def what_mattered(evidence: Evidence) -> Section:
    """Which hyperparameters mattered most, whether the ranges were wide enough, what the cost bought."""
    title, compared = "What mattered in the search", evidence.compared
    if compared is None:
        return Section(title, ["No trial of the search can be compared."])
    n, arms = len(compared.trials), int(compared.trials.arm.notna().sum())
    late = " What pays late, as augmentation and schedules may, is underrated."
    among = f", {arms} of them {'an arm' if arms == 1 else 'arms'}," if arms else ""
    text = [
        f"{n} of the search's {compared.searched} trials{among} are compared, by "
        f"their best validation accuracy up to epoch {compared.epoch} of {compared.length}, which they reached (a "
        "diverged one counts as the worst of them); at their own last epochs, what ran longest would seem to matter "
        f"most.{late if compared.epoch < compared.length else ''} One seed each, and what was tried follows the "
        "search's own choices: a description, not an experiment."
    ]
    shares = evidence.importance
    tables = [_importance_table(shares)] if len(shares) else []
    if shares.empty:
        text.append(
            f"Which hyperparameter mattered is not shown: it takes {importance.MIN_TRIALS} trials that differ, and two "
            "hyperparameters that they have in common and that vary."
        )
    elif missing := [name for name in compared.parameters if name not in set(shares.hyperparameter)]:
        text.append(f"Not assessed, for too few trials have them: {', '.join(missing)}.")
    pictures = [
        Picture(
            f"importance-{place}",
            figures_search.importance(rows),
            f"Importance, {scope}: "
            + "; ".join(f"{r.hyperparameter} {percent(r.value, 0)} % by {r.method}" for r in rows.itertuples()),
            f"Relative importance among the hyperparameters of {scope}, up to epoch {compared.epoch}. Bars are 95 % "
            "bootstrap intervals over trials; where they overlap, which mattered more is not shown. By chance alone "
            f"the largest share is {_by_chance(rows)}. Table: importance.",
        )
        for place, (scope, rows) in enumerate(shares.groupby("scope", sort=False), start=1)
    ]
    pictures += _compared_pictures(compared)
    wide = importance.edges(compared)
    if len(wide):
        tables.append(_edges_table(wide))
        for row in wide[wide.widen.notna()].itertuples():
            edge = "lower" if row.widen == "below" else "upper"
            text.append(
                f"{row.hyperparameter}: the median of the best fifth of {row.trials} trials lies at the {edge} edge of "
                "its range; a wider one may hold better."
            )
    else:
        text.append(
            "Whether the ranges were wide enough is not shown: it takes a searched number, and "
            f"{importance.MIN_FOR_EDGES} trials that have it and ran to their end."
        )
    ranks = importance.rank_correlation(evidence.trials, evidence.epochs)
    if ranks.empty:
        text.append(
            f"How well early epochs foretold the end is not shown: it takes {importance.MIN_RANKED} trials that ran to "
            "their end and differ."
        )
    return Section(title, text, tables, [*pictures, *_course_pictures(evidence, ranks)])


def _by_chance(shares: pd.DataFrame) -> str:
    largest = shares.groupby("method", sort=False).by_chance.first()
    return ", ".join(f"{percent(share, 0)} % ({method})" for method, share in largest.items())


def _importance_table(shares: pd.DataFrame) -> Table:
    rows = [
        [row.scope, row.hyperparameter, row.method, percent(row.value, 0),
         f"{percent(row.low, 0)} to {percent(row.high, 0)}", percent(row.by_chance, 0), str(row.trials)]
        for row in shares.itertuples()
    ]  # fmt: skip
    caption = (
        f"Relative importance among the hyperparameters of the space, up to epoch {shares.epoch.iloc[0]}: shares of "
        "100 % in each scope and method, which do not say whether any matters. PED-ANOVA asks what sets the best tenth "
        "apart, fANOVA what explains the variance. By chance: the largest share that any has once the accuracies are "
        "shuffled among the trials, median of 20 times; a smaller one shows nothing. Table: importance."
    )
    columns = ["scope", "hyperparameter", "method", "share %", "95 % interval", "by chance %", "trials"]
    return Table(columns, rows, caption, words=3)


def _edges_table(wide: pd.DataFrame) -> Table:
    rows = [
        [row.hyperparameter, f"{row.low:.3g}", f"{row.high:.3g}", f"{row.best:.3g}", percent(row.best_position, 0),
         percent(row.top_position, 0), row.widen if pd.notna(row.widen) else MISSING, str(row.trials)]
        for row in wide.itertuples()
    ]  # fmt: skip
    columns = ["hyperparameter", "low", "high", "best", "best at %", "best fifth at %", "widen", "trials"]
    caption = (
        "Of the trials that ran to their end, by the best of all their epochs: where the best one, and the median of "
        "the best fifth (three at least), lie in the range searched; 0 % is its lower end, 100 % its upper, on the "
        "scale searched. Table: trials."
    )
    return Table(columns, rows, caption)


def _compared_pictures(compared: Compared) -> list[Picture]:
    if compared.parameters.empty or not len(compared.parameters.columns):
        return []
    best = compared.trials.val_accuracy.idxmax()
    return [
        Picture(
            "slices",
            figures_search.slices(compared),
            f"Validation accuracy against each of {len(compared.parameters.columns)} hyperparameters; the best trial "
            f"up to epoch {compared.epoch} is {best} with {percent(compared.trials.val_accuracy.max())} %.",
            f"Each panel shows the {len(compared.trials)} trials, up to epoch {compared.epoch}, against one "
            "hyperparameter on the scale searched: blue the best three, vermillion the arms. The worst tenth may lie "
            "below the panels. A slope shows what went with accuracy, not what caused it. Table: trials.",
        ),
        Picture(
            "parallel",
            figures_search.parallel_coordinates(compared),
            f"One line a trial through its hyperparameters; the darkest is {best}.",
            "One line a trial, from its first hyperparameter down to its last; the darker, the better, the best on "
            "top. Gaps are hyperparameters that do not apply. Of more than 200 trials, every k-th by rank is drawn. "
            "Table: trials.",
        ),
    ]


def _course_pictures(evidence: Evidence, ranks: pd.DataFrame) -> list[Picture]:
    course = importance.best_so_far(evidence.trials)
    pictures = []
    if course.best.notna().any():
        last = course.iloc[-1]
        first = course[course.best == last.best].iloc[0]
        pictures.append(
            Picture(
                "best-so-far",
                figures_search.best_so_far(course),
                f"Best validation accuracy so far: {percent(last.best)} % after {int(last.epochs)} epochs of all "
                f"trials together, reached by {first.trial_id}.",
                f"How the search's best grew with what it cost. The last gain came from {first.trial_id}, with "
                f"{int(first.epochs)} of {int(last.epochs)} epochs spent. Trials count in the order of their starts. "
                "Table: trials.",
            )
        )
    if len(ranks):
        first = ranks.iloc[0]
        cut = ((evidence.trials.stage == "search") & (evidence.trials.status == "stopped")).any()
        chosen = ": those were chosen for being good, so over all trials it may have been higher" if cut else ""
        pictures.append(
            Picture(
                "early-epochs",
                figures_search.rank_correlation(ranks),
                f"Rank correlation of validation accuracy at an epoch with the best in the end: "
                f"{first.correlation:.2f} at epoch {int(first.epoch)}, over {int(first.trials)} trials.",
                f"How well the order at an epoch foretold the order in the end, among the {int(first.trials)} trials "
                f"that ran to their end{chosen}. Bars are 95 % intervals; an epoch in the very order of the end has "
                "none and is left out. Tables: trials, epochs.",
            )
        )
    return pictures
