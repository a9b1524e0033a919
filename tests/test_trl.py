"""Our losses and advantages against TRL's, on a CPU.

TRL's loss gets given log-probs, so that loss and gradient are compared token by token. Then one whole step of
its trainer is compared: advantages, tool mask, ragged lengths, normaliser, SGD. TRL is needed for this test only, and
pinned, since private parts of it are used.
"""
import os

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
trl = pytest.importorskip("trl")
if trl.__version__ != "1.16.0":
    pytest.skip(f"needs trl==1.16.0, found {trl.__version__}", allow_module_level=True)

import torch  # noqa: E402
from conftest import grpo_loss, mgpo_weights  # noqa: E402
from datasets import Dataset  # noqa: E402
from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: E402
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM  # noqa: E402

from ap.learn.advantages import trajectory_advantages  # noqa: E402
from ap.learn.losses import mgpo_loss  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

B, T, PROMPT = 4, 7, 3  # trajectories of one group, completion tokens, prompt tokens
LENGTHS = [7, 5, 7, 2]
TOOL = [(0, 2), (0, 3), (1, 1), (2, 0)]  # tokens that a tool wrote


@pytest.fixture(scope="module")
def tokenizer():
    vocab = {word: index for index, word in enumerate(["<pad>", "<eos>", "<unk>", "<bos>", *"abcdefgh"])}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", bos_token="<bos>")


def make_model():
    torch.manual_seed(0)
    return Qwen3ForCausalLM(Qwen3Config(
        vocab_size=16, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, tie_word_embeddings=True, pad_token_id=0, eos_token_id=1, bos_token_id=3))


def make_trainer(tokenizer, folder, rewards=None, rollout_func=None, **settings):
    arguments = dict(
        output_dir=str(folder), use_cpu=True, bf16=False, report_to=[], save_strategy="no", disable_tqdm=True,
        num_generations=B, per_device_train_batch_size=B, max_completion_length=T, gradient_checkpointing=False,
        optim="sgd", learning_rate=0.1, lr_scheduler_type="constant", max_grad_norm=0.0, max_steps=1, beta=0.0)
    return trl.GRPOTrainer(
        model=make_model(), args=trl.GRPOConfig(**arguments | settings), reward_funcs=lambda **kwargs: rewards,
        train_dataset=Dataset.from_dict({"prompt": ["a b c"] * B}), processing_class=tokenizer,
        rollout_func=rollout_func)


@pytest.fixture
def batch():
    """Log-probs of the policy (a leaf), old ones about 0.5 away, masks, and advantages per token."""
    generator = torch.Generator().manual_seed(1)
    logprobs = -3 * torch.rand(B, T, generator=generator)
    old = logprobs + 0.5 * torch.randn(B, T, generator=generator)
    ref = logprobs + 0.5 * torch.randn(B, T, generator=generator)
    written = (torch.arange(T) < torch.tensor(LENGTHS).unsqueeze(1)).float()  # (B, T)
    by_policy = torch.ones(B, T)
    for row, token in TOOL:
        by_policy[row, token] = 0.0
    return {"logprobs": logprobs.requires_grad_(), "old": old, "ref": ref, "written": written, "by_policy": by_policy,
            "mask": written * by_policy, "advantages": torch.randn(B, T, generator=generator)}


def trl_loss(tokenizer, folder, batch, kl_weight=0.0, **settings):
    """TRL's loss of the batch and its gradient for every log-prob."""
    trainer = make_trainer(tokenizer, folder, **settings)
    trainer.beta = kl_weight  # as a setting it would load a reference model, but the batch has the log-probs of one
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    trainer._get_per_token_logps_and_entropies = lambda *args, **kwargs: (batch["logprobs"], torch.zeros(B, T), None)
    loss = trainer._compute_loss(trainer.model, {
        "prompt_ids": torch.ones(B, PROMPT, dtype=torch.int64), "prompt_mask": torch.ones(B, PROMPT, dtype=torch.int64),
        "completion_ids": torch.ones(B, T, dtype=torch.int64), "completion_mask": batch["written"],
        "tool_mask": batch["by_policy"], "advantages": batch["advantages"], "old_per_token_logps": batch["old"],
        "ref_per_token_logps": batch["ref"], "num_items_in_batch": batch["mask"].sum(),
    })
    return loss.detach(), torch.autograd.grad(loss, batch["logprobs"])[0]


def assert_same(ours, theirs, logprobs):
    loss, gradient = theirs
    assert torch.allclose(ours.detach(), loss, atol=1e-6)
    assert torch.allclose(torch.autograd.grad(ours, logprobs)[0], gradient, atol=1e-7)
    assert gradient.abs().max() > 1e-2


def per_row(batch, loss_of):
    """TRL's "grpo" and "sapo" take the mean of each trajectory first, then the mean over trajectories."""
    return sum(loss_of(slice(row, row + 1)) / batch["mask"][row].sum() for row in range(B)) / B


@pytest.mark.parametrize("loss_type, clip_high, kl_weight", [
    ("dapo", 0.28, 0.0), ("dr_grpo", 0.2, 0.0), ("grpo", 0.2, 0.0), ("dapo", 0.2, 0.1),
])
def test_grpo_loss(tokenizer, tmp_path, batch, loss_type, clip_high, kl_weight):
    """One sum, three divisors: all tokens (dapo), B * T (dr_grpo), the tokens of each trajectory (grpo)."""
    def loss_of(rows):
        parts = (batch[name][rows] for name in ("logprobs", "old", "advantages", "mask"))
        return grpo_loss(*parts, 0.2, clip_high, batch["ref"][rows], kl_weight)[0]

    if loss_type == "grpo":
        ours = per_row(batch, loss_of)
    else:
        ours = loss_of(slice(None)) / (batch["mask"].sum() if loss_type == "dapo" else B * T)
    theirs = trl_loss(tokenizer, tmp_path, batch, loss_type=loss_type, epsilon=0.2, epsilon_high=clip_high,
                      kl_weight=kl_weight, use_bias_correction_kl=False)
    assert_same(ours, theirs, batch["logprobs"])


@pytest.mark.parametrize("off_policy", [False, True])
def test_gated_weights_times_ratio_are_sapo(tokenizer, tmp_path, batch, off_policy):
    """SAPO differentiates its soft clip: gate * ratio * A * grad log pi. Ours has no ratio: gate * w * grad log pi.

    Each token is a separate action and R_theta is switched off, so w = A for centred advantages. Off policy the two are
    equal with the detached ratio as a factor, and differ without it; on policy the ratio is 1.
    """
    mask, logprobs = batch["mask"], batch["logprobs"]
    trained = mask > 0
    number = int(mask.sum())
    action_ids = torch.full((B, T), -1)
    action_ids[trained] = torch.arange(number)
    batch["advantages"] = torch.where(trained, batch["advantages"] - batch["advantages"][trained].mean(), 0.0)
    if not off_policy:
        batch["old"] = logprobs.detach()
    weights, _ = mgpo_weights(logprobs, batch["old"], batch["ref"], action_ids, batch["advantages"][trained],
                              [0] * number, beta=0.1, tau_pos=1.0, tau_neg=2.0, implicit_reward=False)
    ratio = (logprobs - batch["old"]).detach().exp()

    def gradient_of(weights):
        loss = per_row(batch, lambda rows: mgpo_loss(logprobs[rows], weights[rows]))
        return torch.autograd.grad(loss, logprobs)[0]

    _, sapo = trl_loss(tokenizer, tmp_path, batch, loss_type="sapo", sapo_temperature_pos=1.0, sapo_temperature_neg=2.0)
    assert sapo.abs().max() > 1e-2
    assert torch.allclose(gradient_of(weights * ratio), sapo, atol=1e-7)
    assert torch.allclose(gradient_of(weights), sapo, atol=1e-7) != off_policy


def test_one_step_of_the_trainer(tokenizer, tmp_path):
    """Rewards -> advantages -> loss -> SGD: TRL's step and ours give the same parameters."""
    prompt = [4, 5, 6]
    completions = [[7, 8, 9, 10, 4, 5, 1], [8, 7, 11, 5, 1], [9, 9, 4, 6, 10, 11, 1], [10, 1]]
    by_policy = [[1] * len(ids) for ids in completions]
    for row, token in TOOL:
        by_policy[row][token] = 0
    rewards = [1.0, 0.0, 0.25, 0.0]

    def rollout_func(prompts, trainer):
        return {"prompt_ids": [prompt] * B, "completion_ids": completions, "logprobs": None, "env_mask": by_policy}

    trainer = make_trainer(tokenizer, tmp_path, rewards, rollout_func, loss_type="dapo", epsilon=0.2, epsilon_high=0.2)
    start = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    model = make_model()
    model.load_state_dict(start, strict=False)
    model.tie_weights()
    trainer.train()

    advantages = torch.tensor(trajectory_advantages(rewards, [0] * B, eps=1e-4))  # TRL's eps
    loss, num_tokens = 0.0, sum(map(sum, by_policy))
    for ids, mask, advantage in zip(completions, by_policy, advantages):
        row = torch.tensor([prompt + ids])
        scores = model(row).logits[:, PROMPT - 1:-1].log_softmax(-1)
        logprobs = scores.gather(-1, row[:, PROMPT:].unsqueeze(-1)).squeeze(-1)  # (1, tokens)
        loss = loss + grpo_loss(
            logprobs, logprobs.detach(), advantage.view(1, 1), torch.tensor([mask]), 0.2, 0.2)[0] / num_tokens
    loss.backward()
    moved = 0.0
    for name, parameter in model.named_parameters():
        stepped = parameter.detach() - 0.1 * parameter.grad
        assert torch.allclose(stepped, dict(trainer.model.named_parameters())[name].detach(), atol=1e-7), name
        moved = max(moved, (stepped - start[name]).abs().max().item())
    assert moved > 1e-3
