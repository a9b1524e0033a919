"""Messages as text and as token ids, in Qwen's chat and tool-call format, for every preset.

An assistant message is free text and at most one `<tool_call>`. A message without a call is a `think` action; text
between <problem> and </problem>, in any message, is the current draft. The first prompt goes through the
tokenizer's own chat template; every later message is *appended* as ids (`reply_text`), so that nothing that the
policy sampled is ever tokenised again.
"""
from __future__ import annotations

import json
import re
from dataclasses import dataclass

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

STOP = "<|im_end|>"

# The same text as Qwen's template writes for messages of the four roles with tools, where a call stands in the
# assistant's content. Only a tokenizer made from scratch needs it; a checkpoint brings its own.
TOOLS_HEAD = """

# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>"""
TOOLS_TAIL = """
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>"""
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


def _tool(name: str, description: str, required: tuple[str, ...], **parameters: str) -> dict:
    properties = {key: {"type": "string", "description": text} for key, text in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(required)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


TOOLS = {
    "exec": _tool("exec", "Run Python. The draft lies in draft.txt, the active skills in skills.txt; "
                  "their scripts can be imported.", ("code",), code="the program"),
    "edit": _tool("edit", "Change the active skills.", (), prune="skill to drop", replace="skill to drop for another",
                  by="skill to take instead"),
    "submit": _tool("submit", "Hand in the draft as the final problem. Ends the episode.", (),
                    answer="its only answer; may be left out when a check printed it"),
}


@dataclass
class Message:
    """One assistant message, read. `error` names why it is unusable, or is empty."""

    text: str  # what stands outside of the tool call
    draft: str | None = None  # the last <problem> block
    tool: str | None = None
    arguments: dict | None = None
    error: str = ""


def tool_call(name: str, **arguments: str) -> str:
    """The text of a call, as Qwen writes it."""
    call = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{call}\n</tool_call>"


def read_message(text: str) -> Message:
    """Read one assistant message. Never raises: what cannot be read is a Message with a named `error`."""
    text = re.sub(r"^\s*<think>.*?</think>", "", text, flags=re.DOTALL)
    calls = re.findall(r"<tool_call>(.*?)</tool_call>", text, flags=re.DOTALL)
    outside = re.sub(r"<tool_call>.*?</tool_call>", "", text, flags=re.DOTALL)
    drafts = re.findall(r"<problem>(.*?)</problem>", outside, flags=re.DOTALL)
    message = Message(text=outside.strip(), draft=drafts[-1].strip() if drafts else None)
    if "<tool_call>" in outside or "</tool_call>" in outside:
        message.error = "unclosed tool call"
    elif len(calls) > 1:
        message.error = "several tool calls"
    elif not calls and not message.text:
        message.error = "empty message"
    if message.error or not calls:
        return message
    try:
        call = json.loads(calls[0])
    except (ValueError, RecursionError):
        message.error = "tool call is not JSON"
        return message
    name, arguments = (call.get("name"), call.get("arguments")) if isinstance(call, dict) else (None, None)
    if not isinstance(name, str) or name not in TOOLS:
        message.error = "unknown tool"
    elif not isinstance(arguments, dict):
        message.error = "bad arguments"
    else:
        schema = TOOLS[name]["function"]["parameters"]
        strings = all(isinstance(value, str) for value in arguments.values())
        if not strings or set(schema["required"]) - set(arguments) or set(arguments) - set(schema["properties"]):
            message.error = "bad arguments"
    if not message.error:
        message.tool, message.arguments = name, arguments
    return message


def reply_text(content: str, to_tool: bool) -> str:
    """What follows an assistant message's stop token: the environment's reply and the next generation prompt.

    Byte for byte what Qwen's template would write between the two, so that appending equals rendering.
    """
    if to_tool:
        content = f"<tool_response>\n{content}\n</tool_response>"
    return f"\n<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: list[dict], tools: list[str] = ()) -> list[int]:
    """Token ids of a conversation's start, up to where the assistant begins to write."""
    text = tokenizer.apply_chat_template(
        messages, tools=[TOOLS[name] for name in tools] or None, add_generation_prompt=True, tokenize=False
    )
    return encode(tokenizer, text)


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def decode_message(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """The text of one sampled message, without its stop token."""
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text.removesuffix(STOP)


def stop_id(tokenizer: PreTrainedTokenizerBase) -> int:
    return tokenizer.convert_tokens_to_ids(STOP)


def without_tokens(text: str) -> str:
    """What a program or a model wrote, for a message of somebody else's: no word of it is a token of the chat format."""
    return text.replace("<|", "< |")


def after_thoughts(reply: str) -> str:
    """What a model says behind its hidden thoughts; all of it where there are none."""
    return reply.rpartition("</think>")[2]


# ---------------------------------------------------------------- a small tokenizer, for models made from scratch

# Pieces that the format itself consists of: one token each, or else a tiny model would spend its context on them.
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
    or a one-letter name: to copy one is to copy a token. Longer numbers are read two digits at a time.
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
    numbers = [str(number) for number in range(10, 100)] * 2  # twice: a merge must be seen twice
    pieces = [piece for text in texts for piece in pattern.split(text) if piece]
    tokenizer.train_from_iterator([*pieces, *numbers], trainer)
    tokenizer.add_tokens([AddedToken(phrase, normalized=False, single_word=phrase.isalpha()) for phrase in phrases])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, chat_template=CHAT_TEMPLATE, eos_token=STOP, pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
