//===- Sha256.h - The hash behind file names and checksums ------*- C++ -*-===//

#ifndef ATTNC_LIB_RUNTIME_SHA256_H
#define ATTNC_LIB_RUNTIME_SHA256_H

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace attnc {

/// SHA-256 (FIPS 180-4), incremental. Here so that the runtime core needs no
/// other library.
class Sha256 {
public:
  using Digest = std::array<uint8_t, 32>;

  void update(std::string_view bytes);
  Digest finish();

  static Digest of(std::string_view bytes);
  static std::string hexOf(std::string_view bytes);

private:
  void block(const uint8_t *bytes);

  uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                       0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  uint8_t pending[64];
  size_t pendingSize = 0;
  uint64_t total = 0;
};

std::string toHex(const Sha256::Digest &digest);

} // namespace attnc

#endif // ATTNC_LIB_RUNTIME_SHA256_H
