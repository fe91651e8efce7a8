// Rows of outputs of convolutions of each channel by itself: vectors of channels, the sums of neighbouring outputs in
// registers.

#pragma once

#include <type_traits>

#include "borders.h"
#include "finishing.h"
#include "vector.h"

namespace CONVBIAS_INSTRUCTIONS {
namespace {

// Vectors of channels whose sums are kept in registers at an edge.
constexpr int EDGE = 4;
constexpr int64_t MOST_LINES = 16;

// Vectors of less than a line go over each line several times, with others between: machines do not foresee that, and
// are told to fetch what is far away; and what is written past the caches has to be whole lines.
constexpr bool FETCHES = LANES < LINE;
// Outputs of so many numbers are far away, and so are their inputs.
constexpr int64_t FAR = 3 << 19;

// What a row of outputs reads: those rows of the kernel that meet the image, each from where the window of
// output 0 begins, which may be beyond the border.
struct Lines {
    struct Line {
        const float *from, *weights;
    } line[MOST_LINES];
    int64_t lines, channels, taps, tap, output;  // how far apart taps are, and outputs
};

// sums[o] += Σ over the taps of a row of the kernel, for R outputs side by side.
template <int R>
ALWAYS_INLINE void add_taps(const Lines& lines, const float* from, const float* weights, Vector (&sums)[R]) {
    for (int64_t j = 0; j < lines.taps; j++, from += lines.tap, weights += lines.channels) {
        const Vector w = load(weights);
#pragma GCC unroll 16
        for (int o = 0; o < R; o++) sums[o] += load(from + o * lines.output) * w;
    }
}

// The same for K taps and stride S without dilation: each input is read once for all taps.
template <int R, int K, int S, bool clipped>
ALWAYS_INLINE void add_taps(const Lines& lines, const float* from, const float* weights, const Reach& reach, Vector (&sums)[R]) {
    Vector w[K];
#pragma GCC unroll 16
    for (int j = 0; j < K; j++) w[j] = load_once(weights + j * lines.channels);
#pragma GCC unroll 64
    for (int p = 0; p < (R - 1) * S + K; p++) {
        if (clipped && !reach.meets(p)) continue;
        const Vector x = load_once(from + p * lines.channels);
#pragma GCC unroll 16
        for (int j = 0; j < K; j++) {
            const int o = p - j;
            if (o >= 0 && o % S == 0 && o / S < R) sums[o / S] += x * w[j];
        }
    }
}

// R outputs from output `first` on for one vector of channels: add(line, sums) adds what a line gives.
template <int R, class Add>
inline void block(const Lines& lines, int64_t first, int64_t channel, const Ends& ends, float* y, Add add) {
    const int64_t step = lines.channels, at = first * step + channel;
    Vector sums[R];
#pragma GCC unroll 16
    for (int o = 0; o < R; o++) sums[o] = ends.first(at + o * step);
    for (int64_t i = 0; i < lines.lines; i++)
        add(lines.line[i].from + first * lines.output + channel, lines.line[i].weights + channel, sums);
    if (!FETCHES && ends.past) {
#pragma GCC unroll 16
        for (int o = 0; o < R; o++) stream(y + at + o * step, ends.last(sums[o]));
    } else {
#pragma GCC unroll 16
        for (int o = 0; o < R; o++) store(y + at + o * step, ends.last(sums[o]));
    }
}

// One output, of whose taps [begin, end) lie within the image, for V vectors of channels at a time.
template <int V>
inline void edge(const Lines& lines, int64_t output, int64_t begin, int64_t end, const Ends& ends,
                 float* y) {
    for (int64_t c = 0; c < lines.channels; c += V * LANES) {
        const int64_t channel = least(c, lines.channels - V * LANES);
        Vector sums[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) sums[v] = ends.first(output * lines.channels + channel + v * LANES);
        for (int64_t i = 0; i < lines.lines; i++)
            for (int64_t j = begin; j < end; j++) {
                const float* from = lines.line[i].from + output * lines.output + j * lines.tap + channel;
                const float* weights = lines.line[i].weights + j * lines.channels + channel;
#pragma GCC unroll 4
                for (int v = 0; v < V; v++) sums[v] += load(from + v * LANES) * load(weights + v * LANES);
            }
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) store(y + output * lines.channels + channel + v * LANES, ends.last(sums[v]));
    }
}

// Part of its caller, for gcc leaves out calls that do nothing but this.
ALWAYS_INLINE void fetch(const float* from, const float* end) {
    for (; from < end; from += LINE) __builtin_prefetch(from);
}

// The lines of the image that the next row reads first.
struct Ahead {
    const float *from = nullptr, *end = nullptr;
};

struct Row {
    const Convolution& c;
    const Lines& lines;
    const Finishing& finish;
    float* y;       // the sample's output,
    int64_t begin;  // and where the row begins in it
    Ends ends;
    Ahead ahead;
    bool far;

    void edges(int64_t first, int64_t last) const {
        for (int64_t o = first; o < last; o++) {
            const Taps taps(c, o);
            if (c.channels >= EDGE * LANES)
                edge<EDGE>(lines, o, taps.begin, taps.end, ends, y + begin);
            else
                edge<1>(lines, o, taps.begin, taps.end, ends, y + begin);
        }
        finished(first, last);
    }

    // Outputs [first, last), most of them in blocks of R, the others in smaller ones; windows lie within the image.
    template <int R>
    void insides(int64_t first, int64_t last) const {
        for (; first + R <= last; first += R)
            across<R>(first, [&](const float* from, const float* weights, Vector(&sums)[R]) {
                add_taps<R>(lines, from, weights, sums);
            });
        if constexpr (R > 1) insides<(R > 3 ? R / 3 : 1)>(first, last);
    }

    // The same for K taps and stride S without dilation, wherever the windows lie.
    template <int R, int K, int S>
    void along(int64_t first, int64_t last) const {
        for (; first + R <= last; first += R) {
            const Reach reach(c, first);
            const auto with = [&](auto clipped) {
                across<R>(first, [&](const float* from, const float* weights, Vector(&sums)[R]) {
                    add_taps<R, K, S, decltype(clipped)::value>(lines, from, weights, reach, sums);
                });
            };
            if (reach.holds((R - 1) * S + K))
                with(std::false_type());
            else
                with(std::true_type());
        }
        if constexpr (R > 1) along<R / 2, K, S>(first, last);
    }

    template <int R, class Add>
    void across(int64_t first, Add add) const {
        for (int64_t channel = 0; channel < c.channels; channel += LANES) {
            if (FETCHES && far) fetch_behind(first * c.channels + channel * R, R * c.channels, R * LANES);
            // The last vector starts earlier, where it would reach beyond the channels.
            block<R>(lines, first, least(channel, c.channels - LANES), ends, y + begin, add);
        }
        finished(first, first + R);
    }

    // While `count` outputs are made from number `at` on: as many `behind` them, where their sums start, and what the
    // next row reads at their places.
    ALWAYS_INLINE void fetch_behind(int64_t at, int64_t behind, int64_t count) const {
        const int64_t inputs = c.stride[0] * c.stride[1], there = ahead.end - ahead.from;
        if (inputs * at < there) fetch(ahead.from + inputs * at, ahead.from + least(inputs * (at + count), there));
        fetch(y + begin + at + behind, y + begin + at + behind + count);
        if (ends.starts[0]) fetch(ends.starts[0] + at + behind, ends.starts[0] + at + behind + count);
    }

    void finished(int64_t first, int64_t last) const {
        const int64_t at = begin + first * c.channels;
        finish(y + at, at, (last - first) * c.channels);
    }
};

using Whole = void (*)(const Row&);

// As many sums as registers hold, beside the weights of K taps where they are held too.
template <int K>
Whole whole_row(int64_t stride) {
    constexpr int R = beside(K);
    return stride == 1 ? Whole([](const Row& row) { row.along<R, K, 1>(0, row.c.out[1]); })
                       : Whole([](const Row& row) { row.along<R, K, 2>(0, row.c.out[1]); });
}

inline Whole whole_row(const Convolution& c) {
    if (c.dilation[1] == 1 && c.stride[1] <= 2) switch (c.kernel[1]) {
            case 3: return whole_row<3>(c.stride[1]);
            case 5: return whole_row<5>(c.stride[1]);
            case 7: return whole_row<7>(c.stride[1]);
            case 9: return whole_row<9>(c.stride[1]);
        }
    return [](const Row& row) {
        const Inside inside(row.c);
        row.edges(0, inside.begin);
        row.insides<MOST_BESIDE>(inside.begin, inside.end);
        row.edges(inside.end, row.c.out[1]);
    };
}

// Row `row` of a sample's outputs, to y, from its image, whose line `first` begins at x.
inline void convolve_row(const Convolution& c, Whole whole, const float* x, int64_t first, const float* packed, int64_t row,
                         const Finishing& finish, const Ends& ends, float* y, Ahead ahead = {}) {
    Lines lines;
    lines.lines = 0;
    lines.channels = c.channels;
    lines.taps = c.kernel[1];
    lines.tap = c.dilation[1] * c.channels;
    lines.output = c.stride[1] * c.channels;
    for (int64_t i = 0; i < c.kernel[0]; i++) {
        const int64_t line = line_read(c, row, i);
        if (line < 0) continue;
        const float* from = x + ((line - first) * c.size[1] - c.before[1]) * c.channels;
        lines.line[lines.lines++] = {from, packed + i * c.kernel[1] * c.channels};
    }
    const bool far = c.samples * finish.places >= FAR;
    whole({c, lines, finish, y, row * c.out[1] * c.channels, ends, ahead, far});
}

}  // namespace
}  // namespace CONVBIAS_INSTRUCTIONS
