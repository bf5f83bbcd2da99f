"""What is in a PETSIRD file: its types, read from the schema that it carries, and the schema of what is written here.

PETSIRD is the raw data format of the Emission Tomography Standardization Initiative; its binary form is yardl's. The
types below are those of version 0.12 in a short notation; `schema_text` turns them into the JSON that every file
begins with, letter for letter, for other readers compare it.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

TYPES = """
AliveTimeFractions {singlesAliveTimeFractions: *SinglesAliveTimeFractions, modulePairAliveTimeFractions:
    LowerTriangularMatrix<ModulePairAliveTimeFractions>}
AnnulusShape {innerRadius: float32, outerRadius: float32, thickness: float32, angularRange: *2 float32}
Atom {massNumber: uint32, atomicNumber: uint32}
BedMovementTimeBlock {timeInterval: TimeInterval, transform: RigidTransformation}
BinEdges {edges: [1]float32}
BoxShape {corners: *8 Coordinate}
BoxSolidVolume = SolidVolume<BoxShape>
BulkMaterial {id: uint32, name: string, density: float32, atoms: *Atom, massFractions: *float32}
CoincidenceEvent {detectionBins: *2 DetectionBin, tofIdx: uint32}
CoincidencePolicy (none rejectHigherMultiples multiplesAsAllCoincidences multiplesAsSequentialCoincidences other)
Coordinate {c: [x3]float32}
DICOMBasicCodeSequence {codeValue: string, codeValueURN: string, codingSchemeDesignator: string,
    codingSchemeVersion: string, codeMeaning: string}
DICOMPatientInformation {patientID: string, patientsSex: string, patientsSize: float32, patientsWeight: float32,
    patientsBodyMassIndex: float32}
DICOMPatientOrientationInformation {patientOrientationCodeSequence: DICOMBasicCodeSequence,
    patientOrientationModifierCodeSequence: DICOMBasicCodeSequence, patientGantryRelationshipCodeSequence:
    DICOMBasicCodeSequence}
DICOMRadiopharmaceuticalInformation {radiopharmaceuticalVolume: float32, radiopharmaceuticalStartDateTime: datetime,
    radiopharmaceuticalStopDateTime: datetime, radionuclideTotalDose: float32,
    radiopharmaceuticalAdministrationEventUID: DICOMUID, radiopharmaceuticalSpecificActivity: float32,
    radiopharmaceuticalCodeSequence: DICOMBasicCodeSequence, radionuclideCodeSequence: DICOMBasicCodeSequence}
DICOMUID = string
DeadTimeTimeBlock {timeInterval: TimeInterval, aliveTimeFractions: AliveTimeFractions}
DetectionBin = uint32
DetectionBinEfficiencies = *float32
DetectionEfficiencies {methodDescription: string, calibrationFactor: float32, detectionBinEfficiencies:
    *DetectionBinEfficiencies, modulePairSGIDLUT: LowerTriangularMatrix<ModulePairSGIDLUT>,
    modulePairEfficienciesVectors: LowerTriangularMatrix<ModulePairEfficienciesVector>}
DetectorModule {detectingElements: ReplicatedBoxSolidVolume, nonDetectingElements: *ReplicatedGenericSolidVolume}
EventTimeBlock {timeInterval: TimeInterval, singleEvents: *ListOfSingleEvents, promptEvents:
    LowerTriangularMatrix<ListOfCoincidenceEvents>, delayedEvents: LowerTriangularMatrix<ListOfCoincidenceEvents>,
    tripleEvents: ***ListOfTripleEvents, quadrupleEvents: ****ListOfQuadrupleEvents}
ExamInformation {modality: string, studyInstanceUID: DICOMUID, seriesInstanceUID: DICOMUID, sopInstanceUID:
    DICOMUID, frameOfReferenceUID: DICOMUID, startOfStudy: datetime, startOfAcquisition: ?datetime, patient:
    DICOMPatientInformation, patientOrientation: DICOMPatientOrientationInformation, radiopharmaceuticals:
    *DICOMRadiopharmaceuticalInformation, externalSignals: *ExternalSignal}
ExternalSignal {type: ExternalSignalTypeEnum, description: string, id: uint32}
ExternalSignalTimeBlock {timeInterval: TimeInterval, signalID: uint32, signalValues: *float32}
ExternalSignalTypeEnum (ecgTrace ecgTrigger respTrace respTrigger otherMotionSignal otherMotionTrigger externalSync
    mrPulseStart other)
GantryMovementTimeBlock {timeInterval: TimeInterval, transforms: *RigidTransformation}
GenericSolidVolume = SolidVolume<GeometricShape>
GeometricShape = BoxShape|AnnulusShape
Header {scanner: ScannerInformation, exam: ?ExamInformation}
ListOfCoincidenceEvents = *CoincidenceEvent
ListOfQuadrupleEvents = *TripleEvent
ListOfSingleEvents = *SingleEvent
ListOfTripleEvents = *TripleEvent
LowerTriangularMatrix<T> = **T
LowerTriangularOrRectangularMatrix<T> = **T
ModulePairAliveTimeFractions = []LowerTriangularOrRectangularMatrix<float32>
ModulePairEfficiencies {values: RectangularMatrix<float32>, sgid: SGID}
ModulePairEfficienciesVector = *ModulePairEfficiencies
ModulePairSGIDLUT = LowerTriangularOrRectangularMatrix<int32>
ModuleSinglesUnitIdxLUT = *SinglesUnitIdx
QuadrupleEventPolicy (none rejectHigherMultiples other)
RectangularMatrix<T> = **T
ReplicatedBoxSolidVolume = ReplicatedObject<BoxSolidVolume>
ReplicatedDetectorModule = ReplicatedObject<DetectorModule>
ReplicatedGenericSolidVolume = ReplicatedObject<GenericSolidVolume>
ReplicatedObject<T> {object: T, transforms: *RigidTransformation}
RigidTransformation {matrix: [3x4]float32}
SGID = int32
ScannerGeometry {replicatedModules: *ReplicatedDetectorModule, nonDetectingVolumes: ?*GenericSolidVolume}
ScannerInformation {modelName: string, scannerGeometry: ScannerGeometry, bulkMaterials: *BulkMaterial,
    gantryAlignment: ?RigidTransformation, collimatorType: string, tofBinEdges: LowerTriangularMatrix<BinEdges>,
    tofResolution: LowerTriangularMatrix<float32>, eventEnergyBinEdges: *BinEdges, energyResolutionAt511: *float32,
    singlesHistogramLevel: SinglesHistogramLevelType, moduleSinglesUnitIdxLUTs: *ModuleSinglesUnitIdxLUT,
    singlesHistogramEnergyBinEdges: *BinEdges, singleEventPolicy: SingleEventPolicy, promptEventPolicy:
    CoincidencePolicy, delayedEventPolicy: CoincidencePolicy, tripleEventPolicy: TripleEventPolicy,
    quadrupleEventPolicy: QuadrupleEventPolicy, detectionEfficiencies: DetectionEfficiencies}
SingleEvent {detectionBin: DetectionBin, timeOffsetInTimeBlock: uint32}
SingleEventPolicy (none all rejectIfNotInCoincidence other)
SinglesAliveTimeFractions = [detectionBin]float32
SinglesHistogramLevelType (none module all)
SinglesHistogramTimeBlock {timeInterval: TimeInterval, singlesPerSinglesUnitHistogram:
    SinglesPerSinglesUnitHistogram, singlesPerDetectionBinHistogram: SinglesPerDetectionBinHistogram}
SinglesPerDetectionBinHistogram = **uint64
SinglesPerSinglesUnitHistogram = **uint64
SinglesUnitIdx = int32
SolidVolume<Shape> {shape: Shape, materialId: uint32}
TimeBlock =
    EventTimeBlock|ExternalSignalTimeBlock|BedMovementTimeBlock|GantryMovementTimeBlock|DeadTimeTimeBlock|SinglesHistogramTimeBlock
TimeInterval {start: uint32, stop: uint32}
TripleEvent {detectionBins: *3 DetectionBin, tofIndices: *2 uint32}
TripleEventPolicy (none rejectHigherMultiples other)
"""
"""``Name {field: type, ...}`` a record, ``(a b c)`` an enumeration, ``= type`` another name; ``*T`` a vector, ``*8 T``
one of 8, ``[...]T`` an array, ``?T`` may be missing, ``A|B`` one of them."""

_NAMESPACE = "PETSIRD"
_ENTRY = re.compile(r"(\w+)(?:<(\w+)>)? (?:\{(.*)\}|\((.*)\)|= (.*))")


@cache
def schema_text() -> str:
    """Return the schema of PETSIRD 0.12 as it stands in a file."""
    entries = " ".join(TYPES.split("\n    ")).strip().split("\n")
    sequence = [{"name": "header", "type": "PETSIRD.Header"}]
    blocks = {"name": "timeBlocks", "type": {"stream": {"items": "PETSIRD.TimeBlock"}}}
    schema = {"protocol": {"name": _NAMESPACE, "sequence": [*sequence, blocks]}, "types": [_type(e) for e in entries]}
    return json.dumps(schema, separators=(",", ":"))


def _type(entry: str) -> dict[str, Any]:
    match = _ENTRY.fullmatch(entry)
    name, parameter, fields, symbols, other = match.groups()  # type: ignore[union-attr]
    made: dict[str, Any] = {"name": name}
    if parameter:
        made["typeParameters"] = [parameter]
    if fields:
        pairs = (field.split(": ") for field in fields.split(", "))
        made["fields"] = [{"name": n, "type": _expression(t, parameter)} for n, t in pairs]
    elif symbols:
        made["values"] = [{"symbol": s, "value": i} for i, s in enumerate(symbols.split())]
    else:
        made["type"] = _expression(other, parameter)
    return made


def _expression(text: str, parameter: str | None) -> Any:
    if text.startswith("?"):
        return [None, _expression(text[1:], parameter)]
    if text.startswith("*"):
        length, items = re.fullmatch(r"\*(?:(\d+) )?(.*)", text).groups()  # type: ignore[union-attr]
        vector = {"items": _expression(items, parameter)}
        return {"vector": vector | ({"length": int(length)} if length else {})}
    if text.startswith("["):
        dimensions, items = text[1:].split("]", 1)
        array = {"items": _expression(items, parameter)}
        return {"array": array | ({"dimensions": _dimensions(dimensions)} if dimensions else {})}
    if "|" in text:
        return [{"tag": case, "type": _expression(case, parameter)} for case in text.split("|")]
    if text.endswith(">"):
        name, argument = text[:-1].split("<")
        return {"name": f"{_NAMESPACE}.{name}", "typeArguments": [_expression(argument, parameter)]}
    return text if text == parameter or text[0].islower() else f"{_NAMESPACE}.{text}"


def _dimensions(text: str) -> Any:
    if text.isdecimal():
        return int(text)
    if re.fullmatch(r"\d*(x\d+)+", text):
        return [{"length": int(n)} for n in text.split("x") if n]
    return [{"name": name} for name in text.split(",")]
