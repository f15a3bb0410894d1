#!/usr/bin/env bash
# Builds llama-server, of exactly the llama.cpp that the installed llama-cpp-python wraps, into DIR, so that
# benchmarks/typing_trace.py compares servers and not versions of the library below them.
#
#   scripts/build_llama_server.sh DIR
#   DIR/llama-server --version
#
# The source is that of the Python package, from the package index; nothing else is fetched, so there is no web page in
# it. PYTHON names the interpreter that has llama-cpp-python, JOBS how many compilers run at a time. Takes 7 minutes on
# two cores. Running it again does nothing.
set -euo pipefail

[ $# -eq 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
python=${PYTHON:-python3}
jobs=${JOBS:-$(nproc)}

missing=()
for tool in cmake g++ "$python"; do
  command -v "$tool" >/dev/null || missing+=("$tool")
done
if [ ${#missing[@]} -gt 0 ]; then
  echo "$0: missing: ${missing[*]}. cmake comes with pip install cmake, the compiler with apt-get install g++ make" >&2
  exit 2
fi
version=$("$python" -c 'from importlib.metadata import version; print(version("llama-cpp-python"))') || {
  echo "$0: $python has no llama-cpp-python; set PYTHON to the interpreter of codelm's environment" >&2
  exit 2
}

mkdir -p "$1"
cd "$1"
dir=$PWD
stamp=$dir/.built-$version
[ -e "$stamp" ] && exit 0

log=$dir/build.log
: >"$log"
trap '[ $? -eq 0 ] || { echo "building llama-server failed; the end of $log:" >&2; tail -n 20 "$log" >&2; }' EXIT

{
  "$python" -m pip download --no-binary llama-cpp-python --no-deps --dest . "llama-cpp-python==$version"
  tar -xzf "llama_cpp_python-$version.tar.gz"
  # these kernels crash when GCC compiles them (serving/llamacpp.py)
  if echo __AMX_INT8__ | "${CXX:-g++}" -march=native -E -P -x c++ - | grep -qx 1; then
    export CFLAGS="${CFLAGS:-} -mno-amx-int8" CXXFLAGS="${CXXFLAGS:-} -mno-amx-int8"
  fi
  generator=()
  if command -v ninja; then generator=(-G Ninja); fi
  cmake "${generator[@]}" -S "llama_cpp_python-$version/vendor/llama.cpp" -B build \
    -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
    -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_CURL=OFF
  cmake --build build --target llama-server --parallel "$jobs"
} >>"$log" 2>&1

cp build/bin/llama-server .
./llama-server --version
touch "$stamp"
