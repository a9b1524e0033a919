"""The comparisons of the paper as data: cells, tables, and claims that were written down before the runs.

A cell is a system: a name and its options of run_mgpo.py. Its name is that of its runs, so tables that share a cell
share its runs. A claim is about the table's first measure, paired by pi_ref and seed: the sum over the cells `plus`
minus the sum over the cells `minus` is more than 0. Two cells on each side make an interaction.

bench/tables.py runs them. The number of runs of each cell is fixed here, and a verdict needs all of them: nobody stops
when the result looks good. (*Choice*: three seeds and a pooled spread. A first plan of eight seeds and sign tests would
have taken two cores twenty hours; it was given up before its first table was finished, and the runs of this one were
begun anew.) No setting was tuned on these runs: each algorithm has the best of the learning rates that were tried on
seeds 0 and 1 of another pi_ref (RESULTS.md).
"""
from __future__ import annotations

from dataclasses import dataclass

from ap.config import Config
from ap.tools.commandline import FIELDS

RULE = (
    "Rule: a claim is *seen* where the mean difference is above 0 with each pi_ref and Holm's adjusted p is at most "
    "0.05, by Student's t beside the spread of runs pooled over the table (bench/pooled.py). It is *opposite* where the "
    "same holds below 0, and else *not seen*. Until every planned pair is there it is *unfinished*.")
ALPHA = 0.05


@dataclass(frozen=True)
class Cell:
    """A system to be run. script: the program, with its own first words. own: it has a pi_ref, and so experts, of its
    own, which are made with the same options: what it is about shapes the expert episodes, too. file: of bench/data.py,
    that the solver learns from."""

    name: str
    options: tuple[str, ...] = ()
    script: tuple[str, ...] = ("run_mgpo.py",)
    own: bool = False
    file: str = ""


@dataclass(frozen=True)
class Claim:
    text: str
    plus: tuple[str, ...]
    minus: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """cells: names, the most telling first, for they run in this order. measures: numbers of bench/runs.py, whose first
    one decides. references: how many pi_ref, each with all the seeds."""

    name: str
    title: str
    hypothesis: str
    cells: tuple[str, ...]
    claims: tuple[Claim, ...]
    seeds: int = 3
    references: int = 1
    measures: tuple[str, ...] = ("after/valid_rate", "after/reward", "after/hard_yield")
    left_out: str = ""


def _cells(options: dict[str, str], **common) -> dict[str, Cell]:
    return {name: Cell(name, tuple(text.split()), **common) for name, text in options.items()}


def _above(first: str, *others: str) -> tuple[Claim, ...]:
    return tuple(Claim(f"{first} > {other}", (first,), (other,)) for other in others)


GATES = {"asymmetric": "", "symmetric": "--gate symmetric", "off": "--gate off", "clip": "--algorithm grpo-fused",
         "token": "--gate_ratio token"}
SLOW = {gate: f"{options} --lr 5e-4".strip() for gate, options in GATES.items()}  # the clip's own rate
GATED_UPDATES = {8: tuple(GATES), 4: ("asymmetric", "off", "clip", "token"), 2: ("asymmetric", "off")}  # that are run
GATED = ("after/valid_rate", "after/reward", "train/log_ratio_abs", "train/gate_pos", "train/gate_neg")
SOLVER = ("run_solver.py",)
TURNS = (4, 8, 24)  # beside the default, 16
REWARDS = {f"reward-{name}": f"--reward {name}" for name in FIELDS["reward"].metadata["choices"]
           if name not in (Config.reward, "mathsmith")} if "reward" in FIELDS else {}

CELLS = {
    **_cells({
        "mgpo": "",
        "mgpo-no-stage": "--omega 0",
        "grpo": "--algorithm grpo --lr 5e-4",
        "grpo-fused": "--algorithm grpo-fused --lr 5e-4",
        "grpo-summed": "--algorithm grpo-summed --lr 5e-4",
        "mgpo-placebo": "--placebo true",
        "mgpo-no-implicit-reward": "--implicit_reward false",
        **{f"{gate}-{updates}": f"{SLOW[gate]} --updates {updates}" for updates, gates in GATED_UPDATES.items()
           for gate in gates},
        **{f"omega-{omega}": f"--omega {omega}" for omega in ("0.25", "1", "2")},
        **{f"mgpo-{turns}-turns": f"--max_turns {turns}" for turns in TURNS},
        **{f"mgpo-no-stage-{turns}-turns": f"--omega 0 --max_turns {turns}" for turns in TURNS},
        **REWARDS,
    }),
    **_cells({"grpo-scaled": "--algorithm grpo --lr 5e-4"}, script=("bench/variants.py", "scaled")),
    **_cells({"mgpo-random-edit": ""}, script=("bench/variants.py", "random-edit")),
    **_cells({**{f"stale-{gate}": options for gate, options in (GATES | {"clip": SLOW["clip"]}).items()},
              **{f"stale-{gate}-slow": SLOW[gate] for gate in ("asymmetric", "off")}},
             script=("bench/variants.py", "stale")),
    **_cells({
        "mgpo-one-shot": "--one_shot true",
        "mgpo-tool": "--actions exec,submit",
        "mgpo-no-edit": "--actions think,exec,submit",
        "mgpo-no-exec": "--actions think,edit,submit",
        "mgpo-no-edit-24-turns": "--actions think,exec,submit --max_turns 24",
        "mgpo-no-edit-few-skills": "--actions think,exec,submit --skills_max 3",
    }, own=True),
    **{name: Cell(name, script=("bench/critic.py", name)) for name in ("none", "1", "0.9", "0.7", "0.5")},
    **_cells({"hardness-4": "--hardness 4"}),
    **_cells({"sizes": "", "sizes-4": "--hardness 4"}, script=("bench/harder.py",)),
    **_cells({"rare": "", "rare-4": "--hardness 4"}, script=("bench/harder.py", "rare")),
    **_cells({
        "proposer": "--solver_arm proposer",
        "random": "--solver_arm random",
        "proposer-sft": "--solver_arm proposer-sft --solver_learn sft",
        "surrogate": "--solver_arm surrogate --solver_reward surrogate",
        "laser": "--solver_arm laser --solver_reward laser",
        "replay": "--solver_arm replay --solver_replay 4",
        "ulorl": "--solver_arm ulorl --solver_tokens ulorl",
        "entropy": "--solver_arm entropy --solver_tokens entropy",
    }, script=SOLVER),
    **{name: Cell(name, ("--solver_arm", name), SOLVER, file=f"{name}.jsonl")
       for name in ("one-shot", "agentic", "mathsmith")},
    **{f"{name}-sft": Cell(f"{name}-sft", ("--solver_arm", f"{name}-sft", "--solver_learn", "sft"), SOLVER,
                           file=f"{name}.jsonl") for name in ("random", "one-shot", "agentic")},
}

TABLES = (
    Table(
        "rl", "The algorithms",
        "MGPO makes more valid problems than MGPO without stage advantage, and this more than GRPO. Each further cell "
        "answers a doubt. Placebo: is any noise in the advantages as good? Summed: is process reward just more reward? "
        "Fused: is it the loss, or the advantages? Scaled: are the fused advantages just larger?",
        ("mgpo", "grpo", "mgpo-no-stage", "mgpo-placebo", "grpo-fused", "grpo-summed", "grpo-scaled"),
        _above("mgpo", "grpo", "mgpo-no-stage", "mgpo-placebo", "grpo-fused", "grpo-summed", "grpo-scaled")
        + _above("mgpo-no-stage", "grpo") + _above("grpo-fused", "grpo"),
        seeds=4, references=2, measures=("after/valid_rate", "after/reward", "after/hard_yield", "last/kl_to_ref"),
        left_out="The learning rates were swept on two seeds, and not those of all cells."),
    Table(
        "gates", "The gates",
        "At one update a rollout the ratio is 1 and every gate is open. With 8, the asymmetric gate is better than the "
        "symmetric one, than none, and than PPO's clip (GRPO's loss on the same advantages). By arithmetic a mean over "
        "an action's tokens hardly leaves 1; the ratio of each token does (token). All have the clip's own learning "
        "rate, since at MGPO's, which is twice as large, the first cells had ended at 0.",
        tuple(f"{gate}-8" for gate in ("asymmetric", "token", "off", "clip", "symmetric")),
        _above("asymmetric-8", "off-8", "clip-8", "symmetric-8", "token-8") + _above("token-8", "off-8"),
        seeds=5, measures=GATED, left_out="MGPO's own learning rate, but for single seeds in RESULTS.md."),
    Table(
        "gates-fewer", "The gates, with fewer updates a rollout",
        "With 1, 2 and 4 updates the gates matter less than with 8.",
        ("mgpo", "asymmetric-8", "off-8",
         *(f"{gate}-{updates}" for updates in (2, 4) for gate in GATED_UPDATES[updates])),
        (Claim("asymmetric - off grows from 2 to 8 updates", ("asymmetric-8", "off-2"), ("off-8", "asymmetric-2")),
         *_above("asymmetric-4", "off-4", "clip-4", "token-4")),
        measures=GATED,
        left_out="The symmetric gate at 2 and 4 updates, the token gate and the clip at 2. With one update mgpo has "
        "its own learning rate, twice that of the others."),
    Table(
        "stale", "The gates, with rollouts that are a step old",
        "Where rollouts are of the policy of a step before, a ratio is not 1 even at the only update. There the "
        "asymmetric gate is better than the symmetric one, than none, and than PPO's clip. The cells at the clip's own "
        "learning rate (slow) and their claims were added when the first of the others had ended at 0.",
        ("stale-asymmetric", "stale-off", "stale-clip", "stale-asymmetric-slow", "stale-off-slow", "stale-token",
         "stale-symmetric", "mgpo"),
        (*_above("stale-asymmetric", "stale-off", "stale-clip", "stale-token", "stale-symmetric"),
         *_above("stale-asymmetric-slow", "stale-off-slow", "stale-clip")),
        measures=GATED, left_out="Rollouts that are several steps old."),
    Table(
        "workflow", "What the steps of the workflow are worth",
        "Each step adds valid problems: programs to the single message, reflection to these, editing to both. "
        "(*Choice*: the paper's rows are read as one growing series.) Each has experts and a pi_ref of its own.",
        ("mgpo", "mgpo-one-shot", "mgpo-tool", "mgpo-no-edit", "mgpo-no-exec"),
        (Claim("full > one shot", ("mgpo",), ("mgpo-one-shot",)),
         Claim("+ tool > one shot", ("mgpo-tool",), ("mgpo-one-shot",)),
         Claim("+ reflection > + tool", ("mgpo-no-edit",), ("mgpo-tool",)),
         Claim("full > + reflection", ("mgpo",), ("mgpo-no-edit",)),
         Claim("full > without programs", ("mgpo",), ("mgpo-no-exec",))),
        measures=("after/valid_rate", "after/reward", "before/valid_rate", "after/turns"),
        left_out="The solvers that learn from their problems, by which the paper compares them."),
    Table(
        "pruning", "Editing the skills",
        "Editing makes more problems valid than redrawing does, also when there are more turns to redraw in, when the "
        "episodes begin with few skills, as pruned ones end, and when as many edits remove a skill at random.",
        ("mgpo", "mgpo-no-edit", "mgpo-random-edit", "mgpo-no-edit-24-turns", "mgpo-no-edit-few-skills"),
        _above("mgpo", "mgpo-no-edit", "mgpo-random-edit", "mgpo-no-edit-24-turns", "mgpo-no-edit-few-skills"),
        measures=("after/valid_rate", "after/valid_rate/2", "after/skills_kept", "after/exec_calls",
                  "after/outcome/turn_limit", "after/outcome/token_limit", "before/valid_rate"),
        left_out="Few skills are evaluated on skill sets of 2 and 3. Random edits begin from the pi_ref of mgpo, whose "
        "experts choose."),
    Table(
        "omega", "The weight of the stage advantage", "omega = 0.5 (mgpo) is best, as in the paper.",
        ("mgpo", "mgpo-no-stage", "omega-1", "omega-0.25", "omega-2"),
        _above("mgpo", "mgpo-no-stage", "omega-1", "omega-0.25", "omega-2")),
    Table(
        "horizon", "The length of episodes",
        "The longer the episodes may be, the more the stage advantages help, for then a single terminal reward says "
        "less about each action.",
        ("mgpo", "mgpo-no-stage", *(f"{name}-{turns}-turns" for turns in TURNS for name in ("mgpo", "mgpo-no-stage"))),
        (Claim("mgpo > mgpo-no-stage at 24 turns", ("mgpo-24-turns",), ("mgpo-no-stage-24-turns",)),
         Claim("the lead grows from 4 to 16 turns", ("mgpo", "mgpo-no-stage-4-turns"),
               ("mgpo-no-stage", "mgpo-4-turns")),
         Claim("the lead grows from 8 to 24 turns", ("mgpo-24-turns", "mgpo-no-stage-8-turns"),
               ("mgpo-no-stage-24-turns", "mgpo-8-turns"))),
        measures=("after/valid_rate", "after/reward", "after/turns", "after/outcome/turn_limit",
                  "after/outcome/token_limit")),
    Table(
        "rewards", "The rewards of the proposer",
        "The paper's r_T makes more problems that are valid and hard (0 < rho < 0.5) than other systems' rewards.",
        ("mgpo", *REWARDS), _above("mgpo", *REWARDS),
        measures=("after/hard_yield", "after/valid_rate", "after/pass_rate", "after/skills_kept", "last/repeated_rate"),
        left_out="" if REWARDS else "This version has no other reward (--reward)."),
    Table(
        "harder", "A world in which a problem can be made harder at no risk",
        "In the miniature hardness lies only in which skills are kept, and a larger bonus (lambda = 4) does not make "
        "problems harder. Where the probers slip more often at larger numbers (sizes), it does, at an equal share of "
        "valid problems; and also where, besides, conflicts are rare.",
        ("sizes-4", "sizes", "mgpo", "hardness-4", "rare-4", "rare"),
        _above("sizes-4", "sizes") + _above("rare-4", "rare") + _above("hardness-4", "mgpo") + (
            Claim("the bonus does more in the world of sizes", ("sizes-4", "mgpo"), ("sizes", "hardness-4")),),
        measures=("after/hard_yield", "after/pass_rate", "after/valid_rate", "after/skills_kept", "before/hard_yield"),
        left_out="What these problems teach a solver. The worlds share pi_ref, which is of the miniature."),
    Table(
        "critic", "What a critic is worth",
        "The miniature with its exact check hidden from the process rewards, as where only models can judge a draft. "
        "A critic that is right with probability p helps if it is always right, and does harm if it is often "
        "wrong; mgpo is the miniature as it is.",
        ("none", "1", "0.5", "mgpo", "0.7", "0.9"),
        (Claim("p = 1 > none", ("1",), ("none",)), Claim("none > p = 0.5", ("none",), ("0.5",)),
         Claim("p = 0.9 > p = 0.7", ("0.9",), ("0.7",)), Claim("the exact check > none", ("mgpo",), ("none",))),
        measures=("after/valid_rate", "after/reward", "train/critic/agrees", "train/signal/all")),
    Table(
        "data", "The data of the solver",
        "At an equal budget a solver learns more from the proposer's problems than from random valid ones (whose draws "
        "were repeated until the tool passed them), and than from those of other systems; more by GRPO than by "
        "imitating solutions; and more from right answers than from those that nobody checked: by bench/product_law.py "
        "0.02 to 0.05 between a third of them and all.",
        ("proposer", "random", "one-shot", "agentic", "mathsmith", "proposer-sft", "random-sft", "one-shot-sft",
         "agentic-sft"),
        _above("proposer", "random", "one-shot", "agentic", "mathsmith", "proposer-sft")
        + _above("proposer-sft", "random-sft", "one-shot-sft", "agentic-sft"),
        measures=("end/in_distribution/mean", "end/deeper/mean", "start/in_distribution/mean", "start/deeper/mean"),
        left_out="Random problems with the proposer's own numbers of skills or pass rates. A seed's arms share its "
        "proposer, and all seeds the start of their solver."),
    Table(
        "solver", "How the solver learns from the same problems",
        "A reward of right answers teaches more than one of format and length alone (surrogate, which never sees the "
        "truth); a bonus for short answers, replay in place of groups without signal, and other weights of tokens "
        "change little at this size.",
        ("proposer", "surrogate", "replay", "laser", "ulorl", "entropy"),
        _above("proposer", "surrogate") + tuple(
            Claim(f"{arm} > proposer", (arm,), ("proposer",)) for arm in ("replay", "laser", "ulorl", "entropy")),
        measures=("end/in_distribution/mean", "end/deeper/mean", "start/in_distribution/mean", "start/deeper/mean"),
        left_out="LASER-D and LASER-DE, AdaCtrl (its tag must be taught first), IcePop and IPO (in float32 they do "
        "nothing)."),
)

# A proposer of this size writes a valid problem in about one of twenty episodes, which is enough for the solver's arms.
QUICK = """\
--corpus_size 150 --hidden_size 64 --layers 2 --heads 2 --intermediate_size 128 --skills_max 2 --eval_sets 8
--sft_trajectories 300 --sft_steps 500 --sft_batch 8 --acq_batch 2 --sft_lr 5e-3 --groups 8 --group_size 2
--steps 2 --solver_budget 2
--solver_sft_steps 4 --solver_sft_batch 4 --solver_steps 2 --solver_groups 2 --solver_group_size 2 --solver_eval 4
--solver_eval_k 2 --solver_max_tokens 64""".split()
