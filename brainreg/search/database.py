"""The study's database: SQLite beside the results, or another server."""

import contextlib
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
import sqlalchemy

from brainreg._utils.paths import expand_home
from brainreg._utils.timeouts import call_with_timeout
from brainreg.errors import InputError, first_line
from brainreg.storage import PATIENCE, StorageError

# A server that falls silent in the middle of a question is given up after some 30 s, not after many minutes (libpq).
_NOTICE_SILENCE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 4, "tcp_user_timeout": 30_000}

# Another program may hold a SQLite file locked so long, in seconds: a browser with an open transaction, a backup.
_LOCKED = 60.0


def open_database(url: str, durable: bool = True) -> optuna.storages.RDBStorage:
    """Open the database of a study.

    Args:
        url: as SQLAlchemy writes it.
        durable: whether SQLite waits for the disk at each commit, some 0.01 s, of which a trial has a dozen. Without,
            nothing is lost when processes are killed, but a power cut may damage the file.

    Raises:
        InputError: the address is none, or nothing answers there.
    """
    parsed, shown, options, patience = _checked(url)
    if not durable and parsed.get_backend_name() == "sqlite":
        options["pool_events"] = [(_do_not_wait, "connect")]
    address = parsed.render_as_string(hide_password=False)
    with _errors_named(shown):
        return call_with_timeout(patience, lambda: optuna.storages.RDBStorage(address, engine_kwargs=options))


def studies_of(url: str) -> set[str]:
    """Return the names of the studies in a database, in which nothing is made or changed.

    Raises:
        InputError: as `open_database`.
    """
    parsed, shown, options, patience = _checked(url)
    if parsed.get_backend_name() == "sqlite":
        if parsed.database in (None, "", ":memory:"):
            return set()
        parsed = parsed.set(
            database=f"file:{quote(parsed.database or '')}", query={**parsed.query, "mode": "ro", "uri": "true"}
        )

    def names() -> set[str]:
        with sqlalchemy.create_engine(parsed, poolclass=sqlalchemy.NullPool, **options).connect() as connection:
            if not sqlalchemy.inspect(connection).has_table("studies"):
                return set()
            return {*connection.execute(sqlalchemy.text("SELECT study_name FROM studies")).scalars()}

    with _errors_named(shown):
        return call_with_timeout(patience, names)


def _checked(url: str) -> tuple[sqlalchemy.URL, str, dict[str, Any], float]:
    """Return an address, how it is shown, the options of its engine, and the seconds that it is waited for."""
    try:
        parsed = sqlalchemy.make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError) as error:  # ValueError: a port that is no number
        shown = re.sub(r":[^/@]*@", ":***@", url)
        raise InputError(f"--study={shown}: {_ADDRESS}") from error
    shown = parsed.render_as_string(hide_password=True)
    if "password" in parsed.query:
        shown = parsed.difference_update_query(["password"]).render_as_string(hide_password=True)
        raise InputError(f"--study={shown}: a password stands before the host, USER:PASSWORD@HOST")
    if parsed.get_backend_name() == "sqlite" and (parsed.database or "").startswith("~"):
        parsed = parsed.set(database=expand_home(parsed.database or ""))
    options: dict[str, Any] = {"connect_args": {"timeout": _LOCKED}}
    patience = PATIENCE + _LOCKED
    if parsed.get_backend_name() != "sqlite":
        # The server may be started anew between two questions.
        options = {"connect_args": {"connect_timeout": int(PATIENCE) // 2}, "pool_pre_ping": True}
        patience = PATIENCE
    if parsed.get_backend_name() == "postgresql":
        options["connect_args"] |= _NOTICE_SILENCE
    return parsed, shown, options, patience


@contextlib.contextmanager
def _errors_named(shown: str) -> Iterator[None]:
    """Turn what goes wrong with a database into one line that names its address."""
    try:
        yield
    except ImportError as error:
        raise InputError(
            f"--study={shown}: its driver is not installed; for postgresql+psycopg://, `pip install"
            " 'brainreg[postgresql]'`"
        ) from error
    except sqlalchemy.exc.ArgumentError as error:
        raise InputError(f"--study={shown}: {_ADDRESS}") from error
    except (OSError, sqlalchemy.exc.SQLAlchemyError, RuntimeError) as error:
        raise InputError(f"--study={shown}: no database answers there ({_first_line(error)})") from error


def file_to_make(url: str) -> Path | None:
    """Return the file that opening a SQLite database would make; None where it is there, or is none."""
    try:
        parsed = sqlalchemy.make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError):  # `open_database` says so
        return None
    if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
        return None
    path = Path(expand_home(parsed.database))
    return None if path.exists() else path


def _do_not_wait(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA synchronous=OFF")  # write-ahead logging is as fast, but not to be had on NFS


def set_aside_if_damaged(url: str) -> str | None:
    """Rename the file of a SQLite database that cannot be read, and return its new path; None where it is whole.

    Raises:
        StorageError: it cannot be renamed.
    """
    path = Path(sqlalchemy.make_url(url).database or "")
    if not path.exists():
        return None
    try:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            if connection.execute("PRAGMA integrity_check").fetchone() == ("ok",):
                return None
    except sqlite3.OperationalError:  # no access, or locked: another matter, that who opens it will name
        return None
    except sqlite3.DatabaseError:
        pass
    aside = path.with_name(f"{path.name}.damaged")
    try:
        path.replace(aside)
        path.with_name(f"{path.name}-journal").unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"{path}: damaged, and cannot be set aside ({error.strerror})") from error
    return str(aside)


_ADDRESS = "must be an address such as postgresql+psycopg://USER@HOST/DATABASE"


def _first_line(error: BaseException) -> str:
    cause = getattr(error, "orig", None) or error
    return first_line(cause)
