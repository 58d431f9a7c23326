-- The journal: never thrown away. Scans, what came of them, commands and alarms; and the outbox.
CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY) STRICT, WITHOUT ROWID;

CREATE TABLE scan (
    seq            INTEGER PRIMARY KEY,
    id             BLOB NOT NULL,       -- UUIDv7
    service        TEXT NOT NULL,
    lane           TEXT NOT NULL,
    direction      TEXT NOT NULL,       -- entry, exit
    ticket         BLOB,                -- keyed digest of the barcode_id; null where the text was malformed
    admitted       INTEGER NOT NULL,
    code           INTEGER,
    reason         TEXT NOT NULL,
    origin         TEXT NOT NULL,
    moves          INTEGER NOT NULL,    -- 1: a check-in or check-out that the overlay counts
    count_before   INTEGER NOT NULL,    -- how often the ticket was checked in by then, by mirror and overlay
    left_before    INTEGER NOT NULL,    -- entries it had left then, by mirror and overlay
    boot           TEXT NOT NULL,
    monotonic_ms   INTEGER NOT NULL,    -- since that boot
    wall_ms        INTEGER NOT NULL,    -- Unix time, UTC; a lower bound where trust is unknown
    trust          TEXT NOT NULL,       -- of wall_ms
    running_ms     INTEGER NOT NULL,    -- the gate's own running time: see gated/store/running.py
    acknowledged_ms INTEGER,            -- running time at which the server had it
    passage        TEXT,                -- taken, not_taken, unknown; null while the grant stands
    regranted      INTEGER NOT NULL DEFAULT 0,
    undurable      INTEGER NOT NULL DEFAULT 0  -- 1: acted on before it was on disk
) STRICT;
CREATE INDEX movement ON scan (ticket) WHERE moves = 1;

-- What the server has not acknowledged. The only place of a clear barcode; wiped with its row (secure_delete).
CREATE TABLE outbox (
    kind           INTEGER NOT NULL,    -- 0 check-ins, 1 the rest, 2 check-outs to be replayed
    seq            INTEGER NOT NULL REFERENCES scan (seq),
    barcode_id     TEXT NOT NULL,
    status_message TEXT NOT NULL,
    checked_in_time INTEGER,            -- Unix seconds; null until the row is frozen, before its first sending
    sent           INTEGER NOT NULL DEFAULT 0,  -- how often it went out
    PRIMARY KEY (kind, seq)
) STRICT, WITHOUT ROWID;

-- Everything else that happened: commands of an operator, alarms, changes of mode.
CREATE TABLE occurrence (
    seq            INTEGER PRIMARY KEY,
    kind           TEXT NOT NULL,
    lane           TEXT,
    what           TEXT NOT NULL,
    why            TEXT NOT NULL,
    boot           TEXT NOT NULL,
    monotonic_ms   INTEGER NOT NULL,
    wall_ms        INTEGER NOT NULL,
    trust          TEXT NOT NULL
) STRICT;
