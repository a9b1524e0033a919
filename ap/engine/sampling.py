"""Sampling: how the next token is drawn from the model's logits, and what ends a message."""
from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Callable, Sequence

import torch


@dataclass(frozen=True)
class Sampling:
    """How an engine samples tokens.

    Training samples from the whole distribution at `temperature`. top_p and top_k are for evaluation only: a loss needs
    log-probs of the whole distribution, so conversations sampled with them keep none, and cannot be trained on.
    """

    stop_ids: set[int]  # each of these tokens ends a message, and is part of it
    temperature: float = 1.0  # logits are divided by it; 0: take the likeliest token instead of drawing one
    top_p: float = 1.0  # draw from the smallest set of likeliest tokens whose total probability reaches it; 1: all
    top_k: int = 0  # draw from at most so many of the likeliest tokens (applied before top_p); 0: all
    stops: Callable[[list[int]], bool] | None = None  # message so far -> does it end here? See stop_strings.

    @property
    def cuts_tail(self) -> bool:
        """Is the tail of the distribution cut off, so that the samples cannot be trained on?"""
        return self.top_p < 1 or self.top_k > 0

    def distribution(self, logits: torch.Tensor) -> torch.Tensor:
        """Log-probs (B, V) of the distribution that tokens are drawn from, given logits (B, V); at temperature 0, those
        of temperature 1."""
        logits = logits.float() / (self.temperature or 1.0)
        if not self.cuts_tail:
            return logits.log_softmax(-1)
        ordered, order = logits.sort(-1, descending=True)  # (B, V), the likeliest first
        if self.top_k:
            ordered[:, self.top_k:] = -torch.inf
        share = ordered.softmax(-1)
        ordered[share.cumsum(-1) - share >= self.top_p] = -torch.inf  # the tokens before it reach top_p already
        return torch.empty_like(logits).scatter_(1, order, ordered).log_softmax(-1)

    def draw(self, logits: torch.Tensor, uniforms: Sequence[float]) -> tuple[list[int], list[float]]:
        """The next token of each row and its log-prob, from logits (B, V) and a uniform random number for each row."""
        logprobs = self.distribution(logits)  # (B, V)
        tokens = inverse(logprobs, uniforms) if self.temperature else logprobs.argmax(-1)
        return tokens.tolist(), logprobs.gather(1, tokens.unsqueeze(1)).squeeze(1).tolist()


def inverse(logprobs: torch.Tensor, uniforms: Sequence[float]) -> torch.Tensor:
    """Tokens (B,) by inverse transform sampling: the first token of each row with u < F(token), where F is the
    cumulative distribution and u the row's uniform random number.

    In float64, so that rare tokens keep their exact probability. The clamp is for u * F(last) rounding up to F(last).
    """
    below = logprobs.double().exp_().cumsum(-1)  # (B, V)
    threshold = torch.tensor(uniforms, dtype=torch.float64, device=below.device).unsqueeze(1) * below[:, -1:]
    return torch.searchsorted(below, threshold, right=True).squeeze(1).clamp(max=below.shape[1] - 1)


def uniform_numbers(seed: str, count: int) -> list[float]:
    """Random numbers in [0, 1) that depend on `seed` alone; torch's global generator is not used."""
    digest = hashlib.sha256(seed.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)  # it takes 63 bits
    return torch.rand(count, generator=generator, dtype=torch.float64).tolist()


def stop_strings(tokenizer, strings: Sequence[str]) -> Callable[[list[int]], bool]:
    """For Sampling.stops: does one of these strings end in the last token of the message?"""
    most = max(len(string.encode()) for string in strings) + 1  # a token has at least one byte; the first may be cut

    def stops(message: list[int]) -> bool:
        tail = tokenizer.decode(message[-most:])
        return any(string in tail for string in strings)

    return stops
