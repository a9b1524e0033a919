"""Every setting of every script, with its meaning and, where it is known, the paper's value.

One dataclass, three presets, and a command line derived from both. A preset changes sizes and who plays the
roles; it never changes the algorithm or the code path.
"""
from __future__ import annotations

import argparse
import dataclasses
import difflib
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterable

from ap.files import UserError, read_json, write_json


def setting(default, help: str, choices: tuple | None = None):
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices})


@dataclass
class Config:
    # --- the run
    preset: str = setting("mini", "which preset the other settings start from")
    name: str = setting("mini", "the run's name; everything it makes lies in OUT/NAME")
    out: str = setting("runs", "folder of all runs")
    seed: int = setting(0, "every random draw is keyed by it")
    domain: str = setting("mini", "what the problems are about", choices=("mini", "math", "code", "science"))
    # --- the model
    model: str = setting(
        "", "local Hugging Face checkpoint folder; empty: a small Qwen3 made from scratch (paper: Qwen3-4B)")
    device: str = setting("auto", "auto: cuda when there is one, else cpu", choices=("auto", "cpu", "cuda"))
    threads: int = setting(
        0, "CPU threads of each process; 0: as many as PyTorch takes by itself (cores, or OMP_NUM_THREADS), at most 4; "
        "rollouts of a model of mini's size take one, since tools need cores too")
    dtype: str = setting("float32", "of weights and compute", choices=("float32", "bfloat16"))
    hidden_size: int = setting(128, "only for a model made from scratch, like the next four")
    layers: int = setting(4, "decoder layers")
    heads: int = setting(4, "attention heads; half as many key-value heads")
    intermediate_size: int = setting(384, "width of the MLP")
    vocab_size: int = setting(1024, "tokens of the mini tokenizer, at most")
    shard: str = setting(
        "auto", "several processes: the weights in pieces over them (FSDP2); auto: if they are more than 64 M",
        choices=("auto", "true", "false"))
    shard_size: int = setting(0, "neighbouring ranks that share one copy of the weights, such as a node's; 0: all")
    offload: bool = setting(
        False, "weights in pieces: keep them, gradients, Adam's moments and pi_ref in the host's memory, and update on "
        "CPUs; a GPU holds what is at work: for models that do not fit otherwise")
    recompute: bool = setting(
        False, "compute activations again in the backward pass instead of keeping them: less memory, more time")
    max_skipped: int = setting(10, "updates in a row that are skipped, their gradient not being finite, end the run")
    micro_batch_tokens: int = setting(4096, "padded tokens in one forward-backward pass; lower it when memory is short")
    # --- stage 1: skills
    skills: str = setting("skills", "folder of your own SKILL.md packages, used beside the acquired ones")
    corpus: str = setting(
        "", "a folder of .md, .txt and .jsonl files or a JSONL of {question, answer}; empty: the domain's own corpus")
    corpus_size: int = setting(600, "worked problems in the domain's own corpus")
    tau_r: float = setting(0.5, "candidate skills with r(k) below it are rejected")
    # --- curriculum
    mastery_alpha: float = setting(0.1, "m_c <- (1 - alpha) m_c + alpha * success rate")
    mastery_eps: float = setting(0.1, "p(c) proportional to 1 / (m_c + eps)")
    skills_min: int = setting(2, "fewest skills in K_0")
    skills_max: int = setting(4, "most skills in K_0")
    # --- environment
    max_turns: int = setting(16, "an episode of more turns ends as turn_limit")
    max_tokens: int = setting(512, "an episode of more tokens, prompt included, ends as token_limit")
    exec_timeout: float = setting(2.0, "seconds a program may run in the sandbox")
    allow_unsafe_exec: bool = setting(
        False, "run the model's programs even where nothing keeps them from your files, network and processes")
    reproducible: bool = setting(
        True, "rollouts wait for slow tools at fixed steps: the same seed gives the same bits; false: they never wait")
    actions: str = setting("think,exec,edit,submit", "what the proposer may do; leave one out to ablate it")
    one_shot: bool = setting(False, "ablation: the first message must be the submission")
    # --- stage 2: agentic SFT
    sft_trajectories: int = setting(2000, "expert trajectories to keep, all with V(q) = 1")
    sft_steps: int = setting(2600, "optimiser updates")
    sft_batch: int = setting(8, "trajectories an update")
    sft_lr: float = setting(3e-3, "peak learning rate; cosine to a tenth of it after a short warm-up")
    sft_save_every: int = setting(300, "updates between checkpoints")
    acq_batch: int = setting(2, "extraction examples an update")
    acq_weight: float = setting(0.1, "weight of L_acq, the skill extraction loss, beside L_SFT")
    # --- stage 3: MGPO
    algorithm: str = setting(
        "mgpo", "mgpo; on the same rollouts and with the loss of GRPO: grpo, A_E alone; grpo-fused, the advantages of "
        "MGPO; grpo-summed, A_E of r_T + omega * (sum of r_proc)",
        choices=("mgpo", "grpo", "grpo-fused", "grpo-summed"))
    steps: int = setting(12, "reinforcement learning steps, one rollout each")
    groups: int = setting(16, "groups of a rollout, over all ranks")
    group_size: int = setting(8, "G, trajectories of a group")
    updates: int = setting(1, "optimiser updates on each rollout; groups are split evenly")
    lr: float = setting(1e-3, "learning rate of MGPO and GRPO")
    max_grad_norm: float = setting(1.0, "gradients are clipped to this norm")
    temperature: float = setting(1.0, "of sampling and of every log-prob; training samples the whole distribution")
    omega: float = setting(0.5, "A = A_E + omega * A_S; 0 is MGPO without stage advantage (paper: 0.5)")
    beta: float = setting(0.1, "R_theta = beta * log(pi_theta / pi_ref)")
    tau_pos: float = setting(1.0, "gate temperature for w > 0")
    tau_neg: float = setting(2.0, "gate temperature for w <= 0; larger closes faster")
    gate: str = setting(
        "asymmetric", "symmetric uses tau_pos for both signs", choices=("asymmetric", "symmetric", "off"))
    implicit_reward: bool = setting(True, "ablation: false drops R_theta from the zero-sum weight")
    placebo: bool = setting(False, "ablation: stage advantages permuted among the actions of a group")
    normalise_std: bool = setting(True, "divide advantages by the group's std, as the paper does")
    clip_low: float = setting(0.2, "GRPO: ratio clipped below at 1 - clip_low")
    clip_high: float = setting(0.2, "GRPO: ratio clipped above at 1 + clip_high")
    kl_weight: float = setting(0.0, "GRPO: weight of the k3 KL to pi_ref")
    # --- reward
    r_base: float = setting(1.0, "R_base: terminal reward of a valid problem")
    hardness: float = setting(1.0, "lambda: at most this much more for a hard one")
    pass_rate: str = setting(
        "rate", "rho as success rate of 16 attempts, or literal pass@16", choices=("rate", "passk"))
    prober_k: int = setting(16, "attempts of the prober at a problem (paper: 16)")
    prober_window: int = setting(500, "problems between two looks at the prober's EMA (paper: 500)")
    prober_floor: float = setting(0.3, "below this EMA the next stronger prober takes over (paper: 0.30)")
    overlong: float = setting(
        0.0, "rewards of proposer and solver fall by up to 1 over this last share of the token limit (DAPO: 0.2)")
    roles: str = setting("", "JSON file of models that verify, audit, attempt and teach (ap/players/cast.py); empty: programs")
    workers: int = setting(4, "threads that wait for tools and judges while other rows decode")
    # --- evaluation
    problems: int = setting(0, "problems that the trained proposer shall write, besides those of its training")
    eval_sets: int = setting(400, "fixed skill sets, never drawn in training")
    save_every: int = setting(5, "steps between checkpoints")
    reference: str = setting("", "folder of another run whose stages 1 and 2 to start from, for paired comparisons")
    # --- solver
    solver_arm: str = setting(
        "proposer", "what the solver learns from, and the name of its folder: proposer: solver_problems; random: as "
        "many random problems of the domain; any other name: solver_problems")
    solver_problems: str = setting("", "JSONL of {question, answer}; empty: the problems that the run's proposer wrote")
    solver_budget: int = setting(1000, "problems that an arm may use (paper: 10000 for 4B, 11000 for 30B)")
    solver_sft_steps: int = setting(7000, "updates on worked solutions, which make the start of a solver from scratch")
    solver_sft_batch: int = setting(16, "examples an update: three drills of calculations to five worked solutions")
    solver_sft_lr: float = setting(4e-3, "peak learning rate; cosine to a tenth of it after a short warm-up")
    solver_steps: int = setting(200, "GRPO steps of the solver, one rollout and one update each")
    solver_groups: int = setting(32, "problems of a step, over all ranks")
    solver_group_size: int = setting(8, "attempts at each problem of a step")
    solver_lr: float = setting(4e-4, "peak learning rate of the solver's GRPO; cosine to a tenth of it")
    solver_max_tokens: int = setting(256, "an answer of more tokens is cut and counts as wrong")
    solver_eval: int = setting(500, "problems in each of the domain's two held-out sets")
    solver_eval_k: int = setting(4, "attempts at each problem of an evaluation")
    # --- planning, and what is recorded besides metrics.jsonl
    dry_run: bool = setting(False, "print what each GPU's memory and links would hold and carry, and stop: ap/tools/plan.py")
    gpus: int = setting(8, "GPUs that the dry run plans for; a run has as many as torchrun starts processes")
    card_gb: float = setting(80.0, "memory of such a GPU in GiB, for the dry run")
    host_gb: float = setting(1024.0, "memory of a node of up to 8 GPUs in GiB, for the dry run")
    peak_tflops: float = setting(0.0, "TFLOP/s that a GPU has at best, for MFU in metrics; 0: by its name, if known")
    wandb: str = setting("", "W&B project to report metrics to as well, when the package wandb is installed")

    @property
    def folder(self) -> Path:
        return Path(self.out) / self.name

    @property
    def source(self) -> Path:
        """Where stages 1 and 2 of this run lie."""
        return Path(self.reference) if self.reference else self.folder


# ------------------------------------------------------------------------------------------------ presets

# What differs from the defaults above, which are the preset `mini`. The two big ones need --model and GPUs; their
# values are plans made from the paper and from memory arithmetic, untested until they have run on such a node.
_BIG = {
    "dtype": "bfloat16", "threads": 8, "max_tokens": 16384, "micro_batch_tokens": 16384, "exec_timeout": 10.0,
    "max_turns": 24, "reproducible": False, "workers": 32, "lr": 1e-6, "sft_lr": 1e-5, "sft_steps": 400,
    "sft_batch": 32, "save_every": 10, "recompute": True,
}
PRESETS: dict[str, dict] = {
    "mini": {},
    "qwen3-4b": _BIG | {"name": "qwen3-4b", "groups": 32, "steps": 200},
    # Its optimiser lies on the host (ap/tools/plan.py), and each micro-batch moves all weights: few, large ones.
    "qwen3-30b-a3b": _BIG | {
        "name": "qwen3-30b-a3b", "groups": 64, "steps": 100, "offload": True, "micro_batch_tokens": 65536},
}

# The settings that each stage was made with, and by which file it is known to be there. From then on they are fixed:
# another value would silently not be used, or would mix two experiments in one file.
_SHARED = (  # of the episodes, in whichever stage they are played
    "seed", "skills", "skills_min", "skills_max", "max_turns", "max_tokens", "exec_timeout", "actions", "one_shot",
    "eval_sets", "dtype", "max_grad_norm", "reference",
)
_JUDGE = ("temperature", "r_base", "hardness", "pass_rate", "prober_k", "roles")
_STAGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "skills/candidates.jsonl": ("the skills", (
        "seed", "domain", "model", "vocab_size", "corpus", "corpus_size", "tau_r", "reference")),
    "expert.jsonl": ("the expert episodes", ("sft_trajectories", *_SHARED)),
    "sft": ("the checkpoints of SFT", (
        "hidden_size", "layers", "heads", "intermediate_size", "sft_steps", "sft_batch", "sft_lr", "acq_weight",
        "acq_batch", *_SHARED)),
    "evaluation_before.json": ("the first evaluation", (*_JUDGE, *_SHARED)),
    "mgpo": ("the checkpoints of reinforcement learning", (
        "mastery_alpha", "mastery_eps", "algorithm", "groups", "group_size", "updates", "lr", "omega", "beta",
        "tau_pos", "tau_neg", "gate", "implicit_reward", "placebo", "normalise_std", "clip_low", "clip_high",
        "kl_weight", "overlong", "prober_window", "prober_floor", *_JUDGE, *_SHARED)),
    "evaluation_after.json": ("the last evaluation", ("steps",)),
    "solver": ("the solver", (  # the same for all its arms, since only their data shall differ
        "solver_budget", "solver_sft_steps", "solver_sft_batch", "solver_sft_lr", "solver_steps",
        "solver_groups", "solver_group_size", "solver_lr", "solver_max_tokens", "solver_eval", "solver_eval_k",
        "normalise_std", "clip_low", "clip_high", "overlong", "temperature", "max_grad_norm", "dtype", "skills_min",
        "skills_max")),
}
# What a run with --reference has in common with that other run: how its pi_ref was made, not how to go on from it.
_REFERENCE_STAGES = {
    mark: (stage, tuple(name for name in names if name not in _SHARED))
    for mark, (stage, names) in _STAGES.items() if mark in ("skills/candidates.jsonl", "expert.jsonl", "sft")
}


# -------------------------------------------------------------------------------------------- command line


def parse_config(argv: list[str], description: str, uses: tuple[str, ...] | None = None) -> Config:
    """The settings of a script: its command line, over those that the run was started with, over the preset.

    A new run with --reference starts from the settings of that other run, all but how many problems it shall write.

    `uses` names the settings that the script has as options (None: all of them). UserError for an unknown preset or
    setting, a value of the wrong type, values that do not go together, and a value that would contradict what is
    already in the run's folder. `--help` prints every option and leaves.
    """
    names = uses or tuple(field.name for field in dataclasses.fields(Config))
    given = _options(argv, names, description)
    config = _preset_config(given.get("preset", Config.preset), given)
    saved = load_config(config.folder) if _is_run(config.folder) else None
    reference = given.get("reference", saved.reference if saved else "")
    start = saved or (load_config(Path(reference)) if reference else None)
    if start is not None:
        wanted = {} if saved else {"problems": config.problems}  # what the other run was told to write is its own
        config = dataclasses.replace(
            start, **wanted | given | {"out": config.out, "name": config.name, "reference": reference})
    validate(config)
    if start is not None and config.preset != start.preset:
        raise UserError(f"{start.folder} was started with --preset {start.preset}; for {config.preset} use another "
                        "--name.")
    if saved is not None:
        _refuse_contradiction(saved, config, config.folder, _STAGES)
    if reference:
        _refuse_contradiction(load_config(Path(reference)), config, Path(reference), _REFERENCE_STAGES)
        if not (config.source / "sft" / f"step-{config.sft_steps:06d}").is_dir():
            raise UserError(f"--reference {reference}: no finished reference policy is there (sft/step-"
                            f"{config.sft_steps:06d}); run run_sft.py on that run first.")
    return config


def save_config(config: Config) -> None:
    """Write OUT/NAME/config.json. Later scripts of the same run start from it."""
    write_json(config.folder / "config.json", dataclasses.asdict(config))


def load_config(folder: Path) -> Config:
    """Read the settings that a run was made with. UserError when FOLDER/config.json is missing or spoilt."""
    path = Path(folder) / "config.json"
    record = read_json(path)
    if not isinstance(record, dict):
        raise UserError(f"{path} does not hold settings; correct it, or use another --name.")
    fields = {field.name: field for field in dataclasses.fields(Config)}
    for name, value in record.items():
        if name not in fields:
            raise UserError(f"{path}: unknown setting {name!r}{_close(name, fields)}; "
                            "correct it or use another --name.")
        text = str(value).lower() if isinstance(value, bool) else str(value)
        record[name] = _convert(fields[name], text, f"{path}, {name}")
    return dataclasses.replace(_preset_config(record.get("preset", Config.preset), {}), **record)


def run_main(main: Callable[[list[str]], None]) -> None:
    """Run a script's `main(argv)`. Bad input ends with one sentence on stderr and exit code 2, without a traceback."""
    try:
        main(sys.argv[1:])
    except UserError as error:
        rank = os.environ.get("RANK", "0")
        print(f"error: {error}" if rank == "0" else f"error on rank {rank}: {error}", file=sys.stderr)
        sys.exit(2)


def validate(config: Config) -> None:
    """UserError, one sentence, for the first value that makes no sense, by itself or beside the others."""
    def need(holds: bool, otherwise: str) -> None:
        if not holds:
            raise UserError(otherwise)

    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        shown = f"--{field.name} {value}: must be"
        if field.type == "int":
            least = 0 if field.name in ("seed", "problems", "shard_size", "threads") else 1
            need(value >= least, f"{shown} at least {least}.")
        if field.type == "float":
            need(0 <= value < math.inf, f"{shown} a number of at least 0.")
        if field.name in ("temperature", "tau_pos", "tau_neg", "mastery_eps", "exec_timeout", "max_grad_norm"):
            need(value > 0, f"{shown} more than 0.")
        if field.name in ("mastery_alpha", "tau_r", "prober_floor", "overlong"):
            need(value <= 1, f"{shown} between 0 and 1.")

    need(config.name not in ("", ".", "..") and Path(config.name).name == config.name,
         f"--name {config.name!r}: must be a plain folder name, without a path.")
    need(config.preset == "mini" or config.model != "" or config.dry_run,
         f"--preset {config.preset} needs --model FOLDER, a downloaded checkpoint of that model.")
    need(not config.model or (Path(config.model) / "config.json").is_file(),
         f"--model {config.model}: no Hugging Face checkpoint there (a folder with a config.json); "
         "download it first and give the folder's path.")
    need(config.model != "" or (config.heads % 2 == 0 and config.hidden_size % (2 * config.heads) == 0),
         f"--hidden_size {config.hidden_size} --heads {config.heads}: heads must be even, and hidden_size a multiple "
         "of twice the heads.")
    need(config.skills_min <= config.skills_max,
         f"--skills_min {config.skills_min} is more than --skills_max {config.skills_max}.")

    known = ("think", "exec", "edit", "submit")
    chosen = config.actions.split(",")
    for action in chosen:
        need(action in known,
             f"--actions: unknown action {action!r}{_close(action, known)}; choose among {','.join(known)}.")
    need("submit" in chosen, f"--actions {config.actions}: submit must be among them, or no episode can end well.")

    ranks = config.gpus if config.dry_run else int(os.environ.get("WORLD_SIZE", "1"))  # torchrun's
    need(config.group_size >= 2, f"--group_size {config.group_size}: must be at least 2, since a trajectory is "
                                 "compared with the others of its group.")
    need(config.groups % config.updates == 0,
         f"--groups {config.groups} cannot be split evenly into --updates {config.updates}.")
    per_update = config.groups // config.updates
    need(per_update >= ranks,
         f"--groups {config.groups} in --updates {config.updates} are {per_update} an update, for {ranks} ranks: use "
         "more groups, fewer updates or fewer processes.")
    need(config.shard_size == 0 or ranks % config.shard_size == 0,
         f"--shard_size {config.shard_size}: the {ranks} ranks cannot be split evenly into such parts.")


class Parser(argparse.ArgumentParser):
    """A command line without abbreviations, whose help keeps the description's lines, and whose errors are UserErrors.

    listed: what --help lists, in the words of the error.
    """

    def __init__(self, listed: str = "options", **options):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)
        self.listed = listed

    def error(self, message: str):
        raise UserError(f"{message}; --help lists the {self.listed}.")


def _options(argv: list[str], names: tuple[str, ...], description: str) -> dict:
    """What the command line gives, converted: {setting: value}. Help shows the defaults of the preset asked for."""
    fields = {field.name: field for field in dataclasses.fields(Config)}
    parser = Parser("settings", description=description, usage="%(prog)s [--setting value ...]", add_help=False)
    for name in names:
        parser.add_argument(f"--{name}", default=argparse.SUPPRESS)
    parser.add_argument("-h", "--help", action="store_true", default=argparse.SUPPRESS, help="print this and leave")
    options, unknown = parser.parse_known_args(argv)
    given = {name: text for name, text in vars(options).items() if name != "help"}
    for word in unknown:
        name = word.lstrip("-").split("=")[0]
        if not word.startswith("--"):
            raise UserError(f"{word!r} belongs to no setting; write --setting value.")
        if name in fields:
            raise UserError(f"--{name} is a setting of other scripts; this one does not use it.")
        raise UserError(f"unknown setting --{name}{_close(name, names, '--')}; --help lists the settings.")
    given = {name: _convert(fields[name], text, f"--{name}") for name, text in given.items()}
    if "help" in options:
        defaults = _preset_config(given.get("preset", Config.preset), {})
        for action in parser._actions:
            if action.dest in fields:
                field = fields[action.dest]
                choices = PRESETS if field.name == "preset" else field.metadata["choices"]
                kinds = {"bool": "true|false", "str": "TEXT", "int": "INT", "float": "FLOAT"}
                action.metavar = "|".join(choices or ()) or kinds[field.type]
                default = getattr(defaults, field.name)
                shown = str(default).lower() if isinstance(default, bool) else default if default != "" else "none"
                action.help = f"{field.metadata['help']} (default: {shown})".replace("%", "%%")
        parser.print_help()
        sys.exit(0)
    return given


def _convert(field: dataclasses.Field, text: str, where: str):
    """`text` as the field's type, or a UserError that begins with `where`."""
    if field.type == "bool":
        if text not in ("true", "false"):
            raise UserError(f"{where}: must be true or false, not {text!r}.")
        return text == "true"
    if field.type in ("int", "float"):
        try:
            return int(text) if field.type == "int" else float(text)
        except ValueError:
            kind = "a whole number" if field.type == "int" else "a number"
            raise UserError(f"{where}: must be {kind}, not {text!r}.") from None
    choices = field.metadata["choices"]
    if choices and text not in choices:
        raise UserError(f"{where}: cannot be {text!r}{_close(text, choices)}; choose among {', '.join(choices)}.")
    return text


def _preset_config(preset: str, given: dict) -> Config:
    if preset not in PRESETS:
        raise UserError(f"unknown preset {preset!r}{_close(preset, PRESETS)}; choose among {', '.join(PRESETS)}.")
    return Config(**{"preset": preset} | PRESETS[preset] | given)


def _close(word: str, words: Iterable[str], prefix: str = "") -> str:
    """' (did you mean ...?)', or nothing when no word is near."""
    near = difflib.get_close_matches(word, list(words), n=3)
    return f" (did you mean {' or '.join(prefix + match for match in near)}?)" if near else ""


def _is_run(folder: Path) -> bool:
    """Whether the folder holds a run. UserError when it holds something, but not a run's config.json."""
    if (folder / "config.json").exists():
        return True
    try:
        found = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".config.json."))
    except FileNotFoundError:
        return False
    except OSError as error:
        raise UserError(f"{folder} cannot be a run's folder ({error.strerror}); use another --out.") from error
    if found:
        raise UserError(f"{folder} holds {found[0]} but no config.json: it is not a run's folder, or a half-written "
                        "one; delete it or use another --name.")
    return False


def _refuse_contradiction(saved: Config, config: Config, folder: Path, stages: dict) -> None:
    """UserError if `config` differs from `saved` in what a stage that lies in `folder` was made with."""
    for mark, (stage, names) in stages.items():
        for name in names if (folder / mark).exists() else ():
            old, new = getattr(saved, name), getattr(config, name)
            if old != new:
                raise UserError(f"{stage} in {folder} used {name} = {old!r}, not {new!r}; "
                                f"leave --{name} out, or use another --name.")
