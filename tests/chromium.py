"""A headless Chromium for tests of pages: the distribution's own, driven by Playwright.

Debian: `apt install chromium`. Without it the tests that need it are skipped, except in CI, where they fail.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextlib.contextmanager
def headless_chromium() -> Iterator[Browser]:
    """Give a browser; it asks nobody but whom its pages ask."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        missing = "Chromium is not installed (Debian: apt install chromium)"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    arguments = ["--disable-dev-shm-usage", *(["--no-sandbox"] if os.getuid() == 0 else [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=arguments)
        try:
            yield browser
        finally:
            browser.close()
