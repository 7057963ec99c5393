"""Techniques of training against torch, torchvision and hand computations; each is resumed to the last bit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made_trainer import CNN, PLAIN, equal, measured, run, trainer_of, weights
from torch.nn import functional
from torchvision.transforms import v2

from study.config import Augmentation, FashionCNN, OneCycle, RMSprop, TrialConfig
from study.data import Splits

pytestmark = pytest.mark.usefixtures("one_thread")
DEEP = FashionCNN(channels=(4, 8), convolutions=2, kernel=5, hidden=(16,))
TECHNIQUES: dict[str, TrialConfig] = {
    "averaged weights": replace(PLAIN, ema=0.9),
    "mixup": replace(PLAIN, mixup=0.4),
    "cutmix": replace(PLAIN, cutmix=1.0),
    "both mixtures": replace(PLAIN, mixup=0.4, cutmix=1.0, label_smoothing=0.1),
    "test-time flips": replace(PLAIN, flip_test=True),
    "one cycle, crops, deeper blocks": replace(
        PLAIN, model=DEEP, schedule=OneCycle(), augmentation=Augmentation(1, crop=2, reflect=True, flip=0.5), ema=0.95
    ),
    "RMSprop": replace(PLAIN, optimizer=RMSprop(lr=1e-3, momentum=0.5)),
}


@pytest.mark.parametrize("config", TECHNIQUES.values(), ids=TECHNIQUES.keys())
def test_each_repeats_and_goes_on_to_the_last_bit(config: TrialConfig, small_splits: Splits, tmp_path: Path) -> None:
    through = run(trainer_of(config, small_splits), 1)
    through.save(tmp_path / "checkpoint.pt")
    run(through, 2)
    again = run(trainer_of(config, small_splits), 3)
    assert measured(again.history) == measured(through.history)
    resumed = trainer_of(config, small_splits)
    resumed.load(tmp_path / "checkpoint.pt")
    run(resumed, 2)
    assert measured(resumed.history) == measured(through.history)
    assert equal(weights(resumed), weights(through))
    assert resumed.finish() == through.finish()


@pytest.mark.parametrize("config", TECHNIQUES.values(), ids=TECHNIQUES.keys())
def test_each_changes_something(config: TrialConfig, small_splits: Splits) -> None:
    found, plain = (run(trainer_of(c, small_splits), 2).history[-1] for c in (config, PLAIN))
    assert (found.train_loss, found.val_loss) != (plain.train_loss, plain.val_loss)


def test_averaged_weights_are_the_average_of_every_step(small_splits: Splits) -> None:
    """With decays of 2/11, 3/12, … to 0.9 at most, of weights and of batch norm's statistics; by hand."""
    trainer = trainer_of(replace(PLAIN, ema=0.9), small_splits)
    expected: dict[str, torch.Tensor] = {}
    steps = 0
    update = trainer.averaged.update_parameters  # type: ignore[union-attr]

    def note(model: torch.nn.Module) -> None:
        nonlocal steps
        state = {k: v.clone() for k, v in model.state_dict().items() if v.is_floating_point()}
        decay = min(0.9, (1 + steps) / (10 + steps)) if steps else 0.0
        for name, value in state.items():
            expected[name] = decay * expected.get(name, value) + (1 - decay) * value
        steps += 1
        update(model)

    trainer.averaged.update_parameters = note  # type: ignore[union-attr, method-assign]
    run(trainer, 3)
    assert steps == 3 * trainer.steps > 20
    found = trainer.evaluated.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(found["classifier.linear_out.weight"], weights(trainer)["classifier.linear_out.weight"])


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_batches_are_mixed_as_torchvision_mixes_them(kind: str, small_splits: Splits) -> None:
    trainer = trainer_of(replace(PLAIN, **{kind: 0.7}), small_splits)
    images, labels = torch.rand(8, 1, 28, 28), torch.arange(8)
    theirs = {"mixup": v2.MixUp, "cutmix": v2.CutMix}[kind](alpha=0.7, num_classes=10)
    assert trainer.mix is not None
    torch.manual_seed(3)
    mixed, targets = trainer.mix(images, labels)
    torch.manual_seed(3)
    v2.RandomChoice([theirs])  # it draws which before
    torch.multinomial(torch.tensor([1.0]), 1)
    expected = theirs(images, labels)
    assert torch.equal(mixed, expected[0])
    assert torch.equal(targets, expected[1])
    assert torch.allclose(targets.sum(1), torch.ones(8))
    share = targets[torch.arange(8), labels]
    if kind == "mixup":
        torch.testing.assert_close(
            mixed, share[:, None, None, None] * images + (1 - share)[:, None, None, None] * images.roll(1, 0)
        )


def test_flips_at_test_time_average_the_logits_of_both(small_splits: Splits) -> None:
    trainer = run(trainer_of(replace(PLAIN, flip_test=True), small_splits), 1)
    plain = run(trainer_of(PLAIN, small_splits), 1)
    assert equal(weights(trainer), weights(plain)), "training is the same"
    images = torch.from_numpy(small_splits.test_images.copy())[:, None].float() / 255
    inputs = (images - PLAIN.mean) / PLAIN.std
    network = plain.model.eval()
    with torch.inference_mode():
        expected = functional.softmax((network(inputs) + network(inputs.flip(-1))) / 2, 1).numpy()
    assert abs(trainer.predict(small_splits.test_images) - expected).max() < 1e-5


def test_deeper_blocks_and_larger_kernels_have_the_shapes_that_they_say() -> None:
    from study.models import build_model

    network = build_model(DEEP, 0)
    convolutions = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.kernel_size) for c in convolutions] == [
        (1, 4, (5, 5)),
        (4, 4, (5, 5)),
        (4, 8, (5, 5)),
        (8, 8, (5, 5)),
    ]
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    with pytest.raises(ValueError, match="got a kernel of 2 pixels, must be odd"):
        build_model(replace(CNN, kernel=2), 0)
