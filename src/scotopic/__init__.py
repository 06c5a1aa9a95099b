"""scotopic: a microscope controller that teaches itself to see in the dark.

From Python: `scotopic.open_run(path)`, `scotopic.load_model(path)` and all else that `scotopic.api` lists.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load the names of `scotopic.api` when one of them is first used: `import scotopic` stays fast."""
    if not name.startswith("_"):
        api = import_module("scotopic.api")
        if name in api.__all__:
            return getattr(api, name)
    raise AttributeError(f"module 'scotopic' has no attribute {name!r}")


def __dir__() -> list[str]:
    return ["__version__", *import_module("scotopic.api").__all__]
