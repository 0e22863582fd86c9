/* NCHW: how planes are visited. They are read line by line from several rows, written row by row in
 * units that are aligned in memory.
 *
 * A row is what a sample has of a group of channels: their planes, one behind the other. It is
 * written as one; a unit where one channel ends and the next begins is computed for both. Planes that
 * share a group are longer than two cache lines.
 */

/* TAKE(k, row, j, part, begins) for all n values of `rows` planes (STREAMS, or 1). Line k of a step
 * is that of row k, or the k-th one of the only row; `part` of a unit's values are there, or all if
 * that is 0; does a line begin there? */
#define EACH_LINE(n, rows, TAKE)                                                                   \
    do {                                                                                           \
        int64_t i_ = 0;                                                                            \
        const int64_t next_ = (rows) == 1 ? LINE : 0, step_ = LINE + (STREAMS - 1) * next_;        \
        for (; i_ + step_ <= (n); i_ += step_)                                                     \
            UNROLL_FOR(int k_ = 0; k_ < STREAMS; k_++)                                             \
                UNROLL_FOR(int u_ = 0; u_ < LINE; u_ += U)                                         \
                    TAKE(k_, (rows) == 1 ? 0 : k_, i_ + k_ * next_ + u_, 0, u_ == 0);              \
        for (; i_ < (n); i_ += U)                                                                  \
            UNROLL_FOR(int k_ = 0; k_ < (rows); k_++)                                              \
                TAKE(k_, k_, i_, part_of((n) - i_), 0);                                            \
    } while (0)

/* TAKE(row, j, head, part) for the values of plane k of a group, in units that begin where those of
 * the row do: of the unit at j, the first `head` values belong to the plane before; what follows
 * the first `part` ones, unless that is 0, belongs to the plane behind. */
#define EACH_OF_GROUP(k, length, rows, TAKE)                                                       \
    do {                                                                                           \
        const int64_t begin_ = (k) * (length), end_ = begin_ + (length);                           \
        const int head_ = (int)(begin_ & (U - 1));                                                 \
        int64_t j_ = begin_ - head_;                                                               \
        if (head_) {                                                                               \
            UNROLL_FOR(int r_ = 0; r_ < (rows); r_++)                                              \
                TAKE(r_, j_, head_, 0);                                                            \
            j_ += U;                                                                               \
        }                                                                                          \
        for (; j_ + U <= end_; j_ += U)                                                            \
            UNROLL_FOR(int r_ = 0; r_ < (rows); r_++)                                              \
                TAKE(r_, j_, 0, 0);                                                                \
        if (j_ < end_)                                                                             \
            UNROLL_FOR(int r_ = 0; r_ < (rows); r_++)                                              \
                TAKE(r_, j_, 0, (int)(end_ - j_));                                                 \
    } while (0)

/* TAKE(j, head, i) for the n >= U values of a plane, in whole units that begin with it: the first
 * `head` values of the unit at j were taken before; i, 0 to 3, tells neighbours apart. Planes of a
 * row by itself are read so. */
#define EACH_OF_PLANE(n, TAKE)                                                                     \
    do {                                                                                           \
        int64_t j_ = 0;                                                                            \
        for (; j_ + 4 * U <= (n); j_ += 4 * U) {                                                   \
            TAKE(j_, 0, 0);                                                                        \
            TAKE(j_ + U, 0, 1);                                                                    \
            TAKE(j_ + 2 * U, 0, 2);                                                                \
            TAKE(j_ + 3 * U, 0, 3);                                                                \
        }                                                                                          \
        for (; j_ + U <= (n); j_ += U)                                                             \
            TAKE(j_, 0, 0);                                                                        \
        if (j_ < (n))                                                                              \
            TAKE((n) - U, U - (int)((n) - j_), 1);                                                 \
    } while (0)

/* How many values of a plane are read in a turn: all, or `turn` where memory streams and a plane is
 * longer than `whole`, for what is read and what is written at a time must be little there. */
INLINE int64_t turn_of(const planes_t *r, int stream, int64_t turn, int64_t whole)
{
    return stream && r->length > whole ? turn : r->length;
}

/* How the planes of a channel are cut into blocks. */
typedef struct {
    int64_t rows, columns;
} block_t;

INLINE block_t block_of(const planes_t *r)
{
    const int64_t least = r->planes < STREAMS ? 1 : STREAMS, most = BLOCK / least;
    block_t b = {r->length < most ? BLOCK / r->length : least, most};
    if (b.rows > STREAMS)
        b.rows -= b.rows % STREAMS;
    return b;
}

/* What is written at once: values `from` to `to` - 1 of each of `rows` rows, the first of which
 * begins at `at`. Only the row of a single plane is cut, at the next line of the cache. */
typedef struct {
    int64_t at, rows, stride, channels, length, from, to;
} strip_t;

/* Do all rows at p begin and end with whole lines? */
INLINE int at_lines(const io_t *p, const planes_t *r, int64_t channels)
{
    return (uintptr_t)p % LINE_BYTES == 0 && r->stride % LINE == 0 &&
           channels * r->length % LINE == 0;
}

/* Rows are written one after the other, as far as values are `owed`. */
typedef struct {
    int64_t owed, left; /* values, rows */
    strip_t last;
} writer_t;

INLINE writer_t writer_of(const planes_t *r, int64_t channels)
{
    const writer_t w = {0, channels ? r->planes : 0, {0, 0, r->stride, channels, r->length, 0, 0}};
    return w;
}

/* Is there a next strip to write? Of a group, nothing less than a row is. */
INLINE int next_strip(writer_t *w)
{
    strip_t *s = &w->last;
    const int64_t row = s->channels * s->length, least = s->channels > 1 ? row : 1;
    if (w->left == 0 || w->owed < least)
        return 0;
    if (s->to == row) {
        s->at += s->rows * s->stride;
        s->to = 0;
    }
    s->from = s->to;
    s->rows = 1;
    if (s->from == 0 && w->owed > row)
        s->rows = w->owed / row < w->left ? w->owed / row : w->left;
    s->to = row - s->from <= w->owed ? row : s->from + w->owed;
    w->owed -= s->rows * (s->to - s->from);
    if (s->to == row)
        w->left -= s->rows;
    return 1;
}

/* Where the strip begins in a row at p, where its first whole line does, and where it ends. */
typedef struct {
    int64_t begin, head, end;
} cut_t;

INLINE cut_t cut_of(const strip_t *s, const io_t *p)
{
    const int64_t row = s->channels * s->length;
    cut_t c = {0, s->from + to_line(p + s->from, row - s->from), row};
    if (s->from > 0)
        c.begin = c.head;
    if (s->to < row)
        c.end = s->to + to_line(p + s->to, row - s->to);
    return c;
}

/* PUT(j, part, stream) for the values of a row that is written to p, unit by unit, after CHANNEL(k)
 * for those of plane k; MIX(j, k, ours, stream) for a unit whose first `ours` values end plane k,
 * and whose others begin the next one. Whole lines are streamed, if that is wanted. */
#define EACH_UNIT(s, p, stream, CHANNEL, PUT, MIX)                                                 \
    do {                                                                                           \
        const cut_t cut_ = cut_of(s, p);                                                           \
        int64_t j_ = cut_.begin;                                                                   \
        CHANNEL(0);                                                                                \
        for (; j_ < cut_.head; j_ += U)                                                            \
            PUT(j_, part_of(cut_.head - j_), 0);                                                   \
        j_ = cut_.head;                                                                            \
        for (int64_t k_ = 0; k_ < (s)->channels; k_++) {                                           \
            const int last_ = k_ + 1 == (s)->channels;                                             \
            const int64_t end_ = last_ ? cut_.end : (k_ + 1) * (s)->length;                        \
            CHANNEL(k_);                                                                           \
            for (; j_ + LINE <= end_; j_ += LINE)                                                  \
                UNROLL_FOR(int u_ = 0; u_ < LINE; u_ += U)                                         \
                    PUT(j_ + u_, 0, stream);                                                       \
            for (; j_ + U <= end_; j_ += U)                                                        \
                PUT(j_, 0, (stream) && !last_);                                                    \
            if (j_ < end_ && last_) {                                                              \
                PUT(j_, part_of(end_ - j_), 0);                                                    \
            } else if (j_ < end_) {                                                                \
                MIX(j_, k_, (int)(end_ - j_), stream);                                             \
                j_ += U;                                                                           \
            }                                                                                      \
        }                                                                                          \
    } while (0)
