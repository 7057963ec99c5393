"""What the columns of the tables are: their types, and what they mean.

The schemas are explicit, so a column keeps its type where it is empty: whole numbers and booleans that may be missing
read as `Int64` and `boolean`, text as `str`.
"""

from __future__ import annotations

import dataclasses
import itertools

import pandas as pd
import pyarrow as pa

from analysis import attention, calibration, cue_conflict, stress, verdicts
from analysis.descriptors import DESCRIPTORS
from analysis.failures import CATEGORIES as FAILURE_CATEGORIES
from analysis.failures import EXTREMES, PATTERNS
from study.config import MODELS, OPTIMIZERS, SCHEDULES, TrialConfig, hyperparameters
from study.data import CLASS_NAMES
from study.records import ENDED, STAGES, WEIGHTS

CATEGORIES: dict[str, tuple[str, ...]] = {
    "stage": STAGES,
    "status": ("pending", "running", *ENDED),
    "weights": WEIGHTS,
    "label": CLASS_NAMES,
    "predicted": CLASS_NAMES,
    "shape_class": CLASS_NAMES,
    "texture_class": CLASS_NAMES,
    "suggested": CLASS_NAMES,
}

HYPERPARAMETERS = {
    "hp_blocks": "basic blocks in each stage, as text: 2-2-2-2",
    "hp_widths": "channels of each stage, as text: 64-128-256-512",
    "hp_stem": "channels of the first convolution",
    "hp_shortcut": "whether the residual connections are there",
    "hp_channels": "channels of each block, as text: 32-64-128",
    "hp_convolutions": "convolutions in each block",
    "hp_kernel": "side of the convolutions, pixels",
    "hp_hidden": "units of each hidden layer, as text: 256-128",
    "hp_dropout": "probability of dropping a unit",
    "hp_optimizer": "name of the optimizer",
    "hp_lr": "learning rate at the first step",
    "hp_momentum": "momentum of SGD or RMSprop, 0 is none",
    "hp_nesterov": "whether the momentum is Nesterov's",
    "hp_alpha": "decay of RMSprop's mean square",
    "hp_weight_decay": "weight decay: added to the gradient (sgd, adam, rmsprop) or decoupled (adamw)",
    "hp_schedule": "name of the learning rate schedule",
    "hp_step_size": "epochs between two steps of the learning rate",
    "hp_gamma": "factor of each step of the learning rate",
    "hp_warmup": "share of all steps in which the learning rate rises",
    "hp_final_division": "of one cycle: start of the learning rate divided by its end",
    "hp_augmentation_strength": "multiplies the maxima of the augmentation, 0 is none",
    "hp_augmentation_rotation": "maximum at strength 1, degrees, both directions",
    "hp_augmentation_translation": "maximum at strength 1, fraction of the side, both directions",
    "hp_augmentation_scale": "maximum at strength 1, the factor is drawn from 1 ± this",
    "hp_augmentation_shear": "maximum at strength 1, degrees, both directions",
    "hp_augmentation_flip": "probability of a horizontal flip at strength 1",
    "hp_augmentation_erasing": "probability of erasing a rectangle at strength 1",
    "hp_augmentation_crop": "maximum at strength 1, whole pixels, both directions",
    "hp_augmentation_reflect": "whether a crop moves in the mirror image, else black",
    "hp_augmentation_whole_pixels": "whether translations are by whole pixels, after the other changes",
    "hp_epochs": "epochs of a full run",
    "hp_batch_size": "images a step",
    "hp_label_smoothing": "share of the target spread over all classes",
    "hp_mixup": "α of mixing two images, 0 is none",
    "hp_cutmix": "α of pasting a rectangle of another image, 0 is none",
    "hp_ema": "decay a step of averaged weights, 0 is none",
    "hp_flip_test": "whether an image and its mirror image are predicted together",
    "hp_mean": "pixels in [0, 1] are normalised as (x - mean) / std",
    "hp_std": "pixels in [0, 1] are normalised as (x - mean) / std",
}

TEXT, WHOLE, REAL, YES_NO = pa.string(), pa.int64(), pa.float64(), pa.bool_()
READ_AS = {TEXT: "str", WHOLE: "Int64", YES_NO: "boolean"}


def _field(name: str, kind: pa.DataType, description: str, *, null: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=null, metadata={"description": description})


def _category(name: str, description: str, *, ordered: bool = True, null: bool = False) -> pa.Field:
    return _field(name, pa.dictionary(pa.int8(), pa.string(), ordered=ordered), description, null=null)


def _schema(description: str, fields: list[pa.Field]) -> pa.Schema:
    """The schema with pandas' own metadata: where it is, nullable columns read as one type with nulls or without."""
    columns = {
        f.name: pd.Categorical([], CATEGORIES[f.name], ordered=f.type.ordered)
        if pa.types.is_dictionary(f.type)
        else pd.Series([], dtype=READ_AS[f.type] if f.nullable and f.type in READ_AS else f.type.to_pandas_dtype())
        for f in fields
    }
    metadata = pa.Table.from_pandas(pd.DataFrame(columns), preserve_index=False).schema.metadata
    return pa.schema(fields, metadata={**metadata, b"description": description.encode()})


def _hyperparameter_fields() -> list[pa.Field]:
    """One column for each hyperparameter of the vocabulary, whatever this study used."""
    kinds = {str: TEXT, bool: YES_NO, int: WHOLE, float: REAL}
    found: dict[str, type] = {}
    for model, optimizer, schedule in itertools.product(MODELS.values(), OPTIMIZERS.values(), SCHEDULES.values()):
        config = dataclasses.replace(TrialConfig(), model=model, optimizer=optimizer, schedule=schedule)
        found |= {name: type(value) for name, value in hyperparameters(config).items()}
    order = {name: place for place, name in enumerate(HYPERPARAMETERS)}
    names = sorted(found, key=lambda name: (order.get(name, len(order)), name))
    return [_field(name, kinds[found[name]], HYPERPARAMETERS.get(name, name), null=True) for name in names]


IMAGE = _field("image", pa.int32(), "place in the published test set, 0 is the first")
LABEL = _category("label", "the class it is")
KEY = [
    _field("study", TEXT, "name of the study"),
    _category("stage", "search, then confirm"),
    _field("fidelity", TEXT, "full, or preview: fewer images, epochs, trials and seeds, narrower networks", null=True),
    _field("trial_id", TEXT, "s0007 in the search, c0007 in confirm"),
    _field("config_id", TEXT, "ten hexadecimal digits, equal for equal configurations"),
    _field(
        "arm",
        TEXT,
        "the arm's name; candidate-1, … in confirm, by rank in the search; null for a searched one",
        null=True,
    ),
    _field("seed", WHOLE, "seed of the weights, the order of the images and the augmentation"),
]
TRIALS = _schema(
    "One row a trial, failed ones included.",
    [
        *KEY,
        _field("model", TEXT, "name of the model"),
        _category("status", "pending, running, completed, stopped, diverged or failed", ordered=False),
        _field("stop_reason", TEXT, "finished, asha, one-epoch, diverged, error, time-budget or superseded", null=True),
        _field(
            "stop_epoch",
            WHOLE,
            "of a trial that ASHA or the one-epoch rule stopped: the epoch in which it did",
            null=True,
        ),
        _field("stop_accuracy", REAL, "its best validation accuracy then, in [0, 1]", null=True),
        _field(
            "stop_threshold",
            REAL,
            "what was asked: of the rung's best third before it, of the third of all; in [0, 1]",
            null=True,
        ),
        _field("stop_rank", WHOLE, "its rank there, 1 is the best", null=True),
        _field("stop_trials", WHOLE, "trials that were ranked there, itself included", null=True),
        _field("error", TEXT, "what was raised, where the trial failed", null=True),
        _field("attempts", WHOLE, "how many times it was started; more than 1 after a failure or an interruption"),
        _field("epochs", WHOLE, "epochs it ran"),
        _field("max_epochs", WHOLE, "epochs it might have run"),
        _field("best_epoch", WHOLE, "the epoch of the best validation accuracy, 1 is the first", null=True),
        _field("train_accuracy", REAL, "in [0, 1], at the best epoch, running mean in training mode", null=True),
        _field("train_accuracy_clean", REAL, "in [0, 1], confirm only, train split with the best weights", null=True),
        _field("val_accuracy", REAL, "in [0, 1], at the best epoch", null=True),
        _field("test_accuracy", REAL, "in [0, 1], confirm only, with the best weights", null=True),
        _field("train_loss", REAL, "nats, at the best epoch, running mean in training mode", null=True),
        _field("train_loss_clean", REAL, "nats, confirm only, train split with the best weights", null=True),
        _field("val_loss", REAL, "nats, at the best epoch", null=True),
        _field("test_loss", REAL, "nats, confirm only, with the best weights", null=True),
        _field("train_accuracy_clean_last", REAL, "as train_accuracy_clean, with the last epoch's weights", null=True),
        _field("test_accuracy_last", REAL, "as test_accuracy, with the last epoch's weights", null=True),
        _field("train_loss_clean_last", REAL, "as train_loss_clean, with the last epoch's weights", null=True),
        _field("test_loss_last", REAL, "as test_loss, with the last epoch's weights", null=True),
        _field("seconds", REAL, "wall time of its epochs, training and validation"),
        _field("cpu_seconds", REAL, "processor time of its epochs"),
        _field("images_per_s", REAL, "training images a second, median over its epochs", null=True),
        _field("device", TEXT, "what it ran on", null=True),
        _field("precision", TEXT, "number format of the training", null=True),
        *_hyperparameter_fields(),
    ],
)
EPOCHS = _schema(
    "One row a trial and epoch; of an epoch run more than once, the last attempt.",
    [
        *KEY,
        _field("epoch", WHOLE, "1 is the first"),
        _field("attempt", WHOLE, "1, or more where the trial was started again after a failure"),
        _field("lr", REAL, "learning rate at the first step of the epoch", null=True),
        _field("train_loss", REAL, "nats, running mean in training mode, on augmented images", null=True),
        _field("train_accuracy", REAL, "in [0, 1], likewise", null=True),
        _field("val_loss", REAL, "nats", null=True),
        _field("val_accuracy", REAL, "in [0, 1]", null=True),
        _field("seconds", REAL, "wall time of training and validation", null=True),
        _field("cpu_seconds", REAL, "processor time of the trial's process", null=True),
        _field("images_per_s", REAL, "training images a second of training", null=True),
        _field("diverged", YES_NO, "whether a loss was not finite; it is null here"),
    ],
)
PREDICTIONS = _schema(
    "One row a completed confirm trial, test image and weights: those of the best validation epoch or of the last.",
    [
        *KEY,
        _category("weights", "of the epoch whose weights predicted: last or best", ordered=False),
        IMAGE,
        LABEL,
        _category("predicted", "the class it was taken for"),
        _field("confidence", pa.float32(), "probability of the predicted class, in [0, 1]"),
        *(
            _field(f"p_{k}", pa.float32(), f"probability of {name}, in [0.00001, 1], to 4 decimals, below 0.001 to 5")
            for k, name in enumerate(CLASS_NAMES)
        ),
    ],
)
OF_STUDY = [field for field in KEY if field.name in ("study", "fidelity")]
# Seven digits: of images of eight bits they say all.
DESCRIBED = [_field(name, WHOLE if name == "components" else pa.float32(), text) for name, text in DESCRIPTORS.items()]
SUSPECT = [
    _field("label_suspect", YES_NO, "whether confident learning takes the label for an error"),
    _field("suspect_rank", WHOLE, "1 is the most suspect label; null where it is not suspect", null=True),
]
IMAGES = _schema(
    "One row a test image: what it is like, and how many of the confirmed trials get it wrong.",
    [
        *OF_STUDY,
        IMAGE,
        LABEL,
        _field("wrong", WHOLE, "confirmed trials that get it wrong"),
        _field("trials", WHOLE, "confirmed trials"),
        *DESCRIBED,
        *(_field(name, YES_NO, PATTERNS[name]) for name in EXTREMES),
        *SUSPECT,
        _category("suggested", "the class that the ensemble takes it for, where the label is suspect", null=True),
    ],
)
FAILURES = _schema(
    "One row a confirmed trial and test image that it gets wrong.",
    [
        *KEY,
        IMAGE,
        LABEL,
        _category("predicted", "the class it was taken for"),
        _field("confidence", pa.float32(), "probability of the predicted class, in [0, 1]"),
        *(_field(name, YES_NO, text) for name, text in (FAILURE_CATEGORIES | PATTERNS).items()),
        *DESCRIBED,
        *SUSPECT,
        _field("seeds_wrong", WHOLE, "seeds of its configuration that get the image wrong"),
        _field("seeds", WHOLE, "seeds of its configuration"),
        _field("models_wrong", WHOLE, "confirmed trials that get the image wrong"),
        _field("models", WHOLE, "confirmed trials"),
    ],
)
KINDS = {
    "image": pa.int32(),
    "right": pa.binary(),
    "wrong": YES_NO,
    "passed": YES_NO,
    "matched": pa.int32(),
    "n": WHOLE,
}
KINDS |= dict.fromkeys(("severity", "seeds", "images", "seeds_needed"), WHOLE) | dict.fromkeys(
    ("inside", "scaled"), YES_NO
)
WORDS = ("layer", "variant", "target", "check", "corruption", "family", "claim", "text", "source", "said", "measure")
KINDS |= dict.fromkeys((*WORDS, "verdict", "effect_of", "unit", "spaces", "why"), TEXT)
MAY_BE_MISSING = {
    "matched", "energy", "random_energy", "value", "low", "high", "confident_if_wrong", "wrong_if_confident",
    "claimed_if_confident", "effect_of", "unit", "effect", "p", "p_holm", "p_sign_flip", "smallest", "seeds",
    "images", "seeds_needed", "amount",
}  # fmt: skip


def _measured(columns: dict[str, str]) -> list[pa.Field]:
    """Fields of a table whose module describes its columns."""
    return [_field(n, KINDS.get(n, REAL), text, null=n in MAY_BE_MISSING) for n, text in columns.items()]


ATTENTION = _schema(
    "One row a confirmed trial, inspected image, map variant and target.", [*KEY, *_measured(attention.COLUMNS)]
)
ATTENTION_CHECKS = _schema(
    "One row a confirmed trial, map variant and check of whether its maps are to be trusted.",
    [*KEY, *_measured(attention.CHECK_COLUMNS)],
)
STRESS = _schema("One row a confirmed trial, corruption and severity.", [*KEY, *_measured(stress.COLUMNS)])
CUE_CONFLICT = _schema(
    "One row a confirmed trial and image with the silhouette of one test image and the texture of another.",
    [
        *KEY,
        *(
            _category(name, text) if name in CATEGORIES else _field(name, pa.int32(), text)
            for name, text in cue_conflict.COLUMNS.items()
        ),
    ],
)
CALIBRATION = _schema(
    "One row a confirmed trial before temperature scaling, and one after, on the test images.",
    [*KEY, *_measured(calibration.COLUMNS)],
)
COMPARISONS = _schema(
    "One row two confirmed configurations: how much better the first is, in test accuracy, seed by seed.",
    [
        *OF_STUDY,
        _field("first", TEXT, "a candidate, or an arm"),
        _field("second", TEXT, "what it is held against"),
        _field("points", REAL, "test accuracy, first less second, percentage points, mean over seeds"),
        _field("low", REAL, "low end of its 95 % interval; null where there is none", null=True),
        _field("high", REAL, "high end", null=True),
        _field("seeds", WHOLE, "seeds that both completed"),
        _field("ahead", WHOLE, "seeds in which the first is better"),
        _field("images", WHOLE, "test images that the interval is over, too; null where over seeds alone", null=True),
        _field("verdict", TEXT, "the first is better, worse, or no difference is shown, or why nothing is said"),
    ],
)
CLAIMS = _schema("One row a conclusion of the two sources.", [*OF_STUDY, *_measured(verdicts.COLUMNS)])
IMPORTANCE = _schema(
    "One row a scope of the search, hyperparameter and method: its importance relative to the others of the space.",
    [
        *OF_STUDY,
        _field("scope", TEXT, "all trials, or those of the option with the hyperparameter"),
        _field("hyperparameter", TEXT, "its name in the space"),
        _field("method", TEXT, "PED-ANOVA or fANOVA"),
        _field("value", REAL, "share in [0, 1]; they sum to 1 in a scope and method"),
        _field("low", REAL, "low end of the 95 % interval over bootstrap draws of trials"),
        _field("high", REAL, "high end"),
        _field("by_chance", REAL, "the largest share of any, accuracies shuffled; median of 20", null=True),
        _field("trials", WHOLE, "trials it is estimated from"),
        _field("epoch", WHOLE, "trials are compared by their best validation accuracy up to this epoch"),
    ],
)
SCHEMAS = {
    "trials": TRIALS,
    "epochs": EPOCHS,
    "predictions": PREDICTIONS,
    "images": IMAGES,
    "failures": FAILURES,
    "attention": ATTENTION,
    "attention_checks": ATTENTION_CHECKS,
    "stress": STRESS,
    "cue_conflict": CUE_CONFLICT,
    "calibration": CALIBRATION,
    "importance": IMPORTANCE,
    "comparisons": COMPARISONS,
    "claims": CLAIMS,
}


def dictionary() -> str:
    """The data dictionary in Markdown: every column of every table, with its type and meaning."""
    parts = [
        "# The tables\n\nRead with `pandas.read_parquet`. Columns join on `trial_id`; `null` marks what may be missing."
    ]
    for name, schema in SCHEMAS.items():
        lines = [f"\n## {name}\n\n{schema.metadata[b'description'].decode()}\n\n| column | type | |\n|---|---|---|"]
        for field in schema:
            kind = "category" if pa.types.is_dictionary(field.type) else str(field.type)
            text = field.metadata[b"description"].decode()
            lines.append(f"| `{field.name}` | {kind}{', null' if field.nullable else ''} | {text} |")
        parts.append("\n".join(lines))
    return "\n".join(parts) + "\n"
