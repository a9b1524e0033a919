"""The KV cache: one slot for each running conversation, in one tensor.

    store (rows, layers, 2, kv heads, length, head dim)        2: keys, values

Row b holds the tokens 0 .. cached-1 of its conversation. A forward pass writes new tokens behind them and lets each
query see the keys at its own and earlier positions. The tokens of a pass lie end to end, (1, N), in pieces: one token
of each row that decodes, then the tokens of each row that joins.

Slots, not pages: attention reads rows in place as a slice, without a table of pages and without a kernel of its own.
The price is that a row keeps room for the longest conversation that is allowed.
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
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


@dataclass
class Piece:
    """Part of the new tokens of a pass: one token of each of b neighbouring rows, or `width` tokens of one row."""

    first: int  # of the rows
    starts: torch.Tensor  # (b,) where in its row each one's new tokens begin
    width: int
    seen: int  # keys that are read of each row: starts + width of the longest, or, where width is 1, maybe more
    mask: torch.Tensor | None = None

    @cached_property
    def index(self) -> torch.Tensor:
        """(b,) the rows."""
        return torch.arange(self.first, self.first + len(self.starts), device=self.starts.device)


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
        self.groups = shape.num_attention_heads // heads  # query heads that share a key-value head
        # Zeros, since what lies behind a row's end is multiplied by a weight of 0, and 0 * NaN is NaN.
        self.store = torch.zeros(
            self.rows, layers, 2, heads, length, dim, dtype=model.dtype, device=model.device)

    def aim(self, pieces: Sequence[tuple[int, Sequence[int], int]]) -> torch.Tensor:
        """Where the next pass writes: for each piece its first row, its rows' starts, its width. Returns the positions
        (1, N) of the tokens in their rows.

        All of them must lie within the cache.
        """
        listed = [start + t for _, starts, width in pieces for start in starts for t in range(width)]
        positions, self.pieces, at = torch.tensor([listed], device=self.store.device), [], 0
        for first, starts, width in pieces:
            end = at + len(starts) * width
            self.pieces.append(Piece(first, positions[0, at:end:width], width, max(starts) + width))
            at = end
        return positions

    def slots(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """All keys and values of a layer, each (rows, kv heads, length, D), to be read and written in place."""
        return self.store[:, layer, 0], self.store[:, layer, 1]

    def extend(
        self, layer: int, piece: Piece, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """For kernels that cannot do so themselves: store (b, kv heads, width, D), return all that the rows may see.

        Returns keys, values (b, kv heads, seen, D), and what to add to the scores (b, 1, groups * width, seen). That is
        built once for all layers, and not of booleans: attention would turn them into numbers in each layer.
        """
        read, before = [], piece.seen - piece.width
        for store, new in zip(self.slots(layer), (key, value)):
            if piece.width > 1:
                store[piece.first, :, before:piece.seen] = new[0]
            else:
                store[piece.index, :, piece.starts] = new[:, :, 0]
            read.append(store[piece.first:piece.first + len(new), :, :piece.seen])
        if piece.mask is None:
            if piece.width > 1:
                causal = key.new_full((piece.width, piece.seen), -torch.inf).triu_(before + 1)
                piece.mask = causal.repeat(1, 1, self.groups, 1)
            else:
                hidden = torch.arange(piece.seen, device=key.device) > piece.starts[:, None, None, None]
                piece.mask = key.new_zeros(hidden.shape).masked_fill_(hidden, -torch.inf)  # (b, 1, 1, seen)
        return *read, piece.mask

    def copy(self, source: int, targets: list[int], length: int) -> None:
        """Give the first `length` tokens of one row to others."""
        self.store[targets, ..., :length, :] = self.store[source, ..., :length, :]

    def swap(self, a: int, b: int, length: int) -> None:
        """Exchange the first `length` tokens of two rows."""
        one, other = self.store[a, ..., :length, :], self.store[b, ..., :length, :]
        kept = one.clone()
        one.copy_(other)
        other.copy_(kept)
