# Argument checks: what every operation does first, so that no loop has to.
from libc.stdint cimport int64_t

cimport numpy as cnp

cdef enum:
    MOST_SIZE = 2147483647  # of a side, a stride and their like: products of two fit int64
    MOST_ARRAYS = 12        # of a call


# ---- numbers ----

# A whole number from `least` to MOST_SIZE.
cdef int64_t whole_number(object value, str what, int64_t least) except? -1

# One for both, or a pair: along height and width.
cdef int whole_pair(object value, str what, int64_t least, int64_t *first,
                    int64_t *second) except -1

# A floating-point number; ValueError for an int that is too large for one.
cdef double real_number(object value, str what) except? -1.0

# Refuse so many elements: more than any memory holds, or than int64 counts.
cdef int check_size(double elements, str what) except -1


# ---- arrays ----

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

# Refuse a `saved` that holds nothing, because the operation did not make it.
cdef int check_filled(object held, str maker) except -1


# ---- arrays that share memory ----

# The arrays of a call, as bytes: what it reads, and what it writes. An array may be None.
cdef struct arrays_t:
    int count
    char *low[MOST_ARRAYS]
    char *high[MOST_ARRAYS]
    const char *name[MOST_ARRAYS]
    bint written[MOST_ARRAYS]
    bint same[MOST_ARRAYS]

# `same`: the first array that is written may be this very array.
cdef int reads(arrays_t *a, object array, const char *name, bint same=*) except -1
cdef int writes(arrays_t *a, object array, const char *name) except -1

# ValueError where what is written shares memory with anything else.
cdef int check_arrays(const arrays_t *a) except -1

# The same of one output and one input.
cdef int check_apart(cnp.ndarray out, cnp.ndarray other, str what, bint same) except -1

# Do the bytes of two arrays overlap?
cdef bint overlaps(cnp.ndarray p, cnp.ndarray q)


cdef inline void *data(object x) noexcept:
    """The address of an array's first element; NULL for None."""
    return cnp.PyArray_DATA(<cnp.ndarray>x) if x is not None else NULL
