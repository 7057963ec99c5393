"""Many short trials in one study: what the driver holds does not grow with them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import psutil
import pytest
from real_study import Study

TRIALS, SETTLED = 300, 50
GROWTH = 100 * 2**20
SPACE = f"""
model: {{resnet: {{blocks: [1], widths: [2], stem: 2}}}}
optimizer: {{sgd: {{lr: {{log: [0.001, 0.1]}}}}}}
schedule: none
epochs: 3
arms:
  only: {{optimizer: {{sgd: {{lr: 0.01}}}}}}
split: {{train: 100, validation: 100}}
budget: {{trials: {TRIALS}, candidates: 0, seeds: 1}}
"""


@pytest.mark.faults
def test_memory_and_open_files_do_not_grow_with_trials(tmp_path: Path) -> None:
    study = Study(tmp_path / "results", SPACE)
    seen: list[tuple[int, int]] = []

    def watch(driver: subprocess.Popen[str]) -> None:
        process = psutil.Process(driver.pid)
        for line in study.lines():
            if f"/{TRIALS} trials," in line:
                seen.append((process.memory_info().rss, process.num_fds()))
            if len(seen) == TRIALS:
                return

    assert study.run(watch) == 0
    shutil.rmtree(study.temporary)
    settled, most = seen[SETTLED][0], max(memory for memory, _ in seen[SETTLED:])
    half = (SETTLED + TRIALS) // 2
    files, most_files = (max(files for _, files in part) for part in (seen[SETTLED:half], seen[half:]))
    print(
        f"\nafter {SETTLED} trials {settled / 2**20:.0f} MiB, until {TRIALS} at most {most / 2**20:.0f} MiB;"
        f" open files at most {files}, in the second half {most_files}"
    )
    assert most - settled <= GROWTH
    assert most_files <= files
