# shellcheck shell=bash
# What .ci/run and .ci/full share: the environment, steps, and work that runs beside them.

export ORT_DISABLE_TELEMETRY=1 HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1
work=$(mktemp -d)
declare -A beside=()
trap 'ended "$?"' EXIT

step=start steps=0
step() { step=$*; steps=$((steps + 1)); printf '\n== %s (%d:%02d min)\n' "$*" $((SECONDS / 60)) $((SECONDS % 60)); }

# Leaves nothing behind; the last line says what failed, or that nothing did. The exit code stays what it was.
ended() {
  local time
  [ ${#beside[@]} = 0 ] || kill "${beside[@]}" 2>/dev/null || true
  rm -rf "$work"
  time=$(printf '%d:%02d' $((SECONDS / 60)) $((SECONDS % 60)))
  if [ "$1" = 0 ]; then echo "== $0: all $steps steps passed in $time min"; else echo "== $0: FAILED at '$step' after $time min"; fi
}

# start NAME COMMAND...: runs it beside what follows. finish NAME: waits for it, shows what it printed, fails as it did.
start() { (set -e; "${@:2}") >"$work/$1.log" 2>&1 & beside[$1]=$!; }
finish() {
  local code=0
  wait "${beside[$1]}" || code=$?
  unset "beside[$1]"
  cat "$work/$1.log"
  return "$code"
}

# environment [PACKAGE...]: one of its own with the versions of the lock, active from here on; and Debian's packages.
environment() {
  start packages native_packages "$@"
  python3 -m venv "$work/venv"
  # shellcheck disable=SC1091
  . "$work/venv/bin/activate"
  pip install -q -c requirements/lock.txt -e '.[dev]'
  finish packages
}

# passed NAME: whether NAME passed before with this very native/ on this machine. remember NAME: it has. A machine that
# forgets, or a folder without its commits, runs it again.
passed() { local stamp; stamp=$(_stamp "$1") && [ -f "$stamp" ]; }
remember() { local stamp; if stamp=$(_stamp "$1"); then mkdir -p "$(dirname "$stamp")" && touch "$stamp"; fi; }
_stamp() {
  local tree
  tree=$(git rev-parse --verify --quiet HEAD:native) && git diff --quiet HEAD -- native || return 1
  echo "${XDG_CACHE_HOME:-${HOME:-$work}/.cache}/allrounder-ci/$1-$tree"
}

# shellcheck source=.ci/native.sh
. .ci/native.sh
