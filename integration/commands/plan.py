"""Plan the next series of the head on a localizer: from DICOM, NIfTI or raw data; print it, draw it.

The exit code is 0 where there is a plan, 1 where the localizer is not understood well enough for one. Research
software: a person looks at the lines before anything is measured along them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path

from acquisition.errors import ConfigError, DataError, FileFormatError
from acquisition.items import Image, Kind, SlicePlan
from acquisition.sources import open_raw
from acquisition.sources.nifti import is_nifti, read_nifti
from acquisition.verdict import Verdict

EXAMPLES = """
  isocenter plan localizer/ --target brain-acpc --json
  isocenter plan localizer/ -o dicom/
  isocenter plan localizer.h5 --target hippocampus --picture plan.png
  isocenter plan today/ --prior last_year/ --prior-plan last_year.json --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("path", type=Path, nargs="+", metavar="PATH", help="DICOM files or folder, NIfTI, or raw data")
    parser.add_argument(
        "--target", default="brain-acpc", help="brain-acpc (default), brain-sagittal, hippocampus, orbit, iac"
    )
    parser.add_argument("--prior", type=Path, metavar="PATH", help="localizer of an earlier exam: the same angulation")
    parser.add_argument("--prior-plan", type=Path, metavar="FILE", help="plan of the earlier exam, as --json prints it")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="write a PNG of the plan in the localizer")
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        metavar="DIR",
        help="write the plan as DICOM (presentation state, page); DICOM PATH only",
    )
    parser.add_argument("--json", action="store_true", help="print the plan as one JSON object")


def run(options: argparse.Namespace) -> int:
    """Plan; return 0 when there is a plan.

    Raises
    ------
    ConfigError
        Only one of --prior and --prior-plan was given; --out without DICOM images to refer to.
    """
    from models.plan import planned, target_of

    target_of(options.target, where="isocenter plan")
    if (options.prior is None) != (options.prior_plan is None):
        raise ConfigError("isocenter plan", expected="--prior and --prior-plan together", got="one of them")
    if options.out and not _files(options.path):
        raise ConfigError(
            "isocenter plan --out",
            expected="DICOM files as PATH: a presentation state refers to them",
            got=", ".join(map(str, options.path)),
            action="name the localizer's DICOM folder, or use --picture",
        )
    images = [image for path in options.path for image in images_of(path)]
    start = time.perf_counter()
    if options.prior is None:
        made = planned(images, options.target)
        plan, verdict = made.plan, made.verdict
    else:
        plan, verdict = _transferred(images, options)
    seconds = time.perf_counter() - start
    if options.picture and plan is not None:
        from integration.plan_page import page
        from integration.plan_views import views
        from integration.plot import png

        options.picture.write_bytes(png(page(views(images, plan), plan)))
    if options.out and plan is not None:
        _write(options.path, plan, options.out)
    document = None if plan is None else plan.as_dict()
    if options.json:
        print(json.dumps({"plan": document, "verdict": verdict.as_dict(), "seconds": round(seconds, 3)}))
    else:
        _tell(document, verdict)
    return 0 if plan is not None else 1


def images_of(path: Path) -> list[Image]:
    """Return the magnitude images of a localizer.

    Raises
    ------
    FileFormatError, DataError
        It cannot be read, or there are none.
    """
    from models.plan_step import stacks_of

    images = [i for i in _read(path) if i.kind is Kind.MAGNITUDE]
    if not images:
        raise DataError(f"localizer {path}", expected="magnitude images", got="none")
    return stacks_of(images)


def _read(path: Path) -> list[Image]:
    from integration.dicom.read import read_images

    if is_nifti(path):
        return [read_nifti(path)]
    if path.is_file() and path.suffix.lower() in (".dcm", ".ima"):
        return read_images(path)
    if files := _files([path]):
        return read_images(files)
    return _reconstructed(path)


def _reconstructed(path: Path) -> list[Image]:
    from integration import router
    from integration.commands.reconstruct import reconstructed
    from integration.doors.request import AUTO
    from integration.protocol import Library
    from integration.runner import Run

    raw = open_raw(path)
    work = Run(raw.scan, router.choose(Library([]), raw.scan, AUTO))
    return [image for image in reconstructed(work, raw.items()) if image.output == "conventional"]


def _write(paths: list[Path], plan: SlicePlan, out: Path) -> None:
    """Write presentation state and page of a plan; the same plan on the same images has the same UIDs again."""
    from integration.dicom.plan import localizer, plan_objects

    found = [localizer(file) for file in _files(paths)]
    named = json.dumps([sorted(one.reference.sop_uid for one in found), plan.as_dict()], sort_keys=True)
    out.mkdir(parents=True, exist_ok=True)
    for made in plan_objects(found, plan, f"plan-{hashlib.sha256(named.encode()).hexdigest()[:24]}"):
        (out / f"{made.sop_instance_uid}.dcm").write_bytes(made.data)


def _files(paths: list[Path]) -> list[Path]:
    """Return the DICOM files among files and in folders."""
    found = (sorted(path.rglob("*")) if path.is_dir() else [path] for path in paths)
    return [file for files in found for file in files if file.is_file() and _is_dicom(file)]


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _transferred(images: list[Image], options: argparse.Namespace) -> tuple[SlicePlan | None, Verdict]:
    from acquisition.slice_plan import plan_of
    from models.plan_prior import transferred

    try:
        document = json.loads(options.prior_plan.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        where = f"plan {options.prior_plan}"
        raise FileFormatError(where, expected="JSON that `isocenter plan --json` printed", got=str(error)) from error
    document = document.get("plan", document) if isinstance(document, dict) else document
    prior = plan_of(document, where=str(options.prior_plan))
    return transferred(images, images_of(options.prior), prior)


def _tell(document: dict[str, object] | None, verdict: Verdict) -> None:
    print(f"{verdict.level.value}  {verdict.advice}")
    if document is None:
        print(f"because of {verdict.evidence}")
        return
    for key in ("centre_mm", "normal", "in_plane", "fov_mm", "n_slices", "slice_distance_mm", "coverage_mm"):
        value = document[key]
        shown = ", ".join(f"{v:.3f}" for v in value) if isinstance(value, list | tuple) else f"{value:g}"
        print(f"{key:<20}{shown}")
    print(f"{'confidence':<20}{document['confidence']:.2f}")
