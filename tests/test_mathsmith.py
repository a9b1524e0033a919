"""MathSmith's uniform draws are settings of the curriculum (docs/arms.md)."""
import random
from collections import Counter
from types import SimpleNamespace

import pytest

from ap.world.curriculum import Curriculum

SKILLS = {f"{category}-{number}": SimpleNamespace(category=category) for category in "abcd" for number in range(3)}
RATES = {name: (0.0, 0.5, 1.0)[index % 3] if name[0] != "a" else 1.0 for index, name in enumerate(SKILLS)}


def shares(**settings):
    """How often each skill is drawn after twelve steps, beside the mean; category a is mastered by all its skills."""
    curriculum = Curriculum(SKILLS, (2, 3, 4), **settings)
    for _ in range(12):
        curriculum.update([((name,), rate) for name, rate in RATES.items() for _ in range(10)])
    drawn = Counter(name for key in range(3000) for name in curriculum.draw(random.Random(key)))
    return {name: drawn[name] * len(SKILLS) / drawn.total() for name in SKILLS}


def test_draws_become_uniform():
    uniform, ours = shares(alpha=1.0, eps=1e6), shares(alpha=0.1, eps=0.1)
    assert list(uniform.values()) == pytest.approx([1.0] * 12, abs=0.2)
    assert min(ours.values()) < 0.6 and max(ours.values()) > 1.4
