"""The KV cache: one slot for each running conversation, in one tensor.

    store (rows, layers, 2, kv heads, length, head dim)        2: keys, values

Row b holds the tokens 0 .. cached-1 of its conversation. A forward pass writes new tokens behind them and lets each
query see the keys at its own and earlier positions. The tokens of a pass are left-aligned and padded to one width; what
padding writes lies behind the row's end: never seen, and overwritten by the next tokens.

Slots, not pages: attention reads rows in place as a slice, without a table of pages and without a kernel of its own.
The price is that a row keeps room for the longest conversation that is allowed.
"""
from __future__ import annotations

from typing import Sequence

import torch

from ap.config import UserError

CPU_BYTES = 32 << 30  # *choice*: of keys and values, at most; rows that do not fit wait
GPU_SHARE = 0.8  # *choice*: of the memory that is free when a rollout begins; the rest is for its activations


def budget(device: torch.device) -> int:
    """Bytes that a cache may take."""
    if device.type != "cuda":
        return CPU_BYTES
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # PyTorch's own, and free
    return int(GPU_SHARE * (torch.cuda.mem_get_info(device)[0] + kept))


class Cache:
    """Room for `rows` conversations of `length` tokens; fewer rows if the budget holds no more.

    Raises UserError if not even one fits.
    """

    def __init__(self, model, rows: int, length: int):
        shape = model.config
        heads, layers = shape.num_key_value_heads, shape.num_hidden_layers
        dim = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
        row_bytes = 2 * layers * heads * length * dim * model.dtype.itemsize
        room = budget(model.device)
        if row_bytes > room:
            raise UserError(f"a conversation of {length} tokens needs {row_bytes / 2**30:.1f} GiB of KV cache, "
                            f"more than the {room / 2**30:.1f} GiB there are; allow fewer tokens.")
        self.rows, self.length = min(rows, room // row_bytes), length
        # Zeros, since what lies behind a row's end is multiplied by a weight of 0, and 0 * NaN is NaN.
        self.store = torch.zeros(
            self.rows, layers, 2, heads, length, dim, dtype=model.dtype, device=model.device)

    def aim(self, rows: Sequence[int], starts: Sequence[int], width: int) -> torch.Tensor:
        """Where the next forward writes: `width` tokens of each row, from its start on. Returns positions (B, width).

        All of them must lie within the cache.
        """
        index, starts_of = (torch.tensor(list(numbers), device=self.store.device) for numbers in (rows, starts))
        return self.aim_at(index, starts_of, width, max(starts) + width, list(rows) == list(range(len(rows))))

    def aim_at(self, index: torch.Tensor, starts: torch.Tensor, width: int, seen: int, front: bool) -> torch.Tensor:
        """The same for tensors (B,). seen: keys that are read of each row, at least as many as the longest has.
        front: they are the first rows, which can be read as a slice, without a copy."""
        self.index, self.starts, self.seen, self.front, self.mask = index, starts, seen, front, None
        self.positions = starts.unsqueeze(1) + torch.arange(width, device=starts.device)  # (B, width)
        return self.positions

    def slots(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """All keys and values of a layer, each (rows, kv heads, length, D), to be read and written in place."""
        return self.store[:, layer, 0], self.store[:, layer, 1]

    def extend(
        self, layer: int, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """For kernels that cannot do so themselves: store (B, kv heads, width, D), return all that the rows may see.

        Returns keys, values (B, kv heads, seen, D), and what to add to the scores (B, 1, width, seen). That is built
        once for all layers, and not of booleans: attention would turn them into numbers in each layer.
        """
        read = []
        for store, new in zip(self.slots(layer), (key, value)):
            store[self.index.unsqueeze(1), :, self.positions] = new.transpose(1, 2)
            seen = store[:, :, :self.seen]
            read.append(seen[:len(new)] if self.front else seen[self.index])
        if self.mask is None:
            hidden = torch.arange(self.seen, device=key.device) > self.positions.unsqueeze(2)  # (B, width, seen)
            self.mask = key.new_zeros(hidden.shape).masked_fill_(hidden, -torch.inf).unsqueeze(1)
        return *read, self.mask

    def copy(self, source: int, targets: list[int], length: int) -> None:
        """Give the first `length` tokens of one row to others."""
        self.store[targets, ..., :length, :] = self.store[source, ..., :length, :]

    def swap(self, a: int, b: int, length: int) -> None:
        """Exchange the first `length` tokens of two rows."""
        one, other = self.store[a, ..., :length, :], self.store[b, ..., :length, :]
        kept = one.clone()
        one.copy_(other)
        other.copy_(kept)
