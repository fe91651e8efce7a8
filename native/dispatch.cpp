// Which instruction set runs: the widest that this machine has. And in how many threads.

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "convbias.h"
#include "kernels.h"
#include "pages.h"

namespace {

struct Instructions {
    const char* name;
    bool (*present)();
    Kernel (*kernel)(int, int);
    bool (*reduce_term)(const float*, const Field&, int64_t, int64_t, int);
    Turn* turn;
    const Method* ways[WAYS];
    WeightGradient* weights[WAYS];
    AtOnce* at_once[WAYS];
};

#define CONVBIAS_KERNELS(instructions)                                                      \
    instructions::kernel, instructions::reduce_term, instructions::turn,                    \
        {&instructions::winograd, &instructions::direct, &instructions::depthwise, &instructions::pointwise, &instructions::gathered}, \
        {instructions::winograd_weights, nullptr, instructions::depthwise_weights, nullptr, nullptr},               \
        {nullptr, nullptr, instructions::depthwise_gradients, instructions::pointwise_gradients, nullptr}

const Instructions ALL[] = {
#ifdef CONVBIAS_X86
    {"avx512",
     [] {
         return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
     },
     CONVBIAS_KERNELS(avx512)},
    {"avx2", [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }, CONVBIAS_KERNELS(avx2)},
#endif
    {"plain", [] { return true; }, CONVBIAS_KERNELS(plain)},
};

const Instructions* widest() {
    const Instructions* it = ALL;
    while (!it->present()) it++;
    return it;
}

const Instructions* chosen = widest();

// The threads of a parent process are not in its fork, and OpenMP would wait for them.
bool forked = false;
const int watched = pthread_atfork(nullptr, nullptr, [] { forked = true; });

int64_t bytes(int type) { return type == FLOAT32 ? 4 : 2; }

int64_t places_of(const Convolution& c) { return c.slices.out * c.out[0] * c.out[1] * c.filters; }

int usable(int threads) { return forked || threads < 1 ? 1 : threads; }

}  // namespace

extern "C" {

void convbias_forward(int type, int activation, void* z, void* y, int64_t samples, const Field* field,
                      int threads) {
    ask_large_pages(y, samples * places_of(*field), bytes(type));
    chosen->kernel(type, activation).forward(z, y, samples, *field, usable(threads));
}

void convbias_backward(int type, int activation, const void* saved, const void* gy, void* gz, float* sums,
                       int64_t samples, int64_t places, int threads) {
    if (gz != gy) ask_large_pages(gz, samples * places, bytes(type));
    ask_large_pages(sums, places);
    chosen->kernel(type, activation).backward(saved, gy, gz, sums, samples, places, usable(threads));
}

int convbias_reduce(const float* sums, const Field* field, const int64_t* counts, int threads) {
    for (int64_t term = 0; term < field->terms; term++)
        if (!chosen->reduce_term(sums, *field, term, counts[term], usable(threads))) return 0;
    return 1;
}

int64_t convbias_packed_size(int way, const Convolution* convolution) {
    return chosen->ways[way]->packed_size(*convolution);
}

void convbias_pack(int way, const Convolution* convolution, const Weights* weights, float* packed, int threads) {
    ask_large_pages(packed, convbias_packed_size(way, convolution));
    chosen->ways[way]->pack(*convolution, *weights, packed, usable(threads));
}

int convbias_convolve(int way, int activation, const Convolution* convolution, const float* x, const float* packed,
                      const float* residual, float* y, const Field* field, int threads) {
    ask_large_pages(y, convolution->samples * places_of(*convolution));
    return chosen->ways[way]->convolve(*convolution, x, packed, residual, y, *field, activation, usable(threads));
}

int convbias_chain(const Step* steps, int64_t count, float* const* arrays, int threads) {
    for (const Step* s = steps; s < steps + count; s++) {
        const float* residual = s->residual < 0 ? nullptr : arrays[s->residual];
        if (!convbias_convolve(s->way, s->activation, s->convolution, arrays[s->x], s->packed, residual, arrays[s->y],
                               s->field, threads))
            return 0;
    }
    return 1;
}

int convbias_gradients(int way, const Gradients* wanted, const Convolution* convolution, const Convolution* turned,
                       int threads) {
    const Gradients& g = *wanted;
    const Convolution& c = *convolution;
    if (g.gz ? g.gw && !chosen->weights[way] : !chosen->at_once[way]) return 0;
    const int64_t lines = g.gx ? (chosen->ways[way]->packed_size(*turned) + 15) / 16 : 0;
    float* packed = g.gx ? (float*)aligned_alloc(64, 64 * lines) : nullptr;
    if (g.gx && !packed) return 0;
    if (g.gx) convbias_pack(way, turned, &g.weights, packed, threads);
    bool made = true;
    if (!g.gz) {
        ask_large_pages(g.gx, c.samples * c.slices.size * c.size[0] * c.size[1] * c.channels);
        ask_large_pages(g.sums, places_of(c));
        made = chosen->at_once[way](g, c, *turned, packed, usable(threads));
    } else {
        if (g.activation != NONE || g.sums)
            convbias_backward(FLOAT32, g.activation, g.saved, g.gy, g.gz, g.sums, c.samples, places_of(c), threads);
        const Field none{4, {c.slices.size, c.size[0], c.size[1], c.channels}, 0, {}};
        if (g.gx) made = convbias_convolve(way, NONE, turned, g.gz, packed, nullptr, g.gx, &none, threads);
        if (g.gw) made = made && chosen->weights[way](c, g.x, g.gz, g.gw, usable(threads));
    }
    free(packed);
    return made;
}

void convbias_turn(const float* from, float* to, int64_t samples, int64_t rows, int64_t columns, int threads) {
    ask_large_pages(to, samples * rows * columns);
    chosen->turn(from, to, samples, rows, columns, usable(threads));
}

const char* convbias_instructions() { return chosen->name; }

int convbias_use(const char* instructions) {
    for (const Instructions& known : ALL)
        if (!strcmp(known.name, instructions) && known.present()) {
            chosen = &known;
            return 1;
        }
    return 0;
}
}
