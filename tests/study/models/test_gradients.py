"""Networks train to the gradients that float64 gives, with whatever instructions oneDNN finds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("gradients.py")
ROOT = PROGRAM.parents[3]
# Memory that malloc hands out holds 0x7f7f…, 3e38 in bf16, so that what nobody wrote is seen.
FILLED = {"MALLOC_PERTURB_": "128", "OMP_WAIT_POLICY": "passive", "PYTHONPATH": str(ROOT)}


def run(instructions: str, first: int, count: int) -> None:
    environment = os.environ | FILLED | {"ONEDNN_MAX_CPU_ISA": instructions}
    command = [sys.executable, str(PROGRAM), str(first), str(count)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, f"{instructions}: status {done.returncode}: {done.stderr[-2000:]}"
    assert int(done.stdout) > 4800 + 100 * count


@pytest.mark.parametrize("instructions", ["DEFAULT", "AVX2"])
def test_blocks_and_some_networks(instructions: str) -> None:
    run(instructions, 12, 4)


@pytest.mark.slow
@pytest.mark.parametrize("instructions", ["DEFAULT", "AVX512_CORE_BF16", "AVX512_CORE", "AVX2", "SSE41"])
def test_a_hundred_networks(instructions: str) -> None:
    run(instructions, 0, 100)
