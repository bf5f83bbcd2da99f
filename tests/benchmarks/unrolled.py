"""An unrolled network beside zero-filling, CG-SENSE and L1-wavelets: heads it never saw, a real brain, a real head.

Run as ``python -m tests.benchmarks.unrolled [--weights PLACE] [--slices 6] [--picture FILE]``; PLACE is another card
than the shipped one, or the checkpoint of a training that goes on. Simulated slices (heads 15 and 16, 256 x 256, 8
receivers, SNR 10 to 60, every R-th line and 24 for calibration) are judged against the image of all lines without
noise; the L1-wavelets have the weight that is best for each R on these very slices, once with the 16 iterations of the
service, once with 100 from CG-SENSE's image on. Times are those of one slice, maps known, all that it starts from
included. The real brain is judged as in `tests.benchmarks.iterative`, the real head against CG-SENSE of all its lines.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor

from acquisition.items import Image, Item
from acquisition.scan import Scan
from acquisition.sources import open_raw
from acquisition.sources.phantom.undersample import undersample
from acquisition.stream import Chain
from integration.protocol import Library
from kernels.memory import keep_memory
from models.engine import available
from models.load import find, load, packed
from models.nets import build
from models.ood import FEATURES, Statistics
from models.problem import Problem, Reconstructor, estimator_of
from models.train import masks
from models.train.figures import nrmse, psnr, ssim
from models.train.loop import Trained
from models.train.mr import MrSpec, unrolled_samples
from models.train.publish import Run, provisional
from models.train.recipe import recipe, setting
from models.train.simulated import DATA, source_of
from models.train.unrolled import problem_of, solved
from recon.mri.iterative import sparsity
from recon.solve import fista
from tests.benchmarks._timing import median_s
from tests.benchmarks.iterative import error, read_cfl
from tests.conftest import ROOT

FOLDER = Path(os.environ.get(DATA, ROOT.parent / "shared" / "data"))
FACTORS, N_ACS, MATRIX = (4, 8), 24, (256, 256)
WEIGHTS = (0.12, 0.25, 0.5, 1.0)
SPARSE, ENDED, NETWORK = "L1-wavelet", "L1-wavelet to its end", "network"
METHODS = ("zero-filled", "CG-SENSE", SPARSE, ENDED, NETWORK)
TO_ITS_END = 100  # iterations
FIGURES = {"PSNR [dB]": psnr, "SSIM": ssim, "NRMSE": nrmse}


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--slices", type=int, default=6)
    parser.add_argument("--picture", type=Path)
    options, _ = parser.parse_known_args(sys.argv[1:])
    place = options.weights or find("mr_unrolled", where="benchmark")
    warnings.simplefilter("ignore")
    keep_memory()
    with tempfile.TemporaryDirectory() as name:
        card = place if place.suffix == ".yaml" else draft(place, Path(name))
        network = estimator_of(load(card), "auto")
        assert isinstance(network, Reconstructor)
        print(f"{network.engine.name}, {os.cpu_count()} cores, step {load(card).card.training.steps}\n")
        heads_table(network, options.slices, options.picture)
        engines_table(card)
        brain_table(card)
        head_table(card)
    return 0


def draft(checkpoint: Path, folder: Path) -> Path:
    """Write a card without limits for the averaged weights of a training that goes on."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    of = recipe("mr_unrolled")
    named = of.card()["network"]
    net = build(named["name"], named["parameters"], where="benchmark")
    net.load_state_dict(state["averaged"])
    trained = Trained(net, state["step"], state["seconds"], finished=False)
    run = Run(recipe="mr_unrolled", setting_name="small", setting=setting(of, "small"), seed=1, version="0.0.0")
    data = packed(net, Statistics(np.zeros(len(FEATURES)), np.eye(len(FEATURES))))
    (folder / "weights.safetensors").write_bytes(data)
    bound = {"flag_above": 1e6, "refuse_above": 1e6}
    document = {
        **provisional(of, run, trained),
        "anatomy": ["ANY"],
        "weights": {"file": "weights.safetensors", "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)},
        "ood": {"threshold": 1e6, "quantile": 0.99, "items": 2},
        "consistency": {"rms": bound, "peak": bound},
    }
    document["input"] = {**document["input"], "ranges": {}}
    (folder / "card.yaml").write_text(yaml.safe_dump(document))
    return folder / "card.yaml"


def heads_table(network: Reconstructor, n_slices: int, picture: Path | None) -> None:
    """Simulated slices of heads that no training saw."""
    if DATA not in os.environ:
        print(f"no label maps: export {DATA}=FOLDER")
        return
    print("| heads 15, 16 | method | " + " | ".join(FIGURES) + " | [ms] |\n|---|---|---|---|---|---|")
    for r in FACTORS:
        rows = [row_of(problem, truth, network) for problem, truth in slices(r, n_slices)]
        times = times_of(*next(slices(r, 1)), network)
        for method in METHODS:
            rivals = [m for m in rows[0] if m.split(", weight")[0] == method]
            name = max(rivals, key=lambda m: float(np.mean([row[m][0] for row in rows])))
            figures = np.mean([row[name] for row in rows], axis=0)
            told = f"{figures[0]:.2f} | {figures[1]:.4f} | {figures[2]:.4f}"
            print(f"| R = {r} | {name} | {told} | {times[method]:.0f} |", flush=True)
        if picture is not None and r == FACTORS[0]:
            draw(*next(slices(r, 1)), network, picture)


def slices(r: int, n: int) -> Iterable[tuple[Problem, Tensor]]:
    """Yield planes of k-space and their truths, the same ones each time."""
    heads = source_of("test").heads
    spec = MrSpec(matrix=MATRIX, calibrated=0.0, masks=("all",), snr=(10.0, 60.0))
    lines = masks.regular(MATRIX[0], r, n_acs=N_ACS)[:, None]
    mask = np.broadcast_to(lines, MATRIX).copy()
    for index in range(n):
        sample = next(unrolled_samples(heads[index % len(heads)], np.random.default_rng([99, index]), spec))
        yield solved({**sample, "kspace": sample["kspace"] * mask, "mask": mask}, espirit=True)


def row_of(problem: Problem, truth: Tensor, network: Reconstructor) -> Mapping[str, list[float]]:
    """Return the figures of every method, the L1-wavelets with every weight."""
    made = {
        "zero-filled": problem.rhs,
        "CG-SENSE": problem.start,
        **{f"{SPARSE}, weight {w:g}": sparse(problem, w) for w in WEIGHTS},
        **{f"{ENDED}, weight {w:g}": problem.sparse(weight=w, n_iterations=TO_ITS_END) for w in WEIGHTS},
        NETWORK: network.reconstruct(problem),
    }
    reference = np.abs(truth.numpy())
    inside = reference > 0.1 * np.percentile(reference, 99)
    return {m: [f(np.abs(i.numpy()), reference, inside) for f in FIGURES.values()] for m, i in made.items()}


def sparse(problem: Problem, weight: float) -> Tensor:
    """Return the image (a, b) of `mri.l1_wavelet`."""
    model = problem.model()
    noise = problem.level * float(problem.mask.mean()) ** 0.5
    rhs, prior = model.centre_first(problem.rhs[None]), sparsity(model, noise, weight=weight)
    return model.centre_middle(fista(model.gram, rhs, prior, step=1.0, n_iterations=16).x)[0]


def times_of(problem: Problem, truth: Tensor, network: Reconstructor) -> Mapping[str, float]:
    """Return the time of each method for one slice [ms]."""
    model = problem.model()
    kspace = model.centre_middle(model(model.centre_first(truth[None])))
    mask = torch.fft.fftshift(problem.mask[:1], dim=-1) > 0
    conventional = 1e3 * median_s(lambda: problem_of(problem.maps, kspace, mask), rounds=5)
    return {
        "zero-filled": 1e3 * median_s(lambda: model.adjoint(kspace), rounds=5),
        "CG-SENSE": conventional,
        SPARSE: 1e3 * median_s(lambda: sparse(problem, 0.5), rounds=5),
        ENDED: conventional + 1e3 * median_s(lambda: problem.sparse(n_iterations=TO_ITS_END), rounds=3),
        NETWORK: conventional + 1e3 * median_s(lambda: network.reconstruct(problem), rounds=5),
    }


def engines_table(card: Path) -> None:
    """What each engine costs, on a slice of lines drawn by chance; the memory is what the process grows by."""
    print("\n| engine | first call [s] | [ms] | [MB] |\n|---|---|---|---|")
    chance = torch.Generator().manual_seed(1)
    image, maps = (torch.randn(n, *MATRIX, dtype=torch.complex64, generator=chance) for n in (1, 8))
    maps /= maps.abs().square().sum(0).sqrt()
    mask = torch.from_numpy(masks.regular(MATRIX[1], 4, n_acs=N_ACS))[None]
    problem = problem_of(maps, maps * image, mask)
    for name in reversed(available()):
        before, start = _resident_mb(), time.perf_counter()
        made = estimator_of(load(card), name)
        assert isinstance(made, Reconstructor)
        made.reconstruct(problem)
        first = time.perf_counter() - start
        took = 1e3 * median_s(lambda made=made: made.reconstruct(problem), rounds=5)  # type: ignore[misc]
        print(f"| {made.engine.name} | {first:.2f} | {took:.0f} | {_resident_mb() - before:.0f} |", flush=True)


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def brain_table(card: Path) -> None:
    """The real brain, 12 % of its samples."""
    folder = FOLDER / "mri" / "brain8_poisson"
    if not folder.exists():
        print(f"\nno data at {folder}")
        return
    raw = open_raw(folder / "ksp.cfl")
    reference = np.abs(read_cfl(folder / "img").squeeze()[..., 0]).T
    rows = pictures("mri_compressed_sensing", raw.scan, list(raw.items()), card)
    print("\n| real brain, 12.4 % measured | NRMSE |\n|---|---|")
    for name, image in rows.items():
        print(f"| {name} | {error(image, reference):.4f} |", flush=True)


def head_table(card: Path) -> None:
    """The real head of 16 coils."""
    path = FOLDER / "mri" / "head_gre_3T_16ch.h5"
    if not path.exists():
        print(f"\nno data at {path}")
        return
    raw = open_raw(path)
    blocks = list(raw.items())
    reference = pictures("mri_sense", raw.scan, blocks, card)["CG-SENSE"]
    print("\n| real head, 24 calibration lines | method | NRMSE |\n|---|---|---|")
    for r in (2, 4, 8):
        scan, kept = undersample(blocks, raw.scan, r=r, n_acs=N_ACS)
        for name, image in pictures("mri_sense", scan, list(kept), card).items():
            print(f"| R = {r} | {name} | {error(image, reference):.4f} |", flush=True)


def pictures(protocol: str, scan: Scan, items: list[Item], card: Path) -> Mapping[str, NDArray]:
    """Return the magnitude (y, x) that each method makes of a scan."""
    steps = Library()[protocol].steps
    place = next(i for i, (name, _) in enumerate(steps) if name in ("mri.cg_sense", "mri.l1_wavelet"))
    found = {}
    network = ("model.unrolled", {"card": str(card), "strength": 1.0, "body_part": "HEAD"})
    sparse_steps = [
        (f"{method}, weight {w:g}", ("mri.l1_wavelet", {"weight": w, "n_iterations": n}))
        for method, n in ((SPARSE, 16), (ENDED, TO_ITS_END))
        for w in WEIGHTS
    ]
    for name, method in (*sparse_steps, (NETWORK, network)):
        changed = (*steps[:place], method, ("mri.combine", {}))
        chain = Chain(Library()[protocol].model_copy(update={"steps": changed}).build())
        chain.open(scan)
        out = [o for item in items for o in chain.feed(item)] + list(chain.close())
        for image in (o for o in out if isinstance(o, Image)):
            shown = "CG-SENSE" if name == NETWORK and image.output == "conventional" else name
            found[shown] = np.abs(image.data[0])
    return found


def draw(problem: Problem, truth: Tensor, network: Reconstructor, path: Path) -> None:
    """Write truth, CG-SENSE, L1-wavelets and the network, and five times what they are off."""
    import matplotlib.pyplot as plt

    made = {
        "truth": truth,
        "CG-SENSE": problem.start,
        SPARSE: sparse(problem, 0.5),
        NETWORK: network.reconstruct(problem),
    }
    top = float(np.percentile(truth.abs().numpy(), 99.7))
    figure, axes = plt.subplots(2, 4, figsize=(14, 7.4), facecolor="black")
    for column, (name, image) in zip(axes.T, made.items(), strict=True):
        pixels = image.abs().numpy().T
        for axis, shown in zip(column, (pixels, 5 * np.abs(pixels - truth.abs().numpy().T)), strict=True):
            axis.imshow(shown, cmap="gray", vmin=0, vmax=top)
            axis.axis("off")
        column[0].set_title(name, color="white")
    figure.tight_layout()
    figure.savefig(path, dpi=70, facecolor="black")


if __name__ == "__main__":
    sys.exit(main())
