// The gradients of convolutions of every place by itself, by 1×1 kernels of stride 1, and of their activation: in one
// pass over that of the output, of which a block stays in the caches while all that follows from it is computed.

#include <stdlib.h>
#include <string.h>

#include "outer.h"
#include "panels.h"
#include "sums.h"

namespace CONVBIAS_INSTRUCTIONS {
namespace {

constexpr int64_t BLOCK = 56 / ROWS * ROWS;

// The places of a sample in blocks of much the same size, and these in parts.
struct Cut {
    const Convolution& c;
    const int64_t places = c.out[0] * c.out[1], blocks = (places + BLOCK - 1) / BLOCK, parts = least(blocks, MOST_PARTS);

    struct Block {
        int64_t first, count;
    };

    Block block(int64_t number) const {
        const int64_t first = places * number / blocks;
        return {first, places * (number + 1) / blocks - first};
    }
};

class Making {
   public:
    Making(const Gradients& given, const Convolution& c, const float* turned, int threads)
        : wanted(given),
          c(c),
          turned(turned),
          filters(c.filters),
          width(packed_filters(filters)),
          weights(c.channels * width),
          // Rows that begin an odd number of lines apart have each their place in the first cache.
          step(((width + LINE - 1) / LINE | 1) * LINE),
          hand_back(hand_back_of(wanted.activation)),
          sums(wanted.sums, c.samples, cut.places * filters, BLOCK * filters, threads),
          rooms(reserve(threads * BLOCK * step)),
          partial(wanted.gw ? reserve(cut.parts * weights) : nullptr) {}

    Making(const Making&) = delete;
    ~Making() {
        free(rooms);
        free(partial);
    }

    bool has_memory() const { return rooms && (partial || !wanted.gw) && sums.has_memory(); }

    void run(int threads) const {
        share(cut.parts, threads, [&](int64_t part) {
            float* const room = rooms + omp_get_thread_num() * BLOCK * step;
            float* const own = partial ? partial + part * weights : nullptr;
            if (own) memset(own, 0, weights * sizeof(float));
            for (int64_t b = cut.blocks * part / cut.parts; b < cut.blocks * (part + 1) / cut.parts; b++)
                for (int64_t n = 0; n < c.samples; n++) run_block(cut.block(b), n, room, own);
        });
        if (wanted.gw) share(panels(filters), threads, [&](int64_t panel) { add_parts(panel * PANEL); });
    }

   private:
    const Gradients& wanted;
    const Convolution& c;
    const float* const turned;
    const Cut cut{c};
    const int64_t filters, width, weights, step;
    HandBack* const hand_back;
    const FieldSums sums;
    float *const rooms, *const partial;  // of the threads, and of the parts

    // The places of block b in sample n; `gz` has room for them.
    void run_block(Cut::Block b, int64_t n, float* gz, float* own) const {
        const int64_t at = n * cut.places + b.first;
        for (int64_t r = 0; r < b.count; r++) {
            const float* const gy = wanted.gy + (at + r) * filters;
            hand_back(wanted.saved ? wanted.saved + (at + r) * filters : gy, gy, gz + r * step, filters);
            sums.add(n, gz + r * step, (b.first + r) * filters, filters);
            for (int64_t i = 0; own && i < c.channels; i += LINE)
                __builtin_prefetch(wanted.x + (at + r) * c.channels + i, 0, 2);
        }
        sums.end_of(n, b.first * filters, b.count * filters);
        if (wanted.gx) of_input(gz, at, b.count, n + 1 < c.samples ? at + cut.places : b.first + b.count);
        if (own) add_outer({wanted.x + at * c.channels, c.channels}, c.channels, {gz, step}, width, b.count, own, true);
    }

    // What comes next, from row `soon` on, is fetched meanwhile.
    void of_input(const float* gz, int64_t at, int64_t count, int64_t soon) const {
        Rows rows;
        rows.segments = 1;
        rows.segment[0] = {gz, filters, 0};
        rows.step = step;
        const Product to{wanted.gx + at * c.channels, c.channels, {}};
        for (int64_t channel = 0; channel < c.channels; channel += PANEL) {
            rows.next = (channel == 0 || !wanted.saved ? wanted.gy : wanted.saved) + soon * filters;
            multiply(rows, 0, count, turned + channel * filters, least(PANEL, c.channels - channel), to, channel);
        }
    }

    // All parts' sums of the panel that begins with filter k.
    void add_parts(int64_t k) const {
        const int64_t wide = least(PANEL, width - k);
        for (int64_t channel = 0; channel < c.channels; channel++) {
            double sum[PANEL];
            for (int64_t part = 0; part < cut.parts; part++)
                add_to(sum, partial + part * weights + c.channels * k + channel * wide, wide, part == 0);
            for (int64_t l = 0; l < least(wide, filters - k); l++) wanted.gw[(k + l) * c.channels + channel] = float(sum[l]);
        }
    }
};

}  // namespace

bool pointwise_gradients(const Gradients& wanted, const Convolution& c, const Convolution&, const float* packed, int threads) {
    const Making making(wanted, c, packed, threads);
    if (!making.has_memory()) return false;
    making.run(threads);
    return true;
}

}  // namespace CONVBIAS_INSTRUCTIONS
