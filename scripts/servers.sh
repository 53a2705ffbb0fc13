#!/usr/bin/env bash
# The real servers that tests run against, on this machine alone: installs what is missing, starts it, and prints what
# the tests want to know. `eval "$(scripts/servers.sh start)"`, and `scripts/servers.sh stop`.
set -euo pipefail

dir="${TMPDIR:-/tmp}/logship-servers"
port=24532
# Debian 12 has version 15.
bin=/usr/lib/postgresql/15/bin

# Databases refuse to run as root.
as_postgres() {
  if [ "$(id -u)" = 0 ]; then
    setpriv --reuid postgres --regid postgres --init-groups "$@"
  else
    "$@"
  fi
}

start() {
  if ! [ -x "$bin/initdb" ]; then
    apt-get update -q >&2
    apt-get install -y -q --no-install-recommends postgresql-15 >&2
  fi
  mkdir -p "$dir"
  if [ "$(id -u)" = 0 ]; then chown postgres:postgres "$dir"; fi
  cd "$dir"
  if ! as_postgres "$bin/pg_ctl" -D "$dir/data" status >/dev/null 2>&1; then
    rm -rf "$dir/data"
    as_postgres "$bin/initdb" -D "$dir/data" -A trust -U postgres --locale=C.UTF-8 >&2
    # `-w` waits until it answers. Nothing here outlives a power cut, so nothing is synced.
    as_postgres "$bin/pg_ctl" -D "$dir/data" -l "$dir/log" -w -t 60 -o "-p $port -k $dir -c listen_addresses=127.0.0.1 \
      -c fsync=off -c max_connections=200 -c max_prepared_transactions=10" start >&2
  fi
  echo "export LOGSHIP_POSTGRES_URL=postgres://postgres@127.0.0.1:$port/postgres"
}

stop() {
  cd /
  as_postgres "$bin/pg_ctl" -D "$dir/data" -m immediate stop >&2 || true
  rm -rf "$dir"
}

case "${1:-}" in
  start) start ;;
  stop) stop ;;
  *) echo "usage: $0 start|stop" >&2; exit 2 ;;
esac
