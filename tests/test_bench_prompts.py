"""bench/prompts.py asks a model every question of every role; here a scripted one and one with random weights."""
import sys
from pathlib import Path

import pytest
from conftest import script
from test_model_teacher import ENTRY, MARKS

from ap.files import read_jsonl
from ap.players.notes import Notes

BENCH = Path(__file__).parent.parent / "bench" / "prompts.py"


@pytest.fixture(scope="module")
def bench():
    return script(BENCH)


def reply(prompt):
    """What a good model says; of the answers to problems only that about 360 is right, and only that to an even
    question."""
    last = prompt.strip().splitlines()[-1]
    if "Which reasoning skills" in prompt:
        return str([{**ENTRY, "sentences": [1]}]).replace("'", '"') if "leaves remainder 2" in prompt else "I see none."
    if "Score a reasoning skill" in prompt:
        return str(MARKS).replace("'", '"')
    if "Judge whether" in prompt:
        return '{"valid": true, "answer": "12", "reason": "valid"}'
    if "Write the problem now" in prompt:
        return "<problem>How many whole numbers are there from 3 to 9?</problem>"
    if "Python program" in last or "```python" in prompt:
        return "```python\nprint('answer:', 12)\n```"
    return "Submit" if "the one word Submit" in prompt else "It is \\boxed{12}."


class Scripted:
    def sample(self, prompt, k, key):
        return [reply(prompt)] * k


def test_the_shares_are_counted(bench, tmp_path):
    world, notes = bench.Bench("none"), Notes(tmp_path / "replies.jsonl")
    asked = bench.ask_all(world, [*bench.TEACHER, "judge", "prober"], Scripted(), 4, 2, notes)
    world.sandbox.close()
    faults = {name: [one.fault for kind, one, _ in asked if kind == name] for name in bench.PROMPTS}
    assert faults["extract"] == ["", "no readable list"] * 2  # four questions with two contents
    for name in ("score", "draft", "check", "submit", "judge", "prober"):
        assert faults[name] == [""] * 4, name
    right = {name: [one.right for kind, one, _ in asked if kind == name] for name in bench.PROMPTS}
    assert right["score"] == [True] * 4 and right["judge"][1] is False  # a broken problem that it calls valid
    assert bench.row("extract", faults["extract"], 0.5, []).split() == [
        "extract", "4", "0.50", "0.50", "no", "readable", "list:", "2"]
    said = read_jsonl(notes.path)
    assert len(said) == 4 * 7 + 2  # two replies of no use were asked for once more
    assert {record["prompt"] for record in said} == set(bench.PROMPTS) - {"proposer"}


def test_a_local_checkpoint_is_asked_in_one_batch(bench, model, tokenizer, tmp_path, monkeypatch, capsys):
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "random")
    monkeypatch.setattr(sys, "argv", [
        str(BENCH), "--model", str(tmp_path / "random"), "--n", "2", "--contents", "1", "--max_tokens", "4",
        "--only", "score,submit,prober", "--out", str(tmp_path / "replies.jsonl")])
    bench.main()
    shown = capsys.readouterr().out
    assert [line.split()[:4] for line in shown.splitlines() if line.startswith(("score", "submit", "prober"))] == [
        ["score", "2", "0.00", "0.00"], ["submit", "2", "0.00", "0.00"], ["prober", "2", "0.00", "0.00"]]
    assert len(read_jsonl(tmp_path / "replies.jsonl")) == 10  # the prober is asked once, the teacher twice
