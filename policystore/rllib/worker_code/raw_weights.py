"""Read all weights of a live worker as they are in memory, for a restore.

Runs in actors, sent by value (``messages/wire.py``). ``messages/answers.py`` says what a *worker*
is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policystore.rllib.worker_code.compat import (
    clear_queued_states,
    is_learner_only,
    restart_every_episode,
    set_weights_seq,
)
from policystore.rllib.worker_code.filters import policy_filter, relink_old_filter
from policystore.rllib.worker_code.learner_thread import updates_paused
from policystore.rllib.worker_code.tensors import PolicyAccess, access_to, read_bits

if TYPE_CHECKING:
    from policystore.rllib.worker_code.messages.requests import Payload
    from policystore.rllib.worker_code.messages.wire import AnyWorker

__all__ = ["release_weights", "restart_old_episodes"]


def release_weights(
    learner: AnyWorker | PolicyAccess, seq: int | None, read: bool, timeout: float
) -> Payload:
    """Return the weights that env runners get from a learner, and give these weights a number.

    The weights are bits, without any check. States that wait in the learner to be sent to env
    runners are dropped, because they are older than the number.

    Args:
        learner: a learner, or the local worker of an Algorithm of the old stack.
        seq: the number of the weights; None keeps the present number.
        read: whether to read the weights; otherwise the result is empty.
        timeout: seconds to wait for a learner that updates in a thread.

    Returns:
        The weights of all policies but those that only learners have
        (``RLModuleSpec(learner_only=True)``).

    Raises:
        BusyError: the learner's thread did not come to rest in ``timeout`` seconds.
    """
    access = access_to(learner)
    if access.is_old:
        for pid in access.ids:
            if policy_filter(access.holder(pid)) is not None:
                # RLlib's restore made new filters, and training would merge the old ones.
                relink_old_filter(access.worker, pid)
        return _weights(access) if read else {}
    with updates_paused(access.worker, timeout):
        if seq is not None:
            clear_queued_states(access.worker)
            set_weights_seq(access.worker, seq)
        return _weights(access) if read else {}


def _weights(access: PolicyAccess) -> Payload:
    return {
        pid: {name: (each.dtype, read_bits(each)) for name, each in access.entries(pid).items()}
        for pid in access.ids
        if access.is_old or not is_learner_only(access.worker, pid)
    }


def restart_old_episodes(worker: AnyWorker | PolicyAccess) -> None:
    """Let all episodes of a worker of the old stack start anew.

    A restore makes new connectors, and episodes that began with other connectors would fail
    (``evaluation/postprocessing.py:124``).
    """
    restart_every_episode(access_to(worker).worker)
