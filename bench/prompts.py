"""How many replies of a model can be used, for each prompt of each role: to try a small model before a run.

    python bench/prompts.py --model FOLDER [--n 8] [--contents 8] [--only extract,score] [--max_tokens 4096]
    python bench/prompts.py --endpoint http://localhost:8000/v1 --model NAME [--key VARIABLE] ...

The domain is math, with the skills and the examples of starter/math. Each prompt is asked n times, with so many
different contents, and goes through the code that a run uses, the second asking included:

    extract   the teacher reads a passage        usable: at least one skill that could be kept
    score     the teacher marks a skill          usable: all marks; right: at least half of the points
    draft     the first message of an expert episode by the teacher     usable: a problem that is fit to be judged
    check     its next one, after a good draft                          usable: a program that prints an answer
    submit    its next one, after a check that passed                   usable: the call of submit
    judge     a verdict; half of the problems are broken                usable: a vote that counts; right: the right one
    prober    a solution of the good problems                           usable: an answer; right: the right one
    proposer  episodes of the model as the policy, with --mend_messages; only of a local model
              usable: messages that are a draft, a call or a verdict on the draft; right: episodes that submit a problem

The table has the share that is usable at once, the share after the second asking, what is right (of all), and the
commonest reasons of those that are not usable. All replies are written to --out as they come, with their prompts: read
them.
"""
from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ap.catalog import open_domain  # noqa: E402
from ap.compat.chat_format import format_of  # noqa: E402
from ap.config import Config  # noqa: E402
from ap.files import read_json  # noqa: E402
from ap.judge.verifier import same_answer  # noqa: E402
from ap.learn.policy import Policy  # noqa: E402
from ap.learn.ranks import Ranks  # noqa: E402
from ap.players.chat_solver import SampledSolver  # noqa: E402
from ap.players.chat_verifier import ChatVerifier  # noqa: E402
from ap.players.checkpoint import Checkpoint  # noqa: E402
from ap.players.endpoint import Endpoint, EndpointSettings  # noqa: E402
from ap.players.model_author import ModelAuthor  # noqa: E402
from ap.players.model_teacher import ModelTeacher, _Proposal  # noqa: E402
from ap.players.notes import Notes  # noqa: E402
from ap.players.place import Place  # noqa: E402
from ap.sandbox.sandbox import Sandbox  # noqa: E402
from ap.tools.exams import load_tokenizer  # noqa: E402
from ap.trajectory import Problem  # noqa: E402
from ap.world.acquire import Document  # noqa: E402
from ap.world.chat import read_message, tool_call  # noqa: E402
from ap.world.env import FAULT, SOUND, UNKNOWN, Env, Episode  # noqa: E402
from ap.world.rollout import Start, roll_out, transcript  # noqa: E402
from ap.world.skills import load_library  # noqa: E402

PASSAGES = (
    "A whole number leaves remainder 2 when divided by 3 and remainder 3 when divided by 5. Numbers of the second kind "
    "are 3, 8, 13 and so on. Trying them in turn, 8 leaves remainder 2 when divided by 3. Every other solution differs "
    "from 8 by a multiple of 15.",
    "To count the divisors of 72, write it as 2^3 * 3^2. A divisor takes an exponent from 0 to 3 for the prime 2 and "
    "one from 0 to 2 for the prime 3. The choices are independent, so there are 4 * 3 = 12 divisors.",
    "How many numbers from 1 to 100 are multiples of 2 or of 3? There are 50 multiples of 2 and 33 multiples of 3. The "
    "16 multiples of 6 were counted twice. So the count is 50 + 33 - 16 = 67.",
    "The sum of 1/(k(k+1)) for k from 1 to 99 looks long. But 1/(k(k+1)) is 1/k - 1/(k+1). Written so, all terms but "
    "the first and the last cancel. What remains is 1 - 1/100 = 99/100.",
    "A bag holds 3 red and 2 blue balls. Two balls are drawn without putting the first one back. The chance that the "
    "first is red is 3/5. Given that, 2 of the 4 balls left are red. So both are red with chance 3/5 * 2/4 = 3/10.",
    "Let a and b be the roots of x^2 - 5x + 3. We want a^2 + b^2 without the roots. Their sum is 5 and their "
    "product is 3. Since a^2 + b^2 = (a + b)^2 - 2ab, the value is 25 - 6 = 19.",
    "A farmer has 20 metres of fence for a rectangle beside a wall. If x is the width, the length is 20 - 2x. The area "
    "x(20 - 2x) is largest halfway between its zeros 0 and 10. The width is 5 metres, and the area 50 square metres.",
    "What is the last digit of 7^2023? The last digits of the powers of 7 are 7, 9, 3, 1, and then they repeat. The "
    "remainder of 2023 divided by 4 is 3. So the last digit is the third of the cycle, which is 3.",
)


class Outcome(NamedTuple):
    """What became of one question: why it has no usable answer, or ""; and whether the answer is right, if known."""

    fault: str = ""
    right: bool | None = None


class Heard:
    """The player of one question, which keeps what was asked and said. Its number seeds the replies."""

    def __init__(self, player, kind: str, number: int, notes: Notes):
        self.player, self.kind, self.number, self.notes, self.said = player, kind, number, notes, []

    def ask(self, prompt: str) -> str:
        return self.sample(prompt, 1, "ask")[0]

    def sample(self, prompt: str, k: int, key: str) -> list[str]:
        reply = self.player.sample(prompt, 1, f"{self.number}/{key}")[0]
        self.said.append((prompt, reply))
        self.notes.add({"prompt": self.kind, "number": self.number, "asked": prompt, "reply": reply})
        return [reply]


class Bench:
    """The world of starter/math, and one method for each prompt: (player, number of the question) -> Outcome."""

    def __init__(self, model: str):
        self.config = Config(
            domain="math", model=model, mend_messages=True, max_tokens=2048, max_turns=6, exec_timeout=5.0)
        self.domain, self.library = open_domain("math"), load_library([ROOT / "starter" / "math"])
        self.sandbox = Sandbox([skill.scripts for skill in self.library.values()], timeout=5.0)
        self.env = Env(self.domain, self.library, self.sandbox, self.config)
        self.asking = self.domain.asking(self.sandbox)
        self.names = sorted(self.library)
        self.examples = [read_json(self.library[name].folder / "examples.json") for name in self.names]

    def skills(self, number: int) -> tuple[str, ...]:
        return tuple(random.Random(f"prompts/{number}").sample(self.names, 2))

    def extract(self, player: Heard, number: int) -> Outcome:
        found = ModelTeacher(player, "math")._read(0, Document(PASSAGES[number % len(PASSAGES)], "passage"), None)
        if not found:
            return Outcome("no readable list" if found is None else "an empty list")
        return Outcome("" if any(not one.fault for one in found) else found[0].fault)

    def score(self, player: Heard, number: int) -> Outcome:
        skill = self.library[self.names[number % len(self.names)]]
        quote = PASSAGES[number % len(PASSAGES)].partition(". ")[0]
        score, why = ModelTeacher(player, "math")._score(_Proposal(skill, quote, 0))
        return Outcome("no usable marks" if why.startswith("the teacher gave") else "", score >= 0.5)

    def _said(self, player: Heard, number: int, steps: int) -> tuple[Episode, object]:
        """The teacher's message after so many good steps of another."""
        example = self.examples[number % len(self.names)]["valid"]
        name = self.names[number % len(self.names)]
        given = ", ".join(f"{key}={value!r}" for key, value in example["arguments"].items())
        script = (f"<problem>{example['problem']}</problem>",
                  tool_call("exec", code=f"from {name.replace('-', '_')} import check\nprint(check({given}))"))
        skills = (name, self.names[(number + 5) % len(self.names)]) if steps else self.skills(number)
        episode = Episode(self.env, skills)
        for message in script[:steps]:
            episode.step(message)
        write = ModelAuthor(self.env, player).writer(random.Random(number))
        return episode, read_message(write(episode))

    def draft(self, player: Heard, number: int) -> Outcome:
        _, message = self._said(player, number, 0)
        if message.error or message.draft is None:
            return Outcome(message.error or "no draft")
        status = self.domain.look(message.draft).status
        return Outcome("" if status == UNKNOWN else status)

    def check(self, player: Heard, number: int) -> Outcome:
        episode, message = self._said(player, number, 1)
        if message.error or message.tool != "exec":
            return Outcome(message.error or (message.tool or "no call"))
        result = self.sandbox.run(message.arguments["code"], files={
            "draft.txt": message.draft or episode.draft, "skills.txt": "\n".join(episode.skills)})
        if result.status != "ok":
            return Outcome(f"program: {(result.stderr.strip().splitlines() or [result.status])[-1].partition(':')[0]}")
        lines = result.stdout.strip().splitlines()
        if not lines or not self.domain.passed(lines[-1]):
            return Outcome("program prints no answer")
        right = self.examples[number % len(self.names)]["valid"]["answer"]
        return Outcome(right=self.same(self.domain.answer_of(lines[-1]), right))

    def submit(self, player: Heard, number: int) -> Outcome:
        _, message = self._said(player, number, 2)
        return Outcome("" if message.tool == "submit" else message.error or message.tool or "no call")

    def same(self, answer: str, right: str) -> bool:
        return same_answer(answer, right)

    def judge(self, player: Heard, number: int) -> Outcome:
        kind = ("valid", "broken")[number % 2]
        name, example = self.names[number % len(self.names)], self.examples[number % len(self.names)][kind]
        trace = (f"{self.env.describe((name,))}\nstage: draft\n\n<problem>{example['problem']}</problem>\n\n"
                 f"stage: check\n\n{tool_call('submit', answer=example.get('answer', '12'))}")
        problem = Problem(example["problem"], example.get("answer", "12"), (name,), domain="math")
        verdict = ChatVerifier(player.ask, seconds=None, **self.asking.verifier).verify(problem, trace)
        if verdict.vote is None or verdict.vote and verdict.answer is None:
            return Outcome(verdict.reason if verdict.vote is None else "valid, without an answer", False)
        return Outcome(right=verdict.vote == (kind == "valid") and (
            kind == "broken" or self.same(verdict.answer, example["answer"])))

    def prober(self, player: Heard, number: int) -> Outcome:
        example = self.examples[number % len(self.names)]["valid"]
        solver = SampledSolver("prober", player.sample, **self.asking.solver)
        [answer] = solver.attempt(Problem(example["problem"], "", (), domain="math"), 1, f"prompts/{number}")
        return Outcome("" if answer else "no answer in it", bool(answer) and self.same(answer, example["answer"]))


TEACHER = ("extract", "score", "draft", "check", "submit")
PROMPTS = (*TEACHER, "judge", "prober", "proposer")


def ask_all(
    bench: Bench, names: list[str], player, n: int, contents: int, notes: Notes
) -> list[tuple[str, Outcome, Heard]]:
    """Ask n questions of each kind, all at the same time: (kind, outcome, what was said)."""
    questions = [(name, number, Heard(player, name, number, notes)) for name in names for number in range(n)]

    def one(question: tuple[str, int, Heard]) -> Outcome:
        name, number, heard = question
        return getattr(bench, name)(heard, number % contents)

    with ThreadPoolExecutor(len(questions) or 1) as pool:
        return [(name, outcome, heard) for (name, _, heard), outcome in zip(questions, pool.map(one, questions))]


def propose(bench: Bench, model: str, n: int, contents: int) -> tuple[list[str], list[bool], list[dict]]:
    """Episodes of the policy: the fault of each message or "", whether each episode submitted, and the transcripts."""
    tokenizer = load_tokenizer(model)
    env = Env(bench.domain, bench.library, bench.sandbox, bench.config, reply_text=format_of(tokenizer).reply)
    policy = Policy.load(model, tokenizer, bench.config, Ranks(), frozen=True)
    starts = [Start(bench.skills(i % contents), i % contents, f"prompts/{i}") for i in range(n)]
    rollout = roll_out(env, policy, starts, bench.config)
    for _ in rollout:
        pass
    records = [transcript(tokenizer, one) for one in rollout.trajectories]
    faults = []
    for record in records:
        for turn in record["turns"]:
            facts = turn["facts"]
            does = turn["action"] != "think" or facts.get("draft") or turn["text"].startswith((SOUND, FAULT))
            faults.append(facts.get("error", "") or ("" if does else "words only"))
    return faults, [record["problem"] is not None for record in records], records


def row(name: str, faults: list[str], first: float | None, right: list[bool]) -> str:
    usable = sum(not fault for fault in faults) / len(faults)
    reasons = Counter(fault for fault in faults if fault).most_common(3)
    shown = "" if first is None else f"{first:.2f}"
    correct = f"{sum(right) / len(right):.2f}" if right else ""
    return (f"{name:<9}{len(faults):>5}{shown:>9}{usable:>9.2f}{correct:>8}  "
            + "; ".join(f"{fault}: {count}" for fault, count in reasons))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a checkpoint, or with --endpoint a model's name")
    parser.add_argument("--endpoint", default="", help="address of an OpenAI-compatible server")
    parser.add_argument("--key", default="", help="name of the environment variable that holds the API key")
    parser.add_argument("--n", type=int, default=8, help="questions for each prompt")
    parser.add_argument("--contents", type=int, default=8, help="different ones; equal prompts are read once")
    parser.add_argument("--only", default=",".join(PROMPTS), help="prompts, separated by commas")
    parser.add_argument("--max_tokens", type=int, default=4096, help="most tokens of a reply")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--out", default="prompts.jsonl", help="where the replies are written")
    given = parser.parse_args()
    names = given.only.split(",")
    if unknown := set(names) - set(PROMPTS):
        parser.error(f"unknown prompts {', '.join(sorted(unknown))}; there are {', '.join(PROMPTS)}")

    bench = Bench(given.model)
    if given.endpoint:
        names = [name for name in names if name != "proposer"]
        player = Endpoint(given.endpoint, given.model, given.key, settings=EndpointSettings(
            max_tokens=given.max_tokens, temperature=given.temperature))
    else:
        player = Checkpoint(given.model, Place(bench.config), given.max_tokens, given.temperature)
    print(f"{'prompt':<9}{'n':>5}{'at once':>9}{'usable':>9}{'right':>8}  why not")
    notes = Notes(Path(given.out))
    asked = ask_all(bench, [name for name in names if name != "proposer"], player, given.n, given.contents, notes)
    for name in names:
        mine = [(outcome, heard) for kind, outcome, heard in asked if kind == name]
        if mine:
            first = sum(not one.fault and len(heard.said) == 1 for one, heard in mine) / given.n
            right = [bool(one.right) for one, _ in mine] if any(one.right is not None for one, _ in mine) else []
            print(row(name, [one.fault for one, _ in mine], first, right), flush=True)
    if "proposer" in names:
        faults, right, episodes = propose(bench, given.model, given.n, given.contents)
        print(row("proposer", faults, None, right), flush=True)
        notes.add(*[{"prompt": "proposer"} | episode for episode in episodes])
    print(f"replies: {given.out}")
    bench.sandbox.close()


if __name__ == "__main__":
    main()
