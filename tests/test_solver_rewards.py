"""The rewards of other systems for a solver, and replay: by hand, by second routes, and from command line to GRPO."""
import dataclasses
import json
import math
import random
import threading
from collections import Counter

import pytest
import torch
from conftest import policy_of
from test_benchmarks import scripted
from test_solver import furnish

import run_solver
from ap.answers.grading import Grade
from ap.arms.replay import Replay, draw, signal
from ap.arms.solver_rewards import REWARDS, adactrl, laser, laser_de, level, pay, repetitive, surrogate, tag, targets
from ap.config import Config
from ap.engine.model import build_model
from ap.files import UserError, read_jsonl
from ap.learn import grpo
from ap.learn.policy import Policy
from ap.learn.ranks import Ranks
from ap.learn.training import start_of
from ap.mini.domain import Mini
from ap.mini.tokenizer import build_tokenizer
from ap.tools.commandline import parse_config, save_config
from ap.trajectory import Trajectory
from ap.world.attempts import Attempt, Exam
from ap.world.chat import decode_message

MINI = Mini()


def attempt(length, status="equal", text="", ids=None):
    """An attempt of so many tokens behind a prompt of three, all different unless `ids` says which."""
    ids = [0, 0, 0, *(ids or range(1, length + 1))]
    trajectory = Trajectory.of_one_action(ids, [0] * 3 + [1] * length, reward=float(status == "equal"))
    return Attempt(trajectory, None if status in ("unparsed", "cut") else "7", status, text)


def paid(name, attempts, size=None, window=16384, everyone=None):
    settings = Config(solver_reward=name, solver_group_size=size or len(attempts), solver_max_tokens=window)
    return [trajectory.reward for trajectory in pay(attempts, everyone or attempts, settings)]


# ------------------------------------------------------------------------------------------------- by hand

# 6 of 8 are right, so a fifth of the lengths must fit: L = 3072, the first step that two of them reach
SIX_OF_EIGHT = [attempt(2500), attempt(4000), attempt(3000), *[attempt(5000)] * 3, attempt(4000, "different"),
                attempt(9000, "different")]


def test_laser_by_hand():
    """L is a quarter of the window."""
    group = [attempt(4096), attempt(4097), attempt(100, "different"), attempt(9000, "different"),
             attempt(100, "unparsed"), attempt(16384, "cut")]
    assert paid("laser", group) == [1.5, 1.0, -0.5, -0.5, -1.0, -1.0]
    assert paid("laser", [attempt(64), attempt(65)], window=256) == [1.5, 1.0]


def test_laser_d_and_de_by_hand():
    assert targets([SIX_OF_EIGHT], 16384)[2] == 3072
    rewards = paid("laser-d", SIX_OF_EIGHT)
    assert rewards[:2] == [1.5, 1.0] and rewards[6:] == [-0.5, -0.5]
    rewards = paid("laser-de", SIX_OF_EIGHT)
    assert rewards[:2] == [1.5, 1.0] and rewards[6:] == [0.0, 0.0]
    assert laser_de(attempt(3000, "different"), [], 3072) == -0.5  # a wrong answer that is short
    assert laser_de(attempt(4000, "different", ids=[1, 2, 3, 4] * 1000), [], 3072) == -0.5  # one that repeats itself
    assert laser_de(attempt(4000, "cut"), [], 3072) == -1.0


def test_adactrl_by_hand():
    u = (1 - math.cos(math.pi / 4)) / 2
    assert u == pytest.approx(0.1464, abs=1e-4)
    easy = [attempt(250, text="[Easy] So"), *[attempt(1000, text="[Hard] So")] * 6, attempt(1000, "different", "So")]
    assert paid("adactrl", easy)[:2] == pytest.approx([1 + 0.5 + 0.5 * (1 - u), 1.0])  # the second has the wrong tag
    assert paid("adactrl", easy)[0] == pytest.approx(1.9268, abs=1e-4) and paid("adactrl", easy)[7] == -1.5
    hard = [attempt(250, text="[Hard] So"), attempt(1000, "different", "[Hard] So"), attempt(1000, "cut", "[Easy]")]
    assert paid("adactrl", hard) == pytest.approx([1 + 0.5 + 0.5 * u, -1 + 0.5 + 0.5, -1.0])
    five = [attempt(1, status, "[Easy]") for status in ["equal"] * 5 + ["different"] * 3]
    assert paid("adactrl", five)[0] == 1.0  # 0.625 is not more than 0.625: hard


def test_surrogate_by_hand():
    for length, y in ((768, 0.75), (1536, 1.0), (2304, 0.5), (3072, -1.0)):
        for status in ("equal", "different"):  # right or not
            assert surrogate(attempt(length, status), [], 3072) == pytest.approx(0.5 + y)
            assert surrogate(attempt(length, status, "<think>\nSo</think> 7"), [], 3072) == pytest.approx(1.0 + y)
        assert surrogate(attempt(length, "unparsed", "<think></think>"), [], 3072) == min(0.0, y)
    assert paid("surrogate", [attempt(64), attempt(192)], window=256) == pytest.approx([1.25, 1.0])


@pytest.mark.parametrize("text, found", [
    ("[Easy] 1 + 1", "easy"), ("[hard]", "hard"), ("<think>\n[Hard]\nI see", "hard"), ("\n[Easy]", "easy"),
    ("Easy", ""), ("It is [Easy]", ""), ("[Easy", ""), ("[East]", ""), ("(Easy)", ""), ("", ""),
])
def test_the_tag_opens_the_reply(text, found):
    assert tag(text) == found


def test_a_tokenizer_made_from_the_corpus_could_write_the_tag():
    """So it is the model made from scratch that never does: its worked solutions have none."""
    corpus = MINI.make_corpus(60, random.Random(0))
    tokenizer = build_tokenizer([f"{record['question']} {record['solution']}" for record in corpus], [], 500)
    for text in ("[Easy] a is 1.", "[Hard] a is 1."):
        assert decode_message(tokenizer, tokenizer.encode(text, add_special_tokens=False)) == text
    assert not any(tag(record["solution"]) for record in corpus)


def test_repetitive_by_hand():
    cycle = [1, 2, 3, 4, 5]
    assert repetitive(list(range(20, 40)) + cycle * 3) and not repetitive(list(range(20, 40)) + cycle * 2)
    assert repetitive([7] * 40)
    spread = cycle + list(range(100, 200)) + cycle + list(range(200, 300)) + cycle  # 105 apart, in a text of 215
    assert not repetitive(spread) and repetitive(spread + list(range(300, 401)))  # 105 is less than a third of 316
    assert not repetitive([])


# --------------------------------------------------------------------------------- second routes and properties


def naive_targets(groups, window):
    """As the source computes it: shares and floors in floating point, from the longest to the shortest."""
    found = []
    for low, high, least in ((0, 1 / 3, 1), (1 / 3, 2 / 3, int(len(groups[0]) / 3)),
                             (2 / 3, 2, int(len(groups[0]) * 2 / 3))):
        lengths = []
        for group in groups:
            share = sum(a.status == "equal" for a in group) / len(group)
            lengths += [sum(a.trajectory.loss_mask) for a in group] if low <= share < high else []
        L = window
        for step in range(16, 1, -1):
            coverage = sum(n <= window * step / 16 for n in lengths) / len(lengths) if lengths else 0.0
            L = window * step / 16 if int(coverage * max(1, least) + 1e-9) >= 1 else L
        found.append(L)
    return found


def random_groups(rng, size):
    return [[attempt(rng.randint(1, 256), rng.choice(("equal", "equal", "different", "cut")),
                     rng.choice(("[Easy]", "[Hard]", "", "<think>a</think>"))) for _ in range(size)] for _ in range(6)]


@pytest.mark.parametrize("size", [2, 3, 4, 8, 16])
def test_laser_d_has_the_sources_limits(size):
    seen = Counter()
    for seed in range(30):
        groups = random_groups(random.Random(seed), size)
        assert targets(groups, 256) == naive_targets(groups, 256)
        seen.update(level(group) for group in groups)
    assert len(seen) == 3


def test_what_each_reward_depends_on():
    """Pay all in groups, twice: the second time every status is another one. The trajectories of the attempts keep 1 or
    0. Bounds: those of the equations."""
    rng = random.Random(1)
    groups = random_groups(rng, 4)
    attempts = [a for group in groups for a in group]
    others = [a._replace(status={"equal": "different", "different": "equal"}.get(a.status, a.status)) for a in attempts]
    for name, least, most in (("laser", -1, 1.5), ("laser-d", -1, 1.5), ("laser-de", -1, 1.5), ("adactrl", -1.5, 2),
                              ("surrogate", -1, 2)):
        rewards = paid(name, attempts, 4, 256)
        assert least <= min(rewards) and max(rewards) <= most and len(set(rewards)) > 2
        assert (paid(name, others, 4, 256) == rewards) == (name == "surrogate")
        assert [a.trajectory.reward for a in attempts] == [float(a.status == "equal") for a in attempts]
    assert list(REWARDS) == ["laser", "laser-d", "laser-de", "adactrl", "surrogate"]
    assert pay(attempts, attempts, Config(solver_group_size=4)) == [a.trajectory for a in attempts]
    assert laser is REWARDS["laser-d"] and adactrl(attempts[0], groups[0], 0) == paid("adactrl", attempts, 4)[0]


def test_limits_of_laser_d_come_from_all_ranks():
    mine, others = [attempt(200)] * 6, [attempt(20)] * 6  # a quarter must fit
    assert paid("laser-d", mine, window=256) == [1.5] * 6
    assert paid("laser-d", mine, window=256, everyone=mine + others) == [1.0] * 6


def test_adactrl_without_any_tag_is_refused():
    with pytest.raises(UserError, match=r"no attempt opens with \[Easy\] or \[Hard\].*--learn sft"):
        paid("adactrl", [attempt(5, text="So"), attempt(6)])
    assert paid("adactrl", [attempt(5), attempt(5)], everyone=[attempt(5, text="[Easy]"), attempt(5)]) == [0.5, 0.5]


# ------------------------------------------------------------------------------------------------------- replay


def test_the_draw_is_proportional_to_the_mean_advantage():
    """A of 0, 0.5 and -1.5: drawn with probability 0, 1/4, 3/4; then the one that is left."""
    groups = [[Trajectory([], [], [], [], [], (), advantage=A)] * 2 for A in (0.0, 0.5, -1.5)]
    weights = [signal(group) for group in groups]
    first = Counter(draw(weights, 1, random.Random(seed))[0] for seed in range(4000))
    assert first[0] == 0 and first[2] / 4000 == pytest.approx(0.75, abs=0.03)
    assert {tuple(sorted(draw(weights[1:], 5, random.Random(seed)))) for seed in range(9)} == {(0, 1)}
    assert draw([], 3, random.Random(0)) == [] == draw(weights, 0, random.Random(0))


def step_of(step, dead, size=2, groups=6):
    """The compared trajectories of a step: each group's advantages are +-(its number + 1), or 0."""
    return [Trajectory([step, group], [0, 1], [0.0, -0.1 * step], [-1, 0], [], (), group=group,
                       advantage=(group + 1.0) * (-1) ** member * (group not in dead))
            for group in range(groups) for member in range(size)]


DEAD = [{0, 1}, {1, 2, 5}, set(range(6)), {4}, set(range(6)), set(range(6))]


def replayed(steps, kill=None, ranks=Ranks()):
    """What a rank's update gets in each step. kill: before this step the state goes through JSON."""
    settings = Config(solver_replay=steps, solver_group_size=2)
    replay, given = Replay(settings, {}), []
    for step, dead in enumerate(DEAD):
        if step == kill:
            replay = Replay(settings, json.loads(json.dumps(replay.state())))
        every = step_of(step, dead)
        mine = [t for group in ranks.share(range(6)) for t in every[2 * group:2 * group + 2]]
        given.append((replay(mine, step, ranks), replay.numbers))
    return given


def test_dead_groups_are_replaced_by_groups_of_the_last_steps():
    for step, (given, numbers) in enumerate(replayed(2)):
        original = step_of(step, DEAD[step])
        old = [t for t in given if t.ids[0] != step]
        assert all(step - 2 <= t.ids[0] < step and t.advantage and t.logprobs == [0.0, -0.1 * t.ids[0]] for t in old)
        assert all(mine == its for mine, its in zip(given, original, strict=True) if mine.ids[0] == step)
        assert len(old) == len({(*t.ids, t.advantage) for t in old})  # none twice
        live = sum(step - 2 <= earlier < step for earlier in range(step) for g in range(6) if g not in DEAD[earlier])
        assert len(old) == 2 * min(live, len(DEAD[step])) and numbers == {"replayed": len(old) / 12}
    shares = [numbers["replayed"] for _, numbers in replayed(1)]
    assert shares == [0, 0.5, 0.5, 0, 5 / 6, 0]  # of one step before
    nothing = Replay(Config(), {})
    assert nothing(original, 0, Ranks()) is original and nothing.state() == {} == nothing.numbers


@pytest.mark.parametrize("kill", [1, 3, 5])
def test_replay_resumes_with_the_same_groups(kill):
    assert replayed(3, kill) == replayed(3)


def test_replay_is_the_same_on_any_number_of_ranks():
    """Four ranks as threads; two of them have two groups, two have one."""
    world, values, barrier = 4, {}, threading.Barrier(4, timeout=60)

    @dataclasses.dataclass(frozen=True)
    class Thread(Ranks):
        def gather(self, value):
            values[self.rank] = value
            barrier.wait()
            found = [values[rank] for rank in range(world)]
            barrier.wait()
            return found

    results = {}

    def work(rank):
        results[rank] = replayed(3, ranks=Thread(rank, world))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for step, (one, numbers) in enumerate(replayed(3)):
        for rank in range(world):
            mine, its_numbers = results[rank][step]
            assert mine == [t for group in range(rank, 6, world) for t in one[2 * group:2 * group + 2]]
            assert its_numbers == numbers


# ------------------------------------------------------------------------------- from the command line to GRPO


@pytest.fixture
def config(tmp_path):
    """A tiny run with a tokenizer and ten problems in it."""
    torch.set_num_threads(1)
    config = Config(
        out=str(tmp_path), name="run", device="cpu", hidden_size=16, layers=1, heads=2, intermediate_size=32,
        save_every=2, solver_sft_steps=2, solver_sft_batch=4, solver_steps=4, solver_groups=3, solver_group_size=4,
        solver_budget=6, solver_lr=0.02, solver_max_tokens=80, solver_eval=2, solver_eval_k=2)
    save_config(furnish(config))
    return config


def given(config, *words):
    """The settings that run_solver.py reads from its command line."""
    argv = ["--out", config.out, "--name", config.name, *map(str, words)]
    return parse_config(argv, run_solver.__doc__, run_solver.USES)


@pytest.mark.parametrize("name", ["answer", *REWARDS])
def test_the_option_decides_what_grpo_compares(config, name, monkeypatch):
    """Two right short answers, two right long ones, a wrong long one, and a right one that is cut, so L is the step of
    the second shortest. GRPO gets the advantages of the rewards by hand; what is solved stays the same."""
    tokenizer = run_solver.open_tokenizer(config)
    settings = given(config, "--solver_reward", name, "--solver_steps", 1, "--solver_groups", 1, "--solver_group_size",
                     6, *(["--model", config.folder, "--preset", "mini"] if name == "adactrl" else []))
    long = " ".join(map(str, range(10, 24)))
    texts = ["[Hard] \\boxed{1}<|im_end|>", "[Easy] \\boxed{1}<|im_end|>", f"[Easy] {long} \\boxed{{1}}<|im_end|>",
             f"{long} \\boxed{{1}}<|im_end|>", f"[Easy] {long} \\boxed{{2}}<|im_end|>", f"{long} \\boxed{{1}}"]
    writer = scripted(tokenizer, texts, monkeypatch)
    policy = policy_of(build_model(config, len(tokenizer), seed=0), tokenizer, config)
    policy.sampling = writer.sampling
    seen = []
    monkeypatch.setattr(run_solver, "update", lambda policy, trajectories, *rest: (
        seen.extend(trajectories), grpo.update(policy, trajectories, *rest))[1])
    run_solver.train(policy, [{"id": "1", "question": "a is 1. Find a.", "answer": "1"}], Exam(), settings)

    n = [sum(trajectory.loss_mask) for trajectory in seen]
    assert max(n[:2]) <= 20 and min(n[2:]) > 24 and max(n) <= 80  # in sixteenths of 80: 4 and less, 5 and more
    y = [1 - (1 - length / 40) ** 2 if length <= 40 else 1 - 2 * (length / 40 - 1) ** 2 for length in n]
    u = [(1 - math.cos(math.pi * length / max(n))) / 2 for length in n]
    expected = {
        "answer": [1, 1, 1, 1, 0, 0], "laser": [1.5, 1.5, 1, 1, -0.5, -1], "laser-d": [1.5, 1.5, 1, 1, -0.5, -1],
        "laser-de": [1.5, 1.5, 1, 1, 0, -1], "surrogate": [*(0.5 + value for value in y[:5]), min(0, y[5])],
        "adactrl": [1, 2 - u[1] / 2, 2 - u[2] / 2, 0.5, -u[4] / 2, -1.5]}[name]
    assert [trajectory.reward for trajectory in seen] == pytest.approx(expected)
    mean = sum(expected) / 6
    std = math.sqrt(sum((value - mean) ** 2 for value in expected) / 5)
    assert [t.advantage for t in seen] == pytest.approx([(value - mean) / std for value in expected], abs=1e-4)
    (record,) = read_jsonl(config.folder / "solver" / "proposer" / "solver_metrics.jsonl")
    assert (record["solved"], record["truncated"]) == (4 / 6, 1 / 6) and "replayed" not in record


def ended(text, problem):
    """A grade: problems of even ids are never solved, the others by whatever ends before it is cut."""
    return Grade("7", "equal" if text is not None and int(problem["id"]) % 2 else "different")


def test_training_with_replay_resumes_with_the_same_numbers(config, monkeypatch):
    """Four steps in one go against a kill in the fourth, after a checkpoint of two. Old groups come back with the
    log-probs of their sampler, so the ratio is not 1 any more. Without the option nothing comes back, and it is."""
    tokenizer = run_solver.open_tokenizer(config)
    start = config.folder / "start_of_all"
    build_model(config, len(tokenizer), seed=0).save_pretrained(start)
    problems = [{"id": str(n), "question": f"a is {n}. Find a.", "answer": "7"} for n in range(9)]

    def trained(arm, *words, kill=None):
        def updated(*arguments):
            made.append(0)
            if len(made) == kill:
                raise KeyboardInterrupt
            return grpo.update(*arguments)

        made = []
        monkeypatch.setattr(run_solver, "update", updated)
        settings = given(config, "--solver_arm", arm, *words)
        policy = Policy.load(start_of(config.folder / "solver" / arm, start), tokenizer, settings, Ranks())
        run_solver.train(policy, problems, Exam(grade=ended), settings)
        records = read_jsonl(config.folder / "solver" / arm / "solver_metrics.jsonl")
        return policy.model, [{k: v for k, v in r.items() if not k.startswith("seconds")} for r in records]

    whole, numbers = trained("whole", "--solver_replay", "2")
    with pytest.raises(KeyboardInterrupt):
        trained("parts", "--solver_replay", "2", kill=4)
    saved = config.folder / "solver" / "parts" / "step-000002" / "training_state.json"
    assert len(json.loads(saved.read_text())["state"]["replay"]) > 1
    resumed, again = trained("parts", "--solver_replay", "2")
    assert again == numbers and all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters()))
    back = [record["replayed"] for record in numbers]
    assert back[0] == 0 and max(back) > 0
    plain, without = trained("plain")
    for record, other in zip(numbers, without):  # no ratio where nothing has signal
        assert (record.get("log_ratio_abs", 0.0) > 1e-3) == (record["replayed"] > 0)
        assert "replayed" not in other and other.get("log_ratio_abs", 0.0) < 1e-5
    assert without[0] == {k: v for k, v in numbers[0].items() if k != "replayed"}
    assert not all(torch.equal(a, b) for a, b in zip(whole.parameters(), plain.parameters()))


def test_an_arm_keeps_its_way_to_learn(config, capsys):
    """The run's settings do not hold it, so the next arm has another one; the arm's folder does."""
    def main(*words):
        run_solver.main(["--out", config.out, "--name", config.name, "--solver_steps", "1", *words])

    main("--arm", "short", "--solver_reward", "laser", "--solver_replay", "1")
    saved = json.loads((config.folder / "config.json").read_text())
    assert (saved["solver_reward"], saved["solver_replay"]) == ("answer", 0)
    kept = json.loads((config.folder / "solver" / "short" / "arm.json").read_text())
    assert kept == {
        "solver_learn": "grpo", "solver_reward": "laser", "solver_replay": 1, "solver_tokens": "all"}
    main("--arm", "short", "--solver_reward", "laser", "--solver_replay", "1")
    for words, told in (([], "--solver_reward laser, not answer"),
                        (["--solver_reward", "laser"], "--solver_replay 1, not 0"),
                        (["--learn", "sft"], "--solver_learn grpo, not sft")):
        with pytest.raises(UserError, match=f"short was made with {told}; use another --arm"):
            main("--arm", "short", *words)
    main("--arm", "other")
    assert "other - short" in capsys.readouterr().out
    (config.folder / "solver" / "other" / "arm.json").unlink()  # as an earlier version left it
    with pytest.raises(UserError, match="other was made with --solver_replay 0, not 1"):
        main("--arm", "other", "--solver_replay", "1")
