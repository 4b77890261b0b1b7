"""The page of a store with a thousand versions: making the page, and opening it in Chromium."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from scripts.benchmarks.lines.harness.processes import environment
from scripts.benchmarks.lines.harness.rows import Report
from scripts.benchmarks.lines.harness.settings import Settings
from scripts.benchmarks.lines.harness.store_files import Shape, files_below, fill
from scripts.benchmarks.lines.harness.times import Times, in_turn

__all__ = ["measure"]

_SECONDS = 10.0
_USABLE = 1.0
_BINARY, _DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
_SWITCHES = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")


def measure(settings: Settings, report: Report) -> None:
    versions = 100 if settings.quick else 1000
    with settings.folder() as folder:
        root, page = folder / "store", folder / "page.html"
        fill(files_below(root), Shape(versions, versions // 4))
        command = [sys.executable, "-m", "policystore", "report", "--store", str(root),
                   "--out", str(page)]  # fmt: skip

        def write() -> None:
            subprocess.run(command, check=True, capture_output=True, env=environment())

        rounds = 1 if settings.quick else 5
        written = in_turn({"report": write}, rounds, warm_up=rounds - 1)["report"]
        text = page.read_text()
        report.check(len(set(re.findall(r'"n/\d+"', text))) == 4, "the page lacks names")
        report.limited(f"policystore report of {versions:,} versions", written.median, _SECONDS,
                       "s", times=written)  # fmt: skip
        if not (_BINARY.exists() and _DRIVER.exists()):
            report.omit("the page in a browser: no Chromium (Debian's chromium, chromium-driver)")
            return
        usable = _open(page, 1 if settings.quick else 7)
        report.limited(f"a page of {versions:,} versions is usable", usable.median, _USABLE, "s",
                       times=usable, note="from the start of loading, in Chromium")  # fmt: skip


def _open(page: Path, rounds: int) -> Times:
    """Return the seconds from the start of a page's loading until its scripts have run."""
    from selenium.webdriver import Chrome
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = str(_BINARY)
    for switch in _SWITCHES:
        options.add_argument(switch)
    driver: Any = Chrome(options=options, service=Service(str(_DRIVER)))
    try:
        taken = []
        for _ in range(rounds + 1):
            driver.get("about:blank")
            driver.get(page.as_uri())
            end = time.monotonic() + 60
            while (now := driver.execute_script(_READY)) is None:
                if time.monotonic() > end:
                    raise RuntimeError("the page was not ready within a minute")
                time.sleep(0.005)
            taken.append(now / 1000)
        return Times(tuple(taken[1:]))
    finally:
        driver.quit()


_READY = "return document.documentElement.dataset.ready ? performance.now() : null"
