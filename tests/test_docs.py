"""docs/own-texts.md: its commands, run as they stand against two servers on loopback, print what the page shows; also
with servers that fail, and from the replies that were kept.

This is the chain of all stages where models behind endpoints judge; in test_tiny_cast.py local checkpoints judge. The
servers follow the script of test_domains_chain.py. The scripts are called in this process and not started;
test_scripts.py shows that they start. Numbers are compared only where they do not depend on trained weights, which
depend on the machine.
"""
import contextlib
import importlib
import io
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from test_domains_chain import CORPUS, play, teacher
from test_endpoint import Server

from ap.config import Config
from ap.domains.math import Math
from ap.engine.model import build_model
from ap.files import read_jsonl
from ap.mini.tokenizer import build_tokenizer
from ap.players.endpoint import Endpoint
from ap.world.env import INSTRUCTIONS

PAGE = Path(__file__).parent.parent / "docs" / "own-texts.md"
FILES = re.compile(r"^`([\w./-]+)`\n\n```\w*\n(.*?)```$", re.DOTALL | re.MULTILINE)
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LEFT = ("skills/candidates.jsonl", "expert.jsonl", "expert_rejected.jsonl", "expert_reasons.json", "problems.jsonl",
        "evaluation_before.json", "evaluation_after.json", "clean.jsonl")


def commands(page):
    """(command, the output that the page shows) of every line that begins with a dollar sign."""
    text = "".join(CONSOLE.findall(page))
    return [(command, shown) for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE)]


def make_files(folder):
    """The files of the page, and the policy that it names."""
    for name, text in FILES.findall(PAGE.read_text()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    texts = [text for record in CORPUS for text in record.values()]
    texts += [teacher("[agent]--- episode so far ---" + "[agent]" * n) for n in range(3)] * 2
    tokenizer = build_tokenizer(texts, [INSTRUCTIONS, Math.instructions, *Math.instructions.split("\n")], 600)
    config = Config(hidden_size=32, layers=2, heads=2, intermediate_size=64)
    for part in (tokenizer, build_model(config, len(tokenizer), seed=0)):
        part.save_pretrained(folder / "models" / "policy")


def printed(command):
    """What a command of the page prints; our own scripts are called in this process."""
    found = re.match(r"python (?:-m )?([\w.]+?)(?:\.py)? (.*)", command)
    if not found:
        return subprocess.run(command, shell=True, capture_output=True, text=True, check=True, timeout=60).stdout
    with contextlib.redirect_stdout(io.StringIO()) as output:
        importlib.import_module(found[1]).main(shlex.split(found[2]))
    return output.getvalue()


class Chain:
    """Runs the page's commands in a folder, and keeps what they asked the two servers."""

    def __init__(self, folder):
        self.folder, self.run, self.outputs, self.players, self.servers = folder, folder / "runs" / "mine", [], [], []

    def play(self, *faults, **settings):
        """faults: of each server, in turn. settings: of every player, beside those of roles.json."""
        def endpoint(address, *arguments):
            *others, own = arguments
            self.players.append(Endpoint(urls[address], *others, replace(own, **settings)))
            return self.players[-1]

        with contextlib.ExitStack() as stack:
            self.servers = [stack.enter_context(Server(*some, answer=play)) for some in faults or ((), ())]
            urls = {f"http://localhost:{8001 + n}/v1": server.url for n, server in enumerate(self.servers)}
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            patch.setattr("ap.players.cast.Endpoint", endpoint)
            patch.chdir(self.folder)
            self.outputs = [printed(command) for command, _ in commands(PAGE.read_text())]
        return self

    @property
    def asked(self):
        return sum(len(server.seen) for server in self.servers)

    def counted(self, what):
        return sum(player.counts[what] for player in self.players)

    def left(self):
        """The files that the stages leave, and what the metrics say about the episodes."""
        rates = [{name: value for name, value in record.items() if name.startswith(("verdict", "outcome", "abstained"))}
                 for record in read_jsonl(self.run / "metrics.jsonl")]
        return {name: (self.run / name).read_bytes() for name in LEFT}, rates


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    make_files(folder)
    return folder


@pytest.fixture(scope="module")
def chain(start, tmp_path_factory):
    folder = tmp_path_factory.mktemp("chain")
    shutil.copytree(start, folder, dirs_exist_ok=True)
    return Chain(folder).play()


def test_the_page_shows_what_is_printed(chain):
    assert {body["model"] for _, body, _ in chain.servers[0].seen} == {"judge-a", "judge-b", "judge-c"}
    assert {body["model"] for _, body, _ in chain.servers[1].seen} >= {"teacher", "prober"}
    trained = False
    for (command, shown), output in zip(commands(PAGE.read_text()), chain.outputs, strict=True):
        trained = trained or "run_mgpo" in command
        if trained:
            shown, output = (re.sub(r"[-+]?[\d.]+", "0", text) for text in (shown, output))
            words = [line.split("  ")[0] for line in shown.splitlines()]
            assert all(word in output for word in words), (command, output)
        else:
            shown, output = (re.sub(r"[\d.]+ hours", "0 hours", text) for text in (shown, output))
            assert shown == output, (command, output)


def test_what_the_chain_leaves(chain):
    metrics, problems = (read_jsonl(chain.run / f"{name}.jsonl") for name in ("metrics", "problems"))
    assert [record["step"] for record in metrics] == [1, 2]
    assert max(record["valid_rate"] for record in metrics) > 0  # the committee was asked, and said yes
    assert {record["committee/unanimous"] for record in metrics if record["valid_rate"]} == {1.0}
    assert problems and {problem["domain"] for problem in problems} == {"math"}
    assert metrics[-1]["role/verifier-1/requests"] > 0 and chain.counted("retries") == 0
    assert (chain.run / "report.html").stat().st_size > 0


# Those that pass. What was paid and holds no text is asked with another seed, so its reply may differ (test_endpoint).
FAULTS = [429, "cut", 500, 502, "cut", 503, "slow", 503, 408, 429]


def test_faults_of_a_server_lose_nothing(chain, start, tmp_path):
    """Every fault that passes, all over the chain: the files are the same as without; each fault costs one more
    request; a rerun asks nothing."""
    shutil.copytree(start, tmp_path, dirs_exist_ok=True)
    one, impatient = Chain(tmp_path), {"pause": 0.01, "seconds": 0.8}
    one.play([fault for some in FAULTS for fault in (None, some)],
             [fault for some in 2 * FAULTS for fault in (None, None, some)], **impatient)
    assert one.left() == chain.left() and not any(server.faults for server in one.servers)
    retries = one.counted("retries")
    assert one.counted("requests") - retries == chain.asked and retries >= 30  # a busy machine may cut some more
    assert one.counted("completion_tokens") == 3 * chain.asked
    for path in one.run.iterdir():
        if path.name not in ("replies", "config.json"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    again = Chain(tmp_path).play(**impatient)
    assert again.left() == chain.left() and again.asked == 0
    assert again.counted("requests") == 0 < again.counted("cached")
