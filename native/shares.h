// How threads share units of work that may be done by any of them, in any order.

#pragma once

#include <omp.h>

#include <cstdint>

namespace CONVBIAS_INSTRUCTIONS {
namespace {

// Each thread has its share, one unit after another, so that in the next call it finds near it what it wrote in this
// one; and takes what the others have left when it is through, for one that the machine keeps from running would have
// all wait.
class Shares {
   public:
    Shares(int64_t units, int threads) : shares(threads < MOST ? threads : MOST) {
        for (int64_t i = 0; i < shares; i++) share[i] = {units * i / shares, units * (i + 1) / shares};
    }

    // By every thread of a team: what `work` does to each unit's number.
    template <class Work>
    void each(Work work) {
        for (int64_t turn = 0; turn < shares; turn++) {
            Share& from = share[(omp_get_thread_num() + turn) % shares];
            for (int64_t unit; (unit = __atomic_fetch_add(&from.next, 1, __ATOMIC_RELAXED)) < from.end;) work(unit);
        }
    }

   private:
    static constexpr int MOST = 64;

    // In lines of their own: to write one takes it from all who have others of its line.
    struct alignas(64) Share {
        int64_t next, end;
    };

    const int64_t shares;
    Share share[MOST];
};

template <class Work>
void share(int64_t units, int threads, Work work) {
    Shares shares(units, threads);
#pragma omp parallel num_threads(threads) if (threads > 1)
    shares.each(work);
}

}  // namespace
}  // namespace CONVBIAS_INSTRUCTIONS
