// The weights of products of matrices in their panels.

#pragma once

#include "multiply.h"
#include "shares.h"
#include "weights.h"

namespace CONVBIAS_INSTRUCTIONS {
namespace {

inline int64_t taps_of(const Convolution& c) { return c.kernel[0] * c.kernel[1]; }

inline int64_t packed_size(const Convolution& c) { return taps_of(c) * c.channels * packed_filters(c.filters); }

// [panel][tap][channel][filter]
inline void pack(const Convolution& c, const Weights& w, float* packed, int threads) {
    share(panels(c.filters), threads, [&](int64_t panel) {
        const int64_t width = least(PANEL, packed_filters(c.filters) - panel * PANEL);
        float* to = packed + panel * PANEL * taps_of(c) * c.channels;
        for (int64_t i = 0; i < c.kernel[0]; i++)
            for (int64_t j = 0; j < c.kernel[1]; j++)
                for (int64_t channel = 0; channel < c.channels; channel++)
                    for (int64_t l = 0; l < width; l++) {
                        const int64_t filter = panel * PANEL + l;
                        *to++ = filter < c.filters ? *weight_at(c, w, filter, channel, i, j) : 0.0f;
                    }
    });
}

}  // namespace
}  // namespace CONVBIAS_INSTRUCTIONS
