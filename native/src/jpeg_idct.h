/* Inverse DCT of two blocks: the accurate integer transform of libjpeg ("islow"), byte for byte.
 *
 * Even where coefficients are out of all range it answers as libjpeg-turbo's x86 kernels do, so
 * these are part of the definition, at every level:
 *   - coefficient times quantizer, and sums of inputs, wrap to 16 bits;
 *   - what is stored between the passes is saturated to 16 bits, results to -128 .. 127;
 *   - a block whose rows 1 to 7 are all zero skips the first pass: values times 4, wrapped.
 * With that no sum of 32 bits can overflow: the largest is 2,115,796,992 plus rounding.
 *
 * coefs: 128; row r of the left block at r * 16, of the right one at r * 16 + 8; cleared after use.
 * count: coefficients from this one on, in the order of the standard, are zero in both.
 * quants: as coefs, the same in both halves. left, right: first pixel of each block.
 */
#ifndef NATIVE_JPEG_IDCT_H
#define NATIVE_JPEG_IDCT_H

#include <stddef.h>
#include <stdint.h>

#include "machine.h"

typedef void jpeg_transform(int16_t *coefs, int count, const int16_t *quants, uint8_t *left,
                            uint8_t *right, size_t stride);

jpeg_transform jpeg_transform_scalar;
#if defined(CPU_HAS_AVX2_CODE)
jpeg_transform jpeg_transform_avx2;
#endif
#if defined(CPU_HAS_NEON_CODE)
jpeg_transform jpeg_transform_neon;
#endif

/* The kernel of a level of native.cpu. */
jpeg_transform *jpeg_transform_at(int level);

/* 2**13 times the cosines of the transform, and sums of them. */
enum {
    F_0_298 = 2446, F_0_390 = 3196, F_0_541 = 4433, F_0_765 = 6270, F_0_899 = 7373, F_1_175 = 9633,
    F_1_501 = 12299, F_1_847 = 15137, F_1_961 = 16069, F_2_053 = 16819, F_2_562 = 20995,
    F_3_072 = 25172
};

/* Up to so many coefficients all lie in the first four rows and columns. */
enum { COUNT_LOW = 10 };

/* What is left of the transform where inputs 4 to 7 are zero: factors of inputs 0 and 2 in the even
 * part, of 1 and 3 in the odd one. Results are e0 +- o3, e1 +- o2, e2 +- o1, e3 +- o0. */
#define LOW_E0 8192, F_0_541 + F_0_765
#define LOW_E1 8192, F_0_541
#define LOW_E2 8192, -F_0_541
#define LOW_E3 8192, -F_0_541 - F_0_765
#define LOW_O0 F_1_175 - F_0_899, F_1_175 - F_1_961
#define LOW_O1 F_1_175 - F_0_390, F_1_175 - F_2_562
#define LOW_O2 F_1_175, F_1_175 - F_1_961 + F_3_072 - F_2_562
#define LOW_O3 F_1_501 - F_0_899 + F_1_175 - F_0_390, F_1_175

/* First pass: 2 bits more than the values have; second pass: those, and 3 of the two-fold sum. */
enum { SHIFT_FIRST = 13 - 2, SHIFT_SECOND = 13 + 2 + 3 };

#endif
