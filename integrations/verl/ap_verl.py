"""MGPO and the proposer's environment as a plug-in of verl: loop, columns, weights, loss.

    pip install ./integrations/verl                   # verl finds the plug-in by its entry point, in every ray worker
    python -m ap.tools.elsewhere runs/NAME --rows 6400 --out starts.parquet
    python -m verl.trainer.main_ppo --config-path $PWD/integrations/verl --config-name mgpo mgpo.run=runs/NAME ...

The loop is token in, token out: ids are appended as our engine appends them, never rebuilt from messages. The trainer's
advantage step runs on the driver, over whole groups, after the log-probs of pi_old and pi_ref, so there w' is computed,
by the functions of ap.learn. `+mgpo.run` names the run whose settings hold; any of them can be changed beside it, such
as `+mgpo.beta=0.05`.
"""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import torch

from ap.config import Config
from ap.files import UserError
from ap.tools.columns import Columns, row_of, token_weights
from ap.tools.commandline import load_config
from ap.tools.elsewhere import host_of, needs
from ap.world.chat import stop_ids
from ap.world.rollout import Recorder, Start

needs("verl", "0.9.1")
import transfer_queue as tq  # noqa: E402
from tensordict import TensorDict  # noqa: E402
from verl.experimental.agent_loop.agent_loop import (  # noqa: E402
    AgentLoopBase, AgentLoopMetrics, AgentLoopOutput, register,
)
from verl.trainer.ppo.core_algos import agg_loss, register_policy_loss  # noqa: E402
from verl.trainer.ppo.v1.trainer_base import register_trainer  # noqa: E402
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync  # noqa: E402
from verl.workers.utils.padding import response_from_nested, response_to_nested  # noqa: E402

CARRIED = {"turn_ids": torch.int64, "stages": torch.int64, "process_rewards": torch.float32, "rewards": torch.float32}


class Output(AgentLoopOutput):
    """An episode with our columns: turn_ids for each token of the response, stages and process_rewards for each action,
    rewards one number."""

    def as_dict(self) -> dict:
        found = super().as_dict()
        for name, kind in CARRIED.items():
            found[name] = torch.tensor(found["extra_fields"].pop(name), dtype=kind)
        return found


@register("ap")
class ProposingLoop(AgentLoopBase):
    """One episode of the environment. A row of the data has extra_info {"run": folder, "skills": K_0}."""

    async def run(self, sampling_params: dict, **row) -> AgentLoopOutput:
        start, config = row["extra_info"], self.rollout_config
        host = host_of(start["run"])
        if config.temperature != host.config.temperature:
            raise UserError(f"the run {start['run']} has --temperature {host.config.temperature}; set "
                            f"actor_rollout_ref.rollout.temperature to it, not to {config.temperature}.")
        most, stops, extra = host.config.max_tokens, stop_ids(host.run.tokenizer), {}
        if most > config.response_length:
            raise UserError(f"the run's episodes have up to {most} tokens, and data.max_response_length is "
                            f"{config.response_length}; raise it, so that verl cuts none.")
        request = uuid4().hex

        async def write(recorder: Recorder) -> None:
            conversation = recorder.conversation
            room = {"max_tokens": most - len(conversation.ids), "stop_token_ids": sorted(stops)}
            said = await self.server_manager.generate(
                request_id=request, prompt_ids=list(conversation.ids), sampling_params=sampling_params | room)
            conversation.append(list(said.token_ids), 1, list(said.log_probs) if said.log_probs else None)
            conversation.stopped = "stop" if conversation.ids[-1] in stops else "length"
            extra.update(said.extra_fields)  # versions of the weights, which verl's metrics need

        played = await host.play(Start(tuple(start["skills"]), key=f"verl/{request}"), write, most)
        first, told = played.turns[0].start, {
            "valid": float(played.valid), "pass_rate": played.pass_rate, "outcome": played.outcome}
        return Output(
            prompt_ids=played.ids[:first], response_ids=played.ids[first:], response_mask=played.loss_mask[first:],
            response_logprobs=played.logprobs[first:], reward_score=played.reward, num_turns=2 * len(played.turns),
            metrics=AgentLoopMetrics(), extra_fields=extra | row_of(played) | {
                "rewards": [played.reward + played.overlong_penalty], "turn_ids": played.turn_ids[first:],
                "reward_extra_info": told})


def settings_of(config) -> Config:
    """The settings of the run that +mgpo.run names, with those changed that stand beside it."""
    own = dict(config.get("mgpo") or {})
    if "run" not in own:
        raise UserError("add +mgpo.run=FOLDER, the run whose settings of MGPO hold.")
    settings = load_config(Path(own.pop("run")))
    if unknown := set(own) - set(vars(settings)):
        raise UserError(f"mgpo.{sorted(unknown)[0]} is no setting of run_mgpo.py.")
    return replace(settings, **own)


def uid_of(key: str) -> str:
    """The group of a row, whose key is {uid}_{session}_{index}."""
    return key.rsplit("_", 2)[0]


@register_trainer("mgpo_sync")
class MgpoTrainer(PPOTrainerSync):
    """verl's synchronous trainer with w' in the place of advantages."""

    def __init__(self, config):
        actor = config.actor_rollout_ref.actor
        wanted = {"policy_loss.loss_mode": (actor.policy_loss.get("loss_mode"), "mgpo"),
                  "loss_agg_mode": (actor.loss_agg_mode, "token-mean"), "use_kl_loss": (actor.use_kl_loss, True),
                  "kl_loss_coef": (actor.kl_loss_coef, 0), "ppo_epochs": (actor.ppo_epochs, 1)}
        for name, (found, value) in wanted.items():
            if found != value:
                raise UserError(f"set actor_rollout_ref.actor.{name}={value}, not {found}: MGPO under verl needs it.")
        config.trainer.v1.trainer_mode = "sync"  # verl compares the mode with this word in many places
        self.mgpo = settings_of(config)
        if config.data.train_batch_size != self.mgpo.updates * actor.ppo_mini_batch_size:
            raise UserError(f"actor.ppo_mini_batch_size must be data.train_batch_size / {self.mgpo.updates}: that many "
                            "updates a rollout, each of whole groups.")
        super().__init__(config)

    def _compute_advantage(self, batch, metrics: dict):
        return self._weigh(batch, metrics, now="old_log_probs")

    def _weigh(self, batch, metrics: dict, now: str):
        """Write w' into the batch as `advantages`. now: the column of log-probs of the present policy."""
        wanted = [*CARRIED, "response_mask", "old_log_probs", "ref_log_prob", now]
        data = tq.kv_batch_get(batch.keys, batch.partition_id, select_fields=list(dict.fromkeys(wanted)))
        if missing := [name for name in wanted if name not in data]:
            raise UserError(f"verl's batch has no column {missing[0]}; set actor_rollout_ref.rollout.agent."
                            "default_agent_loop=ap and actor_rollout_ref.actor.use_kl_loss=True.")
        stages, process_rewards, rewards = (
            [row.tolist() for row in data[name].unbind()] for name in ("stages", "process_rewards", "rewards"))
        mask = data["response_mask"].to_padded_tensor(0) > 0  # (B, T)
        length = mask.shape[1]

        def padded(name: str, fill: float = 0.0) -> torch.Tensor:  # a padding row keeps the columns of another row
            column = data[name].to_padded_tensor(fill)[:, :length]
            return torch.nn.functional.pad(column, (0, length - column.shape[1]), value=fill)

        groups = [None if tag.get("is_padding") else uid_of(key) for key, tag in zip(batch.keys, batch.tags)]
        weights = token_weights(Columns(
            padded(now), padded("old_log_probs"), padded("ref_log_prob"), torch.where(mask, padded("turn_ids", -1), -1),
            stages, process_rewards, [row[0] for row in rewards], groups), self.mgpo)
        metrics["mgpo/weight_abs"] = weights[mask].abs().mean().item()
        nested = response_to_nested(weights, data["response_mask"])
        fields = TensorDict({"advantages": nested, "returns": nested}, batch_size=len(batch))
        return tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields)

    def _update_actor(self, batch, metrics: dict):
        """One update, or several: each on its own groups, with R_theta and the gate of the policy as it is by then."""
        updates = self.mgpo.updates
        if updates == 1:
            return super()._update_actor(batch, metrics)
        names = list(map(uid_of, batch.keys))
        groups = sorted({name for name, tag in zip(names, batch.tags) if not tag.get("is_padding")})
        for part in range(updates):
            chosen = {name for number, name in enumerate(groups) if number * updates // len(groups) == part}
            mine = batch.select_keys([key for key, name in zip(batch.keys, names) if name in chosen])
            mine.extra_info = dict(batch.extra_info)
            if part:
                mine.extra_info |= {"calculate_entropy": False, "compute_loss": False,
                                    "temperature": self.config.actor_rollout_ref.rollout.temperature}
                self.actor_rollout_wg.compute_log_prob(mine)
                data = tq.kv_batch_get(mine.keys, mine.partition_id, select_fields=["log_probs", "response_mask"])
                now = response_from_nested(data["log_probs"], data["response_mask"])
                tq.kv_batch_put(keys=mine.keys, partition_id=mine.partition_id,
                                fields=TensorDict({"now_log_probs": now}, batch_size=len(mine)))
                self._weigh(mine, metrics, now="now_log_probs")
            super()._update_actor(mine, metrics)
        return batch


@register_policy_loss("mgpo")
def policy_loss(
    old_log_prob, log_prob, advantages, response_mask, loss_agg_mode="token-mean", config=None, rollout_is_weights=None,
):
    """L = -(1/N) sum w' log pi: Eq. (MGPO loss), with verl's normaliser N over all ranks."""
    correction = 1.0 if rollout_is_weights is None else rollout_is_weights
    loss = -advantages.detach() * correction * log_prob
    return agg_loss(loss_mat=loss, loss_mask=response_mask, loss_agg_mode=loss_agg_mode, **config.global_batch_info), {}
