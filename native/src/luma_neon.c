/* The row kernels with NEON: 16 pixels, 64 edge bits or 8 starts at a time. */
#include "luma.h"

#if defined(CPU_HAS_NEON_CODE)
#include <arm_neon.h>

static void smooth(const uint8_t *lows, const uint8_t *highs, int cut, int columns, int rows,
                   uint16_t *sums, uint8_t *counts, uint8_t *values)
{
    luma_smooth(lows, highs, cut, columns, rows, sums, counts, values);
}

static void block_ranges(const uint8_t *row, ptrdiff_t stride, int row_count, int width,
                         uint8_t *lows, uint8_t *highs)
{
    int x = 0, block = 0;
    for (; x + LUMA_BLOCK <= width; x += LUMA_BLOCK, block++) {
        const uint8_t *at = row + x;
        uint8x16_t low = vld1q_u8(at), high = low;
        for (int y = 1; y < row_count; y++) {
            at += stride;
            const uint8x16_t v = vld1q_u8(at);
            low = vminq_u8(low, v);
            high = vmaxq_u8(high, v);
        }
        lows[block] = vminvq_u8(low);
        highs[block] = vmaxvq_u8(high);
    }
    if (x < width)
        luma_block_range_of(row + x, stride, row_count, width - x, lows + block, highs + block);
}

/* NEON has no movemask: keep bit i % 8 of byte i, then add up the bytes of each half. */
static inline uint64_t dark_16(const uint8_t *row, const uint8_t *thresholds)
{
    static const uint8_t weights[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    const uint8x16_t kept =
        vandq_u8(vcltq_u8(vld1q_u8(row), vld1q_u8(thresholds)), vld1q_u8(weights));
    return (uint64_t)vaddv_u8(vget_low_u8(kept)) | (uint64_t)vaddv_u8(vget_high_u8(kept)) << 8;
}

static int row_edges(const uint8_t *row, const uint8_t *thresholds, int width, uint16_t *edges)
{
    int count = 0, x = 0;
    uint64_t before = 0;
    for (; x + 64 <= width; x += 64) {
        uint64_t bits = 0;
        for (int part = 0; part < 64; part += 16)
            bits |= dark_16(row + x + part, thresholds + x + part) << part;
        count = luma_push_edges(bits, before, x, edges, count);
        before = bits >> 63;
    }
    if (x < width) {
        const uint64_t bits = luma_dark_bits(row + x, thresholds + x, width - x);
        count = luma_push_edges(bits, before, x, edges, count);
        before = 0;
    }
    if (before)
        edges[count++] = (uint16_t)width;
    return count;
}

/* Set where 7 * sum is further than slack from the target. */
static inline uint16x8_t far(uint16x8_t sum, uint16x8_t target, uint16x8_t slack)
{
    return vcgtq_u16(vabdq_u16(vmulq_n_u16(sum, 7), target), slack);
}

static int finder_runs(const uint16_t *edges, int edge_count, uint16_t *starts)
{
    int count = 0;
    for (int i = 0; i + 5 < edge_count; i += 8) {
        const uint16_t *at = edges + i; /* reads up to at[12]: LUMA_EDGES_PAD */
        const uint16x8_t e0 = vld1q_u16(at), e1 = vld1q_u16(at + 1), e2 = vld1q_u16(at + 2);
        const uint16x8_t e3 = vld1q_u16(at + 3), e4 = vld1q_u16(at + 4), e5 = vld1q_u16(at + 5);
        const uint16x8_t span = vsubq_u16(e5, e0), twice = vshlq_n_u16(span, 1);
        const uint16x8_t fourfold = vshlq_n_u16(span, 2);
        const uint16x8_t slack = vaddq_u16(vshrq_n_u16(span, 1), vdupq_n_u16(8));
        const uint16x8_t core = vsubq_u16(e3, e2);
        uint16x8_t bad = far(vsubq_u16(e2, e0), twice, slack);
        bad = vorrq_u16(bad, far(vsubq_u16(e5, e3), twice, slack));
        bad = vorrq_u16(bad, far(vsubq_u16(e3, e1), fourfold, slack));
        bad = vorrq_u16(bad, far(vsubq_u16(e4, e2), fourfold, slack));
        bad = vorrq_u16(bad, vcgtq_u16(vsubq_u16(e2, e1), core));
        bad = vorrq_u16(bad, vcgtq_u16(vsubq_u16(e4, e3), core));
        uint64_t good = ~vget_lane_u64(vreinterpret_u64_u8(vmovn_u16(bad)), 0);
        while (good) {
            const int start = i + __builtin_ctzll(good) / 8;
            good &= ~(0xffull << (start - i) * 8);
            /* The exact test again: spans too long for 16 bits and starts behind the end go. */
            if (start + 5 < edge_count && luma_is_finder(edges + start))
                starts[count++] = (uint16_t)start;
        }
    }
    return count;
}

static void halve(const uint8_t *source, ptrdiff_t source_stride, int width, int height,
                  uint8_t *target, ptrdiff_t target_stride)
{
    for (int y = 0; y < height; y++) {
        const uint8_t *upper = source + 2 * y * source_stride, *lower = upper + source_stride;
        int x = 0;
        for (; x + 8 <= width; x += 8) {
            const uint16x8_t sum =
                vpadalq_u8(vpaddlq_u8(vld1q_u8(upper + 2 * x)), vld1q_u8(lower + 2 * x));
            vst1_u8(target + x, vrshrn_n_u16(sum, 2));
        }
        for (; x < width; x++)
            target[x] = luma_mean_2x2(upper + 2 * x, lower + 2 * x);
        target += target_stride;
    }
}

static void quarter(const uint8_t *source, ptrdiff_t source_stride, int width, int height,
                    uint8_t *target, ptrdiff_t target_stride)
{
    for (int y = 0; y < height; y++) {
        const uint8_t *upper = source + (4 * y + 1) * source_stride, *lower = upper + source_stride;
        int x = 0;
        for (; x + 8 <= width; x += 8) {
            const uint8_t *a = upper + 4 * x, *b = lower + 4 * x;
            const uint16x8_t left = vpadalq_u8(vpaddlq_u8(vld1q_u8(a)), vld1q_u8(b));
            const uint16x8_t right = vpadalq_u8(vpaddlq_u8(vld1q_u8(a + 16)), vld1q_u8(b + 16));
            vst1_u8(target + x, vrshrn_n_u16(vpaddq_u16(left, right), 3));
        }
        for (; x < width; x++)
            target[x] = luma_mean_4x2(upper + 4 * x, lower + 4 * x);
        target += target_stride;
    }
}

static void expand(const uint8_t *values, int columns, uint8_t *out)
{
    for (int i = 0; i < columns; i++) {
        vst1q_u8(out + LUMA_BLOCK * i, vdupq_n_u8(values[i]));
    }
}

const luma_kernel luma_neon = {"neon", block_ranges, smooth, expand,
                                  row_edges, finder_runs, halve, quarter};
#else
typedef int luma_neon_is_for_other_machines;
#endif
