-- New rows find their way without an index of digests, and the numbers of orders are known. What an older mirror
-- holds is downloaded again.
DROP TABLE ticket;
DELETE FROM external;
DELETE FROM meta;

-- Rows lie in the order in which they came. By digest each row of a refresh would dirty a page of its own: 20
-- times the writing, and an SD card wears out by that. For the same reason no index of digests is kept here.
CREATE TABLE ticket (
    number         INTEGER PRIMARY KEY,
    digest         BLOB NOT NULL,       -- keyed digest of barcode_id; no two rows have the same
    batch          BLOB,                -- the beginning of a keyed digest of batch_id
    external       BLOB,                -- keyed digest of external_barcode_id; those it had before count no more
    type_id        TEXT NOT NULL,
    type_name      TEXT NOT NULL,
    subtitle       TEXT NOT NULL,
    section        TEXT NOT NULL,
    row            TEXT NOT NULL,
    seat           TEXT NOT NULL,
    allowed        INTEGER NOT NULL,
    canceled       INTEGER NOT NULL,
    expire_from    INTEGER,             -- Unix seconds, UTC, like all times here
    valid_from     INTEGER,
    valid_till     INTEGER,
    max_checkins   INTEGER,
    remaining      INTEGER,
    checked_in     INTEGER NOT NULL,
    last_in        INTEGER,
    last_out       INTEGER,
    unreadable     TEXT NOT NULL,       -- names of fields that could not be read
    asked_ms       INTEGER NOT NULL,    -- running time at which the download that brought the row was asked for
    run            INTEGER NOT NULL,    -- the full download that saw it last
    absent         INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Where a ticket's row is; and 0 for an order, under its shorter digest. New ones are known by a table in memory
-- at first, and written here many at once, in the order of their digests: 16 rows to a page written, where one by
-- one it were a page to each row.
CREATE TABLE place (digest BLOB PRIMARY KEY, number INTEGER NOT NULL) STRICT, WITHOUT ROWID;
