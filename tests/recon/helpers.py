"""A small virtual MR scanner for the tests of the reconstruction, and a reader of the real files.

The object is smooth-edged ellipses without any symmetry; coils are complex Gaussians around it. k-space is the
centred DFT of the coil images on a grid twice as fine, cut to the encoded matrix.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import h5py
import numpy as np

from acquisition.items import READOUT_HEAD, Flag, Image, Item, Readouts
from acquisition.mri import Prewhiten
from acquisition.scan import Encoding, Equipment, Limits, MrHeader, Patient, Scan
from acquisition.stream import Chain, Step
from acquisition.verdict import Verdict
from recon.checks import CheckImage
from recon.mri import Assemble, Combine, Grappa, ReadoutTransform

# centre (z, y, x) and half axes in parts of the field of view, value
ELLIPSES = (
    ((0.0, 0.0, 0.0), (0.42, 0.40, 0.33), 1.0),
    ((0.0, -0.02, 0.01), (0.36, 0.34, 0.28), -0.5),
    ((0.05, 0.15, -0.12), (0.20, 0.10, 0.06), 0.6),
    ((-0.1, -0.18, 0.08), (0.15, 0.05, 0.13), 0.4),
    ((0.1, 0.05, 0.16), (0.12, 0.08, 0.04), -0.25),
)


def phantom(shape: tuple[int, int, int], slab: float = 1.0, z_part: float = 0.0) -> np.ndarray:
    """The object on a centred grid; `z_part` shifts a 2D slice through it."""
    axes = [(np.arange(n) - n // 2) / n for n in shape]
    axes[0] = axes[0] * slab + z_part
    z, y, x = np.meshgrid(*axes, indexing="ij")
    out = np.zeros(shape)
    for centre, half, value in ELLIPSES:
        parts = zip((z, y, x), centre, half, strict=True)
        r = np.sqrt(sum(((a - c) / h) ** 2 for a, c, h in parts))
        out += value / (1 + np.exp((r - 1) * 40))
    return out


def coils(n: int, shape: tuple[int, int, int], seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*[(np.arange(m) - m // 2) / m for m in shape], indexing="ij")
    maps = []
    for c in range(n):
        angle = 2 * np.pi * c / n + 0.3
        cy, cx, cz = 0.55 * np.sin(angle), 0.55 * np.cos(angle), 0.3 * ((c % 3) - 1)
        distance = (y - cy) ** 2 + (x - cx) ** 2 + ((z - cz) ** 2 if shape[0] > 1 else 0)
        phase = rng.uniform(0, 2 * np.pi) + 2 * (y * np.sin(angle) - x * np.cos(angle))
        maps.append(np.exp(-distance / 0.15 + 1j * phase))
    return np.array(maps)


def centred(data: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(data, axes), axes=axes, norm="ortho"), axes)


def cut(data: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """Centred crop of the last axes."""
    for axis, size in zip(range(-len(sizes), 0), sizes, strict=True):
        n = data.shape[axis]
        data = np.take(data, np.arange(size) + n // 2 - size // 2, axis)
    return data


@dataclass(kw_only=True)
class Exam:
    """One virtual measurement; every field may be set, `readouts` makes the stream."""

    matrix: tuple[int, int, int] = (1, 64, 64)  # image (z, y, x)
    fov_mm: tuple[float, float, float] = (5.0, 200.0, 220.0)
    oversampling: int = 2
    n_coils: int = 8
    acceleration: int = 1
    declared: float | None = None  # acceleration in the header, where it differs
    acs: int = 24
    mode: str | None = "embedded"
    averages: int = 1
    slices: int = 1
    repetitions: int = 1
    contrasts: int = 1
    skip_k1: int = 0  # partial Fourier: first lines left out
    skip_k0: int = 0  # asymmetric echo: first samples left out
    noise: float = 0.0
    noise_cov: np.ndarray | None = None
    flags: bool = True
    directions: tuple = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    position: tuple[float, float, float] = (10.0, -20.0, 30.0)
    recon_matrix: tuple[int, int, int] | None = None
    recon_fov_mm: tuple[float, float, float] | None = None
    seed: int = 0
    _cache: dict = field(default_factory=dict)

    @property
    def encoded(self) -> tuple[int, int, int]:
        return (self.matrix[0], self.matrix[1], self.matrix[2] * self.oversampling)

    @property
    def scan(self) -> Scan:
        z, y, _ = self.encoded
        limits = {
            "k1": Limits(0, y - 1 - self.skip_k1, y // 2 - self.skip_k1),
            "k2": Limits(0, z - 1, z // 2),
            "slice": Limits(0, self.slices - 1, 0),
            "average": Limits(0, self.averages - 1, 0),
            "repetition": Limits(0, self.repetitions - 1, 0),
            "contrast": Limits(0, self.contrasts - 1, 0),
        }
        fov = (self.fov_mm[0], self.fov_mm[1], self.fov_mm[2] * self.oversampling)
        encoding = Encoding(
            matrix=self.encoded,
            fov_mm=fov,
            recon_matrix=self.recon_matrix or self.matrix,
            recon_fov_mm=self.recon_fov_mm or self.fov_mm,
            limits=limits,
            acceleration=(1.0, float(self.declared or self.acceleration)),
            calibration_mode=self.mode,
        )
        return Scan(
            uid="test",
            modality="MR",
            mr=MrHeader(encodings=(encoding,)),
            equipment=Equipment(n_coils=self.n_coils),
            patient=Patient(position="HFS"),
        )

    def object(self, slice_: int = 0) -> np.ndarray:
        """The image that a perfect scan would give: object times the root sum of squares of the coils."""
        return cut_object(self._fine(slice_), self.matrix)

    def _fine(self, slice_: int) -> np.ndarray:
        key = ("fine", slice_)
        if key not in self._cache:
            z, y, x = self.matrix
            shape = (2 * z if z > 1 else 1, 2 * y, 2 * x)
            part = 0.0 if z > 1 else 0.05 * (slice_ - (self.slices - 1) / 2)
            self._cache[key] = phantom(shape, z_part=part) * coils(self.n_coils, shape)
        return self._cache[key]

    def kspace(self, slice_: int = 0) -> np.ndarray:
        """Noise-free k-space (coil, k2, k1, k0) of the encoded matrix."""
        if ("k", slice_) not in self._cache:
            images = self._fine(slice_)
            wide = np.zeros((*images.shape[:-1], images.shape[-1] * self.oversampling), complex)
            start = wide.shape[-1] // 2 - images.shape[-1] // 2
            wide[..., start : start + images.shape[-1]] = images
            self._cache["k", slice_] = cut(centred(wide, (1, 2, 3)), self.encoded)
        return self._cache["k", slice_]

    def lines(self) -> list[tuple[int, bool]]:
        """(matrix index of the line, is calibration) in the order of measurement."""
        y = self.encoded[1]
        low, high = y // 2 - self.acs // 2, y // 2 - self.acs // 2 + self.acs
        out = []
        for k1 in range(self.skip_k1, y):
            regular = (k1 - self.skip_k1) % self.acceleration == 0
            embedded = self.acceleration > 1 and self.mode == "embedded" and low <= k1 < high
            if regular or embedded:
                out.append((k1, embedded and not regular))
        return out

    def _noise(self, rng: np.random.Generator, n: int) -> np.ndarray:
        white = rng.standard_normal((self.n_coils, n)) + 1j * rng.standard_normal((self.n_coils, n))
        root = np.eye(self.n_coils) if self.noise_cov is None else np.linalg.cholesky(self.noise_cov)
        return (
            self.noise * np.einsum("cd,dn->cn", root, white) / np.sqrt(2)
        )  # no BLAS: its threads wait on a busy machine

    def head(self, **values) -> np.ndarray:
        head = np.zeros(1, READOUT_HEAD)
        head["n_coils"], head["dwell_us"] = self.n_coils, 5.0
        head["position"] = self.position
        for name, direction in zip(("read_dir", "phase_dir", "slice_dir"), self.directions, strict=True):
            head[name] = direction
        for name, value in values.items():
            head[name] = value
        return head

    def noise_scan(self, n: int = 4096, dwell_us: float = 5.0) -> Readouts:
        data = self._noise(np.random.default_rng(99), n)[None].astype(np.complex64)
        return Readouts(head=self.head(n_samples=n, flags=int(Flag.NOISE), dwell_us=dwell_us), data=data)

    def readouts(self) -> Iterator[Readouts]:
        """One block per readout: slices outermost, then repetitions, averages, planes, lines, contrasts."""
        rng, counter = np.random.default_rng(self.seed), 0
        if self.mode == "separate" and self.acceleration > 1:
            yield from self.reference(rng)
        rows = self.lines()
        for repetition, s, average in np.ndindex(self.repetitions, self.slices, self.averages):
            for k2 in range(self.encoded[0]):
                for k1, calibration in rows:
                    for contrast in range(self.contrasts):
                        last_line = k2 == self.encoded[0] - 1 and k1 == rows[-1][0] and contrast == self.contrasts - 1
                        last = last_line and average == self.averages - 1
                        flags = int(Flag.CALIBRATION) if calibration else 0
                        if self.flags and last:
                            flags |= int(Flag.LAST_IN_SLICE)
                            if (repetition, s) == (self.repetitions - 1, self.slices - 1):
                                flags |= int(Flag.LAST_IN_MEASUREMENT)
                        counter += 1
                        yield self._readout(
                            rng,
                            k2,
                            k1,
                            flags=flags,
                            scan_counter=counter,
                            slice=s,
                            average=average,
                            repetition=repetition,
                            contrast=contrast,
                        )

    def reference(self, rng: np.random.Generator) -> Iterator[Readouts]:
        """Separate calibration lines, of another contrast: twice as bright, other phase."""
        y = self.encoded[1]
        for s in range(self.slices):
            for k2 in range(self.encoded[0]):
                for k1 in range(y // 2 - self.acs // 2, y // 2 - self.acs // 2 + self.acs):
                    block = self._readout(rng, k2, k1, flags=int(Flag.CALIBRATION), slice=s)
                    yield replace(block, data=block.data * np.complex64(2j))

    def _readout(self, rng: np.random.Generator, k2: int, k1: int, **values) -> Readouts:
        line = self.kspace(values.get("slice", 0))[:, k2, k1]
        if self.noise:
            line = line + self._noise(rng, line.shape[1])
        line = line[:, self.skip_k0 :] * (1 + values.get("contrast", 0))
        head = self.head(
            n_samples=line.shape[1],
            center_sample=self.encoded[2] // 2 - self.skip_k0,
            k1=k1 - self.skip_k1,
            k2=k2,
            **values,
        )
        return Readouts(head=head, data=line[None].astype(np.complex64), received_s=1.0)


def cut_object(images: np.ndarray, matrix: tuple[int, int, int]) -> np.ndarray:
    """Band-limit coil images to `matrix` and combine them by their root sum of squares."""
    low = cut(centred(images, (1, 2, 3)), matrix)
    back = np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(low, (1, 2, 3)), axes=(1, 2, 3), norm="ortho"), (1, 2, 3))
    return np.sqrt((np.abs(back) ** 2).sum(0))


def steps(**changed: Step) -> list[Step]:
    """The usual chain; name a step to change it, or give None to leave it out."""
    usual: dict[str, Step | None] = {
        "prewhiten": Prewhiten(),
        "readout": ReadoutTransform(),
        "assemble": Assemble(),
        "grappa": Grappa(),
        "combine": Combine(),
        "check": CheckImage(),
    }
    return [step for step in (usual | changed).values() if step is not None]


def run(scan: Scan, blocks: Iterable[Item], **changed: Step) -> tuple[list[Image], list[Verdict]]:
    """Images and scan-wide verdicts of one scan."""
    chain = Chain(steps(**changed))
    chain.open(scan)
    out = [item for block in blocks for item in chain.feed(block)]
    out += chain.close()
    images = [item for item in out if isinstance(item, Image)]
    verdicts = [item for item in out if isinstance(item, Verdict)]
    assert len(images) + len(verdicts) == len(out), out
    return images, verdicts


def merged(blocks: Iterable[Readouts], size: int) -> Iterator[Readouts]:
    """Join single readouts of equal shape to blocks of `size`."""
    blocks = list(blocks)
    for i in range(0, len(blocks), size):
        part = blocks[i : i + size]
        yield replace(
            part[-1], head=np.concatenate([b.head for b in part]), data=np.concatenate([b.data for b in part])
        )


def nrmse(image: np.ndarray, reference: np.ndarray) -> float:
    """Error of magnitudes after a scalar fit, over the pixels above 10 % of the reference's 99th percentile."""
    a, b = np.abs(image).astype(float), np.abs(reference).astype(float)
    inside = b > 0.1 * np.percentile(b, 99)
    a, b = a[inside], b[inside]
    return float(np.linalg.norm(a * (a @ b) / (a @ a) - b) / np.linalg.norm(b))


def levels(image: Image, check: str) -> list[str]:
    return [v.level.value for v in image.verdicts if v.check == check]


def read_h5(path: Path) -> tuple[Scan, list[Readouts]]:
    """Read a real ISMRMRD file, readout by readout."""
    with h5py.File(path) as file:
        xml = file["dataset/xml"][0].decode()
        rows = file["dataset/data"][:]
    blocks = []
    for row in rows:
        head = np.frombuffer(row["head"].tobytes(), READOUT_HEAD)
        data = row["data"].view(np.complex64).reshape(1, int(head["n_coils"][0]), int(head["n_samples"][0]))
        blocks.append(Readouts(head=head, data=data, received_s=1.0))
    return _scan(xml, path.stem), blocks


def _scan(xml: str, uid: str) -> Scan:
    def number(pattern: str, default: float = 0.0) -> float:
        found = re.search(pattern, xml, re.S)
        return float(found.group(1)) if found else default

    def three(space: str, part: str) -> tuple[float, ...]:
        return tuple(number(f"<{space}>.*?<{part}>.*?<{axis}>(.*?)</{axis}>") for axis in "zyx")

    limits = {}
    for name, counter in (("kspace_encoding_step_1", "k1"), ("kspace_encoding_step_2", "k2")):
        found = re.search(f"<{name}><minimum>(.*?)</minimum><maximum>(.*?)</maximum><center>(.*?)</center>", xml)
        if found:
            limits[counter] = Limits(*(int(v) for v in found.groups()))
    mode = re.search("<calibrationMode>(.*?)</calibrationMode>", xml)
    encoding = Encoding(
        matrix=tuple(int(v) for v in three("encodedSpace", "matrixSize")),
        fov_mm=three("encodedSpace", "fieldOfView_mm"),
        recon_matrix=tuple(int(v) for v in three("reconSpace", "matrixSize")),
        recon_fov_mm=three("reconSpace", "fieldOfView_mm"),
        limits=limits,
        acceleration=(1.0, number("<accelerationFactor><kspace_encoding_step_1>(.*?)<", 1.0)),
        calibration_mode=mode.group(1) if mode else None,
    )
    coils_ = int(number("<receiverChannels>(.*?)<"))
    return Scan(uid=uid, modality="MR", mr=MrHeader(encodings=(encoding,)), equipment=Equipment(n_coils=coils_))
