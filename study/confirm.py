"""Confirm: candidates and arms, each over the same seeds, at full budget; only here is the test split predicted."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from study import records
from study.config import TrialConfig
from study.execution import Resources, run_trials
from study.records import ENDED, Listener, TrialRecord
from study.space import Space

SUPERSEDED = "superseded"


def plan(study: Path, space: Space, candidates: list[TrialRecord], seed: int) -> list[TrialRecord]:
    """Every trial of the stage, those recorded already as they stand: all configurations of a seed, then the next seed.

    Seeds are `seed` + 1, `seed` + 2, …: the search's own seed is not used again, for the search has seen its luck.
    A candidate keeps its number when a study goes on. Trials that are no longer wanted, of a candidate that an
    extended search has displaced, end as `stopped`, `superseded`.
    """
    recorded = records.read_trials(study, "confirm")
    named = _named(space, candidates, recorded)
    known = {(record.arm, record.seed): record for record in recorded}
    count = max((int(record.trial_id[1:]) for record in recorded), default=0)
    planned = []
    for offset in range(1, space.budget.seeds + 1):
        for name, config in named.items():
            record = known.pop((name, seed + offset), None)
            if record is None:
                count += 1
                record = TrialRecord(
                    f"c{count:04d}", "confirm", config, seed + offset, name, config.epochs, split=space.split.text
                )
            elif record.stop_reason == SUPERSEDED:  # wanted again
                record = replace(record, status="pending", stop_reason=None)
            planned.append(record)
    for record in known.values():
        if record.status not in ENDED:
            records.write_trial(study, replace(record, status="stopped", stop_reason=SUPERSEDED))
            records.drop_checkpoint(records.trial_folder(study, record))
    return planned


def _named(space: Space, candidates: list[TrialRecord], recorded: list[TrialRecord]) -> dict[str, TrialConfig]:
    numbered = {record.config_id: record.arm for record in recorded if record.arm not in space.arms}
    named: dict[str, TrialConfig] = {}
    for candidate in candidates:
        free = next(name for n in itertools.count(1) if (name := f"candidate-{n}") not in numbered.values())
        named[str(numbered.setdefault(candidate.config_id, free))] = candidate.config
    return named | space.arms


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
