"""What several test files need: a tiny run folder made by the real stage 1, and an environment around it."""
import importlib.util
import os
import shutil
from dataclasses import replace

os.environ["OMP_NUM_THREADS"] = "1"  # bits depend on the number of threads: the same here and in every subprocess

import pytest
import torch

import run_skills
from ap.config import Config
from ap.mini import domain as mini
from ap.world.env import Env
from ap.engine.model import build_model
from ap.sandbox.sandbox import SandboxResult
from ap.run import World

torch.set_num_threads(1)

TINY = Config(
    name="tiny", device="cpu", corpus_size=120, hidden_size=32, layers=2, heads=2, intermediate_size=64, eval_sets=8)


def script(path):
    """A file that is no part of a package, as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
        return SandboxResult(f"{mini.check(files['draft.txt'], files['skills.txt'].split())}\n", "", "ok", 0, 0.0)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The settings of a run folder with a small library and tokenizer. Do not write into it: see `own_tiny`."""
    config = replace(TINY, out=str(tmp_path_factory.mktemp("runs")))
    run_skills.main(["--out", config.out, "--name", config.name, "--skills", config.skills, "--corpus_size", "120",
                     "--device", "cpu"])
    return config


@pytest.fixture
def own_tiny(tiny, tmp_path):
    """The same in a copy of its own."""
    shutil.copytree(tiny.folder, tmp_path / tiny.name)
    return replace(tiny, out=str(tmp_path))


@pytest.fixture(scope="session")
def world(tiny):
    """Tokenizer, library, committee, prober and the real sandbox."""
    with World(tiny) as world:
        yield world


@pytest.fixture(scope="session")
def tokenizer(world):
    return world.tokenizer


@pytest.fixture
def make_env(world):
    """make_env(*results, **settings): an environment with a FakeSandbox."""
    def make(*results, **settings):
        return Env(mini, world.library, FakeSandbox(*results), replace(world.env.config, **settings))
    return make


@pytest.fixture(scope="session")
def model(tiny, tokenizer):
    """A small Qwen3 with random weights."""
    return build_model(tiny, len(tokenizer), seed=0)
