"""report.py and report.html: hostile text stays text, a run may be unfinished, and a browser draws the whole page."""
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from ap.files import UserError
from ap.tools.report import (
    FILES, PLACE, TEMPLATE, averaged, changes, choose, compare, inert, pair_up, thinned, write_report,
)

HOSTILE = ('</script><script>alert("owned")</script><img src=x onerror=alert(1)> <!-- & \u2028 \ud800 '
           f'<a href="http://evil.test/"> {PLACE}')
VOID = {"meta", "br", "img", "link", "input", "hr"}


def transcript(phase: str, step: int, skills: list[str], text="Sound.", valid=True, turns=2) -> dict:
    turn = {"action": "exec", "stage": 1, "process_reward": 1.0, "advantage": 0.5, "stage_advantage": -0.2,
            "text": f"<problem>{text}</problem>", "observation": "ok: 4 " + text, "facts": {"status": text}}
    if phase == "train":
        turn |= {"implicit_reward": 0.02, "zero_sum": -0.52, "gate": 0.9, "weight": -0.468}
    return {"phase": phase, "step": step, "skills": skills, "outcome": "submitted", "valid": valid,
            "reason": "valid" if valid else text, "pass_rate": 0.5, "votes": [1, 1, None, 0],
            "reasons": ["valid", "valid", "no reply", text, "program says no"], "reward": 1.5, "advantage": 0.3,
            "problem": {"question": text, "answer": text}, "turns": [turn] * turns}


def lines(*records: dict) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def make_run(folder, text: str = "Sound.", steps: int = 3):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"steps": 25, "algorithm": "mgpo", "name": text}))
    (folder / "metrics.jsonl").write_text(lines(*(
        {"step": s, "valid_rate": 0.5 + s / 100, "process_reward/draft": 0.1, "process_reward/check": None, text: s,
         "mastery/" + text: 0.5}
        for s in range(1, steps + 1))))
    (folder / "sft_metrics.jsonl").write_text(lines(*({"step": s, "loss": 1 / s} for s in range(1, 901))))
    for phase, valid in (("before", [0.0, 1.0, 0.0, 1.0]), ("after", [1.0, 1.0, 0.0, 1.0])):
        (folder / f"evaluation_{phase}.json").write_text(json.dumps({
            "summary": {"valid_rate": sum(valid) / 4, "reward": 1.25, "edit_rate": None},
            "valid": valid, "reward": valid,
            "transcripts": [transcript(phase, 0, ["shift", text], text, bool(valid[i])) for i in range(2)]}))
    (folder / "problems.jsonl").write_text(lines(
        {"question": text, "answer": text, "pass_rate": 0.25, "step": 1},
        {"question": "hard or broken", "answer": "1", "pass_rate": 0.0, "step": 2}))
    (folder / "trajectories.jsonl").write_text(lines(*(
        transcript("train", s, ["pair", "least"], text) for s in range(1, steps + 1))))
    (folder / "costs.json").write_text(json.dumps({text: {"hours": 0.5, "starts": 2, "players": {
        "policy": {"written_tokens": 1000, "trained_tokens": 800}, "verifier-1": {"requests": 7, "cost": 0.25}}}}))
    return folder


def parts(folder) -> tuple[dict, str]:
    """The data of the page that is written for a folder, and the page around it."""
    page = write_report(folder).read_text(encoding="utf-8")
    before, after = TEMPLATE.read_text(encoding="utf-8").split(PLACE)
    assert page.startswith(before) and page.endswith(after)
    data = page[len(before):len(page) - len(after)]
    assert data.isascii() and not set("<>&") & set(data)
    return json.loads(data), before + after


class Page(HTMLParser):
    """Checks that tags nest, and collects tags, attributes and text."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.tags, self.attributes, self.data = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attributes]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if self.open[-1:] not in (["script"], ["style"]):
            self.data.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.data).split())


# ------------------------------------------------------------------------------------------------------ page


def test_template_is_closed_and_asks_nobody():
    text = TEMPLATE.read_text(encoding="utf-8")
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>") and text.count(PLACE) == 1
    assert page.tags.count("title") == 1 and page.tags.count("script") == 2
    assert not {"link", "img", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids)) and set(re.findall(r'at\("([^"]*)"\)', text)) <= set(ids)
    for name, value in page.attributes:
        assert name not in ("src", "srcset", "action", "style") and not name.startswith("on"), (name, value)
        assert name != "href" or value[0] == "#" and value[1:] in ids, value
        assert name != "data-needs" or set(value.split()) <= set(FILES), value
    assert "default-src 'none'" in text and set(re.findall("http[^\"']*", text)) == {
        "http-equiv=", "http://www.w3.org/1999/xhtml", "http://www.w3.org/2000/svg"}  # XML namespaces, not addresses
    assert not re.search(r"url\(|@import|innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(|fetch\(", text)


def test_hostile_text_stays_text(tmp_path):
    """The page around the data equals the template whatever the data holds, and the text is complete in the data."""
    data, _ = parts(make_run(tmp_path / "run", HOSTILE))  # it checks both
    assert data["trajectories"][0]["turns"][0]["text"] == f"<problem>{HOSTILE}</problem>"
    assert data["settings"]["name"] == data["problems"][0]["question"] == HOSTILE
    assert data["series"]["metrics"][HOSTILE] == [1, 2, 3]
    assert json.loads(inert({HOSTILE: [HOSTILE]})) == {HOSTILE: [HOSTILE]}


def test_what_is_on_the_page(tmp_path):
    data, _ = parts(make_run(tmp_path / "run"))
    assert data["name"] == "run" and data["facts"] == ["algorithm mgpo", "3 of 25 steps"] and data["missing"] == {}
    assert data["series"]["metrics"]["valid_rate"] == [0.51, 0.52, 0.53]
    assert "process_reward/check" not in data["series"]["metrics"]  # it is never a number, so it has no curve
    assert len(data["series"]["sft"]["loss"]) <= 200
    assert [t["phase"] for t in data["trajectories"]] == ["before", "after"] * 2 + ["train"] * 3
    assert data["recorded"] == 7
    assert data["accepted"] == 2 and len(data["problems"]) == 1  # a problem that is never solved may be broken
    assert data["costs"] == [{
        "stage": "Sound.", "hours": 0.5, "processes": 1, "requests": 7, "prompt_tokens": 0, "completion_tokens": 0,
        "policy_written": 1000, "policy_trained": 800, "cost": 0.25}]
    assert not list((tmp_path / "run").glob(".*"))  # nothing left beside the page


PRESENT = [
    (), ("config.json",), ("metrics.jsonl",), ("evaluation_before.json",), ("trajectories.jsonl", "metrics.jsonl"),
    ("evaluation_after.json", "problems.jsonl"), ("sft_metrics.jsonl",), tuple(FILES),
]


@pytest.mark.parametrize("present", PRESENT)
def test_missing_pieces_are_named(tmp_path, present):
    run, part = make_run(tmp_path / "run"), tmp_path / "part"
    part.mkdir()
    for name in present:
        shutil.copy(run / name, part / name)
    assert set(parts(part)[0]["missing"]) == set(FILES) - set(present)


def test_a_run_that_is_writing(tmp_path):
    """A last line that is cut is skipped. Empty files, and a step without any number, are no error."""
    run = make_run(tmp_path / "run")
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "valid_')
    assert "3 of 25 steps" in parts(run)[0]["facts"]
    (run / "metrics.jsonl").write_text("")
    (run / "problems.jsonl").write_text("\n")
    assert set(parts(run)[0]["missing"]) == {"metrics.jsonl", "problems.jsonl"}
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": null}\n')
    assert parts(run)[0]["series"]["metrics"] == {"step": [1]}


def test_errors_name_file_and_line(tmp_path):
    with pytest.raises(UserError, match="no such run"):
        write_report(tmp_path / "nowhere")
    run = make_run(tmp_path / "run")
    (run / "problems.jsonl").write_text('{"question": "a"}\nnot json\n{"question": "b"}\n')
    with pytest.raises(UserError, match="problems.jsonl, line 2"):
        write_report(run)
    (run / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json"):
        write_report(run)


# --------------------------------------------------------------------------------------------- shaping data


def test_averaged():
    records = [{"step": s, "loss": float(s), "name": "x", "flag": True} for s in range(1, 11)]
    records.append({"step": 11, "loss": None})
    assert averaged(records, limit=6) == {"step": [2, 4, 6, 8, 10, 11], "loss": [1.5, 3.5, 5.5, 7.5, 9.5, None]}
    assert averaged([]) == {"step": []}


def test_compare():
    """Before 2 of 4, after 3 of 4: +0.25; one pair of four changed, so the interval goes from 0 to at most 1."""
    before = {"summary": {"valid_rate": 0.5, "tokens": 90.0, "edit_rate": None}, "valid": [0.0, 1.0, 0.0, 1.0]}
    after = {"summary": {"valid_rate": 0.75, "tokens": 80.0}, "valid": [1.0, 1.0, 0.0, 1.0]}
    valid, tokens = compare(before, after)
    difference, low, high = valid["interval"]
    assert (valid["before"], valid["after"], difference) == (0.5, 0.75, 0.25) and low == 0 and 0.5 <= high <= 1
    assert (tokens["name"], tokens["before"], tokens["after"], tokens["interval"]) == ("tokens", 90.0, 80.0, None)
    assert changes(before["valid"], after["valid"]) == {"sets": 4, "gained": 1, "lost": 0}
    assert [(row["before"], row["after"]) for row in compare({}, after)] == [(None, 0.75), (None, 80.0)]
    assert compare({}, {}) == [] and changes((), ()) == {"sets": 0, "gained": 0, "lost": 0}


def test_the_first_pair_tells_what_was_learnt():
    """Invalid -> valid comes first, among those one that submitted, then the shortest; an unpaired episode is last."""
    cases = [(True, True, 1), (False, False, 1), (False, True, 9), (False, True, 2), (False, True, 1)]
    before = [transcript("before", 0, ["s"], valid=b, turns=n) for b, _, n in cases] + [transcript("before", 0, ["s"])]
    after = [transcript("after", 9, ["s"], valid=a, turns=n) for _, a, n in cases]
    before[4]["outcome"] = "turn_limit"
    pairs = pair_up(before, after)
    assert [pair[0]["pair"] for pair in pairs][:3] == [3, 2, 4] and len(pairs[-1]) == 1
    assert all([t["phase"] for t in pair] == ["before", "after"] and len({t["pair"] for t in pair}) == 1
               for pair in pairs[:-1])
    moved = pair_up(before[:1], [transcript("after", 9, ["another set"])])
    assert len(moved) == 2  # other skills at the same place are not the same set


def test_choose_keeps_pairs_whole_and_spreads_over_training():
    pairs = pair_up(*([transcript(phase, 0, [skill]) for skill in "abcdef"] for phase in ("before", "after")))
    train = [transcript("train", s, ["d"]) for s in range(64)]
    everything = choose(pairs, train, limit=10**9)
    assert len(everything) == 12 + 64 and [t["step"] for t in everything[12:]] == list(range(64))

    room = 8 * (len(json.dumps(train[0])) + 20)
    some = choose(pairs, train, limit=room)
    steps = [t["step"] for t in some if t["phase"] == "train"]
    assert [t["pair"] for t in some if t["phase"] != "train"] == [0, 0, 3, 3]  # every third pair, from the first on
    assert steps and len({b - a for a, b in zip(steps, steps[1:])}) == 1 and steps[-1] > 40
    assert len(json.dumps(some)) <= room * 1.1
    assert thinned([["long" * 100], ["short"]], room=50) == [] == choose([], train, limit=10)


# ---------------------------------------------------------------------------------------------------- script

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs node, to ask about the script")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def script() -> str:
    return re.search(r"<script>\n(.*)</script>", TEMPLATE.read_text(encoding="utf-8"), flags=re.DOTALL)[1]


@needs_node
def test_script_is_javascript(tmp_path):
    (tmp_path / "script.js").write_text(script())
    subprocess.run(["node", "--check", tmp_path / "script.js"], check=True, timeout=20)


@needs_node
def test_ticks_are_few_round_and_around_the_data():
    cases = [(0, 1), (0.51, 0.53), (-3, 17), (5, 5), (0, 0), (-1e-9, 2e-9), (1234.5, 98765), (-7.2, -7.1)]
    source = re.search(r"^function ticksAround.*?^}", script(), flags=re.DOTALL | re.MULTILINE)[0]
    program = f"{source}\nconsole.log(JSON.stringify({json.dumps(cases)}.map(([low, high]) => ticksAround(low, high))))"
    printed = subprocess.run(["node", "-e", program], check=True, timeout=20, capture_output=True, text=True).stdout
    for (low, high), ticks in zip(cases, json.loads(printed)):
        gap = ticks[1] - ticks[0]
        assert ticks[0] <= low + gap * 1e-6 and high - gap * 1e-6 <= ticks[-1] and 2 <= len(ticks) <= 6
        assert float(f"{gap:.0e}") == pytest.approx(gap) and f"{gap:.0e}"[0] in "125"


@needs_node
def test_who_judged_is_told_by_name():
    source = re.search(r"^function judges.*?^}", script(), flags=re.DOTALL | re.MULTILINE)[0]
    cases = [([1, 0, None], ["valid", "ambiguous", ""]),
             ([1, 1, 1, 0], ["valid", "valid", "valid", "contradiction", "wrong answer"]),
             ([1, 1, 1], ["valid", "valid", "valid", "valid"])]
    given = json.dumps([{"votes": votes, "reasons": reasons} for votes, reasons in cases])
    program = f"{source}\nconsole.log(JSON.stringify({given}.map(judges)))"
    printed = subprocess.run(["node", "-e", program], check=True, timeout=20, capture_output=True, text=True).stdout
    assert json.loads(printed) == [
        ["verifier 1: ✓ valid", "verifier 2: ✗ ambiguous", "verifier 3: ? no reason"],
        ["verifier 1: ✓ valid", "verifier 2: ✓ valid", "verifier 3: ✓ valid", "auditor: ✗ contradiction",
         "program check: wrong answer"],
        ["verifier 1: ✓ valid", "verifier 2: ✓ valid", "verifier 3: ✓ valid", "program check: valid"]]


def drawn(folder, tmp_path) -> Page:
    """The page as a browser has it after the script ran, without the data block."""
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
               "--disable-background-networking", "--disable-component-update", "--disable-sync",
               f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", f"file://{write_report(folder)}"]
    text = subprocess.run(command, check=True, timeout=120, capture_output=True, text=True).stdout
    return Page(re.sub(r'(<script type="application/json"[^>]*>)[^<]*', r"\1", text))


@pytest.mark.skipif(BROWSER is None, reason="needs a browser, to look at the page")
@pytest.mark.parametrize("present, text", [
    ((), "Sound."), (("trajectories.jsonl", "evaluation_after.json"), "Sound."), (tuple(FILES), "Sound."),
    (tuple(FILES), HOSTILE.replace("\ud800", "")),  # half a character: the page shows it, --dump-dom cannot print it
])
def test_a_browser_draws_it(tmp_path, present, text):
    """The script finishes whatever is missing, names what is missing, and shows hostile text as text."""
    run, part = make_run(tmp_path / "run", text), tmp_path / "part"
    part.mkdir()
    for name in present:
        shutil.copy(run / name, part / name)
    page = drawn(part, tmp_path)
    for name, meaning in FILES.items():
        assert (f"Missing: {name}: {meaning}." in page.text) == (name not in present), name
    assert page.tags.count("script") == 2 and "img" not in page.tags
    assert not any(name.startswith("on") for name, _ in page.attributes)
    if present == tuple(FILES):
        assert "50 % → 75 % of the episodes" in page.text and "One of the first kind" in page.text
        assert page.tags.count("article") == 8  # the pair on top, and again as first of the list: 4 episodes of 2 turns
        assert "may be chance" in page.text and "7 shown" in page.text
        assert "What it cost" in page.text and "in all" in page.text
        assert "judged by verifier 1: ✓ valid" in page.text
        labels = [value for name, value in page.attributes if name == "aria-label"]
        assert "Valid problems; valid from 0.51 to 0.53" in labels
        assert " ".join(text.split()) in page.text
