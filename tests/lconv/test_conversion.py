"""lconvify: the same function with other layers, back again, and the learnable forms; nothing else is changed."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import unchecked
from torch import Tensor, nn
from torch.nn.utils import prune
from torch_geometric.nn import GCN, GATConv, GCNConv

from relaxify import relaxify
from relaxify.lconv import (
    AdjacencyLConv,
    GraphLConv,
    Grid,
    LConv,
    LinearLConv,
    LowRank,
    Points,
    Shifts,
    free,
    graph,
    lconvify,
    swaps,
    unlconvify,
)

EXACT = 1e-12


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def largest(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).detach().abs().max()) if a.numel() else 0.0


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, Tensor]:
    """A random convolution of any kind, in float64, and an input that it takes."""
    ndim = draw(st.integers(1, 3))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    inputs, outputs = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    kernel, stride, dilation = (tuple(draw(st.integers(1, most)) for _ in range(ndim)) for most in (3, 3, 2))
    mode = draw(st.sampled_from(["zeros", "circular", "replicate", "reflect"]))
    size = tuple(draw(st.integers(5, 7)) for _ in range(ndim))
    given_padding: Any = tuple(draw(st.integers(0, 2)) for _ in range(ndim))
    if draw(st.integers(0, 3)) == 0:
        given_padding = draw(st.sampled_from(["same", "valid"]))
        stride = (1,) * ndim if given_padding == "same" else stride
    common = {"stride": stride, "dilation": dilation, "groups": groups, "bias": draw(st.booleans())}
    kinds = {1: (nn.Conv1d, nn.ConvTranspose1d), 2: (nn.Conv2d, nn.ConvTranspose2d), 3: (nn.Conv3d, nn.ConvTranspose3d)}
    if draw(st.booleans()):
        amounts = (1,) * ndim if isinstance(given_padding, str) else given_padding
        extra = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
        layer: nn.Module = kinds[ndim][1](inputs, outputs, kernel, padding=amounts, output_padding=extra, **common)
    else:
        layer = kinds[ndim][0](inputs, outputs, kernel, padding=given_padding, padding_mode=mode, **common)
    return layer.double(), noise(draw(st.integers(1, 2)), inputs, *size, seed=draw(st.integers(0, 99)))


@given(convolutions())
@settings(max_examples=450)
def test_every_convolution_is_an_l_conv(drawn: tuple[nn.Module, Tensor]) -> None:
    """LC Prop. 4: the swapped layer, and the sum over its shift matrices, to rounding, with all gradients."""
    conv, x = drawn
    layer = lconvify(conv)
    assert isinstance(layer, LConv)
    outcomes = []
    for module in (conv, layer):
        module.zero_grad()
        leaf = x.clone().requires_grad_()
        out = module(leaf)
        out.backward(noise(*out.shape, seed=1))
        outcomes.append([out, leaf.grad, *(parameter.grad for parameter in module.parameters())])
    for ours, theirs in zip(*outcomes, strict=True):
        assert largest(ours, theirs) <= EXACT
    literal = _literal(layer, x)
    assert largest(literal, outcomes[0][0]) <= EXACT
    back = unlconvify(layer)
    assert type(back) is type(conv)
    assert back.extra_repr() == conv.extra_repr()  # type: ignore[operator]
    assert largest(back(x), conv(x)) <= EXACT


def _literal(layer: LConv, x: Tensor) -> Tensor:
    """sum_k S_k x W^k + b with S_k as matrices."""
    space = tuple(x.shape[2:])
    matrices = layer.generators.dense(space, dtype=x.dtype)
    weights = layer.generators.per_generator(layer.weight, layer.groups)
    blocks = torch.stack([torch.block_diag(*weight.chunk(layer.groups)) for weight in weights])
    out = torch.einsum("kmn,bcn,koc->bom", matrices, x.flatten(2), blocks)
    out = out.reshape(*out.shape[:2], *layer.generators.space_out(space))
    return out if layer.bias is None else out + layer.bias.reshape(-1, *(1,) * len(space))


def test_at_stride_one_the_generators_are_shifts_minus_the_identity() -> None:
    """L_k = S_k - I and W^0 = sum_k W^k: the shifts near the identity, as generators of translations."""
    conv = nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular").double()
    x = noise(2, 2, 4, 5)
    layer = lconvify(conv)
    assert isinstance(layer, LConv)
    weights = layer.generators.per_generator(layer.weight)
    matrices = layer.generators.dense((4, 5), dtype=x.dtype) - torch.eye(20, dtype=x.dtype)
    out = torch.einsum("kmn,bcn,koc->bom", matrices, x.flatten(2), weights)
    out = out + torch.einsum("bcm,oc->bom", x.flatten(2), weights.sum(0)) + conv.bias[:, None]  # type: ignore[index]
    assert largest(out.reshape(2, 3, 4, 5), conv(x)) <= EXACT


class Residual(nn.Module):
    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        inputs = channels // stride
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Sequential(nn.Conv2d(inputs, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))
        if stride == 1:
            self.downsample = nn.Sequential()

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + self.downsample(x))


def resnet18(classes: int = 10) -> nn.Module:
    """In torchvision's manner: stem, four stages of two blocks, mean over pixels, one linear layer."""
    stages = [Residual(width, stride) for width in (64, 128, 256, 512) for stride in (1 if width == 64 else 2, 1)]
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))


class GraphNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([GCNConv(8, 16), GCNConv(16, 16, improved=True), GCNConv(16, 5, bias=False)])

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, edge_index).tanh()
        return x


def edges(nodes: int = 40, count: int = 150) -> Tensor:
    return torch.randint(0, nodes, (2, count), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("kind", ["resnet18", "gcn"])
def test_whole_models(kind: str) -> None:
    model, inputs = (
        (resnet18(), (torch.randn(4, 3, 64, 64),)) if kind == "resnet18" else (GraphNet(), (torch.randn(40, 8), edges()))
    )
    model.eval()
    converted = lconvify(model)
    kinds = {type(module) for module in converted.modules()}
    assert not kinds & {nn.Conv2d, nn.Linear, GCNConv}
    with torch.no_grad():
        expected, found = model(*inputs), converted(*inputs)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert torch.equal(found.argmax(1), expected.argmax(1))
    assert list(converted.state_dict()) == list(model.state_dict())
    back = unlconvify(converted)
    assert [type(m) for m in back.modules()] == [type(m) for m in model.modules()]
    back.load_state_dict(model.state_dict(), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(back(*inputs), expected)


GCN_SETTINGS: list[dict[str, Any]] = [
    {},
    {"improved": True},
    {"add_self_loops": False},
    {"normalize": False},
    {"bias": False},
    {"flow": "target_to_source"},
    {"cached": True},
]


# torch_geometric takes sparse graphs for source_to_target only
GCN_CASES = [
    pytest.param(given_settings, kind, id=f"{given_settings}-{kind}")
    for given_settings in GCN_SETTINGS
    for kind in ("plain", "weighted", "loops", "sparse")
    if not (kind == "sparse" and "flow" in given_settings)
]


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning", "ignore:Converting sparse tensor to CSR:UserWarning")
@pytest.mark.parametrize(("given_settings", "graph_kind"), GCN_CASES)
def test_gcn(given_settings: dict[str, Any], graph_kind: str) -> None:
    """LC Prop. 5, gradients too. Seed 3's edges hold loops and multiple edges."""
    conv = GCNConv(4, 3, **given_settings).double()
    index, weight = edges(20, 60), None
    if graph_kind == "loops":
        index = torch.cat([index, torch.tensor([[3, 4, 4], [3, 4, 4]])], 1)
    if graph_kind in ("weighted", "loops"):
        weight = noise(index.shape[1]).abs()
    arguments: tuple[Any, ...] = (index, weight)
    if graph_kind == "sparse":
        arguments = (torch.sparse_coo_tensor(index.flip(0), noise(60).abs(), (20, 20)).coalesce(),)
    layer = lconvify(conv)
    assert isinstance(layer, GraphLConv)
    results = []
    for module in (conv, layer):
        x = noise(20, 4).requires_grad_()
        out = module(x, *arguments)
        out.square().sum().backward()
        results.append([out, x.grad, *(p.grad for p in dict(sorted(module.named_parameters())).values())])
    for ours, theirs in zip(*results, strict=True):
        assert largest(ours, theirs) <= EXACT * max(1, float(theirs.detach().abs().max()))


def test_gcn_is_equation_6_with_the_graphs_generator() -> None:
    """A_hat h Theta = h W^0 + L_1 h W^1 with L_1 = A_hat - I and W^0 = W^1 = Theta."""
    conv, index, x = GCNConv(4, 3).double(), edges(20, 60), noise(20, 4)
    layer = LConv(graph(index, 20, torch.ones(60, dtype=torch.float64)), 4, 3).double()
    layer.identity_weight, layer.bias = conv.lin.weight, conv.bias
    layer.weight = nn.Parameter(conv.lin.weight.detach()[None])
    assert largest(layer(x), conv(x, index)) <= EXACT


def test_one_layer_is_one_euler_step_of_the_flow_and_not_the_flow() -> None:
    generators = graph(edges(20, 60), 20, torch.ones(60, dtype=torch.float64))
    h = noise(1, 4, 20)
    one = torch.ones(1, dtype=torch.float64)
    step, flow = h + generators.combine(one, h), generators.expm_apply(one, h)
    assert largest(step, flow) > 0.1
    small = one / 100
    assert largest(h + generators.combine(small, h), generators.expm_apply(small, h)) < 1e-3


class PlainGCN(nn.Module):
    """pygcn's layer: two Parameters, and a sparse product."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))
        self.bias = nn.Parameter(torch.randn(outputs)) if bias else None

    def forward(self, input: Tensor, adj: Tensor) -> Tensor:  # noqa: A002
        out = torch.sparse.mm(adj, input @ self.weight) if adj.is_sparse else adj @ (input @ self.weight)
        return out if self.bias is None else out + self.bias


class PlainGCNOfLinear(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.map = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        return adjacency @ self.map(x)


class NotAGCN(PlainGCN):
    def forward(self, input: Tensor, adj: Tensor) -> Tensor:  # noqa: A002
        return super().forward(input, adj).relu()


@pytest.mark.parametrize(
    "make", [lambda: PlainGCN(4, 3), lambda: PlainGCN(4, 3, bias=False), lambda: PlainGCNOfLinear(4, 3)]
)
@pytest.mark.parametrize("sparse", [True, False])
def test_a_plain_gcn_is_found_by_what_it_computes(make: Callable[[], nn.Module], sparse: bool) -> None:
    layer = make().double()
    converted = lconvify(nn.ModuleList([layer]))[0]  # type: ignore[index]
    assert isinstance(converted, AdjacencyLConv)
    adjacency = noise(9, 9).relu()
    x = noise(9, 4, seed=1)
    given_adjacency = adjacency.to_sparse() if sparse else adjacency
    assert largest(converted(x, given_adjacency), layer(x, given_adjacency)) <= EXACT
    assert list(converted.state_dict()) == list(layer.state_dict())
    assert type(unlconvify(converted)) is type(layer)


class Masked(nn.Module):
    """Holds one linear layer and takes two arguments, and is no GCN."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.lin(x) * mask


def test_a_linear_layer_in_a_module_of_two_arguments_is_found() -> None:
    model, x, mask = Masked(), torch.randn(5, 4), torch.randn(5, 3)
    converted = lconvify(model)
    assert isinstance(converted.lin, LinearLConv)
    assert torch.equal(converted(x, mask), model(x, mask))


def test_torch_geometrics_own_gcn() -> None:
    model = GCN(4, 8, 3, 2).eval()
    converted = lconvify(model)
    x, index = torch.randn(20, 4), edges(20, 60)
    weight = torch.rand(60)
    torch.testing.assert_close(converted(x, index, edge_weight=weight), model(x, index, edge_weight=weight))
    assert sum(isinstance(module, GraphLConv) for module in converted.modules()) == 3


def test_parameters_keep_their_types() -> None:
    layer = nn.Linear(3, 2)
    layer.bias = nn.Parameter(layer.bias.detach().double())
    converted = lconvify(layer, inplace=True)
    assert (converted.weight.dtype, converted.bias.dtype) == (torch.float32, torch.float64)  # type: ignore[union-attr]


def test_what_computes_something_else_is_left_with_its_reason() -> None:
    (entry,) = swaps(NotAGCN(4, 3))
    assert entry.layer is None
    assert entry.reason == "it computes something other than A_hat x Theta + b"
    assert swaps(GATConv(4, 3)) == ()


class Classifier(nn.Module):
    """A convolution, a view, dropout and a linear layer, and one linear layer on plain features."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.drop = nn.Dropout()
        self.read = nn.Linear(4 * 5 * 6, 8)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x).relu()
        return self.out(self.read(self.drop(h.view(len(h), -1))).relu())


def test_flattened_images_are_seen_through_example_inputs() -> None:
    model, x = Classifier().double().eval(), noise(2, 1, 5, 6)
    state = copy.deepcopy(model.state_dict())
    converted = lconvify(model, example_inputs=(x,))
    read, out = converted.read, converted.out
    assert isinstance(read, LinearLConv)
    assert isinstance(out, LinearLConv)
    assert (read.generators.space, read.channels) == ((5, 6), 4)
    assert (out.generators.space, out.channels) == ((1,), 8)
    assert largest(converted(x), model(x)) == 0
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    unseen = lconvify(model)
    assert unseen.read.generators.space == (1,)  # type: ignore[union-attr]
    assert largest(unseen(x), model(x)) == 0


@pytest.mark.parametrize("mode", ["low_rank", "grid"])
def test_learnable_forms_have_the_same_shapes_and_learn(mode: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, groups=4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(72, 3),
    )
    x = torch.randn(16, 2, 8, 8)
    y = x[:, 0, 2, 3].sign().long() + 1
    converted = lconvify(model, mode=mode, example_inputs=(x,), rank=4)
    first, second = converted[0], converted[2]  # type: ignore[index]
    expected = LowRank if mode == "low_rank" else Grid
    assert {type(first.generators), type(second.generators)} == {expected}
    assert first.generators.count == (8 if mode == "low_rank" else 9)
    assert second.generators.count == 9
    assert converted(x).shape == model(x).shape
    assert isinstance(converted[5], LinearLConv if mode == "low_rank" else nn.Linear)  # type: ignore[index]
    optimizer = torch.optim.Adam(converted.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        losses.append(nn.functional.cross_entropy(converted(x), y))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert float(losses[-1].detach()) < 0.2 * float(losses[0].detach())
    assert all(p.grad is not None for p in converted.parameters())


@pytest.mark.parametrize("known_space", [True, False])
def test_freed_generators_start_where_they_were_and_fold_back(known_space: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, groups=2), nn.ConvTranspose2d(4, 2, 3, stride=2)).double()
    x = noise(2, 2, 5, 5)
    freed = free(lconvify(model), example_inputs=(x,) if known_space else None)
    assert largest(freed(x), model(x)) <= EXACT
    assert any("taps" in name for name, _ in freed.named_parameters())
    back = unlconvify(freed)
    assert [type(m) for m in back] == [type(m) for m in model]  # type: ignore[union-attr]
    assert largest(back(x), model(x)) <= EXACT
    optimizer = torch.optim.SGD(freed.parameters(), 1e-2)
    freed(x).square().sum().backward()
    optimizer.step()
    if known_space:
        with pytest.raises(ValueError, match="none of its L-convs has kept a layer's generators"):
            unlconvify(freed)
    else:
        # a stencil that is the same everywhere makes a convolution, if another one
        folded = unlconvify(freed)
        assert largest(folded(x), freed(x)) <= EXACT
        assert largest(folded(x), model(x)) > 1e-3


def test_a_freed_gcn_has_two_weights() -> None:
    conv, index, x = GCNConv(4, 3).double(), edges(20, 60), noise(20, 4)
    layer = lconvify(conv)
    free(layer)
    assert largest(layer(x, index), conv(x, index)) <= EXACT
    assert {name for name, _ in layer.named_parameters()} == {"bias", "lin.weight", "flow_weight"}
    with pytest.raises(ValueError, match="nothing to put back"):
        unlconvify(layer)


def test_the_model_is_not_changed_unless_in_place() -> None:
    model = nn.Sequential(nn.Conv1d(1, 2, 3), nn.ReLU(), nn.Conv1d(2, 2, 3))
    before = [(id(m), type(m)) for m in model.modules()]
    lconvify(model)
    lconvify(model, mode="grid")
    assert [(id(m), type(m)) for m in model.modules()] == before
    parameters = [id(p) for p in model.parameters()]
    assert lconvify(model, inplace=True) is model
    assert [id(p) for p in model.parameters()] == parameters
    assert type(model[0]) is LConv
    assert unlconvify(model, inplace=True) is model
    assert [id(p) for p in model.parameters()] == parameters
    assert type(model[0]) is nn.Conv1d


def test_trained_parameters_come_back() -> None:
    model = lconvify(nn.Sequential(nn.Conv1d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2)))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    x = torch.randn(3, 1, 6)
    model(x).square().sum().backward()
    optimizer.step()
    model.eval()
    back = unlconvify(model)
    assert not any(m.training for m in back.modules())
    assert torch.equal(back(x), model(x))


def test_layers_are_selected_as_in_relaxify() -> None:
    model = nn.Sequential(nn.Conv1d(1, 2, 3), nn.Sequential(nn.Conv1d(2, 2, 3), nn.Linear(4, 2)))

    def swapped(**patterns: Any) -> list[str]:
        return [path for path, m in lconvify(model, **patterns).named_modules() if isinstance(m, LConv | LinearLConv)]

    assert swapped() == ["0", "1.0", "1.1"]
    assert swapped(include=["1"]) == ["1.0", "1.1"]
    assert swapped(include=[nn.Conv1d], exclude=["re:1\\..*"]) == ["0"]
    assert swapped(exclude=[lambda path, module: isinstance(module, nn.Linear)]) == ["0", "1.0"]
    with pytest.raises(ValueError, match=r"include: the pattern 'head' matches none of .*, the layers 0, 1\.0, 1\.1"):
        swapped(include=["head"])
    with pytest.raises(ValueError, match="pass a sequence of patterns"):
        swapped(exclude="1")


def test_a_shared_layer_stays_shared_under_all_its_names() -> None:
    conv = nn.Conv1d(2, 2, 3, padding=1)
    model = lconvify(nn.Sequential(conv, nn.Sequential(conv)))
    assert model[0] is model[1][0]  # type: ignore[index]
    assert isinstance(model[0], LConv)  # type: ignore[index]


def test_a_convolution_acts_on_images_of_any_size_and_without_a_batch() -> None:
    conv = nn.Conv2d(3, 4, 3, padding=1)
    layer = lconvify(conv)
    for shape in ((2, 3, 5, 5), (1, 3, 9, 4), (3, 6, 6)):
        x = torch.randn(shape)
        assert torch.equal(layer(x), conv(x))


def test_what_could_be_traced_can_be_traced() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"), nn.Flatten(), nn.Linear(32, 2))
    converted, x = lconvify(model), torch.randn(2, 1, 4, 4)
    with unchecked():
        assert torch.equal(torch.fx.symbolic_trace(converted)(x), model(x))


def test_copies_pickles_and_casts() -> None:
    model = lconvify(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2)))
    x = torch.randn(2, 1, 4, 4)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x), model(x))
        assert torch.equal(unlconvify(twin)(x), model(x))
    assert unlconvify(copy.deepcopy(model).double())(x.double()).dtype == torch.float64


def test_other_kinds_of_layers_are_left() -> None:
    class Own(nn.Conv2d):
        pass

    hooked = nn.Conv2d(1, 1, 3)
    hooked.register_forward_hook(lambda module, args, output: None)
    normed = torch.nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    model = nn.Sequential(Own(1, 1, 3), hooked, normed, nn.Conv2d(1, 1, 3))
    reasons = {entry.path: entry.reason for entry in swaps(model)}
    assert reasons == {"0": None, "1": "it has hooks, which a swap would lose", "2": DERIVED, "3": None}
    assert {entry.path: entry.reason for entry in swaps(nn.Sequential(nn.Conv2d(1, 1, 1)), mode="grid")} == {
        "0": "its kernel is one point, so there is no generator to learn"
    }


def test_bad_input_is_one_sentence() -> None:
    conv = nn.Sequential(nn.Conv2d(1, 1, 3))
    with pytest.raises(ValueError, match="has no layer that is an L-conv"):
        lconvify(nn.Sequential(nn.ReLU()))
    with pytest.raises(ValueError, match="its one size is not known: pass example_inputs"):
        lconvify(conv, mode="low_rank")
    with unchecked(), pytest.raises(ValueError, match="mode='dense' is unknown"):
        swaps(conv, mode="dense")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rank=0"):
        lconvify(conv, rank=0)
    with pytest.raises(ValueError, match="does not run on the example inputs"):
        lconvify(conv, example_inputs=(torch.randn(2, 2, 4, 4),))
    with pytest.raises(ValueError, match="it holds no L-conv"):
        unlconvify(conv)
    with pytest.raises(ValueError, match="no L-conv with generators to free"):
        free(conv)
    with pytest.raises(ValueError, match="already wrapped"):
        lconvify(torch.compile(conv))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="is lazy"):
        lconvify(nn.Sequential(nn.LazyLinear(2)))


def test_example_inputs_change_nothing() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(), nn.Linear(3, 2))
    x = torch.randn(4, 3)
    state, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    swaps(model, example_inputs=(x,))
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_swaps_say_what_was_done() -> None:
    model = Classifier()
    x = torch.randn(2, 1, 5, 6)
    table = {s.path: (s.before, s.generators, s.parameters) for s in swaps(model, example_inputs=(x,))}
    assert table["conv"] == ("Conv2d", "9 shifts", (40, 40))
    assert table["read"] == ("Linear", "30 points", (968, 968))
    low_rank = {s.path: s.generators for s in swaps(model, mode="low_rank", example_inputs=(x,), rank=2)}
    assert low_rank == {"conv": "8 low-rank (rank 2) + I", "read": "2 low-rank (rank 1)", "out": "2 low-rank (rank 1)"}
    assert isinstance(lconvify(model).conv.generators, Shifts)  # type: ignore[union-attr]
    assert isinstance(lconvify(model).out.generators, Points)  # type: ignore[union-attr]


def test_a_relaxed_model_is_left_alone() -> None:
    from e3nn import o3

    model = nn.Sequential(nn.Linear(2, 13), o3.Linear("4x0e+3x1o", "1x0e"))
    relaxify(model, "O(3)", include=["1"])
    assert [s.path for s in swaps(model)] == ["0"]


class Named(nn.Conv2d):
    """A class of one's own that computes what its base does."""


class Centred(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean())


class Scaled(nn.Linear):
    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.scale = nn.Parameter(torch.ones(1))


class Doubled(GCNConv):
    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return 2 * super().forward(*args, **kwargs)


def replaced_forward() -> nn.Module:
    layer = nn.Linear(3, 2)
    layer.forward = lambda x: x  # type: ignore[method-assign]
    return layer


DERIVED = "its weight is computed from other tensors, and would no longer be"
STAY: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "weight norm": (lambda: nn.utils.weight_norm(nn.Conv2d(1, 2, 3)), DERIVED),
    "weight norm, parametrised": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)), DERIVED),
    "spectral norm": (lambda: nn.utils.spectral_norm(nn.Linear(3, 2)), DERIVED),
    "pruned": (lambda: prune.l1_unstructured(nn.Conv2d(1, 2, 3), "weight", amount=0.5), DERIVED),
    "another forward": (lambda: Centred(1, 2, 3), "its class Centred has its own forward, and may compute something else"),
    "another parameter": (lambda: Scaled(3, 2), r"its class Scaled has parameters of its own \(scale\)"),
    "a forward that was replaced": (replaced_forward, "its forward was replaced"),
    "another graph convolution": (lambda: Doubled(4, 4), "something other than A_hat x Theta"),
}


@pytest.mark.parametrize("name", STAY)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_what_may_compute_something_else_stays_with_its_reason(name: str) -> None:
    make, reason = STAY[name]
    first, second = swaps(nn.Sequential(make(), nn.Linear(2, 2)))
    assert re.search(reason, str(first.reason))
    assert second.reason is None


def test_attention_reads_its_layers_weight() -> None:
    (found,) = swaps(nn.MultiheadAttention(4, 2))
    assert "is not called as a layer" in str(found.reason)


def test_a_class_of_ones_own_that_computes_the_same_is_swapped_and_put_back() -> None:
    model = nn.Sequential(Named(1, 2, 3), nn.ReLU()).double()
    converted = lconvify(model)
    x = noise(2, 1, 6, 6)
    assert largest(converted(x), model(x)) < EXACT
    assert type(unlconvify(converted)[0]) is Named  # type: ignore[index]


@pytest.mark.parametrize("kind", ["lazy", "cached", "of a class of one's own"])
def test_graph_convolutions_that_have_run(kind: str) -> None:
    own = type("Own", (GCNConv,), {})
    layer = {"lazy": GCNConv(-1, 4), "cached": GCNConv(4, 4, cached=True)}.get(kind) or own(4, 4)
    x, edges = torch.randn(5, 4), torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]])
    expected = layer(x, edges)
    assert largest(lconvify(layer)(x, edges), expected) < 1e-6


def test_lazy_models_are_refused_in_the_words_of_the_caller() -> None:
    with pytest.raises(ValueError, match="run one forward pass before lconvify"):
        lconvify(GCNConv(-1, 4))
    with pytest.raises(ValueError, match=r"call lconvify\(model, \.\.\.\) on the bare model"):
        lconvify(nn.DataParallel(nn.Linear(2, 2)))


def lifted() -> nn.Module:
    """A graph as torch.compile's backends have had it: its parameters are inputs."""
    graph = torch.fx.Graph()
    weight, x = graph.placeholder("l_self_parameters_weight_"), graph.placeholder("l_x_")
    graph.output(graph.call_function(nn.functional.linear, (x, weight)))
    return torch.fx.GraphModule(nn.Module(), graph)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: lconvify(torch.jit.script(nn.Linear(2, 2))), "which has no layers to swap; lconvify the Python model"),
        (lambda: swaps(lifted()), "has none to swap"),
        (lambda: swaps(nn.Linear(2, 2, device="meta")), "meta device"),
        (lambda: swaps(torch.compile(nn.Linear(2, 2))), r"call lconvify\(model"),
        (lambda: lconvify(3), "lconvify takes an nn.Module, not int"),
        (lambda: free(3), "free takes an nn.Module, not int"),
        (lambda: unlconvify(3), "unlconvify takes an nn.Module, not int"),
        (lambda: swaps(nn.Linear(2, 2), example_inputs=torch.ones(1, 2)), r"example_inputs is a Tensor; .* such as \(x,\)"),
        (lambda: free(lconvify(nn.Linear(2, 2)), example_inputs=3), "example_inputs is a int"),
        (lambda: lconvify(nn.Linear(2, 2), example_inputs=(torch.ones(1, 3),)), "does not run on the example inputs"),
        (lambda: lconvify(nn.Sequential(nn.utils.weight_norm(nn.Linear(2, 2)))), "0: its weight is computed"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning", "ignore:.*torch.jit.*:DeprecationWarning")
def test_errors_are_in_the_words_of_the_caller(call: Callable[[], object], text: str) -> None:
    with unchecked(), pytest.raises(ValueError, match=text) as raised:
        call()
    assert "relaxify" not in str(raised.value)
    assert "hooks" not in str(raised.value)


@pytest.mark.parametrize("derive", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm, prune.random_unstructured])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_graph_convolutions_with_computed_weights_stay(derive: Any) -> None:
    layer = GCNConv(4, 4, cached=True)
    derive(layer.lin, "weight", **({"amount": 0.5} if derive is prune.random_unstructured else {}))
    (found,) = swaps(layer)
    assert DERIVED in str(found.reason)


def test_what_is_frozen_stays_frozen_when_generators_are_freed() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3))
    model[0].weight.requires_grad_(False)
    freed = free(lconvify(model))
    learned = {name: parameter.requires_grad for name, parameter in freed.named_parameters()}
    assert learned == {"0.weight": False, "0.bias": True, "0.generators.taps": True}
    assert {name: p.requires_grad for name, p in unlconvify(freed).named_parameters()} == {"0.weight": False, "0.bias": True}


@pytest.mark.parametrize("mode", ["exact", "low_rank", "grid"])
def test_empty_batches(mode: Any) -> None:
    convolution = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, groups=2))
    model = lconvify(convolution, mode=mode, example_inputs=(torch.ones(1, 2, 6, 6),))
    assert model(torch.ones(0, 2, 6, 6)).shape == (0, 4, 6, 6)
    assert free(lconvify(convolution))(torch.ones(0, 2, 6, 6)).shape == (0, 4, 6, 6)
    if mode != "grid":
        linear = lconvify(nn.Sequential(nn.Linear(6, 3)), mode=mode)
        assert linear(torch.ones(0, 6)).shape == (0, 3)


def test_what_is_swapped_in_inference_mode_can_be_trained() -> None:
    model = nn.Sequential(nn.Conv1d(2, 3, 3), nn.Flatten(), nn.Linear(18, 2))
    with torch.inference_mode():
        swapped = lconvify(model)
        back = unlconvify(swapped)
    for net in (swapped, back):
        net(torch.randn(1, 2, 8)).sum().backward()
        assert all(parameter.grad is not None for parameter in net.parameters())


class Called(nn.Module):
    """Calls its layer with arguments by their names, as torch allows."""

    def __init__(self, layer: nn.Module, **arguments: Any) -> None:
        super().__init__()
        self.layer, self.arguments = layer, arguments

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layer(input=x, **self.arguments)
        return found


@pytest.mark.parametrize(
    ("layer", "shape", "arguments"),
    [
        (nn.Conv2d(4, 6, 3), (2, 4, 7, 7), {}),
        (nn.Linear(4, 3), (2, 4), {}),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1), (2, 4, 7, 6), {"output_size": (14, 11)}),
        (nn.ConvTranspose1d(4, 6, 5, stride=3, dilation=2), (4, 9), {"output_size": [35]}),
    ],
)
def test_a_layer_is_called_as_before(layer: nn.Module, shape: tuple[int, ...], arguments: dict[str, Any]) -> None:
    model, x = Called(layer, **arguments), torch.randn(shape)
    swapped = lconvify(model)
    assert type(swapped.layer) is not type(layer)
    torch.testing.assert_close(swapped(x), model(x))


def test_a_size_that_a_transposed_convolution_cannot_have_is_refused() -> None:
    swapped = lconvify(Called(nn.ConvTranspose2d(4, 6, 3, stride=2), output_size=(19, 15)))
    with pytest.raises(ValueError, match="whose smallest is"):
        swapped(torch.randn(2, 4, 7, 7))
