/* SHA-256 with the SHA instructions of x86-64 (SHA-NI): four rounds in two instructions.
 *
 * The instructions want the state as ABEF and CDGH. A round of the loop is four rounds of the
 * hash; words[] holds the last sixteen words of the schedule, four a register.
 */
#include "machine.h"

#if defined(CPU_HAS_AVX2_CODE)
#include <immintrin.h>

#include "sha256.h"
#include "sha256_table.h"

__attribute__((target("sha,sse4.1,ssse3"))) void
sha256_blocks_ni(uint32_t state[8], const uint8_t *at, size_t count)
{
    const __m128i to_big = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    __m128i low = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)state), 0xB1);
    __m128i high = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(state + 4)), 0x1B);
    __m128i abef = _mm_alignr_epi8(low, high, 8);
    __m128i cdgh = _mm_blend_epi16(high, low, 0xF0);
    while (count--) {
        const __m128i abef_before = abef, cdgh_before = cdgh;
        __m128i words[4];
        for (int i = 0; i < 4; i++)
            words[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)at + i), to_big);
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) {
            const __m128i k = _mm_loadu_si128((const __m128i *)SHA256_K + i);
            __m128i sum = _mm_add_epi32(words[i & 3], k);
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sum, 0x0E));
            if (i < 12) {
                __m128i next = _mm_sha256msg1_epu32(words[i & 3], words[(i + 1) & 3]);
                const __m128i seven = _mm_alignr_epi8(words[(i + 3) & 3], words[(i + 2) & 3], 4);
                next = _mm_add_epi32(next, seven);
                words[i & 3] = _mm_sha256msg2_epu32(next, words[(i + 3) & 3]);
            }
        }
        abef = _mm_add_epi32(abef, abef_before);
        cdgh = _mm_add_epi32(cdgh, cdgh_before);
        at += SHA256_BLOCK;
    }
    low = _mm_shuffle_epi32(abef, 0x1B);
    high = _mm_shuffle_epi32(cdgh, 0xB1);
    _mm_storeu_si128((__m128i *)state, _mm_blend_epi16(low, high, 0xF0));
    _mm_storeu_si128((__m128i *)(state + 4), _mm_alignr_epi8(high, low, 8));
}
#else
typedef int sha256_ni_is_for_other_machines;
#endif
