#!/usr/bin/env bash
# Tunes XGBoost on Spark, for a CSV file or data that ships with a package.
#
#   run-optuna-spark-xgboost.sh [--data FILE.csv] [OPTION ...]      (--help lists the options)
#
# SPARK_MASTER, SPARK_SUBMIT_ARGS, OPTUNA_STORAGE and OPTUNA_SPARK_ARCHIVE as in
# run-optuna-spark.sh.
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common.sh"

take_storage "$@" # first, because the rest may take minutes
have_packages pymysql,pack,examples

have_spark
exec "$python" "$root/examples/xgboost/tune_xgboost.py" ${arguments[@]+"${arguments[@]}"}
