"""Stage 1: a library of skills from a corpus, the examples for L_acq, and a tokenizer for a model from scratch."""
from __future__ import annotations

import random
from pathlib import Path

from ap.catalog import open_domain
from ap.config import Config
from ap.files import UserError, write_jsonl
from ap.learn.ranks import Ranks
from ap.mini.teacher import ScriptedTeacher
from ap.mini.tokenizer import build_tokenizer, constant_phrases
from ap.players.cast import ROLES, open_cast
from ap.players.model_teacher import CheckedExtractor, ModelTeacher, chunks
from ap.players.notes import Notes
from ap.tools.corpus import read_corpus
from ap.tools.costs import stage
from ap.world.acquire import Document, acquire, acquisition_examples, candidate_records, write_library
from ap.world.skills import load_library


def build_skills(config: Config, ranks: Ranks) -> None:
    """Build what is missing of stage 1 in the run's folder. Only the main rank works; the others wait."""
    folder = config.folder / "skills"
    if (folder / "candidates.jsonl").exists():
        ranks.print(f"skills: found in {folder}")
    elif ranks.is_main:
        print(f"skills: none in {folder} yet, reading the corpus")
        domain = open_domain(config.domain)
        documents = read_documents(config, domain)
        cast = open_cast(config, domain, needed=ROLES[:4] if documents else ROLES[:3])  # a teacher, if there are texts
        # *Choice*: where programs judge problems, skills must be such as programs can read, so a program extracts them
        partial = folder / "candidates.partial.jsonl"  # what there is while the stage runs, and after it failed
        if not domain.verifiers:
            teacher = ModelTeacher(cast.teacher, config.domain, cast.extractor, Notes(partial))
            documents = chunks(documents)
        else:
            teacher = CheckedExtractor(cast.extractor, domain) if cast.extractor else ScriptedTeacher(domain)
        with stage("skills", config, Ranks(), cast.players):
            kept, rejected = acquire(teacher, documents, config.tau_r)
        if documents and not kept:
            write_jsonl(partial, candidate_records(kept, rejected))
            reads = f"programs only read problems of the domain {config.domain}; " if domain.verifiers else ""
            raise UserError(f"no skill reached tau_r = {config.tau_r} among {len(rejected)} candidates in this corpus; "
                            f"{reads}see {partial}; lower --tau_r or give another --corpus")
        examples = acquisition_examples(kept, documents)
        write_jsonl(
            config.folder / "acquisition.jsonl", [{"prompt": p, "completion": c} for p, c in examples])
        if not config.model:
            texts = [document.text for document in documents] + [text for example in examples for text in example]
            tokenizer = build_tokenizer(texts, constant_phrases(domain, [c.skill for c in kept]), config.vocab_size)
            tokenizer.save_pretrained(config.folder / "tokenizer")
        write_library(kept, rejected, folder)  # last: its candidates.jsonl says that the stage is complete
        partial.unlink(missing_ok=True)
        print(f"skills: {len(kept)} kept, {len(rejected)} rejected, all listed in {folder / 'candidates.jsonl'}")
    ranks.barrier()


def read_documents(config: Config, domain) -> list[Document]:
    """D_corpus. Its problems are also written to the run's corpus.jsonl, since they do not count as new problems.

    Without --corpus it is the domain's own corpus, or empty if there is none but the user has packages in --skills.
    """
    if config.corpus:
        documents = read_corpus(Path(config.corpus))
        records = [
            {"question": d.question, "answer": d.answer, "solution": d.solution} for d in documents if d.question]
    elif not domain.verifiers and any(Path(config.skills).glob("*/SKILL.md")):
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
