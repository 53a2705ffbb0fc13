#!/usr/bin/env bash
# Real servers for the tests, on loopback, with throw-away data: PostgreSQL 15 and MariaDB 10.11 of Debian 12; of PyPI
# two that take OTLP, Rotel and Datadog's test agent; and what stands for a cloud: moto (Amazon) and
# gcp-storage-emulator (Google) of PyPI, Azurite (Azure) and kinesalite (Kinesis of Amazon) of npm.
#
#   eval "$(scripts/servers.sh start)"   starts what is not running, and says where it is
#   eval "$(scripts/servers.sh otlp)"    the same for those that take OTLP alone
#   eval "$(scripts/servers.sh clouds)"  the same for those that stand for a cloud
#   scripts/servers.sh stop              ends all and removes their data
set -euo pipefail

PG_PORT=24432
MARIADB_PORT=24306
ROTEL_VERSION=0.0.1a15
ROTEL_GRPC_PORT=24317
ROTEL_HTTP_PORT=24318
DATADOG_VERSION=1.69.1
DATADOG_PORT=24126
DATADOG_GRPC_PORT=24127
DATADOG_HTTP_PORT=24128
MOTO_VERSION=5.2.5
MOTO_PORT=24055
AZURITE_VERSION=3.35.0
AZURITE_PORT=24100
KINESALITE_VERSION=3.3.3
KINESALITE_PORT=24567
GCS_VERSION=2026.7.19
GCS_PORT=24023
CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/logship"
ROOT="$CACHE/servers"
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

# A program of PyPI in an environment of its own, as what these need differs. The folder's name holds the version;
# what follows the version are the parts of the program that are wanted, and packages beside it.
python_env() {
  local dir="$CACHE/python/$1-$2"
  if [ ! -e "$dir/complete" ]; then
    say "installing $1 $2"
    rm -rf "$dir"
    if ! python3 -m venv "$dir" >&2; then
      [ "$(id -u)" = 0 ] || fail "python3-venv is not installed, and only root can install it"
      apt-get update -q >&2
      DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends python3-venv >&2
      python3 -m venv "$dir" >&2
    fi
    "$dir/bin/pip" install -q --disable-pip-version-check "$1${3:-}==$2" "${@:4}" >&2
    touch "$dir/complete"
  fi
  echo "$dir"
}

# A program of npm in a folder of its own, whose name holds the version.
npm_package() {
  local dir="$CACHE/npm/$1-$2"
  install_node
  if [ ! -e "$dir/complete" ]; then
    say "installing $1 $2"
    rm -rf "$dir"
    mkdir -p "$dir"
    npm install --silent --no-audit --no-fund --prefix "$dir" "$1@$2" >&2
    touch "$dir/complete"
  fi
  echo "$dir"
}

install_node() {
  command -v node >/dev/null && command -v npm >/dev/null && return
  [ "$(id -u)" = 0 ] || fail "Node and npm are not installed, and only root can install them"
  say "installing nodejs and npm"
  apt-get update -q >&2
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends nodejs npm >&2
}

# Keeps nothing; what it took stands in its log.
start_rotel() {
  local dir="$ROOT/rotel" env
  if is_running "$dir/pid" rotel-agent; then return; fi
  answers "$ROTEL_HTTP_PORT" && fail "port $ROTEL_HTTP_PORT is taken by somebody else"
  env="$(python_env rotel "$ROTEL_VERSION")"
  rm -rf "$dir"
  mkdir -p "$dir"
  "$env"/lib/python3*/site-packages/rotel/rotel-agent start --exporter blackhole \
    --debug-log logs --debug-log-verbosity basic --pid-file "$dir/own-pid" --log-file "$dir/own-log" \
    --otlp-grpc-endpoint "127.0.0.1:$ROTEL_GRPC_PORT" --otlp-http-endpoint "127.0.0.1:$ROTEL_HTTP_PORT" \
    </dev/null >"$dir/log" 2>&1 &
  echo $! >"$dir/pid"
  wait_for "$ROTEL_HTTP_PORT" "$dir/log"
}

# Gives back what it took.
start_datadog() {
  local dir="$ROOT/datadog" env
  if is_running "$dir/pid" python; then return; fi
  answers "$DATADOG_HTTP_PORT" && fail "port $DATADOG_HTTP_PORT is taken by somebody else"
  env="$(python_env ddapm-test-agent "$DATADOG_VERSION")"
  rm -rf "$dir"
  mkdir -p "$dir"
  (cd "$dir" && exec "$env/bin/python" "$env/bin/ddapm-test-agent" --host 127.0.0.1 --port "$DATADOG_PORT" \
    --otlp-http-port "$DATADOG_HTTP_PORT" --otlp-grpc-port "$DATADOG_GRPC_PORT" --disable-llmobs-data-forwarding \
    </dev/null >"$dir/log" 2>&1) &
  echo $! >"$dir/pid"
  wait_for "$DATADOG_HTTP_PORT" "$dir/log"
  wait_for "$DATADOG_GRPC_PORT" "$dir/log"
}

start_otlp() {
  start_rotel
  start_datadog
  echo "export LOGSHIP_OTLP_ROTEL_HTTP=http://127.0.0.1:$ROTEL_HTTP_PORT"
  echo "export LOGSHIP_OTLP_ROTEL_GRPC=http://127.0.0.1:$ROTEL_GRPC_PORT"
  echo "export LOGSHIP_OTLP_ROTEL_LOG=$ROOT/rotel/log"
  echo "export LOGSHIP_OTLP_DATADOG_HTTP=http://127.0.0.1:$DATADOG_HTTP_PORT"
  echo "export LOGSHIP_OTLP_DATADOG_GRPC=http://127.0.0.1:$DATADOG_GRPC_PORT"
  echo "export LOGSHIP_OTLP_DATADOG_READBACK=http://127.0.0.1:$DATADOG_HTTP_PORT/test/session/logs"
}

# S3, CloudWatch Logs, Kinesis, Firehose, SQS, IAM, STS, SSM and Secrets Manager on one port, without a check of
# signatures.
start_moto() {
  local dir="$ROOT/moto" env
  if is_running "$dir/pid" moto_server; then return; fi
  answers "$MOTO_PORT" && fail "port $MOTO_PORT is taken by somebody else"
  env="$(python_env moto "$MOTO_VERSION" '[s3,logs,kinesis,sqs,iam,sts,ssm]' flask flask-cors)"
  rm -rf "$dir"
  mkdir -p "$dir"
  "$env/bin/moto_server" -H 127.0.0.1 -p "$MOTO_PORT" </dev/null >"$dir/log" 2>&1 &
  echo $! >"$dir/pid"
  wait_for "$MOTO_PORT" "$dir/log"
}

# Its sequence numbers are as long as the service's. Its own command would listen everywhere.
start_kinesalite() {
  local dir="$ROOT/kinesalite" npm
  if is_running "$dir/pid" node; then return; fi
  answers "$KINESALITE_PORT" && fail "port $KINESALITE_PORT is taken by somebody else"
  npm="$(npm_package kinesalite "$KINESALITE_VERSION")"
  rm -rf "$dir"
  mkdir -p "$dir"
  (cd "$npm" && exec node -e \
    "require('kinesalite')({createStreamMs: 20, updateStreamMs: 20, deleteStreamMs: 20, shardLimit: 1000}).listen($KINESALITE_PORT, '127.0.0.1')" \
    </dev/null >"$dir/log" 2>&1) &
  echo $! >"$dir/pid"
  wait_for "$KINESALITE_PORT" "$dir/log"
}

# Newer ones want a newer Node. It would call out unless told not to, and refuses service versions newer than itself.
start_azurite() {
  local dir="$ROOT/azurite" npm
  if is_running "$dir/pid" node; then return; fi
  answers "$AZURITE_PORT" && fail "port $AZURITE_PORT is taken by somebody else"
  npm="$(npm_package azurite "$AZURITE_VERSION")"
  rm -rf "$dir"
  mkdir -p "$dir"
  (cd "$dir" && exec node "$npm/node_modules/azurite/dist/src/blob/main.js" --silent --inMemoryPersistence \
    --disableTelemetry --blobHost 127.0.0.1 --blobPort "$AZURITE_PORT" </dev/null >"$dir/log" 2>&1) &
  echo $! >"$dir/pid"
  wait_for "$AZURITE_PORT" "$dir/log"
}

start_gcs() {
  local dir="$ROOT/gcs" env
  if is_running "$dir/pid" gcp-storage-emu; then return; fi
  answers "$GCS_PORT" && fail "port $GCS_PORT is taken by somebody else"
  env="$(python_env gcp-storage-emulator "$GCS_VERSION")"
  rm -rf "$dir"
  mkdir -p "$dir"
  (cd "$dir" && exec "$env/bin/gcp-storage-emulator" start --host=127.0.0.1 --port="$GCS_PORT" --in-memory \
    --default-bucket=logs </dev/null >"$dir/log" 2>&1) &
  echo $! >"$dir/pid"
  wait_for "$GCS_PORT" "$dir/log"
}

start_clouds() {
  start_moto
  start_azurite
  start_kinesalite
  start_gcs
  echo "export LOGSHIP_MOTO_URL=http://127.0.0.1:$MOTO_PORT"
  echo "export LOGSHIP_AZURITE_URL=http://127.0.0.1:$AZURITE_PORT"
  echo "export LOGSHIP_KINESALITE_URL=http://127.0.0.1:$KINESALITE_PORT"
  echo "export LOGSHIP_GCS_URL=http://127.0.0.1:$GCS_PORT"
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
    start_otlp
    start_clouds
    ;;
  otlp)
    start_otlp
    ;;
  clouds)
    start_clouds
    ;;
  stop)
    stop_one "$ROOT/postgres/data/postmaster.pid" postgres INT
    stop_one "$ROOT/mariadb/pid" mariadbd TERM
    stop_one "$ROOT/rotel/pid" rotel-agent TERM
    stop_one "$ROOT/datadog/pid" python TERM
    stop_one "$ROOT/moto/pid" moto_server TERM
    stop_one "$ROOT/azurite/pid" node TERM
    stop_one "$ROOT/kinesalite/pid" node TERM
    stop_one "$ROOT/gcs/pid" gcp-storage-emu TERM
    rm -rf "$ROOT/postgres" "$ROOT/mariadb" "$ROOT/rotel" "$ROOT/datadog" "$ROOT/moto" "$ROOT/azurite" "$ROOT/kinesalite" "$ROOT/gcs"
    ;;
  *)
    fail "usage: scripts/servers.sh start|otlp|clouds|stop"
    ;;
esac
