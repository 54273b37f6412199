"""`Page`: HTML that brings all it needs, and may load nothing else.

Its style and its script stand in it and are named by their hashes in the policy that it comes with, so whatever else found
its way into the page is neither run nor shown as anything but text. What goes into a page is escaped by whoever puts it there.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from html import escape
from pathlib import Path

from starlette.responses import HTMLResponse, Response

STYLE = Path(__file__).with_name("pages.css").read_text(encoding="utf-8")


class Page:
    """body: HTML. script: JavaScript, run when the body is there."""

    def __init__(self, title: str, body: str, script: str = "") -> None:
        self.html = (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n"
            f"{f'<script>{script}</script>' if script else ''}\n</body>\n</html>\n"
        )
        sources = {"default-src": "'none'", "base-uri": "'none'", "form-action": "'none'", "frame-ancestors": "'none'"}
        sources |= {"style-src": _hash_of(STYLE)} | ({"script-src": _hash_of(script)} if script else {})
        self.policy = "; ".join(f"{what} {source}" for what, source in sources.items())

    def response(self) -> Response:
        return HTMLResponse(self.html, headers={"content-security-policy": self.policy, "x-content-type-options": "nosniff"})


def _hash_of(text: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
