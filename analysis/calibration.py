"""How much a confirmed network's probabilities can be believed, as they are and after temperature scaling."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.metrics import brier_score_loss, log_loss

from analysis.failures import CONFIDENT
from study.data import CLASS_NAMES

Reals = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.integer[Any]]

BINS = 15
MEASURES = {
    "ece": "expected calibration error over 15 bins of equal size, in [0, 1], 0 is best",
    "brier": "Brier score, Σ over the classes, in [0, 2], 0 is best",
    "nll": "mean negative log-likelihood of the labels, nats",
    "aurc": "area under the risk-coverage curve, in [0, 1], 0 is best",
    "confident_if_wrong": "share of the errors with a confidence above 0.9; null where there is none",
    "wrong_if_confident": "error rate of the predictions with a confidence above 0.9; null where there is none",
    "claimed_if_confident": "error rate that those predictions claim: their mean of 1 - confidence; likewise",
}
COLUMNS = {
    "scaled": "whether the probabilities are after temperature scaling",
    "temperature": "what the logits are divided by; 1 before scaling, above 1 makes less confident",
    **MEASURES,
}


def calibration_error(confidence: Reals, right: npt.NDArray[np.bool_]) -> float:
    """Expected calibration error over bins of equal mass (as in Roelofs et al. 2022, arXiv:2012.08668).

    Σ_b n_b / N · |accuracy_b - mean confidence_b|, over predictions (N,) sorted by confidence.
    """
    order = np.argsort(confidence, kind="stable")
    parts = np.array_split((right.astype(np.float64) - confidence)[order], min(BINS, len(order)))
    return float(sum(abs(part.sum()) for part in parts) / len(order))


def risk_coverage_area(confidence: Reals, right: npt.NDArray[np.bool_]) -> float:
    """Mean over coverages 1/N … 1 of the error rate of the most confident predictions (Geifman et al. 2019,
    arXiv:1805.08206). Ties in confidence count in their mean order: the rate of a tied group is spread over it.
    """
    order = np.argsort(-confidence, kind="stable")
    wrong = pd.Series(~right[order]).groupby(-confidence[order]).transform("mean").to_numpy(np.float64)
    return float((np.cumsum(wrong) / np.arange(1, len(wrong) + 1)).mean())


def temperature(logits: Reals, label: Labels) -> float:
    """The T > 0 that gives softmax(logits / T) the least negative log-likelihood (Guo et al. 2017, arXiv:1706.04599).

    Between 1/20 and 20. Logits (N, K) of images that were not trained on, up to a constant for each image.
    """

    def loss(log_temperature: float) -> float:
        return -float(log_softmax(logits / np.exp(log_temperature), axis=1)[np.arange(len(label)), label].mean())

    end = np.log(20)
    return float(np.exp(minimize_scalar(loss, bounds=(-end, end), method="bounded", options={"xatol": 1e-4}).x))


def measure(probabilities: Reals, label: Labels) -> dict[str, float]:
    """All MEASURES of one network: probabilities (N, 10) of test images, label (N,).

    Brier score: mean over images of Σ_k (p_k - [label = k])² (Brier 1950). Negative log-likelihood: mean of
    -log p_label (Gneiting & Raftery 2007, doi:10.1198/016214506000001437, for both).
    """
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == label
    confident = confidence > CONFIDENT
    among = {"confident_if_wrong": confident[~right], "wrong_if_confident": ~right[confident],
             "claimed_if_confident": 1 - confidence[confident]}  # fmt: skip
    classes = np.arange(len(CLASS_NAMES))
    return {
        "ece": calibration_error(confidence, right),
        "brier": float(brier_score_loss(label, probabilities, labels=classes, scale_by_half=False)),
        "nll": float(log_loss(label, probabilities, labels=classes)),
        "aurc": risk_coverage_area(confidence, right),
        **{name: float(values.mean()) if len(values) else np.nan for name, values in among.items()},
    }


def calibration(val_logits: Reals, val_label: Labels, logits: Reals, label: Labels) -> pd.DataFrame:
    """One network's rows of the table `calibration`: as it is, and scaled by the temperature that suits `val_logits`.

    Logits (N, 10) and labels (N,) of the validation and of the test images. Columns: COLUMNS. Not from probabilities:
    rounded to 0 or 0.00001, they would come back too large once they are scaled.
    """
    rows = [
        {"scaled": after, "temperature": by, **measure(softmax(logits / by, axis=1), label)}
        for after, by in ((False, 1.0), (True, temperature(val_logits, val_label)))
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def unscaled(predictions: pd.DataFrame) -> pd.DataFrame:
    """The first of these rows, from a trial's rows of the table `predictions`, where there is no network to ask."""
    found = predictions[[f"p_{k}" for k in range(len(CLASS_NAMES))]].to_numpy(np.float64)
    measured = measure(found / found.sum(axis=1, keepdims=True), predictions.label.cat.codes.to_numpy())
    return pd.DataFrame([{"scaled": False, "temperature": 1.0, **measured}], columns=list(COLUMNS))
