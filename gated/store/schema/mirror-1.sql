-- The mirror: the local copy of one service's tickets. May be thrown away and rebuilt at any time.
-- Nothing in it names a ticket or a person: keys are keyed digests, barcode_ids are sealed.
CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY) STRICT, WITHOUT ROWID;

-- Rows lie in the order in which they came. By digest each row of a refresh would dirty a page of its own: 20
-- times the writing, and an SD card wears out by that.
CREATE TABLE ticket (
    number         INTEGER PRIMARY KEY,
    digest         BLOB NOT NULL UNIQUE,  -- keyed digest of barcode_id
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

CREATE TABLE external (
    digest         BLOB NOT NULL,       -- keyed digest of external_barcode_id
    ticket         BLOB NOT NULL,
    sealed         BLOB NOT NULL,       -- barcode_id, under a key made from the external id
    PRIMARY KEY (digest, ticket)
) STRICT, WITHOUT ROWID;
