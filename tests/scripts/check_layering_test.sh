#!/usr/bin/env bash
# Each rule of scripts/check-layering lets a clean tree pass and finds the one offence put into it.
set -euo pipefail
check=$1/scripts/check-layering
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
failed=0

clean() {
  rm -rf "${tree:?}"/*
  mkdir -p "$tree"/{messages,config,kernels,weights,protocol,actors,apps,examples} \
    "$tree"/tests/{kernels,actors} "$tree/cmake" "$tree/build"
  echo '#include <caf/type_id.hpp>' >"$tree/messages/type_ids.hpp"
  printf '#include "messages/ids.hpp"\n#include "kernels/diff.hpp"\n' >"$tree/weights/a.hpp"
  printf 'struct twice {\n};\nnamespace b {\nstruct once {\n' >>"$tree/weights/a.hpp"
  printf '#include "config/settings.hpp"\nstruct once {\n' >"$tree/protocol/a.hpp"
  echo '#include <fmt/format.h>' >"$tree/config/a.cpp"
  printf '#include <caf/a.hpp>\n#include "protocol/a.hpp"\n' >"$tree/actors/interfaces.hpp"
  echo 'system->middleman().spawn_broker(a, b);' >"$tree/actors/a.cpp"
  echo '#include "messages/ids.hpp"' >"$tree/actors/trainer.hpp"
  echo '#include "actors/trainer.hpp"' >"$tree/apps/a.cpp"
  echo '#include "lockstep/lockstep.hpp"' >"$tree/examples/a.cpp"
  echo '#include <caf/a.hpp>' >"$tree/tests/actors/a_test.cpp"
  echo 'add_library(a a.cpp) # /usr/local/home/x' >"$tree/CMakeLists.txt"
  echo 'file(GLOB x *)' >"$tree/build/CMakeLists.txt"
}

# refused FILE LINE WHY: with LINE in FILE the check fails, and names file and reason.
refused() {
  clean
  printf '%s\n' "$2" >>"$tree/$1"
  local out
  if out=$("$check" "$tree"); then
    echo "let through: $1: $2"
    failed=1
  elif [[ $out != *"$1"*"$3"* ]]; then
    printf 'refused for another reason: %s: %s\n%s\n' "$1" "$2" "$out"
    failed=1
  fi
}

clean
"$check" "$tree" || { echo "a clean tree is refused"; failed=1; }

refused messages/b.hpp '#include "config/settings.hpp"' 'messages may not'
refused config/b.hpp '#include "messages/errors.hpp"' 'config may not'
refused kernels/b.hpp '#include "messages/ids.hpp"' 'kernels may not'
refused kernels/b.cpp '#include <messages/ids.hpp>' 'kernels may not'
refused weights/b.hpp ' # include "protocol/a.hpp"' 'weights may not'
refused protocol/b.hpp '#include "kernels/diff.hpp"' 'protocol may not'
refused actors/b.cpp '#include "apps/a.hpp"' 'actors may not'
refused examples/b.cpp '#include "actors/trainer.hpp"' 'examples may not'
refused tests/kernels/b_test.cpp '#include "weights/a.hpp"' 'kernels may not'
refused protocol/b.cpp '#include <caf/actor.hpp>' 'CAF only'
refused messages/b.hpp '#include "caf/actor.hpp"' 'CAF only'
refused actors/trainer.hpp '#include <caf/actor.hpp>' 'no CAF in the façade'
refused actors/receiver.hpp '#include "actors/interfaces.hpp"' 'no CAF in the façade'
refused actors/b.cpp '#include <caf/io/publish.hpp>' 'not spoken'
refused actors/b.cpp '#include <caf/io/all.hpp>' 'not spoken'
refused actors/b.cpp '#include <caf/openssl/publish.hpp>' 'not spoken'
refused actors/b.cpp 'system->middleman().publish(a, 0);' 'not spoken'
refused actors/b.cpp 'middleman.remote_actor(host, port);' 'not spoken'
refused actors/b.cpp 'self->request(m, infinite, caf::connect_atom::value, host, port);' 'not spoken'
refused actors/b.cpp 'caf::binary_deserializer in(system, bytes);' 'own form'
refused actors/b.hpp '#include <fmt/format.h>' 'only in .cpp'
refused cmake/b.hpp.in '#include <spdlog/spdlog.h>' 'only in .cpp'
refused weights/b.cpp '#include "../kernels/diff.hpp"' 'start at the root'
refused kernels/b.cpp '#include <thread>' 'no threads'
refused protocol/b.cpp 'auto t = std::chrono::steady_clock::now();' 'no threads'
refused kernels/CMakeLists.txt 'file( GLOB sources *.cpp)' 'not globbed'
refused cmake/b.cmake 'aux_source_directory(. x)' 'not globbed'
refused weights/b.hpp 'struct twice {' 'one of that name'
refused tests/b.py 'import pickle' 'no pickle'
refused README 'see /home/somebody/x' 'machine'
exit $failed
