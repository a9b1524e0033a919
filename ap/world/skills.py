"""Skills: packages on disk, their acquisition from a corpus, and the curriculum that draws them.

A skill k = <iota, mu, delta, tau> (intent, method, difficulty effect, tool hint) is a folder that is disclosed in
three levels:

    <name>/SKILL.md       YAML front matter: name, category, intent, difficulty, tool   level 1: always shown
                          body: the method; how to see it, build it in, its effect      level 2: when selected
    <name>/scripts/*.py   what a program may import in the sandbox                      level 3: at check time
"""
from __future__ import annotations

import math
import random
import re
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Iterable, Mapping, Sequence

import yaml

from ap.world.chat import after_thoughts
from ap.files import UserError, numbered_records, read_text, write_jsonl

FIELDS = ("name", "category", "intent", "difficulty", "tool")  # required, each one line of text
NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


@dataclass(frozen=True)
class Skill:
    """One reasoning skill k = <intent, method, difficulty effect, tool hint>; the method is `body`."""

    name: str
    category: str
    intent: str  # iota: which reasoning skeleton
    difficulty: str = ""  # delta: what it does to a problem's difficulty
    tool: str = ""  # tau: what to check, and with which tool
    body: str = ""  # mu, level 2
    folder: Path | None = None  # the package; None while the skill is only in memory
    score: float | None = None  # r(k), when a teacher gave one
    source: str = ""  # where it comes from

    def level_1(self) -> str:
        """What is always shown: `share (chain): split a value into equal parts`."""
        return f"{self.name} ({self.category}): {self.intent}"

    @property
    def scripts(self) -> Path:
        """Level 3. The folder need not exist."""
        return (self.folder or Path(self.name)) / "scripts"

    def front_matter(self) -> str:
        """The lines between the two `---` of SKILL.md."""
        record = {name: getattr(self, name) for name in FIELDS}
        record |= {"score": self.score} if self.score is not None else {}
        record |= {"source": self.source} if self.source else {}
        return yaml.safe_dump(record, sort_keys=False, allow_unicode=True, width=math.inf)


# ---------------------------------------------------------------- packages on disk


def fault_of(record: Mapping) -> tuple[str, str] | None:
    """What is wrong with the fields of a front matter: (field, sentence), or None. Other fields may be there too."""
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
    except ValueError as error:  # a date that is none, and the like
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
    """All packages of several folders, sorted by name. Raises UserError; two skills of one name are an error."""
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
    """Write the package folder/<name>, whole or not at all; an older one is replaced. Returns its path.

    scripts: file name -> text, for level 3. Raises ValueError for a skill that could not be read back.
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


# ---------------------------------------------------------------- corpus


@dataclass(frozen=True)
class Document:
    """One piece of D_corpus. `question`, `answer` and `solution` are empty for plain text."""

    text: str
    source: str = ""  # file, or file and line
    question: str = ""
    answer: str = ""
    solution: str = ""

    @classmethod
    def from_record(cls, record: Mapping[str, str], source: str = "") -> "Document":
        """A worked problem {question, answer[, solution]} as a document."""
        question, answer, solution = (str(record.get(name) or "") for name in ("question", "answer", "solution"))
        text = "\n".join(part for part in (question, solution or f"Answer: {answer}") if part)
        return cls(text, source, question, answer, solution)


def read_corpus(path: Path) -> list[Document]:
    """D_corpus: a JSONL of {question, answer[, solution]}, or a folder of such and of .md and .txt files. UserError."""
    path = Path(path)
    if path.is_dir():
        suffixes = (".md", ".txt", ".jsonl")
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in suffixes and file.is_file())
        documents = [document for file in files for document in (
            read_corpus(file) if file.suffix.lower() == ".jsonl" else [Document(read_text(file), str(file))])]
        documents = [document for document in documents if document.text.strip()]
        if not documents:
            raise UserError(f"{path}: no text in .md, .txt or .jsonl files in this folder; give another corpus")
        return documents
    documents = []
    for number, record in numbered_records(path):
        where = f"{path}, line {number}"
        for name in ("question", "answer", "solution"):
            value = record.get(name, "" if name == "solution" else None)
            if isinstance(value, (int, float)) and not isinstance(value, bool) and name == "answer":
                record[name] = value = str(value)
            if value is None or not isinstance(value, str) or (name != "solution" and not value.strip()):
                raise UserError(f"{where}: field `{name}` must be text; each line needs a question and an answer")
        documents.append(Document.from_record(record, where))
    if not documents:
        raise UserError(f"{path}: no records in this corpus file; give another corpus")
    return documents


# ---------------------------------------------------------------- acquisition


@dataclass(frozen=True)
class Candidate:
    """What a teacher proposes: a skill, its quality score r(k), and the documents that show it."""

    skill: Skill
    score: float  # r(k), from 0 to 1
    examples: tuple[int, ...] = ()  # indices of documents
    why: str = ""  # of the score; of the rejection, for a rejected one
    scripts: Mapping[str, str] = field(default_factory=dict)  # level 3: file name -> text


def acquire(teacher, documents: Sequence[Document], tau_r: float) -> tuple[list[Candidate], list[Candidate]]:
    """Let a teacher extract skills and keep the good ones: (kept, rejected), both sorted by name.

    Eq. (acquisition): p_skill(k) proportional to 1[r(k) >= tau_r] * pi_teacher(k | D_corpus)

    teacher: see roles.Teacher. tau_r: the threshold itself passes. *Choice*: among those that pass, names that differ
    only in case, separators or a final s are one skill; it keeps the text and the score of the best candidate and the
    examples of all. A candidate that cannot be written as a package (a bad field, a score that is no number) is the
    teacher's bad output, so it is rejected with that reason.
    """
    groups: dict[str, list[Candidate]] = {}
    rejected: list[Candidate] = []
    for candidate in teacher.candidates(documents):
        reason = _rejection(candidate, tau_r)
        if reason:
            rejected.append(replace(candidate, why=reason))
        else:
            groups.setdefault(_merge_key(candidate.skill.name), []).append(candidate)
    kept: list[Candidate] = []
    for same in groups.values():
        best = max(same, key=lambda candidate: candidate.score)  # the first of the best
        rejected += [replace(c, why=f"merged into {best.skill.name}") for c in same if c is not best]
        examples = tuple(dict.fromkeys(example for candidate in same for example in candidate.examples))
        kept.append(replace(best, examples=examples, skill=replace(best.skill, score=best.score)))

    def by_name(candidate: Candidate) -> str:
        return str(candidate.skill.name)

    return sorted(kept, key=by_name), sorted(rejected, key=by_name)


def _rejection(candidate: Candidate, tau_r: float) -> str:
    """Why a candidate is not kept, or an empty string."""
    record = {name: getattr(candidate.skill, name) for name in (*FIELDS, "source")}
    fault = fault_of(dict.fromkeys(FIELDS, "x") | {"score": candidate.score})
    if candidate.score is None or fault:
        return f"unusable: r = {candidate.score!r} is not a number from 0 to 1"
    if candidate.score < tau_r:
        return f"r = {candidate.score:.3g} is below tau_r = {tau_r:g}; {candidate.why}".rstrip("; ")
    fault = fault_of(record)
    return f"unusable: field {fault[0]} {fault[1]}" if fault else ""


def _merge_key(name: str) -> str:
    return re.sub(r"[-_ ]", "", name.lower()).removesuffix("s")


def write_library(kept: Sequence[Candidate], rejected: Sequence[Candidate], folder: Path) -> None:
    """Kept skills as packages; all candidates, with scores and reasons, in candidates.jsonl, which is written last."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for candidate in kept:
        write_skill(candidate.skill, folder, candidate.scripts)
    write_jsonl(folder / "candidates.jsonl", [
        {"name": c.skill.name, "category": c.skill.category, "intent": c.skill.intent, "score": c.score,
         "kept": is_kept, "why": c.why, "examples": len(c.examples)}
        for is_kept, candidates in ((True, kept), (False, rejected)) for c in candidates
    ])


EXTRACT = "Extract a reasoning skill from this worked example."
EXTRACTED = ("name", "category", "intent")  # what the proposer learns to write of a skill, a line each


def extraction_prompt(document: Document) -> str:
    """What the proposer is asked about one document, when it learns to extract skills and when it does."""
    return f"{EXTRACT}\n{document.text}"


def read_extraction(reply: str) -> tuple[dict[str, str], str]:
    """A skill's name, category and intent out of the proposer's reply, and what is wrong with it, or "".

    What is wrong has a name that can be counted: "not a name, category and intent", or the field that is of no use.
    """
    found = re.fullmatch("\n".join(f"{name}: (.+)" for name in EXTRACTED), after_thoughts(reply).strip())
    if found is None:
        return {}, "not a name, category and intent"
    fields = dict(zip(EXTRACTED, found.groups()))
    fault = fault_of(dict.fromkeys(FIELDS, "x") | fields)
    return fields, f"field {fault[0]}" if fault else ""


def acquisition_examples(
    kept: Sequence[Candidate], documents: Sequence[Document], per_skill: int = 50
) -> list[tuple[str, str]]:
    """Pairs (prompt, completion) that teach the proposer to extract skills itself.

    Eq. (L_acq): L_acq(theta) = - E_{k ~ p_skill} [ log pi_theta(k | D_corpus) ]

    The prompt shows one document, the completion is what read_extraction reads. *Choice*: D_corpus
    is shown one document at a time, and a skill has at most `per_skill` examples, spread over all of its documents,
    so that p_skill is nearly uniform over what was kept.
    """
    pairs = []
    for candidate in kept:
        skill, examples = candidate.skill, candidate.examples
        count = min(per_skill, len(examples))
        completion = "".join(f"{name}: {getattr(skill, name)}\n" for name in EXTRACTED).strip()
        for i in range(count):
            pairs.append((extraction_prompt(documents[examples[i * len(examples) // count]]), completion))
    return pairs


# ---------------------------------------------------------------- curriculum


def split_skill_sets(
    skills: Sequence[str], sizes: Iterable[int], num_eval: int, seed: int
) -> tuple[list[tuple[str, ...]], frozenset[frozenset[str]]]:
    """Hold out `num_eval` unordered sets of skills: (evaluation sets in a fixed order, the same sets for `in`).

    Sets are uniform over all sets of these sizes, without listing them all (a library of 500 skills has 2.6e9 sets of
    four). At most two thirds of all sets are held out: at a small library the result is shorter than `num_eval`, which
    the caller should say. Depends on the skills' names, the sizes, and the seed only.
    """
    skills = sorted(skills)
    sizes = [size for size in sizes if size <= len(skills)]
    counts = [math.comb(len(skills), size) for size in sizes]
    rng = random.Random(f"{seed}/held out")
    drawn: dict[frozenset[str], tuple[str, ...]] = {}  # in order of drawing
    while len(drawn) < min(num_eval, sum(counts) * 2 // 3):
        chosen = tuple(rng.sample(skills, rng.choices(sizes, counts)[0]))
        drawn.setdefault(frozenset(chosen), chosen)
    return list(drawn.values()), frozenset(drawn)


class Curriculum:
    """Which skills come together next: weak categories more often, and in a category those that teach the most.

    Eq. (mastery):    m_c <- (1 - alpha) * m_c + alpha * success_rate_c
    Eq. (curriculum): p(c) proportional to 1 / (m_c + eps)

    *Choices*: m_c starts at 0. A result counts once for every category among its skills. Sizes are drawn uniformly.
    Within a category, arms are skills and the play is Thompson sampling, since 24 draws between two updates must
    not all be the same arm: each skill has discounted counts s, f <- (1 - alpha) * (s, f) + (rate, 1 - rate) of its
    success rate in each update, so it never becomes certain while the policy moves; a success probability p is drawn
    from Beta(1 + s, 1 + f), and the arm with the largest p * (1 - p) is taken. That is the variance of the reward in
    a group, without which group-relative advantages are zero.
    """

    def __init__(
        self, library: Mapping[str, Skill], sizes: Iterable[int], held_out: frozenset[frozenset[str]] = frozenset(),
        alpha: float = 0.1, eps: float = 0.1,
    ):
        """Raises UserError when alpha or eps or the sizes leave nothing to draw."""
        if not 0 < alpha <= 1 or not eps > 0:
            raise UserError(f"mastery_alpha must be in (0, 1] and mastery_eps above 0, not {alpha} and {eps}")
        self.sizes = tuple(sizes)
        if not self.sizes or min(self.sizes) < 1 or max(self.sizes) > len(library):
            raise UserError(f"skills_min and skills_max give sets of {list(self.sizes)} skills, and there are "
                            f"{len(library)} skills; change them or add skills")
        if sum(math.comb(len(library), size) for size in self.sizes) <= len(held_out):
            raise UserError("every set of skills is held out for evaluation; lower eval_sets or add skills")
        self.held_out, self.alpha, self.eps = held_out, alpha, eps
        self.category = {name: skill.category for name, skill in sorted(library.items())}
        self.mastery = dict.fromkeys(sorted(set(self.category.values())), 0.0)  # m_c
        self.successes = dict.fromkeys(self.category, 0.0)  # s, of a skill
        self.failures = dict.fromkeys(self.category, 0.0)  # f, of a skill

    def category_probabilities(self) -> dict[str, float]:
        """p(c) of Eq. (curriculum)."""
        weights = {category: 1 / (mastery + self.eps) for category, mastery in self.mastery.items()}
        total = sum(weights.values())
        return {category: weight / total for category, weight in weights.items()}

    def draw(self, rng: random.Random) -> tuple[str, ...]:
        """K_0: distinct skills in drawn order, never a held-out set."""
        probabilities = self.category_probabilities()
        while True:
            drawn: list[str] = []
            for _ in range(rng.choice(self.sizes)):
                left = [skill for skill in self.category if skill not in drawn]
                categories = sorted({self.category[skill] for skill in left})
                chosen = rng.choices(categories, [probabilities[category] for category in categories])[0]
                drawn.append(self._play([skill for skill in left if self.category[skill] == chosen], rng))
            if frozenset(drawn) not in self.held_out:
                return tuple(drawn)

    def _play(self, arms: Sequence[str], rng: random.Random) -> str:
        def sampled_variance(skill: str) -> float:
            p = rng.betavariate(1 + self.successes[skill], 1 + self.failures[skill])
            return p * (1 - p)

        return max([(sampled_variance(skill), skill) for skill in arms])[1]

    def update(self, results: Iterable[tuple[Sequence[str], bool | float]]) -> None:
        """One update from the results (K_0, success from 0 to 1) of one step. What did not come up stays as it is."""
        by_category: dict[str, list[float]] = {}
        by_skill: dict[str, list[float]] = {}
        for skills, success in results:
            for category in {self.category[skill] for skill in skills}:
                by_category.setdefault(category, []).append(float(success))
            for skill in skills:
                by_skill.setdefault(skill, []).append(float(success))
        keep = 1 - self.alpha
        for category, successes in by_category.items():
            self.mastery[category] = keep * self.mastery[category] + self.alpha * sum(successes) / len(successes)
        for skill, successes in by_skill.items():
            rate = sum(successes) / len(successes)
            self.successes[skill] = keep * self.successes[skill] + rate
            self.failures[skill] = keep * self.failures[skill] + 1 - rate

    def state(self) -> dict:
        """JSON-able; all that a resumed run needs."""
        return {"mastery": dict(self.mastery), "successes": dict(self.successes), "failures": dict(self.failures)}

    def load_state(self, state: Mapping) -> None:
        """Raises UserError when the skills are not those that the state was saved with."""
        changed = set(state["successes"]) ^ set(self.successes) or set(state["mastery"]) ^ set(self.mastery)
        if changed:
            raise UserError(f"the skills have changed since the checkpoint ({', '.join(sorted(changed))}); restore "
                            "them or start a new run")
        for name in ("mastery", "successes", "failures"):  # in our order of keys, which a JSON file need not keep
            own = getattr(self, name)
            own.update({key: float(state[name][key]) for key in own})
