"""A model as author of expert episodes. It is asked for one thing at a time, and what it says becomes a message.

Small models do not hold a protocol of stages, tags and tools in mind, but they can write a problem, a program in a
```python block, or one word. So each request says what is to be written next and shows how by a worked episode
(worked.py), and `message_of` makes the agent's message of the reply: a block becomes a call of exec, `Submit` one of
submit. A reply that holds a call already is taken as it stands, so a large model may take any other action.

What is asked for follows from the episode: without a draft a draft; a program that checks it; after a check that failed
a mended draft, or a mended program if the program itself was at fault; after a check that passed the submission.
"""
from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Callable

from ap.answers.programs import program_of
from ap.answers.replies import after_thoughts
from ap.answers.tool_calls import drafts_in
from ap.players.worked import WORKED, Worked
from ap.trajectory import Trajectory
from ap.world.chat import read_message, tool_call, without_tokens
from ap.world.env import FAULT, FINALIZE, REFINE, SOUND, Env, Episode

ALIKE = 0.6  # a draft with this share of common words with the worked one is its copy. *Choice*
PROGRAMS = 2  # programs that may fail on one draft, before a new draft is asked for. *Choice*

PLAY = """\
You write problems on {domain} for others to solve. {about}
{example}
--- episode so far ---
{episode}
--- end ---

{request}"""

WRITE = """\
Write the problem now. It needs all active skills: {skills}. Reply with the problem in \
this form, and nothing else:
<problem>
{form}
</problem>"""
FORM = "(here stands the text of your problem)"
CHECK = """\
{checking}
Reply with a Python program in a ```python block, and nothing else. It finds the answer of this problem by itself, and \
prints it last, by print('answer:', ...):
{draft}"""
RUN = """\
{checking}
Check the draft now by this program, or by your own. Reply with it in a ```python block, and nothing else:
```python
{program}
```"""
MEND_PROGRAM = """\
The program did not print a line `answer: VALUE`; the environment's last message shows what it did. Write the whole \
program again, without the mistake, in a ```python block. If the problem itself is at fault, write a new one between \
<problem> and </problem> instead. The problem is:
{draft}"""
MEND_DRAFT = """\
The draft cannot stay as it is: the environment's last message says why. Write the whole problem again, mended, \
between <problem> and </problem>.{edit}"""
EDIT = """ Or reply with one line: `Fault: {skill}.` says which skill is at fault, and `Drop: {skill}` drops one that \
does not fit the others."""
SUBMIT = """\
The check has passed. If the draft is not good, write a better one between <problem> and </problem>. If it is good, \
reply with the one word Submit."""
ANSWER = """\
If the draft is not good, write a better one between <problem> and </problem>. If it is good, reply with one line \
`answer: VALUE`, its final answer."""
DRAFT_EXAMPLE = """
An example. For the skills "{worked.skills}" the reply could be
<problem>
{worked.draft}
</problem>
"""
PROGRAM_EXAMPLE = """
An example. For the problem "{worked.draft}" the reply could be
```python
{worked.program}
```
"""
ONE_SHOT = "\nBehind the problem write one line `answer: VALUE`, its final answer."
AGAIN = "\n\nYour last reply could not be used: {fault}."

SUBMITS = re.compile(r"[\W_]*submit\b", re.IGNORECASE)
LINE = re.compile(r"^[ *`]*(answer|drop):[ *`]*(.*?)[ *`]*$", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class Request:
    """What the author is asked for. A reply must hold one of `wanted`; `missing` says so to a reply that holds none.

    example: how it is done. It stands before the episode: of an example that stands last, a small model makes a copy.
    """

    text: str
    wanted: frozenset[str]
    missing: str
    example: str = ""


class ModelAuthor:
    """Writes the messages of expert episodes in the real environment: drafts, reflections, tool calls, the submission.

    It is shown the skills and the episode so far. Its hidden thoughts, before </think>, are cut. A reply of no use is
    asked for once more.
    """

    round_size = 16  # episodes that are played before they are counted

    def __init__(self, env: Env, player):
        self.env, self.player = env, player
        self.worked = WORKED.get(env.config.domain)

    def writer(self, rng: random.Random) -> Callable[[Episode], str]:
        """One episode's author. The same state of `rng` gives the same seed keys."""
        key = f"{rng.getrandbits(64):016x}"

        def write(episode: Episode) -> str:
            request = request_of(episode, self.worked)
            prompt, where = self.prompt(episode, request), f"{key}/{len(episode.said)}"
            message, fault = self._read(self.player.sample(prompt, 1, where)[0], request, episode)
            if fault:  # asked once more, by another key
                again = prompt + AGAIN.format(fault=fault)
                message, _ = self._read(self.player.sample(again, 1, where + "/again")[0], request, episode)
            return message

        return write

    def prompt(self, episode: Episode, request: Request) -> str:
        """The request behind the episode so far. What the environment says to a message without a call is left out,
        for it only asks for the next one."""
        spoken = [("environment", self.env.messages(episode.skills)[1]["content"])]
        for message, answer in zip(episode.said[::2], episode.said[1::2]):
            spoken += [("agent", message), ("environment", answer)][:1 if read_message(message).tool is None else 2]
        return PLAY.format(
            domain=self.env.config.domain, about=about_and_checking(self.env.domain.instructions)[0],
            example=request.example, request=request.text,
            episode="\n\n".join(f"[{who}]\n{text}" for who, text in spoken))

    def _read(self, reply: str, request: Request, episode: Episode) -> tuple[str, str]:
        message, fault = message_of(reply, request)
        said = read_message(message)
        if message in _since_draft(episode.said):  # small models do so again and again; what failed will fail again
            return message, fault or "you have written exactly this before; change it"
        if said.draft and _alike(said.draft, FORM):
            return "", "it is only the form; write the text of the problem in it"
        if self.worked and said.draft and _alike(said.draft, self.worked.draft):
            return "", "that is the problem of the example; write another one"
        if self.worked and said.tool == "exec" and said.arguments["code"].split() == self.worked.program.split():
            return "", "that is the program of the example; write one for this problem"
        return message, fault


def why_rejected(trajectory: Trajectory) -> str:
    """Why an episode is no expert's; if it held an unusable message, also what was wrong with the last one."""
    errors = [turn.facts.get("error") for turn in trajectory.turns if turn.action == "unusable"]
    return f"{trajectory.reason}: {errors[-1]}" if errors else trajectory.reason


def about_and_checking(instructions: str) -> tuple[str, str]:
    """A domain's instructions in two parts: what a problem is, and how a draft is checked."""
    about, _, checking = instructions.partition("Check a draft")
    return about.strip(), f"Check a draft{checking}" if checking else ""


def _alike(one: str, other: str) -> bool:
    """Do two texts share most of their words?"""
    words, others = (set(re.findall(r"\w+", text.lower())) for text in (one, other))
    return len(words & others) >= ALIKE * len(words | others) > 0


def request_of(episode: Episode, worked: Worked | None) -> Request:
    """What is to be written next."""
    env, config = episode.env, episode.env.config
    # Only a draft of several parts needs an example: a model of 0.5 B copied that of math in 5 of 6 replies.
    draft_example = DRAFT_EXAMPLE.format(worked=worked) if worked and "### " in worked.draft else ""
    program_example = PROGRAM_EXAMPLE.format(worked=worked) if worked and worked.program else ""
    a_draft = "it holds no problem between <problem> and </problem>"
    a_program = "it holds no program in a ```python block"
    skills = ", ".join(episode.skills)
    if config.one_shot or episode.draft is None:
        text = WRITE.format(skills=skills, form=FORM) + (ONE_SHOT if config.one_shot else "")
        wanted = frozenset({"draft", "answer"} if config.one_shot else {"draft"})
        return Request(text, wanted, a_draft, draft_example)
    if episode.stage == FINALIZE or "exec" not in env.actions:
        passed = episode.passed is not None
        return Request(SUBMIT if passed else ANSWER, frozenset({"draft", "submit" if passed else "answer"}),
                       "it is neither Submit nor a new problem" if passed else "it is neither an answer nor a problem")
    if episode.stage == REFINE and not _program_at_fault(episode):
        edit = EDIT.format(skill=episode.skills[-1]) if "edit" in env.actions and len(
            episode.skills) > config.skills_min else ""
        return Request(
            MEND_DRAFT.format(edit=edit), frozenset({"draft", "edit", "reflection"}), a_draft, draft_example)
    if episode.stage == REFINE:
        text = MEND_PROGRAM.format(draft=episode.draft)
        return Request(text, frozenset({"program", "draft", "reflection"}), a_program, program_example)
    checking = about_and_checking(env.domain.instructions)[1]
    if env.domain.check_program:
        text = RUN.format(checking=checking, program=env.domain.check_program)
    else:
        text = CHECK.format(checking=checking, draft=episode.draft)
    return Request(text, frozenset({"program", "draft", "reflection"}), a_program, program_example)


def _program_at_fault(episode: Episode) -> bool:
    """Has the last program failed by itself, and not found a fault of the draft? After PROGRAMS of them the draft is
    taken to be at fault."""
    said = episode.said
    if len(said) < 2 or read_message(said[-2]).tool != "exec" or said[-1].lower().startswith("fault"):
        return False
    return sum(read_message(message).tool == "exec" for message in _since_draft(said)) < PROGRAMS


def _since_draft(said: list[str]) -> list[str]:
    """The agent's messages from its last draft on."""
    messages = said[::2]
    return messages[max((n for n, text in enumerate(messages) if read_message(text).draft is not None), default=0):]


def message_of(reply: str, request: Request) -> tuple[str, str]:
    """The agent's message that a reply stands for, and what is wrong with it, or "". Never raises.

    A usable call of a tool is taken as it stands. Otherwise the reply must hold something that is wanted; what stands
    behind that is left out, and so are words invented for the environment.
    """
    text = after_thoughts(reply).strip().removeprefix("[agent]").partition("\n[environment]")[0]
    text = without_tokens(text.strip())
    message, wanted = read_message(text), request.wanted
    if message.tool and not message.error:
        return text, ""
    drafts = drafts_in(text) if "draft" in wanted else []
    said, rest = (text[:drafts[-1].end()], text[drafts[-1].end():]) if drafts else ("", text)
    lines = {name.lower(): value for name, value in LINE.findall(rest)}
    call = ""
    if "program" in wanted and (program := program_of(rest)):
        said, call = said or rest.partition("```")[0].strip(), tool_call("exec", code=program.strip("\n"))
    elif "answer" in wanted and lines.get("answer"):
        call = tool_call("submit", answer=lines["answer"])
    elif "submit" in wanted and not said and SUBMITS.match(rest):
        call = tool_call("submit")
    elif "edit" in wanted and not said and lines.get("drop"):
        call = tool_call("edit", prune=lines["drop"].rstrip("."))
    elif not said and "reflection" in wanted and text.startswith((SOUND, FAULT)):
        said = text
    if call or said:
        return "\n".join(part for part in (said, call) if part), ""
    return text, message.error or request.missing
