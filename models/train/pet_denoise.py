"""Noise out of PET slices at few counts, with the map of the noise that the halves of the counts give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from models.train.recipe import Setting
from models.train.simulated import Simulated, used

_HUBER = 3.0  # standard deviations of the noise beyond which an error counts linearly


@dataclass(frozen=True, kw_only=True)
class PetDenoise(Simulated):
    """See the module.

    Few counts are skewed: what minimises the magnitude of errors is a median, below the mean. So errors are squared,
    and means over blocks count as much as pixels: SUVmean is what is measured in PET.
    """

    kind: str = "pet"
    kept: int = 2500
    matrices: tuple[int, ...] = (64,)
    patch: int = 64
    coarse: float = 1.0
    detail: float = 1.0
    kept_whole: float = 3.0
    dark: bool = False
    settings: ClassVar[Mapping[str, Setting]] = {
        "small": Setting(steps=3_500, batch=8, rate=1e-3, cases=240, precision="bf16"),
        "full": Setting(steps=200_000, batch=16, rate=1e-3, cases=64, device="cuda", precision="bf16", workers=8),
        "tiny": Setting(steps=4, batch=2, rate=1e-3, cases=2, average=0.9),
    }

    def penalty(self, error: Tensor) -> Tensor:
        """Return what each error costs: its square, beyond a few standard deviations its magnitude."""
        size = error.abs().clamp_max(_HUBER)
        return size * (error.abs() - 0.5 * size)

    def card(self) -> dict[str, Any]:
        """Return what a person says of it."""
        return {
            "title": "Denoising of FDG PET at few counts",
            "intended_use": "Less noise at few counts beside the conventional image, which stays the image to measure."
            " Research software, not a medical device.",
            "modality": "PT",
            "anatomy": ["EXTREMITY", "LEG", "THIGH", "KNEE", "ARM", "SHOULDER", "PELVIS", "WHOLEBODY"],
            "sequences": [],
            "input": {
                "units": ["Bq/mL"],
                "kinds": ["magnitude", "real"],
                "noise": "noise",
                "figures": "object",
                "matrix": [128, 128],
                "ranges": {"voxel_mm": [2.0, 6.0], "slice_mm": [1.5, 6.0]},
            },
            "network": {"name": "unet", "parameters": {"width": 32, "levels": 3}, "precision": "bf16"},
            "members": 4,
            "training": used(("IBSI / TCIA soft-tissue sarcoma FDG PET, counts simulated on it", "CC BY 3.0")),
            "limits": [
                "Trained on slices of 13 people with sarcomas, measured again by a simulated two-dimensional scanner"
                " without time of flight; 5e3 to 5e5 true counts per slice.",
                "SUVmax falls with the noise that it is made of: compare it with the conventional image only.",
                "Lesions of 2 pixels keep 83 % of their contrast at full strength and 87 % at 0.75; of 3 and 4 pixels"
                " 89 to 96 %.",
                "The image does not tell that attenuation was not corrected, that half of the counts came from"
                " elsewhere, or metal: these must be found before.",
                "Brain and heart were not shown.",
            ],
        }
