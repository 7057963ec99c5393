"""The trainer on real images and tiny networks: what it learns, repeats, and survives."""

import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_trainer import CNN, PLAIN, RESNET, STATEFUL, equal, measured, run, trainer_of, weights
from torch import Tensor
from torch.nn import functional

from study.config import SGD, Adam, Cosine, ResNet, TrialConfig
from study.data import Splits
from study.models import build_model
from study.trainer import Precision

pytestmark = pytest.mark.usefixtures("one_thread")


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


@pytest.mark.parametrize(("images", "steps"), [(64, 1), (65, 1), (66, 2), (129, 2), (193, 3)])
def test_a_last_batch_of_one_image_joins_the_one_before(images: int, steps: int, small_splits: Splits) -> None:
    """Six stages end in a 1×1 map, of which batch norm cannot take a single image; cosine ends with the last step."""
    few = small_splits._replace(
        train_images=small_splits.train_images[:images], train_labels=small_splits.train_labels[:images]
    )
    deep = ResNet("resnet", blocks=(1,) * 6, widths=(4,) * 6, stem=4)
    trainer = run(trainer_of(TrialConfig(deep, Adam(lr=1e-3), Cosine(), epochs=2, batch_size=64), few), 2)
    assert {int(state["step"]) for state in trainer.optimizer.state.values()} == {2 * steps}
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)
    for record in trainer.history:
        assert math.isfinite(record.train_loss)
        correct = record.train_accuracy * images
        assert correct == pytest.approx(round(correct), abs=1e-9)  # out of all of them


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
