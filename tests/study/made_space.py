"""Spaces for tests: texts, and the space that a text makes."""

from __future__ import annotations

import tempfile
from pathlib import Path

from study import space_file
from study.space import Space

SCRATCH = tempfile.TemporaryDirectory()

TINY = """
optimizer: {sgd: {lr: 0.1}}
epochs: 4
budget: {trials: 4, candidates: 1, seeds: 2}
preview: {}
"""

# Every kind of value, options of equal names, and conditions within conditions.
RICH = """
model:
  choice:
    - resnet: {blocks: {choice: [[1, 1], [2, 2]]}, widths: {choice: [[8, 16], [16, 32]]}, stem: {int: [4, 8]}}
    - resnet: {blocks: [1, 1, 1], widths: [8, 8, 8], shortcut: {choice: [true, false]}}
    - fashion_cnn: {channels: {choice: [[8], [8, 16, 32]]}, hidden: [16], dropout: {uniform: [0, 0.5]}}
    - resnet: {blocks: [3], widths: [8]}
optimizer:
  choice:
    - sgd: {lr: {log: [0.001, 0.1]}, momentum: 0}
    - sgd: {lr: {log: [0.001, 0.1]}, momentum: {uniform: [0.5, 0.9]}, nesterov: {choice: [true, false]}}
    - adamw: {lr: {choice: [0.001, 0.01]}, weight_decay: {choice: [0]}}
schedule: {choice: [cosine, {step: {step_size: {int: [1, 3]}, gamma: {log: [0.1, 1]}}}]}
augmentation: {strength: {uniform: [0, 1]}, rotation: {choice: [0, 10]}, flip: {uniform: [0, 0.5]}, shear: 5}
epochs: 4
batch_size: {int: [16, 256]}
label_smoothing: {choice: [0, 0.1]}
budget: {trials: 4, candidates: 1, seeds: 2}
preview: {train: 100}
"""

# What came later, and epochs that vary.
TECHNIQUES = """
model: {fashion_cnn: {channels: [8], convolutions: {int: [1, 2]}, kernel: {choice: [1, 3, 5]}, hidden: [16]}}
optimizer:
  choice:
    - rmsprop: {lr: {log: [0.001, 0.1]}, alpha: {choice: [0.9, 0.99]}, momentum: {uniform: [0, 0.9]}}
    - rmsprop: {lr: 0.2, weight_decay: {log: [1.0e-5, 0.1]}}
schedule:
  choice:
    - one_cycle: {warmup: {uniform: [0.1, 0.5]}, final_division: {log: [1, 1.0e+4]}}
    - none: {warmup: {choice: [0, 0.1]}}
    - step: {step_size: 2, warmup: 0.2}
    - cosine: {warmup: {uniform: [0, 0.1]}}
augmentation: {crop: {int: [1, 3]}, reflect: {choice: [true, false]}, whole_pixels: true, flip: {uniform: [0, 0.5]}}
epochs: {int: [2, 6]}
mixup: {uniform: [0, 1]}
cutmix: {choice: [0, 1]}
ema: {choice: [0, 0.99]}
flip_test: {choice: [false, true]}
arms:
  three:
    model: {fashion_cnn: {channels: [8], convolutions: 2, kernel: 5, hidden: [16]}}
    optimizer: {rmsprop: {lr: 0.01, alpha: 0.9}}
    schedule: {one_cycle: {warmup: 0.2}}
    augmentation: {crop: 2, reflect: true, whole_pixels: true, flip: 0.5}
    epochs: 3
    mixup: 0.4
    cutmix: 1
    ema: 0.99
    flip_test: true
budget: {trials: 6, candidates: 1, seeds: 2}
preview: {epochs: [2, 4], trials: [3, 5], seeds: [1, 2]}
"""

# fashion_cnn: convolution 9·4 + 4, batch norm 8, linear 784·16 + 16, linear 16·10 + 10: 12,778 parameters
TWO_NETWORKS = """
model: {fashion_cnn: {channels: [4], hidden: [16]}}
optimizer: {adam: {lr: 0.001}}
epochs: 3
arms:
  longer: {epochs: 5}
  other: {model: {resnet: {blocks: [1], widths: [4], stem: 4}}, epochs: 2}
split: {train: 1000, validation: 200}
budget: {trials: 4, candidates: 1, seeds: 2}
preview: {}
"""


def read(text: str | bytes, name: str = "space.yaml") -> Space:
    """The space of a file with this content. Raises SpaceError."""
    path = Path(SCRATCH.name) / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return space_file.load(path)
