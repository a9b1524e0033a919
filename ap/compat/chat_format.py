"""A tokenizer's chat format, read off its own template: what ends a message, and what stands between two of them.

    chat = format_of(tokenizer)
    chat.prompt(messages, tools)    the text of a conversation's start, up to where the assistant begins to write
    chat.written(text)              a message as the assistant would write it, with the token that ends it
    chat.reply(content, to_tool)    what follows that token: the environment's words, and the next assistant's turn
    chat.stop_ids                   the tokens that end a message

A template renders whole conversations, and we only ever append. So it renders one conversation with and one without the
next turn, around words that stand for the texts, and what is between these words is the format. Then a longer
conversation is appended and rendered: where both differ the template is refused, with one exception. *Choice*: a
template that opens thoughts before each message and leaves them out of earlier ones is taken. Thoughts stay as they
were sampled, since the policy is trained on what it has seen, and `note` says so.

Tools are listed by the template where it writes calls as Qwen's does (`<tool_call>` and JSON with "name" and
"arguments", which env.py reads); the others get the list as text in the system message, and results as messages of the
user. *Choice*: so every model writes one kind of call. A template without system messages gets them before the first
message of the user.
"""
from __future__ import annotations

import json
import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from ap.files import UserError, first_line

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
TOOL_REPLY = ("<tool_response>\n", "\n</tool_response>")  # around the result of a call, in a message of the user

SYSTEM, ASKED, SAID, ANSWERED = "Systemwords.", "Askedwords.", "Saidwords.", "Answeredwords."  # stand for the texts
TOOL = {"type": "function", "function": {"name": "probetool", "description": "Probes.", "parameters": {
    "type": "object", "properties": {"code": {"type": "string", "description": "the code"}}, "required": ["code"]}}}
ROUNDS = (("One <problem>a is 1.</problem>", "stage: check", False),
          ('Two.\n<tool_call>\n{"name": "probetool", "arguments": {"code": "1"}}\n</tool_call>', "ok: 1\nThree", True),
          ("Four.", "Five\nsix", False))


@dataclass(frozen=True)
class ChatFormat:
    """How one tokenizer writes conversations. Made by `format_of`."""

    tokenizer: PreTrainedTokenizerBase
    special: re.Pattern  # matches the tokenizer's special tokens in a text
    stop_ids: frozenset[int]  # by the template, the tokenizer, and the folder's generation_config.json
    end: str  # what the template writes behind a message, up to the token that ends it
    lead: str  # what a written message has in front: a space, or the end of thoughts that the prompt has opened
    around: dict[bool, tuple[str, str]]  # of a reply, by to_tool: between a message's end and the reply, and behind it
    lists_tools: bool  # does the template list tools, whose calls are written as Qwen's?
    takes_system: bool  # does it know messages of the system?
    note: str  # how appending differs from rendering, or ""
    blanks: bool  # does the tokenizer put a blank before every text that it is given, as Llama 2's does?

    def prompt(self, messages: list[dict], tools: list[dict] = ()) -> str:
        """The text of a conversation's start. tools: their JSON schemas. UserError where the template refuses it."""
        messages = [message | {"content": self.quoted(message["content"])} for message in messages]
        if tools and not self.lists_tools:
            messages = _with_system(messages, tools_as_text(tools))
        if not self.takes_system:
            messages = _without_system(messages)
        return _render(self.tokenizer, messages, prompt=True, tools=list(tools) if self.lists_tools else None)

    def written(self, text: str) -> str:
        """A message of the assistant as its tokens' text, the one that ends it included: to imitate it."""
        return f"{self.lead}{text}{self.end}"

    def reply(self, content: str, to_tool: bool) -> str:
        """What follows a message: the environment's reply, and the beginning of the assistant's next one."""
        head, tail = self.around[to_tool]
        return f"{head}{self.quoted(content)}{tail}"

    def quoted(self, text: str) -> str:
        """Text from outside, in which no special token of this tokenizer stands: a blank is put into each."""
        return self.special.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)

    def reply_ids(self, text: str) -> list[int]:
        """Token ids of a `reply`, or of another text behind a message."""
        return self._encode(text, self.end.strip())

    def written_ids(self, text: str) -> list[int]:
        """Token ids of `written`."""
        return self._encode(self.written(text), self.around[False][1])

    def _encode(self, text: str, before: str) -> list[int]:
        """Token ids of a text as it stands behind another one."""
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        if self.blanks:
            head, whole = (self.tokenizer.encode(one, add_special_tokens=False) for one in (before, before + text))
            if whole[:len(head)] == head:
                return whole[len(head):]
        return ids

    def message(self, ids: list[int]) -> str:
        """The text of a message that was sampled, without the token that ended it."""
        ids = ids[:-1] if ids and ids[-1] in self.stop_ids else ids
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def format_of(tokenizer: PreTrainedTokenizerBase) -> ChatFormat:
    """The chat format of a tokenizer, read once. UserError where there is none that can be appended to."""
    template, known = tokenizer.chat_template, getattr(tokenizer, "ap_chat_format", None)
    if known is None or known[0] != template:
        known = template, _read(tokenizer)
        tokenizer.ap_chat_format = known
        if known[1].note:
            warnings.warn(f"{_name(tokenizer)}: {known[1].note}", stacklevel=2)
    return known[1]


def tools_as_text(tools: list[dict]) -> str:
    """The list of tools as Qwen's template writes it, for a system message."""
    return TOOLS_HEAD + "".join(f"\n{json.dumps(tool, ensure_ascii=False)}" for tool in tools) + TOOLS_TAIL


# --------------------------------------------------------------------------------------------- reading a template


def _read(tokenizer: PreTrainedTokenizerBase) -> ChatFormat:
    name = _name(tokenizer)
    if not tokenizer.chat_template:
        raise UserError(f"{name}: the tokenizer has no chat template; give a model that was trained to chat.")
    start = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": ASKED}]
    takes_system = SYSTEM in _try(tokenizer, start)
    start = start if takes_system else _without_system(start)
    prompt = _render(tokenizer, start, prompt=True)
    before, between, tail = _parts(tokenizer, start, "user")
    stop = _first_special(tokenizer, between)
    end = between[:stop.end()] if stop else ""
    head = between[len(end):]
    if not stop:  # nothing behind a message before the next one; perhaps behind the last one
        last = _render(tokenizer, [*start, {"role": "assistant", "content": SAID}]).partition(SAID)[2]
        stop = _first_special(tokenizer, last)
        end = last[:stop.end()] if stop else tokenizer.eos_token or ""
    if not end:
        raise UserError(f"{name}: no token ends a message, neither in the chat template nor as eos_token; "
                        "give a model that was trained to chat.")
    lists = [*start] if takes_system else start
    listed = _try(tokenizer, lists, tools=[TOOL])
    lists_tools = "probetool" in listed and "<tool_call>" in listed and '"arguments"' in listed
    around = {False: (head, tail), True: (head + TOOL_REPLY[0], TOOL_REPLY[1] + tail)}
    if lists_tools:
        try:
            _, between, tail = _parts(tokenizer, start, "tool")
            if between.startswith(end):
                around[True] = between[len(end):], tail
        except UserError:
            pass  # it knows no results of tools: they are messages of the user
    lead, note = _lead(name, prompt, before)
    own = tokenizer.convert_tokens_to_ids(end.strip())
    stops = {own, tokenizer.eos_token_id, *_generation_stops(tokenizer)} - {None}
    first = tokenizer.convert_ids_to_tokens(tokenizer.encode("x", add_special_tokens=False))[0]
    chat = ChatFormat(tokenizer, _special_tokens(tokenizer), frozenset(stops), end, lead, around, lists_tools,
                      takes_system, "; ".join(filter(None, (note, _strips(tokenizer, start)))),
                      first.startswith("\u2581"))
    _compare(name, chat, prompt, before)
    return chat


def _strips(tokenizer, start: list[dict]) -> str:
    """A note if the template leaves the thoughts of earlier messages out. *Choice*: here they stay."""
    said = {"role": "assistant", "content": f"<think>\nThoughtwords.\n</think>\n\n{SAID}"}
    text = _try(tokenizer, [*start, said, {"role": "user", "content": ANSWERED}])
    return "" if "Thoughtwords." in text else "it leaves the thoughts of earlier messages out; here they stay"


def _parts(tokenizer, start: list[dict], role: str) -> tuple[str, str, str]:
    """What a template writes before a message, between it and the reply of `role`, and behind that reply."""
    text = _render(tokenizer, [*start, {"role": "assistant", "content": SAID}, {"role": role, "content": ANSWERED}],
                   prompt=True)
    if text.count(SAID) != 1 or text.count(ANSWERED) != 1 or text.index(SAID) > text.index(ANSWERED):
        raise UserError(f"{_name(tokenizer)}: its chat template does not write each message once and in order; "
                        "give a model with an ordinary chat template.")
    before, _, rest = text.partition(SAID)
    between, _, tail = rest.partition(ANSWERED)
    return before, between, tail


def _lead(name: str, prompt: str, before: str) -> tuple[str, str]:
    """What a written message has in front, and how appending differs from rendering."""
    if before.startswith(prompt) and not before[len(prompt):].strip():
        return before[len(prompt):], ""
    opened = prompt.removeprefix(before)
    if not prompt.startswith(before) or not re.fullmatch(r"\s*<\w+>\s*(</\w+>\s*)?", opened):
        raise UserError(f"{name}: its chat template writes {(prompt[-20:])!r} before a message that is still to come, "
                        f"and {before[-20:]!r} when it is there; such a conversation cannot be appended to.")
    tag = re.search(r"<(\w+)>", opened)[1]
    note = f"the chat template puts {opened!r} before each message and leaves it out of earlier ones; here it stays"
    return ("" if "</" in opened else f"\n</{tag}>\n\n"), note


def _compare(name: str, chat: ChatFormat, prompt: str, before: str) -> None:
    """UserError unless a conversation that is appended to is what the template renders, but for opened thoughts."""
    opened = prompt.removeprefix(before) if len(prompt) > len(before) else ""
    tool_role = chat.around[True][0] != chat.around[False][0] + TOOL_REPLY[0] or chat.lists_tools
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": ASKED}]
    messages, appended = messages if chat.takes_system else _without_system(messages), prompt
    for said, answered, to_tool in ROUNDS:
        appended += chat.lead * (not opened) + said + chat.end + chat.reply(answered, to_tool)
        as_user = answered if not to_tool else answered.join(TOOL_REPLY)
        messages += [{"role": "assistant", "content": said},
                     {"role": "tool", "content": answered} if to_tool and tool_role else
                     {"role": "user", "content": as_user}]
    rendered = _render(chat.tokenizer, messages, prompt=True)
    if opened:
        rendered, appended = (text.replace(opened, "") for text in (rendered, appended))
    if appended != rendered:
        place = len(os.path.commonprefix([appended, rendered]))
        raise UserError(f"{name}: appending to a conversation is not what its chat template writes: "
                        f"{appended[place:place + 30]!r} instead of {rendered[place:place + 30]!r}; "
                        "give a model with an ordinary chat template.")


# --------------------------------------------------------------------------------------------------- small things


def _render(tokenizer, messages: list[dict], prompt: bool = False, tools: list[dict] | None = None) -> str:
    """apply_chat_template as text. UserError with the template's own words where it refuses."""
    try:
        return tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=prompt, tokenize=False)
    except Exception as error:  # a template is a program of its authors
        roles = ", ".join(message["role"] for message in messages)
        raise UserError(f"{_name(tokenizer)}: its chat template refuses messages of {roles} ({first_line(error)}); "
                        "give a model with an ordinary chat template.") from error


def _try(tokenizer, messages: list[dict], **options) -> str:
    try:
        return _render(tokenizer, messages, prompt=True, **options)
    except UserError:
        return ""


def _with_system(messages: list[dict], text: str) -> list[dict]:
    """The same with this text at the end of the system message."""
    if messages[0]["role"] != "system":
        return [{"role": "system", "content": text.lstrip()}, *messages]
    return [messages[0] | {"content": messages[0]["content"] + text}, *messages[1:]]


def _without_system(messages: list[dict]) -> list[dict]:
    """The same with what the system says before the first words of the user."""
    if messages[0]["role"] != "system":
        return messages
    first = messages[1] | {"content": f"{messages[0]['content']}\n\n{messages[1]['content']}"}
    return [first, *messages[2:]]


def _special_tokens(tokenizer) -> re.Pattern:
    """Matches any special token in a text; nothing where there are none."""
    known = {token for token in tokenizer.all_special_tokens if len(token) > 1}
    known |= {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special and len(str(token)) > 1}
    return re.compile("|".join(map(re.escape, sorted(known, key=len, reverse=True))) or r"(?!)")


def _first_special(tokenizer, text: str) -> re.Match | None:
    """The special token that a text begins with, blanks before it included; or another added one, where it is marked
    so in no file."""
    added = sorted(map(str, tokenizer.added_tokens_decoder.values()), key=len, reverse=True)
    return (re.match(rf"\s*(?:{_special_tokens(tokenizer).pattern})", text)
            or re.match(rf"\s*(?:{'|'.join(map(re.escape, filter(str.strip, added))) or '(?!)'})", text))


def _generation_stops(tokenizer) -> list[int]:
    """The stop tokens of generation_config.json, beside the tokenizer; [] where there is no such file."""
    path = Path(tokenizer.name_or_path or "") / "generation_config.json"
    try:
        stops = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
    except (OSError, ValueError):
        return []
    return stops if isinstance(stops, list) else [stops]


def _name(tokenizer) -> str:
    return tokenizer.name_or_path or "the tokenizer"
