"""What mattered, on searches made from a known rule: it is found, and where there is none, none is claimed."""

from __future__ import annotations

import dataclasses
import math
import xml.etree.ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest

from analysis import figures_search
from analysis.importance import (
    ALL,
    Compared,
    at_equal_fidelity,
    best_so_far,
    edges,
    importance,
    rank_correlation,
    rung_ranks,
)
from study import space_file
from study.config import TrialConfig
from study.space import Space

SPACES = sorted(space_file.FOLDER.glob("*.yaml"))
METHODS = ["PED-ANOVA", "fANOVA"]
ONE_OPTIMIZER = """
model: {fashion_cnn: {dropout: {uniform: [0.0, 0.5]}}}
optimizer: {adam: {lr: {log: [1.0e-4, 1.0]}}}
label_smoothing: {uniform: [0.0, 0.1]}
batch_size: {choice: [32, 64, 128]}
"""
TWO_OPTIMIZERS = """
model: {fashion_cnn: {dropout: {uniform: [0.0, 0.5]}}}
optimizer: {choice: [{sgd: {lr: 0.1, momentum: {uniform: [0.5, 0.95]}}}, {adam: {lr: {log: [1.0e-4, 1.0e-2]}}}]}
label_smoothing: {uniform: [0.0, 0.1]}
"""
REST = """
epochs: 12
arms:
  longer: {model: {fashion_cnn: {dropout: 0.1}}, optimizer: {adam: {lr: 1.0e-3}}, label_smoothing: 0.0, %s epochs: 30}
  outside: {model: {fashion_cnn: {dropout: 0.9}}, optimizer: {adam: {lr: 1.0e-3}}, label_smoothing: 0.0, %s epochs: 12}
budget: {trials: 24, candidates: 1, seeds: 1}
preview: {trials: 4}
"""
Parameters = dict[str, Any]
Rule = Callable[[Parameters], float]


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str], Space]:
    def load(text: str) -> Space:
        path = tmp_path / "made.yaml"
        path.write_text(text + REST.replace("%s", "batch_size: 64," if "batch_size" in text else ""))
        return space_file.load(path)

    return load


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that ask nothing of the intervals' width."""
    monkeypatch.setattr("analysis.importance.DRAWS", 5)
    monkeypatch.setattr("analysis.importance.SHUFFLES", 2)


def draw(of: Space, number: int) -> tuple[list[TrialConfig], list[Parameters]]:
    """Configurations at random, and the Optuna parameters that made them."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    asked = [study.ask() for _ in range(number)]
    configs = [of.suggest(trial) for trial in asked]
    return configs, [trial.params for trial in asked]


def searched(curves: list[list[float]], **more: list[Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables trials and epochs of a search, as far as they are needed; `more` are columns of trials."""
    rows, lines = [], []
    for number, curve in enumerate(curves, 1):
        key = {"stage": "search", "trial_id": f"s{number:04}", "arm": None}
        status = "completed" if len(curve) == 12 else "stopped"
        lines += [key | {"epoch": epoch, "val_accuracy": value} for epoch, value in enumerate(curve, 1)]
        rows.append(key | {
            "status": status, "epochs": len(curve), "max_epochs": 12, "val_accuracy": max(curve, default=None),
            "seconds": 9.5 * len(curve),
        })  # fmt: skip
    columns = ["stage", "trial_id", "arm", "status", "epochs", "max_epochs", "val_accuracy", "seconds"]
    trials = pd.DataFrame(rows, columns=columns).assign(**more)
    return trials, pd.DataFrame(lines, columns=["stage", "trial_id", "arm", "epoch", "val_accuracy"])


def by_trial(configs: list[TrialConfig]) -> dict[str, TrialConfig]:
    return {f"s{number:04}": config for number, config in enumerate(configs, 1)}


def compared_of(of: Space, configs: list[TrialConfig], curves: list[list[float]], **more: list[Any]) -> Compared:
    trials, epochs = searched(curves, **more)
    return at_equal_fidelity(trials, epochs, by_trial(configs), of)


def made(of: Space, rule: Rule, number: int, noise: float = 0.01) -> Compared:
    """Trials at random whose accuracy is the rule's and noise, all of full length."""
    configs, drawn = draw(of, number)
    aside = np.random.default_rng(0).normal(0, noise, number)
    curves = [[rule(parameters) + a] * 12 for parameters, a in zip(drawn, aside, strict=True)]
    return compared_of(of, configs, curves)


def by_lr(parameters: Parameters) -> float:
    """Strongly by the learning rate, the best 3e-4 and all above 1e-2 as bad; weakly by dropout, not by the others."""
    return 0.9 - 0.1 * min(abs(np.log10(parameters["adam.lr"]) + 3.5), 1.5) - 0.04 * parameters["fashion_cnn.dropout"]


def test_what_matters_most_is_ranked_first_by_both_methods(load: Callable[[str], Space]) -> None:
    of = load(ONE_OPTIMIZER)
    found = importance(made(of, by_lr, 60))
    assert set(found.scope) == {ALL}
    assert (found.trials == 60).all()
    assert (found.epoch == 12).all()
    for method in METHODS:
        rows = found[found.method == method].set_index("hyperparameter")
        assert set(rows.index) == {"fashion_cnn.dropout", "adam.lr", "label_smoothing", "batch_size"}
        assert rows.low["adam.lr"] > rows.high.drop("adam.lr").max()
        assert rows.value.drop("adam.lr").max() < rows.by_chance.iloc[0] < rows.value["adam.lr"]


def test_laws_and_no_winner_in_noise(load: Callable[[str], Space]) -> None:
    found = importance(made(load(ONE_OPTIMIZER), lambda p: 0.8, 24))
    assert found.groupby(["scope", "method"]).value.sum().to_numpy() == pytest.approx(1)
    assert (found.low <= found.value).all()
    assert (found.value <= found.high).all()
    assert found.low.min() >= 0
    assert found.high.max() <= 1
    assert (found.groupby("method").value.max() < 1.5 * found.groupby("method").by_chance.first()).all()
    for _, rows in found.groupby("method"):
        first = rows.sort_values("value").iloc[-1]
        assert first.low < rows.high.drop(first.name).max()


@pytest.mark.usefixtures("few_draws")
def test_what_matters_within_an_option_is_found_there(load: Callable[[str], Space]) -> None:
    found = importance(made(load(TWO_OPTIMIZERS), lambda p: 0.9 - 0.3 * abs(p.get("sgd.momentum", 0.7) - 0.9), 80))
    assert list(found.scope.unique()) == [ALL, "sgd", "adam"]
    everywhere = found[found.scope == ALL]
    assert set(everywhere.hyperparameter) == {"fashion_cnn.dropout", "optimizer", "label_smoothing"}
    inside = found[found.scope == "sgd"]
    assert (inside.trials + found[found.scope == "adam"].trials.iloc[0] == 80).all()
    for method in METHODS:
        rows = inside[inside.method == method].set_index("hyperparameter")
        assert set(rows.index) == {"fashion_cnn.dropout", "sgd.momentum", "label_smoothing"}
        assert rows.low["sgd.momentum"] > rows.value.drop("sgd.momentum").max()


@pytest.mark.usefixtures("few_draws")
def test_many_trials_are_thinned(load: Callable[[str], Space]) -> None:
    compared = made(load(ONE_OPTIMIZER), by_lr, 200)
    found = importance(compared, seed=3)
    assert (found.trials == 150).all()
    pd.testing.assert_frame_equal(found, importance(compared, seed=3))
    assert not found.equals(importance(compared, seed=4))


@pytest.mark.parametrize("number", [0, 1, 4])
def test_too_few_trials_give_no_rows(load: Callable[[str], Space], number: int) -> None:
    compared = made(load(ONE_OPTIMIZER), by_lr, number)
    assert (len(compared.trials), compared.epoch) == (number, 12 if number else 0)
    for rows in (importance(compared), edges(compared)):
        assert rows.empty
        assert "hyperparameter" in rows


def test_equal_accuracies_give_no_rows(load: Callable[[str], Space]) -> None:
    of = load(ONE_OPTIMIZER)
    configs, _ = draw(of, 12)
    trials, epochs = searched([[0.5] * 12] * 12)
    compared = at_equal_fidelity(trials, epochs, by_trial(configs), of)
    assert importance(compared).empty
    assert edges(compared).empty
    assert rank_correlation(trials, epochs).empty
    assert figures_search.parallel_coordinates(compared)


@pytest.mark.usefixtures("few_draws")
def test_one_accuracy_unlike_the_others_is_no_error(load: Callable[[str], Space]) -> None:
    """Many draws leave the only other value out, and have nothing to explain."""
    of = load(ONE_OPTIMIZER)
    configs, _ = draw(of, 10)
    found = importance(compared_of(of, configs, [[0.6], *[[0.5]] * 9]))
    assert found[["value", "low", "high"]].notna().all(axis=None)


@pytest.mark.parametrize(
    ("lengths", "epoch"),
    [
        ([12] * 9 + [3] * 3 + [1] * 12, 3),  # twelve of 24 reached 3
        ([12] * 8 + [3] * 3 + [1] * 13, 1),  # eleven did
        ([12] * 9 + [3] + [1] * 4, 3),  # half would be seven, but ten are needed
        ([12] * 9 + [1] * 5, 1),
        ([12] * 3 + [2], 2),  # all four where there are fewer than ten
    ],
)
def test_the_common_epoch(load: Callable[[str], Space], lengths: list[int], epoch: int) -> None:
    of = load(ONE_OPTIMIZER)
    configs, _ = draw(of, len(lengths))
    curves = [[0.5 + 0.01 * number + 0.02 * e * (-1) ** e for e in range(n)] for number, n in enumerate(lengths)]
    compared = compared_of(of, configs, curves)
    assert compared.epoch == epoch
    best = {f"s{k + 1:04}": max(c[:epoch]) for k, c in enumerate(curves) if len(c) >= epoch}
    assert compared.trials.val_accuracy.to_dict() == best


@pytest.mark.usefixtures("few_draws")
def test_trials_that_ran_on_do_not_mislead(load: Callable[[str], Space]) -> None:
    """Chance alone let those of little dropout run on: at their last epochs dropout would be all that mattered."""
    of = load(ONE_OPTIMIZER)
    configs, drawn = draw(of, 60)
    curves = []
    for parameters in drawn:
        length = 12 if parameters["fashion_cnn.dropout"] < 0.06 else 2
        final = by_lr(parameters)
        curves.append([final - 0.8 * 0.7**epoch for epoch in range(length)])
    trials, epochs = searched(curves)
    last = trials.assign(epochs=1)
    at_last = epochs.groupby("trial_id").tail(1).assign(epoch=1)
    misled = importance(at_equal_fidelity(last, at_last, by_trial(configs), of))
    found = importance(at_equal_fidelity(trials, epochs, by_trial(configs), of))
    first = {"adam.lr": found, "fashion_cnn.dropout": misled}
    for name, rows in first.items():
        assert set(rows.loc[rows.groupby("method").value.idxmax(), "hyperparameter"]) == {name}


def test_which_trials_are_compared(load: Callable[[str], Space]) -> None:
    of = load(ONE_OPTIMIZER)
    configs, _ = draw(of, 10)
    configs = [of.arms["longer"], of.arms["outside"], *configs]
    curves = [[0.7], [0.9], [], *[[0.5 + 0.01 * k] for k in range(9)]]
    arms = ["longer", "outside", *[None] * 10]
    status = ["stopped"] * 2 + ["failed", "diverged", "running"] + ["stopped"] * 7
    compared = compared_of(of, configs, curves, arm=arms, status=status)
    accuracy = compared.trials.val_accuracy
    assert list(accuracy.index) == ["s0001", "s0004", *(f"s{k:04}" for k in range(6, 13))]
    assert accuracy["s0004"] == accuracy["s0006"] == 0.52  # the diverged one as the worst of the others
    assert compared.trials.arm["s0001"] == "longer"  # its copy of the space's length lies in the space


def test_a_diverged_trial_counts_where_it_did_not_arrive(load: Callable[[str], Space]) -> None:
    of = load(ONE_OPTIMIZER)
    configs, _ = draw(of, 12)
    curves = [[0.1], *[[0.5 + 0.01 * k] * 12 for k in range(11)]]
    compared = compared_of(of, configs, curves, status=["diverged", *["completed"] * 11])
    assert compared.epoch == 12
    assert compared.trials.val_accuracy["s0001"] == 0.5


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_parameters_are_those_that_were_drawn(path: Path) -> None:
    """Of every shipped space: they are what Optuna drew, and their positions lie in the range."""
    of = space_file.load(path)
    configs, drawn = draw(of, 12)
    compared = compared_of(of, configs, [[0.4 + 0.01 * k] for k in range(12)])
    assert [row.dropna().to_dict() for _, row in compared.parameters.iterrows()] == drawn
    for name in compared.parameters:
        position = compared.position(name)
        assert position.dropna().between(0, 1).all()
        assert (position.isna() == compared.parameters[name].isna()).all()


def test_positions_are_on_the_scale_that_was_searched(load: Callable[[str], Space]) -> None:
    of = load(ONE_OPTIMIZER)
    configs, _ = draw(of, 3)
    for k, (lr, dropout, batch_size) in enumerate([(1e-4, 0.0, 32), (1e-2, 0.125, 64), (1.0, 0.5, 128)]):
        parameters = {"adam.lr": lr, "fashion_cnn.dropout": dropout, "label_smoothing": 0.1, "batch_size": batch_size}
        configs[k] = of.suggest(optuna.trial.FixedTrial(parameters))
    compared = compared_of(of, configs, [[0.5]] * 3)
    assert list(compared.position("adam.lr")) == pytest.approx([0, 0.5, 1])
    assert list(compared.position("fashion_cnn.dropout")) == pytest.approx([0, 0.25, 1])
    assert list(compared.position("batch_size")) == pytest.approx([0, 0.5, 1])


def crowded(of: Space, towards: Callable[[float], Parameters], rule: Rule, number: int = 60) -> Compared:
    """Trials that crowd at position 0, as those of a search that has found the best there; `towards` maps positions."""
    drawn = [towards(position) for position in np.random.default_rng(0).random(number) ** 8]
    configs = [of.suggest(optuna.trial.FixedTrial(parameters)) for parameters in drawn]
    return compared_of(of, configs, [[rule(parameters)] * 12 for parameters in drawn])


def test_edges(load: Callable[[str], Space]) -> None:
    rest = {"fashion_cnn.dropout": 0.2, "label_smoothing": 0.05, "batch_size": 64}
    compared = crowded(
        load(ONE_OPTIMIZER), lambda p: {**rest, "adam.lr": 10 ** (-4 * p)}, lambda p: 0.5 + 0.1 * np.log10(p["adam.lr"])
    )
    found = edges(compared).set_index("hyperparameter")
    assert set(found.index) == {"adam.lr", "fashion_cnn.dropout", "label_smoothing"}  # options have no edges
    assert found.widen["adam.lr"] == "above"
    assert found.top_position["adam.lr"] > 0.95
    assert found.best["adam.lr"] == compared.parameters.loc[compared.trials.val_accuracy.idxmax(), "adam.lr"]
    assert (found.low["adam.lr"], found.high["adam.lr"]) == (1e-4, 1.0)
    assert found.widen[["fashion_cnn.dropout", "label_smoothing"]].isna().all()


@pytest.mark.parametrize(("upper", "widen"), [(True, "above"), (False, None)])
def test_no_range_is_widened_beyond_the_vocabulary(
    load: Callable[[str], Space], upper: bool, widen: str | None
) -> None:
    """The best dropout at the upper edge, 0.5, and at the lower one, 0: less than none there is not."""
    rest = {"adam.lr": 1e-2, "label_smoothing": 0.05, "batch_size": 64}
    compared = crowded(
        load(ONE_OPTIMIZER),
        lambda p: {**rest, "fashion_cnn.dropout": 0.5 * (1 - p if upper else p)},
        lambda p: 0.5 + (0.5 if upper else -0.5) * p["fashion_cnn.dropout"],
    )
    row = edges(compared).set_index("hyperparameter").loc["fashion_cnn.dropout"]
    assert abs(row.top_position - (not upper)) > 0.95
    assert row.widen == widen or (widen is None and pd.isna(row.widen))


def test_noise_seldom_asks_for_a_wider_range(load: Callable[[str], Space]) -> None:
    compared, rng = made(load(ONE_OPTIMIZER), lambda p: 0.8, 24), np.random.default_rng(0)
    asked = 0
    for _ in range(100):
        shuffled = compared.trials.assign(final=rng.permutation(compared.trials.final))
        asked += edges(dataclasses.replace(compared, trials=shuffled)).widen.notna().any()
    assert asked <= 10


def test_edges_are_of_trials_that_ran_to_their_end(load: Callable[[str], Space]) -> None:
    """By their own best: the eight that were stopped, and what all had at the common epoch, have no say."""
    of = load(ONE_OPTIMIZER)
    configs, _ = draw(of, 16)
    curves = [[0.5, *[0.6 + 0.01 * k] * 11] for k in range(8)] + [[0.9, 0.9, 0.9]] * 8
    compared = compared_of(of, configs, curves)
    assert compared.epoch == 3
    assert (compared.searched, compared.length) == (16, 12)
    found = edges(compared).set_index("hyperparameter").loc["adam.lr"]
    assert found.trials == 8
    assert found.best == compared.parameters["adam.lr"].iloc[7]


def test_the_best_in_the_middle_asks_for_nothing(load: Callable[[str], Space]) -> None:
    found = edges(made(load(ONE_OPTIMIZER), lambda p: 0.5 - abs(np.log10(p["adam.lr"]) + 2) / 10, 60, noise=0))
    row = found.set_index("hyperparameter").loc["adam.lr"]
    assert pd.isna(row.widen)
    assert row.best_position == pytest.approx(0.5, abs=0.05)


def test_best_so_far() -> None:
    accuracy = [None, 0.7, 0.6, 0.8, None, 0.75]
    trials = pd.DataFrame(
        {
            "stage": ["search"] * 6 + ["confirm"],
            "trial_id": ["s9998", "s9999", "s10000", "s10001", "s10002", "s10003", "c0001"],
            "arm": ["baseline", *[None] * 5, "candidate-1"],
            "epochs": [0, 12, 3, 12, 0, 1, 12],
            "seconds": [0.0, 120.0, 30.0, 120.0, 0.0, 10.0, 120.0],
            "val_accuracy": [*accuracy, 0.99],
        }
    ).sample(frac=1, random_state=0)
    found = best_so_far(trials)
    assert list(found.trial_id) == ["s9998", "s9999", "s10000", "s10001", "s10002", "s10003"]
    assert list(found.epochs) == [0, 12, 15, 27, 27, 28]
    assert list(found.seconds) == [0, 120, 150, 270, 270, 280]
    assert found.best.isna().tolist() == [True] + [False] * 5
    assert found.best.tolist()[1:] == [0.7, 0.7, 0.8, 0.8, 0.8]
    figures_search.best_so_far(found)


def test_rank_correlation() -> None:
    curves = [[0.1 * k + 0.01 * epoch for epoch in range(12)] for k in range(8)] + [[0.9] * 3] * 2
    curves[0][0], curves[1][0] = curves[1][0], curves[0][0]
    found = rank_correlation(*searched(curves)).set_index("epoch")
    assert list(found.index) == [1], "all others are in the order of the end, of which there is no interval"
    assert found.trials[1] == 8  # the two that were stopped have no end
    assert found.correlation[1] == pytest.approx(1 - 6 * 2 / (8 * 63))  # 1 - 6 Σd² / (n (n² - 1))
    # tanh(atanh(0.976190) ± 1.959964 · √((1 + 0.976190² / 2) / 5))
    assert (found.low[1], found.high[1]) == pytest.approx((0.8159, 0.9971), abs=1e-4)


def test_no_rank_correlation_of_seven() -> None:
    found = rank_correlation(*searched([[0.1 * (k + e) % 0.7 for e in range(12)] for k in range(7)]))
    assert found.empty
    assert list(found) == ["epoch", "correlation", "low", "high", "trials"]


def test_what_starts_slowly_is_ranked_too_low_at_an_early_epoch() -> None:
    """Both kinds end alike, in order 0 to 7 each; at the first epoch the slow ones are all behind, in reverse order."""
    ends = [0.7 + 0.02 * k for k in range(8)]
    rows = [[end - 0.1, end, end - 0.3] for end in ends] + [[0.5 - 0.3 * end, 0.5, end + 0.01] for end in ends]
    curves = pd.DataFrame(rows, columns=[1, 2, 3])
    kinds = pd.Series(["fast"] * 8 + ["slow"] * 8)
    found = rung_ranks(curves, kinds).set_index(["kind", "epoch"])
    assert [found.correlation["fast", epoch] for epoch in (1, 2, 3)] == pytest.approx([1, 1, 1])
    assert found.correlation["slow", 1] == pytest.approx(-1)
    assert math.isnan(found.correlation["slow", 2])
    # Of 16 places the slow ones have 0 to 7, mean 3.5; in the end 1, 3, … 15, mean 8. The fast ones have the others.
    assert found["shift"]["slow", 1] == pytest.approx((3.5 - 8) / 15)
    assert found["shift"]["fast", 1] == pytest.approx((11.5 - 7) / 15)
    assert found.high["slow", 2] < 0 < found.low["fast", 2]
    assert found["shift"]["slow", 3] == 0
    assert set(found.trials) == {8}
    assert rung_ranks(curves[1:], kinds[1:]).kind.unique().tolist() == ["slow"], "seven are too few"


@pytest.mark.usefixtures("few_draws")
def test_figures_are_the_same_bytes_again(load: Callable[[str], Space]) -> None:
    of = load(TWO_OPTIMIZERS)
    configs, _ = draw(of, 12)
    random = np.random.default_rng(0)
    trials, epochs = searched([list(random.random(12)) for _ in configs])
    trials.loc[0, "arm"] = "longer"
    compared = at_equal_fidelity(trials, epochs, by_trial(configs), of)
    rows = importance(compared)
    drawings: list[Callable[[], bytes]] = [
        lambda: figures_search.slices(compared),
        lambda: figures_search.parallel_coordinates(compared),
        lambda: figures_search.best_so_far(best_so_far(trials)),
        lambda: figures_search.rank_correlation(rank_correlation(trials, epochs)),
        lambda: figures_search.importance(rows[rows.scope == ALL]),
    ]
    for drawing in drawings:
        svg = drawing()
        assert svg == drawing()
        assert xml.etree.ElementTree.fromstring(svg).tag.endswith("svg")


def test_many_marks_are_one_picture(load: Callable[[str], Space]) -> None:
    for number in (150, 160):
        costs = pd.DataFrame({"arm": None, "epochs": range(number), "val_accuracy": 0.5, "best": 0.5})
        assert (b"<image" in figures_search.best_so_far(costs)) == (number > 150)
