"""What models in the roles will be asked: bounds by hand, and a played run that lies between them."""
import pytest

from ap.config import Config
from ap.files import UserError, write_json
from ap.tools.asked import asked_lines, planned
from ap.tools.plan import dry_run, rollout_seconds, shape_of, sizes

SMALL = {"domain": "math", "groups": 2, "group_size": 3, "steps": 5, "prober_k": 4, "eval_sets": 7, "max_tokens": 100,
         "sft_trajectories": 10, "max_turns": 6}


def by_name(config):
    return {(row.stage, row.player): row for row in planned(config)}


def test_bounds_by_hand(tmp_path):
    """5 steps of 2 groups of 3 are 30 episodes. All submit: each verifier is asked 30 times. None valid: the prober is
    not asked; all valid: 4 times each. 10 expert episodes must be valid: at least 10 are played, at most 200, of 6
    messages; of the valid ones each is probed. A request reads 100 tokens at most, and its reply has 50 here."""
    roles = tmp_path / "roles.json"
    player = {"endpoint": "http://localhost/v1", "model": "m", "max_tokens": 50}
    write_json(roles, {"verifiers": [player, player, {"checkpoint": "x"}], "auditor": player, "teacher": player,
                       "probers": [player | {"prompt_price": 2, "completion_price": 10}, player]})
    rows = by_name(Config(roles=str(roles), **SMALL))
    assert len(rows) == 6 + 3 * 5
    for n in (1, 2, 3):
        assert rows["MGPO", f"verifier-{n}"][2:4] == (30, 30) and rows["evaluation after", f"verifier-{n}"][2:4] == (7, 7)
    assert rows["MGPO", "auditor"][2:4] == (0, 30) and rows["MGPO", "prober"][2:4] == (0, 120)
    assert rows["evaluation before", "prober"][2:4] == (0, 28)
    assert rows["expert episodes", "teacher"][2:4] == (10, 1200)
    assert rows["expert episodes", "verifier-1"][2:4] == (10, 200) and rows["expert episodes", "auditor"][2:4] == (0, 200)
    assert rows["expert episodes", "prober"][2:4] == (40, 40)
    prober, local = rows["MGPO", "prober"], rows["MGPO", "verifier-3"]
    assert (prober.read, prober.written) == (120 * 100, 120 * 50)
    assert prober.cost == pytest.approx((12000 * 2 + 6000 * 10) / 1e6)
    assert (local.written, local.cost) == (30 * 4096, None)


def test_programs_are_not_asked_and_roles_without_a_file_are_planned(tmp_path, capsys):
    assert planned(Config()) == [] == asked_lines(Config())
    assert {player for _, player in by_name(Config(**SMALL))} == {
        "teacher", "verifier-1", "verifier-2", "verifier-3", "auditor", "prober"}
    roles = tmp_path / "roles.json"
    write_json(roles, {"probers": [{"checkpoint": "a"}]})  # the miniature has programs for the others
    assert {player for _, player in by_name(Config(roles=str(roles)))} == {"prober"}
    dry_run(Config(dry_run=True, gpus=1, **SMALL))
    lines = capsys.readouterr().out.splitlines()
    all_in_all = sum(row.least for row in planned(Config(**SMALL)))
    assert any("asked, planned" in line for line in lines) and f"{all_in_all:,d}" in lines[-1]
    write_json(roles, [])
    with pytest.raises(UserError, match="must be an object of roles"):
        planned(Config(roles=str(roles)))


def test_the_rollout_waits_for_the_memory():
    """All rows fit, so there is one wave: 100 steps, each with P weights of 4 bytes and 6 rows that hold a fifth of 100
    tokens and half a page, which is no longer than a row: 2 * layers * kv heads * head width * 70 * 4 bytes."""
    config = Config(gpus=1, **SMALL)
    shape = shape_of(config)
    count = sizes(shape)
    row = 2 * 4 * 2 * 32 * 70 * 4
    assert rollout_seconds(shape, config, count) == pytest.approx(100 * (count.total * 4 + 6 * row) / 3.35e12)
