"""Maps of which cells speak for a class, by Grad-CAM and others, and whether such maps are to be trusted.

Maps are signed and at the resolution of the last feature map; everything is measured there, with the foreground pooled
to the cells at their true places. They are enlarged only to be shown. For a network that ends in global average pooling
and one linear layer the map sums to the logit less its bias, and Grad-CAM and HiResCAM are the same.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from scipy import stats
from torch import Tensor, nn

from analysis.statistics import estimate
from study.data import SIDE, Bytes
from study.models.resnet import ResNet

Floats = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.bool_]

VARIANTS = {
    "grad-cam": "Grad-CAM", "hirescam": "HiResCAM", "integrated-gradients": "integrated gradients",
    "occlusion": "occlusion",
}  # fmt: skip
BY_CELL = ("grad-cam", "hirescam")  # made of the last feature map; the others of pixels
PATH_STEPS = 16  # of integrated gradients; by the midpoint rule, cells add up to the logit's gain within some percent
BATCH = 256  # images a forward pass: the widest activation of ResNet-18 then takes 51 MB
CENTRE_SIGMA = SIDE / 4  # pixels: half of what a centred map says lies within 8 pixels of the middle

CHECKED = 64  # images that the checks look at, half of them errors: a mean correlation is then known to ± 0.08
DRAWS = 3  # networks with random weights that a map is compared with
STEPS = 8  # of insertion and deletion
BLUR_SIGMA = 4  # pixels: where insertion starts, only a smear is left of the garment
PATCH = 4  # side of the occluding square in pixels
# Maps that do not depend on what was learnt correlate at 1, unrelated ones at 0.1 (7×7 cells) to 0.2 (4×4). Below 0.5,
# less than a quarter of the variance of one is shared with the other.
MOST_ALIKE = 0.5
# One point of probability, on average over the steps. A network with random weights says nearly the same of every
# image: its maps may be faithful, and yet gain no more than 0.0003.
LEAST_GAIN = 0.01
# More than maps reach that know nothing of the network: over trained networks of both families the silhouette reached
# -0.21 to 0.07, a centred Gaussian -0.01 to 0.19.
LEAST_AGREEMENT = 0.2
THRESHOLDS = {
    "weight randomisation": (-np.inf, MOST_ALIKE), "insertion": (LEAST_GAIN, np.inf), "deletion": (LEAST_GAIN, np.inf),
    "occlusion": (LEAST_AGREEMENT, np.inf),
}  # fmt: skip

COLUMNS = {
    "image": "place in the published test set, 0 is the first",
    "wrong": "whether the image was misclassified",
    "matched": "for a correctly classified image, the misclassified one of its label that it is compared with",
    "layer": "the module whose activation was read",
    "variant": "grad-cam, hirescam (only where it is not the same), integrated-gradients or occlusion",
    "target": "whose class the map is for: predicted or true; only predicted where they are the same",
    "energy": "share in [0, 1] of the positive evidence that lies on the foreground; null without positive evidence",
    "area_share": "energy of a uniform map, every cell alike, in [0, 1]",
    "centre_energy": "energy of a centred Gaussian map, in [0, 1]",
    "random_energy": "energy of the map of the same network with random weights, in [0, 1]; of Grad-CAM and HiResCAM",
    "positive": "sum of the map's positive cells, logits",
    "negative": "sum of its negative cells, logits, at most 0",
}
CHECK_COLUMNS = {
    "variant": "grad-cam, hirescam (only where it is not the same), integrated-gradients or occlusion",
    "check": "weight randomisation, insertion, deletion or occlusion; the last not of occlusion itself",
    "value": "mean over images of what the check measures; null where no image could be judged",
    "low": "low end of its 95 % interval (Student's t over images); null where there is none",
    "high": "high end",
    "n": "images that could be judged: a constant map has no correlation",
    "passed": "whether the interval lies on the right side of the check's threshold",
}


@dataclass(frozen=True)
class Layer:
    """Where maps are read: the module, and the centres of its cells in pixels, the same for rows and columns.

    Cells that the network does not read are left out: the last ones, where a pooling does not divide the side.
    """

    name: str
    centres: tuple[float, ...]


def target(model: nn.Module) -> Layer:
    """Return the last activation of `model.features`: of a ResNet's last block, or before FashionCNN's last pooling.

    The centres are those of the receptive fields (Araujo et al. 2019, doi:10.23915/distill.00021), for 28×28 images.
    """
    name = [
        name for name, module in model.named_modules() if name.startswith("features.") and isinstance(module, nn.ReLU)
    ][-1]
    start, step, side = 0.0, 1, SIDE
    for path, module in model.named_modules():
        if path == name:
            break
        # A shortcut leads to the same cells as the convolutions beside it.
        if isinstance(module, nn.Conv2d | nn.MaxPool2d) and ".shortcut." not in path:
            kernel, stride, padding = (_first(v) for v in (module.kernel_size, module.stride, module.padding))
            start += ((kernel - 1) / 2 - padding) * step
            step *= stride
            side = (side + 2 * padding - kernel) // stride + 1
    (*_, last) = model.get_submodule("features").children()
    if isinstance(last, nn.MaxPool2d):
        size, stride = _first(last.kernel_size), _first(last.stride)
        side = (side - size) // stride * stride + size
    return Layer(name, tuple(start + step * cell for cell in range(side)))


def normalised(images: Bytes, mean: float, std: float) -> Tensor:
    """Images uint8 (N, 28, 28) as the networks take them: float (N, 1, 28, 28), (pixel in [0, 1] - mean) / std."""
    return (torch.tensor(images)[:, None] / 255 - mean) / std


def maps(model: nn.Module, images: Tensor, classes: Tensor, variant: str = "grad-cam") -> tuple[Floats, Floats]:
    """Return signed maps of what each cell of `target(model)` says for the given classes, in logits; and the logits.

    "grad-cam": Selvaraju et al. 2017, arXiv:1610.02391: activations weighted by the mean gradient of the class's logit
    over the cells, summed over channels; without the paper's ReLU. "hirescam": Draelos & Carin 2020,
    arXiv:2011.08891: weighted by the gradient of each cell itself. "integrated-gradients": Sundararajan et al. 2017,
    arXiv:1703.01365, from a grey image, the mean pixel, summed over the pixels of each cell. "occlusion": see
    `occlusion`, mean over the pixels of each cell.

    `model` in evaluation mode, images (N, 1, 28, 28), normalised. Classes int64 (N,), or (N, K) for K maps out of one
    forward pass. Returns float32 (N, h, w) or (N, K, h, w), and logits (N, 10). Raises ValueError in training mode and
    for another variant.
    """
    if model.training:
        raise ValueError("model: got one in training mode, must be in evaluation mode")
    if variant not in VARIANTS:
        raise ValueError(f"variant: got {variant!r}, must be one of {', '.join(VARIANTS)}")
    each = classes[:, None] if classes.dim() == 1 else classes
    makers = {"integrated-gradients": _integrated_gradients, "occlusion": _occlusion}
    make = makers.get(variant) or partial(_maps, variant=variant)
    parts = [make(model, *part) for part in zip(images.split(BATCH), each.split(BATCH), strict=True)]
    found, logits = (torch.cat(tensors).cpu().numpy() for tensors in zip(*parts, strict=True))
    return found.reshape(*classes.shape, *found.shape[2:]), logits


@torch.enable_grad()
def _maps(model: nn.Module, images: Tensor, classes: Tensor, variant: str) -> tuple[Tensor, Tensor]:
    activations: list[Tensor] = []

    def begin_graph(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        # Only from here on: nothing before it needs a gradient, or memory for one.
        torch.set_grad_enabled(True)
        activations.append(output.detach().requires_grad_())
        return activations[0]

    layer = target(model)
    side = len(layer.centres)
    hook = model.get_submodule(layer.name).register_forward_hook(begin_graph)
    try:
        with torch.no_grad():
            logits = model(images)
    finally:
        hook.remove()
    found = []
    for column in classes.split(1, dim=1):
        (gradient,) = torch.autograd.grad(logits.gather(1, column).sum(), activations, retain_graph=True)
        weights = gradient.mean((2, 3), keepdim=True) if variant == "grad-cam" else gradient
        found.append((weights * activations[0].detach()).sum(1)[:, :side, :side])
    return torch.stack(found, 1), logits.detach()


@torch.enable_grad()
def _integrated_gradients(model: nn.Module, images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    tiles = torch.from_numpy(_tiles(target(model))).to(images)
    found = []
    for column in classes.split(1, dim=1):
        gradients = torch.zeros_like(images)
        for step in range(PATH_STEPS):
            point = (images * ((step + 0.5) / PATH_STEPS)).requires_grad_()  # once normalised, the mean pixel is 0
            gradients += torch.autograd.grad(model(point).gather(1, column).sum(), point)[0]
        found.append(tiles @ (images * gradients / PATH_STEPS)[:, 0] @ tiles.T)
    return torch.stack(found, 1), _logits(model, images)


def _occlusion(model: nn.Module, images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    pixels = _of_pixels(occlusion(model, images, classes))
    return torch.from_numpy(pooled(pixels, target(model))).float(), _logits(model, images)


def variants(model: nn.Module, by_pixel: bool = True) -> list[str]:
    """Return those that differ for this model: after global average pooling Grad-CAM and HiResCAM are the same.

    Without `by_pixel` those that are made of the last feature map, which cost a few forward passes an image, not a
    hundred.
    """
    cells = BY_CELL[:1] if isinstance(model, ResNet) else BY_CELL
    return [name for name in VARIANTS if name in cells or (by_pixel and name not in BY_CELL)]


def enlarge(maps: Floats, layer: Layer) -> Floats:
    """Maps (…, h, w) to (…, 28, 28), to be shown: linear between the cells' centres, constant beyond the outermost."""
    pixels = np.arange(SIDE)
    rows = np.stack([np.interp(pixels, layer.centres, cell) for cell in np.eye(len(layer.centres))], axis=1)
    return np.asarray(rows @ maps @ rows.T)


def pooled(pixels: Mask | Floats, layer: Layer) -> Floats:
    """Mean over the pixels that belong to each cell, (N, 28, 28) to (N, h, w): of a mask, the share of foreground."""
    tiles = _tiles(layer)
    rows = tiles / tiles.sum(1, keepdims=True)
    return np.asarray(rows @ pixels @ rows.T)


def _tiles(layer: Layer) -> Floats:
    """Return which pixels belong to which cell, along one side: (h, 28).

    To the nearest centre, to both halves where tied; those beyond half a step of it to none, for no cell is read there.
    """
    centres = np.array(layer.centres)
    distance = np.abs(np.arange(SIDE) - centres[:, None])
    step = centres[1] - centres[0] if len(centres) > 1 else np.inf
    nearest = (distance == distance.min(0)) & (distance <= step / 2)
    return np.asarray(nearest / np.maximum(nearest.sum(0), 1))


def foreground_energy(maps: Floats, shares: Floats) -> Floats:
    """Share in [0, 1] of the positive evidence of maps (N, h, w) that lies on the foreground; NaN where there is none.

    `shares`: what `pooled` gives, (N, h, w). Two cells half on the foreground count as one that is on it.
    """
    positive = np.maximum(np.asarray(maps, np.float64), 0)
    total = positive.sum((-2, -1))
    on = (positive * shares).sum((-2, -1))
    return np.asarray(np.divide(on, total, out=np.full_like(on, np.nan), where=total > 0))


def centred(layer: Layer) -> Floats:
    """A map that knows nothing but that garments are in the middle: Gaussian, (h, w)."""
    side = np.exp(-(((np.array(layer.centres) - (SIDE - 1) / 2) / CENTRE_SIGMA) ** 2) / 2)
    return np.asarray(np.outer(side, side))


def randomised(model: nn.Module, seed: int) -> nn.Module:
    """A copy of the network with freshly drawn weights and untouched running statistics, as before training."""
    fresh = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in fresh.modules():
            if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear):
                module.reset_parameters()
    return fresh


@dataclass(frozen=True)
class Check:
    """One test of maps over a sample of images; its fields are described in CHECK_COLUMNS."""

    check: str
    value: float
    low: float | None
    high: float | None
    n: int
    passed: bool


def randomisation(maps: Floats, random: Sequence[Floats]) -> Check:
    """Do maps (N, h, w) depend on what was learnt? Adebayo et al. 2018, arXiv:1810.03292.

    Spearman correlation with each of the maps of networks with random weights, without its sign, which means nothing
    for an untrained logit; the mean over them. The paper takes the sign off the maps instead. Passes below MOST_ALIKE.
    """
    return _check(
        "weight randomisation", np.mean([np.abs(_spearman(maps, m)) for m in random], axis=0), most=MOST_ALIKE
    )


def insertion_and_deletion(
    model: nn.Module, images: Tensor, classes: Tensor, maps: Floats, black: float, seed: int
) -> tuple[Check, Check]:
    """Do the cells that a map names matter more than cells at random? Petsiuk et al. 2018, arXiv:1806.07421.

    Cells are uncovered on a blurred image (insertion) or blackened (deletion), the best first, in STEPS steps; the area
    under the probability of the class is compared with that of a random order. The value is positive where it favours
    the map: insertion gains more, deletion loses more. Passes above LEAST_GAIN. A bare silhouette may pass too.

    Images (N, 1, 28, 28) normalised, classes (N,), maps (N, h, w); `black` is a normalised pixel of 0.
    """
    tiles = torch.from_numpy(_tiles(target(model))).to(images)
    smears = [cv2.GaussianBlur(image, (0, 0), BLUR_SIGMA) for image in images[:, 0].numpy()]
    blurred = torch.from_numpy(np.stack(smears))[:, None].to(images)
    areas = np.zeros((2, 2, len(images)))  # map, random × insertion, deletion; without the ends, which are the same
    for found, scores in zip(areas, (maps, np.random.default_rng(seed).random(maps.shape)), strict=True):
        rank = stats.rankdata(-scores.reshape(len(scores), -1), "ordinal", axis=1).reshape(scores.shape)
        for step in range(1, STEPS):
            cells = torch.from_numpy(rank * STEPS <= step * scores[0].size).to(images)
            best = (tiles.T @ cells @ tiles)[:, None]
            found[0] += _probabilities(model, best * images + (1 - best) * blurred, classes) / STEPS
            found[1] += _probabilities(model, best * black + (1 - best) * images, classes) / STEPS
    inserted, deleted = areas[0] - areas[1]
    return _check("insertion", inserted, least=LEAST_GAIN), _check("deletion", -deleted, least=LEAST_GAIN)


def occlusion(model: nn.Module, images: Tensor, classes: Tensor) -> Floats:
    """Return by how much the logit of a class falls where a 4×4 square is grey: (N, 7, 7), or (N, K, 7, 7).

    Zeiler & Fergus 2014, arXiv:1311.2901, with the mean pixel, which is 0 once normalised. Not black: that changes
    nothing outside the garment, and so agrees with any silhouette. Images (N, 1, 28, 28) normalised, classes (N,) or
    (N, K).
    """
    each = classes[:, None] if classes.dim() == 1 else classes
    whole = _logits(model, images).gather(1, each)
    drops = torch.empty(*each.shape, SIDE // PATCH, SIDE // PATCH)
    for row, column in np.ndindex(drops.shape[2:]):
        covered = images.clone()
        covered[:, :, PATCH * row : PATCH * (row + 1), PATCH * column : PATCH * (column + 1)] = 0
        drops[:, :, row, column] = whole - _logits(model, covered).gather(1, each)
    return drops.reshape(*classes.shape, *drops.shape[2:]).numpy()


def _of_pixels(drops: Floats) -> Floats:
    """Return what `occlusion` says of each square for each of its pixels: (…, 7, 7) to (…, 28, 28)."""
    return drops.repeat(PATCH, axis=-2).repeat(PATCH, axis=-1)


def agreement(maps: Floats, drops: Floats, layer: Layer) -> Check:
    """Do maps (N, h, w) say the same as occlusion (N, 7, 7)? Spearman correlation over the cells.

    Passes above LEAST_AGREEMENT.
    """
    return _check("occlusion", _spearman(maps, pooled(_of_pixels(drops), layer)), least=LEAST_AGREEMENT)


def checks(
    model: nn.Module, images: Bytes, wrong: Mask, mean: float, std: float, seed: int, by_pixel: bool = True
) -> pd.DataFrame:
    """Return every check of every variant on CHECKED of the test images, for the classes that the model predicts.

    Half of the images are errors, for it is those that the maps are to explain; fewer where there are not as many.
    `model` in evaluation mode; images uint8 (N, 28, 28); `wrong` (N,) says which the model gets wrong; `mean` and `std`
    as it was trained; `by_pixel` as `variants` takes it. Images are taken in an order that depends on `seed` alone.
    Columns: CHECK_COLUMNS.
    """
    chosen = checked(wrong, seed)
    inputs = normalised(images[chosen], mean, std)
    classes = _logits(model, inputs).argmax(1)
    drops, layer = occlusion(model, inputs, classes), target(model)
    rows = []
    for variant in variants(model, by_pixel):
        found, _ = maps(model, inputs, classes, variant)
        draws = range(1, 1 + (DRAWS if variant in BY_CELL else 1))  # maps of pixels take a hundred times as long
        random = [maps(randomised(model, seed + draw), inputs, classes, variant)[0] for draw in draws]
        every = [
            randomisation(found, random),
            *insertion_and_deletion(model, inputs, classes, found, -mean / std, seed),
            *([agreement(found, drops, layer)] if variant != "occlusion" else []),
        ]
        rows += [{"variant": variant, **dataclasses.asdict(check)} for check in every]
    return pd.DataFrame(rows, columns=list(CHECK_COLUMNS)).astype({"low": float, "high": float})


def checked(wrong: Mask, seed: int) -> npt.NDArray[np.int64]:
    """The places of the images that the checks look at: errors, half of CHECKED at most, and others."""
    order = np.random.default_rng(seed).permutation(len(wrong))
    errors = order[wrong[order]][: CHECKED // 2]
    return np.concatenate([errors, order[~wrong[order]][: CHECKED - len(errors)]])


def failed(checks: pd.DataFrame) -> dict[str, list[str]]:
    """Return of each variant the checks that it fails in the networks together.

    A check is passed where the 95 % interval over networks of what it measures lies on the right side of its threshold
    (Student's t). Of a single network its own verdict counts, which is over images. `checks`: rows of the table
    `attention_checks` of networks that differ in their seed alone.
    """
    found: dict[str, list[str]] = {}
    for (variant, check), rows in checks.groupby(["variant", "check"], sort=False):
        found.setdefault(str(variant), []).extend([] if _passed(str(check), rows) else [str(check)])
    return found


def _passed(check: str, rows: pd.DataFrame) -> bool:
    if len(rows) == 1 or rows.value.isna().any():
        return bool(rows.passed.all())
    over, (least, most) = estimate(rows.value.tolist()), THRESHOLDS[check]
    low, high = (over.mean if end is None else end for end in (over.low, over.high))
    return least < low and high < most


def trusted(checks: pd.DataFrame) -> dict[str, bool]:
    """Return of each variant whether it passes every check: see `failed`."""
    return {variant: not names for variant, names in failed(checks).items()}


def matched_sample(predictions: pd.DataFrame, areas: Floats, n: int, seed: int) -> pd.DataFrame:
    """Up to `n` errors of a trial, and for each a correctly classified image of its label, nearest in foreground area.

    Without replacement; an error has no match once its label has no correct image left. Images are taken in an order
    that depends on `seed` alone, so that trials share as many as they can. `predictions` of one trial for every image,
    `areas` (N,) by image. Returns image, label, predicted, wrong, matched (null for the errors). Raises ValueError
    where the two do not fit.
    """
    by_image = predictions.sort_values("image")
    if not np.array_equal(by_image.image, np.arange(len(areas))):
        raise ValueError(f"predictions: got {len(predictions)} rows, must be one for each of {len(areas)} images")
    order = np.random.default_rng(seed).permutation(len(areas))
    label, predicted = by_image.label.cat.codes.to_numpy(), by_image.predicted.cat.codes.to_numpy()
    wrong = label != predicted
    errors = order[wrong[order]][:n]
    free = ~wrong
    matches: dict[int, int] = {}  # by the correct image
    for error in errors:
        candidates = order[(free & (label == label[error]))[order]]
        if len(candidates):
            nearest = candidates[np.abs(areas[candidates] - areas[error]).argmin()]
            free[nearest] = False
            matches[int(nearest)] = int(error)
    rows = by_image.iloc[[*errors, *matches]][["image", "label", "predicted"]].reset_index(drop=True)
    matched = pd.array([None] * len(errors) + list(matches.values()), dtype="Int32")
    return rows.assign(wrong=np.arange(len(rows)) < len(errors), matched=matched)


def inspect(
    model: nn.Module, images: Bytes, sample: pd.DataFrame, masks: Mask, mean: float, std: float, seed: int,
    by_pixel: bool = True,
) -> pd.DataFrame:  # fmt: skip
    """Return the table `attention` of one model without the trial's key: a row an inspected image, variant and target.

    `model` in evaluation mode; images uint8 and masks bool (N, 28, 28) of the whole test split; `sample` from
    `matched_sample`; `mean` and `std` as it was trained; `seed` draws the random weights; `by_pixel` as `variants`
    takes it. Columns: COLUMNS.
    """
    layer, chosen = target(model), sample.image.to_numpy()
    inputs = normalised(images[chosen], mean, std)
    codes = np.stack([sample[name].cat.codes for name in ("predicted", "label")], axis=1)
    classes = torch.from_numpy(codes.astype(np.int64))
    shares, fresh = pooled(masks[chosen], layer), randomised(model, seed)
    parts = []
    for variant in variants(model, by_pixel):
        found = maps(model, inputs, classes, variant)[0]
        random = maps(fresh, inputs, classes, variant)[0] if variant in BY_CELL else np.full_like(found, np.nan)
        for column, name in enumerate(("predicted", "true")):
            part = sample[["image", "wrong", "matched"]].assign(
                layer=layer.name,
                variant=variant,
                target=name,
                energy=foreground_energy(found[:, column], shares),
                area_share=foreground_energy(np.ones_like(shares), shares),
                centre_energy=foreground_energy(np.broadcast_to(centred(layer), shares.shape), shares),
                random_energy=foreground_energy(random[:, column], shares),
                positive=np.maximum(found[:, column], 0).sum((1, 2), dtype=np.float64),
                negative=np.minimum(found[:, column], 0).sum((1, 2), dtype=np.float64),
            )
            parts.append(part[part.wrong] if name == "true" else part)  # the same class where it is right
    return pd.concat(parts, ignore_index=True)[list(COLUMNS)]


def _first(size: Any) -> int:
    return int(size[0] if isinstance(size, tuple) else size)


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(part) for part in images.split(BATCH)])


def _probabilities(model: nn.Module, images: Tensor, classes: Tensor) -> Floats:
    """Of the given class of each image: (N,)."""
    return np.asarray(_logits(model, images).softmax(1).gather(1, classes[:, None])[:, 0])


def _spearman(first: Floats, second: Floats) -> Floats:
    """Correlation of the ranks of the cells, for each of N maps; NaN where one of the two is constant."""
    ranks = (stats.rankdata(maps.reshape(len(maps), -1), axis=1) for maps in (first, second))
    a, b = (rank - rank.mean(1, keepdims=True) for rank in ranks)
    size = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return np.asarray(np.divide((a * b).sum(1), size, out=np.full(len(a), np.nan), where=size > 0))


def _check(name: str, values: Floats, *, least: float = -np.inf, most: float = np.inf) -> Check:
    """Passes where the interval lies between `least` and `most`; images that all say the same need none."""
    judged = values[~np.isnan(values)]
    if len(judged) == 0:
        return Check(name, np.nan, None, None, 0, False)
    found = estimate(judged.tolist())
    ends = [found.mean if end is None else end for end in (found.low, found.high)]
    return Check(name, found.mean, found.low, found.high, found.n, found.n > 1 and least < ends[0] and ends[1] < most)
