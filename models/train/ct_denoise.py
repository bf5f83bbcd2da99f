"""Noise out of CT slices [HU], with the map of the noise that ``image.noise`` reads from the slice itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from models.noise import floored
from models.train.recipe import Case, Setting
from models.train.simulated import Simulated, used
from recon.noise import local_noise

_BODY_HU = -900.0


@dataclass(frozen=True, kw_only=True)
class CtDenoise(Simulated):
    """See the module.

    Noise of a twentieth to a half of the dose, in four kernels. How strong it is at each place the network is told as
    the service knows it: from the slice. Blocks of pixels count much in the loss, so that what is left of the noise
    is no coarser than what was taken.
    """

    kind: str = "ct"
    kept: int = 120
    matrices: tuple[int, ...] = (256, 256, 384)
    coarse: float = 2.0
    detail: float = 1.0
    kept_whole: float = 4.0
    settings: ClassVar[Mapping[str, Setting]] = {
        "small": Setting(steps=8_000, batch=8, rate=1e-3, cases=64, precision="bf16"),
        "full": Setting(steps=200_000, batch=16, rate=1e-3, cases=64, device="cuda", precision="bf16", workers=8),
        "tiny": Setting(steps=4, batch=2, rate=1e-3, cases=2, average=0.9),
    }

    def noise(self, sample: dict[str, NDArray]) -> NDArray[np.float32]:
        """Return the noise as ``image.noise`` finds it."""
        return floored(local_noise(sample["image"]))

    def case(self, sample: dict[str, NDArray]) -> Case:
        """Return a sample as the service would see it; figures are of the body."""
        return Case(sample["image"], sample["target"], self.noise(sample), sample["target"] > _BODY_HU)

    def card(self) -> dict[str, Any]:
        """Return what a person says of it."""
        return {
            "title": "Denoising of CT slices of head and chest",
            "intended_use": "Less noise at reduced dose beside the conventional image, which stays the image to read."
            " Research software, not a medical device.",
            "modality": "CT",
            "anatomy": ["HEAD", "BRAIN", "SKULL", "CHEST", "THORAX", "LUNG"],
            "sequences": [],
            "input": {
                "units": ["HU"],
                "kinds": ["magnitude", "real"],
                "noise": "noise",
                "matrix": [512, 512],
                "ranges": {"noise": [1.0, 400.0], "voxel_mm": [0.55, 1.65], "slice_mm": [0.5, 5.0]},
            },
            "network": {"name": "unet", "parameters": {"width": 32, "levels": 3}, "precision": "bf16"},
            "members": 2,
            "training": used(
                ("SynthSeg label maps with HU, noise simulated in the views", "Apache-2.0"),
                ("procedural chests, noise simulated in the views", "Apache-2.0"),
            ),
            "limits": [
                "Trained on simulated heads and procedural chests; abdomen, pelvis and children were not shown.",
                "Parallel beam, filtered backprojection: noise of iterative reconstructions is of another kind.",
                "At full strength what is left of the noise is coarser than before, its peak at a fifth of the"
                " frequency; up to a strength of 0.6 the peak stays where it was.",
                "Faint lesions of 2 pixels (5 standard deviations of the noise) keep 76 % of their contrast at full"
                " strength, about 85 % at 0.6; stronger or larger ones 90 % and more.",
                "The noise is read from the slice: where fine texture fills 30 pixels it is taken for noise.",
            ],
        }
