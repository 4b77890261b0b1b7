"""``export``: a policy of a store as an ONNX file or a program of torch."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from policystore import PolicyStore, Snapshot, Spec
from tests.support.command import Command


def test_export_refuses_what_it_cannot_do_before_it_pulls(
    policystore: Command, tmp_path: Path
) -> None:
    file = tmp_path / "main.onnx"
    file.write_text("mine")
    refused = policystore.run("export", "soccer/main", file)
    assert refused.code == 2
    assert "--force" in refused.error
    assert file.read_text() == "mine"
    assert policystore.run("export", "soccer/main@9", tmp_path / "other.onnx").code == 3
    assert policystore.run("export", "soccer/main", tmp_path / "other.bin").code == 2
    assert policystore.run("export", "soccer/main", tmp_path / "a.onnx", "--agent", "x").code == 3
    assert os.listdir(tmp_path) == ["main.onnx"]


BOX = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)
SPACES = {
    "observation_space": BOX,
    "action_space": BOX,
    "env_observation_space": BOX,
    "env_action_space": BOX,
}
IN_PYTHON = "give --contents network, or export the policy in Python: export(snap, FILE, "
# How the spec of a policy is, the options of the command, and what its message says.
REFUSED: dict[str, tuple[dict[str, Any], list[str], str]] = {
    "no spaces": (
        {"observation_space": BOX, "action_space": BOX},
        [],
        f"{IN_PYTHON}env_spaces=(env.observation_space, env.action_space))",
    ),
    "no range of actions": (SPACES, [], f"{IN_PYTHON}normalize_actions=True) if the policy puts"),
    "a module of a single one": (
        {**SPACES, "normalize_actions": True, "clip_actions": False},
        ["--module", "main"],
        "leave --module out",
    ),
    "an untrusted class": (
        {
            **SPACES,
            "normalize_actions": True,
            "clip_actions": False,
            "cls": "mypkg.nets:Net",
        },
        [],
        "give --trust 'mypkg.'.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_message_of_an_export_names_what_the_command_has(
    policystore: Command, store: PolicyStore, tmp_path: Path, case: str
) -> None:
    fields, options, words = REFUSED[case]
    spec = Spec(stack="new", algorithm="PPO", **fields)
    store.push(Snapshot(weights={"w": np.zeros(2, np.float32)}, spec=spec), "soccer/alone")
    ran = policystore.run("export", "soccer/alone", tmp_path / "a.onnx", *options)
    assert ran.code == 2
    assert words in ran.error
    assert not re.search(r"connectors=|module_id|pass |the class itself", ran.error)
    assert os.listdir(tmp_path) == []


def test_a_pull_to_a_folder_that_is_not_there_names_the_folder(
    policystore: Command, tmp_path: Path
) -> None:
    ran = policystore.run("pull", "soccer/main", tmp_path / "none" / "a.safetensors")
    assert ran.code == 4
    assert f"No such file or directory: '{tmp_path / 'none'}'" in ran.error
    assert ".tmp" not in ran.error


@pytest.mark.long
def test_export_writes_the_file_that_the_call_writes(
    policystore: Command, store: PolicyStore, tmp_path: Path
) -> None:
    from policystore.rllib import export
    from tests.support import exported

    cell = exported.cell("new:flatten")
    store.push(cell.snap, "soccer/net")
    ran = policystore.run("export", "soccer/net", "net.onnx")
    assert ran.out == "exported soccer/net@1 to net.onnx\n"
    export(cell.snap, tmp_path / "again.onnx")
    assert (tmp_path / "net.onnx").read_bytes() == (tmp_path / "again.onnx").read_bytes()

    document = policystore.json(
        "export", "soccer/net@1", "net.pt2", "--contents", "network", "--trust", "tests."
    )
    assert document["inputs"] == ["obs"]
    assert document["outputs"] == ["action_dist_inputs", "value"]
    assert document["digest"] == str(cell.snap.digest)
    assert document["state"] == []
