"""integrations/trl: one real train() of TRL's trainer has our loss, and takes our step. Skipped without trl 1.16.0."""
import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
trl = pytest.importorskip("trl")
if trl.__version__ != "1.16.0":
    pytest.skip(f"needs trl==1.16.0, found {trl.__version__}", allow_module_level=True)

from copy import deepcopy  # noqa: E402
from dataclasses import replace  # noqa: E402

import torch  # noqa: E402
from conftest import policy_of  # noqa: E402
from datasets import Dataset  # noqa: E402
import test_rollout  # noqa: E402
from transformers import Qwen3ForCausalLM  # noqa: E402

from ap.engine.model import token_logprobs  # noqa: E402
from ap.files import UserError  # noqa: E402
from ap.judge.judge import Judge  # noqa: E402
from ap.learn.batch import Actions, collate  # noqa: E402
from ap.learn.losses import mgpo_loss, mgpo_weights  # noqa: E402
from ap.learn.mgpo import compare  # noqa: E402
from ap.world.rollout import Start, roll_out  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent.parent / "integrations" / "trl"))
from mgpo_trainer import MgpoTrainer, mgpo_arguments, rollout_output  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
GROUPS, SIZE, LR = 2, 3, 20.0
K, pupil = test_rollout.K, test_rollout.pupil  # a fixture


@pytest.fixture
def settings(tiny):
    return replace(tiny, group_size=SIZE, beta=1.0)


@pytest.fixture
def episodes(run, pupil, tokenizer, settings):
    """Two groups of judged episodes, sampled by our engine. A dead one: all of its episodes are equal."""
    starts = [Start(K, group, f"{group}/{member * (group != 1)}") for group in range(GROUPS) for member in range(SIZE)]
    rollout = roll_out(run.env, policy_of(pupil, tokenizer), starts, settings)
    return Judge(run.committee, run.fixed_prober, tokenizer, settings)(rollout, run.known)


def plain(model):
    """The same weights under the library's own attention."""
    copy = deepcopy(model.config)
    copy._attn_implementation = "eager"
    other = Qwen3ForCausalLM(copy)
    other.load_state_dict(model.state_dict())
    return other


def trainer_of(model, tokenizer, episodes, settings, folder, drop="", **others):
    """model: a folder, since TRL loads the reference from there, too."""
    arguments = {
        "model_init_kwargs": {"dtype": "float32", "attn_implementation": "eager"},
        "output_dir": str(folder), "use_cpu": True, "bf16": False, "report_to": [], "save_strategy": "no",
        "disable_tqdm": True, "per_device_train_batch_size": GROUPS * SIZE, "max_completion_length": 512,
        "max_steps": 1, "gradient_checkpointing": False, "optim": "sgd", "learning_rate": LR,
        "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "logging_steps": 1} | others
    output = {name: values for name, values in rollout_output(episodes).items() if name != drop}
    return MgpoTrainer(
        settings, model=model, args=mgpo_arguments(settings, **arguments), processing_class=tokenizer,
        train_dataset=Dataset.from_dict({"prompt": [" ".join(K)] * GROUPS}),
        rollout_func=lambda prompts, trainer: dict(output))


def test_one_step_of_the_trainer(pupil, tokenizer, episodes, settings, tmp_path):
    """Episodes -> weights -> loss -> SGD: TRL's loss is ours to 1e-6, and so is every parameter after the step."""
    reference = plain(pupil)
    with torch.no_grad():  # pi_ref is the model that TRL was given; sampled log-probs stay the pupil's
        for parameter in reference.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    reference.save_pretrained(tmp_path / "reference")
    trainer = trainer_of(str(tmp_path / "reference"), tokenizer, episodes, settings, tmp_path)
    trainer.model.load_state_dict(pupil.state_dict())  # the policy is what sampled
    trainer.train()
    [found] = [record["loss"] for record in trainer.state.log_history if "loss" in record]

    ours = deepcopy(pupil)
    compare(episodes, settings, "0")
    batch = collate(episodes, tokenizer.pad_token_id)
    actions = Actions.of(episodes, batch)
    with torch.no_grad():
        for parameter, other in zip(ours.parameters(), reference.parameters()):
            parameter.copy_(other)
        ref_logprobs, _ = token_logprobs(ours, batch.ids, batch.loss_mask)
        for parameter, other in zip(ours.parameters(), pupil.parameters()):
            parameter.copy_(other)
    weights, parts = mgpo_weights(batch.old_logprobs, batch.old_logprobs, ref_logprobs, actions, settings)
    logprobs, _ = token_logprobs(ours, batch.ids, batch.loss_mask)
    loss = mgpo_loss(logprobs, weights) / batch.num_tokens
    loss.backward()
    print(f"trl loss {found:.8f}  ap loss {loss.item():.8f}")
    assert found == pytest.approx(loss.item(), abs=1e-8) and abs(found) > 1e-4
    assert parts.implicit_reward.abs().max() > 1e-2
    moved = 0.0
    for (name, parameter), start in zip(trainer.model.named_parameters(), ours.parameters(), strict=True):
        assert torch.allclose(parameter, start - LR * start.grad, atol=1e-6), name
        moved = max(moved, (LR * start.grad).abs().max().item())
    assert moved > 1e-3


def test_what_is_missing_is_told(pupil, tokenizer, episodes, settings, tmp_path):
    plain(pupil).save_pretrained(tmp_path / "pupil")
    given = str(tmp_path / "pupil"), tokenizer, episodes, settings, tmp_path
    with pytest.raises(UserError, match="the batch has no column stages; let the engine carry it"):
        trainer_of(*given, drop="stages").train()
    with pytest.raises(UserError, match=r"needs other arguments \(loss_type\); make them with mgpo_arguments"):
        trainer_of(*given, loss_type="dapo")
    with pytest.raises(UserError, match=r"needs other arguments \(one update a rollout\)"):
        trainer_of(*given, steps_per_generation=2, per_device_train_batch_size=3)
