"""Trace a graph by ``torch.export``, and say which part of a policy cannot be traced."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import traceback
import warnings
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch
import tree as dm_tree
from ray.rllib.core.models.torch.heads import TorchFreeLogStdMLPHead
from ray.rllib.models.modelv2 import restore_original_dimensions
from ray.rllib.models.torch.complex_input_net import ComplexInputNetwork
from ray.rllib.models.torch.misc import AppendBiasLayer
from ray.rllib.utils.torch_utils import one_hot

from policystore._util.messages import shorten
from policystore.errors import PolicyStoreError
from policystore.rllib.compat import keep_value, replace_forward
from policystore.rllib.exporting.graph import Graph
from policystore.rllib.exporting.refusal import not_exportable, path_of_type

__all__ = ["guard_part", "quiet", "trace"]

# Operators that draw random numbers in training alone; a policy acts in evaluation mode.
_DRAWING_IN_TRAINING = {
    "alpha_dropout",
    "dropout",
    "gru",
    "lstm",
    "native_dropout",
    "rnn_relu",
    "rnn_tanh",
}
_INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)
_NOISY = ("torch.onnx", "onnxscript", "torch.export", "torch.fx")
# torch imports this module in the first export, and the module then says what is not installed.
_REGISTRATION = "torch.onnx._internal.exporter._registration"
_MARKS = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node")


def trace(graph: Graph) -> torch.export.ExportedProgram:
    """Return the program of a graph for any number of rows.

    Args:
        graph: it is changed: see :func:`_untie_batch`.

    Raises:
        InvalidInputError: a part that cannot be traced, such as one that looks at values to decide
            what to compute; the message names the part and its line. Or a part that draws random
            numbers to act.
    """
    _untie_batch(graph)
    example = graph.example(2)
    batch = tuple({0: torch.export.Dim.DYNAMIC} for _ in example)
    with guard_part("torch.export cannot trace"), quiet(), torch.no_grad(), _unprinted(graph):
        program = torch.export.export(graph, example, dynamic_shapes=(batch,), strict=False)
    _refuse_random_numbers(program)
    _refuse_counts(program)
    # Traces hold lines and paths of this machine's files.
    for module in program.graph_module.modules():
        for node in getattr(getattr(module, "graph", None), "nodes", ()):
            for mark in _MARKS:
                node.meta.pop(mark, None)
    return program


def _refuse_random_numbers(program: torch.export.ExportedProgram) -> None:
    for node in program.graph.nodes:
        if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
            continue
        name = str(node.target).split(".")[1]
        if name not in _DRAWING_IN_TRAINING and "attention" not in name:
            owners = list(node.meta.get("nn_module_stack", {}).values())
            raise not_exportable(
                f"the module {owners[-1][1]}" if owners else "its network",
                f"draws random numbers to act ({node.target}), so the same observation gets "
                "different actions",
            )


def _refuse_counts(program: torch.export.ExportedProgram) -> None:
    """Refuse a program that holds for some numbers of rows only: the code looks at the number."""
    for found in program.range_constraints.values():
        if found.upper.is_Integer or found.lower > 2:  # traced with 2 rows; else infinite
            raise not_exportable(
                "its network",
                "computes something else for other numbers of rows: torch.export traced what the "
                f"network computes for {found.lower} to {found.upper} rows",
            )


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Drop what exporters log in this thread. No level and no handler is changed."""
    thread = threading.get_ident()

    def passes(record: logging.LogRecord) -> bool:
        return record.thread != thread or record.levelno >= logging.ERROR

    names = [name for name in logging.root.manager.loggerDict if name.startswith(_NOISY)]
    loggers = [logging.getLogger(name) for name in {*names, *_NOISY, _REGISTRATION}]
    for each in loggers:
        each.addFilter(passes)
    try:
        yield
    finally:
        for each in loggers:
            each.removeFilter(passes)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what exporters and traced code warn and log from the caller's terminal.

    torch's exporter ends the checks of distributions for the whole process
    (_dynamo/eval_frame.py:2742). They are put back.
    """
    distribution = torch.distributions.Distribution
    validates = distribution._validate_args
    with warnings.catch_warnings(), _hushed():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            distribution.set_default_validate_args(validates)


class _StoppedError(Exception):
    """Ends a trace in place of an error of the traced code."""


@contextlib.contextmanager
def _unprinted(graph: Graph) -> Iterator[None]:
    """Keep torch from printing a graph when its code looks at values; the error stays the same.

    torch prints to ``sys.stderr`` what it has traced so far, for each RuntimeError about data
    (fx/_symbolic_trace.py:921, export/_trace.py:1338). No other error makes it print.

    Args:
        graph: is traced inside this context.
    """
    forward = graph.forward
    failed: list[RuntimeError] = []

    def stopping(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        try:
            return forward(*tensors)
        except RuntimeError as error:
            failed.append(error)
        raise _StoppedError

    graph.forward = stopping  # type: ignore[method-assign]
    try:
        yield
    except _StoppedError:
        raise failed[0] from None
    finally:
        del graph.forward


@contextlib.contextmanager
def guard_part(failure: str) -> Iterator[None]:
    """Turn any error inside this context into InvalidInputError, and name the part it came from.

    Args:
        failure: what failed, so that the name of the part can follow, such as "torch.export cannot
            trace".
    """
    try:
        yield
    except PolicyStoreError:
        raise
    except Exception as error:
        text = next((line for line in str(error).splitlines() if line.strip()), "")
        raise not_exportable(
            f"{failure} {_part(error) or 'its network'}",
            f"({shorten(f'{type(error).__name__}: {text}', 300)})",
        ) from error


def _part(error: BaseException) -> str:
    """Return the deepest module that is not torch's own, with the line that failed."""
    found = ""
    seen: BaseException | None = error
    while seen is not None:
        for frame, line in traceback.walk_tb(seen.__traceback__):
            owner = _module_of(frame)
            if owner is not None:
                source = traceback.extract_stack(frame, limit=1)[0]
                summary = traceback.FrameSummary(source.filename, line, source.name)
                found = (
                    f"{path_of_type(owner)}.{frame.f_code.co_name}, line {line}"
                    f" ({(summary.line or '').strip()!r})"
                )
        seen = seen.__cause__ or seen.__context__
        if found:
            return found
    return found


def _module_of(frame: FrameType) -> Any:
    """Return the object whose method a frame runs, if it is a part of a policy."""
    owner = frame.f_locals.get("self")
    path = type(owner).__module__
    ours = path.startswith(("torch.", "policystore.", "ray.rllib.core.rl_module.torch."))
    if owner is None or ours or not hasattr(owner, "forward" if _is_net(owner) else "model_config"):
        return None
    return owner


def _is_net(owner: object) -> bool:
    return isinstance(owner, torch.nn.Module)


def _untie_batch(net: torch.nn.Module) -> None:
    """Replace what the layers of a network compute, where RLlib's code fixes the number of rows.

    Args:
        net: the network, which is changed.
    """
    module: Any
    for module in net.modules():
        if type(module) is AppendBiasLayer:
            module.forward = functools.partial(_append_bias, module)
        elif type(module) is TorchFreeLogStdMLPHead:
            replace_forward(module, functools.partial(_free_log_std, module))
        elif isinstance(module, ComplexInputNetwork):
            for name in ("forward", "_wrapped_forward"):
                if getattr(type(module), name, None) is ComplexInputNetwork.forward:
                    setattr(module, name, functools.partial(_complex_input, module))


def _append_bias(layer: Any, mean: torch.Tensor) -> torch.Tensor:
    """Compute an AppendBiasLayer (models/torch/misc.py:310)."""
    return _with_log_std(mean, layer.log_std)


def _free_log_std(head: Any, inputs: torch.Tensor, **_: Any) -> torch.Tensor:
    """Compute a TorchFreeLogStdMLPHead (core/models/torch/heads.py:117)."""
    log_std = head.log_std
    if head.clip_log_std:
        bound = head.log_std_clip_param_const
        log_std = torch.clamp(log_std, -bound, bound)
    return _with_log_std(head.net(inputs), log_std)


def _with_log_std(mean: torch.Tensor, log_std: torch.Tensor) -> torch.Tensor:
    return torch.cat([mean, log_std.unsqueeze(0).expand(mean.shape[0], -1)], dim=1)


def _complex_input(net: Any, input_dict: Any, state: Any, seq_lens: Any) -> Any:
    """Compute a ComplexInputNetwork (models/torch/complex_input_net.py:176).

    RLlib makes a SampleBatch for each part of the observation, which counts the rows. The nets of
    the parts take dicts as well.
    """
    if "obs" in input_dict and "obs_flat" in input_dict:
        observation = input_dict["obs"]
    else:
        observation = restore_original_dimensions(
            input_dict["obs"], net.processed_obs_space, tensorlib="torch"
        )
    outs = []
    for number, part in enumerate(dm_tree.flatten(observation)):
        index = str(number)
        if index in net.cnns:
            child = net.cnns[index]
        elif index in net.one_hot:
            child = net.one_hot[index]
            if part.dtype in _INTEGERS:
                part = one_hot(part, net.flattened_input_space[number])
        else:
            child = net.flatten[index]
            part = torch.reshape(part, [-1, net.flatten_dims[index]])
        outs.append(child({"obs": part})[0])
    out, _ = net.post_fc_stack({"obs": torch.cat(outs, dim=1)})
    if net.logits_layer is None:
        return out, []
    logits, values = net.logits_layer(out), net.value_layer(out)
    keep_value(net, torch.reshape(values, [-1]))
    return logits, []
