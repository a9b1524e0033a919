"""Problems in other trainers' layouts: field by field, and read back by the trainers' own code."""
import json
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ap.config import Config
from ap.files import UserError, write_json, write_jsonl
from ap.mini.teacher import ScriptedAuthor
from ap.tools import export
from ap.tools.commandline import save_config
from ap.world.rollout import Start, play_script

PROBLEM = {
    "step": 3, "question": "a is 52. b is a minus 5. Find b.", "answer": "47", "domain": "mini",
    "skills": ["least", "shift"], "kept_skills": ["shift"], "pass_rate": 0.625,
}
PROMPT = [{"role": "user", "content": "a is 52. b is a minus 5. Find b.\n"
           "Think step by step, and put the final answer in \\boxed{}."}]
KNOWN = {"step": 3, "skills": ["least", "shift"], "kept_skills": ["shift"], "pass_rate": 0.625}
EXPECTED = {
    "verl": {
        "data_source": "agentic-proposing", "prompt": PROMPT, "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "47"},
        "extra_info": {"split": "train", "index": 1, "question": PROBLEM["question"], "answer": "47"} | KNOWN,
    },
    "trl": {"prompt": PROMPT, "solution": "\\boxed{47}", "answer": "47"} | KNOWN,
    "chat": {"messages": [*PROMPT, {"role": "assistant", "content": "\\boxed{47}"}]},
}


@pytest.fixture
def problems(tmp_path):
    """A run's folder with two problems; the first with less known about it."""
    save_config(Config(out=str(tmp_path), name="run", seed=7, groups=4, reference=str(tmp_path / "other")))
    bare = {"question": "a is 1. Find a.", "answer": "1", "domain": "mini"}
    write_jsonl(tmp_path / "run" / "problems.jsonl", [bare, PROBLEM])
    return tmp_path / "run" / "problems.jsonl"


def exported(problems, kind, ending, *options):
    out = problems.parent / "to" / f"data.{ending}"
    export.main([str(problems), "--format", kind, "--out", str(out), *options])
    return out


@pytest.mark.parametrize("kind", export.FORMATS)
def test_every_field_of_a_line(problems, kind):
    lines = exported(problems, kind, "jsonl").read_text().splitlines()
    assert len(lines) == 2 and json.loads(lines[1]) == EXPECTED[kind]
    assert json.loads(lines[0]).keys() == EXPECTED[kind].keys()


@pytest.mark.parametrize("kind", export.FORMATS)
def test_parquet_holds_the_same(problems, kind):
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = parquet.read_table(exported(problems, kind, "parquet")).to_pylist()
    assert rows == [json.loads(line) for line in exported(problems, kind, "jsonl").read_text().splitlines()]
    assert rows[1] == EXPECTED[kind]
    left = sorted(path.name for path in (problems.parent / "to").iterdir())
    assert left == ["data.jsonl", "data.md", "data.parquet"]


@pytest.mark.parametrize("kind", export.FORMATS)
@pytest.mark.parametrize("ending, loader", [("parquet", "parquet"), ("jsonl", "json")])
def test_datasets_loads_it(problems, kind, ending, loader, tmp_path):
    datasets = pytest.importorskip("datasets")
    file = exported(problems, kind, ending)
    loaded = datasets.load_dataset(loader, data_files=str(file), cache_dir=str(tmp_path / "cache"), split="train")
    assert loaded[1] == EXPECTED[kind]


def test_verl_is_what_its_own_scripts_write(problems, tmp_path):
    """The columns and types of verl's GSM8K script: strings, a list of messages, an integer index."""
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset("parquet", data_files=str(exported(problems, "verl", "parquet")),
                                   cache_dir=str(tmp_path / "cache"), split="train")
    text, message = datasets.Value("string"), {"role": datasets.Value("string"), "content": datasets.Value("string")}
    assert loaded.features["data_source"] == loaded.features["ability"] == text
    assert loaded.features["prompt"] in ([message], datasets.List(message))
    assert loaded.features["reward_model"] == {"style": text, "ground_truth": text}
    assert loaded.features["extra_info"]["index"] == datasets.Value("int64")
    assert loaded.features["extra_info"]["split"] == text


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_verl_reads_it_and_scores_answers_to_it(problems, ending, tmp_path, monkeypatch):
    """By verl's own reader and scorer, which need some of its dependencies: pip install --no-deps verl ray omegaconf
    antlr4-python3-runtime==4.9.3 tensordict pyvers hydra-core codetiming importlib_metadata zipp msgpack."""
    reader = pytest.importorskip("verl.utils.dataset.rl_dataset", exc_type=ImportError)
    import datasets
    from omegaconf import OmegaConf
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from verl.utils.reward_score import default_compute_score

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"?": 0}, unk_token="?")), unk_token="?", pad_token="?",
        chat_template="{% for message in messages %}{{ message['content'] }}{% endfor %}")
    settings = OmegaConf.create({"cache_dir": str(tmp_path), "filter_overlong_prompts_workers": 1})
    file = exported(problems, "verl", ending, "--data_source", "lighteval/MATH")
    read = reader.RLHFDataset([str(file)], tokenizer, settings)
    assert len(read) == 2 and read[1]["raw_prompt"] == PROMPT
    kept = {name: read[1][name] for name in EXPECTED["verl"]}
    assert kept == EXPECTED["verl"] | {"data_source": "lighteval/MATH"}
    assert reader.collate_fn([read[0], read[1]])["index"].tolist() == [0, 1]
    scores = [default_compute_score(kept["data_source"], f"So it is \\boxed{{{answer}}}.",
                                    kept["reward_model"]["ground_truth"], kept["extra_info"]) for answer in (46, 47)]
    assert scores == [0.0, 1.0]


def test_trl_takes_it_for_a_conversation_and_finds_its_answers(problems, tmp_path):
    pytest.importorskip("trl")
    pytest.importorskip("math_verify")
    from trl import is_conversational
    from trl.rewards import accuracy_reward

    rows = [json.loads(line) for line in exported(problems, "trl", "jsonl").read_text().splitlines()]
    assert all(is_conversational(row) for row in rows)
    said = [[{"role": "assistant", "content": f"So it is \\boxed{{{answer}}}."}] for answer in ("2", "47")]
    assert accuracy_reward(said, [row["solution"] for row in rows]) == [0.0, 1.0]


def test_the_data_card(problems):
    card = exported(problems, "verl", "jsonl", "--license", "cc-by-4.0").with_suffix(".md").read_text()
    assert card.startswith("---\nlicense: cc-by-4.0\n---\n")
    for words in ("| problems | 2 |", "preset mini, seed 7", "algorithm | mgpo", "seed 7, groups 4, reference other",
                  "enumerate_worlds", "second_audit", "slip-0.12", "mean 0.625", "verl", "made from scratch", "| 16 |"):
        assert words in card, words
    assert str(problems.parent.parent) not in card  # no path of this machine
    assert "cost of" not in card  # nothing was counted
    players = {"policy": {"written_tokens": 12345}, "teacher": {"requests": 40, "cost": 1.5}}
    write_json(problems.parent / "costs.json", {"expert episodes": {"hours": 0.5, "starts": 2, "players": players}})
    card = exported(problems, "verl", "jsonl").with_suffix(".md").read_text()
    assert ("| cost of expert episodes | 0.50 hours of 1 process, 12,345 tokens written, 40 requests to models, money "
            "1.5 |") in card


def test_the_card_names_a_model_of_the_hub_with_its_commit(problems):
    commit = "0123456789" * 4
    save_config(Config(out=str(problems.parent.parent), name="run", model="a/model", revisions=f"a/model={commit}"))
    card = exported(problems, "verl", "jsonl").with_suffix(".md").read_text()
    assert f"| proposer starts from | a/model at commit {commit} |" in card and "revisions" not in card


def test_the_card_names_the_models_that_judged(problems, tmp_path):
    """Models by name and folders by their last part: no address, no path, no variable of a key."""
    roles = tmp_path / "roles.json"
    roles.write_text(json.dumps({
        "verifiers": [{"endpoint": "http://10.0.0.7:8000/v1", "model": "judge-a", "key": "MY_KEY"},
                      {"checkpoint": "/models/judge-b"}, {"checkpoint": "/models/judge-c"}],
        "auditor": {"endpoint": "http://10.0.0.7:8000/v1", "model": "auditor-d"},
        "teacher": {"checkpoint": "/models/teacher-e"}, "extractor": {"checkpoint": "/models/own"},
        "probers": [{"checkpoint": "/models/weak"}, {"checkpoint": "/models/strong"}]}))
    save_config(Config(out=str(tmp_path), name="run", domain="math", roles=str(roles)))
    write_jsonl(problems, [PROBLEM | {"domain": "math"}])
    card = exported(problems, "trl", "jsonl").with_suffix(".md").read_text()
    for words in ("models judge-a, judge-b, judge-c; second audit models auditor-d; program check ap.domains.judged",
                  "from weak to strong: models weak, strong |", "| teacher | models teacher-e |",
                  "| extractor | models own |", "roles roles.json"):
        assert words in card, words
    assert not any(secret in card for secret in ("10.0.0.7", "/models", "MY_KEY", str(tmp_path)))
    roles.unlink()
    assert "named in roles.json, which is not there any more" in exported(
        problems, "trl", "jsonl").with_suffix(".md").read_text()


def test_programs_play_the_roles_that_no_model_has(problems, tmp_path):
    (tmp_path / "roles.json").write_text('{"probers": [{"endpoint": "http://x/v1", "model": "small"}]}')
    save_config(Config(out=str(tmp_path), name="run", roles=str(tmp_path / "roles.json")))
    card = exported(problems, "trl", "jsonl").with_suffix(".md").read_text()
    assert "programs enumerate_worlds" in card and "weak to strong: models small |" in card


TESTS = [{"input": "1 2", "output": "3"}, {"input": "5 7", "output": "12"}]
CODE = {"question": "Print the sum.", "answer": json.dumps(TESTS), "domain": "code", "evidence": "print(3)"}


@pytest.mark.parametrize("evidence, program", [("print(3)", "```python\nprint(3)\n```"), ("", "")])
def test_code_is_asked_for_programs_and_graded_by_tests(tmp_path, evidence, program):
    """verl's scorer of `codecontests` takes the tests as two lists; the reference program is the solution."""
    write_jsonl(tmp_path / "p.jsonl", [CODE | {"evidence": evidence}])
    rows = {}
    for kind in export.FORMATS:
        export.main([str(tmp_path / "p.jsonl"), "--format", kind, "--out", str(tmp_path / "o.jsonl")])
        [rows[kind]] = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert "program that reads standard input" in rows["trl"]["prompt"][0]["content"]
    assert rows["verl"]["ability"] == "code"
    tests = json.loads(rows["verl"]["reward_model"]["ground_truth"])
    assert tests == {"inputs": ["1 2", "5 7"], "outputs": ["3", "12"]}
    assert rows["trl"]["solution"] == rows["chat"]["messages"][1]["content"] == program


DRESSED = [  # an answer as files have it, and as trainers' scorers take it
    (r"\boxed{5}", "5"), (r"$\boxed{\frac{1}{2}}$", r"\frac{1}{2}"), ("$5$", "5"), (r"\(x+1\)", "x+1"), ("$$5$$", "5"),
    (r"\[ 5 \]", "5"), ("She has 16 - 3 = 13 eggs.\n#### 13", "13"), ("She has 16 - 3 = 13 eggs. A: 13", "13"),
    ("$3$ and $4$", "$3$ and $4$"), (r"\{1, 2\}", r"\{1, 2\}"), ("5 m", "5 m"),
]


@pytest.mark.parametrize("answer, bare", DRESSED)
def test_answers_are_undressed(answer, bare, tmp_path):
    r"""Else `solution` is \boxed{\boxed{5}}, and verl's scorers, which compare texts, say that 5 is not \boxed{5}."""
    write_jsonl(tmp_path / "p.jsonl", [{"question": "?", "answer": answer}])
    rows = {}
    for kind in export.FORMATS:
        export.main([str(tmp_path / "p.jsonl"), "--format", kind, "--out", str(tmp_path / "o.jsonl")])
        [rows[kind]] = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert rows["verl"]["reward_model"]["ground_truth"] == rows["verl"]["extra_info"]["answer"] == bare
    assert (rows["trl"]["answer"], rows["trl"]["solution"]) == (bare, f"\\boxed{{{bare}}}")
    assert rows["chat"]["messages"][1]["content"] == f"\\boxed{{{bare}}}"


@pytest.mark.parametrize("kind", export.FORMATS)
def test_the_schema_of_a_table_does_not_depend_on_its_rows(kind, tmp_path):
    """Of a column without values, or with whole numbers only, or with several types, no type can be guessed: files of
    two runs could not be read together."""
    pytest.importorskip("pyarrow.parquet")
    from pyarrow import parquet
    bare, full = {"question": "?", "answer": "1"}, PROBLEM
    odd = bare | {"step": "3", "pass_rate": 1, "skills": "least", "kept_skills": [1, None]}
    odder = bare | {"step": 2.5, "pass_rate": "high", "skills": {"a": 1}, "kept_skills": None}
    schemas = []
    for rows in ([bare], [bare, full], [full], [odd, full, odder, bare]):
        write_jsonl(tmp_path / "p.jsonl", rows)
        export.main([str(tmp_path / "p.jsonl"), "--format", kind, "--out", str(tmp_path / "o.parquet")])
        schemas.append(parquet.read_schema(tmp_path / "o.parquet"))
        written = parquet.read_table(tmp_path / "o.parquet").to_pylist()
        assert len(written) == len(rows)
    assert all(schema == schemas[0] for schema in schemas)
    if kind == "trl":
        assert [row["step"] for row in written] == [3, 3, None, None]
        assert [row["pass_rate"] for row in written] == [1.0, 0.625, None, None]
        assert [row["skills"] for row in written] == [["least"], ["least", "shift"], [], []]


def test_without_a_run_around_it_the_card_says_so(tmp_path):
    write_jsonl(tmp_path / "mine.jsonl", [{"question": "1 + 1?", "answer": "2"}])
    export.main([str(tmp_path / "mine.jsonl"), "--format", "chat", "--out", str(tmp_path / "chat.jsonl")])
    card = (tmp_path / "chat.md").read_text()
    assert "no config.json" in card and "license: unknown" in card and "verifier, domain" not in card


def test_verl_picks_its_reward_by_the_name_of_the_data(problems):
    out = exported(problems, "verl", "jsonl", "--data_source", "lighteval/MATH", "--split", "test")
    row = json.loads(out.read_text().splitlines()[0])
    assert row["data_source"] == "lighteval/MATH" and row["extra_info"]["split"] == "test"


@pytest.mark.parametrize("line, out, words", [
    ('{"question": "?", "answer": 4}', "a.jsonl", ["line 2", "'answer'"]),
    ('{"answer": "4"}', "a.jsonl", ["line 2", "'question'"]),
    ("{", "a.jsonl", ["line 2", "JSON"]),
    (None, "a.csv", [".parquet or .jsonl"]),
    ("", "a.jsonl", ["no problem"]),
])
def test_bad_input_is_told_in_one_sentence(tmp_path, line, out, words):
    good = json.dumps(PROBLEM)
    (tmp_path / "p.jsonl").write_text({None: good, "": ""}.get(line, f"{good}\n{line}\n"))
    with pytest.raises(UserError) as caught:
        export.main([str(tmp_path / "p.jsonl"), "--format", "trl", "--out", str(tmp_path / out)])
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)
    assert not (tmp_path / out).exists()


def test_parquet_without_pyarrow(problems, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match="pip install pyarrow, or give a .jsonl file"):
        exported(problems, "verl", "parquet")


def test_the_command_line(problems):
    command = [sys.executable, "-m", "ap.tools.export", str(problems), "--format", "trl"]
    root = Path(__file__).parent.parent
    out = problems.parent / "x.jsonl"
    done = subprocess.run([*command, "--out", str(out)], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("2 problems: ")
    with pytest.raises(UserError, match=r"^[^\n]*x\.csv[^\n]*$"):
        export.main([*command[3:], "--out", "x.csv"])


def test_episodes_are_rendered_back_to_the_same_tokens(run, tmp_path):
    """Messages, through the tokenizer's own chat template, are the ids of the episode: nothing lost, nothing added."""
    config = run.env.config
    folder = tmp_path / "run"
    shutil.copytree(config.folder / "tokenizer", folder / "tokenizer")
    save_config(replace(config, out=str(tmp_path), name="run"))
    author, episodes = ScriptedAuthor(run.env), []
    for n in range(6):
        rng = random.Random(n)
        episode = play_script(run.env, run.tokenizer, Start(run.curriculum.draw(rng)), author.writer(rng))
        episodes += [episode] if episode.problem is not None else []
    assert any(turn.action == "exec" for episode in episodes for turn in episode.turns)
    write_jsonl(folder / "expert.jsonl", [episode.to_dict() for episode in episodes])
    export.main([str(folder / "expert.jsonl"), "--format", "episodes", "--out", str(tmp_path / "e.jsonl")])
    rows = [json.loads(line) for line in (tmp_path / "e.jsonl").read_text().splitlines()]
    for row, episode in zip(rows, episodes, strict=True):
        assert [m["role"] for m in row["messages"]] == ["system", *["user", "assistant"] * len(episode.turns)]
        text = run.tokenizer.apply_chat_template(row["messages"], tokenize=False)
        assert text.removesuffix("\n") == run.tokenizer.decode(episode.ids)
    assert f"| problems | {len(episodes)} |" in (tmp_path / "e.md").read_text()
    with pytest.raises(UserError, match="line 1: no episode"):
        write_jsonl(folder / "expert.jsonl", [PROBLEM])
        export.main([str(folder / "expert.jsonl"), "--format", "episodes", "--out", str(tmp_path / "e.jsonl")])
