// Convolutions as they are written: rows of the image times panels of weights. For few channels on large grids,
// where there is more to be read and written than to be computed.

#include "borders.h"
#include "finishing.h"
#include "multiply.h"
#include "shares.h"
#include "taps.h"
#include "weights.h"

namespace CONVBIAS_INSTRUCTIONS {
namespace {

// Numbers of the output that are worked on at a time.
constexpr int64_t PART = 8192;

// Half cycles that the sums of a block take at least for each number: an addition waits for the one before.
constexpr int64_t LATENCY = 8;
// Half cycles that a vector of sums takes to be started, finished and stored.
constexpr int64_t FINISHING = 8;

int64_t window(const Convolution& c, int64_t pixels) { return c.kernel[1] + (pixels - 1) * c.stride[1]; }

// How long a row of outputs takes, of which so many are taken for one: two numbers are read in a cycle.
int64_t cost(const Convolution& c, int64_t pixels) {
    const int64_t groups = c.out[1] / pixels, blocks = (groups + TALL - 1) / TALL;
    const int64_t rest = c.out[1] % pixels > 0;
    const int64_t depth = c.kernel[0] * window(c, pixels) * c.channels;
    return depth * (at_least(blocks * LATENCY, groups + blocks) + rest * LATENCY) + (groups + rest) * FINISHING;
}

// Fewer filters than half a vector: so many neighbouring outputs are taken for one, with as many times the
// filters, so that vectors are full. Their windows are wider, and some of their weights are 0.
int64_t pixels_of(const Convolution& c) {
    int64_t best = 1;
    for (int64_t pixels = 2; pixels * c.filters <= LANES; pixels++)
        if (cost(c, pixels) < cost(c, best)) best = pixels;
    return best;
}

struct Grouped {
    int64_t pixels, filters, width, step, depth;

    explicit Grouped(const Convolution& c)
        : pixels(pixels_of(c)),
          filters(c.filters * pixels),
          width(window(c, pixels)),
          step(pixels * c.stride[1] * c.channels),
          depth(width * c.channels) {}
};

int64_t packed_size(const Convolution& c) {
    const Grouped g(c);
    return c.kernel[0] * g.depth * packed_filters(g.filters);
}

// [panel][row of the kernel][column of the window][channel][filter]
void pack(const Convolution& c, const Weights& w, float* packed, int threads) {
    const Grouped g(c);
    share(panels(g.filters), threads, [&](int64_t panel) {
        const int64_t width = least(PANEL, packed_filters(g.filters) - panel * PANEL);
        float* to = packed + panel * PANEL * c.kernel[0] * g.depth;
        for (int64_t i = 0; i < c.kernel[0]; i++)
            for (int64_t j = 0; j < g.width; j++)
                for (int64_t channel = 0; channel < c.channels; channel++)
                    for (int64_t l = 0; l < width; l++) {
                        const int64_t filter = panel * PANEL + l, tap = j - filter / c.filters * c.stride[1];
                        const bool there = filter < g.filters && tap >= 0 && tap < c.kernel[1];
                        *to++ = there ? *weight_at(c, w, filter % c.filters, channel, i, tap) : 0.0f;
                    }
    });
}

// Where the windows of `groups` groups of outputs of a row lie, from output `first` on. Where they reach beyond the
// image, that is in a copy with zeros there.
Rows find_rows(const Convolution& c, const Grouped& g, const float* image, int64_t row, int64_t first, int64_t groups,
               float* patch) {
    const int64_t begin = first * c.stride[1] - c.before[1];
    const int64_t length = (groups - 1) * g.pixels * c.stride[1] + g.width;
    const int64_t left = least(length, at_least(0, -begin)), right = at_least(left, least(length, c.size[1] - begin));
    Rows rows;
    rows.step = g.step;
    for (int64_t i = 0; i < c.kernel[0]; i++) {
        const int64_t line = line_read(c, row, i);
        if (line < 0) continue;
        const float* from = image + (line * c.size[1] + begin) * c.channels;
        if (left > 0 || right < length) {
            memset(patch, 0, length * c.channels * sizeof(float));
            memcpy(patch + left * c.channels, from + left * c.channels, (right - left) * c.channels * sizeof(float));
            from = patch;
            patch += length * c.channels;
        }
        rows.segment[rows.segments++] = {from, g.depth, i * g.depth};
    }
    return rows;
}

bool convolve(const Convolution& c, const float* x, const float* packed, const float* residual, float* y,
              const Field& field, int activation, int threads) {
    const Grouped g(c);
    // What is written past the caches by half lines waits for the other halves, which takes longer than it saves.
    const bool aligned = LANES == LINE && g.filters % LANES == 0 && c.out[1] * c.filters % LANES == 0 && is_aligned(y);
    const bool overlaps = c.kernel[1] == OVERLAPPING && c.stride[1] == 1 && g.pixels == 1 && c.filters <= LANES;
    const int64_t block = overlaps ? SIDE_BY_SIDE : g.filters > LANES ? ROWS : TALL;
    // Parts of a row: whole blocks.
    const int64_t part = at_least(1, PART / (block * g.filters)) * block * g.pixels;
    const Finishing finish(field, residual, activation, c.samples, part * c.filters, aligned);
    const int64_t across = (c.out[1] + part - 1) / part;
    // What a block reads.
    const int64_t room = c.kernel[0] * (block * g.step + g.depth);
    float* patches = reserve(room * threads);
    if (!patches) return false;
    const Inside inside(c);
    share(c.samples * c.out[0] * across, threads, [&](int64_t unit) {
        float* patch = patches + room * omp_get_thread_num();
        // All samples' parts of one place, one after another: they share what is read of the field.
        const int64_t sample = unit % c.samples, row = unit / c.samples / across;
        const int64_t first = unit / c.samples % across * part, outputs = least(part, c.out[1] - first);
        const int64_t begin = (row * c.out[1] + first) * c.filters, groups = (outputs + g.pixels - 1) / g.pixels;
        const float* image = x + sample * c.size[0] * c.size[1] * c.channels;
        const auto convolve_groups = [&](int64_t from, int64_t last) {
            const int64_t end = least(last, groups);
            const Rows rows = find_rows(c, g, image, row, first + from * g.pixels, end - from, patch);
            const int64_t at = begin + from * g.filters;
            const Product to{y + sample * finish.places + at, g.filters, finish.ends(sample, at)};
            // The last group of a row may have fewer outputs.
            const int64_t whole = least(end, outputs / g.pixels) - from, rest = outputs % g.pixels * c.filters;
            const float* panel = packed;
            for (int64_t done = 0; done < g.filters; done += PANEL, panel += PANEL * c.kernel[0] * g.depth) {
                const int64_t filters = least(PANEL, g.filters - done);
                if (overlaps)
                    multiply_overlapping(rows, whole, panel, filters, to);
                else
                    multiply(rows, 0, whole, panel, filters, to, done);
                if (whole < end - from) multiply(rows, whole, 1, panel, rest, to, 0);
            }
        };
        // Blocks in which a window reaches beyond the image are computed from a copy.
        const int64_t inner = least(groups, rounded_up(inside.begin - first, g.pixels));
        const int64_t outer = at_least(0, groups - at_least(0, inside.end - first) / g.pixels);
        const int64_t left = least(groups, rounded_up(inner, block) * block);
        const int64_t right = at_least(left, groups - rounded_up(outer, block) * block);
        for (int64_t at = 0; at < left; at += block) convolve_groups(at, at + block);
        if (left < right) convolve_groups(left, right);
        for (int64_t at = right; at < groups; at += block) convolve_groups(at, at + block);
        finish(y + sample * finish.places + begin, begin, outputs * c.filters);
    });
    free(patches);
    return true;
}

}  // namespace

extern const Method direct = {packed_size, pack, convolve};

}  // namespace CONVBIAS_INSTRUCTIONS
