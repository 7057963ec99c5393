"""What the benchmarks make of their measurements: a long run must not fail at its end."""

from __future__ import annotations

import math
import re

import accuracy
import allocator
import amounts
import intervals
import numpy as np
import overhead
import pandas as pd
import pytest
import rungs
import searching
import training
from searching import Course
from table import ALL, page

from analysis.corruptions import CORRUPTIONS


def course(*accuracy: float) -> Course:
    return Course(np.array(accuracy), np.full(len(accuracy), 10.0))


def test_the_cost_of_a_try_and_of_trying_until_it_is_found() -> None:
    assert searching.cost(course(0.8, 0.9, 0.7), 0.9) == (20, True)
    assert searching.cost(course(0.8, 0.9), 0.95) == (20, False)
    assert searching.until_found([(20, True), (40, False)]) == 60  # 40 + 20, or 20, or 40 + 40 + 20, …
    assert searching.until_found([(20, False)]) == math.inf


def test_one_epoch_each_and_the_best_three_to_the_end() -> None:
    trials = [course(0.1, 0.9), course(0.5, 0.6), course(0.4, 0.5), course(0.3, 0.4)]
    assert searching.one_epoch(trials).accuracy.tolist() == [0.1, 0.5, 0.4, 0.3, 0.6, 0.5, 0.4]


def test_asha_stops_what_is_worse() -> None:
    trials = [course(*np.linspace(start, start + 0.1, 12)) for start in (0.8, 0.7, 0.6, 0.5)]
    found = searching.by_asha(trials)
    assert found.accuracy[:12].tolist() == trials[0].accuracy.tolist()
    assert found.accuracy[12:].tolist() == [0.7, 0.6, 0.5]


def test_a_row_for_each_kind_that_enough_trials_have() -> None:
    columns = ["trial_id", "epoch", "val_accuracy", "core_seconds", "kind"]
    rows = [
        (f"s{k:04}", epoch, 0.5 + 0.01 * k + (0.3 if k < 10 and epoch > 8 else 0), 30.0, kind)
        for k in range(20)
        for epoch in range(1, 13)
        for kind in ("schedule late" if k < 10 else "schedule early", "flip 0" if k < 3 else "flip above 0")
    ]
    found = rungs.summary(pd.DataFrame(rows, columns=columns)).set_index("kind")
    assert found.trials.to_dict() == {"schedule late": 10, "flip above 0": 17, "schedule early": 10}
    # Of 20 places they have 0 to 9 at first, and 10 to 19 in the end: (4.5 - 14.5) / 19.
    assert found.loc["schedule late", ["after 1", "after 9"]].tolist() == [
        "τ 1.00, -53 (-53 to -53)",
        "τ 1.00, +0 (+0 to +0)",
    ]


def test_what_rules_miss_of_trials_that_turn_round_halfway(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the sixth of 12 epochs the order is the reverse of that in the end, where accuracies are 0.5 to 0.68."""
    monkeypatch.setattr(rungs, "ORDERS", 3)
    monkeypatch.setattr(rungs, "ROUND", 10)
    rows = [
        (f"s{k}", epoch, 0.5 + 0.02 * k if epoch > 5 else 0.4 - 0.02 * k, 30.0, "all")
        for k in range(10)
        for epoch in range(1, 13)
    ]
    columns = ["trial_id", "epoch", "val_accuracy", "core_seconds", "kind"]
    found = rungs.missed(pd.DataFrame(rows, columns=columns)).set_index("rule")
    assert found.loc["one epoch"].tolist() == pytest.approx([10 + 3 * 11, 2 * 7]), "it keeps the three that end last"
    assert found["points missed"]["ASHA from epoch 6"] == pytest.approx(0)
    assert found["points missed"]["ASHA from epoch 4"] > 0
    assert found.epochs["ASHA from epoch 1"] < found.epochs["ASHA from epoch 4"] < found.epochs["ASHA from epoch 6"]


@pytest.mark.parametrize("hits", [48, 3, 0])
def test_searches_are_summed_up_whoever_finds_it(hits: int) -> None:
    def epochs(search: str, trial: int, best: float) -> list[tuple[str, str, int, float, float]]:
        return [(search, f"s{trial:04}", k, best - 0.01 * (12 - k) + 0.001, 40.0, 30.0) for k in range(1, 13)]

    rows = [row for k in range(48) for row in epochs("random", k, 0.94 if k < hits else 0.92)]
    rows += [row for seed in searching.SEEDS for row in epochs(f"this-{seed}", 1, 0.94 if seed != 12 else 0.92)]
    columns = ["search", "trial_id", "epoch", "val_accuracy", "core_seconds", "training_seconds"]
    found = pd.DataFrame(rows, columns=columns)
    table = searching.summary(found, {"last": 0.93, "best": 0.935}, 160.0).set_index(["to reach", ""])
    last = table.loc["93.00%, as the source kept it, after its last epoch"]
    assert last.loc["this search", "core minutes"] == pytest.approx((4 * 11 + 12) / 4 * 40 / 60)
    assert "8 in vain" in last.loc["this search", "which"]
    assert last.loc["this search, training and validation alone", "times"] == pytest.approx(30 / 40)
    if hits == 48:
        assert last.loc["random, to the end", "core minutes"] == pytest.approx(11 * 40 / 60)
        assert last.loc["random, to the end, in the sources' loop", "times"] == pytest.approx(11 * 160 / (14 * 40))
    loop = last.loc["random, to the end, in the sources' loop", "which"]
    assert loop.startswith("95 % interval of times" if hits else "at least")
    if not hits:  # what costs most and is found least often, against the dearest that the searches may be
        error = np.log([440, 440, 440, 440, 480]).std(ddof=1) / 5**0.5
        bound = 12 * 160 * 48 / 3 / (14 * 40 * np.exp(2.132 * error))
        assert loop == f"at least {bound:.1f} times, 95 % sure of each"
    assert (last.loc["random, to the end", "core minutes"] == "none finds it") == (hits == 0)
    assert last.loc["random, to the end", "which"] == f"{hits} of 48 reach it"
    bank = [course(*np.linspace(0.8 + best / 100, best, 12)) for best in (0.9, 0.91, 0.92)]
    assert "1.00 after 1, 1.00 after 3, 1.00 after 9" in searching.foretold(bank)


def test_a_search_costs_all_cores_from_its_begin_until_it_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "cores", lambda: 2)
    events = [
        ("started", "a", 1.0, 0.0, 0.0),
        ("epoch", "a", 9.0, 6.0, 0.8),
        ("epoch", "b", 12.0, 5.0, 0.7),
        ("epoch", "b", 20.0, 7.0, 0.9),
    ]
    searched = pd.DataFrame(events, columns=["event", "trial_id", "at_s", "cpu_seconds", "val_accuracy"])
    random = pd.DataFrame([("s", 1, 0.6, 5.0)], columns=["trial_id", "epoch", "val_accuracy", "core_seconds"])
    found = searching.courses({"this-11": searched, "random": random})
    of = found[found.search == "this-11"]
    assert [*zip(of.trial_id, of.epoch, of.core_seconds, strict=True)] == [("a", 1, 18), ("b", 1, 6), ("b", 2, 16)]
    assert searching.cost(searching._course(of), 0.85) == (40, True)
    assert searching.cost(searching._course(of, "training_seconds"), 0.85) == (18, True)
    assert found[found.search == "random"].core_seconds.tolist() == [5]


def test_rates_are_held_against_those_of_the_same_turn() -> None:
    names = [name for name in training.VARIANTS if training.wanted("resnet18", name)]
    rows = [("resnet18", name, turn, 100.0 * (turn + 1) * (k + 1)) for turn in range(3) for k, name in enumerate(names)]
    table = training.summary(pd.DataFrame(rows, columns=["case", "variant", "turn", "per_s"])).set_index("variant")
    assert table.times["the trainer"] == "2.00 (2.00 to 2.00)"
    assert table.of["without bf16"] == "the trainer"
    assert table["images/s"]["the sources' loop"] == "200 (150 to 250)"


@pytest.mark.parametrize("more", [1, training.MORE_ON_GPU])
def test_there_are_as_many_images_as_are_trained_on_and_validated_with(more: int) -> None:
    assert all(10 + 2 * more * training.IMAGES[model] <= 60_000 for model, *_ in training.CASES.values())


def test_what_is_outside_training_is_what_no_epoch_took() -> None:
    """Two slots; each trial trains for 8 s of every 10."""
    rows = []
    for number in range(60):
        begin = 10.0 * (number // 2)
        for event, at, trained in (("started", begin, 0.0), ("epoch", begin + 9, 8.0), ("ended", begin + 10, 0.0)):
            rows.append((event, f"s{number:04}", at, trained, 0.9 * trained, 0.01 * number, 100.0 + number))
    columns = ["event", "trial_id", "at_s", "seconds", "cpu_seconds", "driver_cpu_s", "driver_mib"]
    table = pd.DataFrame(rows, columns=columns).sort_values("at_s", kind="stable", ignore_index=True)
    found = overhead.summary(table.assign(search="made", slots=2, wall_s=300.0, machine_busy=0.9))
    assert found["s a trial outside training"] == pytest.approx(2.0)
    assert found["driver, ms a trial"] == pytest.approx(10)
    assert (found["driver after 50 trials, MiB"], found["at most later, MiB"]) == (150, 159)


def test_accuracies_are_compared_seed_by_seed() -> None:
    more = dict.fromkeys(accuracy.LOOPS[:1], [0.0] * 6) | {accuracy.LOOPS[1]: [0.009, 0.011] * 3}
    rows = [(loop, seed, 0.9 + 0.001 * seed + by[seed]) for loop, by in more.items() for seed in range(6)]
    table = accuracy.summary(pd.DataFrame(rows, columns=["loop", "seed", "val_accuracy"]))
    assert table.iloc[1]["more than the sources' loop, points"] == "+1.00 (+0.89 to +1.11)"


def test_the_readme_says_what_was_measured() -> None:
    readme = ALL.parents[1].joinpath("tests", "README.md").read_text(encoding="utf-8")
    shown = training.summary(pd.read_parquet(ALL / "training.parquet")).set_index(["", "variant"])
    said = re.findall(r"^\| `(.+)` \| (.+) \| (.+) \| (.+) \| ([\d.]+) \| (\d+%) \|$", readme, re.MULTILINE)
    assert len(said) == 4
    for case, *rates, times, share in said:
        of = shown.loc[case]
        measured = [of["images/s"][name].split()[0] for name in (training.SOURCES, training.BY_DEFAULT, training.OURS)]
        ours = of.loc[training.OURS]
        assert (rates, times, share) == (measured, ours.times.split()[0], ours["of the peak"].split()[0])
    more = accuracy.summary(stored("accuracy")).set_index("")
    prose = " ".join(readme.split())
    said = prose.partition("augmented CNN")[2]
    ours, theirs, *_ = re.findall(r"([\d.]+) %", said)
    assert [*more["validation accuracy, mean %"]] == [theirs, ours]
    less, least, most = re.findall(r"([\d.]+) (?:points less|less to|more)", said)[:3]
    assert more.iloc[1]["more than the sources' loop, points"] == f"-{less} (-{least} to +{most})"
    ended = pd.read_parquet(ALL / "overhead.parquet").query("event == 'ended'")
    first, last = (10 * np.ptp(part.driver_cpu_s) for part in (ended[:101], ended[-101:]))  # of 100 each, in ms
    assert f"takes {first:.0f} ms of the driver's time a trial at first and {last:.0f} at last" in prose
    assert f"{ended.driver_mib.iloc[50]:.0f} MiB after 50 trials to {ended.driver_mib.max():,.0f}" in prose
    cells = [line.split(" | ")[1:] for line in ALL.joinpath("searching.md").read_text(encoding="utf-8").splitlines()]
    ways = {way: rest for way, *rest in reversed(cells[6:12])}  # of the first accuracy that is to be reached
    minutes, _, each = ways["this search"]
    spent = [int(one) for one in re.findall(r"\d+", each)]
    assert f"{float(minutes):.0f} core minutes on average over five, {min(spent)} to {max(spent)}" in prose
    minutes, times, sure = ways["random, to the end, in the sources' loop"]
    low, high = re.findall(r"[\d.]+", sure)[1:]
    assert f"cost {float(minutes):.0f} in the sources' loop: {float(times):.1f} times as many" in prose
    assert f"as many (95 % interval {low} to {high})" in prose


def stored(name: str) -> pd.DataFrame:
    table = pd.read_parquet(ALL / f"{name}.parquet")
    return table.astype({"val_accuracy": "float64"}).round(4) if name == "accuracy" else table  # of 10,000 images


SUMMARIES = {
    "training": (training.summary, training.NOTES),
    "accuracy": (accuracy.summary, ()),
    "allocator": (allocator.summary, [allocator.NOTE]),
    "amounts": (amounts.summary, amounts.NOTES),
    "intervals": (intervals.summary, intervals.NOTES),
    "overhead": (lambda found: pd.DataFrame([overhead.summary(found)]), [overhead.NOTE]),
}


def test_corruptions_have_the_amounts_that_were_found_by_the_rule() -> None:
    """Of all but suppressions; each is nearer to its value than every other amount that was measured."""
    table = stored("amounts")
    found = amounts.chosen(table)
    assert {n for n, corruption in CORRUPTIONS.items() if corruption.family != "suppression"} == {*found}
    clean = table[table.corruption == "clean"].accuracy.mean()
    assert set(table.seed) == {*amounts.SEEDS}
    for name, steps in found.items():
        assert CORRUPTIONS[name].amounts == tuple(amount for amount, _ in steps), name
        tried = 100 * (clean - table[table.corruption == name].groupby("amount").accuracy.mean())
        for value, (_, fall) in zip(amounts.FALLS, steps, strict=True):
            assert abs(fall - value) == pytest.approx((tried - value).abs().min(), abs=0.01), (name, value)


def test_amounts_are_found_by_bisection_and_capped_at_the_extreme() -> None:
    asked: list[float] = []

    def fall(amount: float) -> float:
        asked.append(amount)
        return 40 * amount / 0.5  # `translate` reaches 40 points at its extreme

    assert amounts.search("translate", fall) == [0.025, 0.062, 0.12, 0.25, 0.44]
    assert len(asked) < 70
    assert amounts.search("translate", lambda amount: 20 * amount) == [0.1, 0.25, 0.5, 0.5, 0.5]
    assert amounts.search("occlusion", lambda amount: amount) == [2, 5, 10, 20, 28], "every whole number is tried"
    assert amounts.amounts("shot_noise")[:3] == [1000, 990, 980], "fewer photons are stronger"


@pytest.mark.parametrize("name", SUMMARIES)
def test_the_page_of_a_benchmark_is_of_its_table(name: str) -> None:
    summary, notes = SUMMARIES[name]
    found = stored(name)
    assert ALL.joinpath(f"{name}.md").read_text(encoding="utf-8") == page(name, found.attrs, summary(found), *notes)
