r"""What a model says: thoughts, records of broken JSON, tool calls with slips; mutated replies; halves of surrogates.

AP_MUTATIONS sets how many mutated replies are read (100000: about a minute).
"""
import json
import os
import random
import re
import time

import pytest

from ap.answers.replies import after_thoughts, last_record, opened_thoughts
from ap.files import read_json, read_jsonl, writable, write_json, write_jsonl
from ap.judge.roles import Verdict
from ap.metrics import Metrics
from ap.players.chat_solver import SampledSolver
from ap.players.chat_verifier import ChatVerifier, read_verdict
from ap.players.model_teacher import ModelTeacher
from ap.trajectory import Problem
from ap.world.acquire import Document
from ap.world.chat import STOP, decode_reply, encode, prompt_ids, read_message, tool_call, written_ids

MUTATIONS = int(os.environ.get("AP_MUTATIONS", "3000"))
PROBLEM = Problem("a is 3. Find a.", "3")


# ---------------------------------------------------------------- thoughts


@pytest.mark.parametrize("reply, said", [
    ("all of it", "all of it"), ("<think>a</think>b", "b"), ("a</think>b", "b"), ("<think>a", ""), ("b<think>a", "b"),
    ("b<think>a</think>c", "bc"), ("<think>a</think>b<think>c</think>d", "bd"), ("a</think>b</think>c", "c"),
    ("<think>a <think> b</think>c", "c"), ("<think>\n<think>a</think>c", "c"), ("<think>a</think>b<think>c", "b"),
    ("<think>a</think>b</think>c", "c"), ("", ""), ("</think>", ""), ("<think></think>c", "c"),
    ("<THINK>a</Think>c", "c"),
    ("<thinking>a</thinking>c", "c"), ("[THINK]a[/THINK]c", "c"), ("◁think▷a◁/think▷c", "c"),
    ("<seed:think>a</seed:think>c", "c"), ("<reasoning>a</reasoning>c", "c"), ("<thought>a</thought>c", "c"),
    ("<|begin_of_thought|>a<|end_of_thought|>c", "c"),
    ("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>c", "c"),
    ('<think>a</think>{"code": "print(\'</think>\')"}', '{"code": "print(\'</think>\')"}'),  # text of a record
    ('<think>a</think>{"code": "<think>"} b', '{"code": "<think>"} b'), ('{"code": "</think>"} b', '"} b'),
    ('{"code": "<think>"} b', '{"code": "'), ('<think>a</think>{"code": "</think>", b', '", b'),
    ("I think. <thin>", "I think. <thin>"),
    ('<think>{"a": "</think>"} b', '"} b'),  # in thoughts the first closing mark ends them, wherever it stands
])
def test_what_stands_outside_of_thoughts(reply, said):
    assert after_thoughts(reply) == said


def test_a_prompt_opens_thoughts(tokenizer):
    assert opened_thoughts("<|im_start|>assistant\n<think>\n") == "<think>"
    assert opened_thoughts("<|im_start|>assistant\n") == opened_thoughts("<think>\n\n</think>\n\n") == ""
    assert opened_thoughts("You may write <think>.") == ""
    call = tool_call("submit", answer="5")
    for before, tool in (("<|im_start|>assistant\n<think>\n", None), ("<|im_start|>assistant\n", "submit")):
        ids = encode(tokenizer, before)
        reply = decode_reply(tokenizer, ids + encode(tokenizer, f"Perhaps {call}{STOP}"), len(ids))
        assert read_message(reply).tool == tool
        reply = decode_reply(tokenizer, ids + encode(tokenizer, f"Perhaps {call}</think>\nSound.{STOP}"), len(ids))
        assert (read_message(reply).tool, read_message(reply).text) == (None, "Sound.")


# ---------------------------------------------------------------- records

UNREADABLE = Verdict(None, None, "unreadable verdict")


def one(answer, reason="valid", vote=1):
    return Verdict(vote, answer, reason)


@pytest.mark.parametrize("written, meant", [  # as a model writes an answer between the quotes of JSON
    (r"\frac{3}{4}", r"\frac{3}{4}"), (r"\\frac{3}{4}", r"\frac{3}{4}"), (r"\dfrac{1}{2}", r"\dfrac{1}{2}"),
    (r"\sqrt{2}", r"\sqrt{2}"), (r"\theta", r"\theta"), (r"\times", r"\times"), (r"2\times 3", r"2\times 3"),
    (r"x \neq 3", r"x \neq 3"), (r"\rho", r"\rho"), (r"\beta", r"\beta"), (r"\{1, 2\}", r"\{1, 2\}"),
    (r"{1, 2}", "{1, 2}"),
    (r"\left\{x\right\}", r"\left\{x\right\}"), (r"5 \text{ cm}", r"5 \text{ cm}"), (r"\nu", r"\nu"),
    (r"\pi r^2", r"\pi r^2"),
    (r"\binom{5}{2}", r"\binom{5}{2}"), (r"\forall x", r"\forall x"), (r"\nabla f", r"\nabla f"),
    (r"90^\circ", r"90^\circ"),
    (r"\uparrow", r"\uparrow"), (r"\u00b0", "°"), (r"\tan x", r"\tan x"), (r"x \to 0", r"x \to 0"),
    (r"\bar{x}", r"\bar{x}"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"), (r"\$5", r"\$5"), (r"5\%", r"5\%"),
    (r"\\frac{1}{2}\nu = 3", "\\frac{1}{2}\nu = 3"),  # who doubles backslashes means a new line
    (r"one.\nu = 3", "one.\nu = 3"), (r"one\nTwo", "one\nTwo"), (r"one\n\ntwo", "one\n\ntwo"), (r"a\tb", "a\tb"),
    (r"Line.\n\frac{1}{2}", "Line.\n\\frac{1}{2}"), (r"say \"5\"", 'say "5"'), (r"a\/b", "a/b"),
    (r"\boxed{5}", r"\boxed{5}"),
    (r"\rangle\tfrac12\nleq", r"\rangle\tfrac12\nleq"), (r"\bigl(1\bigr)", r"\bigl(1\bigr)"),
    (r"\Delta", r"\Delta"),
    (r"a}b{c", "a}b{c"), ("5\ncm", "5\ncm"), (r"\\\\", r"\\"),
    (r"\displaystyle\frac{1}{\sqrt{2}}", r"\displaystyle\frac{1}{\sqrt{2}}"),
])
def test_backslashes_are_mended_before_json_takes_them(written, meant):
    for text in (f'{{"valid": true, "answer": "{written}", "reason": "valid"}}',
                 f"Thus ${{x}}$.\n```json\n{{\n'valid': True, 'answer': \"{written}\", 'reason': 'valid',\n}}\n```"):
        assert read_verdict(text) == one(meant)
    message = read_message(f'<tool_call>{{"name": "submit", "arguments": {{"answer": "{written}"}}}}</tool_call>')
    assert (message.tool, message.arguments) == ("submit", {"answer": meant})


@pytest.mark.parametrize("reply, verdict", [
    ('{"valid": false, "answer": null, "reason": ["Ambiguous"]}', one(None, "ambiguous", 0)),
    ('{"valid": false, "answer": null, "reason": "two\\ni.e. both"}', one(None, "two\ni.e. both", 0)),
    ("{'valid': False, 'answer': None, 'reason': 'it\\'s ambiguous'}", one(None, "it's ambiguous", 0)),
    ("{'valid': False, 'answer': None, 'reason': 'it's ambiguous'}", one(None, "it's ambiguous", 0)),
    ('```json\n{\n  "valid": true,  // yes\n  "answer": "5",\n  "reason": "one of: valid",\n}\n```\nDone.', one("5")),
    ('{"valid": true, "answer": "5", "reason": "the set {1, 2} has\ntwo"}', one("5", "the set {1, 2} has\ntwo")),
    ('{"valid": false, "answer": null, "reason": "the word "sum" is ambiguous"}',
     one(None, 'the word "sum" is ambiguous', 0)),
    ('{"valid": true, "answer": 3/4, "reason": valid}', one("3/4")),
    ('{valid: true, answer: \\frac{3}{4}, reason: valid}', one(r"\frac{3}{4}")),
    ('{"valid": true, "answer": 1,000, "reason": "valid"}', one("1,000")),
    ('{"valid": true, "answer": [1, 2], "reason": "valid"}', one("1, 2")),
    ('{"valid": true "answer": "5"\n"reason": "valid"}', one("5")),
    ('{“valid”： true， “answer”： “5”, “reason”: “valid”}', one("5")),
    ('{"valid": "True", "answer": "5", "reason": "valid"}', one("5")),
    ('{"Valid": false, "Answer": null, "Reason": "Missing_information."}', one(None, "missing information", 0)),
    ('{"verdict": {"valid": true, "answer": 5, "reason": "valid"}}', one("5")),
    ('[{"valid": true, "answer": 5, "reason": "valid"}]', one("5")),
    (r'{\"valid\": true, \"answer\": \"5\", \"reason\": \"valid\"}', one("5")),
    (json.dumps('{"valid": true, "answer": "5", "reason": "valid"}'), one("5")),
    ('{"valid": true, "answer": "5", "reason": "valid"', one("5")),
    ('{"valid": true, "answer": """5""", "reason": `valid`}', one("5")),
    ('{"valid": true, "answer": "1", "reason": "valid"} I am sure: {"confidence": 0.9}', one("1")),
    ('{"valid": true, "answer": "1"} no: {\'valid\': False, \'reason\': \'no answer\'}', one(None, "no answer", 0)),
    ('{"valid": false, "reason": "he wrote {\\"valid\\": true, \\"answer\\": 1}"}',
     one(None, 'he wrote {"valid": true, "answer": 1}', 0)),
    ('Of {x : x > 0} and {a, b: \\boxed{{"valid": true, "answer": "5", "reason": "valid"}}', one("5")),
    ('{"valid": true, "answer": "5", "reason": "one of: valid, wrong, ambiguous"}', one("5", "")),
    ('<think>no</think>{"valid": true, "answer": "5", "reason": "it says </think>"}', one("5", "it says </think>")),
    ('{"valid": true, "answer": "5", "reason": "it says </think>"}', UNREADABLE),  # which may have ended thoughts
    ('<think>no</think>{"valid": true, "answer": "5", "reason": "valid"}', one("5")),
    ('{"valid": true, "answer": "1"}</think>{"valid": false, "reason": "unsolvable"}', one(None, "unsolvable", 0)),
    ('<think>{"valid": true, "answer": "5"}</think> no', UNREADABLE),
    ('<think>{"valid": true, "answer": "5"}', UNREADABLE),
    ('{"valid": true, "answer": "5"}</think>', UNREADABLE),
    ('{"valid": true, "answer": "5", "reason": "val', UNREADABLE),  # cut
    ('{"valid": true or false, "answer": "your own answer", "reason": "one of: valid"}', UNREADABLE),  # our own words
    ('{"valid": null}', UNREADABLE), ('{"valid": [true]}', UNREADABLE), ("[true]", UNREADABLE),
    ('{"valid": true, "answer": ' + "9" * 5000 + "}", one("9" * 5000, "")),
    ('{"valid": true, "answer": 1e999, "reason": "valid"}', one("1e999")),
])
def test_verdicts_with_slips(reply, verdict):
    assert read_verdict(reply) == verdict


@pytest.mark.parametrize("record", [
    r'{"valid": true, "answer": "\frac{3}{4}", "reason": "valid"}',
    r"{'valid': True, 'answer': '\frac{3}{4}', 'reason': 'valid'}",
    r'{"valid": true, "answer": "\\frac{3}{4}", "reason": "valid",}',
])
def test_a_long_solution_goes_before_the_verdict(record):
    solution = "Let $x_{n+1} = \\frac{a_{n}}{b} \\\\ \\text{ if } n \\in \\{1, 2\\}$, f({x: 1}), \\[ y = [0, 1) \\].\n"
    assert read_verdict(solution * 800 + record) == one(r"\frac{3}{4}")
    reply = f"<think>{solution * 200}</think>{solution * 20}{record}{solution}"
    assert read_verdict(reply) == one(r"\frac{3}{4}")


def test_a_judge_is_asked_once_more():
    """For a reply without a verdict, or without the answer that a valid problem has; not for silence."""
    def judge(*replies):
        asked = []

        def ask(prompt):
            asked.append(prompt)
            if isinstance(replies[len(asked) - 1], Exception):
                raise replies[len(asked) - 1]
            return replies[len(asked) - 1]

        return ChatVerifier(ask).verify(PROBLEM), asked

    good = '{"valid": true, "answer": 3, "reason": "valid"}'
    verdict, asked = judge("hm", good)
    assert verdict == one("3") and len(asked) == 2
    assert asked[1].startswith(asked[0]) and "could not be used" in asked[1]
    assert judge('{"valid": true}', good)[0] == one("3")
    assert judge('{"valid": true}', "hm")[0] == one(None, "")
    assert judge("hm", "hm")[0] == UNREADABLE and judge("hm", TimeoutError())[0] == UNREADABLE
    for silent in (TimeoutError(), OSError(), '{"valid": false}', good):
        assert len(judge(silent)[1]) == 1


# ---------------------------------------------------------------- the teacher's lists, records and quotes

TEXT = r"Since $\frac{1}{n(n+1)} = \frac{1}{n} - \frac{1}{n+1}$, all but the ends cancel, and \theta \neq \beta."
ENTRY = (r'"name": "telescoping", "category": "algebra", "intent": "write \frac{1}{n(n+1)} as a difference", '
         r'"difficulty": "one step", "tool": "add up", "recognise": "Long sums.", "build": "Hide it.", '
         r'"quote": "$\frac{1}{n(n+1)} = \frac{1}{n} - \frac{1}{n+1}$, all but"')
MARKS = '{"general": 8, "composable": 6, "checkable": 10, "faithful": 8}'


@pytest.mark.parametrize("reply", [
    f"[{{{ENTRY}}}]", f"As in [1], here: [{{{ENTRY}}}] (see [2]).", f"<think>[]</think>\n```json\n[{{{ENTRY},}},]\n```",
    f"{{{ENTRY}}}", f'{{"skills": [{{{ENTRY}}}]}}', f"[{{{ENTRY}}}", f"['an example'] [{{{ENTRY}}}]",
])
@pytest.mark.parametrize("marks", [
    MARKS, f"{{8}} {MARKS}", MARKS.replace('"', "'"), f"```json\n{MARKS[:-1]},}}\n```",
    "<think>" + MARKS.replace("8", "0") + "</think>" + MARKS,
    f'{MARKS} {{"sum": 32}}',
])
def test_a_teacher_with_slips(reply, marks):
    class Player:
        def ask(self, prompt):
            return reply if "Which reasoning skills" in prompt else marks

    [candidate] = ModelTeacher(Player(), "math").candidates([Document(TEXT, "notes.md")])
    assert (candidate.skill.name, candidate.score) == ("telescoping", 0.8), candidate.why
    assert candidate.skill.intent == r"write \frac{1}{n(n+1)} as a difference"


# ---------------------------------------------------------------- tool calls


def call(text):
    return f"<tool_call>{text}</tool_call>"


SUBMIT = '{"name": "submit", "arguments": {"answer": "5"}}'
RUN = '{"name": "exec", "arguments": {"code": "print(1)\\nprint(2)"}}'
LINES = {"code": "print(1)\nprint(2)"}


@pytest.mark.parametrize("text, tool, arguments, outside", [
    (f"<tool_call>\n{SUBMIT}", "submit", {"answer": "5"}, ""), (f"Now.\n<tool_call>{RUN}", "exec", LINES, "Now."),
    (f"<tool_call>{SUBMIT}\nDone.", "submit", {"answer": "5"}, "Done."),
    (f"<tool_call>{SUBMIT}<tool_call>", "submit", {"answer": "5"}, ""),
    (f"<tool_call><tool_call>{SUBMIT}</tool_call>", "submit", {"answer": "5"}, ""),
    (f"{SUBMIT}</tool_call>", "submit", {"answer": "5"}, ""),
    (call('{"name": "submit", "arguments": {"answer": 5}}'), "submit", {"answer": "5"}, ""),
    (call('{"name": "submit", "arguments": {"answer": -2.5}}'), "submit", {"answer": "-2.5"}, ""),
    (call('{"name": "submit", "arguments": {"answer": null}}'), "submit", {}, ""),
    (call('{"name": "submit"}'), "submit", {}, ""),
    (call('{"name": "submit", "arguments": null}'), "submit", {}, ""),
    (call('{"name": "edit", "arguments": {"prune": "a", "replace": null, "by": null}}'), "edit", {"prune": "a"}, ""),
    (call(RUN.replace("\\n", "\n")), "exec", LINES, ""), (call(f"\n```json\n{RUN}\n```\n"), "exec", LINES, ""),
    (f"```json\n{RUN}\n```", "exec", LINES, ""), (f"I run it.\n```\n{RUN}\n```\n", "exec", LINES, "I run it."),
    (SUBMIT, "submit", {"answer": "5"}, ""),
    (f"I submit.\n{SUBMIT}\n", "submit", {"answer": "5"}, "I submit."),
    (tool_call("exec", code="print('</tool_call>')"), "exec", {"code": "print('</tool_call>')"}, ""),
    (tool_call("exec", code="'</tool_call><tool_call>'") + " So.", "exec", {"code": "'</tool_call><tool_call>'"},
     "So."),
    ("<think>a</think>" + tool_call("exec", code="print('</think>')"), "exec", {"code": "print('</think>')"}, ""),
    (call("{'name': 'exec', 'arguments': {'code': 'print(1)\\nprint(2)'}}"), "exec", LINES, ""),
    (call('{"name": "exec", "arguments": {"code": "print("hi", "you")"}}'), "exec", {"code": 'print("hi", "you")'}, ""),
    (call('{"name": "exec", "arguments": {"code": """print(1)\nprint(2)"""}}'), "exec", LINES, ""),
    (call('{"name": "submit", "arguments": {"answer": "5"}'), "submit", {"answer": "5"}, ""),
    (call(SUBMIT + "}"), "submit", {"answer": "5"}, ""),
    (call(f"[{SUBMIT}]"), "submit", {"answer": "5"}, ""), (call(f'{{"tool_calls": [{RUN}]}}'), "exec", LINES, ""),
    (call('{"type": "function", "function": {"name": "submit", "arguments": "{\\"answer\\": \\"5\\"}"}}'), "submit",
     {"answer": "5"}, ""),
    (call('{"name": "submit", "parameters": {"answer": "5"}}'), "submit", {"answer": "5"}, ""),
    (call('{"name": "submit", "answer": "5"}'), "submit", {"answer": "5"}, ""),
    (call("\n<function=exec>\n<parameter=code>\nprint(1)\nprint(2)\n</parameter>\n</function>\n"), "exec", LINES, ""),
    # In a program, what follows `\n` and `\t` is a name of its own, and no form feed was ever meant.
    (call(r'{"name": "exec", "arguments": {"code": "x = 1\nu = 2\nif x:\n\tan = 3\nprint(\"\\n\")"}}'), "exec",
     {"code": 'x = 1\nu = 2\nif x:\n\tan = 3\nprint("\\n")'}, ""),
    (call(r'{"name": "exec", "arguments": {"code": "re.findall(r\"\bto\b \d+\", s); \"\frac\""}}'), "exec",
     {"code": r're.findall(r"\bto\b \d+", s); "\frac"'}, ""),
])
def test_calls_with_slips(text, tool, arguments, outside):
    message = read_message(text)
    assert (message.error, message.tool, message.arguments, message.text) == ("", tool, arguments, outside)


@pytest.mark.parametrize("text, error", [
    (f"I could write {SUBMIT} later.", ""), (f"<problem>\n```json\n{SUBMIT}\n```\n</problem>", ""),  # words, a draft
    (f"```json\n{SUBMIT}\n```\n```json\n{RUN}\n```", "several tool calls"),
    ('```json\n{"name": "rm", "arguments": {}}\n```', ""),
    ("<think>" + call(SUBMIT), "empty message"), (call(SUBMIT) + "</think>Sound.", ""),
    (call(SUBMIT) + "</think>", "empty message"),
    ("<think>a <think>b</think> c</think> Sound." + "<think>" + call(SUBMIT), ""),
    (f"<tool_call>{SUBMIT}<tool_call>{RUN}</tool_call>", "several tool calls"),
    (call(SUBMIT + RUN), "several tool calls"),
    (call("submit(answer=5)"), "tool call is not JSON"),
    (call('{"name": "submit", "arguments": {"answer": "5'), "tool call is not JSON"),
    (call('{"name": "submit", "arguments": {"answer": [5]}}'), "bad arguments"),
    (call('{"name": "exec", "arguments": {"code": null}}'), "bad arguments"),
    (call('{"name": "submit", "arguments": {"answer": true}}'), "bad arguments"),
])
def test_calls_that_are_none_or_not_clear(text, error):
    message = read_message(text)
    assert (message.error, message.tool, message.arguments) == (error, None, None)


# ---------------------------------------------------------------- mutated replies

TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "```json\n", "```", "{", "}", '"', "'", "\\", "\\frac",
        ",", ":",
        "[", "]", "\n", "\\n", "<problem>", "</problem>", "\ud800", "\x00", "None", "1e9", "“", '"""', "//", "/*")


def mutated(text, rng):
    for _ in range(rng.choice((0, 1, 1, 2, 3, 5, 8))):
        place, length = rng.randint(0, len(text)), rng.choice((1, 1, 2, 5, 20))
        text = rng.choice((
            lambda: text[:place] + text[place + length:], lambda: text[:place] + rng.choice(TAGS) + text[place:],
            lambda: text[:place] + text[place:place + length] * 2 + text[place + length:], lambda: text[:place],
            lambda: text[:place] + text[place + length:][:length] + text[place:][:length] + text[place + 2 * length:],
            lambda: text[:place] + chr(rng.choice((34, 92, 123, 125, rng.randrange(1, 0x300)))) + text[place + 1:]))()
    return text


def thought(text):
    """Of each character, whether it stands in thoughts: said once more, and without knowing what a record is."""
    inside, flags, place = False, [], 0
    for tag in re.finditer("</?think>", text):
        flags += [inside] * (tag.start() - place)
        closing = tag[0] == "</think>"
        if closing and not inside:
            flags = [True] * len(flags)
        flags, inside, place = flags + [True] * len(tag[0]), not closing, tag.end()
    return flags + [inside] * (len(text) - place)


def test_mutated_replies():
    """Never an exception, and nothing that stands in thoughts is carried out or is a verdict."""
    rng, read = random.Random(0), 0
    start = time.process_time()
    for number in range(MUTATIONS):
        hidden, open_answer = f"H{number}", f"S{number}"
        kinds = ((tool_call("submit", answer=hidden), tool_call("submit", answer=open_answer)),
                 (tool_call("exec", code=f"print('{hidden}')\n"),
                  f"<problem>{open_answer}</problem>{tool_call('submit')}"),
                 (f"```json\n{tool_call('submit', answer=hidden)[12:-13]}\n```", f"Fault: {open_answer}."),
                 (f'{{"valid": true, "answer": "{hidden}", "reason": "valid"}}',
                  f'{{"valid": false, "answer": null, "reason": "{open_answer}"}}'),
                 (f"{{'valid': True, 'answer': '\\frac{{{hidden}}}{{2}}',}}",
                  f'{{"valid": true, "answer": "{open_answer}"}}'))
        inner, outer = rng.choice(kinds)
        thoughts = rng.choice((f"<think>Well, {inner} so.</think>", f"<think>{inner}</think>\n", f"Hm {inner}</think>",
                               f"<think>a</think>b<think>{inner}</think>"))
        text = mutated(rng.choice((thoughts + outer, outer + "<think>" + inner, thoughts)), rng)
        message, verdict = read_message(text), read_verdict(text)
        assert (message.tool is None) == (message.arguments is None) and not (message.error and message.tool), text
        assert isinstance(last_record(text, lambda _: True, "["), (list, type(None)))
        done = json.dumps([message.arguments, message.draft, verdict.answer, verdict.reason], ensure_ascii=False)
        done.encode()
        flags = thought(text)
        if all(flags[found.start()] for found in re.finditer(hidden + r"(?!\d)", text)):
            assert not re.search(hidden + r"(?!\d)", done), text
        read += open_answer in done or message.tool is not None
    assert read > MUTATIONS / 6  # the rest is not all refused
    assert time.process_time() - start < 1 + MUTATIONS * 0.01


@pytest.mark.parametrize("piece", [
    "{", '{"', '{"a":', '{"a":"', '{"a": [', "[", "<tool_call>", "</tool_call>", "</think>", "<think>", "</think>{",
    '{"</think>', "\\", '"', "{'a': '",
    "{a:", "```json\n{", "<tool_call>{", "{\\", '"""', "/*", "<problem>", "<function=a>", '{"a": "b", ', "{'a': 'b', ",
    "“",
])
def test_replies_of_one_piece_take_no_time(piece):
    text = piece * (40_000 // len(piece))
    start = time.process_time()
    read_message(text), read_verdict(text), last_record(text, bool, "["), read_message(call(text))
    assert time.process_time() - start < 6


# ---------------------------------------------------------------- texts that no file can hold

HALF = "x\ud83d y"


def test_halves_of_surrogate_pairs_are_replaced(tmp_path):
    assert writable(HALF) == "x\ufffd y" and writable("\ud83d\ude00 Größe \x00") == "😀 Größe \x00"
    write_jsonl(tmp_path / "a.jsonl", [{"text": HALF}])
    assert json.loads((tmp_path / "a.jsonl").read_text("utf-8")) == {"text": "x\ufffd y"}
    write_json(tmp_path / "a.json", [HALF])
    assert read_json(tmp_path / "a.json") == ["x\ufffd y"]
    metrics = Metrics(tmp_path / "metrics.jsonl")
    metrics.write(1, {f"verdict/{HALF}": 0.5})
    assert read_jsonl(tmp_path / "metrics.jsonl") == [{"step": 1, "verdict/x\ufffd y": 0.5}]


@pytest.mark.parametrize("half", ["\ud83d", "\\ud83d", "\\udc5c"])
def test_no_reply_brings_one_in(half, tokenizer, make_env):
    """Written as it is, or as an escape of JSON: in a verdict, an attempt, a draft, a program, an answer, a message."""
    verdict = read_verdict(f'{{"valid": false, "answer": "x{half}y", "reason": "z{half}"}}')
    (verdict.answer + verdict.reason).encode()
    assert ChatVerifier(lambda prompt: f'{{"valid": true, "answer": "x{half}y"}}', read=lambda reply: reply).verify(
        PROBLEM).answer.encode()
    [answer] = SampledSolver("s", lambda *_: [f"\\boxed{{x{half}y}}"]).attempt(PROBLEM, 1, "k")
    answer.encode()
    from ap.world.env import Episode
    episode = Episode(make_env(), ("shift", "share"))
    for text in (f"Hm{half}", f"<problem>a is 3{half}. Find a.</problem>",
                 f'<tool_call>{{"name": "exec", "arguments": {{"code": "print(\'{half}\')"}}}}</tool_call>',
                 f'<tool_call>{{"name": "submit", "arguments": {{"answer": "{half}"}}}}</tool_call>'):
        encode(tokenizer, text), written_ids(tokenizer, text)
        prompt_ids(tokenizer, [{"role": "user", "content": text}])
        *_, facts, reply = episode.step(text)
        json.dumps([facts, reply], ensure_ascii=False).encode()
    json.dumps([episode.said, vars(episode.problem)], ensure_ascii=False).encode()


def test_a_program_prints_one(run):
    for code in ("print('\\ud83d')", "import sys; sys.stdout.buffer.write(b'\\xed\\xa0\\xbd')", "print('\ud83d')"):
        result = run.sandbox.run(code)
        (result.stdout + result.stderr).encode()
