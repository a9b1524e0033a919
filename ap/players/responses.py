"""What a server sends: the text of a reply, its words against a request, and how long it asks us to wait.

Statuses and words of errors are sorted here by what can be done about them; endpoint.py does it.
"""
from __future__ import annotations

import http.client
import json
import math
import re
import time
import urllib.error
from email.utils import parsedate_to_datetime

from ap.files import writable

PASSING, REFUSED = {408, 409, 425, 429}, {400, 413, 422}  # HTTP statuses; 5xx pass, too, but for:
NEVER = {501, 505}
TOO_LONG = re.compile(
    r"(?i)context (?:length|window|size)|too long|too many tokens|length limit|(?:maximum|input|prompt) length")
NOT_TAKEN = re.compile(
    r"(?i)unsupported|not support|unknown|unrecogni[sz]ed|unexpected|not allowed|not permitted|extra (?:inputs|fields)|"
    r"does not take|not accept|invalid (?:parameter|argument|field)|no such (?:parameter|argument)|deprecated|instead|"
    r"only the default|cannot be (?:set|specified)")
NO_MODEL = re.compile(r"(?i)\bmodel\b.{0,120}(?:not found|not exist|not available)|(?:no such|unknown|invalid) model\b|"
                      r"model_not_found|unable to access model")
NO_MONEY = re.compile(r"(?i)insufficient[_ ](?:quota|balance|funds|credits?)|payment required")


class Useless(Exception):
    """A reply that was paid and holds no text; asked again with another seed it may hold one."""


class Fault(Exception):
    """The server's word against a request."""

    def __init__(self, status: int, words: str, parameter: str = "", pause: str = ""):
        super().__init__(f"HTTP {status}{words and f': {words}'}")
        self.status, self.words, self.parameter, self.pause = status, words, parameter, pause


def read_fault(status: int, text: str, pause: str, secret: str) -> Fault:
    """What an error says: its words, and which parameter it names. secret: see `words_of`."""
    words, parameter = text, ""
    try:
        record = json.loads(text)
        error = record.get("error", record.get("detail", record))
        if isinstance(error, dict):
            kinds = ", ".join(str(error[name]) for name in ("code", "type") if error.get(name))
            words = f"{error.get('message') or ''}{kinds and f' ({kinds})'}" or text
            parameter = str(error.get("param") or "")
        elif isinstance(error, list):  # of checked forms: where, and what
            words = "; ".join(f"{entry.get('loc', '')} {entry.get('msg', '')}" for entry in error) or text
        elif isinstance(error, str):
            words = error + " " + str(record.get("message") or "")
    except (AttributeError, ValueError, RecursionError):
        pass
    return Fault(status, words_of(words, secret), parameter, pause)


def words_of(text: str, secret: str) -> str:
    """A server's text as part of a sentence: without markup, what is too much, and the secret (an API key, or "")."""
    if re.search(r"<(?:!doctype|html|head|body)", text, re.IGNORECASE):
        text = "a web page: " + re.sub(r"(?s)<(script|style).*?</\1>|<[^>]*>", " ", text)
    text = text.replace(secret, "***") if secret else text
    return writable(" ".join(text.split())[:300].strip())


def text_of(message: dict) -> str:
    """A reply as the model wrote it: some servers take tool calls out of the text, asked or not, and leave it empty;
    some give a text in parts.

    Calls go back in Qwen's format, whatever their arguments are. TypeError or KeyError when there is neither.
    """
    text, calls = message["content"], message.get("tool_calls") or []
    if isinstance(text, list):
        text = "".join(part["text"] for part in text if part.get("type", "text") in ("text", "output_text"))
    for call in calls:
        name, arguments = json.dumps(call["function"]["name"]), call["function"]["arguments"]
        text = f'{text or ""}\n<tool_call>\n{{"name": {name}, "arguments": {arguments}}}\n</tool_call>'
    if not isinstance(text, str):
        raise TypeError("the reply has no text")
    return text.strip() if calls else text


def whole_text(response, seconds: float) -> str:
    """What a server sends, within a time for all of it; a time-out of sockets is for each part."""
    deadline, parts = time.monotonic() + seconds, []
    while part := response.read1(65536):
        parts.append(part)
        if time.monotonic() > deadline:
            raise TimeoutError(f"not whole after {seconds:.0f} seconds")
    if response.length:
        raise http.client.IncompleteRead(b"".join(parts), response.length)
    return b"".join(parts).decode("utf-8", "replace")


def text_of_error(error: urllib.error.HTTPError) -> str:
    try:
        with error:
            return error.read(100_000).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return ""


def seconds_asked(asked: str) -> float | None:
    """What Retry-After says, seconds or a date; None: nothing that can be read."""
    try:
        seconds = float(asked) if asked[:1].isdigit() else parsedate_to_datetime(asked).timestamp() - time.time()
    except (TypeError, ValueError, OverflowError, IndexError):
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
