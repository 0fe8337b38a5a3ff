"""A packed data set of smoke plumes is the data set, but for what is rounded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from relaxify_examples.smoke.__main__ import main
from relaxify_examples.smoke.data import Simulations
from relaxify_examples.smoke.generation import Symmetry
from relaxify_examples.smoke.packing import UNIT, pack, unpack


@pytest.mark.parametrize("symmetry", ["rotation", "scale"])
def test_what_is_packed_is_no_further_off_than_half_a_unit(symmetry: Symmetry, tmp_path: Path) -> None:
    data = Simulations(symmetry, 4 * torch.randn(2, 5, 2, 6, 6))
    # their difference is beyond 16 bits
    data.velocity[0, :2, 0, 0, 0] = torch.tensor([-127.0, 127.0])
    pack(data, tmp_path / "smoke.npz")
    found = unpack(tmp_path / "smoke.npz")
    assert (found.symmetry, found.velocity.dtype) == (symmetry, torch.float32)
    torch.testing.assert_close(found.velocity, data.velocity, rtol=0, atol=0.501 * UNIT)
    pack(found, tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "smoke.npz").read_bytes()


@pytest.mark.parametrize("largest", [200.0, float("nan"), float("inf")])
def test_velocities_that_do_not_fit_are_not_written(largest: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="do not fit in 16 bits"):
        pack(Simulations("rotation", torch.full((1, 1, 2, 1, 1), largest)), tmp_path / "smoke.npz")
    assert list(tmp_path.iterdir()) == []


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.npz"
    with pytest.raises(ValueError, match="cannot be read as packed smoke plumes"):
        unpack(path)
    path.write_bytes(b"no archive")
    with pytest.raises(ValueError, match="cannot be read as packed smoke plumes"):
        unpack(path)
    np.savez(path, positions=np.zeros(3))
    with pytest.raises(ValueError, match="cannot be read as packed smoke plumes"):
        unpack(path)
    for shape, kind, symmetry in (((3,), "i2", "scale"), ((1, 1, 2, 1, 1), "f4", "scale"), ((1, 1, 2, 1, 1), "i2", "shear")):
        np.savez(path, changes=np.zeros(shape, kind), unit=1.0, symmetry=symmetry)
        with pytest.raises(ValueError, match="holds no packed smoke plumes"):
            unpack(path)


def test_the_command_line_packs_what_was_generated(
    written: Simulations, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "smoke.npz"
    assert main(["pack", str(tmp_path), "--symmetry", "rotation", "--out", str(out)]) == 0
    assert f"{out} written: {out.stat().st_size:,} bytes" in capsys.readouterr().out
    assert torch.equal(unpack(out).velocity, written.velocity)
    assert main(["pack", str(tmp_path), "--symmetry", "scale", "--out", str(out)]) == 2
    assert "simulate some there first" in capsys.readouterr().err


@pytest.fixture
def written(tmp_path: Path) -> Simulations:
    """Two simulations of whole velocities in DATA/rotation."""
    folder = tmp_path / "rotation"
    folder.mkdir()
    velocity = torch.randint(-3, 4, (2, 4, 2, 8, 8), generator=torch.Generator().manual_seed(0)).float()
    for index, each in enumerate(velocity):
        save_file({"velocity": each.contiguous()}, folder / f"rotation-{index:02d}.safetensors")
    return Simulations("rotation", velocity)
