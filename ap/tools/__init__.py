"""Tools around the algorithm: what it will cost, how it went, and what other programs can do with its results.

Before a run: commandline.py (settings), hub.py, corpus.py, plan.py (will it fit?) with flops.py, memory.py, traffic.py
and asked.py. During it: summary.py (rates), speed.py, costs.py, hints.py, sinks.py (TensorBoard, W&B), problems.py.
Afterwards: before_after.py, exams.py and evaluation.py (tables and their statistics), benchmarks.py, report.py (a page
to look at), and the commands hygiene.py and export.py (`python -m ap.tools.export`). Scripts, prepare/ and bench/ use
them.
"""
