"""Who is measured: a script each, run as a process in an environment of its own."""

from __future__ import annotations

from dataclasses import dataclass

OURS, BARE = "optuna-spark", "optuna"

_CLIENT = "PyMySQL[rsa]"  # the same client of the database for all


@dataclass(frozen=True)
class Contender:
    """One way to run a study in parallel."""

    name: str  # of its environment
    title: str
    module: str  # in this package
    packages: tuple[str, ...]  # what its environment holds; none: the project's own
    database: bool = True  # keeps its trials in MySQL
    slow: bool = False  # gets fewer trials where trials per second are measured


CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender(OURS, "optuna-spark", "spark_study", ()),
        Contender(BARE, "bare Optuna", "bare_optuna", ("optuna", _CLIENT)),
        Contender(
            "joblibspark",
            "joblibspark recipe",
            "joblib_recipe",
            ("optuna", "joblibspark", "pyspark", "setuptools", _CLIENT),
        ),
        Contender(
            "mlflow",
            "MLflow MlflowSparkStudy",
            "mlflow_study",
            ("optuna", "mlflow", "pyspark", _CLIENT),
            slow=True,
        ),
        Contender(
            "hyperopt",
            "Hyperopt SparkTrials",
            "hyperopt_trials",
            ("hyperopt", "pyspark", "setuptools"),
            database=False,
            slow=True,
        ),
        Contender(
            "ray",
            "Ray Tune OptunaSearch",
            "ray_tune",
            ("ray[tune]", "optuna", _CLIENT),
            slow=True,
        ),
    )
}
