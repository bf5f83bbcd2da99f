"""A service with the plain reconstruction as a process, to be killed: ``python -m ... DATA ARCHIVE_PORT``."""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path

from integration.delivery.destination import Destination
from integration.service import Service
from tests.integration.doors_samples import plan, rooms


def main() -> None:
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    data, port = Path(sys.argv[1]), int(sys.argv[2])
    destination = Destination(
        name="archive", host="127.0.0.1", port=port, ae_title="ISOARCHIVE", backoff_first_s=0.1, timeout_s=5
    )
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    service = Service(replace(plan(data, destination)), rooms)
    service.start()
    print(json.dumps({"mrd_port": service.mrd_port}), flush=True)
    service.run(stopping)
    service.stop()


if __name__ == "__main__":
    main()
