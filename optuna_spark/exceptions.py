"""Every error that optuna-spark raises on purpose, as a tree.

::

    OptunaSparkError
    ├── UsageError                 (ValueError)       an argument that cannot be right
    ├── ObjectiveError                                the objective itself
    │   ├── ObjectiveNotFound      (LookupError)
    │   ├── ObjectiveNotCallable   (TypeError)
    │   └── ObjectiveNotPicklable  (TypeError)
    ├── StorageError                                  the study's database
    │   ├── StorageUrlError        (ValueError)
    │   ├── StorageDriverMissing   (ImportError)
    │   ├── StorageUnreachable     (ConnectionError)
    │   ├── StorageAccessDenied    (PermissionError)
    │   ├── StorageEncryptionError (ConnectionError)
    │   ├── DatabaseNotFound       (LookupError)
    │   ├── SchemaVersionMismatch  (RuntimeError)
    │   └── StorageNotShared       (ValueError)
    ├── StudyError                                    the study in that database
    │   ├── StudyNotFound          (KeyError)
    │   ├── StudyExists            (optuna.exceptions.DuplicatedStudyError)
    │   └── StudyDirectionMismatch (ValueError)
    ├── SparkError                 (RuntimeError)     Spark, Java and the executors
    │   ├── SparkUnavailable
    │   ├── ExecutorEnvironmentError
    │   └── NotEnoughResources
    ├── PackingError               (RuntimeError)     `optuna-spark pack`
    └── ReportError                (OSError)          `optuna-spark report`

Each is also the builtin, or Optuna's own class, that code written for Optuna already catches.
A message is one sentence that names the thing and the remedy.
"""

from __future__ import annotations

import optuna

SHIP = (
    "ship the driver's environment, which scripts/run-optuna-spark.sh does (`optuna-spark pack`)"
)


class OptunaSparkError(Exception):
    """Base of all errors that optuna-spark raises on purpose."""

    def __str__(self) -> str:
        # KeyError would print its argument quoted.
        return str(self.args[0]) if self.args else ""


class UsageError(OptunaSparkError, ValueError):
    """An argument has a value that cannot be right: correct it."""


class ObjectiveError(OptunaSparkError):
    """The objective cannot be run on executors."""


class ObjectiveNotFound(ObjectiveError, LookupError):
    """The file, module or name of the objective does not exist: correct `FILE.py:NAME`."""


class ObjectiveNotCallable(ObjectiveError, TypeError):
    """The objective is not a function of a trial: name one."""


class ObjectiveNotPicklable(ObjectiveError, TypeError):
    """Something that the objective captures cannot be sent: create it inside the objective."""


class StorageError(OptunaSparkError):
    """The study's database cannot be used."""


class StorageUrlError(StorageError, ValueError):
    """The storage URL cannot be read: write `mysql://user@host/database`."""


class StorageDriverMissing(StorageError, ImportError):
    """The Python package that talks to this database is not installed: install it."""


class StorageUnreachable(StorageError, ConnectionError):
    """Nothing answers at the database's address: start it, or correct host and port."""


class StorageAccessDenied(StorageError, PermissionError):
    """The database refuses the user: correct the password, or grant the rights."""


class StorageEncryptionError(StorageError, ConnectionError):
    """The server offers no TLS, or its certificate does not hold: correct it, or `ssl_mode`."""


class DatabaseNotFound(StorageError, LookupError):
    """The server has no such database: create it, `deploy/mysql/setup.sh` does."""


class SchemaVersionMismatch(StorageError, RuntimeError):
    """Another version of Optuna made the tables: upgrade them, or install that version."""


class StorageNotShared(StorageError, ValueError):
    """The executors cannot reach this storage: use a MySQL that every host reaches."""


class StudyError(OptunaSparkError):
    """The study cannot be used."""


class StudyNotFound(StudyError, KeyError):
    """The storage holds no study of that name: create it, or correct the name."""


class StudyExists(StudyError, optuna.exceptions.DuplicatedStudyError):
    """A study of that name exists: load it, or take another name."""


class StudyDirectionMismatch(StudyError, ValueError):
    """The existing study has other directions: leave them out, or take another name."""


class SparkError(OptunaSparkError, RuntimeError):
    """Spark cannot run the trials."""


class SparkUnavailable(SparkError):
    """No Spark session can be had: install Java 17+, or correct the master."""


class ExecutorEnvironmentError(SparkError):
    """Executors run another environment than the driver: ship it with `optuna-spark pack`."""


class NotEnoughResources(SparkError):
    """No executor is large enough for one trial: ask for less, or start larger executors."""


class PackingError(OptunaSparkError, RuntimeError):
    """The environment cannot be packed."""


class ReportError(OptunaSparkError, OSError):
    """The report cannot be written: free space, or name another file."""
