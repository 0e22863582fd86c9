/* Working memory of a calling thread: grows to what was ever asked for, and is reused. */
#ifndef FASTBN_SCRATCH_H
#define FASTBN_SCRATCH_H

#include <stdint.h>
#include <stdlib.h>

#if defined(_MSC_VER) && !defined(__clang__)
#define THREAD_LOCAL __declspec(thread)
#else
#define THREAD_LOCAL _Thread_local
#endif

static THREAD_LOCAL char *scratch_base = NULL;
static THREAD_LOCAL int64_t scratch_size = 0;

/* At least n bytes, aligned to a cache line, valid until this thread's next call; or NULL. */
static inline void *scratch_bytes(int64_t n)
{
    if (n > scratch_size) {
        free(scratch_base);
        scratch_base = malloc((size_t)n + 64);
        scratch_size = scratch_base ? n : 0;
        if (!scratch_base)
            return NULL;
    }
    return (void *)(((uintptr_t)scratch_base + 63) & ~(uintptr_t)63);
}

#endif
