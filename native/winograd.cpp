// 3×3 convolutions by 36 products of matrices instead of 144 (winograd.h): a tile's 6×6 inputs are transformed, by
// channels, into 36 frequencies; for each of them, tiles × channels are multiplied by channels × filters; and the
// products of all frequencies are transformed back.

#include "finishing.h"
#include "multiply.h"
#include "shares.h"
#include "weights.h"
#include "winograd.h"

namespace CONVBIAS_INSTRUCTIONS {
namespace {

// Numbers of transformed tiles that a thread works on by itself: half of its second cache. And that all threads
// work on together, where there are more weights than these: they would not stay in it.
constexpr int64_t OWN_ROOM = 1 << 17, COMMON_ROOM = 1 << 21, OWN_WEIGHTS = 160 * 160;
// Channels that are summed up by themselves: sums of sums keep more digits. And whose weights are read at once.
constexpr int64_t CHUNK = 32;

typedef double Doubles __attribute__((vector_size(LANES * sizeof(double))));

// In double, and rounded once.
void transform_weights(const Doubles g[3][3], Doubles to[WINDOW][WINDOW]) {
    constexpr double root = 1.41421356237309504880, third = 1.0 / 3, sixth = 1.0 / 6;
    constexpr double points[WINDOW][3] = {{1, 0, 0},
                                          {-2 * third, -root * third, -third},
                                          {-2 * third, root * third, -third},
                                          {sixth, root * sixth, third},
                                          {sixth, -root * sixth, third},
                                          {0, 0, 1}};
    Doubles half[WINDOW][3];
    for (int i = 0; i < WINDOW; i++)
        for (int j = 0; j < 3; j++) half[i][j] = points[i][0] * g[0][j] + points[i][1] * g[1][j] + points[i][2] * g[2][j];
    for (int i = 0; i < WINDOW; i++)
        for (int j = 0; j < WINDOW; j++)
            to[i][j] = half[i][0] * points[j][0] + half[i][1] * points[j][1] + half[i][2] * points[j][2];
}

// From the weights of one frequency to those of the next: a few numbers more than they are, so that those of one
// filter and channel do not compete for the same lines of the cache.
int64_t weights_step(const Convolution& c) { return c.channels * packed_filters(c.filters) + LANES; }

int64_t packed_size(const Convolution& c) { return FREQUENCIES * weights_step(c); }

void read_weights(const Convolution& c, const Weights& w, int64_t first, int64_t filters, int64_t channel, int64_t channels,
                  float (*to)[3][3][LANES]) {
    for (int64_t l = 0; l < LANES; l++)
        for (int i = 0; i < 3; i++)
            for (int j = 0; j < 3; j++) {
                const float* from = weight_at(c, w, first + l, channel, i, j);
                for (int64_t k = 0; k < channels; k++) to[k][i][j][l] = l < filters ? from[k * w.channel] : 0.0f;
            }
}

// [frequency][panel][channel][filter]
void pack(const Convolution& c, const Weights& w, float* packed, int threads) {
    const int64_t frequency = weights_step(c);
    share(packed_filters(c.filters) / LANES, threads, [&](int64_t number) {
        const int64_t first = number * LANES, panel = first / PANEL, width = least(PANEL, packed_filters(c.filters) - panel * PANEL);
        const int64_t filters = least(LANES, c.filters - first);
        float* to = packed + panel * PANEL * c.channels + first % PANEL;
        float taps[CHUNK][3][3][LANES];
        for (int64_t channel = 0; channel < c.channels; channel++, to += width) {
            // Some channels at a time: their weights lie in the same lines of the cache.
            if (channel % CHUNK == 0)
                read_weights(c, w, first, filters, channel, least(CHUNK, c.channels - channel), taps);
            Doubles given[3][3], all[WINDOW][WINDOW];
            for (int i = 0; i < 3; i++)
                for (int j = 0; j < 3; j++)
                    given[i][j] = __builtin_convertvector(load(taps[channel % CHUNK][i][j]), Doubles);
            transform_weights(given, all);
            for (int f = 0; f < FREQUENCIES; f++)
                store(to + f * frequency, __builtin_convertvector(all[f / WINDOW][f % WINDOW], Vector));
        }
    });
}

// Where in memory a part of a convolution's tiles, transformed, lies.
struct Tiles : AllTiles {
    int64_t filters = packed_filters(c.filters);

    // A few numbers more here too.
    int64_t input_step(int64_t tiles) const { return tiles * c.channels + LANES; }
    int64_t product_step(int64_t tiles) const { return tiles * filters + LANES; }
    int64_t room(int64_t tiles) const { return FREQUENCIES * (input_step(tiles) + product_step(tiles)); }
};

struct Part {
    int64_t first, count;

    Part(const Tiles& tiles, int64_t part, int64_t parts)
        : first(tiles.count * part / parts), count(tiles.count * (part + 1) / parts - first) {}
};

// Tile `t` of a part, transformed to its place in `input`.
void transform(const Tiles& tiles, const Part& part, int64_t t, const float* x, float* input) {
    const int64_t channels = tiles.c.channels;
    window_of(tiles, part.first + t, x).transform(0, channels, input + t * channels, tiles.input_step(part.count));
}

// And from `products` to the output, where sums start from as many `starts`, the first of which is for the next row
// `start_line` numbers further on.
template <int starts>
void put_tile(const Convolution& c, const float* products, int64_t step, int64_t rows, int64_t columns, Ends ends,
              int64_t start_line, float* to) {
    // What is stored could change all that is not kept here.
    const int64_t filters = c.filters, line = c.out[1] * filters;
    for (int64_t filter = 0; filter < filters; filter += LANES) {
        const int64_t first = least(filter, filters - LANES);
        Vector half[TILE][WINDOW];
        transform_columns(
            [&](int j, Vector(&column)[WINDOW]) { load_line(products + j * step + first, WINDOW * step, column); }, half);
#pragma GCC unroll 4
        for (int i = 0; i < TILE; i++) {
            if (i >= rows) break;
            Vector done[TILE];
            transform_line(half[i], done);
            Ends row = ends;
            if (starts) row.starts[0] += i * start_line;
            if (starts > 1) row.starts[1] += i * line;
            int64_t at = first;
#pragma GCC unroll 4
            for (int j = 0; j < TILE; j++, at = hidden(at + filters))
                if (j < columns) store(to + i * line + at, row.last(row.first<starts>(at) + done[j]));
        }
    }
}

void transform_back(const Tiles& tiles, const Part& part, int64_t t, const float* products, float* y,
                    const Finishing& finish) {
    const Convolution& c = tiles.c;
    const Tile tile(tiles, part.first + t);
    const int64_t line = c.out[1] * c.filters, begin = tile.row * line + tile.column * c.filters;
    const int64_t rows = least(TILE, c.out[0] - tile.row), columns = least(TILE, c.out[1] - tile.column);
    const Ends ends = finish.ends(tile.sample, begin);
    float* to = y + tile.sample * finish.places + begin;
    const auto put = ends.starts[1] ? put_tile<2> : ends.starts[0] ? put_tile<1> : put_tile<0>;
    put(c, products + t * tiles.filters, tiles.product_step(part.count), rows, columns, ends, finish.start_line(line), to);
    for (int64_t i = 0; i < rows; i++) finish(to + i * line, begin + i * line, columns * c.filters);
}

// One panel of one frequency, for `count` tiles.
void multiply_frequency(const Tiles& tiles, int64_t frequency, int64_t panel, int64_t count, const float* input,
                        const float* packed, float* products) {
    const int64_t channels = tiles.c.channels, filters = least(PANEL, tiles.filters - panel * PANEL);
    const float* from = input + frequency * tiles.input_step(count);
    const float* weights = packed + frequency * weights_step(tiles.c) + panel * PANEL * channels;
    float* y = products + frequency * tiles.product_step(count);
    Rows rows;
    rows.step = channels;
    rows.apart = true;
    rows.next = from + ROWS * channels;
    const int64_t chunk = at_least(CHUNK, (channels + MOST_SEGMENTS - 1) / MOST_SEGMENTS);
    for (int64_t done = 0; done < channels; done += chunk)
        rows.segment[rows.segments++] = {from + done, least(chunk, channels - done), done};
    multiply(rows, 0, count, weights, filters, {y, tiles.filters, {}}, panel * PANEL);
}

bool convolve(const Convolution& c, const float* x, const float* packed, const float* residual, float* y,
              const Field& field, int activation, int threads) {
    const Tiles tiles{{c}};
    if (!tiles.count) return true;
    const Finishing finish(field, residual, activation, c.samples, TILE * c.filters, false);
    const bool alone = c.channels * c.filters <= OWN_WEIGHTS;
    const int64_t most = (alone ? OWN_ROOM : COMMON_ROOM) / tiles.room(1) + 1, panel_count = panels(c.filters);
    int64_t parts = (tiles.count + most - 1) / most;
    if (alone) parts = least((parts + threads - 1) / threads * threads, tiles.count);
    const int64_t largest = (tiles.count + parts - 1) / parts, room = tiles.room(largest);
    float* memory = reserve(room * (alone ? threads : 1));
    if (!memory) return false;
    if (alone) {
        share(parts, threads, [&](int64_t p) {
            float *input = memory + room * omp_get_thread_num(), *products = input + FREQUENCIES * tiles.input_step(largest);
            const Part part(tiles, p, parts);
            for (int64_t t = 0; t < part.count; t++) transform(tiles, part, t, x, input);
            for (int64_t f = 0; f < FREQUENCIES; f++)
                for (int64_t panel = 0; panel < panel_count; panel++)
                    multiply_frequency(tiles, f, panel, part.count, input, packed, products);
            for (int64_t t = 0; t < part.count; t++) transform_back(tiles, part, t, products, y, finish);
        });
    } else {
        float *input = memory, *products = input + FREQUENCIES * tiles.input_step(largest);
        for (int64_t p = 0; p < parts; p++) {
            const Part part(tiles, p, parts);
            share(part.count, threads, [&](int64_t t) { transform(tiles, part, t, x, input); });
            share(FREQUENCIES * panel_count, threads, [&](int64_t f) {
                multiply_frequency(tiles, f / panel_count, f % panel_count, part.count, input, packed, products);
            });
            share(part.count, threads, [&](int64_t t) { transform_back(tiles, part, t, products, y, finish); });
        }
    }
    free(memory);
    return true;
}

}  // namespace

extern const Method winograd = {packed_size, pack, convolve};

}  // namespace CONVBIAS_INSTRUCTIONS
