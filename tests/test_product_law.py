"""bench/product_law.py: the product law, what a solver learns from which problems, what random problems are like."""
from pathlib import Path

import numpy as np
import pytest
from conftest import script

bench = script(Path(__file__).parent.parent / "bench" / "product_law.py")


def test_success_is_the_product_over_steps():
    slips = np.full(len(bench.KINDS), 0.5)
    slips[0] = 0.2
    assert bench.success(np.array([0, 0, 3]), slips) == pytest.approx(0.8 * 0.8 * 0.5)


def test_a_solver_learns_the_steps_that_it_practises():
    """Problems of one kind: slips become rarer in that kind only, unless what is learned carries over."""
    before = bench.START
    alone = bench.learn([np.array([2, 2])], lr=0.02, carry=0.0, seed=0)
    assert alone[2] < 0.5 * before[2] and np.delete(alone, 2) == pytest.approx(np.delete(before, 2))
    assert (bench.learn([np.array([2, 2])], lr=0.02, carry=1.0, seed=0) < before).all()


def test_a_problem_with_a_wrong_answer_teaches_nothing():
    """Adam's steps are as long after all, so half of the problems teach nearly as much."""
    good = [np.array([2, 2])]
    [whole, half, little] = [bench.learn(good + n * [bench.WRONG], lr=0.02, carry=0.0, seed=0)[2] for n in (0, 1, 99)]
    assert whole < half < little < bench.START[2] and half - whole < 0.3 * (bench.START[2] - whole)


def test_random_problems_are_sound_and_shallow_ones_frequent():
    sizes = [len(problem) for problem in bench.draws((2, 3, 4), 200, "test")]
    assert set(sizes) <= {2, 3, 4} and sizes.count(2) > sizes.count(3) > sizes.count(4)
