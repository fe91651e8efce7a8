// Matrices turned round: what lies channel by channel to place by place, or back.

#include <utility>

#include "field.h"
#include "kernels.h"
#include "shares.h"
#include "vector.h"

namespace CONVBIAS_INSTRUCTIONS {
namespace {

// As many rows and columns as a thread takes at a time: of those that it reads and writes whole lines at once.
constexpr int64_t STRIP = 256, BLOCK = LINE;
// Numbers that one thread turns in the time that others take to begin.
constexpr int64_t ALONE = 1 << 15;

typedef int32_t Lanes __attribute__((vector_size(LANES * sizeof(int32_t))));

// The numbers of `a` and `b` by turns: those of the first halves, and of the second.
template <int... I>
ALWAYS_INLINE void alternate(Vector a, Vector b, Vector& first, Vector& second, std::integer_sequence<int, I...>) {
    first = __builtin_shuffle(a, b, Lanes{(I / 2 + I % 2 * LANES)...});
    second = __builtin_shuffle(a, b, Lanes{(LANES / 2 + I / 2 + I % 2 * LANES)...});
}

// LANES × LANES numbers. In each round the highest bit of a number's row becomes the lowest of its column, and the
// highest of its column the lowest of its row.
ALWAYS_INLINE void turn_square(const float* from, int64_t columns, float* to, int64_t rows) {
    Vector v[LANES], w[LANES];
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++, from = hidden(from + columns)) v[i] = load(from);
#pragma GCC unroll 4
    for (int round = 1; round < LANES; round *= 2) {
#pragma GCC unroll 8
        for (int i = 0; i < LANES / 2; i++)
            alternate(v[i], v[i + LANES / 2], w[2 * i], w[2 * i + 1], std::make_integer_sequence<int, LANES>());
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) v[i] = w[i];
    }
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++, to = hidden(to + rows)) store(to, v[i]);
}

// `high` × `wide` numbers, a block at most.
void turn_block(const float* from, int64_t columns, float* to, int64_t rows, int64_t high, int64_t wide) {
    const int64_t whole_rows = high / LANES * LANES, whole_columns = wide / LANES * LANES;
    for (int64_t c = 0; c < whole_columns; c += LANES)
        for (int64_t r = 0; r < whole_rows; r += LANES) turn_square(from + r * columns + c, columns, to + c * rows + r, rows);
    for (int64_t r = 0; r < high; r++)
        for (int64_t c = r < whole_rows ? whole_columns : 0; c < wide; c++) to[c * rows + r] = from[r * columns + c];
}

}  // namespace

void turn(const float* from, float* to, int64_t samples, int64_t rows, int64_t columns, int threads) {
    const int64_t strips = (rows + STRIP - 1) / STRIP, blocks = (columns + BLOCK - 1) / BLOCK;
    if (samples * rows * columns <= ALONE) threads = 1;
    share(samples * strips * blocks, threads, [&](int64_t unit) {
        const int64_t sample = unit / blocks / strips * rows * columns;
        const int64_t c = unit % blocks * BLOCK, first = unit / blocks % strips * STRIP;
        for (int64_t r = first; r < least(first + STRIP, rows); r += BLOCK)
            turn_block(from + sample + r * columns + c, columns, to + sample + c * rows + r, rows, least(BLOCK, rows - r),
                       least(BLOCK, columns - c));
    });
}

}  // namespace CONVBIAS_INSTRUCTIONS
