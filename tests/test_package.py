"""The exports of the package, what each module may import, and how large folders and files are."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import policystore

ROOT = Path(policystore.__file__).parent

# A module imports only modules of the levels above its own in this list, and modules of its own
# entry; docs/architecture.md gives the reasons. "format.*" is the package and every module directly
# in it; a name without ".*" is that module alone, "" the package policystore itself. An entry for a
# module goes before the entry for its package. A module without an entry fails the test.
LEVELS = [
    ["rllib.worker_code.messages.*"],
    [
        "errors",
        "rllib_schema.config_keys",
        "rllib_schema.class_paths",
        "rllib_schema.weight_names",
        "rllib.compat",
        "rllib.worker_code.*",
    ],
    ["_util.*", "digest", "rllib_schema.registry_names", "rllib.workers.*"],
    ["format.canonical_json", "format.arrays", "cache", "display.*", "rllib_schema.trusted"],
    ["spaces.*", "torch.tensors", "torch.random_numbers"],
    ["display.policy"],
    ["format.*"],
    ["format.records.*"],
    ["format.records.sums.*", "backends.bodies.*"],
    ["backends.*", "play.*", "snapshot_advice", "league.analysis.*"],
    ["snapshot", "version_list"],
    [
        "repository.objects",
        "repository.record_log",
        "repository.ref_like",
        "repository.stamp",
    ],
    ["repository.lookup.*", "rllib.playing.*"],
    ["repository.*", "diff", "torch.*", "checkpoints.files.*", "rllib_schema.*", "rllib.common.*"],
    ["repository.matches.*"],
    [
        "repository.roots.*",
        "rllib.new_stack.playing.*",
        "rllib.old_stack.playing.*",
    ],
    [
        "repository.collect.*",
        "repository.deletion.*",
        "repository.mirror.*",
        "repository.search.*",
        "repository.upkeep.*",
        "repository.verify.*",
    ],
    ["report.*"],
    ["store.*", "checkpoints.convert.*", "rllib.old_stack.*", "rllib.new_stack.*"],
    ["", "checkpoints.*", "rllib.convert.*", "rllib.live.checks.*", "rllib.api"],
    ["rllib.exporting.*", "rllib.live.*", "rllib.transfer.*"],
    ["rllib.callbacks.*"],
    ["rllib", "testing.*"],
    ["league.pool.messages", "league.env_config", "league.env_identity"],
    ["league.tournament.playing.*"],
    ["league.tournament.*", "league.showing"],
    ["league.league"],
    ["league.pool.runner.*", "league.pool.standings"],
    ["league.pool.samplers", "league.pool.candidates", "league.pool.triggers"],
    ["league.pool.driving.*"],
    ["league.pool.*"],
    ["league"],
    ["cli.terminal.*"],
    ["cli.common.*"],
    ["cli.doctor.*", "cli.commands.league.*"],
    ["cli.commands.*"],
    ["cli.*"],
    ["__main__"],
]
PLACES = {entry: level for level, entries in enumerate(LEVELS) for entry in entries}

MOST_MODULES = 14  # in one folder
MOST_LINES = 400  # of one module; about 350 are the aim


def modules() -> dict[str, Path]:
    """Map the name of each module, without ``policystore.``, to its file."""
    paths = {}
    for path in ROOT.rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        paths[name.removesuffix("__init__").rstrip(".")] = path
    return paths


MODULES = modules()


def imports(tree: ast.AST) -> set[str]:
    """Return the modules of policystore that a file imports, also inside functions."""
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"a relative import: {ast.unparse(node)}"
            module = node.module or ""
            imported |= {
                f"{module}.{alias.name}"
                if f"{module}.{alias.name}".removeprefix("policystore.") in MODULES
                else module
                for alias in node.names
            }
    return {
        name.removeprefix("policystore").lstrip(".")
        for name in imported
        if name.split(".")[0] == "policystore"
    }


TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}
IMPORTS = {name: imports(tree) for name, tree in TREES.items()}
# The package policystore loads each public name when the name is first used: importing it imports
# none of the modules that it lists for tools.
IMPORTS[""] = set()


def entry_of(name: str) -> str:
    """Return the entry of LEVELS that a module belongs to: its own, else that of its package."""
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    for entry in (name, f"{package}.*"):
        if entry in PLACES:
            return entry
    raise AssertionError(f"{name} has no level: give its package or itself a place in LEVELS")


def forbidden_imports(imported: dict[str, set[str]]) -> list[str]:
    """Return the imports that LEVELS does not allow, each as ``module imports module``."""
    return [
        f"{name or 'policystore'} imports {other or 'policystore'}"
        for name, others in imported.items()
        for other in sorted(others)
        if entry_of(other) != entry_of(name) and PLACES[entry_of(other)] >= PLACES[entry_of(name)]
    ]


def test_packages_import_only_what_stands_on_levels_above_them() -> None:
    assert forbidden_imports(IMPORTS) == []


def test_an_import_from_a_level_below_is_found() -> None:
    wrong = {
        "errors": "digest",  # a level below
        "digest": "_util.log",  # the same level, another entry
        "rllib.old_stack.player": "rllib.new_stack.player",
        "rllib_schema.config_keys": "rllib_schema.env_interface",  # a package with two levels
        "checkpoints.convert.weights": "checkpoints.reader",
        "rllib.api": "rllib",
        "store.reading": "",
    }
    for name, other in wrong.items():
        (source,) = forbidden_imports({name: {other}})
        assert source == f"{name} imports {other or 'policystore'}"
    assert imports(ast.parse("def f():\n    from policystore.rllib import api")) == {"rllib.api"}


def test_every_level_names_what_is_there() -> None:
    used = {entry_of(name) for name in MODULES}
    assert used == PLACES.keys()
    assert len(PLACES) == sum(len(entries) for entries in LEVELS), "an entry stands twice"


def test_no_modules_import_each_other_in_a_circle() -> None:
    """LEVELS says nothing of the modules of one package; these must have an order too."""
    remaining = {name: imported - {name} for name, imported in IMPORTS.items()}
    while remaining:
        free = [name for name, needed in remaining.items() if not needed & remaining.keys()]
        assert free, f"modules that import each other: {sorted(remaining)}"
        for name in free:
            del remaining[name]


def test_only_files_and_backends_open_files() -> None:
    opening = {"open", "os", "io", "mmap", "shutil", "tempfile", "pathlib"}
    for name in MODULES:
        files = ("_util.files", "_util.folders", "_util.maps", "_util.cache_folder")
        if name in (*files, "snapshot", "cache", "store") or name.startswith(
            ("backends", "rllib", "cli")
        ):
            continue
        for node in ast.walk(TREES[name]):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "open", name
            # objects counts the cores, stamp looks for $POLICYSTORE_AUTHOR, concurrency and late
            # are told of forks, and snapshot_advice tells paths from other values.
            if isinstance(node, ast.Import) and name not in (
                "snapshot_advice",
                "repository.objects",
                "repository.stamp",
                "_util.concurrency",
                "_util.late",
            ):
                assert not {alias.name for alias in node.names} & opening, name


def test_nothing_unpickles_or_evaluates() -> None:
    for name in MODULES:
        for node in ast.walk(TREES[name]):
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
                    "rllib.callbacks.restore_modules",
                    "testing.store_pushes",
                    "testing.store_refusals",
                ):
                    continue
                words = {word for each in names if each for word in each.split(".")}
                assert not words & {"pickle", "cloudpickle", "marshal", "shelve", "dill"}, name


def test_exports_are_pinned() -> None:
    assert policystore.__all__ == sorted(policystore.__all__)
    assert set(policystore.__all__) == {
        "AmbiguousError", "Annotation", "CopyReport", "Diff", "Digest", "Fault", "FieldDiff", "FormatError",
        "GarbageReport", "IntegrityError", "InvalidInputError", "Mark", "MatchError", "MismatchError", "MissingPackageError",
        "NodeCache", "NotFoundError", "PolicyStore", "PolicyStoreError", "ProtectedError", "Protection",
        "PruneReport",
        "ReadOnlyError", "ReportSummary", "Snapshot", "Spec", "StorageError", "StoreStats", "SyncError", "TagMove",
        "TensorDiff",
        "UntrustedError", "VerifyReport", "Version", "VersionList", "Evaluation", "evaluate",
    }  # fmt: skip
    assert all(hasattr(policystore, name) for name in policystore.__all__)


def test_each_public_name_has_its_module_for_readers_and_at_run_time() -> None:
    """Tools that read the source see the imports below TYPE_CHECKING; Python uses the table."""
    (checked,) = [
        node
        for node in TREES[""].body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    read = {
        alias.name: (node.module or "").removeprefix("policystore.")
        for node in checked.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert read == policystore._MODULES
    assert list(read)
    assert set(read) == set(policystore.__all__)


def test_public_names_come_by_star_and_are_listed() -> None:
    names: dict[str, object] = {}
    exec("from policystore import *", names)
    assert names.keys() >= set(policystore.__all__)
    assert set(dir(policystore)) >= {*policystore.__all__, "__version__"}
    with pytest.raises(AttributeError, match="'policystore' has no attribute 'PolicyStor'"):
        _ = policystore.PolicyStor
    with pytest.raises(ImportError, match="PolicyStor"):
        exec("from policystore import PolicyStor", names)


ALL_NAMES = "policystore; [getattr(policystore, name) for name in policystore.__all__]"


@pytest.mark.parametrize(
    ("module", "needed"),
    [
        ("policystore", set()),
        ("policystore; policystore.PolicyStore, policystore.Snapshot", {"blake3"}),
        (ALL_NAMES, {"numpy", "blake3"}),
        ("policystore.spaces", {"numpy"}),
    ],
)
def test_importing_the_core_loads_no_heavy_library(module: str, needed: set[str]) -> None:
    program = f"import sys, json, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = {name.split(".")[0] for name in json.loads(done.stdout)}
    heavy = {"torch", "ray", "gymnasium", "safetensors", "fsspec", "pandas", "scipy", "pickle5",
             "s3fs", "botocore", "aiobotocore", "aiohttp", "asyncio"}  # fmt: skip
    assert not loaded & heavy
    assert needed <= loaded
    assert ("numpy" in needed) == ("numpy" in loaded)


def test_torch_comes_without_ray() -> None:
    program = "import sys, policystore.torch; print('ray' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "True"]


def test_no_module_is_longer_than_one_sitting() -> None:
    lines = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert not {name: count for name, count in lines.items() if count > MOST_LINES}


def test_no_folder_holds_more_modules_than_one_look_takes_in() -> None:
    folders = Counter(path.parent for path in MODULES.values())
    assert not {str(folder): count for folder, count in folders.items() if count > MOST_MODULES}
