"""The domain math: free text with one final answer, compared by ap.answers. Models judge and attempt it (judged.py).

The program check is the proposer's own calculation: if one of its programs printed `answer: ...` for the submitted
draft, the committee's answer must be the same (ap.answers.match). If none did, there is no program check.
"""
from ap.domains.judged import JudgedDomain


class Math(JudgedDomain):
    """Mathematics. A program can tell no more than about any text with one final answer."""

    instructions = """\
A problem is a text in plain English with formulas in LaTeX. It stands for itself, says all that is needed, asks for \
one thing, and has exactly one final answer: a number, an expression, a set or an interval, never a proof or an essay. \
It gives neither the answer nor the way away. Say the form of the answer where several would do. \
The active skills must depend on each other: the result of one goes into the next.
Check a draft by a program that solves it by another road, by brute force where it can: sympy and numpy are there, and \
so are the skills' scripts (`from NAME import check`). It prints `answer: VALUE` last, or `fault: what is wrong`."""
