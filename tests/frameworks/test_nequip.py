"""nequip-train of the YAML in docs/training.md, from training to the packaged model, against plain training's files."""

from __future__ import annotations

import re
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import build
from ase.calculators.emt import EMT
from ase.io import write
from e3nn import o3
from nequip.model import ModelFromCheckpoint, ModelFromPackage
from nequip.model.saved_models.checkpoint import data_dict_from_checkpoint
from nequip.nn import GraphModel, GraphModuleMixin
from nequip.nn.compile import CompileGraphModel
from nequip.scripts import _workflow_utils, package, train
from nequip.utils import conditional_torchscript_mode, torch_default_dtype
from omegaconf import OmegaConf
from torch import Tensor, nn

from relaxify import RelaxConfig, penalty, relaxify
from relaxify.checkpoint import convert
from relaxify.nequip import Relaxed
from relaxify.nequip.compiled import shown
from relaxify.nequip.options import Options
from relaxify.nequip.training import RelaxedTraining
from relaxify.relaxation.terms.term import terms_of

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs" / "training.md"
Train = Callable[..., Path]

# NequIP's and Lightning's, of trainings as small as these
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ethanol, shaken, with EMT's energies and forces."""
    folder, rng, frames = tmp_path_factory.mktemp("nequip"), np.random.default_rng(0), []
    for _ in range(20):
        atoms = build.molecule("CH3CH2OH")
        atoms.positions += 0.05 * rng.normal(size=atoms.positions.shape)
        atoms.calc = EMT()
        atoms.get_forces()
        frames.append(atoms)
    write(folder / "ethanol.xyz", frames, format="extxyz")
    return folder


@pytest.fixture(scope="module")
def nequip_train(folder: Path) -> Iterator[Train]:
    """nequip-train, in this process: of the plain config, with what a section of the docs changes in it."""
    patched = pytest.MonkeyPatch()

    def run(name: str, changes: str, *overrides: str) -> Path:
        config = OmegaConf.merge(OmegaConf.load(HERE / "nequip.yaml"), OmegaConf.create(changes))
        OmegaConf.save(config, folder / f"{name}.yaml")
        OmegaConf.clear_resolver("training_data_stats")
        _workflow_utils.set_workflow_state(None)
        quiet = ("hydra/job_logging=none", "hydra/hydra_logging=none", "hydra.output_subdir=null")
        where = ("-cp", str(folder), "-cn", name, f"hydra.run.dir={folder / name}", f"folder={folder}")
        patched.setattr(sys, "argv", ["nequip-train", *where, *quiet, *overrides])
        train.main()
        return folder / name / "epoch3.ckpt"

    with patched.context():
        yield run
    patched.undo()


@pytest.fixture(scope="module")
def in_docs() -> str:
    """The YAML of the docs' section."""
    section = DOCS.read_text().split("## NequIP")[1].split("\n## ")[0]
    (found,) = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    return str(found)


@pytest.fixture(scope="module")
def relaxed(nequip_train: Train, in_docs: str) -> Path:
    return nequip_train("relaxed", in_docs)


@pytest.fixture(scope="module")
def plain(nequip_train: Train) -> Path:
    return nequip_train("plain", "{}")


@pytest.fixture(scope="module")
def converted(relaxed: Path) -> Path:
    return convert(relaxed, relaxed.with_name("converted.ckpt"), max_theta=0).target


def loaded(path: Path) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(path, weights_only=False)
    return checkpoint


def shape(value: Any, where: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], Any]:
    """What is where in a checkpoint, but for numbers that training makes."""
    if isinstance(value, dict):
        return {way: found for key, inner in value.items() for way, found in shape(inner, (*where, key)).items()}
    if isinstance(value, list | tuple):
        return {way: found for key, inner in enumerate(value) for way, found in shape(inner, (*where, key)).items()}
    if isinstance(value, Tensor):
        return {where: value.shape}
    return {where: type(value) if isinstance(value, float) or "path" in str(where[-1]) or where[-1] == "dirpath" else value}


def outputs(model: nn.ModuleDict, like: Path) -> list[Tensor]:
    inputs = {key: value.clone() for key, value in data_dict_from_checkpoint(str(like)).items()}
    found = model["sole_model"].eval()(inputs)
    return [found["total_energy"], found["forces"]]


def test_the_docs_change_two_lines(in_docs: str) -> None:
    lines = [line for line in in_docs.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert len(lines) == 1 + 2


def test_terms_are_trained_and_end(relaxed: Path) -> None:
    state = loaded(relaxed)["state_dict"]
    terms = [key for key in state if key.endswith(".relaxation.weight")]
    assert len(terms) == 3
    assert all(state[key].any() for key in terms)
    assert all(not value for key, value in state.items() if key.endswith(".relaxation.theta"))


def test_a_killed_run_that_is_resumed_equals_an_uninterrupted_one(nequip_train: Train, relaxed: Path, in_docs: str) -> None:
    # after one epoch of four, in the middle of theta's rise
    resumed = nequip_train("resumed", in_docs, f"++ckpt_path={relaxed.with_name('epoch0.ckpt')}")
    there, here = loaded(relaxed), loaded(resumed)
    for own, other in zip(tensors(there), tensors(here), strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=0)
    assert [state for key, state in there["callbacks"].items() if "Relaxed" in key] == [
        state for key, state in here["callbacks"].items() if "Relaxed" in key
    ]


def tensors(checkpoint: dict[str, Any]) -> list[Tensor]:
    found = [value for value in checkpoint["state_dict"].values() if isinstance(value, Tensor)]
    states = checkpoint["optimizer_states"][0]["state"].values()
    return found + [value for state in states for value in state.values()]


def test_a_converted_checkpoint_is_the_plain_training_modules(plain: Path, converted: Path) -> None:
    assert shape(loaded(converted)) == shape(loaded(plain))


def test_what_is_converted_goes_on_in_plain_training(nequip_train: Train, converted: Path) -> None:
    on = nequip_train("on", "{}", f"++ckpt_path={converted}", "trainer.max_epochs=5").with_name("epoch4.ckpt")
    assert loaded(on)["global_step"] == 15


def test_models_from_checkpoints_and_packages_are_plain(folder: Path, relaxed: Path, plain: Path, converted: Path) -> None:
    clean, of_relaxed = ModelFromCheckpoint(str(converted)), ModelFromCheckpoint(str(relaxed))
    count = sum(parameter.numel() for parameter in ModelFromCheckpoint(str(plain)).parameters())
    _workflow_utils.set_workflow_state(None)
    package.main(["build", str(converted), str(folder / "clean.nequip.zip")])
    assert not any("relaxify" in name for name in zipfile.ZipFile(folder / "clean.nequip.zip").namelist())
    packaged = ModelFromPackage(str(folder / "clean.nequip.zip"))
    wanted = outputs(clean, plain)
    for model in (of_relaxed, packaged):
        assert sum(parameter.numel() for parameter in model.parameters()) == count
        for own, other in zip(outputs(model, plain), wanted, strict=True):
            torch.testing.assert_close(own, other, rtol=0, atol=0)


def test_training_modules_that_step_their_optimizer_themselves_are_relaxed_too(
    folder: Path, nequip_train: Train, in_docs: str
) -> None:
    of = "nequip.train.EMAConFIGLightningModule"
    nequip_train("manual", in_docs.replace("nequip.train.EMALightningModule", of), "trainer.max_epochs=2")
    path = folder / "manual" / "epoch1.ckpt"
    assert any(value.any() for key, value in loaded(path)["state_dict"].items() if key.endswith(".relaxation.weight"))
    done = loaded(convert(path, path.with_name("converted.ckpt"), max_theta=0).target)
    assert done["hyper_parameters"]["info_dict"]["training_module"]["_target_"] == of
    assert ModelFromCheckpoint(str(path.with_name("converted.ckpt")))


class Small(GraphModuleMixin, nn.Module):  # type: ignore[misc]
    """E = sum of |v|^2 (1 + |v|^2) over some channels of v = W x, and forces."""

    def __init__(self) -> None:
        super().__init__()
        self._init_irreps(irreps_in={"pos": "1o"}, irreps_out={"total_energy": "0e", "forces": "1o"})
        self.up, self.down = o3.Linear("1o", "4x1o"), o3.Linear("4x1o", "2x1o")

    def forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        x = data["pos"].requires_grad_()
        vectors = self.up(x)
        squares = self.down(vectors * (1 + vectors.square().sum(-1, keepdim=True))).square().sum(-1)
        energies = torch.zeros_like(data["num_atoms"], dtype=x.dtype).index_add(0, data["batch"], squares)
        (gradient,) = torch.autograd.grad(energies.sum(), x, create_graph=True)
        return {**data, "total_energy": energies[:, None], "forces": -gradient}


def small(wrapper: type[GraphModel]) -> GraphModel:
    """A relaxed model whose terms are on."""
    torch.manual_seed(0)
    with conditional_torchscript_mode(False), torch_default_dtype(torch.float64):
        model = Small()
        fields = {"type_names": ["H"], "r_max": 1.0, "model_dtype": "float64"}
        graph_model = wrapper(model, model_config=fields, model_input_fields=model.irreps_in)
    return relaxify(graph_model, "O(3)", config=RelaxConfig(theta=1.0, init="normal", std=0.3))


def forces(model: nn.Module) -> Tensor:
    edges = torch.tensor([[0, 1, 2, 3, 4], [1, 2, 0, 4, 3]])
    batch, counts = torch.tensor([0, 0, 0, 1, 1, 1, 1]), torch.tensor([3, 4])
    pos = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    data = {"pos": pos, "edge_index": edges, "atom_types": torch.zeros_like(batch), "batch": batch, "num_atoms": counts}
    with shown(model):
        found: Tensor = model(data)["forces"]
    return found


def test_compiled_code_trains_terms_as_eager_code_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """NequIP's trace, without the compiler behind it: forces, penalties and their gradients, and then without the terms."""
    monkeypatch.setattr(torch, "compile", lambda traced, **_: traced)
    eager, compiled = small(GraphModel), small(CompileGraphModel)
    found = []
    for model in (eager, compiled):
        first, second = forces(model), forces(model)
        (second.square().mean() + penalty(model, relative_to=second.square().mean())).backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        found.append([first, second, *gradients, forces(model.eval())])
    for own, other in zip(*found, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-12)
    assert len(found[1]) == 3 + 4
    assert not torch.allclose(found[1][0], found[1][-1])
    assert all(term.observer is None for term in terms_of(compiled).values())


def test_a_learned_theta_is_refused_where_its_gradient_is_lost() -> None:
    options = Options.read({"of": "nequip.train.EMALightningModule", "controller": {"_target_": "relaxify.ACE"}})
    with pytest.raises(ValueError, match="compile_mode: eager"):
        RelaxedTraining(options, 1).make_controller(small(CompileGraphModel), 10)


@pytest.mark.parametrize(
    ("entries", "named"),
    [
        (None, "names the training module"),
        ({"group": "O(3)"}, "names the training module"),
        ({"of": "nequip.train.Nothing"}, "no class 'nequip.train.Nothing'"),
        ({"of": "torch.nn.Linear"}, "no training module of NequIP's"),
        ({"of": "relaxify.nequip.Relaxed"}, "no training module of NequIP's"),
        ({"of": "nequip.train.EMALightningModule", "theta": 1}, "relaxation has no 'theta'"),
        ({"of": "nequip.train.EMALightningModule", "config": {"lambda": 1}}, "relaxation.config has no 'lambda'"),
        ({"of": "nequip.train.EMALightningModule", "config": {"rank": 0}}, "rank"),
    ],
)
def test_options_that_make_no_sense_are_named(entries: Any, named: str) -> None:
    with pytest.raises(ValueError, match=re.escape(named)):
        Relaxed(relaxation=entries, model={}, num_datasets={})
