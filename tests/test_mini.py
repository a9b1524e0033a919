"""The miniature world: worked problems for each skill and failure, three solvers against each other, invariances."""
import itertools
import json
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from ap.files import UserError
from ap.mini.agents import chainlet
from ap.mini.checks import Solution, renamed
from ap.mini.corpus import package
from ap.mini.domain import Mini

mini = Mini()
HIDDEN = "a is a whole number from 0 to 99."

# skill -> (a sound problem, its answer worked out by hand)
SOUND = {
    "shift": ("a is 24. b is 7 more than a. Find b.", 31),
    "scale": ("a is 24. b is 3 times a. Find b.", 72),
    "share": ("a is 24. b is a divided by 4. Find b.", 6),
    "differ": ("a is 24. b is 3 times a. c is b minus a. Find c.", 48),
    "residue": ("a is 24. b is the remainder of a divided by 7. Find b.", 3),
    "digits": ("a is 57. b is the digit sum of a. Find b.", 12),
    # below 56, b = 3, 10, 17, 24, 31, 38, 45, 52; 20 leaves 4 when divided by 8, and of these only 52 does, too
    "congr": (
        "a is 20. b is below 56, leaves 3 when divided by 7, and leaves the same as a when divided by 8. Find b.", 52),
    "invert": (f"{HIDDEN} b is 7 more than a. c is 3 times b. Here c is 96. Find a.", 25),  # 96 / 3 - 7
    "pair": ("a is 24. b and c add up to a and differ by 6, b being larger. Find c.", 9),
    # the values with digit sum 8 are 8, 17, ..., 80; after a step of 9 the smallest is 8 + 9
    "least": (f"{HIDDEN} b is 9 more than a. c is the digit sum of a. Here c is 8. Find the smallest possible b.", 17),
    "pick": ("a is 24. b is 7 more than a. c is 40. d is the larger of b and c. e is d divided by 5. Find e.", 8),
    "case": ("a is 25. if a is even b is a plus 7, otherwise b is a minus 6. Find b.", 19),
}

# status -> (text, what the tool prints)
FAULTY = {
    "unreadable": ("a is 24. b is a bit more than a. Find b.", "unreadable: sentence 2"),
    "undefined name": ("a is 24. b is 7 more than c. Find b.", "undefined name: shift"),
    "defined twice": ("a is 24. b is 3 times a. b is 7 more than a. Find b.", "defined twice: shift"),
    "missing skill": ("a is 24. b is 7 more than a. Find b.", "missing skill: share"),
    "too many cases": (
        f"{HIDDEN} b is a whole number from 0 to 9. c is a whole number from 0 to 9. d is a minus b. Find d.",
        "too many cases: more than 2 hidden names"),
    "fraction": ("a is 24. b is a divided by 5. Find b.", "fraction: share"),
    "negative": ("a is 24. b is 7 more than a. c is a minus b. Find c.", "negative: differ"),
    "too large": ("a is 60. b is 9 times a. c is 9 times b. Find c.", "too large: scale"),
    "no answer": ("a is 24. b and c add up to a and differ by 5, b being larger. Find b.", "no answer: pair"),
    "several answers": (f"{HIDDEN} b is the digit sum of a. Here b is 7. Find a.", "several answers: digits"),
    "idle": ("a is 24. b is 7 more than a. Find the smallest possible b.", "idle: least"),
    "copy": ("a is 24. b is 12 more than a. c is a divided by 2. Find c.", "copy: shift"),
}


@pytest.mark.parametrize("skill", mini.skills)
def test_sound_problem_by_hand(skill):
    text, answer = SOUND[skill]
    assert skill in chainlet.skills_of(text)
    assert str(mini.check(text, [skill])) == f"ok: {answer}"
    assert {solve(text) for solve in mini.verifiers} == {Solution("ok", str(answer))}
    assert mini.second_audit(text) == Solution("ok", str(answer))
    assert f"\\boxed{{{answer}}}" in mini.worked_solution(text)


@pytest.mark.parametrize("status", [status for status in chainlet.STATUSES if status != "ok"])
def test_failure_by_hand(status):
    text, line = FAULTY[status]
    verdict = mini.check(text, ["share"] if status == "missing skill" else None)
    assert (verdict.status, str(verdict)) == (status, line)
    assert verdict.answer is None and not mini.passed(str(verdict))
    assert (mini.worked_solution(text) is None) == (status != "missing skill")


@pytest.mark.parametrize("text, line", [
    ("", "unreadable: sentence 1"),
    ("a is 24. Find a. b is 7 more than a.", "unreadable: sentence 2"),
    ("a is 24. b is 7 more than a.", "unreadable: sentence 2"),
    ("a is 024. b is 7 more than a. Find b.", "unreadable: sentence 1"),
    ("a is 24. b is 7 more than a. Find b", "unreadable: sentence 3"),
    ("a is 24.b is 7 more than a. Find b.", "unreadable: sentence 1"),
    ("a is 24. b is b minus a. Find b.", "unreadable: sentence 2"),
    ("a is 6. b is the remainder of a divided by 7. c is 4 times b. Find c.", "idle: residue"),  # 6 mod 7 is 6
    ("a is 6. b is the digit sum of a. c is 4 times b. Find c.", "idle: digits"),
    ("a is 6. b is 6. c is the larger of a and b. d is 4 times c. Find d.", "idle: pick"),
    ("a is 24. b is a divided by 0. Find b.", "fraction: share"),
    ("a is 24. b is 9 more than a. c is 3 times a. Find c.", "idle: shift"),  # b is not used
    (f"a is 24. b is a divided by 4. c is 7 more than b. {HIDDEN.replace('a is', 'd is')} Find c.", "idle: sentence 4"),
    # the difference is 19 whatever a is, so the start does not matter
    ("a is 34. b is 19 more than a. c is b minus a. d is 2 times c. Find d.", "idle: sentence 1"),
    ("a is 4. b is below 8, leaves 1 when divided by 4, and leaves the same as a when divided by 2. Find b.",
     "no answer: congr"),  # 1 and 5 are odd
    ("a is 4. b is below 40, leaves 1 when divided by 3, and leaves the same as a when divided by 5. Find b.",
     "several answers: congr"),  # 4, 19, 34
    (f"{HIDDEN} b is 3 times a. c is 7 more than b. Here c is 32. Find a.", "no answer: invert"),
    ("a is 25. if a is even b is a plus 7, otherwise b is a minus 26. Find b.", "negative: case"),
])
def test_more_failures(text, line):
    assert str(mini.check(text)) == line


def test_least_makes_several_answers_one():
    text = "a is 4. b is below 40, leaves 1 when divided by 3, and leaves the same as a when divided by 5. "
    text += "c is 2 times b. {}"
    assert mini.check(text.format("Find c.")).status == "several answers"
    assert str(mini.check(text.format("Find the smallest possible c."))) == "ok: 8"
    assert mini.worked_solution(text.format("Find the smallest possible c.")) == (
        r"4 mod 5 = 4. b in 1, 4, 7, 10, 13, 16, 19, 22, 25, 28, 31, 34. b = 4, 19, 34. c = 8, 38, 68. \boxed{8}")


def test_worked_solutions_by_hand():
    forwards = "a is 24. b is 7 more than a. c is the remainder of b divided by 9. Find c."
    assert mini.worked_solution(forwards) == r"b = 24 + 7 = 31. c = 31 mod 9 = 4. \boxed{4}"
    assert mini.worked_solution(SOUND["invert"][0]) == r"b = 96 / 3 = 32. a = 32 - 7 = 25. \boxed{25}"
    assert mini.step_kinds(forwards) == ("shift", "residue")


@pytest.mark.parametrize("text, solution", [
    ("a is 24. b is 7 more than a. c is the remainder of b divided by 9. Find c.",
     r"a24. a24 + 7 = 31. b31. b31 mod 9 = 4. c4. \boxed{4}"),
    (SOUND["invert"][0], r"c96. c96 / 3 = 32. b32. b32 - 7 = 25. a25. \boxed{25}"),
    ("a is 49. b is the digit sum of a. Find b.", r"a49. a49: 4 + 9 = 13. b13. \boxed{13}"),
    ("a is 4. b is below 40, leaves 1 when divided by 3, and leaves the same as a when divided by 5. "
     "c is 2 times b. Find the smallest possible c.",
     r"a4. a4 mod 5 = 4. b in 1, 4, 7, 10, 13, 16, 19, 22, 25, 28, 31, 34. b in 4, 19, 34. c in 8, 38, 68. \boxed{8}"),
])
def test_worked_solutions_with_names_by_hand(text, solution):
    assert mini.worked_solution(text, named=True) == solution


def test_both_notations_say_the_same():
    """Without its names and repetitions, a named solution has the calculations of the plain one."""
    compared = 0
    for _, text in draws(400, seed=8):
        if mini.check(text).status == "ok":
            plain, named = mini.worked_solution(text), mini.worked_solution(text, named=True)
            calculations = [
                line.split(" = ", line[1:3] == " =")[-1] for line in plain.split(". ") if line.count("=") > 1]
            bare = re.sub(r"\b[a-z](?=\d)", "", named)
            assert all(calculation.removesuffix(".") in bare for calculation in calculations), (plain, named)
            compared += len(calculations)
    assert compared > 50


def draws(n: int, seed: int, sizes=(1, 2, 3, 4)):
    rng = random.Random(seed)
    for _ in range(n):
        skills = rng.sample(mini.skills, rng.choice(sizes))
        yield skills, mini.draw_problem(skills, rng)


def test_unknown_skill_is_refused():
    with pytest.raises(UserError, match="'juggle'"):
        mini.draw_problem(["shift", "juggle"], random.Random(0))


def test_every_drawn_skill_is_there_once():
    for skills, text in draws(300, seed=1):
        assert not isinstance(chainlet.read(text), chainlet.Check), text
        assert Counter(mini.step_kinds(text)) >= Counter(skills)
        assert len(mini.step_kinds(text)) <= len(skills) + 1  # a step is added where no drawn skill is a step
        assert mini.check(text, skills).status != "missing skill"


def test_three_solvers_and_checker_agree():
    no_answer = ("fraction", "negative", "too large", "no answer")
    decided = 0
    for _, text in draws(300, seed=2):
        verdict = mini.check(text)
        solutions = {solve(text) for solve in mini.verifiers} - {Solution("unknown")}
        assert len(solutions) == 1, (text, solutions)
        solution = solutions.pop()
        expected = {"ok": "ok", "several answers": "several answers", "idle": "ok", "copy": "ok"}.get(verdict.status)
        assert solution.status == ("no answer" if verdict.status in no_answer else expected), text
        if verdict.status == "ok":
            assert solution.answer == verdict.answer
        audit = mini.second_audit(text).status
        decided += audit != "unknown"
        if audit != "unknown" and verdict.status != "copy":
            assert (audit == "ok") == (verdict.status == "ok"), (text, audit, str(verdict))
    assert decided > 290


def test_solvers_read_alike():
    """Damaged texts (a word or letter missing, or two exchanged): all three solvers call the same ones unreadable."""
    rng = random.Random(3)
    for _, text in draws(300, seed=3):
        words = text.split(" ")
        at = rng.randrange(len(words))
        damaged = rng.choice((
            words[:at] + words[at + 1:], words[:at] + [words[at][:-1] or "a"] + words[at + 1:],
            words[:at] + [rng.choice(words)] + words[at + 1:],
        ))
        text = " ".join(damaged)
        assert len({solve(text).status == "unreadable" for solve in mini.verifiers}) == 1, text


def test_a_weakened_solver_would_be_noticed(monkeypatch):
    monkeypatch.setattr(chainlet.OURS["digits"], "meaning", lambda y: y % 9)
    text = SOUND["digits"][0]
    assert mini.enumerate_worlds(text) != mini.propagate(text) == mini.search(text)


def test_canonical_ignores_names_and_order():
    rng, seen = random.Random(4), {}
    for _, text in draws(150, seed=4, sizes=(2, 3)):
        form = mini.canonical(text)
        assert mini.canonical(renamed(mini.language, text, rng)) == form == mini.canonical(form)
        one, other = mini.check(text), mini.check(form)
        assert (one.status, one.answer) == (other.status, other.answer)
        seen.setdefault(form, set()).add(one.answer)
    assert all(len(answers) == 1 for answers in seen.values())
    one = "a is 24. b is 12. c is the larger of a and b. Find c."
    assert mini.canonical(one) == mini.canonical("x is 12. y is 24. z is the larger of y and x. Find z.")
    assert mini.canonical(one) == mini.canonical(one.replace("of a and b", "of b and a"))
    assert mini.canonical(one) != mini.canonical(one.replace("12", "13"))
    minus = "a is 24. b is 12. c is {}. d is 4 more than {}. e is d minus c. Find e."
    assert mini.canonical(minus.format("5", "a")) != mini.canonical(minus.format("5", "b"))


def test_canonical_changes_with_any_number():
    rng = random.Random(5)
    for _, text in draws(60, seed=5, sizes=(3,)):
        words = text.split(" ")
        places = [i for i, word in enumerate(words) if word.strip(".,").isdigit()]
        at = rng.choice(places)
        number = words[at].strip(".,")
        words[at] = words[at].replace(number, str(int(number) + 1))
        assert mini.canonical(" ".join(words)) != mini.canonical(text)


def test_templates():
    assert chainlet.template_of("b is 7 more than a.") == "x is k more than y."
    assert chainlet.template_of("a is a whole number from 0 to 99.") == "x is a whole number from k to m."
    assert chainlet.template_of("c is c minus b.") == "x is x minus y." not in mini.language.templates
    assert len(mini.skills) == 12
    for skill in mini.skills:
        template = chainlet.OURS[skill].template
        assert chainlet.template_of(chainlet.OURS[skill].render("abc", (5, 6, 7, 8))) == template
        assert package(template)[0]["name"] == skill


def test_chainlet_runs_alone(tmp_path):
    """It runs as in the sandbox: in another folder, without site packages, with only chainlet's folder on the path."""
    program = f"import sys; sys.path.insert(0, {str(Path(chainlet.__file__).parent)!r})\n"
    program += mini.check_program + "\nprint('numpy' in sys.modules)"
    (tmp_path / "draft.txt").write_text(SOUND["congr"][0])
    (tmp_path / "skills.txt").write_text("congr\n")
    command = [sys.executable, "-I", "-S", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=20)
    assert done.stdout.split("\n")[:2] == ["ok: 52", "False"], done.stderr


def test_corpus_and_its_noise():
    corpus = mini.make_corpus(500, random.Random(6))
    assert corpus == mini.make_corpus(500, random.Random(6))
    json.dumps(corpus)
    flawed = clean = 0
    used: Counter = Counter()
    for document in corpus:
        question, solution = document["question"], document["solution"]
        steps = [mini.check_step(question, solution, line) for line in chainlet.split(question)]
        if mini.check(question).status == "ok" and solution == mini.worked_solution(question):
            clean += 1
            used.update(chainlet.skills_of(question))
            assert steps == [True] * len(steps), document
            assert document["answer"] == mini.check(question).answer
        else:
            flawed += not all(steps)
    assert 0.10 < 1 - clean / 500 < 0.20
    assert flawed > 0.8 * (500 - clean)
    assert min(used[skill] for skill in mini.skills) >= 20


def test_check_step():
    question, solution = "a is 24. b is 7 more than a. c is half of b. Find b.", r"b = 24 + 7 = 32. c = 16. \boxed{32}"
    assert mini.check_step(question, solution, "b is 7 more than a.") is False
    assert mini.check_step(question, solution.replace("32", "31"), "b is 7 more than a.") is True
    assert mini.check_step(question, solution, "c is half of b.") is None


def test_share_of_sound_draws():
    """The careless author's share of sound problems: about 0.45, 0.3, 0.2 for two, three, four skills."""
    for size, low, high in ((2, 0.37, 0.55), (3, 0.2, 0.37), (4, 0.1, 0.28)):
        sound = sum(mini.check(text, skills).status == "ok" for skills, text in draws(500, seed=7, sizes=(size,)))
        assert low < sound / 500 < high


def test_conflicts_are_those_that_new_numbers_do_not_mend():
    for size, count in ((2, 66), (3, 40)):
        sets = list(itertools.combinations(mini.skills, size))
        random.Random(8).shuffle(sets)
        wrong = 0
        for skills in sets[:count]:
            rng = random.Random("/".join(skills))
            sound = any(mini.check(mini.draw_problem(skills, rng), skills).status == "ok" for _ in range(40))
            wrong += sound == any(mini.in_conflict(skills, skill) for skill in skills)
        assert wrong <= 0.06 * count


# ---------------------------------------------------------------- slips


class Says(random.Random):
    """A generator with given results: numbers for random(), and positions for choice()."""

    def __init__(self, *numbers):
        super().__init__(0)
        self.numbers = list(numbers)

    def random(self):
        return self.numbers.pop(0)

    def choice(self, options):
        return options[self.numbers.pop(0)]


def test_a_slip_by_hand():
    """b = 31 is written as 33, also where c uses it; c stays 62, and d is right. Then d, the answer, is off by 10."""
    question = "a is 24. b is 7 more than a. c is 2 times b. d is the remainder of c divided by 9. Find d."
    right = "a24. a24 + 7 = 31. b31. 2 * b31 = 62. c62. c62 mod 9 = 8. d8. \\boxed{8}"
    assert mini.worked_solution(question, named=True) == right
    risk = {"shift": 0.2, "scale": 0.1, "residue": 0.3}
    slip = Says(0.19, 1, 0.4, 0.1, 0.3)  # b: below 0.2; the second offset, upwards; c: not below 0.1; d: not below 0.3
    assert mini.slipped(question, right, slip, risk) == (
        "a24. a24 + 7 = 33. b33. 2 * b33 = 62. c62. c62 mod 9 = 8. d8. \\boxed{8}")
    slip = Says(0.2, 0.1, 0.29, 3, 0.9)  # d: off by 10, upwards, since 8 - 10 is no value
    assert mini.slipped(question, right, slip, risk) == (
        "a24. a24 + 7 = 31. b31. 2 * b31 = 62. c62. c62 mod 9 = 18. d18. \\boxed{18}")


def test_slips_are_as_frequent_as_said():
    """A hidden start counts as invert. 3,000 draws of each: the shares within 4 standard errors of the risk."""
    question = "a is a whole number from 0 to 99. b is 7 more than a. Here b is 31. Find a."
    right, rng = mini.worked_solution(question, named=True), random.Random(0)
    written = [mini.slipped(question, right, rng, {"shift": 0.1, "invert": 0.3}) for _ in range(3000)]
    wrong = {name: sum(f"{name}{value}." not in text for text in written) / 3000 for name, value in (("b", 31), ("a", 24))}
    assert abs(wrong["b"] - 0.1) < 4 * (0.1 * 0.9 / 3000) ** 0.5 and abs(wrong["a"] - 0.3) < 4 * (0.3 * 0.7 / 3000) ** 0.5
    assert mini.slipped(question, right, rng, {"shift": 0.0, "invert": 0.0}) == right
