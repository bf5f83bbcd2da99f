"""Reconstruct what scanners send over MRD (ISMRMRD, TCP 9002), give the images back and deliver them to archives."""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import sys
import threading
from itertools import chain
from pathlib import Path

import torch

from acquisition.sources.phantom.exam import MriExam
from acquisition.sources.phantom.mri import Simulation
from integration.commands.settings_arguments import add_settings, settings_of
from integration.delivery.spool import write_durably
from integration.export import series_of
from integration.protocol import Library
from integration.rooms import rooms
from integration.runner import Run
from integration.service import Service
from integration.settings import Settings
from kernels.memory import keep_memory

EXAMPLES = """
  isocenter serve --archive 127.0.0.1:4242:ORTHANC
  isocenter serve --config /etc/isocenter.yaml --log-level INFO
  isocenter serve --console
  isocenter serve --mrd-port 9010 --http-port 8090 --data /data/isocenter
"""

LOG_LEVEL = "INFO"
WARM_UP = "mri_cartesian"
"""Protocol of the virtual scan before the first real one."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_settings(parser)
    parser.add_argument(
        "--ready-file", type=Path, metavar="FILE", help="JSON with pid and ports, written when scanners are heard"
    )


def run(options: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT."""
    settings = settings_of(options)
    keep_memory()
    service = Service(settings.plan(), rooms(Library(settings.protocols)))
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    warm_up(settings)
    service.start()
    _announce(service, settings, options.ready_file)
    service.run(stopping)
    service.stop()
    return 0


def warm_up(settings: Settings) -> None:
    """Set the number of threads, and put a small virtual scan through every room: no patient waits for an import."""
    torch.set_num_threads(settings.threads)
    simulation = Simulation(MriExam(matrix=(1, 64, 64), n_coils=4, acceleration=2, n_acs=16, n_noise=4))
    work = Run(simulation.scan, Library()[WARM_UP])
    work.open()
    series = series_of(simulation.scan, "warm-up")
    for image in chain(chain.from_iterable(map(work.feed, simulation.readouts())), work.close()):
        series.instances(image)
    gc.collect()
    gc.freeze()  # what is here now stays: the collector need not look at it during a scan


def _announce(service: Service, settings: Settings, ready_file: Path | None) -> None:
    what = "console" if settings.console else "status page"
    page = f", {what} http://{settings.host}:{service.http_port}" if service.http_port else ""
    archives = ", ".join(f"{d.ae_title} at {d.host}:{d.port}" for d in settings.destinations)
    print(f"Isocenter hears scanners at {settings.host}:{service.mrd_port}{page}", file=sys.stderr)
    if service.stream_port:
        print(f"raw stream at tcp://{settings.host}:{service.stream_port}", file=sys.stderr)
    print(f"images go to {archives or 'the spool only (no --archive)'}; data in {settings.data}", file=sys.stderr)
    if ready_file is not None:
        ports = {name: getattr(service, name) for name in ("mrd_port", "http_port", "stream_port")}
        ready = {"pid": os.getpid(), **ports}
        write_durably(ready_file, json.dumps(ready).encode())
