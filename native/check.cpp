// Every kernel on random cases beside the formula in double, and bit for bit the same in any number of threads:
// check [cases [first]]. A case follows from its number alone: `check 1 173` is case 173 once more.

#include <sanitizer/asan_interface.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "convbias.h"

namespace {

using Bits = std::vector<uint32_t>;

const char* const ACTIVATION_NAMES[] = {"none", "relu",      "leaky_relu", "sigmoid",  "tanh",
                                        "gelu", "gelu_tanh", "silu",       "hardswish"};
constexpr int MOST_THREADS = 4;

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

const Format FORMATS[TYPES] = {{"float32", 4, 8, 23}, {"bfloat16", 2, 8, 7}, {"float16", 2, 5, 10}};
const Format& SINGLE = FORMATS[FLOAT32];

struct Random {
    std::mt19937_64 engine;

    int64_t below(int64_t end) { return int64_t(engine() % uint64_t(end)); }

    // A number of middling size; now and then 0, 3 or −3, where slopes change.
    uint32_t number(const Format& format) {
        const uint32_t sign = uint32_t(below(2)) << (format.exponent + format.mantissa);
        const int64_t kind = below(16);
        if (kind == 0) return sign;
        if (kind == 1) return sign | (2 * (format.bias() + 1) + 1) << (format.mantissa - 1);
        return sign | uint32_t((format.bias() - 4 + below(8)) << format.mantissa | below(1 << format.mantissa));
    }

    Bits numbers(const Format& format, int64_t count) {
        Bits bits(count);
        for (uint32_t& one : bits) one = number(format);
        return bits;
    }
};

std::string story;  // what is being checked, for messages

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
double activated(int activation, double z) {
    switch (activation) {
        case RELU: return z < 0 ? 0 : z;
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

double slope(int activation, double saved) {
    const double z = saved, y = saved;
    switch (activation) {
        case RELU: return y <= 0 ? 0 : 1;
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

struct Case {
    Random random;
    int type, activation;
    int64_t samples, axes, sizes[MOST_AXES], places = 1;
    std::vector<Summand> terms;

    explicit Case(int64_t number) : random{std::mt19937_64(uint64_t(number))} {
        type = int(number % TYPES);
        activation = int(number / TYPES % ACTIVATIONS);
        samples = random.below(5);
        axes = 1 + random.below(MOST_AXES);
        // On both sides of the kernels' blocks, and of what is worth a second thread.
        constexpr int64_t SIZES[] = {1, 7, 60, 60, 300, 300, 1024, 2048, 4096, 8192, 33000};
        int64_t rest = std::max<int64_t>(1, SIZES[random.below(std::size(SIZES))] - 1 + random.below(3));
        for (int64_t a = 0; a < axes - 1; a++) {
            sizes[a] = 1 + random.below(std::min<int64_t>(rest, 8));
            rest /= sizes[a];
        }
        sizes[axes - 1] = rest;
        std::shuffle(sizes, sizes + axes, random.engine);
        for (int64_t a = 0; a < axes; a++) places *= sizes[a];
        if (places > 500 && random.below(4) == 0) samples = 1 + 40000 / places;
        terms.resize(1 + random.below(MOST_TERMS));
        for (Summand& term : terms) draw(term);
        story = "case " + std::to_string(number) + " (" + FORMATS[type].name + ", " + ACTIVATION_NAMES[activation] +
                ", " + std::to_string(samples) + " samples of " + std::to_string(sizes[0]);
        for (int64_t a = 1; a < axes; a++) story += "×" + std::to_string(sizes[a]);
        story += ", " + std::to_string(terms.size()) + " terms)";
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

    Held(Case& c, bool numbers) {
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
void over_threads(Run run, Verify verify) {
    for (const char* instructions : {"avx512", "avx2", "plain"}) {
        if (!convbias_use(instructions)) continue;
        if (strcmp(convbias_instructions(), instructions)) fail("not %s is in use", instructions);
        const std::vector<Bits> first = run(1);
        verify(first);
        for (int threads = 2; threads <= MOST_THREADS; threads++)
            if (run(threads) != first) fail("not the same numbers in %d threads", threads);
    }
}

// One rounding to the format, beside float32 arithmetic over numbers as large as `size`.
void compare(const char* what, int64_t i, const Format& format, uint32_t bits, double wanted, double size) {
    const double found = format.value(bits), allowed = 0.5 * format.unit(wanted) + 4e-7 * (size + fabs(wanted));
    if (!(fabs(found - wanted) <= allowed))
        fail("%s[%lld] is %.9g, not %.9g", what, (long long)i, found, wanted);
}

void check_forward(Case& c, bool beside) {
    const Format& format = FORMATS[c.type];
    const Bits z = c.random.numbers(format, c.samples * c.places);
    std::vector<double> field(c.places), size(c.places);
    for (const Summand& term : c.terms)
        for (int64_t p = 0; p < c.places; p++) {
            const double value = SINGLE.value(term.values[c.value_at(term, p)]);
            field[p] += value;
            size[p] += fabs(value);
        }
    over_threads(
        [&](int threads) {
            const Held held(c, true);
            Memory onto(c.random, format.bytes, z), y(c.random, format.bytes, int64_t(z.size()));
            convbias_forward(c.type, c.activation, onto.data(), beside ? y.data() : nullptr, c.samples, &held.field,
                             threads);
            return std::vector<Bits>{onto.bits(), y.bits()};
        },
        [&](const std::vector<Bits>& found) {
            for (size_t i = 0; i < z.size(); i++) {
                const int64_t p = int64_t(i) % c.places;
                const double given = format.value(z[i]), sum = given + field[p], all = fabs(given) + size[p];
                compare(beside ? "y" : "z", i, format, found[beside][i], activated(c.activation, sum), all);
                if (beside) compare("z beside y", i, format, found[0][i], sum, all);
            }
        });
}

void check_backward(Case& c, bool summed) {
    const Format& format = FORMATS[c.type];
    const int64_t count = c.samples * c.places;
    const Bits saved = c.random.numbers(format, count), gy = c.random.numbers(format, count);
    over_threads(
        [&](int threads) {
            Memory from(c.random, format.bytes, saved), given(c.random, format.bytes, gy),
                gz(c.random, format.bytes, count), sums(c.random, 4, c.places);
            const bool needed = c.activation != NONE;
            convbias_backward(c.type, c.activation, needed ? from.data() : nullptr, given.data(),
                              needed ? gz.data() : nullptr, summed ? (float*)sums.data() : nullptr, c.samples,
                              c.places, threads);
            return std::vector<Bits>{needed ? gz.bits() : gy, sums.bits()};
        },
        [&](const std::vector<Bits>& found) {
            for (int64_t i = 0; i < count; i++) {
                const double g = format.value(gy[i]), wanted = g * slope(c.activation, format.value(saved[i]));
                // Slopes are sums whose summands grow as z does.
                compare("gz", i, format, found[0][i], wanted, 4 * fabs(g));
            }
            for (int64_t p = 0; summed && p < c.places; p++) {
                double total = 0;
                for (int64_t n = 0; n < c.samples; n++) total += format.value(found[0][n * c.places + p]);
                if (SINGLE.value(found[1][p]) != float(total))
                    fail("sums[%lld] is %.9g, not %.9g", (long long)p, SINGLE.value(found[1][p]), total);
            }
        });
}

void check_reduce(Case& c) {
    const Bits sums = c.random.numbers(SINGLE, c.places);
    std::vector<int64_t> counts;
    for (const Summand& term : c.terms) counts.push_back(int64_t(term.values.size()));
    over_threads(
        [&](int threads) {
            Memory from(c.random, 4, sums);
            Held held(c, false);
            if (!convbias_reduce((const float*)from.data(), &held.field, counts.data(), threads)) fail("no memory");
            std::vector<Bits> found;
            for (Memory& values : held.values) found.push_back(values.bits());
            return found;
        },
        [&](const std::vector<Bits>& found) {
            for (size_t t = 0; t < c.terms.size(); t++) {
                std::vector<double> totals(counts[t]);
                for (int64_t p = 0; p < c.places; p++) totals[c.value_at(c.terms[t], p)] += SINGLE.value(sums[p]);
                for (int64_t v = 0; v < counts[t]; v++) {
                    // A double's rounding may tip a float's.
                    const double found_value = SINGLE.value(found[t][v]);
                    if (!(fabs(found_value - totals[v]) <= 0.5000001 * SINGLE.unit(totals[v])))
                        fail("values[%lld] of term %zu is %.9g, not %.9g", (long long)v, t, found_value, totals[v]);
                }
            }
        });
}

// Calls the forward kernel on single numbers, each with its own field.
std::vector<Bits> forward_each(Random& random, int type, int activation, const Bits& z, const Bits& field,
                               int threads) {
    Memory onto(random, FORMATS[type].bytes, z), values(random, 4, field);
    const Field lying{1, {int64_t(z.size())}, 1, {{(float*)values.data(), {1}, {}}}};
    convbias_forward(type, activation, onto.data(), nullptr, 1, &lying, threads);
    return {onto.bits()};
}

// To the bit: every number of 16 bits is read and written as it is, and numbers of every size are rounded to
// nearest, ties to even. −0 is what adds nothing.
void check_rounding(int type) {
    const Format& format = FORMATS[type];
    story = std::string("rounding to ") + format.name;
    Random random{};
    const uint32_t nothing = 1u << (format.exponent + format.mantissa);
    Bits z, field;
    for (uint32_t bits = 0; format.bytes == 2 && bits < 0x10000; bits++) {
        z.push_back(bits);
        field.push_back(0x80000000);
    }
    for (int64_t i = 0; i < 200000; i++) {
        const uint32_t bits = uint32_t(random.engine());
        z.push_back(nothing);
        // Halfway between neighbours of either short format, as often as anywhere else.
        field.push_back(i % 3 == 0 ? bits : i % 3 == 1 ? (bits & ~0x7fffu) | 0x8000 : (bits & ~0xfffu) | 0x1000);
    }
    // An infinity stays one, whatever finite number is added: here −1e5.
    z.push_back(((1u << format.exponent) - 1) << format.mantissa);
    field.push_back(0xc7c35000);
    over_threads([&](int threads) { return forward_each(random, type, NONE, z, field, threads); },
                 [&](const std::vector<Bits>& found) {
                     for (size_t i = 0; i < z.size(); i++) {
                         const double exact = format.value(z[i]) + SINGLE.value(field[i]);
                         const double is = format.value(found[0][i]), wanted = format.rounded(exact);
                         const bool both = std::isnan(is) && std::isnan(wanted);
                         if (!both && (is != wanted || std::signbit(is) != std::signbit(wanted)))
                             fail("%.9g became %.9g, not %.9g", exact, is, wanted);
                     }
                 });
}

// Activations keep their digits in their tails, and NaN.
void check_tails(int activation) {
    story = std::string("tails of ") + ACTIVATION_NAMES[activation];
    Random random{};
    Bits z, field;
    for (float x = -30; x <= 30; x += 0.01f) {
        z.push_back(0);
        memcpy(&z.back(), &x, sizeof x);
    }
    z.push_back(0x7fc00000);
    field.resize(z.size(), 0x80000000);
    over_threads([&](int threads) { return forward_each(random, FLOAT32, activation, z, field, threads); },
                 [&](const std::vector<Bits>& found) {
                     for (size_t i = 0; i < z.size(); i++) {
                         const double x = SINGLE.value(z[i]), is = SINGLE.value(found[0][i]);
                         const double wanted = activated(activation, x);
                         if (std::isnan(x) ? !std::isnan(is)
                                           : !(fabs(is - wanted) <= 2e-7 * (2 + x * x) * fabs(wanted) + 1e-34))
                             fail("of %.9g it is %.9g, not %.9g", x, is, wanted);
                     }
                 });
}

// Where sums cancel, what is left is the order in which they were added: that has to be the same too.
void check_order() {
    story = "sums that cancel";
    Random random{};
    Bits sums;
    for (int i = 0; i < 20000; i++) {
        sums.push_back(uint32_t(random.below(80) + 87) << 23 | uint32_t(random.below(1 << 23)));
        sums.push_back(sums.back() | 0x80000000);
    }
    std::shuffle(sums.begin(), sums.end(), random.engine);
    const int64_t counts[] = {1, 8};
    over_threads(
        [&](int threads) {
            Memory from(random, 4, sums), one(random, 4, counts[0]), eight(random, 4, counts[1]);
            const Field field{2, {8, 5000}, 2, {{(float*)one.data(), {}, {}}, {(float*)eight.data(), {1}, {}}}};
            if (!convbias_reduce((const float*)from.data(), &field, counts, threads)) fail("no memory");
            return std::vector<Bits>{one.bits(), eight.bits()};
        },
        [](const std::vector<Bits>&) {});
}

// A forked process does not wait for its parent's threads.
void check_fork() {
    story = "fork";
    Random random{};
    const Bits z(40000), field(40000);
    forward_each(random, FLOAT32, NONE, z, field, MOST_THREADS);
    const pid_t child = fork();
    if (child == 0) {
        alarm(20);
        forward_each(random, FLOAT32, NONE, z, field, MOST_THREADS);
        _exit(0);
    }
    int status = -1;
    waitpid(child, &status, 0);
    if (status) fail("a forked process waits for its parent's threads");
}

void check_case(int64_t number) {
    Case c(number);
    for (bool either : {false, true}) {
        check_forward(c, either);
        check_backward(c, either);
    }
    check_reduce(c);
}

}  // namespace

int main(int count, char** words) {
    const int64_t cases = count > 1 ? atoll(words[1]) : 1000, first = count > 2 ? atoll(words[2]) : 0;
    for (int type = 0; type < TYPES; type++) check_rounding(type);
    for (int activation = 0; activation < ACTIVATIONS; activation++) check_tails(activation);
    check_order();
    check_fork();
    for (int64_t i = first; i < first + cases; i++) check_case(i);
    story = "instruction sets";
    if (convbias_use("none")) fail("an unknown one was taken");
    printf("%lld cases,", (long long)cases);
    for (const char* instructions : {"avx512", "avx2", "plain"})
        if (convbias_use(instructions)) printf(" %s", instructions);
    printf(", 1 to %d threads: they are the formula\n", MOST_THREADS);
    return 0;
}
