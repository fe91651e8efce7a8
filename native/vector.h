// Vectors of float32, as wide as the registers of the instruction set.

#pragma once

#include <stdint.h>

#include "inline.h"

#if defined(__AVX512F__) || defined(__AVX__)
#include <immintrin.h>
#endif

namespace CONVBIAS_INSTRUCTIONS {
namespace {

// ROWS × 2 sums, two vectors of weights and an input fit into the registers.
#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 14, REGISTERS = 32;
#elif defined(__AVX__)
constexpr int LANES = 8, ROWS = 6, REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int LANES = 4, ROWS = 14, REGISTERS = 32;
#else
constexpr int LANES = 4, ROWS = 6, REGISTERS = 16;
#endif

// How many vectors the registers hold beside `taken` others and two to work with; more than these gain nothing.
constexpr int MOST_BESIDE = 14;
constexpr int beside(int taken) { return REGISTERS - 2 - taken < MOST_BESIDE ? REGISTERS - 2 - taken : MOST_BESIDE; }

// Numbers that are fetched together: a line of the caches.
constexpr int64_t LINE = 16;

typedef float Vector __attribute__((vector_size(LANES * sizeof(float))));
// The same anywhere in memory.
typedef float Lying __attribute__((vector_size(LANES * sizeof(float)), aligned(sizeof(float)), may_alias));

ALWAYS_INLINE Vector load(const float* from) { return *(const Lying*)from; }

ALWAYS_INLINE void store(float* to, Vector v) { *(Lying*)to = v; }

// The same, which is known by now: gcc would rather compute it again, or later, where it is used.
ALWAYS_INLINE Vector known(Vector v) {
#if defined(__x86_64__)
    asm("" : "+v"(v));
#endif
    return v;
}

// For what is used several times.
ALWAYS_INLINE Vector load_once(const float* from) { return known(load(from)); }

// The same address or number, of which gcc does not know where it came from: of many that follow each other it would
// rather keep each, in memory if need be, than count.
template <class T>
ALWAYS_INLINE T hidden(T at) {
    asm("" : "+r"(at));
    return at;
}

ALWAYS_INLINE bool is_aligned(const float* p) { return (uintptr_t)p % sizeof(Vector) == 0; }

ALWAYS_INLINE Vector all(float number) { return number - Vector{}; }

// sum += a · b, in the register of the sum: where several such follow each other, gcc lets a sum end in the register of
// a factor, and moves it back.
ALWAYS_INLINE void add_product(Vector& sum, Vector a, Vector b) {
#if defined(__FMA__) && !defined(__AVX512F__)
    asm("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
#else
    sum += a * b;
#endif
}

// Past the caches, to a multiple of a vector's size.
ALWAYS_INLINE void stream(float* to, Vector v) {
#if defined(__AVX512F__)
    _mm512_stream_ps(to, v);
#elif defined(__AVX__)
    _mm256_stream_ps(to, v);
#else
    store(to, v);
#endif
}

// The first `count` numbers alone.
ALWAYS_INLINE Vector load_some(const float* from, int64_t count) {
#if defined(__AVX512F__)
    return _mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), from);
#else
    Vector v{};
    for (int64_t i = 0; i < count; i++) v[i] = from[i];
    return v;
#endif
}

ALWAYS_INLINE void store_some(float* to, Vector v, int64_t count) {
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(to, __mmask16((1u << count) - 1), v);
#else
    for (int64_t i = 0; i < count; i++) to[i] = v[i];
#endif
}

}  // namespace
}  // namespace CONVBIAS_INSTRUCTIONS
