"""docs/own-texts.md: its files and commands, run as they stand against two servers on loopback, print what it shows.

The servers are the script of test_domains_chain.py. Numbers are compared only where no trained weights stand behind
them, for those depend on the machine.
"""
import os
import re
import subprocess
import sys
from pathlib import Path

from test_domains_chain import CORPUS, play, teacher
from test_endpoint import Server

from ap.world.chat import build_tokenizer
from ap.config import Config
from ap.domains import math
from ap.world.env import INSTRUCTIONS
from ap.engine.model import build_model

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "own-texts.md"
FILES = re.compile(r"^`([\w./-]+)`\n\n```\w*\n(.*?)```$", re.DOTALL | re.MULTILINE)
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def commands(page):
    """(command, what it shows) of every line that begins with a dollar sign."""
    text = "".join(CONSOLE.findall(page))
    return [(command, shown) for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE)]


def printed(folder, addresses, page):
    """Make the files of the page in the folder, run its commands there: what each prints, without progress bars."""
    for name, text in FILES.findall(page):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        for shown, real in addresses.items():
            text = text.replace(shown, real)
        (folder / name).write_text(text)
    texts = [text for record in CORPUS for text in record.values()]
    texts += [teacher("[agent]--- episode so far ---" + "[agent]" * n) for n in range(3)] * 2
    tokenizer = build_tokenizer(texts, [INSTRUCTIONS, math.INSTRUCTIONS, *math.INSTRUCTIONS.split("\n")], 600)
    config = Config(hidden_size=32, layers=2, heads=2, intermediate_size=64)
    for part in (tokenizer, build_model(config, len(tokenizer), seed=0)):
        part.save_pretrained(folder / "models" / "policy")
    outputs = []
    for command, _ in commands(page):
        command = re.sub(r"^python (run_)", rf"python {ROOT}/\1", command)
        command = re.sub(r"^python", sys.executable, command)
        done = subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True, timeout=300,
                              env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, (command, done.stderr)
        outputs.append(done.stdout)
    return outputs


def test_the_page_shows_what_is_printed(tmp_path):
    page = PAGE.read_text()
    with Server(answer=play) as judges, Server(answer=play) as others:
        outputs = printed(
            tmp_path, {"http://localhost:8001/v1": judges.url, "http://localhost:8002/v1": others.url}, page)
        assert judges.seen and others.seen
        assert {body["model"] for _, body, _ in judges.seen} == {"judge-a", "judge-b", "judge-c"}
    trained = False
    for (command, shown), output in zip(commands(page), outputs, strict=True):
        trained = trained or "run_mgpo" in command
        if trained:
            shown, output = (re.sub(r"[-+]?[\d.]+", "0", text) for text in (shown, output))
            words = [line.split("  ")[0] for line in shown.splitlines()]
            assert all(word in output for word in words), (command, output)
        else:
            assert shown == output, (command, output)
