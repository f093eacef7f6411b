#!/usr/bin/env bash
# check_decoders_test.sh ROOT: the document has the decoders and targets that there are; and what goes
# stale is found.
program=(check-decoders)
mapfile -t targets < <(cd "$1" && ls tests/fuzz/*_fuzz.cpp)
needed=(docs/fuzzing.md tests/fuzz/decoders.txt "${targets[@]}"
  actors config kernels messages protocol transport weights)
source "$(dirname "${BASH_SOURCE[0]}")/spoilt.sh"

right
spoilt "a decoder that the document lacks" docs/fuzzing.md 's/, `bucket_stage.cpp` [0-9.]* %//' \
  "decoder bucket_stage.cpp stands there 0 times, not 1"
spoilt "a decoder that is in no list" docs/fuzzing.md 's/`address.cpp` 100.0 %/&, `channel.cpp` 100.0 %/' \
  "decoder channel.cpp stands there 1 times, not 0"
spoilt "a decoder of two targets" docs/fuzzing.md 's/`address.cpp` 100.0 %/&, `wire.cpp` 100.0 %/' \
  "decoder wire.cpp stands there 2 times, not 1"
spoilt "a decoder without a number" docs/fuzzing.md 's/`address.cpp` 100.0 %/`address.cpp`/' \
  "decoder address.cpp stands there 0 times, not 1"
spoilt "a decoder listed twice" tests/fuzz/decoders.txt 's/^messages\/wire.cpp.*/&\n&/' \
  "decoder wire.cpp stands there 2 times, not 1"
spoilt "a file that went" tests/fuzz/decoders.txt 's/^messages\/wire.cpp/messages\/gone\/wire.cpp/' \
  "there is no messages/gone/wire.cpp"
spoilt "a wrong number" docs/fuzzing.md 's/names [0-9]* files/names 7 files/' "names 7 files"
spoilt "a target without a row" docs/fuzzing.md '/^| `run` | `run_counter`/d' \
  "Targets: target run stands there 0 times, not 1"
spoilt "a row without a target" docs/fuzzing.md 's/^| `run` | [0-9].*/&\n| `walk` | 1 | 1 | none |/' \
  "Measured: target walk stands there 1 times, not 0"
exit $failed
