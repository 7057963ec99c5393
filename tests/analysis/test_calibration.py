"""Calibration: against direct computations and scikit-learn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import softmax
from sklearn.metrics import brier_score_loss, log_loss

from analysis import rerun
from analysis.attention import normalised
from analysis.calibration import (
    COLUMNS,
    calibration,
    calibration_error,
    measure,
    risk_coverage_area,
    temperature,
    unscaled,
)
from study.config import FashionCNN, TrialConfig
from study.data import CLASS_NAMES, Splits
from study.models import build_model

N = 3000


@pytest.fixture(scope="module")
def logits() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 2, (N, 10))


@pytest.fixture(scope="module")
def label(logits: np.ndarray) -> np.ndarray:
    """Drawn from the logits' own probabilities: these are calibrated."""
    rng = np.random.default_rng(1)
    return np.array([rng.choice(10, p=p) for p in softmax(logits, axis=1)])


def test_the_error_is_that_of_bins_filled_one_by_one(logits: np.ndarray, label: np.ndarray) -> None:
    p = softmax(2 * logits, axis=1)
    confidence, right = p.max(axis=1), p.argmax(axis=1) == label
    ranked, size, expected = sorted(range(N), key=lambda i: confidence[i]), N // 15, 0.0
    for start in range(0, N, size):
        members = ranked[start : start + size]
        expected += len(members) / N * abs(np.mean(right[members]) - np.mean(confidence[members]))
    assert calibration_error(confidence, right) == pytest.approx(expected)


def test_fewer_predictions_than_bins_are_a_bin_each() -> None:
    assert calibration_error(np.array([0.6, 0.9]), np.array([True, False])) == pytest.approx((0.4 + 0.9) / 2)


def test_calibrated_probabilities_have_a_small_error(logits: np.ndarray, label: np.ndarray) -> None:
    right, sharp = measure(softmax(logits, axis=1), label), measure(softmax(3 * logits, axis=1), label)
    assert right["ece"] < 0.03 < 0.1 < sharp["ece"]
    assert right["wrong_if_confident"] == pytest.approx(right["claimed_if_confident"], abs=0.03)
    assert sharp["wrong_if_confident"] > sharp["claimed_if_confident"] + 0.1


def test_brier_and_nll_are_sums_over_images(logits: np.ndarray, label: np.ndarray) -> None:
    p = softmax(logits, axis=1)
    found = measure(p, label)
    direct = sum((p[i, k] - (k == label[i])) ** 2 for i in range(N) for k in range(10)) / N
    assert found["brier"] == pytest.approx(direct)
    assert found["brier"] == pytest.approx(2 * brier_score_loss(label, p, scale_by_half=True))
    assert found["nll"] == pytest.approx(-sum(np.log(p[i, label[i]]) for i in range(N)) / N)
    assert found["nll"] == pytest.approx(log_loss(label, p))


def test_the_risk_coverage_area_is_the_mean_of_the_risks() -> None:
    confidence, right = np.array([0.9, 0.5, 0.7, 0.6]), np.array([True, False, False, True])
    assert risk_coverage_area(confidence, right) == pytest.approx((0 + 1 / 2 + 1 / 3 + 2 / 4) / 4)


def test_the_order_of_ties_does_not_matter_to_the_area() -> None:
    right = np.arange(10) % 3 == 0
    areas = [risk_coverage_area(np.full(10, 0.5), order) for order in (right, right[::-1])]
    assert areas == pytest.approx([1 - right.mean()] * 2)


@pytest.mark.parametrize("by", [0.4, 1.0, 2.5])
def test_the_temperature_undoes_a_scaling(logits: np.ndarray, label: np.ndarray, by: float) -> None:
    assert temperature(by * logits, label) == pytest.approx(by, rel=0.08)


def test_the_temperature_is_the_best_of_a_grid(logits: np.ndarray, label: np.ndarray) -> None:
    grid = np.geomspace(0.1, 10, 400)
    losses = [log_loss(label, softmax(3 * logits / by, axis=1)) for by in grid]
    assert temperature(3 * logits, label) == pytest.approx(grid[np.argmin(losses)], rel=0.02)


def test_a_network_has_a_row_before_scaling_and_one_after(logits: np.ndarray, label: np.ndarray) -> None:
    half = N // 2
    table = calibration(3 * logits[:half], label[:half], 3 * logits[half:], label[half:])
    assert list(table.columns) == list(COLUMNS)
    assert table.scaled.tolist() == [False, True]
    assert table.temperature.tolist() == [1.0, pytest.approx(3, rel=0.1)]
    assert table.ece[1] < 0.04 < table.ece[0]
    expected = measure(softmax(3 * logits[half:] / table.temperature[1], axis=1), label[half:])
    assert table.loc[1, list(expected)].to_dict() == pytest.approx(expected)


def test_what_is_far_from_likely_stays_so_when_it_is_scaled(label: np.ndarray) -> None:
    """Of probabilities that were rounded, each class would get some 0.3 %."""
    logits = np.where(np.arange(10) == label[:, None], 40.0, 0.0)
    table = calibration(logits * np.where(np.arange(N) % 2, 1, -1)[:, None], label, logits, label)
    assert table.temperature[1] > 19
    assert table.nll[1] == pytest.approx(np.log1p(9 * np.exp(-40 / table.temperature[1])))


def test_without_a_network_the_predictions_give_the_first_row(logits: np.ndarray, label: np.ndarray) -> None:
    p = softmax(3 * logits, axis=1)
    rows = pd.DataFrame({f"p_{k}": p[:, k] for k in range(10)})
    rows["label"] = pd.Categorical.from_codes(label, CLASS_NAMES, ordered=True)
    pd.testing.assert_frame_equal(unscaled(rows), calibration(logits, label, 3 * logits, label).head(1))


@pytest.mark.usefixtures("one_thread")
def test_temperatures_are_fitted_in_the_precision_of_the_training(small_splits: Splits) -> None:
    config, images, label = TrialConfig(model=FashionCNN()), small_splits.val_images, small_splits.val_labels
    network = build_model(config.model, 0).eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        logits = network(normalised(images, config.mean, config.std)).double().numpy()
    fitted = {
        precision: rerun._calibrate(network, config, precision, (images, label, images, label)).temperature[1]
        for precision in ("bf16", "fp32")
    }
    assert fitted["bf16"] == temperature(logits, label) != fitted["fp32"]
