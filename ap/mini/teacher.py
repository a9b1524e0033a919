"""The scripted teacher: it extracts candidate skills from a corpus, and it shows how a problem is written.

In the miniature programs do both. The author here is competent but uneven, like a large model: it is sometimes hasty
(it submits a problem that it has not checked), sometimes wrong in a reflection, and after a failed check it redraws,
prunes or replaces without asking which of the three the failure calls for. Only its successes are kept for SFT
(V(q) = 1); reinforcement learning has to find out which habits pay. A language model as teacher: model_teacher.py.
"""
from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Callable, Sequence

from ap.mini.agents.chainlet import split, template_of
from ap.mini.corpus import package
from ap.mini.domain import Mini
from ap.world.acquire import Candidate, Document
from ap.world.chat import tool_call
from ap.world.env import CHECK, DRAFT, FAULT, FINALIZE, SOUND, Env, Episode
from ap.world.skills import Skill


@dataclass(frozen=True)
class Style:
    """How often the author does what, as probabilities. *Choice*: all of them."""

    hasty: float = 0.3  # of episodes: submits its draft without a check
    forgets: float = 0.1  # leaves one of the active skills out of a draft
    audits: float = 0.15  # reflects on a new draft before it runs the check
    explains: float = 0.3  # names the fault after a failed check
    mistaken: float = 0.25  # a reflection names something else than the truth
    foresees: float = 0.1  # of episodes: prunes a conflict before the first draft
    redraws: float = 0.5  # after a failure: new numbers, same skills
    prunes: float = 0.3  # after a failure: drops a skill; else it replaces one
    blames_right: float = 0.6  # an edit takes the skill that the check blamed, not just any


class ScriptedAuthor:
    """Writes the messages of expert episodes. Knows the domain's naive draw and its exact check, nothing else."""

    round_size = 128  # episodes that are played before they are counted

    def __init__(self, env: Env, style: Style = Style()):
        self.env, self.style = env, style

    def writer(self, rng: random.Random) -> Callable[[Episode], str]:
        """One episode's author: a function from the episode's state to the next message."""
        return _EpisodeAuthor(self.env, self.style, rng).write


class _EpisodeAuthor:
    """The author of one episode: its character, drawn once, and what it has done since its last draft."""

    def __init__(self, env: Env, style: Style, rng: random.Random):
        self.env, self.domain, self.style, self.rng = env, env.domain, style, rng
        self.hasty = rng.random() < style.hasty or "exec" not in env.actions
        self.foresees = rng.random() < style.foresees and "edit" in env.actions
        self.reflected = self.edited = False  # since the last draft

    def write(self, episode: Episode) -> str:
        """The next message. Which one depends on the stage and on the author's habits."""
        if self.env.config.one_shot:
            question = self.domain.draw_problem(episode.skills, self.rng)
            return f"<problem>{question}</problem>\n{self.submit(episode, question)}"
        if episode.stage == DRAFT:
            return self.begin(episode)
        if episode.stage == FINALIZE or (self.hasty and episode.stage == CHECK):
            return self.submit(episode, episode.draft)
        if episode.stage == CHECK:
            return self.check(episode)
        return self.refine(episode)

    def begin(self, episode: Episode) -> str:
        """Stage draft: write a first problem; an author that foresees a conflict prunes a skill first."""
        if self.foresees:
            conflicts = [skill for skill in episode.skills if self.domain.in_conflict(episode.skills, skill)]
            if conflicts and len(episode.skills) > self.env.config.skills_min:
                return tool_call("edit", prune=self.rng.choice(conflicts))
        return self.draft(episode)

    def check(self, episode: Episode) -> str:
        """Stage check: run the check program, now and then after a reflection."""
        if self.may_reflect() and self.rng.random() < self.style.audits:
            return self.reflect(episode)
        return tool_call("exec", code=self.domain.check_program)

    def refine(self, episode: Episode) -> str:
        """Stage refine, after a failed check: reflect, write the problem again, or edit the skills."""
        if self.edited or episode.draft is None:  # after an edit
            return self.draft(episode)
        if self.may_reflect() and self.rng.random() < self.style.explains:
            return self.reflect(episode)
        if "edit" not in self.env.actions or self.rng.random() < self.style.redraws:
            return self.draft(episode)
        culprit = self.domain.check(episode.draft, episode.skills).culprit
        if culprit not in episode.skills or self.rng.random() >= self.style.blames_right:
            culprit = self.rng.choice(episode.skills)
        return self.edit(episode, culprit)

    # ------------------------------------------------------------ the messages

    def draft(self, episode: Episode) -> str:
        self.reflected = self.edited = False
        skills = list(episode.skills)
        if self.rng.random() < self.style.forgets:
            skills.remove(self.rng.choice(skills))
        return f"<problem>{self.domain.draw_problem(skills, self.rng)}</problem>"

    def may_reflect(self) -> bool:
        return "think" in self.env.actions and not self.reflected

    def reflect(self, episode: Episode) -> str:
        """Name the skill at fault, or say that there is none; sometimes wrongly."""
        self.reflected = True
        culprit = self.domain.check(episode.draft, episode.skills).culprit
        if self.rng.random() < self.style.mistaken:
            culprit = self.rng.choice([None, *episode.skills])
        return f"{FAULT}{culprit}." if culprit else SOUND

    def edit(self, episode: Episode, skill: str) -> str:
        """Prune a skill or replace it by another; write a new draft where neither is possible."""
        self.edited = True
        others = [name for name in self.env.library if name not in episode.skills]
        may_prune = len(episode.skills) > self.env.config.skills_min
        if may_prune and (not others or self.rng.random() < self.style.prunes / (1 - self.style.redraws)):
            return tool_call("edit", prune=skill)
        if not others:
            return self.draft(episode)
        return tool_call("edit", replace=skill, by=self.rng.choice(others))

    def submit(self, episode: Episode, question: str) -> str:
        """Hand in the problem: without an answer where a check has printed it, else with the true one or a guess."""
        if episode.passed is not None:
            return tool_call("submit")
        answer = self.domain.check(question, episode.skills).answer
        return tool_call("submit", answer=answer if answer is not None else str(self.rng.randint(0, 99)))


class ScriptedTeacher:
    """Reads worked problems of the miniature world and proposes the skills that it sees at work in them.

    Every sentence form that stands in the corpus is a candidate. *Choice* of its quality: r(k) = agreement * support,
    where agreement is the share of its worked examples that come out right when they are executed again, and support
    is min(1, examples / ENOUGH). An unknown form, a typo or an irrelevant sentence has agreement 0.
    """

    ENOUGH = 10

    def __init__(self, domain: Mini):
        self.domain = domain

    def candidates(self, documents: Sequence[Document]) -> list[Candidate]:
        """Every sentence form of the corpus, except those that need no skill (a start, a plain question)."""
        seen: dict[str, list[tuple[int, bool | None]]] = {}
        for index, document in enumerate(documents):
            for sentence in split(document.question):
                verdict = self.domain.check_step(document.question, document.solution, sentence)
                seen.setdefault(template_of(sentence), []).append((index, verdict))
        return [
            self.candidate(template, examples) for template, examples in sorted(seen.items())
            if template not in self.domain.scaffold
        ]

    def candidate(self, template: str, examples: Sequence[tuple[int, bool | None]]) -> Candidate:
        """A form with its score. examples: (index of a document, does it come out right there?)"""
        good = tuple(index for index, verdict in examples if verdict)
        agreement, support = len(good) / len(examples), min(1.0, len(examples) / self.ENOUGH)
        why = f"{len(good)} of {len(examples)} worked examples come out right"
        found = package(template)
        if found is None:
            name = re.sub(r"[^a-z0-9]+", "-", template.lower()).strip("-")[:40]
            fields, body, scripts = {"name": name, "category": "unknown", "intent": template}, "", {}
        else:
            fields, body, scripts = found
        skill = Skill(**fields, body=body, source=f"{len(examples)} worked problems")
        return Candidate(skill, agreement * support, good, why, scripts)
