"""The file of answers: SQLite, one transaction an answer, on the disk before the participant goes on.

    study         one row: the description, its fingerprint, a secret, the version of this layout
    links         tokens that let people in: the open one, and personal ones
    participants  a number, a token, the consent text that was agreed to, when they began and withdrew
    answers       participant, trial, question, case, what was shown in which order, the answer, seconds

The first answer to a trial counts. Whoever withdraws takes the answers along.
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
WHO = "SELECT number, token, withdrew IS NOT NULL FROM participants"


class Participant(NamedTuple):
    """A person, as far as this file knows one."""

    number: int
    token: str
    withdrew: bool


class Answer(NamedTuple):
    """One answer.

    Args:
        participant: Counted from 0.
        trial: Which of this participant's questions, counted from 0.
        question, case: Their names.
        shown: The methods whose pictures were shown.
        options: The codes of the answers, in the order in which they stood.
        answer: The code that was chosen.
        check: The code that had to be chosen; None where this is no attention check.
        seconds: From the pictures' appearance to the answer, as the page measured it.
        at: When it was saved, in UTC.
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
    """A file of answers, for threads of one process and for several processes.

    Args:
        path: Of the file, which must be there; `begin` makes one.

    Raises:
        UnreadableFile: There is none, or it is of another kind.
    """

    def __init__(self, path: str | Path) -> None:
        self.path, self._lock = Path(path), RLock()
        try:
            # one connection under one lock: SQLite writes one at a time anyway
            self._db = sqlite3.connect(
                f"{self.path.resolve().as_uri()}?mode=rw",
                uri=True,
                timeout=30,
                isolation_level=None,
                check_same_thread=False,
            )
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")  # an answer survives a power cut, too
            self._db.execute("PRAGMA secure_delete = ON")  # and whoever withdraws leaves nothing behind
            (found,) = self._db.execute("SELECT * FROM study").fetchall()
        except (sqlite3.Error, ValueError) as error:
            raise UnreadableFile(
                f"{self.path} cannot be read as answers of a study ({error}). Give the {NAME} that `headwise "
                "study serve` wrote."
            ) from None
        version, self.description, self.fingerprint, self.secret, _ = found
        if version > FORMAT:
            raise UnreadableFile(
                f"{self.path} has format {version}, newer than this Headwise reads. Upgrade headwise."
            )

    @classmethod
    def begin(cls, path: str | Path, study: Study, fingerprint: str) -> "Answers":
        """The answers of a study: those that are there, or a new file.

        Raises:
            RunMismatch: The file holds answers to something else.
        """
        path = Path(path)
        if not path.exists():
            _make(path, study, fingerprint)
        answers = cls(path)
        if answers.fingerprint != fingerprint:
            raise RunMismatch(
                f"{path} holds answers to other questions or pictures: they were changed since. Put them "
                "back, or give another file with --answers."
            )
        return answers

    @property
    def study(self) -> Study:
        """As it was when the first answer could be given."""
        return parse_study(self.description)

    def close(self) -> None:
        """Leave the file to others."""
        self._db.close()

    def link(self) -> str:
        """The token of the open link: everybody who follows it is somebody new."""
        (token,) = self._one("SELECT token FROM links WHERE NOT personal")
        return token

    def invite(self, count: int) -> list[str]:
        """Tokens of so many personal links, each for one person, on however many devices."""
        tokens = [secrets.token_urlsafe(16) for _ in range(count)]
        with self._transaction():
            self._db.executemany("INSERT INTO links VALUES (?, 1, NULL)", [(token,) for token in tokens])
        return tokens

    def knows(self, link: str) -> bool:
        """Is this the token of a link?"""
        return self._one("SELECT 1 FROM links WHERE token = ?", link) is not None

    def join(self, link: str, consent: str) -> Participant | None:
        """Who follows a link and has agreed: somebody new, or the owner of a personal link.

        None if there is no such link.
        """
        with self._transaction():
            found = self._db.execute(
                "SELECT personal, participant FROM links WHERE token = ?", (link,)
            ).fetchone()
            if found is None:
                return None
            personal, number = found
            if number is None:
                (number,) = self._db.execute("SELECT count(*) FROM participants").fetchone()
                token = secrets.token_urlsafe(16)
                self._db.execute(
                    "INSERT INTO participants VALUES (?, ?, ?, ?, NULL)", (number, token, consent, _now())
                )
                if personal:
                    self._db.execute("UPDATE links SET participant = ? WHERE token = ?", (number, link))
            return _participant(self._db.execute(f"{WHO} WHERE number = ?", (number,)).fetchone())

    def participant(self, token: str) -> Participant | None:
        """Whose token this is."""
        found = self._one(f"{WHO} WHERE token = ?", token)
        return found and _participant(found)

    def participants(self) -> list[Participant]:
        """All who agreed."""
        return [_participant(row) for row in self._all(f"{WHO} ORDER BY number")]

    def given(self, participant: int) -> list[str]:
        """The codes that a participant chose so far, in the order of the trials."""
        rows = self._all("SELECT answer FROM answers WHERE participant = ? ORDER BY trial", participant)
        return [answer for (answer,) in rows]

    def record(self, participant: int, number: int, trial: Trial, answer: str, seconds: float) -> str | None:
        """Save an answer, durably when this returns.

        Args:
            participant: Who.
            number: Which of the participant's trials.
            trial: That one.
            answer: The code that was chosen.
            seconds: It took.

        Returns:
            The answer that counts: this one, or an earlier one to the same trial. None if an earlier trial
            waits for its answer.
        """
        with self._transaction():
            if len(given := self.given(participant)) > number:
                return given[number]
            if len(given) < number:
                return None
            item = trial.item
            lists = [json.dumps(codes, ensure_ascii=False) for codes in (item.methods, trial.options)]
            row = (
                participant,
                number,
                item.question.name,
                item.case.name,
                *lists,
                answer,
                trial.check,
                seconds,
            )
            self._db.execute(f"INSERT INTO answers VALUES ({', '.join('?' * 10)})", (*row, _now()))
        return answer

    def withdraw(self, participant: int) -> None:
        """Delete all answers of a participant, who is asked nothing more."""
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
        """All of it or nothing; nobody else writes meanwhile."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise


def _make(path: Path, study: Study, fingerprint: str) -> None:
    """A file without answers, which takes its place whole."""
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
