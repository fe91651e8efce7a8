// What follows a convolution: its bias field and activation, and their gradients. Compiled once for each
// instruction set, in a namespace of its own; nothing here may come from a header of the standard library,
// whose inline functions the linker would share between the instruction sets; C's are safe.

#include <stdlib.h>

#include "activations.h"
#include "field.h"
#include "kernels.h"
#include "shares.h"

namespace CONVBIAS_INSTRUCTIONS {
namespace {

// Numbers of a sample that are worked on at a time: few enough to stay in the first cache with all that is
// read and written beside them, and the same for any number of threads, so that sums are the same too.
constexpr int64_t BACKWARD_BLOCK = 1024;
// In how many threads so many numbers are worth working on.
int worth(int64_t numbers, int threads) { return numbers > 32768 ? threads : 1; }

template <class Number, int activation>
void forward(void* z, void* y, int64_t samples, const Field& given, int threads) {
    const Field field = collapsed(given);
    const int64_t places = places_of(field), blocks = (places + FORWARD_BLOCK - 1) / FORWARD_BLOCK;
    // Small images are shared out by samples too.
    const int64_t cuts = blocks >= 4 * threads ? 1 : least(samples, 4 * threads);
    share(blocks * cuts, worth(samples * places, threads), [&](int64_t unit) {
        float room[FORWARD_BLOCK];
        const int64_t begin = unit / cuts * FORWARD_BLOCK, count = least(places - begin, FORWARD_BLOCK);
        const float* added = read_field(field, begin, count, room);
        const int64_t cut = unit % cuts, last = samples * (cut + 1) / cuts;
        for (int64_t n = samples * cut / cuts; n < last; n++) {
            const int64_t at = n * places + begin;
            add_and_activate<Number, activation>((Number*)z + at, y ? (Number*)y + at : nullptr, added, count);
        }
    });
}

template <class Number, int activation>
void hand_back_all(const Number* saved, const Number* gy, Number* gz, int64_t count) {
#pragma omp simd
    for (int64_t i = 0; i < count; i++) write(gz + i, hand_back<activation>(read(saved[i]), read(gy[i])));
}

template <class Number, int activation>
void backward(const void* saved, const void* gy, void* gz, float* sums, int64_t samples, int64_t places, int threads) {
    const int64_t blocks = (places + BACKWARD_BLOCK - 1) / BACKWARD_BLOCK;
    share(blocks, worth(samples * places, threads), [&](int64_t block) {
        double totals[BACKWARD_BLOCK];
        const int64_t begin = block * BACKWARD_BLOCK, count = least(places - begin, BACKWARD_BLOCK);
        for (int64_t i = 0; i < count; i++) totals[i] = 0;
        for (int64_t n = 0; n < samples; n++) {
            const int64_t at = n * places + begin;
            const Number* g = (const Number*)gy + at;
            if (activation != NONE) {
                hand_back_all<Number, activation>((const Number*)saved + at, g, (Number*)gz + at, count);
                g = (const Number*)gz + at;
            }
            if (!sums) continue;
#pragma omp simd
            for (int64_t i = 0; i < count; i++) totals[i] += double(read(g[i]));
        }
        if (!sums) return;
#pragma omp simd
        for (int64_t i = 0; i < count; i++) sums[begin + i] = float(totals[i]);
    });
}

void gather_line(const float* sums, const Line& line, int64_t offset, double* totals) {
    if (line.index) {
        for (int64_t i = 0; i < line.count; i++) totals[offset + line.stride * line.index[line.first + i]] += sums[i];
    } else if (line.stride == 0) {
        double total = 0;
#pragma omp simd reduction(+ : total)
        for (int64_t i = 0; i < line.count; i++) total += double(sums[i]);
        totals[offset] += total;
    } else {
        double* to = totals + offset + line.first * line.stride;
        if (line.stride == 1) {
#pragma omp simd
            for (int64_t i = 0; i < line.count; i++) to[i] += double(sums[i]);
        } else {
            for (int64_t i = 0; i < line.count; i++) to[i * line.stride] += double(sums[i]);
        }
    }
}

// The sums over places [begin, end) for the field's one term, added to `totals`, one for each of its values.
void gather(const float* sums, const Field& field, int64_t begin, int64_t end, double* totals) {
    const int64_t inner = field.sizes[field.axes - 1];
    Place place(field, begin / inner);
    int64_t first = begin % inner;
    for (int64_t at = begin; at < end; place.next(field)) {
        const int64_t run = least(inner - first, end - at);
        const Line line = line_of(field, field.term[0], place, first, run);
        gather_line(sums + at, line, line.values - field.term[0].values, totals);
        at += run;
        first = 0;
    }
}

Field alone(const Field& field, int64_t term) {
    Field one = field;
    one.terms = 1;
    one.term[0] = field.term[term];
    return collapsed(one);
}

template <class Number, int activation>
constexpr Kernel kernel_of() {
    return {forward<Number, activation>, backward<Number, activation>};
}

template <int activation>
void finish(float* z, const float* field, int64_t count) {
    add_and_activate<float, activation>(z, nullptr, field, count);
}

template <class Number>
struct Kernels {
    static constexpr Kernel all[ACTIVATIONS] = {
        kernel_of<Number, NONE>(),       kernel_of<Number, RELU>(),      kernel_of<Number, RELU6>(),
        kernel_of<Number, LEAKY_RELU>(), kernel_of<Number, SIGMOID>(),   kernel_of<Number, TANH>(),
        kernel_of<Number, GELU>(),       kernel_of<Number, GELU_TANH>(), kernel_of<Number, SILU>(),
        kernel_of<Number, HARDSWISH>(),
    };
};

}  // namespace

Kernel kernel(int type, int activation) {
    switch (type) {
        case BFLOAT16: return Kernels<Bfloat16>::all[activation];
        case FLOAT16: return Kernels<Float16>::all[activation];
        default: return Kernels<float>::all[activation];
    }
}

Finish* finish_of(int activation) {
    static constexpr Finish* all[ACTIVATIONS] = {
        finish<NONE>, finish<RELU>, finish<RELU6>,     finish<LEAKY_RELU>, finish<SIGMOID>,
        finish<TANH>, finish<GELU>, finish<GELU_TANH>, finish<SILU>,       finish<HARDSWISH>};
    return all[activation];
}

HandBack* hand_back_of(int activation) {
    static constexpr HandBack* all[ACTIVATIONS] = {
        hand_back_all<float, NONE>, hand_back_all<float, RELU>,      hand_back_all<float, RELU6>,
        hand_back_all<float, LEAKY_RELU>, hand_back_all<float, SIGMOID>,   hand_back_all<float, TANH>,
        hand_back_all<float, GELU>,       hand_back_all<float, GELU_TANH>, hand_back_all<float, SILU>,
        hand_back_all<float, HARDSWISH>,
    };
    return all[activation];
}

bool reduce_term(const float* sums, const Field& given, int64_t term, int64_t values, int threads) {
    const Field field = alone(given, term);
    const int64_t places = places_of(field);
    // As many partial sums as are worth adding up, whatever the number of threads.
    const int64_t parts = values * 4 > places ? 1 : least(16, places / (values * 4));
    double* totals = (double*)calloc(parts * values, sizeof(double));
    if (!totals) return false;
    share(parts, worth(places, threads), [&](int64_t part) {
        gather(sums, field, places * part / parts, places * (part + 1) / parts, totals + part * values);
    });
    for (int64_t v = 0; v < values; v++) {
        double total = 0;
        for (int64_t part = 0; part < parts; part++) total += totals[part * values + v];
        field.term[0].values[v] = float(total);
    }
    free(totals);
    return true;
}

}  // namespace CONVBIAS_INSTRUCTIONS
