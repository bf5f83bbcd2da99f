"""The PET part of the demonstration: a picture each second while a torso is counted, a shift that is caught, Bq/mL.

Two lanes: previews, which are not quantitative, and the final image with all corrections. Events come from within the
process, or through the service's raw stream; see `demo_feed`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain

import numpy as np
import torch

from acquisition.items import Image
from acquisition.scan import Scan, Study
from acquisition.sources.phantom.pet import PetSimulation
from acquisition.sources.phantom.pet_exam import PetExam, gantry
from acquisition.sources.phantom.pet_faults import PetFaults, jump
from acquisition.sources.phantom.pet_objects import cylinder, torso
from integration.demo import House, Outcome, folder_of, outcome
from integration.demo_feed import Measured, Tell, follow, serving
from integration.doors.incoming import Data
from integration.export import series_of
from integration.gate import CONVENTIONAL
from integration.protocol import Library
from integration.runner import Run
from integration.settings import default_threads
from integration.timeline import percentiles
from kernels.memory import keep_memory
from recon.pet.preview import OUTPUT as PREVIEW
from recon.pet.volume import VoxelOptions, gantry_grid

FIRST_PREVIEW = "first preview"
"""Station: from the begin of the scan to the archive's answer to the last slice of the first preview."""
FINAL_IMAGE = "final image"
"""Station: from the last event of the scan to the archive's answer to the last slice of the final image."""
_PROTOCOL = "pet_torso"
_SEED = 4
_CENTRE_MM = (0.0, 0.0, 10.0)  # of the torso: heart, lungs with lesions, dome of the liver
_BQ_PER_ML_PER_SUV = 8e2  # a fifth of what is usual: decays are simulated one by one
_SHIFT_MM = (12.0, 0.0, 0.0)
_MU_MM = 4.0
_TOLD_S = 4.0
_LEAD_S = 3.0  # the CT is long over when counting begins


def demo_exam() -> PetExam:
    """Return the exam of the demonstration: 20 s of counting; at half time the patient slides 12 mm to the left."""
    duration_s = 20.0
    return PetExam(duration_s=duration_s, faults=PetFaults(motion=jump(duration_s / 2, _SHIFT_MM)), seed=_SEED)


def pet_exam(
    place: House, *, exam: PetExam | None = None, speed: float = 1.0, tell: Tell = lambda line: None
) -> Outcome:
    """Count a torso, and follow previews and final image into the archive.

    Parameters
    ----------
    place
        Where the archive is.
    exam
        What is measured; `demo_exam` when None.
    speed
        Times the scanner's pace.
    tell
        Told one line for each thing that happens.
    """
    keep_memory()
    torch.set_num_threads(default_threads())
    patient = torso(_SEED, centre_mm=_CENTRE_MM, bq_per_ml_per_suv=_BQ_PER_ML_PER_SUV)
    simulation = PetSimulation(exam or demo_exam(), patient)
    tell("the virtual PET scanner measures a torso")
    with ThreadPoolExecutor(1, "warm-up") as pool:  # all before the first is sent: the scanner must not be what is slow
        warm = pool.submit(warm_up)
        items = _simulated(simulation, tell)
        warm.result()
    measured = Measured(source="virtual PET scanner", scan=header(simulation), items=items, lead_s=_LEAD_S)
    with serving(place, "service-pet") as (at, service):
        found = follow(at, service, measured, speed=speed, tell=tell, watch=_picture)
    stations = {
        FIRST_PREVIEW: [t - found.started_s for t in found.answered_s(PREVIEW)[:1]],
        FINAL_IMAGE: [t - found.ended_s for t in found.answered_s(CONVENTIONAL)],
    }
    found.row["latency_ms"] |= {name: percentiles([1e3 * s for s in seconds]) for name, seconds in stations.items()}
    made = outcome(place, found.row, scan=measured.scan, verdicts=found.verdicts, troubles=found.troubles)
    return replace(made, dicom_dir=str(folder_of(place, found.sop_uids(CONVENTIONAL))))


def header(simulation: PetSimulation) -> Scan:
    """Return the header, with what the console adds."""
    study = Study(description="Virtual torso", body_part="CHEST")
    return replace(simulation.scan, protocol_name="torso_fdg", study=study)


def attenuation(simulation: PetSimulation) -> Image:
    """Return what a CT before the scan tells of the attenuation, the patient not yet moved [1/mm]."""
    grid = gantry_grid(simulation.exam.pet, VoxelOptions(voxel_mm=_MU_MM, slice_mm=_MU_MM))
    axes = [grid.origin_mm[2 - n] + np.arange(grid.shape[n]) * grid.spacing_mm[n] for n in range(3)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    mu = simulation.object_at(0.0).body.signal(np.stack([x, y, z], axis=-1))
    return Image(data=mu.astype(np.float32), grid=grid, unit="1/mm", output="mu")


def warm_up() -> None:
    """Put a small scan through every room: no patient waits for a compiler or an import."""
    small = gantry(n_rings=4, n_crystals=60, ring_pitch_mm=16.0)
    simulation = PetSimulation(PetExam(pet=small, duration_s=1.0), cylinder(bq_per_ml=500.0))
    coarse = {"voxel_mm": 20.0, "slice_mm": 16.0}
    changes = {f"pet.{step}.{name}": mm for step in ("preview", "osem") for name, mm in coarse.items()}
    work = Run(simulation.scan, Library()[_PROTOCOL].with_changes(changes))
    work.open()
    series = series_of(simulation.scan, "warm-up")
    items = (simulation.normalisation, attenuation(simulation), *simulation.events())
    for image in chain(chain.from_iterable(map(work.feed, items)), work.close()):
        series.instances(image)


def _simulated(simulation: PetSimulation, tell: Tell) -> Sequence[Data]:
    """Return what the scanner delivers: what it knows before the scan, then its events."""
    items: list[Data] = [simulation.normalisation, attenuation(simulation)]
    exam, told, n = simulation.exam, time.monotonic(), 0
    for block in simulation.events():
        items.append(block)
        n += len(block)
        if time.monotonic() - told > _TOLD_S:
            told = time.monotonic()
            tell(f"simulated {block.stop_s:g} of {exam.duration_s:g} s")
    pet = exam.pet
    tell(
        f"{n} coincidences in {exam.duration_s:g} s, {pet.n_rings} rings of {pet.n_crystals} crystals, "
        f"{pet.n_tof} time-of-flight bins"
    )
    return items


def _picture(image: Image, n_archived: int) -> str:
    """Tell of every picture."""
    waited_ms = 1e3 * (time.monotonic() - image.last_readout_s)
    what = "final image" if image.output == CONVENTIONAL else image.output
    seconds = f"{image.attributes['frame_stop_s']} s of counting"
    return f"{what} of {seconds}: made {waited_ms:.0f} ms after its last event; {n_archived} slices in the archive"
