//===- RegionGenerator.h - Random score functions ---------------*- C++ -*-===//

#ifndef ATTNC_TEST_UNIT_NUMERICS_REGIONGENERATOR_H
#define ATTNC_TEST_UNIT_NUMERICS_REGIONGENERATOR_H

#include <random>
#include <string>

namespace attnc::numerics {

/// A random expression over the logit, positions and constants, whose values
/// stay of order 1 and whose derivative does not explode: a comparison of f32
/// with float64 says nothing where the function itself is ill-conditioned.
class RegionGenerator {
public:
  explicit RegionGenerator(std::mt19937 &random) : random(random) {}

  std::string generate() {
    text.clear();
    count = 0;
    constants();
    std::string value = "%s";
    int steps = 2 + random() % 5;
    for (int k = 0; k < steps; ++k)
      value = step(value);
    // The last op gives the region its result.
    text += "    %y = arith.addf " + value + ", %zero : f32\n";
    return text;
  }

private:
  std::string name() { return "%g" + std::to_string(++count); }

  std::string emit(const std::string &op, const std::string &operands) {
    std::string result = name();
    text += "    " + result + " = " + op + " " + operands + " : f32\n";
    return result;
  }

  void constants() {
    text += "    %zero = arith.constant 0.0 : f32\n"
            "    %half = arith.constant 0.5 : f32\n"
            "    %one = arith.constant 1.0 : f32\n"
            "    %three = arith.constant 3.0 : f32\n";
  }

  std::string step(const std::string &x) {
    switch (random() % 16) {
    case 0:
      return emit("math.tanh", x);
    case 1:
      return emit("attn.logistic", x);
    case 2:
      return emit("math.sin", x);
    case 3:
      return emit("math.cos", x);
    case 4:
      return emit("math.erf", x);
    case 5:
      return emit("arith.mulf", x + ", %half");
    case 6:
      return emit("arith.addf", x + ", %one");
    case 7:
      return emit("arith.maximumf", x + ", %zero");
    case 8:
      return emit("math.absf", x);
    case 9: {
      // exp of something bounded.
      std::string low = emit("arith.minimumf", x + ", %three");
      return emit("math.exp", emit("arith.mulf", low + ", %half"));
    }
    case 10: {
      std::string square = emit("arith.mulf", x + ", " + x);
      return emit("math.log1p", square);
    }
    case 11: {
      std::string square = emit("arith.mulf", x + ", " + x);
      return emit("math.sqrt", emit("arith.addf", square + ", %one"));
    }
    case 12: {
      std::string square = emit("arith.mulf", x + ", " + x);
      return emit("math.rsqrt", emit("arith.addf", square + ", %half"));
    }
    case 13: {
      std::string low = emit("arith.minimumf", x + ", %one");
      return emit("math.expm1", low);
    }
    case 14:
      return distance(x);
    default: {
      // What depends on the head.
      std::string made = name(), integer = name();
      text += "    " + integer + " = arith.sitofp %h : i32 to f32\n";
      text +=
          "    " + made + " = arith.addf " + x + ", " + integer + " : f32\n";
      return made;
    }
    }
  }

  /// x + 1 / (1 + |i - j|)
  std::string distance(const std::string &x) {
    std::string d = name(), a = name(), f = name();
    text += "    " + d + " = arith.subi %i, %j : i32\n    " + a +
            " = math.absi " + d + " : i32\n    " + f + " = arith.sitofp " + a +
            " : i32 to f32\n";
    std::string below = emit("arith.addf", f + ", %one");
    std::string bias = emit("arith.divf", "%one, " + below);
    return emit("arith.addf", x + ", " + bias);
  }

  std::mt19937 &random;
  std::string text;
  int count = 0;
};

} // namespace attnc::numerics

#endif // ATTNC_TEST_UNIT_NUMERICS_REGIONGENERATOR_H
