"""The solver: the data of each arm, the update, the exact resume, and how a solver is evaluated."""
import dataclasses
import itertools
import json
import math
import random
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
import torch
from conftest import policy_of
from test_benchmarks import scripted

import eval as evaluation_script
import run_solver
from ap.answers.grading import Grade
from ap.arms.solver_tokens import ipo
from ap.config import Config
from ap.domains.code import Code
from ap.domains.math import Math
from ap.engine.generate import Engine
from ap.engine.model import build_model, load_model
from ap.files import UserError, read_jsonl, write_json, write_jsonl
from ap.learn.grpo import update
from ap.learn.policy import Policy
from ap.learn.ranks import Ranks
from ap.learn.training import start_of as start_folder
from ap.mini import exercises
from ap.mini.domain import Mini
from ap.mini.exercises import calculations, draw_sound, drill, held_out_sets, rename, worked_example
from ap.mini.tokenizer import build_tokenizer
from ap.prepare.skills import build_skills
from ap.run import Run
from ap.tools import evaluate_solver
from ap.tools.arms import print_results, solutions_of
from ap.tools.commandline import save_config
from ap.tools.evaluation import Row, read_correctness, write_correctness
from ap.tools.exams import exam_of_domain, paired_line, rows_of, shares, summarise
from ap.tools.progress import Progress
from ap.trajectory import Trajectory
from ap.world.attempts import Decoding, Exam
from ap.world.chat import decode_reply, prompt_ids, stop_ids
from eval import parse

MINI = Mini()


@pytest.fixture
def config(tmp_path):
    """A tiny run with a tokenizer and ten problems in it."""
    torch.set_num_threads(1)
    config = Config(
        out=str(tmp_path), name="run", device="cpu", hidden_size=16, layers=1, heads=2, intermediate_size=32,
        save_every=1, solver_sft_steps=2, solver_sft_batch=4, solver_steps=3, solver_groups=2, solver_group_size=3,
        solver_budget=6, solver_max_tokens=100, solver_eval=3, solver_eval_k=2)
    return furnish(config)


def furnish(config):
    """Write a tokenizer and ten problems into the run's folder. Returns the config."""
    corpus = MINI.make_corpus(60, random.Random(0))
    texts = [f"{record['question']} {record['solution']}" for record in corpus]
    build_tokenizer(texts, [], 500).save_pretrained(config.folder / "tokenizer")
    rng, taken = random.Random(1), set()
    questions = [draw_sound(MINI, (2, 3), rng, taken) for _ in range(10)]
    write_jsonl(config.folder / "problems.jsonl", [
        {"question": question, "answer": MINI.check(question).answer} for question in questions])
    return config


def start_of(config, ranks=Ranks()):
    tokenizer = run_solver.open_tokenizer(config)
    return tokenizer, run_solver.build_start(config, MINI, ranks, tokenizer, set())


# ---------------------------------------------------------------- data


def test_held_out_sets_are_sound_distinct_deep_and_always_the_same():
    sets = held_out_sets(MINI, 2, 3, 12)
    assert sets == held_out_sets(MINI, 2, 3, 12)
    problems = sets["in_distribution"] + sets["deeper"]
    assert all(MINI.check(p["question"]).answer == p["answer"] for p in problems)
    assert len({MINI.canonical(p["question"]) for p in problems}) == len({p["id"] for p in problems}) == 24
    assert {len(MINI.step_kinds(p["question"])) for p in sets["in_distribution"]} == {2, 3}
    assert {len(MINI.step_kinds(p["question"])) for p in sets["deeper"]} == {4, 5}


def test_training_keeps_away_from_the_held_out_problems_in_any_dress(config):
    problems = run_solver.training_problems(config, MINI, set())
    assert [p["id"] for p in problems] == ["5", "6", "7", "8", "9", "10"]  # the last six of ten
    renamed = rename(problems[0]["question"], random.Random(3), "uvwxyz")
    assert renamed != problems[0]["question"]
    left = run_solver.training_problems(config, MINI, {MINI.canonical(renamed)})
    assert [p["id"] for p in left] == ["4", "6", "7", "8", "9", "10"]


def test_copies_and_problems_deeper_than_the_skills_do_not_count(config):
    path = config.folder / "problems.jsonl"
    records = read_jsonl(path)
    deep = draw_sound(MINI, (5,), random.Random(0), set())
    copy = {"question": rename(records[0]["question"], random.Random(0)), "answer": records[0]["answer"]}
    write_jsonl(path, [*records, copy, {"question": deep, "answer": MINI.check(deep).answer}])
    config = dataclasses.replace(config, solver_budget=10)
    assert [p["id"] for p in run_solver.training_problems(config, MINI, set())] == [str(n) for n in range(1, 11)]
    with pytest.raises(UserError, match="10 different problems.*--solver_budget 11"):
        run_solver.training_problems(dataclasses.replace(config, solver_budget=11), MINI, set())


def test_the_random_arm_is_new_sound_and_from_the_training_split(config):
    build_skills(dataclasses.replace(config, corpus_size=150), Ranks())
    first = draw_sound(MINI, (2,), random.Random(0), set())
    run_solver.write_random_problems(config, {MINI.canonical(first)})
    records = read_jsonl(config.folder / "solver" / "random.jsonl")
    with Run(config) as run:
        assert not any(frozenset(record["skills"]) in run.curriculum.held_out for record in records)
        forms = {MINI.canonical(record["question"]) for record in records}
        assert len(forms) == config.solver_budget and not forms & run.known and MINI.canonical(first) not in forms
    assert all(MINI.check(record["question"], record["skills"]).answer == record["answer"] for record in records)
    arm = dataclasses.replace(config, solver_arm="random")
    assert len(run_solver.training_problems(arm, MINI, set())) == config.solver_budget  # none of them is left out


def test_every_epoch_uses_every_problem_once():
    problems = [{"id": str(n)} for n in range(5)]
    row = itertools.chain(*(run_solver.problems_of_step(problems, step, 3, "key") for step in range(5)))
    ids = [p["id"] for p in row]
    epochs = [ids[i:i + 5] for i in (0, 5, 10)]
    assert all(sorted(epoch) == list("01234") for epoch in epochs)
    assert epochs[0] != epochs[1] or epochs[1] != epochs[2]


def test_renaming_keeps_the_problem():
    question = (
        "a is a whole number from 0 to 99. if a is even b is a plus 7, otherwise b is a minus 15. Here b is 12. Find a.")
    for seed in range(20):
        renamed = rename(question, random.Random(seed))
        assert "is a whole number" in renamed
        assert MINI.canonical(renamed) == MINI.canonical(question) and MINI.check(renamed) == MINI.check(question)


@pytest.mark.parametrize("slip", [0.0, 1.0])
def test_a_worked_example_trains_exactly_the_solution(config, monkeypatch, slip):
    tokenizer = run_solver.open_tokenizer(config)
    monkeypatch.setattr(exercises, "SLIP", slip)
    example = worked_example(MINI, tokenizer, random.Random(5), set())
    trained = tokenizer.decode([i for i, m in zip(example.ids, example.loss_mask) if m])
    prompt = tokenizer.decode([i for i, m in zip(example.ids, example.loss_mask) if not m])
    question = prompt.removeprefix("<|im_start|>user\n").split("\n")[0]
    right = MINI.worked_solution(question, named=True) + "<|im_end|>"
    assert (trained == right) == (slip == 0.0)
    assert re.sub(r"\d+", "0", trained) == re.sub(r"\d+", "0", right)  # a slip changes numbers only
    assert "Think step by step" in prompt and prompt.endswith("<|im_start|>assistant\n")
    assert sum("Think step" in tokenizer.decode([i]) for i in example.ids) == 1  # the instruction is one token


def test_a_drill_trains_the_results_of_true_calculations(config):
    tokenizer = run_solver.open_tokenizer(config)
    pool = calculations(MINI, 200, "key", set())
    assert len(pool) == 200 and pool == calculations(MINI, 200, "key", set())
    for calculation, result in pool:  # "a24 + 7 = ", "31. "; of digits "c49: 4 + 9 = "
        values = re.sub(r"\b[a-z](?=\d)", "", calculation.split(": ")[-1].removesuffix(" = "))
        assert eval(values.replace("mod", "%")) == int(result.removesuffix(". ")), calculation
    example = drill(tokenizer, random.Random(0), pool, count=6)
    written = tokenizer.decode(example.ids).split("<|im_start|>assistant\n")[1]
    written_ones = written.strip().removesuffix(".").split(". ")
    assert len(written_ones) == 6
    trained = tokenizer.decode([i for i, m in zip(example.ids, example.loss_mask) if m])
    assert trained.split(". ")[:-1] == [calculation.split(" = ")[1] for calculation in written_ones]


# ---------------------------------------------------------------- update


def test_the_update_is_the_gradient_of_grpo_by_hand(config):
    """Four attempts at one problem, two of them right. On policy, the gradient is that of -sum A * log pi / N."""
    model = build_model(config, 20, seed=0)
    rng = random.Random(0)
    trajectories = [
        Trajectory([rng.randrange(20) for _ in range(6)], [0, 0, 1, 1, 1, 1], [0.0] * 6, [], [], ()) for _ in range(4)]
    for trajectory, advantage in zip(trajectories, (0.866, 0.866, -1.732, 0.0)):  # the last one: of a dead group
        trajectory.advantage, trajectory.turn_ids = advantage, [m - 1 for m in trajectory.loss_mask]
        with torch.no_grad():
            logits = model(torch.tensor([trajectory.ids])).logits[0].log_softmax(-1)
        trajectory.logprobs = [
            0.0, *(logits[t - 1, trajectory.ids[t]].item() * trajectory.loss_mask[t] for t in range(1, 6))]

    total = torch.zeros(())
    for trajectory in trajectories:
        logits = model(torch.tensor([trajectory.ids])).logits[0].log_softmax(-1)
        for t in range(2, 6):
            total = total - trajectory.advantage * logits[t - 1, trajectory.ids[t]] / 16  # 4 attempts of 4 tokens
    expected = torch.autograd.grad(total, list(model.parameters()))
    norm = torch.sqrt(sum((gradient ** 2).sum() for gradient in expected)).item()

    record = update(policy_of(model, config=config, lr=0.0), trajectories, config, lr=0.0)
    assert record["grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert record["num_tokens"] == 16 and record["log_ratio_abs"] < 1e-5
    assert record["sampler_gap"] < 1e-5 and record["sampler_off"] == 0 and "live" not in record

    trajectories[0].logprobs = [x - 0.6 * m for x, m in zip(trajectories[0].logprobs, trajectories[0].loss_mask)]
    record = update(policy_of(model, config=config, lr=0.0), trajectories, config, lr=0.0)
    assert record["sampler_gap"] == pytest.approx(0.2, abs=1e-5)  # a mean over the 12 tokens that are computed
    assert record["sampler_off"] == pytest.approx(1 / 3) and record["log_ratio_abs"] == pytest.approx(0.15, abs=1e-5)
    trajectories[0].advantage, trajectories[1].advantage, trajectories[2].advantage = 1.0, 0.0, 0.0
    for limit, times in ((1.5, 1.5), (4.0, math.exp(0.6))):  # the sampler found its tokens less likely than we do
        norms = [update(policy_of(model, config=config, lr=0.0), trajectories, replaced, lr=0.0)["grad_norm"]
                 for replaced in (dataclasses.replace(config, importance_limit=limit),
                                  dataclasses.replace(config, clip_high=9.0))]
        assert norms[0] / norms[1] == pytest.approx(times / math.exp(0.6), rel=1e-4)  # a ratio is a weight too


def test_a_step_without_signal_leaves_the_weights_alone(config):
    model = build_model(config, 20, seed=0)
    before = [weight.clone() for weight in model.parameters()]
    same = [Trajectory([1, 2, 3], [0, 1, 1], [0.0] * 3, [-1, 0, 0], [], ()) for _ in range(3)]
    update(policy_of(model, config=config, lr=1.0), same, config, lr=1.0)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))


# ---------------------------------------------------------------- loop


def trained(config, tokenizer, start, problems):
    """The model after GRPO from `start`, or from the last checkpoint of this arm."""
    policy = Policy.load(start_folder(config.folder / "solver" / config.solver_arm, start), tokenizer, config, Ranks())
    run_solver.train(policy, problems, Exam(), config)
    return policy.model


def test_it_resumes_with_the_same_numbers(config, tmp_path):
    """Three steps in one go against one step, a kill and two more: equal weights and equal metrics."""
    tokenizer, start = start_of(config)
    problems = run_solver.training_problems(config, MINI, set())
    whole = trained(config, tokenizer, start, problems)
    other = dataclasses.replace(config, solver_arm="other")
    trained(dataclasses.replace(other, solver_steps=1), tokenizer, start, problems)
    resumed = trained(other, tokenizer, start, problems)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters()))

    def numbers(arm):
        records = read_jsonl(config.folder / "solver" / arm / "solver_metrics.jsonl")
        return [{name: value for name, value in record.items() if not name.startswith("seconds")} for record in records]

    assert numbers("proposer") == numbers("other") and len(numbers("other")) == 3


def test_long_attempts_lose_reward_and_stay_solved_or_not(config, monkeypatch):
    """--overlong 0.5 of 40 tokens costs nothing up to 20 written tokens, 1/20 for each more, and 1 if cut."""
    tokenizer, start = start_of(config)
    config = dataclasses.replace(config, overlong=0.5, solver_max_tokens=40, solver_steps=1, solver_group_size=4)
    texts = [("7 " * words).strip() + f" \\boxed{{{answer}}}{end}" for words, answer, end in (
        (2, 1, "<|im_end|>"), (14, 1, "<|im_end|>"), (14, 2, "<|im_end|>"), (40, 1, ""))]
    scripted(tokenizer, texts * 2, monkeypatch)
    problems = [{"id": str(n), "question": "a is 1. Find a.", "answer": "1"} for n in range(2)]
    seen = []
    monkeypatch.setattr(run_solver, "update", lambda policy, trajectories, *rest: (
        seen.extend(trajectories), update(policy, trajectories, *rest))[1])
    trained(config, tokenizer, start, problems)
    lengths = [sum(t.loss_mask) for t in seen[:4]]
    assert lengths[0] < 20 < lengths[1] == lengths[2] < 40 < lengths[3]
    soft = (lengths[1] - 20) / 20
    compared = [t.reward + t.overlong_penalty for t in seen]
    assert compared[:4] == pytest.approx([1, 1 - soft, -soft, -1]) and compared == compared[:4] * 2
    record = read_jsonl(config.folder / "solver" / "proposer" / "solver_metrics.jsonl")[0]
    assert (record["solved"], record["all_wrong"], record["truncated"]) == (0.5, 0.0, 0.25)


def test_which_tokens_count_is_what_the_settings_say(config, monkeypatch):
    tokenizer, start = start_of(config)
    problems = [{"id": str(n), "question": "a is 1. Find a.", "answer": "1"} for n in range(2)]
    seen = []
    monkeypatch.setattr(run_solver, "update", lambda *arguments: (seen.append(arguments[-1]), update(*arguments))[1])
    trained(dataclasses.replace(config, solver_tokens="ipo", solver_steps=1), tokenizer, start, problems)
    assert seen == [ipo]


def test_the_start_resumes_and_is_found_again(config):
    _, once = start_of(dataclasses.replace(config, sft_save_every=1))
    weights = [w.clone() for w in load_model(once, config).parameters()]
    checkpoint_of_step_1 = once.parent / "step-000001"
    assert checkpoint_of_step_1.exists()
    once.rename(once.parent / "gone")
    _, again = start_of(config)
    assert all(torch.equal(a, b) for a, b in zip(weights, load_model(again, config).parameters()))
    changed = (again / "config.json").stat().st_mtime_ns
    start_of(config)
    assert (again / "config.json").stat().st_mtime_ns == changed


def test_the_whole_script_from_problems_to_tables(config, capsys):
    sizes = [f"--{name}={getattr(config, name)}" for name in (
        "out", "name", "device", "hidden_size", "layers", "heads", "intermediate_size", "solver_sft_steps",
        "solver_sft_batch", "solver_groups", "solver_group_size", "solver_budget",
        "solver_max_tokens", "solver_eval", "solver_eval_k")]
    save_config(config)
    run_solver.main([*sizes, "--solver_steps=1", "--arm", "mine", f"--problems={config.folder / 'problems.jsonl'}"])
    run_solver.main(["--out", config.out, "--name", config.name, "--arm=again",
                     f"--problems={config.folder / 'problems.jsonl'}"])
    out = capsys.readouterr().out
    assert out.count("deeper: 3 problems, 2 attempts each; arm") == 2 and "again - mine: +0.000" in out
    assert json.loads((config.folder / "config.json").read_text())["solver_arm"] == "proposer"  # --arm is not saved
    rows = read_correctness(config.folder / "solver" / "mine" / "end_deeper.jsonl")
    assert [row.id for row in rows] == ["deeper/0", "deeper/1", "deeper/2"] and len(rows[0].correct) == 2
    with pytest.raises(UserError, match="plain folder name"):
        run_solver.main(["--out", config.out, "--name", config.name, "--arm", "a/b"])
    with pytest.raises(UserError, match="no.jsonl"):
        run_solver.main(["--out", config.out, "--name", config.name, "--arm", "x", "--problems", "no.jsonl"])


def test_where_no_program_draws_problems_the_budget_leaves_the_held_out_ones(config, tmp_path, capsys):
    """Domain math: the first arm leaves 3 of its file's 10, just before the 6 that it trains on; it ends with the table.
    An arm with another file is measured on the same ones, and does not train on them. With nothing left, that is said.
    """
    _, start = start_of(config)
    path, other = config.folder / "problems.jsonl", tmp_path / "other.jsonl"
    records = read_jsonl(path)
    write_jsonl(other, [*records[::-1], {"question": "What is 6 times 7, in decimal digits?", "answer": "42"}])

    def arm(name, file, *more, run="math", budget=6):
        run_solver.main(["--out", config.out, "--name", run, "--domain", "math", "--model", str(start), "--arm", name,
                         "--problems", str(file), f"--solver_budget={budget}", "--solver_eval=3", "--device=cpu",
                         "--solver_eval_k=2", "--solver_steps=1", "--solver_groups=2", "--solver_group_size=3",
                         "--solver_max_tokens=40", *more])
        return capsys.readouterr().out

    first = arm("one", path)
    assert "held_out: 3 problems, 2 attempts each; arm one" in first and "one - start: " in first
    assert "mean@2" in first and "truncated" in first and "cut at --solver_max_tokens 40: raise it" in first
    solver = tmp_path / "math" / "solver"
    rows = read_correctness(solver / "one" / "end_held_out.jsonl")
    assert [row.id for row in rows] == ["2", "3", "4"] and len(rows[0].correct) == 2
    assert [row.gold for row in rows] == [record["answer"] for record in records[1:4]]
    settings = dataclasses.replace(config, domain="math", name="math", solver_problems=str(other))
    sets = run_solver.held_out(settings, Math())
    assert [problem["question"] for problem in sets["held_out"]] == [r["question"] for r in records[1:4]]
    second = arm("two", other)
    assert "two - one: " in second and "two - start: " in second

    assert "no problems are left to evaluate on: lower --solver_budget 10" in arm("one", path, run="all", budget=10)
    named = arm("one", path, "--solver_held_out", str(other), run="named", budget=7)
    assert "other: 3 problems, 2 attempts each; arm one" in named  # the other seven are trained on


def test_a_table_of_programs_that_fail_in_other_ways_before_and_after(config, capsys):
    """A way to fail that was there only once is 0 the other time."""
    for phase, folder in (("start", "start"), ("end", "proposer")):
        write_correctness(config.folder / "solver" / folder / f"{phase}_set.jsonl", [Row("1", "5", ["5"], [0])])
    numbers = {"mean@1": [0.0, 0.0, 0.0], "truncated": 0.0}
    print_results(config, {"set": numbers | {"timeout": 0.5}}, {"set": numbers | {"error": 0.25}})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["timeout", "0.500", "0.000"] in lines and ["error", "0.000", "0.250"] in lines


# ---------------------------------------------------------------- evaluation


def test_an_attempt_depends_on_its_own_problem_and_number_only(config):
    tokenizer, start = start_of(config)
    model = load_model(start, config)
    problems = run_solver.training_problems(config, MINI, set())
    policy = policy_of(model, tokenizer)
    together = Exam().attempts(policy, problems, 2, "key", Decoding(100))
    alone = Exam().attempts(policy, problems[3:4], 3, "key", Decoding(100))
    assert [a.trajectory.ids for a in alone[:2]] == [a.trajectory.ids for a in together[6:8]]
    assert [a.trajectory.group for a in together] == [n // 2 for n in range(12)]


def test_attempts_are_judged_by_their_boxed_answer(config, monkeypatch):
    """Scripted attempts: right, right by value, wrong, cut in spite of a right box, without an answer."""
    tokenizer = run_solver.open_tokenizer(config)
    texts = [
        "b = 7. \\boxed{7}<|im_end|>", "\\boxed{14/2}<|im_end|>", "\\boxed{8}<|im_end|>", "\\boxed{7}", "I do not know.<|im_end|>"]

    policy = scripted(tokenizer, texts, monkeypatch)
    problem = {"id": "1", "question": "a is 7. Find a.", "answer": "7"}
    attempts = Exam().attempts(policy, [problem], 5, "key", Decoding(100))
    (row,) = rows_of([problem], attempts, 5)
    assert row.correct == [1, 1, 0, 0, 0] and row.answers == ["7", "14/2", "8", None, None]
    assert row.statuses == ["equal", "equal", "different", "cut", "unparsed"]
    assert row.texts == [text.removesuffix("<|im_end|>") for text in texts]  # all of it is kept, also what was cut
    assert shares(row.statuses) == {"truncated": 0.2, "unparsed": 0.4}


SUM = {"id": "1", "question": "Print the sum of two numbers.", "answer": json.dumps(
    [{"input": "1 2", "output": "3"}, {"input": "5 7\n", "output": "12\n"}, {"input": "2 2", "output": "4"}])}


def test_attempts_at_code_are_programs_that_must_pass_the_tests(config, monkeypatch):
    """A right program; one right for one test only; one that fails; none; a right one that is cut. The tests are not
    shown, not even as the answer of a row."""
    tokenizer = run_solver.open_tokenizer(config)

    def program(text, end="<|im_end|>"):
        return f"I add.\n```python\n{text}\n```\n{end}"

    policy = scripted(tokenizer, [program("print(sum(map(int, input().split())))"), program("print(3)"), program("print(x)"),
                         "print(3)<|im_end|>", program("print(sum(map(int, input().split())))", "")], monkeypatch)
    with ExitStack() as stack:
        (problem,), exam = exam_of_domain(Code(), [SUM], stack, False, workers=3)
        attempts = exam.attempts(policy, [problem], 5, "key", Decoding(100))
    assert [a.status for a in attempts] == ["equal", "different", "error", "unparsed", "cut"]
    assert [a.trajectory.reward for a in attempts] == [1, 0, 0, 0, 0]
    assert "program that reads standard input" in exam.prompt_of(problem) and "5 7" not in exam.prompt_of(problem)
    assert rows_of([problem], attempts, 5)[0].gold == "passes its tests"
    for answer in ("3", "[]", '[{"input": 1, "output": "2"}]'):
        with pytest.raises(UserError, match="problem 1: its answer is no JSON list of tests"):
            exam_of_domain(Code(), [SUM | {"answer": answer}], ExitStack(), False)


def test_programs_of_several_problems_are_graded_at_the_same_time():
    """Each against its own tests, whichever thread reads them first."""
    problems = [SUM | {"id": str(n), "answer": json.dumps([{"input": "", "output": str(n)}])} for n in range(4)]
    with ExitStack() as stack, ThreadPoolExecutor(8) as pool:
        problems, exam = exam_of_domain(Code(), problems, stack, False)
        asked = [(f"```python\nprint({n})\n```", problem) for problem in problems for n in range(4)]
        grades = list(pool.map(lambda pair: exam.grade(*pair).status, asked))
    assert grades == ["equal" if i % 4 == i // 4 else "different" for i in range(16)]


def test_the_summary_by_hand():
    """Two problems, four attempts: two right of four, and none. pass@2 = 1 - C(2,2)/C(4,2) = 5/6 for the first."""
    rows = [Row("1", "5", ["5", "5", "6", None], [1, 1, 0, 0]), Row("2", "9", ["1", "1", "2", "3"], [0, 0, 0, 0])]
    table = {name: interval.estimate for name, interval in summarise(rows).items()}
    assert table == pytest.approx({"mean@4": 1 / 4, "pass@2": 5 / 12, "pass@4": 1 / 2, "maj@4": 1 / 2})


def test_comparison_is_paired_and_refuses_other_problems():
    ours = [Row("1", "5", ["5", "5"], [1, 1]), Row("2", "9", ["9", "1"], [1, 0])]
    theirs = [Row("2", "9", ["1", "1"], [0, 0]), Row("1", "5", ["5", "1"], [1, 0])]  # in another order
    assert paired_line(ours, theirs, "file").startswith("+0.500  [+0.500, +0.500]")
    for other in (theirs[:1], [theirs[0], Row("1", "6", ["5"], [0])], [*theirs, theirs[0]]):
        with pytest.raises(UserError, match="not the same problems"):
            paired_line(ours, other, "file")


def test_eval_on_files_without_a_model(tmp_path, capsys):
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    write_correctness(a, [Row("1", "5", ["5"], [1]), Row("2", "9", ["1"], [0])])
    write_correctness(b, [Row("1", "5", ["4"], [0]), Row("2", "9", ["1"], [0])])
    evaluation_script.main(["--correctness", str(a), "--compare", str(b)])
    out = capsys.readouterr().out
    assert "a: 2 problems" in out and "+0.500" in out


def test_eval_of_a_checkpoint_on_a_file(config, tmp_path, capsys):
    _, start = start_of(config)
    evaluation_script.main(["--model", str(start), "--problems", str(config.folder / "problems.jsonl"), "--k", "2",
                            "--max_tokens", "80", "--out", str(tmp_path / "evaluation"), "--device", "cpu"])
    rows = read_correctness(tmp_path / "evaluation" / "problems.jsonl")
    assert len(rows) == 10 and all(len(row.correct) == 2 for row in rows)
    assert "problems: 10 problems" in capsys.readouterr().out


def test_a_killed_evaluation_goes_on_and_gives_the_same_file(config, tmp_path, monkeypatch, capsys):
    """Killed in the third of five portions, after one of its four attempts: what has ended is not attempted again. A
    finished evaluation, or one with other settings, starts from the beginning."""
    monkeypatch.setattr(exercises, "SLIP", 0.0)  # a starting model whose attempts differ from seed to seed
    _, start = start_of(config)
    capsys.readouterr()  # what that cost
    out, made = tmp_path / "evaluation", []
    monkeypatch.setattr(evaluate_solver, "PORTION", 5)  # two problems of two attempts
    keep = evaluate_solver.keep

    def kept(journal, exam, problems, k, number, attempt):
        if len(made) == kill:
            raise KeyboardInterrupt
        made.append((problems[number // k]["id"], number % k))
        keep(journal, exam, problems, k, number, attempt)

    def evaluated(*more):
        evaluation_script.main(["--model", str(start), "--problems", str(config.folder / "problems.jsonl"), "--k", "2",
                                "--max_tokens", "30", "--out", str(out), "--device", "cpu", *more])
        return (out / "problems.jsonl").read_bytes(), capsys.readouterr().out

    monkeypatch.setattr(evaluate_solver, "keep", kept)
    kill, every = None, [(str(n), member) for n in range(1, 11) for member in range(2)]
    straight, printed = evaluated()
    assert sorted(made) == sorted(every) and "continuing" not in printed
    rows = [json.loads(line) for line in straight.decode().splitlines()]
    assert len({text for row in rows for text in row["texts"]}) > 5
    (out / "problems.jsonl").unlink()
    kill, made[:] = 9, []
    with pytest.raises(KeyboardInterrupt):
        evaluated()
    before = list(made)
    assert not (out / "problems.jsonl").exists() and "0.000" not in capsys.readouterr().out
    lines = (out / ".problems.unfinished.jsonl").read_text().splitlines()
    assert len(lines) == 10 and {(r["id"], r["attempt"]) for r in map(json.loads, lines[1:])} == set(before)
    (out / ".problems.unfinished.jsonl").write_text("\n".join(lines) + '\n{"id": "9", "att')  # cut while it was written
    kill, made[:] = None, []
    again, continued = evaluated()
    assert again == straight and sorted(made) == sorted(set(every) - set(before))
    assert "problems: continuing after 9 of 20 attempts" in continued
    assert [path.name for path in out.iterdir()] == ["problems.jsonl"]

    kill, made[:] = 3, []
    with pytest.raises(KeyboardInterrupt):
        evaluated()
    kill, made[:] = None, []
    assert evaluated("--seed", "1")[0] != straight and sorted(made) == sorted(every)


def test_cut_and_unparsed_shares_come_from_the_file_too(tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    write_correctness(path, [Row("1", "5", ["5", None], [1, 0], ["equal", "cut"])])
    evaluation_script.main(["--correctness", str(path)])
    assert "truncated  0.500" in capsys.readouterr().out
    write_correctness(path, [Row("1", "5", ["5", None], [1, 0])])  # an older file
    evaluation_script.main(["--correctness", str(path)])
    assert "truncated" not in capsys.readouterr().out
    write_correctness(path, [Row("1", "5", ["5", None], [1, 0], ["equal"])])
    with pytest.raises(UserError, match="1 statuses; they must be parallel"):
        read_correctness(path)


@pytest.mark.parametrize("argv, words", [
    (["--model", "m", "--domain", "code"], "no held-out sets"),
    ([], "--model"), (["--model", "m", "--correctness", "c"], "either"), (["--model", "m", "--k", "0"], "--k 0"),
    (["--model", "m", "--temperature", "nan"], "--temperature"), (["--model", "m", "--kk", "3"], "--kk"),
    (["--model", "m", "--temperature", "0", "--k", "4"], "all attempts at a problem are the same"),
    (["--model", "m", "--threads", "-1"], "--threads"), (["--model", "m", "--roles", "r"], "an option of --proposer"),
    (["--proposer", "p", "--benchmark", "aime24"], "an option of --model"),
    (["--proposer", "p", "--model", "m"], "either"),
    (["--model", "m", "--k", "two"], "--k"),
])
def test_bad_options_are_told_in_one_sentence(argv, words):
    with pytest.raises(UserError, match=words):
        parse(argv)


def test_defaults_depend_on_what_is_asked():
    """k: 8; of a benchmark as in the paper; 1 at temperature 0, where more attempts would all be the same."""
    model = ["--model", "m"]
    aime = [*model, "--benchmark", "aime24", "--data", "x"]
    assert [parse(argv).k for argv in (model, aime, [*model, "--temperature=0"], [*aime, "--temperature=0"])] == [
        8, 64, 1, 1]
    assert parse(["--proposer", "p"]).k == 1
    assert (parse(model).temperature, parse(model).count, parse(["--proposer", "p"]).temperature) == (1.0, 300, None)


def test_the_default_length_is_the_domains_within_the_models_context(config, tmp_path):
    """256 in the miniature; 2048 elsewhere, 32768 of a benchmark, but what the context leaves after the longest prompt
    if that is less."""
    tokenizer, exam, folder = run_solver.open_tokenizer(config), Exam(), tmp_path / "model"
    problems = [{"id": "1", "question": "a is 7. Find a."}, {"id": "2", "question": "a is 7. b is 2 more than a. Find b."}]
    longest = len(prompt_ids(tokenizer, [{"role": "user", "content": exam.prompt_of(problems[1])}]))

    def length(domain, context, *more):
        write_json(folder / "config.json", {} if context is None else {"max_position_embeddings": context})
        given = parse(["--model", str(folder), "--problems", "p", "--domain", domain, *more])
        return evaluate_solver.length(given, tokenizer, exam, problems)

    assert [length("mini", context) for context in (None, 8192, 100)] == [256] * 3
    assert [length("math", context) for context in (None, 8192, 1000)] == [2048, 2048, 1000 - longest]
    given = parse(["--model", str(folder), "--benchmark", "aime24", "--data", "x"])
    write_json(folder / "config.json", {"text_config": {"max_position_embeddings": 4096}})
    assert evaluate_solver.length(given, tokenizer, exam, problems) == 4096 - longest


def test_at_temperature_0_the_likeliest_token_is_taken(config, tmp_path, monkeypatch):
    """Against a naive loop over the whole sequence; and with --threads, torch uses so many."""
    tokenizer, start = start_of(config)
    threads, problems = [], config.folder / "problems.jsonl"
    monkeypatch.setattr(torch, "set_num_threads", lambda count: threads.append(count))
    evaluation_script.main(["--model", str(start), "--problems", str(problems), "--temperature", "0", "--threads", "2",
                            "--max_tokens", "12", "--out", str(tmp_path), "--device", "cpu"])
    rows, model = read_correctness(tmp_path / "problems.jsonl"), load_model(start, config)
    assert threads[0] == 2
    for row, record in list(zip(rows, read_jsonl(problems), strict=True))[:3]:
        ids = prompt_ids(tokenizer, [{"role": "user", "content": Exam().prompt_of(record)}])
        count = len(ids)
        while len(ids) < count + 12 and ids[-1] not in stop_ids(tokenizer):
            with torch.no_grad():
                ids.append(model(torch.tensor([ids])).logits[0, -1].argmax().item())
        assert row.texts == [decode_reply(tokenizer, ids, count)]


def test_cut_attempts_are_wrong_but_what_they_hold_is_counted(config, tmp_path, monkeypatch, capsys):
    """Of five attempts two are cut, one of them behind the right box. More than a fifth: the option to raise is named."""
    tokenizer = run_solver.open_tokenizer(config)
    scripted(tokenizer, ["\\boxed{7}<|im_end|>", "\\boxed{7} and", "\\boxed{8} and", "what?<|im_end|>",
                         "\\boxed{9}<|im_end|>"], monkeypatch)
    path = tmp_path / "p.jsonl"
    write_jsonl(path, [{"question": "a is 7. Find a.", "answer": "7"}])
    argv = ["--model", "m", "--problems", str(path), "--k", "5", "--out", str(tmp_path / "out")]
    evaluation_script.main(argv)
    [row] = read_correctness(tmp_path / "out" / "p.jsonl")
    assert row.correct == [1, 0, 0, 0, 0] and row.held == [0, 1, 0, 0, 0] and row.statuses[1:3] == ["cut", "cut"]
    out = capsys.readouterr().out
    assert "mean@5     0.200" in out and "1 of the 2 that were cut hold the right answer; they count as wrong" in out
    assert "40% of the attempts were cut at --max_tokens 256: raise it" in out
    scripted(tokenizer, ["\\boxed{7} and", *["\\boxed{7}<|im_end|>"] * 4], monkeypatch)
    evaluation_script.main(argv)
    assert "raise it" not in capsys.readouterr().out  # a fifth is not more than a fifth


def test_the_bar_shows_tokens_while_no_attempt_has_ended(config, monkeypatch):
    """A forward pass late in the first attempts waits until the bar has shown the tokens before it."""
    tokenizer = run_solver.open_tokenizer(config)
    policy = policy_of(build_model(config, len(tokenizer), seed=0), tokenizer)
    monkeypatch.setattr("ap.tools.progress.SELDOM", 0.001)  # its bar goes to no terminal
    problem, shown, seen, forward = {"id": "1", "question": "?", "answer": "7"}, [], threading.Event(), Engine._forward
    passes = itertools.count(1)

    def watched(*arguments):
        assert next(passes) < 8 or seen.wait(timeout=60)
        return forward(*arguments)

    monkeypatch.setattr(Engine, "_forward", watched)
    with Progress(2, name="problems") as progress:
        def postfix(text):
            shown.append((text, progress.bar.n))
            if not text.startswith("0 tokens"):
                seen.set()

        progress.bar.set_postfix_str = postfix
        attempts = Exam().attempts(policy, [problem], 2, "key", Decoding(40), progress)
    assert progress.bar.n == 2 and progress.tokens == sum(sum(a.trajectory.loss_mask) for a in attempts)
    assert any(count == 0 and not text.startswith("0 tokens") and "tokens/s" in text for text, count in shown)
    assert shown[-1][0].startswith(f"{progress.tokens} tokens, ")


@pytest.mark.parametrize("argv", [
    ["--model", "nowhere"], ["--model", "nowhere", "--problems", "no.jsonl"], ["--correctness", "no.jsonl"],
])
def test_missing_files_are_told(argv, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="nowhere|no.jsonl"):
        evaluation_script.main([*argv, "--count", "1"])


def test_attempts_are_graded_while_others_are_written(config, monkeypatch):
    """The last pass of the model waits until one attempt is graded: forever, if all were graded afterwards."""
    tokenizer = run_solver.open_tokenizer(config)
    model = build_model(config, len(tokenizer), seed=0)
    problems = [{"id": str(n), "question": "a is 7. Find a.", "answer": "7"} for n in range(4)]
    graded, passes, forward = threading.Event(), itertools.count(1), Engine._forward

    def watched(*arguments):
        assert next(passes) < 60 or graded.wait(timeout=60)
        return forward(*arguments)

    def grade(text, problem):
        graded.set()
        return Grade(None, "different")

    monkeypatch.setattr(Engine, "_forward", watched)
    attempts = Exam(grade=grade).attempts(policy_of(model, tokenizer), problems, 4, "key", Decoding(60))
    lengths = [sum(a.trajectory.loss_mask) for a in attempts]
    assert max(lengths) == 60 > min(lengths) and {a.status for a in attempts} == {"cut", "different"}


# ---------------------------------------------------------------- SFT on solutions


def sft_config(config, **settings):
    return dataclasses.replace(config, solver_learn="sft", **settings)


def test_the_solutions_of_a_file_are_texts_lists_or_a_programs(config, tmp_path):
    path = tmp_path / "solved.jsonl"
    records = read_jsonl(config.folder / "problems.jsonl")[:3]
    write_jsonl(path, [records[0] | {"solution": "I guess."}, records[1] | {"solution": ["One way.", "Another."]},
                       records[2] | {"solution": ""}])
    problems = run_solver.usable_problems(dataclasses.replace(config, solver_problems=str(path)), MINI, set())
    found = solutions_of(path, problems, MINI)
    right = MINI.worked_solution(records[2]["question"], named=True)
    assert found == {"1": ["I guess."], "2": ["One way.", "Another."], "3": [right]}
    assert right.endswith(f"\\boxed{{{records[2]['answer']}}}")
    with pytest.raises(UserError, match=r"solved.jsonl: no solution \(field `solution`.*leave --solver_learn sft out"):
        solutions_of(path, problems, Math())


def test_an_example_trains_exactly_the_solution_and_each_epoch_takes_another(config):
    tokenizer = run_solver.open_tokenizer(config)
    for epoch, text in enumerate(("b31. \\boxed{31}", "b is 24 + 7. \\boxed{31}", "b31. \\boxed{31}")):
        example = run_solver.example_of(tokenizer, "Find b.", ["b31. \\boxed{31}", "b is 24 + 7. \\boxed{31}"], epoch)
        trained = [token for token, mask in zip(example.ids, example.loss_mask) if mask]
        assert tokenizer.decode(trained) == text + "<|im_end|>"
        assert tokenizer.decode(example.ids).startswith("<|im_start|>user\nFind b.")


def test_sft_on_solutions_teaches_them_and_resumes_with_the_same_numbers(config):
    """The loss is -log pi of the solutions, per token, and falls; three steps are one step, a kill and two more."""
    tokenizer, start = start_of(config)
    problems = run_solver.training_problems(config, MINI, set())
    solutions = solutions_of(config.folder / "problems.jsonl", problems, MINI)

    def learnt(config, arm):
        config = dataclasses.replace(config, solver_arm=arm)
        folder = config.folder / "solver" / arm
        policy = Policy.load(start_folder(folder, start), tokenizer, config, Ranks())
        run_solver.train_on_solutions(policy, problems, solutions, Exam(), config)
        return policy.model, [record["loss"] for record in read_jsonl(folder / "solver_metrics.jsonl")]

    config = sft_config(config, solver_groups=6, solver_lr=3e-3)
    whole, losses = learnt(config, "whole")
    learnt(dataclasses.replace(config, solver_steps=1), "parts")
    resumed, again = learnt(config, "parts")
    assert losses == again and all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters()))
    assert losses[2] < losses[0]

    model, total, tokens = load_model(start, config), 0.0, 0  # the first step has each of the six problems once
    for problem in problems:
        prompt = prompt_ids(tokenizer, [{"role": "user", "content": Exam().prompt_of(problem)}])
        ids = prompt + tokenizer.encode(solutions[problem["id"]][0] + "<|im_end|>", add_special_tokens=False)
        with torch.no_grad():
            logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        total -= sum(logprobs[t - 1, ids[t]].item() for t in range(len(prompt), len(ids)))
        tokens += len(ids) - len(prompt)
    assert losses[0] == pytest.approx(total / tokens, rel=1e-4)


def test_the_script_learns_from_solutions(config, capsys):
    save_config(dataclasses.replace(config, solver_steps=1))
    run_solver.main(["--out", config.out, "--name", config.name, "--arm", "taught", "--learn", "sft"])
    out = capsys.readouterr().out
    assert out.count("3 problems, 2 attempts each; arm taught") == 2 and "taught - start" in out
    (record,) = read_jsonl(config.folder / "solver" / "taught" / "solver_metrics.jsonl")
    assert record["loss"] > 0 and "solved" not in record
    assert json.loads((config.folder / "config.json").read_text())["solver_learn"] == "grpo"  # not saved, as the arm
