"""What fails: kinds of errors, confusions, images that no seed gets right, slices, labels that may be wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from analysis import failures, figures, slices
from analysis.blocks import Card, Deck, Panel, Picture, Section, Table
from analysis.descriptors import DESCRIPTORS
from analysis.evidence import Evidence
from analysis.failures import ALL, CATEGORIES, EXTREMES
from analysis.rerun import Images
from analysis.slices import Slice
from analysis.statistics import Standing
from analysis.thumbnails import photo
from analysis.words import MISSING, percent, points, spread

CONFUSIONS = 12  # pairs of classes, pooled over configurations
COLUMNS = 4  # configurations in a table, the best first
SHOWN = 24  # suspected labels, and images that every network gets wrong
TITLES = {
    "confident": "confident errors (above 0.9)",
    **{name: f"{first} and {second}" for name, (first, second) in failures.PAIRS.items()},
    "similar_types": "similar types of garment",
    "low_contrast": "low contrast",
    "atypical_silhouette": "atypical silhouette",
    "unusual_texture": "unusual texture",
    "far_from_training": "far from the training images",
}


def what_fails(evidence: Evidence) -> Section:
    title = "What fails"
    if evidence.images is None:
        return Section(title, ["There are no predictions of confirmed networks to look at."])
    kinds = failures.categories(evidence.predictions, evidence.images.table)
    parts = [
        _agreement(evidence, evidence.images),
        _kinds(kinds, evidence.standings),
        _confusions(evidence),
        _slices(evidence, evidence.images),
        _suspects(evidence.images),
    ]
    return Section(title, _summary(evidence), parts=parts)


def fails_most(evidence: Evidence) -> str | None:
    """One sentence for the top of the page: where most errors of the best configuration are."""
    if evidence.images is None:
        return None
    best = evidence.standings[0]
    of = evidence.predictions[evidence.predictions.trial_id.isin(best.trials.trial_id)]
    found = failures.confusions(of).query("configuration == @best.name")
    if found.empty:
        return None
    kinds = failures.categories(of, evidence.images.table).query("configuration == @best.name")
    first, similar = found.iloc[0], kinds.set_index("name").loc["similar_types"]
    said = f"take {first.label} for {first.predicted}, the most frequent confusion"
    if len(found) > 1 and not first.low > found.high.iloc[1]:
        second = found.iloc[1]
        about = "" if second["count"] == first["count"] else "about "
        said += f", {about}as often as {second.label} for {second.predicted} ({second['count']:,})"
    networks = f"its {len(best.trials)} networks" if len(best.trials) > 1 else "its one network"
    among = f"{percent(similar.rate, 0)} % lie among the five upper-body classes or among the three kinds of shoe"
    if similar.lift > 0:
        chance = percent(similar.rate / similar.lift, 0)
        among += f"; how often each class is missed and wrongly answered would alone give {chance} %"
    return (
        f"What fails: of the {int(similar['of']):,} errors of {best.title} in {networks}, {first['count']:,} {said}. "
        f"{among}."
    )


def _summary(evidence: Evidence) -> list[str]:
    n, trials = len(evidence.failures), evidence.predictions.trial_id.nunique()
    if not n:
        return ["No confirmed network makes an error on the test images."]
    few = [s.title for s in evidence.standings if len(s.trials) == 1]
    if len(few) == len(evidence.standings):
        moved = "other images would move them. What another seed would do is not known."
    else:
        only = f", other images only for {', '.join(few)}" if few else ""
        moved = f"other seeds and other images would move them{only}; of few seeds, they are too narrow."
    return [
        f"{n:,} errors of {trials} confirmed networks on {evidence.predictions.image.nunique():,} test images. Rates "
        f"are of predictions, an image counting once for each seed; their intervals say how far {moved}"
    ]


def _agreement(evidence: Evidence, images: Images) -> Section:
    """How many networks fail on an image; of a configuration with one, that says nothing of others."""
    status = failures.by_configuration(evidence.predictions)
    rows = []
    for s in evidence.standings:
        of = status[status.configuration == s.name]
        if of.seeds.iloc[0] > 1:
            counts = of.status.value_counts()
            each = [f"{counts[n]:,} ({percent(counts[n] / len(of))} %)" for n in ("always", "sometimes", "never")]
            rows.append([s.title, str(of.seeds.iloc[0]), *each])
    wrong, networks = images.table.wrong, int(images.table.trials.iloc[0])
    if networks == 1:
        return Section("Always, sometimes, never", ["One network is confirmed: what others get wrong is not known."])
    pooled = [int(which.sum()) for which in (wrong == networks, (wrong > 0) & (wrong < networks), wrong == 0)]
    each = [f"{count:,} ({percent(count / len(wrong))} %)" for count in pooled]
    rows.append(["all of them", str(networks), *each])
    columns = ["configuration", "networks", "wrong in every one", "in some", "in none"]
    caption = (
        "Test images by how many networks of a configuration, one a seed, get them wrong; of those with two seeds or "
        "more. Table: predictions."
    )
    decks = _wrong_in_all(evidence, images, wrong.index[wrong == networks])
    return Section("Always, sometimes, never", [], [Table(columns, rows, caption)], decks=decks)


def _wrong_in_all(evidence: Evidence, images: Images, which: pd.Index) -> list[Deck]:
    of = evidence.predictions[evidence.predictions.image.isin(which)]
    sure = of.groupby("image").confidence.mean().sort_values(ascending=False, kind="stable").head(SHOWN)
    cards = []
    for image, confidence in sure.items():
        said = of.predicted[of.image == image].value_counts()
        answers = str(said.index[0])
        if said.iloc[0] < said.sum():
            answers = ", ".join(f"{answer} ({count})" for answer, count in said[said > 0].items())
        title = f"{images.table.label[image]} taken for {answers}"
        cards.append(_one(images, int(image), title, f"{percent(confidence, 0)} % sure"))
    caption = (
        f"{len(cards)} of the {len(which):,} images that every network gets wrong, the highest mean confidence first: "
        "what they were taken for; where the networks disagree, in how many of them. Table: predictions."
    )
    return [Deck("Wrong in every network", cards, caption)] if cards else []


def _one(images: Images, image: int, title: str, said: str) -> Card:
    """A card of one photo."""
    alt = f"Test image {image}, labelled {images.table.label[image]}"
    return Card(title, [Panel(photo(images.at(image)), alt, f"image {image}: {said}")])


def _kinds(kinds: pd.DataFrame, standings: Sequence[Standing]) -> Section:
    shown = standings[:COLUMNS]
    tables = []
    for title, names in (("category", [*CATEGORIES, "similar_types"]), ("pattern", list(EXTREMES))):
        of = {s.name: kinds[kinds.configuration == s.name].set_index("name") for s in shown}
        each = [[of[s.name].loc[name] for s in shown] for name in names]
        rates = [[TITLES[name], *map(_rate, row)] for name, row in zip(names, each, strict=True)]
        lifts = [[TITLES[name], *map(_lift, row)] for name, row in zip(names, each, strict=True)]
        if title == "category":
            what = "Errors of the kind, of how many errors, their share in %, and its interval."
            against = (
                "How many times as often as if the label of an error had no say in which other class it is taken for; "
                "confident errors: as often as confidence among the right predictions."
            )
        else:
            what = (
                "Errors on the fifth of each class that shows the pattern most, of how many predictions for those "
                "images, their share in %, and its interval."
            )
            against = (
                "Error rate with the pattern over that of the other images; each class is on both sides alike. "
                "Silhouette and distance are held against the class of the label: an image with a wrong label is "
                "atypical and far by that alone."
            )
        tables += [
            Table([title, *(s.title for s in shown)], rates, f"{what} Tables: failures, images."),
            Table(
                [title, *(s.title for s in shown)],
                lifts,
                f"Lift, with its interval; 1 is nothing special. {against} Tables: predictions, images.",
            ),
        ]
    more = [f"The tables show the best {COLUMNS} of {len(standings)}."] if len(standings) > COLUMNS else []
    rows = [
        (TITLES[name], [kinds[(kinds.name == name) & (kinds.configuration == s.name)].iloc[0] for s in shown])
        for name in CATEGORIES
    ]
    picture = Picture(
        "kinds",
        figures.rates(rows, [s.title for s in shown], "share of the errors"),
        "Share of the errors by category: "
        + "; ".join(f"{name} {', '.join(f'{s.title} {percent(r.rate, 1)} %' for s, r in zip(shown, of, strict=True))}"
                    for name, of in rows),
        "Share of a configuration's errors in each of the second source's six categories. Bars are 95 % intervals over "
        "images, and over seeds where there are several; two may differ although their bars overlap, for they saw the "
        "same images. Table: failures.",
    )  # fmt: skip
    return Section("Kinds of errors, and of images", more, tables, [picture])


def _rate(row: pd.Series) -> str:
    if pd.isna(row.rate):
        return MISSING
    return f"{row['count']:,} of {row['of']:,}:\n{spread(100 * row.rate, 100 * row.low, 100 * row.high, 1)}"


def _lift(row: pd.Series) -> str:
    return spread(row.lift, row.lift_low, row.lift_high)


def _confusions(evidence: Evidence) -> Section:
    found = failures.confusions(evidence.predictions)
    pooled = found[found.configuration == ALL].head(CONFUSIONS)
    rows = []
    for _, row in pooled.iterrows():
        named = TITLES[row["name"]] if pd.notna(row["name"]) else "in neither source"
        rate = spread(100 * row.rate, 100 * row.low, 100 * row.high, 1)
        rows.append([str(row.label), str(row.predicted), named, f"{row['count']:,}", rate,
                     percent(row.share_of_errors, 1), f"{row.lift:.1f}"])  # fmt: skip
    columns = ["label", "taken for", "category", "errors", "% of the label", "% of all errors", "lift"]
    caption = (
        f"The {len(rows)} most frequent of {int((found.configuration == ALL).sum())} confusions that occur, all "
        "confirmed networks together. Lift: times as often as if the label of an error had no say in which other class "
        "it is taken for. Table: predictions."
    )
    return Section("Confusions", [], [Table(columns, rows, caption, words=3)])


def _slices(evidence: Evidence, images: Images) -> Section:
    how = (
        "Rules on what the images are like (the descriptors in the table images; atypicality and neighbour distance "
        "are relative to the class of the label), found by a regression tree of depth 3 on one half of the test "
        "images, of the errors less the error rate of the class, and tested on the other: numbers are of that half, p "
        "is one-sided, after Holm, against other images of the same classes."
    )
    status = failures.by_configuration(evidence.predictions).set_index(["image", "configuration"])
    wrong = (status.seeds_wrong / status.seeds).unstack().loc[images.table.index]
    described, label = images.table[list(DESCRIPTORS)], images.table.label.cat.codes
    best = evidence.standings[0]
    tables = []
    if found := slices.find(described, wrong[best.name], label):
        rows = [_slice(s, *(percent(rate, 1) for rate in (s.rate, s.expected, s.outside))) for s in found]
        columns = ["images where", "images", "error %", "by class alone %", "elsewhere %", "p"]
        caption = (
            f"Where {best.title} errs more than the classes of the images account for: by class alone, the error rate "
            "that they would have were each like its class. Tables: predictions, images."
        )
        tables.append(Table(columns, rows, caption))
    rows = []
    compared = [pair for pair in evidence.pairs if best.name in (pair.a.name, pair.b.name)]
    ways = [way for pair in compared for way in ((pair.a, pair.b), (pair.b, pair.a))]
    for worse, than in ways:
        for s in slices.find(described, wrong[worse.name] - wrong[than.name], label):
            if (p := s.p * len(ways)) <= slices.FAMILY_ERROR:
                less = (points(100 * rate) for rate in (s.rate, s.expected, s.outside))
                rows.append([f"{worse.title} than {than.title}", *_slice(replace(s, p=p), *less)])
    if rows:
        columns = ["errs more often", "on images where", "images", "points", "by class alone", "elsewhere", "p"]
        caption = (
            "Where the first errs more often than the second, and by more than the classes of the images account for: "
            "difference in error rate, in percentage points. p is also multiplied by the number of comparisons made, "
            f"{len(ways)}. Tables: predictions, images."
        )
        tables.append(Table(columns, rows, caption, words=2))
    none = [
        f"None was confirmed: neither where {best.title} errs more than the classes account for, nor where it differs "
        "so from another configuration."
    ]
    return Section("Slices", [how, *([] if tables else none)], tables)


def _slice(s: Slice, *rates: str) -> list[str]:
    return [s.rule.replace("_", " "), f"{s.n:,}", *rates, f"{s.p:.2g}"]


def _suspects(images: Images) -> Section:
    suspects = images.table[images.table.label_suspect].sort_values("suspect_rank")
    text = [
        f"{len(suspects):,} of {len(images.table):,} test labels are suspect: confident learning on the mean "
        "probabilities of all confirmed networks takes them for errors of the label. It is a list to look at, not a "
        "verdict: what all networks get wrong for the same reason is on it too. Atypicality and distance to the "
        "training images are relative to the class of the label, and so high for such images."
    ]
    cards = [
        _one(images, int(image), f"Labelled {row.label}",
             f"the networks say {row.suggested}; {row.wrong} of {row.trials} wrong")
        for image, row in suspects.head(SHOWN).iterrows()
    ]  # fmt: skip
    caption = f"The {len(cards)} most suspect labels, the most suspect first. Table: images, suspect_rank."
    decks = [Deck("Most suspect", cards, caption)] if cards else []
    return Section("Labels that may be wrong", text, decks=decks)
