"""The file of an index: one SQLite database with full-text search (FTS5), which others can read while it is written."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from qwen3vl_ros.index import schema
from qwen3vl_ros.index import words as fts
from qwen3vl_ros.index.entries import IndexFileError, Sighting, Source, Thing, Window

_WINDOWS: Final = """
SELECT windows.id, start_ns, end_ns, frame_ns, caption, frame_id, source_id FROM windows
"""

_THINGS: Final = """
SELECT name, stamp_ns, x, y, width, height, position_x, position_y, position_z, frame_id FROM things
"""

_PAGE: Final = 200
"""Windows that are read at a time."""

_SMALL: Final = 500
"""Bytes that a window takes beside its image, about, and at least."""

_PART_KEPT: Final = 0.9
"""Of the bytes that :meth:`Store.trim` allows, when it has to delete at all, so that it need not at the next window."""

_PATIENCE: Final = 30.0
"""Seconds to wait for another process that writes."""

_PATIENCE_OF_LOG: Final = 0.2
"""Seconds to wait for another process that reads, to write the log back; the next time does it, too."""


class Store:
    """An open index. Thread-safe; use it in a ``with`` block, or close it.

    Args:
        path: Of the file.
        create: Make it if it is missing, for its owner alone; else a missing file is an error.

    Raises:
        IndexFileError: It is missing, no index, or of a newer version; all methods raise it where SQLite fails.
    """

    def __init__(self, path: str | os.PathLike[str], *, create: bool = False) -> None:
        self.path = Path(path).absolute()
        self._lock = threading.RLock()
        if create:
            self._make()
        elif not self.path.is_file():
            raise IndexFileError(f"There is no index {self.path}: make one with `qwen3vl-ros index`.")
        self._database = self._connected()
        try:
            with self._working():
                self._prepare(create)
        except BaseException:
            self._database.close()
            raise

    def add(self, window: Window) -> int:
        """Write a window, wholly or not at all, in place of one of its source that begins at the same time.

        Returns:
            Its id.
        """
        with self._transaction():
            return self._write(window)

    def extend(self, window: int, end_ns: int) -> bool:
        """Let a window last longer, as nothing has changed in its scene: what is in it is seen until then.

        Args:
            window: Its id.
            end_ns: When it ends, and the time at which its things were seen.

        Returns:
            Whether there is such a window.
        """
        with self._transaction() as database:
            row = database.execute(
                "UPDATE windows SET end_ns = ? WHERE id = ? RETURNING source_id", (end_ns, window)
            ).fetchall()
            database.execute("UPDATE things SET stamp_ns = ? WHERE window_id = ?", (end_ns, window))
            if row:
                database.execute("UPDATE sources SET done_ns = max(done_ns, ?) WHERE id = ?", (end_ns, *row[0]))
        return bool(row)

    def search(
        self,
        words: str,
        *,
        since: int | None = None,
        until: int | None = None,
        limit: int | None = None,
        match: fts.Match = "all",
    ) -> list[Window]:
        """Return the windows in whose caption, or in the name of one of whose things, the words are; the best first.

        Args:
            words: In any language; English ones also in another form ("balls"), Chinese ones also as parts of others.
            since: Leave out windows that end before; None for none.
            until: Leave out windows that begin after; None for none.
            limit: Most windows; None for all.
            match: How they are looked for.
        """
        query = fts.query(words, match)
        if not query:
            return []
        found = (
            "SELECT window, min(score) AS score FROM ("
            "SELECT rowid AS window, rank AS score FROM captions WHERE captions MATCH ?1 UNION ALL "
            "SELECT things.window_id, names.rank FROM names JOIN things ON things.id = names.rowid "
            "WHERE names MATCH ?1) GROUP BY window"
        )
        with self._reading() as database:
            rows = database.execute(
                f"{_WINDOWS} JOIN ({found}) ON window = windows.id WHERE (?2 IS NULL OR end_ns >= ?2) "
                "AND (?3 IS NULL OR start_ns <= ?3) ORDER BY score, start_ns, windows.id LIMIT ?4",
                (query, since, until, -1 if limit is None else limit),
            ).fetchall()
            return [self._window(row) for row in rows]

    def windows(self, since: int | None = None, until: int | None = None) -> Iterator[Window]:
        """Yield the windows by the times of their beginnings; ``since`` and ``until`` as of :meth:`search`."""
        after: tuple[int, int] = (-(2**63), 0)
        while True:
            with self._reading() as database:
                rows = database.execute(
                    f"{_WINDOWS} WHERE (start_ns, windows.id) > (?1, ?2) AND (?3 IS NULL OR end_ns >= ?3) "
                    "AND (?4 IS NULL OR start_ns <= ?4) ORDER BY start_ns, windows.id LIMIT ?5",
                    (*after, since, until, _PAGE),
                ).fetchall()
                page = [self._window(row) for row in rows]
            yield from page
            if len(page) < _PAGE:
                return
            after = page[-1].start_ns, page[-1].id

    def last_seen(self, name: str, *, cameras: Collection[str] = ()) -> Sighting | None:
        """Return the thing that was seen last in whose name all words of ``name`` are; None if there is none.

        Of one source that is what was written last, as a camera's clock may begin anew; of several the newest stamp.

        Args:
            name: Its words, in any order.
            cameras: Names of the sources that count; none for all.
        """
        query = fts.query(name)
        if not query:
            return None
        with self._reading() as database:
            row = database.execute(
                "SELECT max(things.id) AS newest, window_id, stamp_ns FROM names JOIN things ON things.id = "
                "names.rowid JOIN windows ON windows.id = window_id JOIN sources ON sources.id = source_id "
                "WHERE names MATCH ?1 AND (?2 = '[]' OR sources.name IN (SELECT value FROM json_each(?2))) "
                "GROUP BY source_id ORDER BY stamp_ns DESC, newest DESC LIMIT 1",
                (query, json.dumps(list(cameras))),
            ).fetchone()
            if row is None:
                return None
            thing = schema.thing_of(database.execute(f"{_THINGS} WHERE id = ?", row[:1]).fetchone())
            return Sighting(thing, self._window(database.execute(f"{_WINDOWS} WHERE id = ?", row[1:2]).fetchone()))

    def last_described(self, words: str, *, cameras: Collection[str] = ()) -> Window | None:
        """Return the last window in whose caption all words are, as of :meth:`last_seen`; None if there is none.

        Args:
            words: In any order.
            cameras: As of :meth:`last_seen`.
        """
        query = fts.query(words)
        if not query:
            return None
        with self._reading() as database:
            row = database.execute(
                f"{_WINDOWS} WHERE id IN (SELECT max(windows.id) FROM windows JOIN captions ON captions.rowid = "
                "windows.id WHERE captions MATCH ?1 AND (?2 = '[]' OR source_id IN (SELECT id FROM sources WHERE name "
                "IN (SELECT value FROM json_each(?2)))) GROUP BY source_id) ORDER BY end_ns DESC, id DESC LIMIT 1",
                (query, json.dumps(list(cameras))),
            ).fetchone()
            return None if row is None else self._window(row)

    def jpeg(self, window: Window) -> bytes:
        """Return the evidence frame of a window that was read here; b"" where there is none, or none any more."""
        with self._reading() as database:
            row = database.execute("SELECT jpeg FROM windows WHERE id = ?", (window.id,)).fetchone()
            return bytes(row[0]) if row else b""

    def sources(self) -> list[Source]:
        """Return what there ever were windows of, as the newest one had it."""
        with self._reading() as database:
            return [schema.source_of(row) for row in database.execute("SELECT * FROM sources ORDER BY id")]

    def done_until(self, source: Source) -> int | None:
        """Return when the latest window of a source ended, even if it was deleted since; None if there was none."""
        with self._reading() as database:
            row = database.execute(
                "SELECT done_ns FROM sources WHERE kind = ? AND name = ? AND topic = ?", _key(source)
            ).fetchone()
            return None if row is None else row[0]

    def count(self) -> int:
        """Return the number of windows."""
        with self._reading() as database:
            return int(database.execute("SELECT count(*) FROM windows").fetchone()[0])

    def size(self) -> int:
        """Return the bytes of the file, with those of its log, ``FILE-wal``."""
        return sum(path.stat().st_size for path in (self.path, Path(f"{self.path}-wal")) if path.exists())

    def trim(self, max_bytes: int) -> int:
        """Delete the windows that were added first until the file is not larger than ``max_bytes``.

        An empty index takes some 100 kB, which is left of it however small ``max_bytes`` is. While another process
        is in the middle of reading, its log can be larger than that.

        Returns:
            How many windows are gone.
        """
        if self.size() <= max_bytes:
            return 0
        with self._lock:
            self._write_log_back()
            gone = 0
            allowed: float = max_bytes
            while self._pages() > max_bytes:
                # What a deleted text took is free only after the text index is merged: so measured, and done again.
                allowed *= _PART_KEPT
                deleted = self._delete_oldest(self._pages() - allowed)
                if not deleted:
                    break
                gone += deleted
                self._shrink()
            return gone

    def close(self) -> None:
        """Close the file. Idempotent."""
        with self._lock:
            self._database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise IndexFileError(f"{self.path} cannot be made: {error.strerror}.") from error

    def _connected(self) -> sqlite3.Connection:
        # A reader of a log makes files beside it. Where it cannot, another may write all the same, and has made them.
        writable = os.access(self.path.parent, os.W_OK) and os.access(self.path, os.W_OK)
        log = Path(f"{self.path}-wal")
        is_written = log.exists() and log.stat().st_size > 0
        address = f"{self.path.as_uri()}?mode={'rw' if writable else 'ro' if is_written else 'ro&immutable=1'}"
        try:
            return sqlite3.connect(address, uri=True, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise IndexFileError(f"{self.path} cannot be opened: {error}.") from error

    def _prepare(self, create: bool) -> None:
        """Check that the file is an index, or make an empty one one."""
        database = self._database
        if create and not self.path.stat().st_size:
            database.execute("PRAGMA auto_vacuum = INCREMENTAL")
            database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        if create:
            with self._transaction():
                if not database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                    for statement in schema.TABLES.split(";"):
                        database.execute(statement)
                    database.execute(f"PRAGMA application_id = {schema.APPLICATION}")
                    database.execute(f"PRAGMA user_version = {schema.VERSION}")
        application, version = (
            database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
        )
        if application != schema.APPLICATION:
            raise IndexFileError(f"{self.path} is no index of `qwen3vl-ros index`: name another file.")
        if version != schema.VERSION:
            raise IndexFileError(
                f"{self.path} is an index of version {version}, and this qwen3vl_ros reads version {schema.VERSION}: "
                "install a newer qwen3vl_ros, or index into another file."
            )

    def _write(self, window: Window) -> int:
        database, source = self._database, self._source_id(window.source)
        there = database.execute(
            "SELECT id FROM windows WHERE source_id = ? AND start_ns = ?", (source, window.start_ns)
        ).fetchone()
        if there:
            self._delete(there[0])
        cursor = database.execute(
            "INSERT INTO windows (source_id, start_ns, end_ns, frame_ns, caption, jpeg, frame_id) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                *(source, window.start_ns, window.end_ns, window.frame_ns),
                *(fts.clean(window.caption), window.jpeg, window.frame_id),
            ),
        )
        number = int(cursor.lastrowid or 0)
        database.execute("INSERT INTO captions (rowid, text) VALUES (?, ?)", (number, fts.indexed(window.caption)))
        for thing in window.things:
            self._add_thing(number, thing)
        database.execute(
            "UPDATE sources SET done_ns = max(coalesce(done_ns, ?1), ?1) WHERE id = ?2", (window.end_ns, source)
        )
        return number

    def _source_id(self, source: Source) -> int:
        values = (*_key(source), source.start_ns, source.window_ns, source.fingerprint)
        row = self._database.execute(
            "INSERT INTO sources (kind, name, topic, start_ns, window_ns, fingerprint) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET start_ns = excluded.start_ns, window_ns = excluded.window_ns, "
            "fingerprint = excluded.fingerprint RETURNING id",
            values,
        ).fetchall()
        return int(row[0][0])

    def _add_thing(self, window: int, thing: Thing) -> None:
        cursor = self._database.execute(
            "INSERT INTO things (window_id, name, stamp_ns, x, y, width, height, position_x, position_y, position_z, "
            "frame_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                window,
                fts.clean(thing.name),
                thing.stamp_ns,
                *(thing.box or (None,) * 4),
                *(thing.position or (None,) * 3),
                thing.frame_id,
            ),
        )
        self._database.execute(
            "INSERT INTO names (rowid, text) VALUES (?, ?)", (cursor.lastrowid, fts.indexed(thing.name))
        )

    def _delete(self, window: int) -> None:
        database = self._database
        database.execute("DELETE FROM names WHERE rowid IN (SELECT id FROM things WHERE window_id = ?)", (window,))
        database.execute("DELETE FROM things WHERE window_id = ?", (window,))
        database.execute("DELETE FROM captions WHERE rowid = ?", (window,))
        database.execute("DELETE FROM windows WHERE id = ?", (window,))

    def _delete_oldest(self, excess: float) -> int:
        """Delete the windows that were added first and take about so many bytes; return how many."""
        with self._transaction() as database:
            gone = []
            for number, size in database.execute(f"SELECT id, {_SMALL} + length(jpeg) FROM windows ORDER BY id"):
                gone.append(number)
                excess -= size
                if excess <= 0:
                    break
            for number in gone:
                self._delete(number)
            return len(gone)

    def _shrink(self) -> None:
        """Give what is free back to the file system."""
        with self._working() as database:
            for table in ("captions", "names"):
                database.execute(f"INSERT INTO {table} ({table}) VALUES ('optimize')")
            database.executescript("PRAGMA incremental_vacuum")  # execute() frees a single page
        self._write_log_back()

    def _write_log_back(self) -> None:
        with self._working() as database:
            database.execute(f"PRAGMA busy_timeout = {round(1000 * _PATIENCE_OF_LOG)}")
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            database.execute(f"PRAGMA busy_timeout = {round(1000 * _PATIENCE)}")

    def _pages(self) -> int:
        """Return the bytes of the file as they will be when the log is written back."""
        with self._working() as database:
            count, size = (database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
            return int(count * size)

    def _window(self, row: Any) -> Window:
        number, start, end, frame, caption, frame_id, source = row
        things = self._database.execute(f"{_THINGS} WHERE window_id = ? ORDER BY id", (number,)).fetchall()
        found = schema.source_of(self._database.execute("SELECT * FROM sources WHERE id = ?", (source,)).fetchone())
        seen = tuple(map(schema.thing_of, things))
        return Window(found, start, end, frame, caption, seen, frame_id=frame_id, id=number)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._working() as database:
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
                database.execute("COMMIT")
            except BaseException:
                if database.in_transaction:  # some errors have ended it
                    database.execute("ROLLBACK")
                raise

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """Read one state of the file, whatever others write meanwhile."""
        with self._working() as database:
            database.execute("BEGIN")
            try:
                yield database
            finally:
                database.execute("ROLLBACK")

    @contextmanager
    def _working(self) -> Iterator[sqlite3.Connection]:
        """Have the connection to oneself, and raise IndexFileError for what SQLite raises."""
        with self._lock:
            try:
                yield self._database
            except sqlite3.DatabaseError as error:
                if "not a database" in str(error) or "file is encrypted" in str(error):
                    raise IndexFileError(
                        f"{self.path} is no index of `qwen3vl-ros index`: name another file."
                    ) from error
                raise IndexFileError(f"{self.path} cannot be used: {error}.") from error


def _key(source: Source) -> tuple[str, str, str]:
    return source.kind, source.name, source.topic
