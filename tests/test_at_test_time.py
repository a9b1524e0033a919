"""What others do with a solver at test time (ap/arms/at_test_time.py): worked numbers, and a scripted solver."""
import math

import pytest
from test_benchmarks import scripted

import ap.world.attempts
import eval as evaluation_script
from ap.arms import at_test_time
from ap.arms.at_test_time import Subthoughts, cuts, ends, pessimistic, triangle, vote
from ap.arms.prompts import PROMPTS
from ap.engine.rows import Conversation
from ap.files import UserError, write_jsonl
from ap.tools.evaluation import read_correctness
from ap.world.attempts import Decoding, Exam
from ap.world.chat import decode_message, encode, prompt_ids


def test_pessimistic_picking_flips_to_the_majority():
    """N 8, M 4: ln 32 = 3.466 over 21, 5 and 9."""
    counts, means = (5, 1, 2), (0.6, 0.75, 0.5)
    assert pessimistic(counts, means, M=4) == pytest.approx([0.5835, 0.6807, 0.4615], abs=5e-5)
    assert pessimistic(counts, means, M=4, alpha=1.0) == pytest.approx([0.435, 0.057, 0.115], abs=5e-4)
    assert pessimistic(counts, means, M=4, alpha=0.0) == list(means)
    for a, (count, mean) in enumerate(zip(counts, means)):
        assert pessimistic(counts, means, 4)[a] == pytest.approx(mean - 0.1 * math.log(8 * 4) / (count * 4 + 1))


def test_the_vote_of_subthoughts():
    place, doubt = vote(["12", "15", "12", "15", "15"])
    assert place == 1 and doubt == pytest.approx(0.673, abs=5e-4)  # -(2/5 ln 2/5 + 3/5 ln 3/5)
    assert vote(["12", "15", "12", "15"]) == (0, pytest.approx(math.log(2)))  # a tie goes to the earliest
    assert vote([None, "1/2", "3", "0.5", None]) == (1, pytest.approx(0.637, abs=5e-4))  # by value; None does not vote
    assert vote([None, None]) == (None, 0.0) and vote(["7"]) == (0, 0.0)


def test_a_trace_is_cut_before_its_cues_or_else_between_its_sentences():
    trace = "Wait, 2 + 2 is 5. Hmm, no. So it is 4. Soon I will wait."
    assert [trace[offset:][:5] for offset in cuts(trace)] == ["Hmm, ", "So it"]
    plain = "a24. a24 + 7 = 31. b31. \\boxed{31}"
    assert [plain[offset:] for offset in cuts(plain)] == [
        "a24 + 7 = 31. b31. \\boxed{31}", "b31. \\boxed{31}", "\\boxed{31}"]
    assert cuts("\\boxed{31}") == []


def test_the_wave_of_cyclic_reflex():
    places = (0, 10, 25, 40, 50, 75, 90, 100)
    assert [triangle(t) for t in places] == pytest.approx([0, 1.2, 3, 1.2, 0, -3, -1.2, 0])
    assert triangle(325, amplitude=1.0, period=300) == pytest.approx(1 / 3)


# ------------------------------------------------------------------------------------------- with a solver

QUESTION = {"id": "1", "question": "a is 24. b is 7 more than a. Find b.", "answer": "31"}
TRACE = "a24. a24 + 7 = 32. \\boxed{32}"


def play(tokenizer, monkeypatch, traces, completions):
    """A policy whose first messages are `traces`; `completions` continue them from each cut, in turn."""
    policy, seen = scripted(tokenizer, traces, monkeypatch), []

    def sample(model, prompts, seeds, max_new_tokens, sampling, ended=None, stats=None):
        seen.extend(zip(prompts, seeds))
        return [said(*one) for one in zip(prompts, seeds, completions, strict=True)]

    def said(prompt, seed, text):
        conversation = Conversation.start(prompt, seed)
        conversation.append(encode(tokenizer, text), 1)
        conversation.stopped = "stop" if text.endswith("<|im_end|>") else "length"
        return conversation

    monkeypatch.setattr(at_test_time, "sample", sample)
    return policy, seen


def test_a_wrong_trace_is_outvoted_by_its_completions(tokenizer, monkeypatch):
    """The trace says 32; of its completions two say 31, and one is cut. What comes back is the first that says 31."""
    prompt = prompt_ids(tokenizer, [{"role": "user", "content": Exam().prompt_of(QUESTION)}])
    right = "a24 + 7 = 31. \\boxed{31}<|im_end|>"
    policy, seen = play(tokenizer, monkeypatch, [TRACE + "<|im_end|>"], [right, right])
    (attempt,) = Subthoughts().attempts(policy, [QUESTION], 1, "key", Decoding(60))
    assert attempt.answer == "31" and attempt.status == "equal" and attempt.trajectory.reward == 1
    assert attempt.text.startswith("a24") and attempt.text.endswith("\\boxed{31}")
    for ids, _ in seen:  # the prefixes: the prompt, and sampled tokens of the trace up to a cut
        assert ids[:len(prompt)] == prompt and TRACE.startswith(decode_message(tokenizer, ids[len(prompt):]))
    assert [seed for _, seed in seen] == [f"key/1/0/{len(ids)}" for ids, _ in seen]
    assert attempt.trajectory.ids[:len(seen[0][0])] == seen[0][0]

    policy, _ = play(tokenizer, monkeypatch, [TRACE + "<|im_end|>"], [right, "a24 + 7 = 31. \\boxed{31}"])
    (attempt,) = Subthoughts().attempts(policy, [QUESTION], 1, "key", Decoding(60))
    assert attempt.answer == "32" and attempt.status == "different"  # one against one, and the trace came first


def test_prefixes_end_between_tokens_of_the_trace(tokenizer):
    ids = encode(tokenizer, TRACE + "<|im_end|>")
    for end in ends(tokenizer, [5, 6, *ids], 2):
        prefix = decode_message(tokenizer, ids[:end - 2])
        assert TRACE.startswith(prefix) and any(0 <= offset - len(prefix) <= 8 for offset in cuts(TRACE))
    assert ends(tokenizer, encode(tokenizer, "\\boxed{3}"), 0) == []


@pytest.mark.parametrize("strategy", ["plain", "subthoughts"])
@pytest.mark.parametrize("name", PROMPTS)
def test_eval_with_a_prior_prompt(name, strategy, tokenizer, tmp_path, monkeypatch, capsys):
    """The model reads the words, and then what it reads without them; a trace is continued behind both."""
    policy, continued = play(tokenizer, monkeypatch, [TRACE + "<|im_end|>"], ["\\boxed{31}<|im_end|>"] * (
        2 * (strategy == "subthoughts")))
    begun, attempts = [], ap.world.attempts.sample
    monkeypatch.setattr(ap.world.attempts, "sample", lambda model, prompts, *rest: (
        begun.extend(prompts), attempts(model, prompts, *rest))[1])
    write_jsonl(tmp_path / "p.jsonl", [QUESTION])
    monkeypatch.setattr("ap.tools.evaluate_solver.local_model", lambda name: name)
    evaluation_script.main(["--model", str(tmp_path), "--problems", str(tmp_path / "p.jsonl"), "--k", "1", "--out", str(
        tmp_path / "out"), "--strategy", strategy, "--max_tokens", "60", "--prompt", name])
    asked = f"{PROMPTS[name]}\n\n{Exam().prompt_of(QUESTION)}"
    assert begun == [prompt_ids(tokenizer, [{"role": "user", "content": asked}])]
    assert all(ids[:len(begun[0])] == begun[0] for ids, _ in continued) and bool(continued) == (strategy != "plain")
    assert PROMPTS[name].count(f"<{name}>") == PROMPTS[name].count(f"</{name}>") == 1


def test_eval_with_the_strategy(tokenizer, tmp_path, monkeypatch, capsys):
    play(tokenizer, monkeypatch, [TRACE + "<|im_end|>"], ["a24 + 7 = 31. \\boxed{31}<|im_end|>"] * 2)
    write_jsonl(tmp_path / "p.jsonl", [QUESTION])
    monkeypatch.setattr("ap.tools.evaluate_solver.local_model", lambda name: name)
    evaluation_script.main(["--model", str(tmp_path), "--problems", str(tmp_path / "p.jsonl"), "--k", "1", "--out",
                            str(tmp_path / "out"), "--strategy", "subthoughts", "--max_tokens", "60"])
    (row,) = read_correctness(tmp_path / "out" / "p.jsonl")
    assert row.answers == ["31"] and row.correct == [1]
    with pytest.raises(UserError, match="--strategy is an option of --model"):
        evaluation_script.main(["--proposer", "m", "--strategy", "subthoughts"])
    with pytest.raises(UserError, match="--prompt is an option of --model"):
        evaluation_script.main(["--proposer", "m", "--prompt", "plan"])
