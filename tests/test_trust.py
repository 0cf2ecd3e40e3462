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
