# shellcheck shell=bash
# Sourced by setup.sh: what a server needs for a cluster of $slots task slots, and the file of ours
# that says so to a server of this machine.
# shellcheck disable=SC2154 # setup.sh sets the options, server.sh the program

# Calls $1 with each setting, its least value and the reason.
each_setting() {
  local hundreds=$(((slots + 99) / 100))
  "$1" max_connections $((slots + 8 + 20)) \
    "One for each task slot, 8 for the driver, 20 for people."
  "$1" innodb_buffer_pool_size $((128 * (hundreds < 7 ? 1 + hundreds : 8)))M \
    "Studies are read from memory: 10,000 trials take some 20 MB, and more slots run more studies."
  "$1" wait_timeout 28800 \
    "Seconds. A connection is idle while its trial computes; closed, it has to be opened again."
  "$1" max_connect_errors $((slots > 100 ? slots : 100)) \
    "All slots of a host may ask for TLS before the first logs in; so many in a row block the host."
}

# What the running server says; nothing before it runs, or where it has no such setting.
in_force() { [ -z "$running" ] || query "SHOW GLOBAL VARIABLES LIKE '$1'" | cut -f2; }
# What our file says.
in_file() { [ ! -e "$settings" ] || sed -n "s/^$1 *= *\([^ #]*\).*/\1/p" "$settings" | tail -n 1; }
at_least() { [ "$(bytes "$1")" -ge "$(bytes "$2")" ]; }
# Cut short, because 2^64 - 1 stands for 'no limit' and is more than bash can compare.
bytes() { { numfmt --from=iec "${1^^}" 2>/dev/null || echo 0; } | cut -c 1-15; }
this_machine_only() { [[ $1 =~ ^(127\..*|localhost|::1)$ ]]; }

report_setting() {
  local kept now
  kept=$(in_file "$1")
  now=$(in_force "$1")
  if [ -z "$now" ] || at_least "$now" "$2"; then return; fi
  [[ $2 != *M ]] || now=$(numfmt --to=iec "$now")
  if [ -n "$kept" ] && at_least "$kept" "$2"; then
    say "Note: $1 is $now although $settings says $kept: restart the server, or correct the file that says otherwise."
  else
    say "Note: $1 is $now, too little for $slots task slots: set it to $2 in the server's configuration."
  fi
}

# ---- Our file ------------------------------------------------------------------------------------

find_settings_file() {
  tls_folder=/etc/mysql # where Ubuntu's AppArmor lets the server read *.pem
  if [ -n "$datadir" ]; then
    settings=$datadir/optuna-spark.cnf tls_folder=$datadir
  elif is_mariadb && [ -d /etc/mysql/mariadb.conf.d ]; then
    settings=/etc/mysql/mariadb.conf.d/60-optuna-spark.cnf
  elif [ -d /etc/mysql/mysql.conf.d ]; then
    settings=/etc/mysql/mysql.conf.d/optuna-spark.cnf # by name, so behind mysqld.cnf
  elif [ -d /etc/my.cnf.d ]; then
    settings=/etc/my.cnf.d/optuna-spark.cnf tls_folder=/etc/my.cnf.d
  else
    settings=''
  fi
  # Run again for something else, the script must not shrink what was made for a larger cluster.
  local before
  before=$(sed -n 's/^# For \([0-9]*\) task slots.*/\1/p' "$settings" 2>/dev/null || true)
  slots=${slots:-${before:-64}}
  [ "$slots" -ge "${before:-0}" ] || slots=$before
}

add_setting() {
  local kept now
  kept=$(in_file "$1")
  now=$(in_force "$1")
  lines+=("# $3")
  if [ -n "$kept" ] && at_least "$kept" "$2"; then
    lines+=("$1 = $kept")
  elif [ -n "$now" ] && at_least "$now" "$2"; then
    lines+=("# Enough without this file: $1 = $now") # and so an administrator's value stays
  else
    lines+=("$1 = $2")
  fi
}

add_address() {
  local kept now listen
  kept=$(in_file bind_address)
  now=$(in_force bind_address)
  listen=${bind_address:-${kept:-$now}}
  [ -n "$listen" ] || [ -z "$datadir" ] || listen=127.0.0.1
  if [ -n "$remote_account" ] && [ -z "$bind_address" ] && this_machine_only "$listen"; then
    listen=0.0.0.0
    say "The server listens on all addresses: let a firewall admit the cluster alone, or give --bind-address."
  fi
  [ -z "$datadir" ] || lines+=("port = $port")
  [ -n "$kept$datadir" ] || [ "$listen" != "$now" ] || return 0
  lines+=("# Executors on other machines must reach it, if an account may log in from there."
    "bind_address = $listen")
}

add_certificate() {
  local certificate key
  certificate=$(in_file ssl_cert)
  key=$(in_file ssl_key)
  if [ -z "$certificate" ]; then
    # A server with a certificate keeps it; one that nobody else uses has none worth keeping.
    [ -n "$remote_account" ] && { [ -n "$datadir" ] || [ -z "$(in_force ssl_cert)" ]; } || return 0
    certificate=$tls_folder/optuna-spark-cert.pem key=$tls_folder/optuna-spark-key.pem
  fi
  if [ ! -e "$certificate" ] || [ ! -e "$key" ]; then make_certificate; fi
  lines+=("# An account of another machine must use TLS: no password and no study in clear."
    "ssl_cert = $certificate" "ssl_key = $key")
}

# It signs itself, so that clients verify it by a copy of it.
make_certificate() {
  local name names=IP:127.0.0.1 output
  command -v openssl >/dev/null || die "no openssl is here to make a certificate: install openssl"
  for name in $(hostname -I 2>/dev/null || true); do names+=,IP:$name; done
  for name in $({ echo localhost && hostname && hostname -f; } 2>/dev/null | sort -u || true); do
    names+=,DNS:$name
  done
  # Not the machine's openssl.cnf, which may ask for anything.
  output=$(openssl req -x509 -newkey rsa:3072 -nodes -days 3650 -keyout "$key" -out "$certificate" \
    -config <(printf '%s\n' '[req]' 'prompt = no' 'distinguished_name = subject' \
      'x509_extensions = extensions' '[subject]' 'CN = optuna-spark database' '[extensions]' \
      'basicConstraints = critical, CA:TRUE' 'subjectKeyIdentifier = hash' \
      'keyUsage = critical, digitalSignature, keyEncipherment, keyCertSign' \
      "subjectAltName = $names") 2>&1) || die "openssl could not make a certificate: $output"
  chown mysql "$key"
  chmod 400 "$key"
  chmod 644 "$certificate"
  certificate_is_new=yes
  changed "Made the certificate $certificate for $names: README.md says how clients verify it."
}

# What the server sees of a text.
without_comments() { grep -v '^#' <<<"$1" || true; }

write_settings() {
  local lines=() certificate_is_new='' before='' text
  if [ -z "$settings" ]; then
    say "Note: no folder for a file of settings was found, so that the server keeps its own."
    return
  fi
  add_address
  add_certificate
  each_setting add_setting
  text=$(printf '%s\n' \
    "# For $slots task slots; written by deploy/mysql/setup.sh of optuna-spark, which raises what is" \
    "# too little for them and keeps what is more. Other settings belong into another file." \
    '[mysqld]' "${lines[@]}")
  [ ! -e "$settings" ] || before=$(<"$settings")
  if [ "$(without_comments "$text")" = "$(without_comments "${before:-[mysqld]}")" ] &&
    [ -z "$certificate_is_new" ]; then
    return
  fi
  put_settings "$text"
  if [ -z "$running" ]; then
    changed "Wrote $settings for $slots task slots."
  elif ! can_restart; then
    changed "Wrote $settings for $slots task slots."
    say "Note: restart the server, which something else has started, to put that into force."
  elif restart_server; then
    changed "Wrote $settings for $slots task slots and restarted the server."
  else
    put_settings "$before"
    restart_server || true
    die "the server does not start with what was written to $settings, so that it has its old settings again: $problem"
  fi
}

put_settings() {
  if [ -z "$1" ]; then
    rm -f "$settings"
    return
  fi
  printf '%s\n' "$1" >"$settings.new"
  chmod 644 "$settings.new"
  mv "$settings.new" "$settings"
}
