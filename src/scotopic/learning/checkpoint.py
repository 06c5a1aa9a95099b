"""Where a training stands, in one file from which it goes on after any kill."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from scotopic.protocol import ProblemsError
from scotopic.store.files import replace_bytes
from scotopic.store.seals import BLANK, KEY, damaged, is_intact, sealed

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor
    from torch.optim import Optimizer

    from scotopic.learning.network import NucleusNet


def write_checkpoint(path: Path, network: NucleusNet, optimizer: Optimizer, progress: dict[str, Any]) -> None:
    """Write weights, the optimizer's moments and the progress; the old file stands until the new one is whole."""
    tensors = {f"network/{name}": t.contiguous() for name, t in network.state_dict().items()}
    for number, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{number}/{name}": t.contiguous() for name, t in moments.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_bytes(path, sealed(save(tensors, {"progress": json.dumps(progress), KEY: BLANK})))


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return tensors and progress of a checkpoint, or nothing if there is none.

    Raises
    ------
    ProblemsError
        If it is damaged.
    """
    if not path.exists():
        return None
    try:
        if not is_intact(path.read_bytes()):
            raise ProblemsError([damaged(path)])
        with safe_open(path, framework="pt") as file:
            progress: dict[str, Any] = json.loads((file.metadata() or {})["progress"])
            return {name: file.get_tensor(name) for name in file.keys()}, progress
    except (SafetensorError, KeyError, ValueError) as error:
        raise ProblemsError([damaged(path)]) from error


def restore(tensors: dict[str, Tensor], network: NucleusNet, optimizer: Optimizer) -> None:
    """Put a checkpoint's tensors into a network and its optimizer."""
    network.load_state_dict({n.removeprefix("network/"): t for n, t in tensors.items() if n.startswith("network/")})
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer/"):
            _, number, moment = name.split("/")
            state.setdefault(int(number), {})[moment] = tensor.to(torch.float32)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
