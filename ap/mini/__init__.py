"""The miniature: a domain of small problems in plain English that programs draw, check, explain and solve exactly.

Begin with agents/chainlet.py, which holds the language, one entry a skill, and its checker; agents/ is all that the
agents' programs may import. author.py composes problems, checks.py decides them in three other ways, canonical.py says
which are the same, solutions.py explains them, corpus.py makes worked examples. domain.py puts these together as a
`Domain` (ap/domains/base.py); teacher.py, solvers.py and critic.py play roles by program, and exercises.py and
tokenizer.py serve the small models that are made from scratch for it.
"""
