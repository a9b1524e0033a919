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
from typing import Sequence

import torch

from ap.config import UserError

CPU_BYTES = 32 << 30  # *choice*: of keys and values, at most; rows that do not fit wait
TOGETHER = 1024  # *choice*: tokens, padding included, of rows that join and whose attention is computed in one call
GPU_SHARE = 0.8  # *choice*: of the memory that is free when a rollout begins; the rest is for its activations


def budget(device: torch.device) -> int:
    """Bytes that a cache may take."""
    if device.type != "cuda":
        return CPU_BYTES
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # PyTorch's own, and free
    return int(GPU_SHARE * (torch.cuda.mem_get_info(device)[0] + kept))


@dataclass
class Piece:
    """Part of the new tokens of a pass: at most `width` of each of b rows. Shorter ones are padded up to it."""

    rows: slice | torch.Tensor  # neighbours, read in place; or (b,), read as a copy
    starts: torch.Tensor  # (b,) where in its row each one's new tokens begin
    width: int
    seen: int  # keys that are read of each row: all that its new tokens may see, or more
    own: slice  # its tokens among those of the pass; n of them
    at: tuple[torch.Tensor, torch.Tensor]  # (n,) the row of each one, and its position there
    padded: slice | torch.Tensor  # (b * width,) the same tokens of the pass, with padding between them
    real: slice | torch.Tensor  # (n,) which of the padded ones they are
    mask: torch.Tensor | None = None

    @classmethod
    def decode(cls, starts: torch.Tensor, seen: int) -> "Piece":
        """One token of each of the first b rows, which come first in the pass."""
        b = slice(0, len(starts))
        return cls(b, starts, 1, seen, b, (torch.arange(len(starts), device=starts.device), starts), b, b)

    @classmethod
    def join(cls, rows: Sequence[tuple[int, int, int]], begin: int, device: torch.device) -> "Piece":
        """(row, start, width) of each row, the widest first. Their tokens lie end to end in the pass, from `begin`."""
        width, where, real, at = rows[0][2], [], [], []
        for row, start, count in rows:
            real += range(len(where), len(where) + count)
            where += [begin + min(t, count - 1) for t in range(width)]
            at += [(row, start + t) for t in range(count)]
            begin += count
        index, starts = (torch.tensor(numbers, device=device) for numbers in list(zip(*rows))[:2])
        at, where, real = (torch.tensor(numbers, device=device) for numbers in (at, where, real))
        seen = max(start + count for _, start, count in rows)
        return cls(index, starts, width, seen, slice(begin - len(at), begin), tuple(at.T), where, real)

    @property
    def index(self) -> torch.Tensor:
        """(b,) the rows."""
        return self.at[0] if isinstance(self.rows, slice) else self.rows


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

    def aim(self, starts: Sequence[int], joining: Sequence[tuple[int, int, int]]) -> torch.Tensor:
        """Where the next pass writes. Returns the positions (1, N) of its tokens in their rows.

        starts: where the next token of each of the first rows goes. joining: (row, start, tokens) of each row that
        joins, the widest first; all must lie within the cache.
        """
        parts: list[list[tuple[int, int, int]]] = []
        for row in joining:
            width = parts[-1][0][2] if parts else 0  # padding, too, lies within the cache
            if parts and (len(parts[-1]) + 1) * width <= TOGETHER and row[1] + width <= self.length:
                parts[-1].append(row)
            else:
                parts.append([row])
        device, self.pieces = self.store.device, []
        if starts:
            self.pieces.append(Piece.decode(torch.tensor(starts, device=device), max(starts) + 1))
        for part in parts:
            begin = self.pieces[-1].own.stop if self.pieces else 0
            self.pieces.append(Piece.join(part, begin, device))
        return torch.cat([piece.at[1] for piece in self.pieces]).unsqueeze(0)

    def slots(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """All keys and values of a layer, each (rows, kv heads, length, D), to be read and written in place."""
        return self.store[:, layer, 0], self.store[:, layer, 1]

    def extend(
        self, layer: int, piece: Piece, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """For kernels that cannot do so themselves: store the new (n, kv heads, D), return all that the rows may see.

        Returns keys, values (b, kv heads, seen, D), and what to add to the scores (b, 1, groups * width, seen) or, where
        width is 1, (b, 1, 1, seen). That is built once for all layers, and not of booleans: attention would turn them
        into numbers in each layer.
        """
        rows, positions = piece.at
        read = []
        for store, new in zip(self.slots(layer), (key, value)):
            store[rows, :, positions] = new
            read.append(store[piece.rows, :, :piece.seen])
        if piece.mask is None:
            last = piece.starts.unsqueeze(1) + torch.arange(piece.width, device=key.device)  # (b, width) that it may see
            hidden = torch.arange(piece.seen, device=key.device) > last.unsqueeze(2)  # (b, width, seen)
            mask = key.new_zeros(hidden.shape).masked_fill_(hidden, -torch.inf).unsqueeze(1)
            piece.mask = mask if piece.width == 1 else mask.repeat(1, 1, self.groups, 1)
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
