"""An opened run: everything that its stages share, made from the run's settings and folder."""
from __future__ import annotations

from functools import partial
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ap.catalog import open_domain
from ap.compat.chat_format import format_of
from ap.compat.hub import folder_of
from ap.config import Config
from ap.domains.base import Domain
from ap.files import UserError, read_jsonl
from ap.judge.prober import Prober
from ap.judge.verifier import Committee, ProgramCheck, ProgramVerifier, same_answer
from ap.mini.solvers import program_pool
from ap.players.cast import open_cast
from ap.sandbox.processes import Processes
from ap.sandbox.sandbox import Sandbox
from ap.world.curriculum import Curriculum, split_skill_sets
from ap.world.env import Env
from ap.world.skills import Skill, load_library


def open_library(config: Config, domain: Domain) -> tuple[dict[str, Skill], tuple[str, ...]]:
    """Load the acquired skills and the user's own, and make them known to the domain. Returns the library, and the
    modules of these skills that the sandbox should preload."""
    own = [Path(config.skills)] if any(Path(config.skills).glob("*/SKILL.md")) else []
    if not own and config.skills != Config.skills:
        raise UserError(f"--skills {config.skills}: no package there; a skill is a folder NAME with a SKILL.md in it")
    acquired = config.source / "skills"
    none = own and not any(acquired.glob("*/SKILL.md"))
    library = load_library([*([] if none else [acquired]), *own])
    return library, domain.learn(_packages(library))


def _packages(library: dict[str, Skill]) -> dict[str, Path]:
    return {skill.name: skill.folder for skill in library.values()}


class Run:
    """An opened run: domain, library, sandbox, environment, committee, prober, curriculum, evaluation sets.

    A context manager, because it owns processes that must be ended: the sandbox and the workers for our own programs.
    `eval_sets` are the fixed skill sets that training never draws, `known` the canonical forms of the corpus's
    problems, which do not count as new. `fixed_prober` is always the weakest of the pool, so that the evaluations
    before and after training use the same one.
    """

    def __init__(self, config: Config):
        self.domain = open_domain(config.domain)
        self.library, modules = open_library(config, self.domain)
        self.sandbox = self._open_sandbox(config, modules)
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder_of(config.model, config.revisions) or config.source / "tokenizer", local_files_only=True)
        self._open_programs()
        self.env = Env(
            self.domain, self.library, self.sandbox, config, self._look, format_of(self.tokenizer).reply)
        self.cast = open_cast(config, self.domain, self.sandbox)
        self._open_judges(config)
        sizes = range(config.skills_min, config.skills_max + 1)
        self.eval_sets, held_out = split_skill_sets(sorted(self.library), sizes, config.eval_sets, seed=0)
        self.curriculum = Curriculum(self.library, sizes, held_out, config.mastery_alpha, config.mastery_eps)
        corpus = config.source / "corpus.jsonl"
        records = read_jsonl(corpus) if corpus.exists() else []
        self.known = frozenset(self.domain.canonical(record["question"]) for record in records)

    def _open_sandbox(self, config: Config, modules: tuple[str, ...]) -> Sandbox:
        """The sandbox for the agent's programs, which may import the scripts of the domain and of the skills."""
        scripts = [skill.scripts for skill in self.library.values() if skill.scripts.is_dir()]
        return Sandbox(
            [*self.domain.scripts, *scripts], timeout=config.exec_timeout, preload=(*self.domain.preload, *modules),
            allow_unsafe=config.allow_unsafe_exec)

    def _open_programs(self) -> None:
        """Set how the domain's own programs are called: in worker processes if they judge, since they compute a lot.

        If models judge, a look or an audit only waits for the agent's programs that it may run in the sandbox.
        """
        domain = self.domain
        if domain.verifiers:
            self.processes = Processes(setup=(type(domain).opened, _packages(self.library)), own=domain)
            self._look, self._audit, self._canonical = (
                partial(self.processes.call, method) for method in (domain.look, domain.audit, domain.canonical))
        else:
            self.processes = Processes()
            self._look, self._audit = (
                partial(method, sandbox=self.sandbox) for method in (domain.look, domain.audit))
            self._canonical = domain.canonical

    def _open_judges(self, config: Config) -> None:
        """Make the committee and the probers: models for the roles that --roles names, else the domain's programs. No
        program is a critic: without a model there is none."""
        domain, cast, call = self.domain, self.cast, self.processes.call
        same = partial(same_answer, call=call)
        self.committee = Committee(
            cast.verifiers or [ProgramVerifier(partial(call, solve)) for solve in domain.verifiers],
            cast.auditor or ProgramVerifier(partial(call, domain.auditor)), ProgramCheck(self._audit), self._canonical,
            same)
        self.critic = cast.critic and cast.critic.shown(self.env.describe)
        pool = cast.probers or program_pool(domain, call=call)
        options = {"window": config.prober_window, "same": domain.asking(self.sandbox).same or same}
        self.prober = Prober(pool, config.prober_k, config.pass_rate, floor=config.prober_floor, **options)
        self.fixed_prober = Prober(pool[:1], config.prober_k, "rate", floor=0.0, **options)

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_) -> None:
        self.sandbox.close()
        self.processes.close()
