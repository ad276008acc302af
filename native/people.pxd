"""C face of native.people: somebody as slices of text, and what engine.scans.people makes of
them."""

from libc.stdint cimport uint8_t, uint32_t


cdef enum:                     # positions in engine.scans.people.Details
    NAME = 0
    DOC_KIND
    DOC_NO
    COUNTRY
    QID
    BIRTH
    SEX
    PHONE
    ADDRESS
    BHYT
    PLATE
    TRIP
    SEAT
    OLD_DOC_NO
    FIELDS                     # those behind it are empty for everybody who is read here

cdef enum:                     # engine.scans.rows.Source
    SOURCE_CCCD = 1
    SOURCE_QR1405 = 2
    SOURCE_BHYT = 3
    SOURCE_PASSPORT = 7

cdef enum:
    IDENTITY_MAX = 64          # bytes: kind, issuer, canonical number and two NULs
    SCRATCH_MAX = 48           # bytes of fields that stand nowhere as they are kept
    HEADS_MAX = 5 * FIELDS + 16  # bytes of details that are not text
    MASK_MAX = 64              # bytes of a masked name


cdef struct Slice:             # UTF-8; of bytes that outlive the person
    const uint8_t* at
    size_t size


cdef struct Person:            # never copied: fields may point into its own scratch
    Slice fields[FIELDS]
    uint8_t source
    uint8_t identity[IDENTITY_MAX]  # kind NUL issuer NUL canonical: what the person key is made of
    size_t identity_size
    uint8_t scratch[SCRATCH_MAX]
    size_t scratch_size


cdef void begin(Person* person) noexcept nogil

# A field as given, or room for it in the scratch, which the caller knows to suffice.
cdef void put(Person* person, int field, const uint8_t* at, size_t size) noexcept nogil
cdef uint8_t* put_room(Person* person, int field, size_t size) noexcept nogil

# Who it is; False when it does not fit. kind and issuer end with NUL.
cdef bint identify(
    Person* person, const char* kind, const char* issuer, const uint8_t* at, size_t size
) noexcept nogil

cdef bint is_digits(const uint8_t* at, size_t size) noexcept nogil
cdef bint is_id_number(const uint8_t* at, size_t size) noexcept nogil
cdef bint is_qid(const uint8_t* at, size_t size) noexcept nogil
cdef bint is_bhyt_number(const uint8_t* at, size_t size) noexcept nogil
cdef bint is_passport_number(const uint8_t* at, size_t size) noexcept nogil
cdef uint32_t to_number(const uint8_t* at, size_t size) noexcept nogil

cdef size_t details_room(const Person* person) noexcept nogil
cdef size_t write_details(const Person* person, uint8_t* room) noexcept nogil
cdef size_t mask_name(const Person* person, uint8_t* room) noexcept nogil
