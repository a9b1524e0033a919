"""The processes (ranks) of a run: which one this is, and the few collective operations that all of them take part in.

`torchrun --nproc_per_node 8 run_mgpo.py` starts eight processes, one for each GPU; `torchrun run_mgpo.py` and plain
`python run_mgpo.py` start one. A single process makes no process group, but otherwise runs the same code. On several
nodes with a shared folder, torchrun's rendezvous (--nnodes, --rdzv_endpoint) starts them; nothing changes here.
"""
from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Callable, Sequence

import torch
import torch.distributed as dist

from ap.config import Config
from ap.devices.gpu import prepare
from ap.files import UserError


@dataclass(frozen=True)
class Ranks:
    """This process (`rank` of `world_size`, `local_rank` on this machine) and its device. A context manager."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    device: torch.device = torch.device("cpu")

    @classmethod
    def start(cls, config: Config) -> "Ranks":
        """Read torchrun's environment variables and join the other ranks, with gloo on CPUs and nccl on GPUs.

        UserError if a GPU is asked for but there is none, or if more processes than GPUs are started.
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
            prepare(device)
        # On CPUs, results are bit-identical only for the same number of threads.
        torch.set_num_threads(config.threads or min(torch.get_num_threads(), 4))
        if world > 1:
            # Objects, counts and barriers always go through gloo, so nccl only carries weights and gradients. The
            # timeout is long because the others wait while the main rank alone builds a stage or saves.
            backend = "gloo" if kind == "cpu" else "cpu:gloo,cuda:nccl"
            dist.init_process_group(backend, rank=rank, world_size=world, timeout=timedelta(hours=4))
        return cls(rank, world, local_rank, device)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence) -> Sequence:
        """This rank's part of a list that is the same on all ranks: every world_size-th item."""
        return items[self.rank::self.world_size]

    def sum(self, values: list[float]) -> list[float]:
        """Element-wise sum over the ranks, in float64."""
        if self.world_size == 1:
            return [float(value) for value in values]
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over the ranks, in place, on the tensor's own device."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def give_(self, tensor: torch.Tensor) -> None:
        """Broadcast, in place: every rank's tensor takes the values of the main rank's."""
        if self.world_size > 1:
            dist.broadcast(tensor, src=0)

    def gather(self, value: Any) -> list:
        """The values of all ranks, in the order of the ranks; the same list on every rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def gather_sorted(self, mine: Sequence, key: Callable[[Any], Any]) -> list:
        """The items of all ranks in one list, sorted by the key; the same list on every rank. The sort is stable."""
        return sorted((item for part in self.gather(list(mine)) for item in part), key=key)

    def barrier(self) -> None:
        """Wait until all ranks have called it."""
        self.sum([0.0])

    def print(self, *values, **options) -> None:
        if self.is_main:
            print(*values, **{"flush": True} | options)

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, kind, error, trace) -> None:
        """With several ranks, leaving the `with` block without an error ends the process, so put the block last.

        After an error, other ranks may still wait for this one in a collective: it leaves, and torchrun ends them.
        """
        if kind is None and self.world_size > 1:
            self.barrier()
            # While gloo's threads are shut down, a process sometimes aborts ("terminate called without an active
            # exception"), and torchrun would report a failure although the run has done all of its work.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
