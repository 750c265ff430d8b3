//===- NpyTest.cpp - NumPy's array files ----------------------------------===//

#include "lib/Support/Npy.h"

#include "gtest/gtest.h"

#include <cstring>

using namespace attnc;

namespace {

/// A file as np.save writes it; the literals below were read off real files.
std::string file(const std::string &dict, const std::string &elements,
                 char version = 1) {
  std::string out = "\x93NUMPY";
  out += version;
  out += '\0';
  size_t length = dict.size() + 1;
  out += char(length & 255);
  out += char(length >> 8);
  if (version > 1)
    out += std::string(2, '\0');
  return out + dict + "\n" + elements;
}

template <typename T> std::string bytes(std::initializer_list<T> values) {
  std::string out(values.size() * sizeof(T), '\0');
  std::memcpy(out.data(), std::data(values), out.size());
  return out;
}

std::string messageOf(llvm::Expected<HostTensor> tensor) {
  return tensor ? "" : llvm::toString(tensor.takeError());
}

TEST(Npy, ReadsVersions) {
  for (char version : {1, 2}) {
    auto tensor = parseNpy(
        file("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }",
             bytes<float>({0, 1, 2, 3, 4, 5}), version),
        "a.npy");
    ASSERT_TRUE(bool(tensor)) << llvm::toString(tensor.takeError());
    EXPECT_EQ(tensor->kind(), ElementKind::F32);
    EXPECT_EQ(tensor->sizes(), (llvm::ArrayRef<int64_t>{2, 3}));
    EXPECT_EQ(tensor->strides(), (llvm::ArrayRef<int64_t>{3, 1}));
    EXPECT_EQ(tensor->at(5), 5);
  }
}

TEST(Npy, FortranOrderBecomesStrides) {
  auto tensor = parseNpy(
      file("{'descr': '<i4', 'fortran_order': True, 'shape': (2, 3), }",
           bytes<int32_t>({0, 10, 1, 11, 2, 12})),
      "a.npy");
  ASSERT_TRUE(bool(tensor));
  EXPECT_EQ(tensor->strides(), (llvm::ArrayRef<int64_t>{1, 2}));
  // Written again it is row-major.
  auto again = parseNpy(formatNpy(*tensor), "b.npy");
  ASSERT_TRUE(bool(again));
  for (int64_t k = 0; k < 6; ++k)
    EXPECT_EQ(again->at(k), k % 3 + 10 * (k / 3));
}

TEST(Npy, EveryKindComesBack) {
  for (ElementKind kind : {ElementKind::F16, ElementKind::F32, ElementKind::F64,
                           ElementKind::I1, ElementKind::I8, ElementKind::U16,
                           ElementKind::I32, ElementKind::I64}) {
    HostTensor tensor = llvm::cantFail(HostTensor::make(kind, {2, 1, 2}));
    tensor.set(1, 1);
    tensor.set(3, kind == ElementKind::I1 ? 1 : 3);
    std::string contents = formatNpy(tensor);
    auto again = parseNpy(contents, "a.npy");
    ASSERT_TRUE(bool(again)) << llvm::toString(again.takeError());
    EXPECT_EQ(again->kind(), kind);
    EXPECT_EQ((contents.size() - tensor.bytes()) % 64, 0u);
    for (int64_t k = 0; k < 4; ++k)
      EXPECT_EQ(again->at(k), tensor.at(k));
  }
}

TEST(Npy, BFloatIsWrittenAsFloat) {
  HostTensor tensor = llvm::cantFail(HostTensor::make(ElementKind::BF16, {1}));
  tensor.set(0, 1.0078125);
  auto again = parseNpy(formatNpy(tensor), "a.npy");
  ASSERT_TRUE(bool(again));
  EXPECT_EQ(again->kind(), ElementKind::F32);
  EXPECT_EQ(again->at(0), 1.0078125);
}

TEST(Npy, LargeFilesComeInPieces) {
  HostTensor tensor =
      llvm::cantFail(HostTensor::make(ElementKind::I32, {3, 50000}));
  for (int64_t k = 0; k < tensor.elements(); ++k)
    tensor.set(k, k);
  tensor.permute({1, 0});
  auto again = parseNpy(formatNpy(tensor), "a.npy");
  ASSERT_TRUE(bool(again));
  EXPECT_EQ(again->sizes(), (llvm::ArrayRef<int64_t>{50000, 3}));
  for (int64_t k = 0; k < again->elements(); ++k)
    ASSERT_EQ(again->at(k), k / 3 + 50000 * (k % 3));
}

TEST(Npy, ScalarAndEmptyShapes) {
  auto scalar =
      parseNpy(file("{'descr': '<f4', 'fortran_order': False, 'shape': (), }",
                    bytes<float>({7})),
               "a.npy");
  ASSERT_TRUE(bool(scalar));
  EXPECT_EQ(scalar->elements(), 1);
  auto empty = parseNpy(
      file("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 3), }", ""),
      "a.npy");
  ASSERT_TRUE(bool(empty));
  EXPECT_EQ(empty->elements(), 0);
}

TEST(Npy, SaysWhatIsWrong) {
  EXPECT_EQ(messageOf(parseNpy("PK\x03\x04", "a.npz")),
            "a.npz: expected a .npy file, got something else; write one with "
            "numpy.save");
  EXPECT_NE(
      messageOf(parseNpy(std::string("\x93NUMPY\x09\x00\x10\x00", 10), "a.npy"))
          .find("version 1, 2 or 3, got 9"),
      std::string::npos);
  EXPECT_NE(
      messageOf(
          parseNpy(
              file("{'descr': '>f4', 'fortran_order': False, 'shape': (1,), "
                   "}",
                   bytes<float>({0})),
              "a.npy"))
          .find("cannot use element type '>f4'"),
      std::string::npos);
  EXPECT_NE(
      messageOf(
          parseNpy(
              file("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), "
                   "}",
                   bytes<float>({0})),
              "a.npy"))
          .find("needs 8 bytes, the file holds 4"),
      std::string::npos);
  EXPECT_NE(messageOf(parseNpy(file("{'descr': '<f4', 'fortran_order': False, "
                                    "'shape': (9999999999, 9999999999), }",
                                    ""),
                               "a.npy"))
                .find("is larger than memory can be"),
            std::string::npos);
}

TEST(Npy, CutAtEveryByte) {
  std::string whole =
      file("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }",
           bytes<float>({0, 1, 2, 3, 4, 5}));
  for (size_t size = 0; size < whole.size(); ++size)
    EXPECT_NE(messageOf(parseNpy(whole.substr(0, size), "a.npy")), "") << size;
}

} // namespace
