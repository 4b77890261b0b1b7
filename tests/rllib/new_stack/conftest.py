"""Makes the modules beside the tests importable, here, in fresh processes and in Ray's workers."""

from __future__ import annotations

import sys
from pathlib import Path

from ray import cloudpickle

sys.path.insert(0, str(Path(__file__).parent))

import new_stack_parts

# Ray's workers have another path.
cloudpickle.register_pickle_by_value(new_stack_parts)
