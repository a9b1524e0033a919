"""A run as one page to look at: before and after, curves, and every turn of the trajectories that were kept.

The page is one file without any outside reference: it opens from file://, on a train, in ten years. It can be written
at any time; what a run has not made yet is named as missing. What a model wrote is never markup: it lies in a JSON
block with all of < > & escaped, and the script puts it on the page as text nodes only. A content policy in the page
forbids the rest: no fetches, no frames, no images.
"""
from __future__ import annotations

import json
import math
import os
from html import escape
from pathlib import Path
from typing import Any, Iterable, Sequence

from ap.config import UserError
from ap.evaluation import paired_difference
from ap.trajectory import STAGES

MAX_POINTS = 200  # of a curve; longer ones are averaged in equal parts
MAX_TRAJECTORY_CHARS = 500_000  # of JSON in the page, so that it stays quick to open
MAX_PROBLEMS = 12  # shown, hardest first

# (title, {metric: name in the legend}, what it means): the small multiples, in this order.
CURVES = (
    ("Valid problems", {"valid_rate": "valid"},
     "Share of episodes that end with a problem that all verifiers accept and that is new. The first thing to learn."),
    ("Reward", {"reward": "r_T"},
     "Mean terminal reward. An invalid problem earns 0, an easy one R_base, a hard but solvable one up to "
     "R_base + lambda."),
    ("Pass rate", {"pass_rate": "rho"},
     "How often the prober solves the valid problems. Falling means harder problems; 0 is never paid as hard."),
    ("Process reward by stage", {f"process_reward/{stage}": stage for stage in STAGES},
     "Mean r_proc of the actions taken in each stage, from -1 to +1. MGPO compares actions within a stage, so the "
     "level of a curve gives no credit, only differences do."),
    ("What it does", {"exec_rate": "runs code", "edit_rate": "edits skills", "think_rate": "thinks",
                      "checked_rate": "submits checked"},
     "Share of episodes that do it at least once. A jump shows which habit the rewards are paying for."),
    ("Truncated episodes", {"outcome/token_limit": "token limit", "outcome/turn_limit": "turn limit",
                            "outcome/unusable": "unusable message"},
     "Share of episodes that never submit, by what ended them. They earn 0 whatever they held, so limits that are too "
     "tight look like a bad policy."),
    ("Entropy", {"entropy": "entropy"},
     "Mean uncertainty about the next token, in nats. Falling to 0 is collapse: all trajectories of a group become the "
     "same and nothing is left to compare."),
    ("KL to the reference", {"kl_to_ref": "KL"},
     "How far the policy has moved from the model that SFT left, per token. It grows; a sudden rise is a warning."),
    ("Gate by sign", {"gate_pos": "w > 0", "gate_neg": "w <= 0"},
     "Mean of the sech^2 factor. 1 is open; it closes on actions whose probability has moved since they were sampled, "
     "sooner for those that are pushed down."),
    ("Dead groups", {"dead_groups": "dead"},
     "Share of groups whose rewards are all equal: they teach nothing at the level of episodes."),
    ("Length", {"tokens": "tokens"},
     "Tokens of an episode, prompt included. Growth without reward is a habit, not skill."),
    ("Tokens per second", {"tokens_per_second/rollout": "rollout", "tokens_per_second/update": "update"},
     "Speed of the two halves of a step."),
)
SFT_CURVES = (
    ("SFT loss", {"loss": "loss"},
     "Stage 2: mean negative log-likelihood of expert actions (and of skill extraction), per token."),
)
TABLE = (  # metric, what it is, the evaluation's list with one value an episode
    ("valid_rate", "valid problems, share of episodes", "valid"),
    ("reward", "terminal reward, mean", "reward"),
    ("hard_yield", "valid and solved by the prober in less than half of its tries", None),
    ("pass_rate", "pass rate of the valid problems", None),
    ("skills_kept", "skills in a valid problem", None),
    ("checked_rate", "episodes that submit what a check passed", None),
    ("edit_rate", "episodes that edit the skills", None),
    ("exec_calls", "programs run, per episode", None),
    ("tokens", "tokens, per episode", None),
)


def write_report(folder: Path) -> Path:
    """Write FOLDER/report.html from what lies in FOLDER; returns its path.

    Reads config.json, metrics.jsonl and sft_metrics.jsonl (one object a step, with its `step`), evaluation_before.json
    and evaluation_after.json, problems.jsonl, trajectories.jsonl (rollout.transcript's records with `step` and
    `phase`). Each may be missing. Raises UserError for a folder that is not there, and for a file that is not JSON,
    with the line; a last line without its end is being written, and passed over.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such run; give the folder OUT/NAME of one")
    config = _json(folder / "config.json") or {}
    evaluation = {phase: _json(folder / f"evaluation_{phase}.json") for phase in ("before", "after")}
    metrics, sft = _records(folder / "metrics.jsonl"), _records(folder / "sft_metrics.jsonl")
    transcripts = [t for record in evaluation.values() if record for t in record.get("transcripts", ())]
    transcripts += _records(folder / "trajectories.jsonl")
    shown = choose(transcripts)
    series = {"metrics": averaged(metrics), "sft": averaged(sft)}
    done = max((int(record.get("step", 0)) for record in metrics), default=0)
    facts = [f"{name} {config[name]}" for name in ("algorithm", "preset", "seed") if name in config]
    facts.append(f"{done} of {config['steps']} steps" if "steps" in config else f"{done} steps")
    page = PAGE.format(
        title=escape(folder.resolve().name),
        facts=escape(" · ".join(facts)), table=_table(evaluation), curves=_curves(series),
        problems=_problems(_records(folder / "problems.jsonl")),
        kept=escape(f"{len(shown)} of {len(transcripts)} recorded trajectories are in this page." if transcripts else
                    "Missing: trajectories.jsonl is not there yet, or empty."),
        settings=_settings(config), style=STYLE, script=SCRIPT,
        data=inert({"stages": STAGES, "series": series, "trajectories": shown}),
    )
    path = folder / "report.html"
    temporary = path.with_name(".report.html.tmp")
    temporary.write_text(page, encoding="utf-8", errors="xmlcharrefreplace")
    os.replace(temporary, path)
    return path


# ------------------------------------------------------------------------------------------------------ data


def _json(path: Path) -> Any:
    """The file's value, or None when there is no file."""
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); correct or delete the file") from None


def _records(path: Path) -> list[dict]:
    """The objects of a JSONL file that a run may be writing right now; [] when there is no file."""
    if not path.exists():
        return []
    records = []
    *lines, last = path.read_text(encoding="utf-8", errors="replace").split("\n")  # `last` has no line end: unfinished
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line) if line.strip() else None
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not JSON ({error}); correct or delete the line") from None
        if isinstance(record, dict):
            records.append(record)
    return records


def averaged(records: Sequence[dict], limit: int = MAX_POINTS) -> dict[str, list]:
    """Columns of numbers: {"step": [...], metric: [...], ...}, None where a record lacks the metric.

    More than `limit` records are cut into equal parts and averaged; a part's step is its last one.
    """
    size = math.ceil(len(records) / limit) or 1
    parts = [records[i:i + size] for i in range(0, len(records), size)]
    names = dict.fromkeys(name for record in records for name, value in record.items() if _is_number(value))
    columns: dict[str, list] = {"step": [part[-1].get("step", 0) for part in parts]}
    for name in names:
        if name != "step":
            values = [[r[name] for r in part if _is_number(r.get(name))] for part in parts]
            columns[name] = [float(f"{sum(v) / len(v):.5g}") if v else None for v in values]
    return columns


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def choose(transcripts: Sequence[dict], limit: int = MAX_TRAJECTORY_CHARS) -> list[dict]:
    """As many transcripts as fit into `limit` characters of JSON, in their order.

    Half of the room is for before/after, where the two of a pair stay together, the other half for training, spread
    evenly over the steps. Every transcript gets a "pair": the same number for the same skill set before and after.
    """
    by_phase: dict[str, list[dict]] = {"before": [], "after": [], "train": []}
    counts: dict[tuple, int] = {}
    for transcript in transcripts:
        phase = transcript.get("phase", "train")
        transcript = transcript | {"phase": phase}
        if phase != "train":  # the n-th time that a skill set occurs before belongs to the n-th time after
            skills = (phase, *map(str, transcript.get("skills", ())))
            counts[skills] = counts.get(skills, 0) + 1
            transcript["pair"] = " ".join([*skills[1:], str(counts[skills])])
        by_phase.setdefault(phase, []).append(transcript)
    pairs: dict[str, list[dict]] = {}
    for transcript in by_phase["before"] + by_phase["after"]:
        pairs.setdefault(transcript["pair"], []).append(transcript)
    train = by_phase["train"]
    # Coarse to fine: index 0, then the highest powers of two, ..., odd ones last. Any beginning is even over the run.
    order = sorted(range(len(train)), key=lambda i: (-((i & -i) or 1 << 30), i))
    kept_pairs = _fit(list(pairs.values()), limit // 2)
    kept_train = _fit([[train[i] | {"order": i}] for i in order], limit - sum(map(_size, kept_pairs)))
    chosen = sorted((t for one in kept_train for t in one), key=lambda t: t.pop("order"))
    return [t for pair in kept_pairs for t in pair] + chosen


def _size(value) -> int:
    return len(json.dumps(value))


def _fit(parts: Iterable[list[dict]], room: int) -> list[list[dict]]:
    kept = []
    for part in parts:
        room -= _size(part)
        if room < 0:
            break
        kept.append(part)
    return kept


def inert(value) -> str:
    """JSON that can stand in a <script> element, whatever its strings hold: ASCII, without <, > and &."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


# -------------------------------------------------------------------------------------------------- sections


def _missing(what: str) -> str:
    return f'<p class="missing">Missing: {escape(what)}</p>'


def _number(value) -> str:
    if not _is_number(value):
        return "–"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}"


def _tabulate(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int]) -> str:
    """A table of cells that are markup already; the columns in `numbers` are aligned as numbers."""
    def row(tag: str, cells: Sequence[str]) -> str:
        marks = [' class="number"' if i in numbers else "" for i in range(len(cells))]
        return "<tr>" + "".join(f"<{tag}{mark}>{cell}</{tag}>" for mark, cell in zip(marks, cells)) + "</tr>"

    body = "".join(row("td", cells) for cells in rows)
    return f'<div class="wide"><table><thead>{row("th", head)}</thead><tbody>{body}</tbody></table></div>'


def _table(evaluation: dict[str, dict | None]) -> str:
    before, after = evaluation["before"], evaluation["after"]
    if before is None and after is None:
        return _missing("evaluation_before.json and evaluation_after.json: the run has not been evaluated yet.")
    rows = []
    for name, meaning, list_name in TABLE:
        values = [(record or {}).get("summary", {}).get(name) for record in (before, after)]
        if not any(map(_is_number, values)):
            continue
        change, interval = "–", ""
        if all(map(_is_number, values)):
            difference = values[1] - values[0]
            change = f"{difference:+.3f}" if abs(difference) < 10 else f"{difference:+.1f}"
            lists = [record.get(list_name, ()) if list_name else () for record in (before, after)]
            if len(lists[0]) == len(lists[1]) > 0:
                interval = _interval(*paired_difference(lists[1], lists[0], seed=0))
        rows.append((escape(meaning), *map(_number, values), change, interval))
    head = ("", "before (pi_ref)", "after", "change", "95 % interval of the change")
    gone = [_missing(f"evaluation_{phase}.json.") for phase, record in evaluation.items() if record is None]
    count = len((before or after).get("valid", ())) or "The"
    note = (
        f"{count} skill sets that training never drew, one episode each; the same sets and seeds before and after. "
        "The interval is a paired bootstrap over skill sets. It holds the luck of which sets were drawn, not that of "
        "the training seed: one run is one seed."
    )
    return _tabulate(head, rows, numbers=(1, 2, 3)) + "".join(gone) + f'<p class="caption">{note}</p>'


def _interval(difference: float, low: float, high: float) -> str:
    """An interval as numbers, as a bar beside its 0, and in words."""
    reach = max(abs(low), abs(high), 1e-9) * 1.15
    x = [60 + 55 * value / reach for value in (low, difference, high)]
    verdict = "may be chance" if low <= 0 <= high else "up" if low > 0 else "down"
    return (
        f'<span class="interval">[{low:+.3f}, {high:+.3f}] '
        '<svg viewBox="0 0 120 14" width="120" height="14" aria-hidden="true"><path class="zero" d="M60 0V14"/>'
        f'<path class="bar" d="M{x[0]:.1f} 7H{x[2]:.1f}"/><circle cx="{x[1]:.1f}" cy="7" r="3.5"/></svg> '
        f"<small>{verdict}</small></span>"
    )


def _curves(series: dict[str, dict[str, list]]) -> str:
    parts = []
    for source, heading, curves, missing in (
        ("metrics", "", CURVES, "metrics.jsonl: no reinforcement learning step is finished yet."),
        ("sft", "<h3>Before reinforcement learning</h3>", SFT_CURVES, "sft_metrics.jsonl: no SFT in this folder."),
    ):
        columns = series[source]
        figures = [_figure(source, columns, title, names, caption) for title, names, caption in curves
                   if any(name in columns for name in names)]
        parts += [heading, f'<div class="plots">{"".join(figures)}</div>' if figures else _missing(missing)]
    everything = [(source, name) for source, columns in series.items() for name in sorted(columns) if name != "step"]
    options, plots = [], []
    for i, (source, name) in enumerate(everything):
        options.append(f'<option value="any-{i}">{escape(f"{source}: {name}")}</option>')
        plot = _figure(source, series[source], name, {name: name}, "")
        plots.append(f'<div id="any-{i}"{" hidden" if i else ""}>{plot}</div>')
    if everything:
        parts.append('<h3><label for="any">Any recorded number</label> '
                     f'<select id="any">{"".join(options)}</select></h3>'
                     f'<div id="any-plots">{"".join(plots)}</div>')
    return "".join(parts)


WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 320, 150, 40, 8, 8, 20  # of a plot


def _figure(source: str, columns: dict[str, list], title: str, names: dict[str, str], caption: str) -> str:
    """One plot as SVG. The script adds the numbers, from the same columns."""
    names = {name: label for name, label in names.items() if name in columns}
    steps = columns["step"]
    points = {name: [(step, v) for step, v in zip(steps, columns[name]) if v is not None] for name in names}
    values = [value for line in points.values() for _, value in line]
    ticks = nice_ticks(min(values), max(values))
    span = (steps[-1] - steps[0]) or 1

    def x(step: float) -> str:
        return f"{LEFT + (WIDTH - LEFT - RIGHT) * (step - steps[0]) / span:.1f}"

    def y(value: float) -> str:
        return f"{HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - ticks[0]) / (ticks[-1] - ticks[0]):.1f}"

    drawing = [f'<path class="grid" d="M{LEFT} {y(t)}H{WIDTH - RIGHT}"/>'
               f'<text x="{LEFT - 5}" y="{y(t)}" dy="3.5" text-anchor="end">{t:.6g}</text>' for t in ticks]
    drawing.append(f'<text x="{LEFT}" y="{HEIGHT - 5}">step {steps[0]}</text>')
    if len(steps) > 1:
        drawing.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 5}" text-anchor="end">{steps[-1]}</text>')
    legend, told = [], []
    for i, (name, label) in enumerate(names.items()):
        colour = f"stage-{label}" if label in STAGES else f"series-{i}"
        path = "L".join(f"{x(step)} {y(value)}" for step, value in points[name])
        (_, first), (step, last) = points[name][0], points[name][-1]
        drawing.append(f'<path class="line {colour}" d="M{path}"/>'
                       f'<circle class="{colour}" cx="{x(step)}" cy="{y(last)}" r="2.5"/>')
        legend.append(f'<span class="{colour}">{escape(label)} <output></output></span>')
        told.append(f"{label} from {first:.4g} to {last:.4g}")
    one = len(names) == 1
    return "".join((
        f'<figure data-source="{source}" data-names="{escape(json.dumps(list(names)))}" ',
        f'data-left="{LEFT}" data-right="{RIGHT}" data-width="{WIDTH}">',
        f'<figcaption><b>{escape(title)}</b>',
        f'<span><small></small>{" <output></output>" if one else ""}</span></figcaption>',
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape("; ".join([title, *told]))}">', *drawing,
        f'<path class="cursor" d="M0 {TOP}V{HEIGHT - BOTTOM}" hidden="hidden"/></svg>',
        "" if one else f'<div class="legend">{"".join(legend)}</div>',
        f'<p class="caption">{escape(caption)}</p>' if caption else "", "</figure>",
    ))


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of 10 apart) from below `low` to above `high`."""
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-9):  # a flat curve lies in the middle
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / (count - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    gap = next(step * power for step in (1, 2, 5, 10) if step * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / gap + 1e-9), math.ceil(high / gap - 1e-9)
    return [i * gap for i in range(first, last + 1)]


def _problems(records: list[dict]) -> str:
    if not records:
        return _missing("problems.jsonl is not there yet, or holds no accepted problem.")
    solved = [record for record in records if _is_number(record.get("pass_rate")) and record["pass_rate"] > 0]
    hardest = sorted(solved, key=lambda record: record["pass_rate"])[:MAX_PROBLEMS]
    columns = ("question", "answer", "step")
    rows = [(_number(record["pass_rate"]), *(escape(str(record.get(name, ""))[:600]) for name in columns))
            for record in hardest]
    return (
        f'<p class="caption">{len(records)} accepted problems; here the hardest that the prober has solved at least '
        "once. A pass rate of 0 is not listed: such a problem may be hard, or broken in a way that no verifier saw.</p>"
        + _tabulate(("pass rate", "problem", "answer", "step"), rows, numbers=(0, 2, 3))
    )


def _settings(config: dict) -> str:
    if not config:
        return _missing("config.json.")
    rows = [(escape(str(name)), escape(str(value))) for name, value in config.items()]
    table = _tabulate(("setting", "value"), rows, numbers=())
    return f"<details><summary>{len(rows)} settings of this run</summary>{table}</details>"


# ------------------------------------------------------------------------------------------------------ page

PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{title}: report</title><style>{style}</style></head><body>
<header><h1>{title}</h1><p>{facts}</p>
<nav><a href="#table">Before and after</a><a href="#curves">Curves</a><a href="#browser">Trajectories</a>
<a href="#problems">Problems</a><a href="#settings">Settings</a></nav></header>
<main>
<section id="table"><h2>Before and after</h2>{table}</section>
<section id="curves"><h2>Curves</h2>
<p class="caption">The numbers are those of the last step, or of the step that you point at. Long runs are averaged
 over a few steps a point.</p>{curves}</section>
<section id="browser"><h2>Trajectories</h2>
<p class="caption">An episode, turn by turn: what the proposer did, what the environment answered, and what each action
 earned. <b>r</b> is the process reward of the action; <b>A_S</b> compares it with the other actions of its group in the
 same stage; <b>A</b> = A_E + omega A_S is the credit that it was trained with. {kept}</p>
<div id="controls"></div>
<div id="viewer"><div id="list" role="listbox" aria-label="trajectories" tabindex="0"></div>
<div id="detail"></div></div>
<noscript><p class="missing">The trajectories need JavaScript; the rest of the page does not.</p></noscript></section>
<section id="problems"><h2>The hardest problems</h2>{problems}</section>
<section id="settings"><h2>Settings</h2>{settings}</section>
</main>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body></html>
"""

STYLE = """
:root{color-scheme:light dark;--page:#f7f7f5;--card:#fff;--ink:#1d2126;--soft:#616a75;--line:#dfe1e4;--sink:#f1f2f3;
 --good:#16794a;--bad:#b3372b;--draft:#2867b8;--check:#a86500;--refine:#8a45a8;--finalize:#16794a;--series-0:#2867b8;
 --series-1:#c05b12;--series-2:#16794a;--series-3:#8a45a8}
@media(prefers-color-scheme:dark){:root{--page:#14171a;--card:#1d2125;--ink:#e6e8ea;--soft:#9aa4af;--line:#343a41;
 --sink:#262b30;--good:#5cc48f;--bad:#f0857a;--draft:#76aef2;--check:#e0a44a;--refine:#cb94e4;--finalize:#5cc48f;
 --series-0:#76aef2;--series-1:#f0975a;--series-2:#5cc48f;--series-3:#cb94e4}}*{box-sizing:border-box}
[hidden]{display:none!important}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
header,main{max-width:1240px;margin:auto;padding:0 20px}header{padding-top:26px}h1{margin:0;font-size:28px}
header p{margin:2px 0 10px;color:var(--soft)}nav{display:flex;flex-wrap:wrap;gap:4px 18px}a{color:var(--draft)}
h2{font-size:20px;margin:38px 0 8px}h3{font-size:15px;margin:22px 0 8px}
.caption{color:var(--soft);font-size:13px;margin:6px 0;max-width:85ch}
.missing{color:var(--soft);border:1px dashed var(--line);padding:10px 14px;border-radius:8px}.wide{overflow-x:auto}
table{border-collapse:collapse;background:var(--card);border:1px solid var(--line);border-radius:8px}
th,td{padding:6px 12px;text-align:left;border-top:1px solid var(--line);vertical-align:top}
thead th{border-top:0;font-size:13px;color:var(--soft)}
.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}td{overflow-wrap:anywhere}
.interval{white-space:nowrap;font-variant-numeric:tabular-nums}.interval svg{vertical-align:-2px}
.interval .bar{stroke:var(--series-0);stroke-width:3}.interval .zero{stroke:var(--soft);stroke-dasharray:2 2}
.interval circle{fill:var(--series-0)}small{color:var(--soft)}
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(290px,1fr));gap:14px}
figure{margin:0;padding:12px 14px;background:var(--card);border:1px solid var(--line);border-radius:8px}
#any-plots figure{max-width:460px}figcaption{display:flex;justify-content:space-between;gap:10px;flex-wrap:wrap}
output{font-size:12px;color:var(--soft);font-variant-numeric:tabular-nums}
figure svg{display:block;width:100%;height:auto;margin-top:4px;touch-action:pan-y}
svg text{font-size:10px;fill:var(--soft)}svg .grid{stroke:var(--line)}
svg .line{fill:none;stroke:currentColor;stroke-width:1.7;stroke-linejoin:round}svg circle{fill:currentColor}
svg .cursor{stroke:var(--soft)}.series-0{color:var(--series-0)}.series-1{color:var(--series-1)}
.series-2{color:var(--series-2)}.series-3{color:var(--series-3)}.stage-draft{color:var(--draft)}
.stage-check{color:var(--check)}.stage-refine{color:var(--refine)}.stage-finalize{color:var(--finalize)}
.legend{font-size:12px;display:flex;flex-wrap:wrap;gap:2px 12px}
.legend span::before{content:"";display:inline-block;width:12px;height:3px;background:currentColor;margin-right:5px;
 vertical-align:3px}
select,button{font:inherit;color:inherit;background:var(--card);border:1px solid var(--line);border-radius:6px;
 padding:3px 9px;max-width:100%}button{cursor:pointer}
button[aria-pressed=true]{border-color:var(--draft);color:var(--draft);font-weight:600}
:focus-visible{outline:2px solid var(--draft);outline-offset:1px}
#controls{display:flex;flex-wrap:wrap;gap:8px 14px;align-items:center;margin:12px 0}
#controls label{font-size:13px;color:var(--soft)}
#viewer{display:grid;grid-template-columns:260px minmax(0,1fr);gap:16px;align-items:start}
#list{max-height:82vh;overflow:auto;border:1px solid var(--line);border-radius:8px;background:var(--card);
 position:sticky;top:8px}#list div{padding:7px 11px;border-bottom:1px solid var(--line);cursor:pointer;font-size:13px}
#list div[aria-selected=true]{background:var(--sink);box-shadow:inset 3px 0 var(--draft)}#list small{display:block}
.columns{display:grid;grid-template-columns:repeat(auto-fit,minmax(320px,1fr));gap:16px;align-items:start}
.good{color:var(--good)}.bad{color:var(--bad)}
.summary{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:12px 14px}
.summary h4{margin:0 0 4px;font-size:15px}
.summary dl{display:flex;flex-wrap:wrap;gap:4px 18px;margin:6px 0 0;font-size:13px}
dt{color:var(--soft);display:inline}dd{display:inline;margin:0 0 0 5px;font-variant-numeric:tabular-nums}
.path{display:flex;flex-wrap:wrap;gap:3px;margin-top:9px}
.path i{width:16px;height:7px;border-radius:2px;background:currentColor}
.turn{background:var(--card);border:1px solid var(--line);border-left:4px solid currentColor;border-radius:8px;
 margin-top:10px;overflow:hidden}.turn>*{color:var(--ink)}
.turn header{display:flex;flex-wrap:wrap;gap:2px 12px;align-items:baseline;padding:7px 12px 0;max-width:none;
 margin:0;font-size:13px}.turn header b{font-size:14px}.turn header .stage{font-weight:600}
.turn header .credit{margin-left:auto;color:var(--soft);font-variant-numeric:tabular-nums}.body{padding:5px 12px 9px}
.text,pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:4px 0;max-height:26em;overflow:auto}
pre{font:12.5px/1.5 ui-monospace,monospace;background:var(--sink);border-radius:6px;padding:7px 10px}
.draft{border-left:3px solid var(--line);padding-left:10px;margin:5px 0;white-space:pre-wrap;overflow-wrap:anywhere}
.label{font-size:12px;color:var(--soft);margin-top:5px}.facts{font-size:12px;color:var(--soft);overflow-wrap:anywhere}
.reply{border-top:1px dashed var(--line);background:var(--sink);padding:6px 12px 8px}
.reply pre{background:none;padding:0;margin:0}summary{cursor:pointer}
details table{margin-top:10px;font-size:13px;overflow-wrap:anywhere}
@media(max-width:800px){#viewer{grid-template-columns:1fr}#list{max-height:30vh;position:relative;top:0}}
"""

SCRIPT = r"""
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = id => document.getElementById(id);

// Everything is put on the page by this: strings become text nodes, never markup.
function make(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children.filter(child => child !== null && child !== ""));
  return node;
}
function number(value) {
  if (typeof value !== "number") return "\u2013";
  return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(+value.toPrecision(4));
}
function signed(value) {
  if (typeof value !== "number") return "\u2013";
  return (value > 0 ? "+" : "") + value.toFixed(2).replace("-", "\u2212");
}

// ---- curves: the numbers beside them
for (const figure of document.querySelectorAll("figure")) {
  const columns = data.series[figure.dataset.source], names = JSON.parse(figure.dataset.names), steps = columns.step;
  const svg = figure.querySelector("svg"), cursor = figure.querySelector(".cursor");
  const outputs = figure.querySelectorAll("output"), where = figure.querySelector("figcaption small");
  const [left, right, width] = ["left", "right", "width"].map(name => +figure.dataset[name]);
  const span = steps[steps.length - 1] - steps[0] || 1, room = width - left - right;
  const show = (i, pointed) => {
    where.textContent = pointed ? "step " + steps[i] : "";
    names.forEach((name, j) => { outputs[j].textContent = number(columns[name][i]); });
    cursor.toggleAttribute("hidden", !pointed);
    cursor.setAttribute("transform", "translate(" + (left + room * (steps[i] - steps[0]) / span) + ",0)");
  };
  svg.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect();
    const step = steps[0] + span * ((event.clientX - box.left) / box.width * width - left) / room;
    let nearest = 0;
    steps.forEach((s, i) => { if (Math.abs(s - step) < Math.abs(steps[nearest] - step)) nearest = i; });
    show(nearest, true);
  });
  const rest = () => show(steps.length - 1, false);
  svg.addEventListener("pointerleave", rest);
  rest();
}
const any = byId("any");
if (any) {
  const choose = () => { for (const plot of byId("any-plots").children) plot.hidden = plot.id !== any.value; };
  any.addEventListener("change", choose);
  choose();
}

// ---- trajectories: an item of the list is a pair {before, after}, or one trajectory of training
const pairs = new Map();
for (const t of data.trajectories) {
  if (t.phase !== "train") pairs.set(t.pair, Object.assign(pairs.get(t.pair) || {}, {[t.phase]: t}));
}
const views = {pairs: [...pairs.values()], train: data.trajectories.filter(t => t.phase === "train")};
const state = {view: pairs.size ? "pairs" : "train", step: "", verdict: "", outcome: "", selected: 0};
const members = item => state.view === "pairs" ? [item.before, item.after].filter(Boolean) : [item];
const verdict = item => members(item).map(t => t.valid ? "valid" : "invalid").join(" \u2192 ");
const endings = item => members(item).flatMap(t => [t.outcome, t.reason]).filter(name => name && name !== "valid");
const distinct = values => [...new Set(values.map(String))];

function selector(name, label, options) {
  if (!options.includes(state[name])) state[name] = "";
  const select = make("select", "", ...["", ...options].map(value => {
    const option = make("option", "", value || "all");
    option.value = value;
    return option;
  }));
  select.value = state[name];
  select.addEventListener("change", () => { Object.assign(state, {[name]: select.value, selected: 0}); draw(); });
  return make("label", "", label + " ", select);
}

function draw() {
  const items = views[state.view], list = byId("list"), detail = byId("detail");
  const tabs = [["pairs", "Before / after, same skills"], ["train", "During training"]].map(([view, label]) => {
    const button = make("button", "", label + " (" + views[view].length + ")");
    button.setAttribute("aria-pressed", view === state.view);
    button.addEventListener("click", () => { Object.assign(state, {view, selected: 0}); draw(); });
    return button;
  });
  const filters = [selector("verdict", "verdict", distinct(items.map(verdict)).sort()),
                   selector("outcome", "outcome", distinct(items.flatMap(endings)).sort())];
  if (state.view === "train") filters.unshift(selector("step", "step", distinct(items.map(t => t.step))));
  const shown = items.filter(item =>
    (state.view !== "train" || !state.step || String(item.step) === state.step) &&
    (!state.verdict || verdict(item) === state.verdict) &&
    (!state.outcome || endings(item).includes(state.outcome)));
  byId("controls").replaceChildren(...tabs, ...filters, make("small", "", shown.length + " shown"));

  const select = i => {
    state.selected = i;
    [...list.children].forEach((entry, j) => entry.setAttribute("aria-selected", j === i));
    const entry = list.children[i];  // scrolled by hand: scrollIntoView would move the page too
    const bottom = entry.offsetTop + entry.offsetHeight;
    list.scrollTop = Math.min(entry.offsetTop, Math.max(list.scrollTop, bottom - list.clientHeight));
    detail.replaceChildren(make("div", "columns", ...members(shown[i]).map(trajectory)));
  };
  list.replaceChildren(...shown.map((item, i) => {
    const marks = members(item).map(t => make("span", t.valid ? "good" : "bad", t.valid ? "\u2713 " : "\u2717 "));
    const ends = members(item).map(t => t.valid ? "r_T " + number(t.reward) : t.reason || t.outcome).join(" \u2192 ");
    const step = state.view === "train" ? "step " + item.step + " \u00b7 " : "";
    const entry = make("div", "", ...marks, members(item)[0].skills.join(", "), make("small", "", step + ends));
    entry.setAttribute("role", "option");
    entry.addEventListener("click", () => select(i));
    return entry;
  }));
  list.hidden = !shown.length;
  list.onkeydown = event => {
    const move = {ArrowDown: 1, ArrowUp: -1}[event.key];
    if (!move) return;
    event.preventDefault();
    select(Math.max(0, Math.min(shown.length - 1, state.selected + move)));
  };
  const none = data.trajectories.length ? "No trajectory fits these filters." : "No trajectory was recorded yet.";
  if (shown.length) select(Math.min(state.selected, shown.length - 1));
  else detail.replaceChildren(make("p", "missing", none));
}

function trajectory(t) {
  const where = {before: "Before: pi_ref", after: "After training"}[t.phase] || "Step " + t.step;
  const ending = make("span", t.valid ? "good" : "bad", t.valid ? "valid" : "invalid");
  const terms = {"pass rate": t.valid ? number(t.pass_rate) : "\u2013", "reward r_T": number(t.reward)};
  if (t.phase === "train") terms.A_E = signed(t.advantage);
  Object.assign(terms, {outcome: t.outcome, turns: String(t.turns.length)});
  const numbers = Object.entries(terms).map(([name, value]) =>
    make("div", "", make("dt", "", name), make("dd", "", value)));
  const path = t.turns.map((turn, i) => {
    const mark = make("i", "stage-" + data.stages[turn.stage]);
    mark.title = (i + 1) + ". " + data.stages[turn.stage] + ": " + turn.action;
    return mark;
  });
  const summary = make("div", "summary",
    make("h4", "", where + ": ", ending, !t.valid && t.reason ? " (" + t.reason + ")" : ""),
    make("div", "facts", "skills: " + t.skills.join(", ")), make("dl", "", ...numbers), make("div", "path", ...path));
  if (t.problem) {
    summary.append(make("div", "label", "submitted"), make("div", "draft", t.problem.question),
                   make("div", "facts", "answer: " + t.problem.answer));
  }
  return make("div", "", summary, ...t.turns.map((turn, i) => card(turn, i, t.phase)));
}

function card(turn, i, phase) {
  const stage = data.stages[turn.stage], r = turn.process_reward;
  const credit = make("span", "credit", "r ", make("b", r > 0 ? "good" : r < 0 ? "bad" : "", signed(r)));
  if (phase === "train") credit.append(" A_S " + signed(turn.stage_advantage) + " A " + signed(turn.advantage));
  const name = make("b", "", (i + 1) + ". proposer: " + turn.action);
  const facts = Object.entries(turn.facts).map(([key, value]) => key + ": " + plain(value)).join(" \u00b7 ");
  const node = make("article", "turn stage-" + stage,
    make("header", "", name, make("span", "stage stage-" + stage, stage), credit),
    make("div", "body", ...pieces(turn.text), facts && make("div", "facts", facts)));
  if (turn.observation) {
    const label = turn.action === "exec" ? "environment: tool output" : "environment";
    node.append(make("div", "reply", make("div", "label", label), make("pre", "", turn.observation)));
  }
  return node;
}
const plain = value => typeof value === "string" ? value : JSON.stringify(value);

function pieces(text) {  // drafts and tool calls stand out; what cannot be read is shown as it is
  const parts = text.split(/(<problem>[^]*?<\/problem>|<tool_call>[^]*?<\/tool_call>)/);
  return parts.filter(part => part.trim()).flatMap(part => {
    if (/^<problem>[^]*<\/problem>$/.test(part)) {
      return [make("div", "label", "draft"), make("div", "draft", part.slice(9, -10).trim())];
    }
    if (!/^<tool_call>[^]*<\/tool_call>$/.test(part)) return [make("div", "text", part.trim())];
    try {
      const call = JSON.parse(part.slice(11, -12));
      return Object.entries(call.arguments).flatMap(([name, value]) =>
        [make("div", "label", call.name + ": " + name), make("pre", "", plain(value))]);
    } catch {
      return [make("pre", "", part)];
    }
  });
}
draw();
"""
