// Decides whether a process may start the threads that it will need. Private to actors/.
#pragma once

#include <cstddef>

namespace lockstep {

/// Starts that many threads, all at once, and ends them. Throws `try_again_error{no_memory}` if the
/// process may not: found out later, in the midst of CAF's own start, that ends the process or
/// leaves it standing for ever.
void require_threads(std::size_t count);

}  // namespace lockstep
