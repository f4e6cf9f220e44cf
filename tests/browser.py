"""The browser in which the page is tested: ``python -m tests.browser`` finds or installs one, and says which."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MISSING = (
    "no Chromium here, so the page is not tested: apt-get install chromium, or python -m playwright install chromium"
)


def find() -> str | None:
    """The program of an installed Chromium: the system's, else Playwright's."""
    for name in NAMES:
        if (path := shutil.which(name)) is not None:
            return path
    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).exists() else None


def install() -> str | None:
    """Install one, Playwright's or as root Debian's; None where neither can be had."""
    commands = [[sys.executable, "-m", "playwright", "install", "--only-shell", "chromium"]]
    if os.geteuid() == 0 and shutil.which("apt-get"):
        commands.append(["apt-get", "update", "-qq"])
        commands.append(["apt-get", "install", "-qq", "-y", "--no-install-recommends", "chromium"])
    for command in commands:
        print("$", *command, flush=True)
        subprocess.run(command, check=False, timeout=300, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if (path := find()) is not None:
            return path
    return None


if __name__ == "__main__":
    path = find() or install()
    print(f"browser for the tests of the page: {path}" if path else MISSING)
