// What has to be part of its caller.

#pragma once

// A loop with a call in it does not vectorise, and sums that go to a call leave the registers: that takes up to twenty
// times as long. A compiler that finds its unit large enough would make calls of these.
#define ALWAYS_INLINE [[gnu::always_inline]] inline
