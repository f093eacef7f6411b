// Decides what a target that refuses its bytes must have said.
#pragma once

#include <algorithm>
#include <initializer_list>

#include "fuzz/fuzz.hpp"
#include "messages/errors.hpp"

namespace lockstep::fuzz {

/// Whether `action` does not refuse; a refusal must be for one of `reasons`, and fit to be shown.
template <class Action>
bool accepted(std::initializer_list<errc> reasons, Action action) {
  try {
    action();
    return true;
  } catch (const error& e) {
    demand(std::find(reasons.begin(), reasons.end(), e.code()) != reasons.end(),
           "refused for what it is");
    demand_message(e.what());
    return false;
  }
}

}  // namespace lockstep::fuzz
