"""A recorded graph holds every operation of a run, with values, places and parameters, whatever forward does."""

from __future__ import annotations

from pathlib import Path

import torch
from e3nn import o3
from torch import Tensor, nn

from relaxify.graph.inputs import map_tensors, tensors_of
from relaxify.graph.recording import again, opaque, record
from relaxify_examples.models.segnn import SEGNN
from relaxify_examples.models.vn_dgcnn import VNDGCNN


class Forces(nn.Module):
    """A scripted part, a loop of data-dependent length, an in-place update, dict input, and a gradient inside forward."""

    def __init__(self) -> None:
        super().__init__()
        self.scripted = torch.jit.script(nn.Linear(3, 3))
        self.weight = nn.Parameter(torch.ones(3, 3))

    def forward(self, data: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        x = data["positions"].requires_grad_()
        y = self.scripted(x) @ self.weight
        while y.norm() < 10:
            y = y * 2
        z = y.clone()
        z += 1
        (force,) = torch.autograd.grad(z.sum(), x, create_graph=True)
        return z, force


def test_the_run_is_the_models_own() -> None:
    model, inputs = Forces(), ({"positions": torch.randn(4, 3)},)
    expected = model(map_tensors(lambda _, t: t.clone(), inputs)[0])
    for a, b in zip(record(model, inputs).output, expected, strict=True):
        assert torch.equal(a, b)


def test_every_operation_has_its_value_place_and_parameters() -> None:
    recording = record(Forces(), ({"positions": torch.randn(4, 3)},))
    by_name = {getattr(node.target, "__name__", str(node.target)): node for node in recording.nodes}
    assert by_name["matmul"].meta["parameters"] == ("weight",)
    path, line = by_name["matmul"].meta["location"].rsplit(":", 1)
    assert "self.scripted(x) @ self.weight" in Path(path).read_text().splitlines()[int(line) - 1]
    assert {"grad", "norm", "mul", "clone"} <= by_name.keys()
    assert all(node.meta["value"].isfinite().all() for node in recording.nodes if node.meta.get("value") is not None)


def test_a_scripted_module_is_one_opaque_node_with_its_inputs() -> None:
    recording = record(Forces(), ({"positions": torch.randn(4, 3)},))
    (node,) = [node for node in recording.nodes if node.target is opaque]
    (source,) = node.all_input_nodes
    assert source.name == "requires_grad_"
    assert [source.op for source in source.all_input_nodes] == ["placeholder"]
    assert node.meta["module"] == "scripted"


def test_an_update_in_place_does_not_change_what_was_recorded() -> None:
    recording = record(Forces(), ({"positions": torch.randn(4, 3)},))
    by_name = {getattr(node.target, "__name__", ""): node.meta["value"] for node in recording.nodes}
    updated = by_name["__iadd__"] if "__iadd__" in by_name else by_name["add_"]
    torch.testing.assert_close(updated, by_name["clone"] + 1)


def test_nodes_name_the_innermost_module() -> None:
    model = SEGNN(width=2, num_layers=1)
    recording = record(model, (torch.randn(2, 5, 3), torch.randn(2, 5, 3), torch.ones(2, 5, 1)))
    modules = {node.meta["module"] for node in recording.nodes if node.op == "call_function"}
    assert {"", "embedding", "layers.0.update_1.linear"} <= modules
    assert all(path == "" or model.get_submodule(path) for path in modules)


def test_dynamic_graphs_are_recorded_whole() -> None:
    """kNN inside forward, and every parameter of a linear map is read by some node."""
    model = VNDGCNN(num_classes=3, n_knn=3, width=12)
    recording = record(model, (torch.randn(2, 3, 8),))
    read = {name for node in recording.nodes for name in node.meta["parameters"]}
    assert read >= {name for name, _ in model.named_parameters() if "map_to" in name}
    assert any(getattr(node.target, "__name__", "") == "topk" for node in recording.nodes)


def test_a_model_of_torch_layers_alone_is_located_in_them() -> None:
    """And not in what called it."""
    recording = record(torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU()), (torch.randn(2, 3),))
    files = [node.meta["location"].rpartition(":")[0] for node in recording.nodes if node.op == "call_function"]
    assert [Path(file).name for file in files] == ["linear.py", "activation.py"]


def test_recording_leaves_no_hooks_behind() -> None:
    layer = o3.Linear("2x1o", "2x1o")
    record(layer, (torch.randn(2, 6),))
    assert not torch.nn.modules.module._global_forward_hooks
    assert not torch.nn.modules.module._global_forward_pre_hooks


def test_map_tensors_copies_containers() -> None:
    inputs = ({"a": torch.ones(2), "b": [torch.zeros(1), 3]}, "name")
    doubled = map_tensors(lambda _, t: t * 2, inputs)
    assert torch.equal(doubled[0]["a"], torch.full((2,), 2.0))
    assert torch.equal(inputs[0]["a"], torch.ones(2))
    assert [name for name, _ in tensors_of(inputs)] == ["input.0.a", "input.0.b.0"]


class Written(nn.Module):
    """Fills zeros through views, an index and an item: none of these calls returns what the last line reads."""

    def forward(self, x: Tensor) -> Tensor:
        out = torch.zeros(4, 3)
        out[0] = x[0]
        out.narrow(0, 1, 1).copy_(x[1:2])
        out[2:].unbind(0)[1].add_(x[3])
        return out * 2


def test_what_is_written_through_a_view_is_seen_by_who_reads_the_whole() -> None:
    x = torch.randn(4, 3)
    recording = record(Written(), (x,))
    (read,) = [node.all_input_nodes[0] for node in recording.nodes if node.name.startswith("mul")]
    assert torch.equal(read.meta["value"], torch.stack([x[0], x[1], torch.zeros(3), x[3]]))
    upstream, waiting = set(), [read]
    while waiting:
        node = waiting.pop()
        upstream.add(node.name)
        waiting += node.all_input_nodes
    assert "input_0" in upstream


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(input=self.layer(x))


def test_each_call_of_a_module_is_kept_with_its_arguments_and_result() -> None:
    recording = record(Twice(), (torch.randn(2, 3),))
    first, second = recording.calls["layer"]
    assert first.argument(0, "input").op == "placeholder"
    assert second.argument(0, "input") is first.result
    assert [call.result for call in recording.calls[""]] == [second.result]


def test_an_injected_value_takes_the_place_of_what_was_computed() -> None:
    class Sum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros(3) + x

    x = torch.randn(3)
    plain = record(Sum(), (x,))
    (zeros,) = [i for i, node in enumerate(plain.nodes) if node.target is torch.zeros]
    assert torch.equal(record(Sum(), (x,), injected={zeros: torch.ones(3)}).output, x + 1)


def test_inputs_by_keyword() -> None:
    x, model = torch.randn(2, 3), Twice()
    assert torch.equal(record(model, {"x": x}).output, model(x))


def test_an_outline_takes_the_steps_of_the_graph() -> None:
    model, x = nn.Sequential(nn.Linear(3, 2), nn.ReLU(inplace=True), nn.LayerNorm(2)), torch.randn(4, 3)
    whole, outline = record(model, (x,)), record(model, (x,), outline=True)
    assert [(node.op, node.target, node.meta["module"]) for node in outline.nodes] == [
        (node.op, node.target, node.meta["module"]) for node in whole.nodes
    ]
    values = [(one.meta["value"], other.meta["value"]) for one, other in zip(whole.nodes, outline.nodes, strict=True)]
    assert all(torch.equal(one, other) for one, other in values if one is not None)


class Overwriting(nn.Module):
    """Writes to what it has made, and through a view of it."""

    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        y.add_(1)
        y[0] = 5
        return y * 3


def test_what_is_written_to_has_no_value_without_copies_which_a_run_after_one_that_writes_has() -> None:
    x = torch.ones(2, 3)
    first = record(Overwriting(), (x,))
    assert first.writes
    assert not record(nn.Linear(3, 3), (x,)).writes
    without, repeated = record(Overwriting(), (x,), outline=True, copies=False), again(Overwriting(), (x,), first)
    assert len(without.nodes) == len(first.nodes)
    for node, kept in zip(first.nodes[:-1], repeated.nodes[:-1], strict=True):
        assert (node.meta["value"] is None and kept.meta["value"] is None) or torch.equal(
            node.meta["value"], kept.meta["value"]
        )
    for node, kept in zip(first.nodes[:-1], without.nodes[:-1], strict=True):
        assert kept.meta["value"] is None or torch.equal(node.meta["value"], kept.meta["value"])
    assert without.nodes[1].meta["value"] is None


def test_memory_that_holds_anything_has_no_value() -> None:
    class Filled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            made = [torch.empty(2, 3), torch.empty_like(x), x.new_empty(2, 3), torch.empty_strided((2, 3), (3, 1))]
            for each in made:
                each.copy_(x)
            return made[0] + made[1] + made[2] + made[3]

    recording = record(Filled(), (torch.randn(2, 3),))
    values = [node.meta["value"] for node in recording.nodes if "empty" in node.name]
    assert [value is None for value in values] == [True] * 4
    assert sum(node.meta["value"] is None for node in recording.nodes) == 5
