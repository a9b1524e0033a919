"""What a run tells once: episodes that are cut, and the setting to raise."""
from dataclasses import replace

from ap.config import Config
from ap.learn.ranks import Ranks
from ap.tools.hints import CUT, tell_when_cut


def test_a_fifth_is_no_word_and_more_is_one_sentence_once_a_run(tmp_path, capsys):
    config = Config(out=str(tmp_path), max_tokens=400, solver_max_tokens=64)
    tell_when_cut(CUT, "expert episodes", config, Ranks())
    assert capsys.readouterr().out == ""
    tell_when_cut(0.26, "expert episodes", config, Ranks(rank=1, world_size=2))  # another rank is silent
    assert capsys.readouterr().out == ""
    other = replace(config, name="other")
    for share, settings in ((0.26, other), (0.5, other), (0.9, replace(other))):
        tell_when_cut(share, "expert episodes", settings, Ranks())
    assert capsys.readouterr().out == ("26% of the expert episodes were cut at --max_tokens 400: raise it in a run of "
                                       "another --name, or many count as failed that only needed room.\n")
    tell_when_cut(0.5, "attempts of step 1", other, Ranks(), "solver_max_tokens")
    assert "--solver_max_tokens 64" in capsys.readouterr().out
