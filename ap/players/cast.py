"""The cast: who plays which role in a run, as the user's file says (--roles FILE).

    {"verifiers": [{"endpoint": "http://localhost:8000/v1", "model": "qwen3-32b", "key": "NAME_OF_A_VARIABLE"},
                   {"endpoint": "https://...", "model": "gpt-oss-120b", "concurrency": 16,
                    "prompt_price": 0.1, "completion_price": 0.5},
                   {"checkpoint": "models/qwen3-14b"}],
     "auditor": {"checkpoint": "models/phi-4", "temperature": 0.0},
     "teacher": {"endpoint": "http://localhost:8000/v1", "model": "qwen3-235b-a22b"},
     "probers": [{"checkpoint": "models/qwen3-1.7b"}, {"checkpoint": "models/qwen3-8b"}],
     "critic": {"endpoint": "http://localhost:8000/v1", "model": "qwen3-32b", "max_tokens": 1024},
     "extractor": {"checkpoint": "runs/mini/mgpo/step-000012", "max_tokens": 64}}

Three verifiers, one auditor, one teacher, and probers from weak to strong. A critic judges the drafts of training
episodes for process rewards, where the domain has no exact check of them (math, science). An extractor is a trained
proposer that extracts skills from the corpus in the teacher's place (run_skills.py); the scores still come from the
teacher, or from the domain's checkers. Nobody need play these two. Any other role that is left out is played by the
domain's own programs, where it has any (mini has; math, code and science have none).

A player is an endpoint (endpoint.py) or a checkpoint, a folder or an id of the hub, that our engine runs
(checkpoint.py). Both offer `ask` (prompt -> reply) and `sample` (prompt, k, seed key -> k replies), keep every reply in
the run's folder, and count their requests. If prices per million tokens are given, in any currency, an endpoint also
counts its cost; replies from the cache cost nothing.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ap.compat.hub import folder_of, shown
from ap.config import Config
from ap.domains.base import Asking, Domain
from ap.files import UserError, read_json
from ap.players.chat_critic import ChatCritic
from ap.players.chat_solver import SampledSolver
from ap.players.chat_verifier import ChatVerifier
from ap.players.checkpoint import Checkpoint
from ap.players.endpoint import Endpoint, EndpointSettings
from ap.players.place import Place

FIELDS = {  # kind of player -> the fields of its entry and their types
    "endpoint": {"endpoint": str, "model": str, "key": str, "concurrency": int, "seconds": (int, float), "tries": int,
                 "max_tokens": int, "temperature": (int, float),
                 "prompt_price": (int, float), "completion_price": (int, float)},
    "checkpoint": {"checkpoint": str, "max_tokens": int, "temperature": (int, float)},
}


@dataclass
class Cast:
    """The players that the user named; None or empty where the domain's programs play."""

    verifiers: list[ChatVerifier] = field(default_factory=list)
    auditor: ChatVerifier | None = None
    probers: list[SampledSolver] = field(default_factory=list)
    critic: ChatCritic | None = None
    teacher: Endpoint | Checkpoint | None = None
    extractor: Endpoint | Checkpoint | None = None
    players: dict[str, Endpoint | Checkpoint] = field(default_factory=dict)  # by role, such as "verifier-1"
    place: Place | None = None  # where the local checkpoints answer

    def counts(self) -> dict[str, float]:
        """Counts since this process began, as metrics: role/PLAYER/requests and so on."""
        return {f"role/{name}/{what}": number for name, player in self.players.items()
                for what, number in player.counts.items()}


ROLES = ("verifiers", "auditor", "probers", "teacher", "extractor", "critic")


def open_cast(config: Config, domain: Domain, sandbox=None, needed: tuple[str, ...] = ROLES[:3]) -> Cast:
    """Read --roles. Raises UserError, naming file and field, for anything that is not as described above.

    sandbox: where the domain runs the programs that models answer with, if it does. needed: the roles that a
    model must play where the domain has no programs for them.
    """
    cast = _read(config, domain.asking(sandbox))
    need(cast, config, domain, needed)
    return cast


def need(cast: Cast, config: Config, domain: Domain, roles: tuple[str, ...]) -> None:
    """Raise UserError when nobody plays one of the roles: neither a model nor the domain's programs."""
    missing = [role for role in roles if not getattr(cast, role)]
    if missing and not domain.verifiers:
        raise UserError(f"the domain {config.domain} has no programs for the roles {', '.join(missing)}; name models "
                        f"for them in {config.roles or 'a file and say --roles FILE'} (ap/players/cast.py shows how).")


def _read(config: Config, asking: Asking) -> Cast:
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

    place = cast.place = Place(config)

    def player(name: str, entry) -> Endpoint | Checkpoint:
        one = cast.players[name] = _player(f"{config.roles}, {name}", name, entry, config, place)
        if isinstance(one, Checkpoint) and name not in ("teacher", "extractor"):  # they speak when nobody trains
            place.expect(one.folder)
        return one

    def judge(name: str, entry) -> ChatVerifier:
        one = player(name, entry)
        return ChatVerifier(one.ask, **limit_of(one), **asking.verifier)

    def limit_of(one: Endpoint | Checkpoint) -> dict:
        # *Choice*: a local checkpoint has no time limit. It always ends, and waiting for its turn is not its fault.
        return {"seconds": None} if isinstance(one, Checkpoint) else {}

    cast.verifiers = [judge(f"verifier-{n}", entry) for n, entry in enumerate(record.get("verifiers", []), 1)]
    if "auditor" in record:
        cast.auditor = judge("auditor", record["auditor"])
    if "critic" in record:
        one = player("critic", record["critic"])
        cast.critic = ChatCritic(one.ask, **limit_of(one))
    for role in ("teacher", "extractor"):
        if role in record:
            setattr(cast, role, player(role, record[role]))
    for n, entry in enumerate(record.get("probers", []), 1):
        one = player(f"prober-{n}", entry)
        cast.probers.append(SampledSolver(f"prober-{n}", one.sample, **asking.solver, kept=one.kept_samples))
    return cast


def model_names(path: Path, revisions: str = "") -> dict[str, list[str]]:
    """The models of a --roles file by role, without addresses and folders, to be shown. Raises UserError."""
    def name(entry: dict) -> str:
        return entry.get("model") or shown(entry.get("checkpoint", "?"), revisions)

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
        folder = folder_of(entry["checkpoint"], config.revisions)
        return Checkpoint(folder, place, name=name, cache=config.folder / "replies", **options)
    if not entry.get("model"):
        raise UserError(f"{where}: an endpoint needs the name of its model.")
    options = {key: value for key, value in entry.items() if key not in ("endpoint", "model", "key")}
    return Endpoint(entry["endpoint"], entry["model"], entry.get("key", ""), config.folder / "replies", name,
                    EndpointSettings(**options))
