"""Speed: tokens a second, share of a GPU's peak (MFU) and memory of each step of a run."""
from __future__ import annotations

import resource
import sys
from typing import Sequence

import torch

from ap.config import Config
from ap.learn.ranks import Ranks
from ap.tools.flops import device_peak, sizes, training_flops
from ap.trajectory import Trajectory


class Speed:
    """How fast the steps of a run were, and how much memory they took. One for each rank."""

    def __init__(self, model: torch.nn.Module, config: Config, ranks: Ranks):
        self.shape, self.count, self.ranks = model.config, sizes(model.config), ranks
        named = torch.cuda.get_device_name(ranks.device) if ranks.device.type == "cuda" else ""
        known = device_peak(named) if config.dtype == "bfloat16" else None
        self.peak = config.peak_tflops * 1e12 or known  # FLOP/s of a GPU; None: no MFU

    def of_step(self, everyone: Sequence[Trajectory], engine: dict, seconds: dict[str, float]) -> dict[str, float]:
        """The numbers of a step. All ranks must call it.

        tokens_per_second/...   of all ranks together: rollout (decoded tokens), forward (tokens that the engine's
                                passes carry, while they run; of this rank, times the ranks), update (tokens of the
                                trajectories)
        mfu/update              model FLOPs utilisation: training_flops of all trajectories (6 N a token and the
                                attention; the head for the tokens of actions only) / (seconds of the update * ranks *
                                peak). pi_ref's pass and --recompute are in the seconds, not in the FLOPs.
        peak_memory_gib         of the rank that took most, in GiB (2^30): what PyTorch had allocated on its GPU at once
                                since the last call; without a GPU, of its process since it started

        `everyone`: the trajectories of all ranks. `engine`: counts and seconds of this rank's engine. MFU is left out
        when no peak is known.
        """
        lengths, world_size = [len(trajectory.ids) for trajectory in everyone], self.ranks.world_size
        rates = {
            "rollout": world_size * engine["decode_tokens"] / seconds["seconds/rollout"],
            "update": sum(lengths) / seconds["seconds/update"],
        }
        if engine["forward_seconds"]:
            carried = engine["prefill_tokens"] + engine["decode_tokens"]
            rates["forward"] = world_size * carried / engine["forward_seconds"]
        numbers = {f"tokens_per_second/{part}": rate for part, rate in rates.items()}
        numbers["peak_memory_gib"] = max(self.ranks.gather(_peak_memory(self.ranks.device))) / 2**30
        if self.peak:
            scored = sum(sum(trajectory.loss_mask) for trajectory in everyone)
            flops = training_flops(self.shape, self.count, lengths, scored)
            numbers["mfu/update"] = flops / (seconds["seconds/update"] * world_size * self.peak)
        return numbers


def _peak_memory(device: torch.device) -> int:
    """Bytes: see Speed."""
    if device.type == "cuda":
        most = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return most
    unit = 1 if sys.platform == "darwin" else 1024  # Linux counts KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
