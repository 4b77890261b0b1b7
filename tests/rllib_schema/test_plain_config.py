"""The walker from configs to plain values, with rules of leaves that are made up here."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from policystore.format.values import Tagged
from policystore.rllib_schema.plain_config import (
    NOTHING,
    NotPlainError,
    Place,
    PlainWalker,
    check_plain_value,
    is_plain_key,
    plain_scalar,
)


class Classes(PlainWalker):
    """Keeps classes by name, and refuses all other leaves."""

    def leaf(self, value: object, place: Place) -> object:
        if isinstance(value, type):
            return Tagged("import", f"{value.__module__}:{value.__qualname__}")
        raise NotPlainError(f"a {type(value).__name__} at depth {place.depth}")


class Lenient(Classes):
    whole_items = False


class Mine(int):
    pass


def walked(walker: type[PlainWalker], value: object) -> tuple[Any, dict[str, str]]:
    omitted: dict[str, str] = {}
    return walker(omitted).value(value, "config"), omitted


def test_plain_values_come_back_as_they_are() -> None:
    value = {"a": [1, (2.5, None)], 3: {"b": b"x", "c": True}, (1, "x"): "text"}
    assert walked(Classes, value) == (value, {})
    assert walked(Classes, {"cls": dict})[0] == {"cls": Tagged("import", "builtins:dict")}


def test_an_entry_that_is_not_plain_is_left_out_and_noted() -> None:
    plain, omitted = walked(Classes, {"a": {"b": {1}, "c": 2}, "d": Mine(1)})
    assert plain == {"a": {"c": 2}}
    assert omitted == {"config.a.b": "a set at depth 2", "config.d": "a Mine at depth 1"}


@pytest.mark.parametrize("value", [{1}, [{1}], ({1},)])
def test_a_value_without_a_plain_form_is_nothing(value: object) -> None:
    plain, omitted = walked(Classes, value)
    assert plain is NOTHING
    assert list(omitted) == ["config"]


def test_a_list_is_kept_whole_or_not_at_all() -> None:
    value = {"list": [1, {"a": 2, "b": {3}}, {4}], "rest": 5}
    assert walked(Classes, value) == ({"rest": 5}, {"config.list": "a set at depth 3"})


def test_each_missing_item_of_a_list_can_be_noted_instead() -> None:
    value = {"holes": [{"a": 2, "b": {3}}], "items": [1, {4}, {5}]}
    plain, omitted = walked(Lenient, value)
    assert plain == {"holes": [{"a": 2}]}
    assert omitted == {
        "config.holes[0].b": "a set at depth 3",
        "config.items[1]": "a set at depth 2",
        "config.items[2]": "a set at depth 2",
        "config.items": "holds items that cannot be kept",
    }


def test_keys_of_a_spec() -> None:
    assert all(map(is_plain_key, ("a", 1, None, True, 2.5, (1, "x"), np.int64(3))))
    assert not any(map(is_plain_key, (1j, frozenset(), float("nan"), object())))


def test_numbers_of_numpy_become_those_of_python() -> None:
    for number, plain in ((np.float64(0.5), 0.5), (np.int8(3), 3), (np.bool_(True), True)):
        found = plain_scalar(number, "number")
        assert (type(found), found) == (type(plain), plain)
    for other in (np.complex128(1j), np.datetime64("2026-01-01")):
        with pytest.raises(NotPlainError, match="a thing is not a plain value"):
            plain_scalar(other, "thing")


def test_what_no_spec_holds_is_refused_by_kind() -> None:
    check_plain_value(np.zeros(2), "array")
    with pytest.raises(NotPlainError, match=r"^a thing is not a plain value$"):
        check_plain_value(object(), "thing")


def test_the_package_needs_neither_ray_nor_torch_nor_gymnasium() -> None:
    program = """if True:
        import importlib, pkgutil, sys

        sys.modules.update(dict.fromkeys(("ray", "torch", "gymnasium", "tree")))
        import policystore.rllib_schema as package

        names = [module.name for module in pkgutil.iter_modules(package.__path__)]
        assert len(names) >= 5, names
        for name in names:
            importlib.import_module(f"policystore.rllib_schema.{name}")
        """
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
