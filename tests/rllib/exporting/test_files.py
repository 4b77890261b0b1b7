"""Exported files: equal to the player on 1,000 observations, and whole or not there."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from policystore.errors import InvalidInputError, MismatchError, MissingPackageError
from policystore.play.metadata import KEY, PT2_FILE, Metadata
from policystore.rllib import export, rebuild_player
from policystore.rllib.exporting import api, checking, formats
from tests.rllib.exporting.test_graphs import PLAYED, REFUSED, SLOW, UNTRACED
from tests.support import exported
from tests.support.cells import sampled
from tests.support.exported_file import ExportedFile

NO_ONNX = {"new:module-bf16", "old:model:bf16"}  # onnxruntime has no bfloat16 on the CPU
# One network of each kind; the other cells differ in what test_graphs.py covers.
WIDE = {
    name
    for name in PLAYED
    if name.startswith(("new:module-", "old:model:", "old:obs:", "old:act:"))
}

# The graph of a cell is the same in each format.
IN_OTHER_FORMATS = {
    "new:flatten-filter", "new:nested-actions", "new:dqn-distributional", "new:sac-box",
    "new:own-recurrent", "new:own-dict", "old:mixed-filter", "old:lstm-box",
    "old:dqn:dueling-double", "old:sac:no-twin", "old:free-log-std", "old:image-in-dict",
}  # fmt: skip


def session(file: Path) -> Any:
    return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])


def metadata_of(file: Path) -> Metadata:
    if file.suffix == ".pt2":
        extra = {PT2_FILE: ""}
        torch.export.load(str(file), extra_files=extra)
        return Metadata.from_json(extra[PT2_FILE])
    properties = {entry.key: entry.value for entry in onnx.load(str(file)).metadata_props}
    assert list(properties) == [KEY]
    return Metadata.from_json(properties[KEY])


@pytest.mark.parametrize(
    "name",
    sampled(
        [name for name in PLAYED if name not in NO_ONNX],
        "new:flatten-filter",
        wide=(WIDE | SLOW) - NO_ONNX,
    ),
)
def test_onnx_file_acts_as_the_player_on_a_thousand_observations(name: str, tmp_path: Path) -> None:
    cell = exported.cell(name)
    file = tmp_path / "main.onnx"
    metadata = export(cell.snap, file, trust=exported.TRUST, **cell.arguments)
    assert os.listdir(tmp_path) == ["main.onnx"]
    assert metadata_of(file) == metadata
    player = rebuild_player(cell.snap, trust=exported.TRUST, **cell.arguments)
    ExportedFile(file, metadata).check_thousand(player)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["network.onnx", "player.pt2", "network.pt2"])
@pytest.mark.parametrize("name", sampled(PLAYED, wide=set(PLAYED) - IN_OTHER_FORMATS))
def test_other_contents_and_formats_are_written(name: str, kind: str, tmp_path: Path) -> None:
    # The call itself compares each file with the player or the network.
    cell = exported.cell(name)
    contents, _, suffix = kind.partition(".")
    arguments = cell.arguments if contents == "player" else {}
    file = tmp_path / f"main.{suffix}"
    own_dtype = name == "new:module-bf16" and contents == "network"  # numpy has no bfloat16
    if own_dtype or (name in NO_ONNX and suffix == "onnx"):
        with pytest.raises(InvalidInputError, match="onnxruntime cannot run|dtype that numpy"):
            export(cell.snap, file, contents=contents, trust=exported.TRUST, **arguments)
        return
    metadata = export(cell.snap, file, contents=contents, trust=exported.TRUST, **arguments)
    assert metadata_of(file) == metadata
    assert metadata.contents == contents


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("new:own-branching", r"exported.Branching._forward, line \d+ \('if bool\(logits.sum"),
        pytest.param(
            "old:own-branching",
            r"exported.BranchingModel.forward, line \d+ \('return \(out if out",
            marks=pytest.mark.long,
        ),
        ("new:own-counting-rows", "its network computes something else for other numbers of rows"),
        pytest.param("old:dqn:noisy", "NoisyLayer draws random numbers", marks=pytest.mark.long),
    ],
)
def test_what_cannot_be_traced_is_named(
    name: str, part: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cell = exported.cell(name)
    capfd.readouterr()
    with pytest.raises(InvalidInputError, match=part):
        export(cell.snap, tmp_path / "a.onnx", trust=exported.TRUST, **cell.arguments)
    assert os.listdir(tmp_path) == []
    assert capfd.readouterr() == ("", "")


def test_several_threads_export_one_after_the_other(tmp_path: Path) -> None:
    cell = exported.cell("new:module-discrete-separate")

    def made(number: int) -> bytes:
        file = tmp_path / f"{number}.pt2"
        export(cell.snap, file, trust=exported.TRUST, **cell.arguments)
        return file.read_bytes()

    with ThreadPoolExecutor(3) as pool:
        assert len(set(pool.map(made, range(3)))) == 1


@pytest.mark.long
def test_network_that_changes_from_call_to_call_is_found(tmp_path: Path) -> None:
    cell = exported.cell("new:own-counting")
    with pytest.raises(MismatchError, match="does not compute what the policy computes"):
        export(cell.snap, tmp_path / "a.pt2", trust=exported.TRUST, **cell.arguments)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "name",
    ["old:model:custom-dist", pytest.param("old:custom-exploration", marks=pytest.mark.long)],
)
def test_network_alone_is_exported_where_the_action_cannot_be(name: str, tmp_path: Path) -> None:
    cell = exported.cell(name)
    file = tmp_path / "net.pt2"
    metadata = export(cell.snap, file, contents="network", trust=exported.TRUST)
    assert [one.name for one in metadata.outputs] == ["action_dist_inputs", "value"]


@pytest.mark.long
def test_network_of_a_recurrent_policy_has_value_and_state(tmp_path: Path) -> None:
    cell = exported.cell("new:module-lstm-shared")
    metadata = export(cell.snap, tmp_path / "net.onnx", contents="network")
    assert [one.name for one in metadata.outputs] == ["action_dist_inputs", "value"]
    assert [part.input for part in metadata.state] == ["state_in/c", "state_in/h"]
    run = session(tmp_path / "net.onnx")
    assert [one.name for one in run.get_outputs()] == [
        "action_dist_inputs", "value", "state_out/c", "state_out/h",
    ]  # fmt: skip
    assert all(one.shape[0] == "batch" for one in (*run.get_inputs(), *run.get_outputs()))


@pytest.fixture(scope="module")
def box() -> exported.Cell:
    return exported.cell("new:module-box")


@pytest.mark.long
@pytest.mark.parametrize("suffix", ["pt2", "onnx"])
def test_same_snapshot_gives_the_same_bytes_without_paths_of_the_machine(
    box: exported.Cell, suffix: str, tmp_path: Path
) -> None:
    written = []
    for number in range(2):
        file = tmp_path / f"{number}.{suffix}"
        export(box.snap, file, **box.arguments)
        written.append(file.read_bytes())
    assert written[0] == written[1]
    assert b"site-packages" not in written[0]
    assert str(Path.home()).encode() not in written[0]


def test_an_existing_file_is_replaced_by_force_only(box: exported.Cell, tmp_path: Path) -> None:
    file = tmp_path / "main.pt2"
    file.write_text("mine")
    with pytest.raises(InvalidInputError, match="main.pt2 exists: give force=True"):
        export(box.snap, file, **box.arguments)
    assert file.read_text() == "mine"
    export(box.snap, file, force=True, **box.arguments)
    assert metadata_of(file).digest == box.snap.digest
    assert os.listdir(tmp_path) == ["main.pt2"]
    (tmp_path / "folder.pt2").mkdir()
    with pytest.raises(InvalidInputError, match="is a folder"):
        export(box.snap, tmp_path / "folder.pt2", force=True, **box.arguments)


@pytest.mark.long
def test_a_file_that_does_not_act_as_the_player_does_not_appear(
    box: exported.Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(model: Any, metadata: str) -> None:
        bias = next(one for one in model.graph.initializer if one.name.endswith("bias"))
        bias.raw_data = (np.frombuffer(bias.raw_data, np.float32) + np.float32(0.1)).tobytes()

    monkeypatch.setattr(formats, "_tidy", spoil)
    (tmp_path / "old.onnx").write_text("mine")
    with pytest.raises(MismatchError, match="action: .* numbers differ by more than"):
        export(box.snap, tmp_path / "old.onnx", force=True, **box.arguments)
    assert os.listdir(tmp_path) == ["old.onnx"]
    assert (tmp_path / "old.onnx").read_text() == "mine"


def test_wrong_arguments_are_refused_before_anything_is_built(
    box: exported.Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidInputError, match=r"ends with \.onnx, or with \.pt2"):
        export(box.snap, tmp_path / "main.pt", **box.arguments)
    with pytest.raises(InvalidInputError, match='contents is "player" or "network"'):
        export(box.snap, tmp_path / "main.pt2", contents="actor", **box.arguments)  # type: ignore[arg-type]
    with pytest.raises(
        InvalidInputError, match='env_spaces=.* has no meaning for contents="network"'
    ):
        export(box.snap, tmp_path / "main.pt2", contents="network", **box.arguments)
    with pytest.raises(InvalidInputError, match="does not know the environment's spaces"):
        export(box.snap, tmp_path / "main.pt2")
    with pytest.raises(InvalidInputError, match="module_id='a'"):
        export(box.snap, tmp_path / "main.pt2", contents="network", module_id="a")
    with pytest.raises(InvalidInputError, match="soccer/main"):
        export("soccer/main", tmp_path / "main.pt2")  # type: ignore[arg-type]
    plain = box.snap.replace(spec=box.snap.spec.replace(stack="torch"))
    with pytest.raises(InvalidInputError, match="no policy of RLlib"):
        export(plain, tmp_path / "main.pt2")
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        MissingPackageError,
        match=r"main.onnx: an ONNX file, unlike a .pt2 file, needs the packages onnx and onnxscript "
        r"and onnxruntime, .*policystore\[export\]",
    ):
        export(box.snap, tmp_path / "main.onnx", **box.arguments)
    assert os.listdir(tmp_path) == []


@pytest.mark.long
@pytest.mark.parametrize("suffix", ["pt2", "onnx"])
def test_an_export_is_quiet_and_changes_no_setting_of_the_process(
    suffix: str, box: exported.Cell, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    loggers = [logging.getLogger(name) for name in ("", "torch.onnx", "onnxscript")]

    def settings() -> Any:
        return (
            [(one.level, list(one.handlers), list(one.filters), one.disabled) for one in loggers],
            warnings.filters[:],
            torch.get_num_threads(),
            torch.is_grad_enabled(),
            np.random.get_state()[1].tolist(),  # type: ignore[index]
            torch.random.get_rng_state().tolist(),
        )

    before = settings()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inside = warnings.filters[:]
        export(box.snap, tmp_path / f"main.{suffix}", **box.arguments)
        assert warnings.filters[:] == inside
    assert settings() == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.long
def test_a_killed_export_leaves_no_file_of_that_name(tmp_path: Path) -> None:
    program = (
        "import sys; from tests.support import exported; from policystore.rllib import export\n"
        "cell = exported.cell('new:module-box'); print('ready', flush=True)\n"
        "while True: export(cell.snap, sys.argv[1], force=True, **cell.arguments)\n"
    )
    file = tmp_path / "main.pt2"
    for delay in (0.1, 0.35, 0.6):
        with subprocess.Popen(
            [sys.executable, "-c", program, str(file)], stdout=subprocess.PIPE, text=True,
            stderr=subprocess.DEVNULL,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            while process.stdout.readline() != "ready\n":
                assert process.poll() is None
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            process.wait()
        if file.exists():
            assert metadata_of(file).contents == "player"


def test_metadata_says_what_the_tensors_are(tmp_path: Path) -> None:
    cell = exported.cell("new:flatten")
    metadata = export(cell.snap, tmp_path / "main.pt2")
    assert [(one.name, one.dtype, one.shape) for one in metadata.inputs] == [
        ("obs/angle", "float32", ()),
        ("obs/kind", "int64", ()),
        ("obs/parts/0", "int64", (2,)),
        ("obs/parts/1", "int8", (3,)),
        ("obs/parts/2", "uint8", (2,)),
        ("obs/pose", "float64", (2, 2)),
    ]
    assert [(one.name, one.meaning) for one in metadata.outputs] == [("action", "Discrete(3)")]
    assert json.loads(metadata.to_json())["digest"] == str(cell.snap.digest)
    assert (metadata.stack, metadata.algorithm) == ("new", cell.snap.spec.algorithm)


def test_tolerances_are_those_of_the_page() -> None:
    page = (Path(api.__file__).parents[3] / "docs" / "export.md").read_text()
    assert f"{checking.TOLERANCE:.0e}".replace("e-0", "e-") in page
    assert f"opset {formats.OPSET}" in page


def test_cells_that_no_test_exports_are_listed() -> None:
    assert {*REFUSED, *UNTRACED, *PLAYED} == set(exported.NAMES)
