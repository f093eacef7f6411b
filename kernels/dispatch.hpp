// Decides which implementation of the kernels runs: the best this machine has, or one forced.
#pragma once

#include <cstdint>
#include <vector>

namespace lockstep::kernels {

/// Variants of the inner loops; all give the same bytes. `avx512_dl` has what Ice Lake and Zen 4
/// added to AVX-512.
enum class implementation : std::uint8_t { portable, sse4, avx2, avx512, avx512_dl, neon };

/// E.g. "avx2"; "unknown" for a value that is no enumerator.
const char* to_string(implementation which) noexcept;

/// What is built in and runs on this machine, slowest first; `portable` always is.
std::vector<implementation> available_implementations();

/// The one in use; at the start the last of those available.
implementation active_implementation() noexcept;

/// Makes later calls, on any thread, use `which`. False, with nothing changed, if it is not
/// available. For `runtime.simd`, tests and measurements.
bool set_implementation(implementation which) noexcept;

}  // namespace lockstep::kernels
