"""Bring links that leave docs/ onto the site of the docs; mkdocs.yml names this hook.

Pages in ``docs/`` link to other files of the repository by relative paths, so that a reader of the
repository can follow the links, too. The site has only what is in ``docs/``. So this hook adds
README, CONTRIBUTING and CHANGELOG as pages, and each other file that a page links to as a page with
the file's text. Then the hook changes the links to these pages.

The fence of a code block may have a second word, such as ``python rllib``, which tells the tests
how to run the block. The hook removes this word: mkdocs would not take the lines for a block.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
DOCS = "docs/"
PAGES = {
    "README.md": "readme.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Pages outside of ``docs/`` by their path in the repository, with their path on the site."""

_FENCE = re.compile(r"(^ *```.*?^ *```$)", re.MULTILINE | re.DOTALL)
_SECOND_WORD = re.compile(r"^( *```\w+) .*$", re.MULTILINE)
_LINK = re.compile(r"(?<=\]\()[^)\s]+(?=\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside of ``docs/``, and the files that pages link to."""
    texts = {path: (ROOT / path).read_text(encoding="utf-8") for path in PAGES}
    for path, text in texts.items():
        files.append(File.generated(config, PAGES[path], content=text))
    texts |= {DOCS + file.src_uri: file.content_string for file in files.documentation_pages()}
    for path in sorted({path for page, text in texts.items() for path in _sources(page, text)}):
        code = (ROOT / path).read_text(encoding="utf-8").rstrip("\n")
        text = f"# {path}\n\n````{_language(path)}\n{code}\n````\n"
        files.append(File.generated(config, _on_site(path), content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_more: Any) -> str:
    """Change the links of a page to paths of the site, and the fences to those of mkdocs."""
    here = page.file.src_uri
    path = next((path for path, place in PAGES.items() if place == here), DOCS + here)

    def moved(match: re.Match[str]) -> str:
        target = match[0]
        led = _led(path, target)
        if led is None:
            return target
        anchor = target.partition("#")[2]
        place = posixpath.relpath(_on_site(led), posixpath.dirname(here) or ".")
        return f"{place}#{anchor}" if anchor else place

    return "".join(
        _SECOND_WORD.sub(r"\1", part) if part.lstrip().startswith("```") else _LINK.sub(moved, part)
        for part in _FENCE.split(markdown)
    )


def _led(page: str, target: str) -> str | None:
    """Return the path in the repository to which a link leads; None for a link to elsewhere."""
    parts = urlsplit(target)
    if parts.scheme or not parts.path:
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), parts.path))


def _on_site(path: str) -> str:
    """Return the place on the site of a file of the repository."""
    if path.startswith(DOCS):
        return path.removeprefix(DOCS)
    return PAGES.get(path) or f"source/{path}.md"


def _sources(page: str, text: str) -> set[str]:
    """Return the other files of the repository that a page links to."""
    led = {_led(page, target) for target in _LINK.findall(_FENCE.sub("", text))}
    paths = {path for path in led if path and not path.startswith(DOCS) and path not in PAGES}
    for path in paths:
        if not (ROOT / path).is_file():
            raise PluginError(f"{page} links to {path}, which is no file of the repository")
    return paths


def _language(path: str) -> str:
    return {".py": "python", ".toml": "toml", ".sh": "sh"}.get(Path(path).suffix, "text")
