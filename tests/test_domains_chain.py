"""Stages 1 and 2 where models judge, in tiny size: what is special there. test_docs.py has the whole chain, for math.

The models are one scripted server on loopback; the policy is a small Qwen3 with random weights, from a folder.
"""
import json
import re
from pathlib import Path

import pytest
from test_endpoint import Server

import run_sft
import run_skills
import run_solver
from ap.config import Config
from ap.domains.code import Code
from ap.domains.math import Math
from ap.engine.model import build_model
from ap.files import UserError
from ap.mini.tokenizer import build_tokenizer
from ap.world.acquire import EXTRACT, EXTRACTED
from ap.world.chat import tool_call
from ap.world.env import INSTRUCTIONS

CORPUS = [
    {"question": "Find the least n with n = 2 mod 3 and n = 3 mod 5.", "answer": "8",
     "solution": "By the Chinese remainder theorem n is unique mod 15, and 8 fits both congruences."},
    {"question": "How many divisors has 12?", "answer": "6",
     "solution": "Since 12 = 2^2 * 3, multiply the exponents plus one: 3 * 2 = 6."},
    {"question": "What is 3 + 4?", "answer": "7", "solution": "Add."},
]
STARTER = Path(__file__).parent.parent / "starter"
CONGRUENCES, DIVISORS = "join-congruences", "count-divisors"


def entry(name, intent, quote):
    return {"name": name, "category": "number theory", "intent": intent, "difficulty": "one step", "quote": quote,
            "tool": "exec: brute force", "recognise": "Whole numbers.", "build": "State the numbers."}


DRAFT = re.compile(r"(?i)Find the least (?:positive )?n with n = (\d) mod 3 and n = (\d) mod 5\.")


def teacher(prompt, seed=1):
    if "Which reasoning skills does it show" in prompt:
        passage = prompt.split("Passage:\n")[1]
        if "Chinese" in passage:
            return "Here they are:\n" + json.dumps([
                entry(CONGRUENCES, "join congruences into one", "the Chinese remainder theorem"),
                entry("made-up", "a skill that is not there", "Fermat's little theorem")])
        if "divisors" in passage:
            return json.dumps([entry(DIVISORS, "count divisors by exponents", "multiply the exponents plus one")])
        return "[]" if "could not be used" in prompt else "There is none."
    if "Score a reasoning skill" in prompt:
        return '{"general": 9, "composable": 8, "checkable": 10, "faithful": 9}'
    episode = prompt.split("--- episode so far ---")[1]
    said, drafts = episode.count("[agent]"), DRAFT.findall(episode)
    a, b = drafts[-1] if drafts else (1 + len(prompt) % 2, 2)  # the names of the skills have different lengths
    if said == 0 and seed % 8 == 0:  # an unsound draft: such an episode is rejected
        return "<problem>Find the least n. It has a remainder.</problem>"
    if said == 0 and seed % 8 == 4:  # a copy of a problem of the corpus
        return f"<problem>{CORPUS[0]['question'].lower()} </problem>"
    return [
        f"<think>hm</think><problem>Find the least positive n with n = {a} mod 3 and n = {b} mod 5.</problem>",
        tool_call("exec", code=f"print('answer:', next(n for n in range(1, 16) if n % 3 == {a} and n % 5 == {b}))"),
        tool_call("submit"),
    ][min(said, 2)]


def solution(prompt):
    found = DRAFT.findall(prompt)
    return next((n for n in range(1, 16) for a, b in found[-1:] if n % 3 == int(a) and n % 5 == int(b)), None)


def play(body):
    prompt = body["messages"][0]["content"]
    if body["model"] == "teacher":
        return teacher(prompt, body["seed"])
    answer = solution(prompt)
    if body["model"] == "prober":
        return rf"It is \boxed{{{answer}}}." if body["seed"] % 2 else "I give up."
    return json.dumps({"valid": answer is not None, "answer": answer, "reason": "valid" if answer else "unsolvable"})


@pytest.fixture
def folders(tmp_path):
    """A corpus and a small checkpoint."""
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps(record) + "\n" for record in CORPUS))
    texts = [text for record in CORPUS for text in record.values()]
    texts += [teacher("[agent]--- episode so far ---" + "[agent]" * n) for n in range(3)] * 2
    tokenizer = build_tokenizer(texts, [INSTRUCTIONS, Math.instructions, *Math.instructions.split("\n")], 600)
    config = Config(hidden_size=32, layers=2, heads=2, intermediate_size=64, device="cpu")
    for part in (tokenizer, build_model(config, len(tokenizer), seed=0)):
        part.save_pretrained(tmp_path / "policy")
    return corpus, tmp_path / "policy"


def arguments(server, tmp_path, domain, policy):
    """Arguments of every script: the server plays all roles, each under its own name."""
    def player(name):
        return {"endpoint": server.url, "model": name}

    roles = tmp_path / "roles.json"
    roles.write_text(json.dumps({"teacher": player("teacher"), "verifiers": [player(f"judge-{n}") for n in "abc"],
                                 "auditor": player("auditor"), "probers": [player("prober")]}))
    return ["--out", str(tmp_path / "runs"), "--name", "chain", "--domain", domain, "--roles", str(roles),
            "--model", str(policy), "--device", "cpu"]


def test_from_a_corpus_to_expert_episodes(folders, tmp_path):
    """The corpus is worked problems. They do not count as new, although a teacher may submit one of them."""
    corpus, policy = folders
    with Server(answer=play) as server:
        base = [*arguments(server, tmp_path, "math", policy), "--corpus", str(corpus)]
        run = tmp_path / "runs" / "chain"

        run_skills.main(base)
        records = [json.loads(line) for line in (run / "skills" / "candidates.jsonl").read_text().splitlines()]
        assert [(record["name"], record["kept"]) for record in records] == [
            (DIVISORS, True), (CONGRUENCES, True), ("made-up", False)]
        assert "does not stand in the passage" in records[2]["why"] and records[0]["score"] == 0.9
        assert f"source: {corpus}, line 2" in (run / "skills" / DIVISORS / "SKILL.md").read_text()

        run_sft.main([*base, "--max_tokens", "800", "--max_turns", "6", "--skills_min", "1", "--skills_max", "2",
                      "--eval_sets", "1", "--sft_trajectories", "6", "--sft_steps", "1", "--sft_batch", "2",
                      "--acq_batch", "1", "--prober_k", "4"])
    expert = [json.loads(line) for line in (run / "expert.jsonl").read_text().splitlines()]
    assert len(expert) == 6 and all(record["valid"] for record in expert)
    assert [turn["action"] for turn in expert[0]["turns"]] == ["think", "exec", "submit"]
    assert expert[0]["turns"][1]["facts"]["passed"] and expert[0]["problem"]["evidence"] in ("2", "7")
    assert expert[0]["problem"]["answer"] == expert[0]["problem"]["evidence"]
    assert 0 < sum(record["pass_rate"] for record in expert) < 6
    assert "acq_loss" in json.loads((run / "sft_metrics.jsonl").read_text())

    rejected = [json.loads(line) for line in (run / "expert_rejected.jsonl").read_text().splitlines()]
    assert {(record["reason"], record["problem"]["question"]) for record in rejected} == {
        ("unsolvable", "Find the least n. It has a remainder."),
        ("known problem", CORPUS[0]["question"].lower())}
    reasons = json.loads((run / "expert_reasons.json").read_text())
    assert reasons["valid"] == 16 - len(rejected) and sum(reasons.values()) == 16


CODE = """<problem>Read two whole numbers from one line and print their sum.

### Solution
```python
print(sum(map(int, input().split())))
```

### Tests
```json
[{"input": "1 2", "output": "3"}, {"input": "0 0", "output": "0"}, {"input": "5 7", "output": "12"}]
```</problem>"""
SCIENCE = "<problem>Which force acts on 2 kg at 3 m/s^2?\nA) 5 N\nB) 6 N\nC) 1.5 N</problem>"


def play_other(body):
    """The script for code and science: one problem, which the judges solve, and the prober every other time."""
    prompt, is_code = body["messages"][0]["content"], "### Solution" in body["messages"][0]["content"]
    if body["model"] == "teacher":
        check = Code.check_program if is_code else "print('answer: B')"
        said = prompt.split("--- episode so far ---")[1].count("[agent]")
        return [CODE if is_code else SCIENCE, tool_call("exec", code=check), tool_call("submit")][min(said, 2)]
    if body["model"] == "prober" and "Which force" in prompt:
        return r"\boxed{B}" if body["seed"] % 2 else r"\boxed{A}"
    if "Which force" in prompt:
        return json.dumps({"valid": True, "answer": "B", "reason": "valid"})
    return "```python\na, b = map(int, input().split())\nprint(a %s b)\n```\n%s" % (
        "*" if body["model"] == "prober" and body["seed"] % 2 else "+", '{"valid": true, "reason": "valid"}')


def test_an_extractor_takes_the_teachers_place(folders, tmp_path, capsys):
    """It extracts, and the teacher completes and scores; the result is a library like any other."""
    corpus, policy = folders
    divisors = entry(DIVISORS, "count divisors by exponents", "multiply the exponents plus one")

    def play_extractor(body):
        prompt = body["messages"][0]["content"]
        if body["model"] == "proposer":
            shown = "\n".join(f"{name}: {divisors[name]}" for name in EXTRACTED)
            return shown if prompt == f"{EXTRACT}\n{CORPUS[1]['question']}\n{CORPUS[1]['solution']}" else "hm"
        assert "Which reasoning skills" not in prompt
        return json.dumps(divisors) if "Say more about the skill" in prompt else teacher(prompt)

    with Server(answer=play_extractor) as server:
        base = arguments(server, tmp_path, "math", policy)
        roles = json.loads((tmp_path / "roles.json").read_text())
        roles["extractor"] = {"endpoint": server.url, "model": "proposer"}
        (tmp_path / "roles.json").write_text(json.dumps(roles))
        run_skills.main([*base, "--corpus", str(corpus)])
        assert [body["model"] for _, body, _ in server.seen].count("teacher") == 2
    run = tmp_path / "runs" / "chain"
    [record] = [json.loads(line) for line in (run / "skills" / "candidates.jsonl").read_text().splitlines()]
    assert (record["name"], record["kept"], record["score"]) == (DIVISORS, True, 0.9)
    assert f"source: {corpus}, line 2" in (run / "skills" / DIVISORS / "SKILL.md").read_text()
    assert "1 of 3 replies are skills; not a name, category and intent: 2" in capsys.readouterr().out


@pytest.mark.parametrize("domain", ["code", "science"])
def test_starter_packages_are_enough_to_begin(folders, tmp_path, domain):
    """Without a corpus there are no acquired skills and no L_acq, but still expert episodes and an update of pi_ref."""
    with Server(answer=play_other) as server:
        base = [*arguments(server, tmp_path, domain, folders[1]), "--skills", str(STARTER / domain)]
        run_sft.main([*base, "--max_tokens", "4000", "--sft_trajectories", "4", "--sft_steps", "1", "--sft_batch", "2",
                      "--prober_k", "4", "--micro_batch_tokens", "8000"])
    run = tmp_path / "runs" / "chain"
    expert = [json.loads(line) for line in (run / "expert.jsonl").read_text().splitlines()]
    assert [record["reason"] for record in expert] == ["valid"] * 4
    assert [turn["action"] for turn in expert[0]["turns"]] == ["think", "exec", "submit"]
    assert all(record["turns"][1]["facts"]["passed"] for record in expert)
    assert 0 < sum(record["pass_rate"] for record in expert) < 4
    assert "acq_loss" not in json.loads((run / "sft_metrics.jsonl").read_text())


def test_a_solver_learns_from_problems_of_math(folders, tmp_path):
    """GRPO on {question, answer} from a file; no held-out sets, since no program draws any."""
    (tmp_path / "problems.jsonl").write_text("".join(
        json.dumps({"question": f"What is {n} + 1?", "answer": str(n + 1)}) + "\n" for n in range(4)))
    given = ["--out", str(tmp_path / "runs"), "--name", "solver", "--device", "cpu", "--model", str(folders[1]),
             "--problems", str(tmp_path / "problems.jsonl"), "--solver_budget", "4", "--solver_steps", "1",
             "--solver_groups", "2", "--solver_group_size", "2", "--solver_max_tokens", "60"]
    run_solver.main([*given, "--domain", "math"])
    folder = tmp_path / "runs" / "solver" / "solver" / "proposer"
    assert (folder / "step-000001").is_dir() and json.loads((folder / "evaluation_end.json").read_text()) == {}
    with pytest.raises(UserError, match="no program draws problems of the domain math"):
        run_solver.main([*given, "--name", "other", "--domain", "math", "--arm", "random"])


def test_who_is_missing_is_said_before_anything_is_asked(folders, tmp_path):
    corpus, policy = folders
    given = ["--out", str(tmp_path / "runs"), "--domain", "math", "--corpus", str(corpus), "--model", str(policy)]
    with pytest.raises(UserError, match="no programs for the roles verifiers, auditor, probers, teacher; name models"):
        run_skills.main(given)
