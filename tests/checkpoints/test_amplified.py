"""Small files that mean a great deal: what is there once and meant many times, at each place."""

from __future__ import annotations

import base64
import io
import pickle
import resource
import signal
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policystore import FormatError, PolicyStoreError
from policystore.checkpoints import read_checkpoint
from policystore.checkpoints.files.graph_limits import limit_graph
from policystore.checkpoints.files.pickle_reader import read_pickle
from policystore.checkpoints.files.placeholders import UnbuiltObject
from tests.support.checkpoint_corpus import Given

GOOD = {"weights": {"w": np.zeros(2, np.float32)}}


@pytest.fixture(autouse=True)
def _never_for_ever() -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.alarm(90)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def text_of(array: Any) -> str:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return base64.b64encode(zlib.compress(buffer.getvalue(), 9)).decode()


def policy(**parts: Any) -> dict[str, Any]:
    spec: dict[str, Any] = {"policy_class": "PPOTorchPolicy", "config": {"model": {}}}
    spec |= {key: parts.pop(key) for key in list(parts) if key in ("config", "observation_space")}
    return {**GOOD, "policy_spec": spec, **parts}


def doubled(value: Any, levels: int) -> Any:
    for _ in range(levels):
        value = [value, value]
    return value


def graph(levels: int) -> Any:
    space: Any = {"space": "discrete", "n": 2}
    for _ in range(levels):
        space = {"space": "tuple", "spaces": [space, space]}
    return {"space": space}


def nested(levels: int) -> Any:
    space: Any = {"space": "discrete", "n": 2}
    for _ in range(levels):
        space = {"space": "tuple", "spaces": [space]}
    return {"space": space}


def filtered(count: int, mean: Any) -> Any:
    stat = {"num_pushes": 1, "mean_array": mean, "std_array": mean}
    stats = [stat] * count
    state = {"demean": True, "destd": True, "clip": 1.0, "running_stats": stats}
    name = "MeanStdObservationFilterAgentConnector"
    agent = ("AgentConnectorPipeline", [(name, state)] * count)
    return {"agent": agent, "action": ("ActionConnectorPipeline", [])}


CASES: dict[str, Callable[[], Any]] = {
    "weights under long names": lambda: {
        "weights": {"n" * 300_000: dict.fromkeys(map(str, range(6000)), np.zeros(1))}
    },
    "config under long keys": lambda: policy(
        config={"k" * 400_000: dict.fromkeys(map(str, range(6000)), object)}
    ),
    "a text many times": lambda: policy(config={"list": ["x" * 100_000] * 20_000}),
    "bytes many times": lambda: policy(config={"list": [b"x" * 100_000] * 10_000}),
    "a list doubled": lambda: policy(config={"list": doubled([1], 60)}),
    "weights doubled": lambda: {"weights": {"a": doubled({"b": np.zeros(1)}, 60)}},
    "a space doubled": lambda: policy(observation_space=graph(40)),
    "a space very deep": lambda: policy(observation_space=nested(200)),
    "filters times statistics": lambda: policy(connector_configs=filtered(20_000, np.zeros(2))),
    "bombs as statistics": lambda: policy(
        connector_configs=filtered(199, text_of(np.zeros(1 << 22)))
    ),
    "statistics of one filter": lambda: policy(
        connector_configs={
            **filtered(1, np.zeros(2)),
            "agent": (
                "A",
                [("MeanStdObservationFilterAgentConnector",
                  {"demean": True, "destd": True, "clip": 1.0,
                   "running_stats": [{"num_pushes": 1, "mean_array": np.zeros(2),
                                      "std_array": np.zeros(2)}] * 100_000})],
            ),
        }
    ),
    "connectors of a long name": lambda: policy(
        connector_configs={
            "agent": ("A", [("c" * 500_000, None)] * 200_000),
            "action": ("A", []),
        }
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_small_files_that_mean_a_great_deal(case: str, tmp_path: Path) -> None:
    data = pickle.dumps(CASES[case]())
    assert len(data) < 1 << 20
    (tmp_path / "policy_state.pkl").write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        (snap,) = read_checkpoint(tmp_path).values()
    except PolicyStoreError as error:
        assert len(str(error)) < 3000
    else:
        assert snap.weights.keys() == {"w"}
        assert snap.spec.omitted
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB


def test_what_is_inside_of_itself_is_cut_there() -> None:
    inner: dict[str, Any] = {"a": 1, "w": np.zeros(2)}
    inner["self"] = [inner, (inner,)]
    found = limit_graph(inner, 1000)
    assert found["a"] == 1
    assert isinstance(found["self"][0], UnbuiltObject)
    assert isinstance(found["self"][1][0], UnbuiltObject)
    shared = [1, 2]
    both = limit_graph({"x": shared, "y": (shared, shared)}, 1000)
    assert both == {"x": [1, 2], "y": ([1, 2], [1, 2])}
    assert both["x"] is both["y"][0]


def test_what_is_deep_or_large_is_cut_and_the_rest_stays() -> None:
    deep: Any = 1
    for _ in range(1000):
        deep = [deep]
    found = limit_graph({"deep": deep, "large": doubled(["x"], 100), "w": "stays"}, 1000)
    assert found["w"] == "stays"
    for key in ("deep", "large"):
        inner = found[key]
        for _ in range(100):
            inner = inner[0] if isinstance(inner, list) else inner
        assert isinstance(inner, UnbuiltObject)


@pytest.mark.parametrize("code", [b"Q", b"]", b"}", b"\x8f"])
def test_one_byte_for_each_value(code: bytes) -> None:
    start = b"N" if code == b"Q" else b""
    with pytest.raises(FormatError, match="more than 500,000 containers"):
        read_pickle(start + code * 600_000 + b".", "it")


def test_tuples_of_one_hash() -> None:
    with pytest.raises(FormatError, match="10,000 tuples as keys"):
        read_pickle(pickle.dumps({(i, i + 1): None for i in range(20_000)}), "it")
    long = ("x" * 1000, 1)
    with pytest.raises(FormatError, match="long text"):
        read_pickle(pickle.dumps({long: 1}), "it")


def test_two_weights_of_one_name(tmp_path: Path) -> None:
    weights = {"a/b": np.zeros(2), "a": {"b": np.ones(2)}}
    (tmp_path / "policy_state.pkl").write_bytes(pickle.dumps({"weights": weights}))
    with pytest.raises(FormatError, match="two weights of the name 'a/b'"):
        read_checkpoint(tmp_path)


def test_axes_in_another_order() -> None:
    """As numpy from 2.4 on writes them in protocol 5."""
    for array in (np.arange(24).reshape(2, 3, 4).transpose(1, 2, 0), np.zeros((2, 3), order="F")):
        found = read_pickle(pickle.dumps(array, 5), "it")
        np.testing.assert_array_equal(found, array)


def test_bits_that_say_to_negate_are_not_overlooked(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    source = Given("2.24.0", "ppo_new").path / "learner" / "module_state" / "default_policy"
    for path in source.rglob("*"):
        if path.is_file():
            there = tmp_path / path.relative_to(source)
            there.parent.mkdir(exist_ok=True)
            there.write_bytes(path.read_bytes())
    (state,) = tmp_path.rglob("module_state.pt")
    torch.save({"w": torch._neg_view(torch.arange(4.0))}, state)
    with pytest.raises(FormatError, match="expected weights"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "odd",
    [None, 5, "text", [], {}, {1: 1}, {"class": 1}, np.zeros(0), np.zeros(3), np.float32(1), b"x",
     (1, 2), {"ctor_args_and_kwargs": 3, "class": 4}, {"ctor_args_and_kwargs": (1, 2), "class": 4},
     {b"a": 1}, {"config": {b"a": None, "b": {b"c": 1}}}],
    ids=lambda odd: repr(odd)[:30],
)  # fmt: skip
def test_odd_data_in_the_place_of_any_file(odd: Any, tmp_path: Path) -> None:
    import shutil

    for number, one in enumerate(
        (Given("2.60.0", "ppo_old"), Given("2.60.0", "ppo_new"), Given("2.10.0", "ppo_new"))
    ):
        there = tmp_path / str(number)
        shutil.copytree(one.path, there)
        for path in sorted(there.rglob("*.pkl")):
            data = path.read_bytes()
            state = read_pickle(data, "it")
            keys = (
                list(state) if isinstance(state, dict) and path.name == "policy_state.pkl" else []
            )
            for changed in (odd, *({**GOOD, key: odd} for key in keys)):
                path.write_bytes(pickle.dumps(changed))
                try:
                    read_checkpoint(there)
                except PolicyStoreError as error:
                    assert str(there) in str(error) or "it" in str(error)
            path.write_bytes(data)
