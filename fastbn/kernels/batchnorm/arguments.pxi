# What is checked before anything is computed: included by batchnorm.pyx.

cdef extern from "common/operations.h" nogil:
    enum:
        MAP_SELU
        MAP_SILU
        MAP_GELU
        MAP_GELU_TANH
        MAP_HARDSIGMOID
        MAP_HARDSWISH
        MAP_RELU6
        MAP_MISH

cdef dict SMOOTH = {
    "selu": MAP_SELU,
    "silu": MAP_SILU,
    "gelu": MAP_GELU,
    "gelu_tanh": MAP_GELU_TANH,
    "hardsigmoid": MAP_HARDSIGMOID,
    "hardswish": MAP_HARDSWISH,
    "relu6": MAP_RELU6,
    "mish": MAP_MISH,
}


cdef act_t activation_of(object activation, object negative_slope) except *:
    cdef act_t act
    act.slope = 0.0
    act.smooth = 0
    if activation is None:
        act.kind = ACT_NONE
    elif activation == "relu":
        act.kind = ACT_RELU
    elif activation == "leaky_relu":
        act.kind = ACT_LEAKY
        act.slope = real_number(negative_slope, "negative_slope")
        if act.slope == 0.0:
            act.kind = ACT_RELU
    elif isinstance(activation, str) and activation in SMOOTH:
        act.kind, act.smooth = ACT_SMOOTH, SMOOTH[activation]
    else:
        names = ", ".join(map(repr, ("relu", "leaky_relu", *SMOOTH)))
        raise ValueError(f"activation should be None or one of {names}, got {activation!r}")
    return act


cdef int axis_of(cnp.ndarray x, object axis) except -1:
    cdef int ndim = cnp.PyArray_NDIM(x)
    if ndim < 2:
        raise ValueError(f"expected an input of 2 or more dimensions, got {ndim}D input")
    if axis == -1 or axis == ndim - 1:
        return ndim - 1
    if axis == 1:
        return 1
    raise ValueError(f"axis should be 1 (NCHW) or -1 (channels-last), got {axis!r}")


cdef tuple size_of(cnp.ndarray x):
    return (<object>x).shape


cdef cnp.ndarray residual_of(object residual_, cnp.ndarray x):
    """The residual, checked; None where there is none."""
    if residual_ is None:
        return None
    cdef cnp.ndarray residual = dense(residual_, "residual")
    if not cnp.PyArray_SAMESHAPE(residual, x):
        raise ValueError(f"residual: expected shape {size_of(x)}, got {size_of(residual)}")
    if cnp.PyArray_TYPE(residual) != cnp.PyArray_TYPE(x):
        raise TypeError(f"residual: expected {x.dtype}, got {residual.dtype}")
    return residual


cdef int check_moments(object moments, bint training, const layout_t *l) except -1:
    """Refuse moments that cannot be those of x."""
    if not training:
        raise ValueError("moments are the batch's: they go with training=True")
    if not isinstance(moments, tuple) or len(moments) != 3:
        raise TypeError(f"moments: expected (count, mean, m2), got {type(moments).__name__}")
    if moments[0] != l.count:
        raise ValueError(
            f"moments: expected those of {l.count} values per channel, got {moments[0]}")
    for name, vector in (("mean", moments[1]), ("m2", moments[2])):
        if vector is None:
            raise TypeError(f"moments: {name}: expected a numpy.ndarray, got NoneType")
        check_vector(vector, f"moments: {name}", l.C, cnp.NPY_FLOAT64)
    return 0


cdef int64_t *count_of(object tracked) except? NULL:
    """Where num_batches_tracked stands; NULL for None."""
    if tracked is None:
        return NULL
    if not isinstance(tracked, cnp.ndarray):
        raise TypeError("num_batches_tracked: expected a numpy.ndarray, "
                        f"got {type(tracked).__name__}")
    cdef cnp.ndarray count = <cnp.ndarray>tracked
    if not (cnp.PyArray_EquivTypenums(cnp.PyArray_TYPE(count), cnp.NPY_INT64)
            and cnp.PyArray_ISNOTSWAPPED(count)):
        raise TypeError(f"num_batches_tracked: expected int64, got {count.dtype}")
    if cnp.PyArray_NDIM(count):
        raise ValueError(
            f"num_batches_tracked should have shape (), got shape {size_of(count)}")
    if not cnp.PyArray_ISWRITEABLE(count):
        raise ValueError("num_batches_tracked is read-only and cannot be updated")
    if not cnp.PyArray_ISALIGNED(count):
        raise ValueError("num_batches_tracked must be aligned")
    return <int64_t *>data(count)


cdef int check_variances(cnp.ndarray running_var, int element) except -1:
    """Refuse negative ones."""
    cdef void *values = data(running_var)
    cdef int64_t c
    for c in range(cnp.PyArray_SIZE(running_var)):
        if parameter(values, c, element, 0.0) < 0.0:
            raise ValueError(f"running_var[{c}] is negative: {parameter(values, c, element, 0.0)}")
    return 0


cdef double next_factor(object momentum, const int64_t *count) except? -1.0:
    """The share of this batch in the running statistics."""
    cdef double factor
    if momentum is not None:
        factor = real_number(momentum, "momentum")
        if not 0.0 <= factor <= 1.0:
            raise ValueError(f"momentum should be between 0 and 1, got {momentum}")
        return factor
    if count == NULL:
        raise ValueError("momentum=None (a cumulative average) needs num_batches_tracked")
    return 1.0 / (count[0] + 1.0)


cdef int check_in_place(BatchNormSaved saved, cnp.ndarray out, bint training) except -1:
    """Settle what `out` overwrites; ValueError where that would lose what is still needed."""
    for name, other in (("x", saved.x), ("residual", saved.residual)):
        if other is None or not overlaps(out, other):
            continue
        if not training:
            saved.overwritten = name
        elif name == "residual":
            raise ValueError("out may be residual in inference only: backward needs residual")
        else:
            check_invertible(saved)
            saved.in_place = True
    return 0


cdef int check_invertible(BatchNormSaved saved) except -1:
    """ValueError unless backward can find x from y."""
    cdef int element = element_of(saved.x, "x")
    cdef void *weight = data(saved.weight)
    cdef void *bias = data(saved.bias)
    cdef double w
    cdef int64_t c
    if (saved.act.kind in (ACT_RELU, ACT_SMOOTH)
            or (saved.act.kind == ACT_LEAKY and not saved.act.slope > 0)):
        raise ValueError("out may be x in training without an activation or with a leaky ReLU of "
                         "positive slope only: backward needs x, and ReLU cannot be undone, nor "
                         "can a smooth activation")
    if saved.residual is not None:
        raise ValueError("out may be x in training without a residual only: backward needs x")
    if element == BF16:
        raise ValueError("out may not be x in training in bfloat16: backward needs x, and y holds "
                         "too few of its digits")
    for c in range(saved.C):
        w = fabs(parameter(weight, c, element, 1.0))
        if not (w > TINY_WEIGHT and w * MOST_BIAS >= fabs(parameter(bias, c, element, 0.0))):
            raise ValueError(f"out may not be x in training: weight[{c}] is too small against "
                             f"bias[{c}] to find x from y")
    return 0
