"""Cards: ID cards and national personal codes that are plainly right, from bytes to a person.

engine.payloads is the definition and knows every variant, every encoding and every oddity. What is
read here is the form nearly all people carry: no warning, nothing to tidy, letters that are
composed already. A test holds both side by side.
"""

from libc.string cimport memcmp, memcpy

from native.people cimport (
    ADDRESS,
    BHYT,
    BIRTH,
    DOC_KIND,
    DOC_NO,
    NAME,
    OLD_DOC_NO,
    PHONE,
    QID,
    SEX,
    SOURCE_CCCD,
    SOURCE_QR1405,
    Slice,
    begin,
    identify,
    is_bhyt_number,
    is_digits,
    is_id_number,
    is_qid,
    put,
    put_room,
    to_number,
)

cdef enum:
    PAYLOAD_MAX = 2953         # bytes of the largest QR symbol
    CARD_FIELDS = 7
    APP_FIELDS = 6
    NAME_MAX = 100             # characters
    YEAR_MIN = 1900
    YEAR_MAX = 2099
    BAR = 124                  # |
    BLANK = 32
    STAR = 42

cdef const uint8_t* MALE = b"M"
cdef const uint8_t* FEMALE = b"F"
cdef const uint8_t* ID_CARD = b"cccd"
cdef const uint8_t* OLD_CARD = b"cmnd"
cdef const uint8_t* DAYS = b"\x00\x1f\x1d\x1f\x1e\x1f\x1e\x1f\x1f\x1e\x1f\x1e\x1f"


# ---- text ---------------------------------------------------------------------------------------


cdef bint is_name_mark(uint8_t byte) noexcept nogil:
    """What stands between the letters of a name: blank ' and .

    A hyphen does too, but a name with two of them can look like a date.
    """
    return byte == BLANK or byte == 39 or byte == 46


cdef bint is_ascii_letter(uint8_t byte) noexcept nogil:
    return 65 <= (byte & 0xDF) <= 90


cdef size_t letter_size(const uint8_t* at, size_t left) noexcept nogil:
    """Bytes of the Latin letter beyond ASCII at `at`; 0 where there is none.

    U+00C0 to U+024F but for the two signs among them, and U+1E00 to U+1EFF: each is composed as it
    stands, and no mark can follow that is not among them.
    """
    if left >= 2 and 0xC3 <= at[0] <= 0xC9 and at[1] & 0xC0 == 0x80:
        return 0 if at[0] == 0xC3 and at[1] in (0x97, 0xB7) else 2
    if left >= 3 and at[0] == 0xE1 and 0xB8 <= at[1] <= 0xBB and at[2] & 0xC0 == 0x80:
        return 3
    return 0


cdef size_t split(const uint8_t* text, size_t size, Slice* fields, size_t room) noexcept nogil:
    """Fields between bars, how many; 0 for more than `room` and for text that is not tidy.

    Tidy: ASCII without control characters and the letters of letter_size, blanks single and never
    beside a bar.
    """
    cdef size_t i = 0, count = 0, start = 0, step
    cdef uint8_t before = BAR
    while i < size:
        if text[i] >= 0x80:
            step = letter_size(text + i, size - i)
            if step == 0:
                return 0
            before = text[i]
            i += step
            continue
        if text[i] < BLANK or text[i] == 0x7F:
            return 0
        if text[i] == BLANK and (before == BLANK or before == BAR):
            return 0
        if text[i] == BAR:
            if before == BLANK or count == room:
                return 0
            fields[count].at = text + start
            fields[count].size = i - start
            count += 1
            start = i + 1
        before = text[i]
        i += 1
    if before == BLANK or count == room:
        return 0
    fields[count].at = text + start
    fields[count].size = size - start
    return count + 1


cdef bint is_name(const Slice* text, bint is_folded) noexcept nogil:
    """A letter, then letters and what joins them. is_folded: ASCII in upper case."""
    cdef size_t i = 0, count = 0
    while i < text.size:
        if text.at[i] >= 0x80:
            if is_folded:
                return False
            i += 2 if text.at[i] < 0xE0 else 3
        else:
            if not is_ascii_letter(text.at[i]):
                if count == 0 or not is_name_mark(text.at[i]):
                    return False
            elif is_folded and text.at[i] & 0x20:
                return False
            i += 1
        count += 1
    return 0 < count <= NAME_MAX


# ---- dates --------------------------------------------------------------------------------------


cdef bint is_date(uint32_t year, uint32_t month, uint32_t day) noexcept nogil:
    if not YEAR_MIN <= year <= YEAR_MAX or not 1 <= month <= 12 or not 1 <= day <= DAYS[month]:
        return False
    return month != 2 or day < 29 or (year % 4 == 0 and (year % 100 != 0 or year % 400 == 0))


cdef uint32_t read_compact(const Slice* text) noexcept nogil:
    """yyyymmdd of ddmmyyyy, 0 for what is no date."""
    cdef uint32_t year, month, day
    if text.size != 8 or not is_digits(text.at, 8):
        return 0
    day, month = to_number(text.at, 2), to_number(text.at + 2, 2)
    year = to_number(text.at + 4, 4)
    return year * 10_000 + month * 100 + day if is_date(year, month, day) else 0


cdef uint32_t read_birth(const Slice* text, uint32_t today, bint* is_whole) noexcept nogil:
    """The year of yyyy-mm-dd or, where stars stand for digits of month and day, of yyyy-**-**.

    0 for anything else, and for what lies behind today.
    """
    cdef uint32_t year, month, day
    cdef size_t i
    is_whole[0] = True
    if text.size != 10 or text.at[4] != 45 or text.at[7] != 45 or not is_digits(text.at, 4):
        return 0
    for i in range(5, 10):
        if i == 7:
            continue
        if text.at[i] == STAR:
            is_whole[0] = False
        elif not 48 <= text.at[i] <= 57:
            return 0
    year = to_number(text.at, 4)
    if not is_whole[0]:
        return year if YEAR_MIN <= year <= YEAR_MAX and year <= today // 10_000 else 0
    month, day = to_number(text.at + 5, 2), to_number(text.at + 8, 2)
    if not is_date(year, month, day) or year * 10_000 + month * 100 + day > today:
        return 0
    return year


# ---- cards --------------------------------------------------------------------------------------


cdef bint is_consistent(const uint8_t* number, int sex, uint32_t year) noexcept nogil:
    """sex: 1 male, 2 female, 0 unknown."""
    cdef uint32_t code = number[3] - 48
    if sex and (code % 2 == 0) != (sex == 1):
        return False
    return year == 1900 + 100 * (code // 2) + to_number(number + 4, 2)


cdef int read_sex(const Slice* text) noexcept nogil:
    """1 of Nam, 2 of Nữ, 0 of anything else."""
    if text.size == 3 and memcmp(text.at, b"Nam", 3) == 0:
        return 1
    return 2 if text.size == 4 and memcmp(text.at, b"N\xe1\xbb\xaf", 4) == 0 else 0


cdef bint read_card(Slice* fields, uint32_t today, Person* person) noexcept nogil:
    """id12 | old id 9 or empty | name | ddmmyyyy | Nam or Nữ | address | ddmmyyyy of issue."""
    cdef int sex = read_sex(&fields[4])
    cdef uint32_t birth = read_compact(&fields[3])
    cdef const uint8_t* text = fields[3].at
    cdef uint8_t* room
    if sex == 0 or birth == 0 or birth > today or read_compact(&fields[6]) == 0:
        return False
    if not is_id_number(fields[0].at, fields[0].size) or not is_name(&fields[2], False):
        return False
    if fields[1].size and not (fields[1].size == 9 and is_digits(fields[1].at, 9)):
        return False
    if not is_consistent(fields[0].at, sex, birth // 10_000):
        return False
    room = put_room(person, BIRTH, 10)
    memcpy(room, text + 4, 4)
    memcpy(room + 5, text + 2, 2)
    memcpy(room + 8, text, 2)
    room[4] = room[7] = 45
    put(person, NAME, fields[2].at, fields[2].size)
    put(person, DOC_KIND, ID_CARD, 4)
    put(person, DOC_NO, fields[0].at, 12)
    put(person, SEX, MALE if sex == 1 else FEMALE, 1)
    put(person, ADDRESS, fields[5].at, fields[5].size)
    put(person, OLD_DOC_NO, fields[1].at, fields[1].size)
    person.source = SOURCE_CCCD
    return identify(person, b"cccd", b"VNM", fields[0].at, 12)


# ---- national personal codes --------------------------------------------------------------------


cdef bint put_document(const Slice* text, int sex, uint32_t year, Person* person) noexcept nogil:
    """The number of an ID card, or stars with the three or six digits that show."""
    cdef size_t shown = 0, size = text.size
    cdef uint8_t* room
    if is_id_number(text.at, size):
        put(person, DOC_KIND, ID_CARD, 4)
        put(person, DOC_NO, text.at, size)
        return is_consistent(text.at, sex, year)
    while shown < size and text.at[size - 1 - shown] != STAR:
        shown += 1
    if (shown != 6 and shown != 3) or not is_digits(text.at + size - shown, shown):
        return False
    while size > shown:
        if text.at[size - 1 - shown] != STAR:
            return False
        size -= 1
    if text.size == shown:
        return False
    put(person, DOC_KIND, ID_CARD if shown == 6 else OLD_CARD, 4)
    room = put_room(person, DOC_NO, 6 + shown)
    memcpy(room, b"******", 6)
    memcpy(room + 6, text.at + text.size - shown, shown)
    return True


cdef bint put_ext(const Slice* text, int* sex, Person* person) noexcept nogil:
    """`<sex<insurance number<phone`: nobody else's QID in front, and nothing behind."""
    cdef Slice items[4]
    cdef size_t i, count = 0, start = 0
    cdef uint8_t* room
    for i in range(text.size + 1):
        if i < text.size and text.at[i] == BLANK:
            return False
        if i == text.size or text.at[i] == 60:
            if count == 4:
                return False
            items[count].at = text.at + start
            items[count].size = i - start
            count += 1
            start = i + 1
    if count != 4 or items[0].size or items[1].size > 1:
        return False
    sex[0] = 0
    if items[1].size:
        if not 48 <= items[1].at[0] <= 50:
            return False
        sex[0] = items[1].at[0] - 48
    if items[2].size:
        if not is_bhyt_number(items[2].at, items[2].size):
            return False
        put(person, BHYT, items[2].at, items[2].size)
    if items[3].size:
        # 0 and nine digits behind an area or a network that there is: the rest is for Python.
        if items[3].size != 10 or not is_digits(items[3].at, 10) or items[3].at[0] != 48:
            return False
        if items[3].at[1] not in (50, 51, 53, 55, 56, 57):
            return False
        room = put_room(person, PHONE, 12)
        memcpy(room, b"+84", 3)
        memcpy(room + 3, items[3].at + 1, 9)
    if sex[0]:
        put(person, SEX, MALE if sex[0] == 1 else FEMALE, 1)
    return True


cdef bint read_app(Slice* fields, uint32_t today, Person* person) noexcept nogil:
    """number | name | birth | 0 | QID | EXT, declared by its holder."""
    cdef bint is_whole
    cdef int sex
    cdef uint32_t year = read_birth(&fields[2], today, &is_whole)
    if year == 0 or fields[3].size != 1 or fields[3].at[0] != 48 or not fields[5].size:
        return False
    if not is_name(&fields[1], True) or not is_qid(fields[4].at, fields[4].size):
        return False
    if not put_ext(&fields[5], &sex, person) or not put_document(&fields[0], sex, year, person):
        return False
    put(person, NAME, fields[1].at, fields[1].size)
    put(person, QID, fields[4].at, fields[4].size)
    put(person, BIRTH, fields[2].at, 10 if is_whole else 4)
    person.source = SOURCE_QR1405
    return identify(person, b"qid", b"VNM", fields[4].at, fields[4].size)


cdef bint read_person(
    const uint8_t* text, size_t size, uint32_t today, Person* person
) noexcept nogil:
    cdef Slice fields[CARD_FIELDS]
    cdef size_t count
    begin(person)
    if size > PAYLOAD_MAX:
        return False
    count = split(text, size, fields, CARD_FIELDS)
    if count == CARD_FIELDS:
        return read_card(fields, today, person)
    return count == APP_FIELDS and read_app(fields, today, person)
