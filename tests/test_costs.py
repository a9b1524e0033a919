"""What a run cost: counted by stage, added up over restarts and processes, also after a kill."""
import dataclasses
import multiprocessing
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from conftest import policy_of

from ap.config import Config
from ap.engine.model import build_model
from ap.files import UserError, read_json, write_json
from ap.learn.ranks import Ranks
from ap.tools import costs
from ap.tools.commandline import load_config, save_config
from ap.tools.costs import add, during, lines_of, read_costs, sentence, stage, totals
from ap.tools.report import collect
from ap.trajectory import Trajectory


class Player:
    def __init__(self, **counts):
        self.counts = counts


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves on."""
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(costs.time, "monotonic", lambda: now.seconds)
    return now


def test_a_stage_by_hand(tmp_path, clock, capsys):
    """1800 s are 0.5 hours. What was counted before the stage began is not its cost. A second start is added."""
    config, judge = Config(out=str(tmp_path)), Player(requests=7, completion_tokens=70, cost=0.5)
    idle = Player(requests=3)
    with stage("expert episodes", config, Ranks(), {"judge": judge, "idle": idle}):
        judge.counts = {"requests": 9, "completion_tokens": 100, "cost": 0.75, "estimated": 1}
        clock.seconds += 1800
    first = {"hours": 0.5, "starts": 1, "players": {"judge": {
        "requests": 2, "completion_tokens": 30, "cost": 0.25, "estimated": 1}}}
    assert read_json(config.folder / "costs.json") == {"expert episodes": first}
    assert capsys.readouterr().out == ("cost of expert episodes: 0.500 hours of 1 process\n"
                                       "judge: requests 2, completion_tokens 30, cost 0.25, estimated 1\n")
    with stage("SFT", config, Ranks(), {}):
        pass
    with stage("expert episodes", config, Ranks(), {"judge": Player(requests=0)}):
        clock.seconds += 360
    found = read_costs(config.folder)
    assert list(found) == ["expert episodes", "SFT"] and found["SFT"]["players"] == {}
    assert found["expert episodes"] == first | {"hours": pytest.approx(0.6), "starts": 2, "processes": 1}


def test_config_json_says_what_the_run_cost(tmp_path, clock):
    """The settings beside it stay as they are, can be read, and may be saved again without losing it."""
    config = Config(out=str(tmp_path), seed=3)
    save_config(config)
    with stage("SFT", config, Ranks(), {"policy": (policy := Player(trained_tokens=0))}):
        policy.counts["trained_tokens"] = 50
        clock.seconds += 3600
    save_config(config)
    record = read_json(config.folder / "config.json")
    assert record.pop("costs") == {"SFT": totals(read_costs(config.folder)["SFT"])}
    assert record == dataclasses.asdict(config) and load_config(config.folder) == config
    assert collect(config.folder)["settings"] == record


def test_counters_are_added_by_name():
    assert add({"a": 1, "b": 2}, {"b": 3, "c": 0.5}) == {"a": 1, "b": 5, "c": 0.5}


def test_processes_are_added_and_hours_are_those_of_the_main_one(tmp_path, clock):
    config = Config(out=str(tmp_path))
    for rank in (2, 0):
        with stage("MGPO", config, Alone(rank=rank, world_size=3), {"policy": (policy := Player(written_tokens=0))}):
            policy.counts["written_tokens"] = 10 + rank
            clock.seconds += 3600 * (1 + rank)
    assert {path.name for path in config.folder.iterdir()} == {"costs.json", "costs.2.json"}
    found = read_costs(config.folder)["MGPO"]
    assert (found["hours"], found["processes"]) == (1.0, 2) and totals(found)["policy_written"] == 22


class Alone(Ranks):
    def barrier(self):
        pass


def small():
    return build_model(Config(hidden_size=16, layers=1, heads=2, intermediate_size=16, device="cpu"), 8, seed=0)


def test_what_is_shown_by_hand():
    """Two players are added; the policy is not one that is asked."""
    record = {"hours": 1.25, "starts": 3, "processes": 8, "players": {
        "policy": {"written_tokens": 4000, "trained_tokens": 3000},
        "verifier-1": {"requests": 5, "prompt_tokens": 1500, "completion_tokens": 50, "cost": 0.02},
        "prober-1": {"requests": 80, "prompt_tokens": 200, "completion_tokens": 8000}}}
    assert totals(record) == {"hours": 1.25, "processes": 8, "requests": 85, "prompt_tokens": 1700, "cost": 0.02,
                              "completion_tokens": 8050, "policy_written": 4000, "policy_trained": 3000}
    assert sentence(record) == ("1.25 hours of 8 processes, 4,000 tokens written, 3,000 tokens trained, "
                                        "85 requests to models, 1,700 tokens read by them, 8,050 written by them, "
                                        "money 0.02")
    assert lines_of("MGPO", record)[0] == "cost of MGPO: 1.250 hours of 8 processes, 3 starts"
    assert sentence({"hours": 0.5, "processes": 1, "players": {}}) == "0.50 hours of 1 process"


def test_steps_are_counted_from_the_first_to_the_last(tmp_path, clock):
    config, policy = Config(out=str(tmp_path)), policy_of(small())
    assert list(during("SFT", [], config, policy)) == [] and not config.folder.exists()  # had finished: no cost
    for step in during("SFT", iter(range(3)), config, policy):
        policy.counts["trained_tokens"] += 5
        clock.seconds += 36
    found = read_costs(config.folder)["SFT"]
    assert found["hours"] == pytest.approx(0.03) and found["players"] == {
        "policy": {"written_tokens": 0, "trained_tokens": 15}}
    with pytest.raises(RuntimeError):
        for step in during("SFT", range(3), config, policy):
            clock.seconds += 36
            raise RuntimeError  # what was spent until then counts, too
    assert read_costs(config.folder)["SFT"]["hours"] == pytest.approx(0.04)
    assert not [thread for thread in threading.enumerate() if "keep_writing" in thread.name]


def test_a_policy_counts_what_it_is_trained_on():
    policy = policy_of(small(), lr=1e-3)
    example = Trajectory.of_one_action([1, 2, 3, 4], [0, 1, 1, 1])
    policy.update([example], lambda rows: (sum(w.sum() for w in policy.model.parameters()) * 0, {}), 3)
    assert policy.counts == {"written_tokens": 0, "trained_tokens": 3}


def test_a_kill_loses_no_more_than_a_tick(tmp_path, monkeypatch):
    """A process that is killed in the middle of a stage has written what it had spent so far."""
    monkeypatch.setattr(costs, "TICK", 0.02)

    def spend():
        player = Player(requests=0)
        with stage("skills", Config(out=str(tmp_path)), Ranks(), {"teacher": player}):
            player.counts["requests"] = 4
            time.sleep(60)

    process = multiprocessing.get_context("fork").Process(target=spend, daemon=True)
    process.start()
    deadline = time.monotonic() + 30
    while not read_costs(tmp_path / "mini") and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.join()
    assert read_costs(tmp_path / "mini")["skills"]["players"] == {"teacher": {"requests": 4}}


def test_a_spoilt_file_is_one_sentence(tmp_path):
    for spoilt in ([], {"SFT": 3}, {"SFT": {"hours": 1}}):
        write_json(tmp_path / "costs.json", spoilt)
        with pytest.raises(UserError, match="does not hold the costs"):
            read_costs(tmp_path)
    assert read_costs(tmp_path / "nowhere") == {}


def test_a_run_without_folder_is_not_made_by_its_costs(tmp_path):
    config = replace(Config(), out=str(tmp_path / "runs"))
    assert read_costs(config.folder) == {} and not config.folder.exists()
