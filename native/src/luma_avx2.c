/* The row kernels with AVX2: 32 pixels, 64 edge bits or 16 starts at a time. */
#include "luma.h"

#if defined(CPU_HAS_AVX2_CODE)
#include <immintrin.h>

#define TARGET __attribute__((target("avx2,bmi,popcnt")))

/* 16 columns at a time; the reciprocals come from two tables of 16 bytes by shuffles. */
TARGET static void mean_row(const uint16_t *sums, const uint16_t *counts, int columns,
                            uint8_t *values)
{
    const __m256i lows = _mm256_broadcastsi128_si256(_mm_setr_epi8(
        0, 0, 0, (char)0xaa, 0, (char)0x99, 0x55, 0x49, 0, 0x38, 0, 0, 0, 0, 0, 0));
    const __m256i highs = _mm256_broadcastsi128_si256(_mm_setr_epi8(
        0, (char)0x80, 0x40, 0x2a, 0x20, 0x19, 0x15, 0x12, 0x10, 0x0e, 0, 0, 0, 0, 0, 0));
    const __m256i zero = _mm256_setzero_si256(), one = _mm256_set1_epi16(1);
    int x = 0;
    for (; x + 16 <= columns; x += 16) {
        const __m256i total = _mm256_add_epi16(
            _mm256_add_epi16(_mm256_loadu_si256((const __m256i *)(sums + x)),
                             _mm256_loadu_si256((const __m256i *)(sums + x + 1))),
            _mm256_loadu_si256((const __m256i *)(sums + x + 2)));
        const __m256i count = _mm256_add_epi16(
            _mm256_add_epi16(_mm256_loadu_si256((const __m256i *)(counts + x)),
                             _mm256_loadu_si256((const __m256i *)(counts + x + 1))),
            _mm256_loadu_si256((const __m256i *)(counts + x + 2)));
        /* The upper byte of a count is 0, and entry 0 of both tables too. */
        const __m256i reciprocal =
            _mm256_or_si256(_mm256_shuffle_epi8(lows, count),
                            _mm256_slli_epi16(_mm256_shuffle_epi8(highs, count), 8));
        const __m256i any = _mm256_andnot_si256(_mm256_cmpeq_epi16(count, zero), one);
        const __m256i mean = _mm256_add_epi16(_mm256_mulhi_epu16(total, reciprocal), any);
        const __m128i bytes =
            _mm_packus_epi16(_mm256_castsi256_si128(mean), _mm256_extracti128_si256(mean, 1));
        _mm_storeu_si128((__m128i *)(values + x), bytes);
    }
    luma_mean_row(sums, counts, x, columns, values);
}

TARGET static inline __m256i load_16(const uint16_t *at)
{
    return _mm256_loadu_si256((const __m256i *)at);
}

TARGET static void smooth(const uint8_t *lows, const uint8_t *highs, int cut, int columns, int rows,
                          uint16_t *sums, uint8_t *counts, uint8_t *values)
{
    /* One row of sums over three blocks down, with a zero on either side. */
    uint16_t row_sums[LUMA_COLUMNS_MAX + 2], row_counts[LUMA_COLUMNS_MAX + 2];
    const int blocks = columns * rows;
    const __m256i least = _mm256_set1_epi16((short)(cut - 1)), one = _mm256_set1_epi16(1);
    int i = 0;
    for (; i + 16 <= blocks; i += 16) {
        const __m256i low = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(lows + i)));
        const __m256i high = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(highs + i)));
        const __m256i counted = _mm256_cmpgt_epi16(_mm256_sub_epi16(high, low), least);
        const __m256i ones = _mm256_and_si256(counted, one);
        _mm256_storeu_si256((__m256i *)(sums + i),
                            _mm256_and_si256(counted, _mm256_add_epi16(low, high)));
        _mm_storeu_si128((__m128i *)(counts + i),
                         _mm_packus_epi16(_mm256_castsi256_si128(ones),
                                          _mm256_extracti128_si256(ones, 1)));
    }
    luma_count_blocks(lows, highs, cut, i, blocks, sums, counts);
    row_sums[0] = row_counts[0] = row_sums[columns + 1] = row_counts[columns + 1] = 0;
    for (int y = 0; y < rows; y++) {
        const int here = y * columns, above = y > 0 ? here - columns : here;
        const int below = y + 1 < rows ? here + columns : here;
        int x = 0;
        for (; x + 16 <= columns; x += 16) {
            const __m256i total = _mm256_add_epi16(
                _mm256_add_epi16(load_16(sums + above + x), load_16(sums + here + x)),
                load_16(sums + below + x));
            const __m128i count = _mm_add_epi8(
                _mm_add_epi8(_mm_loadu_si128((const __m128i *)(counts + above + x)),
                             _mm_loadu_si128((const __m128i *)(counts + here + x))),
                _mm_loadu_si128((const __m128i *)(counts + below + x)));
            _mm256_storeu_si256((__m256i *)(row_sums + x + 1), total);
            _mm256_storeu_si256((__m256i *)(row_counts + x + 1), _mm256_cvtepu8_epi16(count));
        }
        luma_add_rows(sums, counts, above, here, below, x, columns, row_sums, row_counts);
        mean_row(row_sums, row_counts, columns, values + here);
    }
}

/* minpos finds the least of eight 16-bit values; even and odd bytes of v meet first. */
TARGET static inline uint8_t least_of_16(__m128i v)
{
    const __m128i pairs = _mm_min_epu8(v, _mm_srli_epi16(v, 8));
    return (uint8_t)_mm_cvtsi128_si32(
        _mm_minpos_epu16(_mm_and_si128(pairs, _mm_set1_epi16(0x00ff))));
}

TARGET static void block_ranges(const uint8_t *row, ptrdiff_t stride, int row_count, int width,
                                uint8_t *lows, uint8_t *highs)
{
    const __m128i all = _mm_set1_epi8((char)0xff);
    int x = 0, block = 0;
    for (; x + 32 <= width; x += 32, block += 2) {
        const uint8_t *at = row + x;
        __m256i low = _mm256_loadu_si256((const __m256i *)at), high = low;
        for (int y = 1; y < row_count; y++) {
            at += stride;
            const __m256i v = _mm256_loadu_si256((const __m256i *)at);
            low = _mm256_min_epu8(low, v);
            high = _mm256_max_epu8(high, v);
        }
        lows[block] = least_of_16(_mm256_castsi256_si128(low));
        lows[block + 1] = least_of_16(_mm256_extracti128_si256(low, 1));
        highs[block] = 255 - least_of_16(_mm_xor_si128(_mm256_castsi256_si128(high), all));
        highs[block + 1] = 255 - least_of_16(_mm_xor_si128(_mm256_extracti128_si256(high, 1), all));
    }
    for (; x < width; x += LUMA_BLOCK, block++) {
        const int wide = width - x < LUMA_BLOCK ? width - x : LUMA_BLOCK;
        luma_block_range_of(row + x, stride, row_count, wide, lows + block, highs + block);
    }
}

TARGET static inline uint32_t dark_32(const uint8_t *row, __m256i limit)
{
    const __m256i value = _mm256_loadu_si256((const __m256i *)row);
    const __m256i light = _mm256_cmpeq_epi8(_mm256_max_epu8(value, limit), value);
    return ~(uint32_t)_mm256_movemask_epi8(light);
}

/* Two positions are written whatever there is (LUMA_EDGES_PAD): most words hold no more, and a loop
 * of unknown length costs a wrong guess a word. */
TARGET static inline int push_edges(uint64_t bits, uint64_t before, int x, uint16_t *edges,
                                    int count)
{
    uint64_t changes = bits ^ (bits << 1 | before);
    if (changes == 0)
        return count;
    const int found = (int)_mm_popcnt_u64(changes);
    uint16_t *at = edges + count;
    at[0] = (uint16_t)(x + (int)_tzcnt_u64(changes));
    changes = _blsr_u64(changes);
    at[1] = (uint16_t)(x + (int)_tzcnt_u64(changes));
    changes = _blsr_u64(changes);
    for (int i = 2; i < found; i++) {
        at[i] = (uint16_t)(x + (int)_tzcnt_u64(changes));
        changes = _blsr_u64(changes);
    }
    return count + found;
}

TARGET static int row_edges(const uint8_t *row, const uint8_t *thresholds, int width,
                            uint16_t *edges)
{
    int count = 0, x = 0;
    uint64_t before = 0;
    for (; x + 64 <= width; x += 64) {
        const __m256i left = _mm256_loadu_si256((const __m256i *)(thresholds + x));
        const __m256i right = _mm256_loadu_si256((const __m256i *)(thresholds + x + 32));
        const __m256i any = _mm256_or_si256(left, right);
        /* Nothing is dark below 0: flat parts of a picture are not even loaded. */
        const uint64_t bits = _mm256_testz_si256(any, any)
                                  ? 0
                                  : dark_32(row + x, left) |
                                        (uint64_t)dark_32(row + x + 32, right) << 32;
        count = push_edges(bits, before, x, edges, count);
        before = bits >> 63;
    }
    if (x < width) {
        const int wide = width - x;
        const uint64_t bits = wide < 32 ? luma_dark_bits(row + x, thresholds + x, wide)
                                        : dark_32(row + x, _mm256_loadu_si256(
                                                               (const __m256i *)(thresholds + x))) |
                                              luma_dark_bits(row + x + 32, thresholds + x + 32,
                                                             wide - 32) << 32;
        count = push_edges(bits, before, x, edges, count);
        before = 0;
    }
    if (before)
        edges[count++] = (uint16_t)width;
    return count;
}

/* |7 * sum - times * span| <= slack, as a mask; all values fit into 16 bits by LUMA_SPAN_MAX,
 * and lanes with longer spans, where they may not, are taken out at the end. */
TARGET static inline __m256i near(__m256i sum, __m256i target, __m256i slack)
{
    const __m256i off =
        _mm256_abs_epi16(_mm256_sub_epi16(_mm256_mullo_epi16(sum, _mm256_set1_epi16(7)), target));
    return _mm256_cmpgt_epi16(off, slack); /* set where it is NOT near */
}

TARGET static int finder_runs(const uint16_t *edges, int edge_count, uint16_t *starts)
{
    int count = 0;
    for (int i = 0; i + 5 < edge_count; i += 16) {
        const uint16_t *at = edges + i; /* reads up to at[20]: LUMA_EDGES_PAD */
        const __m256i e0 = _mm256_loadu_si256((const __m256i *)at);
        const __m256i e1 = _mm256_loadu_si256((const __m256i *)(at + 1));
        const __m256i e2 = _mm256_loadu_si256((const __m256i *)(at + 2));
        const __m256i e3 = _mm256_loadu_si256((const __m256i *)(at + 3));
        const __m256i e4 = _mm256_loadu_si256((const __m256i *)(at + 4));
        const __m256i e5 = _mm256_loadu_si256((const __m256i *)(at + 5));
        const __m256i span = _mm256_sub_epi16(e5, e0), twice = _mm256_slli_epi16(span, 1);
        const __m256i slack = _mm256_add_epi16(_mm256_srli_epi16(span, 1), _mm256_set1_epi16(8));
        const __m256i core = _mm256_sub_epi16(e3, e2);
        __m256i bad = near(_mm256_sub_epi16(e2, e0), twice, slack);
        bad = _mm256_or_si256(bad, near(_mm256_sub_epi16(e5, e3), twice, slack));
        const __m256i fourfold = _mm256_slli_epi16(span, 2);
        bad = _mm256_or_si256(bad, near(_mm256_sub_epi16(e3, e1), fourfold, slack));
        bad = _mm256_or_si256(bad, near(_mm256_sub_epi16(e4, e2), fourfold, slack));
        bad = _mm256_or_si256(bad, _mm256_cmpgt_epi16(_mm256_sub_epi16(e2, e1), core));
        bad = _mm256_or_si256(bad, _mm256_cmpgt_epi16(_mm256_sub_epi16(e4, e3), core));
        uint32_t good = ~(uint32_t)_mm256_movemask_epi8(bad) & 0x55555555u;
        while (good) {
            const int start = i + __builtin_ctz(good) / 2;
            good &= good - 1;
            /* The exact test again: spans too long for 16 bits and starts behind the end go. */
            if (start + 5 < edge_count && luma_is_finder(edges + start))
                starts[count++] = (uint16_t)start;
        }
    }
    return count;
}

TARGET static void halve(const uint8_t *source, ptrdiff_t source_stride, int width, int height,
                         uint8_t *target, ptrdiff_t target_stride)
{
    const __m256i ones = _mm256_set1_epi8(1), two = _mm256_set1_epi16(2);
    for (int y = 0; y < height; y++) {
        const uint8_t *upper = source + 2 * y * source_stride, *lower = upper + source_stride;
        int x = 0;
        for (; x + 32 <= width; x += 32) {
            __m256i sums[2];
            for (int half = 0; half < 2; half++) {
                const int at = 2 * x + 32 * half;
                const __m256i a = _mm256_loadu_si256((const __m256i *)(upper + at));
                const __m256i b = _mm256_loadu_si256((const __m256i *)(lower + at));
                const __m256i sum =
                    _mm256_add_epi16(_mm256_maddubs_epi16(a, ones), _mm256_maddubs_epi16(b, ones));
                sums[half] = _mm256_srli_epi16(_mm256_add_epi16(sum, two), 2);
            }
            const __m256i packed = _mm256_packus_epi16(sums[0], sums[1]);
            _mm256_storeu_si256((__m256i *)(target + x), _mm256_permute4x64_epi64(packed, 0xd8));
        }
        for (; x < width; x++)
            target[x] = luma_mean_2x2(upper + 2 * x, lower + 2 * x);
        target += target_stride;
    }
}

TARGET static void quarter(const uint8_t *source, ptrdiff_t source_stride, int width, int height,
                           uint8_t *target, ptrdiff_t target_stride)
{
    const __m256i bytes = _mm256_set1_epi8(1), words = _mm256_set1_epi16(1);
    const __m256i four = _mm256_set1_epi32(4), order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (int y = 0; y < height; y++) {
        const uint8_t *upper = source + (4 * y + 1) * source_stride, *lower = upper + source_stride;
        int x = 0;
        for (; x + 32 <= width; x += 32) {
            __m256i sums[4]; /* of eight pixels each, 32 bits */
            for (int part = 0; part < 4; part++) {
                const int at = 4 * x + 32 * part;
                const __m256i a = _mm256_loadu_si256((const __m256i *)(upper + at));
                const __m256i b = _mm256_loadu_si256((const __m256i *)(lower + at));
                const __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16(a, bytes),
                                                       _mm256_maddubs_epi16(b, bytes));
                sums[part] = _mm256_srli_epi32(
                    _mm256_add_epi32(_mm256_madd_epi16(pairs, words), four), 3);
            }
            const __m256i packed = _mm256_packus_epi16(_mm256_packus_epi32(sums[0], sums[1]),
                                                       _mm256_packus_epi32(sums[2], sums[3]));
            _mm256_storeu_si256((__m256i *)(target + x),
                                _mm256_permutevar8x32_epi32(packed, order));
        }
        for (; x < width; x++)
            target[x] = luma_mean_4x2(upper + 4 * x, lower + 4 * x);
        target += target_stride;
    }
}

TARGET static void expand(const uint8_t *values, int columns, uint8_t *out)
{
    for (int i = 0; i < columns; i++) {
        _mm_storeu_si128((__m128i *)(out + LUMA_BLOCK * i), _mm_set1_epi8((char)values[i]));
    }
}

const luma_kernel luma_avx2 = {"avx2", block_ranges, smooth, expand,
                                  row_edges, finder_runs, halve, quarter};
#else
typedef int luma_avx2_is_for_other_machines;
#endif
