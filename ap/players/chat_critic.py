"""A language model as critic: how it is asked for an opinion of a draft, and how its reply is read."""
from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import Callable, Sequence

from tqdm import tqdm

from ap.answers.replies import last_record
from ap.judge.roles import Opinion
from ap.players.chat_verifier import AGAIN, ChatJudge, field_of

REQUEST = """\
Judge this draft of a problem. It is sound if it can be solved from what it says, has exactly one answer, and needs \
all active skills. If it is not sound, say which one of the active skills is at fault: it does not fit the others, or \
is built in wrongly.

{skills}

Draft:
{draft}

Reply with one JSON record: {{"sound": true or false, "skill": "the skill at fault, one of: {names}; null if it is \
sound", "reason": "why, in one line"}}"""

UNREADABLE = "unreadable opinion"
LONGEST_REASON = 200  # characters
SAID_AFTER = 20  # abstentions of a critic that has never had an opinion, before we say so


@dataclass(frozen=True)
class ChatCritic(ChatJudge):
    """A language model as critic. It abstains like a verifier, also when its reply holds no usable record, nor does
    that to a second question ("unreadable opinion").

    describe: the names of the active skills -> how the critic sees them; a run shows them as the proposer sees them.
    """

    describe: Callable[[tuple[str, ...]], str] = "Active skills: {}".format
    _opinions: list[Opinion] = field(default_factory=list, compare=False, repr=False)  # the first ones
    _lock: threading.Lock = field(default_factory=threading.Lock, compare=False, repr=False)

    def shown(self, describe: Callable[[tuple[str, ...]], str]) -> "ChatCritic":
        """The same critic, which sees the skills in this way."""
        return replace(self, describe=describe)

    def criticise(self, draft: str, skills: Sequence[str]) -> Opinion:
        """Ask, and once more where the reply cannot be used."""
        prompt = REQUEST.format(names=", ".join(skills), skills=self.describe(tuple(skills)), draft=draft)

        def read(reply: str) -> Opinion:
            return read_opinion(reply, skills)

        def abstain(reason: str) -> Opinion:
            return Opinion(None, None, reason)

        opinion = self._within_limit(prompt, read, abstain)
        if opinion.reason == UNREADABLE and opinion.sound is None:
            opinion = self._within_limit(prompt + AGAIN, read, abstain)
        self._tell(opinion)
        return opinion

    def _tell(self, opinion: Opinion) -> None:
        """Say once that the critic is of no use, if it has abstained from the start."""
        with self._lock:
            if len(self._opinions) < SAID_AFTER:
                self._opinions.append(opinion)
                if len(self._opinions) == SAID_AFTER and all(one.sound is None for one in self._opinions):
                    tqdm.write(f"critic: it abstained from its first {SAID_AFTER} drafts (the last time: "
                               f"{opinion.reason}), so it judges nothing; take another model, or more max_tokens, in "
                               "the file of --roles")


def read_opinion(reply: str, skills: Sequence[str]) -> Opinion:
    """The last record {sound, skill, reason} behind a reply's thoughts. Never raises: without one, an abstention.

    A skill is a name among `skills`, in whatever case and with whatever separators; any other is no culprit.
    """
    record = last_record(reply, lambda record: _sound(record) is not None)
    if record is None:
        return Opinion(None, None, UNREADABLE)
    sound, known = _sound(record), {_plain(name): name for name in skills}
    culprit = None if sound else known.get(_plain(field_of(record, "skill")))
    lines = str(field_of(record, "reason") or "").strip().splitlines()
    return Opinion(sound, culprit, lines[0][:LONGEST_REASON] if lines else "")


def _sound(record: dict) -> bool | None:
    return {"true": True, "false": False}.get(str(field_of(record, "sound")).strip().lower())


def _plain(name) -> str:
    return str(name).casefold().strip(" .\"'`*").replace("_", "-").replace(" ", "-")
