// Convolutions of every place by itself, by 1×1 kernels: blocks of inputs that stay in the first cache, if they are
// not too deep, times weights that stay in the second one.

#include "finishing.h"
#include "panels.h"

namespace CONVBIAS_INSTRUCTIONS {
namespace {

// Outputs that are worked on at a time, at most, where that is more than a block of them.
constexpr int64_t PART = 2048;
// And inputs, if they are shallow, so that a panel of weights stays in the first cache for several blocks. (Measured
// where a block is 6 rows tall: a fifth less time from 16 and 24 channels to six times as many, none from 96 on.)
constexpr int64_t SHALLOW = LANES < LINE ? 64 : 0, INPUTS = 4096;
// How many weights are used for one block after another.
constexpr int64_t WEIGHTS = 1 << 18;

// How the work is cut: slices of the filters, for each of them parts of a row of outputs, and for each of those all
// samples, which `share` what is read of the field; or samples and their parts, one after another.
struct Cut {
    const Convolution& c;
    const bool share;
    int64_t slice, slices, part, across, places;

    Cut(const Convolution& c, bool share, int threads) : c(c), share(share), slice(whole_panels(WEIGHTS / c.channels)) {
        // More weights than inputs: each thread reads its own ones.
        if (c.filters > c.samples * c.out[0] * c.out[1]) slice = least(slice, whole_panels(c.filters / threads + PANEL - 1));
        slices = (c.filters + slice - 1) / slice;
        const int64_t block = ROWS * least(slice, c.filters);
        const int64_t shallow = c.channels <= SHALLOW ? INPUTS / (c.channels * ROWS) : 1;
        const int64_t longest = at_least(PART / block, shallow) * ROWS;
        across = (c.out[1] + longest - 1) / longest;
        part = (c.out[1] + across - 1) / across;
        places = c.out[0] * across;
    }

    static int64_t whole_panels(int64_t filters) { return at_least(filters / PANEL, 1) * PANEL; }

    struct Unit {
        int64_t filter, row, first, outputs, sample;
    };

    Unit unit(int64_t number) const {
        const int64_t in_slice = number % (c.samples * places);
        const int64_t sample = share ? in_slice % c.samples : in_slice / places;
        const int64_t place = share ? in_slice / c.samples : in_slice % places, first = place % across * part;
        return {number / (c.samples * places) * slice, place / across, first, least(part, c.out[1] - first), sample};
    }

    const float* inputs(const float* x, const Unit& u) const {
        const int64_t line = u.sample * c.size[0] + u.row * c.stride[0];
        return x + (line * c.size[1] + u.first * c.stride[1]) * c.channels;
    }
};

bool convolve(const Convolution& c, const float* x, const float* packed, const float* residual, float* y,
              const Field& field, int activation, int threads) {
    const Cut cut(c, !residual, threads);
    const Finishing finish(field, residual, activation, c.samples, cut.part * c.filters, is_streamable(y, residual, c.filters));
    const int64_t parts = cut.places * c.samples, units = parts * cut.slices;
    Shares shares(units, threads);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        int64_t used = -1;  // the slice of weights that is at hand
        shares.each([&](int64_t number) {
            const Cut::Unit u = cut.unit(number);
            const int64_t begin = (u.row * c.out[1] + u.first) * c.filters, end = least(u.filter + cut.slice, c.filters);
            const Product to{y + u.sample * finish.places + begin, c.filters, finish.ends(u.sample, begin)};
            Rows rows;
            rows.segments = 1;
            rows.segment[0] = {cut.inputs(x, u), c.channels, 0};
            rows.step = c.stride[1] * c.channels;
            rows.next = cut.inputs(x, cut.unit(least(number + 1, units - 1)));
            for (int64_t filter = u.filter; filter < end; filter += PANEL) {
                const int64_t filters = least(PANEL, end - filter);
                multiply<false, FETCHES_OUTPUTS>(rows, 0, u.outputs, packed + filter * c.channels, filters, to, filter);
                if (u.filter == used) rows.next = nullptr;
            }
            used = u.filter;
            if (cut.slices == 1) finish(to.y, begin, u.outputs * c.filters);
        });
    }
    if (cut.slices > 1 && !finish.inside())
        share(parts, threads, [&](int64_t number) {
            const Cut::Unit u = cut.unit(number);
            const int64_t begin = (u.row * c.out[1] + u.first) * c.filters;
            finish(y + u.sample * finish.places + begin, begin, u.outputs * c.filters);
        });
    return true;
}

}  // namespace

extern const Method pointwise = {packed_size, pack, convolve};

}  // namespace CONVBIAS_INSTRUCTIONS
