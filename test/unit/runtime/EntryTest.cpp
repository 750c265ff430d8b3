//===- EntryTest.cpp - Keys, hashes and the entry format ------------------===//

#include "test/unit/runtime/Stub.h"

using namespace attnc;

TEST(Sha256, KnownValues) {
  // FIPS 180-4 examples.
  EXPECT_EQ(Sha256::hexOf(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b93"
                               "4ca495991b7852b855");
  EXPECT_EQ(Sha256::hexOf("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a3961"
                                  "77a9cb410ff61f20015ad");
  EXPECT_EQ(Sha256::hexOf(std::string(1000000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256, PiecesHashAsTheWhole) {
  std::string text;
  for (int i = 0; i < 300; ++i)
    text += char(i * 7);
  for (size_t cut = 0; cut <= text.size(); ++cut) {
    Sha256 hash;
    hash.update(std::string_view(text).substr(0, cut));
    hash.update(std::string_view(text).substr(cut));
    ASSERT_EQ(toHex(hash.finish()), Sha256::hexOf(text)) << cut;
  }
}

TEST(Key, OrderOfCallsDoesNotMatter) {
  RequestKey a = KeyBuilder().add("d", 64).add("dtype", "bf16").build();
  RequestKey b = KeyBuilder().add("dtype", "bf16").add("d", 64).build();
  EXPECT_EQ(a.text(), "d=64 dtype=bf16");
  EXPECT_EQ(a, b);
  EXPECT_EQ(a.hash(), b.hash());
  EXPECT_EQ(a.entryName("c"), b.entryName("c"));
}

TEST(Key, ValuesCannotImitateOtherValues) {
  RequestKey one = KeyBuilder().add("a", "1 b=2").build();
  RequestKey two = KeyBuilder().add("a", "1").add("b", "2").build();
  EXPECT_NE(one.text(), two.text());
  EXPECT_NE(KeyBuilder().add("a", "%20").build().text(),
            KeyBuilder().add("a", " ").build().text());
  EXPECT_EQ(KeyBuilder().add("a", "x\ny").build().text(), "a=x%0Ay");
}

TEST(Key, TwoCompilersNeverShareAName) {
  RequestKey key("d=64");
  EXPECT_NE(key.entryName("one"), key.entryName("two"));
  EXPECT_NE(RequestKey("d=64").entryName("one"),
            RequestKey("d=65").entryName("one"));
}

// Scalars are operands of a program: a key made of one is a compile error.
template <typename T, typename = void> struct CanAdd : std::false_type {};
template <typename T>
struct CanAdd<T, std::void_t<decltype(std::declval<KeyBuilder &>().add(
                     "x", std::declval<T>()))>> : std::true_type {};
static_assert(CanAdd<int>::value && CanAdd<bool>::value &&
              CanAdd<int64_t>::value && CanAdd<const char *>::value);
static_assert(!CanAdd<double>::value && !CanAdd<float>::value &&
              !CanAdd<void *>::value && !CanAdd<int *>::value);

static Entry sample() {
  Entry entry;
  entry.compiler = "stub-1";
  entry.key = "d=64 dtype=bf16";
  entry.created = 1700000000;
  entry.metadata = {{"requires.cpu", "avx2,fma"}, {"note", "two: parts"}};
  entry.sections = {{"code", std::string("\0\n\xff zero", 8)}, {"plan", ""}};
  return entry;
}

TEST(Entry, RoundTrip) {
  Entry entry = sample();
  Result<Entry> read = parseEntry(entry.serialize());
  ASSERT_TRUE(read) << read.failure().message;
  EXPECT_EQ(read->compiler, entry.compiler);
  EXPECT_EQ(read->key, entry.key);
  EXPECT_EQ(read->created, entry.created);
  EXPECT_EQ(read->metadata, entry.metadata);
  EXPECT_EQ(read->sections, entry.sections);
}

TEST(Entry, HeaderAloneDescribesTheEntry) {
  std::string bytes = sample().serialize();
  Result<EntryHeader> header =
      parseEntryHeader(bytes.substr(0, bytes.find("\n\n") + 2));
  ASSERT_TRUE(header) << header.failure().message;
  EXPECT_EQ(header->size, bytes.size());
  EXPECT_EQ(header->key, "d=64 dtype=bf16");
  ASSERT_EQ(header->sections.size(), 2u);
  EXPECT_EQ(header->sections[0].second, 8u);
}

TEST(Entry, EveryTruncationIsNoticed) {
  std::string bytes = sample().serialize();
  for (size_t size = 0; size < bytes.size(); ++size) {
    Result<Entry> read = parseEntry(bytes.substr(0, size));
    ASSERT_FALSE(read) << size;
    EXPECT_EQ(read.failure().message.rfind("truncated", 0), 0u)
        << size << ": " << read.failure().message;
  }
}

TEST(Entry, EveryFlippedBitIsNoticed) {
  std::string bytes = sample().serialize();
  for (size_t at = 0; at < bytes.size(); ++at)
    for (int bit = 0; bit < 8; ++bit) {
      std::string flipped = bytes;
      flipped[at] ^= char(1 << bit);
      ASSERT_FALSE(parseEntry(flipped)) << "byte " << at << " bit " << bit;
    }
}

/// Replaces the checksum, as someone who knows the format would.
static std::string resealed(std::string bytes) {
  bytes.resize(bytes.size() - 32);
  Sha256::Digest digest = Sha256::of(bytes);
  return bytes.append(reinterpret_cast<const char *>(digest.data()), 32);
}

TEST(Entry, OtherMetadataIsNoticedUnderAValidChecksum) {
  std::string bytes = sample().serialize();
  size_t at = bytes.find("avx2,fma");
  bytes.replace(at, 8, "sse2,fma");
  Result<Entry> read = parseEntry(resealed(bytes));
  ASSERT_FALSE(read);
  EXPECT_EQ(read.failure().message, "corrupt: metadata of another entry");
}

TEST(Entry, SizesThatLeaveTheFileAreNoticedUnderAValidChecksum) {
  for (const char *size :
       {"9", "18446744073709551615", "99999999999999999999", "-1", ""}) {
    std::string bytes = sample().serialize();
    size_t at = bytes.find("section code: 8");
    bytes.replace(at, 15, std::string("section code: ") + size);
    // Keep the stated size right, so that only the section is wrong.
    char line[32];
    std::snprintf(line, sizeof(line), "%020zu", bytes.size());
    bytes.replace(bytes.find("size: ") + 6, 20, line);
    EXPECT_FALSE(parseEntry(resealed(bytes))) << size;
  }
}

TEST(Entry, AnotherVersionSaysSo) {
  std::string bytes = sample().serialize();
  bytes.replace(0, 13, "attnc-entry 2");
  Result<Entry> read = parseEntry(resealed(bytes));
  ASSERT_FALSE(read);
  EXPECT_NE(read.failure().message.find("another version"), std::string::npos);
}

TEST(Entry, ContentKeyIgnoresKeyAndTimeOnly) {
  Entry a = sample(), b = sample();
  b.key = "other";
  b.created = 1;
  EXPECT_EQ(a.contentKey(), b.contentKey());
  b.sections[0].second += 'x';
  EXPECT_NE(a.contentKey(), b.contentKey());
}
