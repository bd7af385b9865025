"""The mirror's durable memory: one SQLite file that knows what the source holds and what the target was given."""

import sqlite3
from pathlib import Path

# Raised when the tables change: a file of another number is refused.
FORMAT = 1

# Rows with something left to do; the indexes hold no others, and serve queries that say it in these words.
OPEN_MEMORY = (
    "((body is not null and refused is null)"
    " or (gone and (tried or applied > 0 or (erase = 1 and remote is not null))))"
)
OPEN_LINK = "((body is not null and refused is null) or (gone and (tried or applied > 0)))"

TABLES = f"""
create table if not exists meta (name text primary key, value text not null) without rowid;
-- Change logs that were left: the source was restored, and what they say no longer holds.
create table if not exists old_logs (log text primary key) without rowid;
-- A namespace of the source from its first write to its end. `namespace_id` is null until an event has told it.
-- ended 1: what was written of it is still to be removed.
create table if not exists eras (
    era integer primary key, namespace text not null, namespace_id integer, ended integer not null default 0
);
create unique index if not exists eras_current on eras (namespace) where not ended;
-- The largest id of a namespace of this name that has ended.
create table if not exists floors (namespace text primary key, namespace_id integer not null) without rowid;
-- Namespaces that have to be read from the source. known: whether it was read before.
create table if not exists loads (namespace text primary key, done integer not null) without rowid;
-- gone: forgotten, a stone that keeps late events out. erase 1: to be erased in the target, 2: erased.
-- body: the state that is still to be written. tried: it may be in the target though no answer said so.
-- applied: the version that was written, 0 while there is none. remote: its id there. refused: why it was.
create table if not exists memories (
    era integer not null, id integer not null, version integer not null default 0, gone integer not null default 0,
    erase integer not null default 0, body text, tried integer not null default 0,
    applied integer not null default 0, remote text, key text, place text, refused text, primary key (era, id)
) without rowid;
create index if not exists memories_place on memories (era, place);
create index if not exists memories_key on memories (era, key) where key is not null;
create index if not exists memories_open on memories (era) where {OPEN_MEMORY};
-- identity: what may be once in a namespace: source, target, type and valid_from.
create table if not exists links (
    era integer not null, id integer not null, version integer not null default 0, gone integer not null default 0,
    body text, tried integer not null default 0, applied integer not null default 0, remote text,
    source integer, target integer, identity text, refused text, primary key (era, id)
) without rowid;
create index if not exists links_source on links (era, source);
create index if not exists links_target on links (era, target);
create index if not exists links_identity on links (era, identity);
create index if not exists links_open on links (era) where {OPEN_LINK};
"""


def open_tables(path: Path, purpose: str) -> sqlite3.Connection:
    """The file's tables, made when it is new, for this process alone.

    `purpose` is what the file is for: raises ValueError when it was made for something else, sqlite3.OperationalError
    when another process has it.
    """
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=1.0)
    try:
        path.chmod(0o600)
        # A rollback journal and overwritten pages: what was erased must not stay in the file.
        for pragma in (
            "locking_mode = exclusive",
            "journal_mode = truncate",
            "synchronous = full",
            "secure_delete = on",
        ):
            connection.execute(f"pragma {pragma}").fetchall()
        connection.execute("begin exclusive")
        for statement in TABLES.split(";"):
            connection.execute(statement)
        connection.execute("insert or ignore into meta values ('format', ?), ('purpose', ?)", (str(FORMAT), purpose))
        found = dict(connection.execute("select name, value from meta").fetchall())
        connection.execute("commit")
        if (found["format"], found["purpose"]) != (str(FORMAT), purpose):
            raise ValueError(f"{path} is the memory of another mirror: {found['purpose']}")
    except (sqlite3.Error, ValueError):
        connection.close()
        raise
    return connection
