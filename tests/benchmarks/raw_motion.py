"""Heads that move between shots, as raw data: held-out label maps, known poses, SNR 15."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from acquisition.items import READOUT_HEAD, Flag, Readouts
from acquisition.scan import Encoding, Limits, MrHeader, Scan
from models.train.anatomy import Plane
from models.train.contrast import TRAINS
from models.train.encode import image_of, reference_level, white_noise
from models.train.labels import Head, load_heads
from models.train.motion import Movement, moving_kspace, shots_of
from models.train.mr import MrSpec, random_slice
from models.train.tissue import tissues

TRAIN_KINDS = ("t2_tse", "pd_tse", "flair")
_RUNS = 16  # shots of a scan without trains
_MOST = 0.4  # of the shots that move
_ACS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One slice of a head, lines in shots."""

    kspace: NDArray[np.complex64]
    """White (coil, line, sample)."""
    reference: NDArray[np.complex64]
    """The middle lines measured at rest, with noise of their own (coil, line, sample)."""
    shots: NDArray[np.int64]
    """Shot of each line (line,)."""
    moved: NDArray[np.bool_]
    """Shots out of the first pose (shot,)."""
    poses: NDArray[np.float64]
    """Shift along phase and readout, turn (shot, 3) [mm, mm, degrees]."""
    fov_mm: tuple[float, float]
    """Field of view (y, x)."""
    train: bool
    """Lines of a shot are interleaved with the others'."""

    def scan(self, calibration: str) -> Scan:
        """Return the header; `calibration` is ``embedded`` or ``separate``."""
        _, ny, nx = self.kspace.shape
        etl = -(-ny // len(np.unique(self.shots))) if self.train else 1
        encoding = Encoding(
            matrix=(1, ny, nx),
            fov_mm=(5.0, *self.fov_mm),
            recon_matrix=(1, ny, nx),
            recon_fov_mm=(5.0, *self.fov_mm),
            limits={"k1": Limits(0, ny - 1, ny // 2)},
            calibration_mode=calibration,
            echo_train_length=etl,
        )
        return Scan(uid="moving head", modality="MR", mr=MrHeader(encodings=(encoding,)))

    def readouts(self, calibration: str) -> Iterator[Readouts]:
        """Yield the readouts in the order of time, shot after shot."""
        _, ny, _ = self.kspace.shape
        if calibration == "separate":
            for i in range(_ACS):
                yield _readout(self.reference[:, i], ny // 2 - _ACS // 2 + i, Flag.CALIBRATION)
        order = np.argsort(self.shots, kind="stable")
        for n, k1 in enumerate(order.tolist()):
            last = Flag.LAST_IN_SLICE if n == ny - 1 else Flag(0)
            yield _readout(
                self.kspace[:, k1], k1, last, time_stamp=1000 + 4 * n + 1200 * int(self.shots[k1]) * self.train
            )


def _readout(data: NDArray[np.complex64], k1: int, flags: Flag, *, time_stamp: int = 0) -> Readouts:
    head = np.zeros(1, READOUT_HEAD)
    head["k1"], head["flags"], head["n_coils"] = k1, int(flags), len(data)
    head["time_stamp"] = time_stamp
    head["n_samples"], head["center_sample"] = data.shape[1], data.shape[1] // 2
    return Readouts(head=head, data=data[None])


def held_out(data: Path, cache: Path) -> list[Head]:
    """Return the heads that nothing is trained or tuned on."""
    return load_heads("test", data=data, cache=cache)


def moving_head(head: Head, seed: int, *, kinds: tuple[str, ...], motion: str = "in plane", snr: float = 15.0) -> Case:
    """Return a slice in which some shots moved by 1 to 4 mm, degrees or both.

    Parameters
    ----------
    head, seed
        The anatomy; chooses everything else.
    kinds
        Sequences to draw from.
    motion
        ``still``, ``in plane`` or ``any``, which turns and shifts through the slice as well.
    snr
        Of the middle brightness in the combined image.
    """
    rng = np.random.default_rng([seed, 77])
    n_y = n_x = 128
    drawn = random_slice(head, MrSpec(matrix=(n_y, n_x), n_coils=int(rng.choice([8, 12, 16])), protocols=kinds), rng)
    train, plane = drawn.protocol.kind in TRAINS, drawn.scene.plane
    shots = shots_of(n_y, drawn.protocol, 0 if train else _RUNS)
    moved, poses, movement = _movement(plane, int(shots.max()) + 1, rng, motion=motion)
    subject = tissues(drawn.protocol.field_t, rng)
    still = Movement(rotation_deg=np.zeros((len(moved), 3)), shift_mm=np.zeros((len(moved), 3)))
    clean, rest = (
        moving_kspace(drawn.scene, drawn.protocol, subject, coils=drawn.coils, movement=m, matrix=(n_y, n_x))
        for m in (movement, still)
    )
    scale = np.float32(snr * np.sqrt(0.5) / reference_level(np.sqrt((np.abs(image_of(rest)) ** 2).sum(0))))
    middle = rest[:, n_y // 2 - _ACS // 2 :][:, :_ACS] * scale
    return Case(
        kspace=(clean * scale + white_noise(clean.shape, rng)).astype(np.complex64),
        reference=(middle + white_noise(middle.shape, rng)).astype(np.complex64),
        shots=shots,
        moved=moved,
        poses=poses,
        fov_mm=(plane.shape[0] * plane.cell_mm, plane.shape[1] * plane.cell_mm),
        train=train,
    )


def _movement(
    plane: Plane, n: int, rng: np.random.Generator, *, motion: str
) -> tuple[NDArray[np.bool_], NDArray[np.float64], Movement]:
    """Return which shots moved, their poses in the plane, and the movement of the head: one or two episodes."""
    moved, poses = np.zeros(n, bool), np.zeros((n, 3))
    turn, shift = np.zeros((n, 3)), np.zeros((n, 3))
    for _ in range(0 if motion == "still" else int(rng.integers(1, 3))):
        first, length = int(rng.integers(n)), int(rng.integers(1, max(2, n // 3)))
        now = (np.arange(n) >= first) & (np.arange(n) < first + length)
        if (moved | now).sum() > _MOST * n:
            continue
        kind = rng.integers(3)
        way_mm, angle = (rng.uniform(1, 4) if kind != skipped else 0.0 for skipped in (1, 0))
        along, axis = _directions(plane, rng, motion)
        vector = np.deg2rad(angle) * axis
        matrix = Rotation.from_rotvec(vector).as_matrix()
        turn[now] = angle * axis
        shift[now] = way_mm * along + plane.centre_mm - matrix @ plane.centre_mm  # turned about the slice's middle
        hand = np.linalg.det(plane.directions)
        poses[now] = (*(way_mm * plane.directions[1:] @ along), angle * hand * float(plane.directions[0] @ axis))
        moved |= now
    return moved, poses, Movement(rotation_deg=turn, shift_mm=shift)


def _directions(plane: Plane, rng: np.random.Generator, motion: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the unit vectors of shift and axis."""
    if motion == "in plane":
        angle = rng.uniform(0, 2 * np.pi)
        return np.array([np.cos(angle), np.sin(angle)]) @ plane.directions[1:], plane.directions[0] * rng.choice(
            [-1, 1]
        )
    shift, axis = rng.standard_normal((2, 3))
    return shift / np.linalg.norm(shift), axis / np.linalg.norm(axis)
