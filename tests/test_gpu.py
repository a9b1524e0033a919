"""What a GPU needs of us, as far as a machine without one can tell: memory, one recorder at a time, settings."""
import os
import threading
import time

import pytest
import torch
from conftest import policy_of

import ap.devices.gpu
from ap.config import Config
from ap.devices.gpu import ALONE, PROMISED, device_of, free_memory, prepare
from ap.devices.graphs import DecodeGraphs
from ap.engine.cache import GPU_SHARE, Cache, budget
from ap.learn.ranks import Ranks
from ap.learn.update import Updater
from ap.players.place import Place

GPU = torch.device("cuda", 0)


@pytest.fixture
def card(monkeypatch):
    """A card with 100 bytes free, and 40 more once PyTorch has given back the blocks that it keeps."""
    card, kept = {"free": 100}, [40]

    def give_back():
        card["free"] += kept.pop() if kept else 0

    monkeypatch.setattr(torch.cuda, "empty_cache", give_back)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (card["free"], 1000))
    monkeypatch.setattr(ap.devices.gpu, "PROMISED", PROMISED.__class__())
    return card


def test_a_cache_may_take_what_the_card_has_and_nobody_was_promised(card):
    """0.8 * (100 + 40) = 112; with 30 promised 0.8 * 110 = 88; with more than there is, nothing."""
    assert budget(GPU) == int(GPU_SHARE * 140) == 112
    owner = Ranks()
    for promised, rest in ((30, 88), (500, 0)):
        ap.devices.gpu.PROMISED[owner] = promised
        assert budget(GPU) == rest
    del owner  # and what it was promised
    assert free_memory(GPU) == 140


def test_a_place_keeps_room_for_its_largest_model(own_tiny, tmp_path):
    """Files of 100 and 40 bytes: 1.25 * 100; 85 while the small one is there and idle; 0 while one answers."""
    sizes = {"large/a.safetensors": 60, "large/b.safetensors": 40, "large/same.bin": 100, "small/a.bin": 40}
    for name, size in sizes.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    place = Place(own_tiny)
    found = []
    for name in ("small", "large"):
        place.expect(str(tmp_path / name))
        found.append(PROMISED[place])
    place._here = str(tmp_path / "small")
    for place._working in (True, False):
        place._promise()
        found.append(PROMISED[place])
    assert found == [50, 125, 0, 85]


def test_moments_are_made_before_the_first_rollout(model):
    """They are there from the start, and the first step uses them where they are."""
    updater = policy_of(model, lr=0.1).updater
    first = updater.masters[0]
    before = updater.optimizer.state[first]["exp_avg"].data_ptr()
    updater.step([lambda: (first.sum(), {})], 1)
    state = updater.optimizer.state[first]
    assert state["exp_avg"].data_ptr() == before and state["exp_avg"].abs().sum() > 0
    assert updater.counts()["updates"] == 1


class OnGpu(torch.nn.Parameter):
    is_cuda = True


def test_the_step_is_fused_on_a_gpu():
    module = torch.nn.Module()
    module.weight = OnGpu(torch.ones(3))
    group, = Updater(module, Ranks(), 0.1).optimizer.param_groups
    assert group["fused"] is True
    module.weight = torch.nn.Parameter(torch.ones(3))
    assert not Updater(module, Ranks(), 0.1).optimizer.param_groups[0]["fused"]


def test_one_thread_at_a_time_records(model):
    """A second recorder waits until the first one has finished; replaying waits for nobody."""
    graphs = DecodeGraphs(lambda ids, positions: torch.zeros(ids.shape[1], 7), Cache(model, 4, 20))
    thread = threading.Thread(target=graphs, args=([5] * 4, [0] * 4, 4))
    with ALONE:
        thread.start()
        time.sleep(0.2)
        assert thread.is_alive() and graphs.steps[4, 20].logits is None
    thread.join(60)
    assert graphs.steps[4, 20].logits.shape == (4, 7)
    done = []
    with ALONE:
        again = threading.Thread(target=lambda: done.append(graphs([5] * 4, [1] * 4, 3)))
        again.start()
        again.join(60)
    assert done[0].shape == (3, 7)


@pytest.mark.parametrize("given", [{}, {"PYTORCH_ALLOC_CONF": "backend:native"}, {"PYTORCH_CUDA_ALLOC_CONF": "own"}])
def test_pytorch_is_set_up_once(monkeypatch, given):
    monkeypatch.setattr(os, "environ", dict(given))
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    before = torch.backends.cuda.cudnn_sdp_enabled()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert device_of(Config(device="cpu")).type == "cpu" and not chosen
    try:
        if given:
            prepare(GPU)
        else:
            assert device_of(Config(device="auto")) == GPU
        assert chosen == [GPU] and not torch.backends.cuda.cudnn_sdp_enabled()
        named = os.environ.get("PYTORCH_CUDA_ALLOC_CONF")
        assert named == (None if "PYTORCH_ALLOC_CONF" in given else given.get(
            "PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True"))
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)
