/* Kernels over rows of luma: block ranges, edges of a thresholded row, finder proportions, halving.
 *
 * Every set gives the same values for the same input, at any width and any stride; tests compare
 * them with a slow reference. Pointers may have any alignment. None reads outside a row's width.
 */
#ifndef NATIVE_LUMA_H
#define NATIVE_LUMA_H

#include <stddef.h>
#include <stdint.h>

#include "machine.h"

enum {
    LUMA_BLOCK = 16,      /* columns of a threshold block */
    LUMA_COLUMNS_MAX = 4096, /* blocks beside each other: 65,536 pixels */
    LUMA_EDGES_PAD = 24,  /* entries behind the last edge that finder_runs may read */
    LUMA_SPAN_MAX = 4600, /* pixels of a finder's chord: 7 times it must fit into 16 bits */
};

typedef struct {
    const char *name;
    /* Lowest and highest value of each block of LUMA_BLOCK columns over `row_count` rows that lie
     * `stride` bytes apart; the last block may be narrower. */
    void (*block_ranges)(const uint8_t *row, ptrdiff_t stride, int row_count, int width,
                         uint8_t *lows, uint8_t *highs);
    /* Thresholds of blocks from their lows and highs: (low + high) / 2, the mean over those of a
     * block and its eight neighbours that range over at least `cut`; 0 where none does. `sums` and
     * `counts` are scratch, an entry a block. At most LUMA_COLUMNS_MAX columns. */
    void (*smooth)(const uint8_t *lows, const uint8_t *highs, int cut, int columns, int rows,
                   uint16_t *sums, uint8_t *counts, uint8_t *values);
    /* Each of `columns` values LUMA_BLOCK times: thresholds of the pixels of a row of blocks. */
    void (*expand)(const uint8_t *values, int columns, uint8_t *out);
    /* Positions where a row changes between light and dark (value < threshold), beginning with the
     * first dark pixel, so that even entries begin dark runs. A row that ends dark gets a last edge
     * at `width`. Room for width + 1 + LUMA_EDGES_PAD entries is needed; returns their number. */
    int (*row_edges)(const uint8_t *row, const uint8_t *thresholds, int width, uint16_t *edges);
    /* Every i for which the five runs between edges[i] and edges[i + 5] are in the proportions of a
     * finder, 1:1:3:1:1 (ISO/IEC 18004, 6.3.3.1); returns their number. */
    int (*finder_runs)(const uint16_t *edges, int edge_count, uint16_t *starts);
    /* Means of 2 x 2 pixels, rounded; width and height are those of the result. */
    void (*halve)(const uint8_t *source, ptrdiff_t source_stride, int width, int height,
                  uint8_t *target, ptrdiff_t target_stride);
    /* Means of 4 columns over the middle two of 4 rows, rounded: half the reading of all four, and
     * one of the two has just been scanned. */
    void (*quarter)(const uint8_t *source, ptrdiff_t source_stride, int width, int height,
                    uint8_t *target, ptrdiff_t target_stride);
} luma_kernel;

extern const luma_kernel luma_scalar;
#if defined(CPU_HAS_AVX2_CODE)
extern const luma_kernel luma_avx2;
#endif
#if defined(CPU_HAS_NEON_CODE)
extern const luma_kernel luma_neon;
#endif

static inline const luma_kernel *luma_kernel_at(int level)
{
    switch (level) {
#if defined(CPU_HAS_AVX2_CODE)
    case CPU_AVX2:
        return &luma_avx2;
#endif
#if defined(CPU_HAS_NEON_CODE)
    case CPU_NEON:
        return &luma_neon;
#endif
    default:
        return &luma_scalar;
    }
}

/* ---- the obvious way, also used for the ends of rows by the wide ones ------------------------ */

static inline void luma_block_range_of(const uint8_t *row, ptrdiff_t stride, int row_count,
                                       int width, uint8_t *low, uint8_t *high)
{
    uint8_t lowest = 255, highest = 0;
    for (int y = 0; y < row_count; y++, row += stride)
        for (int x = 0; x < width; x++) {
            lowest = row[x] < lowest ? row[x] : lowest;
            highest = row[x] > highest ? row[x] : highest;
        }
    *low = lowest;
    *high = highest;
}

static inline uint8_t luma_mean_2x2(const uint8_t *upper, const uint8_t *lower)
{
    return (uint8_t)((upper[0] + upper[1] + lower[0] + lower[1] + 2) >> 2);
}

static inline uint8_t luma_mean_4x2(const uint8_t *upper, const uint8_t *lower)
{
    return (uint8_t)((upper[0] + upper[1] + upper[2] + upper[3] + lower[0] + lower[1] + lower[2] +
                      lower[3] + 4) >> 3);
}

/* 65536 / (2 * count), rounded down: a mean is (total * reciprocal) >> 16, and one more. */
static const uint16_t luma_reciprocals[16] = {0, 32768, 16384, 10922, 8192, 6553, 5461, 4681, 4096,
                                              3640};

/* The steps of smoothing, each from an index on, for the ends of what the wide ones leave. */
static inline void luma_count_blocks(const uint8_t *lows, const uint8_t *highs, int cut, int from,
                                     int blocks, uint16_t *sums, uint8_t *counts)
{
    for (int i = from; i < blocks; i++) {
        counts[i] = highs[i] - lows[i] >= cut;
        sums[i] = counts[i] ? (uint16_t)(lows[i] + highs[i]) : 0;
    }
}

/* At the upper and the lower border the row itself counts twice, which is as good. */
static inline void luma_add_rows(const uint16_t *sums, const uint8_t *counts, int above, int here,
                                 int below, int from, int columns, uint16_t *row_sums,
                                 uint16_t *row_counts)
{
    for (int x = from; x < columns; x++) {
        row_sums[x + 1] = (uint16_t)(sums[above + x] + sums[here + x] + sums[below + x]);
        row_counts[x + 1] = (uint16_t)(counts[above + x] + counts[here + x] + counts[below + x]);
    }
}

/* Thresholds of columns [from, columns) from the sums of the blocks above, at and below each, which
 * stand one entry to the right. */
static inline void luma_mean_row(const uint16_t *sums, const uint16_t *counts, int from,
                                 int columns, uint8_t *values)
{
    for (int x = from; x < columns; x++) {
        const int total = sums[x] + sums[x + 1] + sums[x + 2];
        const int count = counts[x] + counts[x + 1] + counts[x + 2];
        values[x] = (uint8_t)((total * luma_reciprocals[count] >> 16) + (count != 0));
    }
}

static inline void luma_smooth(const uint8_t *lows, const uint8_t *highs, int cut, int columns,
                               int rows, uint16_t *sums, uint8_t *counts, uint8_t *values)
{
    /* One row of sums over three blocks down, with a zero on either side. */
    uint16_t row_sums[LUMA_COLUMNS_MAX + 2], row_counts[LUMA_COLUMNS_MAX + 2];
    luma_count_blocks(lows, highs, cut, 0, columns * rows, sums, counts);
    row_sums[0] = row_counts[0] = row_sums[columns + 1] = row_counts[columns + 1] = 0;
    for (int y = 0; y < rows; y++) {
        const int here = y * columns, above = y > 0 ? here - columns : here;
        const int below = y + 1 < rows ? here + columns : here;
        luma_add_rows(sums, counts, above, here, below, 0, columns, row_sums, row_counts);
        luma_mean_row(row_sums, row_counts, 0, columns, values + here);
    }
}

/* Which of at most 64 pixels are dark. */
static inline uint64_t luma_dark_bits(const uint8_t *row, const uint8_t *thresholds, int count)
{
    uint64_t bits = 0;
    for (int i = 0; i < count; i++)
        bits |= (uint64_t)(row[i] < thresholds[i]) << i;
    return bits;
}

/* Edges within 64 pixels from column x on; `before` is the colour of the pixel before. */
static inline int luma_push_edges(uint64_t bits, uint64_t before, int x, uint16_t *edges, int count)
{
    uint64_t changes = bits ^ (bits << 1 | before);
    while (changes) {
        edges[count++] = (uint16_t)(x + __builtin_ctzll(changes));
        changes &= changes - 1;
    }
    return count;
}

/* Tolerances in units of a seventh of a pixel. Sums of two neighbouring runs do not change when
 * light or ink spreads, so they are held tightly (half a module and a pixel); the core alone is
 * held loosely. A chord through the core at any angle keeps the proportions. */
static inline int luma_is_finder(const uint16_t *e)
{
    const int span = e[5] - e[0];
    const int core = e[3] - e[2];
    const int slack = span / 2 + 8;
    const int first = 7 * (e[2] - e[0]) - 2 * span, second = 7 * (e[3] - e[1]) - 4 * span;
    const int third = 7 * (e[4] - e[2]) - 4 * span, fourth = 7 * (e[5] - e[3]) - 2 * span;
    if (span > LUMA_SPAN_MAX)
        return 0;
    return first <= slack && -first <= slack && second <= slack && -second <= slack &&
           third <= slack && -third <= slack && fourth <= slack && -fourth <= slack &&
           core >= e[2] - e[1] && core >= e[4] - e[3];
}

#endif
