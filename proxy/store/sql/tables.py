"""Written by `make statements`: change `proxy/store/migrations` instead."""

#: The newest migration.
REVISION = "0006"

#: A database of that schema, but for its row in `alembic_version`.
TABLES = (
    """CREATE TABLE alembic_version (
      version_num VARCHAR(32) NOT NULL,
      CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
    )""",
    """CREATE TABLE address (
      exact TEXT NOT NULL,
      address TEXT NOT NULL,
      PRIMARY KEY (exact)
    )
     WITHOUT ROWID,
     STRICT""",
    """CREATE TABLE event (
      id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
      uid TEXT NOT NULL,
      sender TEXT NOT NULL,
      exact TEXT NOT NULL,
      wide TEXT NOT NULL,
      type TEXT NOT NULL,
      at INTEGER NOT NULL,
      recorded_at INTEGER NOT NULL,
      evidence TEXT NOT NULL,
      fields TEXT NOT NULL,
      CONSTRAINT event_uid CHECK (uid <> ''),
      UNIQUE (uid)
    )
     STRICT""",
    """CREATE INDEX ix_event_exact ON event (exact, sender)""",
    """CREATE INDEX ix_event_wide ON event (wide)""",
    """CREATE TABLE instance (
      id TEXT NOT NULL,
      epoch INTEGER NOT NULL,
      opened_at INTEGER NOT NULL,
      PRIMARY KEY (id)
    )
     WITHOUT ROWID,
     STRICT""",
    """CREATE TABLE last_marketing (
      exact TEXT NOT NULL,
      sender TEXT NOT NULL,
      at INTEGER NOT NULL,
      PRIMARY KEY (exact, sender)
    )
     WITHOUT ROWID,
     STRICT""",
    """CREATE TABLE meta (
      "key" TEXT NOT NULL,
      value TEXT NOT NULL,
      PRIMARY KEY ("key")
    )
     WITHOUT ROWID,
     STRICT""",
    """CREATE TABLE recipient (
      exact TEXT NOT NULL,
      sender TEXT NOT NULL,
      attributes TEXT NOT NULL,
      PRIMARY KEY (exact, sender)
    )
     WITHOUT ROWID,
     STRICT""",
    """CREATE TABLE submission (
      id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
      ref TEXT NOT NULL,
      received_at INTEGER NOT NULL,
      submitter TEXT NOT NULL,
      listener TEXT NOT NULL,
      mail_from TEXT NOT NULL,
      message_id TEXT NOT NULL,
      content_hash TEXT NOT NULL,
      size INTEGER NOT NULL,
      stream TEXT NOT NULL,
      sender TEXT NOT NULL,
      category TEXT NOT NULL,
      mode TEXT NOT NULL,
      class_source TEXT NOT NULL,
      campaign TEXT NOT NULL,
      variant TEXT NOT NULL,
      template TEXT NOT NULL,
      forward TEXT NOT NULL,
      marks TEXT NOT NULL
    , forward_by TEXT DEFAULT '' NOT NULL)
     STRICT""",
    """CREATE INDEX ix_submission_ref ON submission (ref)""",
    """CREATE TABLE suppression (
      id INTEGER NOT NULL,
      uid TEXT NOT NULL,
      sender TEXT NOT NULL,
      exact TEXT NOT NULL,
      wide TEXT NOT NULL,
      type TEXT NOT NULL,
      scope TEXT NOT NULL,
      topics TEXT NOT NULL,
      stream TEXT,
      via TEXT,
      at INTEGER NOT NULL,
      recorded_at INTEGER NOT NULL,
      PRIMARY KEY (id),
      UNIQUE (uid)
    )
     STRICT""",
    """CREATE INDEX ix_suppression_exact ON suppression (exact, sender)""",
    """CREATE INDEX ix_suppression_wide ON suppression (wide)""",
    """CREATE TABLE delivery (
      id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
      submission INTEGER NOT NULL,
      n INTEGER NOT NULL,
      copy INTEGER NOT NULL,
      sender TEXT NOT NULL,
      exact TEXT NOT NULL,
      wide TEXT NOT NULL,
      copy_key TEXT NOT NULL,
      marketing INTEGER NOT NULL,
      state TEXT NOT NULL,
      owed INTEGER NOT NULL,
      maybe_sent INTEGER NOT NULL,
      attempts INTEGER NOT NULL,
      instance TEXT,
      epoch INTEGER,
      last_attempt_at INTEGER,
      next_try INTEGER,
      reply TEXT NOT NULL,
      ended_at INTEGER, lease INTEGER,
      CONSTRAINT delivery_owner CHECK (state <> 'attempting' OR (attempts > 0 AND instance IS NOT NULL AND epoch IS NOT NULL)),
      CONSTRAINT delivery_state CHECK (state = 'attempting' OR state = 'relayed' OR state = 'blocked' OR state = 'waiting' OR state = 'failed' OR state = 'returned' OR state = 'unknown' OR state = 'held'),
      FOREIGN KEY(submission) REFERENCES submission (id)
    )
     STRICT""",
    """CREATE INDEX ix_delivery_attempting ON delivery (instance, epoch) WHERE state = 'attempting'""",
    """CREATE INDEX ix_delivery_submission ON delivery (submission)""",
    """CREATE TABLE decision (
      id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
      delivery INTEGER NOT NULL,
      at INTEGER NOT NULL,
      verdict TEXT NOT NULL,
      reason TEXT NOT NULL,
      cite TEXT NOT NULL,
      pack TEXT NOT NULL,
      rule TEXT NOT NULL,
      jurisdiction TEXT NOT NULL,
      basis TEXT NOT NULL,
      event TEXT NOT NULL,
      obligations TEXT NOT NULL,
      expires_at TEXT NOT NULL,
      needs_review INTEGER NOT NULL,
      facts TEXT NOT NULL,
      FOREIGN KEY(delivery) REFERENCES delivery (id)
    )
     STRICT""",
    """CREATE INDEX ix_decision_delivery ON decision (delivery)""",
    """CREATE TABLE attempt (
      delivery INTEGER NOT NULL,
      no INTEGER NOT NULL,
      decision INTEGER NOT NULL,
      instance TEXT NOT NULL,
      epoch INTEGER NOT NULL,
      committed_at INTEGER NOT NULL,
      ambiguous_retry INTEGER NOT NULL,
      PRIMARY KEY (delivery, no),
      FOREIGN KEY(decision) REFERENCES decision (id),
      FOREIGN KEY(delivery) REFERENCES delivery (id)
    )
     WITHOUT ROWID,
     STRICT""",
    """CREATE TABLE outcome (
      id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
      delivery INTEGER NOT NULL,
      attempt INTEGER NOT NULL,
      result TEXT NOT NULL,
      reply TEXT NOT NULL,
      at INTEGER NOT NULL,
      note TEXT NOT NULL,
      FOREIGN KEY(delivery, attempt) REFERENCES attempt (delivery, no)
    )
     STRICT""",
    """CREATE INDEX ix_outcome_attempt ON outcome (delivery, attempt)""",
    """CREATE TRIGGER event_no_update BEFORE UPDATE ON event BEGIN SELECT RAISE(ABORT, 'event is append-only'); END""",
    """CREATE TRIGGER event_no_delete BEFORE DELETE ON event BEGIN SELECT RAISE(ABORT, 'event is append-only'); END""",
    """CREATE TRIGGER suppression_no_update BEFORE UPDATE ON suppression BEGIN SELECT RAISE(ABORT, 'suppression is append-only'); END""",
    """CREATE TRIGGER suppression_no_delete BEFORE DELETE ON suppression BEGIN SELECT RAISE(ABORT, 'suppression is append-only'); END""",
    """CREATE TRIGGER submission_no_update BEFORE UPDATE ON submission BEGIN SELECT RAISE(ABORT, 'submission is append-only'); END""",
    """CREATE TRIGGER submission_no_delete BEFORE DELETE ON submission BEGIN SELECT RAISE(ABORT, 'submission is append-only'); END""",
    """CREATE TRIGGER decision_no_update BEFORE UPDATE ON decision BEGIN SELECT RAISE(ABORT, 'decision is append-only'); END""",
    """CREATE TRIGGER decision_no_delete BEFORE DELETE ON decision BEGIN SELECT RAISE(ABORT, 'decision is append-only'); END""",
    """CREATE TRIGGER attempt_no_update BEFORE UPDATE ON attempt BEGIN SELECT RAISE(ABORT, 'attempt is append-only'); END""",
    """CREATE TRIGGER attempt_no_delete BEFORE DELETE ON attempt BEGIN SELECT RAISE(ABORT, 'attempt is append-only'); END""",
    """CREATE TRIGGER outcome_no_update BEFORE UPDATE ON outcome BEGIN SELECT RAISE(ABORT, 'outcome is append-only'); END""",
    """CREATE TRIGGER outcome_no_delete BEFORE DELETE ON outcome BEGIN SELECT RAISE(ABORT, 'outcome is append-only'); END""",
    """CREATE TRIGGER delivery_no_delete BEFORE DELETE ON delivery BEGIN SELECT RAISE(ABORT, 'delivery is never deleted'); END""",
    """CREATE TRIGGER delivery_identity BEFORE UPDATE OF id, submission, n, copy, sender, exact, wide, copy_key, marketing ON delivery BEGIN SELECT RAISE(ABORT, 'a delivery keeps its identity'); END""",
    """CREATE TRIGGER delivery_relayed BEFORE UPDATE OF state ON delivery WHEN OLD.state = 'relayed' AND NEW.state <> 'relayed' BEGIN SELECT RAISE(ABORT, 'relayed is final'); END""",
    """CREATE TRIGGER delivery_maybe_sent BEFORE UPDATE OF maybe_sent ON delivery WHEN OLD.maybe_sent > NEW.maybe_sent BEGIN SELECT RAISE(ABORT, 'maybe_sent is never cleared'); END""",
    """CREATE INDEX ix_delivery_person ON delivery (wide, last_attempt_at) WHERE marketing = 1 AND last_attempt_at IS NOT NULL""",
    """CREATE TABLE body (
      submission INTEGER NOT NULL,
      envelope TEXT NOT NULL,
      content BLOB NOT NULL,
      PRIMARY KEY (submission),
      FOREIGN KEY(submission) REFERENCES submission (id)
    )
     STRICT""",
    """CREATE TABLE notice (
      copy_key TEXT NOT NULL,
      state TEXT NOT NULL,
      at INTEGER NOT NULL,
      PRIMARY KEY (copy_key, state)
    )
     WITHOUT ROWID,
     STRICT""",
    """CREATE TABLE forward (
      id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
      submission INTEGER NOT NULL,
      copy INTEGER NOT NULL,
      asked_at INTEGER NOT NULL,
      state TEXT NOT NULL,
      attempts INTEGER NOT NULL,
      next_try INTEGER,
      answer TEXT NOT NULL,
      ended_at INTEGER,
      CONSTRAINT forward_state CHECK (state IN ('waiting', 'passed', 'refused', 'expired', 'dropped')),
      FOREIGN KEY(submission) REFERENCES submission (id)
    )
     STRICT""",
    """CREATE UNIQUE INDEX ux_forward_copy ON forward (submission, copy)""",
    """CREATE INDEX ix_forward_due ON forward (next_try) WHERE state = 'waiting'""",
    """CREATE INDEX ix_delivery_due ON delivery (next_try) WHERE state IN ('waiting', 'held')""",
    """CREATE INDEX ix_delivery_copy ON delivery (exact, copy_key)""",
    """CREATE UNIQUE INDEX ux_delivery_live ON delivery (copy_key) WHERE state = 'attempting' OR state = 'waiting' OR state = 'held'""",
)
