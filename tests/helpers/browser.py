"""A real Chromium for tests, driven by playwright. It must be installed: no test downloads it."""

from __future__ import annotations

import os
import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync")


def absent(why: str) -> None:
    """Skip the test and say why. With CI set, fail instead, so that a missing test is noticed."""
    if "CI" in os.environ:
        pytest.fail(f"no browser: {why}")
    pytest.skip(f"no browser: {why}")


@pytest.fixture(scope="module")
def chromium():
    """The browser; one per test file."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        absent("no chromium is installed (apt-get install chromium)")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        absent("the package playwright is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=QUIET)
        yield browser
        browser.close()
