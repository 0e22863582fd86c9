/* Activations of a vector and their derivatives, for whoever computes them element by element.
 *
 * f(x, a) and f_slope(x, a), where `a` is the activation's parameter; NaN stays NaN.
 */
#ifndef FASTBN_POINTWISE_H
#define FASTBN_POINTWISE_H

#include "common/exp.h"
#include "common/operations.h"

#if defined(FASTBN_F64)
#define TAIL_BEND 0.26
static const T tail_q[] = {-3.6753579231272587e-10, -6.106579854256381e-10,  4.385407705677627e-09,
                           3.573649695517226e-09,   -2.848903728121496e-08,  3.259057530911713e-10,
                           1.3847868296780607e-07,  -1.1770599301477185e-07, -5.869477594774041e-07,
                           1.0545730384279148e-06,  2.4830333735097334e-06,  -7.154741395084002e-06,
                           -1.2752021607571046e-05, 4.558592897075059e-05,   9.755388812818664e-05,
                           -0.0002684697210917039,  -0.001071916445510146,   0.0004656027406977071,
                           0.011963837383257346,    0.04291814712222563,     0.09528348747717626,
                           0.15498285206246354,     0.19560027607761055};
#else
#define TAIL_BEND 0.32f
static const T tail_q[] = {-4.22326804e-05f, 2.46531122e-06f, 0.000355663866f, -2.58602252e-05f,
                           -0.00255641485f,  -0.00170236719f, 0.0204240338f,   0.0808513524f,
                           0.167988172f,     0.23470517f};
#endif
#define TAIL_TERMS ((int)(sizeof(tail_q) / sizeof(tail_q[0])))

/* ---- pieces ---- */

/* min(max(x, low), high) */
INLINE V v_clip(V x, V low, V high)
{
    x = v_where(x < low, low, x);
    return v_where(x > high, high, x);
}

/* exp(x) - 1 of an x <= 0, exact to the last digits near 0 */
INLINE V v_expm1_down(V x)
{
#if FASTBN_VECTORS
    const V least = v_set(-2 * TANH_MOST); /* from here on it is -1 */
    V n;
    x = v_where(x < least, least, x);
    const V part = exp_parts(x, &n), power = pow2(n);
    return v_fma(power, part, power - 1);
#else
    return (T)expm1((double)x);
#endif
}

/* sigmoid(x), and in `rest` 1 - sigmoid(x) with all of its digits */
INLINE V v_gate(V x, V *rest)
{
    const V e = v_exp_down(-v_abs(x)), far = v_set(1) / (e + 1), near = e * far;
    *rest = v_where(x < 0, far, near);
    return v_where(x < 0, near, far);
}

/* log(1 + exp(x)) */
INLINE V v_softplus(V x) { return v_relu(x) + v_log1p(v_exp_down(-v_abs(x))); }

/* The normal distribution's density at x, and its integral up to x: erf, as a tail of it is
 * t Q(2 t - 1) exp(-x^2 / 2) with t = 1 / (1 + bend |x|), where Q interpolates at Chebyshev's nodes.
 * It is off by at most 2e-7 (float) and 5e-16 (double). */
INLINE V v_normal(V x, V *density)
{
    const V size = v_abs(x), e = v_exp_down(size * size * (T)-0.5);
    const V t = v_set(1) / v_fma(size, v_set(TAIL_BEND), v_set(1)), s = t + t - 1;
    V q = v_set(tail_q[0]);
    for (int i = 1; i < TAIL_TERMS; i++)
        q = v_fma(q, s, v_set(tail_q[i]));
    const V tail = q * t * e;
    *density = e * (T)0.3989422804014327;
    return v_where(x < 0, tail, v_set(1) - tail);
}

/* ---- activations ---- */

/* Clevert et al. 2016, Eq. 16: x, or where it is negative a (exp(x) - 1) */
INLINE V elu(V x, V a) { return v_where(x > 0, x, v_expm1_down(v_where(x > 0, v_set(0), x)) * a); }
INLINE V elu_slope(V x, V a)
{
    return v_where(x > 0, v_set(1), v_exp_down(v_where(x > 0, v_set(0), x)) * a);
}

/* Klambauer et al. 2017, Eq. 2 */
#define SELU_SCALE (T)1.0507009873554804934
#define SELU_ALPHA (T)1.6732632423543772848
INLINE V selu(V x, V a)
{
    (void)a;
    return elu(x, v_set(SELU_ALPHA)) * SELU_SCALE;
}
INLINE V selu_slope(V x, V a)
{
    (void)a;
    return elu_slope(x, v_set(SELU_ALPHA)) * SELU_SCALE;
}

/* x sigmoid(x) (Elfwing et al. 2018) */
INLINE V silu(V x, V a)
{
    (void)a;
    return x * v_sigmoid(x);
}
INLINE V silu_slope(V x, V a)
{
    V rest;
    const V s = v_gate(x, &rest);
    (void)a;
    return s * v_fma(x, rest, v_set(1));
}

/* x times the normal distribution's integral (Hendrycks & Gimpel 2016) */
INLINE V gelu(V x, V a)
{
    V density;
    (void)a;
    return x * v_normal(x, &density);
}
INLINE V gelu_slope(V x, V a)
{
    V density;
    const V integral = v_normal(x, &density);
    (void)a;
    return v_fma(x, density, integral);
}

/* The same with tanh: x (1 + tanh(u / 2)) / 2 = x sigmoid(u), u = sqrt(8 / pi) (x + 0.044715 x^3) */
#define GELU_SCALE (T)1.5957691216057307117
#define GELU_CUBE (T)0.044715
INLINE V gelu_clip(V x) { return v_clip(x, v_set(-30), v_set(30)); } /* far behind 0 and 1 */
INLINE V gelu_inner(V x) { return x * v_fma(x * x, v_set(GELU_CUBE), v_set(1)) * GELU_SCALE; }
INLINE V gelu_tanh(V x, V a)
{
    (void)a;
    return x * v_sigmoid(gelu_inner(gelu_clip(x)));
}
INLINE V gelu_tanh_slope(V x, V a)
{
    (void)a;
    x = gelu_clip(x);
    V rest;
    const V s = v_gate(gelu_inner(x), &rest);
    const V inner = v_fma(x * x, v_set(3 * GELU_CUBE), v_set(1)) * GELU_SCALE;
    return v_fma(x * inner, s * rest, s);
}

/* x min(max(x + 3, 0), 6) / 6 (Howard et al. 2019), and its gate */
INLINE V hardsigmoid(V x, V a)
{
    (void)a;
    return v_clip(x + 3, v_set(0), v_set(6)) * (T)(1.0 / 6.0);
}
INLINE V hardsigmoid_slope(V x, V a)
{
    const V slope = v_where(v_abs(x) >= 3, v_set(0), v_set((T)(1.0 / 6.0)));
    (void)a;
    return v_where(x == x, slope, x);
}
INLINE V hardswish(V x, V a) { return x * hardsigmoid(x, a); }
INLINE V hardswish_slope(V x, V a)
{
    (void)a;
    const V inside = (x + x + 3) * (T)(1.0 / 6.0);
    return v_where(x <= -3, v_set(0), v_where(x >= 3, v_set(1), inside));
}

INLINE V relu6(V x, V a)
{
    (void)a;
    return v_clip(x, v_set(0), v_set(6));
}
INLINE V relu6_slope(V x, V a)
{
    (void)a;
    return v_where(x <= 0, v_set(0), v_where(x >= 6, v_set(0), v_where(x == x, v_set(1), x)));
}

/* log(1 + exp(a x)) / a */
INLINE V softplus(V x, V a) { return v_softplus(x * a) / a; }
INLINE V softplus_slope(V x, V a) { return v_sigmoid(x * a); }

/* x tanh(log(1 + exp(x))) (Misra 2020): with e = exp(-|x|), tanh(log(1 + exp(x))) = n / (n + 2 d),
 * where n = e (e + 2), d = 1 for a negative x, n = 1 + 2 e, d = e^2 for a positive one; `rest` is
 * 1 less that */
INLINE V mish_gate(V x, V *e, V *rest)
{
    *e = v_exp_down(-v_abs(x));
    const V n = v_where(x < 0, *e * (*e + 2), *e + *e + 1);
    const V d = v_where(x < 0, v_set(2), (*e + *e) * *e), share = v_set(1) / (n + d);
    *rest = d * share;
    return n * share;
}
INLINE V mish(V x, V a)
{
    V e, rest;
    (void)a;
    return x * mish_gate(x, &e, &rest);
}
INLINE V mish_slope(V x, V a)
{
    V e, rest;
    const V gate = mish_gate(x, &e, &rest), s = v_where(x < 0, e, v_set(1)) / (e + 1);
    (void)a;
    return v_fma(x * s, rest * (gate + 1), gate);
}

/* ---- by their number, from MAP_ELU on: a constant, once SMOOTH_DISPATCH has made it one ---- */

INLINE V smooth_value(V x, V a, const int op)
{
    switch (op) {
    case MAP_ELU: return elu(x, a);
    case MAP_SELU: return selu(x, a);
    case MAP_SILU: return silu(x, a);
    case MAP_GELU: return gelu(x, a);
    case MAP_GELU_TANH: return gelu_tanh(x, a);
    case MAP_HARDSIGMOID: return hardsigmoid(x, a);
    case MAP_HARDSWISH: return hardswish(x, a);
    case MAP_RELU6: return relu6(x, a);
    case MAP_SOFTPLUS: return softplus(x, a);
    default: return mish(x, a);
    }
}

INLINE V smooth_slope(V x, V a, const int op)
{
    switch (op) {
    case MAP_ELU: return elu_slope(x, a);
    case MAP_SELU: return selu_slope(x, a);
    case MAP_SILU: return silu_slope(x, a);
    case MAP_GELU: return gelu_slope(x, a);
    case MAP_GELU_TANH: return gelu_tanh_slope(x, a);
    case MAP_HARDSIGMOID: return hardsigmoid_slope(x, a);
    case MAP_HARDSWISH: return hardswish_slope(x, a);
    case MAP_RELU6: return relu6_slope(x, a);
    case MAP_SOFTPLUS: return softplus_slope(x, a);
    default: return mish_slope(x, a);
    }
}

#define SMOOTH_DISPATCH(op, CALL)                                                                  \
    switch (op) {                                                                                  \
    case MAP_ELU: CALL(MAP_ELU); break;                                                            \
    case MAP_SELU: CALL(MAP_SELU); break;                                                          \
    case MAP_SILU: CALL(MAP_SILU); break;                                                          \
    case MAP_GELU: CALL(MAP_GELU); break;                                                          \
    case MAP_GELU_TANH: CALL(MAP_GELU_TANH); break;                                                \
    case MAP_HARDSIGMOID: CALL(MAP_HARDSIGMOID); break;                                            \
    case MAP_HARDSWISH: CALL(MAP_HARDSWISH); break;                                                \
    case MAP_RELU6: CALL(MAP_RELU6); break;                                                        \
    case MAP_SOFTPLUS: CALL(MAP_SOFTPLUS); break;                                                  \
    default: CALL(MAP_MISH); break;                                                                \
    }

#endif
