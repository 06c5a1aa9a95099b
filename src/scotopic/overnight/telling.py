"""Messages to people, by mail and by chat: whatever Apprise knows an address for."""

from __future__ import annotations

import logging
import os
import queue
import threading
from typing import TYPE_CHECKING

from scotopic.overnight.watching import GOOD, Event
from scotopic.protocol import Problem, ProblemsError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

logger = logging.getLogger(__name__)
ADDRESSES = "SCOTOPIC_NOTIFY"
"""Environment variable: Apprise addresses, with spaces between them. They hold passwords: no file of ours does."""
QUIET = "SCOTOPIC_NOTIFY_QUIET"
"""Environment variable: set, only what went wrong is told."""
_KEYRING = ("scotopic", "notify")
_RETRIES_S = (5.0, 60.0, 600.0)
_LONGEST_END_S = 20.0


def addresses() -> list[str]:
    """Return where people are to be told: from the environment, or else from the keyring of the computer."""
    text = os.environ.get(ADDRESSES, "")
    if not text:
        try:
            import keyring

            text = keyring.get_password(*_KEYRING) or ""
        except Exception as error:  # whatever a computer without a keyring makes of it
            logger.debug("no keyring: %s", error)
    return text.split()


class Teller:
    """Tells events to people from a thread of its own; a message that cannot be sent is tried again, and then logged."""

    def __init__(self, to: Sequence[str], *, quiet: bool = False) -> None:
        """Take addresses.

        Raises
        ------
        ProblemsError
            If Apprise is not installed, or does not know an address. The address itself is not shown: it holds a password.
        """
        try:
            import apprise
        except ImportError as error:
            raise ProblemsError([Problem("needs pip install 'scotopic[overnight]'", key=ADDRESSES)]) from error
        self._apprise, self._quiet = apprise.Apprise(), quiet
        self._types = apprise.NotifyType
        for number, address in enumerate(to, start=1):
            if not self._apprise.add(address):
                kind = address.partition("://")[0]
                told = f"address {number} ({kind}://...) is none that Apprise knows; see https://github.com/caronc/apprise/wiki"
                raise ProblemsError([Problem(told, key=ADDRESSES)])
        self._waiting: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._send_all, name="teller", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def names(self) -> list[str]:
        """The addresses, without what is secret in them."""
        return [str(server.url(privacy=True)) for server in self._apprise]  # type: ignore[no-untyped-call]

    def tell(self, event: Event) -> None:
        """Tell an event, if it is wanted; returns at once."""
        if not (self._quiet and event.kind in GOOD):
            self._waiting.put(event)

    def close(self) -> None:
        """Send what is left, for some seconds. May be called twice."""
        self._waiting.put(None)
        self._ended.set()
        self._thread.join(_LONGEST_END_S)

    def send(self, event: Event) -> bool:
        """Send an event now, and return whether all addresses have taken it."""
        good = event.kind in GOOD or event.kind == "test"
        kind = self._types.SUCCESS if good else self._types.WARNING if event.kind == "drift" else self._types.FAILURE
        try:
            return bool(self._apprise.notify(title=event.title, body=event.text, notify_type=kind))
        except Exception:
            logger.exception("a message could not be sent")
            return False

    def _send_all(self) -> None:
        while (event := self._waiting.get()) is not None:
            for wait_s in (*_RETRIES_S, None):
                if self.send(event):
                    break
                if wait_s is None or self._ended.wait(wait_s):
                    logger.error("nobody could be told: %s: %s", event.title, event.text)
                    break


def teller() -> Teller | None:
    """Return who tells people, by the environment or the keyring; nothing if there is no address."""
    to = addresses()
    return Teller(to, quiet=bool(os.environ.get(QUIET))) if to else None
