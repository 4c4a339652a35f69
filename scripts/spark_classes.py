"""What a run has Spark's JVM load, for the archive of its classes that `have_classes` makes."""

from pyspark import SparkContext
from pyspark.sql import SparkSession

from optuna_spark.session import find_session


def use(spark: SparkSession) -> None:
    """Run jobs like those of a study."""
    context: SparkContext = spark.sparkContext
    context.addJobTag("optuna-spark")
    payload = context.broadcast(bytes(1_000_000))
    for _ in range(2):
        context.parallelize([0], 1).map(lambda _: len(payload.value)).collect()
    context._jsc.sc().statusTracker().getExecutorInfos()
    payload.destroy()


if __name__ == "__main__":
    session = find_session()
    use(session)
    session.stop()
