"""Checks of a page that must work from a disk without a network."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

ADDRESSES = ("src", "href", "srcset", "action", "data", "poster", "formaction", "background", "cite", "ping")
CALLS = (
    r"https?:|\bfetch\(|XMLHttpRequest|WebSocket|EventSource|sendBeacon|\beval\(|new Function|import\(|@import|url\("
)


class Page(HTMLParser):
    """Addresses, scripts, styles and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.inline: dict[str, list[str]] = {"script": [], "style": []}
        self.handlers: list[str] = []
        self.policy, self.kind, self.data = "", "", ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.addresses += [values[name] for name in ADDRESSES if name in values]
        self.handlers += [name for name in values if name.startswith("on") or name == "style"]
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"]
        self.kind = tag if "type" not in values else "data" if values.get("id") == "data" else ""

    def handle_endtag(self, tag: str) -> None:
        self.kind = ""

    def handle_data(self, data: str) -> None:
        if self.kind == "data":
            self.data += data
        elif self.kind in self.inline:
            self.inline[self.kind].append(data)


def assert_offline(path: Path) -> Page:
    """The page names no outside address, calls nothing, and its policy allows just what is in it."""
    text = path.read_text("utf-8")
    page = Page(text)
    assert all(address.startswith(("data:", "#")) for address in page.addresses), page.addresses
    assert not page.handlers
    code = re.sub(r"data:[a-z/]+;base64,[A-Za-z0-9+/=]+", "", text)
    assert not re.findall(CALLS, code)
    assert "default-src 'none'" in page.policy
    for kind, sources in (("script-src", page.inline["script"]), ("style-src", page.inline["style"])):
        assert len(sources) == 1
        digest = base64.b64encode(hashlib.sha256(sources[0].encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in page.policy
    return page
