"""One contract for every network: families, presets, and sizes at the edges."""

import dataclasses
import io
from collections import OrderedDict
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from study.config import MODELS, FashionCNN, Model, ResNet
from study.models import CLASSES, build_model
from study.models.resnet import BasicBlock, StridedConv2d

pytestmark = pytest.mark.usefixtures("one_thread")


class Case(NamedTuple):
    """A network and what is known of it beforehand."""

    model: Model
    parameters: int
    relus: int
    last: str  # the last activation before the classifier
    side: int  # of that activation's map


# three_block by hand, weights (no biases) + 2 a channel for each batch norm:
#   stem         9·64             + 128                                              =       704
#   64 → 128     9·64·128  +  9·128·128 +  64·128 (shortcut) + 3·256                 =   230,144
#   128 → 256    9·128·256 +  9·256·256 + 128·256            + 3·512                 =   919,040
#   256 → 512    9·256·512 +  9·512·512 + 256·512            + 3·1024                = 3,673,088
#   linear       512·10 + 10                                                         =     5,130
THREE_BLOCK = 704 + 230_144 + 919_040 + 3_673_088 + 5_130
# Its three shortcuts, each a 1×1 convolution and a batch norm.
THREE_BLOCK_SHORTCUTS = (64 * 128 + 256) + (128 * 256 + 512) + (256 * 512 + 1024)

CASES = {
    "resnet18": Case(MODELS["resnet18"], 11_172_810, 17, "features.3.1.relu2", 4),
    "three_block": Case(MODELS["three_block"], THREE_BLOCK, 7, "features.2.0.relu2", 7),
    "three_block plain": Case(
        ResNet("three_block", (1, 1, 1), (128, 256, 512), shortcut=False),
        THREE_BLOCK - THREE_BLOCK_SHORTCUTS,
        7,
        "features.2.0.relu2",
        7,
    ),
    # stem 9·4 + 8, one block 2·(9·4·4 + 8) whose shortcut is the identity, linear 4·10 + 10
    "resnet of one block": Case(ResNet("resnet", (1,), (4,), stem=4), 44 + 304 + 50, 3, "features.0.0.relu2", 28),
    # stem 9·3 + 6; 3 → 4 with shortcut 108 + 144 + 12 + 24; 4 → 8 with shortcut 288 + 576 + 32 + 48;
    # 8 → 8 2·(576 + 16); linear 90
    "resnet of three": Case(
        ResNet("resnet", (1, 2), (4, 8), stem=3), 33 + 288 + 944 + 1184 + 90, 7, "features.1.1.relu2", 14
    ),
    "fashion_cnn": Case(MODELS["fashion_cnn"], 422_474, 5, "features.relu3", 7),
    # convolution 9·4 + 4, batch norm 8, linear 14·14·4·10 + 10
    "fashion_cnn without hidden": Case(FashionCNN(channels=(4,), hidden=()), 48 + 7850, 1, "features.relu1", 28),
    # 9·2 + 2 + 4, twice 9·2·2 + 2 + 4, 9·2·8 + 8 + 16; linear 8·32 + 32, twice 32·32 + 32, 32·10 + 10
    "fashion_cnn of four and three": Case(
        FashionCNN(channels=(2, 2, 2, 8), hidden=(32, 32, 32), dropout=0.0),
        24 + 42 + 42 + 168 + 288 + 1056 + 1056 + 330,
        7,
        "features.relu4",
        3,
    ),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def relus_of(network: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in network.named_modules() if isinstance(module, nn.ReLU)}


class CountRelus(TorchDispatchMode):
    """Counts the rectifications that are computed, by modules or not."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += "relu" in str(func) or "clamp" in str(func)
        return func(*args, **(kwargs or {}))


class ConvolutionSizes(TorchDispatchMode):
    """Lists kernel, stride and side of each convolution that torch is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, int, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket is torch.ops.aten.convolution:
            x, weight, _, stride, *_ = args
            self.sizes.append((weight.shape[-1], stride[0], x.shape[-1]))
        return func(*args, **(kwargs or {}))


def test_every_preset_is_in_the_contract() -> None:
    covered = [dataclasses.replace(case.model, name="") for case in CASES.values()]
    assert MODELS
    assert [name for name, model in MODELS.items() if dataclasses.replace(model, name="") not in covered] == []


def test_one_row_of_logits_an_image(case: Case) -> None:
    network = build_model(case.model, 0)
    assert network(images(3)).shape == (3, CLASSES)
    assert network.eval()(images(1)).shape == (1, CLASSES)


def test_number_of_parameters(case: Case) -> None:
    assert sum(parameter.numel() for parameter in build_model(case.model, 0).parameters()) == case.parameters


def test_every_parameter_gets_a_gradient(case: Case) -> None:
    # In evaluation mode: a batch's own statistics would cancel the bias of a convolution before them.
    network = build_model(case.model, 0).eval()
    functional.cross_entropy(network(images(10)), torch.arange(10)).backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_same_seed_same_weights_whatever_the_global_generator(case: Case) -> None:
    torch.manual_seed(1)
    first = build_model(case.model, 7).state_dict()
    torch.manual_seed(2)
    second = build_model(case.model, 7).state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_another_seed_other_weights(case: Case) -> None:
    first, second = (dict(build_model(case.model, seed).named_parameters()) for seed in (7, 8))
    matrices = [name for name, parameter in first.items() if parameter.dim() > 1]
    assert matrices
    assert not any(torch.equal(first[name], second[name]) for name in matrices)


def test_the_global_generator_stays(case: Case) -> None:
    before = torch.get_rng_state()
    build_model(case.model, 7)
    assert torch.equal(torch.get_rng_state(), before)


def test_state_round_trip(case: Case) -> None:
    network = build_model(case.model, 0)
    network(images())  # moves the running statistics
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    other = build_model(case.model, 1)
    assert not torch.equal(network.eval()(images()), other.eval()(images()))
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(network(images()), other(images()))


def test_every_rectification_is_a_named_module_and_its_hook_fires_once(case: Case) -> None:
    network = build_model(case.model, 0).eval()
    fired: list[str] = []
    for name, module in relus_of(network).items():
        module.register_forward_hook(lambda _module, _inputs, _output, name=name: fired.append(name))
    with torch.no_grad(), CountRelus() as computed:
        network(images())
    assert len(relus_of(network)) == case.relus
    assert sorted(fired) == sorted(relus_of(network))
    assert computed.count == case.relus


def test_the_last_map_before_the_classifier(case: Case) -> None:
    network = build_model(case.model, 0).eval()
    shapes: dict[str, torch.Size] = {}
    for name, module in relus_of(network).items():
        module.register_forward_hook(lambda _m, _i, out, name=name: shapes.update({name: out.shape}))
    network(images(2))
    assert [name for name in shapes if not name.startswith("classifier")][-1] == case.last
    assert shapes[case.last][2:] == (case.side, case.side)


def test_without_shortcuts_there_are_no_shortcut_parameters() -> None:
    def names(shortcut: bool) -> set[str]:
        return set(build_model(ResNet(shortcut=shortcut), 0).state_dict())

    left_out = names(True) - names(False)
    assert names(False) < names(True)
    assert left_out == {name for name in names(True) if ".shortcut." in name}
    assert len([name for name in left_out if name.endswith("0.weight")]) == 3  # the stages 2 to 4 halve the side


@pytest.mark.parametrize("shortcut", [True, False])
def test_a_block_that_learned_nothing_passes_its_input_on_only_through_the_shortcut(shortcut: bool) -> None:
    block = BasicBlock(4, 4, stride=1, shortcut=shortcut).eval()
    nn.init.zeros_(block.bn2.weight)
    x = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    expected = functional.relu(x) if shortcut else torch.zeros_like(x)
    assert torch.equal(block(x), expected)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_pooling_before_rectifying_changes_no_bit(precision: torch.dtype) -> None:
    ours, usual = (build_model(FashionCNN(dropout=0.0), 0) for _ in range(2))
    of = dict(usual.features.named_children())  # type: ignore[union-attr,operator]
    order = [f"{kind}{number}" for number in (1, 2, 3) for kind in ("conv", "bn", "relu", "pool")]
    usual.features = nn.Sequential(OrderedDict((name, of[name]) for name in order))
    assert list(usual.state_dict()) == list(ours.state_dict())
    for network in (ours, usual):
        network.to(memory_format=torch.channels_last).train()
        optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
        for _ in range(3):
            with torch.autocast("cpu", precision, enabled=precision != torch.float32):
                loss = network(images(32)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for one, other in zip(ours.state_dict().values(), usual.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_no_network_has_a_strided_convolution_of_which_onednn_corrupts_the_gradients() -> None:
    deep = ResNet("resnet", blocks=(1,) * 8, widths=(2,) * 8, stem=2)  # sides 28, 14, 7, 4, 2, 1, 1, 1
    with torch.no_grad(), ConvolutionSizes() as asked:
        build_model(deep, 0)(images())
    assert len(asked.sizes) == 1 + 2 * 8 + 7
    assert {(kernel, side) for kernel, stride, side in asked.sizes if stride > 1} == {(3, s) for s in (28, 14, 7, 4, 2)}


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("side", [1, 2, 7])
def test_a_strided_convolution_is_that_of_torch(kernel: int, side: int) -> None:
    torch.manual_seed(0)
    ours = StridedConv2d(3, 4, kernel, 2, padding=kernel // 2, bias=False)
    torch.manual_seed(0)
    usual = nn.Conv2d(3, 4, kernel, 2, padding=kernel // 2, bias=False)
    assert list(ours.state_dict()) == ["weight"]
    assert torch.equal(ours.weight, usual.weight)
    x = torch.randn(5, 3, side, side)
    torch.testing.assert_close(ours(x), usual(x))


def test_dropout_stands_before_the_first_two_linear_layers() -> None:
    network = build_model(FashionCNN(channels=(4,), hidden=(8, 8, 8), dropout=0.4), 0)
    order = [name for name, _ in network.classifier.named_children()]  # type: ignore[union-attr,operator]
    assert order[:5] == ["dropout1", "linear1", "relu1", "dropout2", "linear2"]
    assert [m.p for m in network.modules() if isinstance(m, nn.Dropout)] == [0.4, 0.4]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (ResNet("resnet", (2, 2), (8, 8, 8)), "got 2 blocks and 3 widths"),
        (FashionCNN(channels=(4, 4, 4, 4, 4)), "got 5 channels, must be at most 4"),
    ],
)
def test_sizes_that_make_no_network(model: Model, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(model, 0)
