//===- Formats.h - Narrow element types as f32 numbers ----------*- C++ -*-===//
//
// In scratch memory every float is an f32 and every integer an i32. A value
// of a half or 8-bit float type is the f32 number it stands for; rounding,
// decoding and encoding are integer arithmetic, the same on every x86 and
// with no library call.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_PASSES_TILETOCPU_FORMATS_H
#define ATTNC_PASSES_TILETOCPU_FORMATS_H

#include "passes/TileToCpu/Code.h"

namespace attnc::cpu {

/// Float types narrower than f32.
bool isNarrowFloat(Type type);

/// The type of one element in scratch memory: f32 or i32.
Type storageType(Type element);

/// The integer or f32 type of one element in the caller's memory.
Type memoryType(Type element);
int64_t memoryBytes(Type element);

/// From bits as in the caller's memory (of memoryType, scalar or vector) to
/// storage.
Value decode(Code &code, Value bits, Type element);

/// From storage to bits; the number must be representable in `element`.
Value encode(Code &code, Value number, Type element);

/// Rounds f32 numbers to the nearest of `element`, ties to even.
Value roundTo(Code &code, Value number, Type element);

} // namespace attnc::cpu

#endif // ATTNC_PASSES_TILETOCPU_FORMATS_H
