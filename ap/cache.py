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

CACHE_BYTES = 32 << 30  # *choice*: of keys and values, at most; rows that do not fit wait


class Cache:
    """Room for `rows` conversations of `length` tokens; fewer rows if CACHE_BYTES hold no more.

    Raises UserError if not even one fits.
    """

    def __init__(self, model, rows: int, length: int):
        shape = model.config
        heads, layers = shape.num_key_value_heads, shape.num_hidden_layers
        dim = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
        row_bytes = 2 * layers * heads * length * dim * model.dtype.itemsize
        if row_bytes > CACHE_BYTES:
            raise UserError(f"a conversation of {length} tokens needs {row_bytes / 2**30:.1f} GiB of KV cache, "
                            f"more than the {CACHE_BYTES / 2**30:.1f} GiB there are; allow fewer tokens.")
        self.rows, self.length = min(rows, CACHE_BYTES // row_bytes), length
        # Zeros, since what lies behind a row's end is multiplied by a weight of 0, and 0 * NaN is NaN.
        self.store = torch.zeros(
            self.rows, layers, 2, heads, length, dim, dtype=model.dtype, device=model.device)

    def aim(self, rows: Sequence[int], starts: Sequence[int], width: int) -> torch.Tensor:
        """Where the next forward writes: `width` tokens of each row, from its start on. Returns positions (B, width).

        All of them must lie within the cache. The mask is built here, once for all layers, as what is added to a score:
        attention would turn booleans into that in each of them.
        """
        device = self.store.device
        self.front = list(rows) == list(range(len(rows)))  # the first rows can be read as a slice, without a copy
        self.index = torch.tensor(rows, device=device)  # (B,)
        starts_column = torch.tensor(starts, device=device).unsqueeze(1)  # (B, 1)
        self.positions = starts_column + torch.arange(width, device=device)  # (B, width)
        self.seen = max(starts) + width  # keys that the longest of these rows has
        hidden = torch.arange(self.seen, device=device) > self.positions.unsqueeze(2)  # (B, width, seen)
        self.mask = self.store.new_zeros(hidden.shape).masked_fill_(hidden, -torch.inf).unsqueeze(1)
        return self.positions

    def extend(
        self, layer: int, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Called by the attention of each layer: store (B, kv heads, width, D), return all the rows may see.

        Returns keys, values (B, kv heads, seen, D), and the mask (B, 1, width, seen) to add to the scores.
        """
        read = []
        for store, new in zip(self.store[:, layer].unbind(1), (key, value)):  # store: (rows, kv heads, length, D)
            store[self.index.unsqueeze(1), :, self.positions] = new.transpose(1, 2)
            seen = store[:, :, :self.seen]
            read.append(seen[:len(new)] if self.front else seen[self.index])
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
