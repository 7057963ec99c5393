"""Maps against Captum and against maps worked out by hand; checks on networks whose evidence is known."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from captum.attr import LayerGradCam
from scipy.interpolate import RegularGridInterpolator
from torch import Tensor, nn

from analysis import attention
from analysis.attention import Layer, Mask, enlarge, foreground_energy, maps, matched_sample, pooled, target
from study.config import MODELS, FashionCNN, Model, ResNet
from study.data import CLASS_NAMES, Bytes, FashionMNIST, Splits
from study.models import build_model

pytestmark = pytest.mark.usefixtures("one_thread")

MEAN, STD = 0.2860, 0.3530
WRONG = np.arange(200) % 5 == 0  # of the 200 small test images, said to be errors
FAMILIES: dict[str, Model] = {
    "fashion_cnn": MODELS["fashion_cnn"],
    "fashion_cnn of four": FashionCNN(channels=(4, 4, 4, 8), hidden=()),
    "resnet18": MODELS["resnet18"],
    "three_block": MODELS["three_block"],
    "resnet without shortcuts": ResNet("resnet", (1, 2, 1), (8, 16, 16), stem=8, shortcut=False),
}
SEVEN = Layer("features.relu3", (1.5, 5.5, 9.5, 13.5, 17.5, 21.5, 25.5))
SIX = Layer("features.relu3", SEVEN.centres[:6])  # FashionCNN, whose last pooling does not read the seventh cells
FOUR = Layer("features.3.1.relu2", (0.0, 8.0, 16.0, 24.0))  # ResNet-18


class Averaged(nn.Module):
    """Two channels, x and -x where positive; their averages, then class 0 = 3·first - 2·second + 0.5."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.ReLU())
        self.classifier = nn.Linear(2, 2)
        with torch.no_grad():
            self.features[0].weight.copy_(torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1))
            self.classifier.weight.copy_(torch.tensor([[3.0, -2.0], [0.0, 1.0]]))
            self.classifier.bias.copy_(torch.tensor([0.5, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


class Template(nn.Module):
    """The mean of each 4×4 square, where above that of the data set, times a template a class: evidence is known."""

    def __init__(self, templates: Tensor) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 1, 4, stride=4, bias=False), nn.ReLU())
        self.classifier = nn.Linear(49, len(templates), bias=False)
        with torch.no_grad():
            self.features[0].weight.fill_(1 / 16)
            self.classifier.weight.copy_(templates)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


@pytest.fixture(scope="module")
def template() -> nn.Module:
    return Template(torch.randn(10, 49, generator=torch.Generator().manual_seed(0))).eval()


def network(model: Model, inputs: Tensor) -> nn.Module:
    """A network whose running statistics are those of the images, as after training; weights at random."""
    built = build_model(model, 0)
    for module in built.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # cumulative average: one pass sets them
    with torch.no_grad():
        built(inputs)
    return built.eval()


@pytest.fixture(params=FAMILIES.values(), ids=FAMILIES.keys())
def family(request: pytest.FixtureRequest) -> Model:
    found: Model = request.param
    return found


@pytest.fixture
def inputs(small_splits: Splits) -> Tensor:
    return attention.normalised(small_splits.test_images[:5], MEAN, STD)


def close(found: np.ndarray, expected: np.ndarray, relative: float) -> bool:
    """Relative to the largest cell of each map: cells are sums whose terms cancel."""
    scale = np.abs(expected).max((-2, -1))
    assert scale.min() > 0
    return bool((np.abs(found - expected).max((-2, -1)) <= relative * scale).all())


def test_pixels_are_normalised(fashion_mnist: FashionMNIST) -> None:
    images = fashion_mnist.test_images[:3]
    found = attention.normalised(images, MEAN, STD)
    assert (found.shape, found.dtype) == ((3, 1, 28, 28), torch.float32)
    assert np.allclose(found[:, 0], (images / 255 - MEAN) / STD, atol=1e-6)


def test_equals_captum(family: Model, inputs: Tensor) -> None:
    built, classes = network(family, inputs), torch.tensor([9, 0, 3, 6, 2])
    found, logits = maps(built, inputs, classes)
    layer = built.get_submodule(target(built).name)
    theirs = LayerGradCam(built, layer).attribute(inputs, classes, relu_attributions=False)
    side = len(target(built).centres)
    assert close(found, theirs[:, 0, :side, :side].detach().numpy(), 1e-6)
    assert found.min() < 0 < found.max(), "signed"
    assert np.allclose(logits, built(inputs).detach(), atol=1e-6)


def test_batches_make_no_difference(family: Model, inputs: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    built, classes = network(family, inputs), torch.tensor([9, 0, 3, 6, 2])
    whole, _ = maps(built, inputs, classes)
    monkeypatch.setattr(attention, "BATCH", 2)
    found, logits = maps(built, inputs, classes)
    assert close(found, whole, 1e-5)
    assert logits.shape == (5, 10)


@pytest.mark.parametrize("name", ["resnet18", "three_block"])
def test_after_global_average_pooling_the_map_sums_to_the_logit_less_its_bias(name: str, inputs: Tensor) -> None:
    built = network(MODELS[name], inputs)
    every = torch.arange(10).expand(5, 10)
    found, logits = maps(built, inputs, every)
    bias = built.classifier.bias.detach().numpy()  # type: ignore[union-attr]
    assert np.abs(logits - bias).min(1).max() > 1e-3, "the identity says something"
    assert np.abs(found.sum((2, 3)) + bias - logits).max() < 1e-4


@pytest.mark.parametrize("name", ["resnet18", "three_block", "resnet without shortcuts"])
def test_after_global_average_pooling_the_variants_are_one(name: str, inputs: Tensor) -> None:
    built, classes = network(FAMILIES[name], inputs), torch.arange(5)
    assert close(maps(built, inputs, classes, "hirescam")[0], maps(built, inputs, classes, "grad-cam")[0], 1e-5)
    assert attention.variants(built, by_pixel=False) == ["grad-cam"]


def test_for_fashion_cnn_the_variants_differ(inputs: Tensor) -> None:
    built, classes = network(MODELS["fashion_cnn"], inputs), torch.arange(5)
    both = [maps(built, inputs, classes, variant)[0] for variant in attention.variants(built, by_pixel=False)]
    assert len(both) == 2
    assert not close(both[0], both[1], 0.1)


def test_a_map_worked_out_by_hand() -> None:
    image = torch.tensor([[[[0.0, 1, 2, 0], [-1, 4, 8, -2], [0, 2, 4, 0], [-8, 0, 0, 1]]]])
    # Gradient of class 0: 3/16 in every cell of the first channel, -2/16 in the second. So a cell x > 0 has 3x/16, a
    # cell x < 0 has -2·|x|/16. Class 1: the second channel alone, 1/16.
    first = np.array([[0, 3, 6, 0], [-2, 12, 24, -4], [0, 6, 12, 0], [-16, 0, 0, 3]]) / 16
    second = np.array([[0, 0, 0, 0], [1, 0, 0, 2], [0, 0, 0, 0], [8, 0, 0, 0]]) / 16
    model = Averaged().eval()
    for variant in attention.BY_CELL:
        found, logits = maps(model, image, torch.tensor([[0, 1]]), variant)
        assert np.allclose(found, [[first, second]], atol=1e-7)
        assert np.allclose(logits, [[first.sum() + 0.5, second.sum()]])  # 44/16 + 0.5, 11/16


def test_the_variants_worked_out_by_hand() -> None:
    # Four cells with activations 1, 2, 3, 4 and gradients 4, 0, -1, 1, whose mean is 1.
    model = nn.Sequential()
    model.add_module("features", nn.Sequential(nn.ReLU()))
    model.add_module("flatten", nn.Flatten())
    model.add_module("classifier", nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        model.classifier.weight.copy_(torch.tensor([[4.0, 0, -1, 1]]))
    image, classes = torch.tensor([[[[1.0, 2], [3, 4]]]]), torch.tensor([0])
    model.eval()
    assert maps(model, image, classes, "grad-cam")[0].tolist() == [[[1, 2], [3, 4]]]
    assert maps(model, image, classes, "hirescam")[0].tolist() == [[[4, 0], [-3, 4]]]


def test_maps_for_several_classes_are_those_for_each(inputs: Tensor) -> None:
    built = network(MODELS["fashion_cnn"], inputs)
    classes = torch.tensor([[0, 6], [1, 1], [9, 7], [2, 4], [3, 0]])
    together, _ = maps(built, inputs, classes)
    for column in (0, 1):
        assert np.array_equal(together[:, column], maps(built, inputs, classes[:, column])[0])


def test_the_network_is_left_as_it_was(inputs: Tensor) -> None:
    built = network(MODELS["fashion_cnn"], inputs)
    with torch.no_grad():
        maps(built, inputs, torch.arange(5))
        assert not torch.is_grad_enabled()
    maps(built, inputs, torch.arange(5))
    assert torch.is_grad_enabled()
    assert not any(module._forward_hooks for module in built.modules())
    assert all(parameter.grad is None for parameter in built.parameters())


def test_what_makes_no_map_is_refused(inputs: Tensor) -> None:
    built = build_model(MODELS["fashion_cnn"], 0)
    with pytest.raises(ValueError, match="got one in training mode"):
        maps(built, inputs, torch.arange(5))
    with pytest.raises(ValueError, match="got 'cam', must be one of grad-cam, hirescam"):
        maps(built.eval(), inputs, torch.arange(5), "cam")


@pytest.mark.parametrize(
    ("name", "layer", "centres"),
    [
        ("fashion_cnn", "features.relu3", SIX.centres),
        ("fashion_cnn of four", "features.relu4", (3.5, 11.5)),
        ("resnet18", "features.3.1.relu2", FOUR.centres),
        ("three_block", "features.2.0.relu2", (0, 4, 8, 12, 16, 20, 24)),
    ],
)
def test_cells_of_known_networks(name: str, layer: str, centres: tuple[float, ...]) -> None:
    assert target(build_model(FAMILIES[name], 0)) == Layer(layer, centres)


def test_maps_are_of_all_cells_that_are_read_and_of_no_others(family: Model, inputs: Tensor) -> None:
    built, activations = network(family, inputs), list[Tensor]()
    side = len(target(built).centres)
    module = built.get_submodule(target(built).name)
    module.register_forward_hook(lambda _module, _inputs, output: activations.append(output))
    (gradient,) = torch.autograd.grad(built(inputs).square().sum(), activations)
    read = gradient.abs().sum((0, 1)) > 0
    assert read[:side, :side].all()
    assert int(read.sum()) == side * side


def test_a_map_has_a_cell_for_each_centre(family: Model, inputs: Tensor) -> None:
    built = build_model(family, 0).eval()
    side = len(target(built).centres)
    assert maps(built, inputs, torch.arange(5))[0].shape == (5, side, side)


@pytest.mark.parametrize(
    "model",
    [
        FashionCNN(channels=(2, 2, 2), hidden=()),
        ResNet("resnet", (2, 2, 2, 2), (2, 2, 2, 2), stem=2),
        ResNet("resnet", (1, 1, 1), (2, 3, 4), stem=2),
        ResNet("resnet", (1, 3), (2, 2), stem=1, shortcut=False),
    ],
)
def test_cells_are_where_the_gradient_says(model: Model) -> None:
    # With all weights equal and pooling by the mean the network is linear, and what a cell sees is spread evenly
    # around its centre: its gradient's centre of mass. On a larger image, for a border would cut that off.
    built = build_model(model, 0).eval()
    for module in built.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.ones_(module.weight)
        for name, child in module.named_children():
            if isinstance(child, nn.MaxPool2d):
                setattr(module, name, nn.AvgPool2d(2))
    layer = target(build_model(model, 0))
    path = built.features if hasattr(built, "pool") else built.features[:-1]  # type: ignore[index]
    image = torch.ones(1, 1, 256, 256, requires_grad=True)
    activation = path(built.stem(image) if hasattr(built, "stem") else image)  # type: ignore[operator]
    row, column = activation.shape[-1] // 2, activation.shape[-1] // 2 - 1
    (gradient,) = torch.autograd.grad(activation[0, :, row, column].sum(), image)
    weight = gradient[0, 0].double()
    pixels = torch.arange(256.0, dtype=torch.double)
    found = [float((weight.sum(1 - axis) * pixels).sum() / weight.sum()) for axis in (0, 1)]
    start, step = layer.centres[0], layer.centres[1] - layer.centres[0]
    assert found == pytest.approx([start + step * row, start + step * column], abs=1e-3)


@pytest.mark.parametrize("layer", [SEVEN, FOUR])
def test_enlarged_as_interpolated_elsewhere(layer: Layer) -> None:
    side = len(layer.centres)
    small = np.random.default_rng(0).normal(size=(3, side, side))
    pixels = np.clip(np.arange(28), layer.centres[0], layer.centres[-1])
    grid = np.stack(np.meshgrid(pixels, pixels, indexing="ij"), axis=-1)
    expected = [RegularGridInterpolator((layer.centres, layer.centres), cells)(grid) for cells in small]
    assert np.allclose(enlarge(small, layer), expected)


def test_a_cell_shows_its_value_at_its_centre() -> None:
    small = np.arange(16.0).reshape(1, 4, 4)
    assert np.array_equal(enlarge(small, FOUR)[:, ::8, ::8], small)
    assert enlarge(small, FOUR)[0, 27, 27] == 15
    assert enlarge(small, FOUR)[0, 0, 4] == 0.5


def test_pooled_to_squares_of_four(fashion_mnist: FashionMNIST) -> None:
    masks = fashion_mnist.test_images[:20] > 0
    assert np.allclose(pooled(masks, SEVEN), masks.reshape(20, 7, 4, 7, 4).mean((2, 4)))


def test_pooled_to_the_nearest_centre() -> None:
    def columns(first: int, last: int) -> np.ndarray:
        masks = np.zeros((1, 28, 28), bool)
        masks[:, :, first : last + 1] = True
        return pooled(masks, FOUR)[0]

    # Pixel 4 lies between the centres 0 and 8, half to each: the first cell has 4.5 columns, the last 7.5.
    assert np.allclose(columns(0, 3), [4 / 4.5, 0, 0, 0])
    assert np.allclose(columns(4, 4), [0.5 / 4.5, 0.5 / 8, 0, 0])
    assert np.allclose(columns(21, 27), [0, 0, 0, 7 / 7.5])
    assert np.allclose(columns(0, 27), 1)


def test_pixels_of_cells_that_are_not_read_belong_to_none(fashion_mnist: FashionMNIST) -> None:
    masks = fashion_mnist.test_images[:20] > 0
    assert np.allclose(pooled(masks, SIX), masks.reshape(20, 7, 4, 7, 4).mean((2, 4))[:, :6, :6])


@pytest.mark.parametrize("layer", [SEVEN, FOUR])
def test_pooling_loses_no_foreground(layer: Layer, fashion_mnist: FashionMNIST) -> None:
    masks = fashion_mnist.test_images[:20] > 0
    shares = pooled(masks, layer)
    assert shares.min() >= 0
    assert shares.max() <= 1 + 1e-12
    edges = [0, *(np.array(layer.centres[1:]) + np.array(layer.centres[:-1]) + 1) / 2, 28]  # where tiles meet
    areas = np.outer(np.diff(edges), np.diff(edges))
    assert (shares * areas).sum((1, 2)) == pytest.approx(masks.sum((1, 2)))


def test_energy_on_the_foreground() -> None:
    shares = np.array([[[1.0, 0.5], [0.0, 0.0]]])
    for cells, expected in (
        ([[1, 0], [0, 0]], 1),
        ([[1, 2], [1, 0]], 0.5),
        ([[1, -9], [3, -9]], 0.25),  # negative evidence does not count
        ([[1, 1], [1, 1]], 0.375),  # a uniform map: the area
        ([[0, 0], [0, 5]], 0),
    ):
        assert foreground_energy(np.array([cells], np.float32), shares)[0] == pytest.approx(expected)


@pytest.mark.parametrize("cells", [0.0, -1.0])
def test_no_positive_evidence_no_energy(cells: float) -> None:
    found = foreground_energy(np.stack([np.full((2, 2), cells), np.ones((2, 2))]), np.ones((2, 2, 2)))
    assert np.isnan(found[0])
    assert found[1] == 1


def test_the_centred_map_is_symmetric_about_the_middle_of_the_image() -> None:
    found = attention.centred(SEVEN)
    assert np.allclose(found, found[::-1])
    assert np.allclose(found, found.T)
    assert np.unravel_index(found.argmax(), found.shape) == (3, 3)
    off_centre = attention.centred(FOUR)  # its cells are not: 8 is 5.5 pixels from the middle, 16 only 2.5
    assert off_centre[2, 2] > off_centre[1, 1]


def test_randomised_weights_are_others_and_come_from_the_seed(family: Model, inputs: Tensor) -> None:
    built = network(family, inputs)
    before = torch.get_rng_state()
    first, again, other = (attention.randomised(built, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    matrices = [name for name, tensor in built.state_dict().items() if tensor.dim() > 1]
    assert matrices
    for name in matrices:
        assert not torch.equal(first[name], other[name])
        assert not torch.equal(first[name], built.state_dict()[name])
    assert all(not tensor.any() for name, tensor in first.items() if name.endswith("running_mean"))


def test_occlusion_of_known_evidence(template: nn.Module, inputs: Tensor) -> None:
    # A square of normalised 0 takes away the square's evidence, and nothing else: what HiResCAM says it has.
    classes = torch.tensor([3, 1, 4, 1, 5])
    drops = attention.occlusion(template, inputs, classes)
    exact, _ = maps(template, inputs, classes, "hirescam")
    assert np.abs(exact).max() > 0.1
    assert np.allclose(drops, exact, atol=1e-5)


def test_a_right_map_passes_and_a_wrong_one_fails(template: nn.Module, small_splits: Splits) -> None:
    inputs = attention.normalised(small_splits.test_images[:64], MEAN, STD)
    layer = target(template)
    classes = template(inputs).argmax(1)
    right, _ = maps(template, inputs, classes, "hirescam")
    drops = attention.occlusion(template, inputs, classes)
    random = np.random.default_rng(1).random(right.shape)

    def passed(found: np.ndarray) -> list[bool]:
        curves = attention.insertion_and_deletion(template, inputs, classes, found, -MEAN / STD, seed=0)
        return [check.passed for check in (*curves, attention.agreement(found, drops, layer))]

    assert passed(right) == [True, True, True]
    assert passed(random) == [False, False, False]
    assert passed(-right) == [False, False, False]


def test_a_map_has_no_advantage_over_itself(template: nn.Module, inputs: Tensor) -> None:
    random = np.random.default_rng(7).random((5, 7, 7))  # as the same seed draws it for the comparison
    found = attention.insertion_and_deletion(template, inputs, torch.arange(5), random, -MEAN / STD, seed=7)
    assert [(check.value, check.passed) for check in found] == [(0, False), (0, False)]


def test_maps_that_do_not_depend_on_what_was_learnt_fail() -> None:
    generator = np.random.default_rng(0)
    trained = generator.normal(size=(40, 7, 7))
    unrelated = [generator.normal(size=(40, 7, 7)) for _ in range(3)]
    assert attention.randomisation(trained, unrelated).passed
    same = attention.randomisation(trained, [2 * trained, -trained])
    assert (same.value, same.passed) == (pytest.approx(1), False)
    assert not attention.randomisation(trained, [trained + 0.1 * other for other in unrelated]).passed


def test_maps_without_any_difference_are_not_judged() -> None:
    empty, other = np.zeros((3, 4, 4)), np.random.default_rng(0).random((3, 4, 4))
    found = attention.randomisation(empty, [other])
    assert (found.n, found.low, found.passed) == (0, None, False)
    assert np.isnan(found.value)
    half = np.concatenate([empty, other])
    assert attention.randomisation(half, [np.roll(half[::-1], 3, 0)]).n == 3


def test_the_variant_that_is_exact_is_trusted_the_other_is_not(template: nn.Module, small_splits: Splits) -> None:
    # Grad-CAM takes the mean of a template, near 0, for the weight of every cell: it cannot say which ones matter.
    found = attention.checks(template, small_splits.test_images, WRONG, MEAN, STD, seed=0)
    assert list(found.columns) == list(attention.CHECK_COLUMNS)
    every = ["weight randomisation", "insertion", "deletion", "occlusion"]
    assert found.groupby("variant").check.agg(list).to_dict() == {
        name: every if name != "occlusion" else every[:-1] for name in attention.VARIANTS
    }
    assert ((found.low <= found.value) & (found.value <= found.high) | found.low.isna()).all()
    assert attention.trusted(found)["hirescam"]
    assert not attention.trusted(found)["grad-cam"]
    again = attention.checks(template, small_splits.test_images, WRONG, MEAN, STD, seed=0)
    pd.testing.assert_frame_equal(found, again, check_exact=True)


@pytest.mark.parametrize(("errors", "others"), [(40, 160), (10, 190), (0, 200), (190, 10)])
def test_half_of_the_checked_images_are_errors(errors: int, others: int) -> None:
    wrong = np.arange(errors + others) < errors
    chosen = attention.checked(wrong, seed=0)
    assert len(set(chosen)) == len(chosen)
    assert wrong[chosen].sum() == min(errors, 32)
    assert (~wrong[chosen]).sum() == min(others, 64 - min(errors, 32))


@pytest.mark.parametrize(
    "model", [FashionCNN(channels=(8, 8), hidden=(16,)), ResNet("resnet", (1, 1, 1), (8, 8, 8), stem=4)]
)
def test_a_network_with_random_weights_is_not_trusted(
    model: Model, small_splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "CHECKED", 24)
    for seed in range(2):
        found = attention.checks(build_model(model, seed).eval(), small_splits.test_images, WRONG, MEAN, STD, seed=0)
        assert not any(attention.trusted(found).values())
        assert found.value.notna().all()


def made_predictions(labels: Bytes, share: float, seed: int) -> pd.DataFrame:
    """Predictions of which about this share are wrong, in an order of their own."""
    generator = np.random.default_rng(seed)
    shift = generator.integers(1, 10, len(labels)) * (generator.random(len(labels)) < share)

    def classes(codes: np.ndarray) -> pd.Categorical:
        return pd.Categorical.from_codes(codes, list(CLASS_NAMES), ordered=True)

    columns = {"image": np.arange(len(labels), dtype=np.int32), "label": classes(labels)}
    frame = pd.DataFrame({**columns, "predicted": classes((labels + shift) % 10)})
    return frame.sample(frac=1, random_state=seed)


@pytest.fixture(scope="module")
def areas(fashion_mnist: FashionMNIST) -> np.ndarray:
    return np.asarray((fashion_mnist.test_images[:2000] > 0).mean((1, 2)))


@pytest.fixture(scope="module")
def made(fashion_mnist: FashionMNIST) -> Callable[[float, int], pd.DataFrame]:
    return lambda share, seed: made_predictions(fashion_mnist.test_labels[:2000], share, seed)


def test_errors_and_their_matches(made: Callable[[float, int], pd.DataFrame], areas: np.ndarray) -> None:
    predictions = made(0.1, 0)
    found = matched_sample(predictions, areas, 50, seed=3)
    errors, matches = found[found.wrong], found[~found.wrong]
    assert (len(errors), len(matches)) == (50, 50)
    assert found.image.is_unique
    assert (errors.label != errors.predicted).all()
    assert errors.matched.isna().all()
    assert (matches.label == matches.predicted).all()
    assert matches.matched.tolist() == errors.image.tolist(), "one for each, in their order"
    assert matches.label.tolist() == errors.label.tolist()
    pair, error = matches.iloc[0], errors.iloc[0]
    right = predictions[(predictions.predicted == predictions.label) & (predictions.label == error.label)]
    assert abs(areas[pair.image] - areas[error.image]) == np.abs(areas[right.image] - areas[error.image]).min()
    distance = np.abs(areas[matches.image.to_numpy()] - areas[errors.image.to_numpy()]).mean()
    assert distance < 0.1 * areas.std()


def test_samples_do_not_depend_on_the_order_of_rows(
    made: Callable[[float, int], pd.DataFrame], areas: np.ndarray
) -> None:
    predictions = made(0.1, 0)
    found = matched_sample(predictions, areas, 50, seed=3)
    pd.testing.assert_frame_equal(found, matched_sample(predictions.sort_values("image"), areas, 50, seed=3))
    assert not found.equals(matched_sample(predictions, areas, 50, seed=4))


def test_models_share_images(made: Callable[[float, int], pd.DataFrame], areas: np.ndarray) -> None:
    def errors(predictions: pd.DataFrame, n: int) -> list[int]:
        found = matched_sample(predictions, areas, n, seed=3)
        return list(found.image[found.wrong])

    many, few = made(0.5, 0), made(0.2, 1)
    assert errors(many, 40) == errors(many, 90)[:40]
    all_many, all_few = errors(many, 2000), errors(few, 2000)
    shared = set(all_many) & set(all_few)
    assert len(shared) > 100
    assert [image for image in all_many if image in shared] == [image for image in all_few if image in shared]


def test_errors_that_find_no_match_stay(made: Callable[[float, int], pd.DataFrame], areas: np.ndarray) -> None:
    predictions = made(0.7, 0)
    found = matched_sample(predictions, areas, 2000, seed=3)
    wrong = predictions.label != predictions.predicted
    assert found.wrong.sum() == wrong.sum()
    assert (~found.wrong).sum() == (~wrong).sum(), "every correct image is used up"
    assert found.image.is_unique


def test_a_sample_of_what_does_not_fit_is_refused(
    made: Callable[[float, int], pd.DataFrame], areas: np.ndarray
) -> None:
    with pytest.raises(ValueError, match="got 1990 rows, must be one for each of 2000 images"):
        matched_sample(made(0.1, 0).iloc[10:], areas, 50, seed=0)


@pytest.fixture
def inspected(small_splits: Splits) -> tuple[Bytes, Mask, pd.DataFrame]:
    """200 test images, their masks, and a sample of 12 errors and their matches."""
    masks = small_splits.test_images > 0
    predictions = made_predictions(small_splits.test_labels, 0.1, 0)
    return small_splits.test_images, masks, matched_sample(predictions, masks.mean((1, 2)), 12, seed=0)


@pytest.mark.filterwarnings("error")
def test_inspected_images(inspected: tuple[Bytes, Mask, pd.DataFrame]) -> None:
    images, masks, sample = inspected
    inputs = attention.normalised(images, MEAN, STD)
    built = network(FashionCNN(channels=(8, 16, 16), hidden=(16,)), inputs)
    found = attention.inspect(built, images, sample, masks, MEAN, STD, seed=0)
    assert list(found.columns) == list(attention.COLUMNS)
    assert (found.layer == "features.relu3").all()
    for _, rows in found.groupby("variant"):
        assert rows[rows.target == "predicted"].image.tolist() == sample.image.tolist()
        assert rows[rows.target == "true"].image.tolist() == sample.image[sample.wrong].tolist()
    assert set(found.variant) == {*attention.VARIANTS}

    row = found[(found.variant == "hirescam") & (found.target == "true")].iloc[3]
    label = int(sample.label.cat.codes[sample.image == row.image].iloc[0])
    cells = maps(built, inputs[[row.image]], torch.tensor([label]), "hirescam")[0][0].astype(float)
    shares = masks[row.image].reshape(7, 4, 7, 4).mean((1, 3))[:6, :6]
    assert row.positive == pytest.approx(cells[cells > 0].sum(), rel=1e-5)
    assert row.negative == pytest.approx(cells[cells < 0].sum(), rel=1e-5)
    assert row.energy == pytest.approx((cells * shares)[cells > 0].sum() / cells[cells > 0].sum(), rel=1e-5)
    assert row.area_share == pytest.approx(masks[row.image][:24, :24].mean())
    for name in ("energy", "area_share", "centre_energy", "random_energy"):
        assert found[name].dropna().between(0, 1 + 1e-9).all()
        assert found[name].notna().any()
    # Garments are in the middle: a map that knows only this has more than its share of foreground.
    assert (found.centre_energy > found.area_share).mean() > 0.9
    again = attention.inspect(built, images, sample, masks, MEAN, STD, seed=0)
    pd.testing.assert_frame_equal(found, again, check_exact=True)


def test_evidence_for_and_against_adds_up_to_the_logit(inspected: tuple[Bytes, Mask, pd.DataFrame]) -> None:
    images, masks, sample = inspected
    inputs = attention.normalised(images, MEAN, STD)
    built = network(ResNet("resnet", (1, 1), (8, 16), stem=8), inputs)
    found = attention.inspect(built, images, sample, masks, MEAN, STD, seed=0, by_pixel=False)
    assert set(found.variant) == {"grad-cam"}
    rows = found[found.target == "predicted"]
    logits = built(inputs[rows.image.tolist()]).detach() - built.classifier.bias.detach()  # type: ignore[union-attr]
    expected = logits[range(len(rows)), sample.predicted.cat.codes.tolist()]
    assert np.allclose(rows.positive + rows.negative, expected, atol=1e-5)


def test_nothing_to_inspect(inspected: tuple[Bytes, Mask, pd.DataFrame]) -> None:
    images, masks, sample = inspected
    right = made_predictions(np.zeros(200, np.uint8), 0, 0)
    nothing = matched_sample(right, masks.mean((1, 2)), 12, seed=0)
    assert len(nothing) == 0
    built = build_model(FashionCNN(channels=(4,), hidden=()), 0).eval()
    found = attention.inspect(built, images, nothing, masks, MEAN, STD, seed=0)
    some = attention.inspect(built, images, sample, masks, MEAN, STD, seed=0)
    assert len(found) == 0
    assert found.dtypes.to_dict() == some.dtypes.to_dict()


@pytest.mark.parametrize(
    ("values", "passes"),
    [
        ([0.5, 0.6, 0.55], True),
        ([0.5, 0.15, 0.55, 0.6, 0.5, 0.58], True),  # one network below the threshold, all together above
        ([0.5, -0.4, 0.55], False),  # the mean above, but not sure
        ([0.1, 0.12, 0.11], False),
    ],
)
def test_checks_are_judged_of_all_networks_together(values: list[float], passes: bool) -> None:
    rows = pd.DataFrame({"variant": "hirescam", "check": "occlusion", "value": values, "passed": False})
    assert attention.trusted(rows) == {"hirescam": passes}
    assert attention.failed(rows) == {"hirescam": [] if passes else ["occlusion"]}


def test_a_single_network_is_judged_over_its_images() -> None:
    for passed in (True, False):
        rows = pd.DataFrame({"variant": ["hirescam"], "check": "occlusion", "value": 0.9, "passed": passed})
        assert attention.trusted(rows) == {"hirescam": passed}
