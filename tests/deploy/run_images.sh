#!/usr/bin/env bash
# Builds the container image with deploy/docker/Dockerfile, starts deploy/docker/docker-compose.yml from it, and holds both
# to what docs/deployment.md says of them: confinement, requests through all three roles, Prometheus, restarts under load,
# memory limits, drain. By hand, not in CI: 7 minutes with a warm ccache (25 without, of 2 cores), 4 GB in $TMPDIR (/var/tmp).
#
#   sudo tests/deploy/run_images.sh [--ccache DIR]
#
# Needs root and `apt-get install --no-install-recommends debootstrap podman buildah crun netavark aardvark-dns iptables
# docker-compose prometheus`: podman answers on Docker's socket. There need be no registry: debian:12-slim is made by
# debootstrap, prom/prometheus of Debian's package with the entry point of the official image. Grafana is left out, as
# Debian has none. Everything lives in namespaces and a directory of its own and goes with them; only building the image
# uses this machine's network. DIR (~/.cache/ccache) is read, not written.
set -euo pipefail
# shellcheck source=tests/deploy/real_start.sh
. "$(dirname "${BASH_SOURCE[0]}")/real_start.sh"

PROJECT=batontest
PROMPT="What is the capital of France?"
COMPOSE=$ROOT/deploy/docker/docker-compose.yml

compose() { docker-compose -p $PROJECT -f "$COMPOSE" "$@"; }
container() { printf '%s_%s' $PROJECT "$1"; }
in_container() { podman exec "$(container "$1")" "${@:2}"; }
# Health checks are run by this script: podman leaves their schedule to systemd, which namespaces do not have.
run_image() { podman run --rm --no-healthcheck "$@"; }

# ---- Images ----

make_base_image() {
  local base=$WORK/base
  make_root "$base"
  # As in the official slim image: no documents, and apt keeps nothing.
  cat >"$base/etc/dpkg/dpkg.cfg.d/docker" <<'EOF'
path-exclude /usr/share/doc/*
path-include /usr/share/doc/*/copyright
path-exclude /usr/share/info/*
path-exclude /usr/share/locale/*
path-exclude /usr/share/man/*
EOF
  cat >"$base/etc/apt/apt.conf.d/docker-clean" <<'EOF'
DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/archives/partial/*.deb /var/cache/apt/*.bin || true"; };
APT::Update::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/archives/partial/*.deb /var/cache/apt/*.bin || true"; };
Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache "";
EOF
  rm -rf "$base"/var/lib/apt/lists/* "$base"/var/log/*.log "$base"/var/cache/apt/*.bin \
    "$base"/usr/share/doc/* "$base"/usr/share/info/* "$base"/usr/share/locale/* "$base"/usr/share/man/*
  tar -C "$base" -c . | podman import -q --change 'CMD ["bash"]' - docker.io/library/debian:12-slim >/dev/null
  rm -rf "$base"
}

make_prometheus_image() {
  mkdir "$WORK/prometheus"
  cp "$(command -v prometheus)" "$(command -v promtool)" "$WORK/prometheus"
  cat >"$WORK/prometheus/Dockerfile" <<'EOF'
FROM docker.io/library/debian:12-slim
COPY prometheus promtool /bin/
RUN install -d -o nobody -g nogroup /prometheus && install -d /etc/prometheus
USER nobody
VOLUME /prometheus
WORKDIR /prometheus
ENTRYPOINT ["/bin/prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
EOF
  local tag
  tag=$(sed -n 's/^ *image: \(prom\/.*\)/\1/p' "$COMPOSE")
  buildah bud -q --network none -t "docker.io/$tag" "$WORK/prometheus" >/dev/null
}

make_baton_image() {
  # What the Dockerfile keeps between builds, seeded with what this machine has compiled.
  local cache=$TMPDIR/buildah-cache/baton-ccache
  mkdir -p "$cache"
  if [ -n "$CCACHE" ]; then
    mkdir "$WORK/ccache" "$WORK/ccache-work"
    mount -t overlay overlay -o "lowerdir=$CCACHE,upperdir=$WORK/ccache,workdir=$WORK/ccache-work" "$cache"
    printf 'max_size = 40G\n' >"$cache/ccache.conf"
  fi
  # Health checks are a thing of Docker's format.
  buildah bud --format docker --network host -t baton:0.1.0 -f "$ROOT/deploy/docker/Dockerfile" "$ROOT" \
    >"$WORK/build.log" 2>&1 || { tail -30 "$WORK/build.log" >&2; fail "the image was not built"; }
}

check_image() {
  local role
  for role in gateway prefill decode; do
    run_image --network none baton:0.1.0 baton-$role --help >/dev/null || fail "baton-$role --help fails in the image"
  done
  [ "$(podman inspect -f '{{.Config.User}}' baton:0.1.0)" = 10001:10001 ] || fail "the image's user is not 10001"
  ok "image built, $(podman inspect -f '{{.Size}}' baton:0.1.0 | awk '{printf "%d", $1 / 1e6}') MB"
}

check_memory_limit() {
  local worker=(baton-decode --model /usr/share/baton/models/tiny-gemma2 --listen 127.0.0.1:0) output
  output=$(run_image --network none -m 300m baton:0.1.0 timeout 3 "${worker[@]}" 2>&1) || true
  [[ $output == *"control group"*"300.0 MiB"* && $output == *READY* ]] || fail "the limit of memory was not seen: $output"
  if output=$(run_image --network none -m 300m baton:0.1.0 timeout 3 "${worker[@]}" --memory 290MiB 2>&1); then
    fail "a worker started that its memory limit has no room for"
  fi
  [[ $output == *"not enough memory"* ]] || fail "no word of the memory limit: $output"
  ok "a worker plans with its container's memory limit and refuses what that has no room for"
}

# ---- The fleet ----

healthy() { podman healthcheck run "$(container "$1")" >/dev/null; }

serving() {
  [ "$(in_container gateway_1 baton status --once --json |
    python3 -c 'import json, sys; print(sum(w["state"] == "SERVING" for w in json.load(sys.stdin)["workers"]))')" = "$1" ]
}

start_fleet() {
  # Grafana's image is nowhere to be had; the services are named so that it is left out.
  compose up -d --no-build --scale prefill=2 --scale decode=2 gateway prefill decode prometheus >"$WORK/up.log" 2>&1 ||
    { cat "$WORK/up.log" >&2; fail "docker-compose up failed"; }
  local name
  for name in gateway_1 prefill_1 prefill_2 decode_1 decode_2; do
    within 60 healthy "$name" || { podman logs "$(container "$name")" >&2; fail "$name does not become healthy"; }
  done
  within 30 serving 4 || { in_container gateway_1 baton status --once; fail "the gateway does not find 4 workers"; }
  ok "docker-compose up: all containers healthy, the gateway found 2 + 2 workers by DNS"
}

check_confinement() {
  local name status
  for name in gateway_1 prefill_1 decode_1; do
    status=$(in_container "$name" cat /proc/1/status)
    grep -qE '^Uid:\s+10001\s+10001\s+10001\s+10001$' <<<"$status" || fail "$name does not run as user 10001"
    ! grep -E '^Cap(Inh|Prm|Eff|Bnd|Amb):' <<<"$status" | grep -qvE '\s0+$' || fail "$name has capabilities"
    grep -qE '^NoNewPrivs:\s+1$' <<<"$status" || fail "$name may gain privileges"
    [ "$(in_container "$name" cat /proc/1/comm)" != sh ] || fail "signals to $name reach a shell, not the program"
    ! in_container "$name" sh -c 'touch /root-file || touch /etc/root-file || touch /usr/bin/root-file' 2>/dev/null ||
      fail "the root of $name is not read-only"
    in_container "$name" sh -c 'touch /tmp/file && rm /tmp/file' || fail "$name has no /tmp"
  done
  ok "user 10001, no capabilities, no new privileges, read-only root"
}

check_requests() {
  [ "$(in_container gateway_1 baton generate "$PROMPT")" = "The capital of France is Paris." ] || fail "a wrong answer"
  [ "$(run_image --network host baton:0.1.0 baton --gateway 127.0.0.1:7000 generate \
    "$PROMPT")" = "The capital of France is Paris." ] || fail "a wrong answer at the published port"
  # A conversation outlives the process that keeps it.
  local session
  session=$(in_container gateway_1 baton generate --json --keep-state "$PROMPT" |
    python3 -c 'import json, sys; print([json.loads(line) for line in sys.stdin][-1]["session"]["handle"])')
  podman stop -t 60 "$(container decode_1)" "$(container decode_2)" >/dev/null 2>&1
  within 30 serving 2 || fail "the gateway does not notice that decode workers are gone"
  podman start "$(container decode_1)" "$(container decode_2)" >/dev/null 2>&1
  within 60 serving 4 || fail "decode workers do not come back"
  in_container gateway_1 baton generate --session "$session" "And of Italy?" >/dev/null || fail "the conversation is lost"
  ok "requests inside and at the published port; a conversation outlives the restart of all decode workers"
}

start_load() {
  LOAD_DIR=$WORK/load
  mkdir "$LOAD_DIR"
  chmod 777 "$LOAD_DIR"
  touch "$LOAD_DIR/requests"
  chmod 666 "$LOAD_DIR/requests"
  # By address: podman's name server is away for seconds while it starts a container again.
  podman run -d --no-healthcheck --name load --network ${PROJECT}_default -e LOAD_DIR=/load \
    -e "BATON_GATEWAY=$(in_container gateway_1 hostname -i):7000" \
    -v "$LOAD_DIR:/load" baton:0.1.0 sh -c "$LOAD" >/dev/null
  more_load
}
stop_load() {
  touch "$LOAD_DIR/stop"
  podman wait load >/dev/null
  podman rm load >/dev/null
  no_failures
}

check_restarts() {
  start_load
  local name
  for name in prefill_1 decode_1 prefill_2 decode_2; do
    podman stop -t 60 "$(container $name)" >/dev/null 2>&1
    [ "$(podman inspect -f '{{.State.ExitCode}}' "$(container $name)")" = 0 ] || fail "$name did not drain"
    podman logs "$(container $name)" 2>&1 | grep draining >/dev/null || fail "the log of $name does not tell of the drain"
    more_load
    podman start "$(container $name)" >/dev/null 2>&1
    within 60 serving 4 || fail "the gateway does not find $name again"
    more_load
  done
  ok "every worker stopped (drained, exit code 0) and started under load: $(requests) requests, none failed"
  kill -KILL "$(podman inspect -f '{{.State.Pid}}' "$(container decode_1)")"
  more_load
  within 60 serving 4 || { podman ps -a >&2; fail "a killed worker is not started again"; }
  stop_load
  ok "a killed decode worker is started again; $(requests) requests, none failed"
}

# scraped EXPRESSION: the number that Prometheus has for it.
scraped() {
  python3 - "$1" <<'EOF'
import json, sys, urllib.parse, urllib.request
url = "http://127.0.0.1:9090/api/v1/query?query=" + urllib.parse.quote(sys.argv[1])
result = json.load(urllib.request.urlopen(url, timeout=10))["data"]["result"]
print(int(float(result[0]["value"][1])) if result else 0)
EOF
}
scraped_at_least() { [ "$(scraped "$1")" -ge "$2" ]; }

check_prometheus() {
  within 60 scraped_at_least 'count(up{job="baton"} == 1)' 5 || fail "Prometheus does not scrape all 5 processes"
  within 60 scraped_at_least 'count({__name__=~"baton:.*"})' 5 || fail "recording rules record nothing"
  within 30 scraped_at_least 'sum(baton_handoff_bytes_total{role="prefill"})' 1 || fail "no state went from prefill to decode"
  python3 - <<'EOF'
import json, urllib.request
groups = json.load(urllib.request.urlopen("http://127.0.0.1:9090/api/v1/rules", timeout=10))["data"]["groups"]
rules = [rule for group in groups for rule in group["rules"]]
assert len(rules) > 20, len(rules)
assert all(rule["health"] == "ok" for rule in rules), [rule for rule in rules if rule["health"] != "ok"]
EOF
  ok "Prometheus scrapes 5 processes; every rule of rules.yml is evaluated"
}

check_stop() {
  compose stop >"$WORK/stop.log" 2>&1
  local name
  for name in gateway_1 prefill_1 prefill_2 decode_1 decode_2; do
    [ "$(podman inspect -f '{{.State.ExitCode}}' "$(container $name)")" = 0 ] || fail "$name did not end with 0"
  done
  compose down -v >>"$WORK/stop.log" 2>&1 || { cat "$WORK/stop.log" >&2; fail "docker-compose down failed"; }
  ok "docker-compose stop: all drained and ended with 0; docker-compose down"
}

metric() { # PORT NAME: the sum of its series.
  python3 - "$@" <<'EOF'
import sys, urllib.request
lines = urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/metrics", timeout=10).read().decode().splitlines()
print(int(sum(float(line.split()[-1]) for line in lines if line.startswith(sys.argv[2] + "{"))))
EOF
}

# Workers of one host that share a process namespace, as docs/deployment.md says of `pid:`.
check_shared_memory() {
  local model=/usr/share/baton/models/tiny-gemma2 prompt
  local confined=(--no-healthcheck --network host --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges)
  podman run -d --name prefill "${confined[@]}" baton:0.1.0 baton-prefill --model $model --memory 128MiB \
    --listen 127.0.0.1:7101 --metrics 127.0.0.1:9101 >/dev/null
  podman run -d --name decode --pid container:prefill "${confined[@]}" baton:0.1.0 baton-decode --model $model \
    --memory 128MiB --listen 127.0.0.1:7201 --metrics off >/dev/null
  podman run -d --name gateway "${confined[@]}" baton:0.1.0 baton-gateway --prefill-worker 127.0.0.1:7101 \
    --decode-worker 127.0.0.1:7201 --metrics off >/dev/null
  prompt=$(printf 'Paris is the capital of France and Rome is that of Italy. %.0s' {1..60})
  within 60 podman exec gateway baton generate --max-new-tokens 4 "$prompt" || fail "no answer through a shared process namespace"
  [ "$(metric 9101 baton_handoff_shared_bytes_total)" -gt 0 ] || fail "no state went through shared memory"
  ok "containers in one process namespace hand states over by shared memory"
}

# ---- Stages, each in namespaces inside those of the one before ----

clean_up() {
  rm -rf "$WORK"
  # Control groups know no namespaces. Those that hold a process are somebody else's, and stay.
  find /sys/fs/cgroup -depth -type d -path '*/libpod_parent*' -exec rmdir {} + 2>/dev/null || true
}

outside() {
  CCACHE=$HOME/.cache/ccache
  while [ $# -gt 0 ]; do
    case "$1" in
      --ccache) CCACHE=${2:?--ccache needs a directory}; shift ;;
      -h | --help) sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//'; exit 0 ;;
      *) fail "unknown option $1; see --help" 2 ;;
    esac
    shift
  done
  [ -d "$CCACHE" ] || CCACHE=
  need_root
  need debootstrap:debootstrap podman:podman buildah:buildah crun:crun docker-compose:docker-compose \
    iptables:iptables prometheus:prometheus python3:python3 tar:tar
  WORK=$(mktemp -d "${TMPDIR:-/var/tmp}/baton-images.XXXXXX")
  trap clean_up EXIT
  export WORK CCACHE
  unshare --mount --pid --fork --kill-child --mount-proc --propagation private "$0" --stage images
}

images() {
  # crun takes control groups of version 1 or 2, not both at once.
  if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi
  export TMPDIR=$WORK/tmp CONTAINERS_CONF=$WORK/containers.conf CONTAINERS_STORAGE_CONF=$WORK/storage.conf
  mkdir "$TMPDIR"
  # What podman keeps for the whole machine, wherever its storage is.
  local directory
  for directory in /run/netns /run/crun /run/libpod /run/containers /dev/shm; do
    mkdir -p $directory
    mount -t tmpfs tmpfs $directory
  done
  # The limits that podman would set by itself may be beyond this machine's.
  local processes descriptors most
  processes=$(ulimit -Hu) descriptors=$(ulimit -Hn) most=$(cat /proc/sys/kernel/pid_max)
  if [ "$processes" = unlimited ] || [ "$processes" -gt "$most" ]; then processes=$most; fi
  cat >"$CONTAINERS_CONF" <<EOF
[containers]
default_ulimits = ["nofile=$descriptors:$descriptors", "nproc=$processes:$processes"]
[network]
network_config_dir = "$WORK/networks"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
EOF
  cat >"$CONTAINERS_STORAGE_CONF" <<EOF
[storage]
driver = "overlay"
graphroot = "$WORK/storage"
runroot = "$WORK/run"
EOF
  # It has an opinion of a network setup that it does not use.
  podman info >/dev/null 2>&1 || fail "podman info fails"
  say "$(podman --version), $(buildah --version | cut -d' ' -f1-3), $(docker-compose --version), $(prometheus --version 2>&1 |
    head -1 | cut -d' ' -f1-3)"
  make_base_image
  make_prometheus_image
  make_baton_image
  check_image
  check_memory_limit
  unshare --net "$0" --stage fleet
}

fleet() {
  ip link set lo up
  export DOCKER_HOST=unix://$WORK/podman.sock
  podman system service --time=0 "$DOCKER_HOST" >"$WORK/service.log" 2>&1 &
  within 20 test -S "$WORK/podman.sock" || fail "podman does not listen on its socket"
  start_fleet
  check_confinement
  check_requests
  check_restarts
  check_prometheus
  check_stop
  check_shared_memory
  # What is still there then ends with the namespaces.
  podman rm -fa >/dev/null 2>&1 || true
}

case "${1-}" in
  --stage) "$2" ;;
  *) outside "$@" ;;
esac
