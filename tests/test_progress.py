"""What moves while a bar stands still: requests and tokens of all players, as a line."""
import time
from types import SimpleNamespace

from ap.tools import progress
from ap.tools.progress import heartbeat, pulse, said_by


def test_a_line_by_hand():
    """12 s after the beginning: the judge replied 3 times, 60 tokens; the policy wrote 100 and learnt from 20."""
    judge = SimpleNamespace(counts={"requests": 5, "cached": 9, "prompt_tokens": 700, "completion_tokens": 40})
    policy = SimpleNamespace(counts={"written_tokens": 1000, "trained_tokens": 0})
    idle = SimpleNamespace(counts={"requests": 2, "prompt_tokens": 1, "completion_tokens": 1})
    players = {"policy": policy, "auditor": idle, "verifier": judge}
    before = said_by(players)
    assert before == {"policy": (0, 1000), "auditor": (2, 1), "verifier": (5, 40)}
    judge.counts |= {"requests": 8, "completion_tokens": 100, "prompt_tokens": 900}
    policy.counts |= {"written_tokens": 1100, "trained_tokens": 20}
    line = heartbeat(before, said_by(players), 12.0)
    assert line == "12 s; policy 120 tokens, 10/s; verifier 3 replies, 60 tokens, 5/s"
    assert heartbeat(before, before, 3.2) == "3 s; nobody has replied yet"


def test_a_log_file_gets_a_line_now_and_then(monkeypatch, capsys):
    monkeypatch.setattr(progress, "SELDOM", 0.01)
    teacher = SimpleNamespace(counts={"requests": 0, "completion_tokens": 0})
    with pulse("expert episodes", {"teacher": teacher}):
        teacher.counts |= {"requests": 1, "completion_tokens": 30}
        time.sleep(0.2)
    with pulse("another rank", {"teacher": teacher}, shown=False):
        time.sleep(0.05)
    said = capsys.readouterr().err
    assert "expert episodes: 0 s; teacher 1 replies, 30 tokens, " in said and "another rank" not in said
