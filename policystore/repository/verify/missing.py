"""Look again for objects that the listing did not show, and look at the copies in the trash.

While verify runs, versions are pushed and deleted, and a collector moves objects to the trash and
back. So an object is missing only if something needs it still, and if it is in ``objects/`` neither
before nor after a look into the trash.
"""

from __future__ import annotations

import contextlib
from functools import partial

from policystore._util.batches import batches
from policystore._util.concurrency import in_parallel
from policystore.backends.base import Backend
from policystore.digest import Digest
from policystore.errors import NotFoundError, PolicyStoreError
from policystore.format.keys import (
    mark_key,
    marks_prefix,
    number_of,
    object_key,
    trash_prefix,
)
from policystore.format.policy import ParsedPolicy, decode_object
from policystore.format.records import MAX_MARK, Mark, Span, find_span
from policystore.repository.verify.listing import bytes_of, trash_key_of
from policystore.repository.verify.repair import repair_object
from policystore.repository.verify.report import Fault, FaultKind
from policystore.repository.verify.run import Need, Run, read_exactly, read_key

__all__ = ["check_copy", "check_missing"]

_PAGE = 256  # objects that are looked for before the next ones are


def check_missing(run: Run) -> None:
    """Report the objects that are missing, and what needs them; repair what can be repaired."""
    while run.missing:
        missing, run.missing = run.missing, {}
        workers = run.backend.parallel
        for page in batches(((digest, needs) for digest, needs in missing.items() if needs), _PAGE):
            places = in_parallel(
                partial(_look, run.backend), [digest for digest, _ in page], workers=workers
            )
            absent = [
                (digest, needs, place)
                for (digest, needs), place in zip(page, places, strict=True)
                if place is not None
            ]
            # The marks are read after the objects were looked for: an object goes to the trash
            # only after the marks say that its versions are deleted.
            names = sorted({need.name for _, needs, _ in absent for need in needs if need.name})
            spans = in_parallel(partial(_deleted, run.backend), names, workers=workers)
            deleted = dict(zip(names, spans, strict=True))
            for digest, needs, place in absent:
                standing = [
                    need for need in dict.fromkeys(needs) if _still_needs(run, need, place, deleted)
                ]
                if standing:
                    _report(run, Digest(digest.hex()), standing, place)
            run.tell()


def _look(backend: Backend, digest_bytes: bytes) -> FaultKind | None:
    """Return where an object is: None for ``objects/``, "in trash", or "missing"."""
    digest = Digest(digest_bytes.hex())
    key = object_key(digest)
    if backend.size(key) is not None:
        return None
    copy = next(iter(backend.entries(trash_prefix(digest), problems=[])), None)
    if backend.size(key) is not None:
        return None
    return "missing" if copy is None else "in trash"


def _deleted(backend: Backend, name: str) -> tuple[Span, ...]:
    """Return which versions of a name are deleted now."""
    numbers = sorted(number_of(key) or 0 for key in backend.keys(marks_prefix(name)))
    while numbers:
        key = mark_key(name, numbers.pop())
        data = read_key(backend, key, MAX_MARK)
        # The check of the marks reports a mark that cannot be read.
        with contextlib.suppress(PolicyStoreError):
            if isinstance(data, bytes):
                return Mark.from_bytes(data, key).deleted
    return ()


def _still_needs(
    run: Run, need: Need, place: FaultKind | None, deleted: dict[str, tuple[Span, ...]]
) -> bool:
    """Return whether something that needed an object still does."""
    if need.name is not None:
        return find_span(deleted[need.name], need.number) is None
    if need.key.startswith("objects/"):
        # No record needs this policy. A collector that takes policy and tensors away may have
        # begun with the tensor.
        return place == "missing" and run.exists(need.key)
    return run.exists(need.key)


def _report(run: Run, digest: Digest, needs: list[Need], place: FaultKind | None) -> None:
    """Report that an object is missing, once for each need; or repair it."""
    reason = ""
    if run.source is not None:
        repaired = repair_object(run.source, run.backend, digest)
        if not isinstance(repaired, str):
            problem = f"the object was missing, and {needs[0].key} needs it"
            run.add(Fault(object_key(digest), problem, place or "missing"), repaired=True)
            _need_tensors(run, digest, repaired, needs)
            return
        reason = f". Not repaired: {repaired}"
    for need in needs:
        what = "version" if need.name is not None else "policy"
        if place == "in trash":
            problem = (
                f"the {what} needs the object {digest}, which is only in the trash: "
                "collect_garbage(dry_run=False) or a push of the same policy puts it back"
            )
        else:
            problem = f"the {what} needs the object {digest}, which is missing"
        run.add_fault(need.key, problem + reason, place or "missing")


def _need_tensors(run: Run, digest: Digest, data: bytes | memoryview, needs: list[Need]) -> None:
    """Look for the tensors of a policy that was put back."""
    key = object_key(digest)
    try:
        content = decode_object(data, key)
    except PolicyStoreError as error:
        run.add_fault(key, str(error), "damaged")
        return
    if not isinstance(content, ParsedPolicy):
        return
    run.inventory.objects.add(bytes_of(digest), memoryview(data).nbytes)
    for item in content.external.values():
        for need in needs:
            run.need(bytes_of(item.digest), need)


def check_copy(backend: Backend, item: bytes, size: int) -> Fault | None:
    """Check one copy in the trash. A copy that is gone was removed or put back since the listing.

    Args:
        backend: the storage.
        item: the digest and the nonce of the copy.
        size: its size by the listing.
    """
    fault = _copy_fault(backend, item, size)
    if fault is None:
        return None
    present = backend.size(fault.key)
    return None if present is None else _copy_fault(backend, item, present)


def _copy_fault(backend: Backend, item: bytes, size: int) -> Fault | None:
    key = trash_key_of(item)
    try:
        read_exactly(backend, key, Digest(item[:32].hex()), size)
    except NotFoundError:
        return None
    except PolicyStoreError as error:
        problem = f"a copy in the trash, which is needed only if the object itself is lost: {error}"
        return Fault(key, problem, "trash")
    return None
