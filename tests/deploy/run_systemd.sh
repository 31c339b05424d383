#!/usr/bin/env bash
# Installs the Debian package in a bare Debian 12, boots that with systemd as its first process, and holds the units to
# what docs/deployment.md says of them: start, confinement, requests, restarts under load, a killed worker, drain, upgrade,
# removal and purge. By hand, not in CI: 5 minutes, 1 GB in $TMPDIR (/var/tmp).
#
#   sudo tests/deploy/run_systemd.sh dist/baton_VERSION_amd64.deb
#
# Needs root and `apt-get install --no-install-recommends debootstrap systemd-container`. What is booted has a network of
# its own with nothing in it but itself, and goes at the end with its directory.
set -euo pipefail
# shellcheck source=tests/deploy/real_start.sh
. "$(dirname "${BASH_SOURCE[0]}")/real_start.sh"

PROMPT="What is the capital of France?"
ANSWER="The capital of France is Paris."
UNITS=(baton-prefill@tiny-gemma2 baton-decode@tiny-gemma2 baton-gateway)
WORKERS=(baton-prefill@tiny-gemma2 baton-decode@tiny-gemma2 baton-prefill@two baton-decode@two)

# In a mount namespace of this script, where systemd's $$ is 1.
inside() {
  nsenter -t "$BOOTED" -m -u -i -n -p -C --root --wdns=/ env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb \
    LANG=C.UTF-8 LOAD_DIR=/load "$@"
}
unit() { inside systemctl show -P "$2" "$1"; }
journal() { inside journalctl --no-pager -o cat -u "$1"; }

boot() {
  systemd-nspawn -q -D "$WORK/root" --register=no --keep-unit --private-network --console=pipe -b \
    >"$WORK/boot.log" 2>&1 </dev/null &
  within 30 pgrep -x systemd || { cat "$WORK/boot.log" >&2; fail "systemd does not boot"; }
  BOOTED=$(pgrep -xo systemd)
  within 60 inside systemctl is-system-running || { inside systemctl --failed >&2; fail "booting ends with failed units"; }
  say "$(inside systemctl --version | head -1)"
}

check_wrong_flag() {
  inside sh -c 'sed s/--memory/--memry/ /etc/baton/decode-tiny-gemma2.conf >/etc/baton/decode-wrong.conf'
  ! inside systemctl start baton-decode@wrong 2>/dev/null || fail "systemctl start succeeds with a wrong flag"
  [ "$(unit baton-decode@wrong NRestarts)" = 0 ] || fail "a wrong flag is tried again"
  journal baton-decode@wrong | grep -- '--memry' >/dev/null || fail "the journal does not name the wrong flag"
  inside systemctl reset-failed baton-decode@wrong
  ok "a wrong flag fails systemctl start at once, and the journal names it"
}

check_start() {
  inside systemctl start "${UNITS[@]}" || { inside journalctl --no-pager -n 30 >&2; fail "systemctl start failed"; }
  # Started means serving.
  local port
  for port in 7000 7101 7201; do
    inside baton --gateway 127.0.0.1:$port health >/dev/null || fail "port $port does not serve when systemctl start is over"
  done
  within 10 inside baton generate "$PROMPT" || fail "no answer"
  [ "$(inside baton generate "$PROMPT")" = "$ANSWER" ] || fail "a wrong answer"
  journal baton-gateway | grep 'INFO serving' >/dev/null || fail "no line in the journal"
  ok "systemctl start returns once all serve; a request is answered"
}

check_confinement() {
  local name status score
  for name in "${UNITS[@]}"; do
    status=$(inside cat "/proc/$(unit "$name" MainPID)/status")
    ! grep -E '^Cap(Inh|Prm|Eff|Bnd|Amb):' <<<"$status" | grep -qvE '\s0+$' || fail "$name has capabilities"
    grep -qE '^NoNewPrivs:\s+1$' <<<"$status" || fail "$name may gain privileges"
    grep -qE '^Seccomp:\s+2$' <<<"$status" || fail "$name may call everything"
    ! grep -qE '^Uid:\s+0\s' <<<"$status" || fail "$name runs as root"
    score=$(inside systemd-analyze security --no-pager "$name" 2>/dev/null | sed -n 's/.*exposure level for .*: \(.*\) .*/\1/p')
    say "    systemd-analyze security $name: $score"
  done
  ok "own user, no capabilities, no new privileges, system calls filtered"
}

serving() {
  inside baton status --once --json |
    python3 -c 'import json, sys; sys.exit(sum(w["state"] == "SERVING" for w in json.load(sys.stdin)["workers"]) != '"$1"')'
}

metric() { # PORT NAME: the sum of its series.
  inside bash -c "exec 3<>/dev/tcp/127.0.0.1/$1; printf 'GET /metrics HTTP/1.0\r\n\r\n' >&3; cat <&3" |
    awk -v name="$2" 'index($0, name "{") == 1 { sum += $NF } END { printf "%d", sum }'
}

start_load() {
  inside sh -c '
    cd /etc/baton
    for role in prefill decode; do
      sed "s/7101/7102/; s/9101/9102/; s/7201/7202/; s/9201/9202/" $role-tiny-gemma2.conf >$role-two.conf
    done
    sed -i "s/^BATON_FLAGS=\"/&--prefill-worker 127.0.0.1:7102 --decode-worker 127.0.0.1:7202 /" gateway.conf
    systemctl start baton-prefill@two baton-decode@two
    systemctl restart baton-gateway
    mkdir /load'
  within 30 serving 4 || fail "the gateway does not find 4 workers"
  LOAD_DIR=$WORK/root/load
  touch "$LOAD_DIR/requests"
  inside sh -c "$LOAD" &
  LOAD_PID=$!
  more_load
}

check_restarts() {
  local name
  for name in "${WORKERS[@]}"; do
    # One after another without waiting for anything: that is what Type=notify is for. Except for the gateway, which has
    # to have found the last one again.
    inside systemctl restart "$name" || fail "systemctl restart $name failed"
    within 30 serving 4 || fail "the gateway does not find $name again"
    more_load 10
    no_failures
    journal "$name" | grep draining >/dev/null || fail "the journal of $name does not tell of the drain"
  done
  [ "$(metric 9101 baton_handoff_shared_bytes_total)" -gt 0 ] || fail "units hand no states over by shared memory"
  ok "every worker restarted under load: $(requests) requests, none failed; states went through shared memory"
  for name in baton-decode@tiny-gemma2 baton-prefill@two; do
    inside systemctl kill -s KILL "$name"
    more_load
    within 30 serving 4 || fail "$name, killed, does not come back"
    [ "$(unit $name NRestarts)" = 1 ] || fail "systemd did not restart $name"
  done
  touch "$LOAD_DIR/stop"
  wait $LOAD_PID
  no_failures
  ok "killed workers are started again; $(requests) requests, none failed"
}

running() { [ "$(metric 9000 baton_requests_running)" -ge 1 ]; }

check_drain() {
  inside baton generate --ignore-eos --max-new-tokens 1500 "$PROMPT" >"$WORK/undisturbed"
  inside baton generate --ignore-eos --max-new-tokens 1500 "$PROMPT" >"$WORK/drained" &
  local client=$! started=$SECONDS
  within 20 running || fail "no request runs"
  # All at once, as at shutdown: the gateway drains first.
  inside systemctl stop "${WORKERS[@]}" baton-gateway
  wait $client || fail "a running request was lost by systemctl stop"
  cmp "$WORK/undisturbed" "$WORK/drained" || fail "systemctl stop changed an answer"
  journal baton-gateway | tail -12 | grep draining >/dev/null || fail "the journal does not tell of the drain"
  local name
  for name in "${UNITS[@]}"; do
    [ "$(unit "$name" Result) $(unit "$name" ExecMainStatus)" = "success 0" ] || fail "$name did not end with 0"
  done
  ok "systemctl stop lets a running request finish ($((SECONDS - started)) s); all end with 0"
}

check_upgrade() {
  inside systemctl start "${UNITS[@]}"
  local before after
  before=$(unit baton-gateway MainPID)
  inside sh -c 'cd /root && dpkg-deb -R baton.deb new && sed -i "s/^Version: .*/&.1/" new/DEBIAN/control &&
    echo "# of this machine" >>/etc/baton/prefill-tiny-gemma2.conf && dpkg-deb -Znone -b new new.deb >/dev/null &&
    DEBIAN_FRONTEND=noninteractive dpkg -i new.deb' >"$WORK/upgrade.log" 2>&1 || { cat "$WORK/upgrade.log" >&2; fail "upgrade"; }
  after=$(unit baton-gateway MainPID)
  [ "$before" = "$after" ] || fail "an upgrade restarted the gateway"
  inside grep -q 'of this machine' /etc/baton/prefill-tiny-gemma2.conf || fail "an upgrade lost the configuration"
  inside systemctl restart baton-prefill@tiny-gemma2
  within 30 inside baton generate "$PROMPT" || fail "no answer after the upgrade"
  ok "an upgrade leaves running what runs, and keeps the configuration"
}

check_removal() {
  local pids=() name
  for name in "${UNITS[@]}"; do pids+=("$(unit "$name" MainPID)"); done
  inside dpkg -r baton >"$WORK/remove.log" 2>&1 || { cat "$WORK/remove.log" >&2; fail "dpkg -r failed"; }
  for name in "${pids[@]}"; do ! inside kill -0 "$name" 2>/dev/null || fail "a process is still there after removal"; done
  inside test -f /etc/baton/gateway.conf || fail "removal took the configuration along"
  inside dpkg -P baton >>"$WORK/remove.log" 2>&1 || { cat "$WORK/remove.log" >&2; fail "dpkg -P failed"; }
  ! inside sh -c 'ls -d /var/cache/baton /var/lib/baton /var/cache/private/baton /etc/baton/gateway.conf' 2>/dev/null ||
    fail "purging left files"
  [ "$(inside systemctl --failed --no-legend | wc -l)" = 0 ] || { inside systemctl --failed >&2; fail "failed units are left"; }
  ok "removal drains and stops; purge leaves nothing but files of the administrator"
}

outside() {
  case "${1-}" in
    -h | --help) sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//'; exit 0 ;;
  esac
  [ $# = 1 ] && [ -f "$1" ] || fail "which package? tests/deploy/run_systemd.sh dist/baton_VERSION_amd64.deb; see --help" 2
  need_root
  need debootstrap:debootstrap systemd-nspawn:systemd-container nsenter:util-linux python3:python3
  WORK=$(mktemp -d "${TMPDIR:-/var/tmp}/baton-systemd.XXXXXX")
  trap 'rm -rf "$WORK"' EXIT
  export WORK
  make_root "$WORK/root" systemd systemd-sysv dbus
  cp "$1" "$WORK/root/root/baton.deb"
  systemd-nspawn -q -D "$WORK/root" --register=no --keep-unit --pipe sh -c 'apt-get update -q && DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -q --no-install-recommends /root/baton.deb' >"$WORK/install.log" 2>&1 </dev/null ||
    { tail -20 "$WORK/install.log" >&2; fail "the package cannot be installed"; }
  unshare --mount --pid --fork --kill-child --mount-proc --propagation private "$0" --booted
}

booted() {
  boot
  ! inside systemctl is-active "${UNITS[@]}" >/dev/null || fail "the installation started something"
  check_wrong_flag
  check_start
  check_confinement
  start_load
  check_restarts
  check_drain
  check_upgrade
  check_removal
  inside systemctl poweroff || true
}

case "${1-}" in
  --booted) booted ;;
  *) outside "$@" ;;
esac
