"""Stage 1: extract a library of skills from a corpus.

    python run_skills.py [--name NAME] [--corpus FOLDER_OR_JSONL] [--tau_r 0.5]

A teacher reads the corpus and proposes candidate skills, each with a quality score r(k). Those with r(k) >= tau_r
become SKILL.md packages in OUT/NAME/skills; candidates.jsonl there lists all of them, kept and rejected. This stage
also makes the examples for L_acq (extract a skill from a text that shows it) and, for a model made from scratch, the
tokenizer. Your own packages in the folder --skills are used together with the acquired ones.

The teacher is the domain's own program. The domains math, code and science have none; there it is the model that
--roles names. If that file names an extractor, a trained proposer, it extracts the skills, prompted as in L_acq, and
the teacher only scores them. Without --corpus, these domains use only the packages in --skills, such as starter/math.
"""
from __future__ import annotations

from pathlib import Path

from ap.catalog import open_domain
from ap.config import ModelSettings, RoleSettings, RunSettings, SkillSettings
from ap.learn.ranks import Ranks
from ap.prepare.skills import build_skills
from ap.run import open_library
from ap.tools.commandline import parse_config, run_main, save_config
from ap.tools.hub import with_models

USES = (RunSettings, ModelSettings, SkillSettings, RoleSettings)


def main(argv: list[str]) -> None:
    config = parse_config(argv, __doc__, USES)
    with Ranks.start(config) as ranks:
        config = with_models(config, ranks)
        if ranks.is_main:
            save_config(config)
        build_skills(config, ranks)
        library, _ = open_library(config, open_domain(config.domain))  # refuses an unusable package in --skills
        own = sum(skill.folder.parent == Path(config.skills) for skill in library.values())
        ranks.print(f"skills: {own or 'none'} of your own in {config.skills}")


if __name__ == "__main__":
    run_main(main)
