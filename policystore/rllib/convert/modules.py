"""The module of a SAC policy that was converted from the old API stack."""

from __future__ import annotations

from typing import Any, cast

from gymnasium.spaces import Box
from ray.rllib.core.rl_module.rl_module import RLModule

from policystore.rllib.compat import TorchDeterministic, TorchSquashedGaussian
from policystore.rllib.convert.kinds import kind_named
from policystore.rllib.new_stack.model_config import resolve_class

__all__ = ["TanhSACTorchRLModule"]

# The class had another name until Ray 2.40.
_SACModule: Any = resolve_class(kind_named("SAC").module, RLModule, "the module of SAC")


class _TanhGaussian(TorchSquashedGaussian):  # type: ignore[misc]
    """RLlib's squashed Gaussian with the old stack's deterministic action, the squashed mean.

    RLlib's own class returns the mean without tanh (``core/distribution/torch/
    torch_distribution.py:369``). The old stack squashes it (``models/torch/
    torch_action_dist.py:323``).
    """

    @classmethod
    def from_logits(cls, logits: Any, *args: Any, **kwargs: Any) -> _TanhGaussian:
        """Return the distribution of a network's outputs."""
        made = super().from_logits(logits, *args, **kwargs)
        made.__class__ = cls  # before Ray 2.48, RLlib returns its own class, whatever cls is
        return cast(_TanhGaussian, made)

    def to_deterministic(self) -> TorchDeterministic:
        """Return the distribution that always gives the squashed mean."""
        return TorchDeterministic(loc=self._squash(self.loc))


class TanhSACTorchRLModule(_SACModule):  # type: ignore[misc]
    """SAC's module with the deterministic action of the old stack: the tanh of the mean.

    Networks, weights and the distribution of sampled actions are those of RLlib's module.
    """

    def get_inference_action_dist_cls(self) -> Any:
        """Return the distribution for acting without exploration."""
        if isinstance(self.action_space, Box):
            return _TanhGaussian
        return super().get_inference_action_dist_cls()
