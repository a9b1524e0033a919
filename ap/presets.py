"""Presets: named sets of settings, from which all other settings start.

A preset changes sizes, rates and who plays the roles, but never the algorithm or the code path. It lists what differs
from the defaults in config.py, which are the preset `mini`: a model of 0.9 M parameters from scratch. Its rates destroy
a pretrained model within a step, so with --model a run starts from `small` unless another preset is named. `small` is
for models of 0.1 to 2 B parameters. Its lr was tried: two GRPO updates of SmolLM2-135M left its texts intact at 1e-6,
1e-5 and 1e-4, and not at 4e-4. *Choice*: the least of these, with room for larger models; sft_lr is a choice too. The
values of the two big ones come from the paper and from memory arithmetic, and are untested until they have run on such
a node.
"""
from __future__ import annotations

# Whatever the size of a pretrained model.
_REAL = {"exec_timeout": 10.0, "recompute": True, "mend_messages": True, "acq_batch": 2, "lr": 1e-6,
         "solver_lr": 1e-6, "max_collapsed": 3}
_BIG = _REAL | {
    "dtype": "bfloat16", "threads": 8, "max_tokens": 16384, "micro_batch_tokens": 16384, "max_turns": 24,
    "reproducible": False, "workers": 32, "sft_trajectories": 2000, "sft_steps": 400, "sft_batch": 32,
    "sft_lr": 1e-5, "save_every": 10, "solver_budget": 10_000, "solver_groups": 128, "solver_max_tokens": 8192,
}
PRESETS: dict[str, dict] = {
    "mini": {},
    "small": _REAL | {
        "name": "small", "dtype": "auto", "max_tokens": 4096, "workers": 16, "sft_trajectories": 400, "sft_steps": 150,
        "sft_batch": 8, "sft_lr": 1e-4, "sft_save_every": 50, "groups": 8, "steps": 50, "eval_sets": 64,
        "save_every": 10, "solver_budget": 400, "solver_steps": 50, "solver_groups": 8, "solver_max_tokens": 2048,
        "solver_eval": 100},
    "qwen3-4b": _BIG | {"name": "qwen3-4b", "groups": 32, "steps": 200},
    # Its optimiser is in the host's memory (ap/tools/plan.py). Each micro-batch moves all weights: use few.
    "qwen3-30b-a3b": _BIG | {
        "name": "qwen3-30b-a3b", "groups": 64, "steps": 100, "offload": True, "micro_batch_tokens": 65536,
        "solver_budget": 11_000},
}
