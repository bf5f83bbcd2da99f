"""C-ECHO: does an archive answer, and to our name?"""

from __future__ import annotations

from pynetdicom import AE

from integration.delivery.destination import Destination

VERIFICATION = "1.2.840.10008.1.1"


def echo(destination: Destination, *, timeout_s: float = 5.0) -> str:
    """Ask an archive whether it is there.

    Parameters
    ----------
    destination
        The archive.
    timeout_s
        Longest wait [s].

    Returns
    -------
    str
        What is wrong; empty when it answered with Success.
    """
    ae = AE(ae_title=destination.calling_ae)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = timeout_s
    ae.add_requested_context(VERIFICATION)
    association = ae.associate(destination.host, destination.port, ae_title=destination.ae_title)
    if association.is_rejected:
        return f"refuses {destination.calling_ae} or is not called {destination.ae_title}"
    if not association.is_established:
        return f"nothing answers at {destination.host}:{destination.port}"
    try:
        status = association.send_c_echo()
    finally:
        association.release()
    code = getattr(status, "Status", None)
    return "" if code == 0 else f"answered the echo with {'nothing' if code is None else f'status 0x{code:04X}'}"
