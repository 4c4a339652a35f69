#!/usr/bin/env bash
# Prepares a MySQL or MariaDB server for optuna-spark; --help says how, README.md why.
set -euo pipefail

# What Optuna needs, in the order in which both servers print it. README.md says what for.
RIGHTS="SELECT, INSERT, UPDATE, DELETE, CREATE, REFERENCES, INDEX, ALTER"
COLLATION=utf8mb4_bin # the case-sensitive one that MySQL and MariaDB both have

usage() {
  cat <<'TEXT'
usage: setup.sh [options]

Sets up a MySQL or MariaDB server for optuna-spark: one database, one account with just the
rights that Optuna needs, its password in an option file. Run again, it changes nothing.

  --database NAME            the database (default: optuna)
  --user NAME                the account (default: optuna)
  --host PATTERN             where the account may log in from, such as 10.0.0.% or %
                             (default: this machine; others must use TLS)
  --option-file FILE         takes the password (default: ~/.config/optuna-spark/mysql.cnf)

On this machine (as root): installs MariaDB if no server is here, and starts it.
  --port PORT                the port of a server that has to be started (default: its own)
  --datadir DIR              run a private server on this data directory, made if missing

On a server that runs already (needs no root, installs nothing):
  --admin-option-file FILE   option file with an administrator's user and password
  --server HOST              (default: 127.0.0.1)
  --port PORT                (default: 3306)
TEXT
}

say() { printf '%s\n' "$*"; }
die() {
  printf 'setup.sh: %s\n' "$*" >&2
  exit 1
}
wrong_use() {
  printf 'setup.sh: %s (--help lists the options)\n' "$*" >&2
  exit 2
}

changes=0
changed() {
  changes=$((changes + 1))
  say "$*"
}

# ---- Options -------------------------------------------------------------------------------------

database=optuna user=optuna host='' option_file='' admin_file='' server='' port='' datadir=''
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) usage && exit 0 ;;
    --database | --user | --host | --option-file | --admin-option-file | --server | --port | --datadir)
      [ -n "${2-}" ] || wrong_use "$1 needs a value"
      case $1 in
        --database) database=$2 ;;
        --user) user=$2 ;;
        --host) host=$2 ;;
        --option-file) option_file=$2 ;;
        --admin-option-file) admin_file=$2 ;;
        --server) server=$2 ;;
        --port) port=$2 ;;
        --datadir) datadir=$2 ;;
      esac
      shift 2
      ;;
    *) wrong_use "unknown option $1" ;;
  esac
done

# These go into SQL and into the URL as they are, so nothing in them may need quoting.
[[ $database =~ ^[A-Za-z0-9_]{1,64}$ ]] || wrong_use "--database takes letters, digits and _"
[[ $user =~ ^[A-Za-z0-9_]{1,32}$ ]] || wrong_use "--user takes letters, digits and _"
[[ $host =~ ^[A-Za-z0-9.:%_/-]*$ ]] || wrong_use "--host takes a host name or a pattern with %"
[[ $server =~ ^[A-Za-z0-9._-]*$ ]] || wrong_use "--server takes a host name or an IPv4 address"
[[ $port =~ ^[0-9]{0,5}$ ]] || wrong_use "--port takes a number"
if [ -n "$admin_file" ]; then
  [ -z "$datadir" ] || wrong_use "--datadir is for a server of this machine, without --admin-option-file"
  [ -r "$admin_file" ] || die "cannot read $admin_file: give --admin-option-file a file that exists"
elif [ -n "$server" ]; then
  wrong_use "--server needs --admin-option-file"
elif [ "$(id -u)" != 0 ]; then
  die "run it as root (sudo) to set up a server here, or give --admin-option-file for one that runs"
fi

hosts=("$host")
[ -n "$host" ] || hosts=(localhost 127.0.0.1)
remote() { [[ ! $1 =~ ^(localhost|127\.0\.0\.1|::1)$ ]]; }
! remote "${server:-localhost}" || [ -n "$host" ] ||
  wrong_use "--host is needed with a --server elsewhere: the machines that will log in, such as 10.0.0.%"

# With sudo the file is for the one who called it, not for root.
owner=$(id -un)
[ "$(id -u)" != 0 ] || owner=${SUDO_USER:-$owner}
if [ -z "$option_file" ]; then
  home=$HOME
  [ "$owner" = "$(id -un)" ] || home=$(getent passwd "$owner" | cut -d: -f6)
  option_file=${XDG_CONFIG_HOME:-$home/.config}/optuna-spark/mysql.cnf
fi
option_file=$(realpath -m -- "$option_file")
[[ $option_file =~ ^[A-Za-z0-9._/@+-]+$ ]] ||
  wrong_use "--option-file: use a path without spaces, not $option_file"

# ---- The server ----------------------------------------------------------------------------------

# Statements come from standard input, so that no secret is in a process's arguments.
sql() { "${admin[@]}" --batch --skip-column-names --raw; }
query() { sql <<<"$1" || die "the server refused a statement: its message is above"; }

find_programs() {
  client=$(command -v mariadb || command -v mysql || true)
  # mysqld may be of either kind; mariadbd is MariaDB's own name for it.
  program=$(command -v mysqld || command -v mariadbd || true)
}

install_server() {
  [ -z "$program" ] || [ -z "$client" ] || return 0
  command -v apt-get >/dev/null || die "no server is here: install mariadb-server or mysql-server"
  say "Installing MariaDB ..."
  apt-get -qq update >/dev/null
  DEBIAN_FRONTEND=noninteractive apt-get -qq -y install mariadb-server mariadb-client >/dev/null ||
    die "apt-get could not install mariadb-server: its message is above"
  find_programs
  changed "Installed MariaDB."
}

make_datadir() {
  [ ! -e "$datadir/mysql" ] || return 0
  install -d -o mysql -g mysql -m 750 "$datadir"
  runuser -u mysql -- test -w "$datadir" ||
    die "the account mysql cannot reach $datadir: choose a --datadir that it can enter"
  local output made=yes make=(runuser -u mysql --) # root would change the installed files too
  if "$program" --version | grep -q MariaDB; then
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
    start+=(--init-file="$datadir/init.sql")
  fi
  changed "Made the data directory $datadir."
}

start_server() {
  local unit run=${datadir:-/run/mysqld} start pid
  if [ -z "$datadir" ] && [ -d /run/systemd/system ]; then
    for unit in mariadb mysql mysqld; do
      systemctl cat "$unit" >/dev/null 2>&1 || continue
      systemctl enable --quiet --now "$unit" ||
        die "systemctl could not start $unit: its message is above"
      changed "Started the server ($unit.service)."
      return
    done
  fi
  id mysql >/dev/null 2>&1 || die "no account mysql to run the server: install mariadb-server"
  local log=$run/optuna-spark.log
  start=("$program")
  if [ -n "$datadir" ]; then
    start+=(--no-defaults --datadir="$datadir" --socket="$datadir/mysqld.sock"
      --bind-address=127.0.0.1 --loose-mysqlx=OFF)
    make_datadir
  else
    install -d -o mysql -g root -m 755 "$run"
  fi
  start+=(--user=mysql --pid-file="$run/mysqld.pid")
  [ -z "$port" ] || start+=(--port="$port")
  setsid "${start[@]}" >>"$log" 2>&1 </dev/null &
  pid=$!
  for _ in $(seq 300); do
    if sql <<<'SELECT 1' >/dev/null 2>&1; then
      changed "Started the server; to stop it: kill \$(cat $run/mysqld.pid)"
      return
    fi
    kill -0 "$pid" 2>/dev/null || die "the server did not start: $(tail -n 5 "$log")"
    sleep 0.2
  done
  kill "$pid"
  die "the server did not answer within a minute: see $log"
}

use_local_server() {
  local answer
  [ "${#datadir}" -lt 90 ] || die "--datadir: choose a shorter path, a socket has to fit in it"
  install_server
  admin=("$client" --protocol=socket --host=localhost --user=root)
  [ -z "$datadir" ] || admin=("$client" --no-defaults --socket="$datadir/mysqld.sock" --user=root)
  if ! answer=$(sql <<<'SELECT 1' 2>&1); then
    [[ $answer == *"ERROR 2002"* ]] ||
      die "root cannot log in over the socket: give --admin-option-file instead ($answer)"
    start_server
  fi
  local given=$port
  port=$(query 'SELECT @@port')
  [ "$(query 'SELECT @@skip_networking')" = 0 ] ||
    die "the server takes no TCP connections: remove skip-networking from its configuration"
  [ -z "$given" ] || [ "$given" = "$port" ] ||
    die "the server listens on port $port: leave out --port $given"
}

use_running_server() {
  [ -n "$client" ] || die "no mysql or mariadb client is here: install mariadb-client"
  server=${server:-127.0.0.1} port=${port:-3306}
  admin=("$client" --defaults-file="$admin_file" --protocol=tcp --host="$server" --port="$port")
  ! remote "$server" || admin+=("${tls[@]}")
  query 'SELECT 1' >/dev/null
  if remote "$server" && [ -z "$(query "SHOW STATUS LIKE 'Ssl_cipher'" | cut -f2)" ]; then
    die "the connection to $server is not encrypted and would show the password: switch TLS on there"
  fi
}

# ---- Database, account, rights -------------------------------------------------------------------

prepare_database() {
  local collation tables
  collation=$(query "SELECT DEFAULT_COLLATION_NAME FROM information_schema.SCHEMATA
    WHERE SCHEMA_NAME = '$database'")
  tables=$(query "SELECT COUNT(*) FROM information_schema.TABLES
    WHERE TABLE_SCHEMA = '$database' AND RIGHT(TABLE_COLLATION, 3) NOT IN ('bin', '_cs')")
  [ "$tables" = 0 ] ||
    die "the tables of database $database take a and A for one name: give another --database"
  case $collation in
    utf8mb4_*bin | utf8mb4_*_cs) ;;
    '')
      query "CREATE DATABASE \`$database\` CHARACTER SET utf8mb4 COLLATE $COLLATION"
      changed "Made the database $database."
      ;;
    *)
      query "ALTER DATABASE \`$database\` CHARACTER SET utf8mb4 COLLATE $COLLATION"
      changed "Gave the database $database the collation $COLLATION."
      ;;
  esac
}

# Sets $password: that of the option file, or a new one that it writes there first, so that no
# account ever has a password that nobody knows.
prepare_option_file() {
  local folder written_for
  fresh=no
  if [ -e "$option_file" ]; then
    written_for=$(sed -n 's/^user=//p' "$option_file")
    password=$(sed -n 's/^password=//p' "$option_file")
    [[ $written_for == "$user" && $password =~ ^[A-Za-z0-9-]+$ ]] ||
      die "$option_file is not one of this script for $user: give another --option-file"
    [ "$(stat -c %a "$option_file")" = 600 ] || {
      chmod 600 "$option_file"
      changed "Closed $option_file to others."
    }
    return
  fi
  # The end is for servers whose policy asks for each kind of character.
  password=$(head -c 1024 /dev/urandom | LC_ALL=C tr -dc 'A-Za-z0-9' | cut -c 1-32)-aA1
  folder=$(dirname "$option_file")
  local as_owner=() # with sudo, so that ~/.config does not become root's
  [ "$owner" = "$(id -un)" ] || as_owner=(runuser -u "$owner" --)
  [ -d "$folder" ] || "${as_owner[@]}" mkdir -p -m 700 "$folder" || die "could not make $folder"
  (
    umask 077
    printf '# Written by deploy/mysql/setup.sh of optuna-spark.\n[client]\nuser=%s\npassword=%s\n' \
      "$user" "$password" >"$option_file.new"
  )
  chown "$owner" "$option_file.new"
  mv "$option_file.new" "$option_file"
  fresh=yes
  changed "Wrote a new password to $option_file."
}

# Like query, for statements with the password in them: a server's message may quote it.
secret_query() {
  local answer
  answer=$(sql <<<"$1" 2>&1) || die "the server refused the account: ${answer//"$password"/***}"
}

prepare_account() {
  local account="'$user'@'$1'" name="\`$user\`@\`$1\`" require='' exists rights wanted others
  ! remote "$1" || require='REQUIRE SSL'
  exists=$(query "SELECT COUNT(*) FROM mysql.user WHERE User = '$user' AND Host = '$1'")
  if [ "$exists" = 0 ]; then
    secret_query "CREATE USER $account IDENTIFIED BY '$password' $require"
    changed "Made the account $user@$1."
  elif [ "$fresh" = yes ]; then
    secret_query "ALTER USER $account IDENTIFIED BY '$password'"
    changed "The account $user@$1 existed, its option file did not: it has the new password now."
  fi
  if [ -n "$require" ] &&
    ! query "SHOW CREATE USER $account" | grep -Eq 'REQUIRE (SSL|X509|ISS|SUB|CIPH)'; then
    query "ALTER USER $account $require"
    changed "The account $user@$1 must use TLS now."
  fi
  # A bare _ in GRANT would stand for any character, and so for other databases as well.
  local where="\`${database//_/\\_}\`.*"
  rights=$(query "SHOW GRANTS FOR $account")
  others=$(grep -vF -e " ON $where TO " -e "GRANT USAGE ON *.* TO " <<<"$rights" || true)
  rights=$(grep -F " ON $where TO " <<<"$rights" || true)
  wanted="GRANT $RIGHTS ON $where TO $name"
  if [ "$rights" != "$wanted" ]; then
    # MySQL refuses to take away what is not there.
    [[ $rights != *"GRANT OPTION"* ]] || query "REVOKE GRANT OPTION ON $where FROM $account"
    [ -z "$rights" ] || query "REVOKE ALL ON $where FROM $account"
    query "GRANT $RIGHTS ON $where TO $account"
    changed "Gave $user@$1 Optuna's rights on $database."
  fi
  [ -z "$others" ] || say "Note: $user@$1 has rights elsewhere too, which were left as they are."
}

log_in() {
  local try=("$client" --defaults-file="$option_file" --protocol=tcp --host="$address" --port="$port")
  [ -z "$remote_account" ] || try+=("${tls[@]}")
  answer=$("${try[@]}" "$database" --execute='SELECT 1' 2>&1)
}

check_login() {
  local answer account
  if [ -n "$remote_account" ]; then
    case $(query "SELECT @@bind_address") in
      127.* | localhost | ::1) say "Note: the server listens to this machine only: see README.md." ;;
    esac
    [ "$(query "SHOW VARIABLES LIKE 'have_ssl'" | cut -f2)" != DISABLED ] ||
      say "Note: the server has no TLS yet, which the account must use: see README.md."
    log_in || say "Note: could not try the account from this machine ($answer)."
    return
  fi
  ! log_in || return 0
  for account in "${hosts[@]}"; do
    secret_query "ALTER USER '$user'@'$account' IDENTIFIED BY '$password'"
  done
  log_in || die "the account $user cannot log in: $answer"
  changed "The account $user had another password: it has that of $option_file again."
}

PATH=$PATH:/usr/sbin:/usr/local/sbin
find_programs
tls=(--ssl)
[ -z "$client" ] || "$client" --version | grep -q MariaDB || tls=(--ssl-mode=REQUIRED)
if [ -n "$admin_file" ]; then use_running_server; else use_local_server; fi
prepare_database
prepare_option_file
for account in "${hosts[@]}"; do prepare_account "$account"; done

address=${server:-127.0.0.1} remote_account=''
if remote "${hosts[0]}"; then
  remote_account=yes
  [ -n "$server" ] || address=$(hostname -f 2>/dev/null || hostname)
fi
check_login
[ "$changes" != 0 ] || say "Nothing to change."
say "export OPTUNA_STORAGE='mysql://$user@$address:$port/$database?read_default_file=$option_file'"
