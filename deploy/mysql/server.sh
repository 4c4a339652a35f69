# shellcheck shell=bash
# Sourced by setup.sh: a server on this machine, installed, started and restarted.
# shellcheck disable=SC2034,SC2154 # setup.sh uses what is set here, and the other way round

find_programs() {
  client=$(command -v mariadb || command -v mysql || true)
  # mysqld may be of either kind; mariadbd is MariaDB's own name for it.
  program=$(command -v mysqld || command -v mariadbd || true)
  tls=(--ssl)
  [ -z "$client" ] || "$client" --version | grep -q MariaDB || tls=(--ssl-mode=REQUIRED)
}

is_mariadb() { "$program" --version | grep -q MariaDB; }

# The kind that the distribution itself maintains. Ubuntu's AppArmor keeps MySQL to /var/lib/mysql,
# so that a private server is MariaDB there too.
install_server() {
  local title=MariaDB kind=mariadb
  [ -z "$program" ] || [ -z "$client" ] || return 0
  command -v apt-get >/dev/null || die "no server is here: install mariadb-server or mysql-server"
  [ -n "$datadir" ] || ! grep -qx 'ID=ubuntu' /etc/os-release || title=MySQL kind=mysql
  say "Installing $title ..."
  apt-get -qq update >/dev/null || true # one source may be away; the next command needs its own
  DEBIAN_FRONTEND=noninteractive apt-get -qq -y install $kind-server $kind-client openssl \
    >/dev/null || die "apt-get could not install $kind-server: its message is above"
  find_programs
  changed "Installed $title."
}

make_datadir() {
  [ ! -e "$datadir/mysql" ] || return 0
  install -d -o mysql -g mysql -m 750 "$datadir"
  runuser -u mysql -- test -w "$datadir" ||
    die "the account mysql cannot reach $datadir: choose a --datadir that it can enter"
  local output made=yes make=(runuser -u mysql --) # root would change the installed files too
  if is_mariadb; then
    make+=(mariadb-install-db --no-defaults --skip-test-db
      --auth-root-authentication-method=socket --auth-root-socket-user=root)
  else
    make+=("$program" --no-defaults --initialize-insecure)
    made=insecure
  fi
  output=$("${make[@]}" --datadir="$datadir" 2>&1) ||
    die "could not make the data directory: $(tail -n 5 <<<"$output")"
  if [ "$made" = insecure ]; then
    # So far root has no password: before it serves anybody, the server ties root to root.
    printf '%s\n' "INSTALL PLUGIN auth_socket SONAME 'auth_socket.so';" \
      "ALTER USER root@localhost IDENTIFIED WITH auth_socket;" >"$datadir/init.sql"
    first_start=(--init-file="$datadir/init.sql")
  fi
  changed "Made the data directory $datadir."
}

# Prints the name of the machine's service for the server, where systemd runs.
service() {
  local unit
  [ -z "$datadir" ] && [ -d /run/systemd/system ] || return 0
  for unit in mariadb mysql mysqld; do
    if systemctl cat "$unit" >/dev/null 2>&1; then
      echo "$unit"
      return
    fi
  done
}

start_server() {
  local unit
  unit=$(service)
  if [ -n "$unit" ]; then
    systemctl enable --quiet --now "$unit" ||
      die "systemctl could not start $unit: its message is above"
    changed "Started the server ($unit.service)."
  else
    id mysql >/dev/null 2>&1 || die "no account mysql to run the server: install mariadb-server"
    start_process || die "the server did not start: $problem"
    changed "Started the server; to stop it: kill \$(cat $pid_file)"
  fi
  running=yes
}

# Sets $problem where it fails.
start_process() {
  local start=("$program") log=$run/optuna-spark.log pid
  if [ -n "$datadir" ]; then
    start+=(--defaults-file="$settings" --datadir="$datadir" --socket="$datadir/mysqld.sock"
      --loose-mysqlx=OFF "${first_start[@]}")
  else
    install -d -o mysql -g root -m 755 "$run"
    [ -z "$port" ] || start+=(--port="$port")
  fi
  setsid "${start[@]}" --user=mysql --pid-file="$pid_file" >>"$log" 2>&1 </dev/null &
  pid=$!
  for _ in $(seq 300); do
    if sql <<<'SELECT 1' >/dev/null 2>&1; then
      first_start=()
      return
    fi
    if ! kill -0 "$pid" 2>/dev/null; then
      problem=$(tail -n 5 "$log")
      return 1
    fi
    sleep 0.2
  done
  kill "$pid"
  problem="no answer within a minute, see $log"
  return 1
}

# Whether systemd runs the server, or a call of this script has started it.
can_restart() {
  unit_to_restart=$(service)
  if [ -n "$unit_to_restart" ] && ! systemctl is-active --quiet "$unit_to_restart"; then
    unit_to_restart=''
  fi
  [ -n "$unit_to_restart" ] || [ "$(query 'SELECT @@pid_file')" = "$pid_file" ]
}

# After can_restart. Sets $problem where it fails.
restart_server() {
  local pid
  if [ -n "$unit_to_restart" ]; then
    problem="see journalctl --unit $unit_to_restart"
    systemctl restart "$unit_to_restart"
    return
  fi
  if [ -e "$pid_file" ]; then
    pid=$(<"$pid_file")
    kill "$pid" 2>/dev/null || true
    # Nobody may wait for it, and then its number stays; a program it has no longer.
    for _ in $(seq 1500); do
      readlink "/proc/$pid/exe" >/dev/null || break
      sleep 0.2
    done
    rm -f "$pid_file"
  fi
  start_process
}

use_local_server() {
  local answer given=$port
  [ "${#datadir}" -lt 90 ] || die "--datadir: choose a shorter path, a socket has to fit in it"
  install_server
  admin=("$client" --protocol=socket --host=localhost --user=root)
  [ -z "$datadir" ] || admin=("$client" --no-defaults --socket="$datadir/mysqld.sock" --user=root)
  run=${datadir:-/run/mysqld}
  pid_file=$run/optuna-spark.pid
  find_settings_file
  if answer=$(sql <<<'SELECT 1' 2>&1); then
    running=yes
  else
    [[ $answer == *"ERROR 2002"* ]] ||
      die "root cannot log in over the socket: give --admin-option-file instead ($answer)"
    if [ -n "$datadir" ]; then
      make_datadir
      [ -n "$port" ] || port=$(in_file port)
      port=${port:-3306}
      write_settings
    fi
    start_server
  fi
  port=$(query 'SELECT @@port')
  [ "$(query 'SELECT @@skip_networking')" = 0 ] ||
    die "the server takes no TCP connections: remove skip-networking from its configuration"
  [ -z "$given" ] || [ "$given" = "$port" ] ||
    die "the server listens on port $port: leave out --port $given"
  write_settings
}
