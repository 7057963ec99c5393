"""The trainer on real images and tiny networks: what it learns, repeats, saves, and survives."""

import dataclasses
import math
import os
import pickle
import subprocess
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from study.config import SGD, Adam, Augmentation, Cosine, FashionCNN, ResNet, Step, TrialConfig
from study.data import Splits
from study.models import build_model
from study.records import EpochRecord
from study.trainer import Precision, Trainer, save_whole

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
CNN = FashionCNN(channels=(4, 8), hidden=(16,), dropout=0.25)
RESNET = ResNet("resnet", blocks=(1, 1), widths=(8, 16), stem=8)
AUGMENTED = Augmentation(1, rotation=10, translation=0.1, scale=0.1, shear=5, flip=0.5, erasing=0.3)
# Everything that keeps a state: dropout, augmentation, a schedule that steps, momentum, batch statistics.
STATEFUL = TrialConfig(
    CNN,
    SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4),
    Step(step_size=2, gamma=0.5),
    AUGMENTED,
    epochs=6,
    batch_size=64,
    label_smoothing=0.1,
)
PLAIN = TrialConfig(FashionCNN(channels=(4, 8), hidden=(16,), dropout=0.0), SGD(lr=0.05), batch_size=64)


def trainer_of(config: TrialConfig, splits: Splits, seed: int = 0, precision: Precision = "fp32") -> Trainer:
    return Trainer(config, seed, splits, CPU, precision)


def measured(records: list[EpochRecord]) -> list[EpochRecord]:
    """The records without what no seed fixes: times."""
    return [replace(record, seconds=0.0, cpu_seconds=0.0, images_per_s=0.0) for record in records]


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def run(trainer: Trainer, epochs: int) -> Trainer:
    for _ in range(epochs):
        trainer.run_epoch()
    return trainer


# Learning


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("model", [CNN, RESNET], ids=["fashion_cnn", "resnet"])
def test_the_loss_falls_and_accuracy_leaves_chance(model: Any, precision: Precision, small_splits: Splits) -> None:
    config = TrialConfig(model, Adam(lr=0.03), Cosine(), epochs=6, batch_size=50)
    trainer = run(trainer_of(config, small_splits, precision=precision), 6)
    first, last = trainer.history[0], trainer.history[-1]
    assert last.train_loss < 0.7 * first.train_loss
    assert last.val_accuracy > 0.3  # eight standard errors above chance
    assert {value.dtype for value in trainer.model.state_dict().values()} == {torch.float32, torch.int64}
    assert trainer.finish().accuracy > 0.3


def test_bf16_computes_otherwise_than_fp32(small_splits: Splits) -> None:
    one, other = (trainer_of(PLAIN, small_splits, precision=p).run_epoch() for p in ("fp32", "bf16"))
    assert one.train_loss != other.train_loss
    assert one.train_loss == pytest.approx(other.train_loss, rel=0.05)


def test_records_hold_one_epoch_each(small_splits: Splits) -> None:
    trainer = run(trainer_of(STATEFUL, small_splits), 5)
    assert [record.epoch for record in trainer.history] == [1, 2, 3, 4, 5]
    assert [record.lr for record in trainer.history] == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.025])
    for record in trainer.history:
        assert 0 < 400 / record.images_per_s < record.seconds
        assert record.cpu_seconds > 0
        assert not record.diverged


def test_the_first_loss_by_hand(small_splits: Splits) -> None:
    """One batch of all images: pixels / 255, less the mean, through the deviation, cross-entropy before the step."""
    config = replace(PLAIN, batch_size=400, mean=0.5, std=0.25)
    record = trainer_of(config, small_splits, seed=3).run_epoch()
    x = torch.from_numpy(small_splits.train_images / 255)[:, None].float()
    labels = torch.from_numpy(small_splits.train_labels.astype(np.int64))
    logits = build_model(config.model, 3)((x - 0.5) / 0.25)
    assert record.train_loss == pytest.approx(functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert record.train_accuracy == (logits.argmax(1) == labels).double().mean().item()


def test_train_accuracy_is_measured_in_training_mode_and_clean_at_the_end(small_splits: Splits) -> None:
    config = replace(STATEFUL, model=replace(CNN, dropout=0.6), optimizer=Adam(lr=0.01), label_smoothing=0.0)
    trainer = run(trainer_of(config, small_splits), 6)
    clean = trainer.finish()
    assert clean.accuracy > trainer.best.train_accuracy + 0.04
    assert clean.loss < trainer.best.train_loss


def test_the_last_partial_batch_is_used(small_splits: Splits) -> None:
    few = small_splits._replace(
        train_images=small_splits.train_images[:307], train_labels=small_splits.train_labels[:307]
    )
    trainer = run(trainer_of(replace(PLAIN, optimizer=Adam(lr=1e-3), batch_size=128), few), 2)
    (steps,) = {int(state["step"]) for state in trainer.optimizer.state.values()}
    assert steps == 2 * 3  # 128 + 128 + 51
    for record in trainer.history:
        correct = record.train_accuracy * 307
        assert correct == pytest.approx(round(correct), abs=1e-9)  # out of 307, not of 256


def test_a_last_batch_of_one_image(small_splits: Splits) -> None:
    few = small_splits._replace(
        train_images=small_splits.train_images[:65], train_labels=small_splits.train_labels[:65]
    )
    assert math.isfinite(trainer_of(PLAIN, few).run_epoch().train_loss)


def test_images_from_shared_memory_are_read_without_a_warning_and_stay(small_splits: Splits) -> None:
    assert not small_splits.train_images.flags.writeable
    before = [array.copy() for array in small_splits]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer = run(trainer_of(STATEFUL, small_splits), 1)
        trainer.predict(small_splits.test_images)
    assert all(np.array_equal(one, other) for one, other in zip(before, small_splits, strict=True))


def test_label_smoothing_bears_on_the_training_loss_only(small_splits: Splits) -> None:
    plain = trainer_of(replace(PLAIN, batch_size=400), small_splits)
    smooth = trainer_of(replace(PLAIN, batch_size=400, label_smoothing=0.3), small_splits)
    assert smooth.run_epoch().train_loss != plain.run_epoch().train_loss
    probabilities = smooth.predict(small_splits.val_images)
    by_hand = -np.log(probabilities[np.arange(150), small_splits.val_labels]).mean()
    assert smooth.history[0].val_loss == pytest.approx(by_hand, rel=1e-5)
    clean = -np.log(smooth.predict(small_splits.train_images)[np.arange(400), small_splits.train_labels]).mean()
    assert smooth.finish().loss == pytest.approx(clean, rel=1e-5)


def test_predictions_are_probabilities_and_their_accuracy_is_the_evaluated_one(small_splits: Splits) -> None:
    trainer = run(trainer_of(STATEFUL, small_splits), 2)
    probabilities = trainer.predict(small_splits.val_images)
    assert (probabilities.shape, probabilities.dtype) == ((150, 10), np.float32)
    assert np.abs(probabilities.sum(1) - 1).max() < 1e-5
    assert probabilities.min() >= 0
    accuracy = (probabilities.argmax(1) == small_splits.val_labels).mean()
    assert accuracy == trainer.history[-1].val_accuracy
    assert np.array_equal(probabilities, trainer.predict(small_splits.val_images))  # no dropout, nothing moves


def test_more_images_than_one_evaluation_batch(small_splits: Splits) -> None:
    trainer = run(trainer_of(PLAIN, small_splits), 1)
    many = np.concatenate([small_splits.train_images] * 6)  # 2400, in parts of 1000
    found = trainer.predict(many).reshape(6, 400, 10)
    assert np.abs(found - trainer.predict(small_splits.train_images)).max() < 1e-6


# Repeating


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_same_seed_same_losses_to_the_last_bit(precision: Precision, small_splits: Splits) -> None:
    first = run(trainer_of(STATEFUL, small_splits, seed=5, precision=precision), 3)
    torch.rand(17)  # whatever happened in this process before
    again = run(trainer_of(STATEFUL, small_splits, seed=5, precision=precision), 3)
    assert measured(first.history) == measured(again.history)
    assert equal(weights(first), weights(again))


def test_another_seed_other_losses(small_splits: Splits) -> None:
    first, other = (run(trainer_of(STATEFUL, small_splits, seed=seed), 1) for seed in (5, 6))
    assert first.history[0].train_loss != other.history[0].train_loss
    assert not equal(weights(first), weights(other))


# The best epoch


def test_best_is_the_earliest_of_the_highest_validation_accuracies(small_splits: Splits) -> None:
    trainer = run(trainer_of(PLAIN, small_splits), 1)
    record = trainer.history[0]
    rows = [(1, 0.5, False), (2, 0.7, False), (3, 0.7, False), (4, 0.9, True), (5, 0.6, False)]
    trainer.history = [replace(record, epoch=e, val_accuracy=a, diverged=d) for e, a, d in rows]
    assert trainer.best.epoch == 2


def test_finish_takes_the_best_epochs_weights(small_splits: Splits) -> None:
    trainer = trainer_of(PLAIN, small_splits)
    after: list[dict[str, Tensor]] = []
    for lr in (0.05, 0.05, 0.05, 3.0):  # the last epoch spoils it
        trainer.optimizer.param_groups[0]["lr"] = lr
        trainer.run_epoch()
        after.append(weights(trainer))
    best = trainer.best.epoch
    assert best < 4
    assert not trainer.history[3].diverged
    evaluation = trainer.finish()
    assert equal(weights(trainer), after[best - 1])
    accuracy = (trainer.predict(small_splits.train_images).argmax(1) == small_splits.train_labels).mean()
    assert evaluation.accuracy == accuracy
    assert trainer.evaluate(trainer.val_images, trainer.val_labels).accuracy == trainer.best.val_accuracy


def test_nothing_trained_nothing_to_finish(small_splits: Splits) -> None:
    trainer = trainer_of(PLAIN, small_splits)
    with pytest.raises(ValueError, match="no finite epoch"):
        trainer.finish()
    with pytest.raises(ValueError, match="empty"):
        _ = trainer.best


# Divergence


def test_an_absurd_learning_rate_is_flagged_from_the_start(small_splits: Splits) -> None:
    trainer = run(trainer_of(replace(PLAIN, optimizer=SGD(lr=1e30)), small_splits), 2)
    assert [record.diverged for record in trainer.history] == [True, True]
    assert not math.isfinite(trainer.history[0].train_loss)
    with pytest.raises(ValueError, match="no finite epoch"):
        trainer.finish()


def test_what_was_good_before_divergence_stays(small_splits: Splits, tmp_path: Path) -> None:
    trainer = run(trainer_of(PLAIN, small_splits), 2)
    good = trainer.best
    trainer.optimizer.param_groups[0]["lr"] = 1e30
    assert trainer.run_epoch().diverged
    assert [record.diverged for record in trainer.history] == [False, False, True]
    assert trainer.best is good
    trainer.save(tmp_path / "checkpoint.pt")
    loaded = trainer_of(PLAIN, small_splits)
    loaded.load(tmp_path / "checkpoint.pt")
    for one in (trainer, loaded):
        assert math.isfinite(one.finish().loss)
        assert one.evaluate(one.val_images, one.val_labels).accuracy == good.val_accuracy


# Saving and loading


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


def test_a_missing_checkpoint_is_named(small_splits: Splits, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^{tmp_path / 'none.pt'}: got FileNotFoundError"):
        trainer_of(PLAIN, small_splits).load(tmp_path / "none.pt")


@pytest.mark.parametrize(
    "key", ["epoch", "history", "model", "best_weights", "optimizer", "schedule", "order", "global"]
)
def test_a_checkpoint_without_one_part_is_named(key: str, small_splits: Splits, tmp_path: Path) -> None:
    trainer = run(trainer_of(PLAIN, small_splits), 1)
    path = tmp_path / "checkpoint.pt"
    trainer.save(path)
    state = torch.load(path, weights_only=True)
    del state[key]
    torch.save(state, path)
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
    torch.save({**torch.load(path, weights_only=True), "history": Payload(target)}, path)
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
