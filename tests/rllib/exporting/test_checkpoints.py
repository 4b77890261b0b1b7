"""Policies of real checkpoints, from Ray 1.13 to 2.60, as files: the actions are the players'."""

from __future__ import annotations

from pathlib import Path

import pytest

from policystore.rllib import export, read_checkpoint, rebuild_player
from tests.support.checkpoint_corpus import Given, given, named
from tests.support.exported_file import ExportedFile

GIVEN = given()
# One checkpoint of each release runs in CI, of another kind each time.
IN_CI = {
    named(of_version[number % len(of_version)])
    for number, version in enumerate(dict.fromkeys(one.version for one in GIVEN))
    for of_version in [[one for one in GIVEN if one.version == version]]
}


@pytest.mark.long
@pytest.mark.parametrize(
    "one",
    [
        pytest.param(one, id=named(one), marks=[] if named(one) in IN_CI else pytest.mark.wide)
        for one in GIVEN
    ],
)
def test_policies_of_a_checkpoint_export(one: Given, tmp_path: Path) -> None:
    for policy_id, snap in read_checkpoint(one.path).items():
        file = tmp_path / f"{policy_id}.onnx"
        metadata = export(snap, file)
        assert (metadata.stack, metadata.algorithm) == (one.stack, snap.spec.algorithm)
        ExportedFile(file, metadata).check_thousand(rebuild_player(snap))
