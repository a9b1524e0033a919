"""A model as teacher, whose replies are data: passages, proposals, near-duplicates, scores, messages of episodes."""
import itertools
import json
import random
from dataclasses import replace

import pytest
from test_tiny_cast import save

import run_skills
from ap.files import UserError, read_jsonl
from ap.judge.judge import Judge
from ap.mini.domain import Mini
from ap.players import model_teacher
from ap.players.endpoint import BadReply, DeadEndpoint
from ap.players.model_author import ModelAuthor
from ap.players.model_teacher import CHUNK, CheckedExtractor, ModelTeacher, chunks, numbered, sentences
from ap.players.notes import Notes
from ap.players.worked import ENTRIES
from ap.prepare.reference import is_expert
from ap.tools.corpus import read_corpus
from ap.world.acquire import EXTRACT, Document, acquire, write_library
from ap.world.chat import tool_call
from ap.world.env import Env, Episode
from ap.world.rollout import Start, play_script
from ap.world.skills import load_library

TEXT = "Write the sum as differences, so that all but the ends cancel. Then add the ends."
ENTRY = {
    "name": "Telescoping sum", "category": "Algebra", "intent": "write terms as differences that cancel",
    "difficulty": "one step", "tool": "add up", "recognise": "Long sums.", "build": "Hide the split.",
    "quote": "all but the ends  CANCEL",
}
MARKS = {"general": 8, "composable": 6, "checkable": 10, "faithful": 8}


class Player:
    """Replies with answer(prompt); if that is an exception, it is raised."""

    def __init__(self, answer):
        self.answer, self.prompts = answer, []

    def ask(self, prompt):
        self.prompts.append(prompt)
        said = self.answer(prompt)
        if isinstance(said, Exception):
            raise said
        return said

    def sample(self, prompt, k, key):
        self.keys = [*getattr(self, "keys", []), key]
        return [self.ask(prompt)] * k


def teacher(entries, marks=MARKS):
    """entries: the reply about every passage, or a function of the prompt."""
    def answer(prompt):
        if "Passage:" in prompt:
            return json.dumps(entries) if isinstance(entries, list) else entries(prompt)
        return marks if isinstance(marks, str) else json.dumps(marks)

    return ModelTeacher(Player(answer), "math")


def propose(entries, marks=MARKS, texts=(TEXT,)):
    documents = [Document(text, f"notes.md, part {n}") for n, text in enumerate(texts, 1)]
    return teacher(entries, marks).candidates(documents)


# ---------------------------------------------------------------- passages


def test_long_texts_are_cut_between_paragraphs():
    text = "\n\n".join(f"Paragraph {n}. " + "word " * 60 for n in range(40))
    pieces = chunks([Document("short", "a.md"), Document(text, "b.md")])
    assert pieces[0] == Document("short", "a.md") and len(pieces) > 3
    assert all(len(piece.text) <= CHUNK and piece.text.startswith("Paragraph") for piece in pieces[1:])
    assert [piece.source for piece in pieces[1:3]] == ["b.md, part 1", "b.md, part 2"]
    assert " ".join(" ".join(piece.text for piece in pieces[1:]).split()) == " ".join(text.split())


def test_texts_without_blanks_are_cut_too():
    assert [len(piece.text) for piece in chunks([Document("x" * 25, "a")], size=10)] == [10, 10, 5]
    assert [piece.text for piece in chunks([Document("one two three", "a")], size=8)] == ["one two", "three"]
    worked = Document.from_record({"question": "q?", "answer": "7"}, "line 1")
    assert chunks([worked]) == [worked]


# ---------------------------------------------------------------- proposals and scores


def test_a_proposal_becomes_a_package_with_its_source(tmp_path):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "notes.md").write_text(TEXT)
    documents = chunks(read_corpus(tmp_path / "corpus"))
    kept, rejected = acquire(teacher([ENTRY]), documents, 0.5)
    write_library(kept, rejected, tmp_path / "skills")
    skill = load_library([tmp_path / "skills"])["telescoping-sum"]
    assert (skill.category, skill.score, skill.source) == ("algebra", 0.8, str(tmp_path / "corpus" / "notes.md"))
    assert skill.body == "Recognise: Long sums.\nBuild in: Hide the split.\nCheck: add up" and rejected == []


@pytest.mark.parametrize("change, why", [
    ({"quote": "words that are not there"}, "does not stand in the passage"),
    ({"quote": "the"}, "does not stand in the passage"),
    ({"intent": ""}, "field intent must be one line"), ({"intent": None}, "field intent must be one line"),
    ({"recognise": ""}, "field recognise is missing"), ({"name": "!!"}, "field name"),
])
def test_what_is_wrong_with_a_proposal_stands_beside_it(change, why):
    [candidate] = propose([ENTRY | change])
    assert candidate.score == 0.0 and why in candidate.why
    kept, [rejected] = acquire(teacher([ENTRY | change]), [Document(TEXT)], 0.5)
    assert kept == [] and why in rejected.why


@pytest.mark.parametrize("entry", [None, 3, "x", [], {}, {"name": {"a": 1}, "intent": ["x"] * 9000}])
def test_entries_that_are_no_proposal_are_rejected(entry):
    [candidate] = propose([entry])
    assert candidate.score == 0.0


PASSAGE = "Take $n = 3.5$. Is it even, e.g. by halves?\nNo. 2 does not divide it\nSo we stop! \"Why?\" 数是偶数。对。"


def test_a_passage_is_shown_with_its_sentences_numbered():
    assert sentences(PASSAGE) == ["Take $n = 3.5$.", "Is it even, e.g. by halves?", "No. 2 does not divide it",
                                  "So we stop!", '"Why?" 数是偶数。', "对。"]
    assert numbered("One. Two.") == "[1] One.\n[2] Two." and numbered("") == ""
    one = teacher(lambda prompt: "None")
    one.candidates([Document(TEXT)])
    assert one.player.prompts[0].endswith("[1] Write the sum as differences, so that all but the ends cancel.\n"
                                          "[2] Then add the ends.")


@pytest.mark.parametrize("said, quote", [
    ([2], "Then add the ends."), (2, "Then add the ends."), ("[2]", "Then add the ends."),
    (["2"], "Then add the ends."), ([1, 2, 1], TEXT), ("1-2", TEXT),
])
def test_a_skill_names_sentences_which_are_looked_up(said, quote):
    """The words beside them do not count, for they may be by heart, and wrong."""
    one = teacher([ENTRY | {"sentences": said, "quote": "by heart"}])
    [candidate] = one.candidates([Document(TEXT)])
    assert candidate.score == 0.8 and one.player.prompts[1].count(f"Quoted from the corpus: {quote}\n") == 1


@pytest.mark.parametrize("said, why", [
    ([3], "names sentences that the passage of 2 does not have"), ([0], "of 2 does not have"),
    ([], "names no sentences"), ("the first", "names no sentences"), (None, "names no sentences"),
])
def test_sentences_that_are_not_there_show_nothing(said, why):
    [candidate] = propose([ENTRY | {"sentences": said, "quote": ""}])
    assert candidate.score == 0.0 and why in candidate.why


def test_the_example_is_no_skill_of_a_passage():
    [candidate] = propose(json.loads(ENTRIES))
    assert candidate.score == 0.0 and candidate.why == "it repeats the example"


@pytest.mark.parametrize("reply, count", [
    ("None", 0), ("None.", 0), ("**None**", 0), ("```json\nNone\n```", 0), ("[]", 0), (json.dumps(ENTRY), 1),
    ("\n".join(json.dumps(ENTRY | {"name": name, "intent": name}) for name in ("one", "two")), 2),
])
def test_replies_that_are_no_list_of_one_meaning(reply, count):
    """The word None is an empty list, and entries that stand by themselves are the list of them. Nothing is asked
    again."""
    one = teacher(lambda prompt: reply)
    assert len(one.candidates([Document(TEXT)])) == count and "could not be used" not in "".join(one.player.prompts)


def test_proposals_are_noted_before_they_are_scored(tmp_path):
    notes = Notes(tmp_path / "notes.jsonl")

    def answer(prompt):
        if "Passage:" in prompt:
            return json.dumps([ENTRY, ENTRY | {"quote": "not there"}])
        raise DeadEndpoint("no server")

    with pytest.raises(DeadEndpoint):
        ModelTeacher(Player(answer), "math", notes=notes).candidates([Document(TEXT, "a.md")])
    assert [(record["name"], record["why"], record["source"]) for record in read_jsonl(notes.path)] == [
        ("telescoping-sum", "", "a.md"), ("telescoping-sum", "what it quotes does not stand in the passage", "a.md")]


def test_near_duplicates_are_one_skill_with_all_its_passages():
    """Two wordings of the same move, and another move; the fourth passage shows nothing."""
    same = ENTRY | {"name": "telescoping", "intent": "write terms of sum as differences that cancel"}
    other = ENTRY | {"name": "vieta", "intent": "symmetric sums of roots from coefficients"}
    replies = {1: [ENTRY], 2: [same], 3: [other], 4: []}
    documents = [Document(f"{TEXT} No. {n}", f"line {n}") for n in replies]
    one = teacher(lambda prompt: json.dumps(replies[int(prompt[-1])]))
    kept, rejected = acquire(one, documents, 0.5)
    assert [(c.skill.name, c.examples, c.skill.source) for c in kept] == [
        ("telescoping-sum", (0, 1), "line 1; line 2"), ("vieta", (2,), "line 3")]
    assert [c.why for c in rejected] == ["merged into telescoping-sum"]
    assert sum("Score a reasoning skill" in prompt for prompt in one.player.prompts) == 2  # one question a group


@pytest.mark.parametrize("marks", ["", "{", "[8, 8]", '{"general": 8}', json.dumps(MARKS | {"general": 11}),
                                   json.dumps(MARKS | {"general": True}), json.dumps(MARKS | {"general": "8"})])
def test_marks_of_no_use_are_a_score_of_zero(marks):
    [candidate] = propose([ENTRY], marks)
    assert (candidate.score, candidate.why) == (0.0, "the teacher gave no usable score")


def test_a_useless_reply_is_asked_for_once_more(capsys):
    replies = iter(["I see some skills.", f"<think>[1]</think>```json\n{json.dumps([ENTRY])}\n```", "no", "{}"])
    one = teacher(lambda prompt: next(replies))
    assert [candidate.score for candidate in one.candidates([Document(TEXT)])] == [0.8]
    assert "could not be used: it is no JSON list" in one.player.prompts[1]
    assert one.candidates([Document(TEXT)]) == []
    assert "no usable reply about 1 of 1 passages" in capsys.readouterr().out


def test_refused_requests_are_counted_and_a_dead_endpoint_ends_the_run(capsys):
    assert teacher(lambda prompt: BadReply("400")).candidates([Document(TEXT)]) == []
    assert "no usable reply" in capsys.readouterr().out
    with pytest.raises(DeadEndpoint):
        teacher(lambda prompt: DeadEndpoint("no server")).candidates([Document(TEXT)])


# ---------------------------------------------------------------- the proposer extracts

WORKED = [("a is 9. b is a divided by 3. Find b.", "b = 9 / 3 = 3. \\boxed{3}"),
          ("a is 8. b is a divided by 2. Find b.", "b = 8 / 2 = 5. \\boxed{5}"),  # comes out wrong
          ("a is 8. b is 1 more than a. Find b.", "b = 8 + 1 = 9. \\boxed{9}")]
SHARE = "name: share\ncategory: chain\nintent: split a value into equal parts"


def worked(count):
    return [Document.from_record({"question": WORKED[n % 3][0], "answer": "1", "solution": WORKED[n % 3][1]})
            for n in range(count)]


def checked(monkeypatch, replies):
    """The proposer gives these replies about 30 problems, in their order, again and again."""
    monkeypatch.setattr(model_teacher, "AT_ONCE", 1)
    said = itertools.cycle(replies)
    return CheckedExtractor(Player(lambda prompt: next(said)), Mini())


def test_programs_score_what_the_proposer_extracts(monkeypatch, capsys):
    """Of 30 problems 10 show share, 10 show it wrongly, 10 do not: r = 1/3 if it is extracted from all of them, 2/3 if
    it is extracted from 10 right and 5 wrong ones."""
    [share] = checked(monkeypatch, [SHARE]).candidates(worked(30))
    assert (share.score, share.examples) == (pytest.approx(1 / 3), tuple(range(0, 30, 3)))
    replies = [SHARE, SHARE, "hm", SHARE, "hm", "name: Share\ncategory: x\nintent: y"]
    [share] = checked(monkeypatch, replies).candidates(worked(30))
    assert (share.score, share.examples) == (pytest.approx(2 / 3), tuple(range(0, 30, 3)))
    assert "extractor: 15 of 30 replies are skills; not a name, category and intent: 10; field name: 5" in (
        capsys.readouterr().out)
    assert [share.skill.level_1(), share.skill.body[:9], list(share.scripts)] == [
        "share (chain): split a value into equal parts", "Sentence:", ["check_share.py"]]


def test_the_proposers_own_words_stay_and_what_no_checker_knows_is_rejected(monkeypatch):
    """Ten documents support share: 8 in one wording, and two in another, which are too few."""
    other, nobodys, no_skill = (SHARE.replace(*words) for words in (
        ("equal parts", "two"), ("share", "shares"), ("share", "start")))
    teacher = checked(monkeypatch, [SHARE, nobodys, no_skill, SHARE, nobodys, "hm", SHARE, "hm", "hm",
                                    other, "hm", "hm"] * 2 + [SHARE, "hm", "hm"] * 2)
    kept, rejected = acquire(teacher, worked(30), 0.4)
    assert [(c.skill.name, c.skill.intent, c.score) for c in kept] == [("share", "split a value into equal parts", 0.8)]
    assert {(c.skill.name, c.skill.intent[-5:]): c.score for c in rejected} == {
        ("share", "o two"): 0.2, ("shares", "parts"): 0.0, ("start", "parts"): 0.0}


def test_a_model_completes_and_scores_what_the_proposer_extracts(tmp_path, capsys):
    """No program can do it here. What the model adds is read like its own proposals, with a quote from the passage."""
    more = {name: ENTRY[name] for name in ("difficulty", "tool", "recognise", "build", "quote")}
    found = "name: telescoping\ncategory: algebra\nintent: let terms cancel"

    def answer(prompt):
        if "Score a reasoning skill" in prompt:
            return json.dumps(MARKS)
        assert found in prompt and "Which reasoning skills" not in prompt
        return json.dumps(more | {"name": "its own"} | ({"quote": "not there"} if "No. 2" in prompt else {}))

    def extract(prompt):
        assert prompt.startswith(EXTRACT)
        return {"1": found, "2": found, "3": "None."}.get(prompt[-1], BadReply("400"))

    documents = [Document(f"{TEXT} No. {n}", f"line {n}") for n in range(1, 5)]
    player = Player(answer)
    kept, rejected = acquire(ModelTeacher(player, "math", Player(extract)), documents, 0.5)
    write_library(kept, rejected, tmp_path)
    skill = load_library([tmp_path])["telescoping"]
    assert (skill.category, skill.intent, skill.score, skill.source) == ("algebra", "let terms cancel", 0.8, "line 1")
    assert [c.why for c in rejected] == ["r = 0 is below tau_r = 0.5; what it quotes does not stand in the passage"]
    assert len(player.prompts) == 3  # one for each passage from which a skill was extracted, and one score
    assert "extractor: 2 of 4 replies are skills; not a name, category and intent: 1; no reply: 1" in (
        capsys.readouterr().out)


def test_a_model_that_learnt_by_l_acq_extracts_and_a_random_one_does_not(tiny, tokenizer, tmp_path, capsys):
    """Through run_skills.py, in the miniature: trained for seconds on the examples that stage 1 made for L_acq."""
    examples = [(record["prompt"], record["completion"]) for record in read_jsonl(tiny.folder / "acquisition.jsonl")]
    save(tokenizer, tmp_path / "trained", examples, steps=150)
    save(tokenizer, tmp_path / "random")

    def acquired(name, problems):
        (tmp_path / f"{name}.json").write_text(json.dumps({
            "extractor": {"checkpoint": str(tmp_path / name), "max_tokens": 40}}))
        run_skills.main(["--out", str(tmp_path / "runs"), "--name", name, "--corpus_size", problems, "--seed", "1",
                         "--roles", str(tmp_path / f"{name}.json"), "--device", "cpu"])
        return read_jsonl(tmp_path / "runs" / name / "skills" / "candidates.jsonl")

    kept = [candidate["name"] for candidate in acquired("trained", "60") if candidate["kept"]]
    assert kept and set(kept) <= set(Mini.skills)
    assert set(load_library([tmp_path / "runs" / "trained" / "skills"])) == set(kept)
    assert "extractor: requests 60" in capsys.readouterr().out
    with pytest.raises(UserError, match="no skill reached tau_r = 0.5 among 0 candidates"):
        acquired("random", "20")
    assert "extractor: 0 of 20 replies are skills; not a name, category and intent: 20" in capsys.readouterr().out


# ---------------------------------------------------------------- expert episodes

SOUND = "a is 24. b is 7 more than a. c is 2 more than b. d is c divided by 3. Find d."


def test_an_episode_by_a_model_has_real_tool_calls(run):
    """The model is shown the instructions, the tools, the skills and every reply; its thoughts are cut."""
    script = [f"<think>hm <tool_call></think>\n<problem>{SOUND}</problem>",
              f"[agent]\n{tool_call('exec', code='print(6)')}", tool_call("submit", answer="11")]
    player = Player(lambda prompt: script[prompt.count("[agent]")])
    write = ModelAuthor(run.env, player).writer(random.Random(0))
    episode = play_script(run.env, run.tokenizer, Start(("shift", "share")), write)
    assert (episode.outcome, [turn.action for turn in episode.turns]) == ("submitted", ["think", "exec", "submit"])
    assert (episode.turns[1].facts["output"], episode.problem.question) == ("6", SOUND)
    first, second, last = player.prompts
    assert run.env.describe(("shift", "share")) in first and Mini.instructions in first
    assert "<problem>\n(here stands the text of your problem)\n</problem>" in first and "```python" not in first
    assert f"```python\n{Mini.check_program}\n```" in second  # the program that checks a draft of this domain
    assert "[environment]\n6\nstage: refine" in last and "hm <tool_call>" not in last
    assert len(set(player.keys)) == 3 and player.keys == again(run, script)


def again(run, script):
    """The seed keys of the same episode, played once more."""
    player = Player(lambda prompt: script[prompt.count("[agent]")])
    play_script(run.env, run.tokenizer, Start(("shift", "share")),
                ModelAuthor(run.env, player).writer(random.Random(0)))
    return player.keys


def test_only_the_agents_words_are_taken(run):
    """A model that continues the transcript invents the environment's replies; these are cut."""
    reply = f"<problem>{SOUND}</problem>\n\n[environment]\nok: 11\n\n[agent]\nDone."
    write = ModelAuthor(run.env, Player(lambda prompt: reply)).writer(random.Random(0))
    assert write(Episode(run.env, ("shift", "share"))) == f"<problem>{SOUND}</problem>"


def test_an_unusable_message_is_asked_for_once_more(run):
    """By another key, and told what was wrong. What stands in thoughts is no message."""
    replies = [f"<think>{tool_call('submit')}", f"<problem>{SOUND}</problem>", "<tool_call>{", "</think>"]
    player = Player(lambda prompt: replies[len(player.prompts) - 1])
    write = ModelAuthor(run.env, player).writer(random.Random(0))
    assert write(Episode(run.env, ("shift", "share"))) == replies[1]
    assert player.prompts[1].startswith(player.prompts[0]) and "could not be used: empty message." in player.prompts[1]
    assert write(Episode(run.env, ("shift", "share"))) == "" and len(player.prompts) == 4
    assert [key.partition("/")[2] for key in player.keys] == ["0", "0/again"] * 2


def test_an_episode_with_an_unusable_message_is_no_example(run):
    """--mend_messages lets it go on to a valid problem; the policy would learn the message that was of no use."""
    env = Env(run.domain, run.library, run.sandbox, replace(run.env.config, mend_messages=True))
    messages = ["<tool_call>{", f"<problem>{SOUND}</problem>", tool_call("exec", code=Mini.check_program),
                tool_call("submit")]
    for script in (messages, messages[1:]):
        episode = play_script(env, run.tokenizer, Start(("shift", "share")), lambda _, said=iter(script): next(said))
        Judge(run.committee, run.prober, run.tokenizer, env.config).judge(episode, set())
        assert episode.valid and is_expert(episode) == (script is not messages)


@pytest.mark.parametrize("reply", ["", "<think>for ever", "<tool_call>{}", "<|im_end|>"])
def test_messages_of_no_use_end_the_episode_or_are_only_words(run, reply):
    write = ModelAuthor(run.env, Player(lambda prompt: reply)).writer(random.Random(0))
    episode = play_script(run.env, run.tokenizer, Start(("shift", "share")), write, max_tokens=400)
    assert episode.outcome in ("unusable", "turn_limit", "token_limit") and episode.problem is None
    assert "<|" not in write(Episode(run.env, ("shift", "share")))
