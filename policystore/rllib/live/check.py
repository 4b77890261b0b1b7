"""Ask all learners and workers of a running Algorithm which weights they hold."""

from __future__ import annotations

from collections.abc import Iterable

from ray.rllib.algorithms.algorithm import Algorithm

from policystore.rllib.live.checks.arguments import check_known, listed_ids
from policystore.rllib.live.report import SyncReport
from policystore.rllib.live.session import Session
from policystore.rllib.workers.calls import Deadline
from policystore.rllib.workers.compat import has_learner_thread, unmerged_states

__all__ = ["check_sync"]


def check_sync(
    algo: Algorithm, policy_ids: Iterable[str] | None = None, *, timeout: float = 60.0
) -> SyncReport:
    """Ask every learner and worker which weights it holds now.

    The function compares digests of the weights that acting needs (``acting`` digests). The first
    learner that answers defines the expected digest; on the old stack the local worker does.

    The function changes nothing, with one exception. If an env runner was restarted and RLlib has
    not noticed the restart, the env runner first gets the weights that ``load_into`` loaded. (The
    same happens before any call of RLlib to such an env runner.) So the rows of this env runner
    show the weights of its next sample, and not the weights with which the actor was made. If the
    env runner could not get the loaded weights, the note of the row says why. For a policy in
    training the row is ``bad`` until the next ``train()``, because the env runner has the weights
    of the load, and not those of later updates.

    A module with weights of its own (``load_local``) has the status ``own`` on its env runner.

    Args:
        algo: an Algorithm of either API stack.
        policy_ids: ids of the policies to report on; all policies if left out.
        timeout: seconds for the whole call.

    Returns:
        A row for each policy on each learner and worker, whether it answered or not.

    Raises:
        NotFoundError: no such policy; the message lists the policies of the Algorithm.
        InvalidInputError: a stopped Algorithm, or an argument of the wrong form.
        StorageError: no learner answers.
    """
    session = Session(algo, timeout)
    wanted = None if policy_ids is None else listed_ids(policy_ids, "policy_ids")
    # Half of the time, so that a silent learner leaves time for the answers of the workers.
    half = Deadline(session.deadline.left() / 2)
    info = session.describe(wanted, deadline=half, all_learners=False)
    check_known(wanted or (), info)
    # With IMPALA and APPO of the old stack, the numbers of workers cannot be compared with the
    # number of the learner.
    report = session.report(info, unnumbered=has_learner_thread(algo))
    setting = unmerged_states(algo)
    if setting and any(row.filters is not None for row in report):
        return report.with_notes(
            [
                f"{setting}: each env runner keeps its own filter statistics. snapshot(algo, "
                "from_runner=1) takes the statistics of env runner 1."
            ]
        )
    return report
