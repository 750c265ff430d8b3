"""Programs as objects: prepared once, called often, open to inspection."""

import json
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any

from . import _callables, _check, _frontend, _prepare, _spec


class Program:
    """An attention that is fixed but for its arrays: see attnc.compile.

    Callables are traced once, when it is made. Call it as attnc.attention, with
    the arguments that are arrays or numbers.
    """

    def __init__(self, *, activation: str | Callable[[Any], Any] | None = None,
                 score_mod: Callable[..., Any] | None = None,
                 mask_mod: Callable[..., Any] | None = None,
                 normalize: str | None = None,
                 epilogue: Callable[..., Any] | None = None,
                 causal: bool | str = False, layout: str = "bhsd",
                 return_lse: bool = False, schedule: str = "") -> None:
        lines, normalize, extra, arrays = _callables.prepare(
            activation, score_mod, mask_mod, normalize, epilogue, return_lse)
        if schedule:
            extra = json.dumps({**json.loads(extra), "schedule": schedule})
        self._fixed = (lines, normalize, causal, layout, return_lse, extra)
        self._arrays = arrays

    def __call__(self, q: Any, k: Any, v: Any, *, bias: Any = None,
                 scale: Any = None,
                 window: tuple[int, int] | None = None,
                 alibi_slopes: Any = None, attn_mask: Any = None,
                 kv_len: Any = None) -> Any:
        lines, normalize, causal, layout, lse, extra = self._fixed
        return _frontend._run(
            q, k, v, lines, normalize, bias, scale, causal, window,
            alibi_slopes, attn_mask, kv_len, layout, lse, False, 0.0,
            "attention", extra, _callables.taken(self._arrays))

    # Looking inside

    def _written(self, dtype, head_dim, value_head_dim, operands):
        """The IR for operands: (name, kind, Operand) each."""
        lines, normalize, causal, layout, lse, extra = self._fixed
        captured = _callables.taken(self._arrays)
        names = tuple(name for name, _, _ in operands) + tuple(
            name for name, _ in captured)
        kinds = tuple(kind for _, kind, _ in operands) + (
            "tensor",) * len(captured)
        corner = {True: "bottom_right", False: ""}.get(causal, causal)
        bias = "value" if "bias" in names else ""
        spec = _spec.of(_frontend._text((
            lines, normalize, corner, layout, lse, causal is True, bias, names,
            kinds, extra)))
        d, dv = head_dim, value_head_dim or head_dim
        types = [_spec.Operand(dtype, (2, 2, 2, d)),
                 _spec.Operand(dtype, (2, 2, 2, d)),
                 _spec.Operand(dtype, (2, 2, 2, dv))]
        types += [operand for _, _, operand in operands]
        types += _prepare.operand_types(spec, [x for _, x in captured])
        return _spec.write(spec, types)[0]

    def ir(self, level: str = "attn", *, dtype: str = "float32",
           head_dim: int = 64, value_head_dim: int | None = None,
           bias: float | None = None, scale: float | None = None,
           target: str = "cpu") -> str:
        """The IR after a phase: "attn", "fused", "tile", "llvm", ...

        `bias` and `scale` say whether there is one (any number).
        """
        if level == "cubin":
            raise _check.arguments_error("level", "a phase that is text", level,
                                         "use .cubin()")
        text: str = self._emitted(
            level, dtype=dtype, head_dim=head_dim, bias=bias, scale=scale,
            value_head_dim=value_head_dim, target=target)
        return text

    def _emitted(self, level, *, dtype="float32", head_dim=64,
                 value_head_dim=None, bias=None, scale=None, target="cpu"):
        operands = []
        if scale is not None:
            operands.append(("scale", "scalar", _spec.Operand("f32", None)))
        if bias is not None:
            operands.append(("bias", "scalar", _spec.Operand("f32", None)))
        name = _check._TYPES.get(dtype)
        if name not in ("f32", "f16", "bf16"):
            raise _check.arguments_error(
                "dtype", "'float32', 'float16' or 'bfloat16'", dtype)
        text = self._written(name, head_dim, value_head_dim, operands)
        if level == "attn":
            return text
        from . import _attnc
        return _attnc.emit(text, level, target, json.loads(self._fixed[5]).get(
            "schedule", ""))

    def ptx(self, **arguments: Any) -> str:
        """The PTX for Hopper GPUs; needs no GPU. Arguments as of ir()."""
        return self.ir("ptx", **{"target": "sm_90a", "dtype": "bfloat16",
                                 **arguments})

    def cubin(self, **arguments: Any) -> bytes:
        """The machine code for Hopper GPUs; needs ptxas and no GPU.
        Arguments as of ir()."""
        code: bytes = self._emitted("cubin", **{
            "target": "sm_90a", "dtype": "bfloat16", **arguments})
        return code

    def schedule(self, **arguments: Any) -> str:
        """The schedule that the tile program got. Arguments as of ir()."""
        text = self.ir("tile", **arguments)
        found = re.findall(r"#tile\.schedule<([^>]*)>", text)
        return found[0] if found else ""

    def explain(self, **arguments: Any) -> str:
        """What each phase has made of it: lines, kernels and the schedule.
        Arguments as of ir(); `attnc explain` says more on ir()'s text."""
        target = arguments.get("target", "cpu")
        phases = ["attn", "fused", "tile", "formula"] + (
            ["ptx"] if target == "sm_90a" else ["llvm"])
        lines = [f"{self!r} for {target}",
                 f"  schedule  {self.schedule(**arguments) or '(none)'}"]
        for phase in phases:
            text = self.ir(phase, **arguments)
            lines.append(f"  {phase:9} {len(text.splitlines())} lines")
        return "\n".join(lines)

    def __repr__(self):
        lines, normalize, causal, layout, lse, extra = self._fixed
        parts = ["softmax" if lines is None else f"{len(lines)}-op activation"]
        parts += list(json.loads(extra))
        parts += [f"causal={causal!r}"] * bool(causal)
        parts += [f"normalize={normalize!r}"] * (normalize == "l1")
        if self._arrays:
            parts.append(f"{len(self._arrays)} captured arrays")
        return f"<attnc.Program: {', '.join(parts)}, {layout}>"


def is_supported(q: Any, k: Any, v: Any, *,
                 function: str = "sigmoid_attention",
                 **arguments: Any) -> tuple[bool, str]:
    """(True, "") if the call would run, else (False, why).

    Compiles nothing; arguments are those of the function that is named.
    """
    known = ("sigmoid_attention", "softmax_attention", "attention")
    if function not in known:
        raise _check.arguments_error("function", "one of " + ", ".join(known),
                                     function)
    if function == "sigmoid_attention":
        arguments.setdefault("bias", 0.0)
    try:
        _frontend.dry_run(function, q, k, v, arguments)
    except (TypeError, ValueError, NotImplementedError) as error:
        return False, str(error)
    return True, ""


def warmup(calls: Iterable[Any], progress: bool = True) -> None:
    """Compiles what calls need, before they are timed or captured.

    `calls` are pairs (function, arguments): functions without parameters are
    called as they are. A bar shows how far it is, on a terminal only.
    """
    calls = list(calls)
    bar = progress and sys.stderr.isatty()
    for at, call in enumerate(calls):
        if bar:
            done = "#" * (30 * at // len(calls))
            print(f"\rwarm-up [{done:30}] {at}/{len(calls)}", end="",
                  file=sys.stderr, flush=True)
        if callable(call):
            call()
        else:
            function, arguments = call
            if isinstance(arguments, dict):
                function(**arguments)
            else:
                function(*arguments)
    if bar:
        print(f"\rwarm-up [{'#' * 30}] {len(calls)}/{len(calls)}",
              file=sys.stderr)


def compile(**arguments: Any) -> Program:
    """An attention as an object: attnc.attention's callables, traced once."""
    return Program(**arguments)
