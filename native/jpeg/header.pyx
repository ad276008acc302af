"""The segments of a JPEG before and between its scans: sizes, tables, the order of components.

What libjpeg would refuse or only warn of is SEGMENTS_OTHER here, and so is all that this decoder
does not do: the caller then asks a whole JPEG library. So a picture this module takes is one that
both read alike.
"""

from libc.string cimport memcmp, memcpy, memset

cdef extern from "machine.h":
    unsigned int load_be16(const uint8_t* at) noexcept nogil

cdef extern from "jpeg_tables.h":
    const uint8_t jpeg_order[64]
    const uint8_t jpeg_usual_codes[]
    size_t USUAL_SIZE "sizeof(jpeg_usual_codes)"

cdef enum:                      # markers, the byte after FF
    SOF0 = 0xC0
    SOF1 = 0xC1
    DHT = 0xC4
    EOI = 0xD9
    SOS = 0xDA
    DQT = 0xDB
    DRI = 0xDD
    APP0 = 0xE0
    APP14 = 0xEE
    APP15 = 0xEF
    COM = 0xFE


cdef void start_head(Head* head) noexcept nogil:
    memset(head, 0, sizeof(Head))
    head.jfif_major = -1
    head.adobe_transform = -1


cdef bint read_quants(Head* head, const uint8_t* body, size_t size) noexcept nogil:
    cdef size_t at = 0, i, step
    cdef int number
    while at < size:
        step = 2 if body[at] >> 4 else 1
        number = body[at] & 15
        if number >= QUANTS_MAX or body[at] >> 4 > 1 or size - at < 1 + 64 * step:
            return False
        at += 1
        for i in range(64):
            head.quants[number][jpeg_order[i]] = (
                <uint16_t> load_be16(body + at) if step == 2 else body[at]
            )
            at += step
        head.is_quant_known[number] = 1
    return True


cdef bint is_code_tree(const Codes* codes, bint is_dc) noexcept nogil:
    """Whether the lengths make a prefix code in which no code is all ones, and DC sizes fit."""
    cdef int length, i, count = 0
    cdef unsigned int code = 0
    for length in range(16):
        code += codes.counts[length]
        count += codes.counts[length]
        if codes.counts[length] and code >= <unsigned int> 1 << (length + 1):
            return False
        code <<= 1
    if is_dc:
        for i in range(count):
            if codes.symbols[i] > 15:
                return False
    return True


cdef bint read_codes(Head* head, const uint8_t* body, size_t size, bint is_spare) noexcept nogil:
    """A DHT segment; is_spare: tables that are known stay as they are."""
    cdef size_t at = 0, count, i
    cdef int number
    cdef Codes* codes
    while at < size:
        if size - at < 17 or body[at] & 15 >= TABLES_MAX or body[at] >> 4 > 1:
            return False
        number = body[at] & 15
        codes = &head.ac[number] if body[at] >> 4 else &head.dc[number]
        count = 0
        for i in range(16):
            count += body[at + 1 + i]
        if count > 256 or size - at - 17 < count:
            return False
        if not (is_spare and codes.is_known):
            memset(codes, 0, sizeof(Codes))
            memcpy(codes.counts, body + at + 1, 16)
            memcpy(codes.symbols, body + at + 17, count)
            codes.is_known = 1
            if not is_code_tree(codes, body[at] >> 4 == 0):
                return False
        at += 17 + count
    return True


cdef bint read_frame(Head* head, const uint8_t* body, size_t size) noexcept nogil:
    cdef int i, j
    cdef Component* component
    if head.component_count or size < 6 or body[0] != 8:
        return False
    head.height = <int> load_be16(body + 1)
    head.width = <int> load_be16(body + 3)
    head.component_count = body[5]
    if head.component_count != 1 and head.component_count != 3:
        return False
    if not (1 <= head.width <= SIDE_MAX and 1 <= head.height <= SIDE_MAX):
        return False
    if size != 6 + 3 * <size_t> head.component_count:
        return False
    for i in range(head.component_count):
        component = &head.components[i]
        component.ident = body[6 + 3 * i]
        component.across = body[7 + 3 * i] >> 4
        component.down = body[7 + 3 * i] & 15
        component.quant = body[8 + 3 * i]
        if not (1 <= component.across <= 4 and 1 <= component.down <= 4):
            return False
        if component.quant >= QUANTS_MAX:
            return False
        for j in range(i):
            if head.components[j].ident == component.ident:
                return False
    return is_usual_sampling(head)


cdef bint is_usual_sampling(Head* head) noexcept nogil:
    """Luma in full, chroma both alike: what libjpeg's front door has names for."""
    cdef Component* luma = &head.components[0]
    cdef Component* blue = &head.components[1]
    cdef Component* red = &head.components[2]
    cdef int area = luma.across * luma.down
    head.across_most = luma.across
    head.down_most = luma.down
    if head.component_count == 1:
        return True
    if blue.across != red.across or blue.down != red.down:
        return False
    if blue.across == luma.across and blue.down == luma.down:
        return area <= 3
    if blue.across == 1 and blue.down == 1:
        return area == 2 or area == 4
    # 4:2:2 and 4:4:0, written as half of two by two
    return luma.across == 2 and luma.down == 2 and blue.across + blue.down == 3


cdef void read_application(Head* head, int marker, const uint8_t* body, size_t size) noexcept nogil:
    if marker == APP0 and size >= 14 and memcmp(body, b"JFIF\0", 5) == 0:
        head.jfif_major = body[5]
    if marker == APP14 and size >= 12 and memcmp(body, b"Adobe", 5) == 0:
        head.adobe_transform = body[11]


cdef bint is_luma_first(const Head* head) noexcept nogil:
    """Whether the first component is luma, by the rules of libjpeg."""
    if head.jfif_major >= 0 and head.jfif_major != 1:
        return False            # a warning there
    if head.component_count == 1:
        return True
    if head.jfif_major >= 0:
        return True
    if head.adobe_transform >= 0:
        return head.adobe_transform == 1
    return not (
        head.components[0].ident == c"R"
        and head.components[1].ident == c"G"
        and head.components[2].ident == c"B"
    )


cdef bint read_scan_head(Head* head, const uint8_t* body, size_t size) noexcept nogil:
    cdef int i, j, found
    cdef Component* component
    if head.component_count == 0 or size < 1:
        return False
    head.scan_count = body[0]
    if not 1 <= head.scan_count <= head.component_count:
        return False
    if size != 4 + 2 * <size_t> head.scan_count:
        return False
    for i in range(head.scan_count):
        found = -1
        for j in range(head.component_count):
            if head.components[j].ident == body[1 + 2 * i]:
                found = j
        for j in range(i):
            if head.scan[j] == found:
                found = -1
        if found < 0:
            return False
        head.scan[i] = found
        component = &head.components[found]
        component.dc = body[2 + 2 * i] >> 4
        component.ac = body[2 + 2 * i] & 15
        if component.dc >= TABLES_MAX or component.ac >= TABLES_MAX:
            return False
        if not head.is_quant_known[component.quant]:
            return False
    # From 0 to 63 at full precision: anything else belongs to a progressive picture.
    body += 1 + 2 * head.scan_count
    if body[0] != 0 or body[1] != 63 or body[2] != 0:
        return False
    # Motion JPEG leaves out the tables that everyone uses.
    read_codes(head, jpeg_usual_codes, USUAL_SIZE, True)
    return is_luma_first(head)


cdef bint is_known_segment(int marker) noexcept nogil:
    return (
        marker == SOF0
        or marker == SOF1
        or marker == DHT
        or marker == SOS
        or marker == DQT
        or marker == DRI
        or APP0 <= marker <= APP15
        or marker == COM
    )


cdef int read_segments(Head* head, const uint8_t* data, size_t size, size_t* at) noexcept nogil:
    cdef size_t i = at[0], length
    cdef const uint8_t* body
    cdef int marker
    cdef bint is_good
    while True:
        if i >= size:
            return SEGMENTS_CUT
        if data[i] != 0xFF:
            return SEGMENTS_OTHER
        while i < size and data[i] == 0xFF:
            i += 1
        if i == size:
            return SEGMENTS_CUT
        marker = data[i]
        i += 1
        if marker == EOI:
            at[0] = i
            return SEGMENTS_END
        if not is_known_segment(marker):
            return SEGMENTS_OTHER
        if size - i < 2:
            return SEGMENTS_CUT
        length = load_be16(data + i)
        if length < 2:
            return SEGMENTS_OTHER
        if size - i < length:
            return SEGMENTS_CUT
        body = data + i + 2
        length -= 2
        i += length + 2
        if marker == SOS:
            at[0] = i
            return SEGMENTS_SCAN if read_scan_head(head, body, length) else SEGMENTS_OTHER
        if marker == DQT:
            is_good = read_quants(head, body, length)
        elif marker == DHT:
            is_good = read_codes(head, body, length, False)
        elif marker == DRI:
            is_good = length == 2
            if is_good:
                head.interval = <int> load_be16(body)
        elif marker == SOF0 or marker == SOF1:
            is_good = read_frame(head, body, length)
        else:
            is_good = True
            read_application(head, marker, body, length)
        if not is_good:
            return SEGMENTS_OTHER
