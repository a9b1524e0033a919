"""The world that the proposer acts in: its messages, its skills, and the environment in which it writes a problem.

Begin with env.py (one episode, stage by stage), then rollout.py (engine and environment produce trajectories).
attempts.py does the same for a solver. chat.py reads and writes messages. skills.py stores skills as packages on disk,
acquire.py extracts them from a corpus, and curriculum.py draws them for training. All of these may be used from
outside; nothing here knows who judges a problem.
"""
