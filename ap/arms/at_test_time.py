"""What others do with a trained solver at test time, to be compared with maj@k at equal tokens.

Subthoughts (arXiv 2504.20708): the answer of a trace is the most frequent one among those to which it leads when it is
left at the start of each of its thoughts and completed anew. `python eval.py --strategy subthoughts` does it.

Pessimistic picking (Heimdall, arXiv 2504.10337): of N solutions, each judged M times, the answer whose mean verdict is
high even after a deduction for few judgements. A function only: verdicts come from whoever verifies solutions.

CyclicReflex (arXiv 2506.11077): a wave in the position is added to the logits of reflection words. A function only: the
engine's sampling does not know a token's position.
"""
from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Sequence

from ap.answers.match import by_value
from ap.engine.generate import sample
from ap.learn.policy import Policy
from ap.world.attempts import Attempt, Decoding, Exam, graded
from ap.world.chat import decode_message, decode_reply

# Of the paper's 32 cues those that we know.
CUES = re.compile(r"\b(?:Wait|Alternatively|Another angle|Another approach|But wait|Hold on|Hmm|Maybe|Okay|Let me|"
                  r"First|Then|Now|So|Therefore|Thus)\b")
SENTENCES = re.compile(r"(?<=[.!?] )(?=\S)")


# ------------------------------------------------------------------------------------------------ subthoughts


def cuts(trace: str) -> list[int]:
    """Where the thoughts of a trace begin, without the first: offsets of its cues. *Choice*: a trace without any cue,
    as in the miniature, is cut between its sentences."""
    found = [match.start() for match in CUES.finditer(trace)] or [match.start() for match in SENTENCES.finditer(trace)]
    return [offset for offset in found if offset > 0]


def vote(answers: Sequence[str | None]) -> tuple[int | None, float]:
    """(place of the first answer that has the most frequent value, entropy of the values in nats, a measure of doubt).

    None does not vote; a tie goes to the value that came first. (None, 0) where nobody votes.
    """
    values = by_value(answers)
    counts = Counter(value for value in values if value is not None)  # most_common keeps the first one among equals
    if not counts:
        return None, 0.0
    shares = [count / counts.total() for count in counts.values()]
    return values.index(counts.most_common(1)[0][0]), -sum(share * math.log(share) for share in shares)


@dataclass(frozen=True)
class Subthoughts(Exam):
    """An exam in which each attempt is a vote: of a trace, and of its completions from the start of each thought.

    They are sampled with the decoding of the trace, and cut between sampled tokens, so nothing is tokenised again. The
    attempt that comes back is the first one with the answer that won. A trace of n thoughts costs n generations.
    """

    def attempts(
        self, policy: Policy, problems: Sequence[dict], k: int, key: str, decoding: Decoding, progress=None,
        numbers: Sequence[int] | None = None,
    ) -> list[Attempt]:
        """As Exam.attempts; progress is told of an attempt when all votes are there."""
        numbers = range(len(problems) * k) if numbers is None else numbers
        counting = progress and SimpleNamespace(new_stats=progress.new_stats, ended=lambda *_: None)
        ballots = [[trace] for trace in super().attempts(policy, problems, k, key, decoding, counting, numbers)]
        tokenizer, jobs = policy.tokenizer, []
        for place, (trace,) in enumerate(ballots):
            start = trace.trajectory.loss_mask.index(1)
            jobs += [(place, start, trace.trajectory.ids[:n]) for n in ends(tokenizer, trace.trajectory.ids, start)]
        seeds = [f"{key}/{problems[numbers[place] // k]['id']}/{numbers[place] % k}/{len(prefix)}"
                 for place, _, prefix in jobs]
        with policy.sampling() as model:
            found = sample(model, [prefix for *_, prefix in jobs], seeds, decoding.max_tokens,
                           decoding.sampling(tokenizer), stats=progress and progress.new_stats()) if jobs else []
        for (place, start, _), conversation in zip(jobs, found):
            policy.counts["written_tokens"] += sum(conversation.loss_mask)
            number, text = numbers[place], decode_reply(tokenizer, conversation.ids, start)
            ballots[place].append(graded(conversation, number // k, text, problems[number // k], self.grade))
        chosen = [ballot[vote([attempt.answer for attempt in ballot])[0] or 0] for ballot in ballots]
        for number, attempt in zip(numbers, chosen):
            if progress is not None:
                progress.ended(number, attempt)
        return chosen


def ends(tokenizer, ids: list[int], start: int) -> list[int]:
    """Where the prefixes of a message end that holds ids[start:]: the last boundary of tokens before each cut."""
    def length(end: int) -> int:
        return len(decode_message(tokenizer, ids[start:end]))

    places, offsets = range(start, len(ids) + 1), cuts(decode_message(tokenizer, ids[start:]))
    return sorted({places[bisect_right(places, offset, key=length) - 1] for offset in offsets} - {start})


# --------------------------------------------------------------------------------------- a verifier's verdicts


def pessimistic(counts: Sequence[int], means: Sequence[float], M: int, alpha: float = 0.1) -> list[float]:
    """The score of each answer, mean_a - alpha * ln(N M) / (N_a M + 1); N is the sum of the N_a, M verdicts on each.

    counts: N_a, solutions with that answer. means: of their N_a * M verdicts, 0 to 1. alpha 0 takes the best mean; a
    large one the most frequent answer.
    """
    total = math.log(sum(counts) * M)
    return [mean - alpha * total / (count * M + 1) for count, mean in zip(counts, means, strict=True)]


# -------------------------------------------------------------------------------------------------- CyclicReflex


def triangle(position: float, amplitude: float = 3.0, period: float = 100.0) -> float:
    """What is added to the logits of wait, Wait, but, But and Alternatively at a position before the end of thoughts: 0
    at its start, +amplitude after a quarter of the period, 0 after a half, -amplitude after three quarters."""
    phase = position % period / period
    return amplitude * (4 * phase if phase <= 0.25 else 2 - 4 * phase if phase <= 0.75 else 4 * phase - 4)
