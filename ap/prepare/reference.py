"""Stage 2: SFT on expert episodes, which gives the reference policy pi_ref. What exists already is reused."""
from __future__ import annotations

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from ap.compat.hub import folder_of
from ap.config import Config
from ap.engine.model import build_model
from ap.files import UserError, read_jsonl, write_json, write_jsonl
from ap.judge.judge import Judge
from ap.learn.policy import Policy
from ap.learn.ranks import Ranks
from ap.learn.sft import batch_of, update
from ap.learn.training import Schedule, Training, start_of
from ap.mini.teacher import ScriptedAuthor
from ap.players.cast import need
from ap.players.model_author import ModelAuthor, why_rejected
from ap.players.notes import Notes
from ap.prepare.skills import build_skills
from ap.run import Run
from ap.tools.costs import during, stage
from ap.tools.hints import tell_when_cut
from ap.trajectory import Trajectory
from ap.world.chat import prompt_ids, written_ids
from ap.world.rollout import Start, play_script, transcript

FEWEST = 20  # if fewer than one expert episode in so many is valid, we give up. *Choice*
FAIR = 64  # and already after so many of which none is: of a teacher just good enough, one sample in 26. *Choice*


class Experts:
    """Plays episodes of the teacher. Those with a valid problem (V(q) = 1) are kept, the rest are counted by reason.

    Episode number n depends on the seed and n only, so the result does not depend on the number of ranks. UserError if
    there is no teacher.
    """

    def __init__(self, run: Run, config: Config, ranks: Ranks):
        need(run.cast, config, run.domain, ("teacher",))
        self.run, self.config, self.ranks, self.model = run, config, ranks, run.cast.teacher
        self.author = ScriptedAuthor(run.env) if self.model is None else ModelAuthor(run.env, self.model)
        # A model may copy a problem from the corpus that it has read; the domain's program has not read the corpus.
        self.known = run.known if self.model is not None else set()
        self.judge = Judge(run.committee, run.prober, run.tokenizer, config)
        self.kept: list[Trajectory] = []
        self.rejected: list[tuple[int, Trajectory]] = []  # with their episode numbers
        self.reasons, self.played, self.faults = Counter(), 0, Counter()
        self.notes = Notes(config.folder / "expert_rejected.jsonl") if self.model and ranks.is_main else None

    def play(self, number: int) -> tuple[int, Trajectory]:
        trajectory = play_expert(self.run, self.author, self.config, number)
        self.judge.judge(trajectory, self.known)
        if self.notes and not is_expert(trajectory):
            self.notes.add(self.record(number, trajectory))
        return number, trajectory

    def record(self, number: int, trajectory: Trajectory) -> dict:
        return {"episode": number} | transcript(self.run.tokenizer, trajectory)

    def play_round(self) -> None:
        """Play the next round_size episodes, divided among the ranks, and write down reasons and rejected episodes."""
        numbers = range(self.played, self.played + self.author.round_size)
        with ThreadPoolExecutor(max_workers=self.config.workers) as pool:  # while one thread waits, another runs
            mine = list(pool.map(self.play, self.ranks.share(numbers)))
        everyone = sorted((pair for part in self.ranks.gather(mine) for pair in part), key=lambda pair: pair[0])
        self.played += len(numbers)
        self.reasons.update(trajectory.reason for _, trajectory in everyone)
        self.kept += [trajectory for _, trajectory in everyone if is_expert(trajectory)]
        rejected = [(number, trajectory) for number, trajectory in everyone if not is_expert(trajectory)]
        self.rejected += rejected
        self.faults.update(why_rejected(trajectory) for _, trajectory in rejected)
        if self.ranks.is_main:
            write_json(self.config.folder / "expert_reasons.json", dict(self.reasons.most_common()))
            if self.notes:  # once more, now in the order of their numbers
                write_jsonl(self.notes.path, [self.record(*one) for one in self.rejected])


def play_expert(run: Run, author: ScriptedAuthor | ModelAuthor, config: Config, number: int) -> Trajectory:
    """The author's episode of this number, not judged yet; it depends on the seed and the number only."""
    key = f"{config.seed}/expert/{number}"
    rng = random.Random(key)
    start = Start(run.curriculum.draw(rng), number, key)
    return play_script(run.env, run.tokenizer, start, author.writer(rng), config.max_tokens)


def is_expert(trajectory: Trajectory) -> bool:
    """Is its problem valid, and every message one to learn? (--mend_messages lets episodes go on after others.)"""
    return trajectory.valid and all(turn.action != "unusable" for turn in trajectory.turns)


def make_expert_trajectories(run: Run, config: Config, ranks: Ranks) -> None:
    """Play expert episodes until enough of them are valid, and write expert.jsonl.

    UserError if fewer than one in FEWEST is valid, or none of the first FAIR.
    """
    experts, wanted = Experts(run, config, ranks), config.sft_trajectories
    reasons = config.folder / "expert_reasons.json"
    with tqdm(total=wanted, desc="expert episodes", unit="kept", disable=not ranks.is_main) as progress:
        while len(experts.kept) < wanted:
            hopeless = FEWEST * max(wanted, experts.author.round_size)
            if experts.played >= (hopeless if experts.kept else min(hopeless, FAIR)):
                commonest = ", ".join(f"{fault} ({count})" for fault, count in experts.faults.most_common(3))
                raise UserError(f"expert episodes: only {len(experts.kept)} of {experts.played} are valid; see the "
                                f"reasons in {reasons}, most often {commonest}; change the teacher, the skills or "
                                "--max_tokens")
            experts.play_round()
            tell_when_cut(experts.reasons["token_limit"] / experts.played, "expert episodes", config, ranks)
            progress.update(min(len(experts.kept), wanted) - progress.n)
    if ranks.is_main:
        write_jsonl(config.folder / "expert.jsonl", [t.to_dict() for t in experts.kept[:wanted]])
    ranks.barrier()
    share = len(experts.kept) / experts.played
    ranks.print(f"expert: {experts.played} episodes, {share:.0%} valid and kept; reasons in {reasons}")


def acquisition_trajectories(run: Run, config: Config) -> list[Trajectory]:
    """The L_acq examples as trajectories of one action: the text is the observation, the skill's fields the action."""
    examples = []
    for record in read_jsonl(config.folder / "acquisition.jsonl"):
        prompt = prompt_ids(run.tokenizer, [{"role": "user", "content": record["prompt"]}])
        example = Trajectory.of_pieces([(prompt, 0), (written_ids(run.tokenizer, record["completion"]), 1)])
        if len(example.ids) <= config.max_tokens:
            examples.append(example)
    return examples


def build_reference(config: Config, ranks: Ranks) -> Path:
    """Build what is missing of stages 1 and 2. Returns the folder of pi_ref, an ordinary Hugging Face checkpoint: with
    --sft_steps 0 that is --model itself, and no expert episode is played."""
    folder = config.source
    final = folder / "sft" / f"step-{config.sft_steps:06d}"
    if final.exists():
        ranks.print(f"pi_ref: found in {final}")
        return final
    build_skills(config, ranks)
    if not config.sft_steps:
        return Path(folder_of(config.model, config.revisions))
    with Run(config) as run:
        if (folder / "expert.jsonl").exists():
            ranks.print(f"expert episodes: found in {folder / 'expert.jsonl'}")
        else:
            with stage("expert episodes", config, ranks, run.cast.players):
                make_expert_trajectories(run, config, ranks)
        train_reference(run, config, ranks)
    return final


def train_reference(run: Run, config: Config, ranks: Ranks) -> None:
    """Train pi_ref: minimise L_SFT + acq_weight * L_acq, each a mean over its own action tokens."""
    tokenizer, folder = run.tokenizer, config.folder / "sft"
    experts = [Trajectory.from_dict(record) for record in read_jsonl(config.folder / "expert.jsonl")]
    extractions = acquisition_trajectories(run, config)
    start = start_of(folder, folder_of(config.model, config.revisions))
    if start:
        policy = Policy.load(start, tokenizer, config, ranks)
    else:
        policy = Policy(build_model(config, len(tokenizer), config.seed), tokenizer, config, ranks)
    schedule = Schedule(config.sft_steps, config.sft_lr, config.sft_save_every)
    training = Training("SFT", folder, policy, schedule, config.folder / "sft_metrics.jsonl")
    for step in during("SFT", training.steps(), config, policy):
        shown = batch_of(experts, step, config.sft_batch, f"{config.seed}/sft")
        read = batch_of(extractions, step, config.acq_batch, f"{config.seed}/acq") if extractions else []
        lr = schedule.lr(step)
        numbers = update(policy, shown, read, config.acq_weight, lr)
        training.record(step, numbers | {"lr": lr}, loss=numbers["sft_loss"], extract=numbers.get("acq_loss", 0.0))
