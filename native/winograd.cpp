// 3×3 convolutions by 36 products of matrices instead of 144 (winograd.h): a tile's 6×6 inputs are transformed, by
// channels, into 36 frequencies; for each of them, tiles × channels are multiplied by channels × filters; and the
// products of all frequencies are transformed back. Kernels of three taps in a row take 6 products instead of 12. Of
// volumes each slice is transformed once: what an output reads of several lies side by side, as more channels would.

#include "finishing.h"
#include "multiply.h"
#include "shares.h"
#include "weights.h"
#include "winograd.h"

namespace CONVBIAS_INSTRUCTIONS {
namespace {

// Numbers of transformed tiles that a thread works on by itself: half of its second cache. And that all threads
// work on together, where there are more weights than these: they would not stay in it.
constexpr int64_t OWN_ROOM = 1 << 17, COMMON_ROOM = 1 << 21, OWN_WEIGHTS = 36 * 160 * 161;
// Channels that are summed up by themselves: sums of sums keep more digits. And whose weights are read at once.
constexpr int64_t CHUNK = 32;

typedef double Doubles __attribute__((vector_size(LANES * sizeof(double))));

// One tap's share of each frequency, or three taps'.
inline void transform_taps(const Doubles (&g)[1], Doubles (&to)[1]) { to[0] = g[0]; }

inline void transform_taps(const Doubles (&g)[TAPS], Doubles (&to)[WINDOW]) {
    constexpr double root = 1.41421356237309504880, third = 1.0 / 3, sixth = 1.0 / 6;
    constexpr double points[WINDOW][TAPS] = {{1, 0, 0},
                                             {-2 * third, -root * third, -third},
                                             {-2 * third, root * third, -third},
                                             {sixth, root * sixth, third},
                                             {sixth, -root * sixth, third},
                                             {0, 0, 1}};
    for (int i = 0; i < WINDOW; i++) to[i] = points[i][0] * g[0] + points[i][1] * g[1] + points[i][2] * g[2];
}

// In double, and rounded once.
template <int HIGH>
void transform_weights(const Doubles (&g)[rows_of(TAPS, HIGH)][TAPS], Doubles (&to)[HIGH][WINDOW]) {
    constexpr int high = rows_of(TAPS, HIGH);
    Doubles half[HIGH][TAPS];
    for (int j = 0; j < TAPS; j++) {
        Doubles column[high], done[HIGH];
        for (int i = 0; i < high; i++) column[i] = g[i][j];
        transform_taps(column, done);
        for (int i = 0; i < HIGH; i++) half[i][j] = done[i];
    }
    for (int i = 0; i < HIGH; i++) transform_taps(half[i], to[i]);
}

// Channels of all slices that an output is made of.
int64_t depth_of(const Convolution& c) { return c.slices.kernel * c.channels; }

// From the weights of one frequency to those of the next: a few numbers more than they are, so that those of one
// filter and channel do not compete for the same lines of the cache.
int64_t weights_step(const Convolution& c) { return depth_of(c) * packed_filters(c.filters) + LANES; }

int64_t frequencies_of(const Convolution& c) { return frequencies(c.kernel[0] == 1 ? 1 : WINDOW); }

int64_t packed_size(const Convolution& c) { return frequencies_of(c) * weights_step(c); }

template <int HIGH>
void read_weights(const Convolution& c, const Weights& w, int64_t first, int64_t filters, int64_t slice, int64_t channel,
                  int64_t channels, float (*to)[rows_of(TAPS, HIGH)][TAPS][LANES]) {
    for (int64_t l = 0; l < LANES; l++)
        for (int i = 0; i < rows_of(TAPS, HIGH); i++)
            for (int j = 0; j < TAPS; j++) {
                const float* from = weight_at(c, w, first + l, channel, i, j, slice);
                for (int64_t k = 0; k < channels; k++) to[k][i][j][l] = l < filters ? from[k * w.channel] : 0.0f;
            }
}

// [frequency][panel][slice][channel][filter]
template <int HIGH>
void pack_weights(const Convolution& c, const Weights& w, float* packed, int threads) {
    constexpr int high = rows_of(TAPS, HIGH);
    const int64_t frequency = weights_step(c);
    share(packed_filters(c.filters) / LANES, threads, [&](int64_t number) {
        const int64_t first = number * LANES, panel = first / PANEL, width = least(PANEL, packed_filters(c.filters) - panel * PANEL);
        const int64_t filters = least(LANES, c.filters - first);
        float* to = packed + panel * PANEL * depth_of(c) + first % PANEL;
        float taps[CHUNK][high][TAPS][LANES];
        for (int64_t slice = 0; slice < c.slices.kernel; slice++)
            for (int64_t channel = 0; channel < c.channels; channel++, to += width) {
                // Some channels at a time: their weights lie in the same lines of the cache.
                if (channel % CHUNK == 0)
                    read_weights<HIGH>(c, w, first, filters, slice, channel, least(CHUNK, c.channels - channel), taps);
                Doubles given[high][TAPS], all[HIGH][WINDOW];
                for (int i = 0; i < high; i++)
                    for (int j = 0; j < TAPS; j++)
                        given[i][j] = __builtin_convertvector(load(taps[channel % CHUNK][i][j]), Doubles);
                transform_weights<HIGH>(given, all);
                for (int f = 0; f < frequencies(HIGH); f++)
                    store(to + f * frequency, __builtin_convertvector(all[f / WINDOW][f % WINDOW], Vector));
            }
    });
}

void pack(const Convolution& c, const Weights& w, float* packed, int threads) {
    const auto run = c.kernel[0] == 1 ? pack_weights<1> : pack_weights<WINDOW>;
    run(c, w, packed, threads);
}

// Where in memory a convolution's tiles, transformed, lie: those of the input in rows of `channels`, in the order of the
// outputs' tiles, but for slices that lie around those of the outputs, which come as rows more.
struct Tiles : AllTiles {
    int64_t filters = packed_filters(c.filters), around = c.slices.kernel - 1;

    // A few numbers more here too.
    int64_t input_step(int64_t rows) const { return rows * c.channels + LANES; }
    int64_t product_step(int64_t tiles) const { return tiles * filters + LANES; }
    int64_t room(int64_t rows, int64_t tiles) const { return frequencies_of(c) * (input_step(rows) + product_step(tiles)); }

    // How many tiles from `t` on, up to `end`, read slices that follow one another.
    int64_t run(int64_t t, int64_t end) const { return around ? least(end, (t / deep + 1) * deep) - t : end - t; }
    // In which row, from that of tile `first` on, is what tile `t` reads first.
    int64_t row(int64_t first, int64_t t) const { return t - first + (around ? around * (t / deep - first / deep) : 0); }
};

struct Part {
    const Tiles& tiles;
    const int64_t first, end, count = end - first;
    // Rows of the input.
    const int64_t rows = count ? tiles.row(first, end - 1) + 1 + tiles.around : 0;

    Part(const Tiles& tiles, int64_t part, int64_t parts)
        : tiles(tiles), first(tiles.count * part / parts), end(tiles.count * (part + 1) / parts) {}

    // At most, of as many tiles as the largest one has.
    static int64_t most_rows(const Tiles& tiles, int64_t count) { return count + tiles.around * (count / tiles.deep + 2); }
};

// What tile `t` reads, to its row, and of the last one of a run all rows to come.
template <int HIGH>
void transform(const Part& part, int64_t t, const float* x, float* input) {
    const Convolution& c = part.tiles.c;
    const Tile tile(part.tiles, t);
    const int64_t row = part.tiles.row(part.first, t), last = part.tiles.run(t, part.end) == 1 ? part.tiles.around : 0;
    const int64_t step = part.tiles.input_step(part.rows);
    for (int64_t tap = 0; tap <= last; tap++)
        window_of<HIGH>(c, tile, tap, x).transform(0, c.channels, input + (row + tap) * c.channels, step);
}

// And from `products` to the output, where sums start from as many `starts`, the first of which is for the next row
// `start_line` numbers further on.
template <int HIGH, int starts>
void put_tile(const Convolution& c, const float* products, int64_t step, int64_t rows, int64_t columns, Ends ends,
              int64_t start_line, float* to) {
    constexpr int high = rows_of(TILE, HIGH);
    // What is stored could change all that is not kept here.
    const int64_t filters = c.filters, line = c.out[1] * filters;
    for (int64_t filter = 0; filter < filters; filter += LANES) {
        const int64_t first = least(filter, filters - LANES);
        Vector half[high][WINDOW];
        transform_columns<HIGH>(
            [&](int j, Vector(&column)[HIGH]) { load_line(products + j * step + first, WINDOW * step, column); }, half);
#pragma GCC unroll 4
        for (int i = 0; i < high; i++) {
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

template <int HIGH>
void transform_back(const Part& part, int64_t t, const float* products, float* y, const Finishing& finish) {
    const Convolution& c = part.tiles.c;
    const Tile tile(part.tiles, t);
    const int64_t line = c.out[1] * c.filters, begin = (tile.slice * c.out[0] + tile.row) * line + tile.column * c.filters;
    const int64_t rows = least(part.tiles.tall, c.out[0] - tile.row), columns = least(TILE, c.out[1] - tile.column);
    const Ends ends = finish.ends(tile.sample, begin);
    float* to = y + tile.sample * finish.places + begin;
    const auto put = ends.starts[1] ? put_tile<HIGH, 2> : ends.starts[0] ? put_tile<HIGH, 1> : put_tile<HIGH, 0>;
    put(c, products + (t - part.first) * part.tiles.filters, part.tiles.product_step(part.count), rows, columns, ends,
        finish.start_line(line), to);
    for (int64_t i = 0; i < rows; i++) finish(to + i * line, begin + i * line, columns * c.filters);
}

// One panel of one frequency, for all tiles of a part.
void multiply_frequency(const Part& part, int64_t frequency, int64_t panel, const float* input, const float* packed,
                        float* products) {
    const Tiles& tiles = part.tiles;
    const int64_t channels = tiles.c.channels, depth = depth_of(tiles.c), filters = least(PANEL, tiles.filters - panel * PANEL);
    const float* weights = packed + frequency * weights_step(tiles.c) + panel * PANEL * depth;
    const float* from = input + frequency * tiles.input_step(part.rows);
    float* y = products + frequency * tiles.product_step(part.count);
    Rows rows;
    rows.step = channels;
    rows.apart = true;
    rows.next = from + ROWS * channels;
    const int64_t chunk = at_least(CHUNK, (depth + MOST_SEGMENTS - 1) / MOST_SEGMENTS);
    for (int64_t done = 0; done < depth; done += chunk)
        rows.segment[rows.segments++] = {from + done, least(chunk, depth - done), done};
    for (int64_t t = part.first; t < part.end;) {
        const int64_t count = tiles.run(t, part.end);
        multiply(rows, t - part.first, count, weights, filters, {y, tiles.filters, {}}, panel * PANEL);
        // Behind a run there are rows that no output begins with.
        for (int64_t s = 0; s < rows.segments; s++) rows.segment[s].from += tiles.around * channels;
        rows.next += tiles.around * channels;
        t += count;
    }
}

template <int HIGH>
bool convolve_by(const Convolution& c, const float* x, const float* packed, const float* residual, float* y,
                 const Field& field, int activation, int threads) {
    const Tiles tiles{{c}};
    if (!tiles.count) return true;
    const Finishing finish(field, residual, activation, c.samples, TILE * c.filters, false);
    const bool alone = packed_size(c) <= OWN_WEIGHTS;
    const int64_t most = (alone ? OWN_ROOM : COMMON_ROOM) / tiles.room(1, 1) + 1, panel_count = panels(c.filters);
    int64_t parts = (tiles.count + most - 1) / most;
    if (alone) parts = least((parts + threads - 1) / threads * threads, tiles.count);
    const int64_t largest = (tiles.count + parts - 1) / parts, rows = Part::most_rows(tiles, largest);
    const int64_t room = tiles.room(rows, largest);
    float* memory = reserve(room * (alone ? threads : 1));
    if (!memory) return false;
    if (alone) {
        share(parts, threads, [&](int64_t p) {
            float *input = memory + room * omp_get_thread_num(), *products = input + frequencies(HIGH) * tiles.input_step(rows);
            const Part part(tiles, p, parts);
            for (int64_t t = part.first; t < part.end; t++) transform<HIGH>(part, t, x, input);
            for (int64_t f = 0; f < frequencies(HIGH); f++)
                for (int64_t panel = 0; panel < panel_count; panel++)
                    multiply_frequency(part, f, panel, input, packed, products);
            for (int64_t t = part.first; t < part.end; t++) transform_back<HIGH>(part, t, products, y, finish);
        });
    } else {
        float *input = memory, *products = input + frequencies(HIGH) * tiles.input_step(rows);
        for (int64_t p = 0; p < parts; p++) {
            const Part part(tiles, p, parts);
            share(part.count, threads, [&](int64_t t) { transform<HIGH>(part, part.first + t, x, input); });
            share(frequencies(HIGH) * panel_count, threads, [&](int64_t f) {
                multiply_frequency(part, f / panel_count, f % panel_count, input, packed, products);
            });
            share(part.count, threads, [&](int64_t t) { transform_back<HIGH>(part, part.first + t, products, y, finish); });
        }
    }
    free(memory);
    return true;
}

bool convolve(const Convolution& c, const float* x, const float* packed, const float* residual, float* y,
              const Field& field, int activation, int threads) {
    const auto run = c.kernel[0] == 1 ? convolve_by<1> : convolve_by<WINDOW>;
    return run(c, x, packed, residual, y, field, activation, threads);
}

}  // namespace

extern const Method winograd = {packed_size, pack, convolve};

}  // namespace CONVBIAS_INSTRUCTIONS
