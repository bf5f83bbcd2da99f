"""Our five folders are top-level packages: make sure that no other distribution brings packages of the same names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata

from acquisition.errors import SetupError

OURS = "isocenter"
PACKAGES = ("recon", "acquisition", "models", "kernels", "integration")


def clashes(owners: Mapping[str, Sequence[str]] | None = None) -> dict[str, list[str]]:
    """Return foreign distributions by the package of ours whose name they also use.

    Parameters
    ----------
    owners
        Distributions by package; those of this environment when None.
    """
    found = metadata.packages_distributions() if owners is None else owners
    foreign = {name: sorted({owner for owner in found.get(name, ()) if owner != OURS}) for name in PACKAGES}
    return {name: others for name, others in foreign.items() if others}


def require_own_names() -> None:
    """Refuse to go on when Python might import somebody else's package for ours.

    Raises
    ------
    SetupError
        Another distribution has a package of the same name.
    """
    for name, others in clashes().items():
        raise SetupError(
            f"package {name}",
            expected="to belong to Isocenter alone",
            got=f"another in {', '.join(others)}",
            action=f"pip uninstall {' '.join(others)}, or give Isocenter an environment of its own (make install)",
        )
