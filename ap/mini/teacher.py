"""The teacher: who extracts candidate skills from a corpus, and who shows how a problem is written.

In the miniature both are programs. The author here is competent but uneven, as a large model is: sometimes hasty (it
submits what it has not checked), sometimes wrong in a reflection, and after a failed check it redraws, prunes or
replaces without asking which of the three the failure calls for. Only its successes are kept for SFT (V(q) = 1);
which of its habits pay is for reinforcement learning to find out. Where a model is the teacher: model_teacher.py.
"""
from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Callable, Sequence

from ap.world.chat import tool_call
from ap.world.env import CHECK, DRAFT, FAULT, FINALIZE, SOUND, Env, Episode
from ap.world.skills import Candidate, Document, Skill


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
        self.env, self.domain, self.style = env, env.domain, style

    def writer(self, rng: random.Random) -> Callable[[Episode], str]:
        """One episode's author: a function from the episode's state to the next message."""
        style, can = self.style, self.env.actions
        hasty = rng.random() < style.hasty or "exec" not in can
        foresees = rng.random() < style.foresees and "edit" in can
        reflected = edited = False

        def draft(episode: Episode) -> str:
            nonlocal reflected, edited
            reflected = edited = False
            skills = list(episode.skills)
            if rng.random() < style.forgets:
                skills.remove(rng.choice(skills))
            return f"<problem>{self.domain.draw_problem(skills, rng)}</problem>"

        def reflect(episode: Episode) -> str:
            nonlocal reflected
            reflected = True
            culprit = self.domain.check(episode.draft, episode.skills).culprit
            if rng.random() < style.mistaken:
                culprit = rng.choice([None, *episode.skills])
            return f"{FAULT}{culprit}." if culprit else SOUND

        def edit(episode: Episode, skill: str) -> str:
            nonlocal edited
            edited = True
            others = [name for name in self.env.library if name not in episode.skills]
            may_prune = len(episode.skills) > self.env.config.skills_min
            if may_prune and (not others or rng.random() < style.prunes / (1 - style.redraws)):
                return tool_call("edit", prune=skill)
            return tool_call("edit", replace=skill, by=rng.choice(others)) if others else draft(episode)

        def submit(episode: Episode, question: str) -> str:
            if episode.passed is not None:
                return tool_call("submit")
            answer = self.domain.check(question, episode.skills).answer
            return tool_call("submit", answer=answer if answer is not None else str(rng.randint(0, 99)))

        def write(episode: Episode) -> str:
            if self.env.config.one_shot:
                question = self.domain.draw_problem(episode.skills, rng)
                return f"<problem>{question}</problem>\n{submit(episode, question)}"
            if episode.stage == DRAFT:
                conflicts = [
                    s for s in episode.skills if self.domain.in_conflict(episode.skills, s)] if foresees else []
                if conflicts and len(episode.skills) > self.env.config.skills_min:
                    return tool_call("edit", prune=rng.choice(conflicts))
                return draft(episode)
            if episode.stage == FINALIZE or (hasty and episode.stage == CHECK):
                return submit(episode, episode.draft)
            if episode.stage == CHECK:
                if "think" in can and not reflected and rng.random() < style.audits:
                    return reflect(episode)
                return tool_call("exec", code=self.domain.CHECK_PROGRAM)
            if edited or episode.draft is None:  # refine, after an edit
                return draft(episode)
            if "think" in can and not reflected and rng.random() < style.explains:
                return reflect(episode)
            if "edit" not in can or rng.random() < style.redraws:
                return draft(episode)
            culprit = self.domain.check(episode.draft, episode.skills).culprit
            if culprit not in episode.skills or rng.random() >= style.blames_right:
                culprit = rng.choice(episode.skills)
            return edit(episode, culprit)

        return write


class ScriptedTeacher:
    """Reads worked problems of the miniature world and proposes the skills that it sees at work in them.

    Every sentence form that stands in the corpus is a candidate. *Choice* of its quality: r(k) = agreement * support,
    where agreement is the share of its worked examples that come out right when they are executed again, and support
    is min(1, examples / ENOUGH). A form that no checker knows, a typo, or idle talk has agreement 0.
    """

    ENOUGH = 10

    def __init__(self, domain):
        self.domain = domain

    def candidates(self, documents: Sequence[Document]) -> list[Candidate]:
        """Every sentence form of the corpus but the scaffolding that needs no skill (a start, a plain question)."""
        seen: dict[str, list[tuple[int, bool | None]]] = {}
        for index, document in enumerate(documents):
            for sentence in self.domain.split(document.question):
                verdict = self.domain.check_step(document.question, document.solution, sentence)
                seen.setdefault(self.domain.template_of(sentence), []).append((index, verdict))
        return [
            self.candidate(template, examples) for template, examples in sorted(seen.items())
            if template not in self.domain.SCAFFOLD
        ]

    def candidate(self, template: str, examples: Sequence[tuple[int, bool | None]]) -> Candidate:
        """A form with its score. examples: (index of a document, does it come out right there?)"""
        good = tuple(index for index, verdict in examples if verdict)
        agreement, support = len(good) / len(examples), min(1.0, len(examples) / self.ENOUGH)
        why = f"{len(good)} of {len(examples)} worked examples come out right"
        package = self.domain.package(template)
        if package is None:
            name = re.sub(r"[^a-z0-9]+", "-", template.lower()).strip("-")[:40]
            fields, body, scripts = {"name": name, "category": "unknown", "intent": template}, "", {}
        else:
            fields, body, scripts = package
        skill = Skill(**fields, body=body, source=f"{len(examples)} worked problems")
        return Candidate(skill, agreement * support, good, why, scripts)

