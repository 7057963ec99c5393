"""What won: the leaderboard, paired differences, learning curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from analysis import figures
from analysis.blocks import Picture, Section, Table
from analysis.statistics import Comparison, Standing, estimate
from analysis.words import MISSING, interval, percent, points, setting, spread, start

SHOWN = 8  # confirmed configurations in the final comparison and with learning curves, the best first
REACHED = 0.9  # validation accuracy whose first epoch tells how fast a configuration learns
COMPARISONS = 12  # drawn


def leaderboard(epochs: pd.DataFrame, standings: Sequence[Standing], over_searches: Sequence[Table] = ()) -> Section:
    title = "Leaderboard"
    if not standings:
        return Section(title, ["No configuration has been confirmed: no test image has been predicted."])
    rows = []
    for s in standings:
        found, t = s.accuracy, s.trials
        best = f"{t.best_epoch.median():.0f} of {t.max_epochs.max()}"
        minutes = f"{t.seconds.mean() / 60:.1f}"
        seeds = f"{found.n}; {s.lost}" if s.lost else str(found.n)
        rows.append([s.title, f"{found.mean:.2f}", interval(found), seeds, percent(s.score), best, minutes])
    columns = ["configuration", "test %", "95 % interval", "seeds", "validation %", "best epoch", "minutes a run"]
    one = [] if max(len(s.test) for s in standings) > 1 else ["There is one seed, so there are no intervals."]
    caption = (
        "Mean accuracy over seeds, with Student's t interval of the test accuracy: how far other seeds would move it, "
        "not other images. Ranked by validation accuracy, so that the test accuracy had no part in the order; what has "
        "not completed every seed comes last. Validation accuracy is the best of all epochs, and so too high. "
        "Table: trials."
    )
    text = ["Each trained at full length for each seed it shows, and the test images predicted once.", *one]
    ranked = Table(columns, rows, caption)
    compared = _final_comparison(epochs, standings)
    return Section(title, text, [ranked, *over_searches, compared, *_hyperparameters(standings)])


def _final_comparison(epochs: pd.DataFrame, standings: Sequence[Standing]) -> Table:
    """What the sources' own tables compare, each measure with its interval over seeds."""
    first = epochs[epochs.val_accuracy >= REACHED].groupby("trial_id").epoch.min()
    measures: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
        "training accuracy, %": lambda t: 100 * t.train_accuracy_clean,
        "validation accuracy, %": lambda t: 100 * t.val_accuracy,
        "test accuracy, %": lambda t: 100 * t.test_accuracy,
        "training less test accuracy, points": lambda t: 100 * (t.train_accuracy_clean - t.test_accuracy),
        "test loss, nats": lambda t: t.test_loss,
        "test less training loss, nats": lambda t: t.test_loss - t.train_loss_clean,
        f"epochs to {percent(REACHED, 0)} % validation accuracy": lambda t: t.trial_id.map(first),
    }
    shown = standings[:SHOWN]
    rows = [
        [name, *(_over_seeds(measure(s.trials), name.endswith("accuracy, %")) for s in shown)]
        for name, measure in measures.items()
    ]
    more = f" The best {SHOWN} of {len(standings)} configurations." if len(standings) > SHOWN else ""
    caption = (
        "Mean over seeds and, in brackets, Student's t interval. Training accuracy and loss are those of the training "
        "images without augmentation or dropout, with the weights of the best epoch. Validation accuracy is the best "
        f"of all epochs, and so too high.{more} Tables: trials, epochs."
    )
    return Table(["", *(s.title for s in shown)], rows, caption)


def _over_seeds(values: pd.Series, accuracy: bool) -> str:
    """Mean and interval; where some seeds have no value, how many have one."""
    known = values.dropna().astype(float).tolist()
    if not known:
        return "never" if len(values) else MISSING
    found = estimate(known).within(0, 100) if accuracy else estimate(known)
    said = spread(found.mean, found.low, found.high)
    return f"{said}, {found.n} of {len(values)} seeds" if found.n < len(values) else said


def _hyperparameters(standings: Sequence[Standing]) -> list[Table]:
    """Those in which the configurations differ as a table; what they share is its caption."""
    columns = {s.title: s.trials.filter(regex="^(model$|hp_)").iloc[0] for s in standings}
    values = pd.DataFrame(columns).dropna(how="all")
    shown = {str(name).removeprefix("hp_"): [setting(v) for v in row] for name, *row in values.itertuples(name=None)}
    same = [f"{n.replace('_', ' ')} {v[0]}" for n, v in shown.items() if len(set(v)) == 1]
    rows = [[n.replace("_", " "), *v] for n, v in shown.items() if len(set(v)) > 1]
    caption = f"Hyperparameters in which they differ. Equal in all: {', '.join(same) or 'none'}. Table: trials, hp_*."
    return [Table(["hyperparameter", *values.columns], rows, caption)] if rows else []


def comparisons(standings: Sequence[Standing], pairs: Sequence[Comparison], reference: str | None) -> Section:
    title = "Paired differences"
    if not pairs:
        return Section(title, ["Nothing to compare: no two configurations have a seed in common that both completed."])
    rows = []
    for pair in pairs:
        ahead = f"{int((pair.points > 0).sum())} of {len(pair.points)}"
        rows.append([pair.title, pair.verdict, points(pair.estimate.mean), interval(pair.estimate, signed=True), ahead])
    columns = ["the first less the second", "the first is", "points", "95 % interval", "seeds ahead"]
    many = (
        " Each interval stands for itself: of twenty comparisons without a difference, one would still be called "
        "better or worse."
        if sum(pair.estimate.low is not None for pair in pairs) > 1
        else ""
    )
    arms = f", and every other arm less {reference}" if any(not pair.first.is_candidate for pair in pairs) else ""
    alone = all(pair.second.is_candidate for pair in pairs)
    what = f"a candidate less that of {'another' if alone else 'an arm'}"
    images = any(pair.estimate.images for pair in pairs)
    over = "seeds and images" if images else "seeds alone"
    caption = (
        f"Test accuracy of {what}{arms}, with the same seed, in percentage points: mean, "
        f"interval over {over}, and for how many seeds the first is ahead. Where seeds of either failed or diverged, "
        "nothing is judged: those that are left are no fair sample."
        f"{many} Table: comparisons."
    )
    table = Table(columns, rows, caption, words=2)
    seeds = [figures.Row(s.title, (100 * s.test).tolist(), s.accuracy, s.is_candidate) for s in standings]
    differences = [
        figures.Row(pair.title, pair.points.tolist(), pair.estimate, pair.first.is_candidate)
        for pair in pairs[:COMPARISONS]
    ]
    drawn = f", of the first {COMPARISONS} of {len(pairs)} pairs" if len(pairs) > COMPARISONS else ""
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
            "Paired differences: " + "; ".join(f"{row[0]} {row[2]} points, {row[1]}" for row in rows[:COMPARISONS]),
            f"Difference for every seed{drawn}. Right of the dashed line the first is ahead; a bar that crosses the "
            "line shows no difference. Table: trials.",
        ),
    ]
    return Section(title, [], [table], pictures)


def curves(epochs: pd.DataFrame, standings: Sequence[Standing]) -> Section:
    done = [trial for s in standings for trial in s.trials.trial_id]
    confirm = epochs[epochs.trial_id.isin(done)].assign(arm=lambda table: table.arm.fillna(table.config_id))
    pictures = []
    for place, s in enumerate(standings[:SHOWN], start=1):
        last = confirm[confirm.arm == s.name].groupby("epoch")[["train_accuracy", "val_accuracy"]].mean().iloc[-1]
        alt = (
            f"{start(s.title)}: accuracy and loss by epoch; at the last epoch {percent(last.train_accuracy)} % of "
            f"the training and {percent(last.val_accuracy)} % of the validation images right."
        )
        how = (
            "Solid: validation; dashed: training, the running mean on augmented images and with dropout, so it may lie "
            "below validation. Lines are means over seeds, bands reach from the lowest seed to the highest, pale lines "
            "are the other configurations' validation. The worst tenth of the values may lie outside the axes."
        )
        caption = f"{start(s.title)}. {how if place == 1 else 'Read as the first one; same axes.'} Table: epochs."
        svg = figures.seed_curves(confirm, s.name, s.title, is_candidate=s.is_candidate)
        pictures.append(Picture(f"curves-{place}", svg, alt, caption))
    more = [f"The first {SHOWN} of {len(standings)} configurations are drawn."] if len(standings) > SHOWN else []
    return Section("Learning curves", more if pictures else ["No confirmed configuration to draw."], [], pictures)
