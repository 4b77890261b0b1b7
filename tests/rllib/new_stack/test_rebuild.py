"""Rebuilding modules of the new stack: what fits, what is trusted, what a hostile store can do."""

from __future__ import annotations

import base64
import pickle
import queue
import subprocess
import sys
import textwrap
import threading
import types
import zlib
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from ray.rllib.connectors.env_to_module import MeanStdFilter
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

import tests.support.new_stack_matrix as cells
import tests.support.new_stack_modules as parts
from policystore.errors import (
    FormatError,
    InvalidInputError,
    MismatchError,
    NotFoundError,
    UntrustedError,
)
from policystore.format.values import Tagged
from policystore.rllib.new_stack.connector_state import put_state, take_state
from policystore.rllib.new_stack.rebuild import rebuild_module
from policystore.rllib.new_stack.snapshot import snapshot_module
from policystore.rllib.worker_code.messages.wire import BusyError
from policystore.rllib.worker_code.read_modules import read_learner
from policystore.rllib.workers.by_value import ship
from policystore.rllib_schema import packed_arrays
from policystore.rllib_schema.packed_arrays import unpack_array
from policystore.snapshot import Snapshot


@pytest.fixture(scope="module")
def plain() -> Snapshot:
    return snapshot_module(cells.MODULES["module-discrete-separate"]().build())


@pytest.fixture(scope="module")
def own() -> Snapshot:
    return snapshot_module(cells.MODULES["module-own"]().build())


def with_config(snap: Snapshot, **changes: Any) -> Snapshot:
    return snap.replace(spec=snap.spec.replace(config={**snap.spec.config, **changes}))


def with_model_config(snap: Snapshot, **changes: Any) -> Snapshot:
    return with_config(snap, model_config={**snap.spec.config["model_config"], **changes})


def test_a_module_is_read_once_before_its_weights_are_loaded_and_once_after(
    plain: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[object] = []
    state_dict = torch.nn.Module.state_dict

    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not kwargs.get("prefix"):  # the module itself, and no part of it
            read.append(self)
        return state_dict(self, *args, **kwargs)

    monkeypatch.setattr(torch.nn.Module, "state_dict", noted)
    module = rebuild_module(plain)
    assert [each is module for each in read] == [True, True]


def test_misfit_lists_every_difference_and_loads_nothing(plain: Snapshot) -> None:
    weights = dict(plain.weights)
    names = sorted(weights)
    del weights[names[0]]
    weights[names[1]] = weights[names[1]].astype(np.float64)
    weights[names[2]] = np.zeros((3, 3), np.float32)
    weights["more.weight"] = np.zeros(2, np.float32)
    spec = plain.spec.replace(acting=None)
    with pytest.raises(MismatchError) as caught:
        rebuild_module(Snapshot(weights=weights, spec=spec))
    assert caught.value.missing == (names[0],)
    assert caught.value.unexpected == ("more.weight",)
    assert set(caught.value.wrong) == {names[1], names[2]}
    assert "float64" in caught.value.wrong[names[1]]


def test_config_that_makes_another_network_does_not_fit(plain: Snapshot) -> None:
    with pytest.raises(MismatchError):
        rebuild_module(with_model_config(plain, fcnet_hiddens=[16, 8]))


def test_class_needs_trust(own: Snapshot) -> None:
    with pytest.raises(UntrustedError, match=r"new_stack_modules:Head.*trust="):
        rebuild_module(own)
    for trust in (["tests.support.new_stack_modules."], [parts.Head]):
        assert type(rebuild_module(own, trust=trust)) is parts.Head


@pytest.mark.parametrize(
    ("cls", "error"),
    [
        ("os:system", UntrustedError),
        ("ray.rllib.utils.from_config:from_config", FormatError),
        ("ray.rllib.policy.policy:Policy", FormatError),
        ("ray.rllib.examples.rl_modules.classes.modelv2_to_rlm:ModelV2ToRLModule", UntrustedError),
        ("ray.rllib.examples.rl_modules.classes.mobilenet_rlm:MobileNetV2EncoderConfig",
         UntrustedError),
        ("ray.rllib.algorithms.ppo.torch:Nothing", NotFoundError),
        ("nonsense", InvalidInputError),
    ],
)  # fmt: skip
def test_what_is_no_module_is_refused(plain: Snapshot, cls: str, error: type) -> None:
    with pytest.raises(error):
        rebuild_module(plain.replace(spec=plain.spec.replace(cls=cls)))


@pytest.mark.parametrize(
    "path",
    [
        "ray.rllib.utils.from_config:from_config",
        "ray.rllib.policy.policy:Policy.from_checkpoint",
        "ray.rllib.examples.rl_modules.classes.modelv2_to_rlm:ModelV2ToRLModule",
        "torch.nn.init:math.os.system",
        "torch:load",
        "builtins:eval",
    ],
)
def test_config_names_no_function_that_would_be_called(plain: Snapshot, path: str) -> None:
    hostile = with_model_config(plain, fcnet_kernel_initializer=Tagged("import", path))
    with pytest.raises(UntrustedError):
        rebuild_module(hostile)


def test_catalog_must_be_one(plain: Snapshot) -> None:
    with pytest.raises(FormatError, match="no subclass"):
        rebuild_module(
            with_config(plain, catalog_class=Tagged("import", "ray.rllib.policy.policy:Policy"))
        )
    with pytest.raises(FormatError, match="expected a class"):
        rebuild_module(with_config(plain, catalog_class="text"))


def test_class_that_refuses_its_config_is_named(own: Snapshot) -> None:
    lost = own.spec.replace(config={"model_config": {}}, omitted={"config.model_config.width": ""})
    with pytest.raises(InvalidInputError, match=r"Head cannot be built.*KeyError.*width.*left out"):
        rebuild_module(own.replace(spec=lost), trust=cells.TRUST)


def test_other_stack_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="no RLModule of the new API stack"):
        rebuild_module(Snapshot(weights={"a": np.zeros(1)}))


def test_dataclass_config_stays_one_where_the_module_was_given_one() -> None:
    module = cells.MODULES["module-dataclass-config"]()
    direct = module.module_class(
        observation_space=module.observation_space,
        action_space=module.action_space,
        model_config=DefaultModelConfig(fcnet_hiddens=[7]),
        catalog_class=module.catalog_class,
    )
    rebuilt = rebuild_module(snapshot_module(direct))
    assert rebuilt.model_config == DefaultModelConfig(fcnet_hiddens=[7])
    snap = snapshot_module(direct)
    config = snap.spec.config["model_config"]
    config["fields"]["of_the_future"] = 1
    with pytest.raises(MismatchError, match=r"DefaultModelConfig.*of_the_future"):
        rebuild_module(with_config(snap, model_config=config))


def test_config_is_full_whatever_was_written_down() -> None:
    """Two ways of saying the same network are one spec."""
    short = cells._ppo_module(cells.THREE, model_config={"fcnet_hiddens": [16]})
    long = cells._ppo_module(cells.THREE, model_config=DefaultModelConfig(fcnet_hiddens=[16]))
    assert snapshot_module(short.build()).spec == snapshot_module(long.build()).spec


def test_values_of_configs_come_back() -> None:
    values = {
        "none": None,
        "pair": (1, 2.5),
        "inf": float("inf"),
        "array": np.arange(3, dtype=np.int16),
        "space": gym.spaces.Discrete(4, start=2),
        "dtype": torch.bfloat16,
        "layer": torch.nn.ReLU,
        "fill": torch.nn.init.zeros_,
        "nested": {"x": [True, {"y": b"z"}]},
        3: "three",
    }
    module = RLModuleSpec(
        module_class=parts.Head,
        observation_space=cells.VECTOR,
        action_space=cells.THREE,
        model_config={"width": 2, **values},
    ).build()
    config = rebuild_module(snapshot_module(module), trust=cells.TRUST).model_config
    np.testing.assert_array_equal(config.pop("array"), values.pop("array"))
    assert config == {"width": 2, **values}


def test_numbers_of_numpy_are_kept_as_those_of_python() -> None:
    """Also float64, which is a float to Python."""
    spec = cells._own(parts.Head, rate=np.float64(0.5), count=np.int64(3), on=np.bool_(True))
    snap = snapshot_module(spec.build())
    assert not snap.spec.omitted
    found = snap.spec.config["model_config"]
    kept = {key: (type(found[key]), found[key]) for key in ("rate", "count", "on")}
    assert kept == {"rate": (float, 0.5), "count": (int, 3), "on": (bool, True)}


def test_rebuilt_module_owns_its_weights(plain: Snapshot) -> None:
    digest, module = plain.digest, rebuild_module(plain)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1.0)
    assert snapshot_module(module).weights_digest != plain.weights_digest
    assert Snapshot(weights=plain.weights, spec=plain.spec).digest == digest


def test_tied_weights_stay_tied() -> None:
    module = rebuild_module(
        snapshot_module(cells.MODULES["module-tied"]().build()), trust=cells.TRUST
    )
    assert module.net[1].weight is module.net[3].weight


def empty_filter() -> MeanStdFilter:
    piece = MeanStdFilter(update_stats=False)
    piece.input_action_space = cells.THREE
    piece.input_observation_space = cells.VECTOR
    piece.get_state()
    return piece


def filled_filter() -> MeanStdFilter:
    piece = empty_filter()
    for row in np.arange(12.0).reshape(3, 4):
        piece._filters[None](row)
    return piece


def test_filter_state_round_trip_applies_the_same() -> None:
    source = filled_filter()
    target = empty_filter()
    put_state(target, "MeanStdFilter", take_state(source, "MeanStdFilter", None))
    row = np.array([1.0, -2.0, 3.0, 0.5])
    np.testing.assert_array_equal(
        target._filters[None](row, update=False), source._filters[None](row, update=False)
    )
    # What came from a snapshot is not merged again as if it were new.
    assert target._filters[None].running_stats.num_pushes_delta == 0


def test_packed_statistics_have_one_limit_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    piece = filled_filter()
    monkeypatch.setattr(packed_arrays, "MAX_PACKED_BYTES", 100)
    with pytest.raises(FormatError, match="filter statistics: an array of more than 100 bytes"):
        take_state(piece, "MeanStdFilter", None)


class Marker:
    """Unpickling this leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("place", ["mean", "sum_sq_diff"])
def test_no_string_of_a_snapshot_reaches_rllibs_decoder(tmp_path: Path, place: str) -> None:
    trap = tmp_path / "ran"
    text = base64.b64encode(zlib.compress(pickle.dumps(Marker(trap)))).decode()
    with pytest.raises(FormatError):
        unpack_array(text, "it")
    state = take_state(filled_filter(), "MeanStdFilter", None)
    state[None]["running_stats"][0][place] = text
    with pytest.raises(FormatError, match="not filter statistics"):
        put_state(filled_filter(), "MeanStdFilter", state)
    for hostile in ({"a": [text]}, {"a": text.encode()}, {text: 1}):
        with pytest.raises(FormatError):
            put_state(parts.Counting(), "Counting", hostile)
    assert not trap.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"num_pushes": -1},
        {"num_pushes": 1.5},
        {"mean": np.zeros(4, np.float32)},
        {"mean": np.zeros((2, 2))},
        {"mean": [0.0] * 4},
    ],
)
def test_malformed_filter_statistics(change: dict[str, Any]) -> None:
    state = take_state(filled_filter(), "MeanStdFilter", None)
    state[None]["running_stats"][0] |= change
    with pytest.raises(FormatError, match="not filter statistics"):
        put_state(filled_filter(), "MeanStdFilter", state)


def test_filter_statistics_of_another_shape_or_agent() -> None:
    state = take_state(filled_filter(), "MeanStdFilter", None)
    wrong = {"num_pushes": 1, "mean": np.zeros(3), "sum_sq_diff": np.zeros(3)}
    with pytest.raises(MismatchError, match=r"shapes \[\(3,\)\].*\[\(4,\)\]"):
        put_state(
            filled_filter(), "MeanStdFilter", {None: {**state[None], "running_stats": [wrong]}}
        )
    with pytest.raises(MismatchError, match="agents"):
        put_state(filled_filter(), "MeanStdFilter", {"who": state[None]})


def test_learners_need_no_policystore_to_be_read(tmp_path: Path) -> None:
    """Ray sends the code that reads a learner along; another process runs it without us."""
    from ray import cloudpickle

    (tmp_path / "code").write_bytes(cloudpickle.dumps(ship(read_learner)))
    script = f"""
        import sys, types
        sys.modules["policystore"] = None
        from ray import cloudpickle
        read = cloudpickle.loads(open({str(tmp_path / "code")!r}, "rb").read())
        from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
        found = read(types.SimpleNamespace(module=MultiRLModule(rl_module_specs={{}})), None, 1.0)
        assert found.modules == {{}}, found
        print("read")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False
    )
    assert done.stdout.endswith("read\n"), done.stderr


@pytest.mark.parametrize("ends", [True, False])
def test_weights_that_change_while_they_are_read(ends: bool) -> None:
    """As IMPALA's learner thread does it: what is read is one state of the weights, or nothing."""
    module = cells.MODULES["module-own"]().build()
    multi = MultiRLModule(rl_module_specs={})
    multi.add_module("only", module)
    batches: queue.Queue[Any] = queue.Queue()
    stop = threading.Event()

    class LearnerThread(threading.Thread):
        _in_queue = batches

        def run(self) -> None:
            while self.step():
                pass

        def step(self) -> bool:
            batch = self._in_queue.get()
            if batch is None:
                return False
            self.update(batch)
            return True

        def update(self, pauses: int) -> None:
            while pauses and not stop.is_set():
                pauses -= 1
                with torch.no_grad():
                    module.out.bias.add_(1.0)
                stop.wait(0.001)

    thread = LearnerThread(daemon=True)
    thread.start()
    batches.put(50 if ends else 10**9)
    learner = types.SimpleNamespace(module=multi, _learner_thread=thread)
    if ends:
        kept = read_learner(learner, None, 5.0).modules["only"].weights["out.bias"]
        assert torch.equal(kept, module.out.bias.detach())
        assert float(kept.min()) >= 40
    else:
        with pytest.raises(BusyError):
            read_learner(learner, None, 0.2)
    stop.set()
    batches.put(None)
    thread.join()
