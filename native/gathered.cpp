// Deep convolutions as products of matrices: what some outputs read is gathered line by line to where it lies side by
// side, and multiplied by all weights, one panel after another.

#include "borders.h"
#include "finishing.h"
#include "panels.h"

namespace CONVBIAS_INSTRUCTIONS {
namespace {

// Gathered numbers that a thread works on by itself, a part of its second cache; and that all threads work on
// together, each with other weights, where there are no more than these, or many more weights.
constexpr int64_t OWN_ROOM = 1 << 17, COMMON_ROOM = 1 << 18;
// Weights of a panel that are used for one block after another.
constexpr int64_t PANEL_ROOM = 1 << 16;

// The outputs in blocks of much the same size; those of one place in all samples come one after another.
struct Blocks {
    const Convolution& c;
    const int64_t outputs = c.out[0] * c.out[1], places = (outputs + ROWS - 1) / ROWS, count = places * c.samples;
    const int64_t tap = (c.channels + LINE - 1) / LINE * GATHERED, size = taps_of(c) * tap;

    struct Block {
        int64_t sample, first, outputs;
    };

    Block block(int64_t number) const {
        const int64_t place = number / c.samples, first = outputs * place / places;
        return {number % c.samples, first, outputs * (place + 1) / places - first};
    }

    // What a block's outputs read: [tap][line][output][channel].
    void gather(const float* x, const Block& b, float* to) const {
        int64_t row = b.first / c.out[1], column = b.first % c.out[1];
        for (int64_t r = 0; r < b.outputs; r++, to += LINE) {
            float* at = to;
            for (int64_t i = 0; i < c.kernel[0]; i++) {
                const int64_t line = line_read(c, row, i);
                const float* from = x + (b.sample * c.size[0] + line) * c.size[1] * c.channels;
                for (int64_t j = 0; j < c.kernel[1]; j++, at += tap) {
                    const int64_t place = column * c.stride[1] - c.before[1] + j * c.dilation[1];
                    gather_place(line < 0 || place < 0 || place >= c.size[1] ? nullptr : from + place * c.channels, at);
                }
            }
            if (++column == c.out[1]) column = 0, row++;
        }
    }

    void gather_place(const float* from, float* to) const {
        int64_t channel = 0;
        for (; channel + LINE <= c.channels; channel += LINE, to += GATHERED)
            for (int64_t l = 0; l < LINE; l += LANES) store(to + l, from ? load(from + channel + l) : Vector{});
        for (; channel < c.channels; channel++) *to++ = from ? from[channel] : 0.0f;
    }
};

// What is multiplied, and where to.
struct Products {
    const Convolution& c;
    const float* const packed;
    float* const y;
    const Finishing& finish;
    const Blocks blocks{c};

    // Blocks [first, last), which lie gathered at `from`, times a panel of weights, some taps at a time; meanwhile those
    // are fetched that come next, of panel `next` in the end.
    void multiply_panel(const float* from, int64_t first, int64_t last, int64_t panel, int64_t next) const {
        const int64_t all = taps_of(c), filter = panel * PANEL, width = least(PANEL, packed_filters(c.filters) - filter);
        const int64_t most = least(MOST_SEGMENTS, at_least(1, PANEL_ROOM / (PANEL * c.channels)));
        const float* weights = packed + filter * all * c.channels;
        for (int64_t tap = 0; tap < all; tap += most) {
            const int64_t taps = least(most, all - tap);
            const float* coming = weights + taps * c.channels * width;
            if (tap + taps == all) coming = packed + next * PANEL * all * c.channels;
            for (int64_t b = first; b < last; b++) {
                Rows rows = rows_of(from + (b - first) * blocks.size + tap * blocks.tap, taps);
                // At each block as much as makes all of it.
                rows.pace = (PANEL + last - first - 1) / (last - first);
                rows.next = coming + (b - first) * rows.pace * taps * c.channels;
                const Blocks::Block block = blocks.block(b);
                const Product to = product(block, tap > 0, tap + taps < all);
                const int64_t filters = least(PANEL, c.filters - filter);
                multiply<true, FETCHES_OUTPUTS>(rows, 0, block.outputs, weights, filters, to, filter);
            }
            weights += taps * c.channels * width;
        }
    }

    Rows rows_of(const float* from, int64_t taps) const {
        Rows rows;
        rows.step = 0;
        if (c.channels % LINE == 0) {
            rows.segment[rows.segments++] = {from, taps * c.channels, 0};
        } else {
            for (int64_t t = 0; t < taps; t++)
                rows.segment[rows.segments++] = {from + t * blocks.tap, c.channels, t * c.channels};
        }
        return rows;
    }

    // Where a block's products go: to sums of others before, or to be summed up with more.
    Product product(const Blocks::Block& block, bool before, bool more) const {
        const int64_t begin = block.first * c.filters;
        float* const to = y + block.sample * finish.places + begin;
        Ends ends = finish.ends(block.sample, begin);
        if (before) ends.starts[0] = to, ends.starts[1] = nullptr;
        if (more) ends = {{ends.starts[0], ends.starts[1]}};
        return {to, c.filters, ends};
    }

    void finish_block(int64_t number) const {
        const Blocks::Block block = blocks.block(number);
        const int64_t begin = block.first * c.filters;
        finish(y + block.sample * finish.places + begin, begin, block.outputs * c.filters);
    }
};

bool convolve(const Convolution& c, const float* x, const float* packed, const float* residual, float* y,
              const Field& field, int activation, int threads) {
    const Finishing finish(field, residual, activation, c.samples, ROWS * c.filters, is_streamable(y, residual, c.filters));
    const Products products{c, packed, y, finish};
    const Blocks& blocks = products.blocks;
    if (!blocks.count) return true;
    const int64_t all = blocks.count * blocks.size, panel_count = panels(c.filters);
    const bool common = panel_count >= 2 * threads && (all <= COMMON_ROOM || 4 * all <= packed_size(c));
    const int64_t most = common ? blocks.count : at_least(1, OWN_ROOM / blocks.size);
    const int64_t units = (blocks.count + most - 1) / most, room = least(most, blocks.count) * blocks.size;
    float* memory = reserve(room * (common ? 1 : threads));
    if (!memory) return false;
    const auto gather = [&](int64_t b, float* to) { blocks.gather(x, blocks.block(b), to); };
    if (common) {
        share(blocks.count, threads, [&](int64_t b) { gather(b, memory + b * blocks.size); });
        share(panel_count, threads, [&](int64_t panel) {
            products.multiply_panel(memory, 0, blocks.count, panel, least(panel + 1, panel_count - 1));
        });
        if (!finish.inside()) share(blocks.count, threads, [&](int64_t b) { products.finish_block(b); });
    } else {
        share(units, threads, [&](int64_t unit) {
            float* const own = memory + room * omp_get_thread_num();
            const int64_t first = blocks.count * unit / units, last = blocks.count * (unit + 1) / units;
            for (int64_t b = first; b < last; b++) gather(b, own + (b - first) * blocks.size);
            for (int64_t panel = 0; panel < panel_count; panel++)
                products.multiply_panel(own, first, last, panel, (panel + 1) % panel_count);
            for (int64_t b = first; b < last; b++) products.finish_block(b);
        });
    }
    free(memory);
    return true;
}

}  // namespace

extern const Method gathered = {packed_size, pack, convolve};

}  // namespace CONVBIAS_INSTRUCTIONS
