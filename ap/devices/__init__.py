"""What only large machines need; on one CPU or one small model none of it runs.

`shard` spreads a model over several GPUs (FSDP2, and the host's memory); learn/policy.py calls it, and on one process
it does nothing. `graphs` records decode steps as CUDA graphs; engine/generate.py uses it on a GPU. `gpu` sets PyTorch
up on a GPU and says how much of its memory is free.
"""
