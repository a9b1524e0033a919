"""What the agents' programs may import. In the sandbox this folder can be read whole, and nothing beside it."""
