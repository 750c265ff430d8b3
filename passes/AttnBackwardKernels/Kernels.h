//===- Kernels.h - One function for each kernel of gradients ----*- C++ -*-===//
//
// buildBackwardKernels decides which of them a call needs; each is a class that
// only its own file knows.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_PASSES_ATTNBACKWARDKERNELS_KERNELS_H
#define ATTNC_PASSES_ATTNBACKWARDKERNELS_KERNELS_H

#include "passes/AttnKernelParts.h"

namespace attnc::backward {

/// Queries stay: dQ, and sums over j. (QueryKernels.cpp)
AttnKernel buildQueryGradient(ImplicitLocOpBuilder &builder, StringRef name,
                              attn::BackwardOp op, const ViewOrders &orders,
                              tile::ScheduleAttr schedule);

/// Before and after keys' kernels that add shares of dQ to `sums`.
AttnKernel clearQuerySums(ImplicitLocOpBuilder &builder, StringRef name,
                          attn::BackwardOp op, const ViewOrders &orders,
                          tile::ScheduleAttr schedule, Value sums);
AttnKernel roundQuerySums(ImplicitLocOpBuilder &builder, StringRef name,
                          attn::BackwardOp op, const ViewOrders &orders,
                          tile::ScheduleAttr schedule, Value sums);

/// What a kernel writes of the keys' gradients that are used.
enum class KeyPart { OfKey, OfValue, All };

/// Keys stay: dK, dV and, with `querySums`, shares of dQ. (KeyKernels.cpp)
AttnKernel buildKeyGradients(ImplicitLocOpBuilder &builder, StringRef name,
                             attn::BackwardOp op, const ViewOrders &orders,
                             tile::ScheduleAttr schedule, KeyPart part,
                             Value querySums = Value());

/// Keys stay: sums over i.
AttnKernel buildKeySums(ImplicitLocOpBuilder &builder, StringRef name,
                        attn::BackwardOp op, const ViewOrders &orders,
                        tile::ScheduleAttr schedule);

/// Both stay: number `number` of the captures' gradients, with one element for
/// each pair of positions. (PositionKernels.cpp)
AttnKernel buildPositionGradient(ImplicitLocOpBuilder &builder, StringRef name,
                                 attn::BackwardOp op, unsigned number,
                                 const ViewOrders &orders,
                                 tile::ScheduleAttr schedule);

/// Both pass, at one distance: one block of `sums` for each distance, which
/// the second kernel adds up along its diagonals. (DiagonalKernels.cpp)
AttnKernel buildDiagonalGradient(ImplicitLocOpBuilder &builder, StringRef name,
                                 attn::BackwardOp op, unsigned number,
                                 const ViewOrders &orders,
                                 tile::ScheduleAttr schedule, Value sums);
AttnKernel buildDiagonalSum(ImplicitLocOpBuilder &builder, StringRef name,
                            attn::BackwardOp op, unsigned number,
                            const ViewOrders &orders,
                            tile::ScheduleAttr schedule, Value sums);

} // namespace attnc::backward

#endif // ATTNC_PASSES_ATTNBACKWARDKERNELS_KERNELS_H
