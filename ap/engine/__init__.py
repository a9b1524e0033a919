"""The engine: a local model, and many conversations decoded together with a KV cache.

From outside, use model.py to build and load models and to get log-probs from them; give conversations (rows.py) and a
Sampling (sampling.py) to `Engine.stream` or `sample` (generate.py). The rest is internal. Begin with generate.py, whose
picture shows the states of a conversation; then read rows.py (which rows decode when), cache.py (where keys and values
are stored) and attention.py (how they are read). Nothing here knows of environments.
"""
