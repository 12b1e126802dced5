"""Tests lie where the package has what they test, and share code through ``helpers`` alone."""

import ast
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "adaptermix"
TEST_FILES = sorted(TESTS.rglob("test_*.py"))
HELPERS = sorted(path for path in (TESTS / "helpers").glob("*.py") if path.stem != "__init__")
# Modules that no test beside them imports, and what tests them instead.
ELSEWHERE = {
    "adapters/systems.py": "models/test_systems.py, with the systems of models",
    "cli/demo.py": "system/test_demo.py",
    "cli/options.py": "commands/test_command.py, on the command line",
    "cli/reference.py": "commands/test_command.py",
    "commands/*.py": "thin: the tests of what they run, and recipes/test_run.py",
    "evaluation/harness_dev.py": "system/test_lm_eval_search.py, on lm-eval tasks",
    "files/text.py": "data/test_reading.py",
    "generation/engine_guard.py": "system/test_engine_guard.py",
    "merging/sums.py": "merging/test_plan.py and merging/test_merge.py, through merges",
    "models/packing.py": "training/test_contrastive.py, by gradients",
    "progress.py": "cli/test_console.py, and helpers/progress.py for every command",
    "recipes/draft.py": "recipes/test_recipe.py, through reading",
    "reports/sections/*.py": "reports/test_page.py, through pages",
    "settings/*.py": "commands/test_settings_file.py",
    "*/report.py": "what commands print: system/test_recorded.py",
    "tasks/metrics/comet_worker.py": "system/test_comet.py, in COMET's environment",
    "tasks/metrics/equality.py": "reports/test_page.py",
    "tasks/task.py": "every task's own test",
    "training/steps.py": "training/test_run.py, through trainings",
}


def public_functions(path):
    nodes = ast.parse(path.read_text(encoding="utf-8")).body
    return [
        node.name
        for node in nodes
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    ]


@cache
def imports_of(path):
    """The modules that a file imports; ``from a import b`` may import ``a.b``."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def is_tested_in_its_folder(module):
    inner = module.relative_to(PACKAGE)
    folder = TESTS / inner.parent
    name = ".".join(("adaptermix", *inner.with_suffix("").parts))
    files = folder.glob("test_*.py")
    return any(path.name == f"test_{inner.name}" or name in imports_of(path) for path in files)


def test_modules_are_tested_in_the_folder_of_their_name():
    modules = [path for path in sorted(PACKAGE.rglob("*.py")) if public_functions(path)]
    assert len(modules) > 80
    untested = [p.relative_to(PACKAGE) for p in modules if not is_tested_in_its_folder(p)]
    unknown = [p for p in untested if not any(fnmatch(str(p), pattern) for pattern in ELSEWHERE)]
    assert not unknown, "add a test in the folder, or a line to ELSEWHERE"
    matched = {pattern for pattern in ELSEWHERE for p in untested if fnmatch(str(p), pattern)}
    assert matched == set(ELSEWHERE), "these lines of ELSEWHERE are needed no more"


@pytest.mark.parametrize("path", TEST_FILES, ids=lambda path: str(path.relative_to(TESTS)))
def test_no_test_imports_another_test(path):
    parts = {part for name in imports_of(path) for part in name.split(".")}
    assert not {part for part in parts if part == "conftest" or part.startswith("test_")}


@pytest.mark.parametrize("path", HELPERS, ids=lambda path: path.stem)
def test_helpers_are_shared(path):
    users = [
        user
        for user in [*TEST_FILES, *TESTS.rglob("conftest.py"), *HELPERS]
        if f"helpers.{path.stem}" in imports_of(user)
    ]
    assert len(users) > 1, f"only {users} imports it: move it there"
