// Decides how the codec is measured: every encoding and implementation in turn with a memcpy of the
// same bytes, in one run.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "apps/bench_data.hpp"
#include "kernels/coded.hpp"
#include "kernels/dispatch.hpp"
#include "messages/layout.hpp"

namespace lockstep {

struct codec_bench_options {
  unsigned threads = 1;
  unsigned repeats = 5;
  /// Which; all that this machine has if empty.
  std::vector<kernels::implementation> implementations;
  /// Where to write the first step for others to measure; nowhere if empty.
  std::filesystem::path write;
};

/// All tensors of a dtype, in one encoding and by one implementation, over all steps.
struct codec_result {
  dtype type = dtype::bf16;
  kernels::encoding_choice encoding = kernels::encoding_choice::coded;
  kernels::implementation which = kernels::implementation::portable;
  std::uint64_t bytes = 0;    ///< of full weights, summed over the steps
  std::uint64_t changed = 0;  ///< elements
  std::uint64_t elements = 0;
  std::uint64_t wire = 0;  ///< bytes of frames
  double bound = 0;        ///< bytes, given the old exponent
  double encode_seconds = 0;
  double stage_seconds = 0;   ///< decoding; base and target proven
  double apply_seconds = 0;   ///< writing what was staged
  double digest_seconds = 0;  ///< the base's digest alone, which staging includes
  double memcpy_seconds = 0;
};

std::string_view to_string(kernels::encoding_choice choice) noexcept;

/// Measures all of `data`. Times are medians of interleaved repeats: processor time of this thread
/// where there is one, the clock's where there are several. Throws `error{wrong_target}` if what
/// was applied is not the target.
std::vector<codec_result> bench_codec(bench_data& data, const codec_bench_options& options);

}  // namespace lockstep
