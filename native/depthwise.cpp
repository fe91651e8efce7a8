// Convolutions of each channel by itself.

#include "depthwise.h"
#include "shares.h"
#include "weights.h"

namespace CONVBIAS_INSTRUCTIONS {
namespace {

// Inputs that stay in the second cache, beside what is fetched.
constexpr int64_t AT_HAND = FETCHES ? 1 << 15 : 1 << 18;

int64_t packed_size(const Convolution& c) { return c.kernel[0] * c.kernel[1] * c.channels; }

// [tap][channel]
void pack(const Convolution& c, const Weights& w, float* packed, int) {
    for (int64_t i = 0; i < c.kernel[0]; i++)
        for (int64_t j = 0; j < c.kernel[1]; j++)
            for (int64_t channel = 0; channel < c.channels; channel++) *packed++ = *weight_at(c, w, channel, 0, i, j);
}

// In what order rows of outputs are made: samples take turns, as many as the second cache holds all lines for that a
// row reads, so that a row of the field is read once for all of them.
struct Turns {
    const Convolution& c;
    const int64_t together;

    explicit Turns(const Convolution& c)
        : c(c), together(at_least(1, least(c.samples, AT_HAND / (c.kernel[0] * c.size[1] * c.channels)))) {}

    struct Turn {
        int64_t sample, row;
    };

    Turn turn(int64_t number) const {
        const int64_t first = number / (together * c.out[0]) * together, in_group = number - first * c.out[0];
        const int64_t samples = least(together, c.samples - first);
        return {first + in_group % samples, in_group / samples};
    }
};

// The lines of the image at x that row `row` + 1 reads and `row` does not.
Ahead ahead_of(const Convolution& c, const float* x, int64_t row) {
    const int64_t next = row * c.stride[0] - c.before[0] + (c.kernel[0] - 1) * c.dilation[0] + 1;
    const int64_t from = least(at_least(next, 0), c.size[0]), end = least(at_least(next + c.stride[0], 0), c.size[0]);
    return {x + from * c.size[1] * c.channels, x + end * c.size[1] * c.channels};
}

bool convolve(const Convolution& c, const float* x, const float* packed, const float* residual, float* y,
              const Field& field, int activation, int threads) {
    const Finishing finish(field, residual, activation, c.samples, c.out[1] * c.channels, is_streamable(y, residual, c.channels));
    const Whole whole = whole_row(c);
    const Turns turns(c);
    share(c.samples * c.out[0], threads, [&](int64_t number) {
        const auto [sample, row] = turns.turn(number);
        const Ends ends = finish.ends(sample, row * c.out[1] * c.channels);
        const float* image = x + sample * c.size[0] * c.size[1] * c.channels;
        convolve_row(c, whole, image, 0, packed, row, finish, ends, y + sample * finish.places, ahead_of(c, image, row));
    });
    return true;
}

}  // namespace

extern const Method depthwise = {packed_size, pack, convolve};

}  // namespace CONVBIAS_INSTRUCTIONS
