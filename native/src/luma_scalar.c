/* The row kernels without intrinsics. */
#include "luma.h"

static void smooth(const uint8_t *lows, const uint8_t *highs, int cut, int columns, int rows,
                   uint16_t *sums, uint8_t *counts, uint8_t *values)
{
    luma_smooth(lows, highs, cut, columns, rows, sums, counts, values);
}

static void block_ranges(const uint8_t *row, ptrdiff_t stride, int row_count, int width,
                         uint8_t *lows, uint8_t *highs)
{
    for (int x = 0, block = 0; x < width; x += LUMA_BLOCK, block++) {
        const int wide = width - x < LUMA_BLOCK ? width - x : LUMA_BLOCK;
        luma_block_range_of(row + x, stride, row_count, wide, lows + block, highs + block);
    }
}

static int row_edges(const uint8_t *row, const uint8_t *thresholds, int width, uint16_t *edges)
{
    int count = 0;
    uint64_t before = 0;
    for (int x = 0; x < width; x += 64) {
        const int wide = width - x < 64 ? width - x : 64;
        const uint64_t bits = luma_dark_bits(row + x, thresholds + x, wide);
        count = luma_push_edges(bits, before, x, edges, count);
        before = wide == 64 ? bits >> 63 : 0;
    }
    /* Bits behind the end are light, so a short last word has closed its run by itself. */
    if (before)
        edges[count++] = (uint16_t)width;
    return count;
}

static int finder_runs(const uint16_t *edges, int edge_count, uint16_t *starts)
{
    int count = 0;
    for (int i = 0; i + 5 < edge_count; i++)
        if (luma_is_finder(edges + i))
            starts[count++] = (uint16_t)i;
    return count;
}

static void halve(const uint8_t *source, ptrdiff_t source_stride, int width, int height,
                  uint8_t *target, ptrdiff_t target_stride)
{
    for (int y = 0; y < height; y++) {
        const uint8_t *upper = source + 2 * y * source_stride, *lower = upper + source_stride;
        for (int x = 0; x < width; x++)
            target[x] = luma_mean_2x2(upper + 2 * x, lower + 2 * x);
        target += target_stride;
    }
}

static void quarter(const uint8_t *source, ptrdiff_t source_stride, int width, int height,
                    uint8_t *target, ptrdiff_t target_stride)
{
    for (int y = 0; y < height; y++) {
        const uint8_t *upper = source + (4 * y + 1) * source_stride, *lower = upper + source_stride;
        for (int x = 0; x < width; x++)
            target[x] = luma_mean_4x2(upper + 4 * x, lower + 4 * x);
        target += target_stride;
    }
}

static void expand(const uint8_t *values, int columns, uint8_t *out)
{
    for (int i = 0; i < columns; i++) {
        memset(out + LUMA_BLOCK * i, values[i], LUMA_BLOCK);
    }
}

const luma_kernel luma_scalar = {"scalar", block_ranges, smooth, expand,
                                  row_edges, finder_runs, halve, quarter};
