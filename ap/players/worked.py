"""One worked episode for each domain, which the teacher is shown piece by piece, and a worked extraction.

A small model follows an example where it does not follow a description. The problems here are simple on purpose, and
model_author.py refuses a draft that only repeats one.
"""
from __future__ import annotations

from typing import NamedTuple


class Worked(NamedTuple):
    """An episode for other skills than those of any run: what they are, the draft, its check, and what that prints."""

    skills: str
    draft: str
    program: str
    printed: str


WORKED = {
    "math": Worked(
        "sum numbers at equal distances; take a remainder",
        "Let $S$ be the sum of all multiples of 7 between 1 and 100. Find the remainder when $S$ is divided by 12.",
        "total = sum(n for n in range(1, 101) if n % 7 == 0)\nprint('answer:', total % 12)",
        "answer: 3"),
    "science": Worked(
        "conserve energy; convert units",
        "A block slides from rest down a smooth slope that is 1.8 m high. Take g = 9.8 m/s^2, without air resistance. "
        "How fast is it at the bottom, in km/h, to one decimal place?",
        "from math import sqrt\nspeed = sqrt(2 * 9.8 * 1.8)\nprint('answer:', f'{speed * 3.6:.1f} km/h')",
        "answer: 21.4 km/h"),
    "code": Worked(
        "running maximum; input in one pass",
        """\
The first line holds n (1 <= n <= 100000), the second n whole numbers from -1000000000 to 1000000000. Print the \
largest value of a later number minus an earlier one; print 0 if no later number is larger. For `4` and `3 1 4 2` print `3`.

### Solution
```python
n, numbers = int(input()), list(map(int, input().split()))
low = best = None
for number in numbers:
    low = number if low is None else min(low, number)
    best = max(best or 0, number - low)
print(best)
```

### Tests
```json
[{"input": "4\\n3 1 4 2", "output": "3"}, {"input": "1\\n5", "output": "0"}, {"input": "3\\n9 4 1", "output": "0"}]
```""",
        "", "ok: 3 tests"),
}

# A passage as the teacher is shown it, and what is to be said about it.
PASSAGE = """\
[1] How many handshakes are there when 6 people greet each other once?
[2] Each of the 6 shakes 5 hands, which makes 30.
[3] But every handshake was counted by both people, so we divide by 2 and get 15."""
ENTRIES = """\
[{"name": "divide-by-repeats", "category": "counting", "intent": "count each thing several times, then divide",
  "difficulty": "one step more, easily forgotten", "tool": "list all cases by brute force",
  "recognise": "Pairs or groups without an order.", "build": "Ask for a number of pairs whose order does not matter.",
  "sentences": [2, 3]}]"""
