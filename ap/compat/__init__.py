"""What checkpoints of others need: models whose architecture, and tokenizers whose chat format, nobody here chose.

`hub` fetches a model by its id. `model_check` decides at load whether our attention computes what the library computes,
and `chat_format` reads a chat template. All refuse in one sentence what would otherwise be silently wrong.
docs/models.md lists what works.
"""
