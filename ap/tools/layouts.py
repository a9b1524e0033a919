r"""Rows of problem files, in the layouts in which others publish them: what is the question, what is the gold answer?

A row becomes {"question", "answer"} with, where it has them, "choices" (the texts behind the letters A, B, ...), or
"tests" (programs.py) and "task" (what is asked of a program). Known layouts:

- a question and an answer under one of the usual names; a story before the question in a field of its own (SVAMP's
  Body); an answer that stands only in the box of the solution (MATH, Minerva), behind "####" or "A:" (GSM8K), or in a
  list (OlympiadBench); whole numbers as floats (AMC);
- options as a list, an object, a text, or columns A, B, C, ...; the right one by letter, index (from 0) or text (MMLU,
  AQuA, ARC, MathQA). They are shown below the question;
- a function to write: `prompt`, `test` and `entry_point` (HumanEval), or `test_list` (MBPP, whose asserts are shown in
  the question, as usual: *choice*).

What the question would lose is told, not lost: a file whose rows mostly have a text of some length in a field of
another name is refused, unless the user names the field of the question.
"""
from __future__ import annotations

import ast
import json
import math
import re
from collections import Counter
from typing import Any, Mapping, Sequence

from ap.answers.extract import marked
from ap.answers.grading import LETTERS
from ap.answers.match import match_answer
from ap.answers.programs import defined_names, fault_of_checks
from ap.files import UserError

QUESTION_FIELDS = ("question", "problem", "Problem", "Question", "question_content", "prompt")
ANSWER_FIELDS = ("answer", "Answer", "expected_answer", "gold", "Correct Answer", "final_answer", "answerKey",
                 "correct", "correct_answer", "target", "ground_truth")
SOLUTION_FIELDS = ("solution", "Solution", "reference_solution")  # that may hold the answer in a box
STORY_FIELDS = ("Body", "body", "context", "Context", "passage", "Passage", "story", "Story", "premise", "paragraph",
                "background", "scenario")
OPTION_FIELDS = ("choices", "options", "Choices", "Options", "answer_choices", "candidates", "endings")
ID_FIELDS = ("id", "ID", "problem_idx", "question_id", "uuid", "Record ID")
PROSE = 12  # words. *Choice*: an answer with more of them is an explanation
LONG_TEXT = 4  # words. *Choice*: a field with fewer says something about a row, and is no part of its question
# Names of fields that say something about a problem, which its solver must not see or does not need.
ABOUT = re.compile(
    r"(?i)solution|answer|gold|rationale|explanation|reason|thought|thinking|response|generation|completion|output|"
    r"source|licen[cs]e|type|topic|categor|level|difficult|equation|formula|evidence|competition|canonical|concept|"
    r"keyword|feedback|message|conversation|correct|justif|translat|ids?$|idx|(?:^|[_ ])(?:cot|url|link|index|subject|"
    r"domain|field|lang|year|date|tag|skill|meta|comment|error|split|contest|model|judg|verif|score|rating|reward|step|"
    r"hint|author|title|name|revis|expert|proof|extra_info|ability|review|writer|pass_rate|unit|area|original|native|"
    r"system|prompt)")
LABEL = re.compile(r"\s*[(\[]?([A-Ja-j])\s*[).:\]]\s*(?=\S)")
TASK = "Write the whole function, under the name that it has above and with all that it needs."
SAID_LAST = re.compile(
    r"(?s).*(?:^|[\s.*])(?:A\**\s*:|(?:ANS|Ans|(?:[Tt]he )?(?:[Ff]inal )?[Aa]nswer(?: is)?)\**\s*[:=])\**\s*(\S[^\n]*)")
TOLD_LAST = re.compile(r"(?s).*\b[Tt]he (?:final )?answer is (\S[^\n]*)")


class NoAnswer(UserError):
    """A row whose answer is empty."""


# ------------------------------------------------------------------------------------------------- fields


def first_field(record: Mapping, names: Sequence[str], where: str, advice: str) -> str:
    """The first of the names that a record has. UserError when it has none."""
    for name in names:
        if name in record:
            return name
    raise UserError(f"{where}: none of the fields {', '.join(names)}; "
                    f"it has {', '.join(map(str, record)) or 'none'}; {advice}")


def text_of(record: Mapping, name: str, where: str, advice: str) -> str:
    """A field as text, without blanks around it. UserError when it is missing, empty, or no text and no number."""
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or not str(value).strip():
        what = "missing" if name not in record else (
            f"empty ({json.dumps(value)})" if value in (None, "") or isinstance(value, str)
            else f"{json.dumps(value, default=str)[:40]}, not a text or number")
        raise UserError(f"{where}: field {name!r} is {what}; {advice}")
    return str(value).strip()


def _texts(value: Any) -> list[str] | None:
    """A list of at least one text or number, as texts; None for anything else."""
    if isinstance(value, list) and value and all(
            isinstance(entry, (str, int, float)) and not isinstance(entry, bool) for entry in value):
        return [number_text(entry).strip() for entry in value]
    return None


def number_text(value: str | int | float) -> str:
    """A text or number as text; a whole number without the point that tables give it."""
    whole = isinstance(value, float) and math.isfinite(value) and value == int(value)
    return str(int(value) if whole else value)


# ---------------------------------------------------------------------------------------------- questions


def question_of(record: Mapping, where: str, field: str | None = None) -> str:
    """The question of a row, with the story that stands in another field. field: its name, where the user gave one, and
    then nothing else is taken. UserError."""
    if field is None and "test_list" in record and "text" in record:
        field = "text"
    name = field or first_field(record, QUESTION_FIELDS, where, "set question_field")
    question = text_of(record, name, where, "correct or remove the row" if name in record else
                       "name the field that holds the question")
    for story in STORY_FIELDS if field is None else ():
        text = record.get(story)
        if isinstance(text, str) and text.strip() and story != name and not _within(text, question):
            text = text.strip()
            text = text + "." if text[-1].isalnum() else text.rstrip(",") + "." if text[-1] == "," else text
            question = text + ("\n\n" if "\n" in text else " ") + question
    return question


def _within(text: str, question: str) -> bool:
    """Does one of two texts hold the other, but for blanks?"""
    one, other = ("".join(part.split()) for part in (text, question))
    return one in other or other in one


class Lost:
    """Counts the texts of a file's rows that neither question nor answer hold."""

    def __init__(self) -> None:
        self.rows, self.fields, self.shown = 0, Counter(), {}

    def see(self, record: Mapping, problem: Mapping, used: Sequence[str | None]) -> None:
        self.rows += 1
        for name, value in record.items():
            if name in used or name in STORY_FIELDS or name in OPTION_FIELDS or ABOUT.search(str(name)):
                continue
            listed = isinstance(value, list) and 2 <= len(value) <= len(LETTERS)
            options = listed and problem["answer"] in map(str, value)
            text = str(value) if options or isinstance(value, str) else ""
            if options or len(text.split()) >= LONG_TEXT and not _within(text, problem["question"]):
                self.fields[name] += 1
                self.shown.setdefault(name, text)

    def told(self, path: object) -> None:
        """UserError for a field that most rows have."""
        for name, count in self.fields.items():
            if 2 * count > self.rows:
                shown = " ".join(self.shown[name].split())[:40]
                raise UserError(f"{path}: the question would lose the field {name!r} ({shown!r} ...); join it to the "
                                "question, or set question_field to say that the question is whole.")


# ------------------------------------------------------------------------------------------------ answers


def gold_of(record: Mapping, name: str, where: str) -> str:
    """The final answer that a field holds: a text or number, or a list of them. UserError."""
    value = record.get(name)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if name in record and (value in (None, [], {}) or isinstance(value, str) and not value.strip()):
        raise NoAnswer(f"{where}: field {name!r} is empty ({json.dumps(value)}); correct or remove the row")
    several = _texts(value)
    advice = "name the field that holds the answer (answer_field)"
    text = ", ".join(several) if several else text_of({name: value} if name in record else {}, name, where, advice)
    if not several and isinstance(value, float):
        if not math.isfinite(value):
            raise UserError(f"{where}: field {name!r} is {value}, not a number; correct or remove the row")
        text = number_text(value)
    return undressed(text)


def undressed(text: str) -> str:
    r"""The final answer in a gold text: behind "####", in its box, behind a last "A:"; else the text itself."""
    text = text.strip()
    if "####" in text:
        return text.rpartition("####")[2].strip() or text
    if "\\boxed" in text or "\\fbox" in text:
        return marked(text) or text
    said = SAID_LAST.fullmatch(text) or TOLD_LAST.fullmatch(text)
    if said and not re.search(r"\bB\b", text):  # "A : B = 3 : 4", or the parts A and B of an answer
        return said[1].strip().rstrip("*").removesuffix(".").strip() or text
    return text


def readable(problem: Mapping) -> bool:
    """Can the gold answer be read as one, so that another way to write it counts too?"""
    if "choices" in problem or "tests" in problem or problem["answer"].startswith("[{"):
        return True
    return not is_prose(problem) and match_answer(problem["answer"], "-31337.5").status != "unparsed"


def is_prose(problem: Mapping) -> bool:
    """Is the gold answer a text of many words, that no other text will equal?"""
    free = "choices" not in problem and "tests" not in problem and not problem["answer"].startswith("[{")
    return free and len(re.findall(r"(?<!\\)\b[^\W\d_]{2,}", problem["answer"])) > PROSE


# ------------------------------------------------------------------------------------------------- options


def options_of(record: Mapping) -> list[str] | None:
    """The texts of a row's options, without their letters; None where it has none."""
    columns = [letter for letter in LETTERS if isinstance(record.get(letter), (str, int, float))]
    if len(columns) >= 2 and columns == list(LETTERS[:len(columns)]):
        return [number_text(record[letter]).strip() for letter in columns]
    value = next((record[name] for name in OPTION_FIELDS if record.get(name)), None)
    if isinstance(value, dict):
        value = value.get("text") or [value[key] for key in sorted(value)]
    if isinstance(value, str):  # "a ) 38 , b ) 27.5"
        parts = re.split(r"(?:^|[,;\n])\s*[(\[]?([A-Ja-j])\s*[).:\]]\s*", value)
        value = parts[2::2] if "".join(parts[1::2]).upper() == LETTERS[:len(parts) // 2] else None
    if isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
        value = [entry.get("text", entry.get("value", entry.get("content"))) for entry in value]
    texts = _texts(value)
    if texts is None or not 2 <= len(texts) <= len(LETTERS):
        return None
    labels = [LABEL.match(text) for text in texts]
    if all(label and label[1].upper() == letter for label, letter in zip(labels, LETTERS)):
        texts = [text[label.end():].strip() for text, label in zip(texts, labels)]
    return [text.rstrip(" ,") for text in texts]


def letter_of(record: Mapping, name: str, choices: Sequence[str], where: str) -> str:
    """The letter of the right option, which a field says by letter, index from 0, label or text. UserError."""
    value, letters = record.get(name), LETTERS[:len(choices)]
    said = number_text(value).strip() if isinstance(value, (str, int, float)) and not isinstance(value, bool) else ""
    labels = next((record[field]["label"] for field in OPTION_FIELDS
                   if isinstance(record.get(field), dict) and "label" in record[field]), ())
    by_number = {int(said)} if isinstance(value, (int, float)) and re.fullmatch(r"\d+", said) else set()
    bare = said.strip("()[]. ").upper()
    for found in ({labels.index(said)} if said in labels else set(), by_number,
                  {letters.index(bare)} if len(bare) == 1 and bare in letters else set(),
                  {index for index, text in enumerate(choices) if text == said},
                  {int(said)} if re.fullmatch(r"\d", said) else set()):
        if len(found & set(range(len(choices)))) == 1:
            return letters[found.pop()]
    raise UserError(f"{where}: field {name!r} is {json.dumps(value, default=str)[:40]}, which names none of its "
                    f"{len(choices)} options; correct or remove the row, or set answer_field")


# --------------------------------------------------------------------------------------------------- rows


def problem_of(record: Mapping, where: str, question_field: str | None = None, answer_field: str | None = None) -> dict:
    """A row as a problem. The fields are those that the user named. UserError."""
    if answer_field is None and "test_list" in record:
        return mbpp(record, where)
    if answer_field is None and "entry_point" in record and "test" in record:
        return human_eval(record, where)
    question = question_of(record, where, question_field)
    for name in record:
        if question_field is None and re.match(r"(?i)incorrect[_ ]|wrong[_ ]|distractor", str(name)):
            raise UserError(f"{where}: field {name!r} holds an option that would be lost; list all of them in a field "
                            "'choices', or give the file as its --benchmark")
    choices = options_of(record) if question_field is None else None
    answer_field = answer_field or answer_field_of(record, where)
    if choices:
        lines = "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, choices))
        return {"question": f"{question}\n\n{lines}\n\nThe answer is the letter of the right option.",
                "answer": letter_of(record, answer_field, choices, where), "choices": choices}
    gold = gold_of(record, answer_field, where)
    if answer_field in SOLUTION_FIELDS and answer_field not in ANSWER_FIELDS and "\\boxed" not in str(
            record[answer_field]):
        raise UserError(f"{where}: no answer in a \\boxed{{}} of its field {answer_field!r}; add a field 'answer', or "
                        "set answer_field")
    unit = re.fullmatch(r"(-?[\d.,/:]+) \(([A-Za-z][A-Za-z ]*)\)", gold)
    if unit and any(name in record for name in STORY_FIELDS[:2]):  # ASDiv: 9 (apples)
        gold = f"{unit[1]} {unit[2]}"
    return {"question": question, "answer": gold}


def answer_field_of(record: Mapping, where: str) -> str:
    """The field with the answer: the first of the usual names, else a solution whose answer is in a box. UserError."""
    for name in SOLUTION_FIELDS:
        if name in record and not any(field in record for field in ANSWER_FIELDS) and "\\boxed" in str(record[name]):
            return name
    return first_field(record, ANSWER_FIELDS, where, "set answer_field")


def human_eval(record: Mapping, where: str) -> dict:
    """A function to complete, and code that defines check(candidate). UserError."""
    start, name = str(record.get("prompt") or ""), text_of(record, "entry_point", where, "correct or remove the row")
    checks = text_of(record, "test", where, "correct or remove the row")
    if not name.isidentifier() or "check" not in defined_names(checks):
        raise UserError(f"{where}: field 'test' defines no check(candidate), or 'entry_point' is no name; only "
                        "HumanEval's layout is known")
    if name not in defined_names(start):
        start = start.rstrip() + "\n    pass\n"  # a function without a docstring
    tests = {"checks": f"{checks}\n\ncheck({name})\n", "setup": "", "start": start, "function": name}
    question = f"Complete this Python function:\n```python\n{str(record['prompt']).strip()}\n```"
    return _checked({"question": question, "answer": "passes its tests", "tests": tests, "task": TASK}, where)


def mbpp(record: Mapping, where: str) -> dict:
    """A task and asserts; `test_imports` and `test_setup_code` are what these need. UserError."""
    asserts = _texts(record.get("test_list"))
    if asserts is None:
        raise UserError(f"{where}: field 'test_list' is {json.dumps(record.get('test_list'), default=str)[:40]}, not a "
                        "list of asserts; correct or remove the row")
    more = _texts(record.get("challenge_test_list")) or []
    setup = [*(_texts(record.get("test_imports")) or ()), str(record.get("test_setup_code") or "")]
    name = text_of(record, "text" if "text" in record else "prompt", where, "correct or remove the row")
    tests = {"checks": "\n".join([*asserts, *more]), "setup": "\n".join(setup), "start": "",
             "function": _called(asserts, str(record.get("code") or ""))}
    question = f"{name}\nIt must pass these tests:\n```python\n" + "\n".join(asserts) + "\n```"
    return _checked({"question": question, "answer": "passes its tests", "tests": tests, "task": TASK}, where)


def _called(asserts: Sequence[str], code: str) -> str:
    """The function that asserts call: one that the reference defines, else the first name that is called."""
    try:
        calls = [node.func.id for node in ast.walk(ast.parse("\n".join(asserts)))
                 if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        calls = []
    made = defined_names(code)
    return next((name for name in calls if name in made), calls[0] if calls else "")


def _checked(problem: dict, where: str) -> dict:
    if fault := fault_of_checks(problem["tests"]):
        raise UserError(f"{where}: {fault}; correct or remove the row")
    return problem
