"""Noise out of complex MR slices, with the map of the g-factor beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from models.train.recipe import Setting
from models.train.simulated import Simulated, used


@dataclass(frozen=True, kw_only=True)
class MrDenoise(Simulated):
    """See the module.

    The image is complex, in units of its noise (behind ``mri.prewhiten`` and ``mri.combine``): there the noise is
    normal, without the bias that magnitudes have. In training it has passed unfolding, filters and normalisation.
    """

    kind: str = "denoise"
    kept: int = 120
    matrices: tuple[int, ...] = (192,)
    kept_whole: float = 1.5
    settings: ClassVar[Mapping[str, Setting]] = {
        "small": Setting(steps=2_000, batch=8, rate=1e-3, cases=48, precision="bf16"),
        "full": Setting(steps=200_000, batch=16, rate=1e-3, cases=64, device="cuda", precision="bf16", workers=8),
        "tiny": Setting(steps=4, batch=2, rate=1e-3, cases=2, average=0.9),
    }

    def card(self) -> dict[str, Any]:
        """Return what a person says of it."""
        return {
            "title": "Denoising of complex MR images of the head",
            "intended_use": "Less noise in slices of the head beside the conventional image, which stays the image to"
            " read. Research software, not a medical device.",
            "modality": "MR",
            "anatomy": ["HEAD", "BRAIN"],
            "sequences": [],
            "input": {
                "units": ["1"],
                "kinds": ["complex"],
                "noise": "gfactor",
                "matrix": [192, 192],
                "ranges": {"snr": [3.0, 400.0], "voxel_mm": [0.8, 1.6], "slice_mm": [0.8, 6.0]},
            },
            "network": {
                "name": "unet",
                "parameters": {"image_channels": 2, "corrected_channels": 2, "width": 32, "levels": 3},
                "precision": "bf16",
            },
            "members": 2,
            "training": used(("SynthSeg label maps, contrasts and noise simulated on them", "Apache-2.0")),
            "limits": [
                "Trained on simulated contrasts of 12 healthy heads with drawn lesions; real pathology was not shown.",
                "Trained at 1.0 to 1.4 mm in plane. Noise is that of Cartesian scans with regular undersampling up to"
                " 4; noise of regularised or non-Cartesian images is of another kind.",
                "Lesions of 2 pixels and 5 standard deviations of the noise keep 79 % of their contrast at full"
                " strength and 84 % at 0.75, twice as strong ones 88 and 91 %; of 3 and 4 pixels 95 % and more.",
                "Detail far below the noise is taken for noise: about a fifth of the truth's finest detail is in what"
                " full strength removes.",
                "Needs whitened data and the map of the g-factor; a wrong noise scan makes it smooth too much.",
            ],
        }
