"""The structure of the code: what a reader of the algorithm opens, how large it is, which folder may import which."""
import ast
import importlib
import importlib.util
import re
from pathlib import Path

import pytest
from conftest import script

ROOT = Path(__file__).parent.parent
house = script(ROOT / "bench" / "house.py")
READER, ALL = house.reader_files(), house.all_files()
SCRIPTS = [ROOT / name for name in house.SCRIPTS]

# Lowest first. Each may import what stands in its own line or in one before it.
LAYERS = (
    ("ap.files", "ap.config", "ap.presets", "ap.trajectory", "ap.metrics"),
    ("ap.engine", "ap.compat", "ap.devices.gpu", "ap.devices.graphs", "ap.devices.pages"), ("ap.sandbox",), ("ap.answers",),
    ("ap.learn", "ap.devices.shard"), ("ap.world",), ("ap.judge",), ("ap.domains",), ("ap.mini",), ("ap.players",),
    ("ap.catalog", "ap.run"), ("ap.tools", "ap.arms"), ("ap.prepare",),
)


def layer_of(module: str) -> int:
    """The layer of the longest name that the module is, or lies in."""
    found = [(len(name), number) for number, names in enumerate(LAYERS) for name in names
             if module == name or module.startswith(name + ".")]
    return max(found)[1]


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_a_reader_opens_little():
    assert sum(map(house.code_lines, READER)) <= 3400
    assert {str(path): lines for path in READER if (lines := len(path.read_text().splitlines())) > 300} == {}
    assert len((ROOT / "run_mgpo.py").read_text().splitlines()) <= 200
    assert len((ROOT / "README.md").read_text().split()) <= 1500


def test_an_arm_is_short():
    assert {path.name: lines for path in (ROOT / "ap/arms").glob("*.py") if (lines := house.code_lines(path)) > 120} == {}


def test_functions_are_short():
    found = [f for path in (*READER, *SCRIPTS) for f in house.functions(path)]
    assert len(found) > 300
    assert [f for f in found if f.lines > 60] == []


def test_one_trajectory_passes_through_few_files():
    """The list is a path: each file of it exists, and is imported by another one of the list."""
    assert len(house.PATH) <= 15
    known = {module for path in house.PATH for module in house.imports(ROOT / path)}
    for path in house.PATH[1:]:
        assert module_of(ROOT / path) in known, path


@pytest.mark.parametrize("path", ALL, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_only(path):
    module = module_of(path)
    if module == "ap":
        return
    for imported in house.imports(path):
        if imported.startswith("ap.") and not imported.startswith(module + "."):
            assert layer_of(imported) <= layer_of(module), f"{module} imports {imported}"
    assert not {Path(name).stem for name in house.SCRIPTS} & set(house.imports(path))


def test_the_code_imports_no_other_engine():
    """Each is imported in its folder of integrations/ alone, and nobody must install it."""
    engines = {path.name for path in (ROOT / "integrations").iterdir()} | {"ray", "transfer_queue"}
    assert len(engines) == 6
    for path in (*ALL, *SCRIPTS):
        assert not engines & {name.split(".")[0] for name in house.imports(path)}, path
    wanted = (ROOT / "requirements.txt").read_text().lower()
    assert not {engine for engine in engines if re.search(rf"^{engine}\b", wanted, re.MULTILINE)}


def test_scripts_do_not_import_each_other():
    names = {path.stem for path in SCRIPTS}
    for path in SCRIPTS:
        assert not names & set(house.imports(path)), path


def test_no_circle_between_modules():
    """Following imports from any module never leads back to it."""
    graph = {}
    modules = {module_of(path) for path in ALL}
    for path in ALL:
        graph[module_of(path)] = {imported for imported in house.imports(path) if imported in modules}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail, module))
        if module not in done:
            for other in graph[module] - {module}:
                visit(other, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_each_room_says_what_lives_there():
    for room in sorted(path for path in (ROOT / "ap").iterdir() if path.is_dir() and path.name != "__pycache__"):
        source = (room / "__init__.py").read_text()
        tree = ast.parse(source)
        assert 3 <= len(ast.get_docstring(tree).splitlines()) <= 8, room
        assert len(tree.body) == 1, f"{room}: a docstring, and no code"


def test_the_table_of_equations_names_what_there_is():
    """README, Paper -> code -> test: each function can be imported, and each test stands in tests/."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if line.count(" | ") == 2][1:]
    assert len(rows) > 20
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py"))
    for _, functions, names in rows:
        for function in re.findall(r"`([\w.]+)`", functions):
            module, _, name = function.rpartition(".")
            try:
                found = getattr(importlib.import_module(f"ap.{module}"), name, None)
            except ModuleNotFoundError:
                found = None
            assert found or importlib.util.find_spec(f"ap.{function}"), function
        for name in re.findall(r"`(test_\w+)`", names):
            assert f"def {name}(" in tests, name


def test_readme_links_and_paths_exist():
    """Every file that README or a page of docs/ names is there."""
    for page in (ROOT / "README.md", ROOT / "RESULTS.md", *(ROOT / "docs").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
        for name in re.findall(r"`((?:ap|tests|bench|docs|starter)/[\w/.-]+\.\w+)`", text):
            assert (ROOT / name).exists(), f"{page.name}: {name}"
