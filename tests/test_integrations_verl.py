"""integrations/verl: on a CPU, verl's own queue, trainer method and loss give our episodes, weights, loss, gradient.

Skipped without verl 0.9.1 and TransferQueue. What needs GPUs is not run: sampling, main_ppo.
"""
import asyncio
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

os.environ.setdefault("RAY_prestart_worker_first_driver", "0")  # as many workers as CPUs would start, and do nothing
os.environ.setdefault("RAY_enable_worker_prestart", "0")
os.environ.setdefault("RAY_raylet_start_wait_time_s", "300")  # a busy machine needs more than ray's 60 seconds
os.environ.setdefault("RAY_gcs_server_request_timeout_seconds", "300")
verl = pytest.importorskip("verl")
pytest.importorskip("transfer_queue")
if verl.__version__ != "0.9.1":
    pytest.skip(f"needs verl==0.9.1, found {verl.__version__}", allow_module_level=True)

sys.path.insert(0, str(Path(__file__).parent.parent / "integrations" / "verl"))
import ap_verl  # noqa: E402
import pandas  # noqa: E402
import ray  # noqa: E402
import torch  # noqa: E402
import transfer_queue as tq  # noqa: E402
from hydra import compose, initialize_config_dir  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402
from tensordict import TensorDict  # noqa: E402
from test_rollout import MESSAGES, K  # noqa: E402
from transformers import Qwen3Config, Qwen3ForCausalLM  # noqa: E402
from verl.trainer.ppo.padding_utils import upsample_batch_to_divisible_size  # noqa: E402
from verl.trainer.ppo.v1.trainer_base import get_trainer_cls  # noqa: E402
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync  # noqa: E402
from verl.utils import tensordict_utils as tu  # noqa: E402
from verl.utils.tensordict_utils import list_of_dict_to_tensordict  # noqa: E402
from verl.workers.config import ActorConfig, PolicyLossConfig  # noqa: E402
from verl.workers.rollout.replica import TokenOutput  # noqa: E402
from verl.workers.utils.losses import ppo_loss  # noqa: E402

from ap.files import UserError  # noqa: E402
from ap.judge.judge import Judge  # noqa: E402
from ap.learn.batch import Actions, collate  # noqa: E402
from ap.learn.losses import mgpo_loss, mgpo_weights  # noqa: E402
from ap.learn.mgpo import compare  # noqa: E402
from ap.tools.elsewhere import host_of  # noqa: E402
from ap.tools.elsewhere import main as elsewhere  # noqa: E402
from ap.world.chat import tool_call, written_ids  # noqa: E402
from ap.world.rollout import Start, play_script  # noqa: E402

SCRIPTS = ([text for text, *_ in MESSAGES], ["Sound.", MESSAGES[3][0], tool_call("submit", answer="11")],
           [MESSAGES[0][0], "Fault: share.", tool_call("edit", prune="pick"), tool_call("submit", answer="1")])


class Served:
    """In the place of verl's server: the messages of scripts, one script for each request, as tokens."""

    def __init__(self, tokenizer, scripts):
        self.tokenizer, self.left, self.of, self.seen = tokenizer, [iter(script) for script in scripts], {}, []

    async def generate(self, request_id, prompt_ids, sampling_params):
        if request_id not in self.of:
            self.of[request_id] = self.left.pop(0)
        self.seen.append((list(prompt_ids), sampling_params))
        ids = written_ids(self.tokenizer, next(self.of[request_id]))
        return TokenOutput(token_ids=ids, log_probs=[-0.5] * len(ids),
                           extra_fields={"min_global_steps": 3, "max_global_steps": 3})


@pytest.fixture(scope="module")
def folder(tiny):
    yield str(tiny.folder)
    host_of(str(tiny.folder)).run.__exit__()
    host_of.cache_clear()


def loop_of(tokenizer, scripts, **rollout):
    loop = ap_verl.ProposingLoop.__new__(ap_verl.ProposingLoop)
    loop.server_manager = Served(tokenizer, scripts)
    loop.rollout_config = SimpleNamespace(
        **{"temperature": 1.0, "response_length": 512} | rollout)
    return loop


def play(loop, folder, count=1):
    async def all_of_them():
        row = {"extra_info": {"run": folder, "skills": list(K)}}
        return [await loop.run({"temperature": 1.0, "top_p": 1.0}, **row) for _ in range(count)]
    return asyncio.run(all_of_them())


@pytest.fixture
def scripted(run, tokenizer, tiny):
    judge = Judge(run.committee, run.fixed_prober, tokenizer, tiny)
    found = []
    for number, script in enumerate(SCRIPTS):
        left = iter(script)
        found.append(play_script(run.env, tokenizer, Start(K, key=str(number)), lambda episode: next(left)))
        judge.judge(found[-1], run.known)
    return found


def test_the_loop_plays_our_episodes(folder, scripted, tokenizer, tiny):
    """Ids, masks, turns, stages and process rewards of three scripted episodes; every prompt is what came before."""
    loop = loop_of(tokenizer, SCRIPTS)
    for output, ours in zip(play(loop, folder, 3), scripted, strict=True):
        found, first = output.as_dict(), ours.turns[0].start
        assert found["prompts"].tolist() == ours.ids[:first] and found["responses"].tolist() == ours.ids[first:]
        assert found["response_mask"].tolist() == ours.loss_mask[first:]
        assert found["turn_ids"].tolist() == ours.turn_ids[first:]
        assert found["stages"].tolist() == [turn.stage for turn in ours.turns]
        assert found["process_rewards"].tolist() == [turn.process_reward for turn in ours.turns]
        assert (found["rewards"].tolist(), found["rm_scores"][-1].item()) == (
            [pytest.approx(ours.reward, abs=0.5)], pytest.approx(found["rewards"].item()))  # another key, another rho
        assert found["rollout_log_probs"].tolist() == [-0.5 * mask for mask in found["response_mask"].tolist()]
        assert found["extra_fields"]["max_global_steps"] == 3 and "stages" not in found["extra_fields"]
    prompts = [prompt for prompt, _ in loop.server_manager.seen]
    assert prompts == [ours.ids[:turn.start] for ours in scripted for turn in ours.turns]
    room = loop.server_manager.seen[0][1]
    assert room["max_tokens"] == tiny.max_tokens - len(prompts[0]) and len(room["stop_token_ids"]) == 1
    with pytest.raises(UserError, match="set actor_rollout_ref.rollout.temperature to it, not to 0.7"):
        play(loop_of(tokenizer, SCRIPTS, temperature=0.7), folder)
    with pytest.raises(UserError, match="and data.max_response_length is 64; raise it"):
        play(loop_of(tokenizer, SCRIPTS, response_length=64), folder)


@pytest.fixture(scope="module")
def queue():
    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False)  # with two, the queue waits for ever
    tq.init()
    yield
    ray.shutdown()


class Batch:
    """Rows in a real TransferQueue: groups of episodes, shuffled, with two rows of verl's padding."""

    def __init__(self, outputs, uids, partition):
        self.generator, rows, tags = torch.Generator().manual_seed(0), [], []
        for number, (output, uid) in enumerate(zip(outputs, uids)):
            row = output.as_dict()
            ids = torch.cat([row["prompts"], row["responses"]])
            rows.append(row | {"uid": uid, "session_id": number, "input_ids": ids, "loss_mask": row["response_mask"],
                               "position_ids": torch.arange(len(ids)), "multi_modal_inputs": {}})
            tags.append({"status": "success", "seq_len": len(ids)})
        self.keys = [f"{uid}_{number}_0" for number, uid in enumerate(uids)]
        fields = list_of_dict_to_tensordict(rows)
        meta = tq.kv_batch_put(keys=self.keys, partition_id=partition, fields=fields, tags=tags)
        meta.tags = meta.tags or tags
        self.meta = upsample_batch_to_divisible_size(meta, len(rows) + 2, 0)
        self.meta.reorder([5, 0, 7, 2, 1, 4, 3, 6])
        self.rows = [self.meta.keys.index(key) for key in self.keys]  # where our episodes are

    def put(self, name):
        """Random log-probs for each token of the responses. Returns them by our rows: tensors of their lengths."""
        lengths = self.get("response_mask").offsets().diff().tolist()
        values = [-3 * torch.rand(length, generator=self.generator) for length in lengths]
        nested = torch.nested.as_nested_tensor(values, layout=torch.jagged)
        tq.kv_batch_put(keys=self.meta.keys, partition_id=self.meta.partition_id,
                        fields=TensorDict({name: nested}, batch_size=len(lengths)))
        return [values[row] for row in self.rows]

    def get(self, name):
        return tq.kv_batch_get(keys=self.meta.keys, partition_id=self.meta.partition_id, select_fields=[name])[name]


@pytest.fixture
def batch(queue, folder, tokenizer, request):
    """Two groups of three: one with several stages and uneven lengths, and a dead one."""
    scripts = [*SCRIPTS, SCRIPTS[1], SCRIPTS[1], SCRIPTS[1]]
    outputs = play(loop_of(tokenizer, scripts), folder, 6)
    return Batch(outputs, ["a", "a", "a", "b", "b", "b"], request.node.name), outputs


def trajectories_of(outputs, scripted):
    """The same episodes as ours, with the rewards that verl's were paid."""
    found = []
    for number, (output, which) in enumerate(zip(outputs, (0, 1, 2, 1, 1, 1))):
        trajectory = replace(scripted[which], turns=[replace(turn) for turn in scripted[which].turns],
                             group=number // 3, reward=output.extra_fields["rewards"][0], overlong_penalty=0.0)
        found.append(trajectory)
    return found


def whole(trajectories, values):
    """Log-probs of responses as (B, T) of whole rows."""
    found = torch.zeros(len(trajectories), max(len(trajectory.ids) for trajectory in trajectories))
    for row, (trajectory, value) in enumerate(zip(trajectories, values)):
        found[row, trajectory.turns[0].start:len(trajectory.ids)] = value
    return found


def trainer_of(settings):
    trainer = get_trainer_cls("mgpo_sync").__new__(ap_verl.MgpoTrainer)
    trainer.mgpo, trainer.config = settings, OmegaConf.create({"actor_rollout_ref": {"rollout": {"temperature": 1.0}}})
    return trainer


def ours_of(trajectories, old, ref, settings):
    """Our batch of these episodes, the log-probs of pi_old (B, T), and w' (B, T) at pi_old."""
    compare(trajectories, settings, "")
    ours = collate(trajectories, 0)
    actions, old = Actions.of(trajectories, ours), whole(trajectories, old)
    weights, _ = mgpo_weights(old, old, whole(trajectories, ref), actions, settings)
    return ours, old, weights


def test_weights_loss_and_gradient(batch, scripted, tiny):
    """The trainer's method writes our w' into the queue; verl's ppo_loss then has our loss and gradient to 1e-6."""
    rows, outputs = batch
    settings = replace(tiny, beta=1.0)
    old, ref = rows.put("old_log_probs"), rows.put("ref_log_prob")
    metrics = {}
    meta = trainer_of(settings)._compute_advantage(rows.meta, metrics)
    assert meta.keys == rows.meta.keys and metrics["mgpo/weight_abs"] > 0

    trajectories = trajectories_of(outputs, scripted)
    ours, old, weights = ours_of(trajectories, old, ref, settings)
    written = rows.get("advantages").unbind()
    for row, place in enumerate(rows.rows):
        expected = weights[row, trajectories[row].turns[0].start:len(trajectories[row].ids)]
        assert torch.allclose(written[place], expected, atol=1e-6)
    padding = set(range(len(rows.meta.keys))) - set(rows.rows)
    assert len(padding) == 2 and not any(written[place].any() for place in padding)

    data = tq.kv_batch_get(keys=meta.keys, partition_id=meta.partition_id, select_fields=[
        "prompts", "responses", "response_mask", "old_log_probs", "ref_log_prob", "advantages"])
    count = int(data["response_mask"].values().sum())
    assert count == ours.num_tokens
    tu.assign_non_tensor(data, dp_size=1, batch_num_tokens=count, global_batch_size=len(meta.keys))
    lengths = zip(data["prompts"].offsets().diff().tolist(), data["responses"].offsets().diff().tolist())
    generator = torch.Generator().manual_seed(1)
    flat = [-3 * torch.rand(prompt + response, generator=generator) for prompt, response in lengths]
    theirs = torch.cat(flat).requires_grad_()
    config = ActorConfig(strategy="fsdp2", rollout_n=3, ppo_micro_batch_size_per_gpu=1, use_kl_loss=True,
                         kl_loss_coef=0, policy_loss=PolicyLossConfig(loss_mode="mgpo"))
    loss, _ = ppo_loss(config, {"log_probs": theirs}, data)
    loss.backward()

    mine = torch.zeros_like(old)  # verl's model gives the log-prob of token t + 1 at place t
    for row, place in enumerate(rows.rows):
        mine[row, 1:len(trajectories[row].ids)] = flat[place][:-1]
    mine.requires_grad_()
    expected = mgpo_loss(mine, weights) / ours.num_tokens
    expected.backward()
    print(f"verl loss {loss.item():.9f}  ap loss {expected.item():.9f}")
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6) and abs(expected.item()) > 1e-3
    gradients = theirs.grad.split([len(row) for row in flat])
    for row, place in enumerate(rows.rows):
        assert torch.allclose(gradients[place][:-1], mine.grad[row, 1:len(trajectories[row].ids)], atol=1e-6)
    assert mine.grad.abs().max() > 1e-3


def test_two_updates_a_rollout(batch, scripted, tiny, monkeypatch):
    """Each update has its own groups; the second one the ratios and R_theta of the policy as it is by then."""
    rows, outputs = batch
    settings = replace(tiny, beta=1.0, updates=2)
    old, ref = rows.put("old_log_probs"), rows.put("ref_log_prob")
    trainer, seen, moved = trainer_of(settings), [], {}

    def compute_log_prob(meta):
        """What verl's worker writes: a value for each token of prompt and response, one place early."""
        data = tq.kv_batch_get(meta.keys, meta.partition_id, select_fields=["prompts", "response_mask"])
        generator, found = torch.Generator().manual_seed(2), []
        for key, prompt, mask in zip(meta.keys, data["prompts"].unbind(), data["response_mask"].unbind()):
            moved[key] = -3 * torch.rand(len(mask), generator=generator)
            found.append(torch.cat([torch.zeros(len(prompt) - 1), moved[key], torch.zeros(1)]))
        tq.kv_batch_put(keys=meta.keys, partition_id=meta.partition_id, fields=TensorDict(
            {"log_probs": torch.nested.as_nested_tensor(found, layout=torch.jagged)}, batch_size=len(found)))

    trainer.actor_rollout_wg = SimpleNamespace(compute_log_prob=compute_log_prob)
    monkeypatch.setattr(PPOTrainerSync, "_update_actor", lambda self, meta, metrics: seen.append(
        dict(zip(meta.keys, tq.kv_batch_get(meta.keys, meta.partition_id, select_fields=["advantages"])[
            "advantages"].unbind()))))
    meta = trainer._compute_advantage(rows.meta, {})
    trainer._update_actor(meta, {})
    assert [sorted(part) for part in seen] == [sorted(rows.keys[:3]), sorted(rows.keys[3:])]
    assert set(moved) == set(rows.keys[3:])

    trajectories = trajectories_of(outputs, scripted)
    compare(trajectories, settings, "")
    for part, (mine, theirs) in enumerate(zip((slice(0, 3), slice(3, 6)), seen)):
        some, keys = trajectories[mine], rows.keys[mine]
        actions = Actions.of(some, collate(some, 0))
        before, reference = whole(some, old[mine]), whole(some, ref[mine])
        now = whole(some, [moved[key] for key in keys]) if part else before
        weights, parts = mgpo_weights(now, before, reference, actions, settings)
        for row, key in enumerate(keys):
            expected = weights[row, some[row].turns[0].start:len(some[row].ids)]
            assert torch.allclose(theirs[key], expected, atol=1e-6)
        assert bool((parts.gate < 0.99).any()) == bool(part)


def test_one_step_of_two_ranks(batch, scripted, tiny, tokenizer, tmp_path):
    """The queue's rows, split over two ranks of verl's FSDP2 worker on a CPU: our loss, and our parameters after it."""
    rows, outputs = batch
    settings = replace(tiny, beta=1.0)
    old, ref = rows.put("old_log_probs"), rows.put("ref_log_prob")
    trainer_of(settings)._compute_advantage(rows.meta, {})
    names = ("input_ids", "position_ids", "loss_mask", "prompts", "responses", "response_mask", "old_log_probs",
             "ref_log_prob", "advantages")
    columns = [rows.get(name).unbind() for name in names]
    torch.save([dict(zip(names, map(torch.clone, row))) for row in zip(*columns)], tmp_path / "rows.pt")
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        head_dim=16, intermediate_size=64, tie_word_embeddings=True, initializer_range=0.08,
        attn_implementation="eager"))
    model.save_pretrained(tmp_path / "model")
    ranks = [subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "verl_on_cpu.py"), str(tmp_path), str(rank)],
        stderr=subprocess.PIPE, text=True) for rank in range(2)]
    for rank in ranks:
        _, errors = rank.communicate(timeout=300)
        assert rank.returncode == 0, errors[-3000:]
    found = torch.load(tmp_path / "after-1.pt")

    trajectories = trajectories_of(outputs, scripted)
    ours, old, weights = ours_of(trajectories, old, ref, settings)
    lines = []
    for trajectory in trajectories:
        ids = torch.tensor([trajectory.ids])
        line = model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
        lines.append(torch.nn.functional.pad(line, (1, old.shape[1] - len(trajectory.ids))))
    expected = mgpo_loss(torch.stack(lines), weights) / ours.num_tokens
    expected.backward()
    print(f"verl loss {found['loss']:.9f}  ap loss {expected.item():.9f}")
    assert found["loss"] == pytest.approx(expected.item(), rel=1e-6) and abs(expected.item()) > 1e-3
    for name, parameter in model.named_parameters():
        assert torch.allclose(found["parameters"][name], parameter - parameter.grad, atol=1e-6), name
        assert parameter.grad.abs().max() > 1e-4, name

    merged = subprocess.run(  # as docs/beyond-one-node.md says: out of verl, into a folder for eval.py and --model
        [sys.executable, "-m", "verl.model_merger", "merge", "--backend", "fsdp", "--local_dir",
         str(tmp_path / "actor"), "--target_dir", str(tmp_path / "proposer")], capture_output=True, text=True)
    assert merged.returncode == 0, merged.stderr[-3000:]
    back = Qwen3ForCausalLM.from_pretrained(tmp_path / "proposer", dtype=torch.float32)
    for name, parameter in back.named_parameters():
        assert torch.equal(parameter, found["parameters"][name].bfloat16().float()), name  # the merger's dtype


def test_what_is_missing_is_told(batch, tiny, tmp_path):
    rows, _ = batch
    rows.put("old_log_probs")
    with pytest.raises(UserError, match="verl's batch has no column ref_log_prob; set .*use_kl_loss=True"):
        trainer_of(tiny)._compute_advantage(rows.meta, {})
    actor = {"policy_loss": {"loss_mode": "mgpo"}, "loss_agg_mode": "token-mean", "use_kl_loss": True,
             "kl_loss_coef": 0.0, "ppo_epochs": 1, "ppo_mini_batch_size": 4}

    def config(mgpo=None, **changed):
        return OmegaConf.create({"actor_rollout_ref": {"actor": actor | changed}, "data": {"train_batch_size": 8},
                                 "trainer": {"v1": {"trainer_mode": "mgpo_sync"}}} | ({"mgpo": mgpo} if mgpo else {}))
    for given, told in (
            (config(loss_agg_mode="seq-mean-token-mean"), "set actor_rollout_ref.actor.loss_agg_mode=token-mean, not"),
            (config(), "add .mgpo.run=FOLDER"), (config({"run": str(tiny.folder), "bet": 1}), "mgpo.bet is no setting"),
            (config({"run": str(tiny.folder)}), "actor.ppo_mini_batch_size must be data.train_batch_size / 1")):
        with pytest.raises(UserError, match=told):
            ap_verl.MgpoTrainer(given)


def test_the_configuration(tiny, tmp_path):
    """mgpo.yaml stands on verl's own configuration, and verl's loader reads our data set."""
    folder = Path(ap_verl.__file__).parent
    with initialize_config_dir(str(folder), version_base=None):
        config = compose(
            "mgpo", [f"mgpo.run={tiny.folder}", "actor_rollout_ref.model.path=pi_ref", "+mgpo.beta=0.5"])
    assert config.trainer.use_v1 and config.trainer.v1.trainer_mode == "mgpo_sync"
    assert ap_verl.settings_of(config).beta == 0.5
    rollout = config.actor_rollout_ref.rollout
    assert (rollout.agent.default_agent_loop, rollout.response_length, rollout.n) == ("ap", 16384, 8)
    assert get_trainer_cls("mgpo_sync") is ap_verl.MgpoTrainer
    page = (folder.parent.parent / "docs" / "beyond-one-node.md").read_text(encoding="utf-8")
    one, two = re.findall(r"```\n([^`]*trainer\.nnodes=[^`]*)```", page)
    overrides = [word for word in f"{one} {two}".split() if re.match(r"[+\w.]+=", word)]
    assert len(overrides) > 8
    with initialize_config_dir(str(folder), version_base=None):  # refuses a key that verl's configuration lacks
        config = compose("mgpo", [word.replace("/shared/runs/NAME", str(tiny.folder)) for word in overrides])
    assert (config.trainer.nnodes, ap_verl.settings_of(config).updates) == (2, 2)
    assert config.data.train_batch_size == 2 * config.actor_rollout_ref.actor.ppo_mini_batch_size
    elsewhere([str(tiny.folder), "--rows", "3", "--out", str(tmp_path / "starts.parquet")])
    rows = pandas.read_parquet(tmp_path / "starts.parquet")
    assert list(rows["agent_name"]) == ["ap"] * 3 and rows["prompt"][0][1]["role"] == "user"
    assert rows["extra_info"][2]["run"] == str(tiny.folder) and len(rows["extra_info"][2]["skills"]) > 1
