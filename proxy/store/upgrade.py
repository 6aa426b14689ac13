"""Bring an older database to the schema of this code with Alembic: `python -m proxy.store.upgrade`.

A process of its own, which `migrate.py` starts when there is something to do: Alembic and
SQLAlchemy are 25 MB, and what serves would keep them.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import StaticPool

from proxy.errors import StoreError, StoreMissing, StoreUnavailable
from proxy.store.connection import trouble

_MIGRATIONS = Path(__file__).parent / "migrations"


def upgrade(db: sqlite3.Connection, current: str | None) -> None:
    """Run the migrations after `current` in one transaction; an interrupted one leaves nothing.

    Raises `StoreMissing` for a revision that this version does not know.
    """
    made = config()
    if current is not None:
        scripts = ScriptDirectory.from_config(made)
        if current not in {script.revision for script in scripts.walk_revisions()}:
            raise StoreMissing(
                f"it was written by a newer version of Sluis (schema {current}, this one knows up"
                f" to {scripts.get_current_head()}): install that version"
            )
    engine = create_engine("sqlite://", creator=lambda: db, poolclass=StaticPool)

    # The driver would not open a transaction for DDL: open one ourselves, with the write lock.
    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    with engine.connect() as connection:
        made.attributes["connection"] = connection
        command.upgrade(made, "head")
        connection.commit()


def config() -> Config:
    """Alembic's configuration, without a file."""
    made = Config()
    made.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    made.set_main_option("path_separator", "os")
    return made


def main(path: Path) -> int:
    """Upgrade the database at `path`; 1 after an error, of which stdout has class and words."""
    # Not at the top: it reads the tables that `statements/write.py` makes by `upgrade`.
    from proxy.store.migrate import connect, revision

    try:
        with closing(connect(path)) as db:
            upgrade(db, revision(db, path))
    except Exception as error:
        cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
        found: StoreError = trouble(cause) or StoreUnavailable(str(cause))
        sys.stdout.write(json.dumps([type(found).__name__, str(found)]))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
