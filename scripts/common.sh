# Sourced by the scripts beside it: the repository's root, and habits they share.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\n== %s\n' "$*"; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# A checkout that belongs to another user is still ours to read.
tracked() { git -c safe.directory='*' ls-files -- "$@"; }

# As many compilers as there are cores and memory; CMake's own variable overrides that.
# One takes up to about 2 GB on the sources that include CAF.
job_count() {
  if [[ -n ${CMAKE_BUILD_PARALLEL_LEVEL:-} ]]; then
    echo "$CMAKE_BUILD_PARALLEL_LEVEL"
    return
  fi
  local cores memory
  cores=$(nproc)
  memory=$(awk '/^MemAvailable:/ { print int($2 / 2000000) }' /proc/meminfo)
  if ((memory < 1)); then memory=1; fi
  echo $((cores < memory ? cores : memory))
}

# ccache needs a place to write to; machines that only test may have no home.
if [[ -z ${CCACHE_DIR:-} && ! -w ${HOME:-/nonexistent} ]]; then
  export CCACHE_DIR=$PWD/build/ccache
fi

# Two checkouts of the same sources share what was compiled.
export CCACHE_BASEDIR=${CCACHE_BASEDIR:-$PWD} CCACHE_NOHASHDIR=${CCACHE_NOHASHDIR:-1}

# By what a compiler read, never by what its preprocessor made of that: a comment is gone from it, and
# a precompiled header knows its headers by their bytes. One that was kept for other bytes includes
# them twice. What has no list of what it read (-MD) is not kept.
export CCACHE_DEPEND=${CCACHE_DEPEND:-1}
# Without these ccache compiles anew every source that has a precompiled header.
export CCACHE_SLOPPINESS=${CCACHE_SLOPPINESS:-pch_defines,time_macros,include_file_mtime,include_file_ctime}
