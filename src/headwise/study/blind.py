"""What the page reveals: texts, the positions of answers, and images without any metadata.

An image has a name that is constant within a study and cannot be guessed; only its pixels are sent, without
the prompt that its file may hold. An attention check looks like any other question.
"""

import hmac
import io
from functools import lru_cache
from pathlib import Path
from typing import Any

from headwise.pictures import read_picture
from headwise.study.description import Study, fill_in, path_inside
from headwise.study.order import Trial

__all__ = ["Pictures", "trial_to_json"]

CACHED = 256  # images kept in memory


class Pictures:
    """A study's images under their blind names.

    Args:
        study: The study whose images are served.
        folder: The folder that their paths start from.
        secret: The study's secret, from which the names are computed.
    """

    def __init__(self, study: Study, folder: Path, secret: bytes) -> None:
        self._secret = secret
        self._paths = {self.name(path): path_inside(folder, path) for path in study.pictures()}
        self._bare = lru_cache(CACHED)(_bare)

    def name(self, path: str) -> str:
        """The blind name of the image at a path of the study."""
        return hmac.digest(self._secret, path.encode(), "sha256").hex()[:32]

    def content(self, name: str) -> bytes | None:
        """A PNG without metadata; None if no image has this name."""
        return self._bare(self._paths[name]) if name in self._paths else None


def trial_to_json(study: Study, trial: Trial, pictures: Pictures) -> dict[str, Any]:
    """A trial as the page receives it; answers are identified by position, not by name."""
    item = trial.item
    chooses = not item.question.answers
    methods = trial.options if chooses else item.methods
    labels = [chr(ord("A") + n) if chooses else item.label(code) for n, code in enumerate(trial.options)]
    if trial.check is None:
        text = item.text()
    else:
        text = fill_in(study.check, {**item.case.fields, "answer": labels[trial.options.index(trial.check)]})
    return {
        "text": text,
        "chooses": chooses,
        "pictures": [pictures.name(item.case.pictures[method]) for method in methods],
        "reference": pictures.name(item.case.reference or "") if item.question.reference else None,
        "answers": labels,
    }


def _bare(path: Path) -> bytes:
    content = io.BytesIO()
    read_picture(path).save(content, "PNG")
    return content.getvalue()
