"""How the published code of prompt-to-prompt aligns prompts, as numbers to hold ours against.

python tests/golden/aligner.py CLONE     makes aligner.json, from a clone of google/prompt-to-prompt
"""

import json
import random
import sys
from pathlib import Path

FILE = Path(__file__).with_name("aligner.json")
TOKENS = 77
WORDS = "a red blue dog cat photo of vase in color lavender apple the big green bird sitting mug".split()


def pairs(count=60):
    """Prompts of as many words, and prompts from which words were taken or to which some were added."""
    rng = random.Random("alignment")
    for number in range(count):
        source = [rng.choice(WORDS) for _ in range(rng.randint(1, 9))]
        target = [rng.choice(WORDS) if rng.random() < 0.4 else word for word in source]
        if number % 2:
            target = [word for word in source if rng.random() < 0.8]
            for _ in range(rng.randint(1, 3)):
                target.insert(rng.randint(0, len(target)), rng.choice(WORDS))
        yield " ".join(source), " ".join(target)


def main():
    """Write what the published functions return: entries (row, column, value) other than 0, new tokens."""
    sys.path[:0] = [sys.argv[1], str(Path(__file__).parents[1])]
    import seq_aligner

    from conftest import tiny_tokenizer

    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = TOKENS
    cases = []
    for source, target in pairs():
        if len(source.split()) == len(target.split()):
            matrix = seq_aligner.get_replacement_mapper([source, target], tokenizer, TOKENS)[0].double()
            entries, new = [[*map(int, at), float(matrix[tuple(at)])] for at in matrix.nonzero()], []
        else:
            mapper, kept = seq_aligner.get_refinement_mapper([source, target], tokenizer, TOKENS)
            entries = [[int(mapper[0, t]), t, 1.0] for t in range(TOKENS) if kept[0, t]]
            new = [t for t in range(TOKENS) if not kept[0, t]]
        cases.append([source, target, entries, new])
    FILE.write_text(json.dumps(cases) + "\n")


if __name__ == "__main__":
    main()
