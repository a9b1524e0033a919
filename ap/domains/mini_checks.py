"""Three programs that solve a problem of the miniature world, each in its own way, and an audit of one problem.

`enumerate_worlds` uses chainlet's parse and its meaning, `propagate` its parse only, `search` neither: sentences are
read and understood twice. A program that cannot decide abstains with status "unknown".
"""
from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Callable, Iterable

import numpy as np

from ap.domains import chainlet

SIZE = chainlet.LARGEST + 1
MAX_SPLITS = 2 * SIZE  # of one propagation
MAX_NODES = 20_000  # of one search


@dataclass(frozen=True)
class Solution:
    """status: ok | no answer | several answers | unreadable | unknown; second_audit adds changed and idle."""

    status: str
    answer: str | None = None


def _solution(answers: Iterable[int], least: bool) -> Solution:
    answers = sorted(answers)
    if not answers:
        return Solution("no answer")
    if len(answers) > 1 and not least:
        return Solution("several answers")
    return Solution("ok", str(answers[0]))


# ---------------------------------------------------------------- 1. enumeration


def enumerate_worlds(text: str) -> Solution:
    """Go through all hidden values forwards."""
    sentences = chainlet.read(text)
    if isinstance(sentences, chainlet.Check):
        return Solution("unreadable")
    query, least = sentences[-1].names[0], sentences[-1].kind == "least"
    answers: set[int] = set()

    def visit(world: dict[str, int]) -> bool:
        answers.add(world[query])
        return len(answers) > 1 and not least

    try:
        chainlet.explore(chainlet.steps_of(sentences), visit)
    except chainlet.TooManyCases:
        return Solution("unknown")
    return _solution(answers, least)


# ---------------------------------------------------------------- 2. constraint propagation

VALUES = np.arange(SIZE)
DIGIT_SUM = VALUES // 100 + VALUES // 10 % 10 + VALUES % 10


def _table(kind: str, numbers: tuple[int, ...]) -> np.ndarray:
    """(1000,) the value of a step with one input, for each input; -1 where it has none."""
    x, (k, m) = VALUES, (*numbers, 0, 0)[:2]
    nothing = np.full(SIZE, -1)
    if kind == "shift":
        table = x + k
    elif kind == "scale":
        table = x * k
    elif kind == "share":
        table = np.where(x % k == 0, x // k, -1) if k else nothing
    elif kind == "residue":
        table = x - x // k * k if k else nothing
    elif kind == "digits":
        table = DIGIT_SUM
    elif kind == "case":
        table = np.where(x & 1, x - m, x + k)
    elif kind == "larger":  # of a pair with difference k
        table = np.where(((x - k) % 2 == 0) & (x >= k), x - (x - k) // 2, -1) if k else nothing
    else:  # smaller
        table = np.where(((x - k) % 2 == 0) & (x >= k), (x - k) // 2, -1) if k else nothing
    return np.where((table >= 0) & (table < SIZE), table, -1)


Domains = dict[str, np.ndarray]  # name -> (1000,) bool: the values that it may still have
Rule = tuple[tuple[str, ...], Callable[[Domains], None]]  # the names that it ties, and how it narrows their domains


def _function_rule(name: str, of: str, table: np.ndarray) -> Rule:
    defined = table >= 0

    def narrow(domains: Domains) -> None:
        domains[of] = domains[of] & defined & domains[name][table]
        image = np.zeros(SIZE, bool)
        image[table[domains[of]]] = True
        domains[name] = domains[name] & image

    return (name, of), narrow


def _congr_rule(name: str, of: str, below: int, r: int, m: int, n: int) -> Rule:
    own = (VALUES < below) & (VALUES % m == r) if m and n else np.zeros(SIZE, bool)
    classes = VALUES % n if n else VALUES

    def narrow(domains: Domains) -> None:
        domains[name] = domains[name] & own
        for one, other in ((name, of), (of, name)):
            present = np.zeros(SIZE, bool)
            present[classes[domains[other]]] = True
            domains[one] = domains[one] & present[classes]

    return (name, of), narrow


def _sums(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(1000,) bool: the sums of a value of one and a value of the other."""
    total = np.zeros(2 * SIZE, bool)
    if one.sum() > other.sum():
        one, other = other, one
    for value in np.flatnonzero(one):
        total[value:value + SIZE] |= other
    return total[:SIZE]


def _differ_rule(name: str, first: str, second: str) -> Rule:
    def narrow(domains: Domains) -> None:  # first = name + second; -v is written as 999 - v
        domains[first] = domains[first] & _sums(domains[name], domains[second])
        for one, other in ((name, second), (second, name)):
            differences = _sums(domains[first][::-1], domains[other])[::-1]
            domains[one] = domains[one] & differences

    return (name, first, second), narrow


def _pick_rule(name: str, first: str, second: str) -> Rule:
    def narrow(domains: Domains) -> None:
        x, y, z = domains[name], domains[first], domains[second]
        x = x & ((y & np.logical_or.accumulate(z)) | (z & np.logical_or.accumulate(y)))
        domains[name] = x

        def fits(one: np.ndarray, other: np.ndarray) -> np.ndarray:  # it is the larger, or a larger one can win
            winners = np.append(np.logical_or.accumulate((x & other)[::-1])[::-1][1:], False)
            return one & ((x & np.logical_or.accumulate(other)) | winners)

        domains[first], domains[second] = fits(y, z), fits(z, y)

    return (name, first, second), narrow


def _constraints(sentences: list[chainlet.Sentence]) -> tuple[Domains, list[Rule]]:
    domains: Domains = {name: np.ones(SIZE, bool) for sentence in sentences for name in sentence.names}
    rules: list[Rule] = []
    for kind, names, numbers in sentences:
        if kind in ("start", "invert"):
            domains[names[0]] = domains[names[0]] & (VALUES == numbers[0])
        elif kind == "hidden":
            domains[names[0]] = domains[names[0]] & (VALUES >= numbers[0]) & (VALUES <= numbers[1])
        elif kind == "congr":
            rules.append(_congr_rule(*names, *numbers))
        elif kind == "differ":
            rules.append(_differ_rule(*names))
        elif kind == "pick":
            rules.append(_pick_rule(*names))
        elif kind == "pair":
            larger, smaller, total = names
            rules.append(_function_rule(larger, total, _table("larger", numbers)))
            rules.append(_function_rule(smaller, total, _table("smaller", numbers)))
        elif kind == "case":
            rules.append(_function_rule(names[1], names[0], _table(kind, numbers)))
        elif kind not in ("find", "least"):
            rules.append(_function_rule(*names, _table(kind, numbers)))
    return domains, rules


def _narrow(domains: Domains, rules: list[Rule]) -> bool:
    """Apply the rules, in place, until nothing changes. False when some name has no value left."""
    size = -1
    while size != (size := sum(int(domain.sum()) for domain in domains.values())):
        for _, narrow in rules:
            narrow(domains)
        if not all(domain.any() for domain in domains.values()):
            return False
    return True


def _cycle(domains: Domains, rules: list[Rule]) -> str | None:
    """A name on a cycle of rules, the one with fewest values; names with one value tie nothing. None: no cycle.

    Without a cycle, each value that is left is a part of some world (arc consistency decides Berge-acyclic problems).
    """
    group: dict[str, str] = {}

    def root(name: str) -> str:
        while group.setdefault(name, name) != name:
            name = group[name]
        return name

    for names, _ in rules:
        open_names = [name for name in names if domains[name].sum() > 1]
        roots = [root(name) for name in open_names]
        if len(set(roots)) < len(roots):
            return min(open_names, key=lambda name: int(domains[name].sum()))
        for other in roots[1:]:
            group[other] = roots[0]
    return None


def propagate(text: str) -> Solution:
    """Narrow the sets of possible values, backwards and forwards, until they stand; split a set only on a cycle."""
    sentences = chainlet.read(text)
    if isinstance(sentences, chainlet.Check):
        return Solution("unreadable")
    return _propagate(sentences)


def _propagate(sentences: list[chainlet.Sentence]) -> Solution:
    query, least = sentences[-1].names[0], sentences[-1].kind == "least"
    domains, rules = _constraints(sentences)
    answers: set[int] = set()
    splits = 0
    pending = [domains]
    while pending:
        current = pending.pop()
        if not _narrow(current, rules):
            continue
        name = _cycle(current, rules)
        if name is None:
            answers.update(np.flatnonzero(current[query]).tolist())
        else:
            pending += [{**current, name: VALUES == value} for value in np.flatnonzero(current[name])[::-1]]
            splits += int(current[name].sum())
        if len(answers) > 1 and not least:
            break
        if splits > MAX_SPLITS:
            return Solution("unknown")
    return _solution(answers, least)


# ---------------------------------------------------------------- 3. backtracking search on its own parse

# A fact is (relation, names..., numbers...). Two facts stand for a pair: 2 larger = total + k, 2 smaller = total - k.


def _facts(text: str) -> tuple[list[tuple], str, bool] | None:
    """Words to facts, by the words that stand at fixed places. Returns (facts, asked name, least), or None."""
    facts: list[tuple] = []
    asked: tuple[str, bool] | None = None
    for line in re.split(r"(?<=\.)\s+", text.strip()):
        if asked is not None or not line.endswith(".") or line.count(".") > 1:
            return None
        w = line[:-1].replace(",", " ,").split(" ")
        try:
            fact = _fact(w)
        except (IndexError, ValueError):
            return None
        if fact is None:
            return None
        for relation, *rest in fact:
            if relation == "ask":
                asked = rest[0], rest[1]
            else:
                facts.append((relation, *rest))
    defined: set[str] = set()
    for relation, *names in facts:
        names = [name for name in names if isinstance(name, str)]
        used = names if relation == "is given" else names[1:]
        if not defined.issuperset(used) or (relation != "is given" and names[0] in defined):
            return None
        if relation != "is given":
            defined.add(names[0])
    return (facts, *asked) if asked and asked[0] in defined else None


def _name(word: str) -> str:
    if len(word) != 1 or not "a" <= word <= "z":
        raise ValueError(word)
    return word


def _int(word: str) -> int:
    if not (word.isascii() and word.isdigit()) or len(word) > 3 or str(int(word)) != word:
        raise ValueError(word)
    return int(word)


def _fact(w: list[str]) -> list[tuple] | None:
    n = len(w)
    if w[0] == "Find":
        if n == 2:
            return [("ask", _name(w[1]), False)]
        return [("ask", _name(w[4]), True)] if w[1:4] == ["the", "smallest", "possible"] and n == 5 else None
    if w[0] == "Here":
        return [("is given", _name(w[1]), _int(w[3]))] if w[2] == "is" and n == 4 else None
    if w[0] == "if":
        x, y = _name(w[1]), _name(w[4])
        form = ["if", x, "is", "even", y, "is", x, "plus", w[8], ",", "otherwise", y, "is", x, "minus", w[-1]]
        return [("branch", y, x, _int(w[8]), _int(w[15]))] if w == form and x != y else None
    if w[1] == "and":
        x, y, z = _name(w[0]), _name(w[2]), _name(w[6])
        form = [x, "and", y, "add", "up", "to", z, "and", "differ", "by", w[10], ",", x, "being", "larger"]
        k = _int(w[10])
        return [("twice", x, z, k), ("twice", y, z, -k)] if w == form and len({x, y, z}) == 3 else None
    x = _name(w[0])
    if w[1] != "is":
        return None
    rest = w[2:]
    if len(rest) == 1:
        return [("within", x, _int(rest[0]), _int(rest[0]))]
    if rest[:4] == ["a", "whole", "number", "from"] and rest[5] == "to" and len(rest) == 7:
        return [("within", x, _int(rest[4]), _int(rest[6]))]
    if rest[0] == "below":
        y = _name(rest[15])
        form = ["below", rest[1], ",", "leaves", rest[4], "when", "divided", "by", rest[8], ",", "and", "leaves",
                "the", "same", "as", y, "when", "divided", "by", rest[19]]
        return [("alike", x, y, _int(rest[1]), _int(rest[4]), _int(rest[8]), _int(rest[19]))] \
            if rest == form and x != y else None
    if rest[0] == "the":
        if rest[1:3] == ["larger", "of"] and rest[4] == "and" and len(rest) == 6:
            y, z = _name(rest[3]), _name(rest[5])
            return [("max", x, y, z)] if len({x, y, z}) == 3 else None
        if rest[1:4] == ["digit", "sum", "of"] and len(rest) == 5:
            y = _name(rest[4])
            return [("digit sum", x, y)] if x != y else None
        if rest[1:3] == ["remainder", "of"] and rest[4:6] == ["divided", "by"] and len(rest) == 7:
            y = _name(rest[3])
            return [("mod", x, y, _int(rest[6]))] if x != y else None
        return None
    if rest[1] == "minus" and len(rest) == 3:
        y, z = _name(rest[0]), _name(rest[2])
        return [("sum", x, y, z)] if len({x, y, z}) == 3 else None
    if rest[1:3] == ["divided", "by"] and len(rest) == 4:
        y = _name(rest[0])
        return [("times", x, y, _int(rest[3]))] if x != y else None  # x * k = y
    if rest[1:3] == ["more", "than"] and len(rest) == 4:
        y = _name(rest[3])
        return [("plus", x, y, _int(rest[0]))] if x != y else None
    if rest[1] == "times" and len(rest) == 3:
        y = _name(rest[2])
        return [("multiple", x, y, _int(rest[0]))] if x != y else None
    return None


def _digit_sum(value: int) -> int:
    return value if value < 10 else value % 10 + _digit_sum(value // 10)


def _holds(fact: tuple, v: dict[str, int]) -> bool:
    relation, x, *rest = fact
    if relation == "is given":
        return v[x] == rest[0]
    if relation == "within":
        return rest[0] <= v[x] <= rest[1]
    y, *k = rest
    x, y = v[x], v[y]
    if relation == "branch":
        return x == (y + k[0] if y % 2 == 0 else y - k[1])
    if relation == "twice":
        return k[0] != 0 and 2 * x == y + k[0]
    if relation == "alike":
        below, r, m, n = k
        return m > r and n > 0 and x < below and (x - r) % m == 0 and (x - y) % n == 0
    if relation == "max":
        return x == (y if y >= v[k[0]] else v[k[0]])
    if relation == "digit sum":
        return x == _digit_sum(y)
    if relation == "mod":
        return k[0] > 0 and x < k[0] and (y - x) % k[0] == 0 and x <= y
    if relation == "sum":
        return y == x + v[k[0]]
    if relation == "times":
        return k[0] > 0 and x * k[0] == y
    if relation == "plus":
        return x - k[0] == y
    return x == y * k[0]  # multiple


def _candidates(fact: tuple, missing: str, v: dict[str, int]) -> Iterable[int]:
    """Values that `missing`, the only unknown name of the fact, may have; more than fit is allowed, fewer is not."""
    relation, x, *rest = fact
    everything = range(SIZE)
    if relation in ("is given", "within"):
        return range(rest[0], rest[-1] + 1)
    y, *k = rest
    forwards = missing == x
    known = None if relation in ("max", "sum") else v[y] if forwards else v[x]
    if relation == "branch":
        return (known + k[0], known - k[1]) if forwards else (known - k[0], known + k[1])
    if relation == "twice":
        return ((known + k[0]) // 2,) if forwards else (2 * known - k[0],)
    if relation == "alike":
        below, r, m, n = k
        return () if not (m and n) else range(r, below, m) if forwards else range(known % n, SIZE, n)
    if relation == "max":
        return range(max(v[y], v[k[0]]) + 1) if forwards else range(v[x] + 1)
    if relation == "mod":
        return () if not k[0] else (known % k[0],) if forwards else range(known, SIZE, k[0])
    if relation == "sum":
        z = k[0]
        return (v[y] - v[z],) if forwards else (v[x] + v[z],) if missing == y else (v[y] - v[x],)
    if relation == "times":
        return (() if not k[0] else (known // k[0],)) if forwards else (known * k[0],)
    if relation == "plus":
        return (known + k[0],) if forwards else (known - k[0],)
    if relation == "multiple":
        return (known * k[0],) if forwards else (known // k[0],) if k[0] else everything
    return (_digit_sum(known),) if forwards else everything


def search(text: str) -> Solution:
    """Take the fact that leaves fewest values for its one unknown name, in either direction; try them; go back."""
    parsed = _facts(text)
    if parsed is None:
        return Solution("unreadable")
    facts, asked, least = parsed
    names_of = {fact: tuple(part for part in fact[1:] if isinstance(part, str)) for fact in facts}
    names = {name for fact in facts for name in names_of[fact]}
    answers: set[int] = set()
    nodes = 0

    def go(v: dict[str, int]) -> bool:
        nonlocal nodes
        nodes += 1
        if nodes > MAX_NODES:
            return True
        if len(v) == len(names):
            answers.add(v[asked])
            return len(answers) > 1 and not least
        options = []
        for fact in facts:
            missing = [name for name in names_of[fact] if name not in v]
            if len(missing) == 1:
                options.append((len(values := _candidates(fact, missing[0], v)), missing[0], values))
        _, name, values = min(options, key=lambda option: option[0])
        touched = [fact for fact in facts if name in names_of[fact]]
        for value in values:
            if 0 <= value < SIZE:
                v[name] = value
                if all(_holds(fact, v) for fact in touched if all(other in v for other in names_of[fact])) and go(v):
                    return True
                del v[name]
        return False

    stopped = go({})
    if stopped and nodes > MAX_NODES:
        return Solution("unknown")
    return _solution(answers, least)


SOLVERS: dict[str, Callable[[str], Solution]] = {
    "enumerate_worlds": enumerate_worlds, "propagate": propagate, "search": search,
}


# ---------------------------------------------------------------- audit of one problem


def renamed(text: str, rng: random.Random) -> str:
    """The same problem with other letters and its sentences in another order that is allowed."""
    lines = chainlet.split(text)
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    other = dict(zip(letters, rng.sample(letters, len(letters))))
    lines = [re.sub(r"\b[a-z]\b(?! whole)", lambda match: other[match.group()], line) for line in lines]
    rest, ordered, known = lines[:-1], [], set()
    while rest:
        ready = [line for line in rest if known.issuperset(chainlet.read_sentence(line).uses)]
        line = rng.choice(ready)
        rest.remove(line)
        ordered.append(line)
        known.update(chainlet.read_sentence(line).defines)
    return " ".join([*ordered, lines[-1]])


def second_audit(text: str) -> Solution:
    """Solve the problem again under other names and in another order, then without each of its sentences.

    Returns the solution when all is well; status "changed" when a renaming changed it; "idle" when a sentence can go
    without changing it (*choice*: not asked of hidden starts, which only declare), or computes what was there already;
    else what kept it from being solved.
    """
    first = propagate(text)
    if first.status != "ok":
        return first
    rng = random.Random(text)
    if propagate(renamed(text, rng)) != first or search(renamed(text, rng)) not in (first, Solution("unknown")):
        return Solution("changed")
    sentences = chainlet.read(text)
    for index, sentence in enumerate(sentences[:-1]):
        if sentence.kind != "hidden":
            without = _propagate([*sentences[:index], *sentences[index + 1:]])
            if without == first or without.status == "unknown":
                return Solution("idle" if without == first else "unknown")
        if sentence.kind in (*chainlet.UNARY, "pick") and _always_equal(sentences, *(
                sentence.uses if sentence.kind == "pick" else sentence.names)):
            return Solution("idle")
    if sentences[-1].kind == "least" and _propagate([*sentences[:-1], sentences[-1]._replace(kind="find")]) == first:
        return Solution("idle")
    return first


def _always_equal(sentences: list[chainlet.Sentence], x: str, y: str) -> bool:
    """Have x and y the same value in every world? Then neither difference can be anything but 0."""
    asked = chainlet.Sentence("find", ("difference",), ())
    differences = (chainlet.Sentence("differ", ("difference", *pair), ()) for pair in ((x, y), (y, x)))
    return all(_propagate([*sentences[:-1], sentence, asked]) == Solution("ok", "0") for sentence in differences)
