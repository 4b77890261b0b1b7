"""Give modules of one env runner weights of their own, from inside the env runner.

A league plays against many opponents, and each env runner may play against another one. RLlib sends
all env runners the same weights: PPO, DQN and SAC send each module after each update, also the
modules that are not trained (``algorithms/ppo/ppo.py:463``). So weights that a callback writes into
a module last until the next update only.

``load_local`` writes the weights, and locks the module against RLlib's own writes
(``worker_code/state_lock.py``). ``check_sync`` then shows the weights as the runner's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from policystore.errors import InvalidInputError, NotFoundError
from policystore.rllib.common.build_guard import check_snapshot
from policystore.rllib.live.checks.own_weights import OwnWeights, check_no_filters, prepare_own
from policystore.rllib.worker_code.compat import is_learner, is_old_worker
from policystore.rllib.worker_code.state_lock import StateLock, install, lock_of, take_off
from policystore.rllib.worker_code.tensors import (
    PolicyAccess,
    tensors_of,
    write_bits,
)
from policystore.snapshot import Snapshot

if TYPE_CHECKING:
    from ray.rllib.env.env_runner import EnvRunner
    from ray.rllib.evaluation.rollout_worker import RolloutWorker

__all__ = ["load_local", "unlock_local"]


def load_local(
    env_runner: EnvRunner | RolloutWorker,
    snaps: Mapping[str, Snapshot],
    *,
    refs: Mapping[str, str] | None = None,
    filters: str = "refuse",
) -> None:
    """Give modules of one env runner the weights of snapshots, on this env runner alone.

    Call this function inside the env runner, in ``on_episode_created`` or ``on_episode_start`` of
    an RLlib callback. From then on the module acts with these weights, until the next
    ``load_local``. RLlib's weights for the module do not reach it: not in ``train()``, not in
    ``evaluate()``, and not from a checkpoint. The lock keeps the last of RLlib's weights for
    :func:`unlock_local`. A restarted env runner has no lock, and gets one with the first
    ``load_local``. ``check_sync`` shows the status ``own``.

    ``load_into`` is for all workers: it ends the lock. A removed module loses its lock. A copy of
    the module, such as ``save_to_path`` makes, holds the own weights and has no lock.

    All modules are checked before the first is written, so a failed call changes nothing. Weights
    that acting does not need, such as a critic, are loaded where the module has them.

    Args:
        env_runner: the env runner of the new API stack, or the rollout worker of the old one, that
            RLlib passes to the callback.
        snaps: id of a module or policy of this env runner -> the snapshot.
        refs: id -> what reports call the snapshot, such as ``"league/main@3"``. A snapshot that was
            pulled by name is called by that name and version if its id is left out.
        filters: what to do if the observations of the module would be normalised in another way
            than in the training of the snapshot: ``"refuse"``, or ``"ignore"``, to load the weights
            alone. RLlib merges the filter statistics of all env runners, so one env runner cannot
            have statistics of its own.

    Raises:
        NotFoundError: the env runner has no such module; the message lists those it has.
        MismatchError: names, shapes, dtypes, spaces, filters or the API stack differ.
        InvalidInputError: an argument of the wrong form; a module in training on an env runner that
            samples for the training; modules that share weights; old stack: a
            ``policy_map_capacity`` below the number of policies.
    """
    access = _access(env_runner)
    labels = _labels(snaps, refs)
    if filters not in ("refuse", "ignore"):
        raise InvalidInputError(f"filters is 'refuse' or 'ignore', not {filters!r}")
    _require_known(access, snaps)
    prepared = {}
    for pid, snap in snaps.items():
        if filters == "refuse":
            check_no_filters(access, pid, snap)
        prepared[pid] = prepare_own(access, pid, snap)
        if lock_of(access, pid) is None:
            _check_lockable(access, pid)
    for pid, each in prepared.items():
        lock = lock_of(access, pid) or StateLock(access, pid)
        _write(access, pid, each)
        lock.own = str(each.digest)
        lock.label = ", ".join([*labels.get(pid, ()), each.digest.short])
        install(access, pid, lock)


def unlock_local(env_runner: EnvRunner | RolloutWorker, policy_ids: Iterable[str]) -> None:
    """Give modules of one env runner back to RLlib.

    Each module at once gets the weights that it would have without ``load_local``: the last weights
    that RLlib sent, or, if RLlib sent none, the weights of before the first ``load_local``. Modules
    without weights of their own stay as they are.

    Args:
        env_runner: as for :func:`load_local`.
        policy_ids: ids of modules or policies of this env runner.

    Raises:
        NotFoundError: the env runner has no such module; the message lists those it has.
        InvalidInputError: an argument of the wrong form.
    """
    access = _access(env_runner)
    if isinstance(policy_ids, (str, bytes)) or not isinstance(policy_ids, Iterable):
        raise InvalidInputError(f"unlock_local takes a list of ids: [{policy_ids!r}]")
    listed = list(policy_ids)
    _require_known(access, listed)
    for pid in listed:
        take_off(access, pid)


# Arguments ---------------------------------------------------------------------------------------


def _access(env_runner: Any) -> PolicyAccess:
    """Return access to the modules of an env runner; refuse what is no env runner."""
    is_new = hasattr(env_runner, "module") and hasattr(env_runner, "config")
    if not is_old_worker(env_runner) and (not is_new or is_learner(env_runner)):
        raise InvalidInputError(
            "expected the env runner that RLlib passes to a callback (env_runner; worker on the "
            f"old API stack), found {type(env_runner).__qualname__}. load_into() is for a whole "
            "Algorithm."
        )
    if is_new and env_runner.module is None:
        raise InvalidInputError(
            "this env runner has no modules yet: RLlib makes them after on_environment_created. "
            "on_episode_created is the first callback that can load weights."
        )
    return PolicyAccess(env_runner)


def _labels(snaps: object, refs: Mapping[str, str] | None) -> dict[str, list[str]]:
    """Check the snapshots and their names; return the names by policy."""
    if not isinstance(snaps, Mapping):
        raise InvalidInputError(
            "load_local takes snapshots by id: load_local(env_runner, {'opponent': snap}), not "
            f"{type(snaps).__qualname__}"
        )
    for snap in snaps.values():
        check_snapshot(snap)
        if snap.spec.modules is not None:
            raise InvalidInputError(
                f"{snap!r} is of modules that share weights; one env runner cannot have some of "
                "these modules to itself. Use load_into()."
            )
    refs_of = {pid: snap._named_ref for pid, snap in snaps.items()}
    known = {pid: [ref] for pid, ref in refs_of.items() if ref is not None}
    if refs is None:
        return known
    if not isinstance(refs, Mapping) or not all(isinstance(ref, str) for ref in refs.values()):
        raise InvalidInputError(
            f"refs maps ids to texts: {{'opponent': 'league/main@3'}}: {refs!r}"
        )
    unknown = [pid for pid in refs if pid not in snaps]
    if unknown:
        raise InvalidInputError(f"refs names {unknown!r}, but only {sorted(snaps)} are loaded")
    return known | {pid: [ref] for pid, ref in refs.items()}


def _require_known(access: PolicyAccess, policy_ids: Iterable[str]) -> None:
    unknown = [pid for pid in policy_ids if pid not in access.ids]
    if unknown:
        raise NotFoundError(
            f"this env runner has no module {', '.join(map(repr, unknown))}; it has "
            f"{', '.join(map(repr, access.ids))}. Nothing was changed."
        )


# Checks ------------------------------------------------------------------------------------------


def _check_lockable(access: PolicyAccess, pid: str) -> None:
    """Refuse a module in training, one that RLlib may stash, and one that shares weights."""
    runner = access.worker
    if not runner.config.in_evaluation and _is_trained(access, pid):
        raise InvalidInputError(
            f"{pid!r} is trained: this env runner would get none of the updates, and sample for "
            "training with other weights. Add a module for the opponent to policies=, and leave "
            "this module out of policies_to_train=."
        )
    if access.is_old and runner.policy_map.capacity < len(runner.policy_map):
        raise InvalidInputError(
            f"policy_map_capacity is {runner.policy_map.capacity}, and this worker has "
            f"{len(runner.policy_map)} policies: RLlib stashes policies and makes them anew. Set "
            "policy_map_capacity in the config to at least the number of policies."
        )
    own = _tensor_ids(access, pid)
    sharing = [each for each in access.ids if each != pid and own & _tensor_ids(access, each)]
    if sharing:
        raise InvalidInputError(
            f"{pid!r} shares weights with {', '.join(map(repr, sharing))}, so load_local would "
            "change these modules, too. Nothing was changed."
        )


def _is_trained(access: PolicyAccess, pid: str) -> bool:
    runner = access.worker
    chosen = runner.is_policy_to_train if access.is_old else runner.config.policies_to_train
    if chosen is not None and not callable(chosen):
        return pid in chosen
    try:
        return chosen is None or bool(chosen(pid, None))
    except Exception:
        return False  # the user's own function, made for a batch: it may be trained or not


def _tensor_ids(access: PolicyAccess, pid: str) -> set[int]:
    network = access.network(pid)
    return set() if network is None else {t.data_ptr() for t in tensors_of(network).values()} - {0}


def _write(access: PolicyAccess, pid: str, prepared: OwnWeights) -> None:
    """Write weights into a module, also past a lock."""
    if access.network(pid) is None:
        access.write_own(pid, prepared.bits)
        return
    entries = access.entries(pid)
    for name, bits in prepared.bits.items():
        write_bits(entries[name], bits)
