"""What the HTTP interface takes in, as models that say what is wrong with anything else."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from acquisition.items import SlicePlan
from acquisition.slice_plan import plan_of
from integration.delivery.answers import Word

_Number = Annotated[float, Field(ge=-1e5, le=1e5, allow_inf_nan=False)]
_Vector = tuple[_Number, _Number, _Number]
_Size = Annotated[float, Field(gt=0, le=2000, allow_inf_nan=False)]


class AnswerBody(BaseModel):
    """A person's word on an exam."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    word: Word
    """accept, repeat or reject."""
    who: str = Field(min_length=1, max_length=100)
    """Who says so."""
    why: str = Field(default="", max_length=500)
    """The reason, in their words."""


class PlanBody(BaseModel):
    """A slice plan as a person moved it."""

    model_config = ConfigDict(extra="forbid")

    centre_mm: _Vector
    """Centre of the slab, LPS [mm]."""
    normal: _Vector
    """Unit slice normal, LPS."""
    in_plane: _Vector
    """Unit vector of the readout direction, LPS."""
    fov_mm: tuple[_Size, _Size] | None = None
    """Field of view (y, x) [mm]; as planned when left out."""
    n_slices: int | None = Field(default=None, ge=1, le=1000)
    """Number of slices; as planned when left out."""
    slice_distance_mm: float | None = Field(default=None, gt=0, le=100)
    """Distance of slice centres [mm]; as planned when left out."""

    def over(self, plan: SlicePlan) -> SlicePlan:
        """Return `plan` with what is given here in its place.

        Raises
        ------
        ConfigError
            The directions are no perpendicular unit vectors.
        """
        given = {name: value for name, value in self.model_dump().items() if value is not None}
        return plan_of(plan.as_dict() | given, where="plan")
