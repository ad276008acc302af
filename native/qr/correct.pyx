"""Reed-Solomon codes over GF(256) as ISO/IEC 18004:2015, 7.5.2 has them: errors and erasures.

A block is divided by its generator first, 32 bytes a step. Nearly all blocks leave no remainder,
and if one does, the syndromes are those of the short remainder. Then Berlekamp-Massey, Chien and
Forney.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint16_t, uint64_t
from libc.string cimport memcpy, memmove, memset

from native.checks cimport check_int

cdef enum:
    PRIMITIVE = 0x11D           # x**8 + x**4 + x**3 + x**2 + 1
    ZERO_LOG = 512              # log of 0: no sum with it lies below, where powers are not 0
    TERMS = CHECK_MAX + 1       # of a locator


cdef uint8_t[1025] power         # of 2, by exponent up to 510; 0 from ZERO_LOG up
cdef uint16_t[256] log2
# By check codewords and factor: factor times the generator without its leading 1, highest first.
cdef uint64_t[CHECK_MAX + 1][256][4] multiples


cdef struct Locator:
    uint8_t[TERMS] terms        # lowest first
    int degree


# ---- the field ----------------------------------------------------------------------------------

cdef inline uint8_t times(uint8_t a, uint8_t b) noexcept nogil:
    return power[log2[a] + log2[b]]


cdef inline uint8_t over(uint8_t a, uint8_t b) noexcept nogil:
    """a / b; b is not 0."""
    return power[log2[a] + 255 - log2[b]]


cdef void build_field() noexcept nogil:
    cdef int i, value = 1
    for i in range(255):
        power[i] = power[i + 255] = <uint8_t> value
        log2[value] = <uint16_t> i
        value <<= 1
        if value & 0x100:
            value ^= PRIMITIVE
    power[510] = power[0]
    log2[0] = ZERO_LOG


cdef void build_multiples() noexcept nogil:
    """Annex A: the generator of n check codewords is (x - 1)(x - 2) ... (x - 2**(n - 1))."""
    cdef uint8_t[CHECK_MAX + 1] generator
    cdef uint8_t* row
    cdef int check, factor, i
    memset(generator, 0, sizeof(generator))
    generator[0] = 1
    for check in range(1, CHECK_MAX + 1):
        for i in range(check, 0, -1):
            generator[i] ^= times(generator[i - 1], power[check - 1])
        for factor in range(256):
            row = <uint8_t*> multiples[check][factor]
            for i in range(check):
                row[i] = times(generator[i + 1], <uint8_t> factor)


build_field()
build_multiples()


# ---- dividing -----------------------------------------------------------------------------------

cdef bint divide(const uint8_t* block, int size, int ecc, uint64_t* rest) noexcept nogil:
    """The remainder of a block by its generator, 32 bytes, highest first; whether it is 0.

    What is in `rest` is the remainder that the codewords up to here leave: the next codeword goes
    under the first of it, and that is the multiple of the generator to take away.
    """
    cdef uint64_t a = 0, b = 0, c = 0, d = 0
    cdef const uint64_t* row
    cdef int i
    for i in range(size - ecc):
        row = multiples[ecc][(a ^ block[i]) & 0xFF]
        a = (a >> 8 | b << 56) ^ row[0]
        b = (b >> 8 | c << 56) ^ row[1]
        c = (c >> 8 | d << 56) ^ row[2]
        d = d >> 8 ^ row[3]
    rest[0] = a
    rest[1] = b
    rest[2] = c
    rest[3] = d
    for i in range(ecc):
        (<uint8_t*> rest)[i] ^= block[size - ecc + i]
    return (rest[0] | rest[1] | rest[2] | rest[3]) == 0


cdef void find_syndromes(const uint8_t* rest, int ecc, uint8_t* syndromes) noexcept nogil:
    """The remainder at 1, 2, 4 ...: the same as of the whole block."""
    cdef int i, k
    cdef uint8_t value
    for i in range(ecc):
        value = 0
        for k in range(ecc):
            value = times(value, power[i]) ^ rest[k]
        syndromes[i] = value


# ---- locating -----------------------------------------------------------------------------------

cdef void erase(Locator* locator, int size, const uint8_t* erased, int count) noexcept nogil:
    """The product of 1 - X x over the erased codewords, X = 2**(places from the end)."""
    cdef int i, k
    memset(locator.terms, 0, TERMS)
    locator.terms[0] = 1
    locator.degree = count
    for i in range(count):
        for k in range(i + 1, 0, -1):
            locator.terms[k] ^= times(locator.terms[k - 1], power[size - 1 - erased[i]])


cdef bint locate(Locator* locator, const uint8_t* syndromes, int ecc) noexcept nogil:
    """Berlekamp-Massey, from the locator of the erased codewords on; False if there is no answer.

    Blahut, Algebraic Codes for Data Transmission, 7.4: `kept` is the last locator before the length
    changed, divided by its discrepancy.
    """
    cdef uint8_t[TERMS + 1] kept
    cdef uint8_t[TERMS] grown
    cdef int erased = locator.degree, length = locator.degree
    cdef int step, i
    cdef uint8_t gap
    memcpy(kept, locator.terms, TERMS)
    for step in range(erased, ecc):
        gap = 0
        for i in range(step + 1):
            gap ^= times(locator.terms[i], syndromes[step - i])
        memmove(kept + 1, kept, ecc + 1)
        kept[0] = 0
        if gap == 0:
            continue
        for i in range(ecc + 1):
            grown[i] = locator.terms[i] ^ times(gap, kept[i])
        if 2 * length <= step + erased:
            length = step + 1 + erased - length
            for i in range(ecc + 1):
                kept[i] = over(locator.terms[i], gap)
        memcpy(locator.terms, grown, ecc + 1)
    locator.degree = ecc
    while locator.degree > 0 and locator.terms[locator.degree] == 0:
        locator.degree -= 1
    return locator.degree == length


cdef bint search(const Locator* locator, int size, uint8_t* places) noexcept nogil:
    """Chien: the places from the end where the locator has a root; False unless all are there."""
    cdef uint16_t[TERMS] logs
    cdef int degree = locator.degree, found = 0
    cdef int place, i
    cdef uint8_t value
    for i in range(degree + 1):
        logs[i] = log2[locator.terms[i]]
    for place in range(size):
        value = 1
        for i in range(1, degree + 1):
            value ^= power[logs[i]]
            # On to the next place: the term shrinks by 2**i; a term that is 0 stays it.
            if logs[i] != ZERO_LOG:
                logs[i] = <uint16_t> (logs[i] - i if logs[i] >= i else logs[i] + 255 - i)
        if value == 0:
            places[found] = <uint8_t> place
            found += 1
            if found == degree:
                return True
    return False


# ---- mending ------------------------------------------------------------------------------------

cdef uint8_t fault_at(
    const Locator* locator, const uint8_t* evaluator, int place
) noexcept nogil:
    """Forney: X * evaluator(1/X) / derivative of the locator(1/X), X = 2**place."""
    cdef int inverse = (255 - place) % 255
    cdef uint8_t above = 0, below = 0
    cdef int i
    for i in range(locator.degree - 1, -1, -1):
        above = times(above, power[inverse]) ^ evaluator[i]
    # Over GF(2) the derivative keeps the odd terms, one place lower.
    for i in range(locator.degree - 1, -1, -1):
        below = times(below, power[inverse])
        if i % 2 == 0:
            below ^= locator.terms[i + 1]
    # The roots are simple, so `below` is not 0.
    return over(times(above, power[place]), below)


cdef int mend(
    uint8_t* block, int size, const Locator* locator, const uint8_t* syndromes,
    const uint8_t* places,
) noexcept nogil:
    """Take the faults off the block; how many there were."""
    cdef uint8_t[TERMS] evaluator
    cdef uint8_t fault
    cdef int wrong = 0
    cdef int i, k
    for i in range(locator.degree):
        evaluator[i] = 0
        for k in range(i + 1):
            evaluator[i] ^= times(locator.terms[k], syndromes[i - k])
    for i in range(locator.degree):
        fault = fault_at(locator, evaluator, places[i])
        block[size - 1 - places[i]] ^= fault
        wrong += fault != 0
    return wrong


cdef int correct_block(
    uint8_t* block, int size, int ecc, const uint8_t* erased, int erased_count, int limit
) noexcept nogil:
    cdef uint64_t[4] rest
    cdef uint8_t[CHECK_MAX] syndromes
    cdef uint8_t[TERMS] places
    cdef uint8_t[BLOCK_MAX] before
    cdef Locator locator
    cdef int wrong
    if divide(block, size, ecc, rest):
        return 0
    if erased_count > 2 * limit:
        return -1
    find_syndromes(<uint8_t*> rest, ecc, syndromes)
    erase(&locator, size, erased, erased_count)
    if not locate(&locator, syndromes, ecc):
        return -1
    # degree = errors + erased
    if 2 * locator.degree - erased_count > 2 * limit or not search(&locator, size, places):
        return -1
    memcpy(before, block, size)
    wrong = mend(block, size, &locator, syndromes, places)
    if divide(block, size, ecc, rest):
        return wrong
    memcpy(block, before, size)
    return -1


def correct(block, ecc, bytes erased not None=b"") -> tuple[bytes, int] | None:
    """A block mended, and how many codewords were wrong; None where that cannot be known.

    ecc: check codewords at the end of the block, 2-30. erased: indices of codewords that may be
    anything. 2 * errors + erased may be as much as ecc, less one if ecc is odd.
    Raises ValueError for a size that is not of ecc + 1 .. 255, and for indices that are not in the
    block or there twice.
    """
    cdef int check = <int> check_int(ecc, CHECK_MIN, CHECK_MAX, "ecc")
    cdef Py_buffer view
    cdef bytes mended
    cdef uint8_t* at
    cdef const uint8_t* gone = <const uint8_t*> PyBytes_AS_STRING(erased)
    cdef int size, wrong
    cdef int gone_count = <int> len(erased)
    PyObject_GetBuffer(block, &view, PyBUF_SIMPLE)
    try:
        if view.len <= check or view.len > BLOCK_MAX:
            raise ValueError("a block has more codewords than ecc, and 255 at most")
        size = <int> view.len
        if len(set(erased)) != gone_count or any(index >= size for index in erased):
            raise ValueError("erased has an index that is not in the block, or one twice")
        mended = PyBytes_FromStringAndSize(<const char*> view.buf, size)
    finally:
        PyBuffer_Release(&view)
    at = <uint8_t*> PyBytes_AS_STRING(mended)
    with nogil:
        wrong = correct_block(at, size, check, gone, gone_count, check // 2)
    return None if wrong < 0 else (mended, wrong)
