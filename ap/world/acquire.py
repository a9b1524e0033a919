"""Skill acquisition: a teacher extracts candidate skills from a corpus, and the good ones are kept.

`acquire` keeps the candidates whose quality r(k) is at least tau_r, `write_library` writes them as packages
(skills.py), and `acquisition_examples` turns them into examples from which the proposer learns extraction (L_acq).
"""
from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Mapping, Sequence

from ap.answers.replies import after_thoughts
from ap.files import write_jsonl
from ap.world.skills import FIELDS, Skill, fault_of, write_skill

# ---------------------------------------------------------------- corpus


@dataclass(frozen=True)
class Document:
    """One piece of D_corpus. `question`, `answer` and `solution` are empty for plain text."""

    text: str
    source: str = ""  # file, or file and line
    question: str = ""
    answer: str = ""
    solution: str = ""

    @classmethod
    def from_record(cls, record: Mapping[str, str], source: str = "") -> "Document":
        """A worked problem {question, answer[, solution]} as a document."""
        question, answer, solution = (str(record.get(name) or "") for name in ("question", "answer", "solution"))
        text = "\n".join(part for part in (question, solution or f"Answer: {answer}") if part)
        return cls(text, source, question, answer, solution)


# ---------------------------------------------------------------- acquisition


@dataclass(frozen=True)
class Candidate:
    """What a teacher proposes: a skill, its quality score r(k), and the documents that show it."""

    skill: Skill
    score: float  # r(k), from 0 to 1
    examples: tuple[int, ...] = ()  # indices of documents
    why: str = ""  # the reason for the score or, if it is rejected, for the rejection
    scripts: Mapping[str, str] = field(default_factory=dict)  # level 3: file name -> text


def acquire(teacher, documents: Sequence[Document], tau_r: float) -> tuple[list[Candidate], list[Candidate]]:
    """Let a teacher extract skills and keep the good ones: (kept, rejected), both sorted by name.

    Eq. (acquisition): p_skill(k) proportional to 1[r(k) >= tau_r] * pi_teacher(k | D_corpus)

    teacher: see roles.Teacher. A score equal to tau_r passes. *Choice*: passing candidates whose names differ only in
    case, separators or a final s are merged into one skill, with the text and the score of the best of them and the
    examples of all. A candidate that cannot be written as a package (a bad field, a score that is not a number) is bad
    output of the teacher, so it is rejected with that reason.
    """
    groups: dict[str, list[Candidate]] = {}
    rejected: list[Candidate] = []
    for candidate in teacher.candidates(documents):
        reason = _rejection(candidate, tau_r)
        if reason:
            rejected.append(replace(candidate, why=reason))
        else:
            groups.setdefault(_merge_key(candidate.skill.name), []).append(candidate)
    kept: list[Candidate] = []
    for same in groups.values():
        best = max(same, key=lambda candidate: candidate.score)  # the first of equally good ones
        rejected += [replace(c, why=f"merged into {best.skill.name}") for c in same if c is not best]
        examples = tuple(dict.fromkeys(example for candidate in same for example in candidate.examples))
        kept.append(replace(best, examples=examples, skill=replace(best.skill, score=best.score)))

    def by_name(candidate: Candidate) -> str:
        return str(candidate.skill.name)

    return sorted(kept, key=by_name), sorted(rejected, key=by_name)


def _rejection(candidate: Candidate, tau_r: float) -> str:
    """The reason why a candidate is rejected, or an empty string."""
    record = {name: getattr(candidate.skill, name) for name in (*FIELDS, "source")}
    fault = fault_of(dict.fromkeys(FIELDS, "x") | {"score": candidate.score})
    if candidate.score is None or fault:
        return f"unusable: r = {candidate.score!r} is not a number from 0 to 1"
    if candidate.score < tau_r:
        return f"r = {candidate.score:.3g} is below tau_r = {tau_r:g}; {candidate.why}".rstrip("; ")
    fault = fault_of(record)
    return f"unusable: field {fault[0]} {fault[1]}" if fault else ""


def _merge_key(name: str) -> str:
    return re.sub(r"[-_ ]", "", name.lower()).removesuffix("s")


def write_library(kept: Sequence[Candidate], rejected: Sequence[Candidate], folder: Path) -> None:
    """Write the kept skills as packages and, last, candidates.jsonl: all candidates with their scores and reasons."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for candidate in kept:
        write_skill(candidate.skill, folder, candidate.scripts)
    write_jsonl(folder / "candidates.jsonl", candidate_records(kept, rejected))


def candidate_records(kept: Sequence[Candidate], rejected: Sequence[Candidate]) -> list[dict]:
    return [{"name": c.skill.name, "category": c.skill.category, "intent": c.skill.intent, "score": c.score,
             "kept": number < len(kept), "why": c.why, "examples": len(c.examples)}
            for number, c in enumerate([*kept, *rejected])]


EXTRACT = "Extract a reasoning skill from this worked example."
EXTRACTED = ("name", "category", "intent")  # the fields of a skill that the proposer learns to write, one on each line


def extraction_prompt(document: Document) -> str:
    """The prompt that asks the proposer to extract a skill from a document, in training and in use."""
    return f"{EXTRACT}\n{document.text}"


def read_extraction(reply: str) -> tuple[dict[str, str], str]:
    """A skill's name, category and intent from the proposer's reply, and what is wrong with the reply, or "".

    A fault is a short name that can be counted: "not a name, category and intent", or the field that is unusable.
    """
    found = re.fullmatch("\n".join(f"{name}: (.+)" for name in EXTRACTED), after_thoughts(reply).strip())
    if found is None:
        return {}, "not a name, category and intent"
    fields = dict(zip(EXTRACTED, found.groups()))
    fault = fault_of(dict.fromkeys(FIELDS, "x") | fields)
    return fields, f"field {fault[0]}" if fault else ""


def acquisition_examples(
    kept: Sequence[Candidate], documents: Sequence[Document], per_skill: int = 50
) -> list[tuple[str, str]]:
    """Pairs (prompt, completion) that teach the proposer to extract skills itself.

    Eq. (L_acq): L_acq(theta) = - E_{k ~ p_skill} [ log pi_theta(k | D_corpus) ]

    The prompt shows one document; the completion has the format that read_extraction reads. *Choice*: D_corpus is shown
    one document at a time, and a skill has at most `per_skill` examples, spread over all of its documents, so that
    p_skill is nearly uniform over the kept skills.
    """
    pairs = []
    for candidate in kept:
        skill, examples = candidate.skill, candidate.examples
        count = min(per_skill, len(examples))
        completion = "".join(f"{name}: {getattr(skill, name)}\n" for name in EXTRACTED).strip()
        for i in range(count):
            pairs.append((extraction_prompt(documents[examples[i * len(examples) // count]]), completion))
    return pairs
