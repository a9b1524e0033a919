"""Agentic Proposing (arXiv 2602.03279): a proposer learns to write problems, and its problems train a solver.

The algorithm is in learn, engine, world, judge, domains and prepare; mini, players, answers, sandbox and tools support
it, and can be skipped at first. config.py holds every setting, trajectory.py the record that passes through all parts,
and run.py opens a run and connects the parts. Begin with run_mgpo.py, and read it from top to bottom.
"""
