"""From a command line, a preset and the folder of a run to one `Config`, or to a sentence that says what is wrong.

No setting is named here, except where several must fit together (`validate`): everything about a single setting stands
at its definition in config.py.
"""
from __future__ import annotations

import argparse
import dataclasses
import difflib
import math
import os
import sys
from dataclasses import fields
from pathlib import Path
from typing import Callable, Iterable

import torch

from ap.compat.hub import commits, is_id
from ap.config import EXPERT, PARTS, PRODUCTS, SFT, SKILLS, Config, Product, made_with
from ap.files import UserError, read_json, write_json
from ap.presets import PRESETS

FIELDS = {field.name: field for field in fields(Config)}


def run_main(main: Callable[[list[str]], None]) -> None:
    """Run a script's `main(argv)`. Bad input ends with one sentence on stderr and exit code 2, without a traceback."""
    try:
        main(sys.argv[1:])
    except UserError as error:
        rank = os.environ.get("RANK", "0")
        print(f"error: {error}" if rank == "0" else f"error on rank {rank}: {error}", file=sys.stderr)
        sys.exit(2)


def parse_config(argv: list[str], description: str, uses: tuple[type | Product, ...] = PARTS) -> Config:
    """The settings of a script: the command line overrides what the run was started with, which overrides the preset.

    Without --preset a run starts from `mini`, or with --model from `small`. *Choice*: the rates of the miniature, which
    destroy a pretrained model, are only taken for one when somebody says --preset mini.

    A new run with --reference starts from the settings of that other run, except the number of problems to write.

    `uses` says which options the script has: the settings of these parts, and those that matter for these products.
    Raises UserError for an unknown preset or setting, a value of the wrong type, values that do not fit together, and a
    value that would contradict what is already in the run's folder. `--help` prints every option and exits.
    """
    given = _options(argv, uses, description)
    config = _preset_config(_preset_of(given), given)
    saved = load_config(config.folder) if _is_run(config.folder) else None
    reference = given.get("reference", saved.reference if saved else "")
    start = saved or (load_config(Path(reference)) if reference else None)
    if start is not None:
        wanted = {} if saved else {"problems": config.problems}  # not taken over from the other run
        config = dataclasses.replace(
            start, **wanted | given | {"out": config.out, "name": config.name, "reference": reference})
    config.dtype = _number_format(config)
    validate(config)
    if start is not None and config.preset != start.preset:
        raise UserError(f"{start.folder} was started with --preset {start.preset}; for {config.preset} use another "
                        "--name.")
    if saved is not None:
        _refuse_contradiction(saved, config, config.folder)
    if reference:  # both must agree on how pi_ref was made, not on how to go on from it
        _refuse_contradiction(load_config(Path(reference)), config, Path(reference), (SKILLS, EXPERT, SFT))
        if config.sft_steps and not (config.source / "sft" / f"step-{config.sft_steps:06d}").is_dir():
            raise UserError(f"--reference {reference}: no finished reference policy is there (sft/step-"
                            f"{config.sft_steps:06d}); run run_sft.py on that run first.")
    return config


# ---------------------------------------------------------------------------------------------- the command line


class Parser(argparse.ArgumentParser):
    """A command line without abbreviations, whose help keeps the description's lines, and whose errors are UserErrors.

    listed: what --help lists, in the words of the error.
    """

    def __init__(self, listed: str = "options", **options):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)
        self.listed = listed

    def error(self, message: str):
        raise UserError(f"{message}; --help lists the {self.listed}.")


def _options(argv: list[str], uses: tuple[type | Product, ...], description: str) -> dict:
    """What the command line gives, converted: {setting: value}. Help shows the defaults of the preset asked for."""
    options, unknown = _parser(uses, description, Config()).parse_known_args(argv)
    given = {name: text for name, text in vars(options).items() if name != "help"}
    for word in unknown:
        name = word.lstrip("-").split("=")[0]
        if not word.startswith("--"):
            raise UserError(f"{word!r} belongs to no setting; write --setting value.")
        if name in FIELDS:
            raise UserError(f"--{name} is a setting of other scripts; this one does not use it.")
        raise UserError(f"unknown setting --{name}{_close(name, _used(uses), '--')}; --help lists the settings.")
    given = {name: _convert(FIELDS[name], text, f"--{name}") for name, text in given.items()}
    if "help" in options:
        _parser(uses, description, _preset_config(_preset_of(given), {})).print_help()
        sys.exit(0)
    return given


def _parser(uses: tuple[type | Product, ...], description: str, defaults: Config) -> Parser:
    """One option for each setting, grouped by the parts of a run; their values are texts."""
    parser = Parser("settings", description=description, usage="%(prog)s [--setting value ...]", add_help=False,
                    argument_default=argparse.SUPPRESS)
    parser.add_argument("-h", "--help", action="store_true", help="print this, with defaults of --preset, and leave")
    kinds, used = {"bool": "true|false", "str": "TEXT", "int": "INT", "float": "FLOAT"}, _used(uses)
    for part in PARTS:
        group = parser.add_argument_group(part.__doc__)
        for field in (each for each in fields(part) if each.name in used):
            choices = PRESETS if field.name == "preset" else field.metadata["choices"]
            default = getattr(defaults, field.name)
            shown = as_typed(default) or "none"
            group.add_argument(f"--{field.name}", metavar="|".join(choices) or kinds[field.type],
                               help=f"{field.metadata['help']} (default: {shown})".replace("%", "%%"))
    return parser


def _used(uses: tuple[type | Product, ...]) -> list[str]:
    """The names of the settings of these parts, and of those that shape these products or are offered with them."""
    return [name for name, field in FIELDS.items()
            if {*field.metadata["shapes"], field.metadata["also"]} & set(uses)
            or any(isinstance(part, type) and name in part.__dataclass_fields__ for part in uses)]


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


def _preset_of(given: dict) -> str:
    """The preset that a command line asks for, by its name or by a model."""
    return given.get("preset", "small" if given.get("model") else Config.preset)


def _number_format(config: Config) -> str:
    """--dtype, in which auto has become what suits the device. A plan is for GPUs."""
    if config.dtype != "auto":
        return config.dtype
    on_gpu = config.dry_run or config.device == "cuda" or config.device == "auto" and torch.cuda.is_available()
    return "bfloat16" if on_gpu else "float32"


def _preset_config(preset: str, given: dict) -> Config:
    if preset not in PRESETS:
        raise UserError(f"unknown preset {preset!r}{_close(preset, PRESETS)}; choose among {', '.join(PRESETS)}.")
    return Config(**{"preset": preset} | PRESETS[preset] | given)


def _close(word: str, words: Iterable[str], prefix: str = "") -> str:
    """' (did you mean ...?)', or nothing when no word is near."""
    near = difflib.get_close_matches(word, list(words), n=3)
    return f" (did you mean {' or '.join(prefix + match for match in near)}?)" if near else ""


# ------------------------------------------------------------------------------------------- the folder of a run


def save_config(config: Config) -> None:
    """Write OUT/NAME/config.json. Later scripts of the same run start from it. The costs in it (costs.py) stay."""
    path = config.folder / "config.json"
    costs = read_json(path).get("costs") if path.exists() else None
    write_json(path, dataclasses.asdict(config) | ({"costs": costs} if costs else {}))


def as_typed(value: object) -> str:
    """The value of a setting as one types it: true, not True."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def load_config(folder: Path) -> Config:
    """Read the settings that a run was made with. UserError when FOLDER/config.json is missing or spoilt."""
    path = Path(folder) / "config.json"
    record = read_json(path)
    if not isinstance(record, dict):
        raise UserError(f"{path} does not hold settings; correct it, or use another --name.")
    record.pop("costs", None)  # what the stages cost is no setting
    for name, value in record.items():
        if name not in FIELDS:
            raise UserError(f"{path}: unknown setting {name!r}{_close(name, FIELDS)}; "
                            "correct it or use another --name.")
        record[name] = _convert(FIELDS[name], as_typed(value), f"{path}, {name}")
    return dataclasses.replace(_preset_config(record.get("preset", Config.preset), {}), **record)


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


def _refuse_contradiction(saved: Config, config: Config, folder: Path, products=PRODUCTS) -> None:
    """Raise UserError if `folder` holds a product and `config` differs from `saved` in what shapes only `products`."""
    for product in products:
        made = made_with(saved, product, products) if (folder / product.mark).exists() else {}
        for name, old in made.items():
            new = getattr(config, name)
            if old != new:
                raise UserError(f"{product.title} in {folder} used {name} = {old!r}, not {new!r}; "
                                f"leave --{name} out, or use another --name.")


def _has_probers(roles: str) -> bool:
    """Does a --roles file name models as probers? What else it says is read when a run opens."""
    record = read_json(Path(roles)) if roles else {}
    return isinstance(record, dict) and bool(record.get("probers"))


# ------------------------------------------------------------------------------------------------- what makes sense


def validate(config: Config) -> None:
    """Raise UserError, with one sentence, for the first value that makes no sense, by itself or with the others."""
    def need(holds: bool, otherwise: str) -> None:
        if not holds:
            raise UserError(otherwise)

    for field in fields(config):
        value = getattr(config, field.name)
        least, above, most = (field.metadata[limit] for limit in ("least", "above", "most"))
        shown = f"--{field.name} {value}: must be"
        need(field.type != "int" or value >= least, f"{shown} at least {least}.")
        need(field.type != "float" or 0 <= value < math.inf, f"{shown} a number of at least 0.")
        need(above is None or value > above, f"{shown} more than {above}.")
        need(most is None or value <= most, f"{shown} between 0 and {most}.")

    need(config.name not in ("", ".", "..") and Path(config.name).name == config.name,
         f"--name {config.name!r}: must be a plain folder name, without a path.")
    need(config.preset == "mini" or config.model != "" or config.dry_run,
         f"--preset {config.preset} needs --model FOLDER, a checkpoint of that model, or its id on the hub.")
    need(not config.model or is_id(config.model) or (Path(config.model) / "config.json").is_file(),
         f"--model {config.model}: no Hugging Face checkpoint there (a folder with a config.json); give the path of a "
         "folder that holds one, or an id of the hub, OWNER/NAME.")
    commits(config.revisions)  # raises UserError
    need(config.sft_steps > 0 or config.model != "",
         "--sft_steps 0: without SFT pi_ref is --model as it is; give --model FOLDER, or at least 1 step.")
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

    need(config.reward != "mathsmith" or (_has_probers(config.roles) and not config.one_shot),
         "--reward mathsmith measures how long a prober's traces are, and rationales: it needs --roles FILE with "
         "`probers`, models, and no --one_shot true.")

    ranks = config.gpus if config.dry_run else int(os.environ.get("WORLD_SIZE", "1"))  # torchrun's
    need(config.group_size >= 2, f"--group_size {config.group_size}: must be at least 2, since a trajectory is "
                                 "compared with the others of its group.")
    need(config.importance_limit == 0 or (config.importance_limit >= 1 and config.updates == 1),
         f"--importance_limit {config.importance_limit:g} --updates {config.updates}: the limit must be 0 (off) or at "
         "least 1, and needs --updates 1, whose log-probs are those of pi_old.")
    need(config.pass_rate == "rate" or config.reward not in ("r-zero", "azr"),
         f"--reward {config.reward} --pass_rate {config.pass_rate}: it pays nothing for a problem that is never or "
         "always solved, and rho would be 0 or 1; use --pass_rate rate.")
    need(config.groups % config.updates == 0,
         f"--groups {config.groups} cannot be split evenly into --updates {config.updates}.")
    per_update = config.groups // config.updates
    need(per_update >= ranks,
         f"--groups {config.groups} in --updates {config.updates} are {per_update} an update, for {ranks} ranks: use "
         "more groups, fewer updates or fewer processes.")
    way = (config.solver_reward, config.solver_replay, config.solver_tokens)
    need(config.solver_learn == "grpo" or way == ("answer", 0, "all"),
         f"--solver_learn {config.solver_learn}: it imitates solutions and compares nothing; leave --solver_reward, "
         "--solver_replay and --solver_tokens out.")
    need(config.solver_reward != "adactrl" or config.model != "",
         "--solver_reward adactrl: it pays a reply for opening with [Easy] or [Hard], which a model made from scratch "
         "never does; give --model, a checkpoint that has learned to (docs/arms.md).")
    need(config.shard_size == 0 or ranks % config.shard_size == 0,
         f"--shard_size {config.shard_size}: the {ranks} ranks cannot be split evenly into such parts.")
