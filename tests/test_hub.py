"""Models by their id on the hub: against a stand-in of it on loopback, which counts what it is asked. No network."""
import json
import shutil
import threading
from collections import Counter
from dataclasses import replace
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants

import eval as evaluation_script
import run_skills
from ap.compat import hub
from ap.compat.hub import commits, fetch, folder_of, is_id, shown, snapshot, whole_snapshot
from ap.config import Config
from ap.domains.math import Math
from ap.engine.model import build_model, load_model
from ap.files import UserError, read_json, write_json
from ap.learn.ranks import Ranks
from ap.mini.tokenizer import build_tokenizer
from ap.players.cast import model_names, open_cast
from ap.tools.commandline import load_config, parse_config, save_config
from ap.tools.hub import local_model, named, with_models
from ap.tools.plan import dry_run


def commit_of(version):
    return sha1(version.encode()).hexdigest()


class Hub(ThreadingHTTPServer):
    """What the client asks of the hub: where a revision is, which files it has, and each file.

    repositories: {kind and id, such as "models/some/model": {revision: {file: bytes}}}, the kind empty for models.
    gated: ids whose files are not given. `asked` counts requests by method and last words of the path.
    """

    def __init__(self, repositories, gated=()):
        super().__init__(("127.0.0.1", 0), Answer)
        self.repositories, self.gated, self.asked = repositories, gated, []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    @property
    def fetched(self):
        """How often each file was sent."""
        return Counter(path.split("/")[-1] for method, path in self.asked if method == "GET" and "/resolve/" in path)


class Answer(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def reply(self, body, status=200, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self):
        hub, path = self.server, self.path.split("?")[0].strip("/")
        hub.asked.append((self.command, path))
        words = path.split("/")
        if words[0] == "api":
            kind, owner, name, verb, revision = (words[1:] + ["revision", "main"])[:5]
            if len(words) > 4:
                verb, revision = words[4:6]
        else:
            owner, name, verb, revision = words[:4]
            kind = "models"
        revisions = hub.repositories.get(f"{kind}/{owner}/{name}")
        if revisions is None:
            return self.reply(b"", 401, X_Error_Code="RepoNotFound")
        known = {key: value for version, files in revisions.items() for key, value in (
            (version, (version, files)), (commit_of(version), (version, files)))}
        if revision not in known:
            return self.reply(b"", 404, X_Error_Code="RevisionNotFound")
        version, files = known[revision]
        if verb == "revision":
            siblings = [{"rfilename": file} for file in files]
            record = {"id": f"{owner}/{name}", "sha": commit_of(version), "siblings": siblings, "private": False}
            return self.reply(json.dumps(record).encode(), Content_Type="application/json")
        if verb == "tree":
            listed = [{"type": "file", "path": file, "size": len(body), "oid": sha1(body).hexdigest()}
                      for file, body in files.items()]
            return self.reply(json.dumps(listed).encode(), Content_Type="application/json")
        assert verb == "resolve"
        file = "/".join(words[4:])
        if f"{owner}/{name}" in hub.gated:
            return self.reply(b"", 403, X_Error_Code="GatedRepo")
        if file not in files:
            return self.reply(b"", 404, X_Error_Code="EntryNotFound")
        return self.reply(files[file], ETag=f'"{sha1(files[file]).hexdigest()}"', X_Repo_Commit=commit_of(version))

    do_HEAD = do_GET


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The files of a tiny model, as a repository has them, among others that nobody needs."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = build_tokenizer(["One and one is two.", "Two and two is four."] * 3, [], 300)
    model = build_model(Config(hidden_size=16, layers=1, heads=2, intermediate_size=16), len(tokenizer), seed=0)
    for part in (tokenizer, model):
        part.save_pretrained(folder)
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    return found | {"README.md": b"# read", "pytorch_model.bin": b"old", "onnx/model.safetensors": b"other",
                    "consolidated.safetensors": b"twice", "model.fp16.safetensors": b"half"}


@pytest.fixture
def serve(files, tmp_path, monkeypatch):
    """serve(repositories): a hub on loopback, with a cache of its own, that the client asks. None: no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.chdir(tmp_path)

    def ask(address):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", address)

    with Hub({"models/some/model": {"main": files, "v1": files | {"generation_config.json": b"{}"}},
              "models/gated/model": {"main": files}, "models/no/weights": {"main": {
                  name: body for name, body in files.items() if not name.endswith("safetensors")}},
              "models/no/model": {"main": {"README.md": b"# a data set, perhaps"}}}, ["gated/model"]) as server:
        ask(server.url)
        server.cut = lambda: ask("http://127.0.0.1:9")  # nobody listens at this port
        yield server


MAIN, V1 = commit_of("main"), commit_of("v1")
ID = "some/model"


# --------------------------------------------------------------------------------------------------- names


def test_what_is_an_id_and_what_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("Qwen/Qwen3-0.6B", "a/b@main", "a/b@refs/pr/1", "some/model"):
        assert is_id(name), name
    for name in ("", "qwen", "./a/b", "/a/b", "a/b/c", "~/a", "a/", "a/b@", "../b", "a b/c"):
        assert not is_id(name), name
    (tmp_path / "some" / "model").mkdir(parents=True)
    assert not is_id("some/model") and folder_of("some/model") == "some/model"  # what is here wins


def test_commits_of_a_setting():
    assert commits("") == {} and commits(f"a/b={MAIN} a/b@v1={V1}") == {"a/b": MAIN, "a/b@v1": V1}
    assert shown("a/b@v1", f"a/b@v1={V1}") == f"a/b at commit {V1}" and shown("models/mine/") == "mine"
    for wrong in ("a/b", f"a/b={MAIN[:7]}", f"b={MAIN}", "a/b=main"):
        with pytest.raises(UserError, match="must be OWNER/NAME=COMMIT"):
            commits(wrong)


# -------------------------------------------------------------------------------------------------- fetching


def test_a_model_is_fetched_once_with_what_it_needs(serve, files):
    assert fetch(ID, "--model") == MAIN
    needed = {name for name in files if name.split(".")[0] in ("config", "tokenizer", "tokenizer_config", "model",
              "generation_config", "chat_template", "special_tokens_map") and "fp16" not in name}
    assert set(serve.fetched) == needed and set(serve.fetched.values()) == {1}
    asked = len(serve.asked)
    assert fetch(ID, "--model", MAIN) == MAIN and len(serve.asked) == asked  # the network is not asked at all
    folder = folder_of(ID, f"{ID}={MAIN}")
    model = load_model(folder, Config(device="cpu"))
    assert {name: weight.shape for name, weight in model.state_dict().items()} and not torch.isnan(
        model.lm_head.weight).any()


def test_a_revision_is_that_revision(serve):
    assert (fetch(f"{ID}@v1", "--model"), fetch(f"{ID}@main", "--model")) == (V1, MAIN)
    folders = {folder_of(name, f"{name}={commit}") for name, commit in ((f"{ID}@v1", V1), (ID, MAIN))}
    assert len(folders) == 2 and fetch(f"{ID}@{V1}", "--model") == V1


def test_a_download_that_was_cut_is_not_taken_for_whole(serve, files):
    snapshot(ID, "main", hub.WORDS, "--model")  # killed before the weights came
    assert whole_snapshot(ID, MAIN) is None
    with pytest.raises(UserError, match="no commit of a model of this id is here"):
        folder_of(ID, f"{ID}={MAIN}")
    assert fetch(ID, "--model", MAIN) == MAIN and whole_snapshot(ID, MAIN) is not None
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    folder = whole_snapshot(ID, MAIN)
    write_json(folder / "model.safetensors.index.json", index)
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"")
    assert whole_snapshot(ID, MAIN) is None
    (folder / "model-00002-of-00002.safetensors").write_bytes(b"")
    assert whole_snapshot(ID, MAIN) == folder


@pytest.mark.parametrize("name, words", [
    ("some/modle", "there is no such folder here, and no model some/modle on the hub"),
    ("gated/model", "is gated; accept its terms"), (f"{ID}@v2", "has no revision v2"),
    ("no/weights", r"has no weights model\*.safetensors"), ("no/model", "holds no config.json"),
])
def test_what_cannot_be_fetched_is_one_sentence(serve, name, words):
    with pytest.raises(UserError, match=words) as caught:
        fetch(name, "--model")
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"--model {name}: ")


def test_without_a_network(serve):
    """What was recorded is here; a revision that was once asked for is taken as it was then; nothing else is."""
    fetch(ID, "--model")
    serve.cut()
    assert fetch(ID, "--model", MAIN) == MAIN and fetch(ID, "--model") == MAIN
    with pytest.raises(UserError, match="no such folder here, and the hub cannot be reached") as caught:
        fetch("models/qwem", "--model")
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------------- a run


def test_a_run_records_commits_and_goes_on_without_network(serve, tmp_path):
    roles = tmp_path / "roles.json"
    write_json(roles, {"verifiers": [{"checkpoint": ID}] * 2 + [{"endpoint": "http://h/v1", "model": "m"}],
                       "teacher": {"checkpoint": f"{ID}@v1"}})
    options = ["--out", str(tmp_path / "runs"), "--name", "mine", "--model", ID, "--roles", str(roles)]
    config = with_models(parse_config(options, ""), Ranks())
    assert config.model == ID and commits(config.revisions) == {ID: MAIN, f"{ID}@v1": V1}
    assert max(serve.fetched.values()) <= 2  # of two commits
    save_config(config)

    serve.repositories[f"models/{ID}"] = {"main": {}, "v2": {}}  # the hub goes on
    serve.cut()
    again = with_models(parse_config(options[:4], ""), Ranks())
    assert again == config == load_config(config.folder)
    cast = open_cast(replace(again, domain="math"), Math(), needed=())
    assert [folder.split("/")[-1] for folder in (cast.teacher.folder, cast.players["verifier-1"].folder)] == [V1, MAIN]
    assert model_names(roles, again.revisions) == {
        "verifiers": [f"{ID} at commit {MAIN}"] * 2 + ["m"], "teacher": [f"{ID} at commit {V1}"]}
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(UserError, match="the hub cannot be reached"):
        with_models(replace(again, revisions=""), Ranks())  # of a commit, the client would try for 20 seconds


def test_the_default_run_asks_nobody(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    assert with_models(Config(), Ranks()) == Config() and list(named(Config())) == [("", "--model")]


class Fake(Ranks):
    """One of several ranks, whose `gather` adds what the others have found."""

    def gather(self, value):
        return [*self.others.pop(0), value]


def test_other_ranks_do_not_fetch_and_hear_of_a_failure(serve, monkeypatch):
    config = Config(model=ID)
    other = Fake(rank=1, world_size=2, local_rank=1)
    object.__setattr__(other, "others", [[{ID: MAIN}], [{}]])
    assert with_models(config, other).revisions == f"{ID}={MAIN}" and serve.asked == []
    object.__setattr__(other, "others", [["--model: no such model"]])
    with pytest.raises(UserError, match="no such model"):
        with_models(config, other)
    node = Fake(rank=8, world_size=16, local_rank=0)  # its cache may be another one
    object.__setattr__(node, "others", [[{ID: V1}], [{}]])
    assert with_models(config, node).revisions == f"{ID}={V1}" and set(serve.fetched.values()) == {1}
    assert whole_snapshot(ID, V1) is not None and whole_snapshot(ID, MAIN) is None


def test_scripts_take_an_id(serve, tmp_path, capsys):
    """run_skills.py with programs in all roles, the dry run, and eval.py, each with an id as --model."""
    dry_run(Config(model=ID, gpus=1, dry_run=True))
    assert "qwen3: " in capsys.readouterr().out and set(serve.fetched) == {"config.json"}
    run_skills.main(["--out", str(tmp_path / "runs"), "--model", ID, "--corpus_size", "60", "--device", "cpu"])
    assert read_json(tmp_path / "runs" / "small" / "config.json")["revisions"] == f"{ID}={MAIN}"
    assert local_model(f"{ID}@v1").endswith(V1) and f"model: {ID}@{V1}" in capsys.readouterr().out
    write_json(tmp_path / "one.json", [{"question": "1 + 1?", "answer": "2"}])
    evaluation_script.main(["--model", ID, "--problems", "one.json", "--k", "2", "--max_tokens", "3", "--out", "found"])
    assert (tmp_path / "found" / "one.jsonl").exists()


def test_a_mistyped_folder_at_the_command_line():
    with pytest.raises(UserError, match="no Hugging Face checkpoint there"):
        parse_config(["--model", "./models/qwem"], "")
