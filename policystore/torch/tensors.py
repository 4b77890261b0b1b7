"""Copy tensors of torch modules to numpy arrays and back, bit for bit."""

from __future__ import annotations

import numpy as np

try:
    import torch
except ImportError as error:
    raise ImportError(f"policystore.torch needs torch: pip install torch ({error})") from error
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
# Same-sized integers through which the bytes of any dtype pass unchanged.
_CARRIER = {1: (torch.uint8, np.uint8), 2: (torch.int16, np.int16), 4: (torch.int32, np.int32),
            8: (torch.int64, np.int64)}  # fmt: skip


def unwrapped(module: torch.nn.Module) -> torch.nn.Module:
    """The module inside ``torch.compile`` and (Distributed)DataParallel wrappers."""
    while True:
        inner = module._modules.get(_inner_attribute(module) or "")
        if inner is None:
            return module
        module = inner


def _inner_attribute(module: torch.nn.Module) -> str | None:
    # torch/_dynamo/eval_frame.py: OptimizedModule keeps the original as _orig_mod; importing
    # torch._dynamo only to name the class would take seconds.
    if type(module).__name__ == "OptimizedModule" and "_orig_mod" in module._modules:
        return "_orig_mod"
    if isinstance(module, (DataParallel, DistributedDataParallel)):
        return "module"
    return None


def plain_names(module: torch.nn.Module) -> dict[str, str]:
    """Name in ``state_dict()`` -> name without the prefixes of wrappers, in the former's order."""
    dropped: set[str] = set()
    for path, child in module.named_modules(remove_duplicate=False):
        inner = _inner_attribute(child)
        if inner is not None:
            dropped.add(f"{path}.{inner}" if path else inner)
    found: dict[str, str] = {}
    for name in module.state_dict():
        parts = name.split(".")
        kept = [
            part for index, part in enumerate(parts) if ".".join(parts[: index + 1]) not in dropped
        ]
        found[name] = ".".join(kept)
    if len(set(found.values())) != len(found):
        raise InvalidInputError(
            f"{type(module).__name__}: two tensors have the same name once the prefixes of "
            "compile and DistributedDataParallel wrappers are gone; snapshot the inner module"
        )
    return found


def state_arrays(module: torch.nn.Module) -> dict[str, Array]:
    """Copies of all parameters and persistent buffers, by plain name."""
    entries = module.state_dict()
    return {
        plain: to_numpy(entries[name], f"{type(module).__name__}: {plain!r}")
        for name, plain in plain_names(module).items()
    }


def to_numpy(tensor: object, what: str) -> Array:
    """A copy of a tensor as a numpy array, bit for bit, bf16 and float8 included.

    Raises:
        InvalidInputError: not a strided tensor of a storable dtype.
    """
    if not isinstance(tensor, torch.Tensor):
        raise InvalidInputError(
            f"{what}: expected a tensor, found {type(tensor).__qualname__}. Extra state of modules "
            "is not kept; put it into a buffer."
        )
    if torch.nn.parameter.is_lazy(tensor):
        raise InvalidInputError(
            f"{what} has no shape yet: run a lazy module once before a snapshot is taken of it, or "
            "weights are loaded into it"
        )
    code = _TORCH_TO_CODE.get(tensor.dtype)
    if code is None or tensor.layout != torch.strided or tensor.is_meta:
        raise InvalidInputError(
            f"{what}: a {tensor.layout} tensor of {tensor.dtype} on {tensor.device} cannot be "
            "stored. Storable are dense tensors of " + ", ".join(str(d) for d in _TORCH_TO_CODE)
        )
    dtype = DTYPES[code]
    copied = tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
    if tensor.dtype is torch.bool:
        return copied.numpy()
    carrier = _CARRIER[dtype.itemsize][0]
    return copied.view(carrier).numpy().view(dtype)


def to_tensor(array: Array) -> torch.Tensor:
    """A new CPU tensor with the array's bits; the inverse of :func:`to_numpy`."""
    dtype = _CODE_TO_TORCH[dtype_code(array.dtype, "array")]
    if dtype is torch.bool:
        return torch.from_numpy(np.array(array, order="C"))
    carrier = _CARRIER[array.dtype.itemsize][1]
    return torch.from_numpy(np.array(array.view(carrier), order="C")).view(dtype)


def check_fit(weights: Weights, target: Weights, what: str) -> None:
    """Compare names, shapes and dtypes; values do not matter.

    Args:
        weights: what would be loaded.
        target: what the policy has now, as arrays of the shape and dtype it needs.
        what: how the message starts.

    Raises:
        MismatchError: lists every difference.
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
            f"{what}: the weights do not fit; nothing was loaded.",
            missing=missing,
            unexpected=unexpected,
            wrong=wrong,
        )


def load_arrays(module: torch.nn.Module, weights: Weights, what: str) -> None:
    """Check that weights fit a module, load them strictly, and see that they arrived.

    Raises:
        MismatchError: they do not fit, or the module changes what it loads. It holds what it held.
    """
    before = state_arrays(module)
    check_fit(weights, before, what)
    names = plain_names(module)
    module.load_state_dict({name: to_tensor(weights[plain]) for name, plain in names.items()})
    changed = {
        name: "the module held other values after loading"
        for name, array in state_arrays(module).items()
        if array.tobytes() != weights[name].tobytes()
    }
    if changed:
        module.load_state_dict({name: to_tensor(before[plain]) for name, plain in names.items()})
        raise MismatchError(
            f"{what}: the module did not take what was given, and has its old weights again. Tied "
            "parameters with different values in the snapshot, or a hook that changes what is "
            "loaded.",
            wrong=changed,
        )
