"""vmap: the mapped dim becomes part of the dim of sequences."""


def fold(spec, n, arrays, in_dims, move, broadcast, reshape):
    """The arrays with `n` times as many sequences; None: not mapped."""
    parts = spec.parts()
    names = ["query", "key", "value"] + [
        name for name, kind in spec.operands if kind == "tensor"]
    if spec.computes_with("b"):
        raise NotImplementedError(
            "vmap over attention whose function computes with the number of "
            "the sequence is not supported; fold the mapped dim into the "
            "batch yourself")
    q_batch = _own_shape(arrays[0], in_dims[0])[0]

    def folded(x, dim, full):
        """With the mapped dim in front, the dim of sequences beside it."""
        own = _own_shape(x, dim)
        own = (1,) * (full - len(own)) + own
        x = x if dim is None else move(x, dim, 0)
        x = reshape(x, (1 if dim is None else n,) + own)
        x = broadcast(x, (n, q_batch) + own[1:])
        return reshape(x, (n * q_batch,) + own[1:])

    out = []
    for name, x, dim in zip(names, arrays, in_dims):
        own = _own_shape(x, dim)
        if name.startswith("captured"):
            used = [maps for p in parts for slot, maps in p["captures"]
                    if slot == name]
            if dim is not None or any("b" in m for maps in used for m in maps):
                raise NotImplementedError(
                    "vmap over attention whose function captures an array by "
                    "sequence is not supported; fold the mapped dim into the "
                    "batch yourself")
            out.append(x)
            continue
        full = {"k_len": 1, "scale": 2, "slopes": 2}.get(name) or (
            2 if name == "bias" and len(own) <= 2 else 4)
        shared = len(own) < full or own[0] == 1
        out.append(x if dim is None and shared and full < 5
                   and name not in names[:3] else folded(x, dim, full))
    return out


def _own_shape(x, dim):
    shape = tuple(x.shape)
    return shape if dim is None else shape[:dim] + shape[dim + 1:]
