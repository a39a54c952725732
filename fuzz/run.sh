#!/usr/bin/env bash
# Looks for inputs that break a target. Needs the ordinary compiler and a C++ one, nothing else.
#
#   fuzz/run.sh                      all targets, 17 s each, two at a time: about two and a half minutes
#   fuzz/run.sh --seconds 3600 --seed 0
#                                    an hour each, nine hours in all on two cores, and another way each time
#   fuzz/run.sh f11_log f20_node     these targets only
#   fuzz/run.sh --keep               afterwards the committed corpora become the smallest ones that reach as much
#
# Without --seed everybody looks nearly the same way, as far as the time reaches: a change is judged by what it breaks,
# not by luck, and those who look further than the gate does see what it will see. Addresses are part of what guides a
# search, so they are kept from changing where the system allows that.
#
# What breaks a target is left in fuzz/found/; the same input on the command line of its program repeats it. Ends with
# the number of executions of each target and of all. Fails on any find, and on a target that did nothing.
set -euo pipefail
cd "$(dirname "$0")"
seconds=17 lanes=2 seed=1 keep=
only=()
while [ $# -gt 0 ]; do
  case $1 in
    --seconds) seconds=$2; shift ;;
    --lanes) lanes=$2; shift ;;
    --seed) seed=$2; shift ;;
    --keep) keep=yes ;;
    -*) sed -n '2,16s/^# \?//p' "$0"; exit 2 ;;
    *) only+=("$1") ;;
  esac
  shift
done

host=$(rustc -vV | sed -n 's/^host: //p')
out=${CARGO_TARGET_DIR:-target}/fuzz
# Build scripts and macros are not instrumented, because the target is named.
export CARGO_TARGET_DIR=$out
cargo build --quiet --locked --example corpus
coverage="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
  -Cllvm-args=-sanitizer-coverage-trace-compares"
RUSTFLAGS=$(echo $coverage) cargo build --quiet --locked --release --features libfuzzer --target "$host" --bins
programs=$out/$host/release
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$out/debug/examples/corpus" unpack "$work/seeds"
[ ${#only[@]} -gt 0 ] || mapfile -t only < <(ls "$work/seeds")
mkdir -p found "$work/new" "$work/logs"

still=
if setarch -R true 2>/dev/null; then still="setarch -R"; fi

# Long inputs say little about parsers; a node needs some length to get anywhere.
one() {
  mkdir -p "$work/new/$1"
  $still "$programs/$1" "$work/new/$1" "$work/seeds/$1" -seed="$seed" -max_total_time="$seconds" -timeout=10 \
    -rss_limit_mb=1024 -max_len=4096 -artifact_prefix="found/$1-" -print_final_stats=1 >"$work/logs/$1" 2>&1 \
    && echo ok >"$work/logs/$1.ok" || true
}
export -f one
export programs work seconds seed still
printf '%s\n' "${only[@]}" | xargs -P "$lanes" -I {} bash -c 'one {}'

failed= total=0
for target in "${only[@]}"; do
  log=$work/logs/$target
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  runs=${runs:-0} total=$((total + ${runs:-0}))
  first=$(grep -a -m1 INITED "$log" | sed 's/.*cov: \([0-9]*\).*/\1/' || true)
  last=$(grep -a 'cov: ' "$log" | tail -1 | sed 's/.*cov: \([0-9]*\).*/\1/' || true)
  printf '%-18s %12d executions, coverage %s to %s\n' "$target" "$runs" "${first:-?}" "${last:-?}"
  if [ ! -e "$log.ok" ] || [ "$runs" -eq 0 ]; then
    failed=yes
    grep -a -E -A12 'panicked|ERROR|out-of-memory|timeout' "$log" | head -40 || tail -20 "$log"
  elif [ -n "$keep" ]; then
    mkdir -p "$work/least/$target"
    "$programs/$target" -merge=1 -max_len=4096 -rss_limit_mb=1024 "$work/least/$target" "$work/seeds/$target" \
      "$work/new/$target" >/dev/null 2>&1
    "$out/debug/examples/corpus" pack "$target" "$work/least/$target"
  fi
done
echo "fuzz: ${#only[@]} targets, $total executions"
[ -z "$failed" ]
