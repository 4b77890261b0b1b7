"""``verify``, ``stats``, ``cache`` and ``doctor``, and a store with damaged records."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from policystore import NodeCache, PolicyStore
from policystore.backends.local import LocalBackend
from policystore.backends.memory import MemoryBackend
from policystore.cli.terminal.words import share
from policystore.errors import ReadOnlyError, StorageError
from tests.cli.conftest import fill
from tests.support.command import Command


@pytest.fixture
def store(tmp_path: Path) -> PolicyStore:
    return fill(PolicyStore(tmp_path / "policies"))


def overwrite(file: Path, data: bytes) -> None:
    file.chmod(0o644)
    file.write_bytes(data)


def record(store: PolicyStore, number: int) -> Path:
    return Path(store.url) / "names/soccer/main/@versions" / f"{number:010}.json"


def test_verify_and_stats_say_what_is_there(policystore: Command) -> None:
    ran = policystore.run("verify")
    assert ran.code == 0
    assert "4 versions" in ran.out
    assert ran.out.endswith(": ok\n")
    document = policystore.json("verify", "--fraction", "0.5", "--since", "7d")
    assert document["ok"]
    assert policystore.json("stats", "soccer/")["versions"] == 3
    assert policystore.json("stats", "--details")["shared_nbytes"] == 0
    assert policystore.run("stats").code == 0


def test_verify_repairs_from_a_mirror_and_goes_on_at_a_cursor(
    policystore: Command, store: PolicyStore, tmp_path: Path
) -> None:
    store.copy_to(PolicyStore(tmp_path / "mirror"))
    victim = next((tmp_path / "policies" / "objects").rglob("*.safetensors"))
    overwrite(victim, b"damage")
    ran = policystore.run("verify")
    assert ran.code == 1
    assert victim.name in ran.out
    repaired = policystore.json("verify", "--repair-from", tmp_path / "mirror")
    assert repaired["ok"]
    assert len(repaired["repaired"]) == 1
    part = policystore.run("verify", "--fraction", "0.25")
    if "--resume" in part.out:
        cursor = part.out.split("--resume ")[1].split()[0]
        assert policystore.run("verify", "--resume", cursor).code == 0
    assert policystore.run("verify", "--resume", "nonsense").code == 2


def test_an_interrupted_verify_says_where_it_goes_on(
    policystore: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = PolicyStore.verify

    def interrupted(self: PolicyStore, **given: object) -> object:
        report = real(self, fraction=0.5)
        report.cursor = "somewhere"
        given["progress"](report)  # type: ignore[operator]
        raise KeyboardInterrupt

    monkeypatch.setattr(PolicyStore, "verify", interrupted)
    ran = policystore.run("verify")
    assert ran.code == 130
    assert "--resume somewhere goes on from here" in ran.err


@pytest.mark.parametrize("number", [3, 2])
def test_a_damaged_record_is_named_and_everything_else_is_shown(
    policystore: Command, store: PolicyStore, number: int
) -> None:
    overwrite(record(store, number), b"damage")
    for words in (["ls"], ["log", "soccer/main"]):
        ran = policystore.run(*words)
        if words == ["ls"] and number == 2:
            assert ran.code == 0  # no record is read that is damaged
        else:
            assert ran.code == 1
            assert ran.err.startswith("damaged: ")
            assert record(store, number).name in ran.error
        assert "champion" in ran.out or number == 2
        assert "duo/p0" in ran.out or words != ["ls"]
    document = policystore.json("log", "soccer/main", code=1)
    assert document["damaged"] == [number]
    assert len(document["versions"]) == 2
    assert document["faults"][0]["place"].endswith(record(store, number).name)
    assert policystore.run("show", "soccer/main@1").code == 0
    assert policystore.run("show", f"soccer/main@{number}").code == 1


def test_a_damaged_move_of_a_tag_hides_no_other_tag(
    policystore: Command, store: PolicyStore
) -> None:
    store.tag("soccer/main@1", "first")
    tags = Path(store.url) / "names/soccer/main/@tags/champion"
    for file in tags.iterdir():
        overwrite(file, b"damage")
    ran = policystore.run("tags", "soccer/main")
    assert ran.code == 1
    assert "first" in ran.out
    assert "tag champion of soccer/main" in ran.error
    assert policystore.json("ls", code=1)["names"][1]["tags"] == {"first": 1}


def test_a_damaged_mark_is_named_and_the_names_are_shown(
    policystore: Command, store: PolicyStore
) -> None:
    store.delete("soccer/main@3")
    (mark,) = (Path(store.url) / "names/soccer/main/@marks").glob("*.json")
    overwrite(mark, b"damage")
    ran = policystore.run("ls")
    assert ran.code == 1
    assert "duo/p0" in ran.out
    assert "soccer/main" in ran.out


def test_a_damaged_object_hides_no_record(policystore: Command, store: PolicyStore) -> None:
    digest = store.resolve("duo/p0")
    (file,) = (Path(store.url) / "objects").rglob(f"{digest.hex}*")
    overwrite(file, b"damage")
    ran = policystore.run("show", "duo/p0")
    assert ran.code == 1
    assert "duo/p0@1" in ran.out
    assert digest.hex in ran.err
    document = policystore.json("show", "duo/p0", code=1)
    assert document["policy"] is None
    assert policystore.run("pull", "duo/p0", "x.safetensors").code == 1


def test_the_cache_is_shown_and_cleared(
    bare: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: PolicyStore
) -> None:
    monkeypatch.setenv("POLICYSTORE_CACHE", str(tmp_path / "cache"))
    assert bare.json("cache", "show")["objects"] == 0
    assert "holds no objects" in bare.run("cache", "clear").out
    PolicyStore(store.url, cache=NodeCache()).pull("soccer/main")
    document = bare.json("cache", "show")
    assert document["objects"] == 1
    assert document["folder"] == str(tmp_path / "cache")
    assert bare.run("cache", "clear").code == 2
    assert "would delete 1 object" in bare.run("cache", "clear", "--dry-run").out
    assert bare.json("cache", "clear", "--yes")["objects"] == 1
    assert NodeCache().usage().objects == 0
    assert "0 B of at most" in bare.run("cache", "show").out


def checks(document: dict[str, object]) -> dict[str, tuple[str, str]]:
    return {each["check"]: (each["status"], each["found"]) for each in document["checks"]}  # type: ignore


def test_doctor_looks_at_the_machine_and_the_store(
    policystore: Command, store: PolicyStore, tmp_path: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))
    document = policystore.json("doctor")
    found = checks(document)
    assert document["ok"]
    assert found["numpy"][0] == "ok"
    assert found["store"][1] == f"{store.url}, named by --store"
    for check in (
        "list",
        "read",
        "write",
        "exclusive creation",
        "clock",
        "delete",
        "disk",
        "cache",
    ):
        assert found[check][0] == "ok", found[check]
    assert set(tmp_path.rglob("*")) - set(before) <= {Path(store.url) / "tmp"}
    assert "write" not in checks(policystore.json("doctor", "--no-write"))
    assert policystore.run("doctor").code == 0


def test_doctor_without_a_store_or_with_one_that_is_not_there(
    bare: Command, tmp_path: Path
) -> None:
    assert checks(bare.json("doctor"))["store"][0] == "note"
    assert "the first push makes" in bare.run("doctor", "-s", tmp_path / "new").out
    assert not (tmp_path / "new").exists()
    found = checks(bare.json("doctor", "-s", "nope://x", code=1))
    assert found["store"][0] == "bad"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("x")
    assert checks(bare.json("doctor", "-s", tmp_path / "other", code=1))["read"][0] == "bad"


def test_doctor_finds_a_storage_that_overwrites_or_has_another_time(
    bare: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overwrites(self: MemoryBackend, key: str, data: bytes) -> None:
        raise StorageError("the server overwrites")

    monkeypatch.setattr(MemoryBackend, "verify_exclusive_create", overwrites)
    monkeypatch.setattr(MemoryBackend, "server_time", lambda self: time.time() + 3600)
    found = checks(bare.json("doctor", "-s", "memory://doctor", code=1))
    assert found["exclusive creation"] == ("bad", "the server overwrites")
    assert found["clock"][0] == "bad"
    assert "3600 s ahead" in found["clock"][1]
    monkeypatch.setattr(MemoryBackend, "server_time", lambda self: time.time() - 10)
    found = checks(bare.json("doctor", "-s", "memory://doctor", code=1))
    assert "10 s behind" in found["clock"][1]


def test_doctor_tells_of_rights(
    policystore: Command, store: PolicyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.chmod(store.url, 0o777)
    found = checks(policystore.json("doctor"))
    assert found["folder"][0] == "note"
    assert "every user of the machine may delete" in found["folder"][1]
    os.chmod(store.url, 0o2770 | stat.S_ISGID)
    assert "its group may write to it" in checks(policystore.json("doctor"))["folder"][1]

    def refuse(self: LocalBackend, key: str, data: bytes) -> bool:
        raise ReadOnlyError("not here")

    monkeypatch.setattr(LocalBackend, "create", refuse)
    found = checks(policystore.json("doctor", code=1))
    assert found["write"] == ("bad", "not here")
    assert "clock" not in found


def test_doctor_needs_a_place_for_the_cache(
    bare: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    found = checks(bare.json("doctor", code=1))
    assert found["cache"][0] == "bad"
    assert "$POLICYSTORE_CACHE" in found["cache"][1]
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    assert checks(bare.json("doctor", code=1))["home"][0] == "note"


@pytest.mark.parametrize(
    ("text", "value"), [("0.1", 0.1), ("10%", 0.1), ("0", 0.0), ("1", 1.0), ("100 %", 1.0)]
)
def test_a_share_is_a_number_or_a_percentage(text: str, value: float) -> None:
    assert share(text, "--fraction") == value


@pytest.mark.parametrize("text", ["50", "101%", "-0.1", "nan", "half", "5%%", "%", ""])
def test_a_share_of_another_form_is_refused(policystore: Command, text: str) -> None:
    ran = policystore.run("verify", f"--fraction={text}")
    assert (ran.code, ran.out) == (2, "")
    assert "--fraction is a share from 0 to 1, such as 0.1 or 10%, not" in ran.error


def test_verify_takes_a_percentage(policystore: Command) -> None:
    assert policystore.json("verify", "--fraction", "50%")["cursor"]
