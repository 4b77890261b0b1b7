"""Reach the policies of a live worker, and the bits of their tensors.

Runs in actors, sent by value (``messages/wire.py``). ``messages/answers.py`` says what a *worker*
is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from policystore.rllib.worker_code.compat import is_old_worker, weights_seq

if TYPE_CHECKING:
    import numpy as np
    import torch
    from ray.rllib.core.rl_module.rl_module import RLModule
    from ray.rllib.policy.policy import Policy

    from policystore.rllib.worker_code.messages.requests import DigestPlan
    from policystore.rllib.worker_code.messages.wire import AnyWorker

__all__ = [
    "PolicyAccess",
    "TensorEntry",
    "access_to",
    "acting_names",
    "copy_network",
    "differences",
    "digest_of",
    "give_back",
    "keep_network",
    "plain_digest",
    "read_bits",
    "target_pairs_of",
    "tensors_of",
    "write_bits",
]


class TensorEntry(NamedTuple):
    """One tensor of a policy.

    Attributes:
        dtype: torch's name of it.
        shape: in elements.
        tensor: the live tensor; None for weights that are kept in another way.
        bits: a numpy array. For a tensor on the CPU, a view of its memory, for reading and writing;
            None for a tensor on another device.
    """

    dtype: str
    shape: tuple[int, ...]
    tensor: torch.Tensor | None
    bits: np.ndarray[Any, Any] | None


class PolicyAccess:
    """The policies of a worker by id, and their tensors as they are in memory.

    Made anew for each call, because other calls may replace policies in between. If
    ``policy_map_capacity`` is below the number of policies, reading one policy may move another out
    of memory (``policy/policy_map.py:107``); then nothing is cached.
    """

    def __init__(self, worker: AnyWorker) -> None:
        self.worker = worker
        self.is_old = is_old_worker(worker)
        swaps = self.is_old and worker.policy_map.capacity < len(worker.policy_map)
        self._known: dict[str, dict[str, TensorEntry]] | None = None if swaps else {}
        self._modules = None if self.is_old else _modules_of(worker)
        # RLlib keeps ids in sets, whose order changes from process to process.
        self.ids = sorted(worker.policy_map.keys() if self._modules is None else self._modules)

    def holder(self, pid: str) -> Policy | RLModule:
        """Return the policy of the old stack or module of the new one, without RLlib's wrapper."""
        if self._modules is None:
            return self.worker.policy_map[pid]
        return self._modules[pid].unwrapped()

    def network(self, pid: str) -> torch.nn.Module | None:
        """Return the torch module that holds the weights; None if they are kept in another way."""
        import torch

        holder = self.holder(pid)
        if self.is_old:
            model = getattr(holder, "model", None)
            holder = None if _has_own_weights(holder) else model
        return holder if isinstance(holder, torch.nn.Module) else None

    def entries(self, pid: str) -> dict[str, TensorEntry]:
        """Return all weights of a policy by name."""
        if self._known is not None and pid in self._known:
            return self._known[pid]
        network = self.network(pid)
        if network is None:
            entries = {name: _of_array(value) for name, value in self.own_arrays(pid).items()}
        else:
            entries = {name: _of_tensor(value) for name, value in tensors_of(network).items()}
        if self._known is not None:
            self._known[pid] = entries
        return entries

    def forget(self, pid: str) -> None:
        """Let the next call read a policy anew; needed if :meth:`entries` returned copies."""
        if self._known is not None:
            self._known.pop(pid, None)

    def own_arrays(self, pid: str) -> dict[str, np.ndarray[Any, Any]]:
        """Return the weights of a policy that has no torch model of RLlib; may be empty."""
        import numpy as np

        holder = self.holder(pid)
        try:
            # The methods of the class: load_local may have replaced those of the object.
            cls = type(holder)
            weights = cls.get_weights(holder) if self.is_old else cls.get_state(holder)
        except NotImplementedError:
            weights = {}
        return {name: np.array(value) for name, value in (weights or {}).items()}

    def write_own(self, pid: str, arrays: dict[str, np.ndarray[Any, Any]]) -> None:
        """Write weights, given as bits, into a policy that has no torch model of RLlib."""
        import numpy as np

        now = self.own_arrays(pid)
        copies = {name: np.array(bits).view(now[name].dtype) for name, bits in arrays.items()}
        holder = self.holder(pid)
        if copies and self.is_old:
            type(holder).set_weights(holder, copies)
        elif copies:
            type(holder).set_state(holder, copies)
        self.forget(pid)

    def target_pairs(self, pid: str) -> list[tuple[torch.nn.Module, torch.nn.Module]]:
        """Return pairs of a network and its target network, on a learner or an old-stack worker."""
        import torch

        holder = self.holder(pid)
        if self.is_old:
            models = list(getattr(holder, "target_models", {}).values())
            models = models or [getattr(holder, "target_model", None)]
            return [(holder.model, model) for model in models if isinstance(model, torch.nn.Module)]
        return target_pairs_of(holder)

    def is_trained(self, pid: str) -> bool:
        """Return whether training updates a policy; True if that depends on a batch."""
        try:
            if self.is_old:
                decide = self.worker.is_policy_to_train
                return decide is None or bool(decide(pid, None))
            if hasattr(self.worker, "should_module_be_updated"):
                return bool(self.worker.should_module_be_updated(pid))
            to_train = self.worker.config.policies_to_train
            if to_train is None or not callable(to_train):
                return to_train is None or pid in to_train
            return bool(to_train(pid, None))
        except Exception:
            # The user's own function, made for a batch: then the policy may well be trained.
            return True

    @property
    def seq(self) -> int | None:
        """Number of the learner's update that made the weights; None if RLlib counts no updates."""
        return weights_seq(self.worker)


def target_pairs_of(module: RLModule) -> list[tuple[torch.nn.Module, torch.nn.Module]]:
    """Return the pairs of a network and its target network that a module has."""
    if not hasattr(module, "get_target_network_pairs"):
        return []
    try:
        return list(module.get_target_network_pairs())
    except AttributeError:  # not made: only learners call make_target_networks()
        return []


def access_to(worker: AnyWorker | PolicyAccess) -> PolicyAccess:
    """Return the PolicyAccess of a worker; an argument that is one already is returned as it is."""
    return worker if isinstance(worker, PolicyAccess) else PolicyAccess(worker)


def _unwrapped(module: RLModule) -> RLModule:
    return module.unwrapped() if hasattr(module, "unwrapped") else module


def _modules_of(worker: AnyWorker) -> dict[str, RLModule]:
    """Return the modules of a learner or env runner by id.

    A single-agent runner holds its module without a MultiRLModule.
    """
    from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule

    multi = _unwrapped(worker.module)
    if isinstance(multi, MultiRLModule):
        return {mid: multi[mid] for mid in multi.keys()}  # noqa: SIM118 (it is no mapping)
    return {"default_policy": worker.module}


def _has_own_weights(policy: Policy) -> bool:
    """Return whether a policy keeps its weights in another way than RLlib's own classes."""
    from ray.rllib.policy.policy import Policy
    from ray.rllib.policy.torch_policy import TorchPolicy
    from ray.rllib.policy.torch_policy_v2 import TorchPolicyV2

    standard = (Policy.get_weights, TorchPolicy.get_weights, TorchPolicyV2.get_weights)
    return type(policy).get_weights not in standard


def tensors_of(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return live tensors by name, without the prefixes of torch.compile and DDP wrappers."""
    state = network.state_dict()
    if not any("_orig_mod." in name or "module." in name for name in state):
        return state
    dropped = _wrapper_paths(network)
    renamed = {}
    for name, value in state.items():
        parts = name.split(".")
        kept = [
            part for index, part in enumerate(parts) if ".".join(parts[: index + 1]) not in dropped
        ]
        renamed[".".join(kept)] = value
    return renamed


def _wrapper_paths(network: torch.nn.Module) -> set[str]:
    """Return the paths of the modules that wrappers hold."""
    paths = set()
    for path, child in network.named_modules(remove_duplicate=False):
        inner = "_orig_mod" if type(child).__name__ == "OptimizedModule" else None
        if any(
            base.__name__ in ("DataParallel", "DistributedDataParallel")
            for base in type(child).__mro__
        ):
            inner = "module"
        if inner is not None and inner in dict(child.named_children()):
            paths.add(f"{path}.{inner}" if path else inner)
    return paths


def acting_names(module: RLModule, names: Iterable[str]) -> list[str]:
    """Return the names of the weights that acting needs.

    RLlib chooses them in this way (``core/rl_module/torch/torch_rl_module.py:153``).
    """
    from dataclasses import is_dataclass

    from ray.rllib.core.rl_module.apis import InferenceOnlyAPI

    if not isinstance(module, InferenceOnlyAPI) or module.inference_only:
        return list(names)
    try:
        left = module.get_non_inference_attributes()
    except AttributeError:
        # RLlib's own modules can be built with a dataclass as config, but this method of theirs
        # needs a dict (algorithms/ppo/default_ppo_rl_module.py:60). Then all weights count as
        # needed.
        if not is_dataclass(module.model_config):
            raise
        return list(names)
    return [n for n in names if not any(n == a or n.startswith(a + ".") for a in left)]


# Bits -------------------------------------------------------------------------------------------


def _of_tensor(tensor: torch.Tensor) -> TensorEntry:
    bits = _as_numpy(tensor) if tensor.device.type == "cpu" else None
    return TensorEntry(str(tensor.dtype)[6:], tuple(tensor.shape), tensor, bits)


def _of_array(array: np.ndarray[Any, Any]) -> TensorEntry:
    import numpy as np

    carriers = {1: np.uint8, 2: np.int16, 4: np.int32, 8: np.int64}
    bits = array if array.dtype == np.bool_ else array.view(carriers[array.dtype.itemsize])
    return TensorEntry(array.dtype.name, array.shape, None, bits)


def _as_numpy(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """Return a CPU tensor's bits as a numpy array over the same memory."""
    import torch

    detached = tensor.detach()
    if detached.dtype is torch.bool:
        return detached.numpy()
    size = detached.element_size()
    carrier = torch.int32 if size == 4 else {1: torch.uint8, 2: torch.int16, 8: torch.int64}[size]
    return detached.view(carrier).numpy()


def read_bits(entry: TensorEntry) -> np.ndarray[Any, Any]:
    """Return a copy of the bits of a tensor."""
    import numpy as np

    if entry.bits is None and entry.tensor is not None:
        return _as_numpy(entry.tensor.detach().to("cpu"))
    return np.array(entry.bits)


def write_bits(entry: TensorEntry, new: np.ndarray[Any, Any]) -> None:
    """Write bits into a tensor, on the device where it is.

    torch counts the write, as each of its own (``Tensor._version``).
    """
    import numpy as np
    import torch

    if entry.bits is not None:
        np.copyto(entry.bits, new)
        if entry.tensor is not None and not entry.tensor.is_inference():
            torch.autograd.graph.increment_version(entry.tensor)
    elif entry.tensor is not None:
        with torch.no_grad():
            # A copy: memory of Ray's object store is read-only, which torch warns of.
            source = torch.from_numpy(np.array(new))
            is_bool = source.dtype is torch.bool
            entry.tensor.copy_(source if is_bool else source.view(entry.tensor.dtype))


def differences(
    entries: dict[str, TensorEntry], needed: Iterable[tuple[str, str, tuple[int, ...]]]
) -> str:
    """Say how tensors differ from the needed names, dtypes and shapes; empty if they do not."""
    wrong = []
    for name, dtype, shape in needed:
        entry = entries.get(name)
        if entry is None:
            wrong.append(f"{name} is missing")
        elif entry.dtype != dtype or entry.shape != shape:
            wrong.append(f"{name} is {entry.dtype}{list(entry.shape)}, not {dtype}{list(shape)}")
    return "; ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if wrong[3:] else "")


def digest_of(entries: dict[str, TensorEntry], plan: DigestPlan) -> tuple[str | bytes | None, str]:
    """Return the digest of a policy's weights by a plan, and an empty text.

    On a node without blake3, return the bytes to hash in place of the digest. If tensors differ
    from those of the plan, return None, and a text that says how.
    """
    import numpy as np

    header, order = plan
    wrong = differences(entries, order)
    if wrong:
        return None, wrong
    chunks: list[Any] = [header]
    for name, _, _ in order:
        entry = entries[name]
        bits = read_bits(entry) if entry.bits is None else entry.bits
        chunks.append(np.ascontiguousarray(bits).reshape(-1).view(np.uint8).data)
    try:
        from blake3 import blake3
    except ImportError:
        return b"".join(chunks), ""
    hasher = blake3()
    for chunk in chunks:
        hasher.update(chunk)
    return "blake3:" + hasher.hexdigest(), ""


def plain_digest(networks: list[torch.nn.Module]) -> str | None:
    """Return a digest to compare target networks, not one of the store; None without networks."""
    import hashlib

    if not networks:
        return None
    hasher = hashlib.blake2b(digest_size=16)
    for network in networks:
        for name, tensor in tensors_of(network).items():
            entry = _of_tensor(tensor)
            hasher.update(f"{name}:{entry.dtype}{list(entry.shape)}".encode())
            hasher.update(read_bits(entry).tobytes())
    return hasher.hexdigest()


def copy_network(source: torch.nn.Module, target: torch.nn.Module) -> None:
    """Copy the bits of a network into its target network, of the same names and shapes."""
    given = tensors_of(source)
    for name, tensor in tensors_of(target).items():
        write_bits(_of_tensor(tensor), read_bits(_of_tensor(given[name])))


def keep_network(network: torch.nn.Module) -> dict[str, np.ndarray[Any, Any]]:
    """Return copies of a network's bits by name."""
    return {name: read_bits(_of_tensor(t)) for name, t in tensors_of(network).items()}


def give_back(network: torch.nn.Module, kept: dict[str, np.ndarray[Any, Any]]) -> None:
    """Write the bits that :func:`keep_network` returned back into a network."""
    for name, tensor in tensors_of(network).items():
        write_bits(_of_tensor(tensor), kept[name])
