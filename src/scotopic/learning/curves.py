"""Loss and scores of a training as TensorBoard event files, for those who want them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scotopic.protocol import Problem, ProblemsError

if TYPE_CHECKING:
    from pathlib import Path


class Curves:
    """Event files in a folder; a training that goes on adds one."""

    def __init__(self, folder: Path) -> None:
        """Begin a file.

        Raises
        ------
        ProblemsError
            If the package that writes them is not installed.
        """
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            told = "needs the package tensorboardX: pip install 'scotopic[tensorboard]'"
            raise ProblemsError([Problem(told, key="--tensorboard")]) from error
        self._writer = SummaryWriter(str(folder))

    def add(self, check: dict[str, Any], learning_rate: float) -> None:
        """Add one check: its `step`, `loss`, and `f1` by light level."""
        self._writer.add_scalar("loss", check["loss"], check["step"])
        self._writer.add_scalar("learning rate", learning_rate, check["step"])
        for level, value in check["f1"].items():
            self._writer.add_scalar(f"F1 on validation wells/{level}", value, check["step"])
        self._writer.flush()

    def close(self) -> None:
        """End the file."""
        self._writer.close()
