"""Exact and atomic: the checkpoints of a training run.

A checkpoint is an ordinary Hugging Face folder (`AutoModelForCausalLM.from_pretrained` opens it) with one more file,
training_state.pt: the optimiser and whatever else the next step depends on. No random state is in it, because every
random draw is keyed by (seed, step, index). Everything is written under a temporary name and renamed when complete,
so a process killed at any moment leaves the last good version.
"""
from __future__ import annotations

import json
import pickle
import re
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError

from ap.files import UserError, sync, told_when_unwritable
from ap.update import Updater

STATE_FILE = "training_state.pt"


def save(folder: Path, model, tokenizer, updater: Updater | None, state: dict, keep: int = 2) -> Path:
    """Write FOLDER/step-000123, 123 being state["step"], and delete all but the last `keep`. Returns its path.

    `state` holds JSON values only (numbers, strings, lists, dicts with string keys). Only one rank may call it; a
    barrier afterwards is the caller's. UserError when the folder cannot be written.
    """
    path = Path(folder) / f"step-{state['step']:06d}"
    temporary, replaced = path.with_name(f".{path.name}.tmp"), path.with_name(f".{path.name}.old")
    with told_when_unwritable(path):
        for leftover in (temporary, replaced):
            if leftover.exists():  # of a process that was killed here
                shutil.rmtree(leftover)
        temporary.mkdir(parents=True)
        model.save_pretrained(temporary)
        if tokenizer is not None:
            tokenizer.save_pretrained(temporary)
        # Through JSON and back: what resumes is what was saved, not, say, a tuple that comes back as a list.
        record = {"updater": updater.state() if updater else None, "state": json.loads(json.dumps(state))}
        torch.save(record, temporary / STATE_FILE)
        for file in temporary.rglob("*"):
            sync(file)
        sync(temporary)
        if path.exists():
            path.rename(replaced)
        temporary.rename(path)
        sync(path.parent)
        for old in (replaced, *_complete(path.parent)[:-keep]):
            shutil.rmtree(old, ignore_errors=True)
    return path


def latest(folder: Path) -> Path | None:
    """The checkpoint of the highest step in FOLDER, or None. Half-written ones do not count."""
    found = _complete(Path(folder))
    return found[-1] if found else None


def load_training_state(path: Path, model, updater: Updater | None) -> dict:
    """Set `model` and `updater` to what they were when `path` was saved, bit for bit. Returns the saved `state`.

    Weights are copied in place, so tied ones stay tied and the optimiser keeps its hold on them. UserError when the
    folder is not a whole checkpoint or was made with other model sizes.
    """
    path = Path(path)
    record = _read_training_state(path)
    try:
        saved = type(model).from_pretrained(path, dtype=model.dtype, local_files_only=True).state_dict()
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is not a whole checkpoint ({_first_line(error)}): delete this folder and run again; "
                        "an older checkpoint or the stage before will be used.") from error
    own = model.state_dict()
    for name in sorted(saved.keys() | own.keys()):
        theirs, ours = (tuple(weights[name].shape) if name in weights else "absent" for weights in (saved, own))
        if theirs != ours:
            raise UserError(f"{path}: {name} is {theirs} in the checkpoint and {ours} in the model; "
                            "use the model settings that this run was started with, or another --name.")
    model.load_state_dict(saved)
    if updater is not None:
        if record["updater"] is None:
            raise UserError(f"{path} was saved without an optimiser, so training cannot continue from it; "
                            "give it as --model of another --name instead.")
        updater.load_state(record["updater"])
    return record["state"]


def _complete(folder: Path) -> list[Path]:
    """Whole checkpoints in the order of their steps. Names with a dot in front are being written."""
    if not folder.is_dir():
        return []
    named = [path for path in folder.iterdir() if re.fullmatch(r"step-\d+", path.name)]
    whole = [path for path in named if (path / STATE_FILE).is_file()]
    return sorted(whole, key=lambda path: int(path.name.removeprefix("step-")))


def _read_training_state(path: Path) -> dict:
    try:
        return torch.load(path / STATE_FILE, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise UserError(f"{path / STATE_FILE} cannot be read ({_first_line(error)}): delete the folder {path} and run "
                        "again; an older checkpoint or the stage before will be used.") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
