"""A real study, disturbed at random moments until it has had enough: nothing is lost, and nothing is left behind.

`make test-faults` runs all of it, some 50 minutes on two cores, and prints what each kind of fault has cost.
"""

from __future__ import annotations

import os
import random
import re
import secrets
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from ray.cluster_utils import Cluster
from real_study import Study, left_alone

from study.records import EpochRecord

SPACE = """
model: {fashion_cnn: {dropout: {uniform: [0.0, 0.5]}}}
optimizer: {choice: [{sgd: {lr: {log: [0.01, 0.1]}}}, {adam: {lr: {log: [1.0e-4, 1.0e-2]}}}]}
schedule: {choice: [none, cosine]}
augmentation: {strength: {uniform: [0, 1]}, rotation: 10, flip: 0.5}
epochs: 5
arms:
  baseline: {model: fashion_cnn, optimizer: {adam: {lr: 1.0e-3}}, schedule: none, augmentation: {strength: 0}}
  augmented:
    model: fashion_cnn
    optimizer: {adam: {lr: 1.0e-3}}
    schedule: none
    augmentation: {strength: 1, rotation: 10, flip: 0.5}
split: {train: 5000, validation: 1000}
budget: {trials: 6, candidates: 1, seeds: 3}
"""
pytestmark = pytest.mark.faults

TRIALS, RUNS = 6, 9  # of the search and of confirm
RUNGS = (1, 3)  # epochs
LONGEST_S = 20.0  # that a run is left alone
Fault = Callable[[subprocess.Popen[str]], bool]  # whether it could be done


@pytest.fixture(scope="module", autouse=True)
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """That of this user, for the clusters that are started here."""
    file = tmp_path_factory.mktemp("ray") / "auth_token"
    file.touch(0o600)
    file.write_text(secrets.token_hex(32))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RAY_AUTH_TOKEN_PATH", str(file))
        yield


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Study:
    study = Study(tmp_path_factory.mktemp("undisturbed") / "results", SPACE)
    assert study.run(left_alone) == 0
    return study


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Study]:
    made = Study(tmp_path / "results", SPACE)
    yield made
    shutil.rmtree(made.temporary)


def losses(epochs: list[EpochRecord]) -> list[tuple[float, float]]:
    return [(epoch.train_loss, epoch.val_loss) for epoch in epochs]


def check(study: Study, undisturbed: Study) -> str:
    """That all was trained, and came out as in a study left alone; returns what can be said of that."""
    found, expected = study.trials(), undisturbed.trials()
    ids = [record.trial_id for record, _ in found.values()]
    assert sorted(ids) == [f"c{n:04d}" for n in range(1, RUNS + 1)] + [f"s{n:04d}" for n in range(1, TRIALS + 1)]
    assert {record.status for record, _ in found.values()} == {"completed"}
    assert found.keys() == expected.keys()  # of six trials all are drawn at random: TPE would heed which ended first
    for key, (record, epochs) in found.items():
        alone, course = expected[key]
        assert losses(epochs) == losses(course)
        assert (record.test_accuracy, record.test_loss) == (alone.test_accuracy, alone.test_loss)
        assert record.train_loss_clean == alone.train_loss_clean
    return f"{len(found)} trials and {sum(len(epochs) for _, epochs in found.values())} epochs equal to the last bit"


class RandomMoments:
    """Disturbs a study after random times, seconds up to `longest`, until a fault has been done `times` times.

    Three times in four the time counts from when an epoch has ended, for the later half of the faults one of confirm;
    `met` counts of which stage, "" for the others.
    """

    def __init__(self, name: str, study: Study, fault: Fault, times: int, longest: float) -> None:
        self.study, self.fault, self.left, self.longest = study, fault, times, longest
        self.of_confirm = times // 2
        self.draws, self.met = random.Random(name), Counter[str]()

    def __call__(self, process: subprocess.Popen[str]) -> None:
        while self.left:
            stage = self._epoch_ended() if self.draws.random() < 0.75 else ""
            try:
                process.wait(timeout=self.draws.uniform(0, self.longest))
            except subprocess.TimeoutExpired:
                if self.fault(process):
                    self.left -= 1
                    self.met[stage] += 1
            else:
                return

    def _epoch_ended(self) -> str:
        """Wait for one that the run shows; its stage, or nothing where the run has ended."""
        of = "c" if self.left <= self.of_confirm else "sc"
        shown = (re.search(rf"#([{of}])\d+  epoch ", line) for line in self.study.new_lines())
        found = next(filter(None, shown), None)
        return {"s": "search", "c": "confirm"}[found[1]] if found else ""


def kill(driver: subprocess.Popen[str]) -> bool:
    driver.kill()
    driver.wait()
    return True


def interrupt(driver: subprocess.Popen[str]) -> bool:
    driver.send_signal(signal.SIGINT)
    return True


def terminate(driver: subprocess.Popen[str]) -> bool:
    driver.send_signal(signal.SIGTERM)
    return True


def terminate_all(driver: subprocess.Popen[str]) -> bool:
    """As `timeout`, Slurm and systemd do."""
    os.killpg(driver.pid, signal.SIGTERM)
    return True


class KillAWorker:
    """Not of a trial that got no further since it was last killed: three times, and it fails for good."""

    def __init__(self) -> None:
        self.study: Study | None = None
        self.killed: set[tuple[str, int]] = set()

    def __call__(self, driver: subprocess.Popen[str]) -> bool:
        assert self.study is not None
        children = psutil.Process(driver.pid).children(recursive=True)
        random.Random(len(self.killed)).shuffle(children)
        for child in children:
            with suppress(psutil.Error, IndexError):
                title = child.cmdline()[0]
                if title.startswith("ray::fashion_cnn"):
                    epochs = [*self.study.folder.glob(f"*/{title.rpartition('#')[2]}/epochs.jsonl")]
                    state = (f"{self.study.folder} {title}", sum(path.stat().st_size for path in epochs))
                    if state not in self.killed:
                        self.killed.add(state)
                        child.kill()
                        return True
        return False


def disturbed(study: Study, undisturbed: Study, moments: RandomMoments, statuses: set[int], *options: str) -> str:
    """Run studies until the fault has been done often enough, each to its end; returns what that has cost.

    Checkpoints of this network are cheap enough to be written after every epoch, and before it is recorded: none is
    trained again, unless the disk is slow.
    """
    studies, again, faults = 0, 0, moments.left
    while moments.left:
        studies += 1
        study.results = study.results.with_name(f"results{studies}")
        study.folder = study.results / "space"
        while (status := study.run(moments, *options)) != 0:
            assert status in statuses, study.log.read_text()[-3000:]
            if (study.folder / "search").exists():
                study.trials()  # can be read
        said = check(study, undisturbed)
        again += study.epochs_again()
    assert again <= faults
    assert faults < 10 or {"search", "confirm"} <= moments.met.keys()
    met = ", ".join(f"{count} in {stage or 'any'}" for stage, count in sorted(moments.met.items()))
    runs = len(study.statuses)
    return f"({met}) {studies} studies in {runs} runs, {again} epochs trained again that had been recorded; {said}"


@pytest.mark.parametrize(
    ("name", "fault", "times", "longest", "statuses"),
    [
        ("driver killed", kill, 20, LONGEST_S, {-signal.SIGKILL}),
        ("Ctrl-C", interrupt, 10, LONGEST_S, {130, -signal.SIGINT}),
        ("driver terminated", terminate, 5, LONGEST_S, {130, -signal.SIGTERM}),
        ("all processes terminated", terminate_all, 5, LONGEST_S, {130, -signal.SIGTERM}),
        ("worker killed", KillAWorker(), 20, 8.0, set()),
    ],
)
def test_a_disturbed_study_ends_as_one_left_alone(
    name: str, fault: Fault, times: int, longest: float, statuses: set[int], study: Study, undisturbed: Study
) -> None:
    if isinstance(fault, KillAWorker):
        fault.study = study
    said = disturbed(study, undisturbed, RandomMoments(name, study, fault, times, longest), statuses)
    if fault is kill:  # but in the seconds before a study is begun, or again
        assert study.log.read_text().count("The study was killed. Nothing that ended is lost. To go on: ") >= times // 2
    print(f"\n{name} {times} times: {said}")


def test_ctrl_c_is_held_down(study: Study) -> None:
    """As a terminal sends it: to all that it started, too."""

    def hold(driver: subprocess.Popen[str]) -> None:
        next(line for line in study.lines() if " epoch 1/" in line)
        while driver.poll() is None:
            os.killpg(driver.pid, signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                driver.wait(timeout=0.03)

    assert study.run(hold) == 130
    assert "Traceback" not in study.log.read_text()


def test_it_is_suspended_for_a_minute(study: Study, undisturbed: Study) -> None:
    def suspend(driver: subprocess.Popen[str]) -> None:
        next(line for line in study.lines() if " epoch 2/" in line)
        for process in (stopped := [*study.processes()]):
            process.suspend()
        with pytest.raises(subprocess.TimeoutExpired):
            driver.wait(timeout=60)
        for process in stopped:
            process.resume()

    assert study.run(suspend) == 0
    print(f"\nsuspended: {check(study, undisturbed)}")


def test_nobody_reads_what_it_prints(study: Study) -> None:
    """As `| tee` does not after Ctrl-C, which ends both."""
    driver = study.begin(stderr=subprocess.PIPE)
    assert driver.stdout is not None
    assert driver.stderr is not None
    next(line for line in driver.stdout if " epoch 1/" in line)
    driver.stdout.close()
    os.killpg(driver.pid, signal.SIGINT)
    said = driver.stderr.read()
    assert driver.wait() == 130
    assert "Traceback" not in said
    study.ended_as_said(130, said.splitlines())
    study.nothing_is_left()


def test_what_asha_has_stopped_stays_stopped(study: Study) -> None:
    """The driver killed or interrupted between an epoch and the end of its trial, too: none goes past its rung."""
    study.scheduler = "asha"
    for name, fault in (("ASHA, driver killed", kill), ("ASHA, Ctrl-C", interrupt)):
        study.results = study.results.with_name(name)
        study.folder = study.results / "space"
        moments, before = RandomMoments(name, study, fault, 10, 4.0), len(study.statuses)
        while study.run(moments) != 0:
            assert study.statuses[-1] in (-signal.SIGKILL, -signal.SIGINT, 130), study.log.read_text()[-3000:]
        trials = study.trials().values()
        assert len(trials) in (TRIALS + RUNS, TRIALS + RUNS - 3)  # it may let no candidate run to its end
        assert {record.status for record, _ in trials} == {"completed", "stopped"}
        for record, epochs in trials:
            assert [epoch.stopped for epoch in epochs[:-1]] == [False] * (len(epochs) - 1)
            assert epochs[-1].stopped == (record.status == "stopped")
            assert record.status == "completed" or epochs[-1].epoch in RUNGS
        assert moments.met["search"]
        assert any(record.attempts > 1 for record, _ in trials)
        stopped, runs = sum(record.status == "stopped" for record, _ in trials), len(study.statuses) - before
        print(f"\n{name} 10 times, {dict(moments.met)}: {runs} runs, {stopped} of {TRIALS} trials stopped")


def test_a_study_that_is_removed_while_it_runs_stays_removed(study: Study) -> None:
    def remove(driver: subprocess.Popen[str]) -> None:
        next(line for line in study.lines() if " epoch 1/" in line)
        study.folder.rename(study.folder.with_name("elsewhere"))

    assert study.run(remove) == 74
    assert not study.folder.exists()
    assert study.log.read_text().splitlines()[-1].endswith("The folder of the study is gone.")


def test_nodes_of_a_cluster_are_lost(study: Study, undisturbed: Study) -> None:
    """Three nodes of one core each, of which the oldest goes, and another comes."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(3)]

        def lose(_: subprocess.Popen[str]) -> bool:
            cluster.remove_node(nodes.pop(0), allow_graceful=False)  # the longest at work
            nodes.append(cluster.add_node(num_cpus=1))
            return True

        moments = RandomMoments("nodes", study, lose, 5, LONGEST_S)
        said = disturbed(study, undisturbed, moments, set(), "--address", cluster.address)
        assert any(record.attempts > 1 for record, _ in study.trials().values())
    finally:
        cluster.shutdown()
    print(f"\nnode lost 5 times: {said}")


def test_the_driver_of_a_study_on_a_cluster_is_killed(study: Study, undisturbed: Study) -> None:
    """Its workers are the cluster's, and end a little later."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        moments = RandomMoments("driver on a cluster", study, kill, 5, LONGEST_S)
        said = disturbed(study, undisturbed, moments, {-signal.SIGKILL}, "--address", cluster.address)
    finally:
        cluster.shutdown()
    print(f"\ndriver on a cluster killed 5 times: {said}")


def test_the_folder_becomes_read_only(study: Study, undisturbed: Study) -> None:
    def protect(driver: subprocess.Popen[str]) -> None:
        next(line for line in study.lines() if " epoch 2/" in line)
        folders = [study.folder, *filter(Path.is_dir, study.folder.rglob("*"))]
        for folder in folders:
            folder.chmod(0o555)
        driver.wait()
        for folder in folders:
            folder.chmod(0o755)

    if os.geteuid() == 0:  # who may write everywhere, but for this
        study.under = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    assert study.run(protect) == 74
    assert "Traceback" not in study.log.read_text()
    message = study.log.read_text().splitlines()[-1]
    assert "Permission denied" in message
    assert "Nothing that ended is lost. To go on: " in message
    assert study.run(left_alone) == 0
    print(f"\nresults read-only: {check(study, undisturbed)}", message, sep="\n")


def test_the_temporary_folder_fills(study: Study, undisturbed: Study) -> None:
    small_disk(study.temporary, "200m")
    filler = study.temporary / "filler"

    def fill_up(driver: subprocess.Popen[str]) -> None:
        next(line for line in study.lines() if " epoch 2/" in line)
        fill(filler)
        driver.wait()
        filler.unlink()

    try:
        assert study.run(fill_up) == 74
        assert "Traceback" not in study.log.read_text()
        message = study.log.read_text().splitlines()[-1]
        assert re.search(rf"No space left on device.*\(0 MiB free in {study.temporary}, ", message)
        assert study.run(left_alone) == 0
        print(f"\ntemporary folder full: {check(study, undisturbed)}", message, sep="\n")
    finally:
        subprocess.run(["umount", str(study.temporary)], check=True)


def small_disk(folder: Path, size: str) -> None:
    folder.mkdir(exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], check=False).returncode:
        pytest.skip("mounting a small disk needs root")


def fill(path: Path) -> None:
    """With a file that takes all room there is."""
    with path.open("wb", buffering=0) as file:
        for size in (2**20, 1):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))


def test_the_disk_fills(study: Study, undisturbed: Study, tmp_path: Path) -> None:
    """Whoever writes next meets it; room is made when the run has ended."""
    disk = tmp_path / "disk"
    small_disk(disk, "400m")
    filler, study.results = disk / "filler", disk / "results"
    messages: set[str] = set()

    def fill_up(driver: subprocess.Popen[str]) -> bool:
        fill(filler)
        ended = driver.wait()
        filler.unlink()
        list(study.lines())  # until all is in the log
        if ended:
            messages.add(study.log.read_text().splitlines()[-1])
        return ended != 0

    try:
        said = disturbed(study, undisturbed, RandomMoments("disk", study, fill_up, 10, LONGEST_S), {74})
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert "Traceback" not in study.log.read_text()
    assert messages
    assert all("No space left on device" in message for message in messages)
    print(f"\ndisk full 10 times: {said}", *messages, sep="\n")
