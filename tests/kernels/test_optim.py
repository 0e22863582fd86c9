"""The optimizers' sweep: formulas, memory orders, missing gradients, threads, refusals."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from checks import TOLERANCE, error

from fastbn.kernels.optim import Sweep

Array = np.ndarray[Any, Any]
DTYPES = [np.float32, np.float64]
SHAPES: list[tuple[int, ...]] = [
    (3,),
    (64,),
    (0, 5),
    (17, 40),
    (1, 3, 1, 3),
    (20000,),
    (),
    (129, 7),
]
SGD: list[dict[str, Any]] = [
    {},
    {"weight_decay": 0.02},
    {"momentum": 0.9},
    {"momentum": 0.8, "weight_decay": 0.05},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.7, "nesterov": True, "weight_decay": 0.1},
]
ADAM: list[dict[str, Any]] = [
    {},
    {"beta1": 0.8, "beta2": 0.99, "eps": 1e-3},
    {"weight_decay": 0.03},
    {"weight_decay": 0.03, "decoupled": True},
]


def arrays(dtype: Any, seed: int, shapes: list[tuple[int, ...]] = SHAPES) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


def zeros(like: list[Array]) -> list[Array]:
    return [np.zeros_like(a) for a in like]


def laid_like(data: list[Array], values: list[Array]) -> list[Array]:
    """The values, in memory in the order of `data`."""
    laid = zeros(data)
    for a, value in zip(laid, values, strict=True):
        a[...] = value
    return laid


def transposed(a: Array) -> Array:
    """The same values, shown through another order of the axes than that of memory."""
    return np.ascontiguousarray(a.T).T


def sgd64(
    p: Array,
    g: Array,
    buffer: Array,
    *,
    lr: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
) -> tuple[Array, Array]:
    g = g + weight_decay * p
    buffer = momentum * buffer + g
    return p - lr * (g + momentum * buffer if nesterov else buffer), buffer


def adam64(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    t: int,
    *,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
) -> tuple[Array, Array, Array]:
    if decoupled:
        p = p - lr * weight_decay * p
    else:
        g = g + weight_decay * p
    m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
    m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
    return p - lr * m_hat / (np.sqrt(v_hat) + eps), m, v


@pytest.mark.parametrize("order", [np.ascontiguousarray, np.asfortranarray, transposed])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", SGD, ids=str)
def test_sgd_is_the_formula(
    options: dict[str, Any], dtype: Any, order: Callable[[Array], Array]
) -> None:
    data = [order(a).reshape(a.shape) for a in arrays(dtype, 0)]
    buffers = zeros(data)
    sweep = Sweep(data, *([buffers] if "momentum" in options else []))
    expected = [
        (a.astype(np.float64), b.astype(np.float64)) for a, b in zip(data, buffers, strict=True)
    ]
    for step in range(1, 4):
        grads = laid_like(data, arrays(dtype, step))
        sweep.sgd_step(grads, 0.1, **options)
        expected = [
            sgd64(p, g.astype(np.float64), b, lr=0.1, **options)
            for (p, b), g in zip(expected, grads, strict=True)
        ]
    for p, b, (p64, b64) in zip(data, buffers, expected, strict=True):
        assert error(p, p64) < TOLERANCE[p.dtype]
        assert "momentum" not in options or error(b, b64) < TOLERANCE[p.dtype]


@pytest.mark.parametrize("order", [np.ascontiguousarray, np.asfortranarray])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", ADAM, ids=str)
def test_adam_is_the_formula(
    options: dict[str, Any], dtype: Any, order: Callable[[Array], Array]
) -> None:
    data = [order(a).reshape(a.shape) for a in arrays(dtype, 0)]
    first, second = zeros(data), zeros(data)
    steps = np.zeros(len(data), np.int64)
    sweep = Sweep(data, first, second)
    expected = [(a.astype(np.float64), np.zeros(a.shape), np.zeros(a.shape)) for a in data]
    for t in range(1, 5):
        grads = laid_like(data, arrays(dtype, t))
        sweep.adam_step(grads, steps, 0.1, **options)
        expected = [
            adam64(p, g.astype(np.float64), m, v, t, lr=0.1, **options)
            for (p, m, v), g in zip(expected, grads, strict=True)
        ]
    assert (steps == 4).all()
    for got, wanted in zip(zip(data, first, second, strict=True), expected, strict=True):
        for a, a64 in zip(got, wanted, strict=True):
            assert error(a, a64) < 2 * TOLERANCE[a.dtype]


@pytest.mark.parametrize(
    ("method", "options"), [("SGD", o) for o in SGD] + [("Adam", o) for o in ADAM], ids=str
)
def test_equals_torch(method: str, options: dict[str, Any], torch: ModuleType) -> None:
    data = arrays(np.float32, 0)
    leaves = [torch.from_numpy(a.copy()).requires_grad_() for a in data]
    kwargs: dict[str, Any] = {k: v for k, v in options.items() if "beta" not in k}
    if method == "Adam":
        kwargs["betas"] = (options.get("beta1", 0.9), options.get("beta2", 0.999))
        kind = torch.optim.AdamW if kwargs.pop("decoupled", False) else torch.optim.Adam
    else:
        kind = torch.optim.SGD
    theirs = kind(leaves, lr=0.05, **kwargs)
    sweep = Sweep(data, zeros(data), zeros(data))
    steps = np.zeros(len(data), np.int64)
    for seed in range(1, 11):
        grads = arrays(np.float32, seed)
        for leaf, g in zip(leaves, grads, strict=True):
            leaf.grad = torch.from_numpy(g.copy())
        theirs.step()
        if method == "Adam":
            sweep.adam_step(grads, steps, 0.05, **options)
        else:
            sweep.sgd_step(grads, 0.05, **options)
    for a, leaf in zip(data, leaves, strict=True):
        assert error(a, leaf.detach().numpy()) < 3e-6


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_has_no_gradient_is_passed_over(dtype: Any) -> None:
    data = arrays(dtype, 0)
    before = [a.copy() for a in data]
    first, second = zeros(data), zeros(data)
    steps = np.zeros(len(data), np.int64)
    sweep = Sweep(data, first, second)
    grads: list[Array | None] = [a if i % 2 else None for i, a in enumerate(arrays(dtype, 1))]
    sweep.adam_step(grads, steps, 0.1)
    assert steps.tolist() == [i % 2 for i in range(len(data))]
    sweep.sgd_step([None] * len(data), 0.1)
    for i, (a, b, m) in enumerate(zip(data, before, first, strict=True)):
        if i % 2 and a.size:
            assert (a != b).all()
        else:
            np.testing.assert_array_equal(a, b)
            assert not m.any()


def test_a_new_gradient_array_is_noticed() -> None:
    data = [np.zeros(5)]
    sweep = Sweep(data)
    for value in (1.0, 2.0, 4.0):
        sweep.sgd_step([np.full(5, value)], 1.0)
    np.testing.assert_array_equal(data[0], np.full(5, -7.0))


def test_elements_meet_where_memory_has_them() -> None:
    """A view in another order of the axes: the values and the gradient it shows, not the bytes."""
    storage = np.zeros((3, 4, 2, 5))
    weight = storage.transpose(3, 2, 0, 1)
    grad = np.empty_like(weight)
    grad[...] = np.arange(weight.size).reshape(weight.shape)
    assert grad.strides == weight.strides
    Sweep([weight]).sgd_step([grad], 1.0)
    np.testing.assert_array_equal(weight, -grad)


def test_memory_around_the_values_is_left_alone() -> None:
    memory, grad, moments = np.zeros((4, 101)), np.ones(99), np.zeros((2, 101))
    rows = [memory[i, 1:-1] for i in range(4)]
    sweep = Sweep(rows[:2], [rows[2], moments[0, 1:-1]], [rows[3], moments[1, 1:-1]])
    sweep.adam_step([grad, grad], np.zeros(2, np.int64), 0.1)
    assert not memory[:, [0, -1]].any()
    assert memory[:, 1:-1].all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_number_of_threads_gives_the_same_bits(dtype: Any, set_threads: Any) -> None:
    shapes = [(100_003,), (7,), (64,), (513, 129), (3, 3)]
    results = []
    for threads in (1, 2, 3, 4):
        set_threads(threads)
        data, steps = arrays(dtype, 0, shapes), np.zeros(len(shapes), np.int64)
        sweep = Sweep(data, zeros(data), zeros(data))
        for seed in range(1, 4):
            sweep.adam_step(arrays(dtype, seed, shapes), steps, 0.01, weight_decay=0.1)
            sweep.sgd_step(arrays(dtype, seed, shapes), 0.01, 0.9, 0.1, True)
        results.append(data)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", DTYPES)
def test_momenta_do_not_stay_subnormal(dtype: Any) -> None:
    """0.9 times the smallest number is the smallest number: arithmetic would be slow for good."""
    data = [np.ones(37, dtype)]
    states = zeros(data), zeros(data)
    states[0][0][:] = states[1][0][:] = np.finfo(dtype).smallest_normal * 1.05
    Sweep(data, *states).adam_step([np.zeros(37, dtype)], np.full(1, 10), 0.1, beta2=0.9)
    assert not states[0][0].any()
    assert not states[1][0].any()
    states[0][0][:] = np.finfo(dtype).smallest_normal * 1.05
    Sweep(data, states[0]).sgd_step([np.zeros(37, dtype)], 0.1, 0.9)
    assert not states[0][0].any()


def test_tiny_gradients_count_where_eps_lets_them() -> None:
    data, g = [np.zeros(9, np.float32)], np.full(9, 1e-20, np.float32)
    Sweep(data, zeros(data), zeros(data)).adam_step([g], np.zeros(1, np.int64), 0.5, eps=0.0)
    np.testing.assert_allclose(data[0], -0.5, rtol=0.1)


def test_nan_is_not_hidden() -> None:
    data, g = [np.zeros(19, np.float32)], np.zeros(19, np.float32)
    g[[3, 18]] = np.nan
    sweep = Sweep(data, zeros(data), zeros(data))
    sweep.adam_step([g], np.zeros(1, np.int64), 0.5)
    assert np.isnan(data[0]).nonzero()[0].tolist() == [3, 18]


def test_holds_tells_whose_arrays_these_are() -> None:
    data = [np.zeros(3), np.zeros(2)]
    sweep = Sweep(data)
    assert sweep.holds(data)
    assert not sweep.holds([data[0], data[1].copy()])
    assert not sweep.holds(data[:1])
    assert sweep.data[0] is data[0]
    assert sweep.states == ()


def read_only(a: Array) -> Array:
    a.flags.writeable = False
    return a


@pytest.mark.parametrize(
    ("data", "states", "kind", "message"),
    [
        ([[1.0]], [], TypeError, r"data\[0\]: expected a numpy.ndarray, got list"),
        ([np.zeros(3, int)], [], TypeError, r"data\[0\]: expected float32 or float64, got int64"),
        ([np.zeros(6)[::2]], [], ValueError, r"data\[0\] must be dense"),
        ([read_only(np.zeros(2))], [], ValueError, r"data\[0\] must be .*writeable"),
        ([np.zeros(2)], [[np.zeros(3)]], ValueError, r"states\[0\]\[0\]: expected shape \(2,\)"),
        ([np.zeros(2)], [[np.zeros(2, "f4")]], TypeError, r"states\[0\]\[0\]: expected float64"),
        ([np.zeros(2)], [[]], ValueError, r"states\[0\]: expected 1 arrays, got 0"),
        ([np.zeros(2)], [[np.zeros(2)]] * 3, ValueError, r"at most 2 sequences"),
        (
            [np.zeros((2, 3))],
            [[np.zeros((3, 2)).T]],
            ValueError,
            r"states\[0\]\[0\]: expected strides \(24, 8\)",
        ),
    ],
)
def test_arrays_that_are_refused(data: Any, states: Any, kind: Any, message: str) -> None:
    with pytest.raises(kind, match=message):
        Sweep(data, *states)


@pytest.mark.parametrize(
    ("grads", "kind", "message"),
    [
        ([np.ones((2, 3))], ValueError, "grads: expected 2 arrays, got 1"),
        ([np.ones((2, 3)), np.ones(5)], ValueError, r"grads\[1\]: expected shape \(4,\)"),
        ([np.ones((2, 3)), np.ones(4, "f4")], TypeError, r"grads\[1\]: expected float64"),
        ([np.ones((2, 3)), [1.0] * 4], TypeError, r"grads\[1\]: expected a numpy.ndarray"),
        ([np.ones((2, 3)), np.ones(8)[::2]], ValueError, r"grads\[1\]: expected strides"),
        ([np.ones((3, 2)).T, np.ones(4)], ValueError, r"grads\[0\]: expected strides"),
    ],
)
def test_gradients_that_are_refused_change_nothing(grads: Any, kind: Any, message: str) -> None:
    data = [np.zeros((2, 3)), np.zeros(4)]
    first, second = zeros(data), zeros(data)
    steps = np.zeros(2, np.int64)
    sweep = Sweep(data, first, second)
    with pytest.raises(kind, match=message):
        sweep.adam_step(grads, steps, 0.1)
    with pytest.raises(kind, match=message):
        sweep.sgd_step(grads, 0.1)
    assert not any(a.any() for a in (*data, *first, *second, steps))


def test_states_that_are_missing() -> None:
    data = [np.zeros(3)]
    with pytest.raises(ValueError, match="momentum needs one sequence of states"):
        Sweep(data).sgd_step([np.ones(3)], 0.1, 0.9)
    with pytest.raises(ValueError, match="Nesterov momentum requires a momentum"):
        Sweep(data, zeros(data)).sgd_step([np.ones(3)], 0.1, nesterov=True)
    with pytest.raises(ValueError, match="Adam needs two sequences of states, got 1"):
        Sweep(data, zeros(data)).adam_step([np.ones(3)], np.zeros(1, np.int64), 0.1)
    assert not data[0].any()


@pytest.mark.parametrize(
    ("steps", "kind"),
    [(np.zeros(2, np.int64), ValueError), (np.zeros(1, np.int32), TypeError), ([0], TypeError)],
)
def test_steps_that_are_refused(steps: Any, kind: Any) -> None:
    data = [np.zeros(3)]
    with pytest.raises(kind, match="steps"):
        Sweep(data, zeros(data), zeros(data)).adam_step([np.ones(3)], steps, 0.1)
    assert not data[0].any()
