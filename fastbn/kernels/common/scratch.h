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

enum { SCRATCH_SLOTS = 4 };
static THREAD_LOCAL char *scratch_base[SCRATCH_SLOTS];
static THREAD_LOCAL int64_t scratch_size[SCRATCH_SLOTS];

/* At least n bytes, aligned to a cache line, valid until this thread next asks for this slot. */
static inline void *scratch_bytes(int slot, int64_t n)
{
    if (n > scratch_size[slot]) {
        free(scratch_base[slot]);
        scratch_base[slot] = malloc((size_t)n + 64);
        scratch_size[slot] = scratch_base[slot] ? n : 0;
        if (!scratch_base[slot])
            return NULL;
    }
    return (void *)(((uintptr_t)scratch_base[slot] + 63) & ~(uintptr_t)63);
}

#endif
