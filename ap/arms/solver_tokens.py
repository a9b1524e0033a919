"""Which tokens of a solver's attempt count in GRPO, and how much: run_solver.py --solver_tokens, by other systems.

    name      source                                    what a token is pushed by, instead of A_E
    icepop    IcePop, in OpenRLHF                       A_E where 0.5 <= k <= 5, else 0
    ipo       the docs of prime-rl                      A_E where |p - p_sampler| <= 0.3, else 0
    ulorl     UloRL, arXiv 2507.19766                   0 where A_E > 0, p > 0.99 and the attempt is sure, else A_E
    entropy   T1, arXiv 2501.11651                      A_E - c log p: a bonus for entropy

p = the token's probability under the policy, k = p / p_sampler. Each is one pure function of the tokens' numbers, all
(B, T) but advantages, (B, 1): log-probs, the sampler's, entropies, and the mask of the tokens that count.

icepop and ipo drop tokens for which sampler and trainer disagree; IcePop's weight k is that of --importance_limit 5.
In float32 both are the same model, so in the miniature they drop nothing. The entropy bonus is the estimate from the
sampled tokens: the gradient of H is -E[log p grad log p], since E[grad log p] = 0.

*Choices*: an attempt is sure if the mean entropy of its tokens is below 0.2 nats (UloRL: a bound that it does not
publish); where rewards are 0 and 1, A_E > 0 says that an attempt is right. c = 0.001 (T1's is not published); T1's
moving reference, its penalties and its temperature are left out. Attempts of dead groups (A_E = 0) stay left out.
"""
from __future__ import annotations

from typing import Callable

from torch import Tensor

from ap.learn.grpo import whole

MASTERED, SURE = 0.99, 0.2  # ulorl
BONUS = 1e-3  # entropy: c


def icepop(advantages: Tensor, logprobs: Tensor, sampler: Tensor, entropies: Tensor, mask: Tensor) -> Tensor:
    """Without the tokens whose probability is less than half, or more than five times, the sampler's."""
    ratio = (logprobs - sampler).exp()
    return advantages * ((ratio >= 0.5) & (ratio <= 5.0))


def ipo(advantages: Tensor, logprobs: Tensor, sampler: Tensor, entropies: Tensor, mask: Tensor) -> Tensor:
    """Without the tokens whose probability differs from the sampler's by more than 0.3: fair to rare tokens."""
    return advantages * ((logprobs.exp() - sampler.exp()).abs() <= 0.3)


def ulorl(advantages: Tensor, logprobs: Tensor, sampler: Tensor, entropies: Tensor, mask: Tensor) -> Tensor:
    """Without the mastered tokens of right attempts, where the policy is sure already: keeps entropy from falling."""
    sure = (entropies * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1) < SURE
    return advantages * ~((advantages > 0) & sure & (logprobs.exp() > MASTERED))


def entropy(advantages: Tensor, logprobs: Tensor, sampler: Tensor, entropies: Tensor, mask: Tensor) -> Tensor:
    """With a bonus for tokens that were unlikely."""
    return advantages - BONUS * logprobs


TOKENS: dict[str, Callable[..., Tensor]] = {
    "all": whole, "icepop": icepop, "ipo": ipo, "ulorl": ulorl, "entropy": entropy}
