"""Requests and answers, on their way to a process without policystore and back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle

from policystore.rllib.worker_code.messages.answers import (
    ANSWERS,
    PolicyDigest,
    PolicyInfo,
    WorkerDigests,
    WorkerInfo,
)
from policystore.rllib.worker_code.messages.requests import (
    REQUESTS,
    AddModuleRequest,
    LoadRequest,
    ReplayEntry,
    ReplayProgram,
    requests_of,
)
from policystore.rllib.worker_code.messages.wire import (
    BusyError,
    Message,
    RefusedError,
    from_wire,
    run,
    to_wire,
)
from policystore.rllib.worker_code.modules import add_module
from policystore.rllib.worker_code.policies import add_policy
from policystore.rllib.worker_code.policy_mapping import check_mapping
from policystore.rllib.worker_code.read_modules import read_ids
from policystore.rllib.worker_code.weights import apply_weights, describe, report_digests
from policystore.rllib.workers.by_value import ship_for_wire

LOAD = LoadRequest("token", {"main": (b"head", (("w", "float32", (2, 1)),))}, 3.0)
INFO = WorkerInfo(
    ["main"],
    7,
    True,
    False,
    {"main": PolicyInfo({"w": ("float32", (2, 1))}, ["w"], [], (None, None), True)},
)


def plain(value: Any) -> bool:
    """Whether a value is of Python's own types alone."""
    if isinstance(value, dict):
        return type(value) is dict and all(plain(each) for each in value.values())
    if isinstance(value, (list, tuple)):
        return type(value) in (list, tuple) and all(plain(each) for each in value)
    return value is None or type(value) in (str, bytes, int, float, bool)


@pytest.mark.parametrize(
    "message",
    [
        LOAD,
        AddModuleRequest("late", None, ["w"], LOAD),  # type: ignore[arg-type]
        ReplayProgram([ReplayEntry("load", ("main",), load=LOAD, generation=2)], None),
        INFO,
        WorkerDigests(3, {"main": PolicyDigest("blake3:00")}, {"a": 1}, "restarted"),
    ],
    ids=lambda message: type(message).__name__,
)
def test_messages_travel_as_plain_values(message: Message) -> None:
    wire = to_wire(message)
    assert plain(wire)
    again = from_wire(wire, {**REQUESTS, **ANSWERS})
    assert type(again) is type(message)
    assert again == message
    assert repr(again) == repr(message)


def test_other_values_stay_as_they_are() -> None:
    for value in ({"a": 1}, [1, 2], (1, 2, 3), "text", None, {3: (b"", ())}):
        assert to_wire(value) is value
        assert from_wire(value, REQUESTS) is value


def test_a_copy_with_other_values() -> None:
    changed = LOAD.replace(seq=5)
    assert (changed.seq, changed.token, LOAD.seq) == (5, "token", None)
    assert changed != LOAD


def test_which_classes_go_along_with_a_function() -> None:
    assert set(requests_of(apply_weights)) == {"LoadRequest"}
    assert set(requests_of(add_module)) == {"AddModuleRequest", "LoadRequest"}
    assert set(requests_of(add_policy)) == {"AddPolicyRequest", "PolicyRecipe", "LoadRequest"}
    assert requests_of(describe) == {}


@pytest.mark.parametrize(
    "function", [describe, report_digests, apply_weights, add_module, add_policy, check_mapping]
)
def test_calls_stay_below_what_ray_sends_inline(function: Any) -> None:
    """Of a larger argument Ray makes an object of its own (ray_config_def.h, 100 kB)."""
    assert len(cloudpickle.dumps(ship_for_wire(function))) < 100 * 1024


def refuse(worker: Any) -> None:
    raise RefusedError("no")


def stay_busy(worker: Any) -> None:
    raise BusyError("at work")


def fail(worker: Any) -> None:
    raise ValueError("odd")


def test_what_worker_functions_raise() -> None:
    assert run(lambda worker, number: worker + number, 1, [2]) == (3, "", False)  # type: ignore[arg-type]
    assert run(refuse, None, []) == (None, "no", False)
    assert run(stay_busy, None, []) == (None, "at work", True)
    assert run(fail, None, []) == (None, "ValueError: odd", False)


SCRIPT = """
import pathlib, sys, types
sys.modules["policystore"] = None  # importing it raises
from ray import cloudpickle
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
folder = pathlib.Path(sys.argv[1])
load, ids, request = cloudpickle.loads((folder / "there").read_bytes())
worker = types.SimpleNamespace(module=MultiRLModule(rl_module_specs={}))
answers = [load(worker, request, {"main": {}}), ids(worker)]
(folder / "back").write_bytes(cloudpickle.dumps(answers))
"""


def test_nodes_need_no_policystore(tmp_path: Path) -> None:
    """A request arrives, and the answer comes back as the driver's own class."""
    sent = (ship_for_wire(apply_weights), ship_for_wire(read_ids), to_wire(LOAD))
    (tmp_path / "there").write_bytes(cloudpickle.dumps(sent))
    subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], check=True)
    received = (tmp_path / "back").read_bytes()
    assert b"policystore.rllib" not in received
    load, ids = cloudpickle.loads(received)
    assert load == (None, "it has no policy 'main'", False)
    value, error, pending = ids
    answer = from_wire(value, ANSWERS)
    assert type(answer) is ANSWERS["ModuleIds"]
    assert (answer.ids, answer.plain, error, pending) == ([], True, "", False)
