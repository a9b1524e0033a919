"""All stages in each domain that models judge, with tiny local checkpoints in every role, run by our own engine.

Random weights say nothing sensible: with them a stage must end, or refuse in one clear sentence, and every abstention
must be counted. To give the stages something to work with, other checkpoints of the same size are trained for seconds
to say what a script says (`record`): the whole chain then runs on their own words, sampled token by token, some of them
wrong. One of their tokens is a whole line of text. That says nothing about the method; it shows that the stages fit
together, that nothing is lost between them, and that the counts are right.
"""
import json
import random
import zlib
from collections import Counter
from pathlib import Path

import pytest
import torch
from conftest import script as import_file

import eval as evaluation_script
import run_mgpo
import run_sft
import run_skills
import run_solver
from ap.catalog import open_domain
from ap.compat.chat_format import TOOLS_HEAD, TOOLS_TAIL
from ap.config import Config
from ap.domains.code import Code
from ap.engine.model import build_model, token_logprobs
from ap.files import UserError, read_json, read_jsonl, write_json, write_jsonl
from ap.judge.rewards import terminal_reward
from ap.learn.batch import collate
from ap.learn.losses import sft_loss
from ap.mini.tokenizer import build_tokenizer
from ap.players.checkpoint import Checkpoint
from ap.tools import export
from ap.tools.evaluate_proposer import read_episodes, trajectory_of
from ap.tools.evaluation import read_correctness
from ap.tools.summary import summary
from ap.trajectory import Trajectory
from ap.world.chat import STOP, TOOLS, encode, prompt_ids, tool_call
from ap.world.env import INSTRUCTIONS
from ap.world.skills import Skill, write_skill


def add(sign):
    return f"```python\na, b = map(int, input().split())\nprint(a {sign} b)\n```"


def task(word, *outputs):
    tests = [{"input": given, "output": output} for given, output in zip(("1 2", "0 0", "5 7"), outputs)]
    return (f"Read two whole numbers from one line and print their {word}.\n\n### Solution\n"
            f"{add({'sum': '+', 'product': '*'}[word])}\n\n### Tests\n```json\n{json.dumps(tests)}\n```")


PROBLEMS = {  # domain -> draft, check, right answer, wrong answer
    "math": [("Find the least n with n = 2 mod 3 and n = 3 mod 5.", "print('answer: 8')", r"\boxed{8}", r"\boxed{7}"),
             ("How many whole numbers divide 12 without a rest?", "print('answer: 6')", r"\boxed{6}", r"\boxed{5}")],
    "code": [(task("sum", "3", "0", "12"), Code.check_program, add("+"), add("-")),
             (task("product", "2", "0", "35"), Code.check_program, add("*"), add("-"))],
    "science": [("Which force acts on 2 kg at 3 m/s^2?\nA) 5 N\nB) 6 N\nC) 1.5 N", "print('answer: B')", r"\boxed{B}",
                 r"\boxed{A}"),
                ("How far does light go in 2 s, in km?", "print('answer: 6e5 km')", r"\boxed{6e5 km}", r"\boxed{3}")],
}
CORPUS = [("What is one and one?", "Count on your fingers, one by one."), ("What is the rest?", "Go round and round."),
          ("Who are you?", "Nobody.")]
SKILLS = [{"name": name, "category": "first", "intent": intent, "difficulty": "one step", "quote": quote,
           "tool": "exec", "recognise": "Numbers.", "build": "Say them."}
          for name, intent, quote in (("fingers", "count objects singly", "one by one"),
                                      ("circle", "wrap around a modulus", "round and round"))]


def script(domain, prompt, number):
    """The reply of a player; `number`, which is as good as random, decides where there is a choice."""
    problems = PROBLEMS[domain]
    about = next((problem for problem in problems if problem[0].split("\n\n")[0] in prompt), None)
    if "Which reasoning skills" in prompt:
        return json.dumps([skill for skill in SKILLS if skill["quote"] in prompt])
    if "Score a reasoning skill" in prompt:
        return '{"general": 9, "composable": 8, "checkable": 10, "faithful": 9}'
    if "--- episode so far ---" in prompt:
        said = prompt.count("[agent]\n")
        drafts = [f"<problem>{draft}</problem>" for draft, *_ in problems]
        first = [*drafts, *drafts, tool_call("submit")][number % 5]  # one in five submits without a draft
        return [first, tool_call("exec", code=about and about[1] or ""), tool_call("submit")][min(said, 2)]
    if "Judge whether" in prompt:
        answer = about[2].removeprefix("\\boxed{").removesuffix("}")
        verdict = {"valid": True, "reason": "valid"}
        return f"{answer}\n{json.dumps(verdict)}" if domain == "code" else json.dumps(verdict | {"answer": answer})
    return about[2 + number % 2]


def options(folder, name, domain, model, **more):
    # A model of this size learns at the rates of the miniature, and its script knows no mended messages.
    settings = {"out": folder, "name": name, "domain": domain, "model": model, "device": "cpu", "preset": "mini"} | more
    return [word for key, value in settings.items() for word in (f"--{key}", str(value))]


def roles(folder, **players):
    """The path of a new roles file; players: verifier-1 to verifier-3 and the rest, each a folder."""
    def player(name):
        settings = {"temperature": 0.1} if name.startswith(("verifier", "auditor")) else {}
        return {"checkpoint": str(players[name]), "max_tokens": 4} | settings

    path = folder / f"roles-{players['teacher'].name}.json"
    write_json(path, {"verifiers": [player(f"verifier-{n}") for n in (1, 2, 3)], "auditor": player("auditor"),
                      "teacher": player("teacher"), "probers": [player("prober-1"), player("prober-2")],
                      **{name: player(name) for name in ("critic",) if name in players}})
    return path


def everybody(folder):
    players = "verifier-1", "verifier-2", "verifier-3", "auditor", "teacher", "prober-1", "prober-2"
    return dict.fromkeys(players, folder)


SMALL = {"hidden_size": 64, "layers": 2, "heads": 2, "intermediate_size": 128}
CHAIN = {"skills_min": 1, "skills_max": 2, "eval_sets": 1, "sft_trajectories": 12, "prober_k": 4, "max_tokens": 200,
         "max_turns": 4}


def record(domain, folder, corpus, monkeypatch):
    """All pairs (prompt, reply) of stages 1 and 2 when the script plays all roles."""
    pairs = []

    def said(self, prompt, keys):
        replies = [script(domain, prompt, zlib.crc32(key.encode())) for key in keys]
        pairs.extend((prompt.replace("<|", "< |"), reply) for reply in replies)  # as Checkpoint.replies does
        return replies

    save(build_tokenizer(["a b"], [], 600), folder / "bytes")
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "replies", said)
        run_sft.main(options(folder, "script", domain, folder / "bytes", corpus=corpus, sft_steps=1, **CHAIN | {
            "max_tokens": 20_000, "micro_batch_tokens": 20_000, "sft_batch": 1, "acq_batch": 1,
            "prober_k": 2, "roles": roles(folder, **everybody(folder / "bytes"))}))
    return sorted(pairs)  # threads ask in any order


def save(tokenizer, folder, pairs=(), steps=160):
    """Save a checkpoint with random weights, or trained to give each prompt its replies as often as in `pairs`."""
    model, replies, rng = build_model(Config(**SMALL), len(tokenizer), seed=0), {}, random.Random(0)
    for prompt, reply in pairs:
        replies.setdefault(prompt, []).append(reply)
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)

    def example(prompt):
        ids = prompt_ids(tokenizer, [{"role": "user", "content": prompt}])
        return Trajectory.of_pieces([(ids, 0), (encode(tokenizer, rng.choice(replies[prompt]) + STOP), 1)])

    for _ in range(steps if pairs else 0):
        batch = collate([example(prompt) for prompt in rng.sample(list(replies), 12)], tokenizer.pad_token_id)
        loss = sft_loss(token_logprobs(model, batch.ids, batch.loss_mask)[0], batch.loss_mask) / batch.loss_mask.sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    # What other engines need in order to sample and to stop.
    model.generation_config.update(do_sample=True, eos_token_id=tokenizer.eos_token_id)
    for part in (model, tokenizer):
        part.save_pretrained(folder)


@pytest.fixture(scope="module", params=["math", "code", "science"])
def players(request, tmp_path_factory):
    return request.param, make_players(request.param, tmp_path_factory.mktemp(request.param))


def make_players(domain, folder):
    """Write into the folder a corpus and three checkpoints: `trained`, and with random weights `random` and `policy`.

    Every line of the prompts is one token; for `trained` and `policy` so is every reply.
    """
    write_jsonl(folder / "corpus.jsonl", [{"question": q, "answer": "2", "solution": s} for q, s in CORPUS])
    with pytest.MonkeyPatch.context() as monkeypatch:
        pairs = record(domain, folder, folder / "corpus.jsonl", monkeypatch)
    tools = "".join("\n" + json.dumps(tool) for tool in TOOLS.values())
    own = f"{INSTRUCTIONS}\n{open_domain(domain).instructions}{TOOLS_HEAD}{tools}{TOOLS_TAIL}"  # the policy's first
    shown = [own, *(prompt for prompt, _ in pairs)]
    lines = list(dict.fromkeys(line for prompt in shown for line in prompt.split("\n")))
    tokenizer = build_tokenizer(["a b"], [*dict.fromkeys(reply for _, reply in pairs), *lines], 1600)
    save(tokenizer, folder / "trained", pairs)
    save(tokenizer, folder / "policy")
    save(build_tokenizer(["a b"], lines, 1600), folder / "random")
    return folder


@pytest.fixture(scope="module")
def chain(players):
    """Stages 1 to 3 with the trained players: domain, folder, and the trajectories of stage 3.

    One of the three verifiers has random weights, so it abstains every time, and the two others decide; so does the
    critic.
    """
    domain, folder = players
    cast = everybody(folder / "trained") | {"verifier-3": folder / "random", "critic": folder / "random"}
    base = {"roles": roles(folder, **cast), "corpus": folder / "corpus.jsonl"}
    given = options(folder, "chain", domain, folder / "policy", **base, sft_steps=60, sft_batch=4, sft_lr=1e-2,
                    steps=2, groups=2, group_size=4, overlong=0.9, **CHAIN)
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        compare = run_mgpo.compare
        patch.setattr(run_mgpo, "compare", lambda trajectories, *rest: (
            seen.extend(trajectories), compare(trajectories, *rest)))
        run_skills.main(options(folder, "chain", domain, folder / "policy", **base))
        run_sft.main(given)
        run_mgpo.main(given)
    return domain, folder, seen


def test_skills_and_expert_episodes(chain):
    """Nothing is lost: each episode of the teacher is kept, or listed with the reason."""
    domain, folder, _ = chain
    run = folder / "chain"
    assert {c["name"]: c["kept"] for c in read_jsonl(run / "skills" / "candidates.jsonl")} == {
        "fingers": True, "circle": True}
    expert, rejected = read_jsonl(run / "expert.jsonl"), read_jsonl(run / "expert_rejected.jsonl")
    reasons = read_json(run / "expert_reasons.json")
    assert len(expert) == 12 and sum(reasons.values()) % 16 == 0
    assert reasons == Counter(valid=reasons["valid"]) + Counter(record["reason"] for record in rejected)
    assert all(record["abstained"] == ["unreadable verdict"] for record in expert)
    assert {record["problem"]["question"] for record in expert} == {
        draft.split("\n\n### ")[0] for draft, *_ in PROBLEMS[domain]}
    rates = [record["pass_rate"] for record in expert]
    assert {rate * 4 for rate in rates} <= {0, 1, 2, 3, 4} and 0 < sum(rates) < 12  # right every other time


def test_the_counts_of_reinforcement_learning(chain):
    """How often each role was asked follows from the submitted and the valid episodes."""
    domain, folder, seen = chain
    run = folder / "chain"
    metrics, before = read_jsonl(run / "metrics.jsonl"), read_json(run / "evaluation_before.json")
    assert len(metrics) == 2 and len(seen) == 16
    submitted, valid, drafts = before["summary"]["outcome/submitted"], sum(before["valid"]), 0
    for record, episodes in zip(metrics, (seen[:8], seen[8:])):
        submitted += sum(t.outcome == "submitted" for t in episodes)
        valid += sum(t.valid for t in episodes)
        outcomes = {name: value for name, value in record.items() if name.startswith("outcome/")}
        assert sum(outcomes.values()) == 1 and outcomes["outcome/submitted"] == pytest.approx(
            sum(value for name, value in record.items() if name.startswith("verdict/")))
        asked = Counter({role: record[f"role/{role}/requests"] + record[f"role/{role}/cached"]
                         for role in ("verifier-1", "verifier-2", "verifier-3", "prober-1", "prober-2")})
        assert asked == {"verifier-1": submitted, "verifier-2": submitted, "prober-1": 4 * valid, "prober-2": 0,
                         "verifier-3": 2 * submitted}  # it is asked once more whenever it says nothing
        assert record["role/teacher/requests"] == record["role/auditor/requests"] == 0  # the two never differ
        assert record["valid_rate"] == sum(t.valid for t in episodes) / 8
        drafts += sum(len(t.drafts) for t in episodes)
        # The critic is asked in training only, and not at all where tests are run.
        assert record["role/critic/requests"] + record["role/critic/cached"] == 2 * drafts
        assert domain == "code" or record["critic/abstained/unreadable opinion"] == 1 and record["signal/all"] > 0
    assert drafts > 0 or domain == "code"
    turns = [turn for t in seen for turn in t.turns]
    assert {turn.facts.get("source") for turn in turns} == ({None} if domain == "code" else {None, "hindsight"})
    assert all("unreadable verdict" in t.abstained for t in seen if t.outcome == "submitted")
    for t in seen:  # 0.9 of 200 tokens are soft
        loss = 1 if t.outcome == "token_limit" else max(len(t.ids) - 20, 0) / 180
        assert t.reward + t.overlong_penalty == pytest.approx(terminal_reward(t.valid, t.pass_rate, 1, 1) - loss)
    problems = read_jsonl(run / "problems.jsonl")
    assert {p["question"] for p in problems} == {t.problem.question for t in seen if t.valid} != set()
    assert len(problems) == len({p["question"] for p in problems})


def test_a_solver_learns_from_its_problems_and_is_evaluated_on_them(chain, capsys):
    """The solver starts from the trained player, which is right every other time; in code its programs are run."""
    domain, folder, _ = chain
    path = folder / "chain" / "problems.jsonl"
    problems = read_jsonl(path)
    run_solver.main(options(folder, "solver", domain, folder / "trained", problems=path, solver_budget=len(problems),
                            solver_steps=2, solver_groups=2, solver_group_size=8, solver_max_tokens=4))
    solver = folder / "solver" / "solver" / "proposer" / "step-000002"
    metrics = read_jsonl(solver.parent / "solver_metrics.jsonl")
    assert len(metrics) == 2 and 0 < metrics[0]["solved"] <= 1
    evaluation_script.main(["--model", str(solver), "--problems", str(path), "--domain", domain, "--k", "8",
                            "--max_tokens", "4", "--out", str(folder / "evaluation"), "--device", "cpu"])
    rows, right = read_correctness(folder / "evaluation" / "problems.jsonl"), []
    for row, problem in zip(rows, problems, strict=True):
        answer = problem["answer"]
        if domain == "code":
            [answer] = [add.split("\n", 1)[1].removesuffix("```") for draft, _, add, _ in PROBLEMS[domain]
                        if problem["question"] in draft]
        assert row.correct == [int(said == answer) for said in row.answers]
        assert row.statuses.count("equal") == sum(row.correct)
        right += row.correct
    assert f"mean@8     {sum(right) / len(right):.3f}" in capsys.readouterr().out
    export.main([str(path), "--format", "verl", "--out", str(folder / "export.jsonl")])
    assert len(read_jsonl(folder / "export.jsonl")) == len(problems)
    assert "models trained, trained, random; second audit models trained" in (folder / "export.md").read_text()


def test_what_gives_process_rewards(chain, capsys):
    """bench/signals.py plays the teacher's episodes of the run once more: hindsight knows more than the environment.
    The critic has random weights and abstains, so it adds nothing."""
    domain, folder, _ = chain
    signals = import_file(Path(__file__).parent.parent / "bench" / "signals.py")
    signals.main(["--run", str(folder / "chain"), "--episodes", "4"])
    out = capsys.readouterr().out
    shown = {line[:22].strip(): line[22:].split() for line in out.splitlines()}
    bare, hindsight, both = (shown[name] for name in ("environment alone", "hindsight", "hindsight and critic"))
    assert hindsight == both and bare[-2:] == hindsight[-2:]  # "of N" actions
    assert float(bare[0]) <= float(hindsight[0]) == 1  # drafts; where programs look at them, some are known at once
    if domain == "math":
        assert bare[0] == "0.00"
        assert "critic/abstained/unreadable opinion 1.000" in out


def test_without_sft_the_model_is_pi_ref(chain, capsys):
    """--sft_steps 0: no teacher is asked, no expert episode played, and training starts from --model as it is."""
    domain, folder, _ = chain
    player = {"checkpoint": str(folder / "trained"), "max_tokens": 4, "temperature": 0.1}
    write_json(folder / "no-teacher.json", {"verifiers": [player] * 3, "auditor": player, "probers": [player]})
    given = options(folder, "bare", domain, folder / "chain" / "sft" / "step-000060", roles=folder / "no-teacher.json",
                    skills=folder / "four", sft_steps=0, steps=1, groups=2, group_size=4, **CHAIN)
    for name in "abcd":
        write_skill(Skill(name, "first", f"count {name}", "one step", "exec", "Numbers."), folder / "four")
    run_mgpo.main(given)
    run = folder / "bare"
    assert not (run / "expert.jsonl").exists() and not (run / "sft").exists()
    assert "teacher" not in capsys.readouterr().out and (run / "mgpo" / "step-000001").is_dir()


def test_its_proposer_alone_has_the_numbers_of_the_run(chain, capsys):
    """By --run: the run's own evaluation. By --domain, --skills and --roles: other skills and limits, no run."""
    domain, folder, _ = chain
    proposer = ["--proposer", str(folder / "chain" / "mgpo" / "step-000002"), "--device", "cpu"]
    evaluation_script.main([*proposer, "--run", str(folder / "chain"), "--out", str(folder / "alone")])
    episodes, theirs = read_episodes(folder / "alone" / "proposer.jsonl"), read_json(
        folder / "chain" / "evaluation_after.json")
    assert [[episode[name] for episode in episodes] for name in ("valid", "reward", "skills")] == [
        theirs[name] for name in ("valid", "reward", "skills")]
    assert {name: value for name, value in summary([trajectory_of(episode) for episode in episodes]).items()} == theirs[
        "summary"]
    for name in "abcd":
        write_skill(Skill(name, "first", f"count {name}", "one step", "exec", "Numbers."), folder / "four")
    cast = roles(folder, **everybody(folder / "trained") | {"verifier-3": folder / "random"})
    argv = [*proposer, "--domain", domain, "--skills", str(folder / "four"), "--out", str(folder / "alone-2")]
    evaluation_script.main([*argv, "--roles", str(cast), "--max_tokens", "400", "--count", "3", "--k", "2"])
    assert "6 episodes on 3 skill sets" in capsys.readouterr().out
    episodes = read_episodes(folder / "alone-2" / "proposer.jsonl")
    assert {len(episode["skills"]) for episode in episodes} <= {2, 3, 4}
    assert {skill for episode in episodes for skill in episode["skills"]} <= set("abcd")
    with pytest.raises(UserError, match=f"the run .* has '{domain}'"):
        evaluation_script.main([*proposer, "--run", str(folder / "chain"), "--domain", "mini"])
    with pytest.raises(UserError, match="has no programs for the roles verifiers"):
        evaluation_script.main(argv)


def test_with_random_judges_everything_abstains_and_nothing_is_paid(chain):
    """From the same pi_ref: every submission could not be judged, with three abstentions each and no reward."""
    domain, folder, _ = chain
    run_mgpo.main(options(folder, "unjudged", domain, folder / "policy", reference=folder / "chain",
                          roles=roles(folder, **everybody(folder / "random")), steps=1, groups=2, group_size=4,
                          overlong=0.0, **CHAIN))
    [record] = read_jsonl(folder / "unjudged" / "metrics.jsonl")
    submitted = record["outcome/submitted"]
    assert submitted > 0 and record["verdict/could not judge"] == submitted and record["reward"] == 0
    assert record["abstained/unreadable verdict"] == 3 * submitted and record["role/prober-1/requests"] == 0
    assert read_jsonl(folder / "unjudged" / "problems.jsonl") == []
    assert (folder / "unjudged" / "report.html").exists()


def test_a_random_teacher_is_refused_in_one_sentence(players, monkeypatch):
    domain, folder = players
    cast = {"roles": roles(folder, **everybody(folder / "random"))}
    with pytest.raises(UserError, match="no skill reached tau_r = 0.5 among"):
        run_skills.main(options(folder, "mute", domain, folder / "random", corpus=folder / "corpus.jsonl", **cast))
    assert (folder / "mute" / "skills" / "candidates.partial.jsonl").exists()
    assert not (folder / "mute" / "skills" / "candidates.jsonl").exists()  # the stage is not complete

    monkeypatch.setattr("ap.prepare.reference.FAIR", 16)  # of 20 * 16 that a teacher with one valid episode may play
    starter = Path(__file__).parent.parent / "starter" / domain
    sentence = r"expert episodes: only 0 of 16 are valid; see the reasons.*, most often .* \(\d+\)"
    with pytest.raises(UserError, match=sentence):
        run_sft.main(options(folder, "mute-2", domain, folder / "random", skills=starter, **cast | CHAIN | {
            "max_tokens": 20_000}))
    run = folder / "mute-2"
    assert sum(read_json(run / "expert_reasons.json").values()) == len(read_jsonl(run / "expert_rejected.jsonl")) == 16
    assert not (run / "expert.jsonl").exists()
