// Products of matrices with sums held in registers: rows of inputs times panels of packed weights.

#pragma once

#include "finishing.h"
#include "vector.h"

namespace CONVBIAS_INSTRUCTIONS {
namespace {

constexpr int PANEL = 2 * LANES;
// Rows whose sums are kept in registers where they are one vector wide: an addition waits for the one before, and the
// machine could begin eight others meanwhile.
constexpr int TALL = ROWS < 8 ? 2 * ROWS : ROWS;
constexpr int64_t MOST_SEGMENTS = 64;
// How many weights further on some are fetched: the machine itself fetches no further than to the end of a page.
constexpr int64_t AHEAD = 2048;
// Steps that are taken at once: where registers are few, a step is so short that what comes with it (to count, to
// fetch) takes a tenth of it.
constexpr int64_t STEPS = REGISTERS < 32 ? 4 : 1;
// Whether it pays to fetch the lines that the next rows are written to, where they lie far away: up to a sixth of the time
// of shallow products. Not measured with longer vectors.
constexpr bool FETCHES_OUTPUTS = LANES < LINE;
// Rows that were gathered lie a line apart: so many numbers further on is the next line of each.
constexpr int64_t GATHERED = ROWS * LINE;

// Where a row's numbers lie: in segments, such as the rows of the kernel that meet the image. The next row's are
// `step` numbers further on. Where segments are summed up `apart`, sums of sums keep more digits.
struct Rows {
    struct Segment {
        const float* from;
        int64_t depth, begin;  // and how deep in the panel its weights begin
    } segment[MOST_SEGMENTS];
    int64_t segments = 0, step;
    bool apart = false;
    // Numbers that will be wanted soon, as many as there are rows; null where these and the weights are at hand. Of
    // gathered rows they are weights, `pace` of them at each step.
    const float* next = nullptr;
    int64_t pace = LINE;
};

enum Fetch { NOTHING, NEXT, NEXT_AND_WEIGHTS };

// Where the products go: row r's to y + r · step.
struct Product {
    float* y;
    int64_t step;
    Ends ends;
};

// Panels lie one after another, two vectors wide but for the last where one will do; `depth` numbers deep.
inline int64_t panels(int64_t filters) { return (filters + PANEL - 1) / PANEL; }

inline int64_t packed_filters(int64_t filters) { return (filters + LANES - 1) / LANES * LANES; }

// Adds sums to what is at y, or puts them there, and starts them anew.
template <int R, int V>
ALWAYS_INLINE void add_sums(Vector (&sums)[R][V], float* y, int64_t step, bool more) {
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
        for (int v = 0; v < V; v++) {
            float* to = y + r * step + v * LANES;
            store(to, more ? load(to) + sums[r][v] : sums[r][v]);
            sums[r][v] = Vector{};
        }
}

// Sums start from numbers that lie as the products do; those of the R rows behind will be wanted soon.
template <bool more, int R, int V>
ALWAYS_INLINE void start_from(Vector (&sums)[R][V], const float* from, int64_t step, int64_t last) {
    if (last == LANES) {
#pragma GCC unroll 16
        for (int r = 0; r < R; r++)
#pragma GCC unroll 2
            for (int v = 0; v < V; v++) {
                const Vector start = load(from + r * step + v * LANES);
                sums[r][v] = more ? sums[r][v] + start : start;
            }
    } else {
#pragma GCC unroll 16
        for (int r = 0; r < R; r++)
#pragma GCC unroll 2
            for (int v = 0; v < V; v++) {
                const float* at = from + r * step + v * LANES;
                const Vector start = v < V - 1 ? load(at) : load_some(at, last);
                sums[r][v] = more ? sums[r][v] + start : start;
            }
    }
    // Where rows are half a line and lie side by side, every second begins one.
    const int each = V * LANES < LINE && step == V * LANES ? 2 : 1;
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
        for (int l = 0; l < V * LANES; l += LINE)
            if (r % 2 == 0 || each == 1) __builtin_prefetch(from + (R + r) * step + l);
}

template <int R, int V>
ALWAYS_INLINE void start_sums(Vector (&sums)[R][V], const Product& to, int64_t at, int64_t last) {
    const float* const* starts = to.ends.starts;
    if (starts[0]) {
        start_from<false>(sums, starts[0] + at, to.step, last);
        if (starts[1]) start_from<true>(sums, starts[1] + at, to.step, last);
        return;
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
        for (int v = 0; v < V; v++) sums[r][v] = Vector{};
}

// Sums are cut off, and end where the products go.
template <int R, int V>
ALWAYS_INLINE void put_sums(Vector (&sums)[R][V], const Product& to, int64_t at, int64_t last) {
    float* y = to.y + at;
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
        for (int v = 0; v < V; v++) sums[r][v] = to.ends.cut(sums[r][v]);
    if (to.ends.capped)
#pragma GCC unroll 16
        for (int r = 0; r < R; r++)
#pragma GCC unroll 2
            for (int v = 0; v < V; v++) sums[r][v] = to.ends.cap(sums[r][v]);
    if (last < LANES) {
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            if (V > 1) store(y + r * to.step, sums[r][0]);
            store_some(y + r * to.step + (V - 1) * LANES, sums[r][V - 1], last);
        }
    } else if (to.ends.past) {
#pragma GCC unroll 16
        for (int r = 0; r < R; r++)
#pragma GCC unroll 2
            for (int v = 0; v < V; v++) stream(y + r * to.step + v * LANES, sums[r][v]);
    } else {
#pragma GCC unroll 16
        for (int r = 0; r < R; r++)
#pragma GCC unroll 2
            for (int v = 0; v < V; v++) store(y + r * to.step + v * LANES, sums[r][v]);
    }
}

// sums[r][k] += from[r · step] · weights[k]
template <int R, int V>
ALWAYS_INLINE void add_step(Vector (&sums)[R][V], const float* from, int64_t step, const float* weights) {
    Vector w[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) w[v] = load(weights + v * LANES);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
        const Vector x = all(from[r * step]);
#pragma GCC unroll 2
        for (int v = 0; v < V; v++) add_product(sums[r][v], x, w[v]);
    }
}

// sums[r][k] += Σ over depth d of from[r · step + d] · weights[d][k]; numbers from `next` on, `pace` for each d, and the
// weights to come, are fetched meanwhile.
template <Fetch fetch, int R, int V>
ALWAYS_INLINE void add_products(Vector (&sums)[R][V], const float* from, int64_t step, int64_t depth, const float* weights,
                         const float* next, int64_t pace) {
    for (; depth >= STEPS; depth -= STEPS, weights += STEPS * V * LANES) {
        if (fetch == NEXT) {
            __builtin_prefetch(next, 0, 2);
            for (int64_t l = LINE; STEPS > 1 && l < STEPS * pace; l += LINE) __builtin_prefetch(next + l, 0, 2);
        }
        if (fetch == NEXT_AND_WEIGHTS) {
#pragma GCC unroll 2
            for (int64_t l = 0; l < STEPS * R; l += LINE) __builtin_prefetch(next + l);
#pragma GCC unroll 4
            for (int64_t l = 0; l < STEPS * V * LANES; l += LINE) __builtin_prefetch(weights + AHEAD + l, 0, 2);
        }
        next += STEPS * pace;
#pragma GCC unroll 4
        for (int64_t s = 0; s < STEPS; s++) {
            add_step(sums, from, step, weights + s * V * LANES);
            from = STEPS > 1 ? hidden(from + 1) : from + 1;
        }
    }
    for (; STEPS > 1 && depth > 0; depth--, from++, weights += V * LANES) add_step(sums, from, step, weights);
}

// The same for rows that were gathered.
template <int R, int V>
ALWAYS_INLINE void add_gathered(Vector (&sums)[R][V], const float* from, int64_t depth, const float* weights,
                         const float* next, int64_t pace) {
    for (; depth > LINE; depth -= LINE, from += GATHERED, weights += LINE * V * LANES, next += LINE * pace)
        add_products<NEXT>(sums, from, LINE, LINE, weights, next, pace);
    add_products<NEXT>(sums, from, LINE, depth, weights, next, pace);
}

// y[r][k] = Σ over segments s and depth d of from[s][r · step + d] · panel[begin[s] + d][k], for R rows and V vectors
// of filters, the last of them `last` filters long. `at` says where y[0][0] lies.
template <bool gathered, bool far, int R, int V>
inline void multiply_block(const Rows& rows, int64_t offset, const float* panel, const Product& to, int64_t at,
                           int64_t last) {
    Vector sums[R][V];
    start_sums(sums, to, at, last);
    if (far && !to.ends.past)
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) __builtin_prefetch(to.y + at + (R + r) * to.step);
    for (int64_t s = 0; s < rows.segments; s++) {
        const float* from = rows.segment[s].from + offset;
        const float* weights = panel + rows.segment[s].begin * V * LANES;
        if (rows.apart && s > 0) add_sums<R, V>(sums, to.y + at, to.step, s > 1);
        const int64_t depth = rows.segment[s].depth;
        if (gathered)
            add_gathered(sums, from, depth, weights, rows.next + rows.segment[s].begin * rows.pace, rows.pace);
        else if (rows.next)
            add_products<NEXT_AND_WEIGHTS>(sums, from, rows.step, depth, weights,
                                           rows.next + offset + R * rows.segment[s].begin, R);
        else
            add_products<NOTHING>(sums, from, rows.step, depth, weights, nullptr, 0);
    }
    if (rows.apart && rows.segments > 1)
#pragma GCC unroll 16
        for (int r = 0; r < R; r++)
#pragma GCC unroll 2
            for (int v = 0; v < V; v++) sums[r][v] += load(to.y + at + r * to.step + v * LANES);
    put_sums(sums, to, at, last);
}

template <bool gathered, bool far, int V, int R>
inline void multiply_rows(int64_t count, const Rows& rows, int64_t offset, const float* panel, const Product& to,
                          int64_t at, int64_t last) {
    if (count == R)
        multiply_block<gathered, far, R, V>(rows, offset, panel, to, at, last);
    else if constexpr (R > 1)
        multiply_rows<gathered, far, V, R - 1>(count, rows, offset, panel, to, at, last);
}

// `count` rows, from `first` on, times the panel of `filters` filters, two vectors at most, to column `column`.
// Of `gathered` rows `step` is 0, and there are ROWS at most. What lies `far` is fetched before it is written.
template <bool gathered = false, bool far = false>
inline void multiply(const Rows& rows, int64_t first, int64_t count, const float* panel, int64_t filters,
                     const Product& to, int64_t column) {
    constexpr int tall = gathered ? ROWS : TALL;
    const int64_t most = filters > LANES ? ROWS : tall;
    // Blocks of much the same size: small ones waste more of the registers.
    for (int64_t left = (count + most - 1) / most; left > 0; left--) {
        const int64_t size = (count + left - 1) / left, offset = first * rows.step, at = first * to.step + column;
        if (filters > LANES)
            multiply_rows<gathered, far, 2, ROWS>(size, rows, offset, panel, to, at, filters - LANES);
        else
            multiply_rows<gathered, far, 1, tall>(size, rows, offset, panel, to, at, filters);
        first += size;
        count -= size;
    }
}

}  // namespace
}  // namespace CONVBIAS_INSTRUCTIONS
