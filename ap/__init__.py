"""Agentic Proposing (arXiv 2602.03279): a proposer learns to write problems, its problems train a solver."""
