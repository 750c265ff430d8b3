"""What an attention is, as plain text, and its IR.

A Spec says everything but the types and sizes of the operands: it is a constant
of a traced graph (`text`) and owns the table of kernels that `call` looks in.
"""

import functools
import json
import re

# Letters of sizes, as the extension checks them: b sequences, h query heads,
# g key heads, i queries, j keys, d and e the head dims, others anything. A
# capital: at least so many, of which the program sees the first.


def constant(function):
    """For torch.compile, which need not look inside: the function gives a
    constant for constants."""
    setattr(function, "_dynamo_marked_constant", True)
    return function


class Spec:
    """Fields, all plain: see `make`. Compared by identity: `of` interns."""

    def __init__(self, text):
        self.text = text
        self.table = TABLES[text] = {}
        for name, value in json.loads(text).items():
            setattr(self, name, value)
        self.slots = [name for name, _ in self.operands]
        self.maps = {}  # of captured arrays
        for part in self.parts():
            for name, maps in part["captures"]:
                # In an epilogue, d is the dim of the values' elements.
                letters = "bhie" if part is self.epilogue else "bhij"
                self.maps[name] = [
                    letters["bhi".find(m) if m in "bhi" else 3].upper()
                    if m in ("b", "h", "i", "j", "d") else "" for m in maps]

    def parts(self):
        """The functions that may read arrays."""
        return [part for part in (self.activation_part, self.score_mod,
                                  self.mask_mod, self.epilogue) if part]

    def computes_with(self, letter):
        """Whether a function uses the number of a sequence (b) or head (h) for
        more than to read an array at it."""
        for part in self.parts():
            if re.search(rf"%{letter}\b", "\n".join(part["lines"])) or any(
                    one != letter and re.search(rf"\b{letter}\b", one)
                    for _, maps in part["captures"] for one in maps):
                return True
        return False

    def __repr__(self):
        return f"<attention of {', '.join(self.slots)}>"


_FIELDS = dict(
    activation=None,   # lines of a region of %x; null: softmax
    activation_part=None,  # as score_mod, if it reads arrays
    normalize="none",  # none, l1, softmax
    score_mod=None,    # {"lines": [...], "captures": [[slot, [maps]], ...]}
    mask_mod=None,
    epilogue=None,     # as score_mod, and "statistics": true
    causal="",         # "", "bottom_right", "top_left"
    window=False,
    bias="",           # "", "value", "per_sequence"
    layout="bhsd",
    lse=False,
    lse_gradient=False,  # an operand of the gradients
    before=False,      # gives what an epilogue gets, too, and first
    ordered=False,     # more queries than keys need another alignment
    schedule="",
    deterministic=False,
    gradient=(),       # the operands whose gradients the program computes
    operands=(),       # [name, "tensor" or "scalar"] after query, key, value
)


def make(**fields):
    """The text of a Spec."""
    unknown = set(fields) - set(_FIELDS)
    assert not unknown, unknown
    return json.dumps({**_FIELDS, **fields}, separators=(",", ":"))


_derived: dict = {}


@constant
def for_training(text):
    """The forward whose results the backward needs: a softmax's LSE, and what
    an epilogue gets, too."""
    found = _derived.get(text)
    if found is None:
        fields = json.loads(text)
        fields["lse"] = fields["lse"] or fields["activation"] is None
        fields["before"] = bool(fields["epilogue"])
        found = _derived[text] = make(**fields)
    return found


@constant
def backward(text, names, through_lse=False):
    """The gradients of the operands of these names: operands of the program
    are those of the forward, a softmax's output and LSE, the gradient of the
    LSE if there is one, and that of the output."""
    found = _derived.get((text, names, through_lse))
    if found is None:
        found = _derived[text, names, through_lse] = make(
            **{**json.loads(for_training(text)), "gradient": names,
               "lse_gradient": through_lse})
    return found




@functools.lru_cache(maxsize=None)
def of(text):
    """The Spec of a text, one object for equal texts."""
    return Spec(text)


class _Tables(dict):
    """The kernels of each text's Spec."""

    def __missing__(self, text):
        return of(text).table


_remembered = [_derived]


def remembered(table):
    """A dict that `forget` clears."""
    _remembered.append(table)
    return table


TABLES = remembered(_Tables())


def forget():
    of.cache_clear()
    for table in _remembered:
        table.clear()


class Operand:
    """What the IR depends on: element type, shape (null for a number)."""

    __slots__ = ("type", "shape", "device")

    def __init__(self, type, shape, device="cpu"):
        self.type = type
        self.shape = shape
        self.device = device


# --- dims of operands ---------------------------------------------------------

def _broadcast_dims(shape, letters):
    """Right-aligned broadcasting: (letter, source dim) of the dims kept."""
    names = letters[len(letters) - len(shape):]
    return [(letter, k) for k, letter in enumerate(names) if shape[k] != 1]


def bias_dims(shape):
    if len(shape) <= 2:
        return _broadcast_dims(shape, "bh"[-len(shape):] if shape else "")
    return _broadcast_dims(shape, "bhij")


class _Writer:
    """Writes one function, part by part, as `attnc gen` does."""

    def __init__(self, spec, operands):
        self.spec = spec
        self.operands = dict(zip(["query", "key", "value"] + spec.slots,
                                 operands))
        self.body = []
        self.arguments = []
        self.dims = []  # a slot of the extension for each argument
        self.logits = "%scores"
        self.free = -1

    def write(self):
        spec = self.spec
        q, k, v = (self.operands[n] for n in ("query", "key", "value"))
        d, dv = q.shape[-1], v.shape[-1]
        self.aliases = [f"!q = tensor<?x?x?x{d}x{q.type}>",
                        f"!k = tensor<?x?x?x{d}x{k.type}>",
                        f"!v = tensor<?x?x?x{dv}x{v.type}>",
                        "!s = tensor<?x?x?x?xf32>",
                        f"!o = tensor<?x?x?x{dv}x{q.type}>",
                        f"!acc = tensor<?x?x?x{dv}xf32>"]
        self._argument("query", "!q", self._rows("bhid"))
        self._argument("key", "!k", self._rows("bgjd"))
        self._argument("value", "!v", self._rows("bgje"))
        for name in spec.slots:
            self._operand(name)
        self._scores()
        self._modifier()
        self._bias()
        self._slopes()
        self._masks()
        results = self._weights()
        return self._function(results), tuple(self.dims)

    # Arguments

    def _rows(self, letters):
        order = (0, 1, 2, 3) if self.spec.layout == "bhsd" else (0, 2, 1, 3)
        return tuple(zip(order, letters))

    def _argument(self, name, type, dims):
        wanted = ", attn.gradient" if name in self.spec.gradient else ""
        self.arguments.append(
            f"%{name}: {type} {{attn.name = \"{name}\"{wanted}}}")
        self.dims.append(dims)

    def _operand(self, name):
        operand = self.operands[name]
        if operand.shape is None:
            type = "i32" if name.startswith("window") else "f32"
            self._argument(name, type, None)
            return
        kept = self._kept(name, operand.shape)
        self._argument(name, self._tensor(kept, operand.type),
                       tuple((source, letter) for letter, source in kept))

    def _kept(self, name, shape):
        """(letter, source dim) of each dim that the program sees."""
        if name in ("k_len", "q_len"):
            return [("b", 0)]
        if name == "bias":
            return bias_dims(shape)
        if name in ("scale", "slopes"):
            return _broadcast_dims(shape, "bh")
        if name == "mask":
            return _broadcast_dims(shape, "bhij")
        return [(letter or self._fresh(), k)
                for k, letter in enumerate(self.spec.maps[name])]

    def _fresh(self):
        """A letter for a size that may be anything."""
        self.free += 1
        return chr(ord("!") + self.free)

    @staticmethod
    def _tensor(kept, type):
        return f"tensor<{'?x' * len(kept)}{type}>"

    def _type(self, name):
        operand = self.operands[name]
        if operand.shape is None:
            return "i32" if name.startswith("window") else "f32"
        return self._tensor(self._kept(name, operand.shape), operand.type)

    def _map(self, name):
        kept = self._kept(name, self.operands[name].shape or ())
        return ("affine_map<(b, h, i, j) -> ("
                + ", ".join(letter for letter, _ in kept) + ")>")

    # The steps

    def _add(self, line):
        self.body.append("  " + line)

    def _region(self, arguments, lines):
        self.body[-1] += " {"
        self._add("^bb0(" + ", ".join(arguments) + "):")
        for line in lines:
            self._add("  " + line)
        self._add("}")

    def _scores(self):
        text = "%scores = attn.scores %query, %key"
        scale = self.operands.get("scale")
        # An array is a factor that the scores capture.
        is_captured = scale is not None and scale.shape is not None
        if is_captured:
            self._add("%one = arith.constant 1.0 : f32")
            text += " scale %one"
        elif scale is not None:
            text += " scale %scale"
        if "q_len" in self.operands:
            text += " q_len %q_len : tensor<?xi32>"
        if "k_len" in self.operands:
            text += " k_len %k_len : tensor<?xi32>"
        self._add(text + " : !q, !k -> !s")
        if is_captured:
            self._capture_per_head("%scaled", "scale", [
                "%y = arith.mulf %s, %c0 : f32",
                "attn.yield %y : f32"])

    def _capture_per_head(self, result, name, lines):
        """A step of the scores with an array of at most (B, H)."""
        part = {"captures": [[name, [
            letter for letter, _ in
            self._kept(name, self.operands[name].shape)]]]}
        text, scalars = self._captures(part, "b, h, i, j")
        self._score_region(result, text, scalars, lines)

    def _captures(self, part, dims):
        """The text that names captured operands, and the region's arguments."""
        captures = part["captures"]
        if not captures:
            return "", []
        names = ", ".join(f"%{slot}" for slot, _ in captures)
        kinds = ", ".join(self._type(slot) for slot, _ in captures)
        maps = ", ".join(f"affine_map<({dims}) -> ({', '.join(maps)})>"
                         for _, maps in captures)
        # Whole numbers and flags of any width are i32 inside.
        scalars = [f"%c{k}: {_scalar(self.operands[slot].type)}"
                   for k, (slot, _) in enumerate(captures)]
        return f" captures({names} : {kinds}) maps [{maps}]", scalars

    _positions = ["%b: i32", "%h: i32", "%i: i32", "%j: i32"]
    _lengths = ["%ql: i32", "%kl: i32"]

    def _score_region(self, name, text, extra, lines, score="%s"):
        self._add(f"{name} = attn.score_mod {self.logits}{text}")
        self._region([f"{score}: f32"] + self._positions + self._lengths + extra,
                     lines)
        self.body[-1] += " : !s"
        self.logits = name

    def _modifier(self):
        part = self.spec.score_mod
        if part:
            text, scalars = self._captures(part, "b, h, i, j")
            self._score_region("%modified", text, scalars, part["lines"])

    def _bias(self):
        if self.spec.bias == "per_sequence":
            self._score_region("%biased", "", [], [
                "%n = arith.sitofp %kl : i32 to f32",
                "%l = math.log %n : f32",
                "%y = arith.subf %s, %l : f32",
                "attn.yield %y : f32"])
        elif self.spec.bias:
            self._add_bias("%biased", "bias")

    def _add_bias(self, result, name):
        self._add(f"{result} = attn.bias {self.logits}, %{name} map "
                  f"{self._map(name)} : !s, {self._type(name)}")
        self.logits = result

    def _slopes(self):
        if "slopes" not in self.operands:
            return
        self._capture_per_head("%leaning", "slopes", [
            "%shift = arith.subi %kl, %ql : i32",
            "%diagonal = arith.addi %i, %shift : i32",
            "%before = arith.subi %diagonal, %j : i32",
            "%after = arith.subi %j, %diagonal : i32",
            "%steps = arith.maxsi %before, %after : i32",
            "%distance = arith.sitofp %steps : i32 to f32",
            "%penalty = arith.mulf %c0, %distance : f32",
            "%y = arith.subf %s, %penalty : f32",
            "attn.yield %y : f32"])

    def _masks(self):
        masks = []
        spec = self.spec
        align = " align top_left" if spec.causal == "top_left" else ""
        if spec.causal:
            self._add(f"%causal = attn.causal_mask{align}")
            masks.append("%causal")
        if spec.window:
            self._add("%window = attn.window_mask %window_left, "
                      f"%window_right{align}")
            masks.append("%window")
        if "mask" in self.operands:
            if self.operands["mask"].type == "i1":
                self._add(f"%allowed = attn.tensor_mask %mask map "
                          f"{self._map('mask')} : {self._type('mask')}")
                masks.append("%allowed")
            else:
                self._add_bias("%added", "mask")
        if spec.mask_mod:
            text, scalars = self._captures(spec.mask_mod, "b, h, i, j")
            self._add(f"%chosen = attn.predicate_mask{text}")
            self._region(self._positions + scalars, spec.mask_mod["lines"])
            masks.append("%chosen")
        if masks:
            self._add(f"%masked = attn.mask {self.logits} by "
                      f"{', '.join(masks)} : !s")
            self.logits = "%masked"

    def _weights(self):
        spec = self.spec
        results = [("output", "!o", self._rows("bhie"), "%o")]
        if spec.lse:
            self._add(f"%lse = attn.lse {self.logits} : !s -> "
                      "tensor<?x?x?xf32>")
        if spec.activation is None:
            self._add(f"%weights = attn.softmax {self.logits} : !s")
        elif spec.activation_part:
            # It reads arrays as a step of the scores does, of which the mask
            # may be anywhere, and without an activation scores are weights.
            text, scalars = self._captures(spec.activation_part, "b, h, i, j")
            self._score_region("%weights", text, scalars, spec.activation, "%x")
        else:
            self._add(f"%weights = attn.activation {self.logits}")
            self._region(["%x: f32"], spec.activation)
            self.body[-1] += " : !s"
        norm = " normalize l1" if spec.normalize == "l1" else ""
        # An epilogue of its own reads the output as it is stored.
        kind = "!acc" if spec.epilogue and not spec.before else "!o"
        self._add(f"%o = attn.apply %weights, %value{norm} : !s, !v -> {kind}")
        if spec.epilogue:
            self._epilogue(spec.epilogue, kind)
        if spec.epilogue and not spec.before:
            results[0] = results[0][:3] + ("%result",)
        if spec.lse:
            results.append(("lse", "tensor<?x?x?xf32>",
                            ((0, "b"), (1, "h"), (2, "i")), "%lse"))
        if spec.before:
            results[0] = ("before",) + results[0][1:]
            results.append(("output", "!o", self._rows("bhie"), "%result"))
        return results

    def _epilogue(self, part, kind):
        text, scalars = self._captures(part, "b, h, i, d")
        statistics = " stats [1 : i32]" if part["statistics"] else ""
        self._add(f"%result = attn.epilogue %o{text}{statistics}")
        arguments = ["%o_d: f32", "%b: i32", "%h: i32", "%i: i32", "%d: i32"]
        if part["statistics"]:
            arguments.append("%mean_square: f32")
        self._region(arguments + scalars, part["lines"])
        self.body[-1] += f" : {kind} -> !o"

    def _backward_dims(self):
        """Of what follows the forward's operands in a backward."""
        rows = self._rows("bhie")
        forward = []
        if self.spec.activation is None or self.spec.before:
            forward.append(rows)
        if self.spec.activation is None:
            stat = ((0, "b"), (1, "h"), (2, "i"))
            forward += [stat] * (1 + self.spec.lse_gradient)
        names = ["query", "key", "value"] + self.spec.slots
        dims = dict(zip(names, self.dims))
        gradients = []
        for name in names:
            if name in names[:3] and name in self.spec.gradient:
                gradients.append(dims[name])
            elif name in self.spec.gradient:
                # Without the dims of size 1, which the caller puts back.
                gradients.append(tuple(
                    (k, letter.lower())
                    for k, (_, letter) in enumerate(dims[name])))
        return forward + [rows] + gradients

    def _function(self, results):
        attributes = ""
        if self.spec.gradient:
            fixed = ", attn.deterministic" * self.spec.deterministic
            attributes = f" attributes {{attn.differentiate{fixed}}}"
            self.dims += self._backward_dims()
        else:
            self.dims += [dims for _, _, dims, _ in results]
        types = ", ".join(kind for _, kind, _, _ in results)
        given = {"lse": ", attn.gradient"} if self.spec.lse_gradient else {}
        named = ", ".join(
            f"{kind} {{attn.name = \"{name}\"{given.get(name, '')}}}"
            for name, kind, _, _ in results)
        values = ", ".join(value for _, _, _, value in results)
        return "\n".join(
            self.aliases + ["", "func.func @attention("]
            + ["    " + ",\n    ".join(self.arguments) + ")"]
            + [f"    -> ({named}){attributes} {{"] + self.body
            + [f"  return {values} : {types}", "}", ""])


def _scalar(type):
    return {"i32": "i32", "i1": "i32", "i8": "i32"}.get(type, "f32")


def write(spec, operands):
    """The IR for operands of these types, and how the extension reads them."""
    return _Writer(spec, operands).write()
