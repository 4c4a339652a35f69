"""`SparkStudy`, and how to create and load one."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial
from pyspark.sql import SparkSession

from optuna_spark.addresses import check_shared, find_address
from optuna_spark.backend import SparkBackend
from optuna_spark.exceptions import StudyDirectionMismatch, StudyExists, StudyNotFound, UsageError
from optuna_spark.liveness import Pulse
from optuna_spark.objectives import check_callable, pickle_objective
from optuna_spark.runner import Runner
from optuna_spark.session import find_session, grows, remote_hosts
from optuna_spark.settings import Limits, StorageAddress, storage_grace
from optuna_spark.storage import (
    enough_connections,
    is_patient,
    open_storage,
    study_snapshot,
)
from optuna_spark.storage_errors import translated_errors
from optuna_spark.trial_task import Run, current_study, package_versions

Objective = Callable[[Trial], "float | Sequence[float]"]


class SparkStudy(optuna.Study):
    """An Optuna study whose `optimize` runs the trials on a Spark cluster.

    Use `create_study` or `load_study` to get one. All else is `optuna.Study`'s.

    Args:
        study_name: The study's name in the storage.
        storage: A URL, or a storage that Optuna made from one.
        sampler: As for `optuna.Study`.
        pruner: As for `optuna.Study`.
        spark: The session to run on; None for the active one, or a new one at `optimize`.
    """

    def __init__(
        self,
        study_name: str,
        storage: str | BaseStorage | None,
        sampler: BaseSampler | None = None,
        pruner: BasePruner | None = None,
        *,
        spark: SparkSession | None = None,
    ) -> None:
        self._address = find_address(storage)
        opened = storage
        if not isinstance(opened, BaseStorage) or not is_patient(opened):
            opened = open_storage(self._address, create_schema=True)
        super().__init__(study_name, opened, sampler, pruner)
        self._spark = spark
        self._runner: Runner | None = None
        # Where runs of n_jobs=1 left a sampler, the user's own object being as it was.
        self._sequence: tuple[BaseSampler, bytes] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy in another process opens the storage anew; on an executor it is the study that
        # runs there. A session and a run stay where they are.
        return _restore, (self._address, self.study_name, self.sampler, self.pruner)

    @property
    def address(self) -> str:
        """The storage's URL, the password masked."""
        known = isinstance(self._address, StorageAddress)
        return str(self._address) if known else type(self._address).__name__

    def optimize(
        self,
        func: Objective,
        n_trials: int | None = None,
        timeout: float | None = None,
        n_jobs: int = -1,
        catch: Iterable[type[BaseException]] | type[BaseException] = (),
        callbacks: Iterable[Callable[[optuna.Study, FrozenTrial], None]] | None = None,
        gc_after_trial: bool = False,
        show_progress_bar: bool = False,
        *,
        total_trials: int | None = None,
        trial_timeout: float | None = None,
        max_retries: int = 3,
    ) -> None:
        """Run trials on the cluster.

        The parameters of `optuna.Study.optimize` mean what they mean there.

        Args:
            func: The objective. It is pickled, and runs in executors' Python processes.
            n_trials: New trials that this call finishes over the whole cluster, exactly. None for
                no limit.
            timeout: Seconds for the call; trials that run then are stopped and recorded FAIL.
            n_jobs: Cap on concurrent trials; -1 for every task slot.
            catch: Exceptions of the objective that fail the trial and do not end the run.
            callbacks: Called on the driver with the study and the trial, as trials end.
            gc_after_trial: Collect garbage on the executor after each trial.
            show_progress_bar: Show finished, running and failed trials and the best value.
            total_trials: Stop once the study holds so many finished trials: the same command run
                again finishes the rest. Not together with `n_trials`.
            trial_timeout: Seconds for one trial: one that takes longer is stopped, even in native
                code, and recorded FAIL. What it waits for the database does not count.
            max_retries: How often a trial whose process was lost starts again.

        Raises:
            UsageError: an argument cannot be right.
            ObjectiveError: the objective cannot be sent to executors.
            StorageNotShared: executors cannot reach the storage.
            SparkError: Spark cannot be had, or loses executors before they begin a trial.
            Exception: what the objective raised and `catch` does not cover, of its own type.

        Example:
            >>> study.optimize(objective, n_trials=500, timeout=3600)  # doctest: +SKIP
        """
        if self._runner is not None:
            raise RuntimeError("Nested invocation of `Study.optimize` method isn't allowed.")
        limits = Limits(n_trials, total_trials, n_jobs, timeout, trial_timeout, max_retries)
        check_callable(func)
        run_id = uuid.uuid4().hex[:12]
        caught = tuple(catch) if isinstance(catch, Iterable) else (catch,)
        body = pickle_objective((func, self.sampler, self.pruner, caught), func)
        with contextlib.ExitStack() as stack:
            with translated_errors(self._address):
                # One who may only read is told so before Spark starts.
                stack.enter_context(Pulse(self._storage, self._study_id, run_id))
            session = find_session(self._spark)
            check_shared(self._address, remote_hosts(session))
            backend = SparkBackend(session, f"optuna-spark-{run_id}")
            slots = backend.slots() if n_jobs == -1 else n_jobs
            context = session.sparkContext
            run = Run(
                run_id=run_id,
                address=self._address,
                study_name=self.study_name,
                body=body,
                snapshot=study_snapshot(self._storage, self._study_id),
                gc_after_trial=gc_after_trial,
                max_retries=max_retries,
                reseed=n_jobs != 1,
                storage_grace=storage_grace(),
                keep_connections=enough_connections(self._storage, slots),
                application=context.applicationId,
                versions=package_versions(),
            )
            self._runner = Runner(
                self,
                self._study_id,
                self._storage,
                backend,
                context.broadcast(run),
                run_id,
                limits,
                callbacks or (),
                grows=grows(session),
                show_progress_bar=show_progress_bar,
            )
            sampler = self.sampler
            if n_jobs == 1 and self._sequence is not None and self._sequence[0] is sampler:
                self._runner.sampler_state = self._sequence[1]
            try:
                self._runner.run()
            finally:
                if self._runner.sampler_state is not None:
                    self._sequence = sampler, self._runner.sampler_state
                self._runner = None

    def stop(self) -> None:
        """End the `optimize` call that runs: what runs is stopped and recorded FAIL.

        Raises:
            RuntimeError: none runs, as with `optuna.Study.stop`.
        """
        if self._runner is None:
            raise RuntimeError(
                "`Study.stop` is supposed to be invoked inside an objective function or a "
                "callback."
            )
        self._runner.stop("study.stop() was called")


def create_study(
    *,
    storage: str | BaseStorage | None = None,
    sampler: BaseSampler | None = None,
    pruner: BasePruner | None = None,
    study_name: str | None = None,
    direction: str | StudyDirection | None = None,
    load_if_exists: bool = False,
    directions: Sequence[str | StudyDirection] | None = None,
    spark: SparkSession | None = None,
) -> SparkStudy:
    """Create a study that runs on Spark.

    Takes what `optuna.create_study` takes.

    Args:
        storage: A database URL; None for `OPTUNA_STORAGE`, or an SQLite file in the working
            directory where that is unset.
        sampler: As in Optuna.
        pruner: As in Optuna.
        study_name: A name that is new in the storage; None for a generated one.
        direction: `minimize` (the default) or `maximize`.
        load_if_exists: Load the study of that name where there is one.
        directions: One for each objective.
        spark: The Spark session to run on; None for the active one, or a new one.

    Raises:
        StudyExists: the name is taken, and `load_if_exists` is False.
        StudyDirectionMismatch: the existing study has other directions.
        StorageError: the storage cannot be used.

    Example:
        >>> study = create_study(study_name="wine", direction="maximize")  # doctest: +SKIP
    """
    address = find_address(storage)
    opened = open_storage(address, create_schema=True)
    with translated_errors(address):
        try:
            made = optuna.create_study(
                storage=opened,
                study_name=study_name,
                direction=direction,  # type: ignore[arg-type]
                directions=directions,  # type: ignore[arg-type]
                load_if_exists=load_if_exists,
            )
        except optuna.exceptions.DuplicatedStudyError:
            raise StudyExists(
                f"A study named {study_name!r} exists in this storage: load it "
                "(`load_if_exists=True`, or `load_study`), or take another name."
            ) from None
        except ValueError as error:
            raise UsageError(str(error)) from None
    study = SparkStudy(made.study_name, opened, sampler, pruner, spark=spark)
    asked = directions or ([direction] if direction is not None else None)
    _check_directions(study, asked)
    return study


def load_study(
    *,
    study_name: str | None,
    storage: str | BaseStorage | None = None,
    sampler: BaseSampler | None = None,
    pruner: BasePruner | None = None,
    spark: SparkSession | None = None,
) -> SparkStudy:
    """Load a study that runs on Spark.

    Args:
        study_name: The study's name; None where the storage holds one study alone.
        storage: As for `create_study`.
        sampler: As in Optuna.
        pruner: As in Optuna.
        spark: As for `create_study`.

    Raises:
        StudyNotFound: the storage holds no study of that name.
        StorageError: the storage cannot be used.

    Example:
        >>> load_study(study_name="wine").best_params  # doctest: +SKIP
        {'x': 0.5}
    """
    address = find_address(storage)
    opened = open_storage(address, create_schema=True)
    if study_name is None:
        names = optuna.get_all_study_names(opened)
        if len(names) != 1:
            raise UsageError(
                f"`study_name` is not given, and the storage holds {len(names)} studies: name one."
            )
        study_name = names[0]
    try:
        return SparkStudy(study_name, opened, sampler, pruner, spark=spark)
    except KeyError:
        shown = address if isinstance(address, StorageAddress) else "the storage"
        raise StudyNotFound(
            f"There is no study named {study_name!r} in {shown}: create it with "
            "`optuna create-study` or `create_study`, or correct the name."
        ) from None


def _check_directions(
    study: SparkStudy, asked: Sequence[str | StudyDirection | None] | None
) -> None:
    if asked is None:
        return
    names = [getattr(direction, "name", str(direction)).lower() for direction in asked]
    held = [direction.name.lower() for direction in study.directions]
    if names != held:
        raise StudyDirectionMismatch(
            f"The study {study.study_name!r} is to {' and '.join(held)}, not to "
            f"{' and '.join(names)}: leave the direction out, or take another name."
        )


def _restore(
    address: StorageAddress | BaseStorage,
    study_name: str,
    sampler: BaseSampler,
    pruner: BasePruner,
) -> optuna.Study:
    study = current_study(address, study_name)
    if study is not None:
        return study
    storage = open_storage(address, create_schema=False)
    return SparkStudy(study_name, storage, sampler, pruner)
