"""The file of answers: SQLite, one transaction per answer, on disk before the next question.

    study         one row: the description, its fingerprint, a secret, the version of this format
    links         tokens that admit people: the open one, and personal ones
    participants  number, token, the consent text they agreed to, when they began and withdrew
    answers       participant, trial, question, case, methods shown, order of options, answer, seconds

The first answer to a trial counts. If a participant withdraws, all their answers are deleted.
"""

import json
import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple

from headwise.errors import RunMismatch, UnreadableFile, UnwritableFolder
from headwise.study.description import Study
from headwise.study.order import Trial
from headwise.study.reading import parse_study

__all__ = ["NAME", "Answer", "Answers", "Participant"]

NAME = "answers.sqlite"
FORMAT = 1
TABLES = """
CREATE TABLE study (format INTEGER, description TEXT, fingerprint TEXT, secret BLOB, began TEXT);
CREATE TABLE links (token TEXT PRIMARY KEY, personal INTEGER, participant INTEGER UNIQUE);
CREATE TABLE participants (
    number INTEGER PRIMARY KEY, token TEXT UNIQUE, consent TEXT, began TEXT, withdrew TEXT
);
CREATE TABLE answers (
    participant INTEGER REFERENCES participants, trial INTEGER, question TEXT, "case" TEXT,
    shown TEXT, options TEXT, answer TEXT, "check" TEXT, seconds REAL, at TEXT,
    PRIMARY KEY (participant, trial)
);
"""
SELECT_PARTICIPANT = "SELECT number, token, withdrew IS NOT NULL FROM participants"


class Participant(NamedTuple):
    """A participant, identified by number and token."""

    number: int
    token: str
    withdrew: bool


class Answer(NamedTuple):
    """One answer.

    Args:
        participant: The participant's number, from 0.
        trial: The number of the trial among this participant's, from 0.
        question: The name of the question.
        case: The name of the case.
        shown: The methods whose images were on the page.
        options: The codes of the possible answers, in the order in which they were shown.
        answer: The code that was chosen.
        check: The code that an attention check asked for; None for an ordinary trial.
        seconds: The time from the images' appearance to the answer, as measured by the page.
        at: The time at which it was saved, in UTC.
    """

    participant: int
    trial: int
    question: str
    case: str
    shown: tuple[str, ...]
    options: tuple[str, ...]
    answer: str
    check: str | None
    seconds: float
    at: str


class Answers:
    """A file of answers, for use by several threads and processes.

    Args:
        path: The file, which must exist; `begin` creates one.

    Raises:
        UnreadableFile: The file is missing, or is not a file of answers.
    """

    def __init__(self, path: str | Path) -> None:
        self.path, self._lock = Path(path), RLock()
        try:
            # one connection under one lock: SQLite serialises writes anyway
            self._db = sqlite3.connect(
                f"{self.path.resolve().as_uri()}?mode=rw",
                uri=True,
                timeout=30,
                isolation_level=None,
                check_same_thread=False,
            )
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")  # answers survive a power failure, too
            self._db.execute("PRAGMA secure_delete = ON")  # withdrawn answers are overwritten
            (row,) = self._db.execute("SELECT * FROM study").fetchall()
        except (sqlite3.Error, ValueError) as error:
            raise UnreadableFile(
                f"{self.path} cannot be read as answers of a study ({error}). Give the {NAME} that `headwise "
                "study serve` wrote."
            ) from None
        version, self.description, self.fingerprint, self.secret, _ = row
        if version > FORMAT:
            raise UnreadableFile(
                f"{self.path} has format {version}, which is newer than this version reads. Upgrade headwise."
            )

    @classmethod
    def begin(cls, path: str | Path, study: Study, fingerprint: str) -> "Answers":
        """Open the answers of a study, or create a new file.

        Raises:
            RunMismatch: The file holds answers to different questions or images.
        """
        path = Path(path)
        if not path.exists():
            _make(path, study, fingerprint)
        answers = cls(path)
        if answers.fingerprint != fingerprint:
            raise RunMismatch(
                f"{path} holds answers to different questions or images, which were changed since. Restore "
                "them, or give another file with --answers."
            )
        return answers

    @property
    def study(self) -> Study:
        """The study as it was when the file was created."""
        return parse_study(self.description)

    def close(self) -> None:
        """Close the connection to the file."""
        self._db.close()

    def link(self) -> str:
        """The token of the open link: every browser that follows it is a new participant."""
        (token,) = self._one("SELECT token FROM links WHERE NOT personal")
        return token

    def invite(self, count: int) -> list[str]:
        """Create personal links and return their tokens; each admits one person, on any number of devices."""
        tokens = [secrets.token_urlsafe(16) for _ in range(count)]
        with self._transaction():
            self._db.executemany("INSERT INTO links VALUES (?, 1, NULL)", [(token,) for token in tokens])
        return tokens

    def has_link(self, link: str) -> bool:
        """Whether there is a link with this token."""
        return self._one("SELECT 1 FROM links WHERE token = ?", link) is not None

    def join(self, link: str, consent: str) -> Participant | None:
        """Admit a person who followed a link and agreed to the consent text.

        Returns:
            A new participant, or the one that a personal link belongs to; None if the link belongs to nobody.
        """
        with self._transaction():
            row = self._db.execute(
                "SELECT personal, participant FROM links WHERE token = ?", (link,)
            ).fetchone()
            if row is None:
                return None
            personal, number = row
            if number is None:
                (number,) = self._db.execute("SELECT count(*) FROM participants").fetchone()
                token = secrets.token_urlsafe(16)
                self._db.execute(
                    "INSERT INTO participants VALUES (?, ?, ?, ?, NULL)", (number, token, consent, _now())
                )
                if personal:
                    self._db.execute("UPDATE links SET participant = ? WHERE token = ?", (number, link))
            return _participant(
                self._db.execute(f"{SELECT_PARTICIPANT} WHERE number = ?", (number,)).fetchone()
            )

    def participant(self, token: str) -> Participant | None:
        """The participant with this token; None if there is none."""
        row = self._one(f"{SELECT_PARTICIPANT} WHERE token = ?", token)
        return row and _participant(row)

    def participants(self) -> list[Participant]:
        """All participants who agreed to the consent text, by number."""
        return [_participant(row) for row in self._all(f"{SELECT_PARTICIPANT} ORDER BY number")]

    def choices(self, participant: int) -> list[str]:
        """The codes that a participant has chosen so far, in the order of the trials."""
        rows = self._all("SELECT answer FROM answers WHERE participant = ? ORDER BY trial", participant)
        return [answer for (answer,) in rows]

    def record(self, participant: int, number: int, trial: Trial, answer: str, seconds: float) -> str | None:
        """Save an answer; it is on disk when this returns.

        Args:
            participant: The participant's number.
            number: The number of the trial among this participant's.
            trial: That trial.
            answer: The code that was chosen.
            seconds: The time that the answer took.

        Returns:
            The answer that counts: this one, or an earlier one to the same trial. None if an earlier trial
            is not answered yet.
        """
        with self._transaction():
            if len(choices := self.choices(participant)) > number:
                return choices[number]
            if len(choices) < number:
                return None
            item = trial.item
            lists = [json.dumps(codes, ensure_ascii=False) for codes in (item.methods, trial.options)]
            names = (item.question.name, item.case.name)
            row = (participant, number, *names, *lists, answer, trial.check, seconds, _now())
            self._db.execute(f"INSERT INTO answers VALUES ({', '.join('?' * 10)})", row)
        return answer

    def withdraw(self, participant: int) -> None:
        """Delete all answers of a participant, and accept no further ones."""
        with self._transaction():
            self._db.execute("DELETE FROM answers WHERE participant = ?", (participant,))
            self._db.execute("UPDATE participants SET withdrew = ? WHERE number = ?", (_now(), participant))

    def __iter__(self) -> Iterator[Answer]:
        """All answers, by participant and trial."""
        for row in self._all("SELECT * FROM answers ORDER BY participant, trial"):
            participant, trial, question, case, shown, options, *rest = row
            codes = tuple(json.loads(shown)), tuple(json.loads(options))
            yield Answer(participant, trial, question, case, *codes, *rest)

    def _all(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._db.execute(query, values).fetchall()

    def _one(self, query: str, *values: object) -> Any:
        return next(iter(self._all(query, *values)), None)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Write everything in this block or nothing, while no other process writes."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise


def _make(path: Path, study: Study, fingerprint: str) -> None:
    """Write a file without answers under a temporary name, then rename it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with closing(sqlite3.connect(temporary)) as db, db:
            db.executescript(TABLES)
            row = (FORMAT, study.source, fingerprint, secrets.token_bytes(32), _now())
            db.execute("INSERT INTO study VALUES (?, ?, ?, ?, ?)", row)
            db.execute("INSERT INTO links VALUES (?, 0, NULL)", (secrets.token_urlsafe(16),))
        temporary.replace(path)
    except (OSError, sqlite3.Error) as error:
        temporary.unlink(missing_ok=True) if path.parent.is_dir() else None
        raise UnwritableFolder(
            f"{path} could not be written ({error}). Give another file with --answers."
        ) from None


def _participant(row: tuple[int, str, int]) -> Participant:
    number, token, withdrew = row
    return Participant(number, token, bool(withdrew))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
