"""The commands on a bucket."""

from __future__ import annotations

from pathlib import Path

import pytest

from policystore import PolicyStore
from tests.cli.conftest import fill
from tests.support.command import Command
from tests.support.s3_server import KEY, SECRET

pytestmark = pytest.mark.long


@pytest.fixture
def bucket(s3_endpoint: str, s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return s3_bucket


def test_the_commands_work_on_a_bucket(
    bucket: str, s3_endpoint: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    url = f"s3://{bucket}/team"
    fill(PolicyStore(url, storage_options={"endpoint_url": s3_endpoint}))
    command = Command(capsys, url)
    assert command.json("ls")["names"][1]["tags"] == {"champion": 2}
    assert len(command.json("log", "soccer/main")["versions"]) == 3
    assert command.json("pull", "soccer/main@2", "x.safetensors")["ref"] == "soccer/main@2"
    assert command.json("push", "x.safetensors", "again")["versions"][0]["number"] == 1
    assert command.json("show", "again")["policy"]["parameters"] == 12
    assert command.json("search", "--where", "return > 11")["versions"][0]["number"] == 3
    assert command.json("annotate", "again", "-m", "hi")["annotation"]["note"] == "hi"
    assert command.json("delete", "again", "--yes")["deleted"]
    assert command.json("verify")["ok"]
    assert command.json("stats")["names"] == 3
    assert command.json("copy", tmp_path / "mirror")["complete"]
    assert command.json("gc", "--dry-run")["dry_run"]
    assert command.json("cache", "show")["objects"] > 0


def test_doctor_looks_at_a_bucket_and_shows_no_secret(
    bucket: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = Command(capsys, f"s3://{bucket}/new")
    document = command.json("doctor")
    found = {each["check"]: each for each in document["checks"]}
    assert found["credentials"]["found"].startswith("env")
    assert found["read"]["status"] == "note"
    for check in ("list", "write", "exclusive creation", "clock", "delete"):
        assert found[check]["status"] == "ok", found[check]
    ran = command.run("doctor")
    assert SECRET not in ran.out + ran.err
    assert KEY not in ran.out + ran.err
    assert command.run("ls").code == 3  # nothing was left behind that makes a store


def test_no_bucket_no_store_and_no_credentials_are_told_apart(
    bucket: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = Command(capsys, f"s3://{bucket}/nothing")
    missing = command.run("ls")
    assert (missing.code, missing.out) == (3, "")
    assert "there is no policy store" in missing.error
    wrong = Command(capsys, f"s3://{bucket}-not/x").run("ls")
    assert wrong.code in (3, 4)
    assert "bucket" in wrong.error
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("HOME", "/nonexistent")
    anonymous = command.run("ls")
    assert (anonymous.code, anonymous.out) == (4, "")
    assert "credentials" in anonymous.error
    document = command.json("doctor", code=1)
    found = {each["check"]: each for each in document["checks"]}
    assert found["credentials"]["status"] == "note"
    assert found["list"]["status"] == "bad"
