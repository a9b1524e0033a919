"""report.py: the page is one valid, closed file; hostile text stays text; a run may be unfinished."""
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from ap.config import UserError
from ap.report import averaged, choose, inert, nice_ticks, write_report

HOSTILE = ('</script><script>alert("owned")</script><img src=x onerror=alert(1)> <!-- & \u2028 \ud800 '
           '<a href="http://evil.test/">')
VOID = {"meta", "br", "img", "link", "input", "hr"}


def transcript(phase: str, step: int, skills: list[str], text: str = "Sound.", valid: bool = True) -> dict:
    turn = {"action": "exec", "stage": 1, "process_reward": 1.0, "advantage": 0.5, "stage_advantage": -0.2,
            "text": text, "observation": "ok: 4 " + text, "facts": {"status": "ok", "output": text}}
    return {"phase": phase, "step": step, "skills": skills, "outcome": "submitted", "valid": valid,
            "reason": "valid" if valid else text, "pass_rate": 0.5, "reward": 1.5, "advantage": 0.3,
            "problem": {"question": text, "answer": text}, "turns": [turn, turn]}


def lines(*records: dict) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def make_run(folder, text: str = "Sound.", steps: int = 3):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"steps": 25, "algorithm": "mgpo", "name": text}))
    (folder / "metrics.jsonl").write_text(lines(*(
        {"step": s, "valid_rate": 0.5 + s / 100, "process_reward/draft": 0.1, "process_reward/check": None, text: s,
         "loss": -0.25}
        for s in range(1, steps + 1))))
    (folder / "sft_metrics.jsonl").write_text(lines(*({"step": s, "loss": 1 / s} for s in range(1, 901))))
    for phase, valid in (("before", [0.0, 1.0, 0.0, 1.0]), ("after", [1.0, 1.0, 0.0, 1.0])):
        (folder / f"evaluation_{phase}.json").write_text(json.dumps({
            "summary": {"valid_rate": sum(valid) / 4, "reward": 1.25, "edit_rate": None},
            "valid": valid, "reward": valid,
            "transcripts": [transcript(phase, 0, ["shift", text], text), transcript(phase, 0, ["shift", text])]}))
    (folder / "problems.jsonl").write_text(lines({"question": text, "answer": text, "pass_rate": 0.25, "step": 1}))
    trained = [transcript("train", s, ["pair", "least"], text) for s in range(1, steps + 1)]
    (folder / "trajectories.jsonl").write_text(lines(*trained))
    return folder


class Page(HTMLParser):
    """Checks that tags nest, and collects what a browser would act on."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.tags, self.attributes, self.data, self.scripts = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attributes]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attributes]

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        (self.scripts if self.open[-1:] == ["script"] else self.data).append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.data).split())


def read(folder) -> tuple[str, Page]:
    text = write_report(folder).read_text(encoding="utf-8")
    return text, Page(text)


def test_page_is_valid_closed_and_small(tmp_path):
    text, page = read(make_run(tmp_path / "run"))
    assert text.startswith("<!DOCTYPE html>") and page.tags.count("title") == 1 and page.tags.count("script") == 2
    assert not {"link", "img", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    for name, value in page.attributes:
        assert name not in ("src", "srcset", "action", "style") and not name.startswith("on"), (name, value)
        assert name != "href" or value[0] == "#" and value[1:] in ids, value
    assert "default-src 'none'" in text and "http" not in text.replace("http-equiv", "")
    assert not re.search(r"url\(|@import|innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(|fetch\(", text)
    assert len(text) < 300_000


def test_numbers_are_on_the_page(tmp_path):
    """Before 2 of 4, after 3 of 4: change +0.250; one pair of four changed, so the interval touches 0."""
    _, page = read(make_run(tmp_path / "run"))
    assert "valid problems, share of episodes 0.500 0.750 +0.250".replace(" ", "") in page.text.replace(" ", "")
    assert "may be chance" in page.text and "3 of 25 steps" in page.text and "Missing" not in page.text
    labels = [value for name, value in page.attributes if name == "aria-label"]
    assert "Valid problems; valid from 0.51 to 0.53" in labels
    assert "Process reward by stage; draft from 0.1 to 0.1" in labels  # a metric that was always null has no curve
    data = json.loads(page.scripts[0])
    assert data["series"]["metrics"]["valid_rate"] == [0.51, 0.52, 0.53] and len(data["series"]["sft"]["loss"]) <= 200
    assert [t["phase"] for t in data["trajectories"]].count("train") == 3


def test_hostile_text_stays_text(tmp_path):
    """The same tags with hostile text everywhere as without, and the text arrives whole in the data."""
    clean, hostile = read(make_run(tmp_path / "a"))[1], read(make_run(tmp_path / "b", HOSTILE))[1]
    assert hostile.tags == clean.tags
    assert {name for name, _ in hostile.attributes} == {name for name, _ in clean.attributes}
    assert len(hostile.scripts) == 2 and hostile.scripts[1] == clean.scripts[1]
    data = json.loads(hostile.scripts[0])
    assert data["trajectories"][0]["turns"][0]["text"] == HOSTILE
    assert not set("<>&") & set(hostile.scripts[0]) and hostile.scripts[0].isascii()
    assert json.loads(inert({HOSTILE: [HOSTILE]})) == {HOSTILE: [HOSTILE]}


@pytest.mark.parametrize("present", [
    (), ("config.json",), ("metrics.jsonl",), ("evaluation_before.json",), ("trajectories.jsonl", "metrics.jsonl"),
    ("evaluation_after.json", "problems.jsonl"), ("sft_metrics.jsonl",),
])
def test_missing_pieces_are_named(tmp_path, present):
    run, part = make_run(tmp_path / "run"), tmp_path / "part"
    part.mkdir()
    for name in present:
        shutil.copy(run / name, part / name)
    page = read(part)[1]
    for name in ("config.json", "metrics.jsonl", "sft_metrics.jsonl", "evaluation_before.json",
                 "evaluation_after.json", "problems.jsonl"):
        assert (f"Missing: {name}" in page.text or f"and {name}" in page.text) == (name not in present), name


def test_a_run_that_is_writing(tmp_path):
    """The last line is cut: it is passed over. Empty files, and a step without any number, are no error."""
    run = make_run(tmp_path / "run")
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "valid_')
    assert "3 of 25 steps" in read(run)[1].text
    (run / "metrics.jsonl").write_text("")
    (run / "problems.jsonl").write_text("\n")
    assert "Missing: metrics.jsonl" in read(run)[1].text
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": null}\n')
    read(run)


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


def test_averaged():
    records = [{"step": s, "loss": float(s), "name": "x", "flag": True} for s in range(1, 11)]
    records.append({"step": 11, "loss": None})
    assert averaged(records, limit=6) == {"step": [2, 4, 6, 8, 10, 11], "loss": [1.5, 3.5, 5.5, 7.5, 9.5, None]}
    assert averaged([]) == {"step": []}


def test_choose_keeps_pairs_together_and_spreads_over_training():
    before = [transcript("before", 0, ["a", "b"]), transcript("before", 0, ["c"]), transcript("before", 0, ["a", "b"])]
    after = [transcript("after", 9, ["c"]), transcript("after", 9, ["a", "b"]), transcript("after", 9, ["a", "b"])]
    train = [transcript("train", s, ["d"]) for s in range(64)]
    everything = choose(before + after + train, limit=10**9)
    pairs = {}
    for t in everything[:6]:
        pairs.setdefault(t["pair"], []).append((t["phase"], t["skills"]))
    for (phase_a, skills_a), (phase_b, skills_b) in pairs.values():
        assert (phase_a, phase_b) == ("before", "after") and skills_a == skills_b
    assert len(pairs) == 3 and [t["step"] for t in everything[6:]] == list(range(64))

    room = 8 * (len(json.dumps(train[0])) + 20)
    steps = [t["step"] for t in choose(train, limit=room)]
    assert 4 <= len(steps) <= 8 and steps == sorted(steps) and max(b - a for a, b in zip(steps, steps[1:])) <= 16
    assert len(json.dumps(choose(before + after + train, limit=room))) <= room * 1.1


@pytest.mark.parametrize("low, high", [
    (0, 1), (0.51, 0.53), (-3, 17), (5, 5), (0, 0), (-1e-9, 2e-9), (1234.5, 98765), (-7.2, -7.1),
])
def test_ticks_are_few_round_and_around_the_data(low, high):
    ticks = nice_ticks(low, high)
    gap = ticks[1] - ticks[0]
    assert ticks[0] <= low + gap * 1e-6 and high - gap * 1e-6 <= ticks[-1] and 2 <= len(ticks) <= 6
    assert float(f"{gap:.0e}") == pytest.approx(gap) and f"{gap:.0e}"[0] in "125"


@pytest.mark.skipif(shutil.which("node") is None, reason="checks the script's syntax, where there is a node to ask")
def test_script_is_javascript(tmp_path):
    script = read(make_run(tmp_path / "run"))[1].scripts[1]
    (tmp_path / "script.js").write_text(script)
    subprocess.run(["node", "--check", tmp_path / "script.js"], check=True, timeout=20)
