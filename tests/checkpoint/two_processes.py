"""One of two processes that save together: `python two_processes.py RANK RENDEZVOUS STATE FOLDER`."""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor


def main(rank: int, rendezvous: str, state: str, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    content: dict[str, Any] = torch.load(state, weights_only=True)
    for index, (key, value) in enumerate(content["model"].items()):
        # along the first axis as FSDP does, along the second as tensors run in parallel, or whole in both
        place = Shard(index % 2) if value.ndim > 1 else Shard(0) if value.ndim else Replicate()
        content["model"][key] = distribute_tensor(value, mesh, [place])
    dcp.save(content, checkpoint_id=folder)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
