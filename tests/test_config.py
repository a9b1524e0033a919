"""The command line: a user's mistake is answered by one sentence, and a run keeps the settings it has."""
import dataclasses
import json
import subprocess
import sys

import pytest

from ap.config import (
    EXPERT, MGPO, PARTS, PRODUCTS, SFT, SKILLS, SOLVER, Config, EpisodeSettings, RunSettings, SkillSettings,
    made_with,
)
from ap.files import UserError
from ap.presets import PRESETS
from ap.tools.commandline import load_config, parse_config, run_main, save_config, validate


@pytest.fixture
def out(tmp_path):
    return ["--out", str(tmp_path / "runs")]


def refused(argv, *words, uses=PARTS):
    with pytest.raises(UserError) as caught:
        parse_config(argv, "", uses)
    sentence = str(caught.value)
    assert "\n" not in sentence
    for word in words:
        assert word in sentence, sentence


def test_no_sft_needs_a_model(out):
    refused([*out, "--sft_steps", "0"], "--sft_steps 0", "give --model FOLDER")
    assert parse_config([*out, "--sft_steps", "1"], "").sft_steps == 1


def test_values_are_converted_to_the_types_of_the_fields(out):
    config = parse_config([*out, "--group_size", "4", "--lr=1e-4", "--placebo", "true", "--algorithm", "grpo"], "")
    assert (config.group_size, config.lr, config.placebo, config.algorithm) == (4, 1e-4, True, "grpo")
    assert config.steps == Config.steps  # a setting that is not given keeps its default


def test_a_preset_is_overridden_by_the_command_line(out, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    config = parse_config([*out, "--preset", "qwen3-4b", "--model", str(tmp_path), "--groups", "40"], "")
    assert (config.dtype, config.max_tokens, config.groups, config.name) == ("bfloat16", 16384, 40, "qwen3-4b")


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_consistent(preset, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    validate(Config(**{"preset": preset, "model": "" if preset == "mini" else str(tmp_path)} | PRESETS[preset]))


@pytest.mark.parametrize("argv, words", [
    (["--grop_size", "4"], ["--grop_size", "--group_size"]),  # the answer to a typing error suggests what was meant
    (["--group-size=4"], ["--group-size", "--group_size"]),
    (["--group_size", "four"], ["--group_size", "whole number", "four"]),
    (["--group_size", "4.0"], ["whole number"]),
    (["--group_size"], ["--group_size", "expected one argument"]),
    (["--lr", "fast"], ["--lr", "a number"]),
    (["--lr", "nan"], ["--lr"]),
    (["--lr", "-1"], ["--lr", "at least 0"]),
    (["--placebo", "yes"], ["--placebo", "true or false"]),
    (["--algorithm", "mgop"], ["mgop", "mgpo, grpo, grpo-fused, grpo-summed"]),
    (["--preset", "qwen"], ["qwen", "qwen3-4b", "qwen3-30b-a3b"]),
    (["4"], ["'4'"]),
    (["--preset", "qwen3-4b"], ["--model"]),
    (["--model", "./Qwen3-4B"], ["./Qwen3-4B", "config.json"]),
    (["--skills_min", "3", "--skills_max", "2"], ["--skills_min 3", "--skills_max 2"]),
    (["--group_size", "1"], ["--group_size 1", "at least 2"]),
    (["--groups", "24", "--updates", "5"], ["--groups 24", "--updates 5"]),
    (["--updates", "0"], ["--updates 0"]),
    (["--importance_limit", "0.5"], ["--importance_limit 0.5", "at least 1"]),
    (["--importance_limit", "2", "--updates", "2"], ["--importance_limit 2", "--updates 1"]),
    (["--reward", "azr", "--pass_rate", "passk"], ["--reward azr --pass_rate passk", "use --pass_rate rate"]),
    (["--reward", "r-zero", "--pass_rate", "passk"], ["--reward r-zero", "pays nothing"]),
    (["--solver_learn", "sft", "--solver_reward", "laser"], ["--solver_learn sft", "leave --solver_reward"]),
    (["--solver_learn", "sft", "--solver_replay", "2"], ["--solver_learn sft", "--solver_tokens out"]),
    (["--solver_reward", "adactrl"], ["[Easy] or [Hard]", "give --model"]),
    (["--solver_reward", "lazer"], ["lazer", "laser"]),
    (["--actions", "think,exce,submit"], ["'exce'", "exec"]),
    (["--actions", "think,exec"], ["submit"]),
    (["--temperature", "0"], ["--temperature"]),
    (["--tau_r", "1.5"], ["--tau_r 1.5", "between 0 and 1"]),
    (["--heads", "3"], ["--heads 3"]),
    (["--name", "a/b"], ["a/b"]),
])
def test_bad_input_is_told_in_one_sentence(out, argv, words):
    refused([*out, *argv], *words)


def test_more_ranks_than_groups_of_an_update(out, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")
    parse_config([*out, "--groups", "16", "--updates", "2"], "")
    refused([*out, "--groups", "16", "--updates", "4"], "8 ranks")


def test_ranks_that_cannot_share_weights_evenly(out, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert parse_config([*out, "--shard_size", "4"], "").shard_size == 4
    refused([*out, "--shard_size", "3"], "--shard_size 3", "8 ranks")


def test_a_script_has_only_the_settings_that_it_uses(out):
    uses = (RunSettings, SkillSettings)
    assert parse_config([*out, "--tau_r", "0.7"], "", uses).tau_r == 0.7
    refused([*out, "--lr", "1"], "--lr", "other scripts", uses=uses)


def test_a_model_starts_from_rates_that_do_not_destroy_it(out, tmp_path):
    """No preset takes a rate or a length of the miniature for a pretrained model, unless one says --preset mini."""
    (tmp_path / "config.json").write_text("{}")
    model = ["--model", str(tmp_path)]
    found = parse_config([*out, *model], "")
    assert (found.preset, found.name, found.lr, found.solver_lr) == ("small", "small", 1e-6, 1e-6)
    assert parse_config([*out, *model, "--preset", "mini", "--name", "x"], "").solver_lr == Config.solver_lr
    assert parse_config(out, "").preset == "mini" == parse_config([*out, "--model", ""], "").preset
    of_the_miniature = ("lr", "sft_lr", "solver_lr", "solver_max_tokens", "max_tokens", "sft_steps", "exec_timeout",
                        "solver_budget")
    for preset in PRESETS:
        for name in of_the_miniature if preset != "mini" else ():
            assert PRESETS[preset].get(name, getattr(Config, name)) != getattr(Config, name), (preset, name)


def test_a_run_of_a_model_keeps_its_preset(out, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    save_config(parse_config([*out, "--name", "a", "--preset", "qwen3-4b", "--model", str(tmp_path)], ""))
    again = parse_config([*out, "--name", "a", "--model", str(tmp_path)], "")  # not small: the run has its own
    assert (again.preset, again.dtype) == ("qwen3-4b", "bfloat16")


@pytest.mark.parametrize("argv, cuda, dtype", [
    ([], True, "bfloat16"), ([], False, "float32"), (["--device", "cpu"], True, "float32"),
    (["--dry_run", "true"], False, "bfloat16"), (["--dtype", "float32"], True, "float32"),
])
def test_the_number_format_suits_the_device(out, tmp_path, monkeypatch, argv, cuda, dtype):
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    (tmp_path / "config.json").write_text("{}")
    assert parse_config([*out, "--model", str(tmp_path), *argv], "").dtype == dtype


def test_help_shows_the_defaults_of_the_preset(capsys):
    with pytest.raises(SystemExit) as left:
        parse_config(["--preset", "qwen3-4b", "--help"], "What it is for.", (RunSettings, EpisodeSettings))
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert "What it is for." in text and "default: 16384" in text and "true|false" in text
    assert "--lr" not in text


def test_help_groups_the_settings_by_the_parts_of_a_run(capsys):
    with pytest.raises(SystemExit):
        parse_config(["--help"], "")
    text = capsys.readouterr().out
    headings = [line[:-1] for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert headings == ["options", *(part.__doc__ for part in PARTS)]
    assert text.index("stage 2:") < text.index("--sft_lr") < text.index("stage 3:") < text.index("--omega")
    assert all(f"\n  --{field.name} " in text for field in dataclasses.fields(Config))


def test_a_config_is_all_of_its_parts_in_their_order():
    names = [field.name for part in PARTS for field in dataclasses.fields(part)]
    assert names == list(dataclasses.asdict(Config())) and len(set(names)) == len(names)
    assert all(isinstance(Config(), part) for part in PARTS)


def test_a_product_offers_the_settings_that_matter_for_it(out):
    """Both those that shape it (clip_high) and those that do not (workers)."""
    uses = (RunSettings, SOLVER)
    config = parse_config([*out, "--clip_high", "0.28", "--workers", "2"], "", uses)
    assert (config.clip_high, config.workers) == (0.28, 2)
    refused([*out, "--omega", "1"], "--omega is a setting of other scripts; this one does not use it.", uses=uses)


def test_later_scripts_start_from_the_settings_of_the_run(out):
    first = parse_config([*out, "--name", "trial", "--group_size", "4", "--placebo", "true", "--lr", "2.5e-6"], "")
    save_config(first)
    assert load_config(first.folder) == first
    later = parse_config([*out, "--name", "trial", "--steps", "7"], "")
    assert later == dataclasses.replace(first, steps=7)


def test_a_setting_may_change_until_the_stage_that_used_it_is_there(out):
    config = parse_config(out, "")
    save_config(config)
    assert parse_config([*out, "--vocab_size", "512"], "").vocab_size == 512
    (config.folder / "skills").mkdir()
    (config.folder / "skills" / "candidates.jsonl").write_text("")
    refused([*out, "--vocab_size", "512"], "vocab_size = 1024, not 512", "--name")
    assert parse_config([*out, "--lr", "1e-5", "--sft_steps", "10"], "").lr == 1e-5
    (config.folder / "sft").mkdir()
    refused([*out, "--sft_steps", "10"], "sft_steps")
    refused([*out, "--hidden_size", "64"], "hidden_size")
    (config.folder / "mgpo").mkdir()
    refused([*out, "--algorithm", "grpo"], "algorithm = 'mgpo'", "--name")
    assert parse_config([*out, "--steps", "50"], "").steps == 50  # training longer contradicts nothing


def test_every_setting_belongs_to_a_stage_or_is_free():
    """A new setting must declare what it shapes, since it cannot change any more when that product exists."""
    fixed = {name for product in PRODUCTS for name in made_with(Config(), product)}
    free = {"preset", "name", "out", "device", "threads", "micro_batch_tokens", "shard", "shard_size", "offload",
            "recompute", "max_skipped", "max_collapsed", "save_every", "sft_save_every", "problems", "solver_arm",
            "solver_problems", "solver_learn", "solver_reward", "solver_replay", "solver_tokens", "allow_unsafe_exec",
            "reproducible", "workers", "dry_run", "gpus", "card_gb", "host_gb", "peak_tflops", "wandb", "revisions"}
    assert fixed | free == {field.name for field in dataclasses.fields(Config)} and not fixed & free


@pytest.mark.parametrize("product, shaping, others", [
    (SKILLS, {"seed", "domain", "model", "vocab_size", "tau_r", "reference"}, {"lr", "skills", "dtype"}),
    (EXPERT, {"seed", "sft_trajectories", "max_turns", "skills_min", "max_grad_norm"}, {"sft_steps", "temperature"}),
    (SFT, {"seed", "sft_lr", "acq_weight", "hidden_size", "dtype"}, {"sft_save_every", "tau_r", "omega"}),
    (MGPO, {"seed", "lr", "gate", "prober_floor", "roles", "overlong", "temperature"}, {"steps", "sft_lr", "workers"}),
    (SOLVER, {"solver_lr", "clip_high", "overlong", "skills_max", "dtype"}, {"seed", "solver_arm", "lr"}),
])
def test_what_a_product_was_made_with(product, shaping, others):
    made = made_with(Config(), product)
    assert shaping <= made.keys() and not others & made.keys()
    assert made.items() <= dataclasses.asdict(Config()).items()


def test_a_run_that_starts_from_the_reference_policy_of_another(out):
    first = parse_config([*out, "--name", "first", "--sft_steps", "30", "--group_size", "4", "--problems", "9"], "")
    save_config(first)
    compare = [*out, "--name", "second", "--reference", str(first.folder)]
    refused(compare, "--reference", "step-000030", "run_sft.py")
    (first.folder / "sft" / "step-000030").mkdir(parents=True)
    (first.folder / "mgpo").mkdir()
    second = parse_config([*compare, "--algorithm", "grpo", "--seed", "1"], "")
    assert second == dataclasses.replace(
        first, name="second", reference=str(first.folder), algorithm="grpo", seed=1, problems=0)
    refused([*compare, "--sft_lr", "1"], "sft_lr", str(first.folder))  # would silently not be used
    save_config(second)
    assert parse_config([*out, "--name", "second"], "") == second  # --reference need not be given again
    refused([*out, "--name", "third", "--reference", "nowhere"], "nowhere")


def test_the_preset_of_a_run_stays(out, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    save_config(parse_config(out, ""))
    refused([*out, "--name", "mini", "--preset", "qwen3-4b", "--model", str(tmp_path)], "--preset mini", "--name")


@pytest.mark.parametrize("text, words", [
    ("{\n\"seed\": 1,\n", ["config.json", "line 3"]),
    ('{"sead": 1}', ["config.json", "'sead'", "seed"]),
    ('{"seed": "one"}', ["config.json, seed", "whole number"]),
    ('{"placebo": 1}', ["config.json, placebo", "true or false"]),
    ("[]", ["config.json"]),
])
def test_a_spoilt_config_file_names_its_fault(out, tmp_path, text, words):
    folder = tmp_path / "runs" / "mini"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(text)
    refused(out, *words)


def test_a_folder_with_something_else_is_not_taken_for_a_run(out, tmp_path):
    folder = tmp_path / "runs" / "mini"
    folder.mkdir(parents=True)
    (folder / "expert.jsonl").write_text("")
    refused(out, "expert.jsonl", "config.json", "--name")


def test_a_run_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "runs").write_text("a file, not a folder")
    refused(["--out", str(tmp_path / "runs")], "runs", "--out")
    with pytest.raises(UserError, match="cannot write"):
        save_config(Config(out=str(tmp_path / "runs")))


def test_user_errors_end_a_script_with_code_2_and_one_line(tmp_path):
    code = "from ap.tools.commandline import parse_config, run_main\nrun_main(lambda argv: parse_config(argv, ''))"
    ended = subprocess.run([sys.executable, "-c", code, "--lrr", "1"], capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: unknown setting --lrr (did you mean --lr") and ended.stderr.count("\n") == 1


def test_programming_errors_are_not_hidden(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["script"])
    with pytest.raises(ZeroDivisionError):
        run_main(lambda argv: 1 / 0)


def test_the_saved_file_is_plain_json(out):
    config = parse_config(out, "")
    save_config(config)
    assert json.loads((config.folder / "config.json").read_text()) == dataclasses.asdict(config)
