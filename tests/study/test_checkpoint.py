"""Saving and loading a trainer: it goes on to the last bit, and no file does harm."""

import dataclasses
import hashlib
import os
import pickle
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from made_trainer import PLAIN, RESNET, STATEFUL, equal, measured, run, trainer_of, weights

from study.config import FashionCNN
from study.data import Splits
from study.trainer import Precision, Trainer, save_whole

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("at", [1, 3])
def test_a_loaded_trainer_goes_on_to_the_last_bit(
    at: int, precision: Precision, small_splits: Splits, tmp_path: Path
) -> None:
    through = run(trainer_of(STATEFUL, small_splits, 4, precision), at)
    through.save(tmp_path / "checkpoint.pt")
    run(through, 6 - at)
    resumed = trainer_of(STATEFUL, small_splits, 4, precision)
    torch.rand(17)
    resumed.load(tmp_path / "checkpoint.pt")
    assert resumed.epoch == at
    run(resumed, 6 - at)
    assert measured(resumed.history) == measured(through.history)
    assert equal(weights(resumed), weights(through))
    assert through.best_weights is not None
    assert resumed.best_weights is not None
    assert equal(resumed.best_weights, through.best_weights)
    assert resumed.finish() == through.finish()


def test_the_best_weights_of_before_are_kept_over_a_save(small_splits: Splits, tmp_path: Path) -> None:
    trainer = run(trainer_of(PLAIN, small_splits), 2)
    expected = trainer.best_weights
    trainer.save(tmp_path / "checkpoint.pt")
    resumed = trainer_of(PLAIN, small_splits)
    resumed.load(tmp_path / "checkpoint.pt")
    resumed.optimizer.param_groups[0]["lr"] = 3.0
    resumed.run_epoch()
    assert resumed.best.epoch <= 2
    resumed.finish()
    assert expected is not None
    assert equal(weights(resumed), expected)


def test_saving_changes_nothing(small_splits: Splits, tmp_path: Path) -> None:
    other = run(trainer_of(STATEFUL, small_splits), 3)
    saving = trainer_of(STATEFUL, small_splits)
    for _ in range(3):
        saving.run_epoch()
        saving.save(tmp_path / "checkpoint.pt")
    assert measured(saving.history) == measured(other.history)


def test_a_save_leaves_only_the_file(small_splits: Splits, tmp_path: Path) -> None:
    trainer = run(trainer_of(PLAIN, small_splits), 1)
    trainer.save(tmp_path / "checkpoint.pt")
    trainer.save(tmp_path / "checkpoint.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_save_that_fails_leaves_the_old_file(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.pt"
    save_whole(path, {"epoch": 1})

    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="no space left"):
        save_whole(path, {"epoch": 2})
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert torch.load(path, weights_only=True) == {"epoch": 1}


def test_a_cut_or_garbled_checkpoint_is_named(small_splits: Splits, tmp_path: Path) -> None:
    trainer = run(trainer_of(PLAIN, small_splits), 1)
    path = tmp_path / "checkpoint.pt"
    trainer.save(path)
    whole = path.read_bytes()
    for content in (b"", whole[:100], whole[: len(whole) // 2], whole[:-1], b"<html>not found</html>"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"(?s)^{path}: got .*, must be a checkpoint of this trial"):
            trainer_of(PLAIN, small_splits).load(path)


def test_a_changed_bit_of_a_checkpoint_is_found(small_splits: Splits, tmp_path: Path) -> None:
    """The last makes a tensor's part a folder, for which `torch.load` gives memory that nothing was written to."""
    path = tmp_path / "checkpoint.pt"
    run(trainer_of(PLAIN, small_splits), 1).save(path)
    whole = path.read_bytes()
    attributes = whole.rindex(b"archive/data/0") - 8
    for at in (0, 1000, len(whole) // 2, len(whole) - 100, len(whole) - 1, attributes):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        with pytest.raises(ValueError, match=f"^{path}: got ValueError: a file that was changed or cut since, must be"):
            trainer_of(PLAIN, small_splits).load(path)


def test_a_checkpoint_holds_no_more_than_it_seems_to(small_splits: Splits, tmp_path: Path) -> None:
    """A gigabyte of zeros takes a megabyte when it is compressed."""
    path = tmp_path / "checkpoint.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(1 << 20))
    path.write_bytes(path.read_bytes() + hashlib.sha256(path.read_bytes()).digest())
    with pytest.raises(ValueError, match=f"^{path}: got ValueError: compressed parts, must be"):
        trainer_of(PLAIN, small_splits).load(path)


def test_a_checkpoint_that_cannot_be_read_is_not_called_broken(small_splits: Splits, tmp_path: Path) -> None:
    for path, error in ((tmp_path / "none.pt", FileNotFoundError), (tmp_path, IsADirectoryError)):
        with pytest.raises(error):
            trainer_of(PLAIN, small_splits).load(path)


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA")], ids=repr)
def test_what_may_be_whole_is_not_called_broken(
    error: Exception, small_splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(PLAIN, small_splits)
    trainer.save(tmp_path / "checkpoint.pt")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(trainer.model, "load_state_dict", fail)
    with pytest.raises(type(error)):
        trainer.load(tmp_path / "checkpoint.pt")


@pytest.mark.parametrize("epoch", [0, 2, 999])
def test_a_checkpoint_whose_epochs_are_not_those_of_its_history_is_named(
    epoch: int, small_splits: Splits, tmp_path: Path
) -> None:
    trainer = run(trainer_of(PLAIN, small_splits), 1)
    path = tmp_path / "checkpoint.pt"
    trainer.save(path)
    save_whole(path, torch.load(path, weights_only=True) | {"epoch": epoch})
    with pytest.raises(ValueError, match=f"^{path}: got .*epoch {epoch} after 1 epochs"):
        trainer_of(PLAIN, small_splits).load(path)


@pytest.mark.parametrize(
    "key", ["epoch", "history", "model", "best_weights", "optimizer", "schedule", "order", "global"]
)
def test_a_checkpoint_without_one_part_is_named(key: str, small_splits: Splits, tmp_path: Path) -> None:
    trainer = run(trainer_of(PLAIN, small_splits), 1)
    path = tmp_path / "checkpoint.pt"
    trainer.save(path)
    state = torch.load(path, weights_only=True)
    del state[key]
    save_whole(path, state)
    with pytest.raises(ValueError, match=f"^{path}: got KeyError.*{key}"):
        trainer_of(PLAIN, small_splits).load(path)


def test_another_networks_checkpoint_is_named(small_splits: Splits, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    run(trainer_of(PLAIN, small_splits), 1).save(path)
    foreign = replace(PLAIN, model=RESNET)
    with pytest.raises(ValueError, match=f"^{path}: got ValueError: configuration {PLAIN.config_id} from seed"):
        trainer_of(foreign, small_splits).load(path)


def test_a_checkpoint_of_another_configuration_of_the_same_network_is_refused(
    small_splits: Splits, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint.pt"
    run(trainer_of(PLAIN, small_splits), 1).save(path)
    foreign = replace(PLAIN, batch_size=PLAIN.batch_size + 1)
    with pytest.raises(ValueError, match="configuration"):
        trainer_of(foreign, small_splits).load(path)


class Payload:
    """A pickle that, loaded as Python's, runs a command."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return subprocess.check_call, (["touch", str(self.target)],)


def test_nothing_in_a_checkpoint_is_executed(small_splits: Splits, tmp_path: Path) -> None:
    trainer = run(trainer_of(PLAIN, small_splits), 1)
    path, target = tmp_path / "checkpoint.pt", tmp_path / "executed"
    trainer.save(path)
    save_whole(path, {**torch.load(path, weights_only=True), "history": Payload(target)})
    pickle.loads(pickle.dumps(Payload(target)))
    assert target.exists()  # the payload works
    target.unlink()
    with pytest.raises(ValueError, match=f"^{path}: got UnpicklingError"):
        trainer.load(path)
    assert not target.exists()


def test_a_checkpoint_holds_only_what_is_needed(small_splits: Splits, tmp_path: Path) -> None:
    """No image of the split travels with it: twice the weights, once the momentum, and little else."""
    trainer = run(trainer_of(replace(PLAIN, model=FashionCNN()), small_splits), 1)
    trainer.save(tmp_path / "checkpoint.pt")
    size = (tmp_path / "checkpoint.pt").stat().st_size
    assert 3 * 4 * 422_474 < size < 3 * 4 * 422_474 + 100_000


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_on_a_gpu_a_loaded_trainer_goes_on(precision: Precision, small_splits: Splits, tmp_path: Path) -> None:
    device = torch.device("cuda")
    through = run(Trainer(STATEFUL, 4, small_splits, device, precision), 2)
    through.save(tmp_path / "checkpoint.pt")
    resumed = Trainer(STATEFUL, 4, small_splits, device, precision)
    resumed.load(tmp_path / "checkpoint.pt")
    for one, other in zip(run(through, 2).history, run(resumed, 2).history, strict=True):
        assert dataclasses.astuple(one)[2:6] == pytest.approx(dataclasses.astuple(other)[2:6], abs=0.02)
