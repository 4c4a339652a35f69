#!/usr/bin/env bash
# Prepares a MySQL or MariaDB server for optuna-spark; --help says how, README.md why.
set -euo pipefail
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
source "$here/server.sh"
source "$here/settings.sh"

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
  --slots N                  task slots of the cluster, for which the server is sized
                             (default: 64)

On this machine (as root): installs MySQL (Ubuntu) or MariaDB (Debian) if no server is here,
starts it, and writes a file of settings: sizes, and for a --host elsewhere a certificate and the
address to listen on.
  --bind-address ADDRESS     listen on this address alone (default: all of them, with a --host
                             elsewhere, if it is this machine's own)
  --port PORT                the port of a server that has to be started (default: its own)
  --datadir DIR              run a private server on this data directory, made if missing

On a server that runs already (needs no root, installs nothing, names settings that are too low):
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
slots='' bind_address=''
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) usage && exit 0 ;;
    --database) option=database ;;
    --user) option=user ;;
    --host) option=host ;;
    --option-file) option=option_file ;;
    --slots) option=slots ;;
    --bind-address) option=bind_address ;;
    --datadir) option=datadir ;;
    --port) option=port ;;
    --admin-option-file) option=admin_file ;;
    --server) option=server ;;
    *) wrong_use "unknown option $1" ;;
  esac
  [ -n "${2-}" ] || wrong_use "$1 needs a value"
  printf -v "$option" %s "$2"
  shift 2
done

# These go into SQL and into the URL as they are, so nothing in them may need quoting.
[[ $database =~ ^[A-Za-z0-9_]{1,64}$ ]] || wrong_use "--database takes letters, digits and _"
[[ $user =~ ^[A-Za-z0-9_]{1,32}$ ]] || wrong_use "--user takes letters, digits and _"
[[ $host =~ ^[A-Za-z0-9.:%_/-]*$ ]] || wrong_use "--host takes a host name or a pattern with %"
[[ $server =~ ^[A-Za-z0-9._-]*$ ]] || wrong_use "--server takes a host name or an IPv4 address"
[[ $port =~ ^[0-9]{0,5}$ ]] || wrong_use "--port takes a number"
[[ $slots =~ ^([1-9][0-9]{0,4})?$ ]] || wrong_use "--slots takes a number from 1 to 99999"
[[ $bind_address =~ ^[A-Za-z0-9.:,*_-]*$ ]] || wrong_use "--bind-address takes an address"
if [ -n "$admin_file" ]; then
  [ -z "$datadir$bind_address" ] ||
    wrong_use "--datadir and --bind-address are for a server of this machine, without --admin-option-file"
  [ -r "$admin_file" ] || die "cannot read $admin_file: give --admin-option-file a file that exists"
elif [ -n "$server" ]; then
  wrong_use "--server needs --admin-option-file"
elif [ "$(id -u)" != 0 ]; then
  die "run it as root (sudo) to set up a server here, or give --admin-option-file for one that runs"
fi

hosts=("$host")
[ -n "$host" ] || hosts=(localhost 127.0.0.1)
remote() { [[ ! $1 =~ ^(localhost|127\.0\.0\.1|::1)$ ]]; }
remote_account=''
! remote "${hosts[0]}" || remote_account=yes
[ -z "$bind_address" ] || [ -n "$remote_account" ] ||
  wrong_use "--bind-address needs a --host: the machines that will log in, such as 10.0.0.%"
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
[ -z "$datadir" ] || datadir=$(realpath -m -- "$datadir")
for path in "$option_file" "${datadir:-/}"; do
  [[ $path =~ ^[A-Za-z0-9._/@+-]+$ ]] || wrong_use "use a path without spaces, not $path"
done

# ---- The server ----------------------------------------------------------------------------------

# Statements come from standard input, so that no secret is in a process's arguments.
sql() { "${admin[@]}" --batch --skip-column-names --raw; }
query() { sql <<<"$1" || die "the server refused a statement: its message is above"; }

use_running_server() {
  [ -n "$client" ] || die "no mysql or mariadb client is here: install mariadb-client"
  server=${server:-127.0.0.1} port=${port:-3306} slots=${slots:-64}
  admin=("$client" --defaults-file="$admin_file" --protocol=tcp --host="$server" --port="$port")
  ! remote "$server" || admin+=("${tls[@]}")
  query 'SELECT 1' >/dev/null
  if remote "$server" && [ -z "$(query "SHOW STATUS LIKE 'Ssl_cipher'" | cut -f2)" ]; then
    die "the connection to $server is not encrypted and would show the password: switch TLS on there"
  fi
  running=yes
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
    ! this_machine_only "$(in_force bind_address)" ||
      say "Note: the server listens to this machine only: set bind_address in its configuration."
    [ "$(query "SHOW VARIABLES LIKE 'have_ssl'" | cut -f2)" != DISABLED ] ||
      say "Note: the server has no TLS, which the account must use: set ssl_cert and ssl_key in its configuration."
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
running='' settings='' first_start=()
find_programs
if [ -n "$admin_file" ]; then use_running_server; else use_local_server; fi
prepare_database
prepare_option_file
for account in "${hosts[@]}"; do prepare_account "$account"; done

address=${server:-127.0.0.1} query=read_default_file=$option_file
if [ -n "$remote_account" ]; then
  [ -n "$server" ] || address=$(hostname -f 2>/dev/null || hostname)
  query+='&ssl_mode=REQUIRED' # mysqlclient without optuna-spark does not ask for TLS by itself
fi
check_login
each_setting report_setting
[ "$changes" != 0 ] || say "Nothing to change."
say "export OPTUNA_STORAGE='mysql://$user@$address:$port/$database?$query'"
