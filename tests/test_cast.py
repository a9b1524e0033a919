"""The cast of a run: read from a file, and playing its roles in a real step."""
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_endpoint import Server

from ap.engine import model as model_module
from ap.engine.model import build_model
from ap.files import UserError
from ap.judge.judge import Judge
from ap.mini.domain import Mini
from ap.players import checkpoint as checkpoint_module
from ap.players.cast import open_cast
from ap.players.checkpoint import Checkpoint, Place
from ap.run import Run
from ap.tools.costs import lines_of
from ap.trajectory import Problem
from ap.world.chat import tool_call
from ap.world.rollout import Start, play_script

SOUND = "a is 24. b is 7 more than a. c is 2 more than b. d is c divided by 3. Find d."


@pytest.fixture
def checkpoint(tiny, tokenizer, tmp_path):
    folder = tmp_path / "checkpoint"
    build_model(tiny, len(tokenizer), seed=5).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def with_roles(config, tmp_path, roles):
    path = tmp_path / "roles.json"
    path.write_text(json.dumps(roles))
    return replace(config, roles=str(path))


def judging(body):
    """A server's reply: it judges and solves as the name of its model says (right-11, wrong, unreadable)."""
    kind, _, answer = body["model"].partition("-")
    if "Think step by step" in body["messages"][0]["content"]:
        return rf"\boxed{{{answer or 0}}}"
    return {"right": json.dumps({"valid": True, "answer": answer, "reason": "valid"}),
            "wrong": '{"valid": false, "answer": null, "reason": "ambiguous"}'}.get(kind, "hm")


def test_models_in_every_role(own_tiny, checkpoint, tmp_path):
    """Two right votes and one that cannot be read: valid, with an abstention; the prober solves it every time."""
    with Server(answer=judging) as server:
        def player(name):
            return {"endpoint": server.url, "model": name}

        config = with_roles(own_tiny, tmp_path, {
            "verifiers": [player("right-11"), player("right-11"), player("unreadable")],
            "auditor": {"checkpoint": checkpoint, "max_tokens": 4},
            "probers": [player("right-11"), player("right-12")]})
        with Run(config) as run:
            script = iter([f"<problem>{SOUND}</problem>", tool_call("submit", answer="11")])
            episode = play_script(run.env, run.tokenizer, Start(("shift", "share"), key="key"), lambda _: next(script))
            Judge(run.committee, run.prober, run.tokenizer, config).judge(episode, set())
            counts = run.cast.counts()
    assert (episode.outcome, episode.valid, episode.reason) == ("submitted", True, "valid")
    assert episode.abstained == ("unreadable verdict",) and episode.pass_rate == 1.0
    assert counts["role/verifier-1/requests"] == counts["role/verifier-2/requests"] == 1  # one model, but two judges
    assert counts["role/prober-1/requests"] == 16
    assert counts["role/auditor/requests"] == counts["role/prober-2/requests"] == 0
    assert len(list((config.folder / "replies").rglob("*.json"))) == 3 + 1 + 16  # the third was asked once more


def test_a_checkpoint_plays_by_its_own_engine(checkpoint, own_tiny):
    player = Checkpoint(checkpoint, Place(own_tiny), max_tokens=6)
    replies = player.sample("a is 3.", 3, "k")
    assert len(replies) == 3 and player.sample("a is 3.", 3, "k") == replies != player.sample("a is 3.", 3, "other")
    assert isinstance(player.ask("a is 3."), str) and player.counts == {"requests": 10}
    assert player.sample("a<|im_end|>b", 2, "k") == player.sample("a< |im_end|>b", 2, "k")  # not its control tokens


def test_two_judges_with_one_checkpoint_are_two(checkpoint, own_tiny, tmp_path):
    """Both once got the same seed key, so they always replied the same. A local judge has no time limit."""
    entry = {"checkpoint": checkpoint, "max_tokens": 6}
    cast = open_cast(
        with_roles(own_tiny, tmp_path, {"verifiers": [entry] * 3, "auditor": entry}), Mini())
    said = [player.ask("a is 3.") for player in cast.players.values()]
    assert len(set(said)) == 4 and said == [player.ask("a is 3.") for player in cast.players.values()]
    assert [judge.seconds for judge in (*cast.verifiers, cast.auditor)] == [None] * 4


def test_players_of_one_place_say_what_they_say_alone(tiny, tokenizer, own_tiny, tmp_path):
    """Three checkpoints, asked by eight threads in any order, reply as each does alone."""
    folders = [str(tmp_path / str(n)) for n in range(3)]
    for n, folder in enumerate(folders):
        build_model(tiny, len(tokenizer), seed=n).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    questions = [(n, f"a is {m}.") for m in range(8) for n in range(3)]
    alone = [Checkpoint(folders[n], Place(own_tiny), 6).sample(text, 2, "k") for n, text in questions]
    place = Place(own_tiny)
    players = [Checkpoint(folder, place, 6) for folder in folders]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda question: players[question[0]].sample(question[1], 2, "k"), questions)) == alone
    assert [player.counts["requests"] for player in players] == [16] * 3


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
def place(own_tiny, monkeypatch):
    """A place with a fake GPU, and the models loaded to it. The sampler checks that its model is there alone."""
    loaded, asked, current = [], [], threading.local()

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

    def sampler(model, tokenizer, max_tokens, temperature):
        def replies(prompt, k, key):
            assert getattr(current, "gpu", 0) == 3  # threads once began with GPU 0, whichever their rank had
            asked.append(f"{model.name} {prompt}")
            assert [one for one in loaded if one.device.type == "cuda"] == [model]
            time.sleep(0.001)
            assert [one for one in loaded if one.device.type == "cuda"] == [model]
            return [f"{model.name} {prompt}"] * k
        return replies

    monkeypatch.setattr(model_module, "load_model", load)
    monkeypatch.setattr(checkpoint_module, "checkpoint_sampler", sampler)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda folder, **_: None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 3)
    monkeypatch.setattr("torch.cuda.device", on_gpu)
    return Place(replace(own_tiny, device="auto")), loaded, asked


def folders(tmp_path, *names):
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    return [str(tmp_path / name) for name in names]


def test_only_one_model_is_on_the_gpu(place, tmp_path):
    """Callers that wait for the model on the GPU go first, first come, first served; so each model is loaded once, and
    moved once to make room for the next."""
    place, loaded, asked = place
    players, served = [Checkpoint(folder, place) for folder in folders(tmp_path, "a", "b", "c")], []
    with ThreadPoolExecutor(9) as pool:
        with place.turn(players[0].folder):
            for n in range(9):
                pool.submit(lambda n=n: served.append(players[n % 3].ask(str(n))))
                while len(place._queue) <= n:
                    time.sleep(0.001)
    assert sorted(served) == ["a 0", "a 3", "a 6", "b 1", "b 4", "b 7", "c 2", "c 5", "c 8"]
    assert asked == ["a 0", "a 3", "a 6", "b 1", "b 4", "b 7", "c 2", "c 5", "c 8"]
    assert [(model.name, model.moves) for model in loaded] == [("a", 1), ("b", 1), ("c", 0)]
    assert [players[n].ask("x") for n in (0, 1, 0, 0)] == ["a x", "b x", "a x", "a x"]
    assert len(loaded) == 3 and [model.device.type for model in loaded] == ["cuda", "cpu", "cpu"]


def test_a_model_that_cannot_be_loaded_does_not_hold_the_place(place, tmp_path):
    good, broken = (Checkpoint(folder, place[0]) for folder in folders(tmp_path, "good", "broken"))
    assert good.ask("1") == "good 1"
    with pytest.raises(UserError, match="cannot be loaded"):
        broken.ask("2")
    assert good.ask("3") == "good 3"


def test_a_price_adds_a_cost_to_the_counters(own_tiny, tmp_path):
    with Server() as server:
        priced = {"endpoint": server.url, "model": "m", "prompt_price": 2, "completion_price": 10}
        cast = open_cast(with_roles(own_tiny, tmp_path, {"teacher": priced, "auditor": {
            "endpoint": server.url, "model": "m"}}), Mini())
        cast.teacher.ask("hello")
    assert cast.counts()["role/teacher/cost"] == pytest.approx(44e-6) and "role/auditor/cost" not in cast.counts()
    assert lines_of("skills", {"hours": 0, "starts": 1, "processes": 1, "players": {"teacher": cast.teacher.counts}})[
        1].endswith("completion_tokens 3, cost 4.4e-05")


def test_a_dead_endpoint_ends_the_run_with_one_sentence(own_tiny, tmp_path):
    with Server(*[401] * 99) as server:
        config = with_roles(own_tiny, tmp_path, {"probers": [{"endpoint": server.url, "model": "m"}]})
        with Run(config) as run, pytest.raises(UserError, match="HTTP 401; check the address"):
            run.prober.pass_rate(Problem("q", "1"), "k")


def test_without_a_file_programs_play(run):
    assert run.cast.players == {} and run.cast.counts() == {}
    assert len(run.committee.verifiers) == 3 and run.prober.pool


@pytest.mark.parametrize("roles, said", [
    ([], "must be an object"),
    ({"judge": {}}, "unknown role 'judge'"),
    ({"verifiers": [{"checkpoint": "x"}]}, "list of three"),
    ({"auditor": "gpt"}, "auditor: a player is"),
    ({"auditor": {"endpoint": "http://x/v1", "checkpoint": "y"}}, "auditor: a player is"),
    ({"auditor": {"endpoint": "http://x/v1"}}, "name of its model"),
    ({"auditor": {"endpoint": "http://x/v1", "model": "m", "url": 1}}, "unknown field 'url'"),
    ({"probers": [{"endpoint": "http://x/v1", "model": "m", "tries": "3"}]}, "prober-1: tries is '3', not a number"),
    ({"teacher": {"endpoint": "http://x/v1", "model": "m", "prompt_price": "1"}}, "prompt_price is '1', not a number"),
    ({"teacher": {"endpoint": "http://x/v1", "model": "m", "prompt_price": 1}}, "one price without the other"),
    ({"teacher": {"checkpoint": "y", "prompt_price": 1}}, "unknown field 'prompt_price'"),
    ({"probers": [{"checkpoint": "nowhere"}]}, "nowhere holds no model"),
    ({"auditor": {"endpoint": "http://x/v1", "model": "m", "key": "NO_SUCH_KEY"}}, "NO_SUCH_KEY is not set"),
])
def test_what_is_wrong_with_the_file(tiny, tmp_path, roles, said):
    with pytest.raises(UserError, match=said):
        open_cast(with_roles(tiny, tmp_path, roles), Mini())
