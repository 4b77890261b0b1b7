"""Files that are damaged, of strangers or hostile are refused before anything is played."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from policystore.errors import FormatError, InvalidInputError, PolicyStoreError
from policystore.play import load_player, read_metadata
from policystore.play.metadata import StateInfo, TensorInfo
from tests.support.onnx_files import counter, linear, make_metadata, make_model, with_metadata

BOX = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)


def model_of(**changed: Any) -> onnx.ModelProto:
    return linear(build=lambda *spaces: make_metadata(*spaces, **changed))[0]


def refused(model: onnx.ModelProto | bytes, message: str) -> None:
    data = model if isinstance(model, bytes) else model.SerializeToString()
    with pytest.raises(FormatError, match=message):
        load_player(data)


@pytest.mark.parametrize(
    "data", [b"", b"not onnx", b"PK\x03\x04" + b"0" * 100, b"\x00" * 64, b"\xff" * 64]
)
def test_what_is_no_onnx_file_is_refused(data: bytes, tmp_path: Path) -> None:
    refused(data, "is not an ONNX file")
    path = tmp_path / "main.onnx"
    path.write_bytes(data)
    with pytest.raises(FormatError, match="main.onnx is not an ONNX file"):
        load_player(path)


def test_a_program_of_torch_is_refused_with_the_way_to_open_it(tmp_path: Path) -> None:
    path = tmp_path / "main.pt2"
    with zipfile.ZipFile(path, "w") as archive:  # as torch.export.save writes it
        archive.writestr("main/version", "3")
    for source in (path, path.read_bytes()):
        with pytest.raises(FormatError, match=r"zip archive.*torch\.export\.load.*\.onnx$"):
            load_player(source)


def test_a_file_that_ends_early_is_refused_wherever_it_ends() -> None:
    data = linear()[0].SerializeToString()
    for end in range(0, len(data), 7):
        with pytest.raises(FormatError, match=r"is not an ONNX file|without the metadata"):
            load_player(data[:end])


def test_a_file_of_others_is_refused() -> None:
    refused(with_metadata(linear()[0], None), "without the metadata of policystore")
    refused(with_metadata(linear()[0], "{}"), "its metadata: expected 'format': 1, found None")
    twice = linear()[0]
    twice.metadata_props.add(key="policystore", value="{}")
    refused(twice, "the same key twice")


def test_a_file_of_another_format_says_who_wrote_it() -> None:
    model = linear()[0]
    text = model.metadata_props[0].value.replace('"format":1', '"format":9')
    refused(
        with_metadata(model, text.replace("0.1.0", "7.0.0")),
        r"policystore '7\.0\.0' wrote this file in format 9, and this release reads format 1: inst",
    )


def test_a_network_is_not_played() -> None:
    outputs = (TensorInfo("action_dist_inputs", (), "float32", (3,)),)
    metadata = make_metadata(BOX, gym.spaces.Discrete(3), contents="network", outputs=outputs)
    nodes = [
        helper.make_node("Slice", ["obs", "from", "to", "axis"], ["action_dist_inputs"]),
    ]
    constants = {"from": np.array([0]), "to": np.array([3]), "axis": np.array([1])}
    data = make_model(metadata, nodes, constants).SerializeToString()
    assert read_metadata(data) == metadata
    with pytest.raises(InvalidInputError, match=r"contents='network'.*InferenceSession.*\['obs'\]"):
        load_player(data)


def test_metadata_of_another_graph_are_refused() -> None:
    other_names = with_metadata(counter(), linear()[1] and model_of().metadata_props[0].value)
    refused(
        other_names, r"contradicts its metadata: expected the inputs \['obs'\], found \['obs', 's"
    )
    wider = make_metadata(gym.spaces.Box(-1.0, 1.0, (5,), np.float32), gym.spaces.Discrete(3))
    refused(
        with_metadata(linear()[0], wider), r"input 'obs' of dtype float32 and shape \(rows, 5,\)"
    )
    double = make_metadata(gym.spaces.Box(-1.0, 1.0, (4,), np.float64), gym.spaces.Discrete(3))
    refused(with_metadata(linear()[0], double), r"input 'obs' of dtype float64 .*tensor\(float\)")
    output = replace(wider.outputs[0], dtype="int32")
    int32 = make_metadata(BOX, gym.spaces.Discrete(3), outputs=(output,))
    refused(with_metadata(linear()[0], int32), r"output 'action' of dtype int32")
    state = (StateInfo("state_in/h", "state_out/h", "float32", (2,)),)
    recurrent = make_metadata(BOX, gym.spaces.Discrete(3), state)
    refused(with_metadata(linear()[0], recurrent), r"expected the inputs \['obs', 'state_in/h'\]")


def test_a_graph_for_one_row_alone_is_refused() -> None:
    model = linear()[0]
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    refused(model, r"of shape \[1, 4\]")


def test_a_graph_that_gives_another_shape_than_it_says_is_refused() -> None:
    metadata = make_metadata(BOX, BOX)
    nodes = [helper.make_node("Concat", ["obs", "obs"], ["action"], axis=0)]
    model = make_model(metadata, nodes)
    player = load_player(model.SerializeToString())
    with pytest.raises(FormatError, match=r"contradicts its metadata: expected outputs of the sh"):
        player.act(np.zeros(4))


def test_a_graph_that_onnxruntime_refuses_is_refused() -> None:
    unknown = linear()[0]
    unknown.graph.node[0].op_type = "NoSuchOperator"
    refused(unknown, r"onnxruntime \d+\.\d+.* cannot open .*, which policystore 0\.1\.0 exported")
    foreign = linear()[0]
    foreign.graph.node[0].domain = "com.example"
    refused(foreign, "cannot open")


def test_names_that_are_no_text_are_refused_without_a_word_on_the_screen(
    capfd: pytest.CaptureFixture[str],
) -> None:
    data = linear()[0].SerializeToString()
    assert data.count(b"batch") == 2
    refused(data.replace(b"batch", b"b\xfftch"), "cannot open")
    refused(data.replace(b"Gemm", b"G\xffmm"), "cannot open")
    assert capfd.readouterr() == ("", "")


def test_a_graph_that_fails_says_so_and_the_episodes_stay() -> None:
    box = gym.spaces.Box(0, 9, (1,), np.int64)
    state = [StateInfo("state_in/n", "state_out/n", "int64", (1,))]
    metadata = make_metadata(box, box, state)
    nodes = [
        helper.make_node("Gather", ["table", "obs"], ["found"]),
        helper.make_node("Add", ["found", "state_in/n"], ["state_out/n"]),
        helper.make_node("Identity", ["state_out/n"], ["action"]),
    ]
    model = make_model(metadata, nodes, {"table": np.arange(3)})
    player = load_player(model.SerializeToString())
    assert player.act([2]).tolist() == [2]
    with pytest.raises(InvalidInputError, match="onnxruntime could not run the graph"):
        player.act([7])
    assert player.act([2]).tolist() == [4]


def external(place: str, location: str) -> onnx.ModelProto:
    """Return a policy with a tensor whose values are in another file."""
    model = linear()[0]
    tensor = TensorProto(name="bias", data_type=TensorProto.FLOAT, dims=[3])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    if place == "initializer":
        model.graph.initializer[1].CopyFrom(tensor)
    elif place == "sparse":
        del model.graph.initializer[1]
        model.graph.sparse_initializer.add(values=tensor, dims=[3])
    elif place == "attribute":
        del model.graph.initializer[1]
        model.graph.node.insert(0, helper.make_node("Constant", [], ["bias"], value=tensor))
    elif place == "function":
        constant = helper.make_node("Constant", [], ["bias"], value=tensor)
        opsets = [helper.make_opsetid("", 18)]
        model.functions.append(
            helper.make_function("own", "Bias", [], ["bias"], [constant], opsets)
        )
    else:
        graph = helper.make_graph([], "inner", [], [], [tensor])
        model.graph.node[0].attribute.add(name="body", type=onnx.AttributeProto.GRAPH, g=graph)
    return model


@pytest.mark.parametrize("place", ["initializer", "sparse", "attribute", "function", "subgraph"])
def test_a_file_that_reads_other_files_is_refused(place: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.zeros(3, np.float32).tobytes())
    for location in ("secret.bin", str(secret)):
        path = tmp_path / "main.onnx"
        path.write_bytes(external(place, location).SerializeToString())
        with pytest.raises(FormatError, match="a tensor whose values are in another file"):
            load_player(path)
        with pytest.raises(FormatError, match="a tensor whose values are in another file"):
            read_metadata(path)


def test_either_sign_of_another_file_is_enough() -> None:
    for field in ("data_location", "external_data"):
        model = external("initializer", "secret.bin")
        model.graph.initializer[1].ClearField(field)
        refused(model, "a tensor whose values are in another file")


def test_graphs_nested_without_end_are_refused() -> None:
    graph = helper.make_graph([], "innermost", [], [])
    for _ in range(9):
        node = helper.make_node("If", [], [])
        node.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH, g=graph)
        graph = helper.make_graph([node], "g", [], [])
    model = linear()[0]
    model.graph.CopyFrom(graph)
    refused(model, "nested more than 8 deep")


def mutations(count: int) -> None:
    """Change, cut and double random parts of a file: each result plays or is refused."""
    data = counter().SerializeToString()
    chance = random.Random(0)
    for _ in range(count):
        changed = bytearray(data)
        for _ in range(chance.choice([1, 1, 2, 8])):
            start = chance.randrange(len(changed))
            end = min(len(changed), start + chance.choice([1, 1, 4, 50]))
            how = chance.randrange(3)
            if how == 0:
                changed[start:end] = chance.randbytes(end - start)
            elif how == 1 and end - start < len(changed):
                del changed[start:end]
            else:
                changed[start:start] = changed[start:end]
        with contextlib.suppress(PolicyStoreError):
            load_player(bytes(changed)).act([1.0, 2.0])


def test_some_mutations_of_a_file_play_or_are_refused() -> None:
    mutations(100)


@pytest.mark.long
def test_many_mutations_of_a_file_play_or_are_refused() -> None:
    # In a process of its own: what onnxruntime does with a hostile graph must not end the tests.
    program = "from tests.play.test_bad_files import mutations; mutations(5_000)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
