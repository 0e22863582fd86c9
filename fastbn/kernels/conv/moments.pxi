# Moments of what a convolution writes, taken while a task's output is still in cache: BatchNorm
# behind it then reads it only once (see conv.pyx).

cdef enum:
    MOMENT_PIXELS = 224    # that a part has, where tasks of the convolution do not say it


cdef struct parts_t:
    double *parts          # [task][2][K]: means, sums of squares about them; NULL: not wanted
    double *moments        # [2][K]: of all
    double count           # values of a channel in there
    int64_t K
    int element, itemsize


cdef int open_parts(parts_t *m, double *moments, const conv_t *v, int64_t tasks) noexcept nogil:
    m.parts, m.moments, m.count, m.K = NULL, moments, 0.0, v.K
    m.element, m.itemsize = v.element, v.itemsize
    if moments == NULL:
        return 0
    memset(moments, 0, 2 * v.K * sizeof(double))
    m.parts = <double *>scratch(3, tasks * 2 * v.K * sizeof(double))
    return 0 if m.parts != NULL else -1


cdef void take_part(const parts_t *m, int64_t task, const char *y, int64_t pixels, int64_t first,
                    int64_t n) noexcept nogil:
    """The channels first to first + n - 1 of a task's pixels, the first of which is at y."""
    cdef int64_t k = first, count
    cdef double *mean = m.parts + task * 2 * m.K
    while k < first + n:
        count = min(<int64_t>TILE, first + n - k)
        batchnorm_simd(m.element).nhwc_moments(y + k * m.itemsize, pixels, count, m.K, False,
                                               mean + k, mean + m.K + k)
        k = k + count


cdef void add_part(parts_t *m, int64_t task, int64_t pixels) noexcept nogil:
    """Merge a task's moments into those of the tasks before."""
    cdef const double *part = m.parts + task * 2 * m.K
    batchnorm_simd(m.element).merge_moments(m.count, <double>pixels, part, part + m.K, m.K,
                                            m.moments, m.moments + m.K)
    m.count += <double>pixels


cdef struct whole_t:
    parts_t m
    const char *y
    int64_t pixels


cdef void part_task(const void *job, int64_t task) noexcept nogil:
    cdef const whole_t *w = <const whole_t *>job
    take_part(&w.m, task, w.y + task * MOMENT_PIXELS * w.m.K * w.m.itemsize,
              min(<int64_t>MOMENT_PIXELS, w.pixels - task * MOMENT_PIXELS), 0, w.m.K)


cdef int whole_moments(const conv_t *v, const char *y, double *moments) noexcept nogil:
    """The same behind the whole convolution, if wanted."""
    cdef int64_t pixels = v.N * v.OH * v.OW, task
    cdef int64_t tasks = (pixels + MOMENT_PIXELS - 1) // MOMENT_PIXELS
    cdef whole_t w
    if moments == NULL:
        return 0
    if open_parts(&w.m, moments, v, tasks):
        return -1
    w.y, w.pixels = y, pixels
    run_tasks(part_task, &w, tasks, team(<double>pixels * v.K * v.itemsize))
    for task in range(tasks):
        add_part(&w.m, task, min(<int64_t>MOMENT_PIXELS, pixels - task * MOMENT_PIXELS))
    return 0
