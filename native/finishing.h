// The field and the activation of what a convolution just computed, while it is in registers or in the first
// cache.

#pragma once

#include <stdlib.h>
#include <string.h>

#include "field.h"
#include "kernels.h"
#include "pages.h"
#include "vector.h"

namespace CONVBIAS_INSTRUCTIONS {
namespace {

// Memory for `count` numbers, or null.
inline float* reserve(int64_t count) {
    float* memory = (float*)aligned_alloc(64, (count * sizeof(float) + 63) / 64 * 64);
    ask_large_pages(memory, count);
    return memory;
}

// Whether an output may be written past the caches in whole vectors: not over a residual, which is in them by then, and
// would be thrown out first (two times as long, measured).
inline bool is_streamable(const float* y, const float* residual, int64_t filters) {
    return filters % LANES == 0 && is_aligned(y) && y != residual;
}

// What sums start from, and what they are cut off at before they are stored.
struct Ends {
    const float* starts[2] = {};  // arrays, of which those that are there come first: nothing, one, or their sum
    Vector low = all(-__builtin_inff()), high = all(__builtin_inff());
    bool capped = false;  // whether `high` is below infinity: put_sums() does without it elsewhere
    bool past = false;  // the caches, where the output is too large for them

    Vector first(int64_t at) const { return starts[1] ? first<2>(at) : starts[0] ? first<1>(at) : first<0>(at); }
    // The same of so many starts.
    template <int count>
    Vector first(int64_t at) const {
        const Vector start = count ? load(starts[0] + at) : Vector{};
        return count > 1 ? start + load(starts[1] + at) : start;
    }
    Vector cut(Vector sum) const { return sum < low ? low : sum; }
    Vector cap(Vector sum) const { return sum > high ? high : sum; }
    Vector last(Vector sum) const { return cap(cut(sum)); }
};

class Finishing {
   public:
    const int64_t places;

    // The kernel takes the ends that are offered, and begins with all of a place's channels; of `longest` numbers
    // at once at most. `streamable` ones may be written past the caches. A `residual`, which lies as the output, may be added too.
    Finishing(const Field& given, const float* residual, int activation, int64_t samples, int64_t longest, bool streamable)
        : places(places_of(given)),
          residual(residual),
          field(collapsed(given)),
          lies(lies_as_places(field)),
          repeated(repeats(field, given.sizes[given.axes - 1]) ? reserve(longest) : nullptr),
          fused(activation <= RELU6 && (lies || repeated || !field.terms)),
          past(fused && streamable && samples * places >= LARGE),
          capped(fused && activation == RELU6),
          low(all(fused && activation != NONE ? 0 : -__builtin_inff())),
          high(all(capped ? 6 : __builtin_inff())),
          finish(!fused && (field.terms || activation != NONE) ? finish_of(activation) : nullptr) {
        const int64_t channels = field.sizes[field.axes - 1];
        for (int64_t i = 0; repeated && i < longest; i += channels)
            memcpy(repeated + i, field.term[0].values, least(channels, longest - i) * sizeof(float));
    }

    Finishing(const Finishing&) = delete;
    ~Finishing() { free(repeated); }

    // For the sums of sample `n` from place `begin` on.
    Ends ends(int64_t n, int64_t begin) const {
        const float* start = !fused ? nullptr : repeated ? repeated : lies ? field.term[0].values + begin : nullptr;
        const float* other = residual ? residual + n * places + begin : nullptr;
        return {{start ? start : other, start ? other : nullptr}, low, high, capped, past};
    }

    // How far on sums start for what lies `line` numbers on: not at all, where the field is the same everywhere.
    int64_t start_line(int64_t line) const { return fused && repeated ? 0 : line; }

    // Whether the ends do all.
    bool inside() const { return !finish; }

    // For `count` numbers of a sample, from `begin` on, which lie at `z`; nothing where the ends did it.
    void operator()(float* z, int64_t begin, int64_t count) const {
        if (!finish) return;
        if (repeated) return finish(z, repeated, count);
        float room[FORWARD_BLOCK];
        for (int64_t done = 0; done < count; done += FORWARD_BLOCK) {
            const int64_t part = least(count - done, FORWARD_BLOCK);
            finish(z + done, read_field(field, begin + done, part, room), part);
        }
    }

   private:
    // Outputs of so many numbers leave the last cache before the next layer reads them: below, to write past it
    // costs that layer more than it saves (measured with a 1×1 and a depthwise convolution behind).
    static constexpr int64_t LARGE = 3 << 20;

    const float* const residual;  // or null
    const Field field;
    const bool lies;
    float* const repeated;  // or null: a field that is the same at every place, at as many as are asked for
    const bool fused, past, capped;
    const Vector low, high;
    Finish* const finish;
};

}  // namespace
}  // namespace CONVBIAS_INSTRUCTIONS
