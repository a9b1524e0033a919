"""Arms: the systems that the method is compared with, each behind the same seam as the method itself (docs/arms.md).

Rewards of the proposer: rewards.py and mathsmith.py, between judge and compare in run_mgpo.py. Data for the solver:
agentic_math.py, whose roles a model (agentic_models.py) or programs (agentic_programs.py) play, and whose ratings
transition.py corrects. Test time: at_test_time.py, a strategy of eval.py. Critics of solutions: critics.py, played by
critic_programs.py and critic_models.py. Only scripts, ap/tools and bench import them.
"""
