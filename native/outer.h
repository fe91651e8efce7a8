// Products of matrices that are summed over their rows, as the gradients of weights are.

#pragma once

#include "multiply.h"

namespace CONVBIAS_INSTRUCTIONS {
namespace {

// Rows of numbers in memory.
struct Table {
    const float* from;
    int64_t step;
};

// sums[i][k] = Σ over rows r of x[r][i] · g[r][k], or `more` by it, for C columns of x and V vectors of g's.
template <int C, int V>
inline void add_outer_block(Table x, Table g, int64_t rows, float* sums, bool more) {
    Vector found[C][V];
#pragma GCC unroll 16
    for (int i = 0; i < C; i++)
#pragma GCC unroll 2
        for (int v = 0; v < V; v++) {
            found[i][v] = Vector{};
            __builtin_prefetch(sums + (i * V + v) * LANES, 1);
        }
    for (int64_t r = 0; r < rows; r++, x.from += x.step, g.from += g.step) {
        Vector w[V];
#pragma GCC unroll 2
        for (int v = 0; v < V; v++) w[v] = load(g.from + v * LANES);
#pragma GCC unroll 16
        for (int i = 0; i < C; i++) {
            const Vector number = all(x.from[i]);
#pragma GCC unroll 2
            for (int v = 0; v < V; v++) found[i][v] += number * w[v];
        }
    }
    add_sums<C, V>(found, sums, V * LANES, more);
}

template <int V, int C = ROWS>
inline void add_outer_of(int64_t columns, Table x, Table g, int64_t rows, float* sums, bool more) {
    if (columns == C)
        add_outer_block<C, V>(x, g, rows, sums, more);
    else if constexpr (C > 1)
        add_outer_of<V, C - 1>(columns, x, g, rows, sums, more);
}

// The same for all columns of x and of g: [panel][column of x][of g]. The last vector may reach beyond g's columns, to
// what was never written; nobody reads its sums there.
inline void add_outer(Table x, int64_t columns, Table g, int64_t width, int64_t rows, float* sums, bool more) {
    for (int64_t k = 0; k < width; k += PANEL) {
        const int64_t wide = least(PANEL, width - k);
        int64_t first = 0;
        for (int64_t left = (columns + ROWS - 1) / ROWS; left > 0; left--) {
            const int64_t count = (columns - first + left - 1) / left;
            const Table from{x.from + first, x.step}, by{g.from + k, g.step};
            float* to = sums + columns * k + first * wide;
            if (wide > LANES)
                add_outer_of<2>(count, from, by, rows, to, more);
            else
                add_outer_of<1>(count, from, by, rows, to, more);
            first += count;
        }
    }
}

}  // namespace
}  // namespace CONVBIAS_INSTRUCTIONS
