"""The tokenizer of a model made from scratch: byte-level BPE in Qwen's chat format. A checkpoint brings its own.

The vocabulary is small (--vocab_size). So each constant piece of the format is one token, and so are small numbers and
the names of variables: a tiny model then copies a number by copying one token.
"""
from __future__ import annotations

import json
import re

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ap.compat.chat_format import TOOLS_HEAD, TOOLS_TAIL
from ap.config import Config
from ap.domains.base import Domain
from ap.trajectory import STAGES
from ap.world.chat import STOP, TOOLS
from ap.world.env import INSTRUCTIONS, ONE_SHOT, Env
from ap.world.skills import Skill

# Writes the same text as Qwen's template for messages of the four roles with tools, where a tool call is a part of the
# assistant's content.
CHAT_TEMPLATE = (
    "{%- for message in messages %}{%- if message.role == 'tool' %}"
    "{{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}"
    "{%- else %}{{- '<|im_start|>' + message.role + '\\n' + message.content }}{%- endif %}"
    "{%- if loop.first and message.role == 'system' and tools %}"
    f"{{{{- {TOOLS_HEAD!r} }}}}"
    "{%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{%- endfor %}"
    f"{{{{- {TOOLS_TAIL!r} }}}}"
    "{%- endif %}{{- '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)

# The constant pieces of the format. Each is one token; otherwise a tiny model would spend its context on them.
SCAFFOLD = (
    TOOLS_HEAD, TOOLS_TAIL, *("\n" + json.dumps(tool) for tool in TOOLS.values()),
    "<|im_start|>system\n", "<|im_start|>user\n", "<|im_start|>assistant\n", "\n<|im_start|>user\n",
    "\n<|im_start|>user\n<tool_response>\n", "\n</tool_response><|im_end|>\n<|im_start|>assistant\n",
    "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>\n<|im_start|>user\n", "<problem>", "</problem>", "\n",
    '<tool_call>\n{"name": "', '"}}\n</tool_call>', 'exec", "arguments": {"code": "', 'edit", "arguments": {"prune": "',
    'edit", "arguments": {"replace": "', '", "by": "', 'submit", "arguments": {"answer": "',
    'submit", "arguments": {}}\n</tool_call>',
)


def build_tokenizer(texts: list[str], phrases: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer whose numbers below 100 and one-letter names are single tokens, saved like any other.

    texts: what to learn the merges from. phrases: constant strings that become one token each (lines of the
    instructions and of the skill packages). Merges may cross spaces (` more than ` is one token), but not a number
    or a one-letter name, so that copying one means copying a token. Longer numbers are split into pairs of digits.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"\d{1,2}|\b[a-z]\b|\n"), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", STOP]
    # Only ASCII: the decoder of byte-level tokens would take an added `ö` for the byte of that number.
    phrases = [phrase for phrase in dict.fromkeys((*SCAFFOLD, *phrases))
               if phrase.isascii() and (len(phrase) > 1 or phrase == "\n")]
    pattern = re.compile("|".join(re.escape(phrase) for phrase in sorted(phrases, key=len, reverse=True)))
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(phrases), special_tokens=special, show_progress=False, min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    numbers = [str(number) for number in range(10, 100)] * 2  # twice, since min_frequency is 2
    pieces = []
    for text in texts:
        pieces += filter(None, pattern.split(text))
    tokenizer.train_from_iterator([*pieces, *numbers], trainer)
    tokenizer.add_tokens([AddedToken(phrase, normalized=False, single_word=phrase.isalpha()) for phrase in phrases])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, chat_template=CHAT_TEMPLATE, eos_token=STOP, pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )


def constant_phrases(domain: Domain, skills: list[Skill]) -> list[str]:
    """The strings that every prompt repeats word for word: one token each in a tokenizer made from scratch."""
    env = Env(domain, {skill.name: skill for skill in skills}, None, Config())
    lines = [line for skill in skills for line in env.describe((skill.name,)).splitlines()]
    stages = [f"stage: {stage}" for stage in STAGES]
    names = [skill.name for skill in skills]
    return [INSTRUCTIONS, ONE_SHOT, domain.instructions, "Active skills:\n", *names, *stages, *lines, *domain.phrases]
