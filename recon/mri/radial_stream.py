"""Real time: a picture every few spokes while the scanner runs, each from a sliding window of the latest ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from acquisition.errors import ConfigError, DataError
from acquisition.items import NOT_IMAGING, Image, Item, Kind, Position, Provenance, Readouts
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from kernels.registry import kernel
from recon.calibrate import coil_maps
from recon.mri.gather import check_like, image_space, joined
from recon.mri.geometry import grid_of
from recon.mri.items import FrameKey
from recon.mri.noncartesian import samples_of
from recon.mri.spokes import Spokes
from recon.mri.trajectory import is_radial, ramp
from recon.nufft import Nufft

_LINES = 24
"""Lines in the middle of k-space that the coil maps are taken from."""


@dataclass(slots=True)
class _Window:
    """The latest spokes of one slice, gridded in groups of `every`."""

    n_groups: int
    """Groups of one picture."""
    pending: list[Readouts] = field(default_factory=list)
    """New spokes, not gridded yet."""
    early: list[Spokes] = field(default_factory=list)
    """Groups that wait for the first window to be whole."""
    coil_images: deque[Tensor] = field(default_factory=deque)
    """Each group's adjoint (virtual coil, y, x), the oldest first."""
    combined: deque[Tensor] = field(default_factory=deque)
    """Each group's part of the picture (y, x)."""
    compression: Tensor | None = None
    """(virtual coil, coil)."""
    maps: Tensor | None = None
    """Conjugate coil maps (virtual coil, y, x)."""
    since_maps: int = 0
    """Groups since the maps were taken."""

    def refresh(self) -> None:
        """Take maps from the whole window, and weigh all its groups with them."""
        total = torch.stack(tuple(self.coil_images)).sum(0)
        self.maps, self.since_maps = _quick_maps(total).conj().resolve_conj(), 0
        self.combined = deque((self.maps * images).sum(0) for images in self.coil_images)


@dataclass(kw_only=True)
class RadialStream:
    """Grid the last `window` spokes whenever `every` new ones have come; the output is called ``realtime``.

    Only the new spokes are transformed: the ramp weighs each spoke by itself, so a picture is the sum of its groups.
    Coils are compressed to `n_coils` virtual ones by the first window; maps are taken from each whole window that
    shares no spoke with the one before, after its picture has gone out. Slices have windows of their own, and frames
    are numbered as repetitions.
    """

    window: int = 55
    """Spokes of one picture; a multiple of `every`."""
    every: int = 11
    """New spokes from picture to picture."""
    n_coils: int = 6
    """Virtual coils."""

    def __post_init__(self) -> None:
        for name, fine, expected in (
            ("window", self.window >= 3, "at least 3"),
            ("every", 1 <= self.every <= self.window, "1 to the window"),
            ("window", self.every < 1 or self.window % self.every == 0, f"a multiple of every ({self.every})"),
            ("n_coils", self.n_coils >= 1, "at least 1"),
        ):
            if not fine:
                raise ConfigError(f"mri.radial_stream {name}", expected=expected, got=str(getattr(self, name)))

    def open(self, scan: Scan) -> None:
        """Plan the sizes."""
        self._uid, self._patient_position = scan.uid, scan.patient.position
        self._spaces = [image_space(e, f"header encoding {i}") for i, e in enumerate(scan.require_mr().encodings)]
        self._windows: dict[tuple[int, int], _Window] = {}
        self._frames, self._seen = 0, 0

    def feed(self, item: Item) -> Iterator[Item]:
        """Take spokes; pass them on as well, and give a picture when enough new ones have come."""
        yield item
        if not isinstance(item, Readouts):
            return
        imaging = item.select(~item.has(NOT_IMAGING))
        for i in range(len(imaging)):
            yield from self._take(_one(imaging, i))

    def close(self) -> Iterator[Item]:
        """Say when no picture was made."""
        if self._frames == 0 and self._seen:
            yield Verdict(
                check="mri.realtime",
                level=Level.FLAG,
                advice=f"Fewer than {self.window} spokes came: no real-time picture was made.",
                value=float(self._seen),
                limit=float(self.window),
                unit="spokes",
            )

    def _take(self, spoke: Readouts) -> Iterator[Image]:
        key = int(spoke.head["encoding"][0]), int(spoke.head["slice"][0])
        window = self._windows.setdefault(key, _Window(self.window // self.every))
        check_like(window.pending, spoke, len(self._spaces))
        window.pending.append(spoke)
        self._seen += 1
        if len(window.pending) < self.every:
            return
        group = joined(window.pending, FrameKey(*key, 0, 0, self._frames, 0), self._spaces[key[0]])
        window.pending = []
        if not is_radial(group.traj):
            raise DataError(
                f"readout {group.head['scan_counter']} trajectory",
                expected="spokes through the centre of k-space",
                got="another",
                action="take mri.radial_stream out of the protocol",
            )
        self._grid(window, group)
        if len(window.combined) == window.n_groups:
            yield self._picture(window, group)
            window.since_maps += 1
            if window.since_maps >= window.n_groups:  # the picture has gone: this waits for nobody
                window.refresh()

    def _grid(self, window: _Window, group: Spokes) -> None:
        """Add a group's adjoint to the window; the first groups wait until the window is whole."""
        if window.maps is None or window.compression is None:
            window.early.append(group)
            if len(window.early) == window.n_groups:
                window.compression = compression(torch.cat([samples_of(g) for g in window.early], 1), self.n_coils)
                window.coil_images.extend(self._adjoint(g, window.compression) for g in window.early)
                window.early = []
                window.refresh()
            return
        window.coil_images.popleft()
        window.combined.popleft()
        window.coil_images.append(self._adjoint(group, window.compression))
        window.combined.append((window.maps * window.coil_images[-1]).sum(0))

    @staticmethod
    def _adjoint(group: Spokes, matrix: Tensor) -> Tensor:
        samples = samples_of(group)
        if len(matrix.T) != len(samples):
            raise DataError(
                f"readout {group.head['scan_counter']}", expected=f"{len(matrix.T)} coils", got=str(len(samples))
            )
        shape = (group.space.y.recon, group.space.x.recon)
        weights = torch.from_numpy(ramp(group.traj).ravel()).float()
        return Nufft(group.traj, shape, n_coils=len(matrix)).adjoint((matrix @ samples) * weights)

    def _picture(self, window: _Window, newest: Spokes) -> Image:
        grid, verdicts = grid_of(newest.head, newest.space, self._patient_position)
        self._frames += 1
        return Image(
            data=sum(window.combined, torch.zeros_like(window.combined[0])).abs()[None].numpy(),
            grid=grid,
            kind=Kind.MAGNITUDE,
            output="realtime",
            position=Position(slice=newest.key.slice, repetition=newest.key.repetition),
            provenance=Provenance(notes={**newest.notes, "window": f"{self.window} spokes, every {self.every}"}),
            verdicts=verdicts,
            time_stamp=int(newest.head["time_stamp"]),
            last_readout_s=newest.last_readout_s,
        )


def compression(samples: Tensor, n_coils: int) -> Tensor:
    """Return orthonormal rows (virtual coil, coil) that keep the most of samples (coil, n)."""
    _, vectors = torch.linalg.eigh(samples @ samples.mH)
    return vectors.flip(1)[:, :n_coils].mH.contiguous()


def _quick_maps(images: Tensor) -> Tensor:
    """Return unit-norm maps (coil, y, x) of coil images: Walsh's, a third of the time of ESPIRiT's."""
    _, ny, nx = images.shape
    n = min(_LINES, ny)
    lines = kernel("resize")(kernel("centred_fft")(images, (1,)), n, 1)[:, None]
    coarse = coil_maps(lines, first=(0, ny // 2 - n // 2), matrix=(1, ny, nx))
    return kernel("unit_norm")(kernel("upsample")(coarse, (1, ny, nx)))[:, 0]


def _one(block: Readouts, i: int) -> Readouts:
    """Return readout `i` of a block as a copy of its own."""
    part = slice(i, i + 1)
    traj = None if block.traj is None else block.traj[part].copy()
    return replace(block, head=block.head[part].copy(), data=block.data[part].copy(), traj=traj)
