"""A report of 10,000 search trials × 30 epochs and 20 networks, two each of ten configurations: memory, page size."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from made_study import about, give_weights, write_probabilities
from scipy.special import softmax

from study import data, files, records
from study.config import SGD, Adam, Augmentation, FashionCNN, TrialConfig
from study.records import EpochRecord, TrialRecord

SEARCHED, EPOCHS, SEEDS, ARMS = 10_000, 30, 2, 8
SPACE = """
model: {fashion_cnn: {dropout: {uniform: [0.0, 0.5]}}}
optimizer: {choice: [{sgd: {lr: {log: [0.003, 0.3]}, momentum: {uniform: [0.8, 0.99]}}}, {adam: {lr: 0.001}}]}
augmentation: {strength: {uniform: [0, 1]}, rotation: 10, translation: 0.1, flip: 0.5}
epochs: 30
budget: {trials: 10000, candidates: 2, seeds: 2}
"""
RUN = """
import resource, sys
from analysis import report
status = report.main(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
print(status, used.ru_maxrss, round(used.ru_utime + used.ru_stime))
"""


def large(folder: Path) -> Path:
    """A finished study whose trials all ran to their end; its confirmed networks are small and of random weights."""
    folder.mkdir()
    files.write_json(folder / "study.json", about(folder.name, "full", finished=True))
    (folder / "space.yaml").write_text(SPACE)
    rng = np.random.default_rng(0)
    configs = [_config(rng) for _ in range(SEARCHED)]
    for number, config in enumerate(configs):
        _trial(folder, TrialRecord(f"s{number:04}", "search", config, 0), rng)
    labels = data.load().test_labels.astype(np.int8)
    shared = rng.normal(0, 1.2, (len(labels), 10)) + 5 * np.eye(10)[labels]  # what is hard is hard for all
    confirmed = {"candidate-1": configs[0], "candidate-2": configs[1]}
    confirmed |= {f"arm-{k}": dataclasses.replace(_config(rng), optimizer=Adam()) for k in range(ARMS)}
    for place, (arm, config) in enumerate(confirmed.items()):
        for seed in range(SEEDS):
            p = softmax(shared + rng.normal(0, 1, shared.shape), axis=1).astype(np.float32)
            right = float((p.argmax(axis=1) == labels).mean())
            small = dataclasses.replace(config, model=FashionCNN(channels=(8, 16, 16), hidden=(32,)))
            record = TrialRecord(f"c{place * SEEDS + seed:04}", "confirm", small, seed, arm)
            record = dataclasses.replace(record, train_accuracy_clean=0.97, train_loss_clean=0.1, test_accuracy=right,
                                         test_loss=0.3)  # fmt: skip
            _trial(folder, record, rng)
            write_probabilities(records.trial_folder(folder, record) / "predictions.parquet", p)
    return give_weights(folder)


def _config(rng: np.random.Generator) -> TrialConfig:
    optimizer = SGD(lr=float(10 ** rng.uniform(-2.5, -0.6)), momentum=float(rng.uniform(0.8, 0.99)))
    strength = Augmentation(float(rng.uniform()), rotation=10, translation=0.1, flip=0.5)
    model = FashionCNN(dropout=float(rng.uniform(0, 0.5)))
    return TrialConfig(model, optimizer if rng.uniform() < 0.7 else Adam(), augmentation=strength, epochs=EPOCHS)


def _trial(folder: Path, record: TrialRecord, rng: np.random.Generator) -> None:
    ended = {"status": "completed", "stop_reason": "finished", "max_epochs": EPOCHS, "best_epoch": EPOCHS}
    records.write_trial(folder, dataclasses.replace(record, attempts=1, **ended))
    rest = rng.uniform(0.05, 0.15) + 0.3 * 0.8 ** np.arange(EPOCHS) + rng.normal(0, 0.004, EPOCHS)
    for epoch, wrong in enumerate(rest.tolist(), start=1):
        line = EpochRecord(epoch, 0.05, 3 * wrong, 1.02 - wrong, 3.3 * wrong, 1 - wrong, 9.5, 18.0, 5200.0)
        records.append_epoch(records.trial_folder(folder, record), line)


@pytest.mark.slow
def test_ten_thousand_trials_and_twenty_networks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = large(tmp_path / "large")
    command = [sys.executable, "-c", RUN, "large", "--results", str(tmp_path), "--stress-images", "100"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    status, kib, seconds = map(int, done.stdout.splitlines()[-1].split())
    size = (folder / "report.html").stat().st_size
    with capsys.disabled():
        print(f"\n{seconds} s of processor time, {kib / 2**20:.2f} GiB, page {size / 2**20:.1f} MiB")
    assert status == 0
    assert len(pq.read_table(folder / "tables" / "epochs.parquet")) == (SEARCHED + (2 + ARMS) * SEEDS) * EPOCHS
    assert len(pq.read_table(folder / "tables" / "attention_checks.parquet")) == (2 + ARMS) * SEEDS * 2 * 4
    assert 'aria-label="Map of' in (folder / "report.html").read_text()
    assert kib <= 4 * 2**20
    assert size <= 15 * 2**20
