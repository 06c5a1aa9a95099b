"""YAML as users' files have it: the booleans and numbers of YAML 1.2, no tags, and no more than such a file can need.

A YAML file of a few lines can stand for billions of values (aliases of aliases), and one of some megabytes takes PyYAML minutes:
both are refused before anything is made of them, with the line.
"""

from __future__ import annotations

import re
from typing import Any

import yaml
from yaml.composer import ComposerError

MOST_BYTES = 500_000
"""Size of a file. A plate of 1536 wells with labels for each has a fifth of it."""
MOST_VALUES = 20_000
"""Keys and values of a file, aliases counted as what they stand for: PyYAML composes as many in a second."""
_MOST_DIGITS = 300
"""What has more digits stays text: it is no number that a computer can reckon with."""


_TOO_MANY = f"more than {MOST_VALUES} keys and values; no protocol or profile has so many"


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the booleans and numbers of YAML 1.2, and without its dates.

    By YAML 1.1, `off`, `no` and `yes` are booleans, `1e3` is text, `0200` is 128 and `3:20` is 200: each a trap in a
    file about light.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own way
        first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":null", ":merge"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._count = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node, as long as it is one of ours."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) is not None:
            problem = f"tags are not allowed, such as {event.tag.replace('tag:yaml.org,2002:', '!!')}"
            raise ComposerError(None, None, problem, event.start_mark)
        self._count += 1
        if self._count > MOST_VALUES:
            raise ComposerError(None, None, _TOO_MANY, event.start_mark)
        return super().compose_node(parent, index)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^([-+]?(\.\d+|\d+\.\d*|\d+(?=[eE]))([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"),
    list("-+.0123456789"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(rf"^[-+]?\d{{1,{_MOST_DIGITS}}}$"), list("-+0123456789")
)
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value, 10))


def compose(text: str) -> yaml.Node | None:
    """Return the nodes of a YAML text, which know their lines; nothing of an empty one.

    Raises
    ------
    yaml.YAMLError
        If it is no YAML, has tags, or stands for more than `MOST_VALUES`.
    ValueError, OverflowError
        If an escape in it stands for no character.
    RecursionError
        If it is nested too deeply, or within itself.
    """
    loader = _Loader(text)
    try:
        root: yaml.Node | None = loader.get_single_node()
    finally:
        loader.dispose()
    if root is not None:
        _count(root, {})
    return root


def construct(root: yaml.Node) -> Any:
    """Return the values of nodes.

    Raises
    ------
    yaml.YAMLError
        If a key is none, or what is to be merged is no mapping.
    """
    return _Loader("").construct_document(root)


def _count(node: yaml.Node, counted: dict[int, int]) -> int:
    """Return how many keys and values a node stands for, each alias counted as what it stands for.

    Parameters
    ----------
    counted : dict of int to int
        Counts of nodes by their identity, so that each one is counted once; filled here.
    """
    if id(node) in counted:
        if not counted[id(node)]:
            raise RecursionError("within itself")
        return counted[id(node)]
    counted[id(node)] = 0
    inner = node.value if isinstance(node, yaml.SequenceNode) else []
    if isinstance(node, yaml.MappingNode):
        inner = [each for pair in node.value for each in pair]
    count = 1 + sum(_count(each, counted) for each in inner)
    if count > MOST_VALUES:
        raise ComposerError(None, None, _TOO_MANY, node.start_mark)
    counted[id(node)] = count
    return count
