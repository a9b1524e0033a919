"""--solver_tokens: which tokens of an attempt count, by hand, and in the gradient of one update."""
import math
import random

import pytest
import torch
from conftest import policy_of

from ap.arms.solver_tokens import BONUS, TOKENS, entropy, icepop, ipo, ulorl
from ap.config import Config
from ap.engine.model import build_model, token_logprobs
from ap.learn.grpo import update
from ap.trajectory import Trajectory

ONES = torch.ones(1, 4)


def logs(*probabilities: float) -> torch.Tensor:
    return torch.tensor([probabilities]).log()


def test_where_sampler_and_trainer_disagree_by_hand():
    """Probabilities of the sampler .5, .1, .01, .4 and ours .55, .25, .08, .08: k = 1.1, 2.5, 8 and .2; differences
    .05, .15, .07 and .32. So IcePop drops the third and the fourth, and IPO the fourth only."""
    sampler, ours, push = logs(0.5, 0.1, 0.01, 0.4), logs(0.55, 0.25, 0.08, 0.08), torch.tensor([[-2.0]])
    assert icepop(push, ours, sampler, ONES, ONES).tolist() == [[-2, -2, 0, 0]]
    assert ipo(push, ours, sampler, ONES, ONES).tolist() == [[-2, -2, -2, 0]]
    for function in (icepop, ipo):
        assert function(push, ours, ours, ONES, ONES).tolist() == [[-2] * 4]


@pytest.mark.parametrize("advantage, mean_entropy, counts", [
    (1.0, 0.15, (0, 1, 0, 1)), (1.0, 0.25, (1, 1, 1, 1)), (-1.0, 0.15, (1, 1, 1, 1))])
def test_mastered_tokens_by_hand(advantage, mean_entropy, counts):
    """p = .999, .6, .995, .3 against entropies of .15 and .25 with a bound of .2; padding has no part in the mean."""
    ours, mask = torch.cat([logs(0.999, 0.6, 0.995, 0.3), torch.zeros(1, 2)], 1), torch.tensor([[1.0, 1, 1, 1, 0, 0]])
    entropies = torch.tensor([[mean_entropy + 0.1, mean_entropy - 0.1] * 2 + [9.0, 9.0]])
    pushed = ulorl(torch.tensor([[advantage]]), ours, ours, entropies, mask)
    assert pushed[0, :4].tolist() == [advantage * count for count in counts]


def test_the_bonus_is_the_gradient_of_the_entropy():
    """Over all tokens of a distribution, weighted by p, -log p * grad log p adds up to grad H: by autograd of H."""
    logits = torch.tensor([0.3, -1.0, 0.9, 0.1], dtype=torch.float64, requires_grad=True)
    logprobs = logits.log_softmax(-1)
    (of_entropy,) = torch.autograd.grad(-(logprobs.exp() * logprobs).sum(), logits, retain_graph=True)
    pushed = entropy(torch.zeros(1, 1), logprobs.detach().unsqueeze(0), None, None, None)[0]
    (estimate,) = torch.autograd.grad((logprobs.exp().detach() * pushed * logprobs).sum(), logits)
    assert torch.allclose(estimate, BONUS * of_entropy, atol=1e-12)


@pytest.mark.parametrize("name", TOKENS)
def test_the_update_pushes_each_token_by_it(name):
    """The gradient is that of -sum_j A_j * log pi(x_j) / N: here of two attempts of which one is right."""
    config = Config(device="cpu", hidden_size=16, layers=1, heads=2, intermediate_size=32, clip_low=0.999, clip_high=99)
    model, rng = build_model(config, 5, seed=0), random.Random(0)
    attempts = [Trajectory([rng.randrange(5) for _ in range(6)], [0, 0, 1, 1, 1, 1], [0.0] * 6, [], [], ())
                for _ in range(2)]
    ids, mask = torch.tensor([a.ids for a in attempts]), torch.tensor([a.loss_mask for a in attempts])
    logprobs, entropies = token_logprobs(model, ids, mask)
    shifted = logprobs.detach() - mask * torch.tensor([0.0, 0, 0, 2.0, -2.0, 0.1])  # what the sampler recorded
    for attempt, advantage, sampled in zip(attempts, (0.7, -0.7), shifted.tolist()):
        attempt.advantage, attempt.logprobs, attempt.turn_ids = advantage, sampled, [m - 1 for m in attempt.loss_mask]
    pushed = TOKENS[name](torch.tensor([[0.7], [-0.7]]), logprobs.detach(), shifted, entropies, mask)
    ratio = (logprobs - shifted).exp()  # whose gradient is ratio * grad log pi
    expected = torch.autograd.grad(-(pushed * ratio * mask).sum() / 8, list(model.parameters()))
    norm = math.sqrt(sum((gradient ** 2).sum().item() for gradient in expected))
    record = update(policy_of(model, config=config, lr=0.0), attempts, config, 0.0, TOKENS[name])
    assert record["grad_norm"] == pytest.approx(norm, rel=1e-4)
    plain = update(policy_of(model, config=config, lr=0.0), attempts, config, 0.0)["grad_norm"]
    assert (record["grad_norm"] == plain) == (name in ("all", "ulorl"))  # a random model has mastered nothing
