// Decides what messages tests send: one of every kind, with fields drawn at random.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "messages/wire.hpp"

namespace lockstep {

inline constexpr std::size_t wire_kinds = std::variant_size_v<wire_message>;

/// Draws messages. All of a field's values can come up; small and extreme ones do so often.
class message_source {
 public:
  explicit message_source(std::uint64_t seed) : rng_(seed) {}

  /// Of the kind with this index in `wire_message`.
  wire_message draw(std::size_t kind) {
    return draw_one(kind, std::make_index_sequence<wire_kinds>());
  }

 private:
  template <std::size_t... Kind>
  wire_message draw_one(std::size_t kind, std::index_sequence<Kind...>) {
    wire_message out;
    ((kind == Kind ? fill(out.emplace<Kind>()) : void()), ...);
    return out;
  }

  std::uint64_t number() {
    const auto any = rng_();
    switch (rng_() % 4) {
      case 0:
        return any % 3;
      case 1:
        return UINT64_MAX - any % 3;
      default:
        return any >> (rng_() % 64);
    }
  }
  std::size_t size() { return rng_() % 4 == 0 ? 0 : rng_() % 40; }

  template <class T>
  void fill(T& x) {
    if constexpr (requires { T::fields(x); }) {
      std::apply([this](auto&... field) { (this->fill(field), ...); }, T::fields(x));
    } else if constexpr (std::is_enum_v<T>) {
      x = static_cast<T>(rng_() % (static_cast<std::uint64_t>(T::last_) + 1));
    } else if constexpr (std::is_same_v<T, bool>) {
      x = rng_() % 2 == 0;
    } else if constexpr (std::is_same_v<T, std::string>) {
      x.resize(size());
      for (auto& c : x)
        c = static_cast<char>(0x80 | rng_());  // any but control characters, and not ASCII
    } else if constexpr (std::is_same_v<T, payload>) {
      std::vector<std::byte> bytes(size());
      for (auto& b : bytes) b = static_cast<std::byte>(rng_());
      x = payload(std::move(bytes));
    } else if constexpr (std::is_same_v<T, std::vector<bucket_info>>) {
      x.resize(size() / 8);
      for (auto& b : x) fill(b);
    } else {
      x = static_cast<T>(number());
    }
  }

  std::mt19937_64 rng_;
};

}  // namespace lockstep
