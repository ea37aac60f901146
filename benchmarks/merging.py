"""The cost of merging very many shards: time and memory of `headwise merge` on shards of SDXL's size.

    python benchmarks/merging.py [--json] [--write] [--shards 10000] [--pictures 10] [--folder /tmp]

Each shard holds the votes of --pictures images of Stable Diffusion XL: 50 calls × 1300 heads × 34 concepts,
and the same votes by 32 blocks. The numbers are random, the files as `Votes.save` writes them. They are
merged in a separate process, whose wall time, processor time and peak memory are measured; the sum is then
compared with the expected one. 10000 shards need 36 GB of disk during the run.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import sys
import time
from multiprocessing import get_context
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np

from headwise.files import serialise, write_whole
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.official import head_map_of
from headwise.measuring.votes import BLOCKS, Votes

CALLS = 50


def make(folder: Path, shards: int, pictures: int) -> Votes:
    """Write the shards; returns the votes of the first, which determine the sum."""
    heads, concepts = head_map_of("sd_xl_base_1_0"), ConceptSet.load("paper34")
    generator = np.random.Generator(np.random.Philox(0))
    winners = generator.integers(0, len(concepts), (pictures, CALLS, 1, heads.all_heads))
    votes = Votes.of_pictures(winners, range(pictures), heads, concepts, {"model": "drawn", "seed": 0})
    counts, by_block = votes.counts.astype(np.uint8), votes.blocks.astype(np.uint8)
    metadata = votes._metadata()
    for i in range(shards):
        metadata["pictures"] = [[i * pictures, (i + 1) * pictures]]
        arrays = {"counts": counts, "blocks": np.roll(by_block, i * pictures % BLOCKS, 0)}
        (folder / f"{i:05d}.safetensors").write_bytes(serialise("votes", arrays, metadata))
    return votes


def merged(folder: Path) -> None:
    """Merge, and write time and memory to a file; runs in a separate process."""
    started = time.monotonic()
    from headwise.measuring.merge import merge

    merge(sorted(folder.glob("*.safetensors")), folder / "whole")
    used = resource.getrusage(resource.RUSAGE_SELF)
    cost = {
        "seconds": time.monotonic() - started,
        "processor_s": used.ru_utime + used.ru_stime,
        "peak_mb": used.ru_maxrss / 1024,
    }
    write_whole(folder / "cost.json", json.dumps(cost).encode())


def measure(shards: int, pictures: int, parent: str | None) -> dict[str, Any]:
    """Write the shards, merge them, compare the sum, and delete all files."""
    folder = Path(mkdtemp(prefix="headwise-merging-", dir=parent))
    try:
        first = make(folder, shards, pictures)
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        process = get_context("spawn").Process(target=merged, args=(folder,))
        process.start()
        process.join()
        whole = Votes.load(folder / "whole" / "votes.safetensors")
        exact = np.array_equal(whole.counts, shards * first.counts) and len(whole) == shards * pictures
        exact &= bool((whole.blocks.sum(0) == shards * first.blocks.sum(0)).all())
        result = {"shards": shards, "pictures": pictures, "gigabytes": size / 1e9, "exact": exact}
        return result | json.loads((folder / "cost.json").read_text())
    finally:
        shutil.rmtree(folder)


def main() -> None:
    """Print the cost."""
    from looking import add_output_to, tell  # imports diffusers, which merging does not need

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_output_to(parser)
    parser.add_argument("--shards", type=int, default=10000)
    parser.add_argument("--pictures", type=int, default=10, help="images per shard")
    parser.add_argument("--folder", help="folder to write the shards in")
    options = parser.parse_args()
    results = measure(options.shards, options.pictures, options.folder)
    results |= {"cpus": os.cpu_count(), "load": os.getloadavg()[0], "machine": platform.machine()}
    if not tell(results, options):
        return
    for name, value in results.items():
        sys.stdout.write(f"{name:12} {value:.1f}\n" if isinstance(value, float) else f"{name:12} {value}\n")


if __name__ == "__main__":
    main()
