"""Writes the golden files beside it. Head maps are spelled out here by hand, not asked of the library."""

import json
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


def layers(place, blocks, attentions, depth, heads):
    """One entry per transformer block of some UNet blocks."""
    for block, count, n in zip(blocks, depth, heads, strict=True):
        at = f"{place}_blocks.{block}" if block is not None else f"{place}_block"
        for attention in range(attentions):
            for i in range(count):
                yield [f"{at}.attentions.{attention}.transformer_blocks.{i}.attn2", n]


def model(down, mid, up):
    """Down blocks have two attentions each, the middle one, up blocks three."""
    return [
        *layers("down", *down[:1], 2, *down[1:]),
        *layers("mid", [None], 1, *mid),
        *layers("up", *up[:1], 3, *up[1:]),
    ]


MODELS = {
    "sd1": model(([0, 1, 2], [1] * 3, [8] * 3), ([1], [8]), ([1, 2, 3], [1] * 3, [8] * 3)),
    "sd2": model(([0, 1, 2], [1] * 3, [5, 10, 20]), ([1], [20]), ([1, 2, 3], [1] * 3, [20, 10, 5])),
    "sdxl": model(([1, 2], [2, 10], [10, 20]), ([10], [20]), ([0, 1], [10, 2], [20, 10])),
}


def draws(seed, picture, calls, layers, words):
    """The high 32 bits of Philox numbers, times the number of words, in Python's own integers."""
    raw = np.random.Philox(key=np.array([seed, picture], np.uint64)).random_raw(calls * layers * len(words))
    drawn = [(int(number) >> 32) * words[i % len(words)] >> 32 for i, number in enumerate(raw)]
    return np.reshape(drawn, (calls, layers, len(words))).tolist()


DRAWN = [(0, 0, 2, 2, [10, 10, 3]), (7, 1234, 3, 1, [10] * 5), (2**40 + 1, 2, 1, 3, [2, 7])]


def main():
    """Write them."""
    found = [{"arguments": case, "draws": draws(*case)} for case in DRAWN]
    (HERE / "draws.json").write_text(json.dumps(found) + "\n")
    for name, found in MODELS.items():
        (HERE / f"heads_{name}.json").write_text(json.dumps(found, indent=0) + "\n")


if __name__ == "__main__":
    main()
