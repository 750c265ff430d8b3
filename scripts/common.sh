# What setup.sh, test.sh and demo.sh share. Sourced from the repository root.

# Tools must not wait for a terminal, nor depend on the caller's language.
export LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive PIP_DISABLE_PIP_VERSION_CHECK=1

root=$(pwd)
build=$root/build

say() { echo "$*"; }

die() {
  echo "error: $*" >&2
  exit 1
}

# quietly LOG COMMAND...: runs it with its output in LOG, of which the lines
# that tell what went wrong are shown if it fails.
quietly() {
  log=$1
  shift
  mkdir -p "$(dirname "$log")"
  "$@" >"$log" 2>&1 </dev/null && return 0
  grep -E 'error|FAILED|^E: ' "$log" | head -n 40 >&2
  tail -n 15 "$log" >&2
  die "'$*' failed; the whole log is $log"
}

# One heavy compile job per 2 GB of memory, as many as there are cores at most.
job_limit() {
  kib=$(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo)
  limit=$(cat /sys/fs/cgroup/memory.max 2>/dev/null || echo max)
  case $limit in
  *[!0-9]* | '') ;;
  *) [ $((limit / 1024)) -ge "$kib" ] || kib=$((limit / 1024)) ;;
  esac
  fit=$((kib / 2000000))
  cores=$(nproc)
  [ "$fit" -le "$cores" ] || fit=$cores
  [ "$fit" -ge 1 ] || fit=1
  echo "$fit"
}
