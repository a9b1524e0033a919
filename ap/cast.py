"""The cast: who plays which role in a run, as a file of the user's says (--roles FILE).

    {"verifiers": [{"endpoint": "http://localhost:8000/v1", "model": "qwen3-32b", "key": "NAME_OF_A_VARIABLE"},
                   {"endpoint": "https://...", "model": "gpt-oss-120b", "concurrency": 16,
                    "prompt_price": 0.1, "completion_price": 0.5},
                   {"checkpoint": "models/qwen3-14b"}],
     "auditor": {"checkpoint": "models/phi-4", "temperature": 0.0},
     "teacher": {"endpoint": "http://localhost:8000/v1", "model": "qwen3-235b-a22b"},
     "probers": [{"checkpoint": "models/qwen3-1.7b"}, {"checkpoint": "models/qwen3-8b"}]}

Three verifiers, one auditor, one teacher, and probers from weak to strong; a role that is left out is played by the
domain's own programs, where it has any (mini has; math, code and science have none). A player is an endpoint
(endpoint.py) or a local checkpoint that our engine runs. Both offer `ask` and `sample`, and count what they did. With
prices, of an endpoint's million tokens in whatever currency, they also count the cost; what the cache answers is free.
"""
from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

from ap import domains
from ap.config import Config, UserError
from ap.endpoint import Endpoint
from ap.files import read_json
from ap.prober import SampledSolver, checkpoint_sampler
from ap.verifier import ChatVerifier

FIELDS = {  # of a player: what it may say, and of which type
    "endpoint": {"endpoint": str, "model": str, "key": str, "concurrency": int, "seconds": (int, float), "tries": int,
                 "max_tokens": int, "temperature": (int, float),
                 "prompt_price": (int, float), "completion_price": (int, float)},
    "checkpoint": {"checkpoint": str, "max_tokens": int, "temperature": (int, float)},
}


class Checkpoint:
    """A local checkpoint as player. Loaded when it is first asked; asked by one thread at a time."""

    def __init__(self, folder: str, config: Config, max_tokens: int = 4096, temperature: float = 1.0):
        if not (Path(folder) / "config.json").is_file():
            raise UserError(f"{folder} holds no model (no config.json); give the folder of a Hugging Face checkpoint.")
        self.folder, self.config, self.max_tokens, self.temperature = folder, config, max_tokens, temperature
        self.counts = {"requests": 0}
        self._lock, self._replies = threading.Lock(), None

    def ask(self, prompt: str) -> str:
        return self.sample(prompt, 1, "0")[0]

    def sample(self, prompt: str, k: int, seed_key: str) -> list[str]:
        """k replies, which depend on the prompt, the key and the settings only."""
        with self._lock:
            if self._replies is None:
                from transformers import AutoTokenizer

                from ap.model import load_model

                tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
                model = load_model(self.folder, self.config).requires_grad_(False)
                self._replies = checkpoint_sampler(model, tokenizer, self.max_tokens, self.temperature)
            self.counts["requests"] += k
            # A judge reads what the proposer wrote: no word of it may become a token of the chat format.
            return self._replies(prompt.replace("<|", "< |"), k, seed_key)


@dataclass
class Cast:
    """Those whom the user named; None or empty where the domain's programs play."""

    verifiers: list[ChatVerifier] = field(default_factory=list)
    auditor: ChatVerifier | None = None
    probers: list[SampledSolver] = field(default_factory=list)
    teacher: Endpoint | Checkpoint | None = None
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


ROLES = ("verifiers", "auditor", "probers", "teacher")


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
                        f"for them in {config.roles or 'a file and say --roles FILE'} (ap/cast.py shows how).")


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

    def player(name: str, entry) -> Endpoint | Checkpoint:
        cast.players[name] = _player(f"{config.roles}, {name}", name, entry, config)
        return cast.players[name]

    asking = domains.asking(config.domain, sandbox)
    cast.verifiers = [ChatVerifier(player(f"verifier-{n}", entry).ask, **asking.verifier)
                      for n, entry in enumerate(record.get("verifiers", []), 1)]
    if "auditor" in record:
        cast.auditor = ChatVerifier(player("auditor", record["auditor"]).ask, **asking.verifier)
    if "teacher" in record:
        cast.teacher = player("teacher", record["teacher"])
    for n, entry in enumerate(record.get("probers", []), 1):
        cast.probers.append(SampledSolver(f"prober-{n}", player(f"prober-{n}", entry).sample, **asking.solver))
    return cast


def model_names(path: Path) -> dict[str, list[str]]:
    """The models of a --roles file by role, without addresses and folders, for people. UserError."""
    def name(entry: dict) -> str:
        return entry.get("model") or Path(entry.get("checkpoint", "?")).name

    return {role: [name(entry) for entry in (entries if isinstance(entries, list) else [entries])]
            for role, entries in read_json(path).items()}


def _player(where: str, name: str, entry, config: Config) -> Endpoint | Checkpoint:
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
        return Checkpoint(entry["checkpoint"], config,
                          **{key: value for key, value in entry.items() if key != "checkpoint"})
    if not entry.get("model"):
        raise UserError(f"{where}: an endpoint needs the name of its model.")
    options = {key: value for key, value in entry.items() if key not in ("endpoint", "model", "key")}
    return Endpoint(entry["endpoint"], entry["model"], entry.get("key", ""), config.folder / "replies",
                    name=name, **options)
