"""torch tensors: the short way, and the op that traced graphs see."""

import torch

from . import _fold, _prepare, _spec
from ._library import _attnc, call, call_torch

_C = torch._C
_autocasts = torch.is_autocast_enabled
is_compiling = torch.compiler.is_compiling
_is_traced = torch.compiler.is_dynamo_compiling
_DTYPES = {1: torch.float32, 2: torch.float16, 3: torch.bfloat16,
           4: torch.int32, 5: torch.bool}
# Whether the extension reads tensors without Python's help (torch 2.10).
_HAS_EXCHANGE = hasattr(torch.Tensor, "__dlpack_c_exchange_api__")
_DIRECT = (torch.Tensor, torch.nn.Parameter)
_grad_enabled = torch.is_grad_enabled
_dispatch_modes = _C._len_torch_dispatch_stack
_function_modes = _C._len_torch_function_stack
_transforms = _C._functorch.peek_interpreter_stack
_forward_mode = torch.autograd.forward_ad
_attnc.set_torch(*_DIRECT, _grad_enabled, (
    _C._is_any_autocast_enabled, _dispatch_modes, _function_modes,
    _transforms), vars(_forward_mode))
_tables = _spec.TABLES


def _new(shape, dtype):
    return torch.empty(shape, dtype=_DTYPES[dtype])


_allocate = None if _HAS_EXCHANGE else _new


# --- the op -------------------------------------------------------------------

_library = torch.library.Library("attnc", "DEF")
_library.define("forward(str spec, Tensor q, Tensor k, Tensor v, Tensor[] rest,"
                " float[] scalars) -> Tensor[]",
                tags=(torch.Tag.pt2_compliant_tag,
                      torch.Tag.needs_fixed_stride_order))


def _join(spec, tensors, scalars):
    """The operands after q, k, v, in the order of the Spec's slots."""
    tensors, scalars = iter(tensors), iter(scalars)
    return tuple(next(tensors if kind == "tensor" else scalars)
                 for _, kind in spec.operands)


def _split(spec, rest):
    tensors = [x for x, (_, kind) in zip(rest, spec.operands)
               if kind == "tensor"]
    scalars = [float(x) for x, (_, kind) in zip(rest, spec.operands)
               if kind != "tensor"]
    return tensors, scalars


def _forward(text, q, k, v, tensors, scalars):
    spec = _spec.of(text)
    result = _execute(spec, (q, k, v) + _join(spec, tensors, scalars))
    return [result] if isinstance(result, torch.Tensor) else list(result)


def _fake(text, q, k, v, tensors, scalars):
    spec = _spec.of(text)
    operands = (q, k, v) + _join(spec, tensors, scalars)
    for name, x in zip(("k", "v"), operands[1:3]):
        if x.device != q.device:
            raise ValueError(f"argument '{name}': expected a tensor on "
                             f"{q.device} as q, got one on {x.device}; move it "
                             "with .to(q.device)")
    _prepare.check(spec, operands)
    h, s = (1, 2) if spec.layout == "bhsd" else (2, 1)
    out = q.new_empty(tuple(q.shape[:3]) + (v.shape[3],))
    lse = [q.new_empty((q.shape[0], q.shape[h], q.shape[s]),
                       dtype=torch.float32)] * spec.lse
    return [out, *lse] + ([torch.empty_like(out)] if spec.before else [])


_library.impl("forward", _forward, "CPU")
_library.impl("forward", _forward, "CUDA")
torch.library.register_fake("attnc::forward", _fake, lib=_library)
_op = torch.ops.attnc.forward.default


def _vmap(info, in_dims, text, q, k, v, tensors, scalars):
    spec = _spec.of(text)
    arrays = _fold.fold(spec, info.batch_size, [q, k, v] + tensors,
                        list(in_dims[1:4]) + list(in_dims[4]), torch.movedim,
                        torch.broadcast_to, torch.reshape)
    if _grad_enabled() and _needs_grad(arrays):
        _refuse_traced_transform()
    return _unfolded(info, _op(text, *arrays[:3], arrays[3:], scalars))


def _unfolded(info, results):
    """The mapped dim as one of its own again, and where it is."""
    n = info.batch_size
    return tuple(x.unflatten(0, (n, x.shape[0] // max(n, 1)))
                 for x in results), (0,) * len(results)


# The gradients: `saved` is a softmax's output and LSE, and the gradient of that
# if it is a result.
_library.define("backward(str spec, Tensor q, Tensor k, Tensor v, Tensor[] "
                "rest, float[] scalars, Tensor[] saved, Tensor doutput) -> "
                "Tensor[]", tags=(torch.Tag.pt2_compliant_tag,
                                  torch.Tag.needs_fixed_stride_order))


def _backward(text, q, k, v, tensors, scalars, saved, doutput):
    spec = _spec.of(text)
    operands = (q, k, v) + _join(spec, tensors, scalars) + tuple(saved)
    result = _execute(spec, operands + (_dense(doutput),), checked=True)
    return [result] if isinstance(result, torch.Tensor) else list(result)


def _dense(x):
    """Rows of consecutive elements; a sum's gradient is one element."""
    return x if x.stride(-1) == 1 or x.shape[-1] <= 1 else x.contiguous()


def _fake_backward(text, q, k, v, tensors, scalars, saved, doutput):
    spec = _spec.of(text)
    operands = (q, k, v) + _join(spec, tensors, scalars)
    types = dict(zip(["query", "key", "value"] + spec.slots, operands))
    return [types[name].new_empty(shape) for name, shape in
            _prepare.gradient_shapes(spec, operands)]


_library.impl("backward", _backward, "CPU")
_library.impl("backward", _backward, "CUDA")
torch.library.register_fake("attnc::backward", _fake_backward, lib=_library)
_backward_op = torch.ops.attnc.backward.default

torch.library.register_vmap("attnc::forward", _vmap, lib=_library)


def _vmap_backward(info, in_dims, text, q, k, v, rest, scalars, saved, doutput):
    """One after the other: what they share has a gradient for each."""
    operands = (q, k, v, rest, saved, doutput)
    dims = in_dims[1:5] + in_dims[6:]
    found = []
    for at in range(info.batch_size):
        q, k, v, rest, saved, doutput = (
            [_taken(*each, at) for each in zip(x, dim)]
            if isinstance(x, list) else _taken(x, dim, at)
            for x, dim in zip(operands, dims))
        found.append(_backward_op(text, q, k, v, rest, scalars, saved, doutput))
    return [torch.stack(each) for each in zip(*found)], [0] * len(found[0])


def _taken(x, dim, at):
    return x if dim is None else x.select(dim, at)


torch.library.register_vmap("attnc::backward", _vmap_backward, lib=_library)


# torch.compile does not see which gradients torch.func wants: no zeros then.

@_spec.constant
def _is_differentiated():
    grad = _C._functorch.TransformType.Grad
    return any(level.key() == grad for level in
               _C._functorch.get_interpreter_stack() or ())


def _refuse_traced_transform():
    raise NotImplementedError(
        "torch.compile does not see which gradients torch.func's transforms "
        "want of attention: compile what is inside of grad, vjp or vmap, or "
        "take gradients with .backward()")


# --- running ------------------------------------------------------------------

def _execute(spec, operands, checked=False):
    """On plain tensors without gradients."""
    if not _HAS_EXCHANGE:
        operands = tuple(x.detach() if isinstance(x, torch.Tensor) else x
                         for x in operands)
    result = call(spec.table, operands, _allocate)
    if result is not NotImplemented:
        return result
    if not checked:
        operands = _prepared(spec, operands)
        result = call(spec.table, operands, _allocate)
    if result is NotImplemented:
        _compile(spec, operands)
        result = call(spec.table, operands, _allocate)
    if result is NotImplemented:
        raise ValueError("the tensors do not fit together: " + ", ".join(
            str(tuple(getattr(x, "shape", ()))) for x in operands))
    return result


def _compile(spec, operands):
    device = operands[0].device
    if device.type == "cpu":
        _prepare.compile_for(spec, operands)
        return
    kernel = _prepare.compile_for(spec, operands, "cuda", device.index)
    # During capture the library says that it must be warm.
    if not torch.cuda.is_current_stream_capturing():
        kernel.warm_up()


def _prepared(spec, operands):
    """Checked, and converted to the types that kernels take."""
    operands = list(operands)
    q = operands[0]
    for name, x in zip(("q", "k", "v"), operands):
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"argument '{name}': expected a torch tensor as "
                            f"the others, got {type(x).__name__}; convert it "
                            "with torch.as_tensor")
        if x.is_nested or x.layout != torch.strided:
            raise TypeError(f"argument '{name}': expected a dense tensor, got "
                            + ("a nested one; call .to_padded_tensor(0) and "
                               "pass kv_len" if x.is_nested else
                               f"one of layout {x.layout}; call .to_dense()"))
    if q.device.type not in ("cpu", "cuda"):
        raise NotImplementedError(
            f"argument 'q': expected a tensor on the CPU or a CUDA device, got "
            f"one on {q.device}; move it with .cpu() or .cuda()")
    for at, (name, x) in enumerate(zip(spec.slots, operands[3:])):
        if isinstance(x, (int, float)):
            continue
        if not isinstance(x, torch.Tensor):
            x = _as_tensor(_prepare._public(name), x, q.device)
        operands[3 + at] = _converted(name, x)
    for name, x in zip(["k", "v"] + [_prepare._public(n) for n in spec.slots],
                       operands[1:]):
        if isinstance(x, torch.Tensor) and x.device != q.device:
            raise ValueError(f"argument '{name}': expected a tensor on "
                             f"{q.device} as q, got one on {x.device}; move it "
                             "with .to(q.device)")
    on_host = q.device.type == "cpu"
    _prepare.check(spec, operands, (lambda x: x.tolist()) if on_host else None)
    return tuple(x.resolve_conj().resolve_neg()
                 if isinstance(x, torch.Tensor) else x for x in operands)


def _as_tensor(name, x, device):
    try:
        return torch.as_tensor(x, device=device)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"argument '{name}': expected a tensor, got "
                        f"{type(x).__name__}") from None


def _is_untransformed():
    """No tracing, mode or functorch transform that must see the op."""
    return not (is_compiling() or _dispatch_modes() or _function_modes()
                or _transforms() is not None)


def _is_plain(operands):
    """Nothing but the tensors' memory matters."""
    return _is_untransformed() and all(
        type(x) in _DIRECT for x in operands if isinstance(x, torch.Tensor))


def _autocast(q, k, v):
    """q, k, v in autocast's type; biases, slopes and masks as they are."""
    dtype = torch.get_autocast_dtype(q.device.type)
    with torch.autocast(q.device.type, enabled=False):
        return tuple(x.to(dtype) if x.dtype == torch.float32 else x
                     for x in (q, k, v))


def check(text, q, k, v, rest):
    _prepared(_spec.of(text), (q, k, v) + rest)


def run(text, q, k, v, rest):
    if not _is_traced() and _HAS_EXCHANGE:
        # The short way: nothing but the tensors' memory matters.
        operands = (q, k, v) + rest
        result = call_torch(_tables[text], operands)
        if result.__class__ is int:
            return _recorded(text, result, operands)
        if result is not NotImplemented:
            return result
    return _run(text, q, k, v, rest)


def _run(text, q, k, v, rest):
    if _autocasts("cuda" if q.is_cuda else "cpu"):
        q, k, v = _autocast(q, k, v)
    operands = (q, k, v) + rest
    if not is_compiling() and _forward_mode._current_level >= 0:
        _refuse_tangents(operands)
    if is_compiling() and _is_differentiated():
        _refuse_traced_transform()
    # Which gradients are wanted at other levels of torch.func, tensors of this
    # one do not say.
    if _grad_enabled() and (_needs_grad(operands) or (
            not is_compiling() and _transforms() is not None)):
        return _with_grad(text, operands)
    if not q.is_meta and _is_plain(operands):
        return _execute(_spec.of(text), operands)
    return _through_op(text, q, k, v, rest)


def _refuse_tangents(operands):
    for x in operands:
        if isinstance(x, torch.Tensor) and x.is_floating_point() and (
                _forward_mode.unpack_dual(x).tangent is not None):
            raise NotImplementedError(
                "attnc has no forward-mode derivatives (jvp, jacfwd, dual "
                "tensors); use reverse mode (torch.func.vjp, jacrev), or "
                "attnc.reference.attention")


def _needs_grad(operands):
    for x in operands:
        if isinstance(x, torch.Tensor) and x.requires_grad:
            return True
    return False


def _through_op(text, q, k, v, rest):
    tensors, scalars = _parts(q, rest)
    result = _op(text, q, k, v, tensors, scalars)
    return result[0] if len(result) == 1 else tuple(result)


def _parts(q, rest):
    tensors = []
    scalars = []
    for x in rest:
        if isinstance(x, torch.Tensor):
            tensors.append(x)
        elif isinstance(x, (int, float)):
            scalars.append(float(x))
        else:
            tensors.append(torch.as_tensor(x, device=q.device))
    return tensors, scalars


# --- gradients ----------------------------------------------------------------

def _forward_results(text, scalars, q, k, v, tensors):
    if not q.is_meta and _is_plain((q, k, v) + tensors):
        spec = _spec.of(text)
        return _execute(spec, (q, k, v) + _join(spec, tensors, scalars))
    results = _op(text, q, k, v, list(tensors), list(scalars))
    return results[0] if len(results) == 1 else tuple(results)


def _keep(ctx, training, through_lse, scalars, operands, results):
    ctx.text, ctx.training, ctx.scalars = None, training, scalars
    ctx.count, ctx.through_lse = len(operands), through_lse
    # A softmax's backward needs its output and LSE, that of an epilogue what
    # is before it: results of the program, of which some have a gradient.
    if isinstance(results, tuple):
        has_epilogue = _has_epilogue(training)
        ctx.output = -1 if has_epilogue else 0
        ctx.mark_non_differentiable(*_without_gradient(
            results, has_epilogue, ctx.through_lse))
        ctx.save_for_backward(*operands, *(
            results[:-1] if has_epilogue else results))
    else:
        ctx.output = 0
        ctx.save_for_backward(*operands)


@_spec.constant
def _backward_text(training, needed, through_lse):
    """Not what requires_grad says: under a transform of torch.func another
    level may want that gradient."""
    names = ("query", "key", "value") + _tensor_names(training)
    return _spec.backward(training, tuple(
        name for name, is_needed in zip(names, needed) if is_needed),
        through_lse)


def _without_gradient(results, has_epilogue, through_lse):
    """Of what is before an epilogue, the LSE and the output: those on which no
    loss may depend."""
    if has_epilogue:
        return results[:1] if through_lse else results[:-1]
    return () if through_lse else results[1:]


def _backward_results(ctx, *doutputs):
    doutput = doutputs[ctx.output]
    tensors = ctx.saved_tensors
    if ctx.through_lse:
        tensors += (doutputs[1].contiguous(),)
    run = _gradients
    if not is_compiling() and _grad_enabled():
        run = _Gradients.apply  # which has no gradient itself, and says so
    needs = ctx.needs_input_grad
    others = len(needs) - ctx.count  # what is no tensor comes first
    text = ctx.text or _backward_text(ctx.training, needs[others:],
                                      ctx.through_lse)
    found = iter(run(text, ctx.scalars, ctx.count, doutput, *tensors))
    gradients = [next(found).view(x.shape) if needed else None
                 for x, needed in zip(tensors, needs[others:])]
    return (None,) * others + tuple(gradients)


class _Attention(torch.autograd.Function):
    """(text, whether the LSE has a gradient, numbers, q, k, v, tensors) ->
    results."""

    @staticmethod
    def forward(ctx, text, through_lse, scalars, q, k, v, *tensors):
        results = _forward_results(text, scalars, q, k, v, tensors)
        _keep(ctx, text, through_lse, scalars, (q, k, v) + tensors, results)
        return results

    backward = staticmethod(_backward_results)


class _TransformedAttention(torch.autograd.Function):
    """The same in the form that torch.func needs, which costs 9 us more."""

    @staticmethod
    def forward(text, through_lse, scalars, q, k, v, *tensors):
        return _forward_results(text, scalars, q, k, v, tensors)

    @staticmethod
    def setup_context(ctx, inputs, results):
        text, through_lse, scalars, *operands = inputs
        _keep(ctx, text, through_lse, scalars, tuple(operands), results)

    backward = staticmethod(_backward_results)

    @staticmethod
    def vmap(info, in_dims, text, through_lse, scalars, *operands):
        folded = _fold.fold(_spec.of(text), info.batch_size, list(operands),
                            in_dims[3:], torch.movedim, torch.broadcast_to,
                            torch.reshape)
        results = _TransformedAttention.apply(text, through_lse, scalars,
                                              *folded)
        if not isinstance(results, tuple):
            (result,), _ = _unfolded(info, [results])
            return result, 0
        return _unfolded(info, results)


def _gradients(text, scalars, count, doutput, *tensors):
    q, k, v, *rest = tensors[:count]
    saved = list(tensors[count:])
    if not q.is_meta and _is_plain(tensors + (doutput,)):
        return tuple(_backward(text, q, k, v, rest, scalars, saved, doutput))
    return tuple(_backward_op(text, q, k, v, rest, list(scalars), saved,
                              doutput))


class _Gradients(torch.autograd.Function):
    """Gradients under create_graph=True, which is also what torch.func does."""

    forward = staticmethod(_gradients)

    @staticmethod
    def setup_context(ctx, inputs, results):
        pass

    @staticmethod
    def backward(ctx, *_):
        raise NotImplementedError(
            "attnc has first-order gradients only; use "
            "attnc.reference.attention for the second")

    @staticmethod
    def vmap(info, in_dims, text, scalars, count, *tensors):
        """One after the other: what they share has a gradient for each."""
        found = [_Gradients.apply(text, scalars, count, *(
            _taken(*each, at) for each in zip(tensors, in_dims[3:])))
            for at in range(info.batch_size)]
        results = tuple(torch.stack(each) for each in zip(*found))
        return results, (0,) * len(results)


# Plain tensors take a shorter way, on which all that their operands do not
# change was found before.

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


class _Plan:
    """What a call with gradients of some operands (bits of `graded`) needs."""

    def __init__(self, text, graded):
        self.text = _spec.for_training(text)
        self.spec = spec = _spec.of(self.text)
        self.wants_lse = _wants_lse(text)
        self.has_epilogue = spec.before
        names = ["query", "key", "value"] + spec.slots
        self.backward = _spec.backward(text, tuple(
            name for k, name in enumerate(names) if graded >> k & 1),
            self.wants_lse)
        # Element types of tensors that are neither converted nor narrowed.
        self.takes = [
            () if name in spec.maps else
            (torch.int32,) if name == "k_len" else
            (torch.bool, *_FLOATS) if name == "mask" else _FLOATS
            for name, kind in spec.operands if kind == "tensor"]
        self.count = 3 + len(self.takes)

    def run(self, operands):
        """The results, without tensors beside q, k, v."""
        q, k, v, *numbers = operands
        return _forward_results(self.text, numbers, q, k, v, ())


class _Recorded(torch.autograd.Function):
    """(plan, numbers, q, k, v, tensors) -> results."""

    @staticmethod
    def forward(ctx, plan, numbers, q, k, v, *tensors):
        rest = _join(plan.spec, tensors, numbers) if tensors else numbers
        results = call(plan.spec.table, (q, k, v) + rest, None)
        if results is NotImplemented:
            results = _forward_results(plan.text, numbers, q, k, v, tensors)
        ctx.plan, ctx.scalars = plan, numbers
        ctx.through_lse = plan.wants_lse
        # As the methods for it do, of which each costs a call.
        if plan.has_epilogue:
            ctx.output = -1
            ctx.non_differentiable = _without_gradient(
                results, True, plan.wants_lse)
            ctx.to_save = (q, k, v) + tensors + results[:-1]
        elif results.__class__ is tuple:
            ctx.output = 0
            ctx.non_differentiable = _without_gradient(
                results, False, plan.wants_lse)
            ctx.to_save = (q, k, v) + tensors + results
        else:
            ctx.output = 0
            ctx.to_save = (q, k, v) + tensors
        return results

    @staticmethod
    def backward(ctx, *doutputs):
        ctx.text, ctx.count = ctx.plan.backward, ctx.plan.count
        return _backward_results(ctx, *doutputs)


class _Plain(torch.autograd.Function):
    """(a plan of the extension, operands, q, k, v) -> results: the same, with
    nothing but q, k, v and numbers, and no step of it in Python."""

    forward = staticmethod(_attnc.forward)

    @staticmethod
    def backward(ctx, *doutputs):
        (*_, plan), ctx.scalars = ctx.plan
        ctx.text, ctx.count, ctx.output = plan.backward, plan.count, 0
        ctx.through_lse = plan.wants_lse
        return _backward_results(ctx, *doutputs)


_record = super(torch.autograd.Function, _Recorded).apply
_record_plain = super(torch.autograd.Function, _Plain).apply
_plans = _spec.remembered({})


def _recorded(text, graded, operands):
    plan = _plans.get((text, graded))
    if plan is None:
        plan = _plans[text, graded] = _Plan(text, graded)
        if not plan.takes and not plan.has_epilogue:
            # Where the extension looks the next time.
            _tables[text][graded] = (
                _record_plain, plan.spec.table, plan.run, plan.wants_lse, plan)
    numbers = operands[3:]
    if plan.takes:
        tensors, numbers = _split(plan.spec, numbers)
        for x, types in zip(tensors, plan.takes):
            if x.dtype not in types:
                return _with_grad(text, operands)
        results = _record(plan, tuple(numbers), *operands[:3], *tensors)
    else:
        results = _record(plan, numbers, *operands[:3])
    if results.__class__ is tuple:
        return _returned(results, plan.has_epilogue, plan.wants_lse)
    return results


def _returned(results, has_epilogue, wants_lse):
    output = results[-1 if has_epilogue else 0]
    return (output, results[1]) if wants_lse else output


def _with_grad(text, operands):
    """Conversions are torch's own, so that it differentiates them."""
    q, k, v, *rest = operands
    tensors, scalars = _parts(q, rest)
    slots = _tensor_names(text)
    for at, name in enumerate(slots):
        x = tensors[at]
        tensors[at] = _narrowed(text, name, _converted(name, x), q, k, v)
    training = _spec.for_training(text)
    function = _Attention
    if not is_compiling() and _transforms() is not None:
        function = _TransformedAttention
    results = function.apply(training, _wants_lse(text), tuple(scalars), q, k,
                             v, *tensors)
    if isinstance(results, tuple):
        return _returned(results, _has_epilogue(training), _wants_lse(text))
    return results


@_spec.constant
def _tensor_names(text):
    return tuple(name for name, kind in _spec.of(text).operands
                 if kind == "tensor")


@_spec.constant
def _wants_lse(text):
    return _spec.of(text).lse


@_spec.constant
def _has_epilogue(text):
    return _spec.of(text).before


@_spec.constant
def _letters(text, name):
    return tuple(_spec.of(text).maps.get(name, ())), _spec.of(text).layout


def _converted(name, x):
    wanted = _prepare.wanted_type(name, x)
    if not wanted:
        return x
    # On a GPU nobody waits for what numbers there are.
    if wanted == "int32" and x.dtype.itemsize > 4 and x.numel() and (
            x.device.type == "cpu" and _is_plain((x,))):
        _prepare.check_wide(name, *(end.item() for end in x.aminmax()))
    return x.to(getattr(torch, wanted))


def _narrowed(text, name, x, q, k, v):
    """A captured array without what is never read."""
    letters, layout = _letters(text, name)
    h, s = (1, 2) if layout == "bhsd" else (2, 1)
    for dim, letter in enumerate(letters):
        if letter:
            size = {"B": q.shape[0], "H": q.shape[h], "I": q.shape[s],
                    "J": k.shape[s], "E": v.shape[3]}[letter]
            if x.shape[dim] > size:
                x = x.narrow(dim, 0, size)
    return x
