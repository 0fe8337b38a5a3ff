"""The penalty and the gradients are right however the model is run: compiled, in half precision, checkpointed, in pieces."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from e3nn import o3
from networks import NETWORKS, WITH_CNN, Make, e3nn_net, randomise_terms, vn_net
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from relaxify import RelaxConfig, Triangle, penalties, penalty, project, relaxify, set_theta
from relaxify.relaxation.config import Reduction
from relaxify.relaxation.terms.term import terms_of
from relaxify_examples.models.vector_neurons import VNLinear

CONFIGS = {
    "rows": RelaxConfig(),
    "few rows": RelaxConfig(rows=4),
    "exact": RelaxConfig(rows=None),
    "norm": RelaxConfig(rows=None, reduction="norm"),
    "rank": RelaxConfig(rank=2),
}
MODES = pytest.mark.parametrize("config", CONFIGS.values(), ids=list(CONFIGS))


def relaxed_net(make: Make, config: RelaxConfig = RelaxConfig()) -> tuple[nn.Module, tuple[Tensor, ...]]:
    model, group, batch = make()
    randomise_terms(relaxify(model, group, config=config))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model, batch


@pytest.mark.filterwarnings("ignore")
@MODES
@NETWORKS
def test_a_compiled_step_is_one_graph_and_is_right(make: Make, config: RelaxConfig, compiler: None) -> None:
    """While theta moves by a controller and weights by an optimiser, nothing is compiled anew and no graph breaks."""
    model, batch = relaxed_net(make, config)
    twin = copy.deepcopy(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for net, call in ((model, compiled), (twin, twin)):
        theta, optimizer = Triangle(net, 5, until=1), torch.optim.SGD(net.parameters(), 1e-4)
        for _ in range(4):
            (call(*batch).square().mean() + penalty(call)).backward()
            optimizer.step()
            optimizer.zero_grad()
            theta.step()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert not torch._dynamo.utils.counters["graph_break"]
    for ours, expected in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@MODES
def test_compiled_micro_batches_are_few_graphs(config: RelaxConfig, compiler: None) -> None:
    """The first of a step, those after it, and what other lengths of kept rows need; not one a micro-batch."""
    model, batch = relaxed_net(e3nn_net, config)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    values = []
    for _ in range(2):
        for call in (compiled, model):
            for _ in range(12):
                call(*batch)
            assert all(term.sketch.seen == 144 for term in terms_of(model).values())
            values.append(penalty(model).detach())
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 5
    if config.rows is None:
        torch.testing.assert_close(torch.stack(values), values[0].expand(4))


@pytest.mark.filterwarnings("ignore")
def test_nothing_of_the_terms_is_compiled_for_evaluation(compiler: None) -> None:
    model, batch = relaxed_net(vn_net)
    clean = project(model).eval()
    calls = []
    for net in (clean, model.eval()):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        torch.compile(net, backend="eager", fullgraph=True)(*batch)
        calls.append(torch._dynamo.utils.counters["stats"]["calls_captured"])
    assert calls[0] == calls[1]


@MODES
@pytest.mark.parametrize(("share", "size"), [(None, 1.0), (RelaxConfig().share, 0.03)], ids=["as printed", "share"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_with_a_scaler(dtype: torch.dtype, share: float | None, size: float, config: RelaxConfig) -> None:
    """Weights after a scaled step in half precision are nearly those of a step in full precision."""
    model, group = nn.Sequential(VNLinear(3, 6), VNLinear(6, 2)), "SO(3)"
    randomise_terms(relaxify(model, group, config=dataclasses.replace(config, share=share)))
    for term in terms_of(model).values():
        # terms far above a share are pulled to it by steps that are large beside what is tolerated
        term.weight.data.mul_(size) if term.config.rank is None else term.up.data.mul_(size)
    twin, x = copy.deepcopy(model), torch.randn(4, 3, 3, 10)
    values = []
    for net, enabled in ((model, True), (twin, False)):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, enabled=enabled)
        optimizer = torch.optim.SGD(net.parameters(), 1e-3)
        with torch.autocast("cpu", dtype, enabled=enabled):
            loss = net(x).float().square().mean() + penalty(net)
            net(x)
            values.append(penalty(net).detach())
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    assert all(p.dtype == torch.float32 for p in model.parameters())
    for ours, expected in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=5e-2, atol=5e-2)
    torch.testing.assert_close(*values, rtol=2e-2, atol=0)


@pytest.mark.parametrize("reduction", ["rms", "norm"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_mixed_precision_the_penalty_is_computed_in_full(dtype: torch.dtype, reduction: Reduction) -> None:
    """Of a layer whose input is in full precision: to 1e-5 what it is without autocast."""
    for layer, group, x in (
        (VNLinear(3, 6), "SO(3)", torch.randn(4, 3, 3, 10)),
        (nn.Sequential(o3.Linear("4x0e+3x1o", "2x0e+2x1o")), "O(3)", torch.randn(12, 13)),
    ):
        randomise_terms(relaxify(layer, group, config=RelaxConfig(rows=None, reduction=reduction)))
        values = []
        for enabled in (True, False):
            with torch.autocast("cpu", dtype, enabled=enabled):
                layer(x)
                values.append(penalty(layer).detach())
        torch.testing.assert_close(*values, rtol=1e-5, atol=0)


def test_the_penalty_of_a_half_precision_model_is_computed_in_full() -> None:
    """An equivariant W has no Lie derivative, though differences of bfloat16 numbers would have."""
    layer = relaxify(o3.Linear("4x0e+3x1o", "2x0e+2x1o"), "O(3)")
    with torch.no_grad():
        layer.relaxation.weight.copy_(torch.block_diag(torch.randn(2, 4), torch.kron(torch.randn(2, 3), torch.eye(3))))
    layer.relaxation.bfloat16()
    layer.relaxation.sketch.update(torch.randn(20, 13).bfloat16(), torch.randn(20, 8))
    found = penalties(layer)[""]
    assert found.norm > 1
    torch.testing.assert_close(found.lie, torch.zeros(4), atol=1e-5, rtol=0)


class Mapped(nn.Module):
    """The vector axis moved to where a Vector Neurons map wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = VNLinear(3, 6), VNLinear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x).norm(dim=2, keepdim=True)) * self.first(x))


@MODES
def test_memory_formats_change_nothing(config: RelaxConfig) -> None:
    """Of inputs with [batch, channels, 3, points] and [batch, channels, 3, points, neighbours]."""
    model = relaxify(Mapped(), "SO(3)", config=config)
    randomise_terms(model)
    for shape, layout in (((4, 3, 3, 10), torch.channels_last), ((4, 3, 3, 10, 2), torch.channels_last_3d)):
        results = []
        for memory_format in (torch.contiguous_format, layout):
            x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(memory_format=memory_format)
            for term in terms_of(model).values():
                term.sketch.updates = 0
            x.requires_grad_()
            output = model(x)
            value = penalty(model)
            (output.square().sum() + value).backward()
            results.append((output, value, x.grad, [p.grad for p in model.parameters()]))
            model.zero_grad()
        torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


@MODES
@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])
def test_activation_checkpointing_changes_nothing(reentrant: bool, config: RelaxConfig) -> None:
    """Two checkpointed segments, one within the other's model: rows are seen once, before the penalty is read."""
    model, (x, attribute) = relaxed_net(e3nn_net, config)
    twin = copy.deepcopy(model)
    x = x.requires_grad_()
    for _ in range(2):
        results = []
        for net in (model, twin):
            first, last = (net.first, net.last)
            if net is model:
                output = last(checkpoint(lambda h, n=net: n.product(n.first(h), attribute), x, use_reentrant=reentrant))
            else:
                output = last(net.product(first(x), attribute))
            value = penalty(net)
            (output.square().sum() + value).backward()
            seen = [term.sketch.seen for term in terms_of(net).values()]
            results.append((output, value, x.grad, [p.grad for p in net.parameters()], seen))
            x.grad = None
        torch.testing.assert_close(*results)


@MODES
@WITH_CNN
def test_micro_batches_give_the_whole_batch(make: Make, config: RelaxConfig) -> None:
    """Exactly with every row: the penalty is read once, after all."""
    if config.rows is not None:
        config = RelaxConfig(rows=None, rank=config.rank)
    model, batch = relaxed_net(make, config)
    model.eval()
    for module in model.modules():
        if "relaxation" in dict(module.named_children()):
            module.relaxation.train()
    values = []
    for pieces in (1, 2, 4):
        for piece in zip(*(x.chunk(pieces) for x in batch), strict=True):
            model(*piece)
        values.append(penalty(model).detach())
    torch.testing.assert_close(torch.stack(values), values[0].expand(3))


def test_terms_of_one_shape_are_penalised_as_one_by_one() -> None:
    """Six equal layers and one of another size; values, gradients and which layer is which."""
    model = nn.ModuleList([o3.Linear("4x0e+3x1o", "4x0e+3x1o") for _ in range(6)] + [o3.Linear("2x0e+1x1o", "4x0e")])
    relaxify(model, "O(3)", config=RelaxConfig(rows=3))
    randomise_terms(model)
    for layer in model:
        layer(torch.randn(9, layer.irreps_in.dim))
    alone = [copy.deepcopy(layer) for layer in model]
    penalty(model).backward()
    for layer, own in zip(model, alone, strict=True):
        single = penalty(own)
        single.backward()
        torch.testing.assert_close(layer.relaxation.weight.grad, own.relaxation.weight.grad)
        layer.zero_grad()
        torch.testing.assert_close(penalty(layer), single)


def test_a_projected_model_costs_what_the_base_model_does() -> None:
    """Structurally: the same classes and parameters, and no other hooks or buffers."""
    for make in (e3nn_net, vn_net):
        model, group, batch = make()
        # deepcopy would rename the classes of generated code, which a projected model keeps
        kinds, base = [type(m).__name__ for m in model.modules()], copy.deepcopy(model)
        relaxify(model, group)
        set_theta(model, 0.3)
        model(*batch)
        clean = project(model)
        assert [type(m).__name__ for m in clean.modules()] == kinds
        assert [n for n, _ in clean.named_buffers()] == [n for n, _ in base.named_buffers()]
        for module in clean.modules():
            hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
            assert not any(hooks)
            assert not module._forward_hooks_with_kwargs
            assert not module._forward_pre_hooks_with_kwargs
