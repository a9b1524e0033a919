"""Every setting of every script, as data: its default, its meaning, its limits and what depends on it.

There is one small dataclass of settings for each part of a run, in the order of a run; `Config` combines all of them. A
function may declare the part that it needs (`settings: MgpoSettings`), and be given a whole Config.

To add a setting, write it once, in its part: `name: type = setting(default, PRODUCT, ..., help="...")`, with the
products of a run that depend on it. Everything else follows: the option, its place in --help and in config.json, and
which values are refused (tools/commandline.py). The help gives the paper's value where it is known.
"""
from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


class Product(NamedTuple):
    """Something that a run makes and keeps. Once it exists, the settings that shape it are fixed: another value would
    silently have no effect, or would mix two experiments in one file."""
    mark: str  # the file or folder, within the run's folder, that shows that it exists
    title: str  # its name in messages


PRODUCTS = SKILLS, EXPERT, SFT, BEFORE, MGPO, AFTER, SOLVER = (
    Product("skills/candidates.jsonl", "the skills"),
    Product("expert.jsonl", "the expert episodes"),
    Product("sft", "the checkpoints of SFT"),
    Product("evaluation_before.json", "the first evaluation"),
    Product("mgpo", "the checkpoints of reinforcement learning"),
    Product("evaluation_after.json", "the last evaluation"),
    Product("solver", "the solver"),  # its arms share all settings, since only their data may differ
)
EPISODES = (EXPERT, SFT, BEFORE, MGPO)  # products for which episodes are played or learned from
JUDGED = (BEFORE, MGPO)  # products for which episodes are judged and probed


def setting(
    default, *shapes: Product, help: str, also: Product | None = None, choices: tuple[str, ...] = (),
    least: int = 1, above: float | None = None, most: float | None = None,
):
    """A field of one of the parts below. help: its meaning; `--help` adds the default.

    shapes: the products that fix the setting once they exist (none: it may always change). also: a product whose script
    has the option without fixing it. least: minimum of an int. A float must be >= 0, > `above` and <= `most`.
    """
    metadata = {"shapes": shapes, "also": also, "choices": choices, "least": least, "above": above, "most": most}
    return dataclasses.field(default=default, metadata=metadata | {"help": help})


# -------------------------------------------------------------- the parts; their docstrings are the headings of --help


@dataclass
class RunSettings:
    """the run"""
    preset: str = setting("mini", help="the preset that all other settings start from; with --model it is small unless "
                          "you name another")
    name: str = setting("mini", help="name of the run; everything that it makes lies in the folder OUT/NAME")
    out: str = setting("runs", help="folder of all runs")
    seed: int = setting(0, SKILLS, *EPISODES, least=0, help="seed of all random draws")
    domain: str = setting("mini", SKILLS, choices=("mini", "math", "code", "science"), help="subject of the problems")


@dataclass
class ModelSettings:
    """the model"""
    model: str = setting(
        "", SKILLS, help="a Hugging Face checkpoint's folder, or its id on the hub, OWNER/NAME[@REVISION]; empty: a "
        "small Qwen3 made from scratch (paper: Qwen3-4B)")
    revisions: str = setting("", help="commits of the hub's models, ID=COMMIT and a blank; the run writes them itself")
    device: str = setting(
        "auto", choices=("auto", "cpu", "cuda"), help="where models run; auto: a GPU if there is one, else the CPU")
    threads: int = setting(0, least=0, help="CPU threads of each process; 0: the cores, or OMP_NUM_THREADS, but at "
                           "most 4 (rollouts of mini's model: one)")
    dtype: str = setting("float32", *EPISODES, SOLVER, choices=("float32", "bfloat16", "auto"),
                         help="format of weights and computation; auto: bfloat16 on a GPU, float32 on the CPU")
    hidden_size: int = setting(128, SFT, help="width of a model made from scratch (as the next four, without --model)")
    layers: int = setting(4, SFT, help="number of decoder layers")
    heads: int = setting(4, SFT, help="number of attention heads; there are half as many key-value heads")
    intermediate_size: int = setting(384, SFT, help="width of the MLP in each layer")
    vocab_size: int = setting(1024, SKILLS, help="largest vocabulary of the tokenizer that is made from the corpus")


@dataclass
class UpdateSettings:
    """memory and processes"""
    shard: str = setting(
        "auto", choices=("auto", "true", "false"), help="with several processes, cut the weights into pieces, one for "
        "each process (FSDP2); auto: only a model of more than 64 million parameters")
    shard_size: int = setting(0, least=0, help="neighbouring processes, as of a node, that share one copy; 0: all do")
    offload: bool = setting(False, help="with weights in pieces: keep all that is trained, and the reference, in the "
                            "host's memory, and update on CPUs; the GPU holds what it works on")
    recompute: bool = setting(False, help="gradient checkpointing: compute activations twice; less memory, more time")
    max_skipped: int = setting(10, help="the run ends after so many updates in a row without a finite gradient")
    max_collapsed: int = setting(0, least=0, help="the run ends after so many steps in a row in which the replies look "
                                 "collapsed (ap/tools/collapse.py); 0: nobody looks")
    micro_batch_tokens: int = setting(4096, help="tokens, with padding, in one pass; lower it when memory is short")


@dataclass
class SkillSettings:
    """stage 1: skills"""
    skills: str = setting("skills", *EPISODES, help="folder of your own skill packages, beside the acquired ones")
    corpus: str = setting("", SKILLS, help="texts to acquire skills from: a folder of .md, .txt and .jsonl files, or a "
                          "JSONL file of {question, answer}; empty: the domain's own")
    corpus_size: int = setting(600, SKILLS, help="number of worked problems in the domain's own corpus")
    tau_r: float = setting(0.5, SKILLS, most=1, help="candidate skills whose quality score r(k) is lower are rejected")


@dataclass
class CurriculumSettings:
    """curriculum over skills"""
    mastery_alpha: float = setting(
        0.1, MGPO, most=1, help="alpha in a category's mastery, m_c <- (1 - alpha) m_c + alpha * success rate")
    mastery_eps: float = setting(
        0.1, MGPO, above=0, help="eps in the probability of drawing a category, p(c) proportional to 1 / (m_c + eps)")
    skills_min: int = setting(2, *EPISODES, SOLVER, help="smallest number of skills that an episode starts from (K_0)")
    skills_max: int = setting(4, *EPISODES, SOLVER, help="largest number of skills that an episode starts from")


@dataclass
class EpisodeSettings:
    """environment and episodes"""
    max_turns: int = setting(16, *EPISODES, help="an episode that needs more turns ends as turn_limit")
    max_tokens: int = setting(512, *EPISODES, help="an episode of more tokens, prompt included, ends as token_limit")
    exec_timeout: float = setting(2.0, *EPISODES, above=0, help="seconds that a program may run in the sandbox")
    allow_unsafe_exec: bool = setting(
        False, also=SOLVER, help="run the model's programs even where nothing guards your files, network and processes")
    reproducible: bool = setting(True, help="wait for tools at fixed steps: same seed, same bits; false: never wait")
    actions: str = setting("think,exec,edit,submit", *EPISODES, help="of the proposer; leave one out for an ablation")
    one_shot: bool = setting(False, *EPISODES, help="ablation: the proposer's first message must be its submission")
    mend_messages: bool = setting(
        False, *EPISODES, help="tell once, after an unusable message, how one is written, and go on; false: it ends")


@dataclass
class SftSettings:
    """stage 2: supervised fine-tuning (SFT) on expert episodes"""
    sft_trajectories: int = setting(1500, EXPERT, help="number of expert episodes whose problem is valid, V(q) = 1")
    sft_steps: int = setting(2800, SFT, least=0, help="number of optimiser updates; 0: --model is pi_ref as it is")
    sft_batch: int = setting(4, SFT, help="expert episodes in each update")
    sft_lr: float = setting(3e-3, SFT, help="peak learning rate, after a short warm-up; a cosine lowers it to a tenth")
    sft_save_every: int = setting(300, also=SOLVER, help="updates between two checkpoints")
    acq_batch: int = setting(1, SFT, help="examples of skill extraction in each update")
    acq_weight: float = setting(0.1, SFT, help="weight of L_acq, the loss of skill extraction, beside L_SFT")


@dataclass
class MgpoSettings:
    """stage 3: reinforcement learning (MGPO)"""
    algorithm: str = setting(
        "mgpo", MGPO, choices=("mgpo", "grpo", "grpo-fused", "grpo-summed"), help="the others have GRPO's clipped "
        "loss: grpo on A_E alone, grpo-fused on A_E + omega * A_S, grpo-summed on A_E of r_T + omega * (sum of r_proc)")
    steps: int = setting(12, AFTER, help="number of reinforcement learning steps, each with one rollout")
    groups: int = setting(16, MGPO, help="groups in a rollout, over all processes")
    group_size: int = setting(8, MGPO, help="G, trajectories in a group: they share a prompt and are compared")
    updates: int = setting(1, MGPO, help="optimiser updates on each rollout; the groups are split evenly between them")
    lr: float = setting(1e-3, MGPO, help="learning rate of MGPO and of its GRPO baselines")
    max_grad_norm: float = setting(1.0, *EPISODES, SOLVER, above=0, help="gradients are clipped to this norm")
    temperature: float = setting(1.0, *JUDGED, SOLVER, above=0, help="of sampling and log-probs; no top-k, no top-p")
    omega: float = setting(0.5, MGPO, help="weight of A_S in A = A_E + omega * A_S (paper: 0.5); 0: MGPO without it")
    beta: float = setting(0.1, MGPO, help="scale of the implicit reward, R_theta = beta * log(pi_theta / pi_ref)")
    tau_pos: float = setting(1.0, MGPO, above=0, help="gate temperature for w > 0: a larger one closes it sooner")
    tau_neg: float = setting(2.0, MGPO, above=0, help="gate temperature for w <= 0")
    gate: str = setting("asymmetric", MGPO, choices=("asymmetric", "symmetric", "off"),
                        help="tau by the sign of w (asymmetric), tau_pos for both (symmetric), or no gate (off)")
    gate_ratio: str = setting("action", MGPO, choices=("action", "token"),
                              help="whose ratio the gate takes: the action's mean, or each token's own (SAPO)")
    implicit_reward: bool = setting(True, MGPO, help="ablation: false leaves R_theta out of the zero-sum weight w")
    placebo: bool = setting(False, MGPO, help="ablation: permute stage advantages among the actions of a group")
    normalise_std: bool = setting(True, MGPO, SOLVER, help="divide advantages by the group's std, as the paper does")
    clip_low: float = setting(0.2, MGPO, SOLVER, help="GRPO: the ratio is clipped from below at 1 - clip_low")
    clip_high: float = setting(0.2, MGPO, SOLVER, help="GRPO: the ratio is clipped from above at 1 + clip_high")
    importance_limit: float = setting(0.0, MGPO, SOLVER, help="C >= 1: weigh a token by min(pi_trainer / pi_sampler, "
                                      "C), as both compute pi_old; 0: do not")
    kl_weight: float = setting(0.0, MGPO, help="GRPO: weight of the KL divergence to pi_ref in the loss (k3 estimator)")


@dataclass
class RewardSettings:
    """reward of a problem"""
    reward: str = setting(
        "paper", MGPO, choices=("paper", "r-zero", "azr", "vhg", "mathsmith"), help="of training: whose equation")
    r_base: float = setting(1.0, *JUDGED, help="R_base, the terminal reward of a valid problem")
    hardness: float = setting(1.0, *JUDGED, help="lambda: valid problems with rho > 0 earn lambda * (1 - rho) more")
    pass_rate: str = setting("rate", *JUDGED, choices=("rate", "passk"), help="rho: success rate, or pass@16 (0 or 1)")
    prober_k: int = setting(16, *JUDGED, help="attempts of the prober at a problem, to see how hard it is (paper: 16)")
    prober_window: int = setting(500, MGPO, help="problems between two looks at the EMA of pass rates (paper: 500)")
    prober_floor: float = setting(0.3, MGPO, most=1, help="below it the next stronger prober takes over (paper: 0.30)")
    overlong: float = setting(0.0, MGPO, SOLVER, most=1, help="over this last share of the token limit rewards fall by "
                              "up to 1 (DAPO's soft overlong punishment, there 0.2); 0: they do not")


@dataclass
class RoleSettings:
    """roles: who judges, attempts and teaches"""
    roles: str = setting("", *JUDGED, help="JSON file of the models in the roles, see docs/roles.md; empty: programs")
    workers: int = setting(4, also=SOLVER, help="threads that wait for tools and judges while other episodes decode")


@dataclass
class EvaluationSettings:
    """evaluation and checkpoints"""
    problems: int = setting(0, least=0, help="problems that the trained proposer writes, besides those of its training")
    eval_sets: int = setting(400, *EPISODES, help="skill sets for the evaluations, which training never draws")
    save_every: int = setting(5, also=SOLVER, help="reinforcement learning steps between two checkpoints")
    reference: str = setting("", SKILLS, *EPISODES, also=SOLVER, help="a run to take skills and pi_ref from (pairs)")


@dataclass
class SolverSettings:
    """the solver"""
    solver_arm: str = setting("proposer", help="the arm's folder; random: it learns from random problems of the domain")
    solver_problems: str = setting("", help="JSONL of {question, answer}; empty: those that the run's proposer wrote")
    solver_learn: str = setting("grpo", choices=("grpo", "sft"), help="by GRPO on answers, or by SFT on solutions")
    solver_tokens: str = setting("all", choices=("all", "icepop", "ipo", "ulorl", "entropy"),
                                 help="GRPO: which tokens count, by whose equation (docs/arms.md)")
    solver_reward: str = setting("answer", choices=("answer", "laser", "laser-d", "laser-de", "adactrl", "surrogate"),
                                 help="what GRPO compares: whose equation, see docs/arms.md")
    solver_replay: int = setting(0, least=0, help="steps that groups with signal stay, to replace others; 0: none")
    solver_budget: int = setting(1000, SOLVER, help="problems that an arm may use (paper: 10000 for 4B, 11000 for 30B)")
    solver_sft_steps: int = setting(7000, SOLVER, help="SFT updates on worked solutions, if there is no --model")
    solver_sft_batch: int = setting(16, SOLVER, help="examples in each update: three drills to five worked solutions")
    solver_sft_lr: float = setting(4e-3, SOLVER, help="peak learning rate of this SFT; a cosine lowers it to a tenth")
    solver_steps: int = setting(200, SOLVER, help="GRPO steps of the solver, one rollout and one update each")
    solver_groups: int = setting(32, SOLVER, help="problems in each step, over all processes")
    solver_group_size: int = setting(8, SOLVER, help="attempts at each problem of a step")
    solver_lr: float = setting(4e-4, SOLVER, help="peak learning rate of these steps; a cosine lowers it to a tenth")
    solver_max_tokens: int = setting(256, SOLVER, help="an answer of more tokens is cut, and counts as wrong")
    solver_held_out: str = setting("", SOLVER, help="JSONL of {question, answer} to evaluate on; empty: the domain's "
                                   "two sets, or else what the first arm's budget leaves")
    solver_eval: int = setting(500, SOLVER, help="problems in each held-out set")
    solver_eval_k: int = setting(4, SOLVER, help="attempts at each of them in an evaluation")


@dataclass
class ReportSettings:
    """plan and reports"""
    dry_run: bool = setting(False, help="only print the plan of each GPU's memory and links (ap/tools/plan.py)")
    gpus: int = setting(8, help="GPUs that the dry run plans for; a run has as many as torchrun starts processes")
    card_gb: float = setting(80.0, help="memory of one GPU in GiB, for the dry run")
    host_gb: float = setting(1024.0, help="memory of a node of up to 8 GPUs in GiB, for the dry run")
    peak_tflops: float = setting(0.0, help="peak TFLOP/s of a GPU, for MFU in the metrics; 0: looked up by its name")
    wandb: str = setting("", help="W&B project to send the metrics to as well; needs the package wandb")


@dataclass
class Config(  # dataclasses collect fields from the last base to the first, so the order is reversed
    ReportSettings, SolverSettings, EvaluationSettings, RoleSettings, RewardSettings, MgpoSettings, SftSettings,
    EpisodeSettings, CurriculumSettings, SkillSettings, UpdateSettings, ModelSettings, RunSettings,
):
    """All settings of a run in one flat record, which is also the content of config.json."""

    @property
    def folder(self) -> Path:
        return Path(self.out) / self.name

    @property
    def source(self) -> Path:
        """The folder that holds stages 1 and 2 of this run."""
        return Path(self.reference) if self.reference else self.folder


PARTS: tuple[type, ...] = Config.__bases__[::-1]  # in the order of a run


def made_with(config: Config, product: Product, within: tuple[Product, ...] = PRODUCTS) -> dict:
    """{name: value} of the settings that shape the product and do not shape any product outside of `within`."""
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)
            if product in field.metadata["shapes"] and set(field.metadata["shapes"]) <= set(within)}
