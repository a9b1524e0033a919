"""The KV cache: one slot for each running conversation, in one tensor.

    store (rows, layers, 2, kv heads, length, head dim)        2: keys, values

Row b holds the tokens 0 .. cached-1 of its conversation. A forward pass writes new tokens behind them and lets each
query see the keys at its own and earlier positions. The tokens of a pass lie end to end, (1, N), in pieces: one token
of each row that decodes, then the tokens of rows that join, several rows in a piece.

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
TOGETHER = 1024  # *choice*: tokens, padding included, of rows that join and whose attention is computed in one call


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
    padded: slice | torch.Tensor  # (b * width,) its tokens among those of the pass, with padding between them
    real: slice | torch.Tensor  # (n,) which of these are no padding
    mask: torch.Tensor | None = None

    @classmethod
    def decode(cls, starts: torch.Tensor, seen: int) -> "Piece":
        """One token of each of the first b rows, which come first in the pass."""
        b = slice(0, len(starts))
        return cls(b, starts, 1, seen, b, b)

    @classmethod
    def join(cls, rows: Sequence[tuple[int, int, int]], begin: int, device: torch.device) -> "Piece":
        """(row, start, tokens) of each row, the longest first. The tokens lie end to end in the pass, from `begin`."""
        width, padded, real = rows[0][2], [], []
        for _, _, count in rows:
            real += range(len(padded), len(padded) + count)
            padded += [begin + min(t, count - 1) for t in range(width)]
            begin += count
        index, starts, _ = torch.tensor(rows, device=device).T
        seen = max(start + count for _, start, count in rows)
        return cls(index, starts, width, seen, *(torch.tensor(places, device=device) for places in (padded, real)))

    @cached_property
    def index(self) -> torch.Tensor:
        """(b,) the rows."""
        return torch.arange(len(self.starts), device=self.starts.device) if isinstance(self.rows, slice) else self.rows


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
        joins, the longest first; all must lie within the cache.
        """
        rows = [*range(len(starts)), *(row for row, _, count in joining for _ in range(count))]
        positions = [*starts, *(start + t for _, start, count in joining for t in range(count))]
        self.at, self.pieces = torch.tensor([rows, positions], device=self.store.device), []
        if starts:
            self.pieces.append(Piece.decode(self.at[1, :len(starts)], max(starts) + 1))
        parts: list[list[tuple[int, int, int]]] = []
        for row in joining:
            width = parts[-1][0][2] if parts else 0  # padding, too, lies within the cache
            if parts and (len(parts[-1]) + 1) * width <= TOGETHER and row[1] + width <= self.length:
                parts[-1].append(row)
            else:
                parts.append([row])
        begin = len(starts)
        for part in parts:
            self.pieces.append(Piece.join(part, begin, self.store.device))
            begin += sum(count for _, _, count in part)
        return self.at[1:]

    def aim_at_first(self, starts: torch.Tensor, seen: int) -> None:
        """The same for a pass of one token of each of the first rows, at most `seen` - 1 tokens behind their starts.
        Without a copy of starts (b,): a recorded pass reads there, in each of its runs, what they are by then."""
        self.pieces = [Piece.decode(starts, seen)]
        self.at = (self.pieces[0].index, starts)

    def slots(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """All keys and values of a layer, each (rows, kv heads, length, D), to be read and written in place."""
        return self.store[:, layer, 0], self.store[:, layer, 1]

    def write(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """The pass's new keys and values, (1, kv heads, N, D) each. For kernels that cannot do so themselves."""
        rows, positions = self.at
        self.store[rows, layer, :, :, positions] = torch.cat((key, value)).permute(2, 0, 1, 3)  # (N, 2, kv heads, D)

    def read(self, layer: int, piece: Piece) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """All that the rows of a piece may see: keys, values (b, kv heads, seen, D), and what to add to the scores,
        (b, 1, groups * width, seen) or, where width is 1, (b, 1, 1, seen).

        The latter is built once for all layers, and not of booleans: attention would turn them into numbers in each.
        """
        keys, values = (slots[piece.rows, :, :piece.seen] for slots in self.slots(layer))
        if piece.mask is None:
            last = piece.starts.unsqueeze(1) + torch.arange(piece.width, device=keys.device)  # (b, width)
            hidden = torch.arange(piece.seen, device=keys.device) > last.unsqueeze(2)  # (b, width, seen)
            mask = keys.new_zeros(hidden.shape).masked_fill_(hidden, -torch.inf).unsqueeze(1)
            piece.mask = mask if piece.width == 1 else mask.repeat(1, 1, self.groups, 1)
        return keys, values, piece.mask

    def copy(self, source: int, targets: list[int], length: int) -> None:
        """Give the first `length` tokens of one row to others."""
        self.store[targets, ..., :length, :] = self.store[source, ..., :length, :]

    def swap(self, a: int, b: int, length: int) -> None:
        """Exchange the first `length` tokens of two rows."""
        one, other = self.store[a, ..., :length, :], self.store[b, ..., :length, :]
        kept = one.clone()
        one.copy_(other)
        other.copy_(kept)
