"""Stage 1: a library of skills out of a corpus.

    python run_skills.py [--name NAME] [--corpus FOLDER_OR_JSONL] [--tau_r 0.5]

A teacher reads the corpus and proposes candidate skills, each with a quality score r(k). Those with r(k) >= tau_r
become SKILL.md packages in OUT/NAME/skills; all of them, kept and rejected, are listed in candidates.jsonl there. The
examples for L_acq (extract a skill from a text that shows it) and, for a model made from scratch, the tokenizer are
made here too. Your own packages in the folder `--skills` are used beside the acquired ones.

The teacher is the domain's own program; in the domains math, code and science, which have none, it is the model that
--roles names. Where that file names an extractor, a trained proposer, it extracts the skills, asked as L_acq taught it,
and the teacher only scores them. Without a --corpus these use the packages in `--skills` alone, such as starter/math.
"""
from __future__ import annotations

import random
from pathlib import Path

from ap import domains
from ap.players.cast import ROLES, open_cast
from ap.world.chat import build_tokenizer
from ap.config import Config, UserError, parse_config, run_main, save_config
from ap.world.env import INSTRUCTIONS, ONE_SHOT, Env
from ap.files import write_jsonl
from ap.players.model_teacher import CheckedExtractor, ModelTeacher, chunks
from ap.learn.ranks import Ranks
from ap.world.skills import Document, Skill, acquire, acquisition_examples, load_library, read_corpus, write_library
from ap.mini.teacher import ScriptedTeacher
from ap.trajectory import STAGES
from ap.run import open_library

USES = (
    "preset", "name", "out", "seed", "domain", "model", "device", "vocab_size", "skills", "corpus", "corpus_size",
    "tau_r", "roles",
)


def build_skills(config: Config, ranks: Ranks) -> None:
    """Build what is missing of stage 1 in the run's folder. Only the main rank works; the others wait."""
    folder = config.folder / "skills"
    if (folder / "candidates.jsonl").exists():
        ranks.print(f"skills: found in {folder}")
    elif ranks.is_main:
        print(f"skills: none in {folder} yet, reading the corpus")
        domain = domains.get(config.domain)
        cast = open_cast(config, needed=ROLES[:4])
        documents = read_documents(config, domain)
        # *Choice*: where programs decide problems, skills are what they can read, so a program acquires them, too
        if not domain.VERIFIERS:
            documents, teacher = chunks(documents), ModelTeacher(cast.teacher, config.domain, cast.extractor)
        else:
            teacher = CheckedExtractor(cast.extractor, domain) if cast.extractor else ScriptedTeacher(domain)
        kept, rejected = acquire(teacher, documents, config.tau_r)
        if documents and not kept:
            reads = f"programs only read problems of the domain {config.domain}; " if domain.VERIFIERS else ""
            raise UserError(f"no skill reached tau_r = {config.tau_r} among {len(rejected)} candidates in this corpus; "
                            f"{reads}lower --tau_r or give another --corpus")
        examples = acquisition_examples(kept, documents)
        write_jsonl(
            config.folder / "acquisition.jsonl", [{"prompt": p, "completion": c} for p, c in examples])
        if not config.model:
            texts = [document.text for document in documents] + [text for example in examples for text in example]
            tokenizer = build_tokenizer(texts, constant_phrases(domain, [c.skill for c in kept]), config.vocab_size)
            tokenizer.save_pretrained(config.folder / "tokenizer")
        write_library(kept, rejected, folder)  # last: its candidates.jsonl says that the stage is complete
        print(f"skills: {len(kept)} kept, {len(rejected)} rejected, all listed in {folder / 'candidates.jsonl'}")
        cast.print_counts()
    ranks.barrier()


def read_documents(config: Config, domain) -> list[Document]:
    """D_corpus; its problems also lie in the run's corpus.jsonl, since they do not count as new.

    Without --corpus: the domain's own corpus; where there is none but the user has packages in --skills, nothing.
    """
    if config.corpus:
        documents = read_corpus(Path(config.corpus))
        records = [
            {"question": d.question, "answer": d.answer, "solution": d.solution} for d in documents if d.question]
    elif not domain.VERIFIERS and any(Path(config.skills).glob("*/SKILL.md")):
        if not config.model:
            raise UserError("a model made from scratch makes its tokenizer from the corpus; give --corpus, or --model")
        load_library([Path(config.skills)])  # refuses a package that cannot be read
        print(f"skills: no --corpus, so only the packages of {config.skills}")
        return []
    else:
        records = domain.make_corpus(config.corpus_size, random.Random(f"{config.seed}/corpus"))
        documents = [Document.from_record(record, f"corpus.jsonl, line {n}") for n, record in enumerate(records, 1)]
    write_jsonl(config.folder / "corpus.jsonl", records)
    return documents


def constant_phrases(domain, skills: list[Skill]) -> list[str]:
    """What stands word for word in every prompt: one token each in a tokenizer made from scratch."""
    env = Env(domain, {skill.name: skill for skill in skills}, None, Config())
    lines = [line for skill in skills for line in env.describe((skill.name,)).splitlines()]
    stages = [f"stage: {stage}" for stage in STAGES]
    names = [skill.name for skill in skills]
    return [INSTRUCTIONS, ONE_SHOT, domain.INSTRUCTIONS, "Active skills:\n", *names, *stages, *lines, *domain.PHRASES]


def main(argv: list[str]) -> None:
    config = parse_config(argv, __doc__, USES)
    with Ranks.start(config) as ranks:
        if ranks.is_main:
            save_config(config)
        build_skills(config, ranks)
        library, _ = open_library(config)  # refuses a package of --skills that cannot be used
        own = sum(skill.folder.parent == Path(config.skills) for skill in library.values())
        ranks.print(f"skills: {own or 'none'} of your own in {config.skills}")


if __name__ == "__main__":
    run_main(main)
