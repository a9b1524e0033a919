"""TensorBoard and W&B: the numbers of metrics.jsonl go there too, where they are installed. Neither is needed."""
from __future__ import annotations

from ap.config import Config
from ap.files import UserError
from ap.metrics import Sink


def open_sinks(config: Config, resume_step: int, is_main: bool) -> list[Sink]:
    """TensorBoard's (OUT/NAME/tensorboard) where the package is installed, and W&B's when --wandb names a project.

    Steps after `resume_step`, which are made again, replace those in TensorBoard; W&B, where the run's id is its name,
    keeps the numbers that it got first. Raises UserError when W&B is asked for and not installed.
    """
    sinks: list[Sink] = []
    if not is_main:
        return sinks
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        pass
    else:
        writer = SummaryWriter(str(config.folder / "tensorboard"), purge_step=resume_step + 1)
        sinks.append(lambda step, numbers: _to_tensorboard(writer, step, numbers))
    if config.wandb:
        try:
            import wandb
        except ImportError as error:
            raise UserError(f"--wandb {config.wandb}: the package wandb is not installed; pip install wandb, or leave "
                            "--wandb out.") from error
        run = wandb.init(project=config.wandb, name=config.name, id=config.name, resume="allow",
                         dir=str(config.folder), config=vars(config))
        sinks.append(lambda step, numbers: run.log(numbers, step=step))
    return sinks


def _to_tensorboard(writer, step: int, numbers: dict[str, float]) -> None:
    for name, value in numbers.items():
        writer.add_scalar(name, value, step)
    writer.flush()  # with several ranks the process ends without closing it
