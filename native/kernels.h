// The kernels of one instruction set, as dispatch.cpp knows them.

#pragma once

#include "convbias.h"

struct Kernel {
    void (*forward)(void* z, void* y, int64_t samples, const Field& field, int threads);
    void (*backward)(const void* saved, const void* gy, void* gz, float* sums, int64_t samples, int64_t places,
                     int threads);
};

#define CONVBIAS_DECLARE(instructions)                                                                          \
    namespace instructions {                                                                                    \
    Kernel kernel(int type, int activation);                                                                    \
    bool reduce_term(const float* sums, const Field& field, int64_t term, int64_t values, int threads);          \
    }

CONVBIAS_DECLARE(plain)
CONVBIAS_DECLARE(avx2)
CONVBIAS_DECLARE(avx512)
