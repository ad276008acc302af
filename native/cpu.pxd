"""C face of native.cpu: kernels ask for the level once per call and branch."""

# 0 scalar, 1 avx2, 2 neon: the CPU_* numbers of src/machine.h.
cdef int level() noexcept nogil

# Whether the SHA instructions of x86-64 are there; never at the scalar level.
cdef bint has_sha() noexcept nogil
