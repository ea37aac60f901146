"""All that a participant may know: texts, the places of answers, and pictures that say only what they show.

A picture has a name that is the same whenever it is shown, in this study alone, and cannot be guessed; it is
sent as bare pixels, without the prompt that its file may carry. An attention check looks like any other
question.
"""

import hmac
import io
from functools import lru_cache
from pathlib import Path
from typing import Any

from headwise.pictures import read_picture
from headwise.study.description import Study, filled, inside
from headwise.study.order import Trial

__all__ = ["Pictures", "told"]

KEPT = 256  # pictures in memory, ready to be sent


class Pictures:
    """A study's pictures under their blind names.

    Args:
        study, folder: Where they are.
        secret: Of this study; the names come from it.
    """

    def __init__(self, study: Study, folder: Path, secret: bytes) -> None:
        self._secret = secret
        self._paths = {self.name(path): inside(folder, path) for path in study.pictures()}
        self._bare = lru_cache(KEPT)(_bare)

    def name(self, path: str) -> str:
        """Of the picture at a path of the study."""
        return hmac.digest(self._secret, path.encode(), "sha256").hex()[:32]

    def content(self, name: str) -> bytes | None:
        """A PNG of nothing but pixels; None if there is no picture of this name."""
        return self._bare(self._paths[name]) if name in self._paths else None


def told(study: Study, trial: Trial, pictures: Pictures) -> dict[str, Any]:
    """A trial as the page is told it; answers are known by their places."""
    item = trial.item
    chooses = not item.question.answers
    methods = trial.options if chooses else item.methods
    labels = [chr(ord("A") + n) if chooses else item.label(code) for n, code in enumerate(trial.options)]
    if trial.check is None:
        text = item.text()
    else:
        text = filled(study.check, {**item.case.say, "answer": labels[trial.options.index(trial.check)]})
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
