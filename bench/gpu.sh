#!/usr/bin/env bash
# Build, test, measure and sanitize smoacs on a machine with a GPU, in one call of under ten minutes:
#
#     bash bench/gpu.sh [SECONDS [STAGE...]]     # by default 560 and all of: tests bench sanitize
#
# It needs nvcc, Python with torch, cmake, ninja, pybind11, scikit-build-core, what smoacs itself
# requires, pytest, and, or else tests or benchmarks cannot be collected, hypothesis, scipy, matscipy
# and pytest-benchmark. What is missing comes from .whl/*.whl if there is such a folder: nothing is
# downloaded. Everything goes to $OUT (default: build/gpu), at most eight files: a log of each stage,
# the record of the benchmarks, summary.txt and summary.json. Every stage has a time limit, and none
# depends on the success of another but the build; time for the sanitizers is set aside. The record
# is written case by case, the summary however the script ends. SMOACS_MARK chooses the cases; "not
# cuda" tries the script on a machine without a GPU.
# Peers take part if their wheels are there: vesin, alignn (with jarvis-tools, xmltodict, toolz,
# pydantic-settings, python-dotenv). Easily forgotten, as others need them: typing-inspection (by
# pydantic), latexcodec (by pybtex) and pylatexenc (by bibtexparser).
set -uo pipefail
cd "$(dirname "$0")/.." || exit

deadline=$((SECONDS + ${1:-560}))
asked=" ${*:2} "
[[ $asked =~ [^\ ] ]] || asked=" tests bench sanitize "
asked+="build "
out=$(mkdir -p "${OUT:-build/gpu}" && cd "${OUT:-build/gpu}" && pwd)
site=$(mktemp -d)
python=${PYTHON:-python3}
mark=${SMOACS_MARK:-cuda}
summary=$out/summary.txt
failed=0
reserved=0 # seconds that the present stage must leave to later ones
outcomes=()
rm -f "$summary" "$out"/{build,tests,bench,sanitize}.log "$out"/summary.json

PATH=$PATH:/usr/local/cuda/bin
export PYTHONPATH=$site PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
SMOACS_REVISION=${SMOACS_REVISION:-$(git describe --always --dirty=+ 2>/dev/null || echo unknown)}
export SMOACS_REVISION

asked() { [[ $asked == *" $1 "* ]]; }
say() { echo "$*" | tee -a "$summary"; }
outcome() { outcomes+=("{\"stage\": \"$1\", \"outcome\": \"$2\", \"seconds\": $3}"); }

# shellcheck disable=SC2329  # called at the end
write_outcomes() {
  local IFS=,
  echo "{\"revision\": \"$SMOACS_REVISION\", \"seconds\": $SECONDS, \"stages\": [${outcomes[*]}]}" \
    >"$out/summary.json"
}
trap write_outcomes EXIT

# stage NAME LIMIT COMMAND...: run with a time limit, into NAME.log. Interrupted first, so that
# pytest still writes what it has; killed ten seconds later.
stage() {
  local name=$1 limit=$2 start=$SECONDS status
  shift 2
  asked "${name%%-*}" || return 0
  local left=$((deadline - SECONDS - 15 - reserved))
  ((limit = limit < left ? limit : left))
  if ((limit < 10)); then
    say "$name: left out, no time remains"
    outcome "$name" "left out" 0
    failed=1
    return 1
  fi
  timeout --signal=INT --kill-after=10 "$limit" "$@" >>"$out/${name%%-*}.log" 2>&1
  status=$?
  local took=$((SECONDS - start))
  case $status in
    0) say "$name: passed in $took s" && outcome "$name" passed "$took" ;;
    124 | 137) say "$name: stopped at its limit of $limit s" && outcome "$name" stopped "$took" ;;
    *) say "$name: FAILED ($status) in $took s; the end of its log:" && outcome "$name" failed "$took" ;;
  esac
  if ((status)); then
    failed=1
    tail -n 15 "$out/${name%%-*}.log" | cut -c 1-200 | tee -a "$summary"
  fi
  return "$status"
}

# shellcheck disable=SC2329  # called through bash -c
describe() {
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
  nvcc --version | tail -n 1
  "$python" - "$mark" <<'PYTHON'
import platform, sys, torch
print("Python", platform.python_version(), "torch", torch.__version__)
sys.exit(sys.argv[1] == "cuda" and not torch.cuda.is_available() and "torch finds no GPU")
PYTHON
}

# shellcheck disable=SC2329
install() {
  local pip=("$python" -m pip install --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site")
  if compgen -G '.whl/*.whl' >/dev/null; then "${pip[@]}" -q .whl/*.whl || return; fi
  local build=(--no-build-isolation)
  if [ "$mark" = cuda ]; then # for this GPU alone, and never without the kernels
    local capability
    capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)
    build+=(--config-settings=cmake.define.SMOACS_CUDA=ON
      --config-settings="cmake.define.CMAKE_CUDA_ARCHITECTURES=$capability-real")
  fi
  "${pip[@]}" "${build[@]}" . && (cd / && "$python" -m smoacs doctor)
}
export -f describe install
export python site mark
pytest=("$python" -P -m pytest -p no:cacheprovider -q -m "$mark")

if ! stage build-machine 60 bash -c describe || ! stage build-package 240 bash -c install; then
  say "nothing else can run"
  exit 1
fi
asked sanitize && reserved=150
stage tests 150 "${pytest[@]}" --continue-on-collection-errors tests

# The suites that matter most come first; each is a process of its own, since a kernel that faults
# takes its process's GPU context with it. All add to one record.
for suite in alignn_graph masked_softmax neighbors alignn_step main_job resample; do
  stage "bench-$suite" 120 "${pytest[@]}" "bench/test_$suite.py" --seconds=0.3 \
    --benchmark-columns=min,median,rounds --record="$out"
done

# Own allocations for every tensor, so that reading beyond one is noticed.
export PYTORCH_NO_CUDA_MEMORY_CACHING=1
reserved=0
sanitize() { # TOOL LIMIT TESTS OPTION...
  local tool=$1 limit=$2 tests=$3
  shift 3
  stage "sanitize-$tool" "$limit" compute-sanitizer --tool "$tool" --error-exitcode 3 "$@" \
    "${pytest[@]}" -k "($tests) and not dtype1" tests
}
if asked sanitize && ! command -v compute-sanitizer >/dev/null; then
  say "sanitize: left out, there is no compute-sanitizer"
  outcome sanitize "left out" 0
else
  if grep -rqw __shared__ csrc; then
    sanitize racecheck 60 ragged --kernel-name kns=smoacs
  else
    say "sanitize-racecheck: left out, it looks at shared memory only, which no kernel uses"
    outcome sanitize-racecheck "left out" 0
  fi
  cases="ragged or large_cell or too_little_room or no_edges or no_nodes or not_there or norm_silu"
  sanitize memcheck 120 "$cases or interpolation or same_bits" --kernel-name kns=smoacs
  # Here torch's kernels take part: what they write counts as written.
  sanitize initcheck 60 "ragged or no_edges"
fi

say "all of it took $SECONDS s; results are in $out"
exit "$failed"
