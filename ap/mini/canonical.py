"""When are two problems of the miniature the same? All renamings of a problem get the same canonical text."""
from __future__ import annotations

import random
from functools import lru_cache

from ap.mini.agents.chainlet import LARGEST, QUESTIONS, Check, Form, Language, Sentence


def canonical(language: Language, text: str) -> str:
    """The same text for all problems that differ only in their letters, the order of their sentences, or the order of
    two names that may be exchanged, as those of a `pick`. A text that cannot be read keeps its words, not its spaces.

    Names are told apart by the sentences that define and use them: each name has a colour, which is refined in as many
    rounds as there are names (as in the Weisfeiler-Leman test).
    """
    sentences = language.read(text)
    if isinstance(sentences, Check):
        return " ".join(text.split())

    def roles(sentence: Sentence) -> list[tuple[str, int]]:  # a name and its place; exchangeable places are the same
        places = (0, 1, 1) if _symmetric(sentence.form) else range(3)
        return list(zip(sentence.names, places))

    names = [name for sentence in sentences for name in sentence.defines]
    colour = dict.fromkeys(names, 0)
    for _ in names:
        seen = [(s.kind, s.numbers, sorted((place, colour[name]) for name, place in roles(s))) for s in sentences]
        key = {
            name: (colour[name], sorted((*what, place) for s, what in zip(sentences, seen)
                                        for other, place in roles(s) if other == name))
            for name in names
        }
        order = sorted({repr(value) for value in key.values()})
        colour = {name: order.index(repr(key[name])) for name in names}
    letters: dict[str, str] = {}
    lines: list[str] = []
    rest = list(sentences)
    while rest:  # of the sentences whose names are known, the one with the smallest colours comes next; questions last
        ready = [s for s in rest if letters.keys() >= set(s.uses)]
        best = min(ready, key=lambda s: (
            s.kind in QUESTIONS, s.kind, s.numbers, sorted((place, colour[name]) for name, place in roles(s))))
        rest.remove(best)
        for name in best.defines:
            letters[name] = "abcdefghijklmnopqrstuvwxyz"[len(letters)]
        shown = [letters[name] for name in best.names]
        if _symmetric(best.form):
            shown[1:] = sorted(shown[1:])
        lines.append(best.form.render(shown, best.numbers))
    return " ".join(lines)


@lru_cache
def _symmetric(form: Form) -> bool:
    """May the two inputs be exchanged?"""
    if len(form.inputs) != 2:
        return False
    rng = random.Random(0)
    pairs = [(rng.randint(0, LARGEST), rng.randint(0, LARGEST), form.draw(rng, 30, 50)) for _ in range(300)]
    return all(form.meaning(y, z, *numbers) == form.meaning(z, y, *numbers) for y, z, numbers in pairs)
