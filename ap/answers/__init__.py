"""Answers: which text of a solution is its final answer, and whether two answers are the same; what replies say.

Outside of this folder: `match.grade`, `match.final_answer`, `match.match_answer` (begin there: its docstring lists what
counts as equal), grading.py, which grades solutions of any kind, replies.py and tool_calls.py, which read a model's
messages by records.py. An answer passes one file a step: extract (which text is it?), spelling and notations (one way
to write it), reading (what can it be?) with words, units, tokens and expressions (its tree), meaning (sets, intervals,
relations) with reals, equality and probes (are two the same?), asked (what does the question say of its form?).
"""
