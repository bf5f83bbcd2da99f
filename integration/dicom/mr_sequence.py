"""What a pulse sequence is in DICOM's codes, and its times (MR image module, PS3.3 C.8.3.1).

The scanner's sequence type is free text. The table says what its words mean; the first row that is found holds.
Without a word that we know, ScanningSequence is RM (research mode): never a guess. Protocol names are not read:
people choose them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from acquisition.items import Position
from acquisition.scan import MrHeader
from integration.dicom.text import Elements

_EPI = re.compile(r"epi(?!d)|ep2d|echo.?planar")
_INVERSION = re.compile(r"\birm?\b|inversion|flair|stir|tirm|mp2?rage|irfspgr")
_ROWS = tuple(
    (re.compile(pattern), scanning, variant)
    for pattern, scanning, variant in (
        (r"mp2?rage|bravo|irfspgr", "GR", ("SP", "MP")),
        (r"tru.?fi|true.?fisp|b.?ssfp|fiesta|balanced|\bb.?[ft]fe|ciss", "GR", ("SS",)),
        (r"turbo.?flash|tfl|turbo.?fe|tfe", "GR", ("SP",)),
        (r"turbo|tse|fse|fast.?spin|haste|rare|\bspace|\bcube|\bvista", "SE", ("SK",)),
        (r"flash|spgr|vibe|lava|thrive|\bfl[23]d|spoiled", "GR", ("SP",)),
        (r"gradient|\bgre|gre\b|ffe|fisp|grass|psif", "GR", ("NONE",)),
        (r"spin.?echo|\bse\b|\bse[_23]|dif|dwi|dti", "SE", ("NONE",)),
    )
)


def scanning_sequence(header: MrHeader) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return ScanningSequence and SequenceVariant."""
    text = (header.sequence_type or "").lower()
    rows = ((scanning, variant) for pattern, scanning, variant in _ROWS if pattern.search(text))
    scanning, variant = next(rows, ("", ("NONE",)))
    is_epi = any(e.trajectory == "epi" for e in header.encodings) or _EPI.search(text)
    is_inversion = header.ti_s or _INVERSION.search(text)
    words = (scanning, "IR" if is_inversion else "", "EP" if is_epi else "")
    return tuple(word for word in words if word) or ("RM",), variant


def is_3d(header: MrHeader) -> bool:
    """Return whether a second phase encoding was made."""
    encoding = header.encodings[0]
    return encoding.matrix[0] > 1 or encoding.limit("k2").maximum > encoding.limit("k2").minimum


def sequence_elements(header: MrHeader) -> Elements:
    """Return what all images of the scan have in common."""
    scanning, variant = scanning_sequence(header)
    average = header.encodings[0].limit("average")
    return {
        "ScanningSequence": scanning,
        "SequenceVariant": variant,
        "ScanOptions": None,
        "MRAcquisitionType": "3D" if is_3d(header) else "2D",
        "EchoTrainLength": header.encodings[0].echo_train_length,
        "NumberOfAverages": average.maximum - average.minimum + 1,
    }


def timing_elements(header: MrHeader, position: Position) -> Elements:
    """Return the times of one contrast [ms] and its flip angle [degrees]; what is unknown stays empty."""
    contrast = position.contrast
    elements: Elements = {
        "RepetitionTime": _milliseconds(header.tr_s, contrast),
        "EchoTime": _milliseconds(header.te_s, contrast),
        "EchoNumbers": contrast + 1,
    }
    if "IR" in scanning_sequence(header)[0]:
        elements["InversionTime"] = _milliseconds(header.ti_s, contrast)
    flip = _pick(header.flip_deg, contrast)
    return elements if flip is None else elements | {"FlipAngle": flip}


def _milliseconds(times_s: Sequence[float], contrast: int) -> float | None:
    time_s = _pick(times_s, contrast)
    return None if time_s is None else round(time_s * 1e3, 9)


def _pick(values: Sequence[float], contrast: int) -> float | None:
    """Return the value of a contrast; a single value is that of all contrasts."""
    if len(values) == 1:
        return values[0]
    return values[contrast] if contrast < len(values) else None
