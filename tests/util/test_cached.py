from __future__ import annotations

import threading

from policystore._util.cached import cached_property


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
