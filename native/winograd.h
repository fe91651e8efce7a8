// Winograd's F(4×4, 3×3) (Lavin and Gray, Fast algorithms for convolutional neural networks, 2016) at the points 0,
// ±1/√2, ±√2 and ∞, whose rounding errors are several times smaller than those of 0, ±1, ±2 and ∞. The output is cut
// into tiles of 4×4 places, of which each reads 6×6 of the input; both are transformed into as many frequencies. Where
// the kernel has one row (F(4, 3)), tiles and windows have one too, and columns stay as they are.

#pragma once

#include "convbias.h"
#include "field.h"
#include "vector.h"

namespace CONVBIAS_INSTRUCTIONS {
namespace {

constexpr int TILE = 4, WINDOW = 6, TAPS = 3;
constexpr float ROOT = 1.41421356237309515f;

// How many rows there are of what has so many columns, where a window has `high`, all of them or one.
constexpr int rows_of(int columns, int high) { return high == 1 ? 1 : columns; }

constexpr int frequencies(int high) { return high * WINDOW; }

inline void transform_line(const Vector (&d)[1], Vector (&to)[1]) { to[0] = d[0]; }

// Of a window.
inline void transform_line(const Vector (&d)[WINDOW], Vector (&to)[WINDOW]) {
    const Vector a = (ROOT / 2) * d[3] - ROOT * d[1], b = d[4] - 2.0f * d[2];
    const Vector e = ROOT * d[3] - (ROOT / 2) * d[1], f = d[4] - 0.5f * d[2];
    to[0] = d[0] + (d[4] - 2.5f * d[2]);
    to[1] = b + a;
    to[2] = b - a;
    to[3] = f + e;
    to[4] = f - e;
    to[5] = d[1] + (d[5] - 2.5f * d[3]);
}

// Of a tile of the output's gradient: what brings products back to a tile, the other way round.
inline void transform_line(const Vector (&g)[TILE], Vector (&to)[WINDOW]) {
    const Vector a = (ROOT / 2) * g[1] + (ROOT / 4) * g[3], b = g[0] + 0.5f * g[2];
    const Vector e = ROOT * g[1] + (2 * ROOT) * g[3], f = g[0] + 2.0f * g[2];
    to[0] = g[0];
    to[1] = b + a;
    to[2] = b - a;
    to[3] = f + e;
    to[4] = f - e;
    to[5] = g[3];
}

// Of products, back to a tile of the output.
inline void transform_line(const Vector (&m)[WINDOW], Vector (&to)[TILE]) {
    const Vector a = m[1] + m[2], b = m[1] - m[2], e = m[3] + m[4], f = m[3] - m[4];
    to[0] = m[0] + a + e;
    to[1] = ROOT * f + (ROOT / 2) * b;
    to[2] = 2.0f * e + 0.5f * a;
    to[3] = (2 * ROOT) * f + (ROOT / 4) * b + m[5];
}

// And back to the taps of a weight's gradient.
inline void transform_line(const Vector (&m)[WINDOW], Vector (&to)[TAPS]) {
    const Vector a = m[1] + m[2], b = m[1] - m[2], e = m[3] + m[4], f = m[3] - m[4];
    to[0] = m[0] + (1.0f / 6) * e - (2.0f / 3) * a;
    to[1] = (ROOT / 6) * f - (ROOT / 3) * b;
    to[2] = m[5] + (1.0f / 3) * (e - a);
}

// Vectors that lie `step` numbers apart.
template <int N>
ALWAYS_INLINE void load_line(const float* from, int64_t step, Vector (&to)[N]) {
#pragma GCC unroll 6
    for (int i = 0; i < N; i++, from = hidden(from + step)) to[i] = load(from);
}

template <int N>
ALWAYS_INLINE void store_line(const Vector (&line)[N], float* to, int64_t step) {
#pragma GCC unroll 6
    for (int i = 0; i < N; i++, to = hidden(to + step)) store(to, line[i]);
}

// The columns of FROM numbers each, of which `read` gives column j; the rows are to follow.
template <int FROM, class Read, int TO, int COLUMNS>
ALWAYS_INLINE void transform_columns(Read read, Vector (&to)[TO][COLUMNS]) {
#pragma GCC unroll 6
    for (int j = 0; j < COLUMNS; j++) {
        Vector column[FROM], done[TO];
        read(j, column);
        transform_line(column, done);
#pragma GCC unroll 6
        for (int i = 0; i < TO; i++) to[i][j] = known(done[i]);
    }
}

// All of a convolution's tiles: those at the same place of all slices follow one another.
struct AllTiles {
    const Convolution& c;
    int64_t tall = c.kernel[0] == 1 ? 1 : TILE;
    int64_t down = (c.out[0] + tall - 1) / tall, across = (c.out[1] + TILE - 1) / TILE, deep = c.slices.out;
    int64_t count = c.samples * down * across * deep;
};

struct Tile {
    int64_t sample, slice, row, column;

    Tile(const AllTiles& tiles, int64_t t)
        : sample(t / tiles.deep / tiles.across / tiles.down),
          slice(t % tiles.deep),
          row(t / tiles.deep / tiles.across % tiles.down * tiles.tall),
          column(t / tiles.deep % tiles.across * TILE) {}
};

// HIGH × WIDE places of an image, from a row and a column on; beyond the borders, or without an image, there are zeros.
template <int HIGH, int WIDE>
class Patch {
   public:
    Patch(const float* image, const int64_t (&size)[2], int64_t channels, int64_t row, int64_t column)
        : channels(channels), begin(at_least(0, -column)), end(least(WIDE, size[1] - column)) {
        for (int i = 0; i < HIGH; i++) {
            const int64_t line = row + i;
            const bool inside = image && line >= 0 && line < size[0];
            rows[i] = inside ? image + (line * size[1] + column + begin) * channels : nullptr;
            whole = whole && inside;
        }
        whole = whole && begin == 0 && end == WIDE;
    }

    // `count` channels from `first` on, each frequency `step` numbers after the one before.
    void transform(int64_t first, int64_t count, float* to, int64_t step) const {
        for (int64_t channel = 0; channel < count; channel += LANES) {
            // The last vector starts earlier, where it would reach beyond the channels.
            const int64_t at = least(channel, count - LANES);
            if (whole)
                transform_vector<true>(first + at, to + at, step);
            else
                transform_vector<false>(first + at, to + at, step);
        }
    }

   private:
    const int64_t channels, begin, end;  // the columns that lie within the image
    const float* rows[HIGH];             // from there on; null beyond it
    bool whole = true;

    template <bool inside>
    void transform_vector(int64_t at, float* to, int64_t step) const {
        constexpr int lines = rows_of(WINDOW, HIGH);
        Vector half[lines][WIDE];
        transform_columns<HIGH>(
            [&](int j, Vector(&column)[HIGH]) {
                const bool there = inside || (j >= begin && j < end);
#pragma GCC unroll 6
                for (int i = 0; i < HIGH; i++)
                    column[i] = inside ? load(rows[i] + at) : known(there && rows[i] ? load(rows[i] + at) : Vector{});
                if (there) at = hidden(at + channels);
            },
            half);
#pragma GCC unroll 6
        for (int i = 0; i < lines; i++, to = hidden(to + WINDOW * step)) {
            Vector done[WINDOW];
            transform_line(half[i], done);
            store_line(done, to, step);
        }
    }
};

// What a tile reads of the input, of slice `tap` of those that it reads.
template <int HIGH>
Patch<HIGH, WINDOW> window_of(const Convolution& c, const Tile& tile, int64_t tap, const float* x) {
    const int64_t slice = tile.slice - c.slices.before + tap;
    const bool inside = slice >= 0 && slice < c.slices.size;
    const float* image = x + (tile.sample * c.slices.size + slice) * c.size[0] * c.size[1] * c.channels;
    return {inside ? image : nullptr, c.size, c.channels, tile.row - c.before[0], tile.column - c.before[1]};
}

}  // namespace
}  // namespace CONVBIAS_INSTRUCTIONS
