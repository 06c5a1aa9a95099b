"""Patterns of file names, such as `{well}_s{site}_{level}.tif`, as regular expressions."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from scotopic.protocol import Problem, ProblemsError, did_you_mean
from scotopic.store.foreign.images import WELL

if TYPE_CHECKING:
    from collections.abc import Collection

_NUMBER = r"\d+"
_TIME = r"\d{4}y\d\dm\d\dd_\d\dh\d\dm|(?:\d+(?:min|[dhms]))+|\d+"
PLACEHOLDERS = {
    "well": WELL,
    "row": rf"[A-Z]{{1,2}}|{_NUMBER}",
    "column": _NUMBER,
    "row0": _NUMBER,
    "column0": _NUMBER,
    "number": _NUMBER,
    "site": _NUMBER,
    "tile_row": _NUMBER,
    "tile_column": _NUMBER,
    "t": _TIME,
    "z": _NUMBER,
    "level": r"[^/]+?",
    "field": r"[^/]+",
}
"""What may stand between braces in a pattern, and what it stands for; `*` besides, for anything within a name. After a colon
a regular expression may say more, `{level:w\\d+}`, which has no braces itself."""
_WORDS = {"level", "field", "*"}
_PAIRS = ("row", "column"), ("row0", "column0"), ("tile_row", "tile_column")
_GUID = r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"
"""MetaXpress adds one to each name; it belongs to no level."""


def compiled(pattern: str, levels: Collection[str] = ()) -> re.Pattern[str]:
    """Return the regular expression of a pattern, for the end of a path with folders parted by `/`.

    Parameters
    ----------
    levels : collection of str
        Names of light levels, if they are known: then nothing else is one.

    Raises
    ------
    ProblemsError
        If a placeholder is none, or one of a pair is missing.
    """
    known = "|".join(map(re.escape, sorted(levels, key=len, reverse=True)))
    text, names, after_star = "", list[str](), False
    for number, part in enumerate(re.split(r"\{(.*?)\}", pattern)):
        if number % 2 == 0:
            text += re.escape(part)
            after_star = after_star and not part
            continue
        name, _, own = part.partition(":")
        if name != "*" and name not in PLACEHOLDERS:
            hint = did_you_mean(name, PLACEHOLDERS) or f"allowed: {', '.join(PLACEHOLDERS)}, *"
            raise ProblemsError([Problem(f"= {pattern!r}: {{{name}}} is no placeholder; {hint}", key="--pattern")])
        if name == "*":
            text += own or "[^/]*?"
        elif name in names:
            text += f"(?P={name})"
        else:
            text += _group(name, known if name == "level" and known else own, after_star=after_star)
        names.append(name)
        after_star = name == "*" and not own
    for one, other in _PAIRS:
        if (one in names) != (other in names):
            told = f"= {pattern!r}: {{{one}}} and {{{other}}} go together"
            raise ProblemsError([Problem(told, key="--pattern")])
    try:
        return re.compile(rf"(?:^|/){_any_tiff(text)}$", re.IGNORECASE)
    except re.error as error:
        raise ProblemsError([Problem(f"= {pattern!r}: no regular expression: {error}", key="--pattern")]) from None


def _group(name: str, own: str, *, after_star: bool) -> str:
    """Return the group of a placeholder. A number is a whole number, and a well after `*` no end of a word: `run5_B02` has no well N5."""
    group = f"(?P<{name}>{own or PLACEHOLDERS[name]})"
    if name == "level":
        return f"{group}(?:{_GUID})?"
    if name in _WORDS:
        return group
    before = r"(?<![A-Za-z0-9])" if after_star and name in {"well", "row"} else ""
    return rf"{before}(?<!\d){group}(?!\d)"


def _any_tiff(text: str) -> str:
    """Return a pattern in which `.tif` and `.tiff` are one."""
    return re.sub(r"\\\.tiff?$", r"\\.tiff?", text, flags=re.IGNORECASE)
