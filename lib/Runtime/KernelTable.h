//===- KernelTable.h - Programs of this process, found lock-free *- C++ -*-===//

#ifndef ATTNC_LIB_RUNTIME_KERNELTABLE_H
#define ATTNC_LIB_RUNTIME_KERNELTABLE_H

#include "lib/Runtime/Key.h"

#include <atomic>
#include <memory>
#include <vector>

namespace attnc {

/// A map from request keys to programs that only grows: programs stay while
/// the process lives, so a reader needs no lock and no reference count. A
/// reader sees a null slot or a complete node, since nodes are published by a
/// store-release of their pointer. Growing makes a new array; old ones stay
/// for readers still in them (together they are no larger than the new one).
template <typename Value> class KernelTable {
public:
  KernelTable() {
    arrays.push_back(std::make_unique<Array>(64));
    publish();
  }

  /// The value, or null. Lock-free; any thread.
  const Value *find(const RequestKey &key) const {
    const Array *array = current.load(std::memory_order_acquire);
    for (size_t i = key.hash();; ++i) {
      const Node *node =
          array->slots[i & array->mask].load(std::memory_order_acquire);
      if (!node)
        return nullptr;
      if (node->key == key)
        return node->value;
    }
  }

  /// One caller at a time. A key is inserted once.
  void insert(const RequestKey &key, const Value *value) {
    nodes.push_back(std::make_unique<Node>(Node{key, value}));
    if (nodes.size() * 2 > arrays.back()->mask + 1) {
      arrays.push_back(std::make_unique<Array>((arrays.back()->mask + 1) * 2));
      for (auto &node : nodes)
        place(*arrays.back(), node.get());
      publish();
    } else {
      place(*arrays.back(), nodes.back().get());
    }
  }

private:
  struct Node {
    RequestKey key;
    const Value *value;
  };
  struct Array {
    explicit Array(size_t size) : mask(size - 1), slots(size) {}
    size_t mask;
    std::vector<std::atomic<const Node *>> slots;
  };

  static void place(Array &array, const Node *node) {
    size_t i = node->key.hash();
    while (array.slots[i & array.mask].load(std::memory_order_relaxed))
      ++i;
    array.slots[i & array.mask].store(node, std::memory_order_release);
  }
  void publish() {
    current.store(arrays.back().get(), std::memory_order_release);
  }

  std::vector<std::unique_ptr<Node>> nodes;
  std::vector<std::unique_ptr<Array>> arrays;
  std::atomic<const Array *> current;
};

} // namespace attnc

#endif // ATTNC_LIB_RUNTIME_KERNELTABLE_H
