"""Messages as text and as token ids, in the chat format of the model's own tokenizer (compat/chat_format.py).

An assistant message is free text and at most one `<tool_call>`, written as Qwen writes it. A message without a call is
a `think` action. In any message, text between <problem> and </problem> becomes the current draft. The first prompt goes
through the tokenizer's own chat template. Every later message is *appended* as ids, so that what the policy sampled is
never tokenised again.
"""
from __future__ import annotations

import json
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from ap.answers.replies import after_thoughts, opened_thoughts
from ap.answers.tool_calls import drafts_in, tool_call_in
from ap.compat.chat_format import format_of
from ap.files import writable

STOP = "<|im_end|>"  # of the miniature's tokenizer, as of Qwen's


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
    """A parsed assistant message. `error` names why it is unusable, or is empty."""

    text: str  # everything outside of the tool call
    draft: str | None = None  # the last <problem> block
    tool: str | None = None
    arguments: dict | None = None
    error: str = ""


def tool_call(name: str, **arguments: str) -> str:
    """The text of a call, as Qwen writes it."""
    call = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{call}\n</tool_call>"


def read_message(text: str) -> Message:
    """Parse one assistant message. It never raises: an unreadable text becomes a Message with a named `error`."""
    call = tool_call_in(after_thoughts(text), TOOLS)
    drafts = drafts_in(call.outside)
    error = "" if call.name or call.outside.strip() else "empty message"
    return Message(call.outside.strip(), drafts[-1][1].strip() if drafts else None, call.name, call.arguments,
                   call.error or error)


def reply_text(content: str, to_tool: bool) -> str:
    """The text that follows an assistant message's stop token: the environment's reply and the next generation prompt.

    It is byte for byte what Qwen's template would write between two assistant messages, so that appending it gives the
    same text as rendering the whole conversation. For another tokenizer it is format_of(tokenizer).reply.
    """
    if to_tool:
        content = f"<tool_response>\n{content}\n</tool_response>"
    return f"\n<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: list[dict], tools: list[str] = ()) -> list[int]:
    """Token ids of the start of a conversation, up to where the assistant's first message begins."""
    text = format_of(tokenizer).prompt(messages, [TOOLS[name] for name in tools])
    return tokenizer.encode(writable(text), add_special_tokens=False)


def written_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a message as the assistant would write it, with its stop token: for text that is to be imitated."""
    return format_of(tokenizer).written_ids(writable(text))


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text that continues a conversation, such as the environment's reply."""
    return format_of(tokenizer).reply_ids(writable(text))


def decode_message(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """The text of one sampled message, without its stop token."""
    return format_of(tokenizer).message(ids)


def decode_reply(tokenizer: PreTrainedTokenizerBase, ids: list[int], start: int) -> str:
    """The text of the message sampled from `start` on; where the prompt before it ends by opening thoughts, with their
    mark in front."""
    before = decode_message(tokenizer, ids[max(0, start - 16):start])
    return opened_thoughts(before) + decode_message(tokenizer, ids[start:])


def stop_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that end a message."""
    return format_of(tokenizer).stop_ids


def without_tokens(text: str) -> str:
    """A program's or a model's text, made safe to quote in a message: without special tokens of the chat format."""
    return text.replace("<|", "< |")
