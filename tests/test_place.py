"""The place of local checkpoints: many threads, one engine for each checkpoint, one model on the device."""
import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ap.engine import model as model_module
from ap.engine.generate import Engine, sample
from ap.engine.model import build_model
from ap.engine.rows import Conversation
from ap.engine.sampling import Sampling, stop_strings
from ap.files import UserError, read_json
from ap.players import place as place_module
from ap.players.checkpoint import Checkpoint
from ap.players.kept import Kept, seed_of
from ap.players.place import Place, Question, SharedEngine
from ap.world.chat import decode_reply, prompt_ids, stop_ids


@pytest.fixture
def folders(tiny, tokenizer, tmp_path):
    folders = [str(tmp_path / f"model-{n}") for n in range(3)]
    for n, folder in enumerate(folders):
        build_model(tiny, len(tokenizer), seed=n).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folders


def test_players_of_one_place_say_what_they_say_alone(folders, own_tiny):
    """Three checkpoints, asked by 32 threads in any order, at two temperatures, reply as each does alone; and alone
    they reply what one `sample` call gives for the same seeds."""
    questions = [(n, f"a is {m}.", m % 2) for m in range(12) for n in range(3)]

    def player(n, place, cold):
        return Checkpoint(folders[n], place, 8 - cold, 0.7 if cold else 1.0)

    one_by_one = [Place(own_tiny) for _ in folders]
    alone = [player(n, one_by_one[n], cold).sample(text, 2, "k") for n, text, cold in questions]
    place = Place(own_tiny)
    players = {(n, cold): player(n, place, cold) for n in range(3) for cold in (0, 1)}
    with ThreadPoolExecutor(32) as pool:
        together = list(pool.map(lambda asked: players[asked[0], asked[2]].sample(asked[1], 2, "k"), questions))
    assert [asked for asked, one, other in zip(questions, together, alone) if one != other] == []
    assert len({reply for pair in alone for reply in pair}) > 40
    assert {player.counts["requests"] for player in players.values()} == {12}

    with place.tokenizer(players[0, 0].folder) as tokenizer:
        ids = prompt_ids(tokenizer, [{"role": "user", "content": "a is 0."}])
        seeds = [str(seed_of(f"k/{n}")) for n in range(2)]
        conversations = sample(build_model(own_tiny, len(tokenizer), seed=0), [ids] * 2, seeds, 8,
                               Sampling(stop_ids(tokenizer)))
        assert alone[0] == [decode_reply(tokenizer, c.ids, len(ids)) for c in conversations]


def test_conversations_join_while_others_decode(model):
    """The second one comes in the fifth pass of the first; both go as they do alone, and limits are their own."""
    passes, later = [], [Conversation.start([7, 8, 9], "b")]
    later[0].most = 4

    def more():
        passes.append(len(first.ids))
        return [later.pop()] if len(passes) == 5 else []

    first = Conversation.start([5, 6], "a")
    first.most = 12
    ended = list(Engine(model, Sampling({-1}), max_rows=4, max_length=40, reproducible=False).stream(
        [first], lambda _: None, more=more))
    assert [len(c.ids) for c in ended] == [3 + 4, 2 + 12] and ended[1] is first
    alone = [sample(model, [prompt], [seed], most, Sampling({-1}))[0].ids
             for prompt, seed, most in (([7, 8, 9], "b", 4), ([5, 6], "a", 12))]
    assert [c.ids for c in ended] == alone


def test_equal_prompts_are_read_once(model, own_tiny):
    """Eight equal prompts of 41 tokens feed 40 tokens once, also when they come one after the other."""
    prompt = list(range(10, 51))
    questions = [Question.of(prompt, str(n), Sampling(frozenset({-1})), 5) for n in range(8)]
    coming = [questions[1:3], [], questions[3:]]
    engine = SharedEngine(model, Sampling({-1}), 16, 64, reproducible=False)
    engine.run(questions[:1], lambda _: None, more=lambda: coming.pop(0) if coming else [])
    assert engine.stats["prefill_tokens"] == 40 and engine.stats["decode_tokens"] == 8 * 5


def test_a_string_ends_one_conversation_only(model, tokenizer):
    """The same seed with a string that it says ends there, by a token that ends messages; without it, it goes on."""
    plain = Sampling(stop_ids(tokenizer))
    free = Question.of([5, 6], "a", plain, 12)
    SharedEngine(model, plain, 4, 64).run([free], lambda _: None)
    said = tokenizer.decode(free.ids[2:6])
    cut = Question.of([5, 6], "a", replace(plain, stops=stop_strings(tokenizer, [said])), 12)
    both = [Question.of([5, 6], "a", plain, 12), cut]
    SharedEngine(model, plain, 4, 64).run(both, lambda _: None)
    assert both[0].ids == free.ids and cut.ids[:6] == free.ids[:6]
    assert len(cut.ids) == 7 and cut.ids[6] in plain.stop_ids and cut.stopped == "stop"


# ---------------------------------------------------------------- what is kept


def test_what_was_said_is_not_asked_again(folders, own_tiny, tmp_path):
    """A second process with the same files asks nothing; another key, setting, or a newer checkpoint is asked."""
    cache = tmp_path / "replies"

    def player(**options):
        return Checkpoint(folders[0], Place(own_tiny), **{"max_tokens": 6, "cache": cache} | options)

    first = player(name="judge")
    said = first.sample("a is 3.", 4, "k"), first.ask("a is 3.")
    files = list(cache.rglob("*.json"))
    assert len(files) == 5 and first.counts["requests"] == 5
    record = read_json(files[0])
    assert set(record) == {"request", "reply", "usage"} and record["request"]["model"] == "model-0"
    assert record["request"]["messages"][0]["content"] == "a is 3." and record["reply"] in (*said[0], said[1])

    again = player(name="judge")
    assert (again.sample("a is 3.", 4, "k"), again.ask("a is 3.")) == said
    assert again.counts == {"requests": 0, "cached": 5, "prompt_tokens": 0, "completion_tokens": 0}
    records = again.kept_samples("a is 3.", 5, "k")  # the fifth was never asked for
    assert [record["reply"] for record in records] == said[0] and again.counts["requests"] == 0
    assert all(0 < record["usage"]["completion_tokens"] <= record["request"]["max_tokens"] == 6 for record in records)
    assert again.place._models == {}  # it was not even loaded
    assert again.sample("a is 3.", 6, "k")[:4] == said[0] and again.counts["requests"] == 2  # the two that are new
    for options in ({"name": "other"}, {"name": "judge", "max_tokens": 5}, {"name": "judge", "temperature": 0.5}):
        other = player(**options)
        other.ask("a is 3.")
        assert other.counts["requests"] == 1
    weights = Path(folders[0]) / "model.safetensors"
    weights.write_bytes(weights.read_bytes())
    newer = player(name="judge")
    assert newer.ask("a is 3.") == said[1] and newer.counts["requests"] == 1


def test_a_run_that_was_killed_keeps_what_had_ended(folders, own_tiny, tmp_path, monkeypatch):
    """The process dies when three of eight replies are there: these are kept, and five are asked for again."""
    whole = Checkpoint(folders[0], Place(own_tiny), 6).sample("a is 3.", 8, "k")
    put = Kept.put

    def dies(self, *reply):
        put(self, *reply)
        if len(list(tmp_path.rglob("replies/*/*.json"))) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Kept, "put", dies)
        Checkpoint(folders[0], Place(own_tiny), 6, cache=tmp_path / "replies").sample("a is 3.", 8, "k")
    again = Checkpoint(folders[0], Place(own_tiny), 6, cache=tmp_path / "replies")
    assert again.sample("a is 3.", 8, "k") == whole
    assert (again.counts["cached"], again.counts["requests"]) == (3, 5)


def test_two_callers_with_one_question_ask_once(folders, own_tiny, tmp_path):
    player = Checkpoint(folders[0], Place(own_tiny), 6, name="j", cache=tmp_path / "replies")
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda n: tuple(player.sample("a is 3.", 2 + n % 2, "k")[:2]), range(8)))) == 1
    assert (player.counts["requests"], player.counts["cached"]) == (3, 17)


# ---------------------------------------------------------------- what goes wrong


def test_an_error_in_the_engine_reaches_who_waits(folders, own_tiny, monkeypatch):
    """All eight callers get it, nobody hangs, and the next question finds a place that works."""
    place = Place(own_tiny)
    player = Checkpoint(folders[0], place, 6)
    with monkeypatch.context() as patch, ThreadPoolExecutor(8) as pool:
        def fails(*_):
            raise RuntimeError("out of memory")

        patch.setattr(SharedEngine, "_forward", fails)
        jobs = [pool.submit(player.sample, f"a is {n}.", 2, "k") for n in range(8)]
        for job in jobs:
            with pytest.raises(RuntimeError, match="out of memory"):
                job.result(timeout=30)
    assert len(player.sample("a is 3.", 2, "k")) == 2


def test_a_question_that_no_memory_holds_is_refused_alone(folders, own_tiny, monkeypatch):
    place = Place(own_tiny)
    player = Checkpoint(folders[0], place, 6)
    short = player.sample("a is 3.", 2, "k")
    row = 2 * own_tiny.layers * own_tiny.heads // 2 * own_tiny.hidden_size // own_tiny.heads * 4 * 1024
    monkeypatch.setattr("ap.engine.cache.CPU_BYTES", 2 * row)
    with ThreadPoolExecutor(2) as pool:
        long = pool.submit(Checkpoint(folders[0], place, 4000).ask, "a is 4.")
        assert player.sample("a is 3.", 2, "k") == short
        with pytest.raises(UserError, match="allow fewer tokens"):
            long.result(timeout=30)


def test_32_threads_and_two_checkpoints_end(folders, own_tiny, monkeypatch):
    """Every thread asks both in turn, with AHEAD so small that models change all the time."""
    monkeypatch.setattr(place_module, "AHEAD", 3)
    place, changes = Place(own_tiny), []
    model_of = place._model
    monkeypatch.setattr(place, "_model", lambda folder: changes.append(folder) or model_of(folder))
    players = [Checkpoint(folder, place, 3) for folder in folders[:2]]
    alone = {n: Checkpoint(folders[n], Place(own_tiny), 3).sample("a is 3.", 1, "k") for n in (0, 1)}
    with ThreadPoolExecutor(32) as pool:
        for said in pool.map(lambda n: [players[(n + m) % 2].sample("a is 3.", 1, "k") for m in range(4)], range(32)):
            assert sorted(said) == sorted([alone[0], alone[1]] * 2)
    assert len(set(changes)) == 2
    deadline = time.monotonic() + 10
    while place._working and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not [thread for thread in threading.enumerate() if thread.name == "local checkpoints"]  # it has ended


def test_the_process_ends_while_a_checkpoint_answers(folders):
    """Python would find the thread inside of torch, and abort with a core dump: the exit code was not 0."""
    program = (
        "import sys, time; from ap.config import Config; from ap.players.place import Place, Question; "
        "from ap.engine.sampling import Sampling; place = Place(Config(device='cpu')); "
        "place.ask(sys.argv[1], [Question.of([5, 6], str(n), Sampling(frozenset({-1})), 30_000) for n in range(8)])\n"
        "while not place._models: time.sleep(0.01)\n"
        "time.sleep(0.3)")
    done = subprocess.run([sys.executable, "-c", program, folders[0]], capture_output=True, text=True, timeout=120,
                          cwd=Path(__file__).parent.parent)
    assert (done.returncode, done.stderr) == (0, "")


# ---------------------------------------------------------------- one model on the device


class FakeModel:
    """A model that knows its device, and how often it was moved."""

    def __init__(self, folder):
        self.name, self.device, self.moves = Path(folder).name, torch.device("cuda"), 0

    def requires_grad_(self, _):
        return self

    def to(self, device):
        self.device, self.moves = torch.device(device), self.moves + 1
        return self


@pytest.fixture
def faked(own_tiny, monkeypatch):
    """A place with a fake GPU; the models loaded to it; what they were asked, in order; and an event that lets the
    engines go on. Each engine checks that its model is there alone."""
    loaded, asked, current, go = [], [], threading.local(), threading.Event()

    @contextmanager
    def on_gpu(number):
        current.gpu = number
        yield
        del current.gpu

    def load(folder, config):
        assert all(model.device.type == "cpu" for model in loaded)  # the other model has left before this one comes
        if Path(folder).name == "broken":
            raise UserError("cannot be loaded")
        loaded.append(FakeModel(folder))
        return loaded[-1]

    class FakeEngine:
        def __init__(self, model, *_, **__):
            self.model, self.stats = model, {"decode_tokens": 0, "forward_seconds": 0.0}

        def stream(self, questions, reply, workers, more):
            assert getattr(current, "gpu", 0) == 3  # threads once began with GPU 0, whichever their rank had
            waiting = list(questions)
            while waiting:
                assert go.wait(30)
                assert [one for one in loaded if one.device.type == "cuda"] == [self.model]
                waiting += more()
                asked.append(f"{self.model.name} {waiting[0].seed}")
                yield waiting.pop(0)

    monkeypatch.setattr(model_module, "load_model", load)
    monkeypatch.setattr(place_module, "SharedEngine", FakeEngine)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 3)
    monkeypatch.setattr("torch.cuda.device", on_gpu)
    return Place(replace(own_tiny, device="auto")), loaded, asked, go


def ask(place, asked):
    """Questions "a 0" and so on, as (checkpoint, question)."""
    questions = [(text[0], Question.of([1], text[2:], Sampling(frozenset()), 4)) for text in asked]
    for folder, question in questions:
        place.ask(folder, [question])
    return questions


def test_a_model_stays_until_its_queue_runs_dry(faked):
    """Questions to the model that is there join, first come, first served; so each model is loaded once, and moved
    once to make room for the next."""
    place, loaded, asked, go = faked
    questions = ask(place, [f"{'abc'[n % 3]} {n}" for n in range(9)])
    go.set()
    assert [q.ended.result(30) is q for _, q in questions] == [True] * 9
    assert asked == ["a 0", "a 3", "a 6", "b 1", "b 4", "b 7", "c 2", "c 5", "c 8"]
    assert [(model.name, model.moves) for model in loaded] == [("a", 1), ("b", 1), ("c", 0)]
    for folder in "aba":
        [(_, question)] = ask(place, [f"{folder} x"])
        question.ended.result(30)
    assert len(loaded) == 3 and [model.device.type for model in loaded] == ["cuda", "cpu", "cpu"]


def test_nobody_waits_for_ever(faked, monkeypatch):
    """With AHEAD 4, questions 2 and 3 to a overtake question 1 to b, number 5 and later ones to a do not."""
    monkeypatch.setattr(place_module, "AHEAD", 4)
    place, _, asked, go = faked
    questions = ask(place, ["a 0", "b 1", "a 2", "a 3", "b 4", "a 5", "a 6", "b 7"])
    go.set()
    for _, question in questions:
        question.ended.result(30)
    assert asked == ["a 0", "a 2", "a 3", "b 1", "b 4", "b 7", "a 5", "a 6"]


def test_a_model_that_cannot_be_loaded_does_not_hold_the_place(faked):
    place, _, _, go = faked
    go.set()
    [(_, good)] = ask(place, ["a 1"])
    assert good.ended.result(30) is good
    broken = Question.of([1], "s", Sampling(frozenset()), 4)
    place.ask("broken", [broken])
    with pytest.raises(UserError, match="cannot be loaded"):
        broken.ended.result(30)
    [(_, good)] = ask(place, ["a 3"])
    assert good.ended.result(30) is good


def test_the_seed_of_a_key_is_stable():
    """A server and a local checkpoint must take the same one; SHA-256 of "k" begins with 8254c329."""
    assert seed_of("k") == 0x8254c329 >> 1
    assert json.loads(json.dumps(seed_of("x"))) < 2**31
