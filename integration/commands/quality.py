"""Measure the image quality of a series of a test object.

CT: HU, uniformity, noise power, sharpness, contrast. PET: contrast recovery, background variability and lung residual
of the NEMA body phantom (IEC), which is looked for; without one, --virtual measures on the virtual scanner.

Places are in mm, x to the patient's left and y to the back, as a DICOM viewer shows them. Without any, a round water
phantom is looked for, and its own edge shows the sharpness. Where x is negative, write = after the option's name.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from acquisition.errors import ConfigError, DataError
from acquisition.items import Image
from acquisition.sources.phantom.pet_exam import PetExam
from integration import quality_pet
from integration.plot import curve, grey_map, sheet
from integration.protocol import Library
from integration.quality import Places, Quality, measured, slices_of, volume_of
from recon.ct.mtf import Mtf
from recon.ct.uniform import Disc
from recon.pet.iec import RATIO

EXAMPLES = """
  isocenter quality water/
  isocenter quality water/ --slices 10:30 --plot quality.svg
  isocenter quality catphan/ --uniform=0,0,60 --wire=0,-20,0.05 --json | jq .mtf.f50_lp_per_cm
  isocenter quality acr/ --slices 12:14 --uniform=0,0,80 --edge=-45,44,12.5 --cnr=-12,60:12,60 --roi 10
  isocenter quality nema/ --ratio 4 --background 5300 --plot nema.svg
  isocenter quality --virtual pet_osem --seconds 10
"""
_FOR_CT = ("slices", "uniform", "edge", "wire", "cnr", "roi")
_FOR_PET = ("ratio", "cold", "background")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("series", type=Path, metavar="SERIES", nargs="?", help="folder with the images of one series")
    what.add_argument("--virtual", metavar="PROTOCOL", help="measure a PET protocol on the virtual scanner")
    _add_ct(parser.add_argument_group("CT"))
    _add_pet(parser.add_argument_group("PET"))
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw what was measured")
    parser.add_argument("--json", action="store_true", help="print what was measured as one JSON object")


def _add_pet(parser: argparse._ArgumentGroup) -> None:
    parser.add_argument("--ratio", type=_positive, help="activity of the spheres to the background (default: 4)")
    parser.add_argument("--cold", type=_cold, metavar="MM[,MM]", help="diameters of the spheres without activity")
    parser.add_argument("--background", type=_positive, metavar="BQ/ML", help="its activity, for the bias")
    parser.add_argument("--seconds", type=_positive, metavar="S", help="of --virtual (default: 5)")


def _add_ct(parser: argparse._ArgumentGroup) -> None:
    parser.add_argument(
        "--slices", type=_span, metavar="FIRST:LAST", help="counted from 1 in their order (default: the middle third)"
    )
    parser.add_argument(
        "--uniform", type=_disc, metavar="X,Y,RADIUS", help="uniform region [mm] (default: the water that is found)"
    )
    sharp = parser.add_mutually_exclusive_group()
    sharp.add_argument(
        "--edge", type=_disc, metavar="X,Y,RADIUS", help="disc whose edge gives the MTF [mm] (default: the phantom)"
    )
    sharp.add_argument("--wire", type=_wire, metavar="X,Y[,DIAMETER]", help="wire or bead that gives the MTF [mm]")
    parser.add_argument("--cnr", type=_pair, metavar="X,Y:X,Y", help="an insert and its background [mm]")
    parser.add_argument(
        "--roi", type=_positive, metavar="RADIUS", help="of the regions of --cnr [mm] (default: a tenth of the uniform)"
    )


def run(options: argparse.Namespace) -> int:
    """Measure; print a table or JSON.

    Raises
    ------
    ConfigError
        The picture is to be of a kind that is not drawn here.
    """
    if options.plot is not None and options.plot.suffix.lower() != ".svg":
        raise ConfigError("--plot", expected="a name that ends in .svg", got=str(options.plot))
    if options.virtual is not None:
        return _virtual(options)
    if options.seconds is not None:
        raise ConfigError("--seconds", expected="--virtual beside it", got="a series")
    volume = volume_of(options.series)
    if volume.attributes["Modality"] == "PT":
        return _pet(options, volume, str(options.series))
    _refuse(options, _FOR_PET, "CT")
    return _ct(options, volume)


def _ct(options: argparse.Namespace, volume: Image) -> int:
    slices = slices_of(volume, options.slices)
    places = Places(
        uniform=options.uniform, edge=options.edge, wire=options.wire, pair=options.cnr, region_mm=options.roi or 0.0
    )
    quality = measured(slices, places)
    facts = {
        "series": str(options.series),
        "description": volume.attributes["SeriesDescription"],
        "slices": len(slices),
        "of": len(volume.data),
        "pixel_mm": slices[0].pixel_mm,
        "thickness_mm": volume.grid.thickness_mm,
    }
    if options.plot is not None:
        options.plot.write_text(
            drawn(quality, f"{options.series}: {quality.hu:.1f} HU, noise {quality.noise_hu:.1f} HU")
        )
        facts["plot"] = str(options.plot)
    if options.json:
        print(json.dumps(facts | report(quality)))
    else:
        for line in _table(facts, quality):
            print(line)
    return 0


def _virtual(options: argparse.Namespace) -> int:
    for name in ("cold", "ratio", "background"):
        if getattr(options, name) is not None:
            raise ConfigError(f"--{name}", expected="a series that it belongs to", got="--virtual, which has its own")
    exam = PetExam(duration_s=options.seconds or 5.0)
    image = quality_pet.virtual_image(Library()[options.virtual], exam)
    options.background = quality_pet.VIRTUAL_BQ_PER_ML
    return _pet(options, image, f"virtual phantom, {options.virtual}, {exam.duration_s:g} s")


def _pet(options: argparse.Namespace, volume: Image, name: str) -> int:
    _refuse(options, _FOR_CT, "PET")
    filling = quality_pet.Filling(
        ratio=options.ratio or RATIO, cold_mm=options.cold or (), background_bq_per_ml=options.background
    )
    found = quality_pet.measured(volume, filling)
    if options.plot is not None:
        options.plot.write_text(quality_pet.drawn(found, name))
    if options.json:
        plot = {"plot": str(options.plot)} if options.plot else {}
        print(json.dumps({"series": name} | quality_pet.report(found) | plot))
    else:
        print("\n".join(quality_pet.table(found)))
    return 0


def _refuse(options: argparse.Namespace, names: tuple[str, ...], kind: str) -> None:
    given = [f"--{n}" for n in names if getattr(options, n) is not None]
    if given:
        raise ConfigError(f"{kind} series", expected=f"options for {kind}", got=", ".join(given))


def report(quality: Quality) -> dict[str, Any]:
    """Return what was measured in JSON's types; units are in the names."""
    f, power = quality.noise.radial()
    mtf = quality.mtf
    return {
        "uniform": {"centre_mm": quality.uniform.centre_mm, "radius_mm": quality.uniform.radius_mm},
        "hu": quality.hu,
        "uniformity_hu": quality.uniformity_hu,
        "noise_hu": quality.noise_hu,
        "nps": {
            "mean_lp_per_cm": quality.noise.mean_lp_per_cm,
            "peak_lp_per_cm": _peak(quality),
            "squares": quality.n_squares,
            "lp_per_cm": _rounded(f),
            "hu2_mm2": _rounded(power),
            "plane_hu2_mm2": [_rounded(row) for row in np.fft.fftshift(quality.noise.power)],
        },
        "mtf": None
        if mtf is None
        else {
            "from": quality.mtf_from,
            "f50_lp_per_cm": _frequency(mtf, 0.5),
            "f10_lp_per_cm": _frequency(mtf, 0.1),
            "lp_per_cm": _rounded(mtf.lp_per_cm),
            "values": _rounded(mtf.values),
        },
        "mtf_missing": quality.mtf_from if mtf is None else None,
        "cnr": quality.cnr,
    }


def drawn(quality: Quality, caption: str) -> str:
    """Return MTF, radial and plane noise power spectrum as SVG."""
    frequency = "lp/cm"
    f, power = quality.noise.radial()
    panels = [
        curve("Noise power spectrum", (frequency, "HU² mm²"), (f[1:], power[1:])),
        grey_map(
            "Noise power in the plane",
            (frequency, frequency),
            np.fft.fftshift(quality.noise.power),
            reach=5 / quality.noise.pixel_mm,
        ),
    ]
    if quality.mtf is not None:
        mtf = quality.mtf
        panels.insert(0, curve(f"MTF, {quality.mtf_from}", (frequency, "modulation"), (mtf.lp_per_cm, mtf.values)))
    return sheet(panels, caption)


def _table(facts: dict[str, Any], quality: Quality) -> list[str]:
    (x, y), radius = quality.uniform.centre_mm, quality.uniform.radius_mm
    rows = [
        ("slices", "{slices} of {of}, {thickness_mm:.4g} mm, pixels {pixel_mm:.3f} mm".format(**facts)),
        ("uniform region", f"radius {radius:.1f} mm around ({x:.1f}, {y:.1f}) mm"),
        ("HU", f"{quality.hu:.1f}"),
        ("uniformity", f"{quality.uniformity_hu:+.1f} HU from the middle to the rim"),
        ("noise", f"{quality.noise_hu:.1f} HU"),
        (
            "noise power",
            f"mean {quality.noise.mean_lp_per_cm:.2f}, peak {_peak(quality):.2f} lp/cm ({quality.n_squares} squares)",
        ),
        ("MTF", f"none: {quality.mtf_from}" if quality.mtf is None else _sharpness(quality.mtf, quality.mtf_from)),
    ]
    if quality.cnr is not None:
        rows.append(("CNR", f"{quality.cnr:.2f}"))
    return [f"{name:<16}{text}" for name, text in rows]


def _sharpness(mtf: Mtf, source: str) -> str:
    texts = [f"{100 * level:g} % at {f:.2f}" for level in (0.5, 0.1) if (f := _frequency(mtf, level)) is not None]
    return f"{', '.join(texts) or 'above 50 % throughout'} lp/cm ({source})"


def _frequency(mtf: Mtf, level: float) -> float | None:
    """Return where the modulation falls to a level, None where the pixels are too large to see it."""
    try:
        return mtf.frequency(level)
    except DataError:
        return None


def _peak(quality: Quality) -> float:
    f, power = quality.noise.radial()
    return float(f[1 + np.argmax(power[1:])])


def _rounded(values: np.ndarray) -> list[float]:
    return [float(f"{v:.5g}") for v in values]


def _numbers(text: str, *counts: int) -> tuple[float, ...]:
    parts = text.split(",")
    try:
        values = tuple(float(part) for part in parts)
    except ValueError:
        values = ()
    if len(values) not in counts or not np.isfinite(values).all():
        wanted = " or ".join(map(str, counts))
        raise argparse.ArgumentTypeError(
            f"{text!r} is not {wanted} numbers with commas between them, for example 0,-20,5"
        )
    return values


def _disc(text: str) -> Disc:
    x, y, radius = _numbers(text, 3)
    return Disc(centre_mm=(x, y), radius_mm=_positive(str(radius)))


def _wire(text: str) -> tuple[float, float, float]:
    x, y, diameter = (*_numbers(text, 2, 3), 0.0)[:3]
    return x, y, diameter


def _pair(text: str) -> tuple[tuple[float, float], tuple[float, float]]:
    one, _, two = text.partition(":")
    (a, b), (c, d) = _numbers(one, 2), _numbers(two, 2)
    return (a, b), (c, d)


def _span(text: str) -> tuple[int, int]:
    first, colon, last = text.partition(":")
    if not first.isdecimal() or (colon and not last.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not FIRST:LAST, for example 10:30")
    return int(first), int(last or first)


def _cold(text: str) -> tuple[float, ...]:
    return _numbers(text, *range(1, 7))


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < np.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value
