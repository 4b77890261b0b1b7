"""The elements, texts and attributes of a piece of HTML, and a text that tries to add some."""

from __future__ import annotations

from html.parser import HTMLParser

HOSTILE = "<script>alert('x')</script>\x1b[31m\n&\"'><img src=x onerror=alert(1)>"
SHOWN = HOSTILE.replace("\x1b", "\\x1b").replace("\n", "\\n")
"""The text as a person should see it."""


class Page(HTMLParser):
    """The elements of a piece of HTML; unclosed ones stay in ``open``."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def has_only_harmless_elements(self) -> bool:
        """Return whether all elements are closed, and none of them loads or runs anything."""
        names = {name for name, _ in self.attributes}
        return (
            not self.open
            and set(self.tags) <= ELEMENTS
            and names <= {"style", "title", "scope", "open", "aria-hidden"}
            and not any(
                "url(" in (value or "") for name, value in self.attributes if name == "style"
            )
        )


ELEMENTS = {
    "div", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "span"
}  # fmt: skip
