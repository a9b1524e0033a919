"""Presets: named sets of settings, from which all other settings start.

A preset changes sizes and who plays the roles, but never the algorithm or the code path. It lists what differs from the
defaults in config.py, which are the preset `mini`. The two big ones need --model and GPUs; their values come from the
paper and from memory arithmetic, and are untested until they have run on such a node.
"""
from __future__ import annotations

_BIG = {
    "dtype": "bfloat16", "threads": 8, "max_tokens": 16384, "micro_batch_tokens": 16384, "exec_timeout": 10.0,
    "max_turns": 24, "reproducible": False, "workers": 32, "lr": 1e-6, "sft_lr": 1e-5, "sft_steps": 400,
    "sft_batch": 32, "save_every": 10, "recompute": True, "mend_messages": True,
}
PRESETS: dict[str, dict] = {
    "mini": {},
    "qwen3-4b": _BIG | {"name": "qwen3-4b", "groups": 32, "steps": 200},
    # Its optimiser is in the host's memory (ap/tools/plan.py). Each micro-batch moves all weights: use few.
    "qwen3-30b-a3b": _BIG | {
        "name": "qwen3-30b-a3b", "groups": 64, "steps": 100, "offload": True, "micro_batch_tokens": 65536},
}
