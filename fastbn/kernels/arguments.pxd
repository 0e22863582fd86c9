# Argument checks: what every operation does first, so that no loop has to.
cimport numpy as cnp

# The element type (runtime.Element) of an array; TypeError for any other than floats.
cdef int element_of(cnp.ndarray x, str what) except -1

# The same where bfloat16 is not for this operation.
cdef int float_of(cnp.ndarray x, str what) except -1

# x itself where it is C-contiguous, aligned and of native byte order, else a copy that is.
cdef cnp.ndarray dense(object x, str what)

# A contiguous one-dimensional array of n values of this type number, or None.
cdef int check_vector(object p, str what, Py_ssize_t n, int typenum) except -1

# The same of an array that may be strided: itself, or a contiguous copy.
cdef object dense_vector(object p, str what, Py_ssize_t n, int typenum)

# An output: same shape and type as `like`, contiguous, writable; made where `out` is None.
cdef cnp.ndarray output(object out, cnp.ndarray like, str what)

# The element type of an array that is multiplied: float32 or float64.
cdef int product_element(cnp.ndarray x, str what) except -1

# A weight of x's dtype, aligned, whose strides are whole elements.
cdef cnp.ndarray weight_of(object weight, cnp.ndarray x, str what, int ndim)

# Refuse an array of another shape or type.
cdef int check_is(cnp.ndarray array, int ndim, const cnp.npy_intp *shape, int typenum,
                  str what) except -1

# An output of this shape and type; made where `out` is None.
cdef cnp.ndarray output_of(object out, int ndim, const cnp.npy_intp *shape, int typenum, str what)

# dy of x's dtype and this shape, as dense returns it.
cdef cnp.ndarray gradient_of(object dy, cnp.ndarray x, str what)

# Refuse an out that shares memory with `other`, unless it is the same array and that is fine.
cdef int check_apart(cnp.ndarray out, cnp.ndarray other, str what, bint same) except -1

# Do the bytes of two contiguous arrays overlap?
cdef bint overlaps(cnp.ndarray p, cnp.ndarray q)


cdef inline void *data(object x) noexcept:
    """The address of an array's first element; NULL for None."""
    return cnp.PyArray_DATA(<cnp.ndarray>x) if x is not None else NULL
