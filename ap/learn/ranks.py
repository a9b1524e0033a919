"""The processes of a run: who am I, and the few things that all of us do together.

`torchrun --nproc_per_node 8 run_mgpo.py` starts eight of them, one a GPU; `torchrun run_mgpo.py` and plain
`python run_mgpo.py` start one. One process makes no process group and otherwise takes the same road. On several nodes
with a shared folder, torchrun's own rendezvous (--nnodes, --rdzv_endpoint) starts them; nothing here differs.
"""
from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Sequence

import torch
import torch.distributed as dist

from ap.config import Config, UserError


@dataclass(frozen=True)
class Ranks:
    """This process (`rank` of `world`, `local_rank` on this machine) and its device. A context manager."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    device: torch.device = torch.device("cpu")

    @classmethod
    def start(cls, config: Config) -> "Ranks":
        """Read torchrun's environment and join the others: gloo between CPUs, nccl between GPUs.

        UserError when a GPU is asked for that is not there, or when more processes than GPUs are started.
        """
        rank, world, local_rank = (int(os.environ.get(name, default)) for name, default in
                                   (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")))
        kind = config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        if kind == "cuda" and not torch.cuda.is_available():
            raise UserError("--device cuda: PyTorch sees no GPU here; use --device cpu or a CUDA build of torch.")
        if kind == "cuda" and local_rank >= torch.cuda.device_count():
            raise UserError(f"process {local_rank} of this machine has no GPU (PyTorch sees "
                            f"{torch.cuda.device_count()}); lower torchrun's --nproc_per_node.")
        device = torch.device("cpu") if kind == "cpu" else torch.device("cuda", local_rank)
        if kind == "cuda":
            torch.cuda.set_device(device)
        # Results on CPUs are the same bits only for the same number of threads.
        torch.set_num_threads(config.threads or min(torch.get_num_threads(), 4))
        if world > 1:
            # Objects, counts and barriers always travel through gloo, so nccl only ever carries weights and gradients.
            # The long timeout is for the others to wait while the main rank alone builds a stage or saves.
            backend = "gloo" if kind == "cpu" else "cpu:gloo,cuda:nccl"
            dist.init_process_group(backend, rank=rank, world_size=world, timeout=timedelta(hours=4))
        return cls(rank, world, local_rank, device)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence) -> Sequence:
        """This rank's part of what all ranks hold alike: every world-th item."""
        return items[self.rank::self.world]

    def sum(self, values: list[float]) -> list[float]:
        """Element-wise sum over the ranks, in float64."""
        if self.world == 1:
            return [float(value) for value in values]
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over the ranks, in place, on the tensor's own device."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def give_(self, tensor: torch.Tensor) -> None:
        """Every rank's tensor becomes that of the main one, on the tensor's own device."""
        if self.world > 1:
            dist.broadcast(tensor, src=0)

    def gather(self, value: Any) -> list:
        """What every rank gave, in the order of the ranks; the same list on all of them."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        self.sum([0.0])

    def print(self, *values, **options) -> None:
        if self.is_main:
            print(*values, **{"flush": True} | options)

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, kind, error, trace) -> None:
        """With several ranks, the end of their work is the end of the process: put the `with` block last.

        After an error the others may still wait for us inside a collective: leave, and let torchrun end them.
        """
        if kind is None and self.world > 1:
            self.barrier()
            # While gloo's threads are taken down, a process now and then aborts ("terminate called without an active
            # exception"), and torchrun would report a run as failed that has done all of its work.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
