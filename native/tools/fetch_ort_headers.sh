#!/usr/bin/env bash
# Fetches ONNX Runtime's headers (API 21) into a folder: fetch_ort_headers.sh DIR, then cmake -DORT_ROOT=DIR/usr.
#
# Debian 12 has no package of them; that of Debian 13 is downloaded with this system's own mirrors and keys, checked
# against its known digest, and unpacked. Nothing is installed. Only headers are used: ONNX Runtime itself is opened
# when a program runs. API 21 is the oldest that is supported, so what is compiled with it runs with every later one.
set -euo pipefail
package=libonnxruntime-dev
digest=14f7d959d5deacbcf1504830d4189f91fc67382b399ed9ae9d3aa9c4050ced08
wanted=${1:?"usage: fetch_ort_headers.sh DIR"}

sources=/etc/apt/sources.list.d/debian.sources
if [ ! -f "$sources" ]; then
  echo "this is no Debian 12 system (no $sources): take ONNX Runtime's headers from elsewhere, see native/README.md" >&2
  exit 1
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work" # apt drops its rights to download
mkdir -p "$work"/{parts,lists/partial,cache/archives/partial}
sed 's/bookworm/trixie/g' "$sources" >"$work/parts/trixie.sources"
options=(-oDir::Etc::SourceList=/dev/null "-oDir::Etc::SourceParts=$work/parts"
  "-oDir::State::Lists=$work/lists" "-oDir::Cache=$work/cache" -oAPT::Sandbox::User=root)

apt-get -qq "${options[@]}" update
(cd "$work" && apt-get -qq "${options[@]}" download "$package")
echo "$digest  $(echo "$work/$package"_*.deb)" | sha256sum --check --quiet
mkdir -p "$wanted"
dpkg -x "$work/$package"_*.deb "$wanted"
test -f "$wanted/usr/include/onnxruntime/onnxruntime_c_api.h"
echo "ONNX Runtime's headers lie in $wanted/usr"
