"""Skills as packages on disk. acquire.py extracts them from a corpus; curriculum.py draws them for training.

A skill k = <iota, mu, delta, tau> (intent, method, difficulty effect, tool hint) is a folder that is shown in three
levels of detail:

    <name>/SKILL.md       YAML front matter: name, category, intent, difficulty, tool   level 1: always shown
                          body: the method; how to see it, build it in, its effect      level 2: while active
    <name>/scripts/*.py   what a program may import in the sandbox                      level 3: during a check
"""
from __future__ import annotations

import math
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Iterable, Mapping

import yaml

from ap.files import UserError, read_text

FIELDS = ("name", "category", "intent", "difficulty", "tool")  # required, each one line of text
NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


@dataclass(frozen=True)
class Skill:
    """One reasoning skill k = <intent, method, difficulty effect, tool hint>; the method is `body`."""

    name: str
    category: str
    intent: str  # iota: the reasoning pattern
    difficulty: str = ""  # delta: its effect on a problem's difficulty
    tool: str = ""  # tau: what to check, and with which tool
    body: str = ""  # mu, level 2
    folder: Path | None = None  # the package; None while the skill is only in memory
    score: float | None = None  # r(k), when a teacher gave one
    source: str = ""  # where it comes from

    def level_1(self) -> str:
        """The line that is always shown, such as `share (chain): split a value into equal parts`."""
        return f"{self.name} ({self.category}): {self.intent}"

    @property
    def scripts(self) -> Path:
        """The folder of level 3, which need not exist."""
        return (self.folder or Path(self.name)) / "scripts"

    def front_matter(self) -> str:
        """The lines between the two `---` of SKILL.md."""
        record = {name: getattr(self, name) for name in FIELDS}
        record |= {"score": self.score} if self.score is not None else {}
        record |= {"source": self.source} if self.source else {}
        return yaml.safe_dump(record, sort_keys=False, allow_unicode=True, width=math.inf)


# ---------------------------------------------------------------- packages on disk


def fault_of(record: Mapping) -> tuple[str, str] | None:
    """What is wrong with a front matter, as (field, sentence), or None. Unknown fields are allowed."""
    for name in FIELDS:
        value = record.get(name)
        if value is None:
            return name, "is missing"
        if not isinstance(value, str):
            return name, f"must be text, not {value!r}; put it in quotes"
        if not value.strip() or len(value.splitlines()) > 1:
            return name, "must be one line of text"
    if not NAME.fullmatch(record["name"]):
        return "name", f"is {record['name']!r}; use lower-case letters, digits, hyphens and underscores only"
    score = record.get("score")
    if score is not None and (isinstance(score, bool) or not isinstance(score, (int, float)) or not 0 <= score <= 1):
        return "score", f"must be a number from 0 to 1, not {score!r}"
    if not isinstance(record.get("source") or "", str):
        return "source", "must be text; put it in quotes"
    return None


def load_skill(folder: Path) -> Skill:
    """Read one package. Raises UserError that names the file, the line and the field."""
    folder = Path(folder)
    path = folder / "SKILL.md"
    lines = read_text(path).splitlines()
    if not lines or lines[0].strip() != "---":
        raise UserError(f"{path}, line 1: a SKILL.md starts with a line `---`, then its YAML front matter")
    end = next((at for at, line in enumerate(lines) if at and line.strip() == "---"), None)
    if end is None:
        raise UserError(f"{path}, line {len(lines)}: the front matter has no closing line `---`")
    try:
        record = yaml.safe_load("\n".join(lines[1:end]))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        number = mark.line + 2 if mark else 2  # marks count from 0, and line 1 is `---`
        problem = getattr(error, "problem", None) or "cannot be read"
        where = f"{path}, line {number}"
        raise UserError(f"{where}: not valid YAML ({problem}); put text with a colon in quotes") from error
    except ValueError as error:  # an impossible date, for example
        raise UserError(f"{path}, line 2: not valid YAML ({error}); put the text in quotes") from error
    if not isinstance(record, dict):
        raise UserError(f"{path}, line 2: the front matter must be lines `field: value`, for {', '.join(FIELDS)}")
    fault = fault_of(record)
    if fault is None and record["name"] != folder.resolve().name:
        fault = "name", f"is {record['name']!r} but the folder is called {folder.resolve().name!r}; make them equal"
    if fault:
        name, problem = fault
        number = next((at + 1 for at, line in enumerate(lines[:end]) if line.startswith(f"{name}:")), end + 1)
        raise UserError(f"{path}, line {number}: field `{name}` {problem}")
    score = record.get("score")
    return Skill(
        **{name: record[name].strip() for name in FIELDS}, body="\n".join(lines[end + 1:]).strip(), folder=folder,
        score=None if score is None else float(score), source=record.get("source") or "",
    )


def load_library(folders: Iterable[Path]) -> dict[str, Skill]:
    """All packages of several folders, sorted by name. UserError for a bad package, or if two have the same name."""
    library: dict[str, Skill] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise UserError(f"{folder}: there is no such folder of skills")
        packages = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] not in "._")
        if not packages:
            raise UserError(f"{folder}: no skills here; a skill is a folder NAME with a SKILL.md in it")
        for package in packages:
            skill = load_skill(package)
            if skill.name in library:
                other = library[skill.name].folder
                raise UserError(f"two skills are called {skill.name!r}: {other} and {package}; rename one")
            library[skill.name] = skill
    return dict(sorted(library.items()))


def write_skill(skill: Skill, folder: Path, scripts: Mapping[str, str] | None = None) -> Path:
    """Write the package folder/<name>, completely or not at all; it replaces an older one. Returns its path.

    scripts: file name -> text, for level 3. Raises ValueError for a skill that could not be read again.
    """
    fault = fault_of({name: getattr(skill, name) for name in (*FIELDS, "score", "source")})
    if fault:
        raise ValueError(f"skill {skill.name!r}: field {fault[0]} {fault[1]}")
    package = Path(folder) / skill.name
    new, old = package.with_name(f".{skill.name}.new"), package.with_name(f".{skill.name}.old")
    for left_over in (new, old):
        shutil.rmtree(left_over, ignore_errors=True)
    new.mkdir(parents=True)
    (new / "SKILL.md").write_text(f"---\n{skill.front_matter()}---\n{skill.body.strip()}\n", encoding="utf-8")
    for name, text in (scripts or {}).items():
        if Path(name).name != name:
            raise ValueError(f"skill {skill.name!r}: a script is a plain file name, not {name!r}")
        (new / "scripts").mkdir(exist_ok=True)
        (new / "scripts" / name).write_text(text, encoding="utf-8")
    if package.exists():
        package.rename(old)
    new.rename(package)
    shutil.rmtree(old, ignore_errors=True)
    return package
