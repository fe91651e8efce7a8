// Products of rows whose windows overlap, as under a kernel of three taps at a stride of 1: a number that was read once
// is multiplied by the weights of all taps. Half as many are read as by multiply.h.

#pragma once

#include "multiply.h"

namespace CONVBIAS_INSTRUCTIONS {
namespace {

constexpr int OVERLAPPING = 3;
// Outputs whose sums are kept in registers, beside the weights of the taps and what they are multiplied by.
constexpr int SIDE_BY_SIDE = REGISTERS < 32 ? 10 : ROWS;

// y[r][k] = Σ over segments s, taps t and channels c of from[s][(r + t) · channels + c] · weights[s][t][c][k], for R
// neighbouring outputs and a vector of filters, `last` of them. `at` says where y[0][0] lies.
template <int R>
inline void overlap_block(const Rows& rows, int64_t offset, const float* weights, const Product& to, int64_t at,
                          int64_t last) {
    // Each address serves three numbers: there are too few registers for one each.
    constexpr int inputs = R + OVERLAPPING - 1, addresses = (inputs + 2) / 3;
    const int64_t channels = rows.step;
    Vector sums[R][1];
    start_sums(sums, to, at, last);
    for (int64_t s = 0; s < rows.segments; s++) {
        const float* from[addresses];
        from[0] = rows.segment[s].from + offset;
#pragma GCC unroll 8
        for (int a = 1; a < addresses; a++) from[a] = hidden(from[a - 1] + 3 * channels);
        const float* w = weights + rows.segment[s].begin * LANES;
        for (int64_t c = 0; c < channels; c++, w += LANES) {
            Vector tap[OVERLAPPING];
#pragma GCC unroll 3
            for (int t = 0; t < OVERLAPPING; t++) tap[t] = load(w + t * channels * LANES);
#pragma GCC unroll 16
            for (int j = 0; j < inputs; j++) {
                const Vector x = all(from[j / 3][j % 3 * channels]);
#pragma GCC unroll 3
                for (int t = 0; t < OVERLAPPING; t++)
                    if (j >= t && j < R + t) add_product(sums[j - t][0], x, tap[t]);
            }
#pragma GCC unroll 8
            for (int a = 0; a < addresses; a++) from[a] = hidden(from[a] + 1);
        }
    }
    put_sums(sums, to, at, last);
}

template <int R>
inline void overlap_rows(int64_t count, const Rows& rows, int64_t offset, const float* weights, const Product& to,
                         int64_t at, int64_t last) {
    if (count == R)
        overlap_block<R>(rows, offset, weights, to, at, last);
    else if constexpr (R > 1)
        overlap_rows<R - 1>(count, rows, offset, weights, to, at, last);
}

// `count` rows times a panel of one vector of filters.
inline void multiply_overlapping(const Rows& rows, int64_t count, const float* panel, int64_t filters,
                                 const Product& to) {
    int64_t first = 0;
    for (int64_t left = (count + SIDE_BY_SIDE - 1) / SIDE_BY_SIDE; left > 0; left--) {
        const int64_t size = (count + left - 1) / left;
        overlap_rows<SIDE_BY_SIDE>(size, rows, first * rows.step, panel, to, first * to.step, filters);
        first += size;
        count -= size;
    }
}

}  // namespace
}  // namespace CONVBIAS_INSTRUCTIONS
