"""What an episode is worth: is its problem valid (V), how hard is it (rho), and which rewards follow.

Begin with judge.py, which applies all three steps to a finished episode. verifier.py holds the committee that decides
V(q), prober.py measures the pass rate rho(q), hindsight.py fills in what was unknown during the episode, rewards.py has
the equations of the rewards. roles.py defines the interfaces of verifiers, probers, critics and teachers, and the
records that they return. Programs (ap/mini) and models (ap/players) implement them; nothing here knows which of the
two plays a role.
"""
