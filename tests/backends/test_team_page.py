"""docs/how-to/team.md: the blocks run, and the rights that the page shows are enough and no more."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto.core import set_initial_no_auth_action_count

from policystore import PolicyStore, ReadOnlyError
from policystore.testing import make_snapshot
from tests.support.doc_blocks import DOCS, run_blocks
from tests.support.s3_server import moto_server

pytestmark = pytest.mark.long

PAGE = DOCS / "how-to" / "team.md"
ROLES = ("reader", "writer")


def rights(role: str) -> str:
    """Return the policy of IAM that the page shows for a role."""
    (block,) = re.findall(rf"```json {role}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    return json.dumps(json.loads(block))


@pytest.fixture(scope="module")
def team() -> Iterator[tuple[str, dict[str, dict[str, str]]]]:
    """A server with the page's bucket, and a key for each role; the server asks for no key yet."""
    with moto_server() as endpoint:
        nobody = {
            "aws_access_key_id": "x",
            "aws_secret_access_key": "x",
            "region_name": "us-east-1",
        }
        boto3.client("s3", endpoint_url=endpoint, **nobody).create_bucket(Bucket="team")
        iam = boto3.client("iam", endpoint_url=endpoint, **nobody)
        keys = {}
        for role in ROLES:
            iam.create_user(UserName=role)
            iam.put_user_policy(UserName=role, PolicyName="p", PolicyDocument=rights(role))
            made = iam.create_access_key(UserName=role)["AccessKey"]
            keys[role] = {"key": made["AccessKeyId"], "secret": made["SecretAccessKey"]}
        yield endpoint, keys


def become(role: str, team: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the process the credentials of a role, as a job has them."""
    endpoint, keys = team
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys[role]["key"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys[role]["secret"])


@set_initial_no_auth_action_count(0)
def test_the_blocks_need_no_more_than_the_rights_of_a_writer(
    team: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    become("writer", team, monkeypatch)
    monkeypatch.chdir(tmp_path)

    names: dict[str, Any] = {}
    run_blocks("", names, PAGE)
    names["store"].push(make_snapshot(large=True), "soccer/large")
    names["store"].delete("soccer/main@1")

    assert "pushed soccer/main@2" in capsys.readouterr().out
    assert names["snap"].digest == names["store"].resolve("soccer/main@2")
    assert names["store"].verify().ok
    assert (tmp_path / "site" / "index.html").is_file()


@set_initial_no_auth_action_count(0)
def test_a_reader_reads_and_writes_nothing(team: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    become("writer", team, monkeypatch)
    PolicyStore("s3://team/policies").push(make_snapshot(), "a")

    become("reader", team, monkeypatch)
    store = PolicyStore("s3://team/policies", cache=False)

    assert store.pull("a") == make_snapshot()
    assert "a" in store.names()
    assert store.verify().ok
    with pytest.raises(ReadOnlyError):
        store.push(make_snapshot(1), "a")
    assert len(store.log("a")) == 1


@set_initial_no_auth_action_count(0)
@pytest.mark.parametrize("role", ROLES)
def test_nobody_deletes_keys_or_reads_another_prefix(role: str, team: Any) -> None:
    endpoint, keys = team
    client = boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1",
        aws_access_key_id=keys[role]["key"], aws_secret_access_key=keys[role]["secret"],
    )  # fmt: skip

    with pytest.raises(ClientError, match="AccessDenied"):
        client.delete_object(Bucket="team", Key="policies/policystore.json")
    with pytest.raises(ClientError, match="AccessDenied"):
        client.get_object(Bucket="team", Key="elsewhere/secret")
