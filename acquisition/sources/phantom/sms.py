"""A virtual scanner that excites several slices at once, shifted against each other along the phase encoding.

Single-slice reference lines of every slice come first (flag CALIBRATION). Then slices g, g + n / MB, g + 2 n / MB ...
are measured together under the counter g, the j-th turned by ``exp(2 pi i j (k1 - centre) / shift)`` (blipped CAIPI,
Setsompop et al., Magn Reson Med 2012;67:1210, DOI 10.1002/mrm.23097). The header says so by the user parameters
``multiband`` and ``multiband_shift``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import ConfigError
from acquisition.items import Flag, Image, Readouts
from acquisition.scan import Scan
from acquisition.sources.phantom.exam import MriExam
from acquisition.sources.phantom.mri import Simulation
from acquisition.sources.phantom.objects import Phantom


class SmsSimulation:
    """One exam with simultaneous slices; in-plane undersampling as the exam says.

    Parameters
    ----------
    exam
        A 2D exam; its slices are a multiple of `factor`.
    factor
        Slices measured together.
    shift
        Neighbouring simultaneous slices are shifted by the field of view over this; 1: not at all.
    phantom
        The object; the exam's head when absent.

    Raises
    ------
    ConfigError
        Factor and slices do not fit.
    """

    def __init__(self, exam: MriExam, factor: int, *, shift: int = 1, phantom: Phantom | None = None) -> None:
        if exam.kind != "2D" or factor < 2 or shift < 1 or exam.n_slices % factor:
            raise ConfigError(
                "exam slices",
                expected=f"2D, a multiple of {factor} slices, factor 2 or more, shift 1 or more",
                got=f"{exam.kind}, {exam.n_slices} slices, factor {factor}, shift {shift}",
            )
        self.exam, self.factor, self.shift = exam, factor, shift
        plain = exam.at(acceleration=1, partial_fourier=1.0)
        self._measured = Simulation(plain, phantom)
        self._clean = Simulation(plain.at(snr=float("inf"), n_noise=0), phantom)

    @property
    def scan(self) -> Scan:
        """The header."""
        scan = self._measured.scan
        header = scan.require_mr()
        encoding = replace(
            header.encodings[0], acceleration=(1.0, float(self.exam.acceleration)), calibration_mode="separate"
        )
        return replace(
            scan,
            uid=f"{scan.uid}_mb{self.factor}",
            user_parameters={"multiband": float(self.factor), "multiband_shift": float(self.shift)},
            mr=replace(header, encodings=(encoding,)),
        )

    def truth(self, slice_index: int = 0) -> Image:
        """Return the object's magnitude in a slice."""
        return self._measured.truth(slice_index)

    def readouts(self) -> Iterator[Readouts]:
        """Yield noise, the reference lines of all slices, then the collapsed lines, one by one."""
        counter = 0
        for block in self._blocks():
            head = block.head.copy()
            head["scan_counter"] = counter
            counter += len(head)
            yield replace(block, head=head)

    def _blocks(self) -> Iterator[Readouts]:
        n_lines = self.exam.matrix[1]
        runs = list(self._measured.readouts(block=n_lines))
        noise = [b for b in runs if b.has(Flag.NOISE).any()]
        slices = {int(b.head["slice"][0]): b for b in runs if not b.has(Flag.NOISE).any()}
        yield from noise
        for index in sorted(slices):
            yield from self._lines(slices[index], np.arange(n_lines), Flag.CALIBRATION, slices[index].data)
        n_groups = self.exam.n_slices // self.factor
        lines = np.arange(n_lines // 2 % self.exam.acceleration, n_lines, self.exam.acceleration)
        for group in range(n_groups):
            last = int(Flag.LAST_IN_MEASUREMENT) if group == n_groups - 1 else 0
            yield from self._lines(slices[group], lines, Flag(0), self._collapsed(slices[group], group), last)

    def _collapsed(self, first: Readouts, group: int) -> NDArray[np.complex64]:
        """Return the lines (k1, coil, k0) of a group: the first slice with its noise, the others turned and added."""
        data = first.data.astype(np.complex128)
        k1 = np.arange(self.exam.matrix[1]) - self.exam.matrix[1] // 2
        for j in range(1, self.factor):
            other = self._clean.kspace(group + j * (self.exam.n_slices // self.factor))[:, 0].transpose(1, 0, 2)
            data += other * np.exp(2j * np.pi * j * k1 / self.shift)[:, None, None]
        return data.astype(np.complex64)

    @staticmethod
    def _lines(
        like: Readouts, lines: NDArray[np.intp], flag: Flag, data: NDArray[np.complex64], last: int = 0
    ) -> Iterator[Readouts]:
        for line in lines:
            head = like.head[line : line + 1].copy()
            head["flags"] = int(flag) | ((int(Flag.LAST_IN_SLICE) | last) if line == lines[-1] else 0)
            yield Readouts(head=head, data=data[line : line + 1])
