"""Every role behind a real OpenAI-compatible server on loopback: `transformers serve` on a tiny trained checkpoint.

Stages 1 and 2 ask all of them; stage 3 asks the same judges and the same prober in the same way, which test_docs.py
shows. Skipped where the packages that it needs are not installed (pip install "transformers[serving]").
"""
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request

import pytest
from conftest import free_port
from test_tiny_cast import CHAIN, make_players, options
from transformers.utils.import_utils import is_serve_available

import run_sft
import run_skills
from ap.files import read_json, read_jsonl, write_json

pytestmark = pytest.mark.skipif(not is_serve_available(), reason="transformers[serving] is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_players("math", tmp_path_factory.mktemp("served"))


@pytest.fixture
def server(folder):
    """The server's address, and a function that ends it."""
    port = free_port()
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder / "trained"),
               "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    process = subprocess.Popen(command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            break
        except OSError:
            time.sleep(0.2)
    yield f"http://127.0.0.1:{port}/v1", lambda: (process.kill(), process.wait())
    process.kill()
    process.wait()


def test_two_stages_with_every_role_behind_a_server(folder, server, capsys):
    """It runs, and the replies are kept, so that it runs again, to the same files, when the server is gone."""
    url, end_server = server

    def player(**settings):
        return {"endpoint": url, "model": str(folder / "trained"), "max_tokens": 8, "tries": 2} | settings

    write_json(folder / "roles.json", {
        "verifiers": [player(temperature=0.1)] * 3, "auditor": player(temperature=0.1), "teacher": player(),
        "probers": [player()]})
    base = {"roles": folder / "roles.json", "corpus": folder / "corpus.jsonl"}
    run = folder / "chain"

    def stages():
        run_skills.main(options(folder, "chain", "math", folder / "policy", **base))
        run_sft.main(options(folder, "chain", "math", folder / "policy", **base, sft_steps=1, sft_batch=4, **CHAIN))
        files = ("skills/candidates.jsonl", "expert.jsonl", "expert_rejected.jsonl", "expert_reasons.json")
        return [(run / name).read_text() for name in files], capsys.readouterr().out

    first, printed = stages()
    assert {c["name"]: c["kept"] for c in read_jsonl(run / "skills" / "candidates.jsonl")} == {
        "fingers": True, "circle": True}
    reasons, expert = read_json(run / "expert_reasons.json"), read_jsonl(run / "expert.jsonl")
    assert len(expert) == 12 and sum(reasons.values()) == reasons["valid"] + len(
        read_jsonl(run / "expert_rejected.jsonl"))
    assert 0 < sum(record["pass_rate"] for record in expert) < 12  # the server samples
    told = re.search(r"verifier-1: requests (\d+), cached \d+, retries (\d+), .*completion_tokens (\d+)", printed)
    assert int(told[1]) > 0 == int(told[2]) and int(told[3]) > 0
    kept = len(list((run / "replies").rglob("*.json")))

    end_server()
    shutil.move(run / "replies", folder / "replies")
    shutil.rmtree(run)
    shutil.move(folder / "replies", run / "replies")
    (run / "config.json").write_text(json.dumps({}))
    again, printed = stages()
    assert again == first and "verifier-1: requests 0, " in printed
    assert len(list((run / "replies").rglob("*.json"))) == kept
