"""Messages: appending equals rendering, ids survive text, and whatever a model writes is read without raising."""
import json
import random
import string
from pathlib import Path

import pytest

from ap.world.chat import STOP, TOOLS, decode_message, encode, prompt_ids, read_message, reply_text, stop_id, tool_call
from ap.mini.tokenizer import build_tokenizer
from ap.mini.domain import Mini

START = [{"role": "system", "content": "You write problems."}, {"role": "user", "content": "Active skills: shift"}]
PROGRAM = 'print("ok: 31")\n# "quoted" \\ and ünïcode'
EXCHANGE = (  # what the assistant writes, what the environment answers, whether that answers a tool call
    ("<problem>a is 24. Find a.</problem>", "stage: check", False),
    (tool_call("exec", code=PROGRAM), "ok: 31\nstage: finalize", True),
    ("Let me look.\n" + tool_call("edit", prune="share"), "active: shift\nstage: refine", True),
    ("Fault: shift.", "stage: refine", False),
)


def templates():
    """Our chat template, and those of Qwen where the library that holds them is installed."""
    yield pytest.param(None, id="ours")
    try:
        import trl
    except ImportError:
        return
    for name in ("qwen3", "qwen2_5"):
        path = Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja"
        if path.exists():
            yield pytest.param(path.read_text(), id=name)


@pytest.mark.parametrize("template", list(templates()))
@pytest.mark.parametrize("rounds", range(len(EXCHANGE) + 1))
def test_appending_equals_rendering(tokenizer, template, rounds):
    """Prompt + messages + replies, appended as text, equal byte for byte what the template writes for the whole."""
    def render(messages):
        return tokenizer.apply_chat_template(
            messages, tools=list(TOOLS.values()), add_generation_prompt=True, tokenize=False, chat_template=template)

    messages, appended = list(START), render(START)
    for written, answer, to_tool in EXCHANGE[:rounds]:
        messages += [
            {"role": "assistant", "content": written}, {"role": "tool" if to_tool else "user", "content": answer}]
        appended += written + STOP + reply_text(answer, to_tool)
    assert appended == render(messages)


def test_ids_of_the_prompt_are_the_template_s_text(tokenizer):
    ids = prompt_ids(tokenizer, START, ["exec", "submit"])
    text = tokenizer.decode(ids)
    assert text.startswith("<|im_start|>system\nYou write problems.\n\n# Tools\n")
    assert text.endswith("Active skills: shift<|im_end|>\n<|im_start|>assistant\n")
    listed = text.split("<tools>\n")[1].split("\n</tools>")[0].split("\n")
    assert [json.loads(line)["function"]["name"] for line in listed] == [
        "exec", "submit"]
    assert "# Tools" not in tokenizer.decode(prompt_ids(tokenizer, START))


# ---------------------------------------------------------------- reading


def read(text):
    message = read_message(text)
    return message.text, message.draft, message.tool, message.arguments, message.error


def call(text):
    return f"<tool_call>{text}</tool_call>"


@pytest.mark.parametrize("text, expected", [
    ("Sound.", ("Sound.", None, None, None, "")),
    ("<problem> a is 1. </problem>", ("<problem> a is 1. </problem>", "a is 1.", None, None, "")),
    ("<problem>x</problem><problem>y</problem>", ("<problem>x</problem><problem>y</problem>", "y", None, None, "")),
    ("<think><problem>no</problem></think>Sound.", ("Sound.", None, None, None, "")),
    (tool_call("submit", answer="7"), ("", None, "submit", {"answer": "7"}, "")),
    ("Now.\n" + tool_call("exec", code=PROGRAM), ("Now.", None, "exec", {"code": PROGRAM}, "")),
    ("<problem>q</problem>" + tool_call("submit", answer="7"),
     ("<problem>q</problem>", "q", "submit", {"answer": "7"}, "")),
    (tool_call("edit", replace="a", by="b"), ("", None, "edit", {"replace": "a", "by": "b"}, "")),
    (tool_call("edit"), ("", None, "edit", {}, "")),  # it can be read, but the environment refuses it
    # a <problem> inside of a program is not a draft
    (tool_call("exec", code="<problem>q</problem>"), ("", None, "exec", {"code": "<problem>q</problem>"}, "")),
])
def test_what_can_be_read(text, expected):
    assert read(text) == expected


@pytest.mark.parametrize("text, error", [
    ("", "empty message"), (" \n", "empty message"), ("<think>hm</think>", "empty message"),
    ('<tool_call>{"name": "exec"', "unclosed tool call"), ("so</tool_call>", "unclosed tool call"),
    ("<tool_call><tool_call>{}</tool_call>", "tool call is not JSON"),  # the inner tag belongs to the call
    (tool_call("submit", answer="7") * 2, "several tool calls"),
    (call(""), "tool call is not JSON"), (call("{'name': 'exec'}"), "tool call is not JSON"),
    (call('{"name": "exec",'), "tool call is not JSON"), (call("[" * 100_000), "tool call is not JSON"),
    (call("[]"), "unknown tool"), (call("1"), "unknown tool"), (call("{}"), "unknown tool"),
    (call("null"), "unknown tool"), (call('{"name": "rm", "arguments": {}}'), "unknown tool"),
    (call('{"name": ["exec"], "arguments": {}}'), "unknown tool"),
    (call('{"name": "exec"}'), "bad arguments"), (call('{"name": "exec", "arguments": "print(1)"}'), "bad arguments"),
    (call('{"name": "exec", "arguments": {}}'), "bad arguments"),
    (call('{"name": "exec", "arguments": {"code": 1}}'), "bad arguments"),
    (call('{"name": "submit", "arguments": {"answer": 7}}'), "bad arguments"),
    (call('{"name": "submit", "arguments": {"answer": "7", "problem": "q"}}'), "bad arguments"),
])
def test_what_cannot_be_read_has_a_name(text, error):
    message = read_message(text)
    assert (message.error, message.tool, message.arguments) == (error, None, None)


SEEDS = range(3)
PIECES = (
    "<tool_call>", "</tool_call>", "<problem>", "</problem>", "<think>", "</think>", '{"name": "exec", "arguments": ',
    '{"code": "1"}}', '{"name": "edit"}', "Infinity", "NaN", "1e999", "{", "}", "[", '"', "\\", "\\ud800", "\ud800",
    "\x00", "Sound.", STOP, tool_call("edit", prune="share"),
)


def random_text(rng: random.Random, max_size: int) -> str:
    """Half ASCII with its control characters, half from all of Unicode but the surrogates."""
    whole = (range(128), range(128), range(128, 0xD800), range(0xE000, 0x110000))
    return "".join(chr(rng.choice(rng.choice(whole))) for _ in range(rng.randint(0, max_size)))


def random_pieces(rng: random.Random) -> str:
    """Up to 12 pieces of the format, in any order, with other text between them."""
    return "".join(rng.choice([rng.choice(PIECES), random_text(rng, 8)]) for _ in range(rng.randint(0, 12)))


@pytest.mark.parametrize("seed", SEEDS)
def test_reading_never_raises(seed):
    rng = random.Random(seed)
    texts = [rng.choice([str, call])(random_pieces(rng)) for _ in range(200)]
    texts += [rng.choice([str, call])("".join(rng.choices(PIECES, k=rng.randint(1, 3)))) for _ in range(200)]
    texts += [call("1" * 5000)]  # Python refuses to read a whole number of so many digits
    for text in texts:
        message = read_message(text)
        assert (message.tool is None) == (message.arguments is None), text
        assert not (message.error and message.tool), text


@pytest.mark.parametrize("seed", SEEDS)
def test_a_written_call_is_read_back(seed):
    rng = random.Random(seed)
    for _ in range(100):
        (tool, name), value = rng.choice([("exec", "code"), ("submit", "answer")]), random_text(rng, 40)
        if "</tool_call>" not in value and "<tool_call>" not in value:
            message = read_message(tool_call(tool, **{name: value}))
            assert (message.tool, message.arguments) == (tool, {name: value})


# ---------------------------------------------------------------- tokens


@pytest.mark.parametrize("seed", SEEDS)
def test_ids_hold_the_text(tokenizer, seed):
    rng = random.Random(seed)
    for _ in range(100):
        text = rng.choice([random_text(rng, 40), random_pieces(rng)])
        text = text.encode("utf-8", "ignore").decode()  # without lone surrogates
        ids = encode(tokenizer, text)
        assert tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) == text


def test_ids_hold_the_text_of_other_languages(tokenizer):
    for text in ("Größe 7 . , ' n't", "七 is 7 more than a.", "😀👩‍👩‍👧 e\u0301 \u200b\u2028", "  two  spaces \n\n\ttab "):
        assert decode_message(tokenizer, encode(tokenizer, text + STOP)) == text


def test_a_small_number_and_a_name_are_one_token_each(tokenizer):
    """Copying one then means copying a token. A number never shares its token with anything else."""
    whole = "b is 731 more than a. c and d add up to b and differ by 90, c being larger."
    pieces = [tokenizer.decode([i]) for i in encode(tokenizer, whole)]
    assert "".join(pieces) == whole
    assert [piece for piece in pieces if any(map(str.isdigit, piece))] == ["73", "1", "90"]  # two digits at a time
    assert [piece for piece in pieces if len(piece) == 1 and piece.isalpha()] == list("bacdbc")
    for word in (*map(str, range(100)), *string.ascii_lowercase):
        assert len(encode(tokenizer, word)) == 1, word
        first, inside = encode(tokenizer, f"{word} is")[0], encode(tokenizer, f"than {word}.")[-2]
        assert first == inside == encode(tokenizer, word)[0], word


def test_the_format_costs_few_tokens(tokenizer):
    assert len(encode(tokenizer, tool_call("exec", code=Mini.check_program))) == 4  # opening, name, program, closing
    assert len(encode(tokenizer, reply_text("stage: check", to_tool=False))) == 3
    # The instructions, each tool's description and each line of a skill are one token each.
    assert len(prompt_ids(tokenizer, START, list(TOOLS))) < 60


def test_the_stop_token(tokenizer):
    last = encode(tokenizer, "Sound." + STOP)[-1]
    assert last == stop_id(tokenizer) == tokenizer.eos_token_id != tokenizer.pad_token_id
    assert decode_message(tokenizer, encode(tokenizer, "Sound." + STOP)) == "Sound."
    assert decode_message(tokenizer, encode(tokenizer, "Sound.")) == "Sound."  # cut before its stop token


def test_a_phrase_survives_whatever_it_is_made_of():
    """The byte-level decoder once took the `ö` of a phrase without spaces for a byte: `Gr\ufffd\ufffde`."""
    phrases = ["Größe", "é", "stage: 七", "a-b"]
    tokenizer = build_tokenizer(["a is 7. " * 20], phrases, 700)
    for phrase in phrases:
        ids = encode(tokenizer, f"1 {phrase} 2")
        assert tokenizer.decode(ids) == f"1 {phrase} 2"
    assert len(encode(tokenizer, "a-b")) == 1


def test_building_is_deterministic():
    texts = [Mini().draw_problem(("shift", "share"), random.Random(n)) for n in range(40)]
    one, other = (build_tokenizer(texts, ["Find the"], 600) for _ in range(2))
    assert one.get_vocab() == other.get_vocab()
    assert len(one) <= 600
