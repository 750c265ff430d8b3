//===- AttnOps.cpp - Verifiers of the attn ops ----------------------------===//

#include "dialects/attn/Attn.h"

#include "mlir/IR/OpImplementation.h"

#define GET_OP_CLASSES
#include "dialects/attn/AttnOps.cpp.inc"

using namespace mlir;
using namespace attnc::attn;

LogicalResult TensorMaskOp::verify() { return success(); }
LogicalResult PredicateMaskOp::verify() { return success(); }
LogicalResult ScoresOp::verify() { return success(); }
LogicalResult BiasOp::verify() { return success(); }
LogicalResult ScoreModOp::verify() { return success(); }
LogicalResult ActivationOp::verify() { return success(); }
LogicalResult ApplyOp::verify() { return success(); }
LogicalResult EpilogueOp::verify() { return success(); }
LogicalResult RowNormOp::verify() { return success(); }
LogicalResult FusedOp::verify() { return success(); }
