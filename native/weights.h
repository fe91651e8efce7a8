// Weights where a convolution's caller has them.

#pragma once

#include "convbias.h"

namespace CONVBIAS_INSTRUCTIONS {
namespace {

// Where that of tap (i, j) of a slice lies, which rotated weights have at the opposite one.
inline const float* weight_at(const Convolution& c, const Weights& w, int64_t filter, int64_t channel, int64_t i,
                              int64_t j, int64_t s = 0) {
    const int64_t row = w.rotated ? c.kernel[0] - 1 - i : i, column = w.rotated ? c.kernel[1] - 1 - j : j;
    const int64_t slice = w.rotated ? c.slices.kernel - 1 - s : s;
    return w.values + filter * w.filter + channel * w.channel + slice * w.slice + row * w.tap[0] + column * w.tap[1];
}

}  // namespace
}  // namespace CONVBIAS_INSTRUCTIONS
