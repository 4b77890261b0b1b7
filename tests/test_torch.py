"""policystore.torch: plain modules, wrappers, and the bridge between torch and numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from policystore import InvalidInputError, MismatchError, Snapshot
from policystore import torch as pt
from policystore.format.arrays import DTYPES
from policystore.torch import tensors


def net(seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.nn.Sequential:
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2)
    ).to(dtype)


def outputs(module: torch.nn.Module, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    module.eval()
    with torch.no_grad():
        return module(torch.linspace(-1, 1, 12).reshape(4, 3).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_a_module_comes_back_bit_for_bit(dtype: torch.dtype) -> None:
    source, target = net(1, dtype), net(2, dtype)
    source(torch.randn(8, 3).to(dtype))  # moves the batch norm's running statistics
    assert not torch.equal(outputs(source, dtype), outputs(target, dtype))
    snap = pt.snapshot(source, config={"hidden": 4}, state={"mean": np.ones(3)})
    assert snap.weights.keys() == source.state_dict().keys()
    assert snap.spec.stack == "torch"
    assert snap.spec.cls == "torch.nn.modules.container:Sequential"
    assert snap.spec.config == {"hidden": 4}
    pt.load_into(target, snap)
    assert torch.equal(outputs(source, dtype), outputs(target, dtype))
    assert pt.snapshot(target).weights_digest == snap.weights_digest


@pytest.mark.parametrize("dtype", list(tensors._TORCH_TO_CODE), ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3)], ids=str)
def test_every_dtype_crosses_the_bridge_bit_for_bit(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    size = torch.empty((), dtype=dtype).element_size()
    count = int(np.prod(shape))
    random = np.random.default_rng(0).integers(0, 256, count * size, dtype=np.uint8)
    if dtype is torch.bool:
        random %= 2
    empty = torch.empty(shape, dtype=dtype)
    tensor = torch.from_numpy(random).view(dtype).reshape(shape) if count else empty
    array = tensors.to_numpy(tensor, "x")
    assert array.shape == shape
    assert array.tobytes() == random.tobytes()
    again = tensors.to_tensor(Snapshot(weights={"x": array}).weights["x"])
    assert again.dtype is dtype
    assert again.shape == torch.Size(shape)
    assert (
        again.view(torch.uint8).numpy().tobytes() == random.tobytes() if count and shape else True
    )


def test_the_array_is_a_copy() -> None:
    tensor = torch.ones(3)
    array = tensors.to_numpy(tensor, "x")
    tensor.fill_(5)
    assert array.tolist() == [1, 1, 1]
    tensors.to_tensor(array).fill_(7)
    assert array.tolist() == [1, 1, 1]


def test_strided_and_gradient_tensors() -> None:
    base = torch.arange(12.0).reshape(3, 4).requires_grad_()
    assert tensors.to_numpy(base.T[1:, ::2], "x").tolist() == base.T[1:, ::2].tolist()
    assert tensors.to_numpy(torch.ones(1).expand(3), "x").tolist() == [1, 1, 1]
    assert tensors.to_numpy(-torch.ones(2).neg(), "x").tolist() == [1, 1]


def test_the_snapshot_shares_no_memory_with_the_module_in_either_direction() -> None:
    module = net()
    snap = pt.snapshot(module)
    digest = pt.snapshot(module).digest
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(9)
    assert Snapshot(weights=snap.weights, spec=snap.spec).digest == digest
    pt.load_into(module, snap)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(9)
    assert Snapshot(weights=snap.weights, spec=snap.spec).digest == digest


def test_parameters_keep_their_identity_so_optimizers_stay_attached() -> None:
    module = net(1)
    module[0].weight.requires_grad_(False)
    before = {name: (id(p), p.requires_grad) for name, p in module.named_parameters()}
    pt.load_into(module, pt.snapshot(net(2)))
    assert {n: (id(p), p.requires_grad) for n, p in module.named_parameters()} == before


def test_wrappers_leave_no_trace_in_names() -> None:
    inner = net(1)
    snap = pt.snapshot(inner)

    class Holder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = torch.compile(net(1))  # a name of the user's own, kept
            self.head = torch.nn.DataParallel(net(1))

    wrapped = [torch.compile(inner), torch.nn.DataParallel(inner),
               torch.nn.DataParallel(torch.compile(inner))]  # fmt: skip
    for module in wrapped:
        assert pt.snapshot(module) == snap
        pt.load_into(module, pt.snapshot(net(3)))
        assert pt.snapshot(inner) == pt.snapshot(net(3))
        pt.load_into(module, snap)
    names = pt.snapshot(Holder()).weights.keys()
    assert {"module.0.weight", "head.0.weight"} <= names
    assert not any("_orig_mod" in name or "head.module" in name for name in names)


def test_distributed_data_parallel_leaves_no_trace_in_names(tmp_path: Any) -> None:
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        inner = net(1)
        wrapped = torch.nn.parallel.DistributedDataParallel(inner)
        assert pt.snapshot(wrapped) == pt.snapshot(inner)
        pt.load_into(wrapped, pt.snapshot(net(2)))
        assert pt.snapshot(inner) == pt.snapshot(net(2))
    finally:
        torch.distributed.destroy_process_group()


def test_tied_parameters() -> None:
    module = net()
    module.tied = module[0]
    snap = pt.snapshot(module)
    assert snap.weights["tied.weight"].tobytes() == snap.weights["0.weight"].tobytes()
    other = net(5)
    other.tied = other[0]
    pt.load_into(other, snap)
    assert other.tied is other[0]
    assert pt.snapshot(other) == snap
    torn = dict(snap.weights)
    torn["tied.weight"] = torn["tied.weight"] + 1
    with pytest.raises(MismatchError, match="Tied"):
        pt.load_into(other, Snapshot(weights=torn))
    assert pt.snapshot(other) == snap


def test_a_misfit_lists_everything_and_changes_nothing() -> None:
    module = net(1)
    before = pt.snapshot(module)
    weights = dict(pt.snapshot(net(2)).weights)
    del weights["0.bias"]
    weights["9.bias"] = np.ones(1, np.float32)
    weights["2.weight"] = np.ones((4, 2), np.float32)
    weights["0.weight"] = weights["0.weight"].astype(np.float64)
    with pytest.raises(MismatchError) as caught:
        pt.load_into(module, Snapshot(weights=weights))
    assert caught.value.missing == ("0.bias",)
    assert caught.value.unexpected == ("9.bias",)
    assert caught.value.wrong.keys() == {"0.weight", "2.weight"}
    for part in ("0.bias", "9.bias", "float64[4, 3]", "float32[2, 4]"):
        assert part in str(caught.value)
    assert pt.snapshot(module) == before


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(2, dtype=torch.complex64),
        torch.ones(2, 2).to_sparse(),
        torch.ones(2, device="meta"),
    ],
    ids=["complex", "sparse", "meta"],
)
def test_tensors_that_cannot_be_stored_are_refused_by_name(tensor: torch.Tensor) -> None:
    module = torch.nn.Module()
    module.register_buffer("table", tensor)
    with pytest.raises(InvalidInputError, match="'table'"):
        pt.snapshot(module)


def test_extra_state_is_refused() -> None:
    class Extra(torch.nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"n": 1}

        def set_extra_state(self, state: dict[str, int]) -> None: ...

    with pytest.raises(InvalidInputError, match=r"_extra_state.*buffer"):
        pt.snapshot(Extra(2, 2))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_module_on_a_gpu() -> None:
    source, target = net(1).cuda(), net(2).cuda()
    pt.load_into(target, pt.snapshot(source))
    assert pt.snapshot(target) == pt.snapshot(net(1))
    assert next(target.parameters()).is_cuda


def test_every_dtype_goes_through_safetensors_and_torch() -> None:
    weights = {
        code: (np.arange(6).reshape(2, 3) % 2).astype(dtype) for code, dtype in DTYPES.items()
    }
    snap = Snapshot(weights=weights)
    read = safetensors.torch.load(b"".join(snap._encode(inline=True).policy.chunks))
    assert read.keys() == DTYPES.keys()
    for code, tensor in read.items():
        assert tensor.shape == (2, 3)
        assert tensors.to_numpy(tensor, code).tobytes() == weights[code].tobytes()
        assert tensors.to_numpy(tensor, code).dtype == DTYPES[code]


def test_weights_may_be_tensors_of_torch() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).bfloat16()
    expected = pt.snapshot(module).weights_digest
    parameters = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    snap = Snapshot(weights={})
    for weights in (
        module.state_dict(),
        parameters,
        snap.replace(weights=module.state_dict()).weights,
    ):
        assert Snapshot(weights=weights).weights_digest == expected
        assert snap.replace(weights=weights).weights_digest == expected
    mixed = {"a": torch.ones(3, 2).T, "b": np.ones(2), "c": torch.tensor(True)}
    taken = snap.replace(weights=mixed).weights
    assert taken["a"].tolist() == [[1.0] * 3] * 2
    assert (taken["b"].dtype, taken["c"].dtype) == (np.float64, np.bool_)
    live = torch.zeros(2)
    taken = snap.replace(weights={"w": live}).weights
    live += 1
    assert taken["w"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("weights", "match"),
    [
        (torch.nn.Linear(2, 2), r"found a module: weights=module\.state_dict\(\)"),
        (
            {"w": torch.ones(2, dtype=torch.complex64)},
            r"weights\['w'\].*complex64.*cannot be stored",
        ),
        ({"w": torch.ones(2).to_sparse()}, r"weights\['w'\].*sparse"),
    ],
)
def test_tensors_that_cannot_be_stored_are_refused(weights: Any, match: str) -> None:
    for call in (Snapshot, Snapshot(weights={}).replace):
        with pytest.raises(InvalidInputError, match=match):
            call(weights=weights)
