# For run_images.sh and run_systemd.sh: a bare Debian 12 to start things in, load while workers go, how checks speak.
# shellcheck shell=bash

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
PROGRAM=$(basename "$0")

say() { printf '%s\n' "$*"; }
ok() { printf 'ok: %s\n' "$*"; }

fail() {
  printf '%s: %s\n' "$PROGRAM" "$1" >&2
  exit "${2:-1}"
}

# need_root: with namespaces, mounts and other people's user numbers nothing less will do.
need_root() { [ "$(id -u)" = 0 ] || fail "must be root, as it makes namespaces and mounts" 2; }

# need PROGRAM:PACKAGE...
need() {
  local pair missing=()
  for pair in "$@"; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
  done
  [ ${#missing[@]} = 0 ] || fail "apt-get install --no-install-recommends ${missing[*]}" 2
}

# within SECONDS COMMAND...: tries until it succeeds.
within() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $deadline ] || return 1
    sleep 0.2
  done
}

# make_root DIR [PACKAGE...]: Debian 12 as of today, with those packages.
make_root() {
  local directory=$1
  shift
  debootstrap --variant=minbase ${1:+"--include=$(IFS=,; printf '%s' "$*")"} bookworm "$directory" \
    http://deb.debian.org/debian >"$directory.log" 2>&1 || fail "debootstrap failed, see $directory.log"
  cat >"$directory/etc/apt/sources.list" <<EOF
deb http://deb.debian.org/debian bookworm main
deb http://deb.debian.org/debian bookworm-updates main
deb http://deb.debian.org/debian-security bookworm-security main
EOF
  # A machine whose clock or mirror is of another day.
  printf 'Acquire::Check-Valid-Until "false";\nAcquire::Check-Date "false";\n' >"$directory/etc/apt/apt.conf.d/99dates"
  rm -f "$directory"/var/cache/apt/archives/*.deb
}

# ---- Load ----

# For `sh -c`, where the fleet is, with $LOAD_DIR: asks the same few prompts over and over from 4 clients until
# $LOAD_DIR/stop is there. An error, and an answer that is not the first one's to the same request, go to
# $LOAD_DIR/failures. Half of the prompts are long enough to be computed by prefill workers.
# shellcheck disable=SC2016,SC2034
LOAD='town="is a town with a river, a market and a bridge that was built by hand; "
  long=$town; for n in 1 2 3 4 5; do long=$long$long; done
  for client in 1 2 3 4; do (
    while [ ! -e "$LOAD_DIR/stop" ]; do
      count=$((count + 1)); seed=$((client * 10 + count % 4))
      prompt="Tell me about town $seed."; [ $((seed % 2)) = 0 ] || prompt="Town $seed $long $prompt"
      answer=$(baton --timeout 60 generate --seed $seed -t 1 --ignore-eos --max-new-tokens 150 "$prompt" 2>&1) ||
        echo "$seed: $answer" >>"$LOAD_DIR/failures"
      [ -e "$LOAD_DIR/$seed" ] || echo "$answer" >"$LOAD_DIR/$seed"
      [ "$answer" = "$(cat "$LOAD_DIR/$seed")" ] || echo "$seed: other answer" >>"$LOAD_DIR/failures"
      echo >>"$LOAD_DIR/requests"
    done) & done; wait'

requests() { wc -l <"$LOAD_DIR/requests"; }
asked() { [ "$(requests)" -ge "$1" ]; }
more_load() { within 60 asked $(($(requests) + ${1:-20})) || fail "requests stand still"; }
no_failures() {
  [ ! -e "$LOAD_DIR/failures" ] || { sort "$LOAD_DIR/failures" | uniq -c >&2; fail "requests failed under load"; }
}
