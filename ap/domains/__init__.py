"""Domains: how problems are requested, checked and compared and, where programs can do it, drawn at random.

Begin with base.py and its class `Domain`, whose methods are all that the rest of the repository needs from a domain.
judged.py is the Domain for free text, which only models can judge; math.py, code.py and science.py are its variants.
The miniature, in which programs decide everything, is a Domain with its own folder (ap/mini). ap/catalog.py opens a
domain by its name. drafts/ holds what the agents' programs may import in the sandbox.
"""
