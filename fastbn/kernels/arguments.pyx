"""Argument checks: what every operation does first, so that no loop has to."""

import numpy as np
cimport numpy as cnp

from fastbn.kernels.runtime cimport BF16, F32, F64

cdef extern from "numpy/arrayobject.h":
    cnp.ndarray PyArray_NewLikeArray(cnp.ndarray like, int order, void *descr, int subok)

cnp.import_array()


cdef int64_t whole_number(object value, str what, int64_t least) except? -1:
    try:
        number = value.__index__()
    except (AttributeError, TypeError):
        raise TypeError(f"{what}: expected an int, got {value!r}") from None
    if number < least:
        raise ValueError(f"{what} should be at least {least}, got {value!r}")
    if number > MOST_SIZE:
        raise ValueError(f"{what} should be at most {MOST_SIZE}, got {value!r}")
    return number


cdef int whole_pair(object value, str what, int64_t least, int64_t *first,
                    int64_t *second) except -1:
    try:
        a, b = value if isinstance(value, (tuple, list)) else (value, value)
        a, b = a.__index__(), b.__index__()
    except (AttributeError, TypeError, ValueError):
        raise TypeError(f"{what}: expected an int or a pair of ints, got {value!r}") from None
    first[0] = whole_number(a, what, least)
    second[0] = whole_number(b, what, least)
    return 0


cdef double real_number(object value, str what) except? -1.0:
    try:
        return value
    except OverflowError:
        raise ValueError(f"{what} is too large for a float") from None


cdef int check_size(double elements, str what) except -1:
    if elements > 1099511627776.0:  # 2^40: with 8 bytes each, and 16 of them, an int64 has room
        raise ValueError(f"{what} is too large: it would have {elements:.3g} elements")
    return 0


cdef int check_filled(object held, str maker) except -1:
    if held is None:
        raise TypeError(f"saved is not what {maker} returned")
    return 0


cdef int element_of(cnp.ndarray x, str what) except -1:
    cdef int number = cnp.PyArray_TYPE(x)
    if number == cnp.NPY_FLOAT32:
        return F32
    if number == cnp.NPY_FLOAT64:
        return F64
    if x.dtype.name == "bfloat16":  # ml_dtypes' type, whose number is only known at run time
        return BF16
    raise TypeError(f"{what}: expected float32, float64 or bfloat16, got {x.dtype}")


cdef int float_of(cnp.ndarray x, str what) except -1:
    cdef int number = cnp.PyArray_TYPE(x)
    if number == cnp.NPY_FLOAT32:
        return F32
    if number == cnp.NPY_FLOAT64:
        return F64
    raise TypeError(f"{what}: expected float32 or float64, got {x.dtype}")


cdef cnp.ndarray dense(object x, str what):
    cdef cnp.ndarray array
    if isinstance(x, cnp.ndarray):
        array = <cnp.ndarray>x
    else:
        raise TypeError(f"{what}: expected a numpy.ndarray, got {type(x).__name__}")
    if cnp.PyArray_ISCARRAY_RO(array):
        return array
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return np.require(array, requirements=["C", "A"])


cdef int check_vector(object p, str what, Py_ssize_t n, int typenum) except -1:
    if p is None:
        return 0
    if not isinstance(p, cnp.ndarray):
        raise TypeError(f"{what}: expected a numpy.ndarray, got {type(p).__name__}")
    cdef cnp.ndarray array = <cnp.ndarray>p
    if cnp.PyArray_TYPE(array) != typenum:
        expected = cnp.PyArray_DescrFromType(typenum)
        raise TypeError(f"{what}: expected {expected}, got {array.dtype}")
    if cnp.PyArray_NDIM(array) != 1 or cnp.PyArray_DIM(array, 0) != n:
        shape = tuple(p.shape)
        raise ValueError(f"{what} should contain {n} elements, got shape {shape}")
    if not cnp.PyArray_ISCARRAY_RO(array):
        raise ValueError(f"{what} must be contiguous and aligned")
    return 0


cdef object dense_vector(object p, str what, Py_ssize_t n, int typenum):
    if isinstance(p, cnp.ndarray) and not cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>p):
        p = np.require(p, requirements=["C", "A"])
    check_vector(p, what, n, typenum)
    return p


cdef cnp.ndarray output(object out, cnp.ndarray like, str what):
    if out is None:
        return PyArray_NewLikeArray(like, cnp.NPY_CORDER, NULL, 0)
    if not isinstance(out, cnp.ndarray):
        raise TypeError(f"{what}: expected a numpy.ndarray, got {type(out).__name__}")
    cdef cnp.ndarray array = <cnp.ndarray>out
    if cnp.PyArray_TYPE(array) != cnp.PyArray_TYPE(like):
        raise TypeError(f"{what}: expected {like.dtype}, got {array.dtype}")
    if not cnp.PyArray_SAMESHAPE(array, like):
        raise ValueError(f"{what}: expected shape {np.shape(like)}, got {np.shape(array)}")
    if not cnp.PyArray_ISCARRAY(array):
        raise ValueError(f"{what} must be C-contiguous, aligned and writeable")
    return array


cdef int product_element(cnp.ndarray x, str what) except -1:
    cdef int element = element_of(x, what)
    if element == BF16:
        raise TypeError(f"{what}: expected float32 or float64, got {x.dtype}")
    return element


cdef cnp.ndarray weight_of(object weight, cnp.ndarray x, str what, int ndim):
    cdef int i
    if not isinstance(weight, cnp.ndarray):
        raise TypeError(f"{what}: expected a numpy.ndarray, got {type(weight).__name__}")
    cdef cnp.ndarray w = <cnp.ndarray>weight
    if cnp.PyArray_TYPE(w) != cnp.PyArray_TYPE(x) or not w.dtype.isnative:
        raise TypeError(f"{what}: expected {x.dtype}, got {w.dtype}")
    if cnp.PyArray_NDIM(w) != ndim:
        raise ValueError(f"{what}: expected {ndim} dimensions, got shape {np.shape(w)}")
    check_size(<double>cnp.PyArray_SIZE(w), what)
    if not cnp.PyArray_ISALIGNED(w):
        return np.require(w, requirements=["C", "A"])
    for i in range(ndim):
        if cnp.PyArray_STRIDE(w, i) % cnp.PyArray_ITEMSIZE(w):
            return w.copy()
    return w


cdef int check_is(cnp.ndarray array, int ndim, const cnp.npy_intp *shape, int typenum,
                  str what) except -1:
    cdef int i
    cdef bint same = cnp.PyArray_NDIM(array) == ndim
    if cnp.PyArray_TYPE(array) != typenum:
        expected = cnp.PyArray_DescrFromType(typenum)
        raise TypeError(f"{what}: expected {expected}, got {array.dtype}")
    for i in range(ndim if same else 0):
        same = same and cnp.PyArray_DIM(array, i) == shape[i]
    if not same:
        wanted = tuple([shape[i] for i in range(ndim)])
        raise ValueError(f"{what}: expected shape {wanted}, got {np.shape(array)}")
    return 0


cdef cnp.ndarray output_of(object out, int ndim, const cnp.npy_intp *shape, int typenum,
                           str what):
    cdef int i
    cdef double elements = 1.0
    if out is None:
        for i in range(ndim):
            elements *= shape[i]
        check_size(elements, what)
        return cnp.PyArray_EMPTY(ndim, <cnp.npy_intp *>shape, typenum, 0)
    if not isinstance(out, cnp.ndarray):
        raise TypeError(f"{what}: expected a numpy.ndarray, got {type(out).__name__}")
    cdef cnp.ndarray array = <cnp.ndarray>out
    check_is(array, ndim, shape, typenum, what)
    if not cnp.PyArray_ISCARRAY(array):
        raise ValueError(f"{what} must be C-contiguous, aligned and writeable")
    return array


cdef cnp.ndarray gradient_of(object dy, cnp.ndarray x, str what):
    cdef cnp.ndarray array = dense(dy, what)
    if cnp.PyArray_TYPE(array) != cnp.PyArray_TYPE(x):
        raise TypeError(f"{what}: expected {x.dtype}, got {array.dtype}")
    if not cnp.PyArray_SAMESHAPE(array, x):
        raise ValueError(f"{what}: expected shape {np.shape(x)}, got {np.shape(array)}")
    return array


cdef int claim(arrays_t *a, object array, const char *name, bint written, bint same) except -1:
    """Take down the bytes that the elements of an array lie in, whatever its strides."""
    cdef cnp.ndarray p
    cdef int i, k = a.count
    cdef int64_t reach
    if array is None or cnp.PyArray_SIZE(<cnp.ndarray>array) == 0:
        return 0
    if k == MOST_ARRAYS:
        raise RuntimeError(f"more than {MOST_ARRAYS} arrays in a call")
    p = <cnp.ndarray>array
    a.low[k] = a.high[k] = cnp.PyArray_BYTES(p)
    for i in range(cnp.PyArray_NDIM(p)):
        reach = (cnp.PyArray_DIM(p, i) - 1) * cnp.PyArray_STRIDE(p, i)
        if reach < 0:
            a.low[k] += reach
        else:
            a.high[k] += reach
    a.high[k] += cnp.PyArray_ITEMSIZE(p)
    a.name[k], a.written[k], a.same[k] = name, written, same
    a.count = k + 1
    return 0


cdef int reads(arrays_t *a, object array, const char *name, bint same=False) except -1:
    return claim(a, array, name, False, same)


cdef int writes(arrays_t *a, object array, const char *name) except -1:
    return claim(a, array, name, True, False)


cdef int check_arrays(const arrays_t *a) except -1:
    cdef int i, k, first = -1
    for i in range(a.count):
        if not a.written[i]:
            continue
        if first < 0:
            first = i
        for k in range(a.count):
            if k == i or (a.written[k] and k < i):
                continue
            if a.low[i] >= a.high[k] or a.low[k] >= a.high[i]:
                continue
            if i != first or not a.same[k]:
                raise ValueError(f"{a.name[i].decode()} must not overlap {a.name[k].decode()}")
            if a.low[i] != a.low[k] or a.high[i] != a.high[k]:
                raise ValueError(f"{a.name[i].decode()} overlaps {a.name[k].decode()} in part: "
                                 "use the same array or another one")
    return 0


cdef int check_apart(cnp.ndarray out, cnp.ndarray other, str what, bint same) except -1:
    if not overlaps(out, other):
        return 0
    if not same:
        raise ValueError(f"out must not overlap {what}")
    if cnp.PyArray_DATA(out) != cnp.PyArray_DATA(other):
        raise ValueError(f"out overlaps {what} in part: use the same array or another one")
    return 0


cdef bint overlaps(cnp.ndarray p, cnp.ndarray q):
    cdef arrays_t a
    a.count = 0
    writes(&a, p, b"")
    reads(&a, q, b"")
    return a.count == 2 and a.low[0] < a.high[1] and a.low[1] < a.high[0]
