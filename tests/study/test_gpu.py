"""What needs a GPU: the share that is measured, a study on it, and that nothing waits for the device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from made_trainer import STATEFUL

from study import files, records, run, space_file
from study.choose import make_plan
from study.data import Splits
from study.trainer import Trainer

pytestmark = pytest.mark.gpu


def test_a_plan_on_a_gpu() -> None:
    found = make_plan(space_file.load(space_file.FOLDER / "smoke.yaml"), "asha")
    assert 0 < found.gpus <= 1
    assert found.memory_bytes > 0
    assert found.device == torch.cuda.get_device_name()
    assert all(speed.train > 0 and speed.evaluate > 0 for speed in found.speeds.values())


def test_a_study_on_a_gpu(tmp_path: Path, ray_cluster: None) -> None:
    assert run.main(["--space", "smoke.yaml", "--fidelity", "preview", "--results", str(tmp_path)]) == 0
    everything = [record for stage in records.STAGES for record in records.read_trials(tmp_path / "smoke", stage)]
    assert {record.status for record in everything} <= {"completed", "stopped"}
    assert {record.device for record in everything} == {torch.cuda.get_device_name()}
    stages = files.read_json(tmp_path / "smoke" / "study.json")["stages"]
    assert all(stage["device_seconds"] > 0 for stage in stages.values())


def test_no_step_waits_for_the_device(small_splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the end of the first step to that of the last: an epoch's begin and end may."""
    trainer = Trainer(STATEFUL, 0, small_splits, torch.device("cuda"), "bf16")
    trainer.run_epoch()  # the first chooses kernels
    original, steps = trainer.schedule.step, list[int]()

    def step(*arguments: Any) -> None:
        original(*arguments)
        steps.append(len(steps) + 1)
        torch.cuda.set_sync_debug_mode("default" if steps[-1] == trainer.steps else "error")

    monkeypatch.setattr(trainer.schedule, "step", step)
    try:
        trainer.run_epoch()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(steps) == trainer.steps > 2
