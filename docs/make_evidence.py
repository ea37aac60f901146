"""Write the tables of docs/evidence.md from the stored results.

    python docs/make_evidence.py

Each table is between `<!-- table: NAME MODEL -->` and `<!-- end -->`; the sentences are written by hand. The
numbers come from the newest file `benchmarks/results/MODEL-NAME-DATE.json`, which is named below the table.
"""

import json
import re
from pathlib import Path

import evidence_heads
import evidence_uses

DOCS = Path(__file__).parent
TABLES = evidence_heads.TABLES | evidence_uses.TABLES
RESULTS = DOCS.parent / "benchmarks" / "results"
PAGE = DOCS / "evidence.md"
TABLE = re.compile(r"(<!-- table: (\S+) (\S+) -->\n).*?(<!-- end -->)", re.S)


def newest(name: str, model: str) -> Path:
    """The newest result file of this name for this model."""
    files = RESULTS.glob(f"{model}-{name}-[0-9][0-9][0-9][0-9]-*.json")
    return max(files, key=lambda file: file.name)


def written(page: str) -> str:
    """The page with new tables."""

    def table(match: re.Match[str]) -> str:
        file = newest(match[2], match[3])
        made = TABLES[match[2]](json.loads(file.read_text()))
        return f"{match[1]}{made}\nData: `benchmarks/results/{file.name}`.\n{match[4]}"

    return TABLE.sub(table, page)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
