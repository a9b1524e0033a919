"""A model as teacher: it reads the user's corpus and proposes skills. model_author.py writes expert episodes.

A trained proposer, the extractor, can take over the first task: L_acq has taught it to extract skills itself.

The player is an endpoint or a local checkpoint (cast.py); it has `ask(prompt)` and `sample(prompt, k, key)`. Its
replies are data: an unusable one is asked for once more, then counted, and the fault of a proposed skill is written
beside it in candidates.jsonl. An endpoint keeps its replies on disk, so a second run asks for nothing again.
"""
from __future__ import annotations

import json
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Callable, Iterable, Sequence

from tqdm import tqdm

from ap.answers.records import records
from ap.answers.replies import after_thoughts, last_record
from ap.mini.agents.chainlet import OURS, split, template_of
from ap.mini.domain import Mini
from ap.mini.teacher import ScriptedTeacher
from ap.players.endpoint import BadReply
from ap.players.notes import Notes
from ap.players.worked import ENTRIES, PASSAGE
from ap.world.acquire import Candidate, Document, extraction_prompt, read_extraction
from ap.world.skills import FIELDS, Skill, fault_of

CHUNK = 4000  # characters of a passage at most. *Choice*, like the other numbers
MOST = 3  # skills of one passage
ALIKE = 0.6  # two skills with this share of common words in name and intent are one
LONGEST_QUOTE = 600  # characters
AT_ONCE = 32  # passages that are asked about at the same time; an endpoint has its own, lower limit

EXTRACTION = """\
You find reasoning skills in a passage from a corpus on {domain}. A skill is a move of reasoning that new problems can \
be built from, and that can be combined with others. It is not a topic, and not one particular problem.

An example passage, its sentences numbered:
{passage}

The reply about it, a JSON list with one entry:
{entries}

Now the passage below. Which reasoning skills does it show? Reply in the same way, with one to {most} entries of the \
same fields, and nothing else. "sentences" holds the numbers of the sentences that show the skill. If the passage shows no \
move of reasoning at all, reply with the word None.

Passage:
{text}"""

COMPLETION = """\
A reasoning skill was found in a passage from a corpus on {domain}. Say more about the skill, with the same fields as \
in the example.

An example passage, its sentences numbered:
{passage}

The reply about a skill that was found there, a JSON list with one entry:
{entries}

Reply in the same way about the next passage and its skill, and nothing else. "sentences" holds the numbers of the \
sentences that show the skill.

Passage:
{text}

Skill:
{skill}"""

SCORING = """\
Score a reasoning skill from which problems on {domain} shall be built, by four whole numbers from 0 (not at all) to \
10 (fully):
general: it is a move of reasoning, not one particular problem; composable: its result can go into another skill's step;
checkable: a program can check the answers of problems with it; faithful: the quoted sentences really show it.

Skill:
{skill}
Quoted from the corpus: {quote}

Reply with one JSON record of your own marks and nothing else. For another skill it was \
{{"general": 7, "composable": 4, "checkable": 9, "faithful": 5}}"""
MARKS = ("general", "composable", "checkable", "faithful")

AGAIN = "\n\nYour last reply could not be used: {fault}. Reply with the JSON only."
SENTENCE_ENDS = re.compile(r"(?<=[.!?])\s+(?=[^a-z\d\s])|(?<=[。！？])|\n+")


# ---------------------------------------------------------------- acquisition


def chunks(documents: Iterable[Document], size: int = CHUNK) -> list[Document]:
    """Documents of at most `size` characters: long ones are cut between paragraphs, or else between words."""
    pieces = []
    for document in documents:
        if len(document.text) <= size:
            pieces.append(document)
            continue
        parts, text = [], document.text.strip()
        while len(text) > size:
            cut = max(text.rfind("\n\n", 1, size), 0) or max(text.rfind(" ", 1, size), 0) or size
            parts.append(text[:cut].strip())
            text = text[cut:].strip()
        pieces += [Document(part, f"{document.source}, part {n}") for n, part in enumerate([*parts, text], 1) if part]
    return pieces


@dataclass(frozen=True)
class _Proposal:
    """One entry of a reply about one passage. `fault`: why it cannot be used, or ""."""

    skill: Skill
    quote: str
    passage: int
    fault: str = ""


class ModelTeacher:
    """Proposes the skills that a model finds in passages.

    *Choices*: a passage is shown with its sentences numbered, and a skill counts only if it names some of them by their
    numbers; we look the quote up, since small models cannot quote by heart. Words that it quotes count, too, if they
    do stand in the passage. Skills that share most words of
    name and intent count as one, under the name of the first, with the passages of all. r(k) is a tenth of the mean of
    four marks from 0 to 10, which the same model gives in a second question. The model writes no checker scripts.

    extractor: the player that extracts skills, at most one from each passage; the model then says which sentences show
    it, how to build the skill in, and scores it, as it does for its own skills. notes: where proposals are written as
    they come, before they are scored.
    """

    def __init__(self, player, domain: str, extractor=None, notes: Notes | None = None):
        self.player, self.domain, self.extractor, self.notes = player, domain, extractor, notes

    def candidates(self, documents: Sequence[Document]) -> list[Candidate]:
        """documents: passages, see chunks(). Raises DeadEndpoint when the player is an endpoint that cannot be used."""
        skills = [None] * len(documents) if self.extractor is None else extracted(self.extractor, documents)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = list(tqdm(pool.map(self._noted, range(len(documents)), documents, skills), total=len(documents),
                              desc="reading", unit="passage"))
            proposals = [proposal for entries in found for proposal in entries or ()]
            groups = _alike([proposal for proposal in proposals if not proposal.fault])
            scores = list(tqdm(pool.map(self._score, [group[0] for group in groups]), total=len(groups),
                               desc="scoring", unit="skill"))
        if None in found:
            print(f"teacher: no usable reply about {found.count(None)} of {len(found)} passages")
        candidates = [Candidate(p.skill, 0.0, why=p.fault) for p in proposals if p.fault]
        for group, (score, why) in zip(groups, scores):
            sources = list(dict.fromkeys(documents[proposal.passage].source for proposal in group))
            source = "; ".join(sources[:3]) + (f"; {len(sources) - 3} more" if len(sources) > 3 else "")
            for proposal in group:  # of equal names the first is kept, with all passages (skills.acquire)
                skill = replace(proposal.skill, name=group[0].skill.name, source=source)
                candidates.append(Candidate(skill, score, (proposal.passage,), why))
        return candidates

    def _noted(self, number: int, document: Document, skill: dict[str, str] | None) -> list[_Proposal] | None:
        proposals = self._read(number, document, skill)
        if self.notes is not None:
            self.notes.add(*[{"name": p.skill.name, "category": p.skill.category, "intent": p.skill.intent,
                              "why": p.fault, "quote": p.quote, "source": document.source} for p in proposals or ()])
        return proposals

    def _read(self, number: int, document: Document, skill: dict[str, str] | None) -> list[_Proposal] | None:
        """skill: what the extractor found there, if there is an extractor. Returns None without a usable reply."""
        if self.extractor is not None:
            if not skill:
                return []
            shown = "".join(f"{name}: {text}\n" for name, text in skill.items()).strip()
            prompt = COMPLETION.format(domain=self.domain, passage=PASSAGE, entries=ENTRIES,
                                       text=numbered(document.text), skill=shown)
            more = self._json(prompt, _record, lambda value: "" if isinstance(value, dict) else "it is no JSON record")
            return None if more is None else [_proposal(more | skill, number, document)]
        prompt = EXTRACTION.format(domain=self.domain, passage=PASSAGE, entries=ENTRIES, most=MOST,
                                   text=numbered(document.text))
        entries = self._json(prompt, _entries, lambda value: "" if isinstance(value, list) else "it is no JSON list")
        return None if entries is None else [_proposal(entry, number, document) for entry in entries[:MOST]]

    def _score(self, proposal: _Proposal) -> tuple[float, str]:
        def fault(value) -> str:
            marks = [value.get(name) for name in MARKS] if isinstance(value, dict) else []
            usable = marks and all(type(mark) in (int, float) and 0 <= mark <= 10 for mark in marks)
            return "" if usable else f"it is no record of {', '.join(MARKS)} from 0 to 10"

        shown = "".join(f"{name}: {getattr(proposal.skill, name)}\n" for name in FIELDS) + proposal.skill.body
        prompt = SCORING.format(domain=self.domain, skill=shown, quote=proposal.quote)
        marks = self._json(prompt, lambda reply: last_record(reply, lambda record: not fault(record)), fault)
        if marks is None:
            return 0.0, "the teacher gave no usable score"
        why = ", ".join(f"{name} {marks[name]:g}" for name in MARKS)
        return round(sum(marks[name] for name in MARKS) / (10 * len(MARKS)), 4), why

    def _json(self, prompt: str, read: Callable[[str], object], fault: Callable[[object], str]):
        """What `read` finds in the reply, which is asked for twice at most; None when there is no usable one."""
        again = ""
        for _ in range(2):
            try:
                value = read(self.player.ask(prompt + again))
            except BadReply:
                return None
            problem = fault(value)
            if not problem:
                return value
            again = AGAIN.format(fault=problem)
        return None


class CheckedExtractor:
    """A trained proposer extracts skills from worked problems, and the domain's programs score them.

    r(k) is computed as by ScriptedTeacher: a document supports a skill that was extracted from it if one of its
    sentences has the skill's form and comes out right. The skill's name decides which form that is; category and intent
    stay as the proposer wrote them.
    """

    def __init__(self, player, domain: Mini):
        self.player, self.domain, self.scorer = player, domain, ScriptedTeacher(domain)

    def candidates(self, documents: Sequence[Document]) -> list[Candidate]:
        seen: dict[tuple[str, ...], list[tuple[int, bool]]] = {}  # name, category, intent -> (document, is it there?)
        for index, fields in enumerate(extracted(self.player, documents)):
            if fields:
                shown = self._shows(documents[index], self._template(fields["name"]))
                seen.setdefault(tuple(fields.values()), []).append((index, shown))
        candidates = []
        for (name, category, intent), examples in sorted(seen.items()):
            candidate = self.scorer.candidate(self._template(name), examples)
            skill = replace(candidate.skill, name=name, category=category, intent=intent)
            candidates.append(replace(candidate, skill=skill))
        return candidates

    def _template(self, name: str) -> str:
        """The form of a skill's sentence; "" when no checker knows the skill."""
        return OURS[name].template if name in self.domain.skills else ""

    def _shows(self, document: Document, template: str) -> bool:
        return any(self.domain.check_step(document.question, document.solution, sentence)
                   for sentence in split(document.question) if template_of(sentence) == template)


def extracted(player, documents: Sequence[Document]) -> list[dict[str, str] | None]:
    """What a trained proposer extracts from each document; None: nothing usable; the faults are counted."""
    def ask(document: Document) -> tuple[dict[str, str], str]:
        try:
            return read_extraction(player.ask(extraction_prompt(document)))
        except BadReply:
            return {}, "no reply"

    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(tqdm(pool.map(ask, documents), total=len(documents), desc="extracting", unit="passage"))
    faults = Counter(fault for _, fault in found if fault)
    print(f"extractor: {len(found) - faults.total()} of {len(found)} replies are skills"
          + "".join(f"; {fault}: {count}" for fault, count in faults.most_common()))
    return [None if fault else fields for fields, fault in found]


def _record(reply: str) -> dict | None:
    """The last record that says something of a skill, else the last one."""
    said = last_record(reply, lambda record: not {"quote", "sentences", "build", "recognise"}.isdisjoint(record))
    return last_record(reply, lambda record: True) if said is None else said


def _entries(reply: str) -> list | None:
    """The last list of records; else the records that are entries by themselves; else the last list, such as an empty
    one, which the word None stands for, too."""
    entries = last_record(reply, lambda values: any(isinstance(value, dict) for value in values), "[")
    alone = [] if entries is not None else [
        found.value for found in records(after_thoughts(reply), lambda record: {"name", "intent"} <= set(record))]
    if alone:
        return alone
    if entries is None and re.fullmatch(r"\W*(?:json\W+)?none\W*", after_thoughts(reply), re.IGNORECASE):
        return []
    return last_record(reply, lambda _: True, "[") if entries is None else entries


def _proposal(entry, number: int, document: Document) -> _Proposal:
    entry = entry if isinstance(entry, dict) else {}
    names = (*FIELDS, "recognise", "build")
    texts = {name: " ".join(str(entry.get(name) or "").split())[:300] for name in names}
    for name in ("name", "category"):
        texts[name] = re.sub(r"[^a-z0-9_]+", "-", texts[name].lower()).strip("-_")[:40]
    body = f"Recognise: {texts['recognise']}\nBuild in: {texts['build']}\nCheck: {texts['tool']}"
    skill = Skill(**{name: texts[name] for name in FIELDS}, body=body, source=document.source)
    wrong = fault_of(texts)
    fault = f"field {wrong[0]} {wrong[1]}" if wrong else ""
    for name in ("recognise", "build"):
        fault = fault or ("" if texts[name] else f"field {name} is missing")
    if texts["intent"] == json.loads(ENTRIES)[0]["intent"]:
        fault = "it repeats the example"
    quote, wrong_quote = _quote(entry, document.text)
    return _Proposal(skill, quote, number, fault or wrong_quote)


def sentences(text: str) -> list[str]:
    """The sentences of a passage, and lines that end without a mark, in their order."""
    return [part.strip() for part in SENTENCE_ENDS.split(text) if part.strip()]


def numbered(text: str) -> str:
    """A passage as the teacher is shown it: one sentence a line, `[1] ...`."""
    return "\n".join(f"[{number}] {sentence}" for number, sentence in enumerate(sentences(text), 1))


def _quote(entry: dict, text: str) -> tuple[str, str]:
    """The sentences that an entry names by number, or words that it quotes; and what is wrong with that, or "".

    The words count only where it names no sentences.
    """
    said, known = entry.get("sentences", entry.get("sentence")), sentences(text)
    numbers = [int(number) for number in re.findall(r"\d{1,4}", str(said))] if said else []
    if numbers:
        if not all(1 <= number <= len(known) for number in numbers):
            return "", f"it names sentences that the passage of {len(known)} does not have"
        return " ".join(known[number - 1] for number in dict.fromkeys(numbers))[:LONGEST_QUOTE], ""
    quote = " ".join(str(entry.get("quote") or "").split())[:LONGEST_QUOTE]
    quoted = _plain(quote)
    if not quoted:
        return "", "it names no sentences of the passage"
    if len(quoted) < 8 or quoted not in _plain(text):
        return quote, "what it quotes does not stand in the passage"
    return quote, ""


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


COMMON = frozenset("a an and as at by for from in into is it its of on or that the then to use using with".split())


def _alike(proposals: Iterable[_Proposal]) -> list[list[_Proposal]]:
    """Groups of near-duplicates, in the order of their first members, with which the others are compared."""
    groups: list[tuple[set[str], list[_Proposal]]] = []
    for proposal in proposals:
        words = set(_plain(f"{proposal.skill.name} {proposal.skill.intent}".replace("-", " ")).split()) - COMMON
        for seen, group in groups:
            if len(words & seen) >= ALIKE * len(words | seen) or group[0].skill.name == proposal.skill.name:
                group.append(proposal)
                break
        else:
            groups.append((words, [proposal]))
    return [group for _, group in groups]
