"""Messages: appending equals rendering, ids survive text, and whatever a model writes is read without raising."""
import json
import random
import string
import warnings
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ap.compat.chat_format import format_of
from ap.files import UserError
from ap.mini.domain import Mini
from ap.mini.tokenizer import CHAT_TEMPLATE, build_tokenizer
from ap.world.chat import (
    STOP, TOOLS, decode_message, encode, prompt_ids, read_message, reply_text, stop_ids, tool_call, written_ids,
)

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


# ---------------------------------------------------------------- the chat formats of others

LISTED = "{% if tools %}TOOLS {% for tool in tools %}{{ tool | tojson }}{% endfor %}{% endif %}"
LLAMA3 = ("{{ '<s>' }}{% for m in messages %}{{ '<|header|>' + m.role + '<|/header|>\n\n' + m.content | trim + "
          "'<|eot|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|header|>assistant<|/header|>\n\n' }}{% endif %}")
MISTRAL = ("{{ '<s>' }}{% if messages[0].role == 'system' %}{% set system = messages[0].content + '\n\n' %}"
           "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}{% for m in messages %}"
           "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('must alternate') }}{% endif %}"
           "{% if m.role == 'user' %}{{ '[INST] ' + (system if loop.first else '') + m.content + ' [/INST]' }}"
           "{% else %}{{ ' ' + m.content + '</s>' }}{% endif %}{% endfor %}")
GEMMA = ("{{ '<s>' }}{% for m in messages %}{% if m.role not in ('user', 'assistant') %}"
         "{{ raise_exception('System role not supported') }}{% endif %}{{ '<turn>' + ('model' if m.role == 'assistant' "
         "else m.role) + '\n' + m.content | trim + '<eot>\n' }}{% endfor %}"
         "{% if add_generation_prompt %}{{ '<turn>model\n' }}{% endif %}")
OPENS = ("{{ '<s>' }}{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|A|>' + m.content.split('</think>')[-1] "
         "+ '</s>' }}{% else %}{{ '<|U|>' + m.content }}{% endif %}{% endfor %}"
         "{% if add_generation_prompt %}{{ '<|A|><think>\n' }}{% endif %}")
OTHER_CALLS = LLAMA3.replace("{% for m in", LISTED + "{% for m in", 1)  # lists tools, but not as Qwen's template does
RENAMED = CHAT_TEMPLATE.replace("<|im_end|>", "<|done|>")
SPECIAL = {"llama3": "<|eot|> <|header|> <|/header|>", "mistral": "[INST] [/INST]", "gemma": "<turn> <eot>",
           "opens thoughts": "<|A|> <|U|>", "other calls": "<|eot|> <|header|> <|/header|>",
           "renamed": "<|im_start|> <|done|>"}
FORMATS = {"llama3": LLAMA3, "mistral": MISTRAL, "gemma": GEMMA, "opens thoughts": OPENS, "other calls": OTHER_CALLS,
           "renamed": RENAMED}


def other_tokenizer(name: str, template: str | None = None):
    """A byte-level tokenizer with `</s>` for eos_token, and the special tokens of a format."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<s>", "</s>", *SPECIAL.get(name, "").split()]
    raw.train_from_iterator(["stage: check"], trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    made = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>",
                                   chat_template=template or FORMATS[name])
    made.add_special_tokens({"additional_special_tokens": special[2:]})
    return made


def quiet_format(tokenizer):
    """Its format, without what is warned about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return format_of(tokenizer)


@pytest.mark.parametrize("name, stops, end, head", [
    ("llama3", {"<|eot|>", "</s>"}, "<|eot|>", "<|header|>user<|/header|>\n\n"),
    ("mistral", {"</s>"}, "</s>", "[INST] "), ("gemma", {"<eot>", "</s>"}, "<eot>", "\n<turn>user\n"),
    ("opens thoughts", {"</s>"}, "</s>", "<|U|>"), ("other calls", {"<|eot|>", "</s>"}, "<|eot|>", None),
    ("renamed", {"<|done|>", "</s>"}, "<|done|>", "\n<|im_start|>user\n"),
])
def test_the_format_is_read_off_the_template(name, stops, end, head):
    tokenizer = other_tokenizer(name)
    chat = quiet_format(tokenizer)
    assert {tokenizer.decode([stop]) for stop in stop_ids(tokenizer)} == stops
    assert chat.end == end and chat.around[False][0] == (head or "<|header|>user<|/header|>\n\n")
    assert chat.lists_tools == (name == "renamed") and chat.takes_system == (name != "gemma")
    text = tokenizer.decode(prompt_ids(tokenizer, START, ["exec"]))
    assert '"name": "exec"' in text and "<tool_call>" in text and text.index("problems.") < text.index("Active skills")
    ids = written_ids(tokenizer, "Sound.")
    assert ids[-1] in stop_ids(tokenizer) and decode_message(tokenizer, ids) == chat.lead + "Sound."
    assert chat.lead == {"opens thoughts": "\n</think>\n\n", "mistral": " "}.get(name, "")
    assert bool(chat.note) == (name == "opens thoughts")


@pytest.mark.parametrize("name", FORMATS)
def test_appending_equals_rendering_in_formats_of_others(name):
    """As ids, too. Where the prompt opens thoughts, these are what the template leaves out of earlier messages."""
    tokenizer = other_tokenizer(name)
    chat = quiet_format(tokenizer)
    messages = [{"role": "user", "content": "Active skills: shift"}]
    ids = prompt_ids(tokenizer, messages)
    for written, answer, to_tool in EXCHANGE:
        ids += written_ids(tokenizer, written) + encode(tokenizer, chat.reply(answer, to_tool))
        own = to_tool and chat.lists_tools
        answer = f"<tool_response>\n{answer}\n</tool_response>" if to_tool and not own else answer
        messages += [{"role": "assistant", "content": written}, {"role": "tool" if own else "user", "content": answer}]
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    appended = tokenizer.decode(ids)
    if name == "opens thoughts":
        assert appended.count("<think>\n") == len(EXCHANGE) + 1
        appended = appended.replace("<think>\n\n</think>\n\n", "")
    else:
        assert ids == tokenizer.encode(rendered, add_special_tokens=False)
    assert appended == rendered


@pytest.mark.parametrize("scheme", ["first", "always"])
def test_a_tokenizer_that_puts_a_blank_before_every_text(scheme):
    """As Llama 2's does: what is appended must be tokenised as if it stood where it stands."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    raw.decoder = decoders.Metaspace(prepend_scheme=scheme)
    special = ["<s>", "</s>", *SPECIAL["llama3"].split()]
    raw.train_from_iterator([string.printable + "ünïcode", "stage: check"] * 2, trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, show_progress=False))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", chat_template=LLAMA3)
    chat = format_of(tokenizer)
    assert chat.blanks
    messages = [{"role": "user", "content": "Active skills: shift"}]
    ids = prompt_ids(tokenizer, messages)
    for written, answer, to_tool in EXCHANGE[:1] + EXCHANGE[3:]:
        ids += written_ids(tokenizer, written) + encode(tokenizer, chat.reply(answer, to_tool))
        messages += [{"role": "assistant", "content": written}, {"role": "user", "content": answer}]
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    right = tokenizer.encode(rendered, add_special_tokens=False)
    assert "".join(tokenizer.convert_ids_to_tokens(ids)) == "".join(tokenizer.convert_ids_to_tokens(right))


@pytest.mark.parametrize("template, said", [
    (None, "no chat template"), ("{{ messages[0].content }}", "each message once"),
    ("{% for m in messages %}{{ m.role + loop.revindex | string + m.content + '</s>' }}{% endfor %}"
     "{% if add_generation_prompt %}assistant{% endif %}", "cannot be appended to"),
    (LLAMA3.replace("m.content | trim", "m.content | upper"), "each message once"),
    (LLAMA3.replace("m.content | trim", "m.content.replace('Four', '4')"), "instead of"),
    ("{{ raise_exception('No chats.') }}", "No chats."), ("{% for m in", "refuses"),
])
def test_a_template_that_cannot_be_appended_to_is_refused(template, said):
    tokenizer = other_tokenizer("llama3")
    tokenizer.chat_template = template
    with pytest.raises(UserError, match=said) as told:
        prompt_ids(tokenizer, START)
    assert len(str(told.value).splitlines()) == 1


def test_stop_tokens_of_the_generation_config_end_a_message_too(tmp_path):
    tokenizer = other_tokenizer("llama3")
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 6]}))
    assert stop_ids(AutoTokenizer.from_pretrained(tmp_path)) == stop_ids(tokenizer) | {5, 6}


@pytest.mark.parametrize("name", FORMATS)
def test_words_from_outside_hold_no_special_token(name):
    tokenizer = other_tokenizer(name)
    chat = quiet_format(tokenizer)
    bad = "x".join(tokenizer.all_special_tokens)
    for ids, plain in ((encode(tokenizer, chat.reply(bad, False)), encode(tokenizer, chat.reply("", False))),
                       (prompt_ids(tokenizer, [{"role": "user", "content": bad}]),
                        prompt_ids(tokenizer, [{"role": "user", "content": ""}]))):
        special = set(tokenizer.all_special_ids)
        assert sum(i in special for i in ids) == sum(i in special for i in plain)


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
    assert {last} == stop_ids(tokenizer) == {tokenizer.eos_token_id} != {tokenizer.pad_token_id}
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
