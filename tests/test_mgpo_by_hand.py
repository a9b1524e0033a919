"""docs/mgpo-by-hand.md: its tables are what the code prints, and its numbers are what the formulas give."""
import math
import re
from pathlib import Path
from statistics import mean, stdev

import pytest
import torch
from conftest import script

ROOT = Path(__file__).parent.parent
by_hand = script(ROOT / "docs" / "mgpo_by_hand.py")
PAGE = (ROOT / "docs" / "mgpo-by-hand.md").read_text(encoding="utf-8")
REWARDS = ((1, 1, 1), (0, 1, 1, 1), (0, -1), (-1, -1))  # r_proc of each action, by the table in rewards.process_reward


def numbers(table: str) -> list[list[float]]:
    """The numbers of each line of a table, without the head and the number of the episode."""
    return [[float(number) for number in re.findall(r"[-+]?\d+\.\d+", line)] for line in table.splitlines()[1:]]


@pytest.fixture(scope="module")
def tables() -> list[str]:
    return by_hand.sections()


def test_the_page_shows_what_the_code_prints(tables):
    assert re.findall(r"```text\n(.*?)\n```", PAGE, flags=re.DOTALL) == tables


def test_every_number_by_its_formula(tables):
    """r_T, A_E, A_S, A, R_theta, w, ratio, gate, w', L and its gradient, in plain Python."""
    actions = [(n, action, reward) for n, ((_, _, actions), rewards) in enumerate(zip(by_hand.EPISODES, REWARDS))
               for action, reward in zip(actions, rewards)]
    r_t = [1 + (1 - 0.25), 1 + (1 - 0.75), 0, 0]
    a_e = [(r - mean(r_t)) / (stdev(r_t) + 1e-6) for r in r_t]
    a_s = []
    for _, (stage, *_), reward in actions:
        peers = [other for _, (other_stage, *_), other in actions if other_stage == stage]
        alone = len(set(peers)) == 1
        a_s.append(0.0 if alone else (reward - mean(peers)) / (stdev(peers) + 1e-6))
    a = [a_e[n] + 0.5 * s for (n, _, _), s in zip(actions, a_s)]
    r_theta = [0.1 * 2 * (logs[0] - logs[2]) for _, (*_, logs), _ in actions]
    w = [(x - mean(a)) - (r - mean(r_theta)) for x, r in zip(a, r_theta)]
    ratio = [math.exp(logs[0] - logs[1]) for _, (*_, logs), _ in actions]
    gate = [1 / math.cosh((1 if x > 0 else 2) / 2 * (r - 1)) ** 2 for x, r in zip(w, ratio)]
    weight = [g * x for g, x in zip(gate, w)]
    loss = -sum(x * 2 * logs[0] for x, (_, (*_, logs), _) in zip(weight, actions)) / 22

    close = dict(abs=6e-5)  # the pages' last digit
    assert [row[1:] for row in numbers(tables[0])] == [pytest.approx([r, e], **close) for r, e in zip(r_t, a_e)]
    assert numbers(tables[1]) == [pytest.approx(list(row), **close) for row in zip(a_s, a)]
    assert numbers(tables[2]) == [pytest.approx(list(row), **close) for row in zip(r_theta, w)]
    assert numbers(tables[3]) == [pytest.approx(list(row), **close) for row in zip(ratio, gate, weight)]
    assert numbers(tables[4]) == [pytest.approx([-x / 22], abs=6e-6) for x in weight]
    assert float(re.search(r"L = ([-+.\d]+)", tables[4])[1]) == pytest.approx(loss, **close)
    assert sum(w) == pytest.approx(0, abs=1e-12)


def test_the_arithmetic_between_the_tables(tables):
    """The worked lines of the page, evaluated as they stand there."""
    worked = {
        r"1 \* \(1 \+ 1 \* 0\.75\) = 1\.75": 1 * (1 + 1 * 0.75), r"\(1\.75 - 0\.75\) / 0\.8898 = 1\.1239": 1 / 0.8898,
        r"\(1 - 0\) / 0\.8165 = 1\.2247": 1 / 0.8165, r"1\.1239 \+ 0\.5 \* 1\.2247 = 1\.7363": 1.1239 + 0.5 * 1.2247,
        r"0\.1 \* 2 \* \(-1\.0 \+ 1\.5\) = 0\.1": 0.1 * 2 * 0.5,
        r"\(1\.7363 - 0\.2044\) - \(0\.1 - 0\) = 1\.4319": 1.7363 - 0.2044 - 0.1,
        r"exp\(-1\.0 \+ 1\.2\) = 1\.2214": math.exp(0.2), r"1 / cosh\(0\.1107\)\^2 = 0\.9878": 1 / math.cosh(0.1107) ** 2,
        r"0\.9878 \* 1\.4319 = 1\.4145": 0.9878 * 1.4319, r"-1\.4145 / 22 = -0\.0643": -1.4145 / 22,
    }
    for line, value in worked.items():
        [found] = re.findall(line, PAGE)
        assert float(found.rsplit("=", 1)[1]) == pytest.approx(value, abs=1.1e-4)


def test_the_gradient_reaches_the_tokens_of_actions_only(tables):
    """22 of the 33 tokens were sampled, and all tokens of an action have the same gradient."""
    batch = by_hand.collate(by_hand.episodes(), 0)
    assert batch.num_tokens == 22 and batch.ids.shape == (4, 12) and int(batch.lengths.sum()) == 33
    assert torch.equal(batch.loss_mask > 0, batch.turn_ids >= 0)
