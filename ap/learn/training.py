"""What all training loops of this repository share: resuming, checkpoints, a progress bar and a log.

    training = Training("SFT", folder, policy, Schedule(steps, peak_lr, save_every), metrics=path)
    for step in training.steps():
        ...                                     # one update, which returns a record of numbers
        training.record(step, record, loss=record["loss"])
"""
from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator

from tqdm import tqdm

from ap.learn import checkpoint
from ap.learn.policy import Policy
from ap.learn.update import warmup_cosine
from ap.metrics import Metrics


@dataclass(frozen=True)
class Schedule:
    """The number of steps of a training, its learning rate, and how often it is saved."""

    steps: int
    peak_lr: float
    save_every: int

    def lr(self, step: int) -> float:
        """The learning rate of a step: it warms up, then falls like a cosine."""
        return warmup_cosine(step, self.steps, self.peak_lr)


class Training:
    """The training of a policy, resumed from the last checkpoint in its folder. All ranks must do the same."""

    def __init__(self, name: str, folder: Path, policy: Policy, schedule: Schedule, metrics: Path):
        """name: shown on the bar. folder: holds the checkpoints. policy: loaded from the path that `start_of` gives.
        metrics: the JSONL file for the numbers of each step."""
        self.name, self.folder, self.policy, self.schedule = name, folder, policy.optimise(schedule.peak_lr), schedule
        found = checkpoint.latest(folder)
        self.resumed = policy.resume(found) if found else {"step": 0}  # what was saved with the last checkpoint
        self.start, self.is_main = self.resumed["step"], policy.ranks.is_main
        self.finished = self.start >= schedule.steps
        if self.start and not self.finished:
            policy.ranks.print(f"{name}: continuing after step {self.start} of {schedule.steps}")
        self.logs: list[Metrics] = []
        self.metrics = self.open_log(metrics)
        self.bar: tqdm | None = None

    def open_log(self, path: Path) -> Metrics:
        """A JSONL file of records with their steps; records after the step that training resumes from are dropped. A
        training that has finished leaves its files alone."""
        self.logs.append(Metrics(path, self.start, self.is_main and not self.finished))
        return self.logs[-1]

    def steps(self, state: Callable[[], dict] = dict) -> Iterator[int]:
        """Yield the remaining steps. A checkpoint is written every `save_every` steps and after the last one. It holds
        `state()`: everything else that the next step depends on."""
        steps = range(self.start, self.schedule.steps)
        self.bar = tqdm(steps, initial=self.start, total=self.schedule.steps, desc=self.name, disable=not self.is_main)
        for step in self.bar:
            yield step
            if (step + 1) % self.schedule.save_every == 0 or step + 1 == self.schedule.steps:
                self.policy.save(self.folder, {"step": step + 1} | state())
        for log in self.logs:
            log.close()

    def record(self, step: int, numbers: dict, **shown: float) -> None:
        """Log the numbers of a step (0 .. steps-1; in files 1 .. steps), and show the numbers `shown` on the bar."""
        self.metrics.write(step + 1, numbers)
        self.bar.set_postfix(**{name: f"{value:.3f}" for name, value in shown.items()})


def start_of(folder: Path, start: Path | str) -> Path | str:
    """The path to load a policy from: the last checkpoint of its training in `folder`, or else `start`."""
    return checkpoint.latest(folder) or start


class Clock:
    """Measures the seconds that each phase of a step takes."""

    def __init__(self):
        self.last, self.seconds = time.perf_counter(), {}

    def tick(self, phase: str) -> None:
        now = time.perf_counter()
        self.seconds[f"seconds/{phase}"], self.last = now - self.last, now
