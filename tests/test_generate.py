"""The engine against transformers' generate, against itself in other batches, and against full forward passes."""
import hashlib
import threading
import time

import pytest
import torch
from test_model import VOCAB, tiny
from transformers import TopKLogitsWarper, TopPLogitsWarper

import ap.devices.graphs
import ap.engine.attention
import ap.engine.cache
import ap.engine.generate
import ap.engine.rows
from ap.engine.cache import Cache, Span
from ap.engine.generate import Engine, sample
from ap.engine.model import token_logprobs
from ap.engine.rows import Conversation
from ap.engine.sampling import Sampling, inverse, stop_strings, uniform_numbers
from ap.files import UserError
from ap.learn.batch import collate
from ap.trajectory import Trajectory

STOP = 7


@pytest.fixture(params=["qwen3", "qwen3_moe", "llama", "qwen2"])
def model(request):
    return tiny(request.param)


@pytest.fixture
def qwen3():
    return tiny("qwen3")


def prompts(lengths=(3, 9, 1, 6, 9), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(8, VOCAB, (length,), generator=generator).tolist() for length in lengths]


def start(prompt_list, key="k"):
    return [Conversation.start(prompt, f"{key}/{i}") for i, prompt in enumerate(prompt_list)]


def no_reply(conversation):
    return None


def replies(conversation):
    """An environment: replies to the first two messages (the longer the conversation, the more tokens), then ends."""
    turns = sum(a > b for a, b in zip(conversation.loss_mask, [0] + conversation.loss_mask))
    return [10 + i for i in range(2 + len(conversation.ids) % 4)] if turns <= 2 else None


def outcome(conversations):
    return [(c.ids, c.loss_mask, c.stopped) for c in conversations]


def run(model, conversations, reply=replies, **options):
    temperature = options.pop("temperature", 1.0)
    settings = dict(max_length=40, max_rows=256) | options
    Engine(model, Sampling({STOP, 8}, temperature), **settings).run(conversations, reply)
    return conversations


def assert_scored_as_sampled(model, conversations, temperature=1.0):
    """The log-probs equal those of one full forward pass over the finished conversation."""
    for c in conversations:
        assert len(c.ids) == len(c.loss_mask) == len(c.logprobs)
        logprobs, _ = token_logprobs(model, torch.tensor([c.ids]), torch.tensor([c.loss_mask]), temperature)
        assert torch.allclose(torch.tensor(c.logprobs), logprobs[0], atol=1e-5)


# ---------------------------------------------------------------- the model, cached and batched


@torch.no_grad()
def test_greedy_tokens_equal_those_of_transformers(model):
    """Prompts of mixed lengths in one batch; transformers gets them one by one, with its own cache and attention."""
    ours = sample(model, prompts(), ["" for _ in prompts()], 15, Sampling({STOP}, temperature=0.0))
    model.set_attn_implementation("sdpa")
    model.eval()
    for prompt, conversation in zip(prompts(), ours, strict=True):
        ids = torch.tensor([prompt])
        theirs = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=15,
                                eos_token_id=STOP, pad_token_id=0)
        assert conversation.ids == theirs[0].tolist()


@torch.no_grad()
def test_greedy_tokens_equal_those_of_transformers_after_tool_turns_and_with_a_shared_prompt(model):
    """Every message of every conversation is what transformers generates from scratch after all that precedes it."""
    [shared] = prompts((9,), seed=3)
    conversations, stops = start(prompts() + [shared] * 3), list(range(0, VOCAB, 3))  # greedy text repeats itself
    Engine(model, Sampling(set(stops), temperature=0.0), max_length=60).run(conversations, replies)
    model.set_attn_implementation("sdpa")
    model.eval()
    messages = 0
    for c in conversations:
        edges = [t for t in range(1, len(c.ids) + 1) if t == len(c.ids) or c.loss_mask[t] != c.loss_mask[t - 1]]
        for begin, end in zip(edges, edges[1:]):
            if c.loss_mask[begin]:
                ids = torch.tensor([c.ids[:begin]])
                theirs = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0,
                                        max_new_tokens=60 - begin, eos_token_id=stops)
                assert c.ids[:end] == theirs[0].tolist()
                messages += 1
    assert messages > len(conversations) and conversations[-1].ids == conversations[-2].ids


def test_log_probs_are_those_of_a_full_forward_pass(model):
    conversations = run(model, start(prompts()))
    assert_scored_as_sampled(model, conversations)
    assert sum(map(sum, (c.loss_mask for c in conversations))) > 30


def test_the_temperature_is_in_the_log_probs(qwen3):
    assert_scored_as_sampled(qwen3, run(qwen3, start(prompts()), temperature=0.6), temperature=0.6)


@torch.no_grad()
def test_sampling_equals_sampling_without_a_cache(model):
    """The naive engine: one conversation, the whole sequence again for each token, the same inversion of F."""
    engine = Engine(model, Sampling({STOP}), max_length=25)
    for conversation in start(prompts()):
        ids, uniforms = list(conversation.ids), uniform_numbers(conversation.seed, 25)
        while len(ids) < 25 and (ids[-1] != STOP):
            probs = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].softmax(-1).tolist()
            total, token = probs[0], 0
            while total <= uniforms[len(ids)]:
                token += 1
                total += probs[token]
            ids.append(token)
        engine.run([conversation], no_reply)
        assert conversation.ids == ids


def test_a_row_does_not_depend_on_the_others(model):
    together = outcome(run(model, start(prompts())))
    alone = [outcome(run(model, [conversation]))[0] for conversation in start(prompts())]
    assert together == alone


def test_more_conversations_than_rows(model):
    many = prompts((3, 9, 1, 6, 9, 2, 12, 5, 5, 7, 1, 30))
    reference = outcome(run(model, start(many)))
    for rows in (1, 2, 5):
        conversations = start(many)
        assert outcome(run(model, conversations, max_rows=rows)) == reference
        assert_scored_as_sampled(model, conversations)


def test_the_same_twice_and_another_key(qwen3):
    first, again = (run(qwen3, start(prompts())) for _ in range(2))
    assert first == again  # log-probs too
    assert outcome(run(qwen3, start(prompts(), key="other"))) != outcome(first)


def test_the_engine_reads_the_weights_that_the_trainer_writes(qwen3):
    """There is one copy of the weights: after an update in place, the same engine samples from the new policy."""
    engine = Engine(qwen3, Sampling({STOP, 8}), max_length=40)
    before, after = start(prompts()), start(prompts())
    engine.run(before, replies)
    with torch.no_grad():
        for weight in qwen3.parameters():
            weight.mul_(1.1)
    engine.run(after, replies)
    assert outcome(before) != outcome(after)
    assert_scored_as_sampled(qwen3, after)


def test_sampling_leaves_the_global_generator_alone(qwen3):
    state = torch.get_rng_state()
    run(qwen3, start(prompts()))
    assert torch.equal(torch.get_rng_state(), state)


# ---------------------------------------------------------------- prefill


def test_a_group_shares_one_prefill(qwen3):
    """Two groups of 4: 8 + 5 prompt tokens go through the model, not four times as many. Members differ by key."""
    first, second = prompts((9, 6))
    conversations = start([first] * 4 + [second] * 4)
    stats = Engine(qwen3, Sampling({STOP}), max_length=30).run(conversations, no_reply)
    assert stats["prefill_tokens"] == 8 + 5  # a token is drawn from the last of a prompt, so it counts there
    assert stats["decode_tokens"] == sum(sum(c.loss_mask) for c in conversations)
    assert len({tuple(c.ids) for c in conversations}) > 4
    assert_scored_as_sampled(qwen3, conversations)


def test_a_late_member_of_a_group_copies_the_prompt_of_a_running_one(qwen3):
    """Two rows, three conversations with one prompt of 9: the third joins later, without a prefill of its 8."""
    prompt, long = prompts((9, 27))
    conversations = start([prompt, long, prompt])
    stats = Engine(qwen3, Sampling(set()), max_rows=2, max_length=30).run(conversations, no_reply)
    assert stats["prefill_tokens"] == 8 + 26  # the long one is cut after 3 tokens, and leaves its row to the third
    assert_scored_as_sampled(qwen3, conversations)
    assert conversations[0].ids[9:] != conversations[2].ids[9:]


def test_long_prompts_go_in_pieces(qwen3, monkeypatch):
    many = prompts((3, 30, 1, 17, 9, 25))
    reference = outcome(run(qwen3, start(many)))
    for tokens, together in ((1, 1024), (7, 1024), (20, 1024), (20, 8), (16384, 6)):
        monkeypatch.setitem(ap.engine.generate.PREFILL_TOKENS, "cpu", tokens)
        monkeypatch.setattr(ap.engine.cache, "TOGETHER", together)
        widths, forward = [], Engine._forward
        monkeypatch.setattr(Engine, "_forward", lambda self, cache, ids, positions: (
            widths.append(positions.numel()), forward(self, cache, ids, positions))[1])
        conversations = run(qwen3, start(many))
        assert outcome(conversations) == reference
        assert max(widths) <= tokens + len(many)  # and one token of each row that decodes
        assert_scored_as_sampled(qwen3, conversations)
        monkeypatch.undo()


def test_a_prompt_that_fits_into_a_pass_is_not_cut(qwen3, monkeypatch):
    """By hand, at most 12 tokens a pass: 12 and 12 of the 30, whose other 6 wait behind the 10 and the 9 and go with the
    5, for the longest are fed first; meanwhile rows that are fed decode."""
    monkeypatch.setitem(ap.engine.generate.PREFILL_TOKENS, "cpu", 12)
    joining, aim = [], Cache.aim
    monkeypatch.setattr(Cache, "aim", lambda cache, starts, spans: (
        joining.append([len(starts), *(tuple(span[1:]) for span in spans)]), aim(cache, starts, spans))[1])
    Engine(qwen3, Sampling(set()), max_length=40).run(start(prompts((9, 5, 30, 10))), no_reply)
    assert joining[:5] == [[0, (0, 12)], [0, (12, 12)], [0, (0, 10)], [1, (0, 9)], [2, (24, 6), (0, 5)]]


# ---------------------------------------------------------------- turns


def test_environment_tokens_are_appended_and_not_trained(qwen3):
    conversations = start(prompts())
    stats = Engine(qwen3, Sampling({STOP, 8}), max_length=60).run(conversations, replies)
    several = 0
    for c, prompt in zip(conversations, prompts()):
        assert c.ids[:len(prompt)] == prompt and not any(c.loss_mask[:len(prompt)])
        for t in range(len(prompt), len(c.ids)):
            if c.loss_mask[t] == 0:
                assert c.logprobs[t] == 0.0
                # a reply starts right after a sampled stop token
                assert c.loss_mask[t - 1] == 0 or c.ids[t - 1] in (STOP, 8)
        several += sum(a < b for a, b in zip(c.loss_mask, c.loss_mask[1:])) > 1
    assert several > 1  # some conversations had several messages
    assert stats["env_tokens"] == sum(c.loss_mask[len(p):].count(0) for c, p in zip(conversations, prompts()))
    assert_scored_as_sampled(qwen3, conversations)


def test_a_conversation_goes_on_as_if_it_had_just_begun(qwen3):
    """After a reply, the engine samples what it would sample from scratch with all these tokens as the prompt."""
    checked = 0
    for whole in run(qwen3, start(prompts()), max_length=60):
        answered = [t for t in range(1, len(whole.ids)) if whole.loss_mask[t] == 0 and 1 in whole.loss_mask[:t]]
        if answered:
            again = Conversation.start(whole.ids[:answered[-1] + 1], whole.seed)
            run(qwen3, [again], no_reply, max_length=60)
            assert again.ids == whole.ids
            checked += 1
    assert checked > 1


def test_the_sampled_stop_token_is_trained_and_a_cut_message_has_none(qwen3):
    conversations = run(qwen3, start(prompts((5,) * 12)), no_reply, max_length=30)
    assert {c.stopped for c in conversations} == {"stop", "length"}
    for c in conversations:
        sampled = c.ids[5:]
        assert c.loss_mask[5:] == [1] * len(sampled) and all(logprob < 0 for logprob in c.logprobs[5:])
        stops = [token for token in sampled if token in (STOP, 8)]
        assert stops == (sampled[-1:] if c.stopped == "stop" else [])
        assert (len(c.ids) == 30) if c.stopped == "length" else (len(c.ids) <= 30)


@pytest.mark.parametrize("reply_tokens, fits", [(3, True), (4, False), (5, False)])
def test_a_reply_that_leaves_no_room_ends_the_conversation(qwen3, reply_tokens, fits):
    """Prompt 5, one sampled token, max_length 10: a reply of 3 leaves room for one token; of 4, for none."""
    [conversation] = start(prompts((5,)))
    answers = iter([[20] * reply_tokens, None])
    Engine(qwen3, Sampling(set(range(VOCAB))), max_length=10).run([conversation], lambda stopped: next(answers))
    assert conversation.loss_mask == [0] * 5 + [1] + ([0] * 3 + [1] if fits else [])
    assert conversation.stopped == ("stop" if fits else "length")


def test_a_prompt_that_leaves_no_room_is_told_and_samples_nothing(qwen3):
    conversations = start(prompts((10, 12, 4)))
    seen = []

    Engine(qwen3, Sampling({STOP}), max_length=10).run(conversations, seen.append)
    assert [sum(c.loss_mask) for c in conversations[:2]] == [0, 0] and sum(conversations[2].loss_mask) > 0
    assert [c.stopped for c in conversations[:2]] == ["length", "length"] and len(seen) == 3


def test_max_turn_tokens_cuts_one_message(qwen3):
    """At most 4 tokens a message; the environment may answer a cut one, and the count starts again."""
    [conversation] = start(prompts((5,)))
    heard = []

    def answer(stopped):
        heard.append((stopped.stopped, len(stopped.ids)))
        return [20, 21] if len(heard) < 3 else None

    Engine(qwen3, Sampling(set()), max_length=40).run([conversation], answer, max_turn_tokens=4)
    assert heard == [("length", 9), ("length", 15), ("length", 21)]
    assert conversation.loss_mask == [0] * 5 + [1] * 4 + [0] * 2 + [1] * 4 + [0] * 2 + [1] * 4
    assert_scored_as_sampled(qwen3, [conversation])


def test_an_empty_reply_goes_on(qwen3):
    [conversation] = start(prompts((5,)))
    answers = iter([[], [], None])
    Engine(qwen3, Sampling(set(range(VOCAB))), max_length=20).run([conversation], lambda stopped: next(answers))
    assert conversation.loss_mask == [0] * 5 + [1] * 3
    assert_scored_as_sampled(qwen3, [conversation])


def test_nothing_to_do(qwen3):
    assert Engine(qwen3, Sampling({STOP})).run([], no_reply)["decode_tokens"] == 0
    assert sample(qwen3, [], [], 5, Sampling({STOP})) == []


def test_the_stream_yields_every_conversation_once_when_it_has_ended(qwen3):
    """With two rows: the first one comes while the last has not begun. Gradients are off inside of the engine only."""
    conversations, came, begun, gradients = start(prompts()), [], [], set()
    sampling = Sampling({STOP}, stops=lambda message: gradients.add(torch.is_grad_enabled()))
    engine = Engine(qwen3, sampling, max_rows=2, max_length=20)
    for ended in engine.stream(conversations, no_reply):
        assert ended.stopped and torch.is_grad_enabled()
        came.append(ended.seed)
        begun.append(sum(conversations[-1].loss_mask) > 0)
    assert sorted(came) == [c.seed for c in conversations] and gradients == {False}
    assert not begun[0] and begun[-1]
    assert engine.stats["decode_tokens"] == sum(sum(c.loss_mask) for c in conversations)


def test_a_stream_that_is_closed_early_leaves_nothing_behind(qwen3):
    """Its threads end, torch's number of threads is as before, and the engine can be used again."""
    before, conversations = set(threading.enumerate()), start(prompts(MANY))
    torch.set_num_threads(2)
    try:
        engine = Engine(qwen3, Sampling({STOP, 8}), max_rows=4, max_length=40)
        stream = engine.stream(conversations, replies)
        assert next(stream) in conversations and torch.get_num_threads() == 1
        stream.close()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    limit = time.monotonic() + 60
    while set(threading.enumerate()) - before and time.monotonic() < limit:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - before
    again = start(prompts())
    assert engine.run(again, replies)["decode_tokens"] == sum(sum(c.loss_mask) for c in again)
    assert outcome(again) == outcome(run(qwen3, start(prompts())))


# ---------------------------------------------------------------- pauses


MANY = (3, 9, 1, 6, 9, 2, 12, 5, 5, 7, 1, 30, 4, 4, 8, 2, 3, 11, 6, 1)


@pytest.mark.parametrize("rows", [4, 256])
def test_the_clock_decides_nothing(qwen3, rows):
    """The same ids and log-probs, bit for bit, however long each reply takes and however many workers there are."""
    def slowly(conversation, salt):
        digest = hashlib.sha256(f"{salt}/{conversation.seed}/{len(conversation.ids)}".encode()).digest()
        time.sleep(digest[0] / 255 * 0.01)
        return replies(conversation)

    runs = []
    for salt, workers in ((None, 1), ("a", 4), ("b", 4), ("c", 2)):
        conversations = start(prompts(MANY))
        reply = replies if salt is None else lambda conversation: slowly(conversation, salt)
        Engine(qwen3, Sampling({STOP, 8}), max_rows=rows, max_length=60).run(conversations, reply, workers=workers)
        runs.append(conversations)
    assert all(again == runs[0] for again in runs)
    assert_scored_as_sampled(qwen3, runs[0])


def test_a_paused_row_keeps_its_cache(qwen3, monkeypatch):
    """Rows change places while they wait, and come back many at a time; each is as if it were alone."""
    alone = [outcome(run(qwen3, [conversation], max_length=60))[0] for conversation in start(prompts(MANY[:12]))]
    for pause, delay, rows in ((1, 0, 7), (1, 9, 256), (1, 4, 2), (3, 9, 256), (8, 4, 2), (8, 0, 7), (1000, 4, 7)):
        monkeypatch.setattr(ap.engine.generate, "LOOK_EVERY", pause)
        monkeypatch.setattr(ap.engine.rows, "DELAY", delay)
        for reproducible in (True, False):
            conversations = start(prompts(MANY[:12]))
            engine = Engine(qwen3, Sampling({STOP, 8}), max_rows=rows, max_length=60, reproducible=reproducible)
            engine.record = pause > 1  # as with CUDA graphs
            engine.run(conversations, replies)
            assert outcome(conversations) == alone
            assert_scored_as_sampled(qwen3, conversations)


def test_who_need_not_be_reproducible_waits_for_no_tool(qwen3):
    """One reply comes only when all other conversations have ended: waiting for it at a fixed step would never end."""
    alone = outcome(run(qwen3, start(prompts(MANY)), max_length=60))
    others, conversations = threading.Semaphore(0), start(prompts(MANY))

    def reply(conversation):
        if conversation is conversations[1] and sum(conversation.loss_mask) == len(conversation.ids) - MANY[1]:
            assert all(others.acquire(timeout=60) for _ in range(len(MANY) - 1))  # its first message
        ids = replies(conversation)
        if ids is None or len(conversation.ids) + len(ids) >= 60:
            others.release()
        return ids

    run(qwen3, conversations, reply, max_length=60, reproducible=False)
    assert outcome(conversations) == alone


def test_the_states_of_a_conversation_are_those_of_the_picture(qwen3, monkeypatch):
    """By hand: a prompt of 5 is prefilled as 2 + 2 tokens, and the fifth belongs to the first decode pass; a message is
    cut after 2 tokens; the cut token and the reply of 3 are prefilled as 2 + 2, and the same pass draws a token."""
    monkeypatch.setitem(ap.engine.generate.PREFILL_TOKENS, "cpu", 2)
    before, after, a_pass = [], [], Engine._pass

    def watched(engine, schedule, *rest):
        before.append([row.state.name for row in schedule.rows if row])
        fed = a_pass(engine, schedule, *rest)
        after.append([row.state.name for row in schedule.rows if row])
        return fed

    monkeypatch.setattr(Engine, "_pass", watched)
    [conversation] = start(prompts((5,)))
    answers = iter([[20, 21, 22], None])
    Engine(qwen3, Sampling(set()), max_length=40).run([conversation], lambda stopped: next(answers), max_turn_tokens=2)
    first, second = (*[["JOINING"]] * 2, *[["DECODING"]] * 2), (*[["JOINING"]] * 2, ["DECODING"])
    assert before == [*first, *second, []]  # in the last pass the row is free
    assert after == [*first[1:], ["PAUSED"], *second[1:], ["PAUSED"], []]


# ---------------------------------------------------------------- faults


@pytest.mark.parametrize("reproducible", [True, False])
def test_tools_that_hang_end_their_own_conversations_only(qwen3, reproducible):
    """Three tools hang, with two workers. All others get their replies, and their tokens are unchanged."""
    expected, hanging, for_ever = start(prompts(MANY)), (0, 3, 7), threading.Event()
    run(qwen3, expected, max_length=60)
    conversations = start(prompts(MANY))

    def reply(conversation):
        if any(conversation is conversations[i] for i in hanging):
            for_ever.wait()
        return replies(conversation)

    engine = Engine(qwen3, Sampling({STOP, 8}), max_length=60, reproducible=reproducible, reply_seconds=0.2)
    engine.run(conversations, reply, workers=2)
    for_ever.set()
    for i, (one, other) in enumerate(zip(conversations, expected)):
        if i in hanging:
            assert one.stopped == "timeout" and one.ids == other.ids[:len(one.ids)]
            assert one.loss_mask[-1] == 1  # the message that got no reply is the last
        else:
            assert outcome([one]) == outcome([other])


def test_a_conversation_that_never_stops_is_cut(qwen3):
    """One gets endless replies and no stop token: it ends with `length`; the others are as they are alone."""
    alone = [outcome(run(qwen3, [conversation]))[0] for conversation in start(prompts())]
    conversations = start(prompts())
    run(qwen3, conversations, lambda c: [20, 21] if c is conversations[0] else replies(c))
    assert outcome(conversations[1:]) == alone[1:]
    assert conversations[0].stopped == "length" and 37 <= len(conversations[0].ids) <= 40


def test_tools_run_while_other_rows_decode(qwen3, monkeypatch):
    """A message is cut after 2 tokens in one row; its tool ends only when the other has gone on to its 4th token."""
    short, long = start(prompts((5, 4)))
    went_on, forward = threading.Event(), Engine._forward

    def watched(*arguments):
        if len(long.ids) >= 4 + 4:
            went_on.set()
        return forward(*arguments)

    def reply(conversation):
        assert conversation is long or went_on.wait(timeout=60)

    monkeypatch.setattr(Engine, "_forward", watched)
    short.append(prompts((11,), seed=1)[0], mask=0)  # 16 tokens; 18 are allowed
    Engine(qwen3, Sampling(set()), max_length=18).run([short, long], reply)
    assert (len(short.ids), len(long.ids)) == (18, 18)


def test_what_joins_together_is_fed_in_one_pass(qwen3, monkeypatch):
    """Messages of 2 tokens, replies of 3: the 6 rows pause in the same step and are prefilled in the same pass, with the
    token that was drawn last; what is whole then is drawn from at once."""
    batches, forward = [], Engine._forward
    monkeypatch.setattr(Engine, "_forward", lambda self, cache, ids, positions: (
        batches.append(tuple(positions.shape)), forward(self, cache, ids, positions))[1])
    stats = Engine(qwen3, Sampling(set()), max_length=14).run(
        start(prompts((5,) * 6)), lambda conversation: [20, 21, 22], max_turn_tokens=2)
    assert batches == [(1, 6 * 5), (1, 6), (1, 6 * 4), (1, 6)]  # a second reply would leave no room
    assert (stats["prefill_tokens"], stats["env_tokens"], stats["decode_tokens"]) == (6 * 7, 6 * 3, 6 * 4)
    assert sum(tokens for _, tokens in batches) == stats["prefill_tokens"] + stats["decode_tokens"]


def test_rows_join_while_others_decode(qwen3, monkeypatch):
    """The short one's first message has 2 tokens; its last one and the reply of 3 join while the long one decodes."""
    passes, forward = [], Engine._forward
    monkeypatch.setattr(Engine, "_forward", lambda self, cache, ids, positions: (
        passes.append([(len(piece.starts), piece.width) for piece in cache.pieces]),
        forward(self, cache, ids, positions))[1])
    short, long = start(prompts((14, 4)))
    sampling = Sampling(set(), stops=lambda message: len(message) == 2 and message == short.ids[14:16])  # its first
    Engine(qwen3, sampling, max_length=30).run(
        [short, long], lambda c: [20, 21, 22] if c is short and len(c.ids) < 20 else None)
    assert passes[:2] == [[(2, 14)], [(2, 1)]] and passes.count([(1, 1), (1, 4)]) == 1
    assert short.loss_mask[14:20] == [1, 1, 0, 0, 0, 1]
    assert_scored_as_sampled(qwen3, [short, long])


def test_a_small_model_decodes_with_one_thread_and_leaves_the_others_as_they_were(qwen3, monkeypatch):
    def threads(limit):
        monkeypatch.setattr("ap.engine.generate.SMALL", limit)
        seen = []
        sampling = Sampling(set(), stops=lambda message: seen.append(torch.get_num_threads()))
        Engine(qwen3, sampling, max_length=8).run(start(prompts((4,))), no_reply)
        return {*seen, torch.get_num_threads()}

    torch.set_num_threads(2)
    try:
        assert threads(10_000_000) == {1, 2} and threads(10) == {2}
    finally:
        torch.set_num_threads(1)


def test_rows_are_read_together_while_their_padding_is_little_and_within_the_cache(qwen3, monkeypatch):
    """By hand, in rows of 14 tokens: 6 + 10 would exceed the cache, and 3 * 5 are more than 12 tokens in one pass."""
    def widths(together, joining):
        monkeypatch.setattr("ap.engine.cache.TOGETHER", together)
        cache = Cache(qwen3, 4, 14)
        positions = cache.aim([7], [Span(*row) for row in joining])
        assert positions.tolist() == [[7, *(start + t for _, start, count in joining for t in range(count))]]
        return [(len(piece.starts), piece.width, piece.seen) for piece in cache.pieces]

    assert widths(1024, [(1, 0, 10), (2, 6, 4)]) == [(1, 1, 8), (1, 10, 10), (1, 4, 10)]
    assert widths(1024, [(1, 0, 5), (2, 6, 4), (3, 2, 3)]) == [(1, 1, 8), (3, 5, 10)]
    assert widths(12, [(1, 0, 5), (2, 6, 4), (3, 2, 3)]) == [(1, 1, 8), (2, 5, 10), (1, 3, 5)]
    # A long span goes in pieces, each of which reads no key behind its last token; not where it begins its row.
    assert widths(4, [(1, 1, 13), (2, 6, 1)]) == [(1, 1, 8), (1, 4, 5), (1, 4, 9), (1, 4, 13), (2, 1, 14)]
    assert widths(4, [(1, 0, 13), (2, 6, 1)]) == [(1, 1, 8), (1, 13, 13), (1, 1, 7)]
    assert widths(4, [(1, 0, 5), (2, 2, 5)]) == [(1, 1, 8), (1, 5, 5), (1, 4, 6), (1, 1, 7)]


def test_only_rows_that_decode_are_computed(qwen3, monkeypatch):
    """One row is cut at once and waits; no step computes a token of it."""
    widths, forward = [], Engine._forward
    monkeypatch.setattr(Engine, "_forward", lambda self, cache, ids, positions: (
        widths.append(positions.numel()), forward(self, cache, ids, positions))[1])
    Engine(qwen3, Sampling(set()), max_length=20).run(start(prompts((19, 4, 4))), no_reply)
    assert widths == [19 + 2 * 4] + [2] * 15


@pytest.mark.parametrize("workers", [1, 4])
def test_an_error_in_a_tool_is_raised(qwen3, workers):
    """The error ends the run, and replies that have not begun by then never do."""
    def broken(conversation):
        raise ZeroDivisionError(conversation.seed)

    before = set(threading.enumerate())
    with pytest.raises(ZeroDivisionError):
        Engine(qwen3, Sampling({STOP, 8}), max_length=60).run(start(prompts(MANY)), broken, workers=workers)
    limit = time.monotonic() + 60  # the engine does not wait for the threads, but they end
    while set(threading.enumerate()) - before and time.monotonic() < limit:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - before


def test_memory_is_shared_by_as_many_rows_as_are_wanted(qwen3, monkeypatch):
    """A row of 40 tokens: 40 * 2 layers * 2 (keys, values) * 2 heads * 8 numbers * 4 bytes. Room for two and a half; a
    page of 128 tokens of a head is longer than a row."""
    reference = outcome(run(qwen3, start(prompts(MANY))))
    row = 40 * 2 * 2 * 2 * 8 * 4
    monkeypatch.setattr(ap.engine.cache, "CPU_BYTES", row * 5 // 2)
    cache = Cache(qwen3, 256, 40)
    assert (cache.rows, cache.pages.room, cache.pages.page) == (256, 2 * 40, 40)
    assert outcome(run(qwen3, start(prompts(MANY)))) == reference
    monkeypatch.setattr(ap.engine.cache, "CPU_BYTES", row - 1)
    with pytest.raises(UserError, match="a conversation of 40 tokens needs"):
        run(qwen3, start(prompts()))


# ---------------------------------------------------------------- what a GPU does


@pytest.mark.parametrize("rows", [5, 7, 256])
def test_steps_on_fixed_tensors_give_the_same_tokens(model, monkeypatch, rows):
    """The steps that a CUDA graph would replay: rounded numbers of rows and keys, paused and free rows among them."""
    monkeypatch.setattr(ap.devices.graphs, "ROWS", 4)
    monkeypatch.setattr(ap.devices.graphs, "KEYS", 8)
    expected = outcome(run(model, start(prompts(MANY)), max_length=60))
    conversations = start(prompts(MANY))
    engine = Engine(model, Sampling({STOP, 8}), max_rows=rows, max_length=60)
    assert not engine.record  # not on a CPU
    engine.record = True
    engine.run(conversations, replies)
    assert outcome(conversations) == expected
    assert_scored_as_sampled(model, conversations)


def test_a_recorded_step_is_used_again(qwen3, monkeypatch):
    """One recording serves 12 and 16 rows alike, and up to 512 keys. Its tensors stay where they are."""
    recorded, record = [], ap.devices.graphs.DecodeGraphs._record
    monkeypatch.setattr(ap.devices.graphs.DecodeGraphs, "_record", lambda self, step, *key: (
        recorded.append((key, step.ids.data_ptr())), record(self, step, *key))[1])
    engine = Engine(qwen3, Sampling({STOP, 8}), max_length=60)
    engine.record = True
    engine.run(start(prompts(MANY)), replies)
    assert [key for key, _ in recorded] == [(16, 60), (20, 60)]  # 20 rows, and the cache ends at 60


def with_kvcache(q, k_cache, v_cache, k, v, cache_seqlens, cache_batch_idx, softmax_scale, causal):
    """What flash_attn_with_kvcache is said to do, one query at a time: append k and v in place, attend causally."""
    assert causal and cache_seqlens.dtype == cache_batch_idx.dtype == torch.int32
    assert q.shape[1] > 1 or k_cache.shape[1] == cache_seqlens.max() + 1  # no more than is seen
    out = torch.empty_like(q)  # (B, T, heads, D)
    for b, (row, length) in enumerate(zip(cache_batch_idx.tolist(), cache_seqlens.tolist())):
        k_cache[row, length:length + q.shape[1]], v_cache[row, length:length + q.shape[1]] = k[b], v[b]
        for t in range(q.shape[1]):
            for head in range(q.shape[2]):
                shared = head // (q.shape[2] // k.shape[2])
                keys, values = (cache[row, :length + t + 1, shared] for cache in (k_cache, v_cache))
                out[b, t, head] = (keys @ q[b, t, head] * softmax_scale).softmax(0) @ values
    return out


def test_flash_attention_is_given_the_cache_in_place(model, monkeypatch):
    expected, calls = outcome(run(model, start(prompts()))), []
    monkeypatch.setattr(ap.engine.attention, "kernel", lambda states: "flash-attn")
    monkeypatch.setattr(ap.engine.attention, "flash_attn_with_kvcache", lambda *arguments, **options: (
        calls.append(options["cache_seqlens"]), with_kvcache(*arguments, **options))[1])
    assert outcome(run(model, start(prompts()))) == expected
    assert outcome(run(model, start(prompts()), max_rows=2)) == expected
    monkeypatch.setattr(ap.engine.cache, "TOGETHER", 4)
    assert outcome(run(model, start(prompts()))) == expected
    # Attention was computed by them, and where rows begin was converted once for all layers.
    assert len(calls) == len({id(starts) for starts in calls}) * model.config.num_hidden_layers > 0


# ---------------------------------------------------------------- drawing


def test_inversion_of_the_distribution_function():
    """p = (0.5, 0, 0.3, 0.2), F = (0.5, 0.5, 0.8, 1): the first token with u < F. Probability 0 is never drawn."""
    logprobs = torch.tensor([0.5, 0.0, 0.3, 0.2]).log()
    for u, token in ((0.0, 0), (0.499, 0), (0.501, 2), (0.799, 2), (0.801, 3), (1 - 2**-53, 3)):
        assert inverse(logprobs[None], [u]).tolist() == [token]
    assert inverse(torch.tensor([[0.0, 1.0]]).log(), [0.0]).tolist() == [1]  # F = (0, 1): u = 0 is not below F(0)


def test_frequencies_are_the_probabilities():
    """Logits are the logs of (0.5, 0.25, 0.15, 0.1, 0, ...), whatever comes before; chi-squared on 8000 draws."""
    probs = [0.5, 0.25, 0.15, 0.1]
    model = tiny("llama")
    model.lm_head = torch.nn.Linear(32, VOCAB)
    torch.nn.init.zeros_(model.lm_head.weight)
    model.lm_head.bias.data = torch.tensor(probs + [1e-30] * (VOCAB - 4)).log()
    conversations = sample(model, [[9]] * 400, [f"draw/{i}" for i in range(400)], 20, Sampling(set()))
    counts = torch.bincount(torch.tensor([c.ids[1:] for c in conversations]).flatten(), minlength=VOCAB)
    expected = torch.tensor(probs) * 8000
    assert counts[4:].sum() == 0
    chi_squared = ((counts[:4] - expected) ** 2 / expected).sum()
    assert chi_squared < 16.27  # 3 degrees of freedom, p = 0.001
    first = torch.bincount(torch.tensor([c.ids[1] for c in conversations]), minlength=4)  # over keys, not along a row
    expected = torch.tensor(probs) * 400
    assert ((first - expected) ** 2 / expected).sum() < 16.27


# ---------------------------------------------------------------- evaluation only


@pytest.mark.parametrize("top_p, top_k", [(0.8, 0), (1.0, 5), (0.6, 4), (0.01, 0), (0.999, 49)])
def test_the_tail_is_cut_as_by_transformers(top_p, top_k):
    """TopKLogitsWarper, then TopPLogitsWarper, at the same logits; ties aside, which random weights do not have."""
    logits = torch.randn(6, VOCAB, generator=torch.Generator().manual_seed(0)) * 2
    theirs = logits
    if top_k:
        theirs = TopKLogitsWarper(top_k)(None, theirs)
    theirs = TopPLogitsWarper(top_p)(None, theirs) if top_p < 1 else theirs
    ours = Sampling({STOP}, top_p=top_p, top_k=top_k).distribution(logits.clone())
    assert torch.allclose(ours.exp(), theirs.softmax(-1), atol=1e-6)


def test_by_hand_what_top_p_and_top_k_leave():
    """p = (0.5, 0.1, 0.3, 0.1): 0.7 needs the tokens 0 and 2, so 5/8 and 3/8; two at most: the same; 0.5 needs one."""
    logits = torch.tensor([[0.5, 0.1, 0.3, 0.1]]).log()
    for settings, expected in (
        (dict(top_p=0.7), [5 / 8, 0, 3 / 8, 0]), (dict(top_k=2), [5 / 8, 0, 3 / 8, 0]), (dict(top_p=0.5), [1, 0, 0, 0]),
        (dict(top_p=1.0, top_k=0), [0.5, 0.1, 0.3, 0.1]),
    ):
        found = Sampling({STOP}, **settings).distribution(logits.clone()).exp()
        assert torch.allclose(found, torch.tensor([expected], dtype=torch.float32), atol=1e-6)


def test_nothing_can_be_trained_on_a_cut_distribution(qwen3):
    seeds = [f"e/{i}" for i in range(5)]
    conversations = sample(qwen3, prompts(), seeds, 10, Sampling({STOP}, top_p=0.5))
    assert all(c.logprobs == [] and sum(c.loss_mask) for c in conversations)
    trajectory = Trajectory(conversations[0].ids, conversations[0].loss_mask, conversations[0].logprobs,
                            [m - 1 for m in conversations[0].loss_mask], [], ())
    other = Trajectory([1, 2], [0, 1], [0.0, -1.0], [-1, 0], [], ())
    with pytest.raises(ValueError):
        collate([trajectory, other], 0)
    for sampling in (Sampling({STOP}, top_p=0.5), Sampling({STOP}, top_k=3)):  # however an engine gets it: no log-probs
        conversations = start(prompts())
        Engine(qwen3, sampling, max_length=20).run(conversations, replies)
        assert all(c.logprobs == [] and sum(c.loss_mask) for c in conversations)


def test_top_k_of_one_is_greedy(qwen3):
    greedy, top_1 = (sample(qwen3, prompts(), [""] * 5, 12, sampling)
                     for sampling in (Sampling({STOP}, temperature=0.0), Sampling({STOP}, top_k=1)))
    assert [c.ids for c in top_1] == [c.ids for c in greedy]


def test_stop_strings_end_a_message(qwen3, tokenizer):
    """On the text, across tokens; the message ends with the token that completes the string."""
    stops = stop_strings(tokenizer, ["Find", "</problem>"])
    for text in ("a is 24. Find", "<problem>a is 3. Find", "x</problem>"):
        ids = tokenizer.encode(text)
        assert [stops(ids[:n]) for n in range(1, len(ids) + 1)] == [False] * (len(ids) - 1) + [True], text
    never = tokenizer.encode("a is 24. b is 7 more than a.")
    assert not any(stops(never[:n]) for n in range(1, len(never) + 1))
    [conversation] = start(prompts((5,)))
    sampling = Sampling(set(), stops=lambda message: len(message) == 3)
    Engine(qwen3, sampling, max_length=40).run([conversation], no_reply)
    assert (len(conversation.ids), conversation.stopped) == (8, "stop")
