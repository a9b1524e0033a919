"""The three stages from the command line, in tiny size: what they leave, that they survive kills, that ranks agree."""
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

import ap.tools.problems
import eval as evaluation_script
import run_mgpo
import run_sft
import run_skills
from ap.config import Config
from ap.files import UserError, write_jsonl
from ap.learn import checkpoint
from ap.learn.mgpo import compare
from ap.learn.ranks import Ranks
from ap.tools import evaluate_proposer
from ap.tools.commandline import run_main
from ap.tools.evaluate_proposer import read_episodes, trajectory_of
from ap.tools.problems import without_repeats
from ap.tools.summary import summary
from ap.trajectory import Problem, Trajectory, Turn
from ap.world.chat import STOP

ROOT = Path(__file__).parent.parent
STAGE_1 = {"corpus_size": 120, "device": "cpu"}
STAGE_2 = {  # it learns enough from the expert that its episodes use the tools and earn different rewards
    "hidden_size": 32, "layers": 2, "heads": 2, "intermediate_size": 64, "max_tokens": 256, "max_turns": 8,
    "sft_trajectories": 64, "sft_steps": 120, "sft_batch": 8, "acq_batch": 2, "sft_lr": 1e-2, "sft_save_every": 60,
    "eval_sets": 8,
}
STAGE_3 = {"groups": 2, "group_size": 4, "steps": 3, "save_every": 1}


def options(folder, settings):
    given = {"out": folder.parent, "name": folder.name} | settings
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


def environment(**variables):
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | variables


def command(script, folder, settings, ranks=1):
    """A command of the README, but run from another working folder."""
    launcher = [sys.executable]
    if ranks > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    return [*launcher, str(ROOT / script), *options(folder, settings)]


def run(script, folder, settings, ranks=1):
    done = subprocess.run(command(script, folder, settings, ranks), env=environment(), cwd=folder.parent,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def parameters(checkpoint):
    return load_file(checkpoint / "model.safetensors")


def metrics(folder, name="metrics"):
    """The lines of a JSONL, without what a clock or the system measured."""
    lines = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
    clocked = ("seconds", "tokens_per_second", "peak_memory")
    return [{key: value for key, value in line.items() if not key.startswith(clocked)} for line in lines]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def prepared(runs):
    """A run after stages 1 and 2. Do not write into it."""
    assert "12 kept" in run("run_skills.py", runs / "prepared", STAGE_1)
    assert "expert:" in run("run_sft.py", runs / "prepared", STAGE_1 | STAGE_2)
    return runs / "prepared"


def copy(prepared, name):
    return Path(shutil.copytree(prepared, prepared.parent / name))


@pytest.fixture(scope="module")
def finished(prepared):
    """The same after stage 3, and what it printed. Do not write into it."""
    folder = copy(prepared, "finished")
    return folder, run("run_mgpo.py", folder, STAGE_3)


# ---------------------------------------------------------------- what is left


def test_stages_1_and_2_leave_what_they_promise(prepared):
    for name in ("config.json", "corpus.jsonl", "acquisition.jsonl", "tokenizer/tokenizer.json",
                 "skills/candidates.jsonl", "skills/shift/SKILL.md", "expert.jsonl", "expert_reasons.json"):
        assert (prepared / name).stat().st_size > 0, name
    expert = [json.loads(line) for line in (prepared / "expert.jsonl").read_text().splitlines()]
    assert len(expert) == 64 and all(record["valid"] and record["outcome"] == "submitted" for record in expert)
    assert {turn["action"] for record in expert for turn in record["turns"]} == {"think", "exec", "edit", "submit"}
    assert {path.name for path in (prepared / "sft").iterdir()} == {"step-000060", "step-000120"}
    losses = [record["sft_loss"] for record in metrics(prepared, "sft_metrics")]
    assert len(losses) == 120 and losses[-1] < 0.3 * losses[0]


def test_stage_3_leaves_what_it_promises(finished):
    folder, printed = finished
    for name in ("trajectories.jsonl", "report.html", "evaluation_before.json", "evaluation_after.json"):
        assert (folder / name).stat().st_size > 0, name
    assert (folder / "problems.jsonl").exists()
    assert {path.name for path in (folder / "mgpo").iterdir()} == {"step-000002", "step-000003"}  # the last two
    assert [record["step"] for record in metrics(folder)] == [1, 2, 3]
    for record in metrics(folder):
        ends = ("submitted", "turn_limit", "token_limit", "unusable")
        assert sum(record[f"outcome/{end}"] for end in ends) == pytest.approx(1)
        assert 0 <= record["repeated_rate"] < 1
        assert record["grad_norm"] > 1e-3 and not record["skipped"]  # there was something to learn from
        assert abs(record["log_ratio_abs"]) < 1e-5  # sampled and scored by the same distribution
    assert sum(record["exec_calls"] for record in metrics(folder)) > 0
    assert "8 skill sets that training never drew" in printed and "report.html" in printed


def test_a_checkpoint_is_an_ordinary_model(finished):
    from transformers import AutoModelForCausalLM, AutoTokenizer
    folder, _ = finished
    model = AutoModelForCausalLM.from_pretrained(folder / "mgpo" / "step-000003")
    tokenizer = AutoTokenizer.from_pretrained(folder / "mgpo" / "step-000003")
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], add_generation_prompt=True,
                                        return_tensors="pt", return_dict=False)
    assert model(ids).logits.shape[-1] == len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids(STOP)  # generate() ends a message
    before = parameters(folder / "sft" / "step-000120")
    after = parameters(folder / "mgpo" / "step-000003")
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_finished_run_is_found_again(finished):
    """The same command once more computes nothing and changes nothing but the page. A problem that the trained proposer
    wrote stands behind those of training, and stays."""
    folder = copy(finished[0], "again")
    with open(folder / "problems.jsonl", "a") as file:
        file.write(json.dumps({"step": 4, "question": "a is 1. Find a.", "answer": "1"}) + "\n")
    found = [path for path in folder.rglob("*") if path.is_file() and path.name not in ("config.json", "report.html")]
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in found}  # the bytes alone may be made again
    run_mgpo.main(options(folder, {"problems": 1}))
    assert [path for path in found if (path.read_bytes(), path.stat().st_mtime_ns) != before[path]] == []


# ---------------------------------------------------------------- the same numbers


def test_killed_and_started_again(finished, prepared, capsys):
    """SIGKILL after the first checkpoint; the same command ends with the same bits and the same metrics."""
    straight, _ = finished
    folder = copy(prepared, "killed")
    with subprocess.Popen(command("run_mgpo.py", folder, STAGE_3), env=environment(), stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL, start_new_session=True) as process:
        deadline = time.monotonic() + 120
        while not (folder / "mgpo" / "step-000001").exists() and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert (folder / "mgpo" / "step-000001").exists() and not (folder / "evaluation_after.json").exists()
    run_mgpo.main(options(folder, STAGE_3))
    assert "continuing after step" in capsys.readouterr().out
    whole, again = (parameters(path / "mgpo" / "step-000003") for path in (straight, folder))
    assert whole.keys() == again.keys() and all(torch.equal(whole[name], again[name]) for name in whole)
    for name in ("metrics", "problems", "trajectories"):
        assert metrics(folder, name) == metrics(straight, name)
    for name in ("evaluation_before.json", "evaluation_after.json"):
        assert (folder / name).read_text() == (straight / name).read_text()


def test_stages_1_and_2_again_and_from_their_middle(prepared, runs, monkeypatch):
    """The same seed gives the same files; and SFT that ended at its first checkpoint goes on to the same bits."""
    folder, settings, save = runs / "twin", STAGE_1 | STAGE_2, checkpoint.save

    def saved_and_killed(*arguments, **options):
        save(*arguments, **options)
        raise KeyboardInterrupt

    run_skills.main(options(folder, STAGE_1))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "save", saved_and_killed)
        run_sft.main(options(folder, settings))
    assert [path.name for path in (folder / "sft").iterdir()] == ["step-000060"]
    run_sft.main(options(folder, settings))
    for name in ("corpus.jsonl", "acquisition.jsonl", "expert.jsonl", "expert_reasons.json", "skills/candidates.jsonl"):
        assert (folder / name).read_text() == (prepared / name).read_text(), name
    assert metrics(folder, "sft_metrics") == metrics(prepared, "sft_metrics")
    one, other = (parameters(path / "sft" / "step-000120") for path in (folder, prepared))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def two_ranks(prepared):
    """Stage 3 in two processes: with whole weights on each, and with weights in pieces.

    They are forked from one that has imported everything; torchrun starts them in the test of the rank that is killed.
    """
    folders = {shard: copy(prepared, f"two_ranks_{shard}") for shard in ("false", "true")}
    calls = [options(folder, STAGE_3 | {"shard": shard}) for shard, folder in folders.items()]
    script = f"""
import sys
sys.path[:0] = [{str(ROOT / "tests")!r}]
from test_shard import launch
import run_mgpo
for argv in {calls!r}:
    launch(2, lambda argv, world: run_mgpo.main(argv), argv)
"""
    subprocess.run([sys.executable, "-c", script], cwd=prepared.parent, check=True, timeout=240, env=environment())
    return folders


@pytest.mark.parametrize("shard", ["false", "true"])
def test_two_ranks_are_one(finished, prepared, two_ranks, shard):
    """The same trajectories and, up to the order of sums, the same parameters."""
    straight, folder = finished[0], two_ranks[shard]
    for one, two in zip(metrics(straight), metrics(folder), strict=True):
        for name in one.keys() - {"padding"}:  # which depends on who has which rows
            assert two[name] == pytest.approx(one[name], rel=1e-3, abs=1e-5), name
    start = parameters(prepared / "sft" / "step-000120")
    one, two, start = (torch.cat([weights[name].flatten() for name in sorted(weights)]) for weights in (
        *(parameters(path / "mgpo" / "step-000003") for path in (straight, folder)), start))
    # 3 updates of lr 1e-3: Adam makes a full step even of a gradient that is only rounding, so a few weights of 45,000
    # may differ by more, which depends on the machine. Gradients are compared in test_update.py.
    assert ((one - two).abs() > 1e-5).double().mean() < 1e-3
    assert (one - two).norm() < 1e-3 * (one - start).norm()


def test_one_of_two_ranks_is_killed_and_all_start_again(two_ranks, prepared):
    """SIGKILL of a rank with sharded weights: torchrun ends the other; the same command ends with the same bits and
    problems as the undisturbed run of two ranks. bench/kills.py does this at random moments."""
    straight, folder = two_ranks["true"], copy(prepared, "one_killed")
    settings = STAGE_3 | {"shard": "true"}
    with subprocess.Popen(command("run_mgpo.py", folder, settings, ranks=2), env=environment(), text=True,
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not (folder / "mgpo" / "step-000001").exists() and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.005)
        listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
        os.kill(int(listed.stdout.split()[-1]), signal.SIGKILL)
        began = time.monotonic()
        assert process.wait(60) != 0 and time.monotonic() - began < 60
    assert not (folder / "evaluation_after.json").exists()
    assert "continuing after step" in run("run_mgpo.py", folder, settings, ranks=2)
    whole, again = (parameters(path / "mgpo" / "step-000003") for path in (straight, folder))
    assert whole.keys() == again.keys() and all(torch.equal(whole[name], again[name]) for name in whole)
    for name in ("metrics", "problems", "trajectories"):
        assert metrics(folder, name) == metrics(straight, name)


def test_a_problem_written_twice_in_one_step_is_kept_once():
    """It is the first one by group and member; problems are equal if they have the same canonical form."""
    def wrote(question, group):
        return Trajectory([], [], [], [], [], (), group=group, problem=Problem(question, "1"), valid=True)

    accepted = [wrote("One?", 0), wrote("Two?", 0), wrote("ONE?", 0), wrote("two?", 3), wrote("three?", 3)]
    assert without_repeats(accepted, str.lower) == {
        "one?": accepted[0], "two?": accepted[1], "three?": accepted[4]}
    assert without_repeats([], str.lower) == {}


@pytest.fixture
def writing(tmp_path, monkeypatch):
    """write_problems with a proposer that writes one of 40 problems in each episode, two thirds of them valid.

    Returns a function (folder, problems): write, and give the lines of its problems.jsonl.
    """
    def roll_out(env, policy, starts, config):
        wrote = [random.Random(start.key).randrange(40) for start in starts]
        return [Trajectory([], [], [], [], [], start.skills, group=start.group,
                           problem=Problem(f"Q{number}", "1", start.skills)) for number, start in zip(wrote, starts)]

    def judge(rollout, known):
        for t in rollout:
            t.valid = world.is_valid(t.problem.question) and t.problem.question.lower() not in known
        return rollout

    monkeypatch.setattr(ap.tools.problems, "roll_out", roll_out)
    monkeypatch.setattr(ap.tools.problems, "Judge", lambda *_: judge)
    world = SimpleNamespace(
        cast=SimpleNamespace(players={}),
        env=None, tokenizer=None, committee=None, prober=None, known=frozenset({"q1"}),
        domain=SimpleNamespace(canonical=str.lower), curriculum=SimpleNamespace(draw=lambda rng: ("shift", "pick")),
        is_valid=lambda question: int(question[1:]) % 3 != 2)

    def write(name, problems, valid=world.is_valid):
        world.is_valid = valid
        config = Config(out=str(tmp_path), name=name, steps=2, groups=3, group_size=2, problems=problems)
        path = config.folder / "problems.jsonl"
        if not path.exists():  # what training left
            write_jsonl(path, [{"step": 1, "question": "Q0"}, {"step": 2, "question": "Q3"}])
        ap.tools.problems.write_problems(world, SimpleNamespace(counts={}), config, Ranks())
        return path.read_text().splitlines()

    return write


def test_the_trained_proposer_writes_more_problems(writing):
    lines = writing("run", 12)
    records = [json.loads(line) for line in lines]
    assert [record["question"] for record in records[:2]] == ["Q0", "Q3"]  # those of training stay
    questions = [record["question"] for record in records]
    assert len(set(questions)) == len(questions) >= 2 + 12 and "Q1" not in questions  # each once, none known
    steps = [record["step"] for record in records[2:]]
    assert steps == sorted(steps) and steps[0] == 3
    assert len(lines) - 2 - steps.count(steps[-1]) < 12  # and no more steps than needed
    assert writing("run", 0) == lines  # nothing to do, nothing changed


def test_writing_problems_goes_on_after_a_kill(writing, monkeypatch):
    lines = writing("straight", 12)
    real = ap.tools.problems.write_jsonl

    def killed(path, records):
        real(path, records)
        raise KeyboardInterrupt

    monkeypatch.setattr(ap.tools.problems, "write_jsonl", killed)
    with pytest.raises(KeyboardInterrupt):
        writing("killed", 12)
    monkeypatch.setattr(ap.tools.problems, "write_jsonl", real)
    assert writing("killed", 12) == lines


def test_a_proposer_that_writes_nothing_valid_is_given_up(writing):
    assert len(writing("run", 12, valid=lambda question: False)) == 2


# ---------------------------------------------------------------- other arms


@pytest.mark.parametrize("algorithm, omega, expected", [
    ("mgpo", 0.5, [1.140, 0.274, -0.274, -1.140]), ("mgpo", 0.0, [0.707, 0.707, -0.707, -0.707]),
    ("grpo", 0.5, [0.707, 0.707, -0.707, -0.707]), ("grpo-fused", 0.5, [1.140, 0.274, -0.274, -1.140]),
])
def test_which_advantages_an_algorithm_compares_by(algorithm, omega, expected):
    """Two episodes of two actions in one stage, by hand. Rewards 1 and 0 have std sqrt(1/2): A_E = +-0.707; process
    rewards 1, -1, 1, -1 have std sqrt(4/3): A_S = +-0.866."""
    episodes = [
        Trajectory([], [], [], [], [Turn("think", 0, 0, 1, {}, r) for r in (1.0, -1.0)], (), reward=reward)
        for reward in (1.0, 0.0)]
    compare(episodes, Config(algorithm=algorithm, omega=omega), "key")
    assert [turn.advantage for t in episodes for turn in t.turns] == pytest.approx(expected, abs=1e-3)


def test_summed_process_rewards_are_part_of_the_episode():
    """By hand: 1 + 0.5 (-1 - 1) = 0 and 0 + 0.5 (1 + 1) = 1, so the second episode is the better one: A_E = -+0.707.
    All actions of an episode have the same advantage."""
    episodes = [
        Trajectory([], [], [], [], [Turn("think", 0, 0, 1, {}, r) for _ in range(2)], (), reward=reward)
        for reward, r in ((1.0, -1.0), (0.0, 1.0))]
    compare(episodes, Config(algorithm="grpo-summed"), "key")
    assert [turn.advantage for t in episodes for turn in t.turns] == pytest.approx([-0.707] * 2 + [0.707] * 2, abs=1e-3)
    assert [t.reward for t in episodes] == [1.0, 0.0]  # the reported reward is r_T


@pytest.mark.parametrize("arm, checkpoints", [
    ({"algorithm": "mgpo", "placebo": "true", "lr": 5e-4, "max_grad_norm": 0.05, "steps": 1}, ["step-000001"]),
    ({"algorithm": "grpo-fused", "updates": 2, "overlong": 1.0, "save_every": 2}, ["step-000002", "step-000003"]),
])
def test_an_arm_starts_from_the_reference_of_another_run(prepared, finished, runs, arm, checkpoints):
    """--reference: stages 1 and 2 of another folder, so that arms differ in stage 3 only, and begin with the same
    episodes. What other settings do to an update is shown in test_settings_reach.py; here, what the loop makes of its
    own ones."""
    folder = runs / arm["algorithm"]
    run_mgpo.main(options(folder, {"reference": prepared} | STAGE_3 | arm))
    assert not (folder / "sft").exists() and not (folder / "expert.jsonl").exists()
    records, [straight, *_] = metrics(folder), metrics(finished[0])
    assert len(records) == arm.get("steps", STAGE_3["steps"]) and not any(record["skipped"] for record in records)
    assert sorted(path.name for path in (folder / "mgpo").iterdir()) == checkpoints
    assert records[0]["tokens"] == straight["tokens"] and records[0]["valid_rate"] == straight["valid_rate"]
    assert records[0]["reward"] == straight["reward"]
    if arm.get("overlong"):  # each token costs 1 / 256; what was cut costs 1, like 256 of them
        loss = straight["tokens"] / STAGE_2["max_tokens"]
        assert records[0]["overlong_penalty"] == pytest.approx(-loss, abs=0.02)
    if arm["algorithm"] == "mgpo":  # the first step of Adam: lr for each weight, and a tenth of the clipped gradient
        last, before = folder / "mgpo" / "step-000001", parameters(prepared / "sft" / "step-000120")
        moved = torch.cat([(weight - before[name]).flatten().abs() for name, weight in parameters(last).items()])
        assert moved.max().item() == pytest.approx(5e-4, rel=0.01)
        moments = [tensor for file in (last / "training").iterdir() for name, tensor in load_file(file).items()
                   if name.endswith(".exp_avg")]
        assert torch.cat([moment.flatten() for moment in moments]).norm().item() == pytest.approx(0.005, rel=1e-3)


# ---------------------------------------------------------------- bad input


def refused(module, argv, monkeypatch, capsys, *words):
    """Exit code 2 and one line on stderr that holds these words."""
    monkeypatch.setattr(sys, "argv", ["script", *map(str, argv)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        run_main(module.main)
    captured = capsys.readouterr().err.strip()
    assert end.value.code == 2
    assert captured.startswith("error: ") and "\n" not in captured
    for word in words:
        assert str(word) in captured, captured


def test_as_a_command(runs):
    done = subprocess.run([sys.executable, str(ROOT / "run_mgpo.py"), "--preset", "minni"], env=environment(), cwd=runs,
                          capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: unknown preset 'minni' (did you mean mini?); choose among mini, small, qwen3-4b, qwen3-30b-a3b.\n")


@pytest.mark.parametrize("argv, words", [
    (["--beeta", "1"], ["--beeta", "--beta"]), (["--steps", "many"], ["--steps"]), (["--groups", "0"], ["--groups"]),
    (["--actions", "think"], ["submit"]), (["--preset", "qwen3-4b"], ["--model"]),
    (["--model", "nowhere"], ["nowhere"]),
])
def test_bad_settings(runs, monkeypatch, capsys, argv, words):
    refused(run_mgpo, ["--out", runs / "bad", *argv], monkeypatch, capsys, *words)
    assert not (runs / "bad").exists()


def test_more_processes_than_groups(runs, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "4")
    refused(run_mgpo, ["--out", runs / "bad", "--groups", "2"], monkeypatch, capsys, "4 ranks")


def test_an_output_that_cannot_be_written(runs, monkeypatch, capsys):
    (runs / "a_file").write_text("not a folder")
    refused(run_skills, ["--out", runs / "a_file"], monkeypatch, capsys, "a_file")


@pytest.mark.parametrize("lines, words", [
    ('{"question": "q", "answer": "1"}\n{"question": \n', ["line 2", "not valid JSON"]),
    ('{"question": "q"}\n', ["line 1", "answer"]), ("", ["no records"]),
    ('{"question": "What is love?", "answer": "1"}\n', ["no skill reached tau_r"]),
])
def test_a_broken_corpus(tmp_path, monkeypatch, capsys, lines, words):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(lines)
    refused(run_skills, options(tmp_path / "run", {"corpus": corpus}), monkeypatch, capsys, *words)


def test_a_malformed_skill(prepared, tmp_path, monkeypatch, capsys):
    (tmp_path / "own" / "juggle").mkdir(parents=True)
    (tmp_path / "own" / "juggle" / "SKILL.md").write_text("---\nname: juggle\ncategory: [\n---\nThrow.\n")
    argv = options(tmp_path / "run", {"reference": prepared} | STAGE_3) + ["--skills", tmp_path / "own"]
    refused(run_mgpo, argv, monkeypatch, capsys, "juggle/SKILL.md, line ", "YAML")
    shutil.copytree(prepared / "skills", tmp_path / "run" / "skills")  # stage 1 refuses as well, and loses nothing
    argv = options(tmp_path / "run", {"skills": tmp_path / "own"})
    refused(run_skills, argv, monkeypatch, capsys, "juggle/SKILL.md, line ", "YAML")


def test_a_skills_folder_that_was_emptied(own_tiny, monkeypatch, capsys):
    for package in own_tiny.folder.glob("skills/*/"):
        shutil.rmtree(package)
    argv = options(own_tiny.folder, {"skills": own_tiny.skills})
    refused(run_sft, argv, monkeypatch, capsys, own_tiny.folder / "skills", "no skills here")


def test_gradients_that_stay_broken(prepared, tmp_path, monkeypatch):
    """The run ends; its earlier checkpoints are there, and a run with another name can start from them."""
    folder = Path(shutil.copytree(prepared, tmp_path / "broken"))
    shutil.rmtree(folder / "sft" / "step-000120")
    monkeypatch.setattr("ap.learn.sft.sft_loss", lambda logprobs, mask: logprobs.sum() * float("nan"))
    with pytest.raises(UserError, match="gradients of 3 updates in a row were not finite.*--name"):
        run_sft.main(options(folder, {"max_skipped": 3}))
    assert [path.name for path in (folder / "sft").iterdir()] == ["step-000060"]
    assert [line["skipped"] for line in metrics(folder, "sft_metrics")[60:]] == [1.0, 1.0]


def test_a_policy_that_a_learning_rate_destroys_ends_the_run(prepared, tmp_path):
    """One update of an absurd rate; the next rollout shows it, the run says what to lower, and what there was stays."""
    folder = Path(shutil.copytree(prepared, tmp_path / "collapsed"))
    with pytest.raises(UserError, match=r"the policy has collapsed.*step 2 against the first.*lower --lr"):
        run_mgpo.main(options(folder, STAGE_3 | {"lr": 30, "max_collapsed": 1}))
    assert [path.name for path in (folder / "mgpo").glob("step-*")] == ["step-000001"]
    assert len(metrics(folder)) == 2 and not (folder / "evaluation_after.json").exists()


def test_a_spoilt_expert_file(own_tiny, monkeypatch, capsys):
    (own_tiny.folder / "expert.jsonl").write_text('{"ids": [1, 2\n')
    argv = options(own_tiny.folder, {"skills": own_tiny.skills})
    refused(run_sft, argv, monkeypatch, capsys, "expert.jsonl, line 1")


# ---------------------------------------------------------------- a proposer evaluated alone


def test_the_proposer_alone_has_the_numbers_of_its_run(finished, prepared, tmp_path, capsys):
    """The last checkpoint, by eval.py --run: the episodes of evaluation_after.json, and all that its summary says."""
    folder, out = finished[0], tmp_path / "after"
    argv = ["--run", str(folder), "--device", "cpu"]
    evaluation_script.main(["--proposer", str(folder / "mgpo" / "step-000003"), "--out", str(out), *argv])
    printed, episodes = capsys.readouterr().out, read_episodes(out / "proposer.jsonl")
    theirs = json.loads((folder / "evaluation_after.json").read_text())
    for name in ("valid", "reward", "skills"):
        assert [episode[name] for episode in episodes] == theirs[name]
    assert summary([trajectory_of(episode) for episode in episodes]) == theirs["summary"]
    for episode, transcript in zip(episodes, theirs["transcripts"], strict=True):
        assert [(turn["text"], turn["observation"]) for turn in episode["turns"]] == [
            (turn["text"], turn["observation"]) for turn in transcript["turns"]]
    valid = sum(theirs["valid"]) / 8
    assert f"valid problems, share of episodes                             {valid:8.3f}  [" in printed
    assert "8 episodes on 8 skill sets" in printed and "tokens/s" in printed

    # pi_ref with two episodes on each of five sets, paired with itself and with the file above
    pi_ref = ["--proposer", str(folder / "sft" / "step-000120"), "--out", str(tmp_path / "before"), *argv]
    evaluation_script.main([*pi_ref, "--compare", str(out / "proposer.jsonl")])
    assert "difference to" in capsys.readouterr().out
    before = json.loads((folder / "evaluation_before.json").read_text())
    assert [episode["valid"] for episode in read_episodes(tmp_path / "before" / "proposer.jsonl")] == before["valid"]
    evaluation_script.main([*pi_ref, "--k", "2", "--count", "5"])
    twice = read_episodes(tmp_path / "before" / "proposer.jsonl")
    assert [episode["valid"] for episode in twice[::2]] == before["valid"][:5] and len(twice) == 10
    capsys.readouterr()
    with pytest.raises(UserError, match="not the same skill sets"):
        evaluation_script.main(["--correctness", str(tmp_path / "before" / "proposer.jsonl"),
                                "--compare", str(out / "proposer.jsonl")])


def test_a_killed_evaluation_of_a_proposer_goes_on(finished, tmp_path, capsys, monkeypatch):
    """Killed after three episodes; the others are played, and the file is the same as without."""
    folder, made, kill = finished[0], [], 3
    record = evaluate_proposer.record_of

    def recorded(run, trajectory):
        if len(made) == kill:
            raise KeyboardInterrupt
        made.append(trajectory.group)
        return record(run, trajectory)

    def evaluated(out):
        evaluation_script.main(["--proposer", str(folder / "mgpo" / "step-000003"), "--out", str(tmp_path / out),
                                "--run", str(folder), "--device", "cpu"])
        return (tmp_path / out / "proposer.jsonl").read_text()

    monkeypatch.setattr(evaluate_proposer, "record_of", recorded)
    with pytest.raises(KeyboardInterrupt):
        evaluated("killed")
    before, made[:], kill = list(made), [], None
    assert len(before) == 3
    again = evaluated("killed")
    assert sorted(made + before) == list(range(8)) and "continuing after 3 of 8 episodes" in capsys.readouterr().out
    assert again == evaluated("straight")
