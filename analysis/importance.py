"""What mattered in a search: which hyperparameters, whether their ranges were wide enough, what the cost bought.

Trials that were stopped early are compared with those that ran on at an epoch that both reached. At their own last
epochs, the hyperparameters of the trials that ran longest would seem to matter most.

All this describes the trials that the search tried, where it tried them, on one seed: it is no experiment.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial
from scipy import stats

from analysis.statistics import CONFIDENCE
from study.config import Range, TrialConfig
from study.space import Space

ALL = "all trials"
MIN_TRIALS = 10  # of a scope: with fewer, both methods give noise
MAX_TRIALS = 150  # of a scope: of more, so many are drawn
DRAWS = 40  # bootstrap samples
SHUFFLES = 20  # of the accuracies among the trials: what the shares are where nothing matters
TREES, DEPTH = 8, 4  # of fANOVA's forest: so small because every draw grows one
TOP_SHARE, MIN_TOP = 0.1, 5  # PED-ANOVA asks what sets the best tenth apart, but at least five trials
MIN_FOR_EDGES = 5  # trials that ran to their end
TOP_FIFTH, MIN_FIFTH = 0.2, 3  # whose median position is looked at: of the best fifth, but at least of three trials
EDGE = 0.05  # of the range
MIN_RANKED = 8  # trials: fewer are in perfect order by chance too often

Distribution = FloatDistribution | IntDistribution | CategoricalDistribution


@dataclass(frozen=True)
class Compared:
    """The trials of a search at equal fidelity, in the order in which they started.

    `trials` and `parameters` have the same index, trial_id. `parameters` has a column for each hyperparameter that the
    space varies, under its Optuna name (`sgd.lr`) and in the space's order; NaN where it does not apply.
    """

    epoch: int  # accuracies are the best up to this epoch; 0 where there is no trial
    length: int  # epochs of a trial that runs to its end
    searched: int  # trials of the search, those that are not compared included
    # arm (null for a searched one), val_accuracy in [0, 1], and `final`, the best of all epochs of a trial that ran to
    # its end, else NaN
    trials: pd.DataFrame
    parameters: pd.DataFrame
    distributions: dict[str, Distribution]  # of each column of `parameters`
    allowed: dict[str, Range | None]  # what the vocabulary allows, where it limits it

    def position(self, name: str) -> pd.Series:
        """Where each trial lies in the range of a hyperparameter: 0 low, 1 high, on the scale that was searched.

        An option lies at its place among the options. NaN where the hyperparameter does not apply.
        """
        distribution, values = self.distributions[name], self.parameters[name]
        if isinstance(distribution, CategoricalDistribution):
            places = {option: place for place, option in enumerate(distribution.choices)}
            return values.map(places).astype(float) / max(len(places) - 1, 1)
        numbers, low, high = values.astype(float), float(distribution.low), float(distribution.high)
        if distribution.log:
            numbers, low, high = np.log(numbers), math.log(low), math.log(high)
        return (numbers - low) / (high - low)


def at_equal_fidelity(
    trials: pd.DataFrame, epochs: pd.DataFrame, configs: Mapping[str, TrialConfig], space: Space
) -> Compared:
    """The search's trials by their best validation accuracy up to the last epoch that enough of them reached.

    trials, epochs: the tables of that name; configs: by trial_id; space: the study's, at its fidelity.

    Enough is half of the trials, but at least ten, or all where there are fewer; the others, stopped before, are left
    out. Completed, stopped and diverged trials count, failed ones say nothing of accuracy. One that diverged, at
    whatever epoch, counts as the worst of the others: the search too holds it for the worst, while an accuracy of
    chance would make "did not diverge" all that matters. Arms count where the space could have proposed them.
    """
    found = trials[(trials.stage == "search") & trials.status.isin(["completed", "stopped", "diverged"])]
    found = _in_order(found[found.epochs > 0]).set_index("trial_id")
    drawn = {str(trial_id): space.parameters_in_search(configs[str(trial_id)]) for trial_id in found.index}
    known = {trial_id: parameters for trial_id, parameters in drawn.items() if parameters is not None}
    found = found.loc[list(known)]
    diverged = found.status == "diverged"
    reached = found.epochs.where(~diverged, found.max_epochs).sort_values(ascending=False)
    enough = min(len(reached), max(MIN_TRIALS, math.ceil(len(reached) / 2)))
    epoch = int(reached.iloc[enough - 1]) if enough else 0
    up_to = epochs[(epochs.stage == "search") & (epochs.epoch <= epoch)]
    best = up_to.groupby("trial_id").val_accuracy.max().reindex(found.index)
    best = best.where(~diverged, best[(found.epochs >= epoch) & ~diverged].min())
    final = found.val_accuracy.where(found.status == "completed").astype(float)
    compared = found[["arm"]].assign(val_accuracy=best.astype(float), final=final)
    compared = compared[((found.epochs >= epoch) | diverged) & best.notna()]
    allowed = _allowed(space)
    rows = [known[str(trial_id)] for trial_id in compared.index]
    distributions: dict[str, Distribution] = {}
    for parameters in rows:
        if not parameters.keys() <= distributions.keys():
            distributions |= cast(dict[str, Distribution], space.distributions_of(parameters))
    names = [name for name in allowed if name in distributions]
    frame = pd.DataFrame(rows, index=compared.index, columns=names, dtype=object)
    searched = int((trials.stage == "search").sum())
    return Compared(epoch if len(rows) else 0, space.epochs, searched, compared, frame, distributions, allowed)


def importance(compared: Compared, seed: int = 0) -> pd.DataFrame:
    """The importance of the hyperparameters relative to each other, by two methods. Not whether any matters at all.

    PED-ANOVA (Watanabe et al. 2023, arXiv:2304.10255): how far the distribution of the best tenth (at least five)
    lies from that of all. fANOVA (Hutter et al. 2014, "An efficient approach for assessing hyperparameter
    importance"): the variance that its main effect explains in a random forest; logarithmic ones on that scale.

    One row a scope, hyperparameter and method: scope, hyperparameter, method, value (a share in [0, 1]: they sum to 1
    in a scope and method), low, high (95 % percentile interval of 40 bootstrap draws of trials, which never leaves the
    value out), by_chance (the largest share of any hyperparameter once the accuracies are shuffled among the trials,
    median of 20 times: what a value must exceed to mean anything), trials, epoch. The scope `all trials` holds what
    every trial has; one named after an option, `sgd`, the trials of that option with what they have. Of more than 150
    trials in a scope, 150 drawn by the seed are taken.
    No rows where a scope has fewer than ten trials, equal accuracies, or fewer than two hyperparameters that vary.
    """
    columns = ["scope", "hyperparameter", "method", "value", "low", "high", "by_chance", "trials", "epoch"]
    rows = []
    random = np.random.default_rng(seed)
    for scope, members, names in _scopes(compared):
        if len(members) > MAX_TRIALS:
            members = members[np.sort(random.choice(len(members), MAX_TRIALS, replace=False))]
        names = [name for name in names if compared.parameters.loc[members, name].nunique() > 1]
        accuracy = compared.trials.val_accuracy[members]
        if len(members) < MIN_TRIALS or len(names) < 2 or accuracy.nunique() < 2:
            continue
        frozen = _frozen(compared, members, names, accuracy)
        whole = _shares(frozen, seed)
        drawn = [_shares([frozen[k] for k in random.integers(len(frozen), size=len(frozen))], seed)
                 for _ in range(DRAWS)]  # fmt: skip
        chance = [_shares(_frozen(compared, members, names, random.permutation(accuracy)), seed)
                  for _ in range(SHUFFLES)]  # fmt: skip
        for method, name in itertools.product(whole, names):
            value = whole[method][name]
            draws = [share[method][name] for share in drawn if method in share]
            low, high = np.quantile([value, *draws], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
            largest = [max(share[method].values()) for share in chance if method in share] or [math.nan]
            rows.append([scope, name, method, value, min(low, value), max(high, value), float(np.median(largest)),
                         len(members), compared.epoch])  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def edges(compared: Compared) -> pd.DataFrame:
    """Where the best trials lie in the range of each number that was searched, and whether to widen it.

    Of the trials that ran to their end, by the best of all their epochs. One row a hyperparameter that five of them or
    more have: hyperparameter, low, high, best (the best trial's value), best_position, top_position (median of the best
    fifth, three trials at least; both 0 low, 1 high on the scale searched), widen ("below" or "above" where
    top_position lies within 5 % of that edge and the vocabulary has values beyond it, else null), trials. The best
    trial alone is no ground to widen a range: of a number that does not matter it lies that near to an edge one time in
    ten.
    """
    columns = ["hyperparameter", "low", "high", "best", "best_position", "top_position", "widen", "trials"]
    rows = []
    for name, values in compared.parameters.items():
        distribution, allowed = compared.distributions[name], compared.allowed[name]
        accuracy = compared.trials.final[values.notna()].dropna().sort_values(ascending=False, kind="stable")
        if isinstance(distribution, CategoricalDistribution) or len(accuracy) < MIN_FOR_EDGES or accuracy.nunique() < 2:
            continue
        low, high = float(distribution.low), float(distribution.high)
        position = compared.position(name)[accuracy.index]
        fifth = max(MIN_FIFTH, math.ceil(TOP_FIFTH * len(position)))
        best, top = float(position.iloc[0]), float(position.iloc[:fifth].median())
        open_below, open_above = (allowed is None or low > allowed.low), (allowed is None or high < allowed.high)
        widen: str | None = None
        if open_below and top <= EDGE:
            widen = "below"
        elif open_above and top >= 1 - EDGE:
            widen = "above"
        rows.append([name, low, high, float(values[accuracy.index[0]]), best, top, widen, len(accuracy)])
    return pd.DataFrame(rows, columns=columns)


def best_so_far(trials: pd.DataFrame) -> pd.DataFrame:
    """How the search's best validation accuracy grew with its cost: a row a trial, in the order of their starts.

    The tables hold no times of ending, so each trial's whole cost counts at its place. Columns: trial_id, arm, epochs
    and seconds (summed up to this trial; wall time of its epochs, of which several trials may have shared the device),
    val_accuracy (the trial's own at its best epoch, NaN where it has none), best (the highest up to this trial).
    """
    found = _in_order(trials[trials.stage == "search"])
    own = found.val_accuracy.astype(float)
    return pd.DataFrame(
        {
            "trial_id": found.trial_id,
            "arm": found.arm,
            "epochs": found.epochs.cumsum(),
            "seconds": found.seconds.cumsum(),
            "val_accuracy": own,
            "best": own.cummax().ffill(),
        }
    ).reset_index(drop=True)


def rank_correlation(trials: pd.DataFrame, epochs: pd.DataFrame) -> pd.DataFrame:
    """How well the order of the trials at an epoch foretold their order in the end: Spearman's rank correlation.

    Of validation accuracy at the epoch with the best of all epochs, over the search's trials that completed the full
    length. Those are the ones that were not stopped, which differ less than all that were tried: over all, it may have
    been higher. Columns: epoch, correlation, low, high (95 %, Bonett & Wright 2000, doi:10.1007/BF02294183: with few
    trials a bootstrap is too narrow), trials. No rows for fewer than eight trials, nor for an epoch whose accuracies
    are all equal, or in the very order of the end or its reverse: that has no interval.
    """
    done = trials[(trials.stage == "search") & (trials.status == "completed")]
    done = done[done.epochs == done.max_epochs.max()]
    curves = epochs[epochs.trial_id.isin(done.trial_id)].pivot(index="trial_id", columns="epoch", values="val_accuracy")
    rows = []
    for epoch, accuracy in curves.items() if len(curves) >= MIN_RANKED else ():
        final = curves.max(axis=1)
        if accuracy.nunique() > 1 and final.nunique() > 1:
            rho = float(stats.spearmanr(accuracy, final).statistic)
            if abs(rho) < 1 - 1e-9:
                half = float(stats.norm.ppf((1 + CONFIDENCE) / 2)) * math.sqrt((1 + rho**2 / 2) / (len(curves) - 3))
                low, high = (math.tanh(math.atanh(rho) + side) for side in (-half, half))
                rows.append([epoch, rho, low, high, len(curves)])
    return pd.DataFrame(rows, columns=["epoch", "correlation", "low", "high", "trials"])


def rung_ranks(curves: pd.DataFrame, kinds: pd.Series) -> pd.DataFrame:
    """Return how fairly an epoch ranks kinds of trials, a row a kind and epoch: by it, ASHA's rungs can be chosen.

    curves: validation accuracies of trials that ran to their end whatever they reached, a row a trial, a column an
    epoch; kinds: of each trial, with the same index. Accuracies count as the search counts them, the best so far.
    Columns: kind; epoch; correlation (Kendall's τ-b with the end, within the kind; NaN where either is constant);
    shift (mean over the kind's trials of the percentile rank among all trials at the epoch, less that in the end, in
    [-1, 1]: below 0, a rung there stops more of this kind than the end would); low, high (95 %, Student's t over the
    trials); trials. No rows for a kind of fewer than eight trials.
    """
    best = curves.cummax(axis=1)
    places = (best.rank() - 1) / (len(best) - 1)
    shifts = places.sub(places.iloc[:, -1], axis=0)
    rows = []
    for kind, members in kinds.groupby(kinds, sort=False).groups.items():
        n = len(members)
        for epoch in best if n >= MIN_RANKED else ():
            own = shifts.loc[members, epoch]
            half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * own.std() / math.sqrt(n))
            tau = float(stats.kendalltau(best.loc[members, epoch], best.loc[members].iloc[:, -1]).statistic)
            rows.append([kind, epoch, tau, own.mean(), own.mean() - half, own.mean() + half, n])
    return pd.DataFrame(rows, columns=["kind", "epoch", "correlation", "shift", "low", "high", "trials"])


def _in_order(trials: pd.DataFrame) -> pd.DataFrame:
    """In the order of their starts: s10000 comes after s9999."""
    return trials.sort_values("trial_id", key=lambda ids: ids.str.removeprefix("s").astype(int), kind="stable")


def _allowed(space: Space) -> dict[str, Range | None]:
    """Every hyperparameter that the space varies, in its order, with the range that the vocabulary gives it."""
    found: dict[str, Range | None] = {}
    for kind, parts in (*space.parts.items(), ("", (space.rest,))):
        if len(parts) > 1:
            found[kind] = None
        for part in parts:
            ranges = {field.name: field.metadata.get("range") for field in dataclasses.fields(part.base)}
            found |= {f"{part.label}.{key}".removeprefix("."): ranges[key] for key in part.ranges}
    return found


def _scopes(compared: Compared) -> Iterator[tuple[str, pd.Index, list[str]]]:
    """Name, trials and hyperparameters of each scope: all trials, then each option with hyperparameters of its own."""
    has = compared.parameters.notna()
    yield ALL, has.index, list(has.columns[has.all()])
    for option in dict.fromkeys(name.rpartition(".")[0] for name in has.columns[~has.all()]):
        own = [name for name in has.columns[~has.all()] if name.rpartition(".")[0] == option]
        members = has.index[has[own].all(axis=1)]
        yield option, members, list(has.columns[has.loc[members].all()])


def _frozen(compared: Compared, members: pd.Index, names: list[str], accuracy: npt.ArrayLike) -> list[FrozenTrial]:
    """Optuna's trials, with numbers at their positions: its fANOVA would take a logarithmic range for a linear one."""
    values, distributions = compared.parameters.loc[members, names].copy(), dict(compared.distributions)
    for name in names:
        if isinstance(distributions[name], FloatDistribution):
            values[name], distributions[name] = compared.position(name)[members], FloatDistribution(0, 1)
    of: dict[str, BaseDistribution] = {name: distributions[name] for name in names}
    return [
        optuna.trial.create_trial(params=row, distributions=of, value=value)
        for row, value in zip(values.to_dict("records"), np.asarray(accuracy).tolist(), strict=True)
    ]


def _shares(trials: list[FrozenTrial], seed: int) -> dict[str, dict[str, float]]:
    """Importance by method and hyperparameter; a method is missing where it found nothing to explain."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    study.add_trials(trials)
    top = max(TOP_SHARE, MIN_TOP / len(trials))
    evaluators = {
        "PED-ANOVA": PedAnovaImportanceEvaluator(target_quantile=top),
        "fANOVA": FanovaImportanceEvaluator(n_trees=TREES, max_depth=DEPTH, seed=seed),
    }
    shares = {}
    for method, evaluator in evaluators.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that ties leave the best tenth no smaller than all
            try:
                found = get_param_importances(study, evaluator=evaluator)
            except RuntimeError:  # fANOVA where no tree of the forest has a split
                continue
        shares[method] = {name: float(value) for name, value in found.items()}
    return shares
