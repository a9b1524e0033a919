"""What a process does once on a GPU, what it must do alone there, and how much of its memory a KV cache may count on.

A rollout's KV cache is by far the largest block, and it comes and goes with every step. What stays is made before it
(Adam's moments: learn/update.py), or it would lie in the middle of what the first cache has left, and the second one
would find less. With expandable segments PyTorch joins free pages wherever they lie.

The policy and a local judge (players/place.py) decode in two threads of one process. Recording a CUDA graph and giving
memory back both wait for the whole device, which breaks a recording that another thread has begun: `ALONE` lets one
thread at a time do it.
"""
from __future__ import annotations

import os
import threading
import weakref

import torch

from ap.config import Config

ALONE = threading.RLock()  # held while a graph is recorded and while memory is given back
PROMISED: weakref.WeakKeyDictionary[object, int] = weakref.WeakKeyDictionary()  # owner: bytes that it will still take


def prepare(device: torch.device) -> None:
    """Make a GPU this process's own, before anything is on it; once more does no harm.

    *Choice*: no attention by cuDNN, which builds a plan for every shape, in every thread; our shapes change all the
    time. Who sets PYTORCH_CUDA_ALLOC_CONF or PYTORCH_ALLOC_CONF decides about expandable segments.
    """
    if "PYTORCH_ALLOC_CONF" not in os.environ:
        os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    torch.cuda.set_device(device)
    torch.backends.cuda.enable_cudnn_sdp(False)


def device_of(config: Config) -> torch.device:
    """Where --device says that models run: the CPU, or this process's GPU, prepared."""
    if config.device == "cpu" or config.device == "auto" and not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", torch.cuda.current_device())
    prepare(device)
    return device


def free_memory(device: torch.device) -> int:
    """Bytes of a GPU that nobody has and nobody was promised. Whole blocks that PyTorch held back are given back first;
    holes between tensors do not count, since no large block fits there."""
    with ALONE:
        torch.cuda.empty_cache()
        return max(0, torch.cuda.mem_get_info(device)[0] - sum(PROMISED.values()))
