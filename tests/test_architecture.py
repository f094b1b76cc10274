"""What the parts of the project may know of each other, read from the source."""

import ast
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_LINES = 350
LIBRARY = "regionspot_cache"
PACKAGES = (LIBRARY, "pipeline", "benchmarks", "tools")
KNOWS = {LIBRARY: {LIBRARY}, "pipeline": {LIBRARY, "pipeline"}}  # the others: all but the tests


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@lru_cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in sources(*PACKAGES)}


def imported(path: Path, *, only_at_import: bool = False) -> set[str]:
    """Modules of this project that a file imports; `from package import module` counts as the module."""
    nodes = ast.walk(tree(path)) if not only_at_import else at_import(tree(path))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in MODULES else str(node.module))
    return {name for name in found if name.partition(".")[0] in (*PACKAGES, "tests")}


def at_import(node: ast.AST) -> list[ast.AST]:
    """Nodes that run when the module is imported: not the bodies of functions."""
    found = []
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            found += [child, *at_import(child)]
    return found


def test_who_may_know_whom() -> None:
    for name, path in MODULES.items():
        roots = {other.partition(".")[0] for other in imported(path)}
        assert roots <= KNOWS.get(name.partition(".")[0], set(PACKAGES)), name


def test_imports_have_no_cycle() -> None:
    graph = {name: imported(path, only_at_import=True) - {name} for name, path in MODULES.items()}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way[way.index(name) :], name))
        if name in done:
            return
        for other in sorted(graph.get(name, ())):
            visit(other, (*way, name))
        done.add(name)

    for name in graph:
        visit(name, ())
    assert len(done) >= len(MODULES) > 80


@pytest.mark.parametrize("package", ["store", "datasets", "evaluation", "errors", "config"])
def test_what_works_without_torch(package: str) -> None:
    code = f"import sys, {LIBRARY}.{package}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.parametrize("folder", ["store", "datasets"])
def test_no_function_of_these_imports_torch_later(folder: str) -> None:
    for path in sources(f"{LIBRARY}/{folder}"):
        names = {a.name for n in ast.walk(tree(path)) if isinstance(n, ast.Import) for a in n.names}
        names |= {str(n.module) for n in ast.walk(tree(path)) if isinstance(n, ast.ImportFrom)}
        assert not {name for name in names if name.partition(".")[0] == "torch"}, path


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    """Every call with the dotted name of what is called."""
    return [(ast.unparse(node.func), node) for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]


def test_the_library_neither_prints_nor_exits() -> None:
    forbidden = {"print", "sys.exit", "exit", "quit", "os._exit", "breakpoint", "input"}
    for path in sources(LIBRARY):
        assert not {name for name, _ in calls(path)} & forbidden, path
        raised = {ast.unparse(n.exc) for n in ast.walk(tree(path)) if isinstance(n, ast.Raise) and n.exc}
        assert not {text for text in raised if text.startswith("SystemExit")}, path


def test_nothing_untrusted_is_unpickled() -> None:
    forbidden = {
        "pickle.load",
        "pickle.loads",
        "yaml.load",
        "yaml.unsafe_load",
        "yaml.full_load",
        "eval",
        "exec",
    }
    for path in sources(*PACKAGES):
        for name, call in calls(path):
            assert name not in forbidden, f"{path}:{call.lineno}"
            keywords = {k.arg: ast.unparse(k.value) for k in call.keywords}
            if name == "torch.load":
                assert keywords.get("weights_only") == "True", f"{path}:{call.lineno}"
            if name.endswith("np.load"):
                assert keywords.get("allow_pickle", "False") == "False", f"{path}:{call.lineno}"


def test_files_stay_small() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in sources(*PACKAGES, "tests")}
    assert {path: length for path, length in lengths.items() if length >= MAX_LINES} == {}


def test_every_module_says_what_it_is_for() -> None:
    for name, path in MODULES.items():
        assert ast.get_docstring(tree(path)) or not path.read_text().strip(), name


def test_what_packages_offer_has_docstrings() -> None:
    offered = {
        (str(node.module), alias.name)
        for path in sources(LIBRARY)
        if path.name == "__init__.py"
        for node in tree(path).body
        if isinstance(node, ast.ImportFrom) and str(node.module) in MODULES
        for alias in node.names
    }
    assert len(offered) > 50
    for module, name in sorted(offered):
        for node in tree(MODULES[module]).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
                assert ast.get_docstring(node), f"{module}.{name}"
