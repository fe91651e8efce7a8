// The gradients of convolutions of each channel by itself, and of their activation. Those of the weights are sums over all
// outputs, a window's taps in registers along a row, and in double from row to row.

#include <stdlib.h>

#include "depthwise.h"
#include "shares.h"
#include "sums.h"

namespace CONVBIAS_INSTRUCTIONS {
namespace {

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

// The sums for the weights, in some parts: the last vector of channels may overlap the one before, which must not count
// twice, so that it has its own.
class WeightSums {
   public:
    WeightSums(const Convolution& c, int64_t parts)
        : c(c),
          parts(parts),
          weights(c.kernel[0] * c.kernel[1] * c.channels),
          add(add_row_of(c)),
          totals(add ? (double*)calloc(2 * parts * weights, sizeof(double)) : nullptr) {}

    WeightSums(const WeightSums&) = delete;
    ~WeightSums() { free(totals); }

    bool has_memory() const { return totals; }

    // What output row `row` of a sample, whose gradient lies at gz, gives with the sample's image.
    void add_row(int64_t part, const float* image, int64_t row, const float* gz) const {
        for (int64_t channel = 0; channel < c.channels; channel += LANES) {
            const bool over = channel + LANES > c.channels;
            const int64_t at = over ? c.channels - LANES : channel;
            double* to = totals + (2 * part + over) * weights + at;
            for (int64_t i = 0; i < c.kernel[0]; i++) {
                const int64_t line = line_read(c, row, i);
                if (line < 0) continue;
                const Pair pair{image + (line * c.size[1] - c.before[1]) * c.channels + at, gz + at, c.channels};
                add(c, pair, to + i * c.kernel[1] * c.channels);
            }
        }
    }

    void write(float* gw) const {
        const int64_t whole = c.channels / LANES * LANES, taps = weights / c.channels;
        for (int64_t i = 0; i < weights; i++) {
            const int64_t tap = i / c.channels, channel = i % c.channels;
            double total = 0;
            for (int64_t part = 0; part < parts; part++) total += totals[(2 * part + (channel >= whole)) * weights + i];
            gw[channel * taps + tap] = float(total);
        }
    }

   private:
    const Convolution& c;
    const int64_t parts, weights;
    AddRow* const add;
    double* const totals;
};

// Some rows of the outputs, and of the inputs, of every sample: the part's own, and those of gz [from, to) that it reads.
struct Band {
    int64_t row, rows, input, inputs, from, to;
};

// As many rows as keep those that are read twice few, in bands that are the same for any number of threads.
struct Bands {
    const Convolution &c, &turned;
    const int64_t reach = (c.kernel[0] - 1) * c.dilation[0], count = at_least(1, c.out[0] / at_least(7, 2 * reach));

    Band band(int64_t b) const {
        const int64_t row = c.out[0] * b / count, input = c.size[0] * b / count;
        Band band{row, c.out[0] * (b + 1) / count - row, input, c.size[0] * (b + 1) / count - input, 0, 0};
        // Of inputs' windows and the part's own rows.
        band.from = at_least(0, least(row, input - turned.before[0]));
        band.to = least(c.out[0], at_least(row + band.rows, input + band.inputs - turned.before[0] + reach));
        return band;
    }

    int64_t most() const {
        int64_t rows = 0;
        for (int64_t b = 0; b < count; b++) rows = at_least(rows, band(b).to - band(b).from);
        return rows;
    }
};

}  // namespace

bool depthwise_gradients(const Gradients& wanted, const Convolution& c, const Convolution& turned, const float* packed, int threads) {
    const int64_t line = c.out[1] * c.channels, image = c.size[0] * c.size[1] * c.channels;
    const Bands bands{c, turned};
    const int64_t room = bands.most() * line;
    const WeightSums weights(c, bands.count);
    const FieldSums sums(wanted.sums, c.samples, c.out[0] * line, room, threads);
    const Field none{3, {c.size[0], c.size[1], c.channels}, 0, {}};
    const Finishing finish(none, nullptr, NONE, c.samples, c.size[1] * c.channels, is_streamable(wanted.gx, nullptr, c.channels));
    const Whole whole = whole_row(turned);
    HandBack* const hand_back = hand_back_of(wanted.activation);
    float* const rooms = reserve(threads * room);
    const bool has_memory = rooms && sums.has_memory() && (weights.has_memory() || !wanted.gw);
    if (has_memory) share(bands.count, threads, [&](int64_t b) {
        const Band band = bands.band(b);
        float* const gz = rooms + omp_get_thread_num() * room;
        for (int64_t n = 0; n < c.samples; n++) {
            const int64_t from = (n * c.out[0] + band.from) * line, begin = band.row * line, count = band.rows * line;
            const float* const own = gz + (band.row - band.from) * line;
            hand_back((wanted.saved ? wanted.saved : wanted.gy) + from, wanted.gy + from, gz, (band.to - band.from) * line);
            sums.add(n, own, begin, count);
            sums.end_of(n, begin, count);
            for (int64_t row = 0; wanted.gw && row < band.rows; row++)
                weights.add_row(b, wanted.x + n * image, band.row + row, own + row * line);
            for (int64_t row = band.input; wanted.gx && row < band.input + band.inputs; row++)
                convolve_row(turned, whole, gz, band.from, packed, row, finish, finish.ends(n, row * c.size[1] * c.channels), wanted.gx + n * image);
        }
    });
    if (has_memory && wanted.gw) weights.write(wanted.gw);
    free(rooms);
    return has_memory;
}

bool depthwise_weights(const Convolution& c, const float* x, const float* gz, float* gw, int threads) {
    const int64_t rows = c.samples * c.out[0];
    const int64_t parts = least(rows, MOST_PARTS);
    const WeightSums sums(c, parts);
    if (!sums.has_memory()) return false;
    share(parts, threads, [&](int64_t part) {
        for (int64_t r = rows * part / parts; r < rows * (part + 1) / parts; r++)
            sums.add_row(part, x + r / c.out[0] * c.size[0] * c.size[1] * c.channels, r % c.out[0], gz + r * c.out[1] * c.channels);
    });
    sums.write(gw);
    return true;
}

}  // namespace CONVBIAS_INSTRUCTIONS
