"""What checkpoints of others need: models whose architecture, and tokenizers whose chat format, nobody here chose.

`model_check` decides at load whether our attention computes what the library computes, and `chat_format` reads a chat
template. Both refuse in one sentence what would otherwise be silently wrong. docs/models.md lists what works.
"""
