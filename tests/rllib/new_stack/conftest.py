"""Makes the modules beside the tests importable, here, in fresh processes and in Ray's workers."""

from __future__ import annotations

from ray import cloudpickle

from tests.support import new_stack_modules

# Ray's workers have another path.
cloudpickle.register_pickle_by_value(new_stack_modules)
