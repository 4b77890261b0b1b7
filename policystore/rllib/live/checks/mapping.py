"""Make a report's notes on mapping functions that could not be checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from policystore.rllib.worker_code.messages.answers import MappingAnswer

if TYPE_CHECKING:
    from policystore.rllib.workers.answers import Answer
    from policystore.rllib.workers.discovery import Worker

__all__ = ["mapping_notes"]


def mapping_notes(answers: Mapping[Worker, Answer[MappingAnswer]]) -> tuple[str, ...]:
    """Return a note for each reason for which workers could not ask a mapping function."""
    names: dict[str, list[str]] = {}
    for worker, answer in answers.items():
        if answer.ok and answer.get().remark:
            names.setdefault(answer.get().remark, []).append(worker.name)
    return tuple(
        f"the mapping function could not be checked on {', '.join(workers)}: for an episode that "
        f"has just been made it raises {why}. Make sure that it returns only ids of policies that "
        "the Algorithm has."
        for why, workers in names.items()
    )
