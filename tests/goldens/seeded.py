"""Formula weights and inputs: every number follows from a name, so nothing large is stored.

Depends on numpy only.  The same call gives the same float32 array on every platform
(``numpy.random.RandomState`` is frozen by numpy's compatibility policy).
"""

import zlib

import numpy as np

GAINS = (
    ("in_proj_weight", 1.5),
    ("q_proj", 1.5),
    ("k_proj", 1.5),
    ("v_proj", 1.5),
    ("out_proj", 0.5),
    ("o_proj", 0.5),
    ("output_proj", 0.1),
    ("reg_branches", 0.4),
    ("query_key_value", 1.5),
    ("self_attention.dense", 3.0),
    ("dense_4h_to_h", 6.0),
)


def _rng(text):
    return np.random.RandomState(zlib.crc32(text.encode("utf-8")))


def seeded_weight(key, shape, prefix="", dtype="float32"):
    """Value of the parameter or buffer ``key`` of shape ``shape``.

    ``key`` is the state-dict key of the original model, ``prefix`` the golden's ``seed_prefix``
    (usually empty).  With ``t`` a standard normal array of that shape drawn in float64
    from ``RandomState(crc32(prefix + key))`` and ``last`` the part of the key after its last dot,
    the first rule that applies wins:

    1. integer dtype                            -> zeros
    2. last == "running_var"                    -> 1 + 0.1 * |t|
    3. last == "running_mean"                   -> 0.1 * t
    4. at most 1-D and last == "weight"         -> 1 + 0.1 * t      (scale of a norm layer)
    5. at most 1-D, or last in ("b1", "b2")     -> 0.05 * t         (biases)
    6. "quer" and "embed" both in the key       -> t                (learned object queries)
    7. last in ("w1", "w2")                     -> t / sqrt(shape[-2])   (AFNO block matrices)
    8. last == "pos_embed"                      -> t / sqrt(shape[-1])
    9. anything else                            -> gain * (t - m) / sqrt(fan_in)

    In rule 9 fan_in = prod(shape[1:]); m is the mean of t over all axes but the first, kept as
    an axis (each filter sums to zero, so the common mean that ReLU leaves does not drown the
    differences between places), or 0 where fan_in < 8; gain is that of the first entry of GAINS
    whose text occurs in the key, else 1.3 for 4-D (convolutions) and 1 otherwise.  The result is
    rounded once to ``dtype``.
    """
    shape = tuple(int(s) for s in shape)
    if np.issubdtype(np.dtype(dtype), np.integer):
        return np.zeros(shape, dtype)
    t = np.asarray(_rng(prefix + key).standard_normal(shape), np.float64)
    last = key.rsplit(".", 1)[-1]
    if last == "running_var":
        v = 1 + 0.1 * np.abs(t)
    elif last == "running_mean":
        v = 0.1 * t
    elif len(shape) <= 1 and last == "weight":
        v = 1 + 0.1 * t
    elif len(shape) <= 1 or last in ("b1", "b2"):
        v = 0.05 * t
    elif "quer" in key and "embed" in key:
        v = t
    elif last in ("w1", "w2"):
        v = t / np.sqrt(shape[-2])
    elif last == "pos_embed":
        v = t / np.sqrt(shape[-1])
    else:
        gain = next((g for text, g in GAINS if text in key), 1.3 if len(shape) == 4 else 1.0)
        fan_in = int(np.prod(shape[1:]))
        m = t.mean(axis=tuple(range(1, t.ndim)), keepdims=True) if fan_in >= 8 else 0.0
        v = gain * (t - m) / np.sqrt(fan_in)
    return v.astype(dtype)


def seeded_input(name, shape, prefix=""):
    """Standard normal float32 array from ``RandomState(crc32(prefix + "input:" + name))``."""
    return _rng(prefix + "input:" + name).standard_normal(tuple(shape)).astype(np.float32)


def seeded_uniform(name, shape, low=0.0, high=1.0, prefix=""):
    """Uniform float32 array in [low, high): ``low + (high - low) * random_sample(shape)``."""
    u = _rng(prefix + "input:" + name).random_sample(tuple(shape))
    return (low + (high - low) * u).astype(np.float32)


def seeded_ints(name, shape, low, high, prefix=""):
    """int64 array in [low, high): ``low + floor((high - low) * random_sample(shape))``."""
    u = _rng(prefix + "input:" + name).random_sample(tuple(shape))
    return (low + np.floor((high - low) * u)).astype(np.int64)


def seeded_image(name, shape, prefix="", block=32):
    """Float32 picture-like noise of shape (N, C, H, W), unit variance.

    One generator draws first ``coarse`` of shape (N, C, ceil(H/block), ceil(W/block)), then
    ``fine`` of the full shape; each coarse value covers a block x block square (numpy.repeat,
    cropped to H x W).  Value: 0.8 * coarse + 0.6 * fine, summed in float64.
    """
    n, c, h, w = shape
    rng = _rng(prefix + "input:" + name)
    coarse = rng.standard_normal((n, c, -(-h // block), -(-w // block)))
    fine = rng.standard_normal((n, c, h, w))
    up = coarse.repeat(block, axis=2).repeat(block, axis=3)[:, :, :h, :w]
    return (0.8 * up + 0.6 * fine).astype(np.float32)


def flat_sample(array, stride):
    """Every ``stride``-th element of the C-order flattened array, as stored for large outputs."""
    return np.ascontiguousarray(array).reshape(-1)[::stride]
