"""Stages 1 and 2, which must precede reinforcement learning: they make a library of skills, and pi_ref.

`build_skills` and `build_reference` make what is missing in a run's folder and reuse the rest, so each script can call
them, and no script must be run before another. Begin with reference.py, which calls skills.py.
"""
