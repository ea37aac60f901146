"""The overhead of Ray: one worker on this machine, against a plain process.

    python benchmarks/cluster.py [--json] [--write] [--turns 1] [--pictures 1000] [--steps 20]

The built-in model is measured by this process, and by a worker that sends its votes to this process; both
load the pipeline and compute with one thread. The two take turns. Ray's time is the total from starting to
ending it, including the worker's Python and imports, which are not counted for this process; the time for
starting Ray is also given separately, since it does not grow with the number of images. Processor time,
including that of Ray's own processes and of the worker's start, is given as well, because a busy machine
affects it less than wall time. The votes must be equal.
"""

import argparse
import os
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import torch
from looking import add_output_to, summary, tell, timed

from headwise.measuring.concepts import ConceptSet
from headwise.measuring.measure import measure
from headwise.model.pipelines import load_pipeline
from headwise.runs.ray import RayWorkers


def load() -> Any:
    """The built-in model, computed by one thread."""
    torch.set_num_threads(1)
    return load_pipeline("emoji")


def processor_s() -> float:
    """Processor time so far of this process and of all its child processes that still exist."""
    this = psutil.Process()
    return sum(sum(each.cpu_times()[:2]) for each in (this, *this.children(recursive=True)))


def compare(turns: int, pictures: int, steps: int) -> dict[str, Any]:
    """Time both in turn, after a few images to warm up."""
    concepts, started = ConceptSet.load("emoji"), []
    used: dict[str, list[float]] = {"plain": [], "ray": []}
    same: dict[str, Any] = {"num_inference_steps": steps, "batch_size": 4, "progress": False}

    def plain(out: Path, pictures: int = pictures) -> None:
        before = processor_s()
        measure(load(), concepts, pictures=pictures, out=out, **same)
        used["plain"].append(processor_s() - before)

    def shared(out: Path) -> None:
        begun, before = time.perf_counter(), processor_s()
        with RayWorkers(load, "local", workers=1) as workers:
            started.append(time.perf_counter() - begun)
            measure(workers, concepts, pictures=pictures, out=out, **same)
            used["ray"].append(processor_s() - before)

    taken, equal = [], True
    with TemporaryDirectory() as folder:
        plain(Path(folder) / "warm", 4)
        used["plain"].clear()
        for turn in range(turns):
            one, many = Path(folder) / f"plain {turn}", Path(folder) / f"ray {turn}"
            taken.append({"plain": timed(partial(plain, one)), "ray": timed(partial(shared, many))})
            equal &= (one / "votes.safetensors").read_bytes() == (many / "votes.safetensors").read_bytes()
    took = {name: statistics.median(seconds) for name, seconds in used.items()}
    processor = {f"{name}_processor_s": seconds for name, seconds in took.items()}
    processor["processor_ray_over_plain"] = took["ray"] / took["plain"]
    run = {"pictures": pictures, "steps": steps, "turns": turns, "equal": equal, "start_s": min(started)}
    return run | processor | summary(taken, {"ray_over_plain": ("ray", "plain")})


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_output_to(parser)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = compare(options.turns, options.pictures, options.steps)
    results |= {"cpus": os.cpu_count(), "load": os.getloadavg()[0]}
    if not tell(results, options):
        return
    for name in ("plain", "ray", "start"):
        sys.stdout.write(f"{name:6} {results[f'{name}_s']:8.1f} s\n")
    sys.stdout.write(
        f"ray / plain {results['ray_over_plain']:.3f}, of processor time "
        f"{results['processor_ray_over_plain']:.3f}; equal votes: {results['equal']}\n"
    )


if __name__ == "__main__":
    main()
