#define LOCKSTEP_BARE_MAIN
#include <catch2/catch.hpp>
