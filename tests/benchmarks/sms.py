"""Four slices measured together, 32 coils, 128 x 128: time from the collapsed frame to four slices, and errors.

Run as ``python -m tests.benchmarks.sms``. No other program at hand does this from raw data, so there is no peer column.
"""

from __future__ import annotations

import statistics
import time

import torch

from acquisition.items import Image
from acquisition.sources.phantom.exam import MriExam
from acquisition.sources.phantom.sms import SmsSimulation
from acquisition.stream import Chain
from integration.protocol import Library
from kernels.memory import keep_memory
from recon.mri.items import Frame
from recon.mri.sms import SliceGrappa, SplitSliceGrappa
from tests.phantoms import nrmse

ROUNDS = 7


def main() -> None:
    """Print the table."""
    keep_memory()
    print(f"torch threads {torch.get_num_threads()}, medians of {ROUNDS}\n")
    print("| 4 slices, shift 1/3 | learn [ms] | take apart [ms] | leakage | worst NRMSE |\n|---|---|---|---|---|")
    for r in (1, 2):
        exam = MriExam(matrix=(4, 128, 128), n_coils=32, acceleration=r, snr=100.0, gap_mm=20.0, n_noise=32)
        subject = SmsSimulation(exam, 4, shift=3)
        blocks = list(subject.readouts())
        for step in (SliceGrappa(), SplitSliceGrappa()):
            print(row(subject, blocks, step, r))


def row(subject: SmsSimulation, blocks: list, step: SliceGrappa | SplitSliceGrappa, r: int) -> str:
    """Measure one method."""
    steps = Library()["mri_sms"].build()
    (at,) = (i for i, s in enumerate(steps) if isinstance(s, SplitSliceGrappa))
    front = Chain(steps[:at])
    front.open(subject.scan)
    items = [i for b in blocks for i in front.feed(b)] + list(front.close())
    times, learnt = [], []
    for _ in range(ROUNDS):
        step.open(subject.scan)
        began = time.perf_counter()
        for item in items:
            if not isinstance(item, Frame):
                list(step.feed(item))
        middle = time.perf_counter()
        (frame,) = (i for i in items if isinstance(i, Frame))
        list(step.feed(frame))
        learnt.append(middle - began)
        times.append(time.perf_counter() - middle)
    steps[at] = step
    whole = Chain(steps)
    whole.open(subject.scan)
    images = [i for b in blocks for i in whole.feed(b) if isinstance(i, Image)]
    images += [i for i in whole.close() if isinstance(i, Image)]
    errors, leakage = [], []
    for image in images:
        truth = subject.truth(image.position.slice).data
        errors.append(nrmse(image.data * (image.data * truth).sum() / (image.data**2).sum(), truth))
        leakage += [v.value for v in image.verdicts if "slice_grappa" in v.check and v.value is not None]
    ms = [1e3 * statistics.median(t) for t in (learnt, times)]
    name = type(step).__name__
    return f"| {name}, R = {r} in plane | {ms[0]:.0f} | {ms[1]:.1f} | {max(leakage):.3f} | {max(errors):.3f} |"


if __name__ == "__main__":
    main()
