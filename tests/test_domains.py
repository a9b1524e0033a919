"""The domains that models judge: what their programs can decide, and how the environment uses it."""
import json
from dataclasses import replace

import pytest
from conftest import TINY, FakeSandbox

from ap.catalog import DOMAINS, open_domain
from ap.config import Config
from ap.domains.base import Asking, Domain
from ap.domains.code import Code
from ap.domains.drafts import code_draft
from ap.domains.judged import JudgedDomain
from ap.domains.math import Math
from ap.domains.science import Science
from ap.files import UserError
from ap.judge.prober import Prober
from ap.judge.rewards import process_reward
from ap.judge.roles import Verdict
from ap.judge.verifier import Committee, ProgramCheck
from ap.mini.domain import Mini
from ap.players.chat_solver import SampledSolver
from ap.players.chat_verifier import ChatVerifier
from ap.sandbox.sandbox import Sandbox, SandboxResult
from ap.trajectory import Problem, Trajectory
from ap.world.chat import tool_call
from ap.world.env import Env, Episode
from ap.world.skills import Skill

math, code, science, mini = Math(), Code(), Science(), Mini()
SKILLS = {name: Skill(name, "c", "an intent", "d", "t", "the body") for name in ("one", "two", "three")}
QUESTION = "Find the least positive $n$ that leaves the remainder 2 modulo 3."
SUM = "Read two whole numbers from one line, each from 0 to 1000, and print their sum."
REFERENCE = "print(sum(map(int, input().split())))"
TESTS = [{"input": "1 2\n", "output": "3\n"}, {"input": "0 0", "output": "0"},
         {"input": "1000 7", "output": "1007 \n\n"}]


def draft_of(statement=SUM, reference=REFERENCE, tests=TESTS):
    tests = tests if isinstance(tests, str) else json.dumps(tests)
    return f"{statement}\n\n### Solution\n```python\n{reference}\n```\n\n### Tests\n```json\n{tests}\n```"


@pytest.fixture(scope="module")
def box():
    with Sandbox(code.scripts, preload=code.preload, timeout=2.0) as box:
        yield box


def episode(domain, name, sandbox=None):
    return Episode(Env(domain, SKILLS, sandbox, replace(TINY, domain=name)), ("one", "two", "three"))


def printing(*texts):
    return FakeSandbox(*(SandboxResult(text, "", "ok", 0, 0.0) for text in texts))


# ---------------------------------------------------------------- all


@pytest.mark.parametrize("name", [*DOMAINS])
def test_every_domain_has_the_names_of_the_interface(name):
    domain = open_domain(name)
    for wanted in ("look submission audit passed answer_of in_conflict canonical learn step_kinds verifiers auditor "
                   "scripts preload instructions check_program phrases draw_problem make_corpus skills").split():
        assert hasattr(domain, wanted), wanted
    assert isinstance(domain, Domain) and set(DOMAINS) == set(Config.__dataclass_fields__["domain"].metadata["choices"])


@pytest.mark.parametrize("domain", [math, code, science])
def test_nothing_is_drawn_by_a_program(domain):
    with pytest.raises(UserError, match="no program draws"):
        domain.draw_problem(("one",), None)
    with pytest.raises(UserError, match="--corpus"):
        domain.make_corpus(3, None)


def test_scripts_of_packages_need_names_of_their_own(tmp_path):
    def package(name, script):
        (tmp_path / name / "scripts").mkdir(parents=True)
        (tmp_path / name / "scripts" / script).write_text("")
        return {name: tmp_path / name}

    good = package("a", "helper_a.py")
    assert math.learn(good) == ()
    with pytest.raises(UserError, match="same name"):
        math.learn(good | package("b", "helper_a.py"))
    with pytest.raises(UserError, match="hides Python's own module statistics"):
        math.learn(package("c", "statistics.py"))


def test_the_same_problem_in_other_letters_and_spaces():
    assert math.canonical("Find  $x$.\nNow") == math.canonical("find x now.") != math.canonical("Find y. Now")
    assert math.canonical("f(x)!") != math.canonical("f(x)! + 1")


# ---------------------------------------------------------------- where nobody knows the truth


def test_a_draft_that_only_models_can_judge_earns_nothing_either_way():
    """A program can print any answer, and a reflection can claim anything: the policy's own word earns no reward."""
    one = episode(math, "math", printing("answer: 2", "answer: 2"))
    rewards = []
    for text in (f"<problem>{QUESTION}</problem>", "Sound.", "Fault: one.", tool_call("edit", prune="three"),
                 tool_call("exec", code="print('answer: 2')"), tool_call("submit", answer="2")):
        action, stage, facts, _ = one.step(text)
        rewards.append((action, stage, process_reward(action, facts)))
    assert rewards == [
        ("think", 0, 0), ("think", 1, 0), ("think", 1, 0), ("edit", 2, 0), ("exec", 2, 1), ("submit", 3, 0)]
    assert one.problem == Problem(QUESTION, "2", ("one", "two"), "math", evidence="2")


def test_an_illegal_edit_and_an_unreadable_draft_cost():
    one = episode(math, "math", printing())
    for text in (tool_call("edit", prune="nobody"), "<problem>?</problem>"):
        action, _, facts, _ = one.step(text)
        assert process_reward(action, facts) == -1


def test_evidence_is_of_this_draft_only():
    one = episode(math, "math", printing("answer: 2", "fault: none"))
    for text in (f"<problem>{QUESTION}</problem>", tool_call("exec", code="a"), f"<problem>{QUESTION} Or 4.</problem>",
                 tool_call("exec", code="b"), tool_call("submit", answer="5")):
        one.step(text)
    assert (one.problem.answer, one.problem.evidence) == ("5", "")


@pytest.mark.parametrize("draft, status", [
    (QUESTION, "unknown"), ("Too short.", "unreadable"), ("x" * 9000, "unreadable"),
    (QUESTION + r" It is \boxed{2}.", "answer given away"),
])
def test_what_a_program_can_tell_of_free_text(draft, status):
    assert math.look(draft).status == status
    assert math.audit(Problem(draft, "2")).status == ("ok" if status == "unknown" else status)


class Says:
    def __init__(self, *verdict):
        self.verdict = Verdict(*verdict)

    def verify(self, problem, trace=""):
        return self.verdict


@pytest.mark.parametrize("evidence, claimed, reason", [
    ("", r"\frac{1}{2}", "valid"), ("0.5", "1/2", "valid"), ("1/3", "1/2", "disagreement"),
    ("1/2", "1/3", "wrong answer")])
def test_the_proposers_own_calculation_is_the_program_check_of_math(evidence, claimed, reason):
    committee = Committee([Says(1, "1/2")] * 3, Says(1, "1/2"), ProgramCheck(math.audit), math.canonical)
    assert committee.judge(Problem(QUESTION, claimed, evidence=evidence)).reason == reason


def test_evidence_is_kept_in_files_and_left_out_where_there_is_none():
    def of(problem):
        return Trajectory([], [], [], [], [], ("one",), problem=problem)

    with_it, without = of(Problem("q", "1", evidence="e")), of(Problem("q", "1"))
    assert Trajectory.from_dict(json.loads(json.dumps(with_it.to_dict()))).problem.evidence == "e"
    assert "evidence" not in without.to_dict()["problem"]
    assert Trajectory.from_dict(json.loads(json.dumps(without.to_dict()))) == without


# ---------------------------------------------------------------- code


@pytest.mark.parametrize("draft, status, fault", [
    (draft_of(), "ok", "ok: 3 tests"),
    (SUM, "unreadable", "fault: a draft is"),
    (draft_of(tests="[1"), "unreadable", "fault: a draft is"),
    (draft_of(tests=TESTS[:2]), "bad tests", "fault: tests: there must be"),
    (draft_of(tests=[*TESTS, TESTS[0]]), "bad tests", "fault: tests: two tests"),
    (draft_of(tests=[*TESTS, {"input": 3, "output": "3"}]), "bad tests", "fault: tests: a test is"),
    (draft_of(tests=[{"input": str(n), "output": "7"} for n in range(3)]), "bad tests", "fault: tests: a program"),
    (draft_of(tests=[*TESTS, {"input": "5 5", "output": ""}]), "bad tests", "fault: tests: a program"),
    (draft_of(reference="print(input().split()[0])"), "reference fails", "fault: reference: it prints '1'"),
    (draft_of(reference="prin(3)"), "reference fails", "fault: reference: NameError in test 1"),
    (draft_of(reference="while: True"), "reference fails", "fault: reference: SyntaxError"),
])
def test_drafts_of_code(box, draft, status, fault):
    """The trainer's check, one process a test, and the one that agents may run say the same."""
    found = code.look(draft, (), box)
    assert found.status == status and (status != "ok" or found.answer == "3 tests")
    result = box.run(code.check_program, files={"draft.txt": draft})
    assert result.stdout.startswith(fault), result
    assert code.passed(result.stdout.strip()) == (status == "ok")


def test_a_reference_that_does_not_end_fails(box):
    assert code.look(draft_of(reference="while True: pass"), (), box).status == "reference fails"


def test_an_episode_of_code(box):
    one = episode(code, "code", box)
    for text, reward in ((f"<problem>{draft_of(reference='print(0)')}</problem>", 0), ("Fault: reference.", 1),
                         (f"<problem>{draft_of()}</problem>", 1), ("Sound.", 1),
                         (tool_call("exec", code=code.check_program), 1), (tool_call("submit"), 1)):
        action, _, facts, _ = one.step(text)
        assert process_reward(action, facts) == reward, text
    problem = one.problem
    assert (problem.question, problem.evidence) == (SUM, REFERENCE) and json.loads(problem.answer) == TESTS
    assert code.audit(problem, box).answer == problem.answer
    assert code.audit(replace(problem, evidence="print(1)"), box).status == "reference fails"
    words = Problem(**code.submission("only words, without any tests", "3", None))
    assert code.audit(words, box).status == "unreadable"


def test_verifiers_and_probers_of_code_answer_with_programs(box):
    problem = Problem(**code.submission(draft_of(), "", None))
    good, bad = (f"a, b = map(int, input().split())\nprint(a {sign} b)" for sign in "+*")
    asked, asking = [], code.asking(box)

    def judge(program, valid=True):
        reply = f"<think>```python\nno\n```</think>\n```python\n{program}\n```\n" + json.dumps(
            {"valid": valid, "reason": "valid"})
        return ChatVerifier(lambda prompt: asked.append(prompt) or reply, **asking.verifier)

    def reason(*judges, auditor=judge(good)):
        committee = Committee(judges, auditor, ProgramCheck(lambda p: code.audit(p, box)), code.canonical)
        return committee.judge(problem, "the trace").reason

    assert reason(judge(good), judge(good), judge(bad, valid=False)) == "valid"
    assert reason(judge(good), judge(good), judge(bad)) == "valid"  # the auditor's program passes
    assert reason(judge(bad), judge(bad), judge(bad)) == "disagreement"  # each reads the statement in another way
    assert SUM in asked[0] and "the trace" not in asked[0]  # the trace holds the reference program
    replies = [f"```python\n{good}\n```", f"```python\n{bad}\n```", "I cannot."]
    prober = Prober([SampledSolver("s", lambda prompt, k, key: replies[:k], **asking.solver)], k=3, same=asking.same)
    assert prober.pass_rate(problem, "key") == pytest.approx(1 / 3)


# ---------------------------------------------------------------- science

CHOICE = "Which force acts on 2 kg at an acceleration of 3 m/s^2?\nA) 5 N\nB) 6 N\nC) 1.5 N"
FORCE = "Which force, in newtons, acts on 2 kg at an acceleration of 3 m/s^2?"


@pytest.mark.parametrize("question, answer, status", [
    (CHOICE, "B", "ok"), (CHOICE, "(B)", "ok"), (CHOICE, "B) 6 N", "ok"), (CHOICE, "D", "answer is no option"),
    (CHOICE, "6 N", "answer is no option"), (CHOICE, "", "answer is no option"),
    (CHOICE.replace("B)", "D)"), "B", "bad options"), (CHOICE.replace("5 N", "6 N"), "B", "bad options"),
    (CHOICE.rsplit("\n", 1)[0], "B", "bad options"),
    (FORCE, "6 N", "ok"), (FORCE, "", "answer is not short"), (FORCE, "six " * 30, "answer is not short"),
])
def test_questions_of_science(question, answer, status):
    assert science.audit(Problem(question, answer)).status == status
    assert science.look(question).status == (status if status == "bad options" else "unknown")


def test_options_in_another_order_are_the_same_problem():
    other = "Which force acts on 2 kg at an acceleration of 3 m/s^2?\nA) 6 N\nB) 1.5 N\nC) 5 N"
    assert science.canonical(CHOICE) == science.canonical(other) != science.canonical(CHOICE.replace("3 m", "4 m"))


@pytest.mark.parametrize("evidence, reason", [("6 N", "valid"), ("6 J", "disagreement"), ("", "valid")])
def test_units_are_compared(evidence, reason):
    committee = Committee([Says(1, "6 N")] * 3, Says(1, "6 N"), ProgramCheck(science.audit), science.canonical)
    assert committee.judge(Problem(FORCE, "6.0 N", evidence=evidence)).reason == reason


def test_the_miniature_says_what_it_said():
    text = "a is 24. b is 7 more than a. Find b."
    assert mini.look(text, ("shift",)) == mini.audit(Problem(text, "31", ("shift",))) == mini.check(text, ("shift",))
    assert mini.submission(text, "31", "30") == {"question": text, "answer": "31"}
    assert mini.asking(None) == Asking() and JudgedDomain.verifiers == () != mini.verifiers
    assert code_draft.parse(text) is None
