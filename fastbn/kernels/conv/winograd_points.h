/* The transforms of Winograd convolution along one axis, for tiles of m = 2 and m = 4 outputs.
 *
 * m outputs of a filter of 3 taps see m + 2 inputs and take as many products: a product of
 * polynomials is known from its values at m + 1 points and at infinity. For inputs d, a filter g,
 * outputs y
 *
 *     y = A' [(G g) * (B' d)]        dg = G' [(A dy) * (B' d)]
 *
 * m = 2, at 0, 1, -1, infinity:
 *
 *          1  0 -1  0           1   0   0          1  1  1  0
 *     B' = 0  1  1  0     G = 1/2 1/2 1/2     A' = 0  1 -1 -1
 *          0 -1  1  0         1/2 -1/2 1/2
 *          0  1  0 -1           0   0   1
 *
 * m = 4, at 0, p, -p, q, -q, infinity:
 *
 *          ppqq    0  -pp-qq   0     1  0          1   1   1   1   1  0
 *            0  -pqq   -qq     p     1  0     A' = 0   p  -p   q  -q  0
 *     B' =   0   pqq   -qq    -p     1  0          0  pp  pp  qq  qq  0
 *            0  -ppq   -pp     q     1  0          0 ppp -ppp qqq -qqq 1
 *            0   ppq   -pp    -q     1  0
 *            0  ppqq     0  -pp-qq   0  1     G: (1 x xx) / F at a point x, (0 0 1) at infinity;
 *                                             F = ppqq, 2 pp (pp - qq), 2 qq (qq - pp)
 *
 * p = 11/16 and q = 47/32: all but 1 / F is exact in float32, and rounding errors are multiplied
 * far less than with the usual 1 and 2.
 *
 * Rows of x and -x share their even and their odd part. So they are made in pairs: pair 0 is
 * the first and the last, pair k the rows 2 k - 1 and 2 k.
 */
#include "common/vec.h"

#define MOST_POINTS 6
#define P 0.6875
#define Q 1.46875
#define PP (P * P)
#define QQ (Q * Q)
#define OVER_F0 (1 / (PP * QQ))
#define OVER_FP (1 / (2 * PP * (PP - QQ)))
#define OVER_FQ (1 / (2 * QQ * (QQ - PP)))

/* As a constant of type T, rounded once. */
#define SET(x) v_set((T)(x))

INLINE int row_of_pair(const int m, const int pair, const int i)
{
    return pair ? 2 * pair - 1 + i : i * (m + 1);
}

/* even + x odd and even - x odd. */
INLINE void at_both(double x, V even, V odd, V *to)
{
    to[0] = v_fma(SET(x), odd, even);
    to[1] = v_fma(SET(-x), odd, even);
}

/* Two rows of B' d. */
INLINE void window_pair(const int m, const int pair, const V *d, V *to)
{
    if (m == 2) {
        to[0] = pair ? d[1] + d[2] : d[0] - d[2];
        to[1] = pair ? d[2] - d[1] : d[1] - d[3];
    } else if (pair == 0) {
        UNROLL_FOR(int i = 0; i < 2; i++)
            to[i] = v_fma(SET(-PP - QQ), d[i + 2], v_fma(SET(PP * QQ), d[i], d[i + 4]));
    } else {
        const V other = SET(pair == 1 ? -QQ : -PP);
        at_both(pair == 1 ? P : Q, v_fma(other, d[2], d[4]), v_fma(other, d[1], d[3]), to);
    }
}

/* Rows 0 (and 2) or 1 (and 3) of A' u. */
INLINE void output_rows(const int m, const int odd, const V *u, V *to)
{
    if (m == 2) {
        to[0] = odd ? (u[1] - u[2]) - u[3] : u[0] + (u[1] + u[2]);
    } else if (odd) {
        const V a = u[1] - u[2], b = u[3] - u[4];
        to[0] = v_fma(SET(Q), b, SET(P) * a);
        to[1] = v_fma(SET(Q * QQ), b, v_fma(SET(P * PP), a, u[5]));
    } else {
        const V a = u[1] + u[2], b = u[3] + u[4];
        to[0] = u[0] + (a + b);
        to[1] = v_fma(SET(QQ), b, SET(PP) * a);
    }
}

/* Two rows of A dy. */
INLINE void spread_pair(const int m, const int pair, const V *dy, V *to)
{
    if (pair == 0) {
        to[0] = dy[0];
        to[1] = m == 2 ? -dy[1] : dy[3];
    } else if (m == 2) {
        to[0] = dy[0] + dy[1];
        to[1] = dy[0] - dy[1];
    } else {
        const V square = SET(pair == 1 ? PP : QQ);
        at_both(pair == 1 ? P : Q, v_fma(square, dy[2], dy[0]), v_fma(square, dy[3], dy[1]), to);
    }
}

/* Two rows of G g. */
INLINE void filter_pair(const int m, const int pair, const V *g, V *to)
{
    if (pair == 0) {
        to[0] = m == 2 ? g[0] : SET(OVER_F0) * g[0];
        to[1] = g[2];
        return;
    }
    if (m == 2)
        at_both(1, g[0] + g[2], g[1], to);
    else
        at_both(pair == 1 ? P : Q, v_fma(SET(pair == 1 ? PP : QQ), g[2], g[0]), g[1], to);
    UNROLL_FOR(int i = 0; i < 2; i++)
        to[i] = SET(m == 2 ? 0.5 : pair == 1 ? OVER_FP : OVER_FQ) * to[i];
}

/* The three rows of G' u. */
INLINE void gradient_rows(const int m, const V *u, V *to)
{
    if (m == 2) {
        const V sum = SET(0.5) * (u[1] + u[2]);
        to[0] = u[0] + sum;
        to[1] = SET(0.5) * (u[1] - u[2]);
        to[2] = sum + u[3];
    } else {
        const V a = SET(OVER_FP) * (u[1] + u[2]), b = SET(OVER_FQ) * (u[3] + u[4]);
        to[0] = v_fma(SET(OVER_F0), u[0], a + b);
        to[1] = v_fma(SET(P * OVER_FP), u[1] - u[2], SET(Q * OVER_FQ) * (u[3] - u[4]));
        to[2] = v_fma(SET(QQ), b, v_fma(SET(PP), a, u[5]));
    }
}
#undef P
#undef Q
#undef PP
#undef QQ
#undef OVER_F0
#undef OVER_FP
#undef OVER_FQ
#undef SET
