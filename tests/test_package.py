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

# Packages and modules of one level may import those of the levels above it in this list, and those
# of their own package; docs/architecture.md tells the reasons. A name stands for all that is in it.
LEVELS = [
    ["errors", "rllib_schema.config_keys", "rllib_schema.class_paths", "rllib.worker_code"],
    ["_util", "digest", "rllib.workers"],
    ["format", "cache"],
    ["backends", "spaces", "snapshot"],
    ["repository", "diff", "torch", "checkpoints.files", "rllib_schema", "rllib.common"],
    ["store", "checkpoints.convert", "rllib.old_stack", "rllib.new_stack"],
    ["", "checkpoints", "rllib.live", "rllib.api"],
    ["rllib.callbacks"],
    ["rllib", "testing"],
]


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


def place(name: str) -> tuple[int, str]:
    """The level of a module, and which entry of the list it falls under: the longest that fits."""
    entries = [(len(entry), level, entry) for level, entries in enumerate(LEVELS) for entry in entries
               if name == entry or (entry and name.startswith(f"{entry}."))]  # fmt: skip
    assert entries, f"{name}: a module without a level"
    _, level, entry = max(entries)
    return level, entry


def test_packages_import_only_what_stands_on_levels_above_them() -> None:
    for name, path in modules().items():
        level, entry = place(name)
        for imported in imports(path):
            above, other = place(imported)
            assert other == entry or above < level, f"{name or '(root)'} imports {imported}"


def test_no_two_modules_import_each_other() -> None:
    """The levels leave the modules of one package free; they may not go round in circles either."""
    remaining = {name: imports(path) - {name} for name, path in modules().items()}
    while remaining:
        free = [name for name, needed in remaining.items() if not needed & remaining.keys()]
        assert free, f"modules that import each other: {sorted(remaining)}"
        for name in free:
            del remaining[name]


def test_the_api_stacks_do_not_know_each_other() -> None:
    for name, path in modules().items():
        for one, other in (("old_stack", "new_stack"), ("new_stack", "old_stack")):
            if name.startswith(f"rllib.{one}."):
                assert not [each for each in imports(path) if f"rllib.{other}" in each], name


def test_only_files_and_backends_open_files() -> None:
    opening = {"open", "os", "io", "mmap", "shutil", "tempfile", "pathlib"}
    for name in modules():
        if name in ("_util.files", "snapshot", "cache", "store") or name.startswith(
            ("backends", "rllib")
        ):
            continue
        for node in ast.walk(ast.parse(modules()[name].read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "open", name
            # objects counts the cores, writer looks for $POLICYSTORE_AUTHOR, and concurrency is
            # told of forks.
            if isinstance(node, ast.Import) and name not in (
                "repository.objects",
                "repository.writer",
                "_util.concurrency",
            ):
                assert not {alias.name for alias in node.names} & opening, name


def test_nothing_unpickles_or_evaluates() -> None:
    for name in modules():
        for node in ast.walk(ast.parse(modules()[name].read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "compile", "__import__"), name
                if (name, called) != (
                    "rllib.old_stack.connectors",
                    "cls.from_state",
                ):  # the user's own
                    assert called.split(".")[-1] not in ("from_state", "from_checkpoint"), name
                assert not any(
                    keyword.arg == "allow_pickle" and ast.unparse(keyword.value) != "False"
                    for keyword in node.keywords
                ), name
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = {getattr(node, "module", None), *(alias.name for alias in node.names)}
                # Our own functions, on their way out to actors; classes of the modules that
                # RLlib is about to unpickle from the very checkpoint; and the contract suites,
                # which pickle stores that they have opened themselves.
                if name in (
                    "rllib.workers.by_value",
                    "rllib.callbacks.restore",
                    "testing.store_pushes",
                    "testing.store_refusals",
                ):
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
