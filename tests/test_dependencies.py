"""docs/dependencies.md: every direct dependency is explained, and each is imported somewhere."""

import re
import tomllib
from pathlib import Path

from tests.helpers.rooms import DOORS, REPO, imports

PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PAGE = (REPO / "docs" / "dependencies.md").read_text(encoding="utf-8")
FILES = [*DOORS, *(path for part in ("mingpt", "experiments", "commands")
                   for path in sorted((REPO / part).rglob("*.py")))]


def names(requirements: list[str]) -> set[str]:
    """The packages of a list of requirements."""
    return {re.match(r"[\w.-]+", text)[0] for text in requirements}


def test_the_page_lists_what_is_always_installed_and_nothing_else():
    rows = re.findall(r"^\| (\w+) \|.*\|.*\| [A-Z]", PAGE.partition("## With")[0], re.MULTILINE)
    assert set(rows) == names(PROJECT["dependencies"])


def test_the_page_names_every_optional_package():
    for extra in ("tensorboard", "wandb", "hub", "eval", "test"):
        for name in names(PROJECT["optional-dependencies"][extra]):
            assert re.search(rf"\b{name}\b", PAGE), name


def test_no_dependency_is_unused():
    used = {module.partition(".")[0] for path in FILES for module in imports(Path(path))}
    assert names(PROJECT["dependencies"]) <= used
