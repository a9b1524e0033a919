"""Hindsight: the facts of a finished episode that no program could know while it went on, and who knows them now.

Where only models can judge a draft (status "unknown", ap/world/env.py), two sources tell afterwards what is true:

    source       says                                     about
    hindsight    was the draft sound? It is V(q).         the draft that was submitted, with the skills active then
    critic       was it sound? Which skill is at fault?   every draft of the episode, with the skills active then

The committee knows better, so its word on the submitted draft stands above the critic's. An action whose facts are
filled in has two facts more: its "source", and "why" that source said so. All other facts are a program's.
"""
from __future__ import annotations

from ap.judge.roles import COULD_NOT_JUDGE, VALID, Critic, Opinion
from ap.judge.verifier import KNOWN, WRONG
from ap.trajectory import Trajectory, Turn
from ap.world.env import FAULT, SOUND, UNKNOWN


def fill_facts(trajectory: Trajectory, critic: Critic | None = None) -> None:
    """Fill the unknown facts of a judged episode's turns, in place, and keep the critic's opinions in its `drafts`.

    The critic is asked once for each draft. Where programs could judge all drafts there are none, and nothing changes.
    """
    for draft in trajectory.drafts if critic is not None else ():
        draft["critic"] = {**vars(critic.criticise(draft["text"], tuple(draft["skills"])))}
    paid: set[tuple] = set()
    for turn in trajectory.turns:
        if "about" in turn.facts:
            draft, last = trajectory.drafts[turn.facts["about"]], trajectory.turns[-1].facts.get("about")
            verdict = soundness(trajectory) if turn.facts["about"] == last else None
            _fill(turn.facts, draft.get("critic"), verdict, trajectory.reason)
            _mark_repeated(turn, draft["text"], paid)


def soundness(trajectory: Trajectory) -> bool | None:
    """What V(q) says of the submitted draft. None: none was submitted, or the committee could not judge it.

    *Choice*: as in verifier.Committee, a problem is sound, too, if it is known or only the claimed answer was wrong.
    """
    judged = trajectory.problem is not None and trajectory.reason != COULD_NOT_JUDGE
    return trajectory.reason in (VALID, WRONG, KNOWN) if judged else None


def _fill(facts: dict, opinion: dict | None, verdict: bool | None, reason: str) -> None:
    """Fill the facts of one action. verdict, reason: of V(q), if the action is about the submitted draft.

    *Choices*: a claim "Fault: skill" is right if it begins with the critic's culprit, and so is the removal of that
    skill. Where it is known that there is a fault, but not which, any claim of a fault is right, and a removal cannot
    be judged. A submission is checked if a check passed it and the draft was sound, with the right answer.
    """
    critic = Opinion(None) if opinion is None else Opinion(**opinion)
    sound, source, why = (critic.sound, "critic", critic.reason) if verdict is None else (verdict, "hindsight", reason)
    if sound is None:
        return
    culprit = critic.culprit if sound is critic.sound is False else None
    filled = {}
    if facts.get("draft") == UNKNOWN:
        filled["draft"] = "sound" if sound else "faulty"
    if "claim" in facts:
        named = (facts["claim"].removeprefix(FAULT).split() or [""])[0].strip(".,:;")
        filled["judged"] = sound if facts["claim"].startswith(SOUND) else not sound and culprit in (None, named)
    if "removed" in facts and (sound or culprit):
        filled["in_conflict"] = facts["removed"] == culprit
    if "backed" in facts:
        filled["checked"] = facts["backed"] and sound and reason != WRONG
    if culprit and filled.keys() & {"judged", "in_conflict"}:
        source, why = "critic", critic.reason
    facts |= filled | {"source": source, "why": why} if filled else {}


def _mark_repeated(turn: Turn, text: str, paid: set[tuple]) -> None:
    """The same draft, or the same judgement of it, is paid only once, as where a program knows the truth (env.py)."""
    for deed in (("draft", text, turn.facts.get("draft")), ("judged", text, turn.facts.get("judged"))):
        if turn.action == "think" and deed[2] not in (None, UNKNOWN):
            turn.facts["repeated"] = deed in paid
            paid.add(deed)
