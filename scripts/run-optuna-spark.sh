#!/usr/bin/env bash
# Tunes an objective on Spark; with no argument the bundled example, on this machine.
#
#   run-optuna-spark.sh [FILE.py:OBJECTIVE [OPTION ...]]      (--help lists the options)
#
# SPARK_MASTER         where to run; default local[*]
# SPARK_SUBMIT_ARGS    further options for spark-submit
# OPTUNA_STORAGE       the study's database; default an SQLite file
# OPTUNA_SPARK_ARCHIVE a packed environment for executors; default: this one, packed when needed
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common.sh"

take_storage "$@" # first, because the rest may take minutes
have_packages pymysql,pack,examples

case ${arguments[0]:-} in
  "" | -*)
    defaults=("$root/examples/quickstart.py:objective" --study-name quickstart)
    case " ${arguments[*]:-} " in
      *" --n-trials"* | *" --total-trials"* | *" --timeout"*) ;;
      *) defaults+=(--n-trials 20) ;;
    esac
    case " ${arguments[*]:-} " in
      *" --report"*) ;;
      *) defaults+=(--report "$root/quickstart.html") ;;
    esac
    arguments=("${defaults[@]}" ${arguments[@]+"${arguments[@]}"})
    export OPTUNA_STORAGE=${OPTUNA_STORAGE:-sqlite:///$root/quickstart.db}
    ;;
esac

have_spark
exec "$python" -m optuna_spark optimize "${arguments[@]}"
