"""The commands of the README, with what stands in for a reader's own model, inputs and checkpoints."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from relaxify import relaxify
from relaxify_examples.models.velocities import Velocities, velocities

README = Path(__file__).parents[1] / "README.md"
STAND_INS = {
    "PKG.MOD:FACTORY": "relaxify_examples.models.velocities:Velocities",
    # a real run takes minutes
    "relaxify demo": "relaxify demo --epochs 1 --train-size 20 --width 2 --layers 1",
}

BLOCK = re.compile(r"^```\n\$ relaxify (.+)\n((?:.*\n)*?)```$", re.MULTILINE)
COMMAND = re.compile(r"^    relaxify (.+?)(?: +#.*)?$|`relaxify ([a-z]+ [^`]+)`", re.MULTILINE)


def shown() -> list[tuple[list[str], str]]:
    """The commands whose output is shown, and that."""
    return [(arguments(command), output) for command, output in BLOCK.findall(README.read_text())]


def commands() -> list[list[str]]:
    """All others, in their order: those in blocks, and those in sentences that have arguments."""
    return [arguments(block or sentence) for block, sentence in COMMAND.findall(README.read_text())]


def arguments(command: str) -> list[str]:
    """Of a command without its first word, as a shell would split it."""
    for name, stand_in in STAND_INS.items():
        command = f"relaxify {command}".replace(name, stand_in).removeprefix("relaxify ")
    return command.split()


def write_files(folder: Path) -> None:
    """The files that the commands name: inputs, data, a relaxed checkpoint, and two that hold the same."""
    safetensors.torch.save_file({"v": velocities()}, folder / "X.safetensors")
    np.savez(folder / "DATA.npz", X=torch.randn(200, 3).numpy())
    model = Velocities()
    torch.save(model.state_dict(), folder / "a.pt")
    safetensors.torch.save_file(model.state_dict(), folder / "b.safetensors")
    relaxify(model, "O(3)", example_inputs=[velocities()])
    safetensors.torch.save_file(model.state_dict(), folder / "relaxed.safetensors")
