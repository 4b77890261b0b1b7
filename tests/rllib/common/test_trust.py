"""Who may be imported from a spec."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
from ray.rllib.algorithms.ppo.ppo_torch_policy import PPOTorchPolicy

from policystore import InvalidInputError, NotFoundError, UntrustedError
from policystore.rllib.common.trust import is_importable, path_of, resolve

RLLIB = "ray.rllib.algorithms.ppo.ppo_torch_policy:PPOTorchPolicy"


class Mine:
    class Inner:
        pass


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A package that notes when it is imported."""
    imported: list[str] = []

    class Finder:
        @staticmethod
        def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
            if name.startswith("mypkg"):
                imported.append(name)
            return None

    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    return imported


def test_rllib_is_free() -> None:
    assert path_of(PPOTorchPolicy) == RLLIB
    assert resolve(RLLIB) is PPOTorchPolicy


def test_any_other_class_needs_the_callers_word_and_is_not_imported(package: list[str]) -> None:
    for path in ("mypkg.models:Net", "mypkg2:Net", "os:system", "builtins:eval", "ray.data:x"):
        with pytest.raises(UntrustedError) as caught:
            resolve(path, ["mypkg3."])
        assert path in str(caught.value)
        name = path.partition(".")[0].partition(":")[0]
        assert f"trust=['{name}.']" in str(caught.value)
        assert "the class itself" in str(caught.value)
    assert package == []


def test_prefixes_match_at_dots() -> None:
    path = path_of(Mine)
    module = path.partition(":")[0]
    for prefix in (module, f"{module}.", f"{module}.Mine", module.partition(".")[0]):
        assert resolve(path, [prefix]) is Mine
    assert resolve(path_of(Mine.Inner), [module]) is Mine.Inner
    for prefix in (module[:-1], module + "x", "", "."):
        with pytest.raises(UntrustedError):
            resolve(path, [prefix])


def test_the_class_itself_is_the_callers_word() -> None:
    assert resolve(path_of(Mine), [Mine]) is Mine
    with pytest.raises(UntrustedError):
        resolve("elsewhere:Other", [Mine])
    # Defined in a script there, imported here, and the reverse.
    assert resolve("__main__:Mine", [Mine]) is Mine
    scripted = type("Mine", (), {"__module__": "__main__", "__qualname__": "Mine"})
    assert resolve(path_of(Mine), [scripted]) is scripted
    with pytest.raises(UntrustedError):
        resolve("othermodule:Mine", [Mine])


def test_what_rllib_modules_import_is_not_rllibs() -> None:
    """A module under ray.rllib. has attributes from elsewhere, functions of os among them."""
    import ray.rllib.utils.debug.summary as module

    reachable = next(n for n, v in vars(module).items() if isinstance(v, types.ModuleType))
    with pytest.raises(UntrustedError, match="neither class nor function"):
        resolve(f"ray.rllib.utils.debug.summary:{reachable}")
    for path in ("ray.rllib.utils.checkpoints:os.system", "ray.rllib.policy.policy:np.load",
                 "ray.rllib.utils.checkpoints:json.loads"):  # fmt: skip
        with pytest.raises((UntrustedError, NotFoundError)):
            resolve(path)


@pytest.mark.parametrize(
    "path", ["", "x", ":", "a:b:c", "a b:c", "a:b()", "../a:b", "a.b:", ":b", None, 7, "a:b\n"]
)
def test_other_forms_of_paths_are_refused(path: Any) -> None:
    with pytest.raises(InvalidInputError, match="module:QualName"):
        resolve(path, ["a."])


def test_trust_of_other_forms_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"trust=\['mypkg.'\]"):
        resolve(RLLIB, "mypkg.")
    with pytest.raises(InvalidInputError, match="prefixes"):
        resolve("a:b", [7])


def test_what_is_trusted_and_absent_says_so() -> None:
    with pytest.raises(NotFoundError, match="cannot be imported here"):
        resolve("no_such_package:X", ["no_such_package."])
    with pytest.raises(NotFoundError, match="NoSuchClass"):
        resolve("ray.rllib.policy.policy:NoSuchClass")


def test_what_has_an_import_path() -> None:
    assert is_importable(Mine)
    assert is_importable(Mine.Inner)
    assert not is_importable(lambda: 0)

    class Local:
        pass

    assert not is_importable(Local)
    assert not is_importable(7)
