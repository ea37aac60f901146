"""Write the tables of docs/evidence.md from the results that are kept.

    python docs/make_evidence.py

A table stands between `<!-- table: NAME MODEL -->` and `<!-- end -->`; sentences are written by hand. The
newest file `benchmarks/results/MODEL-NAME-DATE.json` is taken, and the line below the table says which.
"""

import json
import re
from pathlib import Path

from evidence_tables import TABLES

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "benchmarks" / "results"
PAGE = DOCS / "evidence.md"
TABLE = re.compile(r"(<!-- table: (\S+) (\S+) -->\n).*?(<!-- end -->)", re.S)


def newest(name: str, model: str) -> Path:
    """The newest result of this name for this model."""
    files = RESULTS.glob(f"{model}-{name}-[0-9][0-9][0-9][0-9]-*.json")
    return max(files, key=lambda file: file.name)


def written(page: str) -> str:
    """The page with its tables made anew."""

    def table(match: re.Match[str]) -> str:
        file = newest(match[2], match[3])
        made = TABLES[match[2]](json.loads(file.read_text()))
        return f"{match[1]}{made}\nData: `benchmarks/results/{file.name}`.\n{match[4]}"

    return TABLE.sub(table, page)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
