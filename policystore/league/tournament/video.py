"""Write the pictures of episodes as a film."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from policystore._util.messages import brief
from policystore.errors import InvalidInputError, MissingPackageError, StorageError

__all__ = ["check_video", "write_video"]

_KINDS = (".mp4", ".gif")


def check_video(path: str | PathLike[str], episodes: int) -> None:
    """Check that a film can be written, before anything is played.

    Args:
        path: the file.
        episodes: how many episodes the film shows.

    Raises:
        InvalidInputError: not a path of a film in a folder that exists.
        MissingPackageError: imageio is not installed; for mp4 also ffmpeg.
    """
    if not isinstance(path, (str, PathLike)) or Path(path).suffix.lower() not in _KINDS:
        raise InvalidInputError(f"video is the path of a .mp4 or .gif file, not {brief(path)}")
    if not Path(path).absolute().parent.is_dir():
        raise InvalidInputError(f"video: there is no folder {Path(path).absolute().parent}")
    if type(episodes) is not int or episodes < 1:
        raise InvalidInputError(f"video_episodes: expected a number from 1, found {episodes!r}")
    _writer_module(Path(path).suffix.lower())


def _writer_module(suffix: str) -> Any:
    try:
        if suffix == ".mp4":
            importlib.import_module("imageio_ffmpeg")  # imageio imports it when it writes
        return importlib.import_module("imageio.v2")
    except ImportError as error:
        raise MissingPackageError.of("video=", "imageio", extra="video", error=error) from None


def write_video(path: str | PathLike[str], frames: Sequence[Any], fps: float) -> None:
    """Write pictures as a film; the file is complete, or as it was before.

    Args:
        path: a ``.mp4`` or ``.gif`` file.
        frames: arrays ``[height, width, 3]`` of uint8.
        fps: pictures a second.

    Raises:
        InvalidInputError: the environment did not render such arrays.
        StorageError: the file cannot be written.
    """
    for frame in frames:
        array = np.asarray(frame)
        if array.ndim != 3 or array.shape[2] not in (3, 4) or array.dtype != np.uint8:
            raise InvalidInputError(
                "video: expected pictures of uint8 with the shape (height, width, 3), and the "
                f"environment rendered {array.dtype} {array.shape}"
                + ("" if array.ndim else ". It may not know render_mode='rgb_array'")
            )
    target = Path(path)
    imageio = _writer_module(target.suffix.lower())
    part = target.with_name(f".{target.stem}.part{target.suffix}")
    # H.264 takes even numbers of rows and columns only.
    even = [np.asarray(each)[: each.shape[0] // 2 * 2, : each.shape[1] // 2 * 2, :3]
            for each in frames]  # fmt: skip
    try:
        if target.suffix.lower() == ".mp4":
            imageio.mimwrite(part, even, fps=fps, macro_block_size=2)
        else:
            imageio.mimwrite(part, even, duration=1000 / fps, loop=0)
        part.replace(target)
    except OSError as error:
        raise StorageError(f"the film {target} cannot be written: {error}") from error
    finally:
        part.unlink(missing_ok=True)
