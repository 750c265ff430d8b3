"""Sharding of JAX calls under jit: sequences and heads stay where they are.

An attention of one sequence and one group of heads needs no other. So a
program runs on the shards of a mesh as it runs on the whole, unless one of its
functions computes with the number of a sequence or head.
"""

import jax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec


def partitioned(call, spec, inputs, results, dims):
    """`call(*arrays) -> results`, which a jitted program may split.

    `inputs` and `results` have shapes; `dims` has for each of them the
    (source, letter) of the dims that the program sees.
    """
    plan = _Plan(call, spec, [x.shape for x in (*inputs, *results)],
                 len(inputs), dims)
    # Of this signature: the number of its parameters counts.
    wrapped = custom_partitioning(call)
    rule, sizes = plan.rule()
    wrapped.def_partition(
        plan.partition, infer_sharding_from_operands=plan.infer,
        sharding_rule=rule, need_replication_factors=tuple(plan.whole),
        **sizes)
    return wrapped


class _Plan:
    """Each dim of each array is "b", "h" (a query head), "g" (a key head) or
    stays whole."""

    def __init__(self, call, spec, shapes, inputs, dims):
        self.call, self.shapes, self.inputs = call, shapes, inputs
        axis = 1 if spec.layout == "bhsd" else 2
        self.heads, self.groups = shapes[0][axis], shapes[1][axis]
        self.letters = []
        split = [letter for letter in "bh" if not spec.computes_with(letter)]
        for shape, own in zip(shapes, dims):
            letters = [""] * len(shape)
            for source, letter in own:
                letter = letter.lower()
                if ("h" if letter == "g" else letter) in split:
                    letters[source] = letter
            self.letters.append(letters)
        self.whole = []

    # Before partitioning: what belongs together

    def rule(self):
        """(rule, sizes): "b h x0 x1, b h x2 x3, ... -> b h x6 x7"."""
        texts = [" ".join(map(self._factor, letters))
                 for letters in self.letters]
        sizes = {"r": self.heads // self.groups} if "r" in self.whole else {}
        return (", ".join(texts[:self.inputs]) + " -> "
                + ", ".join(texts[self.inputs:])), sizes

    def _factor(self, letter):
        if letter == "b":
            return "b"
        if letter == "h" and 1 < self.groups < self.heads:
            # No finer than groups, each of which has its key head.
            if "r" not in self.whole:
                self.whole.append("r")
            return "(g r)"
        if letter == "h":
            return "h"
        if letter == "g" and self.groups > 1:
            return "g" if self.groups < self.heads else "h"
        # One key head for all: on every device.
        self.whole.append(f"x{len(self.whole)}")
        return self.whole[-1]

    # While partitioning: who has what

    def infer(self, mesh, arguments, results):
        shardings = self._shardings(mesh, self._axes(mesh, arguments))
        return tuple(shardings[self.inputs:])

    def partition(self, mesh, arguments, results):
        axes = self._axes(mesh, arguments)
        shardings = self._shardings(mesh, axes)
        sums = [tuple(axis for letter in "bh" for axis in axes[letter]
                      if not self._has(letters, letter))
                for letters in self.letters[self.inputs:]]

        def local(*arrays):
            # A gradient of what several shards read is the sum of theirs.
            return tuple(jax.lax.psum(x, over) if over else x
                         for x, over in zip(self.call(*arrays), sums))

        return (mesh, local, tuple(shardings[self.inputs:]),
                tuple(shardings[:self.inputs]))

    def _has(self, letters, letter):
        if letter == "h" and self.groups > 1 and "g" in letters:
            return True
        return letter in letters

    def _axes(self, mesh, arguments):
        """The mesh's axes over which sequences and heads are split."""
        axes = {}
        for letter in "bh":
            count = self.groups if (
                letter == "h" and 1 < self.groups) else self.heads
            if letter == "b":
                count = self.shapes[0][0]
            axes[letter] = ()
            for argument, letters in zip(arguments, self.letters):
                found = self._split(argument, letters, letter)
                size = 1
                for axis in found:
                    size *= mesh.shape[axis]
                if found and size and count % size == 0:
                    axes[letter] = found
                    break
        if set(axes["b"]) & set(axes["h"]):
            axes["h"] = ()
        return axes

    def _split(self, argument, letters, letter):
        spec = getattr(argument.sharding, "spec", None)
        if spec is None or letter not in letters:
            return ()
        at = letters.index(letter)
        found = spec[at] if at < len(spec) else None
        return (found,) if isinstance(found, str) else tuple(found or ())

    def _shardings(self, mesh, axes):
        def of(letter):
            if letter == "g":
                letter = "h" if self.groups > 1 else ""
            return axes.get(letter) or None

        return [NamedSharding(mesh, PartitionSpec(*map(of, letters)))
                for letters in self.letters]
