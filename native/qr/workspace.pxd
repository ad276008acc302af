"""C face of native.qr.workspace: the memory that the stages of one reader share."""

from native.qr.reader cimport Workspace

cdef Workspace* workspace_new() noexcept nogil
cdef void workspace_free(Workspace* ws) noexcept nogil
cdef int workspace_fit(Workspace* ws, int width, int height) noexcept nogil
