"""The starter packages: each checker passes its own valid example and fails its broken one, in the sandbox."""
import json
from pathlib import Path

import pytest

from ap.answers.match import match_answer
from ap.catalog import DOMAINS, open_domain
from ap.config import Config
from ap.sandbox.sandbox import Sandbox
from ap.world.env import Env
from ap.world.skills import Skill, load_library

STARTER = Path(__file__).parent.parent / "starter"
LIBRARIES = {folder.name: load_library([folder]) for folder in sorted(STARTER.iterdir()) if folder.is_dir()}
SKILLS = [pytest.param(name, skill, id=f"{name}/{skill.name}")
          for name, library in LIBRARIES.items() for skill in library.values()]


def test_there_are_packages_for_every_domain_that_models_judge():
    """The tests below are made from what is found: of an empty folder they would all be skipped."""
    assert set(LIBRARIES) == {name for name, domain in DOMAINS.items() if not domain.skills} and len(SKILLS) >= 36


@pytest.fixture(scope="module")
def boxes():
    """One sandbox a domain, with the scripts of all its packages, as in a run."""
    made = {name: Sandbox([*open_domain(name).scripts, *(skill.scripts for skill in library.values())], timeout=20.0)
            for name, library in LIBRARIES.items()}
    yield made
    for box in made.values():
        box.close()


def said(box, skill: Skill, arguments: dict) -> str:
    """The output of the checker, called as the package's tool line says."""
    module, given = skill.name.replace("-", "_"), json.dumps(arguments)
    code = f"from {module} import check\nimport json\nprint(check(**json.loads({given!r})))"
    result = box.run(code)
    assert result.status == "ok", result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize("name, skill", SKILLS)
def test_the_checker_tells_its_two_examples_apart(boxes, name, skill):
    examples = json.loads((skill.folder / "examples.json").read_text())
    valid, broken = examples["valid"], examples["broken"]
    domain = open_domain(name)
    output = said(boxes[name], skill, valid["arguments"])
    assert domain.passed(output) and domain.answer_of(output) == valid["answer"]
    assert said(boxes[name], skill, broken["arguments"]).startswith(f"fault: {broken['fault']}")


@pytest.mark.parametrize("name, skill", SKILLS)
def test_the_tool_line_runs_as_it_stands(boxes, name, skill):
    result = boxes[name].run(skill.tool)
    assert result.status == "ok" and result.stdout.startswith(("answer: ", "ok: ")), result


@pytest.mark.parametrize("name, skill", SKILLS)
def test_packages_are_short_and_complete(name, skill):
    assert all(word in skill.body for word in ("Recognise:", "Build in:", "Effect:"))
    assert len(skill.body) < 700 and skill.source
    assert [script.stem for script in skill.scripts.glob("*.py")] == [skill.name.replace("-", "_")]


@pytest.mark.parametrize("name, skill", [skill for skill in SKILLS if skill.values[0] != "code"])
def test_answers_are_read_with_their_units(name, skill):
    answer = json.loads((skill.folder / "examples.json").read_text())["valid"]["answer"]
    number, _, unit = answer.partition(" ")
    assert match_answer(number, answer).equal
    if unit:
        assert match_answer(f"{number} kg", answer).status == "different"


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_library_is_large_enough_for_a_curriculum(name):
    library = LIBRARIES[name]
    assert len(library) >= 12 and len({skill.category for skill in library.values()}) >= 3
    assert open_domain(name).learn({skill.name: skill.folder for skill in library.values()}) == ()
    text = Env(open_domain(name), library, None, Config()).messages(tuple(library)[:3])[1]["content"]
    assert all(skill.level_1() in text for skill in list(library.values())[:3])
