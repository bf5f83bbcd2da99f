"""Real time: a picture every few spokes while the scanner runs, each from a sliding window of the latest ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from acquisition.errors import ConfigError, DataError
from acquisition.items import NOT_IMAGING, Image, Item, Kind, Position, Provenance, Readouts
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from recon.mri.gather import image_space, joined
from recon.mri.geometry import grid_of
from recon.mri.items import FrameKey
from recon.mri.noncartesian import maps_of, samples_of
from recon.mri.trajectory import density
from recon.nufft import Nufft


@dataclass(kw_only=True)
class RadialStream:
    """Grid the last `window` spokes whenever `every` new ones have come; the output is called ``realtime``.

    Coils are compressed to `n_coils` virtual ones by the first window; maps are taken from each whole window that
    shares no spoke with the one before. Frames are numbered as repetitions.
    """

    window: int = 55
    """Spokes of one picture."""
    every: int = 11
    """New spokes from picture to picture."""
    n_coils: int = 6
    """Virtual coils."""

    def __post_init__(self) -> None:
        for name, fine, expected in (
            ("window", self.window >= 3, "at least 3"),
            ("every", 1 <= self.every <= self.window, "1 to the window"),
            ("n_coils", self.n_coils >= 1, "at least 1"),
        ):
            if not fine:
                raise ConfigError(f"mri.radial_stream {name}", expected=expected, got=str(getattr(self, name)))

    def open(self, scan: Scan) -> None:
        """Plan the sizes."""
        self._uid, self._patient_position = scan.uid, scan.patient.position
        self._spaces = [image_space(e, f"header encoding {i}") for i, e in enumerate(scan.require_mr().encodings)]
        self._spokes: deque[Readouts] = deque(maxlen=self.window)
        self._slice, self._new, self._frames, self._since_maps = -1, 0, 0, 0
        self._compression: Tensor | None = None
        self._maps: Tensor | None = None

    def feed(self, item: Item) -> Iterator[Item]:
        """Take spokes; pass them on as well, and give a picture when enough new ones have come."""
        yield item
        if not isinstance(item, Readouts):
            return
        imaging = item.select(~item.has(NOT_IMAGING))
        for i in range(len(imaging)):
            mask = np.zeros(len(imaging), bool)
            mask[i] = True
            yield from self._take(imaging.select(mask))

    def close(self) -> Iterator[Item]:
        """Say when no picture was made."""
        if self._frames == 0 and self._new:
            yield Verdict(
                check="mri.realtime",
                level=Level.FLAG,
                advice=f"Fewer than {self.window} spokes came: no real-time picture was made.",
                value=float(self._new),
                limit=float(self.window),
                unit="spokes",
            )

    def _take(self, spoke: Readouts) -> Iterator[Image]:
        if spoke.traj is None:
            raise DataError(f"readout {spoke.head['scan_counter'][0]} trajectory", expected="coordinates", got="none")
        if int(spoke.head["slice"][0]) != self._slice:  # another slice: another window, other coils
            self._slice, self._new, self._maps, self._compression = int(spoke.head["slice"][0]), 0, None, None
            self._spokes.clear()
        self._spokes.append(replace(spoke, head=spoke.head.copy(), data=spoke.data.copy(), traj=spoke.traj.copy()))
        self._new += 1
        if len(self._spokes) == self.window and self._new >= self.every:
            self._new = 0
            yield self._picture()

    def _picture(self) -> Image:
        head = self._spokes[-1].head[0]
        space = self._spaces[int(head["encoding"])]
        key = FrameKey(int(head["encoding"]), self._slice, 0, 0, self._frames, 0)
        spokes = joined(list(self._spokes), key, space)
        shape = (space.y.recon, space.x.recon)
        samples = self._compressed(samples_of(spokes))
        weights = torch.from_numpy(density(spokes.traj, shape).ravel())
        images = Nufft(spokes.traj, shape, n_coils=len(samples)).adjoint(samples * weights)
        if self._maps is None or self._since_maps >= self.window:
            self._maps, self._since_maps = maps_of(images, 0.0).conj().resolve_conj(), 0
        self._since_maps += self.every
        picture = (self._maps * images).sum(0).abs()[None]
        grid, verdicts = grid_of(head, space, self._patient_position)
        self._frames += 1
        return Image(
            data=picture.numpy(),
            grid=grid,
            kind=Kind.MAGNITUDE,
            output="realtime",
            position=Position(slice=self._slice, repetition=key.repetition),
            provenance=Provenance(notes={**spokes.notes, "window": f"{self.window} spokes, every {self.every}"}),
            verdicts=verdicts,
            time_stamp=int(head["time_stamp"]),
            last_readout_s=spokes.last_readout_s,
        )

    def _compressed(self, samples: Tensor) -> Tensor:
        if self._compression is None:
            _, vectors = torch.linalg.eigh(samples @ samples.mH)
            self._compression = vectors.flip(1)[:, : self.n_coils].mH.contiguous()
        return self._compression @ samples
