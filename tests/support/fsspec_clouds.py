"""Filesystems in memory that stand for gcsfs and adlfs.

``Cloud`` creates exclusively, as the filesystems of gcsfs and adlfs do. The base class of fsspec
only seems to do so: it checks that a key is absent, and then writes the key."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from policystore.backends.gcs_azure import CREATING

_LOCK = threading.Lock()


class Attic(MemoryFileSystem):
    """A filesystem of fsspec in memory; with ``fault`` set, its calls may fail."""

    protocol = "attic"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    fault: ClassVar[Callable[[str], None] | None] = None

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(f"memory://{path.rpartition('://')[2]}")

    def cat_file(self, path: str, *args: Any, **kwargs: Any) -> bytes:
        self._fail("cat_file")
        return super().cat_file(path, *args, **kwargs)

    def ls(self, path: str, *args: Any, **kwargs: Any) -> list[Any]:
        self._fail("ls")
        return super().ls(path, *args, **kwargs)

    def _fail(self, call: str) -> None:
        if type(self).fault is not None:
            type(self).fault(call)


class Cloud(Attic):
    """A filesystem that creates exclusively for ``mode="create"`` if ``exclusive`` is set."""

    protocol = "gs"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    fault: ClassVar[Callable[[str], None] | None] = None
    exclusive: ClassVar[bool] = True

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        self._fail(f"pipe_file {mode}")
        path = self._strip_protocol(path)
        with _LOCK:
            if mode == "create" and self.exclusive and path in self.store:
                raise FileExistsError(path)
            super().pipe_file(path, value)
        self._fail(f"answer of pipe_file {mode}")


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``gs://`` mean an empty :class:`Cloud`, as if it came from gcsfs."""
    monkeypatch.setitem(_registry, "gs", Cloud)
    monkeypatch.setitem(CREATING, "gs", "fsspec")
    for attribute, value in (("store", {}), ("fault", None), ("exclusive", True)):
        monkeypatch.setattr(Cloud, attribute, value)
