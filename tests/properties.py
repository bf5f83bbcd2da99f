"""The list of all linear operators, and the checks that each of them passes.

An operator that is not in `ALL` fails ``tests/recon/test_linop.py``. All arrays are complex normal: with uniform
vectors a row-flipped adjoint passes at 1e-3.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

import recon
from acquisition.geometry import Grid
from acquisition.scan import PetHeader
from acquisition.sources.phantom.ct import CtExam, CtSimulation, gantry
from recon.coils import Coils
from recon.ct.project import ConeProjector
from recon.fourier import Fourier, Sampling
from recon.linop import LinearOperator
from recon.mri.model import CartesianSense, CartesianSeries
from recon.mri.offresonance import OffResonance
from recon.nufft import Nufft
from recon.pet.project import LineProjector
from recon.pet.psf import GaussianPsf

Shape = tuple[int, ...]
TOLERANCE = {torch.complex128: 1e-10, torch.complex64: 1e-5}


def normal(shape: Shape, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def _mask(shape: Shape) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(3)) > 0.4


def spokes(dims: int) -> np.ndarray:
    return np.random.default_rng(2).uniform(-2, 2, (11, dims)).astype(np.float32)


def off_resonance(dtype: torch.dtype) -> OffResonance:
    field_hz = np.random.default_rng(5).uniform(-40, 60, (6, 5)).astype(np.float32)
    return OffResonance(Nufft(spokes(2), (6, 5), n_coils=2, dtype=dtype), field_hz, np.linspace(-2e-3, 9e-3, 11))


def cone(shape: Shape, mode: str = "axial", **changes: object) -> ConeProjector:
    """A few views of a coarse detector, with a flying focal spot, through voxels off the axis."""
    fields = {"n_rows": 3, "centre": (0.8, 4.3), "n_channels": 9, "pitch_mm": (30.0, 90.0), "views_per_rotation": 8}
    ct = gantry(mode=mode, **(fields | changes))
    shifts = ((0.004, 1.1, 0.0), (-0.003, 0.0, 2.0), (0.0, -0.7, 0.0))
    exam = CtExam(ct=ct, turns=0.9, feed_mm=40.0 * (mode == "helical"), focal_spot_shifts=shifts)
    axes = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    spacing = (17.0, 41.0, 53.0)
    grid = Grid.from_centre((7.0, -12.0, 3.0), shape=shape, spacing_mm=spacing, directions=axes)  # type: ignore[arg-type]
    return ConeProjector(ct, CtSimulation(exam).head, grid)


def lines_of_response(n_tof: int) -> LineProjector:
    """A few lines between few detectors, through voxels off the axis."""
    pet = PetHeader(
        n_rings=3,
        n_crystals=16,
        radius_mm=90.0,
        ring_pitch_mm=25.0,
        n_tof=n_tof,
        tof_bin_mm=20.0 * (n_tof > 1),
        tof_fwhm_mm=30.0 * (n_tof > 1),
    )
    rng = np.random.default_rng(4)
    axes = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    grid = Grid.from_centre((3.0, -5.0, 2.0), shape=(3, 4, 5), spacing_mm=(23.0, 19.0, 21.0), directions=axes)
    bins = rng.integers(2, 7, 30).astype(np.int16) if n_tof > 1 else None
    return LineProjector(pet, grid, rng.integers(0, 48, (30, 2)).astype(np.int32), bins)


def sense(dtype: torch.dtype) -> LinearOperator:
    """The forward model of Cartesian MRI."""
    shape = (3, 2, 4, 5)
    return Sampling(_mask(shape[1:]), shape) @ Fourier(shape, (1, 2, 3)) @ Coils(normal(shape, dtype, 7))


ALL: dict[str, Callable[[torch.dtype], LinearOperator]] = {
    "Fourier 2D even": lambda dtype: Fourier((2, 4, 6), (1, 2)),
    "Fourier 3D odd": lambda dtype: Fourier((3, 5, 1), (0, 1, 2)),
    "Sampling": lambda dtype: Sampling(_mask((4, 3)), (2, 4, 3)),
    "Coils": lambda dtype: Coils(normal((3, 1, 4, 5), dtype, 5)),
    "Coils, one": lambda dtype: Coils(normal((1, 1, 3, 2), dtype, 5)),
    "CartesianSense, a slice": lambda dtype: CartesianSense(normal((1, 3, 2, 5), dtype, 5), _mask((1, 5)), (-1,)),
    "CartesianSense, rows beside the object": lambda dtype: CartesianSense(
        torch.nn.functional.pad(normal((1, 3, 2, 5), dtype, 5), (0, 0, 1, 2)), _mask((1, 5)), (-1,)
    ),
    "CartesianSense, two sets": lambda dtype: CartesianSense(normal((2, 2, 4, 3), dtype, 5), _mask((4, 3)), (-2, -1)),
    "CartesianSeries": lambda dtype: CartesianSeries(normal((2, 3, 4), dtype, 5), _mask((3, 1, 4)), (-1,)),
    "CartesianSeries, planes": lambda dtype: CartesianSeries(normal((2, 3, 4), dtype, 5), _mask((2, 3, 4)), (-2, -1)),
    "Nufft 2D": lambda dtype: Nufft(spokes(2), (6, 5), n_coils=2, dtype=dtype),
    "Nufft 3D, one coil": lambda dtype: Nufft(spokes(3), (4, 6, 5), dtype=dtype),
    "OffResonance": off_resonance,
    "ConeProjector": lambda dtype: cone((3, 5, 4)),
    "ConeProjector, a slice": lambda dtype: cone((1, 4, 6), n_rows=1, centre=(0.0, 4.3), detector="flat"),
    "ConeProjector, helical": lambda dtype: cone((6, 3, 2), "helical"),
    "LineProjector": lambda dtype: lines_of_response(1),
    "LineProjector, time of flight": lambda dtype: lines_of_response(9),
    "GaussianPsf": lambda dtype: GaussianPsf(lines_of_response(1).grid, 30.0),
    "Sampling @ Fourier @ Coils": sense,
    "adjoint of it": lambda dtype: sense(dtype).H,
    "gram of it": lambda dtype: sense(dtype).gram,
}
"""Name -> makes the operator for a dtype; tiny shapes, even, odd and one."""


def operator_classes() -> set[type[LinearOperator]]:
    """Every operator class that any module of recon defines."""
    for module in pkgutil.walk_packages(recon.__path__, "recon."):
        importlib.import_module(module.name)
    return set(_subclasses(LinearOperator))


def covered_classes() -> set[type[LinearOperator]]:
    """The classes that `ALL` makes, with the parts of chains."""
    covered: set[type[LinearOperator]] = set()
    todo = [make(torch.complex64) for make in ALL.values()]
    while todo:
        operator = todo.pop()
        covered.add(type(operator))
        todo += [part for part in vars(operator).values() if isinstance(part, LinearOperator)]
    return covered


def _subclasses(cls: type[LinearOperator]) -> Iterator[type[LinearOperator]]:
    for sub in cls.__subclasses__():
        if sub.__module__.startswith("recon"):
            yield sub
        yield from _subclasses(sub)


def assert_adjoint(operator: LinearOperator, dtype: torch.dtype) -> None:
    """<A x, y> = <x, A^H y>."""
    x, y = normal(operator.domain, dtype, 1), normal(operator.range, dtype, 2)
    left, right = torch.vdot(y.ravel(), operator(x).ravel()), torch.vdot(operator.adjoint(y).ravel(), x.ravel())
    assert abs(left - right) <= TOLERANCE[dtype] * abs(left).clamp_min(1), f"{left} and {right}"


def assert_linear(operator: LinearOperator, dtype: torch.dtype) -> None:
    """A (a x + y) = a A x + A y."""
    x, y, a = normal(operator.domain, dtype, 1), normal(operator.domain, dtype, 2), 0.3 - 1.7j
    torch.testing.assert_close(operator(a * x + y), a * operator(x) + operator(y), rtol=0, atol=10 * TOLERANCE[dtype])


def assert_gram(operator: LinearOperator, dtype: torch.dtype) -> None:
    """The normal operator is A^H A."""
    x = normal(operator.domain, dtype, 1)
    both = operator.adjoint(operator(x))
    torch.testing.assert_close(operator.gram(x), both, rtol=0, atol=10 * TOLERANCE[dtype] * float(both.abs().max() + 1))


def assert_dense(operator: LinearOperator, dtype: torch.dtype) -> None:
    """The matrix of A^H, column by column, is the conjugate transpose of that of A."""
    forward, backward = dense(operator, dtype), dense(operator.H, dtype)
    torch.testing.assert_close(backward, forward.mH.contiguous(), rtol=0, atol=TOLERANCE[dtype])


def dense(operator: LinearOperator, dtype: torch.dtype) -> Tensor:
    """Return the matrix of an operator, from its action on unit vectors."""
    size = torch.Size(operator.domain).numel()
    columns = [operator(unit.reshape(operator.domain)).ravel() for unit in torch.eye(size, dtype=dtype)]
    return torch.stack(columns, dim=1)
