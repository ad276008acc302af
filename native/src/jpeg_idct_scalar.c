/* The inverse DCT without vectors. */
#include "jpeg_idct.h"

static inline int16_t saturate(int32_t value)
{
    return (int16_t)(value < INT16_MIN ? INT16_MIN : value > INT16_MAX ? INT16_MAX : value);
}

static inline int16_t wrap(int32_t value) { return (int16_t)(uint16_t)(uint32_t)value; }

/* Eight values `step` apart, in place. */
static inline void pass(int16_t *at, size_t step, int shift)
{
    const int32_t in1 = at[step], in2 = at[2 * step], in3 = at[3 * step], in5 = at[5 * step];
    const int32_t in6 = at[6 * step], in7 = at[7 * step];
    const int32_t round = 1 << (shift - 1);

    const int32_t sum = wrap(at[0] + at[4 * step]) * 8192 + round;
    const int32_t difference = wrap(at[0] - at[4 * step]) * 8192 + round;
    const int32_t even2 = in2 * F_0_541 + in6 * (F_0_541 - F_1_847);
    const int32_t even3 = in2 * (F_0_541 + F_0_765) + in6 * F_0_541;
    const int32_t e0 = sum + even3, e3 = sum - even3;
    const int32_t e1 = difference + even2, e2 = difference - even2;

    const int32_t z3 = wrap(in3 + in7), z4 = wrap(in1 + in5);
    const int32_t turned3 = z3 * (F_1_175 - F_1_961) + z4 * F_1_175;
    const int32_t turned4 = z3 * F_1_175 + z4 * (F_1_175 - F_0_390);
    const int32_t o0 = in7 * (F_0_298 - F_0_899) - in1 * F_0_899 + turned3;
    const int32_t o1 = in5 * (F_2_053 - F_2_562) - in3 * F_2_562 + turned4;
    const int32_t o2 = in3 * (F_3_072 - F_2_562) - in5 * F_2_562 + turned3;
    const int32_t o3 = in1 * (F_1_501 - F_0_899) - in7 * F_0_899 + turned4;

    at[0] = saturate((e0 + o3) >> shift);
    at[7 * step] = saturate((e0 - o3) >> shift);
    at[step] = saturate((e1 + o2) >> shift);
    at[6 * step] = saturate((e1 - o2) >> shift);
    at[2 * step] = saturate((e2 + o1) >> shift);
    at[5 * step] = saturate((e2 - o1) >> shift);
    at[3 * step] = saturate((e3 + o0) >> shift);
    at[4 * step] = saturate((e3 - o0) >> shift);
}

static void transform(int16_t *coefs, const int16_t *quants, uint8_t *to, size_t stride)
{
    int16_t block[64];
    int32_t lower = 0;

    for (int row = 0; row < 8; row++)
        for (int i = 0; i < 8; i++) {
            const int16_t coef = coefs[row * 16 + i];
            if (row > 0)
                lower |= coef;
            block[row * 8 + i] = wrap(coef * quants[row * 16 + i]);
            coefs[row * 16 + i] = 0;
        }
    if (lower == 0)
        for (int i = 63; i >= 0; i--)
            block[i] = wrap(block[i & 7] * 4);
    else
        for (int i = 0; i < 8; i++)
            pass(block + i, 8, SHIFT_FIRST);
    for (int row = 0; row < 8; row++) {
        pass(block + row * 8, 1, SHIFT_SECOND);
        for (int i = 0; i < 8; i++) {
            const int value = block[row * 8 + i];
            to[i] = (uint8_t)((value < -128 ? -128 : value > 127 ? 127 : value) + 128);
        }
        to += stride;
    }
}

void jpeg_transform_scalar(int16_t *coefs, int count, const int16_t *quants, uint8_t *left,
                           uint8_t *right, size_t stride)
{
    (void)count;
    transform(coefs, quants, left, stride);
    transform(coefs + 8, quants, right, stride);
}
