/* The inverse DCT with NEON: a row of a block in a register, one block after the other. */
#include "jpeg_idct.h"

#if defined(CPU_HAS_NEON_CODE)
#include <arm_neon.h>

typedef struct {
    int32x4_t low, high; /* sums of the first and the last four places */
} sums;

static inline sums weigh(int16x8_t a, int16x8_t b, int of_a, int of_b)
{
    const int16_t factor_a = (int16_t)of_a, factor_b = (int16_t)of_b;
    return (sums){
        vmlal_n_s16(vmull_n_s16(vget_low_s16(a), factor_a), vget_low_s16(b), factor_b),
        vmlal_n_s16(vmull_n_s16(vget_high_s16(a), factor_a), vget_high_s16(b), factor_b)};
}

static inline sums add(sums a, sums b)
{
    return (sums){vaddq_s32(a.low, b.low), vaddq_s32(a.high, b.high)};
}

static inline sums subtract(sums a, sums b)
{
    return (sums){vsubq_s32(a.low, b.low), vsubq_s32(a.high, b.high)};
}

static inline sums widen(int16x8_t a)
{
    return (sums){vshll_n_s16(vget_low_s16(a), 13), vshll_n_s16(vget_high_s16(a), 13)};
}

/* Rounded, and saturated to 16 bits; a negative shift goes to the right. */
static inline int16x8_t narrow(sums a, int shift)
{
    const int32x4_t right = vdupq_n_s32(-shift);
    return vcombine_s16(vqmovn_s32(vrshlq_s32(a.low, right)),
                        vqmovn_s32(vrshlq_s32(a.high, right)));
}

static inline void combine(int16x8_t v[8], const sums e[4], const sums o[4], int shift)
{
    for (int i = 0; i < 4; i++) {
        v[i] = narrow(add(e[i], o[3 - i]), shift);
        v[7 - i] = narrow(subtract(e[i], o[3 - i]), shift);
    }
}

static inline void pass(int16x8_t v[8], int shift)
{
    const sums sum = widen(vaddq_s16(v[0], v[4])), difference = widen(vsubq_s16(v[0], v[4]));
    const sums even2 = weigh(v[2], v[6], F_0_541, F_0_541 - F_1_847);
    const sums even3 = weigh(v[2], v[6], F_0_541 + F_0_765, F_0_541);
    const sums e[4] = {add(sum, even3), add(difference, even2), subtract(difference, even2),
                       subtract(sum, even3)};
    const int16x8_t z3 = vaddq_s16(v[3], v[7]), z4 = vaddq_s16(v[1], v[5]);
    const sums turned3 = weigh(z3, z4, F_1_175 - F_1_961, F_1_175);
    const sums turned4 = weigh(z3, z4, F_1_175, F_1_175 - F_0_390);
    const sums o[4] = {add(weigh(v[7], v[1], F_0_298 - F_0_899, -F_0_899), turned3),
                       add(weigh(v[5], v[3], F_2_053 - F_2_562, -F_2_562), turned4),
                       add(weigh(v[5], v[3], -F_2_562, F_3_072 - F_2_562), turned3),
                       add(weigh(v[7], v[1], -F_0_899, F_1_501 - F_0_899), turned4)};
    combine(v, e, o, shift);
}

/* The same where rows (or columns) 4 to 7 are zero. */
static inline void pass_low(int16x8_t v[8], int shift)
{
    const sums e[4] = {weigh(v[0], v[2], LOW_E0), weigh(v[0], v[2], LOW_E1),
                       weigh(v[0], v[2], LOW_E2), weigh(v[0], v[2], LOW_E3)};
    const sums o[4] = {weigh(v[1], v[3], LOW_O0), weigh(v[1], v[3], LOW_O1),
                       weigh(v[1], v[3], LOW_O2), weigh(v[1], v[3], LOW_O3)};
    combine(v, e, o, shift);
}

static inline int16x8_t low_halves(int32x4_t a, int32x4_t b)
{
    return vreinterpretq_s16_s64(
        vtrn1q_s64(vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)));
}

static inline int16x8_t high_halves(int32x4_t a, int32x4_t b)
{
    return vreinterpretq_s16_s64(
        vtrn2q_s64(vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)));
}

static inline void transpose(int16x8_t v[8])
{
    int32x4_t a[8], b[8];
    for (int i = 0; i < 4; i++) {
        a[2 * i] = vreinterpretq_s32_s16(vtrn1q_s16(v[2 * i], v[2 * i + 1]));
        a[2 * i + 1] = vreinterpretq_s32_s16(vtrn2q_s16(v[2 * i], v[2 * i + 1]));
    }
    /* b: columns i and i + 4 of the upper four rows, then of the lower ones. */
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            b[i + j] = vtrn1q_s32(a[i + j], a[i + j + 2]);
            b[i + j + 2] = vtrn2q_s32(a[i + j], a[i + j + 2]);
        }
    for (int i = 0; i < 4; i++) {
        v[i] = low_halves(b[i], b[i + 4]);
        v[i + 4] = high_halves(b[i], b[i + 4]);
    }
}

static inline int16x8_t scale(const int16_t *coefs, const int16_t *quants, int row)
{
    return vmulq_s16(vld1q_s16(coefs + 16 * row), vld1q_s16(quants + 16 * row));
}

static inline void transform(int16_t *coefs, int count, const int16_t *quants, uint8_t *to,
                             size_t stride)
{
    const int rows = count <= COUNT_LOW ? 4 : 8;
    int16x8_t v[8];

    for (int row = 0; row < rows; row++) {
        v[row] = scale(coefs, quants, row);
        vst1q_s16(coefs + 16 * row, vdupq_n_s16(0));
    }
    if (rows == 4) {
        pass_low(v, SHIFT_FIRST);
        transpose(v);
        pass_low(v, SHIFT_SECOND);
    } else {
        pass(v, SHIFT_FIRST);
        transpose(v);
        pass(v, SHIFT_SECOND);
    }
    transpose(v);
    for (int row = 0; row < 8; row++)
        vst1_u8(to + row * stride,
                veor_u8(vreinterpret_u8_s8(vqmovn_s16(v[row])), vdup_n_u8(0x80)));
}

void jpeg_transform_neon(int16_t *coefs, int count, const int16_t *quants, uint8_t *left,
                         uint8_t *right, size_t stride)
{
    const uint16x8_t most =
        vmaxq_u16(vreinterpretq_u16_s16(vabsq_s16(scale(coefs, quants, 0))),
                  vreinterpretq_u16_s16(vabsq_s16(scale(coefs + 8, quants + 8, 0))));

    /* Only above this does it matter whether the first pass is skipped; no picture gets there. */
    if (vmaxvq_u16(most) > INT16_MAX / 4) {
        jpeg_transform_scalar(coefs, count, quants, left, right, stride);
        return;
    }
    transform(coefs, count, quants, left, stride);
    transform(coefs + 8, count, quants + 8, right, stride);
}
#else
typedef int jpeg_idct_neon_is_for_other_machines;
#endif
