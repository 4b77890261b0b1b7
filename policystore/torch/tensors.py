"""Copy tensors of torch modules to numpy arrays and back, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.nn.parallel import DataParallel, DistributedDataParallel

from policystore.errors import InvalidInputError, MismatchError
from policystore.format.arrays import DTYPES, Array, Weights, dtype_code

__all__ = [
    "check_fit",
    "load_arrays",
    "plain_names",
    "state_arrays",
    "to_numpy",
    "to_tensor",
    "unwrapped",
]

_TORCH_TO_CODE: dict[torch.dtype, str] = {
    torch.bool: "BOOL",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int16: "I16",
    torch.uint16: "U16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.uint32: "U32",
    torch.float32: "F32",
    torch.int64: "I64",
    torch.uint64: "U64",
    torch.float64: "F64",
}
_CODE_TO_TORCH = {code: dtype for dtype, code in _TORCH_TO_CODE.items()}
# Item size -> integer dtypes of torch and numpy. A view as these dtypes carries the bytes of any
# dtype unchanged from torch to numpy and back.
_CARRIER = {1: (torch.uint8, np.uint8), 2: (torch.int16, np.int16), 4: (torch.int32, np.int32),
            8: (torch.int64, np.int64)}  # fmt: skip


def unwrapped(module: torch.nn.Module) -> torch.nn.Module:
    """Return the module inside ``torch.compile`` and (Distributed)DataParallel wrappers."""
    while True:
        inner = module._modules.get(_inner_attribute(module) or "")
        if inner is None:
            return module
        module = inner


def _inner_attribute(module: torch.nn.Module) -> str | None:
    # torch/_dynamo/eval_frame.py: OptimizedModule keeps the original module as _orig_mod. The class
    # is found by its name, because the import of torch._dynamo takes seconds.
    if type(module).__name__ == "OptimizedModule" and "_orig_mod" in module._modules:
        return "_orig_mod"
    if isinstance(module, (DataParallel, DistributedDataParallel)):
        return "module"
    return None


def plain_names(
    module: torch.nn.Module, entries: Mapping[str, object] | None = None
) -> dict[str, str]:
    """Map each name in ``state_dict()`` to the name without the prefixes of wrappers, in order.

    Args:
        module: the module.
        entries: the ``state_dict()`` of the module, if the caller has just made it.

    Raises:
        InvalidInputError: two tensors would have the same name.
    """
    wrappers: set[str] = set()
    for path, child in module.named_modules(remove_duplicate=False):
        inner = _inner_attribute(child)
        if inner is not None:
            wrappers.add(f"{path}.{inner}" if path else inner)
    names: dict[str, str] = {}
    if entries is None:
        entries = module.state_dict()
    if not wrappers:
        return {name: name for name in entries}
    for name in entries:
        parts = name.split(".")
        kept = [
            part for index, part in enumerate(parts) if ".".join(parts[: index + 1]) not in wrappers
        ]
        names[name] = ".".join(kept)
    if len(set(names.values())) != len(names):
        raise InvalidInputError(
            f"{type(module).__name__}: without the prefixes of the torch.compile and "
            "DistributedDataParallel wrappers, two tensors have the same name; take a snapshot of "
            "the inner module"
        )
    return names


def state_arrays(module: torch.nn.Module) -> dict[str, Array]:
    """Copy all parameters and persistent buffers of a module; see :func:`plain_names`.

    Raises:
        InvalidInputError: a tensor that cannot be stored; the message names it.
    """
    entries = module.state_dict()
    return {
        plain: to_numpy(entries[name], f"{type(module).__name__}: {plain!r}")
        for name, plain in plain_names(module, entries).items()
    }


def to_numpy(tensor: object, label: str) -> Array:
    """Copy a tensor to a numpy array, bit for bit; bf16 and float8 tensors work, too.

    Args:
        tensor: a dense tensor on any device.
        label: how messages name the tensor.

    Raises:
        InvalidInputError: not a strided tensor of a dtype that can be stored.
    """
    tensor, dtype = _storable(tensor, label)
    copied = tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
    return _viewed(copied, dtype)


def _viewed(tensor: torch.Tensor, dtype: np.dtype[Any]) -> Array:
    """Return an array that shares the memory of a contiguous CPU tensor."""
    if tensor.dtype is torch.bool:
        return tensor.numpy()
    return tensor.view(_CARRIER[dtype.itemsize][0]).numpy().view(dtype)


def _storable(tensor: object, label: str) -> tuple[torch.Tensor, np.dtype[Any]]:
    """Return a tensor, and the dtype of the array that :func:`to_numpy` makes; errors as there."""
    if not isinstance(tensor, torch.Tensor):
        raise InvalidInputError(
            f"{label}: expected a tensor, found {type(tensor).__qualname__}. Extra state of "
            "modules is not stored; put it into a buffer."
        )
    if torch.nn.parameter.is_lazy(tensor):
        raise InvalidInputError(
            f"{label} has no shape yet: run a lazy module once before you take a snapshot of it or "
            "load weights into it"
        )
    code = _TORCH_TO_CODE.get(tensor.dtype)
    if code is None or tensor.layout != torch.strided or tensor.is_meta:
        raise InvalidInputError(
            f"{label}: a {tensor.layout} tensor of {tensor.dtype} on {tensor.device} cannot be "
            "stored. Storable are dense tensors of " + ", ".join(str(d) for d in _TORCH_TO_CODE)
        )
    return tensor, DTYPES[code]


def to_tensor(array: Array) -> torch.Tensor:
    """Copy an array to a new CPU tensor, bit for bit; the inverse of :func:`to_numpy`."""
    dtype = _CODE_TO_TORCH[dtype_code(array.dtype, "array")]
    if dtype is torch.bool:
        return torch.from_numpy(np.array(array, order="C"))
    carrier = _CARRIER[array.dtype.itemsize][1]
    return torch.from_numpy(np.array(array.view(carrier), order="C")).view(dtype)


def check_fit(weights: Weights, target: Weights, label: str) -> None:
    """Check that weights have the names, shapes and dtypes of a target; values do not matter.

    Args:
        weights: the weights to load.
        target: the present weights of the target, or arrays of the same shapes and dtypes.
        label: the start of the message.

    Raises:
        MismatchError: the weights do not fit. The error lists every difference.
    """
    wrong = {}
    for name in weights.keys() & target.keys():
        have, need = weights[name], target[name]
        if have.shape != need.shape or have.dtype != need.dtype:
            wrong[name] = (
                f"the target needs {need.dtype}{list(need.shape)}, "
                f"the snapshot has {have.dtype}{list(have.shape)}"
            )
    missing = target.keys() - weights.keys()
    unexpected = weights.keys() - target.keys()
    if missing or unexpected or wrong:
        raise MismatchError(
            f"{label}: the weights do not fit; nothing was loaded.",
            missing=missing,
            unexpected=unexpected,
            wrong=wrong,
        )


def load_arrays(
    module: torch.nn.Module,
    weights: Weights,
    label: str,
    *,
    is_new: bool = False,
    entries: Mapping[str, object] | None = None,
) -> None:
    """Check that weights fit a module, load them, and check that the module holds them.

    Args:
        module: the module to load into.
        weights: the weights, by the names of :func:`plain_names`.
        label: how messages name the load.
        is_new: whether the caller has just built the module, and drops it after an error.
        entries: the ``state_dict()`` of the module, if the caller has just made it.

    Raises:
        MismatchError: the weights do not fit, or the module changed them while it loaded them. The
            module has its old weights, unless it is new.
    """
    if entries is None:
        entries = module.state_dict()
    names = plain_names(module, entries)
    before = _shapes_of(module, entries, names) if is_new else state_arrays(module)
    check_fit(weights, before, label)
    module.load_state_dict({name: to_tensor(weights[plain]) for name, plain in names.items()})
    loaded = module.state_dict()
    loaded_names = names if loaded.keys() == names.keys() else plain_names(module, loaded)
    changed = {
        plain: "the module held other values after loading"
        for name, plain in loaded_names.items()
        if not _holds(loaded[name], weights[plain], f"{type(module).__name__}: {plain!r}")
    }
    if not changed:
        return
    if not is_new:
        module.load_state_dict({name: to_tensor(before[plain]) for name, plain in names.items()})
    raise MismatchError(
        f"{label}: the module changed the weights while it loaded them. "
        + ("" if is_new else "It has its old weights again. ")
        + "Tied parameters may have different values in the snapshot, or a hook of the module "
        "changes the weights.",
        wrong=changed,
    )


def _shapes_of(
    module: torch.nn.Module, entries: Mapping[str, object], names: Mapping[str, str]
) -> dict[str, Array]:
    """Return an array of the shape and dtype of each tensor, which takes no memory."""
    shapes = {}
    for name, plain in names.items():
        tensor, dtype = _storable(entries[name], f"{type(module).__name__}: {plain!r}")
        shapes[plain] = np.broadcast_to(np.zeros((), dtype), tuple(tensor.shape))
    return shapes


def _holds(tensor: object, array: Array, label: str) -> bool:
    """Return whether a tensor has the bits of an array of its shape and dtype.

    Raises:
        InvalidInputError: as :func:`to_numpy`.
    """
    tensor, dtype = _storable(tensor, label)
    plain = tensor.detach()
    if plain.device.type != "cpu" or not plain.is_contiguous() or plain.is_conj() or plain.is_neg():
        return to_numpy(tensor, label).tobytes() == array.tobytes()
    held = _viewed(plain, dtype)
    if held.shape != array.shape or held.dtype != array.dtype:
        return False
    carrier = _CARRIER[dtype.itemsize][1]
    return np.array_equal(held.view(carrier), array.view(carrier))
