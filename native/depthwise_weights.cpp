// The gradient of the weights of a convolution of each channel by itself: the sums of neighbouring taps in
// registers along a row, and in double from row to row.

#include "borders.h"
#include "finishing.h"
#include "shares.h"
#include "vector.h"

namespace CONVBIAS_INSTRUCTIONS {
namespace {

constexpr int64_t MOST_PARTS = 16;

// A row of outputs, gy, and the row of the image under one row of the kernel, from where the window of output 0
// begins; for one vector of channels.
struct Pair {
    const float *x, *gy;
    int64_t step;  // from place to place
};

// sums[j] += Σ x[o · S + j] · gy[o] over R outputs o from `first` on; `reach` says which inputs lie within the image.
template <int K, int S, int R, bool clipped>
ALWAYS_INLINE void add_block(const Pair& pair, int64_t first, const Reach& reach, Vector* sums) {
    Vector g[R];
#pragma GCC unroll 32
    for (int o = 0; o < R; o++) g[o] = load_once(pair.gy + (first + o) * pair.step);
    const float* from = pair.x + first * S * pair.step;
#pragma GCC unroll 64
    for (int p = 0; p < (R - 1) * S + K; p++) {
        if (clipped && !reach.meets(p)) continue;
        const Vector x = load_once(from + p * pair.step);
#pragma GCC unroll 16
        for (int j = 0; j < K; j++) {
            const int o = p - j;
            if (o >= 0 && o % S == 0 && o / S < R) sums[j] += x * g[o / S];
        }
    }
}

template <int K, int S, int R>
inline void add_blocks(const Convolution& c, const Pair& pair, int64_t first, Vector* sums) {
    for (; first + R <= c.out[1]; first += R) {
        const Reach reach(c, first);
        if (reach.holds((R - 1) * S + K))
            add_block<K, S, R, false>(pair, first, reach, sums);
        else
            add_block<K, S, R, true>(pair, first, reach, sums);
    }
    if constexpr (R > 1) add_blocks<K, S, R / 2>(c, pair, first, sums);
}

template <int K, int S>
void add_row(const Convolution& c, const Pair& pair, double* totals) {
    Vector sums[K];
#pragma GCC unroll 16
    for (int j = 0; j < K; j++) sums[j] = Vector{};
    add_blocks<K, S, beside(K)>(c, pair, 0, sums);
    float all[K][LANES];
#pragma GCC unroll 16
    for (int j = 0; j < K; j++) store(all[j], sums[j]);
    for (int j = 0; j < K; j++)
        for (int l = 0; l < LANES; l++) totals[j * c.channels + l] += double(all[j][l]);
}

using AddRow = void(const Convolution&, const Pair&, double*);

template <int K>
AddRow* add_row_of(int64_t stride) {
    return stride == 1 ? add_row<K, 1> : add_row<K, 2>;
}

AddRow* add_row_of(const Convolution& c) {
    if (c.dilation[1] != 1 || c.stride[1] > 2) return nullptr;
    switch (c.kernel[1]) {
        case 3: return add_row_of<3>(c.stride[1]);
        case 5: return add_row_of<5>(c.stride[1]);
        case 7: return add_row_of<7>(c.stride[1]);
        case 9: return add_row_of<9>(c.stride[1]);
        default: return nullptr;
    }
}

}  // namespace

bool depthwise_weights(const Convolution& c, const float* x, const float* gy, float* gw, int threads) {
    AddRow* add = add_row_of(c);
    const int64_t weights = c.kernel[0] * c.kernel[1] * c.channels, rows = c.samples * c.out[0];
    // As many parts for any number of threads, so that sums are the same too.
    const int64_t parts = least(rows, MOST_PARTS);
    // The last vector of channels may overlap the one before, which must not count twice: it has its own totals.
    double* totals = add ? (double*)calloc(2 * parts * weights, sizeof(double)) : nullptr;
    if (!totals) return false;
    share(parts, threads, [&](int64_t part) {
        for (int64_t r = rows * part / parts; r < rows * (part + 1) / parts; r++) {
            const int64_t sample = r / c.out[0], row = r % c.out[0];
            for (int64_t channel = 0; channel < c.channels; channel += LANES) {
                const bool over = channel + LANES > c.channels;
                const int64_t at = over ? c.channels - LANES : channel;
                double* to = totals + (2 * part + over) * weights + at;
                for (int64_t i = 0; i < c.kernel[0]; i++) {
                    const int64_t line = line_read(c, row, i);
                    if (line < 0) continue;
                    const Pair pair{x + ((sample * c.size[0] + line) * c.size[1] - c.before[1]) * c.channels + at,
                                    gy + r * c.out[1] * c.channels + at, c.channels};
                    add(c, pair, to + i * c.kernel[1] * c.channels);
                }
            }
        }
    });
    const int64_t whole = c.channels / LANES * LANES;
    for (int64_t i = 0; i < weights; i++) {
        double total = 0;
        for (int64_t part = 0; part < parts; part++) total += totals[(2 * part + (i % c.channels >= whole)) * weights + i];
        gw[i] = float(total);
    }
    free(totals);
    return true;
}

}  // namespace CONVBIAS_INSTRUCTIONS
