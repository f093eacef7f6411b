// Decides on which loop of events a process dials.
#pragma once

#include <functional>
#include <memory>

#include "transport/connector.hpp"

namespace lockstep {

/// As `connect`, from whoever runs `io`, which outlives what is under way: `done` is called there,
/// never before this returned.
void connect_on(boost::asio::io_context& io, std::shared_ptr<const security> guard,
                connect_options options, std::function<void(connect_result)> done);

}  // namespace lockstep
