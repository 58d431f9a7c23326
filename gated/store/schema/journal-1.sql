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
    regranted      INTEGER NOT NULL DEFAULT 0,  -- 1: its guest has had another grant for it
    undurable      INTEGER NOT NULL DEFAULT 0,  -- 1: acted on before it was on disk
    call_from      INTEGER,             -- Unix seconds between which a call whose answer was lost
    call_to        INTEGER,             -- may have been carried out by the server
    marked         INTEGER NOT NULL DEFAULT 0   -- 1: sent again though the server may have had it
) STRICT;
CREATE INDEX movement ON scan (ticket) WHERE moves = 1;
CREATE INDEX lost_call ON scan (ticket) WHERE call_from IS NOT NULL;

-- What the server has not acknowledged. The only place of a clear barcode; wiped with its row (secure_delete).
CREATE TABLE outbox (
    kind           INTEGER NOT NULL,    -- 0 check-ins, 1 the rest, 2 check-outs to be replayed
    seq            INTEGER NOT NULL REFERENCES scan (seq),
    barcode_id     TEXT NOT NULL,
    status_message TEXT NOT NULL,
    checked_in_time INTEGER,            -- Unix seconds; null until the row is frozen, before its first sending
    sending        INTEGER NOT NULL DEFAULT 0,  -- 1: on its way; found so at a start, it may have arrived
    lost_ms        INTEGER,             -- no answer came: running time from which a download tells what became of it
    parked         TEXT,                -- why it is sent no more without a person's word
    PRIMARY KEY (kind, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX on_its_way ON outbox (sending) WHERE sending = 1;
CREATE INDEX lost ON outbox (lost_ms) WHERE lost_ms IS NOT NULL;

-- Tickets whose check-ins exceed what they allow, and the count that was reported.
CREATE TABLE double_entry (ticket BLOB PRIMARY KEY, count INTEGER NOT NULL) STRICT, WITHOUT ROWID;

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
