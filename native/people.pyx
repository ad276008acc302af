"""People, as engine.scans.people defines them: numbers that are well-formed, details as bytes,
masks.

Only for those about whom nothing is odd; engine.scans.people is the definition, and a test holds
both side by side.
"""

from libc.string cimport memcpy, strlen

cdef enum:
    STR_8 = 0xD9               # MessagePack
    STR_16 = 0xDA
    ARRAY_16 = 0xDC
    ARRAY_EMPTY = 0x90
    STR_EMPTY = 0xA0
    DETAILS_FIELDS = 26        # engine.scans.people.Details, warnings (an array) at WARNINGS
    WARNINGS = 17
    WORD_SHOWN_MAX = 12
    PROVINCE_MAX = 96


cdef void begin(Person* person) noexcept nogil:
    cdef int i
    for i in range(FIELDS):
        person.fields[i].at = NULL
        person.fields[i].size = 0
    person.identity_size = 0
    person.scratch_size = 0
    person.source = 0


cdef void put(Person* person, int field, const uint8_t* at, size_t size) noexcept nogil:
    person.fields[field].at = at
    person.fields[field].size = size


cdef uint8_t* put_room(Person* person, int field, size_t size) noexcept nogil:
    cdef uint8_t* room = person.scratch + person.scratch_size
    person.scratch_size += size
    put(person, field, room, size)
    return room


cdef bint identify(
    Person* person, const char* kind, const char* issuer, const uint8_t* at, size_t size
) noexcept nogil:
    cdef size_t first = strlen(kind) + 1
    cdef size_t second = strlen(issuer) + 1
    if first + second + size > IDENTITY_MAX:
        return False
    memcpy(person.identity, kind, first)
    memcpy(person.identity + first, issuer, second)
    memcpy(person.identity + first + second, at, size)
    person.identity_size = first + second + size
    return True


# ---- numbers ------------------------------------------------------------------------------------


cdef bint is_digits(const uint8_t* at, size_t size) noexcept nogil:
    cdef size_t i
    for i in range(size):
        if not 48 <= at[i] <= 57:
            return False
    return size > 0


cdef uint32_t to_number(const uint8_t* at, size_t size) noexcept nogil:
    """Of at most nine digits."""
    cdef uint32_t value = 0
    cdef size_t i
    for i in range(size):
        value = value * 10 + (at[i] - 48)
    return value


cdef bint is_id_number(const uint8_t* at, size_t size) noexcept nogil:
    return size == 12 and is_digits(at, 12) and 1 <= to_number(at, 3) <= PROVINCE_MAX


cdef bint is_upper(uint8_t byte) noexcept nogil:
    return 65 <= byte <= 90


cdef bint is_qid(const uint8_t* at, size_t size) noexcept nogil:
    cdef size_t i
    if not 6 <= size <= 40:
        return False
    for i in range(size):
        if not (
            48 <= at[i] <= 57 or is_upper(at[i]) or 97 <= at[i] <= 122 or at[i] in (45, 95)
        ):
            return False
    return True


cdef bint is_bhyt_number(const uint8_t* at, size_t size) noexcept nogil:
    if size == 15:
        return is_upper(at[0]) and is_upper(at[1]) and is_digits(at + 2, 13)
    return size == 10 and is_digits(at, 10)


cdef bint is_passport_number(const uint8_t* at, size_t size) noexcept nogil:
    cdef bint has_digit = False
    cdef size_t i
    if not 5 <= size <= 9:
        return False
    for i in range(size):
        if 48 <= at[i] <= 57:
            has_digit = True
        elif not is_upper(at[i]):
            return False
    return has_digit


# ---- what is kept and shown ---------------------------------------------------------------------


cdef size_t details_room(const Person* person) noexcept nogil:
    """Bytes that write_details may need."""
    cdef size_t size = HEADS_MAX
    cdef int i
    for i in range(FIELDS):
        size += person.fields[i].size
    return size


cdef size_t write_str(const Slice* text, uint8_t* room) noexcept nogil:
    cdef size_t head = 1
    if text.size < 32:
        room[0] = <uint8_t> (STR_EMPTY | text.size)
    elif text.size < 256:
        room[0] = STR_8
        room[1] = <uint8_t> text.size
        head = 2
    else:                      # a payload is no longer than 2,953 bytes
        room[0] = STR_16
        room[1] = <uint8_t> (text.size >> 8)
        room[2] = <uint8_t> (text.size & 0xFF)
        head = 3
    if text.size:
        memcpy(room + head, text.at, text.size)
    return head + text.size


cdef size_t write_details(const Person* person, uint8_t* room) noexcept nogil:
    """engine.scans.people.details_to_bytes; how many bytes."""
    cdef size_t size = 3
    cdef int i
    room[0] = ARRAY_16
    room[1] = 0
    room[2] = DETAILS_FIELDS
    for i in range(FIELDS):
        size += write_str(&person.fields[i], room + size)
    for i in range(FIELDS, DETAILS_FIELDS):
        room[size] = ARRAY_EMPTY if i == WARNINGS else STR_EMPTY
        size += 1
    return size


cdef size_t skip(const Slice* text, size_t at, size_t count) noexcept nogil:
    """The end of up to `count` characters from `at` on, at most to a blank or the end."""
    while at < text.size and text.at[at] != 32:
        if text.at[at] & 0xC0 != 0x80:
            if not count:
                break
            count -= 1
        at += 1
    return at


cdef size_t mask_name(const Person* person, uint8_t* room) noexcept nogil:
    """engine.scans.people.mask_name, of a name whose words have one blank between them.

    room: MASK_MAX bytes; how many were written.
    """
    cdef const Slice* name = &person.fields[NAME]
    cdef size_t first = skip(name, 0, name.size)
    cdef size_t size, second, end
    if first == name.size:     # one word, or none
        size = skip(name, 0, 1)
        memcpy(room, name.at, size)
    else:
        size = skip(name, 0, WORD_SHOWN_MAX)
        memcpy(room, name.at, size)
        room[size] = 32
        size += 1
        second = first + 1
        end = skip(name, second, 2)
        if end == skip(name, second, name.size):
            # A word of two letters or one, of which the last is never shown.
            end = second if end == skip(name, second, 1) else skip(name, second, 1)
        memcpy(room + size, name.at + second, end - second)
        size += end - second
    memcpy(room + size, b"***", 3)
    return size + 3
