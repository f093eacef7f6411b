#!/usr/bin/env bash
# gpu_check_test.sh ROOT: scripts/gpu-check leaves what was done whenever it is stopped, and does the
# steps that it is told to, in an order in which the measurements come early. With compilers in the
# place of CUDA's that write small scripts.
set -euo pipefail
root=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { printf 'gpu_check_test: %s\n' "$*" >&2; exit 1; }

# Links "programs" that note that they ran, and do what the files say.
cat >"$work/nvcc" <<'EOF'
#!/usr/bin/env bash
while (($# > 0)); do
  [[ $1 == --version ]] && echo "a compiler of the tests"
  [[ $1 == -o ]] && to=$2
  shift
done
[[ -n ${to:-} ]] || exit 0
cp "$(dirname "$0")/program" "$to"
EOF
cat >"$work/program" <<EOF
#!/usr/bin/env bash
name=\$(basename "\$0")
[[ \$name == bench && \${1:-} == 0.01 ]] && exit "\$(cat "$work/probe")"
echo "\$name \${LOCKSTEP_BEDS:-}" >>"$work/ran"
if [[ -e "$work/\$name-hangs" ]]; then
  touch "$work/hanging"
  while [[ -e "$work/\$name-hangs" ]]; do sleep 0.1; done
  exit 1
fi
[[ \$name == bench ]] && echo '{"ms": 1}'
exit 0
EOF
chmod +x "$work/nvcc" "$work/program"
cp "$work/nvcc" "$work/c++"
cat >"$work/compute-sanitizer" <<EOF
#!/usr/bin/env bash
echo "\$2" >>"$work/ran"
EOF
chmod +x "$work/compute-sanitizer"

check() {  # check [STEPS]
  NVCC=$work/nvcc CXX=$work/c++ GPU_CHECK_OUT=$work/out GPU_CHECK_STEPS=${1:-} \
    PATH=$work:$PATH "$root/scripts/gpu-check" >"$work/said" 2>&1
}
result() {  # result STEP
  sed -n "s/^\"$1\": \"\(.*\)\",*$/\1/p" "$work/out/result.json"
}
expect() {  # expect STEP WORDS
  [[ $(result "$1") == "$2" ]] || fail "$1 is '$(result "$1")', not '$2'; $(cat "$work/said")"
}

# No device: all is built, nothing run.
echo 77 >"$work/probe"
status=0
check || status=$?
((status == 77)) || fail "without a device it ended with $status: $(cat "$work/said")"
expect build ok
expect tests "not run"
expect device none

# Stopped in the benchmark: what came before it is there.
echo 0 >"$work/probe"
touch "$work/bench-hangs"
rm -f "$work/ran"
setsid bash -c "$(declare -f check); work=$work root=$root check" &
for ((i = 0; i < 300; ++i)); do
  if [[ -e $work/hanging ]]; then break; fi
  sleep 0.1
done
[[ -e $work/hanging ]] || fail "the benchmark did not begin: $(cat "$work/said")"
kill -KILL -- "-$!"
wait 2>/dev/null || true
expect tests ok
expect bench "not finished"
expect memcheck "not run"

# One step at a time; the others are kept.
rm "$work/bench-hangs" "$work/ran"
check bench || fail "bench ended with $?: $(cat "$work/said")"
[[ $(cat "$work/ran") == "bench " ]] || fail "other steps ran: $(cat "$work/ran")"
expect tests ok
expect bench ok
grep -q '"measured": {"ms": 1}' "$work/out/result.json" || fail "nothing was measured"

# All of them, in order.
rm "$work/ran"
check || fail "all ended with $?: $(cat "$work/said")"
[[ $(tr -s ' \n' ' ' <"$work/ran") == "tests emulated tests cuda bench memcheck racecheck " ]] ||
  fail "in another order: $(cat "$work/ran")"
expect racecheck ok
check nonsense && fail "a step that there is none of was taken"
exit 0
