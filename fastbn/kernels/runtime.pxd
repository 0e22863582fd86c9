from libc.stdint cimport int64_t


cdef extern from "common/tables.h" nogil:
    enum:
        F32
        F64
        BF16
    enum:
        FASTBN_X86


cdef extern from "common/cache.h" nogil:
    enum:
        LINE_BYTES
        PAGE_BYTES
        STREAM_TURNS
        STREAM_LINES


# The chosen instruction-set level, by which a room finds its table (common/tables.h).
cdef int isa_level() noexcept nogil

# How many threads work of this many bytes (read and written) is worth: 1 or the whole team.
cdef int team(double nbytes) noexcept nogil

# What one task of a job does. Tasks are independent of one another and run in any order. The
# calling thread runs some: they must leave alone the scratch slots that hold the job's memory.
ctypedef void (*task_t)(const void *job, int64_t task) noexcept nogil

# All tasks of a job on at most so many threads, neighbouring ones on the same (see tasks.h).
cdef void run_tasks(task_t work, const void *job, int64_t tasks, int most) noexcept nogil

# Whether so many arrays of this many bytes are more than caches are sure to hold until they are
# read again: the next rows are prefetched then.
cdef bint is_far(double nbytes, int arrays) noexcept nogil

# Whether a call that reads and writes so many arrays of this many bytes writes past the caches, and
# how: 0, STREAM_TURNS or STREAM_LINES (see common/cache.h). `twice`: a run is read once more, soon.
cdef int streams(double nbytes, int arrays, bint twice=*) noexcept nogil

# The number of the calling thread within its team.
cdef int this_thread() noexcept nogil

# Working memory of the calling thread, valid until it asks for this slot (0 to 3) again; NULL when
# there is none.
cdef void *scratch(int slot, int64_t nbytes) noexcept nogil
