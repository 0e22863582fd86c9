/* What matmul offers, for float and double (see common/tables.h, tiles.h and blocked.h). */
#ifndef FASTBN_MATMUL_TABLE_H
#define FASTBN_MATMUL_TABLE_H

#include "common/tables.h"

enum { MOST_MR = 16 };    /* rows of a tile, at any level */
enum { DOT_COLUMNS = 3 }; /* of dot_rows, at most */

/* Memory that is fetched while something else is computed. */
typedef struct {
    const void *p;
    int64_t bytes;
} ahead_t;

typedef struct {
    int width; /* W: values in a vector */
    int mr;    /* rows of a tile, at most */
    int nr;    /* columns of a tile and of a packed panel */
    void (*product_rows)(int64_t segments, const int64_t *start, const int64_t *length,
                         const void *const *rows, const void *b, int64_t ldb, void *const *c,
                         int64_t at, int64_t count, int64_t n, const void *bias, int add,
                         int prefetch, const void *ahead, int64_t ahead_bytes);
    void (*product_blocked)(const void *a, int64_t apart, int64_t depth, const void *b, void *c,
                            int64_t ldc, int64_t count, int64_t n, int add, const void *ahead,
                            int64_t ahead_bytes);
    void (*dot_rows)(int64_t segments, const int64_t *start, const int64_t *length,
                     const void *const *rows, const void *b, int64_t ldb, void *const *c,
                     int64_t at, int64_t m, int n, const void *bias, int add);
    void (*outer_rows)(int64_t count, const void *const *a, const int64_t *off, const void *b,
                       int64_t ldb, void *c, int64_t ldc, int64_t rows, int64_t n, int add,
                       const ahead_t *ahead, int64_t next);
    void (*outer_blocked)(int64_t count, const void *a, int64_t apart, const void *b, void *c,
                          int64_t ldc, int64_t rows, int64_t n, int add);
    void (*split_pixels)(const void *x, int64_t pixels, int64_t ld, int64_t channels, int64_t block,
                         void *to, int64_t apart);
    void (*pack_panel)(const void *b, int64_t depth, int64_t n, int64_t sk, int64_t sn,
                       void *panel);
    void (*col_sums)(const void *x, int64_t rows, int64_t columns, int64_t ld, double *sums);
} matmul_simd_t;
FLOAT_TABLES(matmul)

#endif
