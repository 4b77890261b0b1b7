"""The logger that imports logging at the first message."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from policystore._util.log import logger


def test_messages_go_to_the_logger_of_the_package(caplog: pytest.LogCaptureFixture) -> None:
    logger.warning("%s of %d", "one", 2)
    logger.error("it is %s", "broken")
    assert [(r.name, r.levelno, r.getMessage()) for r in caplog.records] == [
        ("policystore", logging.WARNING, "one of 2"),
        ("policystore", logging.ERROR, "it is broken"),
    ]
    # The record names the line that called the logger, not a line of the logger itself.
    assert {record.pathname for record in caplog.records} == {__file__}


def test_importing_the_package_imports_no_logging() -> None:
    program = "import sys, policystore; print('logging' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
