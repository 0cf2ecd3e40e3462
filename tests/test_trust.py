"""docs/trust.md: every test that the page names exists, and each guarantee names a test."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROWS = [line for line in (ROOT / "docs" / "trust.md").read_text().splitlines()
        if line.startswith("| ")]


def test_every_claim_of_the_page_names_a_test_that_exists():
    claims = [row for row in ROWS if not row.startswith("| what")]
    assert len(claims) > 20
    for row in claims:
        file, found = None, re.findall(r"`([\w./…]+)::(\w+)`", row)
        assert found, f"no test: {row}"
        for given, name in found:
            file = file if given == "…" else given
            assert f"\ndef {name}(" in (ROOT / "tests" / file).read_text(), f"{file} has no {name}"


def test_every_source_has_a_test_file_of_its_name_or_a_row_in_the_tests_readme():
    named = {path.stem.removeprefix("test_") for path in (ROOT / "tests").rglob("test_*.py")}
    covered = set()
    for pattern, test in re.findall(r"^\| `(\S+\.py)` \| `(\S+)` \|$",
                                    (ROOT / "tests" / "README.md").read_text(), re.MULTILINE):
        assert (ROOT / "tests" / test).is_file(), test
        one, _, rest = pattern.partition("{")
        stems = rest.partition("}")[0].split(",") if rest else [""]
        for stem in stems:
            found = list(ROOT.glob(one + stem + rest.partition("}")[2]))
            assert found, f"no {one}{stem}"
            covered |= set(found)
    for part in ("mingpt", "experiments", "commands", "benchmarks"):
        for path in (ROOT / part).rglob("*.py"):
            assert path.stem == "__init__" or path.stem in named or path in covered, path
