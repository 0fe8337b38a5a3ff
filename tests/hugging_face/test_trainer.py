"""Hugging Face's Trainer trains a relaxed model as a loop by hand does, killed and resumed too, and its folders convert."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, Trainer, TrainerCallback, TrainingArguments

from relaxify import ACE, RPP, Triangle, param_groups, penalty, relaxation_parameters, relaxify, thetas
from relaxify.hugging_face import Relaxation, RelaxedTrainer, WithPenalty
from relaxify.relaxation.pitfalls import PitfallWarning
from relaxify_cli.main import run

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory")
STEPS = 8


class Config(PretrainedConfig):
    model_type = "vectors"

    def __init__(self, width: int = 6, **options: Any) -> None:
        super().__init__(**options)
        self.width = width


class Vectors(PreTrainedModel):
    """Two maps of vector channels, on their last axis."""

    config_class = Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.first = nn.Linear(4, config.width, bias=False)
        self.last = nn.Linear(config.width, 1, bias=False)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None: ...

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        y = self.last(self.first(x))
        return {"logits": y} if labels is None else {"loss": (y - labels).square().mean(), "logits": y}


def vectors() -> Vectors:
    torch.manual_seed(0)
    return Vectors(Config())


EXAMPLES = {"x": torch.randn(16, 3, 4, generator=torch.Generator().manual_seed(2))}
DATA = [
    {"x": x, "labels": y}
    for x, y in zip(
        torch.randn(16, 3, 4, generator=torch.Generator().manual_seed(0)),
        torch.randn(16, 3, 1, generator=torch.Generator().manual_seed(1)),
        strict=True,
    )
]


class Recorded(RelaxedTrainer):
    """Keeps what each micro-batch was."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.batches: list[dict[str, Tensor]] = []

    def training_step(self, model: nn.Module, inputs: Any, *args: Any, **options: Any) -> Tensor:
        self.batches.append({name: value.clone() for name, value in inputs.items()})
        return super().training_step(model, inputs, *args, **options)


def trainer_of(
    folder: Path,
    *,
    model: nn.Module | None = None,
    kind: type[Trainer] = Recorded,
    callbacks: tuple[TrainerCallback, ...] = (),
    accumulation: int = 1,
    steps: int = STEPS,
    **options: Any,
) -> Any:
    args = TrainingArguments(
        str(folder),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=accumulation,
        max_steps=steps,
        use_cpu=True,
        report_to=[],
        save_strategy="steps",
        save_steps=3,
        logging_steps=1,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        weight_decay=0.1,
        max_grad_norm=0.5,
        disable_tqdm=True,
        seed=3,
    )
    relaxation = Relaxation("SO(3)", example_inputs=EXAMPLES, **options)
    return kind(model or vectors(), args, train_dataset=DATA, callbacks=[relaxation, *callbacks])


def train(trainer: Any, **options: Any) -> Any:
    trainer.train(**options)
    return trainer


@pytest.mark.parametrize(
    ("accumulation", "controller"),
    [(1, Triangle), (2, Triangle), (2, ACE), (2, lambda model, steps: RPP(model, 1e-2, 1e-3))],
)
def test_it_trains_as_a_loop_by_hand_to_the_last_bit(accumulation: int, controller: Callable, tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, accumulation=accumulation, controller=controller, project_at_end=False)
    model = copy.deepcopy(trainer.model)
    train(trainer)
    optimizer = torch.optim.AdamW(param_groups(model.train()), lr=1e-2, weight_decay=0.1, fused=True)
    theta = controller(model, STEPS)
    theta.attach(optimizer)
    for index, batch in enumerate(trainer.batches):
        loss = model(**batch)["loss"]
        loss = loss + penalty(model, relative_to=loss)
        if isinstance(theta, RPP):
            loss = loss + theta.loss_term()
        (loss / accumulation).backward()
        if (index + 1) % accumulation == 0:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
    assert theta.steps == trainer.state.global_step == STEPS
    assert thetas(model) == thetas(trainer.model)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), trainer.model.parameters(), strict=True))
    assert any(bool(parameter.any()) for parameter in relaxation_parameters(model))


class Killed(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 5:
            raise KeyboardInterrupt


@pytest.mark.parametrize("controller", [Triangle, ACE])
def test_a_training_that_is_killed_and_resumed_is_the_uninterrupted_one(controller: Callable, tmp_path: Path) -> None:
    whole = train(trainer_of(tmp_path / "whole", controller=controller))
    with pytest.raises(KeyboardInterrupt):
        train(trainer_of(tmp_path / "killed", callbacks=(Killed(),), controller=controller))
    again = train(trainer_of(tmp_path / "killed", controller=controller), resume_from_checkpoint=True)
    assert len(again.batches) == STEPS - 3
    assert list(again.model.state_dict()) == list(vectors().state_dict())
    for ours, expected in zip(again.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, expected)


def test_a_training_that_is_made_longer_goes_on_by_its_new_length(tmp_path: Path) -> None:
    train(trainer_of(tmp_path, steps=4))
    longer = trainer_of(tmp_path, steps=16, project_at_end=False)
    with pytest.warns(PitfallWarning, match="total_steps is 16, and was 4. .* 0 from step 8 on"):
        longer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    seen = {entry["step"]: entry["relaxation_theta"] for entry in longer.state.log_history if "relaxation_theta" in entry}
    assert [seen[step] for step in (4, 6, 8)] == [1.0, 0.5, 0.0]


def test_the_log_has_theta_and_the_share(tmp_path: Path) -> None:
    trainer = train(trainer_of(tmp_path))
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["relaxation_theta"] for entry in logged] == [0.5, 1.0, 0.5, 0, 0, 0, 0, 0]
    assert logged[1]["relaxation_share"] > 0 == logged[-1]["relaxation_share"]


def test_the_folder_of_a_relaxed_model_converts_and_loads(tmp_path: Path) -> None:
    model = relaxify(vectors(), "SO(3)", example_inputs=EXAMPLES)
    with torch.no_grad():
        for parameter in relaxation_parameters(model):
            parameter.normal_()
    model.save_pretrained(tmp_path / "relaxed")
    assert run(["convert", str(tmp_path / "relaxed"), "-o", str(tmp_path / "plain")]) == 0
    loaded, info = Vectors.from_pretrained(tmp_path / "plain", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert loaded.config.width == 6
    for key, value in vectors().state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)


def test_a_checkpoint_of_the_trainer_converts_and_is_the_plain_model(tmp_path: Path) -> None:
    trainer = train(trainer_of(tmp_path / "run"))
    folder = tmp_path / "run" / f"checkpoint-{STEPS}"
    assert json.loads((folder / "trainer_state.json").read_text())["global_step"] == STEPS
    assert run(["convert", str(folder), "-o", str(tmp_path / "plain"), "--max-theta", "0"]) == 0
    loaded = Vectors.from_pretrained(tmp_path / "plain")
    for key, value in trainer.model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)


def test_a_trainer_of_ones_own(tmp_path: Path) -> None:
    class Half(Trainer):
        def compute_loss(self, model: nn.Module, inputs: Any, *args: Any, **options: Any) -> Any:
            return super().compute_loss(model, inputs, *args, **options)

    class Relaxed(WithPenalty, Half): ...

    trainer = train(trainer_of(tmp_path, kind=Relaxed))
    assert list(trainer.model.state_dict()) == list(vectors().state_dict())
    with pytest.raises(RuntimeError, match=r"adds no penalty to its loss.*WithPenalty"):
        train(trainer_of(tmp_path, kind=Half))
    with pytest.raises(RuntimeError, match="was projected at the end of the last training"):
        trainer.train()
