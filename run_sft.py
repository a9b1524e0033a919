"""Stage 2: agentic SFT on expert episodes, which gives the reference policy pi_ref.

    torchrun run_sft.py [--name NAME] [--sft_trajectories 3000] [--sft_steps 900]

A teacher, the model that --roles names or else the domain's program, plays episodes in the real environment, with real
tool calls. Those whose problem passes the verifier (V(q) = 1) are kept; the rest are counted by reason and, if the
teacher is a model, listed in expert_rejected.jsonl. The policy is trained on every token that the teacher wrote, and on
none that the environment wrote (L_SFT). At the same time it learns to extract skills from texts (L_acq).
"""
from __future__ import annotations

from ap.learn.ranks import Ranks
from ap.prepare.reference import build_reference
from ap.tools.commandline import parse_config, run_main, save_config
from ap.tools.hub import with_models
from ap.tools.plan import dry_run


def main(argv: list[str]) -> None:
    config = parse_config(argv, __doc__)
    if config.dry_run:
        return dry_run(config)
    with Ranks.start(config) as ranks:
        config = with_models(config, ranks)
        if ranks.is_main:
            save_config(config)
        build_reference(config, ranks)


if __name__ == "__main__":
    run_main(main)
