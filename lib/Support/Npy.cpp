//===- Npy.cpp - NumPy's array files --------------------------------------===//

#include "lib/Support/Npy.h"
#include "lib/Support/File.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringSwitch.h"
#include "llvm/Support/Endian.h"

#include <cstring>

using namespace attnc;
using namespace llvm;

namespace {
/// The dict of a file's header.
struct Header {
  std::string descr;
  bool fortranOrder = false;
  SmallVector<int64_t> shape;
};

/// Reads the literal dict that np.save writes: three keys, in any order.
class HeaderParser {
public:
  explicit HeaderParser(StringRef text) : rest(text) {}

  bool parse(Header &header) {
    unsigned seen = 0;
    if (!eat("{"))
      return false;
    while (!eat("}")) {
      std::string key;
      if (!string(key) || !eat(":"))
        return false;
      if (key == "descr" && string(header.descr))
        seen |= 1;
      else if (key == "fortran_order" && boolean(header.fortranOrder))
        seen |= 2;
      else if (key == "shape" && tuple(header.shape))
        seen |= 4;
      else
        return false;
      eat(",");
    }
    return seen == 7 && rest.trim().empty();
  }

private:
  bool eat(StringRef token) {
    rest = rest.ltrim();
    return rest.consume_front(token);
  }
  bool string(std::string &value) {
    rest = rest.ltrim();
    if (rest.empty() || (rest[0] != '\'' && rest[0] != '"'))
      return false;
    size_t end = rest.find(rest[0], 1);
    if (end == StringRef::npos)
      return false;
    value = rest.slice(1, end).str();
    rest = rest.drop_front(end + 1);
    return true;
  }
  bool boolean(bool &value) {
    value = eat("True");
    return value || eat("False");
  }
  bool tuple(SmallVectorImpl<int64_t> &values) {
    if (!eat("("))
      return false;
    while (!eat(")")) {
      rest = rest.ltrim();
      int64_t value;
      if (rest.consumeInteger(10, value) || value < 0)
        return false;
      values.push_back(value);
      if (!eat(",") && !rest.ltrim().starts_with(")"))
        return false;
    }
    return true;
  }

  StringRef rest;
};
} // namespace

static std::optional<ElementKind> kindOfDescr(StringRef descr) {
  return StringSwitch<std::optional<ElementKind>>(descr)
      .Case("<f2", ElementKind::F16)
      .Case("<f4", ElementKind::F32)
      .Case("<f8", ElementKind::F64)
      .Cases({"|b1", "<b1"}, ElementKind::I1)
      .Cases({"|i1", "<i1", "|u1", "<u1"}, ElementKind::I8)
      .Case("<u2", ElementKind::U16)
      .Cases({"|V2", "<V2"}, ElementKind::BF16)
      .Case("<i4", ElementKind::I32)
      .Case("<i8", ElementKind::I64)
      .Default(std::nullopt);
}

static StringRef descrOfKind(ElementKind kind) {
  switch (kind) {
  case ElementKind::F16:
    return "<f2";
  case ElementKind::BF16:
  case ElementKind::F32:
    return "<f4";
  case ElementKind::F64:
    return "<f8";
  case ElementKind::I1:
    return "|b1";
  case ElementKind::I8:
    return "|i1";
  case ElementKind::U16:
    return "<u2";
  case ElementKind::I32:
    return "<i4";
  case ElementKind::I64:
    return "<i8";
  }
  return "";
}

/// Splits the contents into header text and elements.
static Error splitFile(StringRef contents, StringRef name, StringRef &header,
                       StringRef &elements) {
  StringRef rest = contents;
  if (!rest.consume_front("\x93NUMPY") || rest.size() < 2)
    return makeError(name + ": expected a .npy file, got something else; "
                            "write one with numpy.save");
  unsigned version = uint8_t(rest[0]);
  if (version < 1 || version > 3)
    return makeError(name + ": expected .npy format version 1, 2 or 3, got " +
                     Twine(version));
  rest = rest.drop_front(2);
  unsigned lengthBytes = version == 1 ? 2 : 4;
  if (rest.size() < lengthBytes)
    return makeError(name + ": the file ends inside its header; is it "
                            "complete?");
  uint64_t length = version == 1 ? support::endian::read16le(rest.data())
                                 : support::endian::read32le(rest.data());
  rest = rest.drop_front(lengthBytes);
  if (rest.size() < length)
    return makeError(name + ": the file ends inside its header; is it "
                            "complete?");
  header = rest.take_front(length);
  elements = rest.drop_front(length);
  return Error::success();
}

Expected<HostTensor> attnc::parseNpy(StringRef contents, StringRef name) {
  StringRef text, elements;
  if (Error error = splitFile(contents, name, text, elements))
    return std::move(error);
  Header header;
  if (!HeaderParser(text).parse(header))
    return makeError(name +
                     ": cannot read the header; expected a dict with "
                     "descr, fortran_order and shape, got " +
                     text.trim());
  auto kind = kindOfDescr(header.descr);
  if (!kind)
    return makeError(name + ": cannot use element type '" + header.descr +
                     "'; expected one of <f2 <f4 <f8 |b1 |i1 |u1 <u2 <i4 <i8; "
                     "convert with array.astype(...) before numpy.save");
  auto count = countElements(header.shape);
  if (!count)
    return makeError(name + ": shape " + formatSizes(header.shape) +
                     " is larger than memory can be");
  if (elements.size() != uint64_t(*count * elementBytes(*kind)))
    return makeError(name + ": shape " + formatSizes(header.shape) + " of '" +
                     header.descr + "' needs " +
                     Twine(*count * elementBytes(*kind)) +
                     " bytes, the file "
                     "holds " +
                     Twine(elements.size()) + "; is it complete?");
  auto tensor = HostTensor::make(*kind, header.shape);
  if (!tensor)
    return tensor.takeError();
  std::memcpy(tensor->data(), elements.data(), elements.size());
  if (header.fortranOrder)
    tensor->setFortranOrder();
  return tensor;
}

Expected<HostTensor> attnc::readNpy(StringRef path) {
  auto buffer = readInput(path);
  if (!buffer)
    return buffer.takeError();
  return parseNpy((*buffer)->getBuffer(), path);
}

/// The magic string, the version and the dict, padded so that the elements
/// start at a multiple of 64 bytes.
static std::string formatHeader(ElementKind kind, ArrayRef<int64_t> sizes) {
  std::string dict = "{'descr': '" + descrOfKind(kind).str() +
                     "', 'fortran_order': False, 'shape': (";
  for (int64_t size : sizes)
    dict += std::to_string(size) + ", ";
  dict += "), }";
  constexpr size_t prefix = 10;
  dict.append(63 - (prefix + dict.size()) % 64, ' ');
  dict += '\n';
  std::string out("\x93NUMPY\x01\x00", 8);
  out += char(dict.size() & 255);
  out += char(dict.size() >> 8);
  return out + dict;
}

/// Hands the file over in pieces: results are too large to be copied whole.
static bool produceNpy(const HostTensor &tensor, Sink sink) {
  constexpr size_t pieceBytes = 1 << 16;
  int64_t size = elementBytes(tensor.kind());
  std::string piece = formatHeader(tensor.kind(), tensor.sizes());
  SmallVector<int64_t> index(tensor.sizes().size());
  int64_t position = 0;
  for (int64_t n = 0; n < tensor.elements(); ++n) {
    if (tensor.kind() == ElementKind::BF16) {
      float wide = tensor.at(position);
      piece.append(reinterpret_cast<const char *>(&wide), sizeof(wide));
    } else {
      piece.append(tensor.data() + position * size, size);
    }
    if (piece.size() >= pieceBytes) {
      if (!sink(piece))
        return false;
      piece.clear();
    }
    for (size_t k = index.size(); k-- > 0;) {
      position += tensor.strides()[k];
      if (++index[k] < tensor.sizes()[k])
        break;
      position -= index[k] * tensor.strides()[k];
      index[k] = 0;
    }
  }
  return sink(piece);
}

std::string attnc::formatNpy(const HostTensor &tensor) {
  std::string out;
  produceNpy(tensor, [&](StringRef bytes) {
    out += bytes;
    return true;
  });
  return out;
}

Error attnc::writeNpy(StringRef path, const HostTensor &tensor) {
  return writeOutput(path, [&](Sink sink) { return produceNpy(tensor, sink); });
}
