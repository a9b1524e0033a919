"""Arms: the systems that the method is compared with, each behind the same seam as the method itself (docs/arms.md).

Rewards: rewards.py of the proposer, solver_rewards.py of the solver, called by run_mgpo.py and run_solver.py between
judge and compare. The solver's update: replay.py gives it old groups, solver_tokens.py says which tokens count. Data
for the solver: agentic_math.py, whose roles a model (agentic_models.py) or programs (agentic_programs.py) play, and
whose ratings transition.py corrects. Test time: at_test_time.py, a strategy of eval.py. Only scripts and ap/tools
import them.
"""
