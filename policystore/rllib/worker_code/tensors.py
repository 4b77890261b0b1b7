"""Policies of a live learner or worker, and the bits of their tensors. Runs there; sent by value.

Imports nothing of policystore (``worker_side.py`` says why). A *worker* is a learner or an env
runner of the new stack, or a rollout worker of the old one.
"""

from __future__ import annotations

from typing import Any

__all__ = ["PolicyAccess", "acting_names", "digest_of", "misfit", "plain_digest", "tensors_of"]


class PolicyAccess:
    """What a worker holds: its policies by id, and their tensors as they are in memory.

    Made anew for each call, as other calls may replace policies in between. With
    ``policy_map_capacity`` below the number of policies a policy goes stale as soon as others are
    looked at (``policy/policy_map.py:107``); then nothing is remembered.
    """

    def __init__(self, worker: Any) -> None:
        self.worker = worker
        self.is_old = hasattr(worker, "policy_map")
        swaps = self.is_old and worker.policy_map.capacity < len(worker.policy_map)
        self._known: dict[str, Any] | None = None if swaps else {}
        self._modules = None if self.is_old else _modules_of(worker)
        # RLlib keeps them in sets, whose order changes from process to process.
        self.ids = sorted(worker.policy_map.keys() if self._modules is None else self._modules)

    def holder(self, pid: str) -> Any:
        """The policy of the old stack or module of the new one, without RLlib's wrapper."""
        if self._modules is None:
            return self.worker.policy_map[pid]
        return self._modules[pid].unwrapped()

    def network(self, pid: str) -> Any:
        """The torch module that holds the weights; None if they are kept in another way."""
        import torch

        holder = self.holder(pid)
        if self.is_old:
            model = getattr(holder, "model", None)
            holder = None if _has_own_weights(holder) else model
        return holder if isinstance(holder, torch.nn.Module) else None

    def bits(self, pid: str) -> dict[str, Any]:
        """Name -> (torch dtype, shape, tensor, bits) of all weights.

        Bits are a numpy array: of a tensor on the CPU a view, to be read and written through; of
        another None. Weights that are kept in another way come as arrays, with no tensor.
        """
        if self._known is not None and pid in self._known:
            return self._known[pid]  # type: ignore[no-any-return]
        network = self.network(pid)
        if network is None:
            found = {name: _of_array(value) for name, value in self.own_arrays(pid).items()}
        else:
            found = {name: _of_tensor(value) for name, value in tensors_of(network).items()}
        if self._known is not None:
            self._known[pid] = found
        return found

    def forget(self, pid: str) -> None:
        """Read a policy anew next time: what is kept in another way are copies."""
        if self._known is not None:
            self._known.pop(pid, None)

    def own_arrays(self, pid: str) -> dict[str, Any]:
        """Weights of a policy without a torch model of RLlib's; ``{}`` where it has none."""
        import numpy as np

        holder = self.holder(pid)
        try:
            found = holder.get_weights() if self.is_old else holder.get_state()
        except NotImplementedError:
            found = {}
        return {name: np.array(value) for name, value in (found or {}).items()}

    def write_own(self, pid: str, arrays: dict[str, Any]) -> None:
        """Write weights, given as bits, of a policy without a torch model of RLlib's."""
        import numpy as np

        now = self.own_arrays(pid)
        copies = {name: np.array(bits).view(now[name].dtype) for name, bits in arrays.items()}
        if copies and self.is_old:
            self.holder(pid).set_weights(copies)
        elif copies:
            self.holder(pid).set_state(copies)
        self.forget(pid)

    def target_pairs(self, pid: str) -> list[tuple[Any, Any]]:
        """(network, its target network) of a policy, on a learner or an old-stack worker."""
        import torch

        holder = self.holder(pid)
        if self.is_old:
            models = list(getattr(holder, "target_models", {}).values())
            models = models or [getattr(holder, "target_model", None)]
            return [(holder.model, model) for model in models if isinstance(model, torch.nn.Module)]
        if not hasattr(holder, "get_target_network_pairs"):
            return []
        try:
            return list(holder.get_target_network_pairs())
        except AttributeError:  # not made: only learners call make_target_networks()
            return []

    def is_trained(self, pid: str) -> bool:
        """Whether training updates a policy; of a callable that needs a batch to say, True."""
        try:
            if self.is_old:
                decide = self.worker.is_policy_to_train
                return decide is None or bool(decide(pid, None))
            if hasattr(self.worker, "should_module_be_updated"):
                return bool(self.worker.should_module_be_updated(pid))
            return bool(self.worker.config.is_policy_to_train(pid))
        except Exception:
            # The user's own function, made for a batch: then the policy may well be trained.
            return True

    @property
    def seq(self) -> int | None:
        """Number of the learner's update that the weights are of."""
        found = getattr(self.worker, "weights_seq_no" if self.is_old else "_weights_seq_no", None)
        return found if type(found) is int else None

    @property
    def is_plain(self) -> bool:
        """Whether the modules are in RLlib's own MultiRLModule, or a single one."""
        from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule

        if self.is_old:
            return True
        multi = _unwrapped(self.worker.module)
        return not isinstance(multi, MultiRLModule) or type(multi) is MultiRLModule


def _unwrapped(module: Any) -> Any:
    return module.unwrapped() if hasattr(module, "unwrapped") else module


def _modules_of(worker: Any) -> dict[str, Any]:
    """Of a learner or env runner; a single-agent runner holds one without a MultiRLModule."""
    from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule

    multi = _unwrapped(worker.module)
    if isinstance(multi, MultiRLModule):
        return {mid: multi[mid] for mid in multi.keys()}  # noqa: SIM118 (it is no mapping)
    return {"default_policy": worker.module}


def _has_own_weights(policy: Any) -> bool:
    from ray.rllib.policy.policy import Policy
    from ray.rllib.policy.torch_policy import TorchPolicy
    from ray.rllib.policy.torch_policy_v2 import TorchPolicyV2

    standard = (Policy.get_weights, TorchPolicy.get_weights, TorchPolicyV2.get_weights)
    return type(policy).get_weights not in standard


def tensors_of(network: Any) -> dict[str, Any]:
    """Live tensors by name, without the prefixes of torch.compile and DistributedDataParallel."""
    state = network.state_dict()
    if not any("_orig_mod." in name or "module." in name for name in state):
        return state  # type: ignore[no-any-return]
    dropped = _wrapper_paths(network)
    found = {}
    for name, value in state.items():
        parts = name.split(".")
        kept = [
            part for index, part in enumerate(parts) if ".".join(parts[: index + 1]) not in dropped
        ]
        found[".".join(kept)] = value
    return found


def _wrapper_paths(network: Any) -> set[str]:
    paths = set()
    for path, child in network.named_modules(remove_duplicate=False):
        inner = "_orig_mod" if type(child).__name__ == "OptimizedModule" else None
        if any(
            base.__name__ in ("DataParallel", "DistributedDataParallel")
            for base in type(child).__mro__
        ):
            inner = "module"
        if inner is not None and inner in child._modules:
            paths.add(f"{path}.{inner}" if path else inner)
    return paths


def acting_names(module: Any, names: Any) -> list[str]:
    """Names of the weights that acting needs (core/rl_module/torch/torch_rl_module.py:153)."""
    from dataclasses import is_dataclass

    from ray.rllib.core.rl_module.apis import InferenceOnlyAPI

    if not isinstance(module, InferenceOnlyAPI) or module.inference_only:
        return list(names)
    try:
        left = module.get_non_inference_attributes()
    except AttributeError:
        # RLlib's own ask a dict (algorithms/ppo/default_ppo_rl_module.py:60) and cannot say with a
        # dataclass for a config, though they take one: then all weights count.
        if not is_dataclass(module.model_config):
            raise
        return list(names)
    return [n for n in names if not any(n == a or n.startswith(a + ".") for a in left)]


# Bits -------------------------------------------------------------------------------------------


def _of_tensor(tensor: Any) -> tuple[str, tuple[int, ...], Any, Any]:
    bits = _as_numpy(tensor) if tensor.device.type == "cpu" else None
    return str(tensor.dtype)[6:], tuple(tensor.shape), tensor, bits


def _of_array(array: Any) -> tuple[str, tuple[int, ...], Any, Any]:
    import numpy as np

    carriers = {1: np.uint8, 2: np.int16, 4: np.int32, 8: np.int64}
    bits = array if array.dtype == np.bool_ else array.view(carriers[array.dtype.itemsize])
    return array.dtype.name, array.shape, None, bits


def _as_numpy(tensor: Any) -> Any:
    """A CPU tensor's bits as a numpy array over the same memory."""
    import torch

    found = tensor.detach()
    if found.dtype is torch.bool:
        return found.numpy()
    size = found.element_size()
    carrier = torch.int32 if size == 4 else {1: torch.uint8, 2: torch.int16, 8: torch.int64}[size]
    return found.view(carrier).numpy()


def read_bits(entry: Any) -> Any:
    """A copy of the bits of an entry of :meth:`Held.bits`."""
    _, _, tensor, bits = entry
    return _as_numpy(tensor.detach().to("cpu")) if bits is None else bits.copy()


def write_bits(entry: Any, new: Any) -> None:
    """Write bits into an entry of :meth:`Held.bits`, on the device where it is."""
    import numpy as np
    import torch

    _, _, tensor, bits = entry
    if bits is not None:
        np.copyto(bits, new)
        return
    with torch.no_grad():
        # A copy: memory of Ray's object store is read-only, which torch warns of.
        source = torch.from_numpy(np.array(new))
        tensor.copy_(source if tensor.dtype is torch.bool else source.view(tensor.dtype))


def misfit(held: Any, order: Any) -> str:
    """How entries of :meth:`Held.bits` differ from what a plan expects; empty if they do not."""
    wrong = []
    for name, dtype, shape in order:
        entry = held.get(name)
        if entry is None:
            wrong.append(f"{name} is missing")
        elif entry[0] != dtype or entry[1] != shape:
            wrong.append(f"{name} is {entry[0]}{list(entry[1])}, not {dtype}{list(shape)}")
    return "; ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if wrong[3:] else "")


def digest_of(held: Any, plan: Any) -> tuple[Any, str]:
    """Digest of a policy's weights by a plan, or None and how they differ from what it expects.

    Where the node has no blake3 it is the bytes to be hashed.
    """
    import numpy as np

    header, order = plan
    wrong = misfit(held, order)
    if wrong:
        return None, wrong
    chunks = [header]
    for name, _, _ in order:
        entry = held[name]
        bits = read_bits(entry) if entry[3] is None else entry[3]
        chunks.append(np.ascontiguousarray(bits).reshape(-1).view(np.uint8).data)
    try:
        from blake3 import blake3
    except ImportError:
        return b"".join(chunks), ""
    hasher = blake3()
    for chunk in chunks:
        hasher.update(chunk)
    return "blake3:" + hasher.hexdigest(), ""


def plain_digest(networks: Any) -> str | None:
    """A digest to compare target networks by; it is no digest of the store's."""
    import hashlib

    if not networks:
        return None
    hasher = hashlib.blake2b(digest_size=16)
    for network in networks:
        for name, tensor in tensors_of(network).items():
            entry = _of_tensor(tensor)
            hasher.update(f"{name}:{entry[0]}{list(entry[1])}".encode())
            hasher.update(read_bits(entry).tobytes())
    return hasher.hexdigest()


def copy_network(source: Any, target: Any) -> None:
    """Bits of one network into another of the same names and shapes: its target network."""
    given = tensors_of(source)
    for name, tensor in tensors_of(target).items():
        write_bits(_of_tensor(tensor), read_bits(_of_tensor(given[name])))


def keep_network(network: Any) -> dict[str, Any]:
    """Copies of a network's bits by name."""
    return {name: read_bits(_of_tensor(t)) for name, t in tensors_of(network).items()}


def give_back(network: Any, kept: dict[str, Any]) -> None:
    """Write back what :func:`keep_network` kept."""
    for name, tensor in tensors_of(network).items():
        write_bits(_of_tensor(tensor), kept[name])
