"""All linear operators: adjoint, linear, gram, dense; and that none is missing from the list."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from acquisition.errors import ReconError
from recon.coils import Coils
from recon.fourier import Fourier
from recon.linop import LinearOperator
from tests import properties
from tests.properties import ALL, normal

DTYPES = (torch.complex128, torch.complex64)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
@pytest.mark.parametrize(
    "check", [properties.assert_adjoint, properties.assert_linear, properties.assert_gram, properties.assert_dense]
)
def test_property(check: Callable, make: Callable, dtype: torch.dtype) -> None:
    check(make(dtype), dtype)


def test_no_operator_is_missing_from_the_list() -> None:
    missing = properties.operator_classes() - properties.covered_classes()
    assert not missing, f"add to tests/properties.py: {missing}"


def test_a_missing_operator_is_found() -> None:
    class Forgotten(LinearOperator):
        _forward = _adjoint = lambda self, x: x

    Forgotten.__module__ = "recon.planted"
    assert Forgotten in properties.operator_classes() - properties.covered_classes()
    del Forgotten
    __import__("gc").collect()
    test_no_operator_is_missing_from_the_list()


class _Flipped(Fourier):
    """An adjoint with its rows flipped: close enough to pass with uniform vectors."""

    def _adjoint(self, y: Tensor) -> Tensor:
        return super()._adjoint(y).flip(1)


class _NoGram(Coils):
    def _gram(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize("check", [properties.assert_adjoint, properties.assert_dense])
def test_the_checks_see_a_wrong_adjoint(check: Callable) -> None:
    with pytest.raises(AssertionError):
        check(_Flipped((2, 4, 6), (1, 2)), torch.complex128)


def test_the_checks_see_a_wrong_gram_and_a_nonlinear_map() -> None:
    with pytest.raises(AssertionError):
        properties.assert_gram(_NoGram(normal((2, 1, 3, 3), torch.complex128)), torch.complex128)
    broken = _NoGram(normal((2, 1, 3, 3), torch.complex128))
    broken._forward = lambda x: x.abs() * broken.maps  # type: ignore[method-assign]
    with pytest.raises(AssertionError):
        properties.assert_linear(broken, torch.complex128)


def test_the_adjoint_of_the_adjoint_is_the_operator() -> None:
    operator = Fourier((2, 3), (1,))
    assert operator.H.H is operator


def test_shapes_that_do_not_fit_are_named() -> None:
    fourier = Fourier((2, 3), (1,))
    with pytest.raises(ReconError, match=r"Fourier domain: expected shape \(2, 3\), got shape \(3, 2\)"):
        fourier(torch.zeros(3, 2, dtype=torch.complex64))
    with pytest.raises(ReconError, match="Fourier range"):
        fourier.adjoint(torch.zeros(1, dtype=torch.complex64))
    with pytest.raises(ReconError, match="Fourier @ Coils"):
        fourier @ Coils(torch.zeros(2, 1, 1, 3, dtype=torch.complex64))


def test_the_normal_operator_of_a_chain_uses_its_parts() -> None:
    chain = Fourier((2, 1, 3, 3), (2, 3)) @ Coils(normal((2, 1, 3, 3), torch.complex128))
    chain._left._adjoint = None  # the Fourier transform is not needed: its gram is 1
    x = normal((1, 3, 3), torch.complex128)
    torch.testing.assert_close(chain.gram(x), chain._right.gram(x))
