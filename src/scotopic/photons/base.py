from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class FrozenModel(BaseModel):
    """Base of every model that is read from a user's file.

    Unknown keys are refused (a typo must not pass as a default), values do not change after
    loading, and the text under a field becomes its description in the JSON schema.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True, validate_default=True
    )
