"""What a run reports: one JSON object a line, each with its `step`, so that a run can be watched while it lives.

The same numbers go to TensorBoard, if it is installed, and to W&B, if --wandb asks for it. Neither is needed.
"""
from __future__ import annotations

import json
import math
import os
import resource
import sys
from pathlib import Path
from typing import Any, Callable, Sequence

import torch

from ap.tools import plan
from ap.config import Config, UserError
from ap.files import read_jsonl, told_when_unwritable, write_jsonl
from ap.learn.ranks import Ranks
from ap.trajectory import Trajectory

Sink = Callable[[int, dict[str, float]], None]  # what takes the numbers of a step


class Metrics:
    """Appends to a JSONL file. On ranks other than the main one it has the same methods and writes nothing.

    `resume_step` is the step of the checkpoint that the run continues from (0: from the start). Lines of later steps,
    and a last line that was cut when the process was killed, are dropped: they will be written again. `sinks` take the
    numbers of each line of `write`, too; see open_sinks.
    """

    def __init__(self, path: Path, resume_step: int = 0, ranks: Ranks = Ranks(), sinks: Sequence[Sink] = ()):
        self.sinks = sinks if ranks.is_main else ()
        with told_when_unwritable(path):
            if ranks.is_main:
                _drop_after(path, resume_step)
            self.file = open(path if ranks.is_main else os.devnull, "a", encoding="utf-8")

    def write(self, step: int, record: dict) -> None:
        """Write one line. NaN and infinity become null, because JSON has no word for them."""
        self.write_all(step, [record])
        numbers = {name: value for name, value in _plain(record).items() if isinstance(value, (int, float))}
        for sink in self.sinks:
            sink(step, numbers)

    def write_all(self, step: int, records: Sequence[dict]) -> None:
        """Write a line for each record, all of the same step."""
        for record in records:
            line = json.dumps(_plain({"step": step} | record), ensure_ascii=False, allow_nan=False)
            self.file.write(line + "\n")
        self.file.flush()

    def close(self) -> None:
        self.file.close()


def _drop_after(path: Path, step: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return
    written = path.read_bytes()
    os.truncate(path, written.rfind(b"\n") + 1)  # a last line that was cut
    records = read_jsonl(path)
    kept = [record for record in records if record["step"] <= step]
    if len(kept) < len(records):
        write_jsonl(path, kept)


def _plain(value: Any) -> Any:
    """`value` as JSON can hold it: numbers out of tensors and arrays, None for NaN and infinity."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value


# ---------------------------------------------------------------------------------------- TensorBoard, W&B


def open_sinks(config: Config, resume_step: int, ranks: Ranks) -> list[Sink]:
    """TensorBoard's (OUT/NAME/tensorboard) where the package is installed, and W&B's when --wandb names a project.

    Steps after `resume_step`, which are made again, replace those in TensorBoard; W&B, where the run goes by its name,
    keeps what it saw first. UserError when W&B is asked for and not installed.
    """
    sinks: list[Sink] = []
    if not ranks.is_main:
        return sinks
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        pass
    else:
        writer = SummaryWriter(str(config.folder / "tensorboard"), purge_step=resume_step + 1)
        sinks.append(lambda step, numbers: _to_tensorboard(writer, step, numbers))
    if config.wandb:
        try:
            import wandb
        except ImportError as error:
            raise UserError(f"--wandb {config.wandb}: the package wandb is not installed; pip install wandb, or leave "
                            "--wandb out.") from error
        run = wandb.init(project=config.wandb, name=config.name, id=config.name, resume="allow",
                         dir=str(config.folder), config=vars(config))
        sinks.append(lambda step, numbers: run.log(numbers, step=step))
    return sinks


def _to_tensorboard(writer, step: int, numbers: dict[str, float]) -> None:
    for name, value in numbers.items():
        writer.add_scalar(name, value, step)
    writer.flush()  # several ranks end without a farewell


# --------------------------------------------------------------------------------------------------- speed


class Speed:
    """How fast the steps of a run were, and how much memory they took. One for each rank."""

    def __init__(self, model: torch.nn.Module, config: Config, ranks: Ranks):
        self.shape, self.count, self.ranks = model.config, plan.sizes(model.config), ranks
        named = torch.cuda.get_device_name(ranks.device) if ranks.device.type == "cuda" else ""
        known = plan.device_peak(named) if config.dtype == "bfloat16" else None
        self.peak = config.peak_tflops * 1e12 or known  # FLOP/s of a GPU; None: no MFU

    def of_step(self, everyone: Sequence[Trajectory], engine: dict, seconds: dict[str, float]) -> dict[str, float]:
        """The numbers of a step. All ranks must call it.

        tokens_per_second/...   of all ranks together: rollout (decoded tokens), forward (tokens that the engine's
                                passes carry, while they run; of this rank, times the ranks), update (tokens of the
                                trajectories)
        mfu/update              model FLOPs utilisation: plan.training_flops of all trajectories (6 N a token and the
                                attention; the head for the tokens of actions only) / (seconds of the update * ranks *
                                peak). pi_ref's pass and --recompute are in the seconds, not in the FLOPs.
        peak_memory_gib         of the rank that took most, in GiB (2^30): what PyTorch had allocated on its GPU at once
                                since the last call; without a GPU, of its process since it started

        `everyone`: the trajectories of all ranks. `engine`: counts and seconds of this rank's. MFU is left out when
        no peak is known.
        """
        lengths, world = [len(trajectory.ids) for trajectory in everyone], self.ranks.world
        rates = {
            "rollout": world * engine["decode_tokens"] / seconds["seconds/rollout"],
            "update": sum(lengths) / seconds["seconds/update"],
        }
        if engine["forward_seconds"]:
            carried = engine["prefill_tokens"] + engine["decode_tokens"]
            rates["forward"] = world * carried / engine["forward_seconds"]
        numbers = {f"tokens_per_second/{part}": rate for part, rate in rates.items()}
        numbers["peak_memory_gib"] = max(self.ranks.gather(_peak_memory(self.ranks.device))) / plan.GIB
        if self.peak:
            scored = sum(sum(trajectory.loss_mask) for trajectory in everyone)
            flops = plan.training_flops(self.shape, self.count, lengths, scored)
            numbers["mfu/update"] = flops / (seconds["seconds/update"] * world * self.peak)
        return numbers


def _peak_memory(device: torch.device) -> int:
    """Bytes: see Speed."""
    if device.type == "cuda":
        most = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return most
    unit = 1 if sys.platform == "darwin" else 1024  # Linux counts KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
