"""What every section is told."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """Say how the sections measure.

    Attributes:
        quick: whether small sizes and few rounds are enough. The times then mean nothing; only the
            checks of results count.
        scratch: a folder for files, which the caller removes.
        s3: the URL of each S3 server that runs, by its kind: ``ceph``, ``moto``.
    """

    quick: bool
    scratch: str
    s3: dict[str, str] = field(default_factory=dict)

    def rounds(self, count: int) -> int:
        """Return how many rounds to measure, of the number that a full run takes."""
        return min(count, 2) if self.quick else count

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """Yield a new folder, and remove it after the block."""
        with tempfile.TemporaryDirectory(dir=self.scratch) as name:
            yield Path(name)

    def to_json(self) -> str:
        """Return the settings as one line of JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def of_json(cls, text: str) -> Settings:
        """Return the settings that :meth:`to_json` wrote."""
        return cls(**json.loads(text))
