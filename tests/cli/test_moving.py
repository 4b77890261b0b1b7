"""``push``, ``pull``, ``copy``: files, checkpoints and other stores."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from policystore import PolicyStore, Snapshot
from policystore.checkpoints import list_checkpoints, read_checkpoint
from policystore.cli import main
from tests.cli.conftest import controller
from tests.support.checkpoint_corpus import given, write_trial
from tests.support.command import Command


def test_pull_writes_a_file_that_push_takes_back(
    policystore: Command, store: PolicyStore, tmp_path: Path
) -> None:
    ran = policystore.run("pull", "soccer/main@2", "out.safetensors")
    assert ran.out == "pulled soccer/main@2 to out.safetensors\n"
    assert Snapshot.load(tmp_path / "out.safetensors") == store.pull("soccer/main@2")

    document = policystore.json(
        "push", "out.safetensors", "soccer/copy", "-m", "again", "--metric", "return=1.5",
        "--metric", "env=field", "--parent", "soccer/main@2", "--tag", "best", "--author", "bob",
    )  # fmt: skip
    (version,) = store.log("soccer/copy")
    assert document["versions"][0]["ref"] == version.ref == "soccer/copy@1"
    assert version.digest == store.resolve("soccer/main@2")
    assert dict(version.metrics) == {"return": 1.5, "env": "field"}
    assert version.parents == (version.digest,)
    assert (version.message, version.author) == ("again", "bob")
    assert version.source["path"] == "out.safetensors"
    assert "best" in store.tags("soccer/copy")


def test_pull_refuses_to_overwrite_without_force(policystore: Command, tmp_path: Path) -> None:
    file = tmp_path / "out.safetensors"
    file.write_text("mine")
    refused = policystore.run("pull", "soccer/main", file)
    assert refused.code == 2
    assert "--force" in refused.error
    assert file.read_text() == "mine"
    assert policystore.json("pull", "soccer/main", file, "--force")["file"] == str(file)
    assert policystore.run("pull", "soccer/main", tmp_path).code == 2
    assert policystore.run("pull", "soccer/main@9", tmp_path / "other").code == 3
    assert not (tmp_path / "other").exists()
    assert policystore.run("pull", "duo/p0", tmp_path / "no" / "file").code == 4


def test_push_takes_plain_weights_of_other_programs(
    policystore: Command, store: PolicyStore, tmp_path: Path
) -> None:
    weights = {
        "w": np.arange(6, dtype=np.float32).reshape(2, 3),
        "half": np.ones(3, ml_dtypes.bfloat16),
        "empty": np.zeros((0, 4), np.int8),
        "scalar": np.array(3, np.int64),
        "flags": np.array([True, False]),
    }
    safetensors.numpy.save_file(
        {k: v for k, v in weights.items() if k != "half"}, tmp_path / "a.safetensors",
        metadata={"format": "pt", "made by": "somebody"},
    )  # fmt: skip
    policystore.run("push", "a.safetensors", "plain")
    pulled = store.pull("plain").weights
    assert set(pulled) == set(weights) - {"half"}
    assert all((pulled[key] == weights[key]).all() for key in pulled)
    assert all(pulled[key].dtype == weights[key].dtype for key in pulled)


def file_of(header: object, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


@pytest.mark.parametrize(
    ("data", "code", "message"),
    [
        (b"", 1, "cut short"),
        (b"\xff" * 20, 1, "cut short"),
        (file_of(b"nonsense"), 1, "no JSON"),
        (file_of([]), 1, "is no safetensors file"),
        (file_of({}), 2, "holds no tensors"),
        (file_of({"w": 3}), 1, "data_offsets in the header"),
        (
            file_of({"w": {"dtype": [], "shape": [], "data_offsets": [0, 0]}}),
            1,
            "shape and data_offsets",
        ),
        (file_of({"w": {"dtype": "F4", "shape": [1], "data_offsets": [0, 4]}}), 2, "dtype 'F4'"),
        (file_of({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"1234"), 1, "fit"),
        (file_of({"w": {"dtype": "U8", "shape": [-4], "data_offsets": [0, 4]}}, b"1234"), 1, "fit"),
        (file_of({"w": {"dtype": "U8", "shape": "4", "data_offsets": [0, 4]}}, b"1234"), 1, "fit"),
        (
            file_of({"w": {"dtype": "U8", "shape": [0, 2**70], "data_offsets": [0, 0]}}),
            1,
            "tensor 'w'",
        ),
        (file_of({"__x": {"dtype": "U8", "shape": [], "data_offsets": [0, 1]}}, b"1"), 2, "__x"),
        (file_of({"__metadata__": {"policystore": "{}"}}), 1, "canonical"),
    ],
)
def test_push_names_what_is_wrong_with_a_file(
    policystore: Command, tmp_path: Path, data: bytes, code: int, message: str
) -> None:
    (tmp_path / "bad.safetensors").write_bytes(data)
    ran = policystore.run("push", "bad.safetensors", "bad")
    assert (ran.code, ran.out) == (code, "")
    assert message in ran.error


@pytest.mark.long
def test_push_takes_a_checkpoint_and_import_takes_one_with_a_name(
    policystore: Command, store: PolicyStore
) -> None:
    path = next(each.path for each in given() if "ray-2.60" in str(each.path))
    policies = read_checkpoint(path)
    ran = policystore.run("push", path, "team", "--tag", "start")
    assert ran.code == 0
    alone = len(policies) == 1
    names = ["team"] if alone else [f"team/{policy_id}" for policy_id in policies]
    assert [store.pull(f"{name}@start").digest for name in names] == [
        each.digest for each in policies.values()
    ]
    one = next(iter(policies))
    assert policystore.run("push", path, "single", "--policy", one).code == 0
    assert store.log("single")[0].source["policy"] == one

    refused = policystore.run("import", path)
    assert refused.code == 2
    assert "--name" in refused.error
    policystore.json("import", path, "--name", "imported")
    assert store.names("imported/") == sorted(f"imported/{each}" for each in policies)

    name = f"imported/{one}"
    ran = policystore.run("import", path, "--name", "imported")
    assert (ran.code, ran.out) == (0, f"0 versions added, {len(policies)} there already\n")
    assert f"{one}: {name}@1 is this policy already" in ran.err
    assert len(store.log(name)) == 1
    store.push(controller(3.0), name)
    assert policystore.json("import", path, "--name", "imported")["added"] == 0
    store.delete(f"{name}@1")
    again = policystore.json("import", path, "--name", "imported")
    assert (again["added"], again["present"]) == (1, len(policies) - 1)
    assert [each.number for each in store.log(name)] == [3, 2]

    document = Command(policystore._capsys, None).json("inspect", path)
    assert set(document["sizes"]) == set(policies)
    assert "weights" in Command(policystore._capsys, None).run("inspect", path).out


def test_pull_writes_to_the_standard_output(
    store: PolicyStore, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    assert main(["-s", store.url, "pull", "soccer/main@2", "-"]) == 0
    out, err = capfdbinary.readouterr()
    assert Snapshot.from_bytes(out) == store.pull("soccer/main@2")
    assert err == b"pulled soccer/main@2 to the standard output\n"
    assert list(tmp_path.iterdir()) == []

    assert main(["-s", store.url, "pull", "soccer/main@2", "./-"]) == 0
    assert capfdbinary.readouterr().out == b"pulled soccer/main@2 to -\n"
    assert Snapshot.load(tmp_path / "-") == store.pull("soccer/main@2")
    assert main(["-s", store.url, "pull", "soccer/main", "-", "--json"]) == 2
    out, err = capfdbinary.readouterr()
    assert b"where --json writes its document" in err
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert main(["-s", store.url, "pull", "soccer/main", "-"]) == 2
    out, err = capfdbinary.readouterr()
    assert out == b""
    assert b"pull soccer/main - > policy.safetensors" in err


def test_push_refuses_what_makes_no_sense(policystore: Command, tmp_path: Path) -> None:
    policystore.run("pull", "soccer/main", "x.safetensors")
    for words in (
        ["push", "x.safetensors", "--tag", "best"],
        ["push", "x.safetensors", "bad name"],
        ["push", "x.safetensors", "x", "--tag", "7"],
        ["push", "x.safetensors", "x", "--policy", "p0"],
        ["push", "x.safetensors", "x", "--metric", "return"],
        ["push", "x.safetensors", "x", "--source-option", "secret=abc"],
        ["import", ".", "--workers", 2, "--ray", "auto"],
    ):
        if words[-2] == "--source-option":
            words[1] = str(tmp_path)
        ran = policystore.run(*words)
        assert (ran.code, ran.out) == (2, ""), words
        assert "abc" not in ran.err
    assert policystore.run("push", "nothing", "x").code == 3
    assert policystore.run("push", "x.safetensors").out.startswith("pushed blake3:")


def test_copy_copies_what_the_target_lacks(
    policystore: Command, store: PolicyStore, tmp_path: Path
) -> None:
    target = tmp_path / "mirror"
    assert "would copy" in policystore.run("copy", target, "--dry-run").out
    assert not target.exists()
    document = policystore.json("copy", target, "soccer/", "duo/p0@1")
    assert (document["versions"], document["complete"]) == (4, True)
    mirror = PolicyStore(target)
    assert mirror.tags("soccer/main") == store.tags("soccer/main")
    assert "nothing new" in policystore.run("copy", target).out
    mirror.untag("soccer/main", "champion")
    mirror.tag("soccer/main@1", "champion")
    store.tag("soccer/main@3", "champion")
    ran = policystore.run("copy", target)
    assert ran.code == 1
    assert "conflict" in ran.out
    assert policystore.run("copy", target, "nothing/").code == 3
    assert policystore.run("copy", store.url).code == 2


def test_the_best_of_an_experiment_says_where_it_is_from(
    policystore: Command, store: PolicyStore, tmp_path: Path
) -> None:
    for trial, rays in (("PPO_a", ["2.4.0"]), ("PPO_b", ["2.4.0", "2.60.0"])):
        write_trial(tmp_path / "soccer" / trial, rays)
    metric = "env_runners/episode_return_mean"

    policystore.json(
        "push", "soccer", "soccer/best", "--policy", "p1", "--best", metric, "--metric", "n=3"
    )

    (version,) = store.log("soccer/best")
    chosen = max(list_checkpoints(tmp_path / "soccer"), key=lambda each: each.metric(metric) or 0)
    assert version.metrics == {metric: chosen.metric(metric), "n": 3}
    assert version.source["trial"] == chosen.trial
    assert version.source["checkpoint"] == chosen.name
    assert version.source["policy"] == "p1"
    assert version.source["iteration"] > 0
    assert store.pull(version) == read_checkpoint(chosen.path)["p1"]
