"""Confirm: candidates and arms, each over the same seeds, at full budget; only here is the test split predicted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray

from study import records
from study.config import TrialConfig
from study.execution import Listener, Resources, run_trials
from study.records import ENDED, TrialRecord
from study.space import Space


def plan(study: Path, space: Space, candidates: list[TrialRecord], seed: int) -> list[TrialRecord]:
    """Every trial of the stage, those recorded already as they stand: all configurations of a seed, then the next seed.

    Seeds are `seed` + 1, `seed` + 2, …: the search's own seed is not used again, for the search has seen its luck.
    """
    recorded = records.read_trials(study, "confirm")
    known = {(record.config_id, record.seed): record for record in recorded}
    names = {record.config_id: record.arm for record in recorded}  # a candidate keeps its number when a study goes on
    named: dict[str, TrialConfig] = {}
    number = len(set(names.values()) - set(space.arms))
    for candidate in candidates:
        if (name := names.get(candidate.config_id)) is None:
            number += 1
            name = f"candidate-{number}"
        named[name] = candidate.config
    named |= space.arms
    count, planned = len(known), []
    for offset in range(1, space.budget.seeds + 1):
        for name, config in named.items():
            record = known.get((config.config_id, seed + offset))
            if record is None:
                count += 1
                record = TrialRecord(
                    trial_id=f"c{count:04d}",
                    stage="confirm",
                    config=config,
                    seed=seed + offset,
                    arm=name,
                    max_epochs=config.epochs,
                )
                records.write_trial(study, record)
            planned.append(record)
    return planned


def run(
    study: Path,
    planned: list[TrialRecord],
    splits: ray.ObjectRef[Any],
    resources: Resources,
    listeners: list[Listener],
) -> None:
    """Run what has not ended yet."""
    waiting = [record for record in planned if record.status not in ENDED]
    run_trials(study, lambda: waiting.pop(0) if waiting else None, splits, resources, listeners)
