"""The memory of the KV cache: what rows hold, who loses it, what the system says of it, and CUDA's calls in order."""
import ctypes
import gc
import mmap
import os
import random
import time

import pytest
import torch
from test_generate import STOP, assert_scored_as_sampled, outcome, prompts, replies, start, with_kvcache
from test_model import VOCAB, tiny
from transformers import AutoModelForCausalLM, Qwen3Config

import ap.compat.model_check
import ap.devices.pages
import ap.engine.attention
import ap.engine.cache
import ap.engine.generate
import ap.engine.rows
from ap.devices.gpu import PROMISED
from ap.devices.pages import Mapped, Pages, Resident, pages_for
from ap.engine.generate import Engine
from ap.engine.model import logprobs_of_tokens
from ap.engine.sampling import Sampling

SHAPE = (5, 2, 2, 2, 40, 8)  # rows, layers, keys and values, heads, tokens, D
TOKEN = 2 * 2 * 2 * 8 * 4  # bytes of the tiny model's keys and values of one token
MANY = (3, 9, 1, 6, 9, 2, 12, 5, 5, 7, 1, 30, 4, 4, 8, 2, 3, 11, 6, 1)


@pytest.fixture
def qwen3():
    return tiny("qwen3")


class Emulated:
    """CUDA's calls on this machine: pages are files in memory, and addresses are mapped to them by the system, so that
    two addresses may show one page. It refuses what CUDA refuses, and keeps what was done."""

    granularity = mmap.PAGESIZE
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]

    def __init__(self, limit=10**9):
        self.reserved, self.pages, self.mapped, self.order, self.limit = {}, {}, {}, [], limit

    def _place(self, at, size, protection, flags, file):
        found = self.libc.mmap(at, size, protection, flags | 0x4000, file, 0)  # MAP_NORESERVE
        assert found != ctypes.c_void_p(-1).value, os.strerror(ctypes.get_errno())
        return found

    def reserve(self, size):
        assert size > 0 and size % self.granularity == 0
        at = self._place(None, size, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1)
        self.reserved[at] = size
        return at

    def free(self, at, size):
        assert self.reserved.pop(at) == size and not any(at <= one < at + size for one in self.mapped)
        self.libc.munmap(at, size)

    def create(self, size):
        assert size % self.granularity == 0
        if len(self.pages) >= self.limit:
            raise RuntimeError("cuMemCreate: CUDA_ERROR_OUT_OF_MEMORY")
        file = os.memfd_create("page")
        os.write(file, b"\xff" * size)  # new memory holds NaNs
        self.pages[file] = size
        return file

    def release(self, file):
        assert file in self.pages and file not in self.mapped.values()
        del self.pages[file]
        os.close(file)

    def map(self, at, size, file):
        assert at not in self.mapped and self.pages[file] == size
        inside = [at - start for start, total in self.reserved.items() if start <= at and at + size <= start + total]
        assert len(inside) == 1 and inside[0] % size == 0  # so mapped ranges never overlap
        self._place(at, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | 0x10, file)  # MAP_FIXED
        self.mapped[at] = file
        self.order.append("map")

    def unmap(self, at, size):
        assert self.order[-1] in ("wait", "unmap") or self.order[-2:] == ["unmap", "map"], "work may still use it"
        del self.mapped[at]
        self._place(at, size, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x10, -1)
        self.order.append("unmap")

    def wait(self):
        self.order.append("wait")

    def tensor(self, owner, at, size):
        memory = (ctypes.c_uint8 * size).from_address(at)
        memory.owner = owner
        return torch.frombuffer(memory, dtype=torch.uint8)


def emulate(monkeypatch, tokens=4, limit=10**9):
    """Engines get caches of pages of so many tokens, mapped by an emulated driver, which is returned."""
    driver = Emulated(limit)
    monkeypatch.setattr(ap.devices.pages, "TOKENS", tokens)
    monkeypatch.setattr(ap.devices.pages, "Resident", lambda *sizes: Mapped(*sizes, driver))
    return driver


def sized_pages(monkeypatch, tokens):
    """Caches on this CPU count in pages of so many tokens."""
    class Sized(Resident):
        def __init__(self, shape, dtype, room):
            super().__init__(shape, dtype, room)
            self.page = tokens
            Pages.__init__(self, self.store, tokens, room)

    monkeypatch.setattr(ap.devices.pages, "Resident", Sized)


def run(model, conversations, reply=replies, watch=lambda schedule: None, sampling=None, **options):
    """Run them. watch(schedule) is called in each pass, when rows have their memory and before anything is computed."""
    a_pass = Engine._pass

    def watched(engine, schedule, *rest):
        watch(schedule)
        return a_pass(engine, schedule, *rest)

    settings = {name: options.pop(name) for name in ("workers", "more", "max_turn_tokens") if name in options}
    record = options.pop("record", False)
    engine = Engine(model, sampling or Sampling({STOP, 8}), **dict(max_length=60) | options)
    engine.record = record  # on a CPU: the steps that a CUDA graph would replay
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "_pass", watched)
        return engine.run(conversations, reply, **settings)


def check(schedule):
    """No more is held than there is; who goes on in this pass has memory for all that is written."""
    pages, moving = schedule.cache.pages, 0
    assert sum(pages.held) <= pages.room
    for held, row in zip(pages.held, schedule.rows, strict=True):
        assert held >= (0 if row is None else row.cached) and held % pages.page == 0
        assert row is not None or held == 0
        if row is not None and row.state in ap.engine.rows.GOING and held:
            moving += 1
            assert held >= pages.need(len(row.ids))
        if row is not None and row.state is ap.engine.rows.State.DECODING:
            assert held
    assert moving or schedule.idle


# ---------------------------------------------------------------- who gets memory


def with_room(rows, room, page=1, length=100):
    return Pages(torch.empty(rows, 1, 2, 1, length, 1), page, room)


def test_whole_pages_are_held_by_hand():
    pages = with_room(3, 130, page=8)  # 16 pages, 128 tokens; a row of 100 tokens takes 13 pages
    assert (pages.room, [pages.need(n) for n in (0, 1, 8, 9, 100, 999)]) == (128, [0, 8, 8, 16, 104, 104])
    assert pages.hold(0, 9) and pages.hold(0, 3) and pages.hold(1, 100) and pages.held == [16, 104, 0]
    assert not pages.hold(2, 9) and pages.hold(2, 8) and pages.held == [16, 104, 8]
    pages.release(1)
    assert pages.held == [16, 0, 8] and with_room(3, 50).room == 100  # one conversation always fits


def test_the_longest_rows_lose_their_memory_by_hand():
    """Room for 100: rows of 40, 30 and 20 that go on, and 10 of one that waits. A page is one token."""
    pages = with_room(5, 100)
    for row, tokens in enumerate((40, 30, 20, 10)):
        assert pages.hold(row, tokens)
    assert pages.serve({0: 40, 1: 30, 2: 20}) == [] and pages.held == [40, 30, 20, 10, 0]
    assert pages.serve({0: 41, 1: 30, 2: 20}) == [0]  # the longest is the one that lacks a token
    assert pages.held == [0, 30, 20, 10, 0]
    assert pages.serve({0: 41, 1: 30, 2: 20}) == [0]  # 42 would fit beside 60, but the others grow: 42 + 31 + 21 + 10
    assert pages.serve({0: 37, 1: 30, 2: 20}) == [] and pages.held[0] == 37
    assert pages.serve({2: 24}) == [0] and pages.held == [0, 30, 24, 10, 0]  # 97 were held; who waits loses it, too
    assert pages.serve({1: 95}) == [2, 3]  # the only one that goes on never loses its own
    assert pages.serve({4: 90, 0: 95}) == [1, 0] and pages.held == [0, 0, 0, 0, 90]  # none had any: the shortest begins


def test_a_conversation_is_admitted_if_all_may_grow_by_a_page():
    pages = with_room(4, 100, page=2)
    assert pages.admits({}, 99) and pages.admits({0: 98}, 100)  # the only one; a prompt that leaves no room
    assert pages.hold(0, 30) and pages.hold(1, 10)
    assert pages.admits({0: 30}, 56) and not pages.admits({0: 30}, 57)  # 32 + 10 + 58, and 60
    assert with_room(4, 400).admits({0: 100, 1: 100, 2: 100}, 99)  # there is memory for all


# ---------------------------------------------------------------- conversations in little memory


@pytest.mark.parametrize("kind", ["resident", "mapped"])
@pytest.mark.parametrize("room", [60, 120])  # one conversation of full length, and two
@pytest.mark.parametrize("record, reproducible", [(False, True), (True, True), (False, False)])
def test_little_memory_changes_no_token(qwen3, monkeypatch, kind, room, record, reproducible):
    """The same ids as with plenty, log-probs to 1e-5; rows lose memory on the way, also those that pause."""
    texts = prompts((3, 9, 1, 30, 6)) + prompts((9,)) * (1 if room == 60 else 3)
    plenty = start(texts)
    assert run(qwen3, plenty)["evictions"] == 0
    driver = emulate(monkeypatch) if kind == "mapped" else sized_pages(monkeypatch, 4)
    monkeypatch.setattr(ap.engine.cache, "CPU_BYTES", room * TOKEN)
    found = []
    for _ in range(2 if reproducible else 1):
        conversations = start(texts)
        stats = run(qwen3, conversations, watch=check, record=record, reproducible=reproducible)
        assert outcome(conversations) == outcome(plenty) and stats["evictions"] > 0
        assert stats["decode_tokens"] == sum(sum(c.loss_mask) for c in conversations)
        for one, other in zip(conversations, plenty):
            assert torch.allclose(torch.tensor(one.logprobs), torch.tensor(other.logprobs), atol=1e-5)
        found.append([c.logprobs for c in conversations])
    assert found[0] == found[-1]  # bit for bit
    if driver:
        gc.collect()
        assert not driver.reserved and not driver.pages and not driver.mapped


def test_a_paused_row_that_lost_its_memory_comes_back(qwen3, monkeypatch):
    """Its tool runs until the others have ended, who need the room; then it goes on as if nothing had been."""
    lost = []

    def watch(schedule):
        check(schedule)
        lost.extend(row for row in schedule.rows if row and row.state.name == "PAUSED" and not row.cached)

    def reply(conversation):
        if conversation.seed == "k/11":  # the longest prompt
            time.sleep(0.3)
        return replies(conversation)

    plenty = start(prompts(MANY))
    run(qwen3, plenty)
    sized_pages(monkeypatch, 1)
    monkeypatch.setattr(ap.engine.cache, "CPU_BYTES", 90 * TOKEN)
    conversations = start(prompts(MANY))
    run(qwen3, conversations, reply, watch, reproducible=False)
    assert outcome(conversations) == outcome(plenty) and lost
    assert_scored_as_sampled(qwen3, conversations)


@pytest.mark.parametrize("seed", range(6))
def test_no_more_is_held_than_there_is(qwen3, monkeypatch, seed):
    """Random lengths, pieces of prompts, pauses, endings and late comers, prompts that leave no room among them."""
    rng = random.Random(seed)
    lengths = [rng.choice((1, 1, 2, 5, rng.randint(1, 50), 60, 70)) for _ in range(20)]
    sized_pages(monkeypatch, rng.choice((1, 3, 16)))
    monkeypatch.setitem(ap.engine.generate.PREFILL_TOKENS, "cpu", rng.choice((3, 20, 16384)))
    monkeypatch.setattr(ap.engine.rows, "DELAY", rng.choice((0, 3)))
    texts = prompts(lengths, seed)
    texts[14:18] = [texts[3]] * 4  # a group

    def answer(conversation):
        time.sleep(random.Random(conversation.seed).random() * 0.002)
        return replies(conversation)

    plenty = start(texts)
    run(qwen3, plenty, max_rows=7)
    monkeypatch.setattr(ap.engine.cache, "CPU_BYTES", rng.randint(64, 200) * TOKEN)
    conversations = start(texts)
    late = [conversations[n:n + 3] for n in range(8, 20, 3)]
    stats = run(qwen3, conversations[:8], answer, check, max_rows=rng.choice((3, 7, 40)), reproducible=seed % 2 == 0,
                record=seed == 5, more=lambda: late.pop() if late else [])
    assert outcome(conversations) == outcome(plenty)
    assert stats["decode_tokens"] == sum(sum(c.loss_mask) for c in conversations)
    assert_scored_as_sampled(qwen3, [c for c in conversations if sum(c.loss_mask)])


def test_prompts_of_one_token_share_nothing_and_wait_for_nobody(qwen3, monkeypatch):
    sized_pages(monkeypatch, 1)
    monkeypatch.setattr(ap.engine.cache, "CPU_BYTES", 61 * TOKEN)
    conversations, plenty = start([[9]] * 6), start([[9]] * 6)
    assert run(qwen3, conversations, watch=check)["evictions"] > 0
    monkeypatch.undo()
    run(qwen3, plenty)
    assert outcome(conversations) == outcome(plenty)


# ---------------------------------------------------------------- what the system says


def resident(pages):
    """Bytes that a mapping takes of the machine's memory, by /proc/self/smaps."""
    at, found = torch.frombuffer(pages.map, dtype=torch.uint8).data_ptr(), 0
    with open("/proc/self/smaps") as file:
        inside = False
        for line in file:
            first = line.split()[0]
            if "-" in first and not first.endswith(":"):
                begin, end = (int(part, 16) for part in first.split("-"))
                inside = at <= begin < at + len(pages.map)
            elif inside and first == "Rss:":
                found += int(line.split()[1]) << 10
    return found


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps"), reason="needs Linux")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_memory_taken_is_at_most_1_3_times_what_is_held(monkeypatch, dtype):
    """Heads of 128 numbers, rows of 4,096 tokens: with what was released, exchanged and used again, in every pass."""
    torch.manual_seed(0)
    shape = Qwen3Config(vocab_size=VOCAB, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, head_dim=128,
                        num_key_value_heads=2, intermediate_size=64, max_position_embeddings=4096,
                        attn_implementation="ap")
    model = AutoModelForCausalLM.from_config(shape, dtype=dtype).eval()
    rng, ratios, seen = random.Random(0), [], set()

    def watch(schedule):
        check(schedule)
        tokens = sum(row.cached for row in schedule.rows if row)
        seen.add(tuple(row.conversation.seed for row in schedule.rows if row))
        if tokens > 400 and schedule.passes % 8 == 0:
            ratios.append(resident(schedule.cache.pages) / (tokens * 2 * 2 * 2 * 128 * dtype.itemsize))

    conversations = start(prompts([rng.choice((20, 300, 900)) for _ in range(14)]))
    monkeypatch.setattr(ap.engine.cache, "CPU_BYTES", 4096 * 2 * 2 * 2 * 128 * dtype.itemsize)
    stats = run(model, conversations, lambda c: [9] * 40 if sum(c.loss_mask) < 30 else None, watch, max_length=4096,
                sampling=Sampling(set(range(10))), max_turn_tokens=12)
    assert len(seen) > 14 and stats["decode_tokens"]  # rows changed hands and places
    print(f"taken / held, {dtype}: at most {max(ratios):.3f}, mean {sum(ratios) / len(ratios):.3f}")  # pytest -rP
    assert len(ratios) > 5 and max(ratios) <= 1.3


def test_a_row_that_was_released_reads_as_zeros():
    pages = pages_for(SHAPE, torch.float32, torch.device("cpu"), 10**6)
    assert isinstance(pages, Resident) and pages.store.shape == SHAPE
    pages.store.fill_(1.0)
    for row in (1, 3):
        assert pages.hold(row, 40)
        pages.release(row)
    assert [float(row.sum()) for row in pages.store] == [2560.0, 0, 2560.0, 0, 2560.0]


def test_what_is_exchanged_is_what_was_written():
    """Rows of 300 and 2 tokens change places, and the 298 behind the shorter one are given back."""
    pages = Resident((3, 2, 2, 2, 400, 128), torch.float32, 1200)
    for row, tokens in ((0, 300), (1, 2)):
        assert pages.hold(row, tokens)
        pages.store[row, ..., :tokens, :] = torch.randn(2, 2, 2, tokens, 128)
    before = pages.store.clone()
    pages.swap(0, 1, 300, 2)
    assert pages.held == [8, 304, 0]  # pages of 4,096 / 512 tokens
    assert torch.equal(pages.store[1], before[0])
    assert torch.equal(pages.store[0, ..., :2, :], before[1, ..., :2, :])
    assert pages.store[0, ..., 16:392, :].sum() == 0 and resident(pages) < 1.1 * 312 * 8 * 512
    pages.swap(1, 2, 300, 0)
    assert pages.held == [8, 0, 304] and torch.equal(pages.store[2], before[0]) and pages.store[1].sum() == 0


def test_where_addresses_cannot_be_had_rows_are_fewer(monkeypatch):
    def refuse(*sizes):
        raise OSError("no addresses")

    monkeypatch.setattr(ap.devices.pages, "Resident", refuse)
    with pytest.warns(UserWarning, match="full length .*no addresses"):
        pages = pages_for(SHAPE, torch.float32, torch.device("cpu"), 2 * 40 * TOKEN + 100)
    assert (len(pages.held), pages.page, pages.room) == (2, 40, 80)
    assert pages.hold(0, 3) and pages.hold(1, 40) and pages.held == [40, 40]


def test_rows_where_addresses_cannot_be_had_give_the_same(qwen3, monkeypatch):
    plenty, conversations = start(prompts(MANY)), start(prompts(MANY))
    run(qwen3, plenty)
    monkeypatch.setattr(ap.devices.pages, "Resident", None)
    monkeypatch.setattr(ap.engine.cache, "CPU_BYTES", 130 * TOKEN)
    with pytest.warns(UserWarning, match="full length"):
        stats = run(qwen3, conversations, watch=check)
    assert outcome(conversations) == outcome(plenty) and stats["evictions"] == 0


# ---------------------------------------------------------------- CUDA's virtual memory, emulated


def test_pages_are_mapped_where_rows_hold_memory(monkeypatch):
    """Pages of 4,096 / 256 = 16 tokens, 3 to a row. Held tokens are kept; all other addresses show one page."""
    monkeypatch.setattr(ap.devices.pages, "TOKENS", 4)
    driver = Emulated()
    pages = Mapped(SHAPE, torch.float32, 100, driver)  # 6 pages
    assert (pages.page, pages.room, pages.size, len(driver.mapped), len(driver.pages)) == (16, 96, 4096, 15, 1)
    assert PROMISED[pages] == 6 * 4096
    assert pages.store.sum() == 0  # and not NaN
    assert pages.hold(1, 20) and pages.hold(4, 40) and pages.held == [0, 32, 0, 0, 48]
    assert PROMISED[pages] == 4096 and not pages.hold(0, 17)
    pages.store[1, ..., :32, :], pages.store[4] = 1.0, 4.0
    pages.store[0, ..., 7, :] = 5.0  # what nobody holds is one page for all
    assert (pages.store[2, ..., 7, :] == 5.0).all() and (pages.store[1, ..., 39, :] == 5.0).all()
    assert (pages.store[1, ..., :32, :] == 1.0).all() and (pages.store[4] == 4.0).all()
    pages.swap(1, 4, 20, 40)
    assert pages.held == [0, 48, 0, 0, 32]
    assert (pages.store[1] == 4.0).all() and (pages.store[4, ..., :32, :] == 1.0).all()
    pages.swap(3, 4, 0, 20)
    assert pages.held == [0, 48, 0, 32, 0] and (pages.store[3, ..., :32, :] == 1).all()
    pages.release(1)
    assert pages.hold(0, 48) and pages.store[0].sum() == 0  # used again, and cleared
    assert len(driver.pages) == 6 and len(set(driver.mapped.values())) == 6
    assert all(size == 1 for file, size in ((file, list(driver.mapped.values()).count(file)) for file in driver.pages)
               if file != pages.memory[0])
    kept = pages.store[3]
    del pages
    assert kept.sum() and driver.mapped  # as long as a tensor shows it
    del kept
    assert not driver.reserved and not driver.pages and not driver.mapped


def test_a_kernel_that_writes_padding_behind_what_rows_hold(qwen3, monkeypatch):
    """flash-attn appends keys for a whole piece: those of its shorter spans' padding go to the blank page."""
    expected, conversations = start(prompts((3, 9, 30, 1))), start(prompts((3, 9, 30, 1)))
    run(qwen3, expected)
    emulate(monkeypatch)
    monkeypatch.setattr(ap.engine.attention, "kernel", lambda states: "flash-attn")
    monkeypatch.setattr(ap.engine.attention, "flash_attn_with_kvcache", with_kvcache)
    run(qwen3, conversations, watch=check)
    assert outcome(conversations) == outcome(expected)
    for one, other in zip(conversations, expected):
        assert torch.allclose(torch.tensor(one.logprobs), torch.tensor(other.logprobs), atol=1e-5)


def test_a_loaded_model_is_checked_in_memory_that_its_rows_hold(qwen3, monkeypatch):
    emulate(monkeypatch)
    assert ap.compat.model_check._compare(qwen3, logprobs_of_tokens) == ""
    monkeypatch.setattr(Pages, "hold", lambda self, row, tokens: True)  # all rows in the blank page: another answer
    assert "with our KV cache its logits differ" in ap.compat.model_check._compare(qwen3, logprobs_of_tokens)


def test_memory_that_is_refused_leaves_nothing(monkeypatch):
    driver, fail = Emulated(), Emulated.map
    monkeypatch.setattr(Emulated, "map", lambda self, *rest: fail(self, *rest) if len(self.mapped) < 4 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Mapped(SHAPE, torch.float32, 100, driver)
    assert not driver.reserved and not driver.pages and not driver.mapped
    with pytest.raises(RuntimeError, match="32 bits"):
        Mapped((2, 64, 2, 64, 1 << 12, 128), torch.bfloat16, 100, driver)
    with pytest.warns(UserWarning, match="full length .*Error"):  # there is no driver here
        with pytest.raises((AssertionError, RuntimeError)):  # nor a GPU
            pages_for(SHAPE, torch.float32, torch.device("cuda", 0), 10**6)


class Api:
    """cuda.bindings.driver, as far as it is called: each call is noted, and answers success and a number."""

    def __init__(self):
        self.calls, self.refuse = [], 0

    class CUresult:
        CUDA_SUCCESS = 0

    def __getattr__(self, name):
        def call(*arguments):
            self.calls.append((name, *arguments))
            if name == "cuMemCreate" and self.refuse:
                self.refuse -= 1
                return (type("Error", (int,), {"name": "CUDA_ERROR_OUT_OF_MEMORY"})(2),)
            return (0, 512) if name in ("cuMemAddressReserve", "cuMemCreate") else (0,)
        return call


def test_the_calls_of_the_bindings(monkeypatch):
    """Arguments in the order of CUDA's manual; if memory is refused, PyTorch is asked to give back once."""
    cuda = object.__new__(ap.devices.pages.Cuda)
    cuda.api, cuda.kind, cuda.access, emptied = Api(), "kind", "access", []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(1))
    assert cuda.reserve(4096) == 512 and cuda.create(64) == 512
    cuda.map(512, 64, 7)
    cuda.unmap(512, 64)
    cuda.release(7)
    cuda.free(512, 4096)
    assert cuda.api.calls == [
        ("cuMemAddressReserve", 4096, 0, 0, 0), ("cuMemCreate", 64, "kind", 0), ("cuMemMap", 512, 64, 0, 7, 0),
        ("cuMemSetAccess", 512, 64, ["access"], 1), ("cuMemUnmap", 512, 64), ("cuMemRelease", 7),
        ("cuMemAddressFree", 512, 4096)]
    cuda.api.refuse = 1
    assert cuda.create(64) == 512 and emptied == [1]
    cuda.api.refuse = 2
    with pytest.raises(RuntimeError, match="cuMemCreate: CUDA_ERROR_OUT_OF_MEMORY"):
        cuda.create(64)
