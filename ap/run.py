"""Everything that the stages share, opened from a run's folder: the environment, and who plays which role."""
from __future__ import annotations

from functools import partial
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ap import domains
from ap.players.cast import open_cast
from ap.config import Config, UserError
from ap.world.env import Env
from ap.files import read_jsonl
from ap.judge.prober import Prober, program_pool
from ap.engine.processes import Processes
from ap.sandbox.sandbox import Sandbox
from ap.world.skills import Curriculum, Skill, load_library, split_skill_sets
from ap.judge.verifier import Committee, ProgramCheck, ProgramVerifier, same_answer


def open_library(config: Config) -> tuple[dict[str, Skill], tuple[str, ...]]:
    """The acquired skills and the user's own, now known to the domain; and the modules of theirs that programs need."""
    own = [Path(config.skills)] if any(Path(config.skills).glob("*/SKILL.md")) else []
    if not own and config.skills != Config.skills:
        raise UserError(f"--skills {config.skills}: no package there; a skill is a folder NAME with a SKILL.md in it")
    acquired = config.source / "skills"
    none = own and (acquired / "candidates.jsonl").exists() and not any(acquired.glob("*/SKILL.md"))
    library = load_library([*([] if none else [acquired]), *own])
    return library, domains.get(config.domain).learn({skill.name: skill.folder for skill in library.values()})


class World:
    """A context manager, since processes are behind it: the sandbox, and those in which our own programs calculate.

    `eval_sets` are the fixed skill sets that training never draws; `known` the canonical forms of the corpus's
    problems, which do not count as new. `fixed_prober` is the weakest of the pool for good, so that before and after
    are measured by the same one.
    """

    def __init__(self, config: Config):
        self.domain = domain = domains.get(config.domain)
        self.library, modules = open_library(config)
        scripts = [skill.scripts for skill in self.library.values() if skill.scripts.is_dir()]
        self.sandbox = Sandbox(
            [*domain.SCRIPTS, *scripts], timeout=config.exec_timeout, preload=(*domain.PRELOAD, *modules),
            allow_unsafe=config.allow_unsafe_exec)
        if domain.VERIFIERS:  # programs judge: what they calculate, they calculate in processes of their own
            packages = {skill.name: skill.folder for skill in self.library.values()}
            self.processes = Processes(setup=(domain.learn, packages))
            look, audit, canonical = (
                partial(self.processes.call, function) for function in (domain.look, domain.audit, domain.canonical))
        else:  # a look or an audit may run the agent's programs in the sandbox, and only waits
            self.processes = Processes()
            look, audit = (partial(function, sandbox=self.sandbox) for function in (domain.look, domain.audit))
            canonical = domain.canonical
        call = self.processes.call
        self.env = Env(domain, self.library, self.sandbox, config, look)
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            config.model or config.source / "tokenizer", local_files_only=True)
        self.cast = cast = open_cast(config, self.sandbox)
        same = partial(same_answer, call=call)
        self.committee = Committee(
            cast.verifiers or [ProgramVerifier(partial(call, solve)) for solve in domain.VERIFIERS],
            cast.auditor or ProgramVerifier(partial(call, domain.AUDITOR)), ProgramCheck(audit), canonical, same)
        pool = cast.probers or program_pool(domain, call=call)
        options = {"window": config.prober_window, "same": domains.asking(config.domain, self.sandbox).same or same}
        self.prober = Prober(pool, config.prober_k, config.pass_rate, floor=config.prober_floor, **options)
        self.fixed_prober = Prober(pool[:1], config.prober_k, "rate", floor=0.0, **options)
        sizes = range(config.skills_min, config.skills_max + 1)
        self.eval_sets, held_out = split_skill_sets(sorted(self.library), sizes, config.eval_sets, seed=0)
        self.curriculum = Curriculum(self.library, sizes, held_out, config.mastery_alpha, config.mastery_eps)
        corpus = config.source / "corpus.jsonl"
        records = read_jsonl(corpus) if corpus.exists() else []
        self.known = frozenset(domain.canonical(record["question"]) for record in records)

    def __enter__(self) -> "World":
        return self

    def __exit__(self, *_) -> None:
        self.sandbox.close()
        self.processes.close()
