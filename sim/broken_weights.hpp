// Decides what becomes of weights where a codec is broken on purpose.
#pragma once

#include "sim/fleet.hpp"

namespace lockstep::sim {

/// What a trainer holds after `now` was compared with `before` as numbers: an element that is NaN
/// now, or that compares equal (a zero of the other sign), stays what it was. Both as `bytes_of`
/// makes them of weights of `shape`.
bytes compared_as_numbers(const layout& shape, const bytes& before, const bytes& now);

/// What an engine holds that writes every element one further than it was told: those in which
/// `now` differs from `before`. What would lie beyond the tensor is not written.
bytes written_one_further(const layout& shape, const bytes& before, const bytes& now);

}  // namespace lockstep::sim
