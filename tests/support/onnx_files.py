"""Small exported files that are made by hand, without torch: what policystore.play reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from policystore.digest import digest_of
from policystore.play.metadata import (
    KEY,
    Metadata,
    StateInfo,
    TensorInfo,
    action_tensors,
    observation_tensors,
)
from policystore.spaces import space_to_json

__all__ = ["counter", "echo", "linear", "make_metadata", "make_model", "with_metadata"]


def make_metadata(
    observation_space: gym.Space[Any],
    action_space: gym.Space[Any],
    state: Sequence[StateInfo] = (),
    **changed: Any,
) -> Metadata:
    """Return the metadata of a player for two spaces; ``changed`` replaces fields."""
    observations, actions = space_to_json(observation_space), space_to_json(action_space)
    fields: dict[str, Any] = {
        "policystore": "0.1.0",
        "contents": "player",
        "digest": digest_of(b"a snapshot"),
        "algorithm": "PPO",
        "stack": "new",
        "observation_space": observations,
        "action_space": actions,
        "inputs": observation_tensors(observations),
        "outputs": action_tensors(actions),
        "state": tuple(state),
    }
    return Metadata(**(fields | changed))


def make_model(
    metadata: Metadata, nodes: Sequence[NodeProto], constants: dict[str, Any] | None = None
) -> ModelProto:
    """Return a model whose inputs and outputs are those of its metadata."""

    def tensors(kind: str) -> list[Any]:
        infos: tuple[TensorInfo, ...] = getattr(metadata, f"{kind}s")
        named = [(one.name, one.dtype, one.shape) for one in infos]
        named += [(getattr(one, kind), one.dtype, one.shape) for one in metadata.state]
        return [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), ["batch", *shape]
            )
            for name, dtype, shape in named
        ]

    arrays = [
        numpy_helper.from_array(np.asarray(value), name)
        for name, value in (constants or {}).items()
    ]
    graph = helper.make_graph(nodes, "policy", tensors("input"), tensors("output"), arrays)
    opsets = [helper.make_opsetid("", 18)]
    return with_metadata(helper.make_model(graph, opset_imports=opsets, ir_version=10), metadata)


def with_metadata(model: ModelProto, metadata: Metadata | str | None) -> ModelProto:
    """Return a model with this text, or the JSON of these metadata, as its metadata."""
    del model.metadata_props[:]
    if metadata is not None:
        text = metadata if isinstance(metadata, str) else metadata.to_json()
        helper.set_model_props(model, {KEY: text})
    return model


def linear(
    size: int = 4,
    actions: int = 3,
    *,
    seed: int = 0,
    build: Callable[..., Metadata] = make_metadata,
) -> tuple[ModelProto, Any]:
    """Return a policy that takes the greatest of ``actions`` linear functions of a Box.

    The second result gives the expected actions for an array of observations.
    """
    random = np.random.default_rng(seed)
    weight = random.normal(size=(size, actions)).astype(np.float32)
    bias = random.normal(size=actions).astype(np.float32)
    metadata = build(gym.spaces.Box(-1.0, 1.0, (size,), np.float32), gym.spaces.Discrete(actions))
    nodes = [
        helper.make_node("Gemm", ["obs", "weight", "bias"], ["logits"]),
        helper.make_node("ArgMax", ["logits"], ["action"], axis=1, keepdims=0),
    ]
    model = make_model(metadata, nodes, {"weight": weight, "bias": bias})
    return model, lambda obs: (np.asarray(obs, np.float32) @ weight + bias).argmax(1).tolist()


def counter(size: int = 2) -> ModelProto:
    """Return a recurrent policy whose action is the sum of the episode's observations so far.

    Its state is the sum, and the number of the step, which is the second action.
    """
    box = gym.spaces.Box(-100.0, 100.0, (size,), np.float32)
    step = gym.spaces.Box(0, 1000, (), np.int64)
    metadata = make_metadata(
        box,
        gym.spaces.Tuple([box, step]),
        [
            StateInfo("state_in/sum", "state_out/sum", "float32", (size,)),
            StateInfo("state_in/step", "state_out/step", "int64", ()),
        ],
    )
    nodes = [
        helper.make_node("Add", ["obs", "state_in/sum"], ["state_out/sum"]),
        helper.make_node("Identity", ["state_out/sum"], ["action/0"]),
        helper.make_node("Add", ["state_in/step", "one"], ["state_out/step"]),
        helper.make_node("Identity", ["state_out/step"], ["action/1"]),
    ]
    return make_model(metadata, nodes, {"one": np.int64(1)})


def echo(space: gym.Space[Any]) -> ModelProto:
    """Return a policy whose action is its observation."""
    metadata = make_metadata(space, space)
    nodes = [
        helper.make_node("Identity", [one.name], [other.name])
        for one, other in zip(metadata.inputs, metadata.outputs, strict=True)
    ]
    return make_model(metadata, nodes)
