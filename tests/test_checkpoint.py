"""Save and resume: bit for bit, whole or not at all, and an ordinary Hugging Face folder."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3MoeConfig, Qwen3MoeForCausalLM

from ap.files import UserError
from ap.learn import checkpoint
from ap.learn.ranks import Ranks
from ap.learn.update import Updater

ROOT = Path(__file__).parent.parent
SIZES = dict(
    vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
    intermediate_size=24, bos_token_id=None, eos_token_id=None,
)


def make_model(seed=0, dtype=torch.float32, tied=True, **sizes):
    torch.manual_seed(seed)
    # not .to(dtype), which would also round the frequencies of the rotary embedding; from_pretrained does not
    return AutoModelForCausalLM.from_config(Qwen3Config(**SIZES | sizes, tie_word_embeddings=tied), dtype=dtype)


def make_updater(model) -> Updater:
    return Updater(model, Ranks(), lr=1e-2)


def train(model, updater, steps):
    """Updates number `steps`, on data that depends on the number only. Returns their losses."""
    losses = []
    for step in steps:
        ids = torch.randint(0, 32, (2, 9), generator=torch.Generator().manual_seed(step))
        losses.append(updater.step([lambda: (model(input_ids=ids, labels=ids).loss * 16, {})], num_tokens=16)["loss"])
    return losses


def equal(one, two) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
def test_training_from_a_checkpoint_is_uninterrupted_training(tmp_path, dtype, tied):
    """Six updates in one go against three, a save, a load into a fresh model, and three more: equal bit for bit."""
    whole = make_model(dtype=dtype, tied=tied)
    updater = make_updater(whole)
    losses = train(whole, updater, range(6))

    first = make_model(dtype=dtype, tied=tied)
    first_updater = make_updater(first)
    train(first, first_updater, range(3))
    checkpoint.save(tmp_path, first, None, first_updater, {"step": 3, "mastery": {"chain": 0.1}, "known": ["a", "ä"]})

    second = make_model(seed=5, dtype=dtype, tied=tied)  # other weights: they must all be replaced
    second_updater = make_updater(second)
    state = checkpoint.load_training_state(checkpoint.latest(tmp_path), second_updater)
    assert state == {"step": 3, "mastery": {"chain": 0.1}, "known": ["a", "ä"]}
    assert equal(second.state_dict(), first.state_dict())
    assert train(second, second_updater, range(3, 6)) == losses[3:]
    assert equal(second.state_dict(), whole.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(updater.masters, second_updater.masters))
    for a, b in zip(updater.optimizer.state.values(), second_updater.optimizer.state.values()):
        assert equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tied_embeddings_stay_tied_and_anyone_can_open_the_folder(tmp_path, dtype):
    model = make_model(dtype=dtype)
    updater = make_updater(model)
    train(model, updater, range(2))
    path = checkpoint.save(tmp_path, model, None, updater, {"step": 2})
    again = make_model(seed=5, dtype=dtype)
    checkpoint.load_training_state(path, make_updater(again))
    assert again.lm_head.weight is again.model.embed_tokens.weight
    train(again, make_updater(again), [0])
    assert again.lm_head.weight is again.model.embed_tokens.weight

    opened = AutoModelForCausalLM.from_pretrained(path, dtype="auto", local_files_only=True)
    ids = torch.arange(10).unsqueeze(0)
    assert opened.dtype == dtype and opened.lm_head.weight is opened.model.embed_tokens.weight
    assert torch.equal(opened(ids).logits, model(ids).logits)


def test_a_mixture_of_experts_comes_back(tmp_path):
    """transformers keeps the experts fused in memory, but separate on disk."""
    torch.manual_seed(0)
    shape = Qwen3MoeConfig(**SIZES, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=8)
    model, other = Qwen3MoeForCausalLM(shape), Qwen3MoeForCausalLM(shape)
    path = checkpoint.save(tmp_path, model, None, make_updater(model), {"step": 1})
    checkpoint.load_training_state(path, make_updater(other))
    assert equal(model.state_dict(), other.state_dict())


def test_tied_weights_leave_the_gpu_once():
    class OnGpu:
        def __init__(self, at):
            self.at = at

        def data_ptr(self):
            return self.at

        def cpu(self):
            return torch.zeros(1)

    head = OnGpu(1)
    moved = checkpoint._on_host({"embedding": head, "norm": OnGpu(2), "head": head})
    assert moved["head"] is moved["embedding"] is not moved["norm"]


def test_no_file_holds_more_than_its_share(tmp_path, monkeypatch):
    """Only little is serialised at once. By hand: 10 + 20 fit in 30; 40 is alone; 5 and 25 fit."""
    monkeypatch.setattr(checkpoint, "FILE_BYTES", 30)
    sizes = {"a": 10, "b": 20, "c": 40, "d": 5, "e": 25, "f": 1}
    tensors = {name: torch.zeros(size, dtype=torch.uint8) for name, size in sizes.items()}
    assert checkpoint._files(tensors) == {"a": 1, "b": 1, "c": 2, "d": 3, "e": 3, "f": 4}
    monkeypatch.setattr(checkpoint, "FILE_BYTES", 4096)
    model, again = make_model(), make_model(seed=5)
    updater, again_updater = make_updater(model), make_updater(again)
    train(model, updater, range(2))
    path = checkpoint.save(tmp_path, model, None, updater, {"step": 2})
    files = list((path / checkpoint.TENSORS).iterdir())
    # a tensor of 16 x 24 or of 32 x 16 float32 numbers has 1,536 or 2,048 bytes; the head of a file comes on top
    assert len(files) > 3 and max(file.stat().st_size for file in files) < 4096 + 2048
    checkpoint.load_training_state(path, again_updater)
    assert equal(updater.tensors(), again_updater.tensors())


def test_skipped_updates_are_remembered(tmp_path):
    model = make_model()
    updater = make_updater(model)
    updater.skipped_updates = 3
    path = checkpoint.save(tmp_path, model, None, updater, {"step": 1})
    again = make_updater(model)
    checkpoint.load_training_state(path, again)
    assert again.skipped_updates == 3


def test_old_checkpoints_are_removed_and_the_highest_step_counts(tmp_path):
    model = make_model()
    for step in (1, 9, 10):
        checkpoint.save(tmp_path, model, None, make_updater(model), {"step": step}, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000009", "step-000010"]
    assert checkpoint.latest(tmp_path).name == "step-000010"
    assert checkpoint.latest(tmp_path / "nowhere") is None


def test_checkpoints_from_before_the_gradients_broke_are_not_removed(tmp_path):
    model = make_model()
    updater = make_updater(model)
    for step in (1, 2, 3, 4):
        if step > 2:
            updater.step([lambda: (model(input_ids=torch.tensor([[1]])).logits.sum() * float("nan"), {})], 1)
        checkpoint.save(tmp_path, model, None, updater, {"step": step}, keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000002", "step-000003", "step-000004"]
    train(model, updater, [5])
    checkpoint.save(tmp_path, model, None, updater, {"step": 5}, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000005"]


def test_saving_a_step_again_replaces_it(tmp_path):
    for seed in (0, 1):
        model = make_model(seed)
        path = checkpoint.save(tmp_path, model, None, make_updater(model), {"step": 4})
    model = make_model(seed=2)
    checkpoint.load_training_state(path, make_updater(model))
    assert equal(model.state_dict(), make_model(seed=1).state_dict())
    assert [found.name for found in tmp_path.iterdir()] == ["step-000004"]


KILLED = """
import os, sys, torch
sys.path[:0] = ["tests"]
from pathlib import Path
from ap.learn import checkpoint
from test_checkpoint import make_model, make_updater, train

def run(folder, moment):
    model = make_model()
    updater = make_updater(model)
    for step in (1, 2):
        train(model, updater, [step])
        if step == 2:  # the process ends without any cleaning up, before, in or right after one part of the second save
            if moment == "weights":
                model.save_pretrained = lambda path, state_dict: os._exit(9)
            elif moment == "state":
                save = checkpoint.dcp.save
                def half(*arguments, **options):
                    save(*arguments, **options)
                    (path,) = folder.glob("*/.step-000002.tmp/training/*.safetensors")
                    os.truncate(path, os.path.getsize(path) // 2)
                    os._exit(9)
                checkpoint.dcp.save = half
            elif moment == "rename":
                Path.rename = lambda self, target: os._exit(9)
            elif moment == "removal":
                checkpoint._complete = lambda folder: os._exit(9)
        checkpoint.save(folder / moment, model, None, updater, {"step": step}, keep=1)

for moment in ("weights", "state", "rename", "removal"):
    child = os.fork()  # cheaper than importing transformers four times
    if child == 0:
        run(Path(sys.argv[1]), moment)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9, moment
"""


@pytest.fixture(scope="module")
def killed_folders(tmp_path_factory):
    """Checkpoint folders of processes that were killed while they saved the second step."""
    folder = tmp_path_factory.mktemp("killed")
    subprocess.run([sys.executable, "-c", KILLED, str(folder)], cwd=ROOT, check=True, timeout=90,
                   env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    return folder


@pytest.mark.parametrize("moment, expected", [("weights", 1), ("state", 1), ("rename", 1), ("removal", 2)])
def test_killed_in_the_middle_of_a_save(killed_folders, moment, expected):
    folder = killed_folders / moment
    model = make_model(seed=7)
    updater = make_updater(model)
    state = checkpoint.load_training_state(checkpoint.latest(folder), updater)
    assert state == {"step": expected}
    whole = make_model()
    whole_updater = make_updater(whole)
    train(whole, whole_updater, range(1, expected + 1))
    assert equal(model.state_dict(), whole.state_dict())
    # the next save of that step goes through, over whatever the killed process left, and cleans up
    checkpoint.save(folder, whole, None, whole_updater, {"step": 2}, keep=1)
    assert [path.name for path in folder.iterdir()] == ["step-000002"]


def test_other_model_sizes_are_told(tmp_path):
    model = make_model()
    path = checkpoint.save(tmp_path, model, None, make_updater(model), {"step": 1})
    with pytest.raises(UserError, match=r"\(32, 16\).*\(40, 16\).*--name"):
        checkpoint.load_training_state(path, make_updater(make_model(vocab_size=40)))
    with pytest.raises(UserError, match=r"layers\.2\..*absent.*--name"):
        checkpoint.load_training_state(path, make_updater(make_model(num_hidden_layers=3)))


def test_a_folder_that_is_not_whole(tmp_path):
    model = make_model()
    updater = make_updater(model)
    path = checkpoint.save(tmp_path, model, None, updater, {"step": 1})
    (tensors,) = (path / "training").iterdir()
    tensors.rename(path / "elsewhere")
    with pytest.raises(UserError, match="step-000001.*absent in the checkpoint"):
        checkpoint.load_training_state(path, updater)
    (path / "elsewhere").rename(tensors)
    os.truncate(tensors, 1000)
    with pytest.raises(UserError, match="step-000001 is not a whole checkpoint.*delete this folder"):
        checkpoint.load_training_state(path, updater)
    shutil.rmtree(path / "training")
    with pytest.raises(UserError, match="step-000001 is not a whole checkpoint"):
        checkpoint.load_training_state(path, updater)
    state = path / checkpoint.STATE_FILE
    os.truncate(state, state.stat().st_size // 2)
    with pytest.raises(UserError, match=r"step-000001/training_state.json.*not valid JSON.*delete the file"):
        checkpoint.load_training_state(path, updater)
    state.unlink()
    assert checkpoint.latest(tmp_path) is None


def test_nothing_in_a_checkpoint_is_a_program(tmp_path):
    """A pickle may run code when it is read; torch's own distributed format contains one."""
    model = make_model()
    path = checkpoint.save(tmp_path, model, None, make_updater(model), {"step": 1})
    assert {file.suffix for file in path.rglob("*") if file.is_file()} == {".json", ".safetensors"}


def test_only_plain_values_are_saved(tmp_path):
    model = make_model()
    with pytest.raises(TypeError):
        checkpoint.save(tmp_path, model, None, make_updater(model), {"step": 1, "known": {1, 2}})
    assert checkpoint.latest(tmp_path) is None


def test_a_folder_that_cannot_be_written(tmp_path):
    model = make_model()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file.*--out"):
        checkpoint.save(tmp_path / "file" / "sft", model, None, make_updater(model), {"step": 1})
