// What the checks have in common: numbers in memory between walls, random fields, and what they are compared with.

#pragma once

#include <sanitizer/asan_interface.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "convbias.h"

namespace check {

using Bits = std::vector<uint32_t>;

inline const char* const ACTIVATION_NAMES[] = {"none", "relu", "relu6",     "leaky_relu", "sigmoid",
                                        "tanh", "gelu", "gelu_tanh", "silu",       "hardswish"};
constexpr int MOST_THREADS = 4, MANY_THREADS = 70;

struct Format {
    const char* name;
    int bytes, exponent, mantissa;

    int bias() const { return (1 << (exponent - 1)) - 1; }

    double value(uint32_t bits) const {
        const int special = (1 << exponent) - 1, e = bits >> mantissa & special;
        const uint32_t one = 1u << mantissa, digits = bits & (one - 1);
        const double size = e == special ? (digits ? NAN : INFINITY)
                                         : ldexp(digits + (e ? one : 0), std::max(e, 1) - bias() - mantissa);
        return bits >> (exponent + mantissa) & 1 ? -size : size;
    }

    // How far apart neighbours are around `number`.
    double unit(double number) const { return ldexp(1, std::max(ilogb(number), 1 - bias()) - mantissa); }

    double rounded(double number) const {
        if (!std::isfinite(number)) return number;
        const double nearest = nearbyint(number / unit(number)) * unit(number);
        return fabs(nearest) < ldexp(2, bias()) ? nearest : copysign(INFINITY, number);
    }
};

inline const Format FORMATS[TYPES] = {{"float32", 4, 8, 23}, {"bfloat16", 2, 8, 7}, {"float16", 2, 5, 10}};
inline const Format& SINGLE = FORMATS[FLOAT32];

struct Random {
    std::mt19937_64 engine;

    int64_t below(int64_t end) { return int64_t(engine() % uint64_t(end)); }

    // A number of middling size; now and then 0, 3, −3 or 6, where slopes change.
    uint32_t number(const Format& format) {
        const uint32_t sign = uint32_t(below(2)) << (format.exponent + format.mantissa);
        const int64_t kind = below(16);
        if (kind == 0) return sign;
        if (kind <= 2) return sign | (2 * (format.bias() + kind) + 1) << (format.mantissa - 1);
        return sign | uint32_t((format.bias() - 4 + below(8)) << format.mantissa | below(1 << format.mantissa));
    }

    Bits numbers(const Format& format, int64_t count) {
        Bits bits(count);
        for (uint32_t& one : bits) one = number(format);
        return bits;
    }
};

inline std::string story;  // what is being checked, for messages

template <class... Words>
[[noreturn]] void fail(const char* format, Words... words) {
    fprintf(stderr, "check: %s, %s: ", story.c_str(), convbias_instructions());
    fprintf(stderr, format, words...);
    fprintf(stderr, "\n");
    exit(1);
}

// Numbers at an odd place in memory, between walls that nothing may touch.
class Memory {
   public:
    // Without numbers: poison, which has to be written over.
    Memory(Random& random, int bytes, int64_t count)
        : bytes(bytes),
          count(count),
          begin(WALL + bytes * random.below(16)),
          all(begin + bytes * count + WALL, STONE) {
        memset(data(), 0xff, bytes * count);
        ASAN_POISON_MEMORY_REGION(all.data(), begin);
        ASAN_POISON_MEMORY_REGION(all.data() + all.size() - WALL, WALL);
    }

    Memory(Random& random, int bytes, const Bits& numbers) : Memory(random, bytes, int64_t(numbers.size())) {
        for (int64_t i = 0; i < count; i++) memcpy(data() + i * bytes, &numbers[i], bytes);
    }

    Memory(Memory&&) = default;

    ~Memory() {
        ASAN_UNPOISON_MEMORY_REGION(all.data(), all.size());
        for (size_t i = 0; i < all.size(); i++)
            if ((i < begin || i >= all.size() - WALL) && all[i] != STONE)
                fail("something was written %lld bytes from the start of %lld numbers", (long long)(i - begin),
                     (long long)count);
    }

    unsigned char* data() { return all.data() + begin; }

    Bits bits() {
        Bits found(count);
        for (int64_t i = 0; i < count; i++) memcpy(&found[i], data() + i * bytes, bytes);
        return found;
    }

   private:
    static constexpr int WALL = 64, STONE = 0x77;
    int bytes;
    int64_t count;
    size_t begin;
    std::vector<unsigned char> all;
};

// y = act(z), and its derivative from what is saved: y up to tanh, z for the others.
inline double activated(int activation, double z) {
    switch (activation) {
        case RELU: return z < 0 ? 0 : z;
        case RELU6: return z < 0 ? 0 : z > 6 ? 6 : z;
        case LEAKY_RELU: return z < 0 ? 0.01 * z : z;
        case SIGMOID: return 1 / (1 + exp(-z));
        case TANH: return tanh(z);
        case GELU: return z * 0.5 * erfc(-z * M_SQRT1_2);
        case GELU_TANH: return z / (1 + exp(-2 * M_2_SQRTPI * M_SQRT1_2 * (z + 0.044715 * z * z * z)));
        case SILU: return z / (1 + exp(-z));
        case HARDSWISH: return z <= -3 ? 0 : z < 3 ? z * (z + 3) / 6 : z;
        default: return z;
    }
}

inline double slope(int activation, double saved) {
    const double z = saved, y = saved;
    switch (activation) {
        case RELU: return y <= 0 ? 0 : 1;
        case RELU6: return y <= 0 || y >= 6 ? 0 : 1;
        case LEAKY_RELU: return y <= 0 ? 0.01 : 1;
        case SIGMOID: return y * (1 - y);
        case TANH: return 1 - y * y;
        case GELU: return 0.5 * erfc(-z * M_SQRT1_2) + z * exp(-z * z / 2) * M_2_SQRTPI * M_SQRT1_2 / 2;
        case GELU_TANH: {
            const double root = 2 * M_2_SQRTPI * M_SQRT1_2;
            const double gate = 1 / (1 + exp(-root * (z + 0.044715 * z * z * z)));
            return gate + z * gate * (1 - gate) * root * (1 + 3 * 0.044715 * z * z);
        }
        case SILU: return activated(SIGMOID, z) * (1 + z * (1 - activated(SIGMOID, z)));
        case HARDSWISH: return z <= -3 ? 0 : z < 3 ? z / 3 + 0.5 : 1;
        default: return 1;
    }
}

struct Summand {
    int64_t strides[MOST_AXES] = {};
    Bits index[MOST_AXES];
    Bits values;
};

// Samples of numbers, and a field of random terms for them.
struct Fielded {
    Random random;
    int64_t samples, axes, sizes[MOST_AXES], places = 1;
    std::vector<Summand> terms;

    void draw_field() {
        for (int64_t a = 0; a < axes; a++) places *= sizes[a];
        terms.resize(random.below(2) ? random.below(MOST_TERMS + 1) : 1);
        for (Summand& term : terms) random.below(2) ? draw_plain(term) : draw(term);
    }

    // What kernels have short cuts for: outer axes are shared or the term's own, which lie in order, now and then
    // with gaps.
    void draw_plain(Summand& term) {
        int64_t stride = 1, last = 0;
        for (int64_t a = axes - 1; a >= 0; a--) {
            if (a < axes - 1 && random.below(2)) continue;
            if (random.below(2)) stride += random.below(3);
            term.strides[a] = stride;
            last += stride * (sizes[a] - 1);
            stride *= sizes[a];
        }
        term.values = random.numbers(SINGLE, last + 1);
    }

    // A field written out, and the sum of its terms' sizes.
    void write_out(std::vector<double>& field, std::vector<double>& size) const {
        field.assign(places, 0);
        size.assign(places, 0);
        for (const Summand& term : terms)
            for (int64_t p = 0; p < places; p++) {
                const double value = SINGLE.value(term.values[value_at(term, p)]);
                field[p] += value;
                size[p] += fabs(value);
            }
    }

    // Each axis is shared, the term's own or by index; its values lie in any order, now and then with gaps
    // or one over another.
    void draw(Summand& term) {
        int64_t order[MOST_AXES], stride = 1, last = 0;
        for (int64_t a = 0; a < axes; a++) order[a] = axes - 1 - a;
        if (random.below(2)) std::shuffle(order, order + axes, random.engine);
        for (int64_t i = 0; i < axes; i++) {
            const int64_t a = order[i], kind = random.below(4);
            if (kind == 0) continue;
            const int64_t own = kind == 1 ? 1 + random.below(sizes[a]) : sizes[a];
            if (kind == 1)
                for (int64_t j = 0; j < sizes[a]; j++) term.index[a].push_back(uint32_t(random.below(own)));
            const int64_t odd = random.below(16);
            if (odd < 2) stride = odd ? 2 * stride : 1;
            term.strides[a] = stride;
            last += stride * (own - 1);
            stride *= own;
        }
        term.values = random.numbers(SINGLE, last + 1);
    }

    // Which of the term's values is that of a place.
    int64_t value_at(const Summand& term, int64_t place) const {
        int64_t at = 0;
        for (int64_t a = axes - 1; a >= 0; a--) {
            const int64_t i = place % sizes[a];
            place /= sizes[a];
            at += term.strides[a] * (term.index[a].empty() ? i : int64_t(term.index[a][i]));
        }
        return at;
    }
};

// A case's field as the library reads it. Without numbers its values are poison.
struct Held {
    Field field{};
    std::vector<Memory> values, indices;

    Held(Fielded& c, bool numbers) {
        field.axes = c.axes;
        std::copy(c.sizes, c.sizes + c.axes, field.sizes);
        field.terms = int64_t(c.terms.size());
        for (size_t t = 0; t < c.terms.size(); t++) {
            const Summand& from = c.terms[t];
            Term& term = field.term[t];
            values.push_back(numbers ? Memory(c.random, 4, from.values)
                                     : Memory(c.random, 4, int64_t(from.values.size())));
            term.values = (float*)values.back().data();
            std::copy(from.strides, from.strides + MOST_AXES, term.strides);
            for (int64_t a = 0; a < c.axes; a++) {
                if (from.index[a].empty()) continue;
                indices.emplace_back(c.random, 4, from.index[a]);
                term.index[a] = (const int32_t*)indices.back().data();
            }
        }
    }
};

// Calls run(threads), which answers what was written, for each instruction set and number of threads; the first
// answer of each instruction set is given to `verify`, and the others have to be the same.
template <class Run, class Verify>
void over_threads(Run run, Verify verify, int64_t most_lanes = 16) {
    constexpr std::pair<const char*, int> LANES[] = {{"avx512", 16}, {"avx2", 8}, {"plain", 4}};
    for (const auto& [instructions, lanes] : LANES) {
        if (lanes > most_lanes || !convbias_use(instructions)) continue;
        if (strcmp(convbias_instructions(), instructions)) fail("not %s is in use", instructions);
        const std::vector<Bits> first = run(1);
        verify(first);
        for (int threads : {2, 3, MOST_THREADS, MANY_THREADS})
            if (run(threads) != first) fail("not the same numbers in %d threads", threads);
        std::vector<Bits> alone;
#pragma omp parallel num_threads(2)
#pragma omp single
        alone = run(MOST_THREADS);  // within a team the library gets one thread, whatever it asks for
        if (alone != first) fail("not the same numbers in fewer threads than were asked for");
    }
}

// One rounding to the format, beside float32 arithmetic over numbers as large as `size`.
inline void compare(const char* what, int64_t i, const Format& format, uint32_t bits, double wanted, double size) {
    const double found = format.value(bits), allowed = 0.5 * format.unit(wanted) + 4e-7 * (size + fabs(wanted));
    if (!(fabs(found - wanted) <= allowed))
        fail("%s[%lld] is %.9g, not %.9g", what, (long long)i, found, wanted);
}

void epilogues(int64_t number);
void convolutions(int64_t number);
void turns(int64_t number);
void edges();

}  // namespace check
