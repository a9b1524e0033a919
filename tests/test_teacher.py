"""The scripted teacher: skills of known quality from a small corpus, and expert episodes under every ablation."""
import random
from collections import Counter

import pytest

from ap.mini.domain import Mini
from ap.mini.teacher import ScriptedAuthor, ScriptedTeacher, Style
from ap.world.acquire import Document, acquire
from ap.world.chat import read_message
from ap.world.env import FAULT, SOUND, Env, Episode
from ap.world.rollout import Start, play_script

MINI = Mini()


def document(question, solution):
    answer = solution.split("{")[1].strip("}")
    return Document.from_record({"question": question, "answer": answer, "solution": solution})


def corpus():
    """12 x shift, all right; 4 x scale, one wrong; 2 x a form that no checker knows; 6 x share, 3 of them wrong."""
    shift = [
        document(f"a is {n}. b is 7 more than a. Find b.", f"b = {n} + 7 = {n + 7}. \\boxed{{{n + 7}}}")
        for n in range(20, 32)]
    scale = [
        document(f"a is {n}. b is 3 times a. Find b.", f"b = 3 * {n} = {3 * n + (n == 21)}. \\boxed{{{3 * n}}}")
        for n in range(20, 24)]
    foreign = [
        document(f"a is {n}. b is half of a. Find b.", f"b = {n} / 2 = {n // 2}. \\boxed{{{n // 2}}}")
        for n in (20, 22)]
    share = [
        document(f"a is {n}. b is a divided by 4. Find b.", f"b = {n} / 4 = {n // 4}. \\boxed{{{n // 4}}}")
        for n in (20, 21, 22, 23, 24, 28)]
    return shift + scale + foreign + share


def test_quality_is_agreement_times_support():
    """r(k) = (worked examples that come out right / worked examples) * min(1, worked examples / 10)."""
    candidates = {candidate.skill.name: candidate for candidate in ScriptedTeacher(MINI).candidates(corpus())}
    assert {name: candidate.score for name, candidate in candidates.items()} == pytest.approx({
        "shift": 1.0,  # 12/12 * 1
        "scale": 0.3,  # 3/4 * 4/10
        "x-is-half-of-y": 0.0,  # 0/2 * 2/10
        "share": 0.3,  # 3/6 * 6/10: 21, 22 and 23 leave a remainder
    })
    assert candidates["shift"].examples == tuple(range(12))
    assert candidates["scale"].examples == (12, 14, 15)  # the wrong one is no example
    assert candidates["share"].examples == (18, 22, 23)
    assert candidates["x-is-half-of-y"].skill.category == "unknown"
    assert candidates["shift"].skill.category == "chain" and "check_shift.py" in candidates["shift"].scripts


def test_forms_without_a_skill_are_no_candidates():
    """A start and a plain question stand in every problem; they are no skill."""
    intents = {candidate.skill.intent for candidate in ScriptedTeacher(MINI).candidates(corpus())}
    assert not {"x is k.", "Find x."} & intents
    assert ScriptedTeacher(MINI).candidates([]) == []


@pytest.mark.parametrize("tau_r, kept", [(0.0, 3), (0.3, 3), (0.31, 1), (1.0, 1)])
def test_acquisition_keeps_what_reaches_the_threshold(tau_r, kept):
    good, bad = acquire(ScriptedTeacher(MINI), corpus(), tau_r)  # an unknown form makes no package, at any threshold
    assert (len(good), len(bad)) == (kept, 4 - kept)


def test_the_domain_s_own_corpus_gives_all_skills():
    documents = [Document.from_record(record) for record in MINI.make_corpus(200, random.Random("0/corpus"))]
    good, bad = acquire(ScriptedTeacher(MINI), documents, 0.5)
    assert {candidate.skill.name for candidate in good} == set(MINI.skills)
    assert bad and all(candidate.score < 0.5 for candidate in bad)  # the corpus has flaws that the threshold keeps out


# ---------------------------------------------------------------- the author


def episodes(env, tokenizer, count=60, style=Style(), sizes=(2, 3, 4)):
    author, out = ScriptedAuthor(env, style), []
    for n in range(count):
        rng = random.Random(f"author/{n}")
        skills = tuple(rng.sample(sorted(env.library), rng.choice(sizes)))
        out.append(play_script(env, tokenizer, Start(skills), author.writer(rng), max_tokens=env.config.max_tokens))
    return out


def valid(run, trajectory):
    return trajectory.problem is not None and run.committee.judge(trajectory.problem).valid


ABLATIONS = {
    "whole": {}, "no exec": {"actions": "think,edit,submit"}, "no edit": {"actions": "think,exec,submit"},
    "no think": {"actions": "exec,edit,submit"}, "only submit": {"actions": "submit"}, "one shot": {"one_shot": True},
}


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_the_author_uses_what_there_is(make_env, tokenizer, run, ablation):
    """No message is unusable, no refused action, every episode ends with a name, and some problems are valid."""
    env = make_env(**ABLATIONS[ablation])
    played = episodes(env, tokenizer)
    turns = [turn for trajectory in played for turn in trajectory.turns]
    assert not [
        turn for turn in turns if turn.facts.get("status") == "not available" or turn.facts.get("legal") is False]
    assert {trajectory.outcome for trajectory in played} <= {"submitted", "turn_limit", "token_limit"}
    used = Counter(turn.action for turn in turns)
    reflections = sum("judged" in turn.facts for turn in turns)
    assert bool(used["exec"]) == (ablation in ("whole", "no edit", "no think"))
    assert bool(used["edit"]) == (ablation in ("whole", "no think", "no exec"))  # no exec: only foreseen conflicts
    assert bool(reflections) == (ablation in ("whole", "no edit"))  # a hasty author does not reflect
    assert sum(valid(run, trajectory) for trajectory in played) >= 8
    if ablation == "one shot":
        assert all(len(trajectory.turns) == 1 and trajectory.outcome == "submitted" for trajectory in played)


def test_checking_pays(make_env, tokenizer, run):
    """Authors that check are valid more often than hasty ones; this is what reinforcement learning can learn."""
    shares = {}
    for hasty in (0.0, 1.0):
        played = episodes(make_env(max_tokens=2000, max_turns=40), tokenizer, style=Style(hasty=hasty))
        shares[hasty] = sum(valid(run, trajectory) for trajectory in played) / len(played)
    assert shares[0.0] > 0.8 and shares[1.0] < 0.6


def test_the_author_is_uneven(make_env, tokenizer):
    """Some reflections are wrong, some submissions are unchecked, and not every edit answers a conflict."""
    turns = [turn for trajectory in episodes(make_env(), tokenizer, 120) for turn in trajectory.turns]
    for action, fact in (("think", "judged"), ("submit", "checked"), ("edit", "in_conflict")):
        seen = Counter(turn.facts[fact] for turn in turns if turn.action == action and fact in turn.facts)
        assert seen[True] >= 3 and seen[False] >= 3, (action, seen)


def test_an_episode_depends_on_its_generator_only(make_env, tokenizer):
    assert episodes(make_env(), tokenizer, 10) == episodes(make_env(), tokenizer, 10)


def test_reflections_are_in_the_words_that_the_environment_reads(make_env):
    env, reflections = make_env(), 0
    author = ScriptedAuthor(env, Style(hasty=0.0, audits=1.0, mistaken=0.0))
    for n in range(40):
        write, episode = author.writer(random.Random(n)), Episode(env, ("shift", "share", "digits"))
        while not episode.outcome:
            text = write(episode)
            before = MINI.check(episode.draft, episode.skills) if episode.draft is not None else None
            message = read_message(text)
            _, _, facts, _ = episode.step(text)
            if message.tool is None and message.draft is None:
                assert text == SOUND or text.startswith(FAULT)
                # It is right, unless the fault is in a sentence without a skill, which a reflection cannot name.
                assert facts["judged"] or (before.status != "ok" and before.culprit is None)
                reflections += 1
    assert reflections >= 40


def test_a_library_without_another_skill(make_env, tokenizer):
    """When all skills are active, there is no replacement: the author prunes or redraws."""
    env = make_env(skills_min=2)
    names = ("shift", "share", "invert")
    small, edits = Env(MINI, {name: env.library[name] for name in names}, env.sandbox, env.config), 0
    for sizes in ((2,), (3,)):
        for trajectory in episodes(small, tokenizer, 60, sizes=sizes, style=Style(hasty=0.0, redraws=0.2)):
            assert not [turn for turn in trajectory.turns if turn.facts.get("legal") is False]
            edits += sum(turn.action == "edit" for turn in trajectory.turns)
    assert edits >= 10
