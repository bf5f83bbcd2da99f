"""The shipped template made again: tissue maps of the training heads in template coordinates, landmarks, sizes.

Run it as ``python -m models.train.brain_template FILE``, with the data sets in ``ISOCENTER_DATA``. It is symmetric:
each map is averaged with its mirror image. The MNI ICBM 152 template gives the coordinates alone (licence: free use,
modification and distribution with the copyright notice, (C) 1993-2009 Louis Collins, McConnell Brain Imaging Centre,
Montreal Neurological Institute, McGill University); the maps are those of SynthSeg's label maps (Apache-2.0).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.train.atlas import COMMISSURES, ORIGIN, SHAPE_2MM, Atlas, load_atlas
from models.train.labels import Head
from models.train.simulated import source_of
from models.train.tissue import NAMES, NUMBER

Floats = NDArray[np.float64]

CLASSES: tuple[tuple[str, ...], ...] = (
    ("white", "cerebellar_white", "brainstem", "ventral_dc", "white_spots", "optic_nerve", "spinal_cord"),
    ("cortex", "cerebellar_cortex", "hippocampus", "amygdala", "accumbens", "caudate", "putamen"),
    ("thalamus", "pallidum"),
    ("csf", "ventricle", "choroid", "dura"),
    ("cortical_bone",),
    ("muscle", "eye_muscle", "mucosa", "vein", "artery", "marrow", "vitreous"),
    ("fat", "skin"),
)
"""Tissues that share one brightness, brain first; air has none."""
MARKS = ("EYE_L", "EYE_R", "HIP_L_A", "HIP_L_P", "HIP_R_A", "HIP_R_P", "CHIASM")
"""Landmarks that are means over heads."""
_IAC = (0.0, 36.0, -35.0)  # between the internal auditory canals, estimated: no label tells where they are


def parts_of(head: Head, atlas: Atlas) -> NDArray[np.float32]:
    """Return the part of each class on the template's 2 mm grid (z, y, x, class) in one head.

    Every fine voxel of the head is counted where its template place is; cells that none reached take their neighbours'.
    """
    index = np.stack(np.meshgrid(*[np.arange(n, dtype=np.float32) for n in head.tissue.shape], indexing="ij"), axis=-1)
    count = np.zeros((*SHAPE_2MM, len(CLASSES) + 1), np.float32)
    table = np.full(len(NAMES), len(CLASSES))
    for number, names in enumerate(CLASSES):
        table[[NUMBER[n] for n in names]] = number
    for z in range(head.tissue.shape[0]):
        places = atlas.coordinates(index[z].reshape(-1, 3).astype(np.float64))
        cell = np.rint((places - ORIGIN) / 2).astype(int)[:, ::-1]
        fits = ((cell >= 0) & (cell < SHAPE_2MM)).all(axis=1)
        kinds = table[np.asarray(head.tissue[z]).ravel()[fits]]
        np.add.at(count, (*cell[fits].T, kinds), 1)
    blurred = ndimage.gaussian_filter(count, (0.4, 0.4, 0.4, 0))
    return np.asarray(blurred[..., :-1] / np.maximum(blurred.sum(axis=-1, keepdims=True), 1e-3), np.float32)


def stretch_of(head: Head, atlas: Atlas) -> Floats:
    """Return the symmetric part of the affine map from a head's brain to the template, LPS (3, 3)."""
    known = np.isin(head.tissue[::4, ::4, ::4], [NUMBER[n] for c in CLASSES[:3] for n in c])
    brain = 4 * np.argwhere(known).astype(np.float64)
    places = np.c_[brain[:, ::-1], np.ones(len(brain))]
    affine = np.linalg.lstsq(places, atlas.coordinates(brain).astype(float), rcond=None)[0][:3].T
    u, s, _ = np.linalg.svd(affine)
    return np.asarray(u @ np.diag(s) @ u.T)


def write_template(path: Path) -> None:
    """Make the template of the training heads."""
    source = source_of("training")
    pairs = [(head, load_atlas(head, data=source.data, cache=source.cache)) for head in source.heads]
    whole = np.mean([parts_of(head, atlas) for head, atlas in pairs], axis=0)
    parts = (whole + whole[:, :, ::-1]) / 2
    stretch = np.mean([stretch_of(head, atlas) for head, atlas in pairs], axis=0)
    stretch[0, 1:] = stretch[1:, 0] = 0
    marks = {name: np.mean([a.coordinates(a.landmarks[name][None])[0] for _, a in pairs], axis=0) for name in MARKS}
    swapped = {n: n.replace("_L", "_#").replace("_R", "_L").replace("_#", "_R") for n in MARKS}
    even = {n: (marks[n] + marks[swapped[n]] * [-1, 1, 1]) / 2 for n in MARKS}
    known = {name: np.array(place) for name, place in (*COMMISSURES.items(), ("IAC", _IAC))}
    np.savez_compressed(
        path,
        allow_pickle=False,
        parts=np.round(parts * 255).astype(np.uint8),
        stretch=stretch,
        **{f"mark_{n}": v for n, v in (known | even).items()},
    )


if __name__ == "__main__":
    write_template(Path(sys.argv[1]))
