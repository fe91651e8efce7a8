// Sums that gradients are: of a field over the samples, while each block of places is at hand; of weights in parts.

#pragma once

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "inline.h"

namespace CONVBIAS_INSTRUCTIONS {
namespace {

// In how many parts a weight's sums are made at most: in as many for any number of threads, so that they are the same
// too.
constexpr int64_t MOST_PARTS = 16;

// sums[i] = numbers[i], or more by them.
template <class Number>
inline void add_to(Number* sums, const float* numbers, int64_t count, bool first) {
    if (first) {
#pragma omp simd
        for (int64_t i = 0; i < count; i++) sums[i] = Number(numbers[i]);
    } else {
#pragma omp simd
        for (int64_t i = 0; i < count; i++) sums[i] += Number(numbers[i]);
    }
}

// Sums over some samples in single precision, and over these in double.
class FieldSums {
   public:
    // To `sums`, of `places` numbers, or nowhere; at most `longest` at a time.
    FieldSums(float* sums, int64_t samples, int64_t places, int64_t longest, int threads)
        : sums(sums),
          samples(samples),
          longest(longest),
          has_groups(sums && samples > GROUP),
          totals(has_groups ? (double*)malloc(threads * longest * sizeof(double)) : nullptr) {
        if (sums && !samples) memset(sums, 0, places * sizeof(float));
    }

    FieldSums(const FieldSums&) = delete;
    ~FieldSums() { free(totals); }

    bool has_memory() const { return totals || !has_groups; }

    // `count` numbers of sample n, from place `begin` on. The samples come one after another.
    void add(int64_t n, const float* gz, int64_t begin, int64_t count) const {
        if (sums) add_to(sums + begin, gz, count, n % GROUP == 0);
    }

    // After those of a block that sample n has.
    void end_of(int64_t n, int64_t begin, int64_t count) const {
        const bool last = n == samples - 1;
        if (!has_groups || (n % GROUP < GROUP - 1 && !last)) return;
        double* const total = totals + omp_get_thread_num() * longest;
        add_to(total, sums + begin, count, n < GROUP);
        for (int64_t i = 0; last && i < count; i++) sums[begin + i] = float(total[i]);
    }

   private:
    static constexpr int64_t GROUP = 8;
    float* const sums;
    const int64_t samples, longest;
    const bool has_groups;
    double* const totals;
};

}  // namespace
}  // namespace CONVBIAS_INSTRUCTIONS
