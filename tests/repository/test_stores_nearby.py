"""A store that was opened one folder too high or too low: messages name the store."""

from __future__ import annotations

from pathlib import Path

import pytest

from policystore import FormatError, NotFoundError, PolicyStore, StorageError
from policystore.backends.local import LocalBackend
from policystore.format.keys import MARKER
from policystore.testing import make_snapshot


@pytest.fixture
def policies(tmp_path: Path) -> PolicyStore:
    """Return the store ``policies`` with the name ``soccer/main``."""
    store = PolicyStore(tmp_path / "team" / "policies")
    store.push(make_snapshot(), "soccer/main")
    return store


@pytest.mark.parametrize(
    ("inside", "advice"),
    [
        ("soccer", "names('soccer/') lists the names of that folder."),
        ("soccer/main", "'soccer/main' is a name there: log('soccer/main') lists its versions."),
        ("nothing", "'nothing' is neither a name nor a folder there. The names are: soccer/main"),
        ("socer/main", "nor a folder there. Did you mean 'soccer/main'?"),
    ],
)
def test_a_path_with_a_name_is_told_from_the_store(
    policies: PolicyStore, inside: str, advice: str, caplog: pytest.LogCaptureFixture
) -> None:
    deep = PolicyStore(f"{policies.url}/{inside}")

    for call in (lambda: deep.names("a/"), lambda: deep.pull("main"), lambda: deep.versions("*")):
        with pytest.raises(NotFoundError) as caught:
            call()
        assert f"inside the store {policies.url}: open PolicyStore(" in str(caught.value)
        assert str(caught.value).endswith(advice)
        assert "first push" not in str(caught.value)
    assert caplog.records == []
    deep.push(make_snapshot(), "a")
    assert f"inside the store {policies.url}" in caplog.records[0].getMessage()


@pytest.mark.parametrize(
    ("inside", "advice"),
    [
        ("names", ""),
        ("objects", ""),
        ("names/soccer", " names('soccer/') lists the names of that folder."),
        ("names/soccer/main", " 'soccer/main' is a name there: log('soccer/main') lists its ver"),
    ],
)
def test_a_folder_of_a_store_is_told_from_the_store(
    policies: PolicyStore, inside: str, advice: str
) -> None:
    with pytest.raises(FormatError) as caught:
        PolicyStore(f"{policies.url}/{inside}").names()
    opened = f"inside the store {policies.url}: open PolicyStore({policies.url!r})."
    assert opened + advice in str(caught.value)
    if not advice:
        assert str(caught.value).endswith(opened)


def test_the_folder_above_a_store_names_the_store(policies: PolicyStore) -> None:
    team = Path(policies.url).parent
    (team / "notes").mkdir()

    with pytest.raises(FormatError) as caught:
        PolicyStore(team).names()
    assert f"A store is one folder below: {policies.url}." in str(caught.value)
    PolicyStore(team / "other").push(make_snapshot(), "a")
    with pytest.raises(FormatError, match=r"one folder below: \S+other, \S+policies\.$"):
        PolicyStore(team).pull("a")


def test_verify_and_copies_of_a_store_say_that_another_one_lies_inside(
    policies: PolicyStore, tmp_path: Path
) -> None:
    for path in ("tennis", "old/golf/main", "old/golf/main/deeper"):
        PolicyStore(f"{policies.url}/{path}").push(make_snapshot(), "main")
    (Path(policies.url) / "notes").mkdir()
    (Path(policies.url) / "notes" / "todo.txt").write_text("x")

    report = policies.verify()
    copied = policies.copy_to(PolicyStore(tmp_path / "copy"))

    problems = {fault.key: fault.problem for fault in report.faults}
    assert sorted(problems) == [
        "notes/todo.txt", "old/golf/main/policystore.json", "tennis/policystore.json"
    ]  # fmt: skip
    assert f"a store lies inside this store, at {policies.url}/tennis:" in str(report)
    assert "never writes a key of this form" in problems["notes/todo.txt"]
    assert f"lies inside this store, at {policies.url}/tennis, and was not copied" in str(copied)
    assert f"lies inside this store, at {policies.url}/old/golf/main" in str(copied)
    assert "unknown, not copied: notes/" in str(copied)
    assert copied.unknown == ["notes/", "old/", "tennis/"]
    assert not copied.complete


def test_without_a_store_nearby_the_message_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "folder" / "a").mkdir(parents=True)
    (tmp_path / "folder" / "a" / "b.json").write_text("{}")

    with pytest.raises(FormatError, match="Choose the folder of a store"):
        PolicyStore(tmp_path / "folder").names()
    with pytest.raises(NotFoundError, match="the first push makes one.$"):
        PolicyStore(tmp_path / "none").names("a")


@pytest.mark.long
def test_folders_above_a_bucket_are_found_with_few_requests(
    s3_bucket: str, s3_endpoint: str, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"endpoint_url": s3_endpoint}
    PolicyStore(f"s3://{s3_bucket}/team/policies", storage_options=options).push(
        make_snapshot(), "soccer/main"
    )

    with pytest.raises(NotFoundError) as caught:
        PolicyStore(f"s3://{s3_bucket}/team/policies/soccer", storage_options=options).pull("main")
    assert f"inside the store s3://{s3_bucket}/team/policies: open" in str(caught.value)
    assert str(caught.value).endswith("names('soccer/') lists the names of that folder.")
    for _ in range(2):
        PolicyStore(f"s3://{s3_bucket}/team/policies/soccer", storage_options=options).push(
            make_snapshot(), "main"
        )
    warnings = [record for record in caplog.records if record.name.startswith("policystore")]
    assert [record.getMessage() for record in warnings] == [
        f"a push makes a new store at s3://{s3_bucket}/team/policies/soccer. This place is inside "
        f"the store s3://{s3_bucket}/team/policies: open PolicyStore('s3://{s3_bucket}/team/"
        "policies'). names('soccer/') lists the names of that folder."
    ]
    with pytest.raises(FormatError, match=f"one folder below: s3://{s3_bucket}/team/policies"):
        PolicyStore(f"s3://{s3_bucket}/team", storage_options=options).names()


def test_folders_above_that_cannot_be_read_are_passed_over(
    policies: PolicyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = LocalBackend.size

    def fail(self: LocalBackend, key: str) -> int | None:
        if key == MARKER:
            raise StorageError("no permission")
        return size(self, key)

    deep = PolicyStore(f"{policies.url}/soccer")
    monkeypatch.setattr(LocalBackend, "size", fail)
    with pytest.raises(NotFoundError, match="the first push makes one.$"):
        deep.pull("main")
