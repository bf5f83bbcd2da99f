"""The service's rooms put together: router, runner, DICOM, spool and journal behind one door."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from integration import router
from integration.answers import REPORTS
from integration.companion import FOLDER
from integration.delivery.journal import Journal
from integration.delivery.spool import Spool
from integration.dicom.recover import recover
from integration.doors.request import AUTO, Request
from integration.export import SpoolExporter
from integration.house import Export, Hooks
from integration.protocol import Library
from integration.runner import Run
from integration.schedule.aside import beside, cut_at
from integration.schedule.pool import Pool
from integration.service import Plan, Rooms
from integration.session import Prepared


def rooms(library: Library) -> Rooms:
    """Return what a service needs to reconstruct by `library` and to deliver as DICOM."""

    def build(plan: Plan, journal: Journal, spool: Spool) -> Hooks:
        names = [destination.name for destination in plan.destinations]
        exporters: dict[str, SpoolExporter] = {}
        folder, reports = plan.data / FOLDER, plan.data / REPORTS
        pool = Pool(plan.workers) if plan.workers else None
        if pool is not None and any(cut_at(protocol) is not None for protocol in library):
            pool.start()

        def exporter(scan: Scan, job: str) -> Export:
            made = SpoolExporter(spool, journal, destinations=plan.destinations, scan=scan, job=job, reports=reports)
            exporters[job] = made
            return lambda image: made.send(image).sop_uids

        def finish(job: str, verdicts: Sequence[Verdict]) -> None:
            if job in exporters:
                exporters.pop(job).finish(verdicts)

        return Hooks(
            prepare=lambda request, scan, job: prepare(
                library, request, replace(scan, companions=folder), job=job, pool=pool
            ),
            exporter=exporter,
            finish=finish,
            adopt=lambda: recover(spool, journal, names),
            protocols=[protocol.model_dump(mode="json") for protocol in library],
            close=lambda: None if pool is None else pool.stop(),
        )

    return build


def prepare(library: Library, request: Request, scan: Scan, *, job: str = "", pool: Pool | None = None) -> Prepared:
    """Choose and change the protocol that a client asks for.

    Parameters
    ----------
    library
        The protocols.
    request
        What is asked for.
    scan
        The header.
    job
        Our name for the scan.
    pool
        Runs networks beside the scan; None: they run in it.

    Raises
    ------
    UnknownProtocolError
        No protocol has this name.
    ConfigError
        It is for another modality, or a change of it is wrong.
    """
    protocol = router.choose(library, scan, request.protocol)
    if request.changes:
        protocol = protocol.with_changes(request.changes)
    found = (_chosen(protocol.name),) if request.protocol == AUTO else ()
    run = Run(scan, protocol, beside(pool, protocol, job=job, request=request))
    return Prepared(protocol.name, run, found, run.plans)


def _chosen(name: str) -> Verdict:
    return Verdict(check="protocol.choice", level=Level.PASS, advice=f"The scan's header chose the protocol {name}.")
