"""The checkpoints of a training run: exact, and written atomically.

A checkpoint is an ordinary Hugging Face folder (`AutoModelForCausalLM.from_pretrained` opens it) with two more parts:

    training/             float32 weights and Adam's moments; of a sharded model each rank writes its pieces
    training_state.json   counters, and whatever else the next step depends on

torch.distributed.checkpoint (dcp) finds pieces by their place in the whole tensor, so a run can continue on any number
of ranks. We let it write safetensors, since its own format is read by pickle, which may run code. No random state is
saved, because every random draw is keyed by (seed, step, index). Everything is written under a temporary name and
renamed when it is complete, so processes that are killed at any moment leave the last good version.
"""
from __future__ import annotations

import re
import shutil
import warnings
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError

from ap.devices.shard import free, is_sharded, whole
from ap.files import UserError, first_line, read_json, sync, told_when_unwritable, write_json
from ap.learn.update import Updater

STATE_FILE, TENSORS = "training_state.json", "training"
FILE_BYTES = 4 << 30  # bytes of whole tensors in a file of TENSORS; safetensors first copies a rank's part of it
warnings.filterwarnings("ignore", "torch.distributed is disabled")  # dcp warns whenever there is a single process


def save(folder: Path, replica, tokenizer, updater: Updater, state: dict, keep: int = 2) -> Path:
    """Write FOLDER/step-000123, 123 being state["step"], and delete all but the last `keep`. Returns its path.

    Nothing is deleted while updates are skipped: the present weights may be the reason, so an older checkpoint may be
    needed. All ranks must call it, and they return together; several machines must write to a shared folder. `replica`
    is the updater's model, or the model that `shard.shard` made it from. `state` holds JSON values only (numbers,
    strings, lists, dicts with string keys). UserError when the folder cannot be written.
    """
    path, ranks = Path(folder) / f"step-{state['step']:06d}", updater.ranks
    temporary, replaced = path.with_name(f".{path.name}.tmp"), path.with_name(f".{path.name}.old")
    together = is_sharded(updater.model)
    with told_when_unwritable(path):
        model = whole(updater.model, replica)
        if ranks.is_main:
            for leftover in (temporary, replaced):
                if leftover.exists():  # by a process that was killed while it saved
                    shutil.rmtree(leftover)
            temporary.mkdir(parents=True)
            if tokenizer is not None:
                tokenizer.save_pretrained(temporary)
                if model.generation_config.eos_token_id is None:  # made from scratch; other programs need it
                    model.generation_config.eos_token_id = tokenizer.eos_token_id
            model.save_pretrained(temporary, state_dict=_on_host(model.state_dict()))
            write_json(temporary / STATE_FILE, {"ranks": ranks.world_size, "updater": updater.counts(), "state": state})
        free(updater.model, replica)
        ranks.barrier()  # until the folder exists
        if together or ranks.is_main:
            tensors = updater.tensors()
            writer = dcp.HuggingFaceStorageWriter(
                str(temporary / TENSORS), fqn_to_index_mapping=_files(tensors), save_distributed=True)
            try:
                dcp.save(tensors, storage_writer=writer, no_dist=not together)
            except dcp.CheckpointException as error:
                raise OSError(first_line(error)) from error
        ranks.barrier()  # until all pieces are written
        if ranks.is_main:
            for file in temporary.rglob("*"):
                sync(file)
            sync(temporary)
            if path.exists():
                path.rename(replaced)
            temporary.rename(path)
            sync(path.parent)
            outdated = _complete(path.parent)[:-keep] if not updater.skipped_in_a_row else []
            for old in (replaced, *outdated):
                shutil.rmtree(old, ignore_errors=True)
        ranks.barrier()
    return path


def latest(folder: Path) -> Path | None:
    """The checkpoint of the highest step in FOLDER, or None. Incomplete ones are ignored."""
    found = _complete(Path(folder))
    return found[-1] if found else None


def load_training_state(path: Path, updater: Updater) -> dict:
    """Restore `updater` and its model bit for bit to what they were when `path` was saved. Returns the saved `state`.

    Any number of ranks may have saved it; with another number, sums are made in another order, and later results differ
    by rounding. Weights are copied in place, so tied weights stay tied. UserError when the folder is not a complete
    checkpoint or was made with other model sizes.
    """
    path, tensors = Path(path), updater.tensors()
    record = read_json(path / STATE_FILE)
    reader = dcp.HuggingFaceStorageReader(str(path / TENSORS))
    try:
        saved = {name: tuple(tensor.size) for name, tensor in reader.read_metadata().state_dict_metadata.items()}
        own = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        for name in sorted(saved.keys() | own.keys()):
            theirs, ours = saved.get(name, "absent"), own.get(name, "absent")
            if theirs != ours:
                raise UserError(f"{path}: {name} is {theirs} in the checkpoint and {ours} in the model; "
                                "use the model settings that this run was started with, or another --name.")
        dcp.load(tensors, storage_reader=reader, no_dist=not is_sharded(updater.model))
    except (OSError, SafetensorError, dcp.CheckpointException) as error:
        raise UserError(f"{path} is not a whole checkpoint ({first_line(error)}): delete this folder and run again; "
                        "an older checkpoint or the stage before will be used.") from error
    updater.resume(record["updater"])
    if record["ranks"] != updater.ranks.world_size:
        updater.ranks.print(f"{path}: saved by {record['ranks']} processes, going on with "
                            f"{updater.ranks.world_size}; from here on sums are made in another order, so numbers "
                            "differ in their last digits")
    return record["state"]


def _complete(folder: Path) -> list[Path]:
    """The complete checkpoints, in the order of their steps. Those being written have a name that starts with a dot."""
    if not folder.is_dir():
        return []
    named = [path for path in folder.iterdir() if re.fullmatch(r"step-\d+", path.name)]
    found = [path for path in named if (path / STATE_FILE).is_file()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def _on_host(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors in the host's memory; tied weights still share one. To save a model, transformers splits fused
    experts into copies, for which a GPU that holds a whole model may have no room."""
    moved = {tensor.data_ptr(): tensor.cpu() for tensor in state.values()}
    return {name: moved[tensor.data_ptr()] for name, tensor in state.items()}


def _files(tensors: dict[str, torch.Tensor]) -> dict[str, int]:
    """{tensor's name: number of its file, from 1}. A file holds up to FILE_BYTES, or a single tensor that is larger."""
    numbers, number, filled = {}, 1, 0
    for name, tensor in tensors.items():
        if filled and filled + tensor.nbytes > FILE_BYTES:
            number, filled = number + 1, 0
        numbers[name], filled = number, filled + tensor.nbytes
    return numbers
