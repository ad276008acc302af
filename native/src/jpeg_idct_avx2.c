/* The inverse DCT with AVX2: a row of both blocks in a register, so that nothing crosses lanes. */
#include "jpeg_idct.h"

#if defined(CPU_HAS_AVX2_CODE)
#include <immintrin.h>

#define TARGET __attribute__((target("avx2")))

/* Two factors for vpmaddwd, the first one for the even places. */
TARGET static inline __m256i factors(int first, int second)
{
    return _mm256_set1_epi32((int)((uint32_t)first & 0xFFFF) | (int)((uint32_t)second << 16));
}

typedef struct {
    __m256i low, high; /* 32-bit sums of the first and the last four of each lane's eight places */
} sums;

TARGET static inline sums weigh(__m256i a, __m256i b, int of_a, int of_b)
{
    const __m256i weights = factors(of_a, of_b);
    return (sums){_mm256_madd_epi16(_mm256_unpacklo_epi16(a, b), weights),
                  _mm256_madd_epi16(_mm256_unpackhi_epi16(a, b), weights)};
}

TARGET static inline sums add(sums a, sums b)
{
    return (sums){_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
}

TARGET static inline sums subtract(sums a, sums b)
{
    return (sums){_mm256_sub_epi32(a.low, b.low), _mm256_sub_epi32(a.high, b.high)};
}

/* Times 2**13, with the rounding of the pass's end added. */
TARGET static inline sums widen(__m256i a, int shift)
{
    return weigh(a, _mm256_set1_epi16(64), 8192, 1 << (shift - 7));
}

TARGET static inline __m256i narrow(sums a, int shift)
{
    return _mm256_packs_epi32(_mm256_srai_epi32(a.low, shift), _mm256_srai_epi32(a.high, shift));
}

TARGET static inline void combine(__m256i v[8], sums e0, sums e1, sums e2, sums e3, sums o0,
                                  sums o1, sums o2, sums o3, int shift)
{
    v[0] = narrow(add(e0, o3), shift);
    v[7] = narrow(subtract(e0, o3), shift);
    v[1] = narrow(add(e1, o2), shift);
    v[6] = narrow(subtract(e1, o2), shift);
    v[2] = narrow(add(e2, o1), shift);
    v[5] = narrow(subtract(e2, o1), shift);
    v[3] = narrow(add(e3, o0), shift);
    v[4] = narrow(subtract(e3, o0), shift);
}

TARGET static inline void pass(__m256i v[8], int shift)
{
    const sums sum = widen(_mm256_add_epi16(v[0], v[4]), shift);
    const sums difference = widen(_mm256_sub_epi16(v[0], v[4]), shift);
    const sums even2 = weigh(v[2], v[6], F_0_541, F_0_541 - F_1_847);
    const sums even3 = weigh(v[2], v[6], F_0_541 + F_0_765, F_0_541);
    const sums e0 = add(sum, even3), e3 = subtract(sum, even3);
    const sums e1 = add(difference, even2), e2 = subtract(difference, even2);

    const __m256i z3 = _mm256_add_epi16(v[3], v[7]), z4 = _mm256_add_epi16(v[1], v[5]);
    const sums turned3 = weigh(z3, z4, F_1_175 - F_1_961, F_1_175);
    const sums turned4 = weigh(z3, z4, F_1_175, F_1_175 - F_0_390);
    const sums o0 = add(weigh(v[7], v[1], F_0_298 - F_0_899, -F_0_899), turned3);
    const sums o1 = add(weigh(v[5], v[3], F_2_053 - F_2_562, -F_2_562), turned4);
    const sums o2 = add(weigh(v[5], v[3], -F_2_562, F_3_072 - F_2_562), turned3);
    const sums o3 = add(weigh(v[7], v[1], -F_0_899, F_1_501 - F_0_899), turned4);

    combine(v, e0, e1, e2, e3, o0, o1, o2, o3, shift);
}

/* The second pass where columns 4 to 7 are zero. */
TARGET static inline void pass_low(__m256i v[8], int shift)
{
    const __m256i round = _mm256_set1_epi32(1 << (shift - 1));
    const sums rounding = {round, round};
    const sums e0 = add(weigh(v[0], v[2], LOW_E0), rounding);
    const sums e1 = add(weigh(v[0], v[2], LOW_E1), rounding);
    const sums e2 = add(weigh(v[0], v[2], LOW_E2), rounding);
    const sums e3 = add(weigh(v[0], v[2], LOW_E3), rounding);
    combine(v, e0, e1, e2, e3, weigh(v[1], v[3], LOW_O0), weigh(v[1], v[3], LOW_O1),
            weigh(v[1], v[3], LOW_O2), weigh(v[1], v[3], LOW_O3), shift);
}

/* Rows i and i + 4 of the first pass, columns 0 to 3 only. */
TARGET static inline __m256i narrow_low(__m256i upper, __m256i lower)
{
    return _mm256_packs_epi32(_mm256_srai_epi32(upper, SHIFT_FIRST),
                              _mm256_srai_epi32(lower, SHIFT_FIRST));
}

/* First pass and transposition where rows and columns 4 to 7 are zero. */
TARGET static inline void begin_low(__m256i v[8])
{
    const __m256i round = _mm256_set1_epi32(1 << (SHIFT_FIRST - 1));
    const __m256i even = _mm256_unpacklo_epi16(v[0], v[2]);
    const __m256i odd = _mm256_unpacklo_epi16(v[1], v[3]);
    const __m256i e0 = _mm256_add_epi32(_mm256_madd_epi16(even, factors(LOW_E0)), round);
    const __m256i e1 = _mm256_add_epi32(_mm256_madd_epi16(even, factors(LOW_E1)), round);
    const __m256i e2 = _mm256_add_epi32(_mm256_madd_epi16(even, factors(LOW_E2)), round);
    const __m256i e3 = _mm256_add_epi32(_mm256_madd_epi16(even, factors(LOW_E3)), round);
    const __m256i o0 = _mm256_madd_epi16(odd, factors(LOW_O0));
    const __m256i o1 = _mm256_madd_epi16(odd, factors(LOW_O1));
    const __m256i o2 = _mm256_madd_epi16(odd, factors(LOW_O2));
    const __m256i o3 = _mm256_madd_epi16(odd, factors(LOW_O3));

    const __m256i r04 = narrow_low(_mm256_add_epi32(e0, o3), _mm256_sub_epi32(e3, o0));
    const __m256i r15 = narrow_low(_mm256_add_epi32(e1, o2), _mm256_sub_epi32(e2, o1));
    const __m256i r26 = narrow_low(_mm256_add_epi32(e2, o1), _mm256_sub_epi32(e1, o2));
    const __m256i r37 = narrow_low(_mm256_add_epi32(e3, o0), _mm256_sub_epi32(e0, o3));

    const __m256i r01 = _mm256_unpacklo_epi16(r04, r15), r45 = _mm256_unpackhi_epi16(r04, r15);
    const __m256i r23 = _mm256_unpacklo_epi16(r26, r37), r67 = _mm256_unpackhi_epi16(r26, r37);
    const __m256i upper01 = _mm256_unpacklo_epi32(r01, r23);
    const __m256i upper23 = _mm256_unpackhi_epi32(r01, r23);
    const __m256i lower01 = _mm256_unpacklo_epi32(r45, r67);
    const __m256i lower23 = _mm256_unpackhi_epi32(r45, r67);
    v[0] = _mm256_unpacklo_epi64(upper01, lower01);
    v[1] = _mm256_unpackhi_epi64(upper01, lower01);
    v[2] = _mm256_unpacklo_epi64(upper23, lower23);
    v[3] = _mm256_unpackhi_epi64(upper23, lower23);
}

/* Rows and columns of each block exchanged. */
TARGET static inline void transpose(__m256i v[8])
{
    __m256i a[8], b[8];
    for (int i = 0; i < 4; i++) {
        a[2 * i] = _mm256_unpacklo_epi16(v[2 * i], v[2 * i + 1]);
        a[2 * i + 1] = _mm256_unpackhi_epi16(v[2 * i], v[2 * i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            b[i + 2 * j] = _mm256_unpacklo_epi32(a[i + j], a[i + j + 2]);
            b[i + 2 * j + 1] = _mm256_unpackhi_epi32(a[i + j], a[i + j + 2]);
        }
    for (int i = 0; i < 4; i++) {
        v[2 * i] = _mm256_unpacklo_epi64(b[i], b[i + 4]);
        v[2 * i + 1] = _mm256_unpackhi_epi64(b[i], b[i + 4]);
    }
}

/* Two rows of each block. */
TARGET static inline void store(__m256i rows, uint8_t *left, uint8_t *right, size_t stride)
{
    const __m128i of_left = _mm256_castsi256_si128(rows);
    const __m128i of_right = _mm256_extracti128_si256(rows, 1);
    _mm_storel_epi64((__m128i *)left, of_left);
    _mm_storeh_pd((double *)(void *)(left + stride), _mm_castsi128_pd(of_left));
    _mm_storel_epi64((__m128i *)right, of_right);
    _mm_storeh_pd((double *)(void *)(right + stride), _mm_castsi128_pd(of_right));
}

/* From columns of 16 bits to rows of bytes. */
TARGET static inline void finish(const __m256i v[8], uint8_t *left, uint8_t *right, size_t stride)
{
    const __m256i middle = _mm256_set1_epi8((char)0x80);
    const __m256i p02 = _mm256_xor_si256(_mm256_packs_epi16(v[0], v[2]), middle);
    const __m256i p13 = _mm256_xor_si256(_mm256_packs_epi16(v[1], v[3]), middle);
    const __m256i p46 = _mm256_xor_si256(_mm256_packs_epi16(v[4], v[6]), middle);
    const __m256i p57 = _mm256_xor_si256(_mm256_packs_epi16(v[5], v[7]), middle);
    const __m256i p01 = _mm256_unpacklo_epi8(p02, p13), p23 = _mm256_unpackhi_epi8(p02, p13);
    const __m256i p45 = _mm256_unpacklo_epi8(p46, p57), p67 = _mm256_unpackhi_epi8(p46, p57);
    const __m256i upper03 = _mm256_unpacklo_epi16(p01, p23);
    const __m256i lower03 = _mm256_unpackhi_epi16(p01, p23);
    const __m256i upper47 = _mm256_unpacklo_epi16(p45, p67);
    const __m256i lower47 = _mm256_unpackhi_epi16(p45, p67);
    store(_mm256_unpacklo_epi32(upper03, upper47), left, right, stride);
    store(_mm256_unpackhi_epi32(upper03, upper47), left + 2 * stride, right + 2 * stride, stride);
    store(_mm256_unpacklo_epi32(lower03, lower47), left + 4 * stride, right + 4 * stride, stride);
    store(_mm256_unpackhi_epi32(lower03, lower47), left + 6 * stride, right + 6 * stride, stride);
}

TARGET static inline __m256i scale(int16_t *coefs, const int16_t *quants, int row)
{
    __m256i *at = (__m256i *)coefs + row;
    const __m256i scaled = _mm256_mullo_epi16(_mm256_loadu_si256(at),
                                              _mm256_loadu_si256((const __m256i *)quants + row));
    _mm256_storeu_si256(at, _mm256_setzero_si256());
    return scaled;
}

TARGET void jpeg_transform_avx2(int16_t *coefs, int count, const int16_t *quants, uint8_t *left,
                                uint8_t *right, size_t stride)
{
    __m256i v[8];
    __m256i large;

    /* Only above this does it matter whether the first pass is skipped; no picture gets there. */
    v[0] = _mm256_mullo_epi16(_mm256_loadu_si256((const __m256i *)coefs),
                              _mm256_loadu_si256((const __m256i *)quants));
    large = _mm256_subs_epu16(_mm256_abs_epi16(v[0]), _mm256_set1_epi16(INT16_MAX / 4));
    if (__builtin_expect(!_mm256_testz_si256(large, large), 0)) {
        jpeg_transform_scalar(coefs, count, quants, left, right, stride);
        return;
    }
    _mm256_storeu_si256((__m256i *)coefs, _mm256_setzero_si256());
    if (count <= COUNT_LOW) {
        for (int row = 1; row < 4; row++)
            v[row] = scale(coefs, quants, row);
        begin_low(v);
        pass_low(v, SHIFT_SECOND);
    } else {
        for (int row = 1; row < 8; row++)
            v[row] = scale(coefs, quants, row);
        pass(v, SHIFT_FIRST);
        transpose(v);
        pass(v, SHIFT_SECOND);
    }
    finish(v, left, right, stride);
}
#else
typedef int jpeg_idct_avx2_is_for_other_machines;
#endif
