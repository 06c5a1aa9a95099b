"""What a protocol may say about training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from scotopic.photons import FrozenModel


class TrainingSettings(FrozenModel):
    """How long, and how, the network learns."""

    minutes: float = Field(default=12, gt=0, le=10_000)
    """Time of training, checks included."""
    input_levels: tuple[str, ...] = ()
    """Light levels that the network learns to look at, all of one channel; those of the protocol's channel without it. Those of
    a brightfield channel make it find nuclei without any stain."""
    steps: int | None = Field(default=None, gt=0)
    """Number of steps instead: fixed steps, seed, threads and dtype give the same weights twice."""
    seed: int = Field(default=1, ge=0, lt=2**31)
    """Seed of the first weights and of all crops."""
    least_f1: float = Field(default=0.85, ge=0, lt=1)
    """Least agreement (F1 at an intersection over union of 0.5) with the reference masks at full light from which on a network
    counts as having learned: below it, it is neither used nor is low light judged by it. 0: any network is."""
    threads: int | None = Field(default=None, gt=0, le=256)
    """Threads to compute with; as many as the machine has cores without it."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """What to compute on; `auto` takes a GPU if there is one."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format; `auto` takes the faster one, by timing."""
