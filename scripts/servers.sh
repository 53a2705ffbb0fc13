#!/usr/bin/env bash
# Real databases for the tests: PostgreSQL 15 and MariaDB 10.11 of Debian 12, on loopback, with throw-away data.
#
#   eval "$(scripts/servers.sh start)"   starts what is not running, and says where it is
#   scripts/servers.sh stop              ends both and removes their data
set -euo pipefail

PG_PORT=24432
MARIADB_PORT=24306
ROOT="${XDG_CACHE_HOME:-$HOME/.cache}/logship/servers"
PG_BIN=/usr/lib/postgresql/15/bin

say() { printf '%s\n' "$*" >&2; }
fail() { say "servers.sh: $*"; exit 1; }
answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# The servers refuse to run as root.
run_as() {
  local user="$1"
  shift
  if [ "$(id -u)" = 0 ]; then setpriv --reuid "$user" --regid "$user" --init-groups "$@"; else "$@"; fi
}

wait_for() {
  local port="$1" log="$2" tries=0
  until answers "$port"; do
    tries=$((tries + 1))
    if [ "$tries" -gt 300 ]; then
      tail -n 20 "$log" >&2 || true
      fail "nothing answers on port $port after 30 s; the log is $log"
    fi
    sleep 0.1
  done
}

# A pid file may name a process that is gone, and whose number somebody else has now.
is_running() { [ -s "$1" ] && [ "$(cat "/proc/$(head -n 1 "$1")/comm" 2>/dev/null)" = "$2" ]; }

install_missing() {
  [ -x "$PG_BIN/postgres" ] && command -v mariadbd >/dev/null && return
  [ "$(id -u)" = 0 ] || fail "PostgreSQL 15 and MariaDB are not installed, and only root can install them"
  say "installing postgresql-15 and mariadb-server-10.11"
  apt-get update -q >&2
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends postgresql-15 mariadb-server >&2
}

# Loopback, no password, and nothing that would survive a power cut: the data is worth nothing.
start_postgres() {
  local dir="$ROOT/postgres"
  if is_running "$dir/data/postmaster.pid" postgres; then return; fi
  answers "$PG_PORT" && fail "port $PG_PORT is taken by somebody else"
  rm -rf "$dir"
  make_dir "$dir" postgres
  run_as postgres "$PG_BIN/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 --no-sync >"$dir/log" 2>&1
  run_as postgres "$PG_BIN/postgres" -D "$dir/data" -p "$PG_PORT" -k "$dir" -c listen_addresses=127.0.0.1 \
    -c fsync=off -c full_page_writes=off -c max_connections=200 -c max_prepared_transactions=10 \
    </dev/null >>"$dir/log" 2>&1 &
  wait_for "$PG_PORT" "$dir/log"
}

start_mariadb() {
  local dir="$ROOT/mariadb"
  if is_running "$dir/pid" mariadbd; then return; fi
  answers "$MARIADB_PORT" && fail "port $MARIADB_PORT is taken by somebody else"
  rm -rf "$dir"
  make_dir "$dir" mysql
  mariadb-install-db --no-defaults --user=mysql --datadir="$dir/data" --auth-root-authentication-method=normal \
    --skip-test-db >"$dir/log" 2>&1
  run_as mysql "$(command -v mariadbd)" --no-defaults --datadir="$dir/data" --port="$MARIADB_PORT" \
    --bind-address=127.0.0.1 --socket="$dir/socket" --pid-file="$dir/pid" --max-connections=200 \
    --innodb-flush-log-at-trx-commit=0 --sync-binlog=0 </dev/null >>"$dir/log" 2>&1 &
  wait_for "$MARIADB_PORT" "$dir/log"
}

# Every folder above must let the server's user through.
make_dir() {
  mkdir -p "$1"
  if [ "$(id -u)" = 0 ]; then
    chown "$2:$2" "$1"
    local above="$1"
    while [ "$above" != / ]; do
      above="$(dirname "$above")"
      run_as "$2" test -x "$above" || chmod o+x "$above"
    done
  fi
}

stop_one() {
  local pid_file="$1" name="$2" signal="$3" tries=0 pid
  if is_running "$pid_file" "$name"; then
    pid="$(head -n 1 "$pid_file")"
    kill "-$signal" "$pid"
    while kill -0 "$pid" 2>/dev/null; do
      tries=$((tries + 1))
      [ "$tries" -gt 300 ] && fail "$name, process $pid, does not end"
      sleep 0.1
    done
  fi
}

case "${1:-}" in
  start)
    install_missing
    start_postgres
    start_mariadb
    echo "export LOGSHIP_POSTGRES_URL=postgres://postgres@127.0.0.1:$PG_PORT/postgres"
    echo "export LOGSHIP_MYSQL_URL=mysql://root@127.0.0.1:$MARIADB_PORT/mysql"
    ;;
  stop)
    stop_one "$ROOT/postgres/data/postmaster.pid" postgres INT
    stop_one "$ROOT/mariadb/pid" mariadbd TERM
    rm -rf "$ROOT/postgres" "$ROOT/mariadb"
    ;;
  *)
    fail "usage: scripts/servers.sh start|stop"
    ;;
esac
