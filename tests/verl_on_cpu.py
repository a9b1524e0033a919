"""One rank of two that take one step with verl's FSDP2 worker, without a GPU. Each is a process of its own: verl looks
for its device while it is imported, and its engine is registered for GPUs, for one of which we pass a CPU.

    python verl_on_cpu.py FOLDER RANK    # rows.pt, model/ -> after-RANK.pt: the loss, the parameters after the step;
                                         # actor/: verl's own checkpoint of them
"""
import os
import sys
from functools import partial
from pathlib import Path

import torch

os.environ |= {"VERL_ENGINE_DEVICE": "cuda", "WORLD_SIZE": "2", "RANK": sys.argv[2],
               "MASTER_ADDR": "", "MASTER_PORT": ""}
from verl.plugin.platform import set_platform  # noqa: E402
from verl.plugin.platform.platform_cuda import PlatformCUDA  # noqa: E402


class CPU(PlatformCUDA):
    device_name = "cpu"

    def current_device(self):
        return torch.device("cpu")

    def communication_backend_name(self):
        return "gloo"


set_platform(CPU())
torch.cuda.mem_get_info, torch.cuda.get_device_name = (lambda: (0, 0)), (lambda: "CPU")  # for verl's metrics
ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "integrations" / "verl")]
import ap_verl  # noqa: E402, F401
from verl.utils import tensordict_utils as tu  # noqa: E402
from verl.workers.config import (  # noqa: E402
    ActorConfig, FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig, PolicyLossConfig, TrainingWorkerConfig)
from verl.workers.engine_workers import TrainingWorker  # noqa: E402
from verl.workers.utils.losses import ppo_loss  # noqa: E402


def main(folder: Path, rank: int) -> None:
    # before verl does: its cpu:gloo,{device}:gloo would name the CPU twice
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    model = HFModelConfig(path=str(folder / "model"), load_tokenizer=False, use_remove_padding=False,
                          enable_gradient_checkpointing=False, override_config={"attn_implementation": "sdpa"})
    engine = FSDPEngineConfig(strategy="fsdp2", mixed_precision={"param_dtype": "fp32"}, use_torch_compile=False,
                              use_dynamic_bsz=False, micro_batch_size_per_gpu=2)
    optimizer = FSDPOptimizerConfig(optimizer="SGD", lr=1.0, weight_decay=0.0, clip_grad=1e9, total_training_steps=1)
    worker = TrainingWorker(TrainingWorkerConfig(
        model_type="language_model", model_config=model, engine_config=engine, optimizer_config=optimizer))
    worker.reset()
    actor = ActorConfig(strategy="fsdp2", rollout_n=3, ppo_micro_batch_size_per_gpu=2, use_kl_loss=True,
                        kl_loss_coef=0, policy_loss=PolicyLossConfig(loss_mode="mgpo"))
    worker.set_loss_fn(partial(ppo_loss, config=actor))
    rows = torch.load(folder / "rows.pt")
    data = tu.list_of_dict_to_tensordict(rows[rank::2])
    tu.assign_non_tensor(data, temperature=1.0, mini_batch_size=len(rows), global_batch_size=len(rows))
    metrics = tu.get(worker.train_mini_batch(data), "metrics")
    after = {name: value.full_tensor() for name, value in worker.engine.module.state_dict().items()}
    torch.save({"loss": metrics["loss"][0], "parameters": after}, folder / f"after-{rank}.pt")
    worker.save_checkpoint(str(folder / "actor"))


main(Path(sys.argv[1]), int(sys.argv[2]))
