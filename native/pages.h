// How memory that nobody has written yet comes: a system maps it page by page when it is first written, of 4 KiB each
// where nobody asks for larger ones, which for large arrays takes longer than many a convolution.

#pragma once

#include <stdint.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace {

// Asks for large pages where `count` numbers are going to be written; where they are mapped already, or the system has
// none, nothing changes.
inline void ask_large_pages(const void* to, int64_t count, int64_t size = sizeof(float)) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    // Arrays of fewer bytes have few large pages that are theirs alone.
    constexpr int64_t LEAST = 4 << 20;
    constexpr uintptr_t PAGE = 1 << 16;  // a multiple of any machine's small ones
    if (!to || count * size < LEAST) return;
    const uintptr_t begin = ((uintptr_t)to + PAGE - 1) / PAGE * PAGE, end = ((uintptr_t)to + count * size) / PAGE * PAGE;
    (void)madvise((void*)begin, end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace
