"""The part of the ISMRMRD header that geometry and timing hang on: encodings and sequence parameters.

Everything here is right or a `HeaderError` that names the element's path; only what the schema demands and
scanners still forget is filled in, with a FLAG. Times in the header are milliseconds, ours are seconds.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from acquisition.errors import HeaderError
from acquisition.scan import Encoding, Limits
from acquisition.sources.mrd_xml import Node, Notes

COUNTER_ELEMENTS = {
    "k0": "kspace_encoding_step_0",
    "k1": "kspace_encoding_step_1",
    "k2": "kspace_encoding_step_2",
    **{name: name for name in ("average", "slice", "contrast", "phase", "repetition", "set", "segment")},
    **{f"user_{i}": f"user_{i}" for i in range(8)},
}
"""Our names of the encoding counters and the schema's."""

TRAJECTORIES = ("cartesian", "epi", "radial", "goldenangle", "spiral", "other")
CALIBRATION_MODES = ("embedded", "interleaved", "separate", "external", "other")

_MAX_ENCODINGS, _MAX_VALUES = 64, 65536
_MAX_INDEX, _MAX_MM, _MAX_MS = 65535, 1e5, 1e8
_SMALL = 1e-6


def parse_encodings(root: Node, notes: Notes) -> tuple[Encoding, ...]:
    """Return the encoding spaces of a header.

    Raises
    ------
    HeaderError
        There is none, there are too many, or one is broken.
    """
    nodes = root.all("encoding")
    if not 1 <= len(nodes) <= _MAX_ENCODINGS:
        raise HeaderError(
            f"{root.path}/encoding",
            expected=f"1 ... {_MAX_ENCODINGS} encodings",
            got=str(len(nodes)),
            action="correct the header where it is written",
        )
    return tuple(_encoding(node, notes) for node in nodes)


def parse_sequence(node: Node | None) -> dict[str, Any]:
    """Return the keyword arguments of `MrHeader` that the sequence parameters fill.

    Raises
    ------
    HeaderError
        A value is not a number, negative or absurd.
    """
    node = node or Node.empty("sequenceParameters")
    node.skip("diffusionDimension", "diffusionScheme")
    b_values = [d.need("bvalue").number(low=0, high=1e7) for d in node.all("diffusion")]
    for diffusion in node.all("diffusion"):
        diffusion.skip("gradientDirection")
    return {
        "tr_s": _seconds(node, "TR"),
        "te_s": _seconds(node, "TE"),
        "ti_s": _seconds(node, "TI"),
        "flip_deg": tuple(child.number(low=-360, high=360) for child in _values(node, "flipAngle_deg")),
        "sequence_type": node.text("sequence_type"),
        "echo_spacing_s": _seconds(node, "echo_spacing"),
        "diffusion_b_s_per_mm2": tuple(b_values),
    }


def parse_parameters(node: Node | None) -> dict[str, float | str]:
    """Return named values: long and double as numbers, string and base64 as text; repeated names get ``[1]`` ..."""
    found: dict[str, float | str] = {}
    seen: dict[str, int] = {}
    for kind in ("Long", "Double", "String", "Base64"):
        for child in node.all(f"userParameter{kind}") if node else ():
            name, value = child.text("name") or "", child.get("value")
            text = value.value if value else ""
            repeat = seen.get(name, 0)
            seen[name] = repeat + 1
            found[f"{name}[{repeat}]" if repeat else name] = _number(text) if kind in ("Long", "Double") else text
    return found


def _encoding(node: Node, notes: Notes) -> Encoding:
    matrix, fov = _space(node.need("encodedSpace"))
    recon = node.get("reconSpace")
    if recon is None:
        notes.flag(f"{node.path}/reconSpace", got="nothing", taken="taken from the encoded space")
    recon_matrix, recon_fov = _space(recon) if recon else (matrix, fov)
    acceleration, mode = _parallel(node.get("parallelImaging"), notes)
    train = node.get("echoTrainLength")
    return Encoding(
        matrix=matrix,
        fov_mm=fov,
        recon_matrix=recon_matrix,
        recon_fov_mm=recon_fov,
        limits=_limits(node.get("encodingLimits"), notes),
        trajectory=_word(node, "trajectory", known=TRAJECTORIES, absent="cartesian", notes=notes),
        trajectory_parameters=_trajectory(node.get("trajectoryDescription")),
        acceleration=acceleration,
        calibration_mode=mode,
        echo_train_length=train.integer(low=0, high=_MAX_INDEX) if train and train.value else None,
    )


def _space(node: Node) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    matrix, fov = node.need("matrixSize"), node.need("fieldOfView_mm")
    sizes = [child.integer(low=1, high=_MAX_INDEX) if (child := matrix.get(axis)) else 1 for axis in "zyx"]
    lengths = [fov.need(axis).number(low=_SMALL, high=_MAX_MM) for axis in "zyx"]
    return (sizes[0], sizes[1], sizes[2]), (lengths[0], lengths[1], lengths[2])


def _limits(node: Node | None, notes: Notes) -> dict[str, Limits]:
    if node is None:
        return {}
    found = ((name, node.get(element)) for name, element in COUNTER_ELEMENTS.items())
    return {name: _limit(child, notes) for name, child in found if child}


def _limit(node: Node, notes: Notes) -> Limits:
    numbers = {n: c.integer(low=0, high=_MAX_INDEX) for n in ("minimum", "maximum", "center") if (c := node.get(n))}
    limits = Limits(**numbers)
    if limits.minimum > limits.maximum:
        raise HeaderError(
            node.path,
            expected="minimum <= maximum",
            got=f"{limits.minimum} ... {limits.maximum}",
            action="correct the header where it is written",
        )
    if not limits.minimum <= limits.center <= limits.maximum:
        notes.flag(f"{node.path}/center", got=f"{limits}", taken="a centre outside its range is used as it is")
    return limits


def _trajectory(node: Node | None) -> dict[str, float | str]:
    if node is None:
        return {}
    texts = {name: text for name in ("identifier", "comment") if (text := node.text(name))}
    return parse_parameters(node) | texts


def _parallel(node: Node | None, notes: Notes) -> tuple[tuple[float, float], str | None]:
    if node is None:
        return (1.0, 1.0), None
    node.skip("interleavingDimension")
    multiband = node.get("multiband")
    if multiband:
        notes.flag(multiband.path, got="multiband data", taken="slices measured together are not separated")
    factor = node.get("accelerationFactor") or Node.empty("accelerationFactor")
    steps = (factor.get("kspace_encoding_step_2"), factor.get("kspace_encoding_step_1"))
    k2, k1 = (_acceleration(step, notes) for step in steps)
    mode = None
    if node.text("calibrationMode"):
        mode = _word(node, "calibrationMode", known=CALIBRATION_MODES, absent="other", notes=notes)
    return (k2, k1), mode


def _acceleration(node: Node | None, notes: Notes) -> float:
    """Return one factor, also a fractional one; a zero means that it is not used."""
    if node is None:
        return 1.0
    value = node.number(low=0, high=1000)
    if value == 0:
        notes.flag(node.path, got="0", taken="1 used")
    return value or 1.0


def _word(node: Node, name: str, *, known: tuple[str, ...], absent: str, notes: Notes) -> str:
    text = node.text(name)
    if text is None:
        notes.flag(f"{node.path}/{name}", got="nothing", taken=f"{absent} assumed")
        return absent
    if text.lower() not in known:
        notes.flag(f"{node.path}/{name}", got=repr(text[:60]), taken="treated as other")
        return "other"
    return text.lower()


def _seconds(node: Node, name: str) -> tuple[float, ...]:
    """Return times in seconds; the decimal point is moved in decimal, so 12.4 ms is 0.0124 s to the last bit."""
    children = _values(node, name)
    for child in children:
        child.number(low=0, high=_MAX_MS)
    return tuple(float(Decimal(child.value) / 1000) for child in children)


def _values(node: Node, name: str) -> list[Node]:
    values = node.all(name)
    if len(values) > _MAX_VALUES:
        raise HeaderError(f"{node.path}/{name}", expected=f"at most {_MAX_VALUES} values", got=str(len(values)))
    return values


def _number(text: str) -> float | str:
    """Return a parameter's number; text that is none stays text, because vendors write what they like."""
    try:
        return float(text)
    except ValueError:
        return text
