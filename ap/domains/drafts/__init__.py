"""Modules that the agents' programs may import and read in the sandbox (Domain.scripts). They do not judge."""
