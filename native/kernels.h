// The kernels of one instruction set, as dispatch.cpp knows them.

#pragma once

#include "convbias.h"

namespace {

// Numbers of a sample.
inline int64_t places_of(const Field& field) {
    int64_t places = 1;
    for (int64_t a = 0; a < field.axes; a++) places *= field.sizes[a];
    return places;
}

}  // namespace

struct Kernel {
    void (*forward)(void* z, void* y, int64_t samples, const Field& field, int threads);
    void (*backward)(const void* saved, const void* gy, void* gz, float* sums, int64_t samples, int64_t places,
                     int threads);
};

// One way to convolve. `packed_size` is how many numbers its form of the weights has.
struct Method {
    int64_t (*packed_size)(const Convolution& c);
    void (*pack)(const Convolution& c, const Weights& weights, float* packed, int threads);
    bool (*convolve)(const Convolution& c, const float* x, const float* packed, const float* residual, float* y,
                     const Field& field, int activation, int threads);
};

// All gradients that are wanted; `packed` are the weights of the convolution that makes the input's.
typedef bool AtOnce(const Gradients& wanted, const Convolution& c, const Convolution& turned, const float* packed, int threads);

// The weights' alone, from the convolution's, gz.
typedef bool WeightGradient(const Convolution& c, const float* x, const float* gz, float* gw, int threads);

// gz = gy · act′.
typedef void HandBack(const float* saved, const float* gy, float* gz, int64_t count);

// z becomes act(z + field).
typedef void Finish(float* z, const float* field, int64_t count);

// to[n][c][r] = from[n][r][c]
typedef void Turn(const float* from, float* to, int64_t samples, int64_t rows, int64_t columns, int threads);

#define CONVBIAS_DECLARE(instructions)                                                                          \
    namespace instructions {                                                                                    \
    Kernel kernel(int type, int activation);                                                                    \
    bool reduce_term(const float* sums, const Field& field, int64_t term, int64_t values, int threads);          \
    Finish* finish_of(int activation);                                                                          \
    HandBack* hand_back_of(int activation);                                                                     \
    Turn turn;                                                                                                  \
    WeightGradient depthwise_weights, winograd_weights;                                                         \
    AtOnce depthwise_gradients, pointwise_gradients;                                                            \
    extern const Method winograd, direct, depthwise, pointwise, gathered;                                       \
    }

CONVBIAS_DECLARE(plain)
CONVBIAS_DECLARE(avx2)
CONVBIAS_DECLARE(avx512)
