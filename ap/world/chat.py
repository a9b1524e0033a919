"""Messages as text and as token ids, in Qwen's chat and tool-call format, for every preset.

An assistant message is free text and at most one `<tool_call>`. A message without a call is a `think` action. In any
message, text between <problem> and </problem> becomes the current draft. The first prompt goes through the tokenizer's
own chat template. Every later message is *appended* as ids (`reply_text`), so that what the policy sampled is never
tokenised again.
"""
from __future__ import annotations

import json
import re
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

STOP = "<|im_end|>"

# What Qwen's template writes around the list of tools, at the end of the system message.
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
    """The text that follows an assistant message's stop token: the environment's reply and the next generation prompt.

    It is byte for byte what Qwen's template would write between two assistant messages, so that appending it gives the
    same text as rendering the whole conversation.
    """
    if to_tool:
        content = f"<tool_response>\n{content}\n</tool_response>"
    return f"\n<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: list[dict], tools: list[str] = ()) -> list[int]:
    """Token ids of the start of a conversation, up to where the assistant's first message begins."""
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
    """A program's or a model's text, made safe to quote in a message: without special tokens of the chat format."""
    return text.replace("<|", "< |")
