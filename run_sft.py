"""Stage 2: agentic SFT. Expert episodes in, the reference policy pi_ref out.

    torchrun run_sft.py [--name NAME] [--sft_trajectories 3000] [--sft_steps 900]

A teacher, the model that --roles names or else the domain's program, plays episodes in the real environment, with real
tool calls. Those whose problem passes the verifier (V(q) = 1) are kept; the rest are counted by reason, and a model's
are listed in expert_rejected.jsonl. The policy learns every token that the teacher wrote, and none that the environment
wrote (L_SFT), and beside it to extract skills from texts (L_acq).
"""
from __future__ import annotations

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from tqdm import tqdm

from ap.learn import checkpoint
from ap.learn.batch import Batch, collate
from ap.players.cast import need
from ap.world.chat import STOP, encode, prompt_ids
from ap.config import Config, UserError, parse_config, run_main, save_config
from ap.files import read_jsonl, write_json, write_jsonl
from ap.judge.judge import judge
from ap.learn.losses import sft_loss
from ap.tools.metrics import Metrics
from ap.engine.model import build_model, packs, token_logprobs
from ap.players.model_teacher import ModelAuthor
from ap.tools.plan import dry_run
from ap.learn.ranks import Ranks
from ap.world.rollout import play_script, transcript
from ap.learn.shard import free, load, shard
from ap.mini.teacher import ScriptedAuthor
from ap.trajectory import Trajectory
from ap.learn.update import Updater, micro_batches, padding, warmup_cosine
from ap.run import World
from run_skills import build_skills


FEWEST = 20  # one valid expert episode in so many, or we give up. *Choice*


def make_expert_trajectories(world: World, config: Config, ranks: Ranks) -> None:
    """Play expert episodes until enough of them pass V(q) = 1; write expert.jsonl, and how often each reason was given.

    Episode number n depends on the seed and n only, so the result does not depend on the number of ranks. UserError
    when fewer than one in FEWEST is valid, or when nobody can be the teacher.
    """
    need(world.cast, config, ("teacher",))
    model = world.cast.teacher
    author = ScriptedAuthor(world.env) if model is None else ModelAuthor(world.env, model)
    known = set() if model is None else world.known  # a model may copy a problem out of the corpus that it has read
    kept, rejected, reasons, number = [], [], Counter(), 0

    def play(n: int) -> tuple[int, Trajectory]:
        rng = random.Random(f"{config.seed}/expert/{n}")
        skills = world.curriculum.draw(rng)
        write = author.writer(rng)
        trajectory = play_script(world.env, world.tokenizer, skills, write, group=n, max_tokens=config.max_tokens)
        judge(trajectory, f"{config.seed}/expert/{n}", world, world.prober, known, config)
        return n, trajectory

    progress = tqdm(total=config.sft_trajectories, desc="expert episodes", unit="kept", disable=not ranks.is_main)
    while len(kept) < config.sft_trajectories:
        if number >= FEWEST * max(config.sft_trajectories, author.round_size):
            raise UserError(f"expert episodes: only {len(kept)} of {number} are valid; see the reasons in "
                            f"{config.folder / 'expert_reasons.json'}; change the teacher, the skills or --max_tokens")
        with ThreadPoolExecutor(max_workers=config.workers) as pool:  # while one waits, another writes
            mine = list(pool.map(play, ranks.share(range(number, number + author.round_size))))
        everyone = sorted((pair for part in ranks.gather(mine) for pair in part), key=lambda pair: pair[0])
        reasons.update(trajectory.reason for _, trajectory in everyone)
        kept += [trajectory for _, trajectory in everyone if trajectory.valid]
        rejected += [(n, trajectory) for n, trajectory in everyone if not trajectory.valid]
        number += author.round_size
        if ranks.is_main:
            write_json(config.folder / "expert_reasons.json", dict(reasons.most_common()))
            if model is not None:
                write_jsonl(config.folder / "expert_rejected.jsonl",
                            [{"episode": n} | transcript(world.tokenizer, trajectory) for n, trajectory in rejected])
        progress.update(min(len(kept), config.sft_trajectories) - progress.n)
    progress.close()
    if ranks.is_main:
        write_jsonl(config.folder / "expert.jsonl", [t.to_dict() for t in kept[:config.sft_trajectories]])
    ranks.barrier()
    share = sum(t.valid for t in kept) / number
    ranks.print(f"expert: {number} episodes, {share:.0%} valid and kept; "
                f"reasons in {config.folder / 'expert_reasons.json'}")
    if ranks.is_main:
        world.cast.print_counts()


def acquisition_trajectories(world: World, config: Config) -> list[Trajectory]:
    """The L_acq examples as trajectories of one message: the text is the observation, the skill's fields the action."""
    examples = []
    for record in read_jsonl(config.folder / "acquisition.jsonl"):
        prompt = prompt_ids(world.tokenizer, [{"role": "user", "content": record["prompt"]}])
        written = encode(world.tokenizer, record["completion"] + STOP)
        mask = [0] * len(prompt) + [1] * len(written)
        ids = prompt + written
        if len(ids) <= config.max_tokens:
            examples.append(Trajectory(ids, mask, [0.0] * len(ids), [m - 1 for m in mask], [], ()))
    return examples


def batch_of(data: list[Trajectory], step: int, size: int, key: str) -> list[Trajectory]:
    """The step-th batch: each epoch is shuffled, then bucketed by length inside pools of 16 batches.

    Depends on the key and the step only, so a resumed run sees the same batches.
    """
    per_epoch = max(len(data) // size, 1)
    epoch, index = divmod(step, per_epoch)
    rng = random.Random(f"{key}/{epoch}")
    order = rng.sample(range(len(data)), len(data))
    pools = [sorted(order[i:i + 16 * size], key=lambda j: len(data[j].ids)) for i in range(0, len(order), 16 * size)]
    batches = [pool[i:i + size] for pool in pools for i in range(0, len(pool), size)]
    batches = [batch for batch in batches if len(batch) == min(size, len(data))]
    rng.shuffle(batches)
    return [data[j] for j in batches[index % len(batches)]]


def build_reference(config: Config, ranks: Ranks) -> Path:
    """Build what is missing of stages 1 and 2. Returns the folder of pi_ref, an ordinary Hugging Face checkpoint."""
    folder = config.source
    final = folder / "sft" / f"step-{config.sft_steps:06d}"
    if final.exists():
        ranks.print(f"pi_ref: found in {final}")
        return final
    build_skills(config, ranks)
    with World(config) as world:
        if (folder / "expert.jsonl").exists():
            ranks.print(f"expert episodes: found in {folder / 'expert.jsonl'}")
        else:
            make_expert_trajectories(world, config, ranks)
        train_reference(world, config, ranks)
    return final


def train_reference(world: World, config: Config, ranks: Ranks) -> None:
    """Minimise L_SFT + acq_weight * L_acq, each a mean over its own action tokens."""
    tokenizer, folder = world.tokenizer, config.folder / "sft"
    expert = [Trajectory.from_dict(record) for record in read_jsonl(config.folder / "expert.jsonl")]
    extraction = acquisition_trajectories(world, config)
    found = checkpoint.latest(folder)
    start_from = found or config.model
    replica = load(start_from, config, ranks) if start_from else build_model(config, len(tokenizer), config.seed)
    model = shard(replica, ranks, config)
    free(model, replica)
    updater = Updater(model, ranks, config.sft_lr, config.max_grad_norm, config.max_skipped)
    start = checkpoint.load_training_state(found, updater)["step"] if found else 0
    metrics = Metrics(config.folder / "sft_metrics.jsonl", start, ranks)
    progress = tqdm(range(start, config.sft_steps), initial=start, total=config.sft_steps, desc="SFT",
                    disable=not ranks.is_main)
    for step in progress:
        losses, tokens = [], {}
        for name, data, size in (("sft", expert, config.sft_batch), ("acq", extraction, config.acq_batch)):
            if not data:  # no L_acq without a corpus
                continue
            chosen = batch_of(data, step, size, f"{config.seed}/{name}")
            tokens[name] = sum(sum(trajectory.loss_mask) for trajectory in chosen)
            # The updater divides by the action tokens of L_SFT; this makes L_acq a mean over its own.
            weight = 1.0 if name == "sft" else config.acq_weight * tokens["sft"] / tokens["acq"]
            mine = ranks.share(chosen)
            lengths = [len(trajectory.ids) for trajectory in mine]
            parts = micro_batches(lengths, config.micro_batch_tokens, packs(model))
            if name == "sft":
                padded = padding(ranks, lengths, parts, packs(model))
            for rows in parts:
                batch = collate([mine[row] for row in rows], tokenizer.pad_token_id).to(ranks.device)
                losses.append(lambda batch=batch, name=name, weight=weight: loss_terms(model, batch, name, weight))
        lr = warmup_cosine(step, config.sft_steps, config.sft_lr)
        record = updater.step(losses, num_tokens=tokens["sft"] / ranks.world, lr=lr)
        if extraction:
            record["acq_loss"] *= tokens["sft"] / tokens["acq"]
        metrics.write(step + 1, record | padded | {"lr": lr})
        progress.set_postfix(loss=f"{record['sft_loss']:.3f}", extract=f"{record.get('acq_loss', 0.0):.3f}")
        if (step + 1) % config.sft_save_every == 0 or step + 1 == config.sft_steps:
            checkpoint.save(folder, replica, tokenizer, updater, {"step": step + 1})


def loss_terms(model, batch: Batch, name: str, weight: float) -> tuple[torch.Tensor, dict]:
    logprobs, entropy = token_logprobs(model, batch.ids, batch.loss_mask)
    loss = sft_loss(logprobs, batch.loss_mask)
    return weight * loss, {f"{name}_loss": loss} | ({"entropy": entropy.sum()} if name == "sft" else {})


def main(argv: list[str]) -> None:
    config = parse_config(argv, __doc__)
    if config.dry_run:
        return dry_run(config)
    with Ranks.start(config) as ranks:
        if ranks.is_main:
            save_config(config)
        build_reference(config, ranks)


if __name__ == "__main__":
    run_main(main)
