"""Optuna studies on an Apache Spark cluster.

Example:
    >>> import optuna_spark
    >>> study = optuna_spark.create_study(study_name="wine")  # doctest: +SKIP
    >>> study.optimize(objective, n_trials=500)  # doctest: +SKIP
"""

from optuna_spark.exceptions import OptunaSparkError

try:
    from optuna_spark.study import SparkStudy, create_study, load_study
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("pyspark", "py4j"):
        raise
    raise ModuleNotFoundError(
        f"Spark's Python package is not installed ({error}): `pip install pyspark`, or start "
        "through spark-submit.",
        name=error.name,
    ) from None

__all__ = ["OptunaSparkError", "SparkStudy", "create_study", "load_study"]
__version__ = "0.1.0"
