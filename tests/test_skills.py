"""Packages on disk, acquisition, held-out sets, curriculum."""
import json
import math
import random
from dataclasses import replace

import pytest

from ap.files import UserError
from ap.tools.corpus import read_corpus
from ap.world.acquire import (
    Candidate, Document, acquire, acquisition_examples, extraction_prompt, read_extraction, write_library,
)
from ap.world.curriculum import Curriculum, split_skill_sets
from ap.world.skills import Skill, load_library, load_skill, write_skill

SHARE = Skill(
    "share", "chain", "split a value into equal parts", "one step", "exec: check(text)",
    "## Method\nb is a divided by k.",
)
TEXT = """---
name: share
category: chain
intent: split a value into equal parts
difficulty: one step
tool: "exec: check(text)"
---
The body.
"""


def library_of(**categories: str) -> dict[str, Skill]:
    """library_of(chain="shift scale") -> skills of one category each."""
    return {
        name: Skill(name, category, "i", "d", "t") for category, names in categories.items() for name in names.split()
    }


# ---------------------------------------------------------------- packages


def test_write_then_load_gives_the_same_skill(tmp_path):
    skill = replace(SHARE, score=0.25, source="corpus: line 3", intent='a "quoted": colon, # hash, and é')
    package = write_skill(skill, tmp_path, {"checker.py": "print(1)\n"})
    loaded = load_skill(package)
    assert replace(loaded, folder=None) == skill
    assert loaded.folder == package == tmp_path / "share"
    assert (loaded.scripts / "checker.py").read_text() == "print(1)\n"
    assert [path.name for path in tmp_path.iterdir()] == ["share"]  # no temporary file is left


def test_writing_again_replaces_the_whole_package(tmp_path):
    write_skill(SHARE, tmp_path, {"old.py": ""})
    write_skill(replace(SHARE, body="new"), tmp_path)
    assert load_skill(tmp_path / "share").body == "new"
    assert not (tmp_path / "share" / "scripts").exists()


def test_level_1_is_one_line():
    assert SHARE.level_1() == "share (chain): split a value into equal parts"


def test_a_hand_written_package_with_unknown_fields_and_a_windows_editor(tmp_path):
    folder = tmp_path / "share"
    folder.mkdir()
    text = TEXT.replace("name: share", "name: share\nlicence: MIT").replace("\n", "\r\n")
    (folder / "SKILL.md").write_bytes(b"\xef\xbb\xbf" + text.encode())
    skill = load_skill(folder)
    assert (skill.name, skill.tool, skill.body, skill.score) == ("share", "exec: check(text)", "The body.", None)


@pytest.mark.parametrize("text, line, says", [
    ("name: share\n", 1, "---"),
    ("", 1, "---"),
    ("---\nname: share\n", 2, "closing"),
    (TEXT.replace("category: chain", "category: [chain"), 4, "YAML"),  # the parser stumbles at the next line
    (TEXT.replace("intent: split", "intent: split: "), 4, "YAML"),
    (TEXT.replace("category: chain\n", ""), 6, "`category` is missing"),  # line of the closing ---
    (TEXT.replace("difficulty: one step", "difficulty: 3"), 5, "`difficulty` must be text"),
    (TEXT.replace("category: chain", "category: no"), 3, "`category` must be text, not False"),  # YAML's "no"
    (TEXT.replace("split a value into equal parts", "|\n  two\n  lines"), 4, "`intent` must be one line"),
    (TEXT.replace("name: share", "name: Share"), 2, "lower-case"),
    (TEXT.replace("name: share", "name: other"), 2, "folder is called 'share'"),
    (TEXT.replace("name: share", "score: 1.5\nname: share"), 2, "`score` must be a number from 0 to 1"),
    (TEXT.replace("name: share", "score: .nan\nname: share"), 2, "`score`"),
    ("---\n- a list\n---\n", 2, "field: value"),
    (TEXT.replace("one step", "2024-99-99"), 2, "quotes"),
])
def test_malformed_front_matter_names_file_line_and_field(tmp_path, text, line, says):
    folder = tmp_path / "share"
    folder.mkdir()
    (folder / "SKILL.md").write_text(text)
    with pytest.raises(UserError) as error:
        load_skill(folder)
    assert f"{folder / 'SKILL.md'}, line {line}: " in str(error.value)
    assert says in str(error.value)


def test_missing_or_binary_skill_file(tmp_path):
    (tmp_path / "share").mkdir()
    with pytest.raises(UserError, match="cannot read .*SKILL.md"):
        load_library([tmp_path])
    (tmp_path / "share" / "SKILL.md").write_bytes(b"---\n\xff\xfe")
    with pytest.raises(UserError, match="UTF-8"):
        load_library([tmp_path])


def test_library_is_sorted_over_all_folders(tmp_path):
    for name, folder in (("zeta", "one"), ("beta", "two"), ("alpha", "one")):
        write_skill(replace(SHARE, name=name), tmp_path / folder)
    (tmp_path / "one" / "README.md").write_text("not a package")
    (tmp_path / "one" / ".git").mkdir()
    assert list(load_library([tmp_path / "one", tmp_path / "two"])) == ["alpha", "beta", "zeta"]


def test_library_refuses_duplicates_and_empty_folders(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    write_skill(SHARE, one)
    write_skill(SHARE, two)
    with pytest.raises(UserError) as error:
        load_library([one, two])
    assert str(one / "share") in str(error.value) and str(two / "share") in str(error.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no skills here"):
        load_library([tmp_path / "empty"])
    with pytest.raises(UserError, match="no such folder"):
        load_library([tmp_path / "nowhere"])


@pytest.mark.parametrize("fields", [{"name": "../up"}, {"intent": "two\nlines"}, {"tool": ""}])
def test_a_skill_that_could_not_be_read_back_is_not_written(tmp_path, fields):
    with pytest.raises(ValueError):
        write_skill(replace(SHARE, **fields), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_script_cannot_leave_its_folder(tmp_path):
    with pytest.raises(ValueError, match="plain file name"):
        write_skill(SHARE, tmp_path, {"../evil.py": ""})
    assert not (tmp_path / "share").exists()


# ---------------------------------------------------------------- corpus


def test_corpus_of_texts_and_of_records(tmp_path):
    folder = tmp_path / "texts"
    (folder / "sub").mkdir(parents=True)
    (folder / "b.md").write_text("Bee")
    (folder / "sub" / "a.txt").write_text("Ay")
    (folder / "c.pdf").write_text("not read")
    assert [document.text for document in read_corpus(folder)] == ["Bee", "Ay"]
    (folder / "c.jsonl").write_text('{"question": "1 + 1?", "answer": 2}\n')
    assert [(d.text, d.answer) for d in read_corpus(folder)][1:] == [("1 + 1?\nAnswer: 2", "2"), ("Ay", "")]
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"question": "1+1?", "answer": 2}\n\n{"question": "q", "answer": "a", "solution": "s"}\n')
    first, second = read_corpus(path)
    assert (first.question, first.answer, first.text) == ("1+1?", "2", "1+1?\nAnswer: 2")
    assert (second.text, second.source) == ("q\ns", f"{path}, line 3")


def test_a_corpus_in_the_layouts_of_others(tmp_path):
    """The story of SVAMP, the solution in GSM8K's answer, the options of MMLU, a function of HumanEval."""
    rows = [
        {"Body": "Ann has 3 pens", "Question": "How many are 2 more?", "Answer": 5.0, "ID": "c-1"},
        {"question": "How many eggs?", "answer": "She has 16 - 3 = 13 eggs.\n#### 13"},
        {"question": "Which?", "choices": ["one", "two"], "answer": 1},
        {"problem": "Find x.", "solution": "So $x = \\boxed{4}$.", "level": 2},
        {"task_id": "0", "prompt": "def f():\n    'One.'\n", "canonical_solution": "    return 1\n", "entry_point": "f",
         "test": "def check(candidate):\n    assert candidate() == 1\n"},
    ]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_corpus(tmp_path / "c.jsonl")
    assert [d.answer for d in found] == ["5", "13", "B", "4", "    return 1\n"]
    assert found[0].text == "Ann has 3 pens. How many are 2 more?\nAnswer: 5"
    assert found[1].text == "How many eggs?\nShe has 16 - 3 = 13 eggs.\n#### 13"
    assert "A. one\nB. two" in found[2].text and found[3].solution == "So $x = \\boxed{4}$."


@pytest.mark.parametrize("line, says", [
    ("{question}", "line 2: not valid JSON"), ("[1]", "line 2: a list"),
    ('{"question": "q"}', "line 2: field `answer`"), ('{"question": " ", "answer": "1"}', "line 2: field `question`"),
    ('{"question": "q", "answer": true}', "line 2: field `answer`"),
    ('{"question": "q", "answer": "1", "solution": 3}', "line 2: field `solution`"),
])
def test_a_bad_corpus_line_is_named(tmp_path, line, says):
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"question": "q", "answer": "a"}\n' + line + "\n")
    with pytest.raises(UserError) as error:
        read_corpus(path)
    assert f"{path}, {says}" in str(error.value)


def test_an_empty_or_missing_corpus_is_an_error(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    for path in (tmp_path, tmp_path / "empty.jsonl", tmp_path / "nowhere.jsonl"):
        with pytest.raises(UserError, match=str(path)):
            read_corpus(path)


# ---------------------------------------------------------------- acquisition


class FixedTeacher:
    def __init__(self, *candidates):
        self.list = list(candidates)

    def candidates(self, documents):
        return self.list


def candidate(name, score, examples=(), **fields):
    return Candidate(replace(SHARE, name=name, **fields), score, tuple(examples))


def test_candidates_below_tau_r_are_rejected_and_the_threshold_itself_passes():
    teacher = FixedTeacher(candidate("good", 0.9), candidate("edge", 0.5), candidate("bad", 0.4999))
    kept, rejected = acquire(teacher, [], tau_r=0.5)
    assert [(c.skill.name, c.skill.score) for c in kept] == [("edge", 0.5), ("good", 0.9)]
    assert [c.skill.name for c in rejected] == ["bad"] and "tau_r = 0.5" in rejected[0].why


def test_near_duplicates_are_merged_into_the_best():
    teacher = FixedTeacher(
        candidate("residue", 0.6, (0, 1)), candidate("residues", 0.8, (1, 2)), candidate("res-idue", 0.1, (5,)),
    )
    kept, rejected = acquire(teacher, [], tau_r=0.5)
    assert [(c.skill.name, sorted(c.examples)) for c in kept] == [("residues", [0, 1, 2])]  # rejected ones give none
    assert {c.skill.name: c.why.split(" ")[0] for c in rejected} == {"residue": "merged", "res-idue": "r"}


@pytest.mark.parametrize("bad", [
    candidate("Bad Name", 0.9), candidate("x", 0.9, intent=""), candidate("x", float("nan")), candidate("x", 2.0),
    candidate("x", None), candidate(None, 0.9),
])
def test_a_teachers_bad_output_is_rejected_not_raised(bad, tmp_path):
    kept, rejected = acquire(FixedTeacher(bad, candidate("good", 1.0)), [], tau_r=0.5)
    assert [c.skill.name for c in kept] == ["good"]
    assert rejected[0].why.startswith("unusable")
    write_library(kept, rejected, tmp_path)


def test_the_library_on_disk_lists_every_candidate(tmp_path):
    kept, rejected = acquire(FixedTeacher(candidate("good", 0.9, (0,)), candidate("bad", 0.1)), [], tau_r=0.5)
    write_library(kept, rejected, tmp_path / "skills")
    records = [json.loads(line) for line in (tmp_path / "skills" / "candidates.jsonl").read_text().splitlines()]
    assert [(r["name"], r["score"], r["kept"]) for r in records] == [("good", 0.9, True), ("bad", 0.1, False)]
    library = load_library([tmp_path / "skills"])
    assert {name: skill.score for name, skill in library.items()} == {"good": 0.9}


def test_acquisition_examples_pair_documents_with_the_front_matter():
    documents = [Document(f"text {i}") for i in range(10)]
    kept = [candidate("share", 0.9, range(10)), candidate("shift", 0.9, (3,)), candidate("none", 0.9)]
    pairs = acquisition_examples(kept, documents, per_skill=5)
    completion = "name: share\ncategory: chain\nintent: split a value into equal parts"
    assert [p.splitlines()[1] for p, c in pairs if c == completion] == [f"text {i}" for i in (0, 2, 4, 6, 8)]
    assert len(pairs) == 6 and pairs[-1][0].endswith("text 3") and "name: shift" in pairs[-1][1]


@pytest.mark.parametrize("intent", ["split a value into equal parts", "ratio: a to b", "'quoted' # \u00e4"])
def test_what_the_proposer_learns_to_write_can_be_read(intent):
    [(prompt, completion)] = acquisition_examples([candidate("share", 0.9, (0,), intent=intent)], [Document("text")])
    assert prompt == extraction_prompt(Document("text"))
    for reply in (completion, f"<think>name: x</think>\n\n{completion}\n"):
        assert read_extraction(reply) == ({"name": "share", "category": "chain", "intent": intent}, "")


@pytest.mark.parametrize("reply, fault", [
    ("", "not a name, category and intent"), ("share", "not a name, category and intent"),
    ("name: a\nintent: b\ncategory: c", "not a name, category and intent"),
    ("name: a\ncategory: b\nintent: c\nname: d", "not a name, category and intent"),
    ("name: a\ncategory: b\nintent: ", "not a name, category and intent"),
    ("name: ../up\ncategory: b\nintent: c", "field name"), ("name: a\ncategory:  \nintent: c", "field category"),
    ("name: a\ncategory: b\nintent: c\u2028d", "field intent"),
])
def test_what_is_wrong_with_an_extraction_has_a_name(reply, fault):
    assert read_extraction(reply)[1] == fault


# ---------------------------------------------------------------- held-out sets


def test_held_out_sets_are_distinct_fixed_and_of_the_right_sizes():
    skills = [f"s{i:02d}" for i in range(12)]
    sets, held_out = split_skill_sets(skills, range(2, 5), 300, seed=0)
    assert len(sets) == len(held_out) == 300 == len({frozenset(s) for s in sets})
    assert {len(s) for s in sets} == {2, 3, 4} and all(len(set(s)) == len(s) for s in sets)
    assert (sets, held_out) == split_skill_sets(skills[::-1], range(2, 5), 300, seed=0)  # whatever the order
    assert sets != split_skill_sets(skills, range(2, 5), 300, seed=1)[0]
    # uniform over sets: C(12,4) = 495 of 66 + 220 + 495 = 781 have four; 4 sigma of 300 draws is about 0.09
    assert abs(sum(len(s) == 4 for s in sets) / 300 - 495 / 781) < 0.09


def test_at_most_two_thirds_of_a_small_library_are_held_out():
    sets, _ = split_skill_sets(["a", "b", "c", "d"], range(2, 5), 400, seed=0)  # 6 + 4 + 1 = 11 sets; 22 / 3 = 7.3
    assert len(sets) == 7
    assert split_skill_sets(["a"], range(2, 5), 400, seed=0) == ([], frozenset())


def test_a_large_library_is_not_enumerated():
    sets, _ = split_skill_sets([str(i) for i in range(2000)], range(2, 5), 100, seed=0)
    assert len(sets) == 100


# ---------------------------------------------------------------- curriculum

LIBRARY = library_of(chain="shift scale share", residue="residue digits", select="pick")


def test_mastery_and_category_probabilities_by_hand():
    curriculum = Curriculum(LIBRARY, (2,), alpha=0.5, eps=0.1)
    assert list(curriculum.category_probabilities().values()) == pytest.approx([1 / 3] * 3)
    curriculum.update([(("shift", "scale"), True), (("shift", "pick"), 0.0), (("scale", "share"), True)])
    # chain took part in three results, 2/3 of them good: 0.5 * 0 + 0.5 * 2/3 = 1/3. select: 0. residue: not seen.
    assert curriculum.mastery == pytest.approx({"chain": 1 / 3, "residue": 0.0, "select": 0.0})
    curriculum.update([(("residue", "pick"), 1.0)])
    assert curriculum.mastery == pytest.approx({"chain": 1 / 3, "residue": 0.5, "select": 0.5})
    # 1 / (1/3 + 0.1) = 30/13; 1 / (0.5 + 0.1) = 5/3 twice; sum = 90/39 + 130/39 = 220/39
    expected = {"chain": 90 / 220, "residue": 65 / 220, "select": 65 / 220}
    assert curriculum.category_probabilities() == pytest.approx(expected)


def test_weak_categories_are_drawn_in_proportion():
    curriculum = Curriculum(LIBRARY, (1,), alpha=1.0, eps=0.1)
    curriculum.update([(("shift",), 0.9), (("digits",), 0.4), (("pick",), 0.1)])
    # 1/1.0, 1/0.5, 1/0.2 -> 1 : 2 : 5
    rng, n = random.Random(0), 4000
    drawn = [curriculum.category[curriculum.draw(rng)[0]] for _ in range(n)]
    for category, p in (("chain", 1 / 8), ("residue", 2 / 8), ("select", 5 / 8)):
        assert abs(drawn.count(category) / n - p) < 4 * math.sqrt(p * (1 - p) / n)


def test_draws_are_distinct_skills_never_held_out_and_keyed():
    _, held_out = split_skill_sets(list(LIBRARY), (2, 3), 17, seed=0)  # half of 15 + 20
    assert len(held_out) == 17
    curriculum = Curriculum(LIBRARY, (2, 3), held_out)
    draws = [curriculum.draw(random.Random(i)) for i in range(500)]
    assert all(len(set(draw)) == len(draw) in (2, 3) for draw in draws)
    assert not held_out & {frozenset(draw) for draw in draws}
    assert len({frozenset(draw) for draw in draws}) == 35 - 17  # and every other set is drawn
    assert draws == [curriculum.draw(random.Random(i)) for i in range(500)]
    assert len({draw for draw in draws if set(draw) == set(draws[0])}) > 1  # both orders


def test_the_bandit_prefers_the_arm_with_the_largest_reward_variance():
    """After many updates: shift always succeeds, scale never, share half of the time: p(1-p) is 0, 0, 1/4."""
    curriculum = Curriculum(LIBRARY, (1,))
    for _ in range(60):
        curriculum.update([(("shift",), 1), (("scale",), 0), (("share",), 1), (("share",), 0)])
    rng = random.Random(0)
    plays = [curriculum._play(["shift", "scale", "share"], rng) for _ in range(500)]
    assert plays.count("share") > 400
    assert plays.count("shift") > 0 and plays.count("scale") > 0  # and never stops trying the others


def test_discounted_counts_by_hand():
    """alpha = 0.5, success rates 1, 1, 0.5: s = 1, 1.5, 1.25 and f = 0, 0, 0.5."""
    curriculum = Curriculum(LIBRARY, (1,), alpha=0.5)
    for results in ([1], [1, 1], [1, 0]):
        curriculum.update([(("pick",), result) for result in results])
    assert (curriculum.successes["pick"], curriculum.failures["pick"]) == (1.25, 0.5)
    assert curriculum.successes["shift"] == 0.0


def test_state_round_trip_through_json():
    one, two = Curriculum(LIBRARY, (2, 3)), Curriculum(LIBRARY, (2, 3))
    one.update([(("shift", "pick"), 1), (("digits", "pick"), 0)])
    two.load_state(json.loads(json.dumps(one.state(), sort_keys=True)))
    assert two.state() == one.state()
    assert [two.draw(random.Random(i)) for i in range(50)] == [one.draw(random.Random(i)) for i in range(50)]
    with pytest.raises(UserError, match="differ"):
        Curriculum(LIBRARY | library_of(chain="differ"), (2,)).load_state(one.state())


@pytest.mark.parametrize("sizes, alpha, eps, says", [
    ((2, 7), 0.1, 0.1, "6 skills"), ((0, 1), 0.1, 0.1, "skills_min"), ((), 0.1, 0.1, "skills_min"),
    ((2,), 0.0, 0.1, "mastery_alpha"), ((2,), 0.1, 0.0, "mastery_eps"),
])
def test_settings_that_leave_nothing_to_draw_are_refused(sizes, alpha, eps, says):
    with pytest.raises(UserError, match=says):
        Curriculum(LIBRARY, sizes, frozenset(), alpha, eps)


def test_all_sets_held_out_is_refused():
    with pytest.raises(UserError, match="held out"):
        Curriculum(LIBRARY, (6,), frozenset({frozenset(LIBRARY)}))
