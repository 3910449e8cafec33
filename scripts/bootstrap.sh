# Sourced by the other scripts here: from a bare Debian or Ubuntu machine to a virtual environment with everything in
# it. Quick where that was done before. SYMFUSE_VENV names another place than .venv in the checkout.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${SYMFUSE_VENV:-$root/.venv}
python=$venv/bin/python

# TensorFlow's own messages would bury ours; without oneDNN the same numbers come out on every machine.
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2} TF_ENABLE_ONEDNN_OPTS=${TF_ENABLE_ONEDNN_OPTS:-0}

say() { printf '\n== %s\n' "$*"; }
die() { printf '%s: %s\n' "$0" "$*" >&2; exit 1; }

# Debian's packages: root installs them, anybody else is told the command. False when they are still missing.
ensure_packages() {
  (($# > 0)) || return 0
  local command=(apt-get install -y --no-install-recommends "$@") log
  if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
    printf '%s: missing system packages: %s; install them with: sudo %s\n' "$0" "$*" "${command[*]}" >&2
    return 1
  fi
  say "Installing system packages: $*"
  log=$(mktemp)
  if ! { apt-get update && DEBIAN_FRONTEND=noninteractive "${command[@]}"; } >"$log" 2>&1 </dev/null; then
    tail -n 5 "$log" >&2
    rm -f "$log"
    printf '%s: could not install: %s\n' "$0" "$*" >&2
    return 1
  fi
  rm -f "$log"
}

# The first Python that is new enough; nothing when there is none.
find_python() {
  local candidate
  for candidate in python3 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
}

ensure_python() {
  base=$(find_python)
  if [[ -z $base ]]; then
    # Where python3 is there but too old (Ubuntu 22.04), a newer one has a package of its own.
    local name=python3
    ! command -v python3 >/dev/null || name=python3.11
    ensure_packages "$name" "$name-venv" || exit 1
    base=$(find_python)
    [[ -n $base ]] || die "needs Python 3.11 or newer, and this system's is older: use a newer Debian or Ubuntu"
  fi
  "$base" -c 'import ensurepip, venv' 2>/dev/null || ensure_packages "$base-venv" || exit 1
}

# What the environment was made from; another checkout, Python or list of dependencies makes it anew.
fingerprint() { { "$python" -V; echo "$root"; cat "$root/pyproject.toml"; } 2>/dev/null | sha256sum; }

# tensorflow-cpu is half the download, and the same where there is no GPU; there is one for x86-64 only.
tensorflow_group() {
  if "$python" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("tensorflow") is None)'; then
    echo images
  elif [[ $(uname -m) == x86_64 ]] && ! command -v nvidia-smi >/dev/null; then
    echo keras-cpu
  else
    echo keras
  fi
}

# ensure_venv [GROUP]: with everything, or at least with the tools of this dependency group.
ensure_venv() {
  local wanted=${1:-everything} made groups
  made=$([[ ! -x $python ]] || cat "$venv/made-from" 2>/dev/null) || made=
  [[ $made != "everything $(fingerprint)" && $made != "$wanted $(fingerprint)" ]] || return 0
  ensure_python
  if [[ $wanted == everything ]]; then
    say "Installing into $venv: symfuse, TensorFlow, the test tools (some 500 MB to download, once)"
  else
    say "Installing into $venv: symfuse and the test tools"
  fi
  "$base" -m venv "$venv" || die "cannot make $venv: name a directory that you may write with SYMFUSE_VENV=DIRECTORY"
  local pip=("$python" -m pip install --quiet --quiet --disable-pip-version-check)
  # Dependency groups came with pip 25.1; distributions ship older ones.
  "${pip[@]}" --upgrade 'pip>=25.1' || die "pip could not upgrade itself: see above"
  groups=(--group "$wanted")
  [[ $wanted != everything ]] || groups=(--group lint --group test --group "$(tensorflow_group)")
  # pip reads the groups of the pyproject.toml in the directory it runs in.
  (cd "$root" && "${pip[@]}" --editable . "${groups[@]}") || die "pip could not install what is needed: see above"
  echo "$wanted $(fingerprint)" >"$venv/made-from"
}
