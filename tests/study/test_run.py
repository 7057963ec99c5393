"""The real command on real images: what it leaves behind, and what becomes of trials that fail."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import psutil
import pytest
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from analysis import tables
from study import data, files, records, run
from study.data import FashionMNIST, Splits
from study.execution import Recorder
from study.plan import Plan
from study.probe import Speed
from study.progress import StageProgress
from study.records import EpochRecord, TrialRecord
from study.trainer import Trainer

pytestmark = pytest.mark.usefixtures("ray_cluster")

CORES = ["--cpus-per-trial", "1"]
QUICK = ["--space", "smoke.yaml", "--fidelity", "preview", *CORES]


def trials(folder: Path) -> dict[str, TrialRecord]:
    """Every trial of a study by its id."""
    return {r.trial_id: r for stage in records.STAGES for r in records.read_trials(folder, stage)}


def best_validation(folder: Path, record: TrialRecord) -> float:
    """The highest validation accuracy of a trial."""
    return max(epoch.val_accuracy for epoch in records.read_epochs(records.trial_folder(folder, record)))


def test_every_trial_is_recorded_with_its_end(finished: Path) -> None:
    everything = trials(finished)
    assert sorted(everything) == [
        "c0001",
        "c0002",
        "c0003",
        "c0004",
        "c0005",
        "c0006",
        *(f"s{n:04d}" for n in range(1, 5)),
    ]
    assert {r.status for r in everything.values()} == {"completed"}
    assert [everything[i].arm for i in ("s0001", "s0002", "s0003", "s0004")] == ["tiny_resnet", "tiny_cnn", None, None]
    confirmed = [r for r in everything.values() if r.stage == "confirm"]
    assert {(r.arm, r.seed) for r in confirmed} == {
        (arm, seed) for arm in ("tiny_resnet", "tiny_cnn", "candidate-1") for seed in (1, 2)
    }
    for record in everything.values():
        folder = records.trial_folder(finished, record)
        assert [e.epoch for e in records.read_epochs(folder)] == [1, 2]
        assert not (folder / "checkpoint.pt").exists()
        assert (record.test_accuracy is not None) == (folder / "predictions.parquet").exists()
        assert (record.test_accuracy is not None) == (record.stage == "confirm")


def test_the_candidate_is_the_best_searched_configuration_on_validation(finished: Path) -> None:
    everything = trials(finished)
    searched = [r for r in everything.values() if r.stage == "search" and r.arm is None]
    best = max(
        searched, key=lambda r: max(e.val_accuracy for e in records.read_epochs(records.trial_folder(finished, r)))
    )
    assert {r.config for r in everything.values() if r.arm == "candidate-1"} == {best.config}


def test_study_json_says_what_ran_on_what(finished: Path) -> None:
    about = json.loads((finished / "study.json").read_text())
    assert (about["status"], about["fidelity"], about["name"]) == ("finished", "full", "smoke")
    assert about["data"] == data.CHECKSUMS
    assert about["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert about["stages"]["search"]["epochs"] == 8
    assert about["stages"]["confirm"]["image_passes"] == 12 * 600


def test_optunas_journal_opens_and_holds_every_search_trial(finished: Path) -> None:
    storage = JournalStorage(JournalFileBackend(str(finished / "search" / "optuna.journal")))
    study = optuna.load_study(study_name="smoke", storage=storage)
    assert {t.user_attrs["trial_id"] for t in study.trials} == {"s0001", "s0002", "s0003", "s0004"}
    assert {t.state.name for t in study.trials} == {"COMPLETE"}
    best = max(best_validation(finished, r) for r in trials(finished).values() if r.stage == "search")
    assert study.best_value == best


def test_tensorboard_logs_are_written_for_every_trial(finished: Path) -> None:
    assert {path.name for path in (finished / "tensorboard").iterdir()} == set(trials(finished))


def alone(record: TrialRecord, splits: Splits) -> list[EpochRecord]:
    """A trial's epochs, trained again in this process with nothing beside it, on one core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert record.precision in ("bf16", "fp32")
    trainer = Trainer(record.config, record.seed, splits, torch.device("cpu"), record.precision)
    epochs = [trainer.run_epoch() for _ in range(record.max_epochs)]
    torch.set_num_threads(threads)
    return epochs


def losses(epochs: list[EpochRecord]) -> list[tuple[float, float]]:
    return [(epoch.train_loss, epoch.val_loss) for epoch in epochs]


def test_a_trial_of_a_study_gives_the_same_losses_as_one_alone(finished: Path, fashion_mnist: FashionMNIST) -> None:
    """To the last bit, at one core each."""
    record = next(r for r in trials(finished).values() if r.stage == "confirm" and r.arm == "tiny_cnn")
    recorded = records.read_epochs(records.trial_folder(finished, record))
    assert losses(alone(record, data.split(fashion_mnist, 600, 300, 10_000, seed=0))) == losses(recorded)


TWO_ARMS = """
model: {fashion_cnn: {channels: [32, 64], hidden: [64], dropout: 0.2}}
optimizer: {adam: {lr: {log: [1.0e-3, 1.0e-2]}}}
augmentation: {strength: 1, rotation: 10, translation: 0.1, flip: 0.5}
epochs: 3
batch_size: 64
arms:
  slow: {optimizer: {adam: {lr: 1.0e-3}}}
  fast: {optimizer: {adam: {lr: 3.0e-3}}}
split: {train: 12000, validation: 1000}
budget: {trials: 2, candidates: 0, seeds: 1}
preview: {test: 100}
"""


@pytest.mark.slow
def test_two_trials_at_a_time_give_the_same_losses_as_each_alone(tmp_path: Path, fashion_mnist: FashionMNIST) -> None:
    """To the last bit, at one core each."""
    space = tmp_path / "two.yaml"
    space.write_text(TWO_ARMS)
    command = ["--space", str(space), "--fidelity", "full", "--cpus-per-trial", "1", "--scheduler", "none"]
    assert run.main([*command, "--results", str(tmp_path)]) == 0
    pair = [record for record in trials(tmp_path / "two").values() if record.stage == "search"]
    recorded = [records.read_epochs(records.trial_folder(tmp_path / "two", record)) for record in pair]
    began, ended = min(record.started or 0 for record in pair), max(record.ended or 0 for record in pair)
    training = sum(epoch.seconds for epochs in recorded for epoch in epochs)
    assert training > ended - began, "one after the other: this shows nothing"
    splits = data.split(fashion_mnist, 12_000, 1000, 10_000, seed=0)
    assert [losses(alone(record, splits)) for record in pair] == [losses(epochs) for epochs in recorded]


def test_a_study_that_is_there_is_not_overwritten(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main([*QUICK, "--name", "smoke", "--results", str(finished.parent)]) == 2
    assert "--resume smoke" in capsys.readouterr().err


def test_a_failing_a_diverging_and_a_killed_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the one that raises, at every attempt, is failed for good, and only it makes the exit status 1.

    In confirm a worker dies once its trial has ended: that is the next one's to survive.
    """
    blocked = tmp_path / "results" / "faults" / "search" / "s0002" / "checkpoint.pt"
    blocked.mkdir(parents=True)  # a folder where the trial must write its checkpoint: saving raises
    space = tmp_path / "faults.yaml"
    arm = "{optimizer: {sgd: {lr: %s, momentum: 0.9, weight_decay: %s}}}"
    space.write_text(
        "model: {fashion_cnn: {channels: [8], hidden: [16]}}\n"
        "optimizer: {sgd: {lr: {log: [0.01, 0.1]}, momentum: 0.9}}\n"
        "epochs: 2\nbatch_size: 32\n"
        f"arms:\n  killed: {arm % (0.05, 0)}\n  raises: {arm % (0.04, 0)}\n  diverges: {arm % (100, 1)}\n"
        "split: {train: 600, validation: 300}\n"
        "budget: {trials: 3, candidates: 0, seeds: 1}\npreview: {test: 100}\n"
    )
    killed: list[str] = []
    original = Recorder.on_trial_result

    def kill_once(self: Recorder, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        original(self, iteration, trials, trial, result, **info)
        trial_id = trial.config["job"]["trial_id"]
        if (trial_id == "s0001" and not killed) or (trial_id[0] == "c" and result["done"] and len(killed) == 1):
            killed.append(trial_id)
            psutil.Process(result["pid"]).kill()

    monkeypatch.setattr(Recorder, "on_trial_result", kill_once)
    command = ["--space", str(space), "--fidelity", "preview", "--cpus-per-trial", "1"]
    assert run.main([*command, "--results", str(tmp_path / "results"), "--name", "faults"]) == 1
    found = {r.arm: r for r in trials(tmp_path / "results" / "faults").values() if r.stage == "search"}
    assert (killed[0], len(killed)) == ("s0001", 2)
    assert (found["killed"].status, found["killed"].attempts, found["killed"].error) == ("completed", 2, None)
    assert (found["raises"].status, found["raises"].stop_reason, found["raises"].attempts) == ("failed", "error", 3)
    assert "IsADirectoryError" in (found["raises"].error or "")
    assert (found["diverges"].status, found["diverges"].stop_reason) == ("diverged", "diverged")
    last = [r for r in trials(tmp_path / "results" / "faults").values() if r.stage == "confirm"]
    assert {r.arm: r.status for r in last} == {"killed": "completed", "raises": "completed", "diverges": "diverged"}
    assert {r.attempts for r in last} == {1}
    tables.build(tmp_path / "results" / "faults")
    table = pd.read_parquet(tmp_path / "results" / "faults" / "tables" / "trials.parquet").set_index("trial_id")
    assert table.loc["s0001":"s0003", "status"].tolist() == ["completed", "failed", "diverged"]
    assert table.loc["s0001":"s0003", "stop_reason"].tolist() == ["finished", "error", "diverged"]
    assert table.loc["s0001", "attempts"] == 2
    assert "IsADirectoryError" in table.loc["s0002", "error"]
    # The failed trial alone is why the status was 1: without it the same study ends with 0.
    blocked.rmdir()
    shutil.rmtree(blocked.parent)
    assert run.main(["--resume", "faults", "--results", str(tmp_path / "results")]) == 0


ONE_ARM = """
model: {fashion_cnn: {channels: [8], hidden: [16], dropout: 0.2}}
optimizer: {adam: {lr: {log: [1.0e-3, 1.0e-2]}}}
schedule: cosine
augmentation: {strength: 1, rotation: 10, translation: 0.1, flip: 0.5}
epochs: 3
batch_size: 32
arms: {only: {optimizer: {adam: {lr: 3.0e-3}}}}
split: {train: 600, validation: 300}
budget: {trials: 1, candidates: 0, seeds: 1}
preview: {test: 100}
"""


def test_an_interrupted_trial_goes_on_from_its_checkpoint(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fashion_mnist: FashionMNIST,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """No epoch is trained twice, and every loss is that of a run without interruption, to the last bit."""
    (tmp_path / "one.yaml").write_text(ONE_ARM)
    original = StageProgress.epoch_ended
    seen: list[int] = []

    def interrupt_after_the_first(self: StageProgress, record: TrialRecord, epoch: EpochRecord, best: float) -> None:
        original(self, record, epoch, best)
        if not seen:
            signal.raise_signal(signal.SIGINT)
        seen.append(epoch.epoch)

    monkeypatch.setattr(StageProgress, "epoch_ended", interrupt_after_the_first)
    results = ["--results", str(tmp_path / "results")]
    assert run.main(["--space", str(tmp_path / "one.yaml"), "--fidelity", "preview", *CORES, *results]) == 130
    assert capfd.readouterr().err.count("Stopping, which takes some seconds.") == 1
    assert run.main(["--resume", "one", *results]) == 0
    study = tmp_path / "results" / "one"
    [record] = records.read_trials(study, "search")
    epochs = records.read_epochs(records.trial_folder(study, record))
    assert [epoch.attempt for epoch in epochs] == sorted(epoch.attempt for epoch in epochs)
    assert (epochs[0].attempt, epochs[-1].attempt, record.attempts) == (1, 2, 2)
    lines = (records.trial_folder(study, record) / "epochs.jsonl").read_text().splitlines()
    assert len(lines) == 3
    assert losses(epochs) == losses(alone(record, data.split(fashion_mnist, 600, 300, 100, seed=0)))


def test_an_extended_study_searches_on_and_keeps_what_it_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also at the scale that it was fitted to."""
    results, space = ["--results", str(tmp_path)], tmp_path / "large.yaml"
    # No machine makes the full study in ten minutes, and there is one preview.
    text = ONE_ARM.replace("split: {train: 600, validation: 300}", "split: {train: 50000, validation: 10000}")
    text = text.replace("{trials: 1, candidates: 0, seeds: 1}", "{trials: 100000, candidates: 1, seeds: 2}")
    text = text.replace("epochs: 3", "epochs: 10000")
    small = "{train: 500, validation: 200, test: 100, epochs: 2, trials: 2, candidates: 1, seeds: 1, width: 1}"
    space.write_text(text.replace("{test: 100}", small))
    command = ["--space", str(space), "--fidelity", "10m", "--scheduler", "none", *CORES]
    assert run.main([*command, *results, "--name", "grown", "--trials", "3"]) == 0
    before = trials(tmp_path / "grown")
    assert {record.split for record in before.values()} == {"500 train, 200 validation, 100 test, seed 0"}
    assert {record.max_epochs for record in before.values()} == {2}
    assert "3 of 100,000 trials" in capsys.readouterr().out
    scale = files.read_json(tmp_path / "grown" / "scale.json")
    assert scale == files.read_json(tmp_path / "grown" / "study.json")["settings"]["scale"]
    assert run.main(["--resume", "grown", *results]) == 0
    assert trials(tmp_path / "grown") == before
    assert run.main(["--extend", "grown", "--trials", "1", *results]) == 0
    after = trials(tmp_path / "grown")
    assert {(r.split, r.max_epochs) for r in after.values()} == {(r.split, r.max_epochs) for r in before.values()}
    assert {i: after[i] for i in before} == before
    assert {i for i in set(after) - set(before) if i.startswith("s")} == {"s0004"}
    about = json.loads((tmp_path / "grown" / "study.json").read_text())
    assert about["resumed"] == 1  # where nothing was left, nothing was begun
    assert [noted["command"][3] for noted in (*about["earlier_runs"], about)] == ["--space", "--extend"]


FOUR = """
model: {fashion_cnn: {channels: [4], hidden: [8]}}
optimizer: {choice: [{sgd: {lr: {choice: [0.1, 0.01]}}}, {adam: {lr: {choice: [0.01, 0.001]}}}]}
epochs: 1
arms: {source: {optimizer: {adam: {lr: 0.001}}}}
split: {train: 100, validation: 100}
budget: {trials: 10, candidates: 5, seeds: 1}
preview: {test: 100}
"""


def test_a_space_of_four_configurations_is_over_after_four_trials(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = {"fashion_cnn 4 8": Speed(train=1000, evaluate=4000)}  # which it takes long to measure
    planned = Plan("cpu", "fp32", speeds, 1, 0.0, 2, search_seconds=0.0, confirm_seconds=0.0, disk_bytes=0)
    monkeypatch.setattr("study.choose.make_plan", lambda *_: planned)
    (tmp_path / "four.yaml").write_text(FOUR)
    results = ["--results", str(tmp_path)]
    command = ["--space", str(tmp_path / "four.yaml"), "--fidelity", "preview", "--scheduler", "none", *CORES]
    assert run.main([*command, *results]) == 0
    printed = capsys.readouterr().out
    assert "  space    4 configurations, none tried twice: 6 of 10 trials left over\n" in printed
    assert "  search   4 trials of up to 1 epoch, none\n  confirm  4 configurations × 1 seed\n" in printed
    assert "Every configuration of the space was tried: 6 trials left over\n" in printed
    assert "3 of 5 candidates: the space has no others\n" in printed
    assert "--extend" not in printed
    found = trials(tmp_path / "four")
    assert len(found) == 8
    assert len({record.config_id for record in found.values()}) == 4
    about = json.loads((tmp_path / "four" / "study.json").read_text())
    assert (about["budget"], about["settings"]["scale"]["budget"]["trials"]) == (
        {"trials": 4, "candidates": 3, "seeds": 1},
        10,
    )
    for options, needless in ((["--resume", "four"], "6 of 10"), (["--extend", "four", "--trials", "5"], "5 of 9")):
        assert run.main([*options, *results]) == 0
        printed = capsys.readouterr().out
        assert f"  space    4 configurations, none tried twice: {needless} trials left over\n" in printed
        assert "0 left\n  confirm  4 configurations × 1 seed, 0 left\n" in printed
    assert trials(tmp_path / "four") == found


@pytest.mark.slow
def test_the_one_epoch_rule_lets_the_best_three_go_on(tmp_path: Path) -> None:
    command = ["--space", "smoke.yaml", "--fidelity", "full", "--cpus-per-trial", "1", "--seeds", "1"]
    assert run.main([*command, "--results", str(tmp_path), "--scheduler", "one-epoch", "--trials", "5"]) == 0
    search = [r for r in trials(tmp_path / "smoke").values() if r.stage == "search"]
    epochs = {r.trial_id: records.read_epochs(records.trial_folder(tmp_path / "smoke", r)) for r in search}
    ranked = sorted(search, key=lambda r: -epochs[r.trial_id][0].val_accuracy)
    assert {r.status for r in ranked[:3]} == {"completed"}
    assert {(r.status, r.stop_reason) for r in ranked[3:]} == {("stopped", "one-epoch")}
    assert [len(epochs[r.trial_id]) for r in ranked] == [2, 2, 2, 1, 1]
    assert not list((tmp_path / "smoke").glob("*/*/checkpoint.pt"))


@pytest.mark.slow
def test_a_time_budget_ends_the_search_for_good_and_confirm_still_runs(tmp_path: Path) -> None:
    results = ["--results", str(tmp_path)]
    assert run.main([*QUICK, *results, "--time-budget", "0.1s"]) == 0
    search, confirm = (records.read_trials(tmp_path / "smoke", stage) for stage in records.STAGES)
    assert {r.stop_reason for r in search} == {"time-budget"}
    assert {r.arm for r in confirm if r.status == "completed"} == {"tiny_resnet", "tiny_cnn"}
    assert run.main(["--resume", "smoke", *results]) == 0
    assert records.read_trials(tmp_path / "smoke", "search") == search
    assert run.main(["--extend", "smoke", "--trials", "1", *results]) == 0
    *before, added = records.read_trials(tmp_path / "smoke", "search")
    assert (before, added.arm, added.status) == (search, None, "completed")


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main([*QUICK, "--results", str(tmp_path), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "3 trials of up to 2 epochs, " in printed
    assert "3 configurations × 2 seeds\n" in printed
    for part in ("1 core, ", " GiB each", "PREVIEW", "MiB"):
        assert part in printed
    assert list(tmp_path.iterdir()) == []


def test_the_plan_offers_the_one_epoch_rule_where_it_halves_the_search(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = tmp_path / "long.yaml"
    for epochs, trials, schedule, offered in (
        (27, 400, "one_cycle", False),
        (27, 400, "none", True),
        (2, 3, "none", False),
    ):
        text = ONE_ARM.replace("epochs: 3", f"epochs: {epochs}").replace("trials: 1", f"trials: {trials}")
        text = text.replace("schedule: cosine", f"schedule: {schedule}")
        space.write_text(text.replace("train: 600, validation: 300", "train: 50000, validation: 10000"))
        options = ["--space", str(space), "--fidelity", "full", *CORES, "--results", str(tmp_path), "--dry-run"]
        assert run.main(options) == 0
        printed = re.search(r"  instead  --scheduler one-epoch: a search of .+ and 478 epochs", capsys.readouterr().out)
        assert (printed is not None) == offered  # 478: 400 and 26 more of each of the best three
    assert run.main([*options, "--scheduler", "one-epoch"]) == 0
    assert "instead" not in capsys.readouterr().out


@pytest.mark.parametrize("path", sorted(Path(__file__).with_name("broken_spaces").glob("*.yaml")), ids=lambda p: p.stem)
def test_a_broken_space_gives_exit_status_2_and_starts_nothing(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(*_: Any, **__: Any) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("study.cluster.running", started)
    monkeypatch.setattr("study.choose.make_plan", started)
    assert run.main(["--space", str(path), "--results", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    for line in printed.err.splitlines():
        assert line.startswith(f"{path}:")
        assert ": got " in line
        assert ", must be " in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--space", "no-such.yaml"], "smoke.yaml"),
        (["--resume", "no-such"], "--resume: got no-such, must be one of: none"),
        (["--space", "smoke.yaml", "--name", "../outside"], "--name: got '../outside'"),
        (["--space", "smoke.yaml", "--name", "a" * 101], "--name: got"),
        (["--space", "smoke.yaml", "--trials", "1"], "--trials: got 1, must be at least 2"),
        (["--space", "smoke.yaml", "--data-dir", "/nowhere"], "--data-dir: got /nowhere"),
        (["--space", "smoke.yaml", "--cpus-per-trial", "4096"], "--cpus-per-trial: got 4096, must be at most"),
        (["--resume", "no-such", "--trials", "5"], "--resume: got --trials too"),
    ],
)
def test_bad_input_is_answered_in_one_message(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main([*arguments, "--results", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert os.listdir(tmp_path) == []


def test_a_stopped_trial_says_by_what(tmp_path: Path) -> None:
    space = tmp_path / "rungs.yaml"
    text = ONE_ARM.replace("{log: [1.0e-3, 1.0e-2]}", "{log: [1.0e-6, 1.0e-2]}").replace("trials: 1", "trials: 6")
    space.write_text(text)
    assert run.main(["--space", str(space), "--fidelity", "full", *CORES, "--results", str(tmp_path)]) == 0
    searched = records.read_trials(tmp_path / "rungs", "search")
    stopped = [record for record in searched if record.stop_reason == "asha"]
    assert stopped
    for record in stopped:
        assert record.stop_epoch == len(records.read_epochs(records.trial_folder(tmp_path / "rungs", record)))
        assert record.stop_accuracy is not None
        assert record.stop_threshold is not None
        assert record.stop_accuracy < record.stop_threshold
        assert record.stop_rank is not None
        assert record.stop_trials is not None
        assert 2 <= record.stop_rank <= record.stop_trials <= len(searched)
    others = [record for record in searched if record.stop_reason != "asha"]
    assert {record.stop_epoch for record in others} == {None}
