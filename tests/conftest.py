"""What several test files need: a tiny run folder made by the real stage 1, and an environment around it."""
import contextlib
import importlib.util
import os
import random
import shutil
import socket
from dataclasses import replace

os.environ["OMP_NUM_THREADS"] = "1"  # results depend on it bit for bit: the same here and in every subprocess

import pytest
import torch

import run_skills
from ap.config import Config
from ap.engine.model import build_model
from ap.learn import losses
from ap.learn.batch import Actions
from ap.learn.policy import Policy
from ap.learn.ranks import Ranks
from ap.mini.agents import chainlet
from ap.run import Run
from ap.sandbox.sandbox import SandboxResult
from ap.world.env import Env

torch.set_num_threads(1)

TINY = Config(
    name="tiny", device="cpu", corpus_size=120, hidden_size=32, layers=2, heads=2, intermediate_size=64, eval_sets=8)


def script(path):
    """Import a file that belongs to no package as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def free_port() -> int:
    """Below those that the system gives to connections, so that none of these takes it before it is listened at."""
    for port in random.SystemRandom().sample(range(20_000, 32_000), 100):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("none of 100 ports is free")


def policy_of(model, tokenizer=None, config=Config(device="cpu"), ranks=Ranks(), lr=None):
    """A policy around a plain model; with lr, one that can be updated."""
    policy = Policy(model, tokenizer, config, ranks)
    return policy if lr is None else policy.optimise(lr)


def mgpo_weights(
    logprobs, old_logprobs, ref_logprobs, action_ids, advantages, groups, beta, tau_pos, tau_neg, gate="asymmetric",
    implicit_reward=True, gate_ratio="action",
):
    """losses.mgpo_weights, with its arguments one by one."""
    groups = groups.tolist() if isinstance(groups, torch.Tensor) else groups
    settings = Config(beta=beta, tau_pos=tau_pos, tau_neg=tau_neg, gate=gate, gate_ratio=gate_ratio,
                      implicit_reward=implicit_reward)
    return losses.mgpo_weights(
        logprobs, old_logprobs, ref_logprobs, Actions(action_ids, advantages, groups), settings)


def grpo_loss(
    logprobs, old_logprobs, advantages, loss_mask, clip_low, clip_high, ref_logprobs=None, kl_weight=0.0,
):
    """losses.grpo_loss, with its settings one by one."""
    settings = Config(clip_low=clip_low, clip_high=clip_high, kl_weight=kl_weight)
    return losses.grpo_loss(logprobs, old_logprobs, advantages, loss_mask, settings, ref_logprobs)


class FakeSandbox:
    """Answers at once. `results` are given one after the other; without them it does what the check program would."""

    def __init__(self, *results):
        self.results, self.calls = list(results), []

    def run(self, code, stdin="", timeout=None, files=None):
        self.calls.append((code, timeout, files))
        if self.results:
            return self.results.pop(0)
        files = files or {}
        if "draft.txt" not in files:
            return SandboxResult("", "FileNotFoundError: draft.txt", "error", 1, 0.0)
        return SandboxResult(f"{chainlet.check(files['draft.txt'], files['skills.txt'].split())}\n", "", "ok", 0, 0.0)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The settings of a run folder with a small library and tokenizer. Do not write into it: see `own_tiny`."""
    config = replace(TINY, out=str(tmp_path_factory.mktemp("runs")))
    run_skills.main(["--out", config.out, "--name", config.name, "--skills", config.skills, "--corpus_size", "120",
                     "--device", "cpu"])
    return config


@pytest.fixture
def own_tiny(tiny, tmp_path):
    """A copy of `tiny` that a test may write into."""
    shutil.copytree(tiny.folder, tmp_path / tiny.name)
    return replace(tiny, out=str(tmp_path))


@pytest.fixture(scope="session")
def run(tiny):
    """Tokenizer, library, committee, prober and the real sandbox."""
    with Run(tiny) as run:
        yield run


@pytest.fixture(scope="session")
def tokenizer(run):
    return run.tokenizer


@pytest.fixture
def make_env(run):
    """make_env(*results, **settings): an environment with a FakeSandbox."""
    def make(*results, **settings):
        return Env(run.domain, run.library, FakeSandbox(*results), replace(run.env.config, **settings))
    return make


@pytest.fixture(scope="session")
def model(tiny, tokenizer):
    """A small Qwen3 with random weights."""
    return build_model(tiny, len(tokenizer), seed=0)
