"""The KV cache: one row for each running conversation, in one tensor.

    store (rows, layers, 2, kv heads, length, head dim)        2: keys, values

A row holds the keys and values of the tokens 0 .. cached - 1 of its conversation. A forward pass writes those of new
tokens behind them, and lets each query see the keys at its own and earlier positions. The tokens of a pass lie end to
end, (1, N), in pieces whose attention is computed in one call each: first a piece with one token of each row that
decodes, then pieces with the tokens of rows that join (rows whose tokens are prefilled), several rows or part of one.

*Choice*: rows, not vLLM's tables of pages. Attention reads rows in place as a slice, without a special kernel. A row
reserves addresses for the longest conversation that is allowed, but has memory only for the tokens that it holds
(devices/pages.py), so there are as many rows as are wanted, and who goes on depends on what is free (rows.py).
"""
from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Sequence

import torch

from ap.devices.gpu import free_memory
from ap.devices.pages import pages_for
from ap.files import UserError

CPU_BYTES = 32 << 30  # *choice*: most bytes of keys and values, or half of the memory; others wait for a row
GPU_SHARE = 0.8  # *choice*: share of the memory that is free when a rollout begins; the rest is for activations
TOGETHER = 1024  # *choice*: most tokens, padding included, in a piece of joining rows; a longer span makes several


def budget(device: torch.device) -> int:
    """The bytes that a new cache on this device may take."""
    if device.type != "cuda":
        return min(CPU_BYTES, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)
    return int(GPU_SHARE * free_memory(device))


class Span(NamedTuple):
    """New tokens of one row that joins, at its positions start .. start + count - 1."""

    row: int
    start: int
    count: int


@dataclass
class Piece:
    """New tokens of b rows whose attention is computed in one call: `width` of each row, shorter spans padded to it."""

    rows: slice | torch.Tensor  # of the cache: a slice, read in place, or (b,) indices, read as a copy
    starts: torch.Tensor  # (b,) the position in each row where its new tokens begin
    width: int
    seen: int  # keys that are read of each row: at least all that its new tokens may see
    padded: slice | torch.Tensor  # (b * width,) places of the piece's tokens in the pass, padding included
    real: slice | torch.Tensor  # (n,) which of these are not padding
    causal: bool = False  # all begin their rows, so that the t-th new token of a row sees its first t keys
    mask: torch.Tensor | None = None  # see Cache.read

    @classmethod
    def decode(cls, starts: torch.Tensor, seen: int) -> "Piece":
        """A piece with one token of each of the cache's first b rows; these tokens come first in the pass."""
        b = slice(0, len(starts))
        return cls(b, starts, 1, seen, b, b)

    @classmethod
    def join(cls, spans: Sequence[Span], begin: int, device: torch.device) -> "Piece":
        """A piece of one or more spans, the longest first. Their tokens lie end to end in the pass, from `begin` on."""
        width, padded, real = spans[0].count, [], []
        for span in spans:
            real += range(len(padded), len(padded) + span.count)
            padded += [begin + min(t, span.count - 1) for t in range(width)]
            begin += span.count
        index, starts, _ = torch.tensor(spans, device=device).T
        seen = max(span.start + span.count for span in spans)
        return cls(index, starts, width, seen, *(torch.tensor(places, device=device) for places in (padded, real)),
                   causal=not any(span.start for span in spans))

    @cached_property
    def index(self) -> torch.Tensor:
        """(b,) the rows as indices, even if `rows` is a slice."""
        return torch.arange(len(self.starts), device=self.starts.device) if isinstance(self.rows, slice) else self.rows

    @cached_property
    def small(self) -> dict[str, torch.Tensor]:
        """Where rows begin, and which they are, in the numbers that flash-attn takes; made once for all layers."""
        return {"cache_seqlens": self.starts.int(), "cache_batch_idx": self.index.int()}


class Cache:
    """`rows` conversations of at most `length` tokens each, which share the memory of the budget (`pages`).

    Raises UserError if it does not suffice for even one of full length.
    """

    def __init__(self, model, rows: int, length: int):
        shape = model.config.get_text_config()
        heads, layers = getattr(shape, "num_key_value_heads", shape.num_attention_heads), shape.num_hidden_layers
        dim = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
        if getattr(shape, "kv_lora_rank", None):  # DeepSeek's latent attention, whose head_dim is of the rotated part
            dim = shape.qk_nope_head_dim + shape.qk_rope_head_dim
        row_bytes = 2 * layers * heads * length * dim * model.dtype.itemsize
        room = budget(model.device)
        if row_bytes > room:
            raise UserError(f"a conversation of {length} tokens needs {row_bytes / 2**30:.1f} GiB of KV cache, "
                            f"more than the {room / 2**30:.1f} GiB there are; allow fewer tokens.")
        self.pages = pages_for((rows, layers, 2, heads, length, dim), model.dtype, model.device, room)
        # Zeros where nothing was written yet: values behind a row's end get the attention weight 0, and 0 * NaN is NaN.
        self.store, self.rows, self.length = self.pages.store, len(self.pages.held), length
        self.groups = shape.num_attention_heads // heads  # query heads that share a key-value head

    def aim(self, starts: Sequence[int], joining: Sequence[Span]) -> torch.Tensor:
        """Set where the next pass writes and reads. Returns the positions (1, N) of its tokens in their rows.

        starts: the position of the next token of each row that decodes; these are the first rows. joining: spans of
        rows that join, the longest first; all must lie within the cache.
        """
        rows, positions = [*range(len(starts))], [*starts]
        for span in joining:
            rows += [span.row] * span.count
            positions += range(span.start, span.start + span.count)
        self.at, self.pieces = torch.tensor([rows, positions], device=self.store.device), []
        if starts:
            self.pieces.append(Piece.decode(self.at[1, :len(starts)], max(starts) + 1))
        parts: list[list[Span]] = []  # each becomes a piece, as wide as its first span
        for row, start, count in joining:
            most = TOGETHER if start else count  # a mask costs time for all keys; causal attention skips the later ones
            for first in range(start, start + count, most):
                span = Span(row, first, min(most, start + count - first))
                width = parts[-1][0].count if parts else 0  # padding must lie within the cache, too
                if span.count <= width and (len(parts[-1]) + 1) * width <= TOGETHER and first + width <= self.length:
                    parts[-1].append(span)
                else:
                    parts.append([span])
        begin = len(starts)
        for part in parts:
            self.pieces.append(Piece.join(part, begin, self.store.device))
            begin += sum(span.count for span in part)
        return self.at[1:]

    def aim_at_first(self, starts: torch.Tensor, seen: int) -> None:
        """The same for a pass with one token of each of the first rows, where no token sees more than `seen` keys.

        starts (b,) is not copied, because a recorded pass (graphs.py) reads this tensor again whenever it is replayed.
        """
        self.pieces = [Piece.decode(starts, seen)]
        self.at = (self.pieces[0].index, starts)

    def slots(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Views of all keys and values of a layer, each (rows, kv heads, length, D)."""
        return self.store[:, layer, 0], self.store[:, layer, 1]

    def write(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Store the pass's new keys and values, (1, kv heads, N, D) each, for kernels that do not do it themselves."""
        rows, positions = self.at
        self.store[rows, layer, :, :, positions] = torch.cat((key, value)).permute(2, 0, 1, 3)  # (N, 2, kv heads, D)

    def read(self, layer: int, piece: Piece) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """What the tokens of a piece may see: keys and values, (b, kv heads, seen, D) each, and a mask.

        The mask, of 0 and -inf, is added to the attention scores: (b, 1, groups * width, seen) or, where width is 1,
        (b, 1, 1, seen); none is needed where the piece is causal. It is built once for all layers. It holds numbers,
        because attention would convert booleans to numbers again in each layer.
        """
        keys, values = (slots[piece.rows, :, :piece.seen] for slots in self.slots(layer))
        if piece.mask is None and not piece.causal:
            last = piece.starts.unsqueeze(1) + torch.arange(piece.width, device=keys.device)  # (b, width)
            hidden = torch.arange(piece.seen, device=keys.device) > last.unsqueeze(2)  # (b, width, seen)
            mask = keys.new_zeros(hidden.shape).masked_fill_(hidden, -torch.inf).unsqueeze(1)
            piece.mask = mask if piece.width == 1 else mask.repeat(1, 1, self.groups, 1)
        return keys, values, piece.mask

    def copy(self, source: int, targets: list[int], length: int) -> None:
        """Copy the first `length` tokens of one row to other rows."""
        self.store[targets, ..., :length, :] = self.store[source, ..., :length, :]
