"""Every setting of stage 3 is given on a command line, and its effect must show in the result of a step.

A step is compare and update, on episodes that a tiny policy might have sampled. `naive_step` computes the same again
from the equations, action by action, with the settings as its own arguments: the step of the command line must equal
that of the equations with these settings, and must differ from theirs with the defaults.
"""
import functools
import math
import os
import random
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
from conftest import policy_of

import run_mgpo
from ap.config import Config
from ap.engine.model import build_model
from ap.files import UserError
from ap.judge.judge import Judge
from ap.judge.roles import Judgement
from ap.learn.mgpo import compare, update
from ap.learn.ranks import Ranks
from ap.run import Run
from ap.tools.commandline import parse_config
from ap.trajectory import Problem, Trajectory, Turn
from ap.world.rollout import draw

ROOT = Path(__file__).parent.parent
VOCAB, KEY = 24, "0/7"


def step(config: Config, episodes: list[Trajectory], ranks: Ranks = Ranks()) -> SimpleNamespace:
    """The adapter: the result of compare and update on these episodes of this rank, from `models()`, in place.

    Returns `metrics` of the last update; `parameters` {name: (...)} after it; `moments`, Adam's first ones, flat:
    after a first update they are a tenth of its clipped gradient.
    """
    policy, reference = (policy_of(model, None, config, ranks) for model in models())
    policy.optimise(config.lr)
    compare(episodes, config, KEY)
    metrics = update(policy, reference, episodes, config)
    tensors = policy.updater.tensors()
    moments = torch.cat([moment.flatten() for name, moment in tensors.items() if name.endswith("exp_avg")])
    parameters = {name: weight.detach().clone() for name, weight in policy.model.named_parameters()}
    return SimpleNamespace(metrics=metrics, parameters=parameters, moments=moments)


def models():
    """The policy, and a reference at some distance from it."""
    config = Config(hidden_size=16, layers=1, heads=2, intermediate_size=16, device="cpu")
    policy, reference = (build_model(config, VOCAB, seed) for seed in (0, 1))
    with torch.no_grad():
        for weight in (*policy.parameters(), *reference.parameters()):
            weight.mul_(1 if weight.dim() == 1 else 2)  # sharper than fresh weights: log-probs differ by some nats
    return policy, reference


def given(*argv, **settings) -> Config:
    """The Config that run_mgpo.py reads from the command line `--name value ...`."""
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return parse_config(["--out", "nowhere", "--device", "cpu", "--groups", "4", *words, *argv], run_mgpo.__doc__)


def sampled(temperature=1.0, groups=range(4), members=3) -> list[Trajectory]:
    """Episodes of two to four actions; their log-probs are those of the policy that `models` makes."""
    policy, episodes = models()[0], []
    for group in groups:
        for member in range(members):
            rng = random.Random(f"{group}/{member}")
            turns, turn_ids = [], [-1] * rng.randint(2, 4)
            for number in range(rng.randint(2, 4)):
                start, length = len(turn_ids), rng.randint(1, 5)
                turn_ids += [number] * length + [-1]
                turns.append(Turn("think", number % 3, start, start + length))
                turns[-1].process_reward = rng.choice((-1.0, 0.0, 1.0))
            ids, mask = [rng.randrange(VOCAB) for _ in turn_ids], [int(turn >= 0) for turn in turn_ids]
            episode = Trajectory(ids, mask, [], turn_ids, turns, (), group=group, reward=rng.choice((0.0, 1.0, 1.5)))
            with torch.no_grad():
                episode.logprobs = (logprobs_of(policy, episode, temperature) * torch.tensor(mask)).tolist()
            episodes.append(episode)
    return episodes


def logprobs_of(model, episode: Trajectory, temperature: float) -> torch.Tensor:
    """log pi of every token of one episode, (T,); 0 at position 0."""
    logits = model(input_ids=torch.tensor([episode.ids]), use_cache=False).logits[0, :-1] / temperature
    return torch.cat([torch.zeros(1), logits.log_softmax(-1)[range(len(episode.ids) - 1), episode.ids[1:]]])


# ------------------------------------------------------------------------------- the same step, from the equations


@dataclass
class Action:
    """One action of one episode, with its values in the equations."""

    episode: Trajectory
    turn: Turn
    A: float = 0.0
    R: float = 0.0
    ratio: float = 1.0
    w: float = 0.0

    def of(self, logprobs: dict[int, torch.Tensor]) -> torch.Tensor:
        """The log-probs of its tokens, among those of the tokens of all episodes."""
        return logprobs[id(self.episode)][self.turn.start:self.turn.end]


def relative(value: float, others: list[float], normalise_std: bool) -> float:
    """Eq. (group-relative)."""
    mean = sum(others) / len(others)
    if max(others) == min(others):
        return 0.0
    std = math.sqrt(sum((x - mean) ** 2 for x in others) / (len(others) - 1))
    return (value - mean) / (std + 1e-6) if normalise_std else value - mean


def naive_advantages(episodes, algorithm="mgpo", omega=0.5, normalise_std=True, stage_advantages=None) -> list[float]:
    """A of every action. stage_advantages: A_S of every action, in place of that which the equation gives."""
    def worth(episode):
        extra = omega * sum(turn.process_reward for turn in episode.turns)
        return episode.reward + (extra if algorithm == "grpo-summed" else 0.0)

    actions, found = [(episode, turn) for episode in episodes for turn in episode.turns], []
    for number, (episode, turn) in enumerate(actions):
        mine = [worth(other) for other in episodes if other.group == episode.group]
        stage = [t.process_reward for e, t in actions if (e.group, t.stage) == (episode.group, turn.stage)]
        A_S = stage_advantages[number] if stage_advantages else relative(turn.process_reward, stage, normalise_std)
        A_E = relative(worth(episode), mine, normalise_std)
        found.append(A_E + (omega * A_S if algorithm in ("mgpo", "grpo-fused") else 0.0))
    return found


def naive_step(
    episodes, *, algorithm="mgpo", omega=0.5, beta=0.1, tau_pos=1.0, tau_neg=2.0, gate="asymmetric",
    implicit_reward=True, normalise_std=True, clip_low=0.2, clip_high=0.2, kl_weight=0.0, temperature=1.0, lr=1e-3,
    max_grad_norm=1.0, updates=1, stage_advantages=None, importance_limit=0.0, gate_ratio="action",
) -> torch.Tensor:
    """Adam's first moments, flat, after the same step. The defaults are those that the command line must have."""
    policy, reference = models()
    weights = list(policy.parameters())
    first, second = ([torch.zeros_like(weight) for weight in weights] for _ in range(2))
    advantages = naive_advantages(episodes, algorithm, omega, normalise_std, stage_advantages)
    everything = [Action(episode, turn) for episode in episodes for turn in episode.turns]
    for action, A in zip(everything, advantages, strict=True):
        action.A = A
    groups = len({episode.group for episode in episodes})
    for update in range(updates):
        actions = [action for action in everything if action.episode.group * updates // groups == update]
        now, ref = ({id(action.episode): logprobs_of(model, action.episode, temperature) for action in actions}
                    for model in (policy, reference))
        old = {id(action.episode): torch.tensor(action.episode.logprobs) for action in actions}
        correction = {key: (now[key] - old[key]).exp().clamp(max=importance_limit).detach() if importance_limit
                      else torch.ones_like(old[key]) for key in old}
        if importance_limit:
            old = {key: logprobs.detach() for key, logprobs in now.items()}
        for action in actions:
            nats = (action.of(now) - action.of(ref)).sum().item()
            action.R = beta * nats if implicit_reward else 0.0
            action.ratio = (action.of(now) - action.of(old)).mean().exp().item()
        loss, tokens = 0.0, 0
        for action in actions:
            mine = [other for other in actions if other.episode.group == action.episode.group]
            action.w = (action.A - sum(a.A for a in mine) / len(mine)) - (action.R - sum(a.R for a in mine) / len(mine))
            tau = tau_pos if action.w > 0 or gate == "symmetric" else tau_neg
            moved = (action.of(now) - action.of(old)).exp().detach()  # each token's ratio
            ratios = moved if gate_ratio == "token" else torch.full_like(moved, action.ratio)
            closes = torch.ones_like(ratios) if gate == "off" else 1 / torch.cosh(tau / 2 * (ratios - 1)) ** 2
            mean = closes.mean().item()
            action.turn.weights = {
                "implicit_reward": action.R, "zero_sum": action.w, "gate": mean, "weight": mean * action.w}
            if algorithm == "mgpo":
                loss = loss - action.w * (closes * action.of(correction) * action.of(now)).sum()
            else:
                ratio, above = (action.of(now) - action.of(old)).exp(), action.of(ref).detach() - action.of(now)
                clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
                kl = above.exp() - above - 1
                surrogate = action.of(correction) * torch.minimum(ratio * action.A, clipped * action.A)
                loss = loss + (kl_weight * kl - surrogate).sum()
            tokens += len(action.of(now))
        gradients = torch.autograd.grad(loss / tokens, weights)
        norm = math.sqrt(sum(gradient.square().sum().item() for gradient in gradients))
        with torch.no_grad():
            for weight, gradient, m, v in zip(weights, gradients, first, second):
                gradient = gradient * min(1.0, max_grad_norm / norm)
                m.mul_(0.9).add_(0.1 * gradient)
                v.mul_(0.99).add_(0.01 * gradient ** 2)
                weight -= lr * (m / (1 - 0.9 ** (update + 1))) / (
                    (v / (1 - 0.99 ** (update + 1))).sqrt() + 1e-8)
    return torch.cat([m.flatten() for m in first])


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return ((one - other).norm() / other.norm()).item()


# -------------------------------------------------------------------------------------------- compare and update

# A ratio is 1 in the first update after a rollout, so the settings that use it act in the second.
TWO = {"updates": 2, "lr": 0.02}
FUSED = {"algorithm": "grpo-fused"}
CASES = [  # settings of both sides, and the setting that is tested
    ({}, {"algorithm": "grpo"}), ({}, {"algorithm": "grpo-summed"}), (TWO, {"algorithm": "grpo-fused"}),
    ({}, {"omega": 2}), ({"algorithm": "grpo-summed"}, {"omega": 2}), ({}, {"beta": 1}),
    (TWO, {"tau_pos": 6}), (TWO, {"tau_neg": 12}), (TWO, {"gate": "symmetric"}), (TWO, {"gate": "off"}),
    (TWO, {"gate_ratio": "token"}), (TWO | {"gate_ratio": "token"}, {"tau_neg": 12}),
    (TWO | {"gate_ratio": "token"}, {"gate": "off"}),
    ({}, {"implicit_reward": "false"}), ({}, {"normalise_std": "false"}), ({}, {"max_grad_norm": 0.01}),
    ({}, {"temperature": 0.5}), ({}, {"updates": 2}), (TWO, {"lr": 0.04}),
    (TWO | FUSED, {"clip_low": 0.01}), (TWO | FUSED, {"clip_high": 0.01}), (FUSED, {"kl_weight": 1.5}),
]


@functools.cache
def of_the_command_line(*items) -> torch.Tensor:
    """Adam's moments of the step with these settings, found once for each."""
    settings = dict(items)
    return step(given(**settings), sampled(settings.get("temperature", 1.0))).moments


@functools.cache
def of_the_equations(*items) -> torch.Tensor:
    settings = {name: {"false": False}.get(value, value) for name, value in items}
    return naive_step(sampled(settings.get("temperature", 1.0)), **settings)


def named(settings: dict) -> str:
    return " ".join(f"{name}={value}" for name, value in settings.items()) or "defaults"


@pytest.mark.parametrize("base, looked_at", CASES, ids=named)
def test_a_setting_of_the_step_reaches_the_gradient(base, looked_at):
    """The step equals that of the equations, with the setting and without it; and the two differ."""
    with_it, without = (tuple(settings.items()) for settings in (base | looked_at, base))
    for items in (with_it, without):
        assert distance(of_the_command_line(*items), of_the_equations(*items)) < 1e-3
    assert distance(of_the_equations(*with_it), of_the_equations(*without)) > 0.02


def test_each_action_says_how_its_weight_came_about():
    """R_theta, w, the gate and w' of every action, as in the equations; in the second update the gate is not 1."""
    ours, theirs = sampled(), sampled()
    step(given(**TWO), ours)
    naive_step(theirs, **TWO)
    of_ours, of_theirs = ([turn.weights for episode in episodes for turn in episode.turns]
                          for episodes in (ours, theirs))
    assert len(of_ours) == len(of_theirs) > 20
    for mine, other in zip(of_ours, of_theirs):
        assert mine == pytest.approx(other, rel=1e-3, abs=1e-4)
    assert min(weights["gate"] for weights in of_ours) < 0.99 and max(weights["gate"] for weights in of_ours) == 1
    baseline = sampled()
    step(given(algorithm="grpo"), baseline)  # it has no such weights
    assert not any(turn.weights for episode in baseline for turn in episode.turns)


def off(by: float) -> list[Trajectory]:
    """Episodes whose sampler was off by up to `by` nats a token, now up and now down."""
    episodes, rng = sampled(), random.Random(0)
    for episode in episodes:
        episode.logprobs = [x + m * rng.uniform(-by, by) for x, m in zip(episode.logprobs, episode.loss_mask)]
    return episodes


@pytest.mark.parametrize("base", [{"implicit_reward": "false", "gate": "off"}, {"algorithm": "grpo"}], ids=named)
def test_the_limit_of_importance_reaches_the_gradient(base):
    """With a sampler that is off the step is that of the equations, with a limit and without; with one that is not, the
    limit changes nothing but rounding."""
    plain = {name: {"false": False}.get(value, value) for name, value in base.items()}
    found = {}
    for limit in (0.0, 1.2, 5.0):
        found[limit] = step(given(**base, importance_limit=limit), off(1.0)).moments
        assert distance(found[limit], naive_step(off(1.0), **plain, importance_limit=limit)) < 1e-3
    assert distance(found[1.2], found[0.0]) > 0.02 and distance(found[1.2], found[5.0]) > 0.02
    exact = [step(given(**base, importance_limit=limit), sampled()).moments for limit in (0.0, 2.0)]
    assert distance(*exact) < 1e-5


@pytest.mark.parametrize("updates", [1, 2])
def test_the_gap_is_that_of_the_first_update(updates):
    """The second update comes after a step, so its log-ratio holds more than the sampler's gap."""
    for by in (0.0, 1.0):
        episodes = off(by)
        half = [e for e in episodes if e.group * updates // 4 == 0]
        gaps = [abs(a - b) for e, e_true in zip(half, sampled()) for a, b, m in zip(
            e.logprobs, e_true.logprobs, e.loss_mask) if m]
        metrics = step(given(updates=updates, lr=0.02), episodes).metrics
        assert metrics["sampler_gap"] == pytest.approx(sum(gaps) / len(gaps), abs=1e-5)
        assert metrics["sampler_off"] == pytest.approx(sum(gap > 0.1 for gap in gaps) / len(gaps), abs=1e-9)
        assert (metrics["log_ratio_abs"] == pytest.approx(metrics["sampler_gap"], abs=1e-5)) == (updates == 1)


def test_the_learning_rate_is_how_far_a_weight_moves():
    """Adam's first step is lr * g / (|g| + 1e-8)."""
    start = dict(models()[0].named_parameters())
    for settings, lr in (({}, 1e-3), ({"lr": 2e-4}, 2e-4)):
        after = step(given(**settings), sampled()).parameters
        moved = torch.cat([(after[name] - start[name]).abs().flatten() for name in after])
        assert [moved.max().item(), moved.median().item()] == pytest.approx([lr, lr], rel=1e-2)


def test_the_placebo_deals_the_stage_advantages_anew_and_is_trained_on():
    """Each group has the same A_S, at other actions; the rest is as the equations say with these."""
    true, placebo = sampled(), sampled()
    of_true, of_placebo = step(given(), true).moments, step(given(placebo="true"), placebo).moments
    dealt = [[turn.stage_advantage for episode in episodes for turn in episode.turns] for episodes in (true, placebo)]
    owners = [episode.group for episode in true for _ in episode.turns]
    for group in range(4):
        mine, theirs = ([A_S for A_S, owner in zip(one, owners) if owner == group] for one in dealt)
        assert sorted(mine) == pytest.approx(sorted(theirs)) and mine != theirs
    assert distance(of_placebo, naive_step(sampled(), stage_advantages=dealt[1])) < 1e-3
    assert distance(of_placebo, of_true) > 0.02
    other = sampled()
    step(given(placebo="true", seed=5), other)  # the seed decides the deal
    assert [turn.stage_advantage for episode in other for turn in episode.turns] != dealt[1]


def test_an_update_that_is_skipped_is_counted_to_the_limit():
    """--max_skipped 2: the second gradient in a row that is not finite is one too many."""
    for settings, ends in (({}, False), ({"max_skipped": 2}, True)):
        episodes = sampled()
        for episode in episodes:
            episode.reward = float("nan") if episode is episodes[0] else episode.reward
            episode.turns[0].process_reward = float("nan")
        with pytest.raises(UserError, match="2 updates in a row") if ends else nullcontext():
            step(given(updates=2, **settings), episodes)


# -------------------------------------------------------------------------------- rewards, prober, what is drawn


def test_what_a_valid_problem_is_paid():
    """R_base 2, lambda 3, a quarter of the attempts right: 2 + 3 * 0.75; by default 1 + 1 * 0.75."""
    class Says:
        def judge(self, problem, trace, known):
            return Judgement(True, "1", "valid")

        def pass_rate(self, problem, key):
            return 0.25

    tokenizer = SimpleNamespace(chat_template="", ap_chat_format=("", SimpleNamespace(message=lambda ids: "")))
    for settings, reward in (({}, 1.75), ({"r_base": 2}, 2.75), ({"hardness": 3}, 3.25)):
        episode = Trajectory([0], [1], [0.0], [0], [], (), outcome="submitted", problem=Problem("q", "1"))
        Judge(Says(), Says(), tokenizer, given(**settings)).judge(episode, frozenset())
        assert episode.reward == reward


@pytest.mark.parametrize("settings, rewards", [
    ({}, [1.75, 0.0]), ({"reward": "vhg"}, [0.75, 0.0]), ({"reward": "azr"}, [0.75, -1.0]),
    ({"reward": "r-zero"}, [0.0, 0.0]),  # 1 - 2 * 0.25 - 1/2, since it is one of two episodes
], ids=lambda value: named(value) if isinstance(value, dict) else "")
def test_the_loop_compares_what_the_command_line_pays(settings, rewards, monkeypatch):
    """run_mgpo.train, with nothing real around it: a valid problem that a quarter solves, and an episode without any."""
    class Compared(Exception):
        pass

    def compare(trajectories, *_):
        assert [trajectory.reward for trajectory in trajectories] == pytest.approx(rewards)
        raise Compared

    episodes = [Trajectory([], [], [], [], [], (), valid=valid, pass_rate=0.25 * valid, reward=1.75 * valid,
                           problem=Problem("Find a.", "1") if valid else None) for valid in (True, False)]
    for name in ("Training", "Progress", "StepLog", "draw", "roll_out"):
        monkeypatch.setattr(run_mgpo, name, MagicMock())
    monkeypatch.setattr(run_mgpo, "Judge", lambda *_: lambda *_: episodes)
    monkeypatch.setattr(run_mgpo, "during", lambda *_: [0])
    monkeypatch.setattr(run_mgpo, "compare", compare)
    with pytest.raises(Compared):
        run_mgpo.train(MagicMock(), MagicMock(), MagicMock(), given(**settings), Ranks())


def test_long_episodes_are_compared_by_less():
    """--overlong 0.5 of 40 tokens: nothing up to 20, a twentieth for each more; so 30 tokens cost a half."""
    tokenizer = SimpleNamespace(chat_template="", ap_chat_format=("", SimpleNamespace(message=lambda ids: "")))
    for settings, penalties in (({}, [0, 0]), ({"overlong": 0.5, "max_tokens": 40}, [0, -0.5])):
        config, episodes = given(**settings), [
            Trajectory([0] * n, [1] * n, [0.0] * n, [0] * n, [Turn("unusable", 0, 0, n)], (), outcome="unusable")
            for n in (10, 30)]
        for episode in episodes:
            Judge(None, None, tokenizer, config).judge(episode, frozenset())
        assert [episode.overlong_penalty for episode in episodes] == penalties
        compare(episodes, config, KEY)
        expected = math.sqrt(0.5) if settings else 0.0  # half the difference, over the std of two
        assert [episode.advantage for episode in episodes] == pytest.approx([expected, -expected], abs=1e-5)


@pytest.fixture(scope="module")
def worlds(tiny):
    """The world of the defaults, and that of a command line that changes all of its settings."""
    changed = {"prober_k": 4, "pass_rate": "passk", "prober_window": 2, "prober_floor": 0.9, "mastery_alpha": 0.5,
               "mastery_eps": 0.3, "skills_min": 3, "skills_max": 3}
    argv = ["--out", tiny.out, "--name", tiny.name]
    words = [word for name, value in changed.items() for word in (f"--{name}", str(value))]
    with Run(parse_config(argv, "")) as one, Run(parse_config([*argv, *words], "")) as other:
        yield one, other


def test_the_prober_is_as_the_command_line_says(worlds):
    """Right once of k attempts: 1/16, and literal pass@4: 1. Two problems of 0.8: below a floor of 0.9, and no window
    of 500."""
    class Once:
        def attempt(self, problem, k, key):
            asked.append(k)
            return ["1"] + ["0"] * (k - 1)

    for world, k, rate, level in zip(worlds, (16, 4), (1 / 16, 1.0), (0, 1)):
        asked, world.prober.pool[0] = [], Once()
        assert world.prober.pass_rate(Problem("q", "1"), KEY) == rate and asked == [k]
        world.prober.observe([0.8, 0.8])
        assert world.prober.level == level
    one = worlds[0].prober
    one.observe([0.2] * 498)  # the window is full: 0.2024 is below 0.3
    assert one.level == 1


def test_the_curriculum_is_as_the_command_line_says(worlds):
    """One success: m_c = alpha; drawn in proportion to 1 / (m_c + eps)."""
    for world, alpha, eps, sizes in zip(worlds, (0.1, 0.5), (0.1, 0.3), ({2, 3, 4}, {3})):
        curriculum = world.curriculum
        assert {len(curriculum.draw(random.Random(n))) for n in range(60)} == sizes
        curriculum.update([(("shift",), 1.0)])
        mastered = curriculum.category["shift"]
        shares = curriculum.category_probabilities()
        other = next(category for category in shares if category != mastered)
        assert curriculum.mastery[mastered] == pytest.approx(alpha)
        assert shares[other] / shares[mastered] == pytest.approx((alpha + eps) / eps)


def starts(config: Config) -> list[tuple]:
    """Another adapter: (K_0, group, seed key) of the episodes of a step of one rank."""
    return draw(SimpleNamespace(draw=lambda rng: ("shift", "share")), config, Ranks(), KEY)


def test_groups_and_their_members_are_as_many_as_the_command_line_says():
    for settings, groups, members in (({}, 4, 8), ({"groups": 6}, 6, 8), ({"group_size": 3}, 4, 3)):
        drawn = starts(given(**settings))
        assert [group for _, group, _ in drawn] == [group for group in range(groups) for _ in range(members)]
        assert len({seed for *_, seed in drawn}) == groups * members


# ---------------------------------------------------------------------------------- several ranks, several updates


def split_over(ranks: Ranks) -> dict[str, torch.Tensor]:
    """The parameters after a step of two updates on six groups, shared out as `draw` shares them."""
    return step(given(groups=6, updates=2, lr=0.02), sampled(groups=ranks.share(range(6))), ranks).parameters


def work(folder: Path, world: int) -> None:
    with Ranks.start(Config(device="cpu")) as ranks:
        torch.save(split_over(ranks), folder / f"{world}-{ranks.rank}.pt")


@pytest.fixture(scope="module")
def on_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    script = f"""
import sys
sys.path[:0] = ["tests"]
from test_settings_reach import Path, work
from test_shard import launch
for world in (2, 3):
    launch(world, work, Path({str(folder)!r}))
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=240,
                   env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    return folder


@pytest.mark.parametrize("world", [2, 3])
def test_which_groups_an_update_is_made_of_does_not_depend_on_the_number_of_ranks(on_ranks, world):
    """6 groups in 2 updates once were 3 + 3 on one rank, but 4 + 2 on two."""
    one = split_over(Ranks())
    for rank in range(world):
        theirs = torch.load(on_ranks / f"{world}-{rank}.pt")
        assert max((theirs[name] - one[name]).abs().max().item() for name in one) < 1e-6
