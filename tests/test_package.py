"""What the package shows, imports and may import."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import policystore

ROOT = Path(policystore.__file__).parent

# Each module may import the ones before it, and no others. docs/format.md and the README follow it.
ORDER = [
    "errors",
    "telling",
    "parallel",
    "progress",
    "digest",
    "canonical",
    "tensors",
    "tree",
    "space_fields",
    "space_leaves",
    "spaces",
    "spec",
    "container",
    "encoding",
    "files",
    "snapshot",
    "layout",
    "records",
    "backends",
    "backends.base",
    "backends.memory",
    "backends.local",
    "backends.options",
    "backends.remote_errors",
    "backends.remote",
    "backends.s3",
    "backends.clouds",
    "backends.opening",
    "cache",
    "names",
    "reading",
    "finding",
    "pushing",
    "arguments",
    "diff",
    "tagging",
    "upkeep",
    "store",
    "",
    "torch",
    "checkpoints.stand_ins",
    "checkpoints.machine",
    "checkpoints.operations",
    "checkpoints.pickles",
    "checkpoints.torch_files",
    "checkpoints.msgpacks",
    "checkpoints.described_spaces",
    "checkpoints.renamed",
    "checkpoints.statistics_of",
    "checkpoints.plain_values",
    "checkpoints.weights",
    "checkpoints.settling",
    "checkpoints.folders",
    "checkpoints.policy_keys",
    "checkpoints.old_policies",
    "checkpoints.env_sides",
    "checkpoints.new_modules",
    "checkpoints.layouts",
    "checkpoints.trials",
    "checkpoints.reading",
    "checkpoints",
    "rllib.classes",
    "rllib.bounds",
    "rllib.filters",
    "rllib.policy_config",
    "rllib.policy_state",
    "rllib.policy_connectors",
    "rllib.policy_restore",
    "rllib.policy_stack",
    "rllib.policy_observations",
    "rllib.policy_player",
    "rllib.module_config",
    "rllib.connector_state",
    "rllib.connectors",
    "rllib.env_side",
    "rllib.worker_filters",
    "rllib.worker_mapping",
    "rllib.worker_tensors",
    "rllib.worker_threads",
    "rllib.worker_side",
    "rllib.worker_restarts",
    "rllib.worker_reading",
    "rllib.shipping",
    "rllib.workers",
    "rllib.module_source",
    "rllib.module_stack",
    "rllib.module_rebuild",
    "rllib.module_fit",
    "rllib.play_slots",
    "rllib.module_player",
    "rllib.sources",
    "rllib.sync_report",
    "rllib.sync_rows",
    "rllib.fitting",
    "rllib.waves",
    "rllib.restarts",
    "rllib.running_filters",
    "rllib.running",
    "rllib.worker_modules",
    "rllib.joining_new",
    "rllib.worker_policies",
    "rllib.rehearsing",
    "rllib.joining_old",
    "rllib.joining",
    "rllib.callbacks",
    "rllib.resuming",
    "rllib.warm_start",
    "rllib.uploading",
    "rllib.publishing",
    "rllib",
]
CORE = ORDER[: ORDER.index("rllib.classes")]


def modules() -> dict[str, Path]:
    found = {}
    for path in ROOT.rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix("__init__").rstrip(".")] = path
    return found


def imports(path: Path) -> set[str]:
    """Every module of ours that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            module = node.module or ""
            found |= {
                f"{module}.{alias.name}"
                if f"{module}.{alias.name}".removeprefix("policystore.") in modules()
                else module
                for alias in node.names
            }
    return {
        name.removeprefix("policystore").lstrip(".")
        for name in found
        if name.split(".")[0] == "policystore"
    }


def test_modules_import_only_what_stands_before_them() -> None:
    assert sorted(modules()) == sorted(ORDER), "a module without its place in the order"
    for name in ORDER:
        for imported in imports(modules()[name]):
            assert ORDER.index(imported) < ORDER.index(name), (
                f"{name or '(root)'} imports {imported}"
            )


def test_the_api_stacks_do_not_know_each_other() -> None:
    old = [name for name in ORDER if name.startswith("rllib.policy_")]
    new = [
        name
        for name in ORDER
        if name.startswith(("rllib.module_", "rllib.connector", "rllib.env_"))
    ]
    assert old
    assert new
    for name in old:
        assert not set(new) & imports(modules()[name]), name
    for name in new:
        assert not set(old) & imports(modules()[name]), name


def test_only_files_and_backends_open_files() -> None:
    opening = {"open", "os", "io", "mmap", "shutil", "tempfile", "pathlib"}
    for name in CORE:
        if name in ("files", "snapshot", "cache", "store") or name.startswith("backends"):
            continue
        for node in ast.walk(ast.parse(modules()[name].read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "open", name
            # reading counts the cores, arguments looks for $POLICYSTORE_AUTHOR, and parallel is
            # told of forks.
            if isinstance(node, ast.Import) and name not in ("reading", "arguments", "parallel"):
                assert not {alias.name for alias in node.names} & opening, name


def test_nothing_unpickles_or_evaluates() -> None:
    for name in ORDER:
        for node in ast.walk(ast.parse(modules()[name].read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "compile", "__import__"), name
                if (name, called) != (
                    "rllib.policy_connectors",
                    "cls.from_state",
                ):  # the user's own
                    assert called.split(".")[-1] not in ("from_state", "from_checkpoint"), name
                assert not any(
                    keyword.arg == "allow_pickle" and ast.unparse(keyword.value) != "False"
                    for keyword in node.keywords
                ), name
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = {getattr(node, "module", None), *(alias.name for alias in node.names)}
                # Our own functions, on their way out to actors; and classes of the modules that
                # RLlib is about to unpickle from the very checkpoint.
                if name in ("rllib.shipping", "rllib.resuming"):
                    continue
                words = {word for each in names if each for word in each.split(".")}
                assert not words & {"pickle", "cloudpickle", "marshal", "shelve", "dill"}, name


def test_exports_are_pinned() -> None:
    assert policystore.__all__ == sorted(policystore.__all__)
    assert set(policystore.__all__) == {
        "AmbiguousError", "Diff", "Digest", "Fault", "FieldDiff", "FormatError", "IntegrityError",
        "InvalidInputError", "MismatchError", "NodeCache", "NotFoundError", "PolicyStore",
        "PolicyStoreError",
        "ReadOnlyError", "Snapshot", "Spec", "StorageError", "SyncError", "TensorDiff",
        "UntrustedError", "VerifyReport", "Version",
    }  # fmt: skip
    assert all(hasattr(policystore, name) for name in policystore.__all__)


@pytest.mark.parametrize("module", ["policystore", "policystore.spaces"])
def test_importing_the_core_loads_no_heavy_library(module: str) -> None:
    program = f"import sys, json, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = {name.split(".")[0] for name in json.loads(done.stdout)}
    heavy = {"torch", "ray", "gymnasium", "safetensors", "fsspec", "pandas", "scipy", "pickle5",
             "s3fs", "botocore", "aiobotocore", "aiohttp", "asyncio"}  # fmt: skip
    assert not loaded & heavy
    assert {"policystore", "numpy", "blake3", "ml_dtypes"} <= loaded | {"policystore"}


def test_torch_comes_without_ray() -> None:
    program = "import sys, policystore.torch; print('ray' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "True"]


def test_no_module_is_longer_than_one_sitting() -> None:
    long = {name: len(path.read_text().splitlines()) for name, path in modules().items()}
    assert not {name: lines for name, lines in long.items() if lines > 400}
