#!/usr/bin/env bash
# Dependencies point one way: gateway, prefill and decode include common and themselves; a layer of common includes only
# the layers before it. Prints every include that crosses a wall and fails if there is one.
set -euo pipefail
cd "$(dirname "$0")/.."
layers=(base observe compute text state model sampling rpc)
failed=0

# cross WHERE REGEX: includes below WHERE that match REGEX are not allowed.
cross() {
  local found
  found=$(grep -rnE --include='*.h' --include='*.cc' "#include \"$2" "$1" || true)
  if [ -n "$found" ]; then
    printf '%s\n' "$found"
    failed=1
  fi
}

cross gateway '(prefill|decode|bench|tests)/'
cross prefill '(gateway|decode|bench|tests)/'
cross decode '(gateway|prefill|bench|tests)/'
cross common '(gateway|prefill|decode|bench|tests)/'
for i in "${!layers[@]}"; do
  later=$(IFS='|'; echo "${layers[*]:i+1}")
  if [ -n "$later" ]; then cross "common/${layers[i]}" "common/($later)/"; fi
done

# Only the edge speaks protobuf and gRPC.
for layer in "${layers[@]}"; do
  if [ "$layer" != rpc ]; then cross "common/$layer" '[a-z/0-9]*\.pb\.h'; fi
done

if [ "$failed" = 1 ]; then
  echo "layers: the includes above point the wrong way (docs/architecture.md)" >&2
  exit 1
fi
echo "layers: every include points the right way"
