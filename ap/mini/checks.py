"""Three programs that solve a problem of the miniature world, each in its own way, and an audit of one problem.

`enumerate_worlds` uses chainlet's parser and its meanings, `propagate` its parser only, `search` neither: so no parser
and no meaning has to be trusted alone. The form of a user's skill has a single meaning, the function in its package:
the first program calls it, the second makes a table of it, and the third uses it as a test for given values. A program
that cannot decide abstains with status "unknown".
"""
from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Callable, Iterable, NamedTuple

import numpy as np

from ap.mini.agents import chainlet
from ap.mini.agents.chainlet import Language

SIZE = chainlet.LARGEST + 1
MAX_SPLITS = 2 * SIZE  # values that one propagation may try
MAX_NODES = 20_000  # that one search may visit


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


def enumerate_worlds(language: Language, text: str) -> Solution:
    """Try all hidden values and calculate forwards from them."""
    sentences = language.read(text)
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

Domains = dict[str, np.ndarray]  # name -> (1000,) bool: the values that it may still have
Rule = tuple[tuple[str, ...], Callable[[Domains], None]]  # the names it constrains, and how it narrows their domains

# The value that a sentence gives its name, for arrays of inputs and its numbers; -1 where there is none.
TABLES: dict[str, Callable[..., np.ndarray]] = {
    "shift": lambda y, k: y + k,
    "scale": lambda y, k: y * k,
    "share": lambda y, k: np.where(y % k == 0, y // k, -1) if k else y * 0 - 1,
    "residue": lambda y, k: y - y // k * k if k else y * 0 - 1,
    "digits": lambda y: DIGIT_SUM[y],
    "larger": lambda z, k: np.where((z >= k) & ((z - k) % 2 == 0) & (k > 0), z - (z - k) // 2, -1),
    "smaller": lambda z, k: np.where((z >= k) & ((z - k) % 2 == 0) & (k > 0), (z - k) // 2, -1),
    "case": lambda x, k, m: np.where(x & 1, x - m, x + k),
}


@lru_cache(100_000)
def _value(form: chainlet.Form, *arguments: int) -> int:
    """The value of a user's form; -1 where it has none."""
    value = form.meaning(*arguments)
    return -1 if value is None else value


def _table(form: chainlet.Form) -> Callable[..., np.ndarray]:
    return TABLES.get(form.name) or np.vectorize(lambda *arguments: _value(form, *arguments), otypes=[int])


def _function_rule(
    name: str, inputs: tuple[str, ...], table: Callable[..., np.ndarray], numbers: tuple[int, ...]
) -> Rule:
    def narrow(domains: Domains) -> None:
        grid = [np.flatnonzero(domains[of]) for of in inputs]
        values = table(*np.ix_(*grid), *numbers) if len(grid) == 2 else table(*grid, *numbers)
        fits = (values >= 0) & (values < SIZE)
        fits &= domains[name][np.where(fits, values, 0)]
        for axis, of in enumerate(inputs):
            domains[of] = np.zeros(SIZE, bool)
            domains[of][grid[axis]] = fits.any(axis=1 - axis) if len(grid) == 2 else fits
        domains[name] = np.zeros(SIZE, bool)
        domains[name][values[fits]] = True

    return (name, *inputs), narrow


def _congr_rule(name: str, of: str, n: int) -> Rule:
    classes = VALUES % n if n else VALUES

    def narrow(domains: Domains) -> None:
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

        def fits(one: np.ndarray, other: np.ndarray) -> np.ndarray:  # one is the larger, or other is
            winners = np.append(np.logical_or.accumulate((x & other)[::-1])[::-1][1:], False)
            return one & ((x & np.logical_or.accumulate(other)) | winners)

        domains[first], domains[second] = fits(y, z), fits(z, y)

    return (name, first, second), narrow


def _constraints(sentences: list[chainlet.Sentence]) -> tuple[Domains, list[Rule]]:
    domains: Domains = {name: np.ones(SIZE, bool) for sentence in sentences for name in sentence.names}
    rules: list[Rule] = []
    for sentence in sentences:
        names, numbers = sentence.names, sentence.numbers
        if sentence.kind in ("start", "invert"):
            domains[names[0]] &= VALUES == numbers[0]
        elif sentence.kind == "hidden":
            domains[names[0]] &= (VALUES >= numbers[0]) & (VALUES <= numbers[1])
        elif sentence.kind == "congr":
            below, r, m, n = numbers
            domains[names[0]] &= (VALUES < below) & (VALUES % m == r) if m and n else False
            rules.append(_congr_rule(*names, n))
        elif sentence.kind == "differ":
            rules.append(_differ_rule(*names))
        elif sentence.kind == "pick":
            rules.append(_pick_rule(*names))
        elif sentence.kind == "pair":
            for name, part in zip(names, ("larger", "smaller")):
                rules.append(_function_rule(name, names[2:], TABLES[part], numbers))
        elif sentence.kind not in ("find", "least"):
            rules.append(_function_rule(*sentence.defines, sentence.uses, _table(sentence.form), numbers))
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
    """A name in a rule that closes a cycle, the one with the fewest values; None: there is no cycle.

    Names with a single value connect nothing. Without a cycle, each value that is left is part of some
    world (arc consistency decides Berge-acyclic problems).
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


def propagate(language: Language, text: str) -> Solution:
    """Narrow the sets of possible values, backwards and forwards, until nothing changes; split one only on a cycle."""
    sentences = language.read(text)
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


class Relation(NamedTuple):
    """What one sentence says about its names. The first of `letters` is the name that it defines; numbers come last."""

    words: list[str]  # of the sentence, with letters where names and numbers stand
    letters: str
    holds: Callable[..., bool]
    candidates: Callable[..., Iterable[int]]  # all values that fit the name that is None, or more
    given: bool = False  # True: it defines no name


EVERYTHING = range(SIZE)


def _words(sentence: str) -> list[str]:
    return sentence.replace(",", " ,").split(" ")


def _digit_sum(value: int) -> int:
    return value if value < 10 else value % 10 + _digit_sum(value // 10)


RELATIONS = [Relation(_words(sentence), *rest) for sentence, *rest in (
    ("x is k", "xk", lambda x, k: x == k, lambda x, k: (k,)),
    ("Here x is k", "xk", lambda x, k: x == k, lambda x, k: (k,), True),
    ("x is a whole number from k to m", "xkm", lambda x, k, m: k <= x <= m, lambda x, k, m: range(k, m + 1)),
    ("x is k more than y", "xyk", lambda x, y, k: x - k == y, lambda x, y, k: (y + k,) if x is None else (x - k,)),
    ("x is k times y", "xyk", lambda x, y, k: x == y * k,
     lambda x, y, k: (y * k,) if x is None else (x // k,) if k else EVERYTHING),
    ("x is y divided by k", "xyk", lambda x, y, k: k > 0 and x * k == y,
     lambda x, y, k: (x * k,) if y is None else (y // k,) if k else ()),
    ("x is y minus z", "xyz", lambda x, y, z: y == x + z,
     lambda x, y, z: (y - z,) if x is None else (x + z,) if y is None else (y - x,)),
    ("x is the remainder of y divided by k", "xyk", lambda x, y, k: k > x and (y - x) % k == 0 and x <= y,
     lambda x, y, k: () if not k else (y % k,) if x is None else range(x, SIZE, k)),
    ("x is the digit sum of y", "xy", lambda x, y: x == _digit_sum(y),
     lambda x, y: (_digit_sum(y),) if x is None else EVERYTHING),
    ("x is below k, leaves m when divided by n, and leaves the same as y when divided by p", "xykmnp",
     lambda x, y, k, m, n, p: n > m and p > 0 and x < k and (x - m) % n == 0 and (x - y) % p == 0,
     lambda x, y, k, m, n, p: () if not (n and p) else range(m, k, n) if x is None else range(x % p, SIZE, p)),
    ("x and y add up to z and differ by k, x being larger", "xzk", lambda x, z, k: k != 0 and 2 * x == z + k,
     lambda x, z, k: ((z + k) // 2,) if x is None else (2 * x - k,)),
    ("x and y add up to z and differ by k, x being larger", "yzk", lambda y, z, k: k != 0 and 2 * y == z - k,
     lambda y, z, k: ((z - k) // 2,) if y is None else (2 * y + k,)),
    ("x is the larger of y and z", "xyz", lambda x, y, z: x == (y if y >= z else z),
     lambda x, y, z: range(max(y, z) + 1) if x is None else range(x + 1)),
    ("if x is even y is x plus k, otherwise y is x minus m", "yxkm",
     lambda y, x, k, m: y == (x + k if x % 2 == 0 else x - m),
     lambda y, x, k, m: (x + k, x - m) if y is None else (y - k, y + m)),
)]


@lru_cache
def _relation(form: chainlet.Form) -> Relation:
    """A user's form as a relation that can be tested, but not solved for its inputs."""
    return Relation(
        _words(form.template[:-1]), "".join(("x", *form.inputs, *form.numbers)),
        lambda x, *rest: x == _value(form, *rest), lambda x, *rest: (_value(form, *rest),) if x is None else EVERYTHING)


def _bound(pattern: list[str], words: list[str]) -> dict[str, str | int] | None:
    """The name or number for each letter of a pattern in these words; names must differ. None: it does not fit."""
    bound: dict[str, str | int] = {}
    for letter, word in zip(pattern, words, strict=True):
        if letter in ("x", "y", "z"):
            if len(word) != 1 or not "a" <= word <= "z" or bound.setdefault(letter, word) != word:
                return None
        elif letter in ("k", "m", "n", "p"):
            if not (word.isascii() and word.isdigit() and len(word) <= 3 and str(int(word)) == word):
                return None
            bound[letter] = int(word)
        elif letter != word:
            return None
    names = [part for part in bound.values() if isinstance(part, str)]
    return bound if len(set(names)) == len(names) else None


Fact = tuple[Relation, tuple[str, ...], tuple[int, ...]]  # a relation, its names and its numbers


def _facts(language: Language, text: str) -> tuple[list[Fact], str, bool] | None:
    """Parse a text by the words of the known relations. Returns (facts, asked name, least); None: unreadable."""
    users = list(map(_relation, language.users_forms()))
    *lines, question = re.split(r"(?<=\.)\s+", text.strip())
    facts: list[Fact] = []
    defined: set[str] = set()
    for line in lines:
        if not line.endswith(".") or line.count(".") > 1:
            return None
        words, found = _words(line[:-1]), False
        for relation in RELATIONS + users:
            bound = len(words) == len(relation.words) and _bound(relation.words, words)
            if bound:
                found = True
                parts = [bound[letter] for letter in relation.letters]
                names = tuple(part for part in parts if isinstance(part, str))
                facts.append((relation, names, tuple(part for part in parts if isinstance(part, int))))
                new, used = (set(), names) if relation.given else (set(names[:1]), names[1:])
                if not defined.issuperset(used) or new & defined:
                    return None
                defined |= new
        if not found:
            return None
    for pattern, least in ((["Find", "x"], False), (["Find", "the", "smallest", "possible", "x"], True)):
        words = _words(question[:-1])
        bound = question.endswith(".") and len(words) == len(pattern) and _bound(pattern, words)
        if bound and bound["x"] in defined:
            return facts, bound["x"], least
    return None


def search(language: Language, text: str) -> Solution:
    """Backtracking: take the fact that leaves the fewest values for its only unknown name, and try them in turn."""
    parsed = _facts(language, text)
    if parsed is None:
        return Solution("unreadable")
    facts, asked, least = parsed
    all_names = {name for _, names, _ in facts for name in names}
    answers: set[int] = set()
    nodes = 0

    def go(v: dict[str, int]) -> bool:
        nonlocal nodes
        nodes += 1
        if nodes > MAX_NODES:
            return True
        if len(v) == len(all_names):
            answers.add(v[asked])
            return len(answers) > 1 and not least
        options = []
        for relation, names, numbers in facts:
            missing = [name for name in names if name not in v]
            if len(missing) == 1:
                values = relation.candidates(*map(v.get, names), *numbers)
                options.append((len(values), missing[0], values))
        _, name, values = min(options, key=lambda option: option[0])
        touched = [fact for fact in facts if name in fact[1]]
        for value in values:
            if 0 <= value < SIZE:
                v[name] = value
                if all(fact.holds(*[v[other] for other in names], *numbers) for fact, names, numbers in touched
                       if all(other in v for other in names)) and go(v):
                    return True
                del v[name]
        return False

    stopped = go({})
    if stopped and nodes > MAX_NODES:
        return Solution("unknown")
    return _solution(answers, least)


# ---------------------------------------------------------------- audit of one problem


def renamed(language: Language, text: str, rng: random.Random) -> str:
    """The same problem with other letters and its sentences in another order; names are still defined before use."""
    lines = chainlet.split(text)
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    other = dict(zip(letters, rng.sample(letters, len(letters))))
    lines = [re.sub(r"\b[a-z]\b(?! whole)", lambda match: other[match.group()], line) for line in lines]
    rest, ordered, known = lines[:-1], [], set()
    while rest:
        ready = [line for line in rest if known.issuperset(language.read_sentence(line).uses)]
        line = rng.choice(ready)
        rest.remove(line)
        ordered.append(line)
        known.update(language.read_sentence(line).defines)
    return " ".join([*ordered, lines[-1]])


def second_audit(language: Language, text: str) -> Solution:
    """Solve the problem again under other names and in another order, then without each of its sentences.

    Returns the solution when all is well; status "changed" when a renaming changed it; "idle" when it stays the same
    without some sentence (*choice*: hidden starts are not tested, since they only declare a name), or when a sentence
    computes a value that was there already; otherwise the status that kept it from being solved.
    """
    first = propagate(language, text)
    if first.status != "ok":
        return first
    rng = random.Random(text)
    if propagate(language, renamed(language, text, rng)) != first:
        return Solution("changed")
    if search(language, renamed(language, text, rng)) not in (first, Solution("unknown")):
        return Solution("changed")
    sentences = language.read(text)
    for index, sentence in enumerate(sentences[:-1]):
        if sentence.kind != "hidden":
            without = _propagate([*sentences[:index], *sentences[index + 1:]])
            if without == first or without.status == "unknown":
                return Solution("idle" if without == first else "unknown")
        if sentence.form.idle and _always_equal(sentences, *sentence.named(sentence.form.idle)):
            return Solution("idle")
    plain = sentences[-1]._replace(form=chainlet.OURS["find"])
    if sentences[-1].kind == "least" and _propagate([*sentences[:-1], plain]) == first:
        return Solution("idle")
    return first


def _always_equal(sentences: list[chainlet.Sentence], x: str, y: str) -> bool:
    """Do x and y have the same value in every world? Then the differences x - y and y - x can only be 0."""
    asked = chainlet.Sentence(chainlet.OURS["find"], ("difference",), ())
    differences = (chainlet.Sentence(chainlet.OURS["differ"], ("difference", *pair), ()) for pair in ((x, y), (y, x)))
    return all(_propagate([*sentences[:-1], sentence, asked]) == Solution("ok", "0") for sentence in differences)
