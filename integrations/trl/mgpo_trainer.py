"""TRL's GRPOTrainer with the weights of MGPO, for one update a rollout.

    args = mgpo_arguments(settings, output_dir=..., per_device_train_batch_size=..., max_completion_length=...)
    MgpoTrainer(settings, model=..., args=args, rollout_func=..., train_dataset=..., processing_class=...).train()

rollout_func(prompts, trainer) plays and judges an episode for each prompt, by whatever samples, and returns
`rollout_output` of them. The prompts come in groups: each is repeated settings.group_size times. At ratio 1, TRL's
"cispo" is -w' log pi / N; a `beta` that is not 0 makes TRL compute the log-probs of the reference, and 1e-12 times its
own KL term is nothing.
"""
from __future__ import annotations

from typing import Sequence

import torch
from torch.nn.utils.rnn import pad_sequence

from ap.config import Config
from ap.files import UserError
from ap.tools.columns import Columns, row_of, token_weights
from ap.tools.elsewhere import needs
from ap.trajectory import Trajectory

needs("trl", "1.16.0")
import trl  # noqa: E402

FIXED = {"loss_type": "cispo", "epsilon_high": 1e9, "beta": 1e-12, "num_iterations": 1}


def mgpo_arguments(settings: Config, **others) -> trl.GRPOConfig:
    """Arguments of the trainer, as run_mgpo.py's settings say; `others` are TRL's own."""
    return trl.GRPOConfig(**FIXED | {
        "num_generations": settings.group_size, "temperature": settings.temperature, "learning_rate": settings.lr,
        "max_grad_norm": settings.max_grad_norm} | others)


def rollout_output(trajectories: Sequence[Trajectory]) -> dict[str, list]:
    """What a rollout_func returns, from judged episodes, each cut into prompt and completion at its first action."""
    found: dict[str, list] = {}
    for trajectory in trajectories:
        start = trajectory.turns[0].start if trajectory.turns else len(trajectory.ids) - 1
        row = {"prompt_ids": trajectory.ids[:start], "completion_ids": trajectory.ids[start:],
               "logprobs": trajectory.logprobs[start:], "env_mask": trajectory.loss_mask[start:], **row_of(trajectory)}
        for name, value in (row | {"turn_ids": trajectory.turn_ids[start:]}).items():
            found.setdefault(name, []).append(value)
    return found


class MgpoTrainer(trl.GRPOTrainer):
    """settings: those of MGPO; all others are arguments of GRPOTrainer. reward_funcs only shows r_T in TRL's log."""

    def __init__(self, settings: Config, args: trl.GRPOConfig, **options):
        wrong = [name for name, value in FIXED.items() if getattr(args, name) != value]
        if wrong or args.gradient_accumulation_steps % args.steps_per_generation:
            raise UserError(f"MGPO under TRL needs other arguments ({', '.join(wrong) or 'one update a rollout'}); "
                            "make them with mgpo_arguments, and leave steps_per_generation alone.")
        self.mgpo = settings
        super().__init__(args=args, reward_funcs=lambda rewards, **_: rewards, **options)

    def _generate_and_score_completions(self, inputs: list[dict]) -> dict:
        out = super()._generate_and_score_completions(inputs)
        size = self.num_generations if self.model.training else self.num_generations_eval
        if len(inputs) % size:
            raise UserError(f"a process has {len(inputs)} completions, and a group has {size}; give each process whole "
                            "groups by per_device_train_batch_size.")

        def column(name: str):
            return None if name not in inputs[0] else [row[name] for row in inputs]

        old, turn_ids = out.get("sampling_per_token_logps"), column("turn_ids")
        if turn_ids is not None and old is not None:  # else token_weights says what is missing
            turn_ids = pad_sequence(list(map(torch.tensor, turn_ids)), batch_first=True, padding_value=-1)
            turn_ids = torch.nn.functional.pad(turn_ids, (0, old.shape[1] - turn_ids.shape[1]), value=-1).to(old.device)
        out["advantages"] = token_weights(Columns(
            old, old, out["ref_per_token_logps"], turn_ids, column("stages"), column("process_rewards"),
            column("rewards"), [row // size for row in range(len(inputs))]), self.mgpo, f"{self.state.global_step}")
        return out
