"""Describe the metadata of an exported file in words."""

from __future__ import annotations

from typing import Any

from policystore._util.messages import shorten
from policystore.display.words import with_facts
from policystore.format.canonical_json import JsonObject
from policystore.spaces.words import space_in_words

__all__ = ["metadata_in_words"]

_LONGEST = 400  # characters of a list of tensors


def metadata_in_words(written: JsonObject) -> str:
    """Return a table of what a file holds: a title, and a line for each fact.

    Args:
        written: the JSON of the metadata, which was checked.
    """
    return with_facts(
        f"Metadata of {written['digest']}",
        {
            "contents": str(written["contents"]),
            "algorithm": str(written["algorithm"] or ""),
            "stack": str(written["stack"]),
            "exported by": f"policystore {written['policystore']}",
            "observations": space_in_words(written["observation_space"]),
            "actions": space_in_words(written["action_space"]),
            "inputs": _tensors(written["inputs"], "name"),
            "outputs": _tensors(written["outputs"], "name"),
            "state": _tensors(written["state"], "input"),
        },
    )


def _tensors(tensors: Any, name: str) -> str:
    words = [f"{tensor[name]} {tensor['dtype']}{tensor['shape']}" for tensor in tensors]
    return shorten(", ".join(words), _LONGEST)
