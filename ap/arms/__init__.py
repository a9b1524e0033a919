"""Arms: the systems that the method is compared with, each behind the same seam as the method itself (docs/arms.md).

Rewards of the proposer: rewards.py and mathsmith.py, between judge and compare in run_mgpo.py. Data for the solver:
agentic_math.py, whose roles a model (agentic_models.py) or programs (agentic_programs.py) play, and whose ratings
transition.py corrects. Test time: at_test_time.py and prompts.py, for eval.py. Critics of solutions: critics.py, whose
roles critic_programs.py and critic_models.py play. Only scripts, ap/tools and bench import them.
"""
