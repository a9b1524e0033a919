"""Learning: how the policy is updated from judged trajectories. The algorithms, and the optimiser step they share.

Begin with mgpo.py, which puts the equations of advantages.py and losses.py together in the order of the paper; grpo.py
and sft.py are its smaller siblings. A script holds a `Policy` (policy.py) and runs a `Training` (training.py); batch.py
turns trajectories into tensors. The algorithms need not care how a step runs on several processes (update.py, ranks.py,
shard.py) and is saved to disk (checkpoint.py). Nothing here knows of environments, judges or domains.
"""
