/* exp (of what is not positive), log(1 + x) (of x in [0, 1]), sigmoid and tanh of a vector.
 *
 * x = n ln 2 + r with an integer n and |r| <= ln 2 / 2 (Cody & Waite 1980: ln 2 in two parts, so
 * that r keeps its digits). exp(r) - 1 = r + r^2 Q(r), where Q is the minimax polynomial for the
 * relative error of exp(r), and exp(x) = 2^n exp(r). The polynomials are off by 0.05 units in the
 * last place (ulp), the results by at most 1.1 (exp), 2.5 (sigmoid) and 3 (tanh).
 */
#ifndef FASTBN_EXP_H
#define FASTBN_EXP_H

#include "common/vec.h"

#if FASTBN_VECTORS

#if defined(FASTBN_F64)
#define MANTISSA 52
#define EXPONENT_BIAS 1023
#define ROUNDER 0x1.8p52 /* added to a small number, its last bits are that number's integer */
#define LN2_HIGH 0x1.62e42feep-1
#define LN2_LOW 0x1.a39ef35793c76p-33
#define EXP_LEAST -0x1.6232bdd7abcd2p9 /* log(DBL_MIN) */
#define TANH_MOST 20.0                 /* from here on tanh is 1 */
#define LOG1P_TERMS 17
static const T exp_q[] = {2.500003302057428e-08,  2.7630278254378116e-07, 2.755758661511817e-06,
                          2.4801493021889778e-05, 0.0001984126950614389,  0.0013888888943697061,
                          0.008333333333494735,   0.04166666666652993,    0.16666666666666413,
                          0.5000000000000011};
#else
#define MANTISSA 23
#define EXPONENT_BIAS 127
#define ROUNDER 0x1.8p23f
#define LN2_HIGH 0x1.62e4p-1f
#define LN2_LOW 0x1.7f7d1cp-20f
#define EXP_LEAST -0x1.5d589ep6f /* log(FLT_MIN) */
#define TANH_MOST 10.0f
#define LOG1P_TERMS 7
static const T exp_q[] = {0.0013814567728721461f, 0.008368731456069475f, 0.04166838947211029f,
                          0.16666520511668348f, 0.49999993439663726f};
#endif
#define LOG2E 1.4426950408889634
#define EXP_TERMS ((int)(sizeof(exp_q) / sizeof(exp_q[0])))

/* n of x, and exp(r) - 1 */
INLINE V exp_parts(V x, V *n)
{
    const V rounder = v_set(ROUNDER);
    *n = v_fma(x, v_set((T)LOG2E), rounder) - rounder;
    const V r = v_fma(*n, v_set(-LN2_LOW), v_fma(*n, v_set(-LN2_HIGH), x));
    V q = v_set(exp_q[0]);
    for (int i = 1; i < EXP_TERMS; i++)
        q = v_fma(q, r, v_set(exp_q[i]));
    return v_fma(r * r, q, r);
}

/* 2^n of an integer n for which that is a normal number */
INLINE V pow2(V n) { return (V)((VI)(n + v_set(ROUNDER + EXPONENT_BIAS)) << MANTISSA); }

/* exp(x) of an x <= 0. Below the smallest normal number it is 0; NaN stays NaN. */
INLINE V v_exp_down(V x)
{
    V n;
    const V e = exp_parts(x, &n) + 1;
    return (V)(~(x < v_set(EXP_LEAST)) & (VI)(e * pow2(n)));
}

INLINE V v_sigmoid(V x)
{
    const V e = v_exp_down((V)((VI)x | (VI)v_set((T)-0.0))); /* of -|x| */
    return v_where(x < 0, e, v_set(1)) / (e + 1);
}

/* With e = exp(2|x|) - 1, which keeps its digits near 0: tanh(|x|) = e / (e + 2). */
INLINE V v_tanh(V x)
{
    const V sign = v_set((T)-0.0), most = v_set(TANH_MOST);
    V size = v_abs(x), n;
    size = v_where(size > most, most, size);
    const V part = exp_parts(size + size, &n), power = pow2(n);
    const V e = v_fma(power, part, power - 1);
    return (V)((VI)(e / (e + 2)) | ((VI)x & (VI)sign));
}

/* log(1 + x) of an x in [0, 1]: with s = x / (x + 2), at most 1/3, it is 2 artanh(s), whose series
 * s + s^3/3 + s^5/5 ... leaves out less than a hundredth of an ulp. */
INLINE V v_log1p(V x)
{
    const V s = x / (x + 2), square = s * s;
    V q = v_set((T)(1.0 / (2 * LOG1P_TERMS + 1)));
    for (int i = LOG1P_TERMS - 1; i > 0; i--)
        q = v_fma(q, square, v_set((T)(1.0 / (2 * i + 1))));
    return v_fma(s + s, q * square, s + s);
}

#else /* one number at a time */

INLINE V v_log1p(V x) { return (T)log1p((double)x); }
INLINE V v_exp_down(V x) { return (T)exp((double)x); }
INLINE V v_sigmoid(V x)
{
    const double e = exp(-fabs((double)x));
    return (T)((x < 0 ? e : 1.0) / (1.0 + e));
}
INLINE V v_tanh(V x) { return (T)tanh((double)x); }
#endif
#endif
