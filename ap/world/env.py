"""The environment: a partially observable Markov decision process (POMDP) in which an agent writes a problem.

Observation o_t = <K_t, h_t, sigma_t>: the active skills, the history with every tool output, the cognitive stage.
Actions: think (a message without a tool call), exec, edit, submit. Whether the draft is solvable is hidden; the
agent can find out only by running code or by thinking.

The stages have no fixed order. *Choice*: the stage depends on what happened last:

    start -> draft; a new draft -> check; a check that passed -> finalize; a check that failed, a fault named in a
    reflection, an edit -> refine; anything else leaves the stage as it is.

Any program that the agent runs counts as a check. It has passed if it prints that the draft is sound, and the domain's
own exact check confirms this and the answer. Where the domain has no exact check, because only models can judge a
draft, the program's output alone decides. There the facts that nobody knows yet stay unknown, and are filled in after
the episode (judge/hindsight.py).

An episode ends by submit, or with a named outcome at the turn limit, the token limit, or an unusable message (with
--mend_messages the second one).
"""
from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Callable, Sequence

from ap.answers.tool_calls import HOW, what_is_missing
from ap.config import Config
from ap.files import writable
from ap.sandbox.sandbox import Sandbox
from ap.trajectory import STAGES, Problem
from ap.world.chat import Message, read_message, reply_text, without_tokens
from ap.world.skills import Skill

DRAFT, CHECK, REFINE, FINALIZE = range(4)

INSTRUCTIONS = """\
You write problems for others to solve. Combine all active skills into one problem with exactly one answer.
Stages: draft, check, refine, finalize. You may go back.
Write a draft between <problem> and </problem>. \
A message without a tool call is a reflection: `Sound.` or `Fault: skill.`
Check the draft with exec. Mend it with a new draft, or edit the active skills when they do not fit. Then submit it."""

ONE_SHOT = """\
You write problems for others to solve. Combine all active skills into one problem with exactly one answer.
Write it between <problem> and </problem>, and submit it in the same message."""

SOUND, FAULT = "Sound.", "Fault: "
UNKNOWN = "unknown"  # the status of a draft if programs cannot tell whether it is sound


@dataclass
class Env:
    """What all episodes share. `domain` is a domains.base.Domain.

    look: (draft, skills) -> what the domain's programs can say about a draft. None: domain.look, run in the caller's
    thread. reply_text: how the policy's tokenizer writes a reply (ChatFormat.reply); by default as Qwen's does.
    """

    domain: object
    library: dict[str, Skill]
    sandbox: Sandbox
    config: Config
    look: Callable[[str, Sequence[str]], object] | None = None
    reply_text: Callable[[str, bool], str] = reply_text

    def __post_init__(self):
        self.look = self.look or partial(self.domain.look, sandbox=self.sandbox)

    @property
    def actions(self) -> list[str]:
        return [name for name in self.config.actions.split(",") if not (self.config.one_shot and name != "submit")]

    @property
    def tools(self) -> list[str]:
        return [name for name in self.actions if name != "think"]

    def describe(self, skills: tuple[str, ...]) -> str:
        """K_t as text: level 1 and level 2 of each active skill."""
        shown = [f"{self.library[name].level_1()}\n{self.library[name].body.strip()}" for name in skills]
        return "Active skills:\n" + "\n".join(shown)

    def messages(self, skills: tuple[str, ...]) -> list[dict]:
        """The first observation, as messages for a chat template."""
        instructions = ONE_SHOT if self.config.one_shot else INSTRUCTIONS
        return [
            {"role": "system", "content": f"{instructions}\n{self.domain.instructions}"},
            {"role": "user", "content": f"{self.describe(skills)}\nstage: {STAGES[DRAFT]}"},
        ]


@dataclass
class Episode:
    """One episode: the hidden state, and one `step` for each message of the agent."""

    env: Env
    skills: tuple[str, ...]  # K_t
    stage: int = DRAFT  # sigma_t
    draft: str | None = None
    check: object = None  # the result of domain.look for the current draft and skills; hidden from the agent
    passed: str | None = None  # the output of a check of the current draft that passed
    said: list[str] = field(default_factory=list)  # the agent's messages and the environment's replies, in their order
    done: set[tuple] = field(default_factory=set)  # deeds that earn no reward when they are repeated
    drafts: list[dict] = field(default_factory=list)  # Trajectory.drafts
    turns: int = 0
    mended: str = ""  # what was wrong with the message that the environment has answered by how it is written
    outcome: str = ""  # set when the episode has ended
    problem: Problem | None = None

    def step(self, text: str) -> tuple[str, int, dict, str | None]:
        """Process one message of the agent.

        Returns (action, stage in which it was taken, facts, reply): facts are the input of rewards.process_reward;
        reply is the environment's text in chat format, or None if the episode has ended.
        """
        message = read_message(text)
        self.said.append(writable(text))
        stage, self.turns = self.stage, self.turns + 1
        action, error = message.tool or "think", message.error
        if self.env.config.one_shot and action != "submit":
            error = error or "one message only"
        if action == "submit" and self.env.config.mend_messages and self.draft is None and message.draft is None:
            error = "no draft to submit"
        if error:
            return "unusable", stage, {"error": error}, self._mend(error)
        if action not in self.env.actions and (message.tool is not None or message.draft is None):
            facts = self._take_draft(message) | {"status": "not available", "legal": False, "judged": None}
            output = f"{action} is not available"
        else:
            facts, output = getattr(self, "_" + action)(message)
        if action == "submit":
            self.outcome = "submitted" if self.problem is not None else "unusable"
            return action, stage, facts, None
        if self.turns >= self.env.config.max_turns:
            self.outcome = "turn_limit"
            return action, stage, facts, None
        if not output and self.env.config.mend_messages:
            output = what_is_missing(STAGES[self.stage], self.env.tools)
        content = f"{output}\nstage: {STAGES[self.stage]}" if output else f"stage: {STAGES[self.stage]}"
        self.said.append(content)
        return action, stage, facts, self.env.reply_text(content, message.tool is not None)

    def _mend(self, error: str) -> str | None:
        """The answer to an unusable message, once in an episode where that is wanted; else the episode has ended."""
        config = self.env.config
        if self.mended or not config.mend_messages or config.one_shot or self.turns >= config.max_turns:
            self.outcome = "unusable"
            return None
        self.mended = error
        content = f"{HOW.format(error=error, tools=', '.join(self.env.tools))}\nstage: {STAGES[self.stage]}"
        self.said.append(content)
        return self.env.reply_text(content, False)

    # Each action changes the state and returns (facts, output).

    def _take_draft(self, message: Message) -> dict:
        """Take the draft in a message, whatever its action is. The facts say what the domain's exact check finds."""
        if message.draft is None:
            return self._about()
        self.draft, self.stage = message.draft, CHECK
        self._look()
        status = self.check.status
        state = {"ok": "sound", "unreadable": "unreadable", UNKNOWN: UNKNOWN}.get(status, "faulty")
        repeated = self._again("draft", self.draft, status)
        return {"draft": state, "fault": status, "repeated": repeated} | self._about()

    def _about(self) -> dict:
        """The fact which draft with which skills the action is about, where only models can judge it; else none."""
        if self.check is None or self.check.status != UNKNOWN:
            return {}
        draft = {"text": writable(self.draft), "skills": list(self.skills)}
        if draft not in self.drafts:
            self.drafts.append(draft)
        return {"about": self.drafts.index(draft)}

    def _look(self) -> None:
        """The draft or the skills have changed: look at the draft again, and forget earlier checks."""
        self.check = self.env.look(self.draft, self.skills) if self.draft is not None else None
        self.passed = None

    def _again(self, *deed) -> bool:
        seen = deed in self.done
        self.done.add(deed)
        return seen

    def _think(self, message: Message) -> tuple[dict, str]:
        facts = self._take_draft(message)
        if message.draft is not None:
            return facts, ""
        facts["judged"] = None
        sound, fault = message.text.startswith(SOUND), message.text.startswith(FAULT)
        if "about" in facts and (sound or fault):
            facts["claim"] = message.text[:100]
        elif self.draft is not None and (sound or fault):
            named = message.text.removeprefix(FAULT).strip(" .")
            is_sound = self.check.status == "ok"
            facts["judged"] = is_sound if sound else (not is_sound and named == self.check.culprit)
            facts["repeated"] = self._again("reflection", self.draft, facts["judged"])
        if fault:
            self.stage = REFINE
        return facts, ""

    def _exec(self, message: Message) -> tuple[dict, str]:
        facts, code = self._take_draft(message), message.arguments["code"]
        files = {"skills.txt": "\n".join(self.skills), "draft.txt": self.draft or ""}
        result = self.env.sandbox.run(code, timeout=self.env.config.exec_timeout, files=files)
        lines = (result.stdout if result.status == "ok" else result.stderr or result.status).strip().splitlines()
        output = without_tokens(lines[-1][:200]) if lines else "(no output)"
        # Any program can print what a check prints, so its output counts only if the exact check says the same.
        passed = (
            result.status == "ok" and self.check is not None and self.env.domain.passed(output)
            and (self.check.status == UNKNOWN
                 or (self.check.status == "ok" and self.env.domain.answer_of(output) == self.check.answer))
        )
        self.passed, self.stage = (output, FINALIZE) if passed else (self.passed, REFINE)
        repeated = self._again("exec", code, self.draft)
        if not self.env.domain.exact:  # Choice: what bears on a draft is an answer or a fault, and no echo of the draft
            facts["bears"] = self.draft is not None and self.env.domain.bears(output) and output not in self.draft
        return facts | {"status": result.status, "repeated": repeated, "output": output, "passed": passed}, output

    def _edit(self, message: Message) -> tuple[dict, str]:
        facts, arguments = self._take_draft(message), message.arguments
        old, new = arguments.get("prune") or arguments.get("replace"), arguments.get("by")
        replacing = "replace" in arguments
        legal = (
            old in self.skills and ("prune" in arguments) != replacing and replacing == (new is not None)
            and (len(self.skills) > self.env.config.skills_min if not replacing
                 else new in self.env.library and new not in self.skills)
        )
        facts["legal"] = legal
        if not legal:
            facts["in_conflict"] = False
            return facts, f"edit refused, at least {self.env.config.skills_min} known skills must stay"
        culprit = self.check.culprit if self.check is not None else None
        facts["in_conflict"] = old == culprit or self.env.domain.in_conflict(self.skills, old)
        if "about" in facts:
            facts["removed"] = old
        self.skills = tuple(new if name == old else name for name in self.skills if replacing or name != old)
        self.stage = REFINE
        self._look()
        return facts, self.env.describe(self.skills)

    def _submit(self, message: Message) -> tuple[dict, str]:
        facts = self._take_draft(message)
        # Choice: submit hands in the current draft, which need not be written again. If no answer is stated, it is the
        # one that the last passed check of this draft printed.
        found = self.env.domain.answer_of(self.passed) if self.passed is not None else None
        answer = message.arguments.get("answer", found or "").strip()
        if self.draft is not None:
            fields = self.env.domain.submission(self.draft, answer, found)
            fields = {name: writable(text) for name, text in fields.items()}  # a record in a draft may say \\ud800
            self.problem = Problem(**fields, skills=self.skills, domain=self.env.config.domain)
        backed = found is not None and answer == found
        return facts | ({"checked": None, "backed": backed} if "about" in facts else {"checked": backed}), ""
