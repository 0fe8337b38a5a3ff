"""The Vector Neuron examples: equivariant layers, invariant logits, and the published architecture to the number."""

import copy
import pickle
from functools import partial

import pytest
import torch
from torch import Tensor, fx, nn

from relaxify_examples.models.vector_neurons import (
    VNBatchNorm,
    VNLeakyReLU,
    VNLinear,
    VNLinearLeakyReLU,
    VNMaxPool,
    VNStdFeature,
    edge_features,
    make_pool,
    mean_pool,
)
from relaxify_examples.models.vn_dgcnn import VNDGCNN
from relaxify_examples.models.vn_pointnet import STNkd, VNPointNet

C = 8
SMALL = {"num_classes": 5, "n_knn": 6, "width": 12}
MODELS = pytest.mark.parametrize("model_class", [VNPointNet, VNDGCNN])
POOLINGS = pytest.mark.parametrize("pooling", ["mean", "max"])
TRAINING = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def rotation(seed: int) -> Tensor:
    q, r = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))
    q = q * r.diagonal().sign()
    return q * q.det()


def rotate(g: Tensor, x: Tensor, axis: int) -> Tensor:
    return torch.tensordot(x, g, dims=([axis], [1])).movedim(-1, axis)


def random_state(module: nn.Module, seed: int = 0) -> nn.Module:
    """Float64, with weights and batch-norm statistics as different from their initial values as after training."""
    generator = torch.Generator().manual_seed(seed)
    module.double()
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            low, high = (-0.5, 0.5) if value.ndim == 2 or name.endswith(("bias", "mean")) else (0.5, 1.5)
            value.copy_(torch.empty(value.shape).uniform_(low, high, generator=generator))
    return module


def small(model_class: type[nn.Module], pooling: str = "mean") -> nn.Module:
    return random_state(model_class(**SMALL, pooling=pooling)).eval()


def clouds(batch: int = 4, n: int = 24) -> Tensor:
    return torch.randn(batch, 3, n, dtype=torch.float64, generator=torch.Generator().manual_seed(7))


LAYERS = {
    "VNLinear": (lambda: VNLinear(C, 5), (4, C, 3, 6, 5)),
    "VNLinear, no samples": (lambda: VNLinear(C, 5), (4, C, 3)),
    "VNBatchNorm 3": (lambda: VNBatchNorm(C, dim=3), (4, C, 3)),
    "VNBatchNorm 4": (lambda: VNBatchNorm(C, dim=4), (4, C, 3, 6)),
    "VNBatchNorm 5": (lambda: VNBatchNorm(C, dim=5), (4, C, 3, 6, 5)),
    "VNLeakyReLU": (lambda: VNLeakyReLU(C), (4, C, 3, 6)),
    "VNLeakyReLU, shared": (lambda: VNLeakyReLU(C, share_nonlinearity=True), (4, C, 3, 6)),
    "VNLinearLeakyReLU": (lambda: VNLinearLeakyReLU(C, 5), (4, C, 3, 6, 5)),
    "VNLinearLeakyReLU, shared": (lambda: VNLinearLeakyReLU(C, 5, dim=4, share_nonlinearity=True), (4, C, 3, 6)),
    "VNLinearLeakyReLU, no samples": (lambda: VNLinearLeakyReLU(C, 5, dim=3, negative_slope=0.0), (4, C, 3)),
    "VNMaxPool": (lambda: VNMaxPool(C), (4, C, 3, 6, 5)),
    "mean_pool": (lambda: mean_pool, (4, C, 3, 6, 5)),
    "STNkd": (lambda: STNkd(C, width=12), (4, C, 3, 6)),
    "edge_features": (lambda: partial(edge_features, k=5), (4, C, 3, 6)),
    "edge_features, cross": (lambda: partial(edge_features, k=5, cross=True), (4, C, 3, 6)),
}


@TRAINING
@pytest.mark.parametrize("name", LAYERS)
def test_layer_commutes_with_rotations(name, training):
    build, shape = LAYERS[name]
    layer = build()
    if isinstance(layer, nn.Module):
        random_state(layer).train(training)
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y = layer(x)
    assert y.std() > 0.01
    for seed in range(3):
        g = rotation(seed)
        torch.testing.assert_close(layer(rotate(g, x, axis=2)), rotate(g, y, axis=2), rtol=0, atol=1e-12)


@TRAINING
@pytest.mark.parametrize("normalize_frame", [False, True])
@pytest.mark.parametrize("samples", [(), (6,), (6, 5)])
def test_std_feature_is_invariant_and_its_frame_turns_with_the_input(samples, normalize_frame, training):
    layer = random_state(VNStdFeature(C, 3 + len(samples), normalize_frame)).train(training)
    x = torch.randn(4, C, 3, *samples, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y, frame = layer(x)
    assert y.std() > 0.01
    for seed in range(3):
        g = rotation(seed)
        y_turned, frame_turned = layer(rotate(g, x, axis=2))
        torch.testing.assert_close(y_turned, y, rtol=0, atol=1e-11)
        torch.testing.assert_close(frame_turned, rotate(g, frame, axis=1), rtol=0, atol=1e-11)


def test_normalised_frame_is_orthonormal_and_right_handed():
    layer = random_state(VNStdFeature(C, 4, normalize_frame=True)).eval()
    _, frame = layer(torch.randn(4, C, 3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    matrices = frame.permute(0, 3, 1, 2)
    torch.testing.assert_close(matrices.mT @ matrices, torch.eye(3).double().expand(4, 6, 3, 3), rtol=0, atol=1e-3)
    assert (matrices.det() > 0.99).all()


def test_leaky_relu_keeps_what_goes_along_the_direction_and_scales_what_goes_against_it():
    layer = random_state(VNLeakyReLU(C, negative_slope=0.25))
    x = torch.randn(4, C, 3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    direction = torch.einsum("oc,bcin->boin", layer.map_to_dir.weight, x)
    before, after = (x * direction).sum(2), (layer(x) * direction).sum(2)
    torch.testing.assert_close(after, torch.where(before < 0, 0.25 * before, before), rtol=1e-3, atol=1e-4)


def test_max_pool_keeps_whole_vectors():
    x = torch.randn(4, C, 3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    pooled = random_state(VNMaxPool(C))(x)
    assert (x == pooled.unsqueeze(-1)).all(dim=2).any(dim=-1).all()


@MODELS
@POOLINGS
@TRAINING
def test_logits_do_not_change_under_rotations(model_class, pooling, training):
    model, points = small(model_class, pooling).train(training), clouds()

    def logits(x: Tensor) -> Tensor:
        torch.manual_seed(0)  # the same dropout mask for every pose
        return model(x)

    reference = logits(points)
    assert reference.std(dim=0).min() > 1e-3, "different clouds must have different logits"
    for seed in range(3):
        torch.testing.assert_close(logits(rotate(rotation(seed), points, axis=1)), reference, rtol=0, atol=1e-10)


def test_reflections_change_pointnet_but_not_dgcnn():
    points = clouds()
    pointnet, dgcnn = small(VNPointNet), small(VNDGCNN)
    torch.testing.assert_close(dgcnn(-points), dgcnn(points), rtol=0, atol=1e-10)
    assert (pointnet(-points) - pointnet(points)).abs().max() > 1e-3


@MODELS
def test_logits_do_not_depend_on_the_order_of_points(model_class):
    model, points = small(model_class), clouds()
    torch.testing.assert_close(model(points.flip(-1)), model(points), rtol=0, atol=1e-10)


@MODELS
def test_number_of_points_and_classes_is_free(model_class):
    model = model_class(num_classes=3, n_knn=6, width=12)
    for n in (6, 17):
        assert model(torch.randn(2, 3, n)).shape == (2, 3)


@pytest.mark.parametrize(
    ("model_class", "pooling", "parameters", "entries"),
    [
        (VNPointNet, "mean", 1_972_745, 94),
        (VNPointNet, "max", 2_089_467, 96),
        (VNDGCNN, "mean", 2_899_830, 66),
        (VNDGCNN, "max", 2_909_701, 70),
    ],
)
def test_size_is_the_published_one(model_class, pooling, parameters, entries):
    model = model_class(pooling=pooling)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert len(model.state_dict()) == entries


# Differences of the first four logits of two clouds, which log_softmax leaves as they are.
PUBLISHED_LOGITS = {
    (VNPointNet, "mean"): [
        [-2.08192589105, -4.39409542032, -5.47365896042],
        [-2.05601318561, -4.41026887027, -5.49894422908],
    ],
    (VNPointNet, "max"): [
        [-4.39522359483, -1.5501505484, -3.08027438288],
        [-4.39606068684, -1.50372123858, -3.03960529435],
    ],
    (VNDGCNN, "mean"): [
        [1.6084886054, 1.12361710644, -0.186956597956],
        [1.59286844279, 1.13490084183, -0.198703620546],
    ],
    (VNDGCNN, "max"): [
        [1.64175606939, 1.15140764004, -0.190027354311],
        [1.61060761505, 1.1225510088, -0.192103069314],
    ],
}


def chirp(*shape: int, phase: int = 0) -> Tensor:
    """cos(phase + n^2) for n = 0, 1, 2, ...: full-rank matrices that are the same on every machine."""
    n = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return torch.cos(phase + n.square()).reshape(shape)


@torch.no_grad()
@MODELS
@POOLINGS
def test_logits_are_those_of_the_published_implementation(model_class, pooling):
    """The numbers are its outputs (github.com/FlyingGiraffe/vnn) in float64 with these weights, loaded by name."""
    model = model_class(n_knn=8, pooling=pooling).double().eval()
    for index, (name, parameter) in enumerate(model.named_parameters()):
        values = chirp(*parameter.shape, phase=index)
        if parameter.ndim == 2:
            values /= parameter.shape[-1] ** 0.5
        elif name.endswith("weight"):
            values = 1 + values / 2
        parameter.copy_(values)
    logits = model(chirp(2, 3, 32))
    expected = torch.tensor(PUBLISHED_LOGITS[model_class, pooling], dtype=torch.float64)
    torch.testing.assert_close(logits[:, 1:4] - logits[:, :1], expected, rtol=0, atol=1e-8)


def through_pickle(model: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(model))


@MODELS
@POOLINGS
@pytest.mark.parametrize("duplicate", [copy.deepcopy, through_pickle])
def test_copies_compute_the_same(model_class, pooling, duplicate):
    model, points = small(model_class, pooling), clouds()
    twin = duplicate(model)
    assert torch.equal(twin(points), model(points))
    assert not {id(p) for p in twin.parameters()} & {id(p) for p in model.parameters()}


@MODELS
@POOLINGS
def test_runs_on_the_device_and_in_the_dtype_of_its_input(model_class, pooling):
    model = model_class(**SMALL, pooling=pooling)
    assert model(clouds().float()).dtype == torch.float32
    assert model.double()(clouds()).dtype == torch.float64
    assert model.to("meta")(clouds().to("meta")).device.type == "meta"


@MODELS
@POOLINGS
def test_gradients_are_finite_when_all_points_are_at_the_origin(model_class, pooling):
    model = model_class(**SMALL, pooling=pooling)
    model(torch.zeros(4, 3, 10)).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@MODELS
def test_only_the_directions_of_max_pooling_receive_no_gradient(model_class):
    for pooling in ("mean", "max"):
        model = small(model_class, pooling).train()
        model(clouds()).square().sum().backward()
        dead = [name for name, p in model.named_parameters() if p.grad is None]
        assert dead == [name for name, _ in model.named_parameters() if "pool" in name]


@MODELS
@POOLINGS
def test_symbolic_trace_computes_the_same(model_class, pooling):
    model, points = small(model_class, pooling), clouds()
    assert torch.equal(fx.symbolic_trace(model)(points), model(points))


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="'median'"):
        make_pool("median", 4)
    with pytest.raises(ValueError, match="dim=2"):
        VNBatchNorm(4, dim=2)
