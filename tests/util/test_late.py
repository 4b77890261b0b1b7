from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from policystore._util import late
from policystore._util.late import LateTable, cached_property, is_array


def test_an_attribute_of_a_late_module_is_looked_up_once() -> None:
    module = late.LateModule("math")
    assert "pi" not in vars(module)
    value = module.pi
    assert vars(module)["pi"] is value


class Both:
    """Two objects of this class compute their values at the same time, or fail."""

    meeting = threading.Barrier(2)
    computed = 0

    @cached_property
    def value(self) -> int:
        """Return the number of the computation."""
        self.meeting.wait(20)
        Both.computed += 1
        return Both.computed


def test_two_objects_compute_their_values_at_the_same_time() -> None:
    one, other = Both(), Both()
    thread = threading.Thread(target=lambda: one.value)

    thread.start()
    value = other.value
    thread.join()

    assert {value, one.value} == {1, 2}


def test_a_value_is_computed_once_and_kept_in_the_object() -> None:
    class Counted:
        count = 0

        @cached_property
        def value(self) -> int:
            self.count += 1
            return self.count

    counted = Counted()
    assert [counted.value, counted.value] == [1, 1]
    assert counted.__dict__["value"] == 1
    assert isinstance(Counted.value, cached_property)
    assert Both.value.__doc__ == "Return the number of the computation."


def test_an_attribute_of_a_late_module_imports_the_module() -> None:
    program = (
        "import sys; from policystore._util.late import is_array, np; "
        "print('numpy' in sys.modules, is_array(7)); "
        "print(np.float32(2) == 2, 'numpy' in sys.modules, is_array(np.float32(2)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False", "True", "True", "True"]
    assert late.np.ndarray is np.ndarray
    with pytest.raises(AttributeError, match="numpy"):
        _ = late.np.ndarry


def test_arrays_and_scalars_of_numpy_are_told_from_other_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arrays = [np.ones(3), np.float32(1), np.ma.masked_array([1]), ml_dtypes.bfloat16(1)]
    assert all(map(is_array, arrays))
    assert not any(map(is_array, [None, 1, 1.5, "a", [1], {}, np.dtype("f4")]))
    # What another thread sees that comes while numpy is being imported.
    monkeypatch.setitem(sys.modules, "numpy", type(sys)("numpy"))
    assert not is_array(1)
    monkeypatch.delitem(sys.modules, "numpy")
    assert not is_array(1)


def test_a_late_table_is_made_once_when_it_is_first_read() -> None:
    made = []

    def make() -> dict[str, int]:
        made.append(1)
        return {"a": 1, "b": 2}

    table = LateTable(make)
    assert not made
    assert table["a"] == 1
    assert list(table) == ["a", "b"]
    assert (len(table), "c" in table, table.get("c"), len(made)) == (2, False, None, 1)


def test_modules_are_imported_in_the_order_that_they_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("late_first", "late_second"):
        (tmp_path / f"{name}.py").write_text("import sys\nloaded = list(sys.modules)\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "late_first" in late.LateModule("late_second", "late_first").loaded
    # An import of numpy fails if another thread imports ml_dtypes in its middle.
    assert late.LateModule.__reduce__(late.ml_dtypes)[1] == ("ml_dtypes", "numpy")


FORK = """
import os, signal, sys, threading
from policystore._util.late import LateModule

sys.started = threading.Event()
module = LateModule("late_slow")
thread = threading.Thread(target=lambda: module.VALUE)
thread.start()
sys.started.wait()
child = os.fork()
if not child:
    signal.alarm(10)
    os._exit(module.VALUE)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_process_that_is_forked_during_an_import_can_import(tmp_path: Path) -> None:
    code = "import sys, time\nsys.started.set()\ntime.sleep(0.3)\nVALUE = 7\n"
    (tmp_path / "late_slow.py").write_text(code)
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{FORK}"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "7\n"


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_a_late_module_is_copied_and_pickled(copied: Callable[[object], object]) -> None:
    assert getattr(copied(late.np), "ndarray") is np.ndarray  # noqa: B009 - of an object
