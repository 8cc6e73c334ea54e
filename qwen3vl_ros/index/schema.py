"""The tables of an index, and what their rows are."""

from __future__ import annotations

from typing import Any, Final

from qwen3vl_ros.index.entries import Source, Thing
from qwen3vl_ros.index.words import TOKENIZER

VERSION: Final = 1
"""Of the tables, in the file's ``user_version``."""

APPLICATION: Final = 0x51335649
"""The file's ``application_id``: "Q3VI"."""

TABLES: Final = f"""
CREATE TABLE sources (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL, topic TEXT NOT NULL, start_ns INTEGER NOT NULL,
    window_ns INTEGER NOT NULL, fingerprint TEXT NOT NULL, done_ns INTEGER, UNIQUE (kind, name, topic)
);
CREATE TABLE windows (
    id INTEGER PRIMARY KEY, source_id INTEGER NOT NULL REFERENCES sources, start_ns INTEGER NOT NULL,
    end_ns INTEGER NOT NULL, frame_ns INTEGER NOT NULL, caption TEXT NOT NULL, jpeg BLOB NOT NULL,
    frame_id TEXT NOT NULL,
    UNIQUE (source_id, start_ns)
);
CREATE INDEX windows_by_time ON windows (start_ns, id);
CREATE TABLE things (
    id INTEGER PRIMARY KEY, window_id INTEGER NOT NULL REFERENCES windows, name TEXT NOT NULL,
    stamp_ns INTEGER NOT NULL, x INTEGER, y INTEGER, width INTEGER, height INTEGER,
    position_x REAL, position_y REAL, position_z REAL, frame_id TEXT NOT NULL
);
CREATE INDEX things_by_window ON things (window_id);
CREATE VIRTUAL TABLE captions USING fts5 (text, tokenize = '{TOKENIZER}');
CREATE VIRTUAL TABLE names USING fts5 (text, tokenize = '{TOKENIZER}');
"""
# The texts of `captions` have the ids of their windows, those of `names` the ids of their things.


def source_of(row: Any) -> Source:
    """Return the source of a whole row of `sources`."""
    _, kind, name, topic, start, window, fingerprint, _ = row
    return Source(kind, name, topic, start, window, fingerprint)


def thing_of(row: Any) -> Thing:
    """Return the thing of a row of `things`, from its name on."""
    name, stamp, *box = row[:6]
    position = row[6:9]
    return Thing(
        name,
        stamp,
        None if box[0] is None else (box[0], box[1], box[2], box[3]),
        None if position[0] is None else position,
        row[9],
    )
