# Shared by deploy/up and deploy/down: where things are, what runs, how it is stopped.
#
# What runs is in $RUN_DIR/processes, one line each: PID START ROLE NAME. START is the process's start time from
# /proc/PID/stat, so that a reused PID is never taken for ours.
# shellcheck shell=bash

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034  # up uses it
BUILD_DIR=${BATON_BUILD_DIR:-$ROOT/build/release}
RUN_DIR=${BATON_RUN_DIR:-$ROOT/deploy/run}
PROGRAM=deploy/$(basename "$0")

say() { printf '%s\n' "$*"; }

# fail MESSAGE [EXIT_CODE]: one line that says what is wrong.
fail() {
  printf '%s: %s\n' "$PROGRAM" "$1" >&2
  exit "${2:-1}"
}

# The path as a person would type it here.
shown() {
  local path=$1
  [ "${path#"$PWD"/}" = "$path" ] || path=${path#"$PWD"/}
  printf '%s' "$path"
}

# start_time PID: empty when there is no such process. Field 22 of stat; the name (field 2) may hold spaces.
start_time() {
  local stat
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
  # A zombie is gone: nobody has collected its exit code yet.
  local fields
  read -ra fields <<<"${stat##*) }"
  [ "${fields[0]}" = Z ] || printf '%s' "${fields[19]}"
}

# is_running PID START
is_running() { [ -n "$2" ] && [ "$(start_time "$1")" = "$2" ]; }

# The lines of $RUN_DIR/processes whose process still runs.
running_processes() {
  local pid start role name
  [ -f "$RUN_DIR/processes" ] || return 0
  while read -r pid start role name; do
    if is_running "$pid" "$start"; then say "$pid $start $role $name"; fi
  done <"$RUN_DIR/processes"
}

# stop_role ROLE SECONDS: asks all processes of the role to drain and waits; what is left after that is killed.
stop_role() {
  local wanted=$1 patience=$2 pid start role name waited=0 left=() killed=()
  while read -r pid start role name; do
    [ "$role" = "$wanted" ] || continue
    kill -TERM "$pid" 2>/dev/null || true
    left+=("$pid $start")
  done < <(running_processes)
  [ ${#left[@]} -gt 0 ] || return 0
  while :; do
    local still=()
    for process in "${left[@]}"; do
      # shellcheck disable=SC2086
      if is_running $process; then still+=("$process"); fi
    done
    left=("${still[@]}")
    [ ${#left[@]} -gt 0 ] || break
    if [ $waited -ge $((patience * 10)) ]; then
      for process in "${left[@]}"; do
        kill -KILL "${process% *}" 2>/dev/null || true
        killed+=("${process% *}")
      done
    fi
    sleep 0.1
    waited=$((waited + 1))
  done
  if [ ${#killed[@]} -gt 0 ]; then
    say "  $wanted  stopped; killed after $patience s: ${killed[*]}"
  else
    say "  $wanted  stopped"
  fi
}

# The gateway first, so that no request meets a worker that is going away.
stop_all() {
  local patience=$1
  stop_role gateway "$patience"
  stop_role prefill "$patience"
  stop_role decode "$patience"
  rm -f "$RUN_DIR/processes" "$RUN_DIR/prometheus-targets.json"
}
