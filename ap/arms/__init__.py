"""Arms: the systems that the method is compared with, each behind the same seam as the method itself (docs/arms.md).

Rewards, between judge and compare: rewards.py and mathsmith.py of the proposer, solver_rewards.py of the solver. The
solver's update: replay.py gives it old groups, solver_tokens.py says which tokens count. Data for the solver:
agentic_math.py by the stages of agentic_stages.py, whose roles agentic_models.py or agentic_programs.py play, and
whose ratings transition.py corrects.
Test time: at_test_time.py and prompts.py. Critics of solutions: critics.py, whose roles critic_programs.py and
critic_models.py play. Only scripts, ap/tools and bench import them.
"""
