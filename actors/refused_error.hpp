// Decides how this process hears that another one has no use for it.
#pragma once

#include "messages/errors.hpp"

namespace lockstep {

/// Thrown where the other side has said that it has no use for this one as it is; says why.
class refused_error : public error {
 public:
  using error::error;
};

}  // namespace lockstep
