/* Working memory of a calling thread: grows to what was ever asked for, is reused, and is freed when
 * the thread ends. */
#ifndef FASTBN_SCRATCH_H
#define FASTBN_SCRATCH_H

#include <stdint.h>
#include <stdlib.h>

#include "common/cache.h"

#if defined(_WIN32)
#include <windows.h>
#else
#include <pthread.h>
#endif

#if defined(_MSC_VER) && !defined(__clang__)
#define THREAD_LOCAL __declspec(thread)
#else
#define THREAD_LOCAL _Thread_local
#endif

enum { SCRATCH_SLOTS = 4 };

/* Not thread-local itself: who frees it runs when what is thread-local may be gone. */
typedef struct {
    char *base[SCRATCH_SLOTS];
    int64_t size[SCRATCH_SLOTS];
} scratch_t;

static THREAD_LOCAL scratch_t *own_scratch;

#if defined(_WIN32)
#define ON_THREAD_END WINAPI
#else
#define ON_THREAD_END
#endif

static void ON_THREAD_END free_scratch(void *p)
{
    scratch_t *s = (scratch_t *)p;
    if (!s)
        return;
    for (int k = 0; k < SCRATCH_SLOTS; k++)
        free(s->base[k]);
    free(s);
}

/* The key under which a thread keeps its scratch for free_scratch; made once, on import. */
#if defined(_WIN32)
static DWORD scratch_key = FLS_OUT_OF_INDEXES;
static inline int open_scratch(void)
{
    scratch_key = FlsAlloc(free_scratch);
    return scratch_key != FLS_OUT_OF_INDEXES;
}
static inline int keep_scratch(scratch_t *s) { return FlsSetValue(scratch_key, s) != 0; }
#else
static pthread_key_t scratch_key;
static inline int open_scratch(void) { return pthread_key_create(&scratch_key, free_scratch) == 0; }
static inline int keep_scratch(scratch_t *s) { return pthread_setspecific(scratch_key, s) == 0; }
#endif

/* At least n bytes, aligned to a cache line, valid until this thread next asks for this slot. */
static inline void *scratch_bytes(int slot, int64_t n)
{
    scratch_t *s = own_scratch;
    if (!s) {
        s = (scratch_t *)calloc(1, sizeof(scratch_t));
        if (!s || !keep_scratch(s)) {
            free(s);
            return NULL;
        }
        own_scratch = s;
    }
    if (n > s->size[slot] || !s->base[slot]) {
        free(s->base[slot]);
        s->base[slot] = (char *)malloc((size_t)n + LINE_BYTES);
        s->size[slot] = s->base[slot] ? n : 0;
        if (!s->base[slot])
            return NULL;
    }
    return (void *)(((uintptr_t)s->base[slot] + LINE_BYTES - 1) & ~(uintptr_t)(LINE_BYTES - 1));
}

#endif
