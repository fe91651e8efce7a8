// The gradient of 3×3 weights by 36 products of matrices instead of 144 (winograd.h): the input's windows and the tiles
// of the output's gradient are transformed, by channels, into 36 frequencies; for each of them, filters × tiles are
// multiplied by tiles × channels; and the products of all frequencies are transformed back to nine taps. Three taps in a
// row take 6 products instead of 12; those of several slices are made one after another.

#include <stdlib.h>
#include <string.h>

#include "outer.h"
#include "shares.h"
#include "sums.h"
#include "winograd.h"

namespace CONVBIAS_INSTRUCTIONS {
namespace {

// Tiles that are transformed at a time, and channels and filters of which a thread multiplies as many by itself: its
// second cache holds them and their products.
constexpr int64_t BLOCK = 32, GROUP = 64;

// Some of the channels, or of the filters: whole vectors but for the last group's.
struct Group {
    int64_t first, count;

    Group(int64_t all, int64_t groups, int64_t number) {
        const int64_t vectors = packed_filters(all) / LANES;
        first = vectors * number / groups * LANES;
        count = least(all, vectors * (number + 1) / groups * LANES) - first;
    }
};

template <int HIGH>
class Making {
   public:
    Making(const Convolution& c, const float* x, const float* gz, float* gw, int threads)
        : c(c), x(x), gz(gz), gw(gw),
          rooms(reserve(threads * ROOM)),
          partial(parts > 1 ? reserve(parts * weights) : nullptr) {}

    Making(const Making&) = delete;
    ~Making() {
        free(rooms);
        free(partial);
    }

    bool has_memory() const { return rooms && (partial || parts == 1); }

    void run(int threads) const {
        share(groups * parts, threads, [&](int64_t unit) {
            run_unit(unit / parts / c.slices.kernel, unit / parts % c.slices.kernel, unit % parts);
        });
        if (partial) share((weights + STRETCH - 1) / STRETCH, threads, [&](int64_t n) { add_parts(n * STRETCH); });
    }

   private:
    // Between frequencies: a few numbers more than they are, so that those of one place do not compete for the same
    // lines of the cache.
    static constexpr int64_t TRANSFORMED = BLOCK * GROUP + LANES, PRODUCTS = GROUP * GROUP + LANES;
    static constexpr int64_t ROOM = frequencies(HIGH) * (2 * TRANSFORMED + PRODUCTS), STRETCH = 1 << 12;
    static constexpr int HIGH_TAPS = rows_of(TAPS, HIGH), HIGH_TILE = rows_of(TILE, HIGH);

    const Convolution& c;
    const float *const x, *const gz;
    float* const gw;
    const AllTiles tiles{c};
    const int64_t slice = HIGH_TAPS * TAPS * c.channels, filter = c.slices.kernel * slice, weights = c.filters * filter;
    const int64_t channel_groups = (c.channels + GROUP - 1) / GROUP, filter_groups = (c.filters + GROUP - 1) / GROUP;
    const int64_t groups = channel_groups * filter_groups * c.slices.kernel, blocks = (tiles.count + BLOCK - 1) / BLOCK;
    const int64_t parts = at_least(1, least(blocks, MOST_PARTS / groups));
    float *const rooms, *const partial;  // of the threads, and of the parts

    // The taps of one slice for some filters and channels, over a part of the tiles.
    void run_unit(int64_t group, int64_t tap, int64_t part) const {
        const Group channels(c.channels, channel_groups, group % channel_groups);
        const Group filters(c.filters, filter_groups, group / channel_groups);
        float* const windows = rooms + omp_get_thread_num() * ROOM;
        float *const gradients = windows + frequencies(HIGH) * TRANSFORMED;
        float* const products = gradients + frequencies(HIGH) * TRANSFORMED;
        const int64_t width = packed_filters(channels.count);
        const int64_t begin = blocks * part / parts;
        for (int64_t b = begin; b < blocks * (part + 1) / parts; b++) {
            const int64_t first = tiles.count * b / blocks, count = tiles.count * (b + 1) / blocks - first;
            for (int64_t t = 0; t < count; t++) {
                const Tile tile(tiles, first + t);
                window_of<HIGH>(c, tile, tap, x).transform(channels.first, channels.count, windows + t * width, TRANSFORMED);
                patch_of(tile).transform(filters.first, filters.count, gradients + t * filters.count, TRANSFORMED);
            }
            for (int64_t f = 0; f < frequencies(HIGH); f++)
                add_outer({gradients + f * TRANSFORMED, filters.count}, filters.count, {windows + f * TRANSFORMED, width}, width,
                          count, products + f * PRODUCTS, b > begin);
        }
        float* const to = partial ? partial + part * weights : gw;
        for (int64_t k = 0; k < filters.count; k++)
            for (int64_t channel = 0; channel < channels.count; channel += LANES) {
                const int64_t panel = channel / PANEL * PANEL, wide = least(PANEL, width - panel);
                transform_to_taps(products + filters.count * panel + k * wide + channel - panel,
                                  to + (filters.first + k) * filter + tap * slice + channels.first + channel,
                                  least(LANES, channels.count - channel));
            }
    }

    Patch<HIGH_TILE, TILE> patch_of(const Tile& tile) const {
        const float* image = gz + (tile.sample * c.slices.out + tile.slice) * c.out[0] * c.out[1] * c.filters;
        return {image, c.out, c.filters, tile.row, tile.column};
    }

    // The taps of one slice for `count` channels, each after all channels of the one before.
    void transform_to_taps(const float* products, float* to, int64_t count) const {
        Vector half[HIGH_TAPS][WINDOW];
        transform_columns<HIGH>(
            [&](int j, Vector(&column)[HIGH]) { load_line(products + j * PRODUCTS, WINDOW * PRODUCTS, column); }, half);
#pragma GCC unroll 3
        for (int i = 0; i < HIGH_TAPS; i++) {
            Vector done[TAPS];
            transform_line(half[i], done);
#pragma GCC unroll 3
            for (int j = 0; j < TAPS; j++) {
                float* at = to + (i * TAPS + j) * c.channels;
                if (count == LANES)
                    store(at, done[j]);
                else
                    store_some(at, done[j], count);
            }
        }
    }

    void add_parts(int64_t first) const {
        double sums[STRETCH];
        const int64_t count = least(STRETCH, weights - first);
        for (int64_t part = 0; part < parts; part++) add_to(sums, partial + part * weights + first, count, part == 0);
        for (int64_t i = 0; i < count; i++) gw[first + i] = float(sums[i]);
    }
};

template <int HIGH>
bool make(const Convolution& c, const float* x, const float* gz, float* gw, int threads) {
    const Making<HIGH> making(c, x, gz, gw, threads);
    if (!making.has_memory()) return false;
    making.run(threads);
    return true;
}

}  // namespace

bool winograd_weights(const Convolution& c, const float* x, const float* gz, float* gw, int threads) {
    if (!c.samples) {
        memset(gw, 0, c.filters * c.slices.kernel * c.kernel[0] * c.kernel[1] * c.channels * sizeof(float));
        return true;
    }
    return (c.kernel[0] == 1 ? make<1> : make<WINDOW>)(c, x, gz, gw, threads);
}

}  // namespace CONVBIAS_INSTRUCTIONS
