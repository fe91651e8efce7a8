// Every kernel on random cases beside the formula in double, and bit for bit the same in any number of threads:
// check [cases [first]]. A case follows from its number alone: `check 1 173` is case 173 once more.

#include "check.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

// Memory that kernels reserve holds no zeros by chance: bytes of 127, which are a huge number.
extern "C" const char* __asan_default_options() { return "max_malloc_fill_size=1073741824:malloc_fill_byte=127"; }

int main(int count, char** words) {
#ifdef __GLIBC__
    mallopt(M_PERTURB, ~127);
#endif
    const int64_t cases = count > 1 ? atoll(words[1]) : 1000, first = count > 2 ? atoll(words[2]) : 0;
    check::edges();
    for (int64_t i = first; i < first + cases; i++) {
        check::epilogues(i);
        check::convolutions(i);
        check::turns(i);
    }
    check::story = "instruction sets";
    if (convbias_use("none")) check::fail("an unknown one was taken");
    printf("%lld cases,", (long long)cases);
    for (const char* instructions : {"avx512", "avx2", "plain"})
        if (convbias_use(instructions)) printf(" %s", instructions);
    printf(", 1 to %d threads: they are the formula\n", check::MANY_THREADS);
    return 0;
}
