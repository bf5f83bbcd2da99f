"""``y = A x``: linear operators that know their shapes, their adjoint and their normal operator.

``(Sampling(mask) @ Fourier(shape) @ Coils(maps))(image)`` reads like the paper. Every operator stands in the
list of ``tests/properties.py`` and passes the same checks there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from acquisition.errors import ReconError

Shape = tuple[int, ...]


class LinearOperator(ABC):
    """A linear map between arrays of fixed shapes.

    A class gives `_forward` and `_adjoint`, and `_gram` where ``A^H A`` is cheaper than the two in turn.
    """

    def __init__(self, domain: Shape, range_: Shape) -> None:
        self.domain, self.range = tuple(domain), tuple(range_)

    def __call__(self, x: Tensor) -> Tensor:
        """Return ``A x`` of shape `range`, x of shape `domain`."""
        return self._forward(self._fits(x, self.domain, "domain"))

    def adjoint(self, y: Tensor) -> Tensor:
        """Return ``A^H y`` of shape `domain`, y of shape `range`."""
        return self._adjoint(self._fits(y, self.range, "range"))

    @property
    def H(self) -> LinearOperator:  # noqa: N802 - the letter of the papers
        """The adjoint as an operator."""
        return _Adjoint(self)

    @property
    def gram(self) -> LinearOperator:
        """The normal operator ``A^H A``; what iterations spend their time in."""
        return _Gram(self)

    def __matmul__(self, other: LinearOperator) -> LinearOperator:
        """Return ``A B``: first `other`, then this."""
        return _Chain(self, other)

    @abstractmethod
    def _forward(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def _adjoint(self, y: Tensor) -> Tensor: ...

    def _gram(self, x: Tensor) -> Tensor:
        return self._adjoint(self._forward(x))

    def _fits(self, array: Tensor, shape: Shape, side: str) -> Tensor:
        if tuple(array.shape) != shape:
            raise ReconError(
                f"{type(self).__name__} {side}", expected=f"shape {shape}", got=f"shape {tuple(array.shape)}"
            )
        return array


class _Adjoint(LinearOperator):
    def __init__(self, of: LinearOperator) -> None:
        super().__init__(of.range, of.domain)
        self._of = of

    @property
    def H(self) -> LinearOperator:  # noqa: N802
        return self._of

    def _forward(self, x: Tensor) -> Tensor:
        return self._of._adjoint(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._of._forward(y)


class _Gram(LinearOperator):
    def __init__(self, of: LinearOperator) -> None:
        super().__init__(of.domain, of.domain)
        self._of = of

    def _forward(self, x: Tensor) -> Tensor:
        return self._of._gram(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._of._gram(y)


class _Chain(LinearOperator):
    def __init__(self, left: LinearOperator, right: LinearOperator) -> None:
        if right.range != left.domain:
            names = f"{type(left).__name__} @ {type(right).__name__}"
            raise ReconError(names, expected=f"{left.domain} between them", got=f"{right.range}")
        super().__init__(right.domain, left.range)
        self._left, self._right = left, right

    def _forward(self, x: Tensor) -> Tensor:
        return self._left._forward(self._right._forward(x))

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._right._adjoint(self._left._adjoint(y))

    def _gram(self, x: Tensor) -> Tensor:
        return self._right._adjoint(self._left._gram(self._right._forward(x)))
