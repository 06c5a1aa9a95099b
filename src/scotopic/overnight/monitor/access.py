"""Who may read, and who may ask: by the token that was printed, or by what a page got for it once."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from fastapi import Request

LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""Addresses that only this computer reaches, and where reading needs no token."""
_FORMER = "is of a monitor that has ended: open the address that `scotopic monitor` has printed"


class Access:
    """The keys of one monitor.

    The *token* is printed, and robots send it with each request. A browser sends it once, in the address of the page, and gets two
    values that end with this process: a *session* in a cookie, with which it reads, and a *key* in the page, with which it asks. A
    browser sends cookies to every port of a host: whoever listens at another one gets a session, but no key, and never the token.
    """

    def __init__(self, host: str, port: int, token: str) -> None:
        self.is_private = host in LOOPBACK
        self.cookie = f"scotopic_{port}"
        self.session, self.key = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        self._token = token
        self._origins = {f"http://{url_host(name)}:{port}" for name in (host, *(LOOPBACK if self.is_private else ()))}

    def brings_token(self, request: Request) -> bool:
        """Return whether a request for the page has the token in its address, where it is to be exchanged."""
        return request.url.path == "/" and _same(request.query_params.get("token", ""), self._token)

    def has_session(self, request: Request) -> bool:
        """Return whether a request has the cookie of this monitor."""
        return _same(request.cookies.get(self.cookie, ""), self.session)

    def refusal(self, request: Request) -> tuple[int, str] | None:
        """Return status and reason with which a request is refused; nothing if it is not."""
        if f"http://{request.headers.get('host', '')}" not in self._origins:
            # A name that somebody else's server has pointed here would make its page ours.
            return 421, "this address is not served here"
        is_read = request.method in {"GET", "HEAD"}
        if not (is_read and request.url.path == "/"):  # links to the page may be anywhere
            if request.headers.get("origin", next(iter(self._origins))) not in self._origins:
                return 403, "asked by a page of another origin"
            if request.headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
                return 403, "asked by a page of another site"
        header = request.headers.get("authorization", "").removeprefix("Bearer ")
        if _same(header, self._token) or _same(header, self.key):
            return None
        if not is_read:
            told = (
                f"what the page asks with {_FORMER}"
                if header
                else "needs the token, in the header `Authorization: Bearer TOKEN`"
            )
            return 401, told
        if self.is_private or self.brings_token(request) or self.has_session(request):
            return None
        if self.cookie in request.cookies:
            return 401, f"needs the token: the cookie {_FORMER}"
        return 401, "needs the token that `scotopic monitor` has printed: open the address with ?token=..."


def is_inside(path: Path, folder: Path) -> bool:
    """Return whether a path is in a folder, after all links in it were followed."""
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # a link to itself
        return False


def url_host(host: str) -> str:
    """Return a host as an address has it."""
    return f"[{host}]" if ":" in host else host


def _same(given: str, secret: str) -> bool:
    return secrets.compare_digest(given.encode(), secret.encode())
