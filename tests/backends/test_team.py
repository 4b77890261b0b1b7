"""Many writers of one bucket."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from policystore import PolicyStore
from tests.support import ROOT

RACE = ROOT / "tests" / "support" / "race_driver.py"


@pytest.mark.parametrize(
    ("writers", "count"),
    [pytest.param(4, 10, marks=pytest.mark.long), pytest.param(16, 50, marks=pytest.mark.ceph)],
)
def test_processes_that_push_to_one_name_lose_nothing(
    s3_endpoint: str, s3_bucket: str, writers: int, count: int
) -> None:
    url = f"s3://{s3_bucket}/p"
    start = time.time() + 3 + writers / 2
    processes = [
        subprocess.Popen(
            [sys.executable, RACE, url, str(writer), str(count), str(start), s3_endpoint],
            stdout=subprocess.PIPE,
            text=True,
        )
        for writer in range(writers)
    ]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * writers
    given = [line.split() for output in outputs for line in output.splitlines()]
    assert sorted(int(number) for number, _ in given) == list(range(1, writers * count + 1))
    assert len({digest for _, digest in given}) == writers * count
    store = PolicyStore(url, storage_options={"endpoint_url": s3_endpoint}, cache=False)
    assert {str(v.number): str(v.digest) for v in store.log("league/main")} == dict(given)
    report = store.verify()
    assert report.ok, str(report)
    assert report.versions == writers * count
