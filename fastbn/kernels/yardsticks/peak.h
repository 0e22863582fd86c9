/* The yardstick of arithmetic: as many independent multiply-adds as keep every unit busy. */
#define CHAINS 12 /* latency times units of any processor of today, within 16 registers */

/* Do `rounds` times CHAINS * W multiply-adds; the sum is returned so that none is left out. */
static double multiply_adds(int64_t rounds)
{
    const V a = v_set((T)0.999), b = v_set((T)0.001);
    V c[CHAINS];
    for (int k = 0; k < CHAINS; k++)
        c[k] = v_set((T)k);
    for (int64_t i = 0; i < rounds; i++)
        for (int k = 0; k < CHAINS; k++)
            c[k] = v_fma(c[k], a, b);
    V sum = c[0];
    for (int k = 1; k < CHAINS; k++)
        sum = sum + c[k];
    return v_sum(sum);
}
#define MULTIPLY_ADDS_A_ROUND (CHAINS * W)
