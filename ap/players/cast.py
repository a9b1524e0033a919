"""The cast: who plays which role in a run, as a file of the user's says (--roles FILE).

    {"verifiers": [{"endpoint": "http://localhost:8000/v1", "model": "qwen3-32b", "key": "NAME_OF_A_VARIABLE"},
                   {"endpoint": "https://...", "model": "gpt-oss-120b", "concurrency": 16,
                    "prompt_price": 0.1, "completion_price": 0.5},
                   {"checkpoint": "models/qwen3-14b"}],
     "auditor": {"checkpoint": "models/phi-4", "temperature": 0.0},
     "teacher": {"endpoint": "http://localhost:8000/v1", "model": "qwen3-235b-a22b"},
     "probers": [{"checkpoint": "models/qwen3-1.7b"}, {"checkpoint": "models/qwen3-8b"}],
     "extractor": {"checkpoint": "runs/mini/mgpo/step-000012", "max_tokens": 64}}

Three verifiers, one auditor, one teacher, and probers from weak to strong. An extractor is a trained proposer that
extracts skills from the corpus in the teacher's place (run_skills.py); who scores them stays. Any other role that is
left out is played by the domain's own programs, where it has any (mini has; math, code and science have none).

A player is an endpoint (endpoint.py) or a local checkpoint that our engine runs. Both offer `ask` and `sample`, and
count what they did. With prices, of an endpoint's million tokens in whatever currency, they also count the cost; what
the cache answers is free.
"""
from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterator

import torch

from ap import domains
from ap.world.chat import without_tokens
from ap.config import Config, UserError
from ap.players.endpoint import Endpoint
from ap.files import read_json
from ap.judge.prober import SampledSolver, checkpoint_sampler
from ap.judge.verifier import ChatVerifier

FIELDS = {  # of a player: what it may say, and of which type
    "endpoint": {"endpoint": str, "model": str, "key": str, "concurrency": int, "seconds": (int, float), "tries": int,
                 "max_tokens": int, "temperature": (int, float),
                 "prompt_price": (int, float), "completion_price": (int, float)},
    "checkpoint": {"checkpoint": str, "max_tokens": int, "temperature": (int, float)},
}


class Place:
    """Where all local checkpoints of a run play, in turn: at most one of their models lies on the GPU.

    A model is loaded when it is first asked; then it waits in the host's memory until it is asked again. *Choice*: who
    asks for the model that is there goes first, so models do not change with every question.
    """

    def __init__(self, config: Config):
        self.config = config
        self._players: dict[str, tuple] = {}  # folder -> model, tokenizer
        self._here: str | None = None  # whose model lies on the device
        self._device: torch.device | None = None  # which one, once a model was loaded to it
        # Each rank has a GPU of its own, and a new thread does not know which; -1: none.
        self._gpu = torch.cuda.current_device() if config.device != "cpu" and torch.cuda.is_available() else -1
        self._queue: list[tuple[str, object]] = []  # folder and ticket of each who waits, in the order of coming
        self._busy, self._changed = False, threading.Condition()

    @contextmanager
    def turn(self, folder: str) -> Iterator[tuple]:
        """Model and tokenizer of a checkpoint, on the device and for the caller alone. UserError: cannot be loaded."""
        mine = folder, object()
        with self._changed:
            self._queue.append(mine)
            self._changed.wait_for(lambda: not self._busy and self._next() is mine)
            self._queue.remove(mine)
            self._busy = True
        try:
            with torch.cuda.device(self._gpu):
                if folder != self._here:
                    self._change(folder)
                yield self._players[folder]
        finally:
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _next(self) -> tuple[str, object]:
        return next((one for one in self._queue if one[0] == self._here), self._queue[0])

    def _change(self, folder: str) -> None:
        from transformers import AutoTokenizer

        from ap.engine.model import load_model

        if self._here is not None:
            self._players[self._here][0].to("cpu")
            self._here = None
        if folder in self._players:
            self._players[folder][0].to(self._device)
        else:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model = load_model(folder, self.config).requires_grad_(False)
            self._players[folder], self._device = (model, tokenizer), model.device
        self._here = folder


class Checkpoint:
    """A local checkpoint as player. name: of the player; two judges with one checkpoint do not say the same."""

    def __init__(self, folder: str, place: Place, max_tokens: int = 4096, temperature: float = 1.0, name: str = ""):
        if not (Path(folder) / "config.json").is_file():
            raise UserError(f"{folder} holds no model (no config.json); give the folder of a Hugging Face checkpoint.")
        self.folder, self.place, self.name = folder, place, name
        self.max_tokens, self.temperature = max_tokens, temperature
        self.counts = {"requests": 0}

    def ask(self, prompt: str) -> str:
        return self.sample(prompt, 1, self.name)[0]

    def sample(self, prompt: str, k: int, seed_key: str) -> list[str]:
        """k replies, which depend on the prompt, the key and the settings only."""
        with self.place.turn(self.folder) as (model, tokenizer):
            self.counts["requests"] += k
            replies = checkpoint_sampler(model, tokenizer, self.max_tokens, self.temperature)
            return replies(without_tokens(prompt), k, seed_key)  # a judge's prompt holds what the proposer wrote


@dataclass
class Cast:
    """Those whom the user named; None or empty where the domain's programs play."""

    verifiers: list[ChatVerifier] = field(default_factory=list)
    auditor: ChatVerifier | None = None
    probers: list[SampledSolver] = field(default_factory=list)
    teacher: Endpoint | Checkpoint | None = None
    extractor: Endpoint | Checkpoint | None = None
    players: dict[str, Endpoint | Checkpoint] = field(default_factory=dict)  # by role, such as "verifier-1"

    def counts(self) -> dict[str, float]:
        """role/PLAYER/requests and so on, since this process began: for the metrics."""
        return {f"role/{name}/{what}": number for name, player in self.players.items()
                for what, number in player.counts.items()}

    def print_counts(self) -> None:
        """One line for each model that was asked something."""
        for name, player in self.players.items():
            if any(player.counts.values()):
                print(f"{name}: " + ", ".join(f"{what} {number if isinstance(number, int) else format(number, '.4g')}"
                                              for what, number in player.counts.items()))


ROLES = ("verifiers", "auditor", "probers", "teacher", "extractor")


def open_cast(config: Config, sandbox=None, needed: tuple[str, ...] = ROLES[:3]) -> Cast:
    """Read --roles. Raises UserError, naming file and field, for anything that is not as described above.

    sandbox: where the domain runs what models answer, if it does. needed: the roles that must be played where the
    domain has no programs for them.
    """
    cast = _read(config, sandbox)
    need(cast, config, needed)
    return cast


def need(cast: Cast, config: Config, roles: tuple[str, ...]) -> None:
    """UserError when nobody plays one of the roles: neither a model nor the domain's programs."""
    missing = [role for role in roles if not getattr(cast, role)]
    if missing and not domains.get(config.domain).VERIFIERS:
        raise UserError(f"the domain {config.domain} has no programs for the roles {', '.join(missing)}; name models "
                        f"for them in {config.roles or 'a file and say --roles FILE'} (ap/players/cast.py shows how).")


def _read(config: Config, sandbox) -> Cast:
    cast = Cast()
    if not config.roles:
        return cast
    record = read_json(Path(config.roles))
    if not isinstance(record, dict):
        raise UserError(f"{config.roles}: must be an object with {', '.join(ROLES)}, or some of them.")
    for role in record.keys() - set(ROLES):
        raise UserError(f"{config.roles}: unknown role {role!r}; there are {', '.join(ROLES)}.")
    if len(record.get("verifiers", [0] * 3)) != 3:
        raise UserError(f"{config.roles}: verifiers must be a list of three players; a committee has that many.")

    place = Place(config)

    def player(name: str, entry) -> Endpoint | Checkpoint:
        cast.players[name] = _player(f"{config.roles}, {name}", name, entry, config, place)
        return cast.players[name]

    def judge(name: str, entry) -> ChatVerifier:
        one = player(name, entry)
        # *Choice*: a local checkpoint has no time limit. It always ends, and to wait for its turn is no silence.
        limit = {"seconds": None} if isinstance(one, Checkpoint) else {}
        return ChatVerifier(one.ask, **limit, **asking.verifier)

    asking = domains.asking(config.domain, sandbox)
    cast.verifiers = [judge(f"verifier-{n}", entry) for n, entry in enumerate(record.get("verifiers", []), 1)]
    if "auditor" in record:
        cast.auditor = judge("auditor", record["auditor"])
    for role in ("teacher", "extractor"):
        if role in record:
            setattr(cast, role, player(role, record[role]))
    for n, entry in enumerate(record.get("probers", []), 1):
        cast.probers.append(SampledSolver(f"prober-{n}", player(f"prober-{n}", entry).sample, **asking.solver))
    return cast


def model_names(path: Path) -> dict[str, list[str]]:
    """The models of a --roles file by role, without addresses and folders, for people. UserError."""
    def name(entry: dict) -> str:
        return entry.get("model") or Path(entry.get("checkpoint", "?")).name

    return {role: [name(entry) for entry in (entries if isinstance(entries, list) else [entries])]
            for role, entries in read_json(path).items()}


def _player(where: str, name: str, entry, config: Config, place: Place) -> Endpoint | Checkpoint:
    kinds = [kind for kind in FIELDS if isinstance(entry, dict) and kind in entry]
    if len(kinds) != 1:
        raise UserError(f'{where}: a player is {{"endpoint": address, "model": name}} or {{"checkpoint": folder}}.')
    types = FIELDS[kinds[0]]
    for key, value in entry.items():
        if key not in types:
            raise UserError(f"{where}: unknown field {key!r}; there are {', '.join(types)}.")
        if not isinstance(value, types[key]) or isinstance(value, bool):
            raise UserError(f"{where}: {key} is {value!r}, not a {'text' if types[key] is str else 'number'}.")
    if kinds[0] == "checkpoint":
        options = {key: value for key, value in entry.items() if key != "checkpoint"}
        return Checkpoint(entry["checkpoint"], place, name=name, **options)
    if not entry.get("model"):
        raise UserError(f"{where}: an endpoint needs the name of its model.")
    options = {key: value for key, value in entry.items() if key not in ("endpoint", "model", "key")}
    return Endpoint(entry["endpoint"], entry["model"], entry.get("key", ""), config.folder / "replies",
                    name=name, **options)
