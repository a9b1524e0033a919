"""A user's own skill in the miniature world: two files in a folder, and every stage works with it."""
import random
from dataclasses import replace

import pytest

from ap.files import UserError
from ap.mini.agents.chainlet import split
from ap.mini.checks import Solution
from ap.mini.domain import Mini
from ap.mini.solvers import program_pool
from ap.mini.teacher import ScriptedAuthor, Style
from ap.run import Run
from ap.trajectory import Problem
from ap.world.env import Env
from ap.world.rollout import Start, play_script

SQUARE = 'from chainlet import form\n\n@form("x is y squared.", worked="y * y")\ndef square(y):\n    return y * y\n'
TWICE = 'from chainlet import form\n\n@form("x is k more than twice y.", k=(2, 9))\ndef f(y, k):\n    return 2 * y + k\n'
MEAN = ('from chainlet import form\n\n@form("x is the mean of y and z.")\n'
        'def mean(y, z):\n    return (y + z) // 2 if (y + z) % 2 == 0 else None\n')


def write_package(folder, name, script=None):
    (folder / name / "scripts").mkdir(parents=True)
    (folder / name / "SKILL.md").write_text(
        f"---\nname: {name}\ncategory: own\nintent: something\ndifficulty: one step\ntool: check\n---\nA sentence.\n")
    if script is not None:
        (folder / name / "scripts" / f"{name}.py").write_text(script)
    return folder / name


@pytest.fixture(scope="module")
def own(tiny, tmp_path_factory):
    """A run with three of a user's own skills."""
    folder = tmp_path_factory.mktemp("own")
    for name, script in (("square", SQUARE), ("twice-more", TWICE), ("mean", MEAN)):
        write_package(folder, name, script)
    with Run(replace(tiny, skills=str(folder))) as run:
        yield run


def draws(mini, count, seed):
    rng = random.Random(seed)
    for n in range(count):
        skills = [("square", "twice-more", "mean")[n % 3], *rng.sample(mini.skills, rng.choice((0, 1, 2)))]
        rng.shuffle(skills)
        yield skills, mini.draw_problem(skills, rng)


@pytest.mark.parametrize("text, line", [
    ("a is 6. b is a squared. Find b.", "ok: 36"),
    ("a is 6. b is 4 more than twice a. Find b.", "ok: 16"),
    ("a is 6. b is 30. c is the mean of a and b. Find c.", "ok: 18"),
    ("a is a whole number from 0 to 99. b is a squared. Here b is 49. Find a.", "ok: 7"),
    ("a is 7. b is 30. c is the mean of a and b. Find c.", "no answer: mean"),
    ("a is 32. b is a squared. Find b.", "too large: square"),  # 1024
    ("a is 1. b is a squared. c is 4 more than b. Find c.", "idle: square"),
    ("a is 6. b is a squared. c is 4 more than a. Find c.", "idle: square"),  # b is not used
    ("a is 6. b is 30. c is a squared. d is b minus a. e is c minus d. Find e.", "ok: 12"),
    ("a is 6. b is c squared. Find b.", "undefined name: square"),
    ("a is 6. b is 36. c is a squared. d is c minus a. Find d.", "idle: sentence 2"),
])
def test_checked_by_hand(own, text, line):
    mini = own.domain
    assert str(mini.check(text)) == line
    done = own.sandbox.run(own.domain.check_program, files={"draft.txt": text, "skills.txt": ""})
    assert done.stdout == line + "\n"


def test_worked_solution_and_difficulty(own):
    mini = own.domain
    text = "a is 6. b is a squared. c is 4 more than twice b. Find c."
    solution = mini.worked_solution(text)
    assert solution == r"b = 6 * 6 = 36. c = 76. \boxed{76}"  # a calculation only where the form shows one
    assert mini.step_kinds(text) == ("square", "twice-more")
    assert [mini.check_step(text, solution, line) for line in split(text)] == [True] * 4
    assert mini.check_step(text, solution.replace("36.", "35."), "b is a squared.") is False
    backwards = "a is a whole number from 0 to 99. b is a squared. Here b is 49. Find a."
    assert mini.worked_solution(backwards) == r"Try a = 7. b = 7 * 7 = 49. \boxed{7}"
    weak, strong = program_pool(mini, (0.5, 0.0))
    problem = Problem(text, "76", ("square", "twice-more"))
    assert strong.attempt(problem, 8, "key") == ["76"] * 8
    assert 60 < weak.attempt(problem, 400, "key").count("76") < 140  # 0.5 * 0.5: two steps of weight 1


def test_canonical(own):
    mini = own.domain
    one, other = "a is 6. b is 30. c is the mean of a and b. Find c.", "d is 30. e is 6. a is the mean of e and d. Find a."
    assert mini.canonical(one) == mini.canonical(other)  # a mean is symmetric
    assert mini.canonical("a is 6. b is a squared. Find b.") == mini.canonical("z is 6. y is z squared. Find y.")


def test_verifiers_agree_on_draws(own):
    mini = own.domain
    found = set()
    for skills, text in draws(mini, 300, seed=1):
        verdict = mini.check(text, skills)
        assert verdict.status not in ("unreadable", "missing skill"), text
        solutions = {solve(text) for solve in mini.verifiers} - {Solution("unknown")}
        assert len(solutions) == 1, (text, solutions)
        found.add(verdict.status)
        if verdict.status == "ok":
            assert solutions == {Solution("ok", verdict.answer)}
            assert mini.auditor(text) in (Solution("ok", verdict.answer), Solution("unknown")), text
            assert f"\\boxed{{{verdict.answer}}}" in mini.worked_solution(text)
            assert mini.check(mini.canonical(text)).answer == verdict.answer
    assert {"ok", "idle", "no answer", "too large"} <= found


def test_expert_episodes_with_the_real_sandbox(own, tokenizer):
    env = Env(own.domain, own.library, own.sandbox, own.env.config)
    author, valid = ScriptedAuthor(env, Style(hasty=0.0)), 0
    for n in range(12):
        write = author.writer(random.Random(n))
        trajectory = play_script(env, tokenizer, Start(("square", "shift")), write, max_tokens=1000)
        if trajectory.problem and own.committee.judge(trajectory.problem).valid:
            valid += "square" in trajectory.problem.skills
    assert valid >= 3


def test_another_library_forgets_the_skill(tmp_path):
    folder = write_package(tmp_path, "cube", SQUARE.replace("squared", "cubed"))
    text, mini = "a is 6. b is a cubed. Find b.", Mini()
    assert mini.learn({"cube": folder, "shift": folder}) == ("cube",)
    assert mini.check(text).status == "ok"
    assert mini.learn({"shift": folder}) == ()
    assert mini.check(text).status == "unreadable"


def test_two_domains_do_not_know_each_other_s_skills(tmp_path):
    """The forms that `learn` reads once belonged to the module, so only the library that was learnt last was known.

    Both packages have the same name and the same sentence, and mean different things: 6 * 6, and 6 * 6 * 6.
    """
    text, answers = "a is 6. b is a raised. Find b.", {"y * y": "36", "y * y * y": "216"}
    opened = {}
    for number, meaning in enumerate(answers):
        script = HEAD + f'@form("x is y raised.", worked="{meaning}")\ndef raised(y):\n    return {meaning}\n'
        opened[meaning] = Mini.opened({"raised": write_package(tmp_path / str(number), "raised", script)})
    for meaning in (*answers, *answers):  # A, B, A, B
        mini, answer = opened[meaning], answers[meaning]
        assert mini.check(text, ["raised"]).answer == mini.audit(Problem(text, "", ("raised",))).answer == answer
        assert {solve(text) for solve in (*mini.verifiers, mini.auditor)} == {Solution("ok", answer)}
        assert f"\\boxed{{{answer}}}" in mini.worked_solution(text)
    assert Mini().check(text).status == "unreadable"


def test_two_runs_are_open_at_the_same_time(own, tiny, tmp_path):
    """The same for whole runs, with their sandboxes and worker processes: own, another, own."""
    write_package(tmp_path, "cube", SQUARE.replace("squared", "cubed").replace("y * y", "y * y * y"))
    squared, cubed = "a is 6. b is a squared. Find b.", "a is 6. b is a cubed. Find b."

    def says(run, text, answer, skill):
        program = {"draft.txt": text, "skills.txt": skill}
        checked = run.env.look(text, (skill,)), run.domain.check(text)
        assert [check.answer for check in checked] == [answer] * 2
        assert run.sandbox.run(run.domain.check_program, files=program).stdout == f"ok: {answer}\n"
        assert run.committee.judge(Problem(text, answer, (skill,))).reason == "valid"

    with Run(replace(tiny, skills=str(tmp_path))) as other:
        for run, text, answer, skill in ((own, squared, "36", "square"), (other, cubed, "216", "cube"),
                                         (own, squared, "36", "square")):
            says(run, text, answer, skill)
        assert own.env.look(cubed, ()).status == other.env.look(squared, ()).status == "unreadable"


HEAD = "from chainlet import form\n\n"


@pytest.mark.parametrize("name, script, words", [
    ("juggle", None, "no sentence for a skill 'juggle'; write "),
    ("juggle", "x = 1\n", "has no sentence"),
    ("juggle", HEAD + "@form(\n", "SyntaxError"),
    ("juggle", HEAD + '@form("x is y juggled")\ndef f(y):\n    return 1\n', "full stop"),
    ("juggle", HEAD + '@form("x is a juggle of y.")\ndef f(y):\n    return 1\n', "single letter"),
    ("juggle", HEAD + '@form("y is x juggled.")\ndef f(x):\n    return 1\n', "order of appearance"),
    ("juggle", HEAD + '@form("x is 2 times y or so.")\ndef f(y):\n    return 1\n', "a number"),
    ("juggle", HEAD + '@form("x is juggled.")\ndef f():\n    return 1\n', "define x by y"),
    ("juggle", HEAD + '@form("x is k times y.", k=(2, 9))\ndef f(y, k):\n    return 1\n', "known already"),
    ("juggle", HEAD + '@form("x is y juggled.")\ndef f(y, z):\n    return 1\n', "must take (y)"),
    ("juggle", HEAD + '@form("x is k juggled y.")\ndef f(y, k):\n    return 1\n', "needs a range"),
    ("juggle", HEAD + '@form("x is y juggled.")\ndef f(y):\n    return 6 // y\n', "f(0) raises ZeroDivisionError"),
    ("juggle", HEAD + '@form("x is y juggled.")\ndef f(y):\n    return y / 2\n', "returns 0.0"),
    ("juggle", HEAD + '@form("x is y juggled.")\ndef f(y):\n    return -1\n', "no value from 0 to 999"),
    ("juggle", SQUARE + SQUARE.replace("squared", "cubed"), "a file has one form"),
    ("random", SQUARE, "give the skill another name"),
    ("find", SQUARE, "is taken"),
])
def test_refused_in_one_sentence(tmp_path, name, script, words):
    folder, mini = write_package(tmp_path, name, script), Mini()
    with pytest.raises(UserError) as refusal:
        mini.learn({"shift": folder, name: folder})
    sentence = str(refusal.value)
    assert words in sentence and str(folder) in sentence and "\n" not in sentence
    assert "x is y squared." not in mini.language.templates


def test_a_run_without_the_sentence_is_refused(tiny, tmp_path):
    write_package(tmp_path, "juggle")
    with pytest.raises(UserError, match=r"juggle/scripts/juggle\.py"):
        Run(replace(tiny, skills=str(tmp_path)))
